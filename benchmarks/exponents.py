"""Exponents, constants and next-order terms certified from trajectories, in full digits.

Every line is a claim of the package: the prediction comes from the derivation, the measurement from
extrapolated trajectories, the error from a second solve and from the extrapolation.

    python benchmarks/exponents.py
"""

from __future__ import annotations

import gradflow as gf

#: What must be reached: pattern of ids, and the relative error allowed.
GOALS = [
    ("lin2021directional/norm-exponent", 1e-8),
    ("lin2021directional/angle-exponent", 1e-8),
    ("lin2021faster/*-exponent-N*", 1e-10),
    ("lin2021directional/norm-constant", 1e-8),
    ("lin2021directional/angle-constant", 1e-8),
    ("lin2021faster/*-constant-N*", 1e-8),
    ("lin2021faster/relu-norm-constant", 1e-10),
    ("lin2021faster/relu-norm-second-order", 1e-3),
    ("lin2021faster/relu-angle-power", 1e-3),
    ("lin2021faster/relu-norm-difference", 1e-3),
    ("lin2021faster/leaky-norm-difference", 1e-3),
    ("lin2021faster/leaky-mode-mix", 1e-3),
]


def main() -> None:
    """Print predicted, measured, their gap, the error bar and the goal."""
    print(f"{'claim':42}{'predicted':>20}{'measured':>20}{'gap':>9}{'error':>9}{'goal':>9}")
    for pattern, goal in GOALS:
        for v in gf.verify(pattern):
            gap = abs(v.measured / v.predicted - 1)
            reached = "" if max(gap, v.error) <= goal else "  NOT REACHED"
            print(
                f"{v.id:42}{v.predicted:20.13g}{v.measured:20.13g}{gap:9.0e}{v.error:9.0e}"
                f"{goal:9.0e}{reached}"
            )


if __name__ == "__main__":
    main()
