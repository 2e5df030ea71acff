r"""The pair of Dormand and Prince, with dense output of order 4, for where nothing is stiff."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import integrate

_RK = integrate.RK45
_STAGES = [np.ascontiguousarray(_RK.A[i, :i]) for i in range(6)]


def explicit_step(
    field: Callable[[np.ndarray], np.ndarray], y0: np.ndarray, f0: np.ndarray, h: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take one step of y' = field(y) from y0, where the field is f0.

    Returns
    -------
    y1, error : (N,) arrays
    poly : (5, N) array
        The dense output :math:`\\sum_j\\text{poly}_j\\xi^j` in the fraction ξ of the step.
    """
    k = np.empty((7, y0.size))
    k[0] = f0
    for i in range(1, 6):
        k[i] = field(y0 + h * (_STAGES[i] @ k[:i]))
    y1 = y0 + h * (_RK.B @ k[:6])
    k[6] = field(y1)
    poly = np.empty((5, y0.size))
    poly[0], poly[1:] = y0, h * (_RK.P.T @ k)
    return y1, h * (_RK.E @ k), poly
