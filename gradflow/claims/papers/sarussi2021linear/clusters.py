r"""Neurons in two clusters have an almost linear decision boundary.

Let all :math:`w_j` lie within r of :math:`\bar w` and all :math:`u_j` within r of :math:`\bar u`,
and :math:`c=\bar w-\bar u`. Then

.. math:: \operatorname{sign}N_W(x)=\operatorname{sign}(c\cdot x)\quad\text{if}\quad
    |c\cdot x|>\kappa\,r\|x\|.

*Any centres: κ = 2.* If :math:`c\cdot x>2r\|x\|`, then :math:`w_j\cdot x\ge\bar w\cdot x-r\|x\|>
\bar u\cdot x+r\|x\|\ge u_i\cdot x` for all i, j, and φ increases strictly. With all
:math:`w_j=\bar w-r\hat x` and :math:`u_j=\bar u+r\hat x` it fails just below 2.

*Centres that are the means: κ = (1-α)/(1+α).* φ is convex. By Jensen :math:`\frac1k\sum
\varphi(w_j\cdot x)\ge\varphi(\bar w\cdot x)`; and with :math:`\rho=r\|x\|`,
:math:`s=\bar u\cdot x`, the largest :math:`\frac1k\sum\varphi(u_j\cdot x)` has half of the
values at either end,
:math:`A=\frac12(\varphi(s+\rho)+\varphi(s-\rho))`. So the net is positive once :math:`c\cdot x>
\varphi^{-1}(A)-s`. For :math:`|s|\le\rho`, :math:`A=\frac12((1+\alpha)s+(1-\alpha)\rho)`, and
:math:`\varphi^{-1}(A)-s` is :math:`\frac{1-\alpha}2(\rho-s)` where A > 0, falling in s, and
:math:`\frac{1-\alpha}{2\alpha}(\rho+s)` where A < 0, rising: the maximum, where A = 0, is
:math:`\frac{1-\alpha}{1+\alpha}\rho`. It is attained by such a net.

*r = 0.* :math:`N_W(x)/(vk\,c\cdot x)` is a slope of a chord of φ, in [α, 1]: the boundary is
exactly linear.

Source: `sarussi2021linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Bound, Claim, Control, Hypothesis, Lab, Measurement
from gradflow.claims.instances import every, rows, several
from gradflow.claims.papers.sarussi2021linear import PAPER
from gradflow.claims.papers.sarussi2021linear.setting import EPS, SOURCE
from gradflow.validation import (
    check_array,
    check_integer,
    check_nonnegative,
    check_positive,
    check_real,
    fail,
)

#: How far below the sharp threshold the adversarial nets err, relative.
_BELOW = 1e-3


@dataclass(frozen=True)
class Clusters:
    """A net, the centres of its two halves, and points to look at; made by `clusters`, hashable.

    Attributes
    ----------
    positive, negative : tuple of k tuples of d floats
        The neurons of outer weights +v and -v.
    centres : tuple of two tuples of d floats, or None
        :math:`\\bar w,\\bar u`; None for the means.
    slope : float
        α.
    v : float
    points : tuple of tuples of d floats
        Inputs that are tried beside the random ones.
    """

    positive: tuple
    negative: tuple
    centres: tuple | None
    slope: float
    v: float
    points: tuple = ()

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """w and u, each of shape (k, d)."""
        return np.array(self.positive), np.array(self.negative)

    @property
    def centre(self) -> tuple[np.ndarray, np.ndarray]:
        """The two centres, each of shape (d,)."""
        if self.centres is None:
            w, u = self.halves
            return w.mean(axis=0), u.mean(axis=0)
        return np.array(self.centres[0]), np.array(self.centres[1])

    @property
    def radius(self) -> float:
        """r, the largest distance from the own centre."""
        pairs = zip(self.halves, self.centre, strict=True)
        return max(float(np.max(np.linalg.norm(part - mid, axis=1))) for part, mid in pairs)

    def probes(self, count: int, seed: int) -> np.ndarray:
        """Unit inputs, shape (p, d): uniform ones, ones near the boundary of c, the points.

        Those near the boundary have |c·x| up to 3 r.
        """
        rng = np.random.default_rng(seed)
        dim = len(self.positive[0])
        x = rng.normal(size=(2 * count, dim))
        c = self.centre[0] - self.centre[1]
        size = float(np.linalg.norm(c))
        if dim > 1 and size > 0:
            near, c = x[count:], c / size
            across = near - np.outer(near @ c, c)
            across /= np.linalg.norm(across, axis=1, keepdims=True)
            sine = np.clip(3 * self.radius / size * rng.uniform(-1, 1, size=count), -1, 1)
            x[count:] = np.sqrt(1 - sine**2)[:, None] * across + np.outer(sine, c)
        if self.points:
            x = np.concatenate([x, np.array(self.points)])
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def __str__(self) -> str:
        k, d = self.halves[0].shape
        return f"k={k}, d={d}, α={self.slope:g}, r={self.radius:.3g}"


def clusters(
    positive: ArrayLike, negative: ArrayLike, centres: ArrayLike | None = None, *,
    slope: float = 0.3, v: float = 1.0, points: Sequence[ArrayLike] = (),
) -> Clusters:  # fmt: skip
    """A checked `Clusters`.

    Parameters
    ----------
    positive, negative : array (k, d)
        The neurons w and u.
    centres : array (2, d), optional
        Default: the means.
    slope : float
        α in [0, 1]; claims hold for 0 < α < 1.
    v : float
        Positive.
    points : array (p, d)
        Non-zero inputs to try beside the random ones.
    """
    w = check_array("positive", positive, (None, None))
    if w.size == 0:
        raise fail("positive", w, "holds no neuron", "pass at least one row")
    u = check_array("negative", negative, w.shape)
    slope = check_real("slope", slope)
    if not 0 <= slope <= 1:
        raise fail("slope", slope, "is not in [0, 1]", "pass for example 0.3")
    if centres is not None:
        centres = rows(check_array("centres", centres, (2, w.shape[1])))
    tried = check_array("points", points, (None, w.shape[1])) if len(points) else w[:0]
    if not np.all(np.any(tried != 0, axis=1)):
        raise fail("points", tried, "holds a zero input", "drop it")
    return Clusters(rows(w), rows(u), centres, slope, check_positive("v", v), rows(tried))


def random_clusters(
    half: int, dim: int, radius: float, *, slope: float = 0.3, seed: int = 0, means: bool = False
) -> Clusters:
    """Normal centres, and neurons uniform in direction at distances up to ``radius`` from them.

    With ``means`` the centres of the statement are the means of what was drawn.
    """
    half = check_integer("half", half, minimum=1)
    dim, radius = check_integer("dim", dim, minimum=1), check_nonnegative("radius", radius)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    centre = rng.normal(size=(2, 1, dim))
    away = rng.normal(size=(2, half, dim))
    away *= radius * rng.random((2, half, 1)) / np.linalg.norm(away, axis=2, keepdims=True)
    w, u = centre + away
    return clusters(w, u, None if means else centre[:, 0], slope=slope)


def worst_clusters(dim: int, *, slope: float = 0.3, means: bool = False, seed: int = 0) -> Clusters:
    """Two neurons of each sign that err at |c·x| just below κ r‖x‖ (derived above)."""
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    x = rng.normal(size=check_integer("dim", dim, minimum=1))
    x /= np.linalg.norm(x)
    side = np.array([[1.0], [1.0]])
    if means:
        # at ū·x = −(1−α)/(1+α) the mean over u vanishes, and w̄·x is barely negative
        kappa = (1 - slope) / (1 + slope)
        w, u = -_BELOW * kappa * x, -kappa * x
        return clusters(w * side, u + np.array([[1.0], [-1.0]]) * x, slope=slope, points=[x])
    w, u = (1 - _BELOW) * x, -(1 - _BELOW) * x
    return clusters((w - x) * side, (u + x) * side, [w, u], slope=slope, points=[x])


Nets = Clusters | Sequence[Clusters]


def _leaky(nets: Sequence[Clusters]) -> Hypothesis:
    return every(
        "leaky, 0 < α < 1", nets, lambda one: "" if 0 < one.slope < 1 else f"α = {one.slope:g}"
    )


def _spread(nets: Sequence[Clusters], zero: bool) -> Hypothesis:
    name = f"r {'=' if zero else '>'} 0"
    return every(name, nets, lambda one: "" if (one.radius == 0) == zero else f"r = {one.radius:g}")


def _apart(nets: Sequence[Clusters]) -> Hypothesis:
    same = "the centres are one point"
    return every(
        "centres differ", nets, lambda one: "" if np.any(one.centre[0] - one.centre[1]) else same
    )


def _values(one: Clusters, x: np.ndarray) -> np.ndarray:
    """N_W by the library's net, shape (p,)."""
    w, u = one.halves
    net = gf.TwoLayer(x.shape[1], 2 * len(w), gf.LeakyReLU(one.slope), outer="fixed")
    params = net.params(np.concatenate([w, u]), np.repeat([one.v, -one.v], len(w)))
    return np.asarray(net(params, jnp.asarray(x)))


