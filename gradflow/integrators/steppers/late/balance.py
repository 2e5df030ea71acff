r"""Weights that keep the margins of the support equal, in compiled code.

.. math:: \hat K_Ap-\mu\mathbf 1=-\beta\bigl[\hat q_A+\varepsilon(\ln p_A-\ln\omega_A)-\text{mean}\bigr],
   \qquad\mathbf 1\cdot p=1 .
"""  # noqa: E501

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.late.cell import Cell, gradient, gram, weights_of
from gradflow.integrators.steppers.late.lu import lu_factor, lu_solve

#: Weights below this are taken to be it inside ln p.
FLOOR = 1e-4


@kernel
def bordered(cell: Cell, A: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Return K̂ bordered by the unknown μ and the sum of p, transposed."""
    m, k = cell.S.shape
    K, outer = gram(cell, A * A), np.zeros((m, k))
    for neuron in range(m if cell.trained else 0):
        for i in range(k):
            outer[neuron, i] = cell.S[neuron, i] * h[neuron, i]
    by_outer = np.dot(outer.T, outer)
    T = np.zeros((k + 1, k + 1))
    for i in range(k):
        for j in range(k):
            T[i, j] = K[i, j] + by_outer[i, j]
        T[i, k], T[k, i] = 1.0, -1.0
    return T


@kernel
def balance(
    cell: Cell, Y: np.ndarray, beta: float, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return p, g (P,), q̂ and the common level of the margins of the data of a cell.

    Parameters
    ----------
    Y : array
        Begins with u (P,).
    beta : float
        The rate at which rounding is forgotten.
    epsilon : float
        ρ^{−D}.
    """
    m, n = cell.S.shape
    U, A = weights_of(cell, Y)
    h = np.dot(U, cell.XT)
    q, p, level, x = np.zeros(n), np.full(n, 1.0 / n), np.empty(n), np.empty(n + 1)
    for k in range(m):
        for i in range(n):
            q[i] += A[k] * cell.S[k, i] * h[k, i]
    T = bordered(cell, A, h)
    pivots = lu_factor(T)
    mean = 0.0
    for _ in range(3):
        mean = 0.0
        for i in range(n):
            level[i] = q[i] + epsilon * (np.log(max(p[i], FLOOR)) - cell.log_weights[i])
            mean += level[i] / n
        for i in range(n):
            x[i] = -beta * (level[i] - mean)
        x[n] = 1.0
        lu_solve(T, pivots, x)
        p[:] = x[:n]
    return p, gradient(cell, A, Y, p), q, mean
