"""Sparse teacher-student minimisers of the total-variation problem, as measures on the sphere, with
their dual certificates and decay rates."""
