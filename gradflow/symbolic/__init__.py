"""Derivations in sympy: from the definition of the risk to reduced flows and their exact rates."""
