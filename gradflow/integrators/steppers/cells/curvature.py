r"""Curvatures ω_i ∂²ℓ/∂f² of the losses, as roots, in a unit that may be far below float64.

For o outputs :math:`E_i=R_iR_i^\top` with :math:`R_i` (o, o). The softmax with
:math:`p=\mathrm{softmax}(f_i)` has :math:`E=\mathrm{diag}(p)-pp^\top` and
:math:`R=\mathrm{diag}(\sqrt p)-p\sqrt p^\top`.
"""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.system import (
    CROSS_ENTROPY,
    EXPONENTIAL,
    LOGISTIC,
    SOFT_LOGISTIC,
    SQUARED,
)


def curvature_roots(loss: int, f: np.ndarray, y: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
    """Return R (n, o, o) at the outputs f.

    Parameters
    ----------
    loss : int
        By its number.
    f, y : (n, o) arrays
    log_weights : (n,) array
        ln ω_i, less the logarithm of the unit.
    """
    o = f.shape[1]
    if loss == CROSS_ENTROPY:
        e = np.exp(f - np.max(f, axis=1, keepdims=True))
        p = e / np.sum(e, axis=1, keepdims=True)
        half = np.sqrt(p)
        R = half[:, :, None] * np.eye(o) - p[:, :, None] * half[:, None, :]
        mass = np.sqrt(np.sum(y, axis=1))
        return R * (mass * np.exp(0.5 * log_weights))[:, None, None]
    logs = 0.5 * (_log_curvature(loss, f, y) + log_weights[:, None])
    return np.exp(logs)[:, :, None] * np.eye(o)


def _log_curvature(loss: int, f: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ln ∂²ℓ/∂f² entry by entry."""
    if loss == SQUARED:
        return np.zeros_like(f)
    if loss in (LOGISTIC, SOFT_LOGISTIC):
        # σ(f)σ(−f): the same for both labels, and for soft ones
        size = np.abs(f)
        return -size - 2.0 * np.log1p(np.exp(-size))
    if loss == EXPONENTIAL:
        return -y * f
    return np.full_like(f, -np.inf)
