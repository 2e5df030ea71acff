"""Roots of functions that change sign in given brackets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_MOST_PROBES = 100
#: Every eighth probe bisects, so that no bracket stays wide.
_BISECT = 8


def bracketed_roots(
    probe: Callable[[np.ndarray, np.ndarray], np.ndarray],
    a: np.ndarray,
    value_a: np.ndarray,
    b: np.ndarray,
    value_b: np.ndarray,
    tolerance: np.ndarray,
    exact: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return the upper ends of brackets shrunk around a root each: points with value >= -exact.

    Regula falsi with the Illinois rule (an end that stays put twice counts half), guarded by
    bisection; all brackets are shrunk side by side.

    Parameters
    ----------
    probe : callable
        ``probe(which, x)``: values of the functions numbered ``which`` (j,) at ``x`` (j,).
    a, b : ndarray, shape (k,)
        Ends, with ``value_a < 0 <= value_b``.
    value_a, value_b : ndarray, shape (k,)
    tolerance : ndarray, shape (k,)
        Widths at which a bracket is narrow enough.
    exact : ndarray or float
        Values this close to 0 count as roots.

    Returns
    -------
    ndarray, shape (k,)
        Upper ends of the brackets; each is a point probed, or its ``b``.
    """
    a, value_a, b, value_b = (np.array(part, np.float64) for part in (a, value_a, b, value_b))
    exact = np.broadcast_to(np.asarray(exact, np.float64), a.shape)
    side = np.zeros(a.shape, int)
    which = np.flatnonzero(b - a > 0)
    for count in range(_MOST_PROBES):
        if not which.size:
            break
        lo, hi, v_lo, v_hi = a[which], b[which], value_a[which], value_b[which]
        slack, width = tolerance[which], hi - lo
        middle = lo + 0.5 * width
        with np.errstate(all="ignore"):
            secant = hi - v_hi * (width / (v_hi - v_lo))
        inside = (secant > lo) & (secant < hi) & (count % _BISECT != _BISECT - 1)
        x = np.where(inside, secant, middle)
        x = np.clip(x, np.minimum(lo + 0.5 * slack, middle), np.maximum(hi - 0.5 * slack, middle))
        value = probe(which, x)
        after = value >= -exact[which]
        weight = np.where(np.where(after, 1, -1) == side[which], 0.5, 1.0)
        a[which] = np.where(after, lo, x)
        value_a[which] = np.where(after, weight * v_lo, value)
        b[which] = np.where(after, x, hi)
        value_b[which] = np.where(after, value, weight * v_hi)
        side[which] = np.where(after, 1, -1)
        done = (b[which] - a[which] <= slack) | (np.abs(value) <= exact[which])
        which = which[~done]
    return b
