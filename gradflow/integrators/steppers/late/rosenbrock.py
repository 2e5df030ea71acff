"""The Rosenbrock step of the late phase, compiled (the method: :mod:`..rosenbrock`)."""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.late.cell import Cell
from gradflow.integrators.steppers.late.jacobian import Factors, Jacobian
from gradflow.integrators.steppers.late.solve import solve
from gradflow.integrators.steppers.late.system import Point, expand
from gradflow.integrators.steppers.rosenbrock import DENSE
from gradflow.integrators.steppers.rosenbrock import A as ROWS_A
from gradflow.integrators.steppers.rosenbrock import C as ROWS_C

A, C = (np.array([row + (0.0,) * (8 - len(row)) for row in rows]) for rows in (ROWS_A, ROWS_C))


@kernel
def rosenbrock_step(
    cell: Cell, at: Point, J: Jacobian, F: Factors, y0: np.ndarray, h: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take one step of the late-phase system.

    Parameters
    ----------
    at, J, F : Point, Jacobian, Factors
        Of the system at y0; F of (1/γh)I − J.
    y0 : (N,) array
    h : float

    Returns
    -------
    y1, error : (N,) arrays
    poly : (5, N) array
        The dense output :math:`\\sum_j\\text{poly}_j\\xi^j` in the fraction ξ of the step.
    """
    N = y0.size
    k, y, right, poly = np.zeros((8, N)), y0.copy(), at.rate, np.zeros((5, N))
    for i in range(8):
        if i > 0:
            if i < 6:
                y[:] = y0
                for j in range(i):
                    for d in range(N):
                        y[d] += A[i, j] * k[j, d]
            else:
                for d in range(N):
                    y[d] += k[i - 1, d]
            right = expand(cell, y).rate
            for j in range(i):
                for d in range(N):
                    right[d] += C[i, j] / h * k[j, d]
        k[i] = solve(cell, at, J, F, y0, right)
    for d in range(N):
        y[d] += k[7, d]
        c0 = c1 = c2 = 0.0
        for j in range(8):
            c0 += DENSE[0, j] * k[j, d]
            c1 += DENSE[1, j] * k[j, d]
            c2 += DENSE[2, j] * k[j, d]
        poly[0, d], poly[1, d], poly[2, d] = y0[d], y[d] - y0[d] + c0, c1 - c0
        poly[3, d], poly[4, d] = c2 - c1, -c2
    return y, k[7], poly
