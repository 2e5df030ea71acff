"""Integrators behind one contract, and discrete descent."""
