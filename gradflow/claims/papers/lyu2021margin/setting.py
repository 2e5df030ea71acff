r"""What the claims of `lyu2021margin` share: instances, their linear phase, hypotheses, limits.

:math:`f(x)=\sum_ka_k\varphi(w_k\cdot x)`, :math:`\varphi(z)=\max(z,\alpha z)`, both layers trained,
logistic loss averaged over data, a start of size σ.

On symmetric data, (x, y) with (−x, −y), the pair's pull on a small neuron is
:math:`\tfrac12y[\varphi(w\cdot x)-\varphi(-w\cdot x)]=\tfrac12(1+\alpha)\,y\,w\cdot x`: the kinks
cancel. With :math:`\mu=\frac1n\sum_iy_ix_i`, :math:`\bar\mu=\mu/\|\mu\|` and
:math:`\ell'(0)=-\tfrac12` the flow at f = 0 is linear,

.. math:: \dot w_k=\tfrac{1+\alpha}4a_k\mu,\quad\dot a_k=\tfrac{1+\alpha}4\mu\cdot w_k,

so that :math:`b_k=\tfrac12(\bar\mu\cdot w_k+a_k)` grows at the rate
:math:`\lambda_0=\tfrac{1+\alpha}4\|\mu\|`, :math:`\bar\mu\cdot w_k-a_k` decays at it, and the rest
of :math:`w_k` stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Hypothesis, Lab
from gradflow.claims.instances import every, row, rows
from gradflow.validation import (
    check_array,
    check_bool,
    check_integer,
    check_positive,
    check_real,
    fail,
)

SOURCE = "lyu2021margin"
#: Tolerances of the run that is measured and of the run that gives its numerical error.
FINE, COARSE = 1e-8, 1e-6
#: How far in ln t limits are followed before they are polished.
LATE = 1e10
#: A start is small if its neurons are aligned up to this when the net begins to be felt.
ALIGNED = 0.05


@dataclass(frozen=True)
class Instance:
    """Data and the start of a net; made by `instance`, hashable.

    Attributes
    ----------
    inputs : tuple of tuples
        X, (n, d).
    labels : tuple of float
        y, (n,).
    inner : tuple of tuples
        The start's inner weights over σ, (m, d).
    outer : tuple of float
        The start's outer weights over σ, (m,).
    slope : float
        α.
    scale : float
        σ.
    trained : bool
        Whether the outer weights move.
    """

    inputs: tuple[tuple[float, ...], ...]
    labels: tuple[float, ...]
    inner: tuple[tuple[float, ...], ...]
    outer: tuple[float, ...]
    slope: float
    scale: float
    trained: bool = True

    @property
    def X(self) -> np.ndarray:
        """Inputs, shape (n, d)."""
        return np.array(self.inputs)

    @property
    def y(self) -> np.ndarray:
        """Labels, shape (n,)."""
        return np.array(self.labels)

    @property
    def w(self) -> np.ndarray:
        """Inner weights of the start over σ, shape (m, d)."""
        return np.array(self.inner)

    @property
    def a(self) -> np.ndarray:
        """Outer weights of the start over σ, shape (m,)."""
        return np.array(self.outer)

    @property
    def net(self) -> gf.TwoLayer:
        """The network."""
        outer = "trained" if self.trained else "fixed"
        return gf.TwoLayer(
            len(self.inputs[0]), len(self.outer), gf.LeakyReLU(self.slope), outer=outer
        )

    @property
    def risk(self) -> gf.EmpiricalRisk:
        """The mean logistic loss."""
        return gf.EmpiricalRisk(self.net, gf.logistic, self.X, self.y)

    @property
    def params(self) -> PyTree:
        """The start: σ times ``inner`` and ``outer`` (fixed outer weights are not scaled)."""
        outer = self.scale * self.a if self.trained else self.a
        return self.net.params(self.scale * self.w, outer)

    @property
    def mu(self) -> np.ndarray:
        """μ = (1/n) Σ y_i x_i, shape (d,)."""
        return self.y @ self.X / self.y.size

    @property
    def mu_bar(self) -> np.ndarray:
        """μ/|μ|, shape (d,)."""
        return self.mu / np.linalg.norm(self.mu)

    @property
    def rate(self) -> float:
        """λ₀ = (1+α)|μ|/4."""
        return (1 + self.slope) * float(np.linalg.norm(self.mu)) / 4

    @property
    def b(self) -> np.ndarray:
        """b_k = ½(w_k(0)·μ̄ + a_k(0)) over σ, shape (m,)."""
        return 0.5 * (self.w @ self.mu_bar + self.a)

    @property
    def svm(self) -> gf.certificates.HardMargin:
        """The best linear predictor: direction w*, margin γ*."""
        return _svm(self.inputs, self.labels)

    def time_to(self, size: float) -> float:
        """When the growing mode alone, |θ| = √2 |b| σ e^{λ₀t}, reaches ``size``."""
        start = np.sqrt(2) * float(np.linalg.norm(self.b)) * self.scale
        return float(np.log(size / start)) / self.rate

    @property
    def felt(self) -> float:
        """The norm at which f begins to be felt: |θ|² max|x_i| = 0.01."""
        return 0.1 / float(np.sqrt(np.max(np.linalg.norm(self.X, axis=1))))

    def linear_phase(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The flow at f = 0: inner (m, d) and outer (m,) weights at the time t."""
        along = self.w @ self.mu_bar
        across = self.w - along[:, None] * self.mu_bar
        grow = self.scale * self.b * np.exp(self.rate * t)
        decay = self.scale * 0.5 * (along - self.a) * np.exp(-self.rate * t)
        return self.scale * across + (grow + decay)[:, None] * self.mu_bar, grow - decay

    def misaligned(self) -> float:
        r"""Largest distance of a neuron from its growing mode, relative to it, when f is felt."""
        if not np.all(self.b):
            return float("inf")
        w, a = self.linear_phase(self.time_to(self.felt))
        size = self.felt * self.b / (np.sqrt(2) * np.linalg.norm(self.b))
        gap = np.hypot(np.linalg.norm(w - size[:, None] * self.mu_bar, axis=1), a - size)
        return float(np.max(gap / np.abs(size)))

    def but(self, **changes: object) -> Instance:
        """A copy with fields replaced."""
        return replace(self, **changes)

    def same_sign(self) -> Instance:
        """The start with (w_k, a_k) negated wherever b_k < 0, so that all b_k > 0."""
        turn = np.where(self.b < 0, -1.0, 1.0)
        return self.but(inner=rows(turn[:, None] * self.w), outer=row(turn * self.a))

    def __str__(self) -> str:
        n, d, m = len(self.labels), len(self.inputs[0]), len(self.outer)
        # (the first numbers of data and start tell instances of one size apart)
        first = f"x11={self.inputs[0][0]:.3g} a1={self.outer[0]:.3g}"
        return f"n={n} d={d} m={m} α={self.slope:g} σ={self.scale:g} {first}"


