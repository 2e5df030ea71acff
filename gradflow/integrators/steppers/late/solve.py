"""Solve with the structured Jacobian, in compiled code."""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.late.cell import Cell, gradient
from gradflow.integrators.steppers.late.jacobian import Factors, Jacobian, arrow, rows
from gradflow.integrators.steppers.late.lu import lu_solve
from gradflow.integrators.steppers.late.system import Point


@kernel
def solve(
    cell: Cell, at: Point, J: Jacobian, F: Factors, y0: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """Return (cI − J)⁻¹ b, J being the Jacobian at y0."""
    P, n, a, c = at.g.size, at.data.shape[1], J.index.size, F.c
    D, big, square = 2 if cell.trained else 1, at.numbers[0], at.numbers[2]
    near, p, q, e = J.near, at.data[0], at.data[1], at.data[2]
    eta, bend, by_r, common = J.data[0], J.data[1], J.data[2], J.data[3]
    # Without the data: y = M⁻¹ b.
    x = arrow(cell, at.v, F.c1, F.tau, b[:P])
    along = np.dot(at.g, x) / F.rank_one
    for j in range(P):
        x[j] -= along * F.spine[j]
    first, second = rows(near, at, J, x)
    share = np.dot(J.shared, x)
    from_r = (D * np.dot(at.g, x) + b[P]) / c
    z = np.empty(a)
    for i in range(a):
        k = J.index[i]
        z[i] = b[P + 1 + k] + eta[k] * second[i] + bend[k] * first[i] + share + by_r[k] * from_r
    lu_solve(F.lu, F.pivots, z)
    # With them: less M⁻¹ of what they pull.
    pulls, shift, kernel_share, x_r, turn = np.empty(a), 0.0, 0.0, b[P], 0.0
    for i in range(a):
        k = J.index[i]
        pulls[i] = p[k] * z[i]
        shift += F.kappa[i] * pulls[i]
        kernel_share += common[k] * z[i]
        x_r -= D * q[k] * pulls[i]
        turn -= e[k] * pulls[i]
    t = gradient(near, at.A, y0, pulls)
    back = arrow(cell, at.v, F.c1, F.tau, t)
    out = np.empty(b.size)
    for j in range(P):
        x[j] += shift * F.spine[j] - back[j]
        out[j] = x[j]
    x_r = (x_r + D * np.dot(at.g, x)) / c
    out[P] = x_r
    if a < n:
        # Data that do not count follow: one product each.
        first, second = rows(cell, at, J, x)
        pulled = rows(cell, at, J, t)[0]
        share = np.dot(J.shared, x) + kernel_share
        for i in range(n):
            moved = eta[i] * (second[i] - pulled[i]) + bend[i] * first[i] + share + by_r[i] * x_r
            out[P + 1 + i] = (b[P + 1 + i] + moved) / c
    for i in range(a):
        out[P + 1 + J.index[i]] = z[i]
    w, speed, decay = y0[P + 1 + n], (2.0 - D) * np.exp((2.0 - D) * y0[P]), big * square
    turn = 2.0 * big * (turn + np.dot(J.Hg, x))
    out[P + 1 + n] = (b[P + 1 + n] + speed * x_r - w * (D * decay * x_r + turn)) / (c + decay)
    out[P + 2 + n] = (b[P + 2 + n] + speed * x_r) / c
    return out