def _values_again(one: Clusters, x: np.ndarray) -> np.ndarray:
    """The same in extended precision."""
    w, u = (half.astype(np.longdouble) for half in one.halves)
    pre = [x.astype(np.longdouble) @ half.T for half in (w, u)]
    up, down = (np.where(z > 0, z, one.slope * z).sum(axis=1) for z in pre)
    return one.v * (up - down)


def _exceptions(one: Clusters, x: np.ndarray, values: np.ndarray) -> float:
    """The largest |c·x|/(r‖x‖) at which the signs differ; 0 where they never do."""
    kind = values.dtype.type
    w, u = (centre.astype(kind) for centre in one.centre)
    gap = x.astype(kind) @ (w - u)
    wrong = np.sign(values) != np.sign(gap)
    return float(np.max(np.abs(gap[wrong]), initial=0.0) / kind(one.radius))


def cluster_rule(
    nets: Nets, *, probes: int = 500, seed: int = 0, worst: bool = True, id: str
) -> Bound:
    """Zero exceptions beyond κ r‖x‖: κ = 2 for given centres, (1-α)/(1+α) for means.

    Parameters
    ----------
    nets : Clusters or sequence of Clusters
        All with given centres, or all about their means.
    probes : int
        Random inputs of either kind for each net; see `Clusters.probes`.
    seed : int
        Of the inputs.
    worst : bool
        Try, for each dimension and slope, the net that errs just below the threshold too.
    """
    nets = several("nets", nets, Clusters)
    means = nets[0].centres is None
    if any((one.centres is None) != means for one in nets):
        raise fail("nets", len(nets), "nets mix centres and means", "make two claims of them")
    probes = check_integer("probes", probes, minimum=1)
    check_integer("seed", seed, minimum=0)
    tried = nets
    if worst and all(0 < one.slope < 1 for one in nets):
        kinds = dict.fromkeys((len(one.positive[0]), one.slope) for one in nets)
        tried += tuple(worst_clusters(d, slope=alpha, means=means) for d, alpha in kinds)

    def largest(values: Callable[[Clusters, np.ndarray], np.ndarray]) -> np.ndarray:
        inputs = [one.probes(probes, seed + i) for i, one in enumerate(tried)]
        return np.array(
            [_exceptions(one, x, values(one, x)) for one, x in zip(tried, inputs, strict=True)]
        )

    def measure(lab: Lab) -> Measurement:
        first, second = largest(_values_again), largest(_values)
        return Measurement.from_solves(first, second, labels=[str(one) for one in tried])

    def bound(lab: Lab, factor: float) -> np.ndarray:
        kappa = [(1 - one.slope) / (1 + one.slope) if means else 2.0 for one in tried]
        return factor * np.array(kappa)

    def sharp(lab: Lab) -> float:
        return float(np.max(largest(_values_again) / bound(lab, 1.0)))

    kappa = "(1-α)/(1+α)" if means else "2"
    return Bound(
        **PAPER.words("clusters-of-means" if means else "clusters", id),
        hypotheses=[_leaky(nets), _spread(nets, False)],
        measure=measure,
        bound=bound,
        sharp=sharp,
        side="upper",
        control=Control.replacing(
            f"half the threshold, {kappa}/2", bound=lambda lab, factor: bound(lab, factor / 2)
        ),
    )