@lru_cache(maxsize=64)
def _svm(inputs: tuple, labels: tuple) -> gf.certificates.HardMargin:
    return gf.certificates.hard_margin_svm(np.array(inputs), np.array(labels))


def instance(
    data: Any,
    *,
    slope: float,
    scale: float = 1e-6,
    width: int | None = None,
    seed: int | None = None,
    inner: ArrayLike | None = None,
    outer: ArrayLike | None = None,
    outer_scale: float = 1.0,
    trained: bool = True,
) -> Instance:
    """A checked `Instance`.

    Parameters
    ----------
    data : Dataset or pair (X, y)
        Inputs (n, d) and labels ±1 (n,).
    slope : float
        α in [0, 1].
    scale : float
        σ > 0.
    width, seed : int
        Draw the start: w_k ~ N(0, σ²I), a_k ~ N(0, c²σ²), c = ``outer_scale``.
    inner, outer : array (m, d) and (m,)
        Or give the start, in units of σ.
    outer_scale : float
    trained : bool
        False: the outer weights stay what ``outer`` says, not scaled.

    Raises
    ------
    ValueError
        Arrays that do not fit; a slope outside [0, 1]; both ways or none to choose the start.
    """
    try:
        X, y = data
    except (TypeError, ValueError):
        raise fail("data", data, "is not a pair (X, y)", "pass gf.datasets.symmetric()") from None
    X, y = check_array("X", X, (None, None)), check_array("y", y, (None,))
    if X.shape[0] != y.size or y.size == 0:
        problem = f"has length {y.size}, but X has {X.shape[0]} rows"
        raise fail("y", y, problem, "pass one label per row of X, and at least one")
    if not np.all(np.abs(y) == 1):
        raise fail("y", y, "holds labels other than -1 and +1", "pass labels -1 and +1")
    slope = check_real("slope", slope)
    if not 0 <= slope <= 1:
        raise fail("slope", slope, "is not in [0, 1]", "pass 0 for ReLU, 1 for linear neurons")
    drawn, given = (width, seed), (inner, outer)
    if any(v is None for v in drawn) == any(v is None for v in given):
        raise fail(
            "width", width, f"seed={seed}: and inner, outer: exactly one pair makes a start",
            "pass width and seed, or inner and outer",
        )  # fmt: skip
    if inner is None:
        m = check_integer("width", width, minimum=1)
        rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
        w = rng.normal(size=(m, X.shape[1]))
        a = check_positive("outer_scale", outer_scale) * rng.normal(size=m)
    else:
        w = check_array("inner", inner, (None, X.shape[1]))
        a = check_array("outer", outer, (w.shape[0],))
        if w.shape[0] == 0:
            raise fail("inner", w, "holds no neuron", "pass at least one row")
    scale, trained = check_positive("scale", scale), check_bool("trained", trained)
    return Instance(rows(X), row(y), rows(w), row(a), slope, scale, trained)


# -- paths --------------------------------------------------------------------------------------


def _reached(done: gf.Trajectory) -> gf.Trajectory:
    """The path, if it reached its end: branches on the way are what some claims are about."""
    if not done.result.ok:
        raise RuntimeError(f"{done.result.name}: {done.result.message}")
    return done


