r"""Lengths, directions and angles in NumPy, whatever the scale of the vectors.

Squares of 1e-200 underflow and those of 1e200 overflow: every length is taken after division by
the largest entry. :mod:`gradflow.numerics.traced` holds the same for JAX.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def length(x: ArrayLike) -> float:
    """Euclidean norm of all entries; 0 for an empty array."""
    x = np.asarray(x)
    top = float(np.max(np.abs(x), initial=0.0))
    return top * float(np.linalg.norm(x / top)) if top > 0 else 0.0


def lengths(x: ArrayLike) -> np.ndarray:
    """Euclidean norms over the last axis, shape (...)."""
    x = np.asarray(x)
    top = np.max(np.abs(x), axis=-1, initial=0.0)
    safe = np.where(top > 0, top, 1.0)
    return top * np.sqrt(np.sum((x / safe[..., None]) ** 2, axis=-1))


def log_lengths(x: ArrayLike) -> np.ndarray:
    """ln of Euclidean norms over the last axis, beyond the floats too; -inf for zero."""
    x = np.asarray(x)
    top = np.max(np.abs(x), axis=-1, initial=0.0)
    with np.errstate(divide="ignore"):
        return np.log(top) + np.log(lengths(scaled(x)))


def scaled(x: ArrayLike, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """``x`` over its largest absolute entry along ``axis``; zeros stay."""
    x = np.asarray(x)
    top = np.max(np.abs(x), axis=axis, keepdims=True, initial=0.0)
    return x / np.where(top > 0, top, 1.0)


def directions(x: ArrayLike) -> np.ndarray:
    """Unit vectors over the last axis; NaN for the zero vector, which has none."""
    x = scaled(x)
    size = lengths(x)[..., None]
    return x / np.where(size > 0, size, np.nan)


def rejection(x: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Part of vectors (..., d) perpendicular to unit vectors (..., d).

    Subtracted twice: the second pass removes what rounding left along the axis.
    """
    across = x - np.sum(x * axis, axis=-1, keepdims=True) * axis
    return across - np.sum(across * axis, axis=-1, keepdims=True) * axis


def perpendicular(w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Part of ``w`` perpendicular to the unit vector ``v``; rounding-sized parts count as zero.

    If ``v`` is a coordinate axis the result is exact, however small.
    """
    across = w - (w @ v) * v
    across = across - (across @ v) * v  # (as in `rejection`)
    floor = 0.0 if np.count_nonzero(v) == 1 else 4 * np.finfo(float).eps
    return across if length(across) > floor * length(w) else np.zeros_like(w)


def angle(u: np.ndarray, e: np.ndarray) -> np.ndarray:
    r"""Angle of unit vectors, :math:`2\,\mathrm{atan2}(|u-e|,|u+e|)`: no cancellation at 0 or π."""
    return 2.0 * np.arctan2(lengths(u - e), lengths(u + e))


def angles(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Angles (..., n) of unit vectors u (..., d) and v (n, d), accurate near 0 and π."""
    return angle(u[..., None, :], v)


def log_tan_half(along: ArrayLike, across: ArrayLike) -> np.ndarray:
    r""":math:`\ln\tan(\theta/2)` of vectors with components ``along`` and ``across`` ≥ 0.

    :math:`\tan(\theta/2)=|w_\perp|/(|w|+w\cdot v)`, behind the axis
    :math:`(|w|-w\cdot v)/|w_\perp|`: sums of equal signs, without cancellation. NaN for the zero
    vector, -inf on the axis, inf opposite to it.
    """
    along, across = np.asarray(along, float), np.asarray(across, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.log(across) - np.log(np.hypot(along, across) + np.abs(along))
    return np.where(along >= 0, half, -half)
