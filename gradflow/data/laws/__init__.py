"""Spherically symmetric laws of the inputs: radial functions, moments, fits."""