def path(lab: Lab, one: Instance, time: float, rtol: float = 1e-10) -> gf.Trajectory:
    """The flow to a physical time, integrated once for all claims that ask for it.

    Recorded at the solver's own steps, as the late path is: one compiled program serves both.
    """

    def build() -> gf.Trajectory:
        return _reached(gf.integrate(one.risk, one.params, until=gf.until.time(time), rtol=rtol))

    return lab.get((SOURCE, "path", one, float(time), rtol), build)


def weights_at(lab: Lab, one: Instance, time: float, rtol: float = 1e-10) -> np.ndarray:
    """(w_k, a_k) at a physical time, shape (m, d+1)."""
    end = path(lab, one, time, rtol).final
    return np.column_stack([np.asarray(end.inner), np.asarray(end.outer)])


def late_path(lab: Lab, one: Instance, rtol: float = FINE) -> gf.Trajectory:
    """The flow to ln t = 1e10."""

    def build() -> gf.Trajectory:
        until = gf.until.log_time(LATE)
        return _reached(gf.integrate(one.risk, one.params, until=until, rtol=rtol))

    return lab.get((SOURCE, "late path", one, rtol), build)


def limit(lab: Lab, one: Instance, rtol: float = FINE) -> gf.Certificate:
    """The certified direction that the flow goes to; a limit that is not accepted is an error."""

    def build() -> gf.Certificate:
        found = gf.certify(late_path(lab, one, rtol))
        if not found.accepted:
            raise RuntimeError(f"{one}: the limit is not certified: {found.reason}")
        return found

    return lab.get((SOURCE, "limit", one, rtol), build)


# -- hypotheses ---------------------------------------------------------------------------------


def trained(ones: Sequence[Instance]) -> Hypothesis:
    """Both layers are trained."""
    return every(
        "both layers trained", ones, lambda one: "" if one.trained else "outer weights are fixed"
    )


def leaky(ones: Sequence[Instance], *, closed: bool = False) -> Hypothesis:
    """0 < α < 1, or with ``closed`` 0 ≤ α ≤ 1."""

    def why(one: Instance) -> str:
        return "" if closed or 0 < one.slope < 1 else f"α = {one.slope:g}"

    return every("slope 0 <= α <= 1" if closed else "slope 0 < α < 1", ones, why)


def symmetric(ones: Sequence[Instance]) -> Hypothesis:
    """(x, y) is in the data exactly if (−x, −y) is, as often."""

    def why(one: Instance) -> str:
        data = rows(np.column_stack([one.X, one.y]) + 0.0)
        count = Counter(data)
        for i, datum in enumerate(data):
            if count[tuple(-v + 0.0 for v in datum)] != count[datum]:
                return f"row {i} has no exact negative with the opposite label"
        return ""

    return every("symmetric data", ones, why)


def separable(ones: Sequence[Instance]) -> Hypothesis:
    """The data are linearly separable through the origin."""
    return every(
        "linearly separable data", ones,
        lambda one: "" if one.svm.separable else "no w has y_i w.x_i > 0 for all i",
    )  # fmt: skip


def both_groups(ones: Sequence[Instance]) -> Hypothesis:
    """Not all b_k are of one sign, and none is zero."""

    def why(one: Instance) -> str:
        b = one.b
        if not np.all(b):
            return "some b_k = 0"
        if np.ptp(np.sign(b)) == 0:
            return (
                f"a same-sign draw: all {b.size} b_k are {'positive' if b[0] > 0 else 'negative'}"
            )
        return ""

    return every("b_k of both signs", ones, why)


def one_group(ones: Sequence[Instance]) -> Hypothesis:
    """All b_k are of one sign, and none is zero."""

    def why(one: Instance) -> str:
        same = np.all(one.b > 0) or np.all(one.b < 0)
        return "" if same else "b_k of both signs occur"

    return every("all b_k of one sign", ones, why)


def small(
    ones: Sequence[Instance], at: Callable[[Instance], Instance] = lambda one: one
) -> Hypothesis:
    """σ, of the instance that ``at`` makes, is so small that neurons align before f is felt."""

    def why(one: Instance) -> str:
        off = at(one).misaligned()
        if off <= ALIGNED:
            return ""
        return f"a neuron is {off:.2g} off ±μ, relative, when f is felt; pass a smaller scale"

    return every(f"small start: neurons within {ALIGNED:g} of ±μ when f is felt", ones, why)


def unique(ones: Sequence[Instance]) -> Hypothesis:
    """The flow meets no surface that it can leave both ways."""

    def check(lab: Lab) -> tuple[bool, str]:
        forked = [str(one) for one in ones if not late_path(lab, one).unique]
        return not forked, f"a branch on the way; {forked[0]}" if forked else ""

    return Hypothesis("the flow is unique", check)


def setting(ones: Sequence[Instance]) -> list[Hypothesis]:
    """What every claim on symmetric data assumes."""
    return [trained(ones), leaky(ones), symmetric(ones), separable(ones)]
