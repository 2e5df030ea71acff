"""Objectives: empirical, population (reduced to radial functions and quadrature), any JAX function."""