def exactly_linear(nets: Nets, *, probes: int = 500, seed: int = 0, id: str) -> Bound:
    """Clusters of radius 0: N_W(x)/(α v k c·x) >= 1, so the boundary is that of c.

    Parameters
    ----------
    nets : Clusters or sequence of Clusters
        Of radius 0.
    probes, seed : int
        As for `cluster_rule`; inputs within 1e-3 |c| of the boundary are left out, where the
        quotient is rounding.
    """
    nets = several("nets", nets, Clusters)
    probes = check_integer("probes", probes, minimum=1)
    check_integer("seed", seed, minimum=0)

    def quotients(values: Callable[[Clusters, np.ndarray], np.ndarray]) -> np.ndarray:
        parts = []
        for i, one in enumerate(nets):
            c = one.centre[0] - one.centre[1]
            x = one.probes(probes, seed + i)
            x = x[np.abs(x @ c) > 1e-3 * np.linalg.norm(c)]
            parts.append(values(one, x) / (one.slope * one.v * len(one.positive) * (x @ c)))
        return np.concatenate(parts).astype(np.float64)

    def measure(lab: Lab) -> Measurement:
        fine = quotients(_values)
        size = [max(np.linalg.norm(mid) for mid in one.centre) for one in nets]
        far = [np.linalg.norm(one.centre[0] - one.centre[1]) for one in nets]
        noise = max(
            8 * EPS * s / (1e-3 * f * one.slope) for s, f, one in zip(size, far, nets, strict=True)
        )
        return Measurement.from_solves(quotients(_values_again), fine, extra=noise)

    return Bound(
        **PAPER.words("clusters-of-radius-zero", id),
        hypotheses=[_leaky(nets), _spread(nets, True), _apart(nets)],
        measure=measure,
        bound=lambda lab, factor: np.full(1, factor),
        sharp=lambda lab: float(np.min(quotients(_values_again))),
        tolerance=1e-9,
        control=Control.perturbed(1.05),
    )


def _ensemble(means: bool) -> list[Clusters]:
    return [
        random_clusters(half, dim, radius, slope=slope, seed=10 * s + dim, means=means)
        for s in range(10)
        for half, dim, radius, slope in ((8, 2, 1.0, 0.3), (8, 2, 0.2, 0.3), (5, 7, 2.0, 0.05))
    ]


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "clusters": lambda: cluster_rule(_ensemble(False), id=f"{SOURCE}/clusters"),
    "clusters-of-means": lambda: cluster_rule(_ensemble(True), id=f"{SOURCE}/clusters-of-means"),
    "clusters-of-radius-zero": lambda: exactly_linear(
        [random_clusters(6, dim, 0.0, slope=0.2, seed=s) for s in range(10) for dim in (2, 5)],
        id=f"{SOURCE}/clusters-of-radius-zero",
    ),
}
