"""Factors of a dense matrix with row exchanges, in compiled code.

Matrices are stored transposed, column by column, as LAPACK's are: all inner loops are contiguous.
"""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner


@inner
def lu_factor(T: np.ndarray) -> np.ndarray:
    """Replace a transposed matrix by its factors L and U; return the rows exchanged (n,).

    A pivot that is 0 leaves infinities behind.
    """
    n = T.shape[0]
    pivots = np.arange(n)
    for k in range(n):
        best = k
        for i in range(k + 1, n):
            if abs(T[k, i]) > abs(T[k, best]):
                best = i
        pivots[k] = best
        for j in range(n):
            T[j, k], T[j, best] = T[j, best], T[j, k]
        for i in range(k + 1, n):
            T[k, i] /= T[k, k]
        for j in range(k + 1, n):
            for i in range(k + 1, n):
                T[j, i] -= T[j, k] * T[k, i]
    return pivots


@inner
def lu_solve(T: np.ndarray, pivots: np.ndarray, b: np.ndarray) -> None:
    """Replace b (n,) by the solution of the system with these factors."""
    n = T.shape[0]
    for k in range(n):
        other = pivots[k]
        b[k], b[other] = b[other], b[k]
    for j in range(n):
        for i in range(j + 1, n):
            b[i] -= T[j, i] * b[j]
    for j in range(n - 1, -1, -1):
        b[j] /= T[j, j]
        for i in range(j):
            b[i] -= T[j, i] * b[j]
