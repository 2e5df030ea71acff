"""Quadrature rules for a norm |x| that the user gives: checks, discretisation, products.

:func:`radius_rule` reads a number or a frozen ``scipy.stats`` distribution, refuses what has no
finite c0 or p0, and returns a :class:`Radius`, a rule for every kernel smooth in ln|x|.
:func:`compress` multiplies it with the rule of a uniform sphere.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from gradflow.data.laws.quadrature import CUT, Nodes, log_grid
from gradflow.data.laws.radial_fit import chebyshev_matrix
from gradflow.validation import check_positive, fail


class _Family(Protocol):
    name: str


class Distribution(Protocol):
    """What is asked of a frozen ``scipy.stats`` distribution."""

    dist: _Family
    args: tuple[float, ...]
    kwds: dict[str, float]

    def support(self) -> tuple[float, float]: ...
    def mean(self) -> float: ...
    def median(self) -> float: ...
    def cdf(self, x: ArrayLike, /) -> np.ndarray: ...
    def pdf(self, x: ArrayLike, /) -> np.ndarray: ...
    def pmf(self, x: ArrayLike, /) -> np.ndarray: ...
    def ppf(self, q: ArrayLike, /) -> np.ndarray: ...


class Radius(NamedTuple):
    """Rule for |x|, and the ends of its law.

    Attributes
    ----------
    node, offset, weight : np.ndarray
        Points, points - low (exact near the lower end of the support), probabilities.
    low, scale : float
        Lower end of the support, and the median (1 for a single number).
    low_power, tail : float
        Exponents: density ~ (|x| - low)^low_power at the lower end, P(|x| > r) ~ r^-tail; inf
        where there is no such power.
    discrete : bool
        Whether the points are the values themselves.
    """

    node: np.ndarray
    offset: np.ndarray
    weight: np.ndarray
    low: float
    scale: float
    low_power: float = math.inf
    tail: float = math.inf
    discrete: bool = False


def check_radius(radius: float | Distribution) -> float | Distribution:
    """Return the radius of a law: a float > 0 or a frozen distribution on (0, inf)."""
    if isinstance(radius, (int, float, np.number)):
        return check_positive("radius", radius)
    if not (hasattr(radius, "dist") and hasattr(radius, "support")):
        raise fail(
            "radius",
            radius,
            "is neither a number nor a frozen distribution",
            "pass a float > 0 or something like scipy.stats.gamma(3.0)",
        )
    shown = describe_radius(radius)
    if float(radius.support()[0]) < 0:
        raise fail("radius", shown, "takes negative values", "pass a law on [0, inf)")
    if float(radius.cdf(0.0)) > 0:
        raise fail(
            "radius", shown, "has mass at 0", "pass a law of |x| without an atom at the origin"
        )
    return radius


def describe_radius(radius: float | Distribution) -> float | dict[str, object]:
    """JSON-able description of what :func:`check_radius` passed."""
    if isinstance(radius, (int, float)):
        return radius
    kwds = {key: float(value) for key, value in sorted(radius.kwds.items())}
    args = [float(value) for value in radius.args]
    return {"distribution": radius.dist.name, "args": args, "kwds": kwds}


def radius_rule(radius: float | Distribution) -> Radius:
    """Rule for the norm |x| that :func:`check_radius` passed; refuses an infinite c0 or p0."""
    if isinstance(radius, (int, float)):
        return Radius(np.array([radius]), np.zeros(1), np.ones(1), radius, 1.0, discrete=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = float(radius.mean())
    if not math.isfinite(mean):
        shown = describe_radius(radius)
        raise fail("radius", shown, "makes c0 infinite (E|x|)", "pass a law with a finite mean")
    return _discrete_rule(radius) if hasattr(radius.dist, "pmf") else _density_rule(radius, mean)


def _discrete_rule(dist: Distribution) -> Radius:
    low, high = (float(end) for end in dist.support())
    if not (math.isfinite(high) and high - low < 10_000):
        shown = describe_radius(dist)
        raise fail("radius", shown, "has too many values", "pass a law on at most 10000")
    node = np.arange(low, high + 1)
    weight = np.asarray(dist.pmf(node), dtype=float)
    node, weight = node[weight > 0], weight[weight > 0]
    low, median = float(node[0]), float(dist.median())
    return Radius(node, node - node[0], weight / weight.sum(), low, median, discrete=True)


def _density_rule(dist: Distribution, mean: float) -> Radius:
    low, high = (float(end) for end in dist.support())
    # The exponent at a lower end > 0 is read where the offset still exceeds rounding.
    power = _power_at(dist.pdf, 1e-40 * mean if low == 0 else 1e-9 * low, low)
    low_power = math.inf if power is None else power
    if low == 0 and low_power < 1e-6:
        raise fail(
            "radius",
            describe_radius(dist),
            "makes p0 infinite (E[1/|x|], the density of a 1-D marginal at 0)",
            "pass a law whose density vanishes at 0 like a power",
        )
    fall = _power_at(dist.pdf, 1e25 * mean, 0.0) if math.isinf(high) else None
    tail = math.inf if fall is None else -fall - 1
    rule = _trapezoid_rule(dist, low, high, low_power, tail)
    reached = float(np.sum(rule.node * rule.weight))
    if abs(reached / mean - 1) > 1e-9:
        raise fail(
            "radius",
            describe_radius(dist),
            f"has a tail that the quadrature does not reach (mean {reached:.12g}, not {mean:.12g})",
            "pass a law with a lighter tail",
        )
    return rule


def _power_at(density: Callable[[float], np.ndarray], point: float, base: float) -> float | None:
    """Exponent of a density between base + point and base + 1024 point; None if it underflows."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        near, far = float(density(base + point)), float(density(base + 1024 * point))
    if not (near > 0 and far > 0 and math.isfinite(near) and math.isfinite(far)):
        return None
    return math.log(far / near) / math.log(1024.0)


