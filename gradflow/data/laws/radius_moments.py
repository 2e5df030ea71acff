r"""Incomplete moments and marginal densities of a law given by the density of its norm (NumPy).

With :math:`|x|=r` of density f the radius of the k-dimensional marginal is :math:`r\sqrt B`, B a
Beta variable: its moments are integrals over r of f times an incomplete Beta function, summed here
by double-exponential rules. They hold for every f smooth inside its support, value by value.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from gradflow.data.laws.constants import beta
from gradflow.data.laws.radius_rule import Distribution


def marginal_moment(
    dist: Distribution, dim: int, dimension: int, value: float, k: int, *, scale: float
) -> float:
    r"""Return :math:`E[\rho^k1\{\rho<x\}]` at x = ``value`` > 0, or the density of rho if k = -1.

    Parameters
    ----------
    dist : frozen scipy distribution
        Continuous law of |x| in R^dim.
    dimension : int
        Dimension of the marginal whose radius rho is.
    scale : float
        A typical value of |x|.
    """
    if dimension == dim:
        return float(dist.pdf(value)) if k < 0 else _moment_below(dist, value, k)
    low, high = (float(end) for end in dist.support())
    start = max(value, low)
    a, b = dimension / 2, (dim - dimension) / 2
    with np.errstate(all="ignore"):
        offset, jacobian = _points_above(start, high, scale)
        node = start + offset
        weight = np.asarray(dist.pdf(node), dtype=float) * jacobian
        # 1 - (x/r)^2 without cancellation: the offset is exact
        delta = offset if value == start else node - value
        rest = delta * (node + value) / node**2
        if k < 0:
            ratio = (value / node) ** (dimension - 1)
            kernel = 2 / beta(a, b) * ratio * rest ** (b - 1) / node
        else:
            fraction = np.where(
                rest < 0.5,
                special.betaincc(b, a + k / 2, rest),
                special.betainc(a + k / 2, b, (value / node) ** 2),
            )
            kernel = beta(a + k / 2, b) / beta(a, b) * fraction * node**k
        terms = weight * kernel
    total = float(np.sum(terms[np.isfinite(terms)]))
    if k >= 0 and value > low:
        total += beta(a + k / 2, b) / beta(a, b) * _moment_below(dist, value, k)
    return total


def _points_above(start: float, high: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Double-exponential rule on (start, high): points - start, and weights."""
    step = 1 / 16
    if start >= high:
        return np.ones(0), np.ones(0)
    if math.isinf(high):
        t = step * np.arange(-110, 111)
        offset = max(start, scale) * np.exp(np.pi / 2 * np.sinh(t))
        return offset, offset * np.pi / 2 * np.cosh(t) * step
    t = step * np.arange(-72, 73)
    odds = np.exp(np.pi * np.sinh(t))
    offset = (high - start) * odds / (1 + odds)
    return offset, offset / (1 + odds) * np.pi * np.cosh(t) * step


def _moment_below(dist: Distribution, value: float, k: int) -> float:
    """E[|x|^k 1{|x| < value}]."""
    low, high = (float(end) for end in dist.support())
    if k == 0:
        return float(dist.cdf(value))
    top = min(value, high)
    t = np.arange(-72, 73) / 16
    odds = np.exp(np.pi * np.sinh(t))
    width = top - low
    node = low + width * odds / (1 + odds)
    with np.errstate(all="ignore"):
        weight = np.asarray(dist.pdf(node), dtype=float) * (
            width * odds / (1 + odds) ** 2 * np.pi * np.cosh(t) / 16
        )
        terms = weight * node**k
    return float(np.sum(terms[np.isfinite(terms)]))
