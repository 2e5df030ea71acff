"""Risks over a law of the inputs: exact reductions, closed forms, quadrature."""