def _trapezoid_rule(
    dist: Distribution, low: float, high: float, low_power: float, tail: float
) -> Radius:
    """Rule for a continuous radius, for every kernel that is smooth in ln|x|.

    Parameters
    ----------
    dist : frozen scipy distribution
        Law of |x| on (low, high).
    low_power, tail : float
        See :class:`Radius`.
    """
    # The lower end is cut where |x|^-1 and the largest argument have both died out.
    floor = -38.0 - CUT / min(max(low_power if low == 0 else low_power + 1, 0.07), 5.0)
    ceiling = 690.0 if math.isinf(high) else 400.0
    if math.isfinite(tail):
        ceiling = min(CUT / max(tail - 1, 0.01) + 80, ceiling)
    floor = max(floor, -640.0)
    node, offset, weight, scale = _radius_points(dist, low, high, (floor, ceiling), 0.1)
    total = weight.sum()
    with np.errstate(over="ignore", invalid="ignore"):
        used = np.flatnonzero(weight * np.maximum(node / scale, 1.0) ** 2 > 1e-24)
    if math.isinf(tail) and used.size:
        ceiling = floor + 0.1 * (used[-1] + 10)
    step = 0.1
    for _ in range(4):
        finer = _radius_points(dist, low, high, (floor, ceiling), step / 2)
        settled = abs(finer[2].sum() - total) < 4e-15
        if settled:
            break
        step, total = step / 2, finer[2].sum()
        node, offset, weight, scale = finer
    if abs(total - 1) > 1e-10:
        raise fail(
            "radius",
            describe_radius(dist),
            f"has a density that the quadrature does not resolve (its mass sums to {total:.15g})",
            "pass a density that is smooth inside its support, or a discrete law",
        )
    keep = weight > 0
    return Radius(node[keep], offset[keep], weight[keep] / total, low, low + scale, low_power, tail)


def _radius_points(
    dist: Distribution, low: float, high: float, ends: tuple[float, float], step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Trapezoid rule for |x| in y = ln(|x| - low), or in the log-odds if the support is bounded.

    ``ends`` are the ends of y. Returns node, node - low, weight and the median scale.
    """
    scale = max(float(dist.median()) - low, 1e-300)
    y = log_grid(*ends, step)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if math.isinf(high):
            offset = scale * np.exp(y)
            jacobian = step * offset
        else:
            rest = 1 / (1 + np.exp(y))
            offset = (high - low) / (1 + np.exp(-y))
            jacobian = step * offset * rest
        node = low + offset
        weight = np.asarray(dist.pdf(node), dtype=float) * jacobian
    weight = np.where(np.isfinite(weight) & (node > 0), weight, 0.0)
    return node, offset, weight, scale


def compress(radius: Nodes, sphere: Nodes, smallest: float) -> Nodes:
    """Rule for the product of two independent factors, for integrands smooth in its logarithm.

    The product rule is replaced by one on few points per octave: the adjoint of interpolation at
    Chebyshev points. Products below ``smallest`` are dropped.
    """
    terms = 22
    blocks = np.array_split(np.arange(radius.node.size), max(1, radius.node.size // 16))
    first = int(np.floor(np.log2(smallest)))
    panels = int(np.ceil(np.log2(radius.node.max() * sphere.node.max()))) + 1 - first
    moments = np.zeros((len(blocks), terms, panels))
    for row, block in enumerate(blocks):
        node = np.outer(radius.node[block], sphere.node).ravel()
        weight = np.outer(radius.weight[block], sphere.weight).ravel()
        keep = (weight > 0) & (node > smallest)
        node, weight = node[keep], weight[keep]
        exponent = np.frexp(node)[1] - 1
        s = 2 * np.ldexp(node, -exponent) - 3
        # T_j by recurrence; sums by blocks, because one long running sum would lose digits
        before, now = np.ones_like(s), s
        for j in range(terms):
            moments[row, j] = np.bincount(exponent - first, weight * before, minlength=panels)
            before, now = now, 2 * s * now - before
    total = moments.sum(axis=0)
    theta = (np.arange(terms) + 0.5) * np.pi / terms
    weights = (chebyshev_matrix(terms) @ total).T
    points = np.ldexp((np.cos(theta) + 3) / 2, (first + np.arange(panels))[:, None])
    used = total[0] > 0
    return Nodes(points[used].ravel(), weights[used].ravel())
