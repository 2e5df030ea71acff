"""Recipes: a flow, or a sweep of flows, as a file says it; nothing in a file is evaluated.

A recipe reads risks, starts and horizons by the names of the register and of ``gf``, and hands them
to ``gf.integrate``. It knows no command line.
"""
