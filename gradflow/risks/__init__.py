"""Objectives: empirical, population (exact reductions and quadrature), any JAX function."""
