r"""Claims on two neurons on spherically symmetric data: the appendix of `lin2021faster`, and more.

:math:`f=a_1\varphi(w_1\cdot x)+a_2\varphi(w_2\cdot x)` with :math:`a_1>0>a_2`,
:math:`\varphi(z)=\max(z,\alpha z)`, logistic loss; :math:`R_i,\theta_i` are a neuron's norm and
angle to its own target :math:`\mathrm{sgn}(a_i)v`.

- published: both neurons converge in direction to their targets;
- :math:`w_2=-w_1`: :math:`(1+\alpha)w_1` is the linear flow in the time :math:`(1+\alpha)^2t/2`;
- α=1: :math:`w_1+w_2` is constant.

All but the first are derived. Rates are in `gradflow.claims.lin2021faster_two_neuron_rates` and
`gradflow.claims.lin2021faster_slow_mode`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from gradflow.claims.base import Control, Hypothesis, Measurement, Outcome
from gradflow.claims.kinds import Equality, Qualitative
from gradflow.claims.lab import Lab
from gradflow.claims.lin2021_common import COARSE, FINE, Instance, linear_path
from gradflow.flows.linear_chart import rejection
from gradflow.integrators import until
from gradflow.models.activations import LeakyReLU
from gradflow.models.laws import SphericalLaw
from gradflow.models.losses import logistic
from gradflow.models.networks import TwoLayer
from gradflow.models.teachers import LinearTeacher
from gradflow.risks.population import PopulationRisk
from gradflow.symbolic import derive
from gradflow.trajectory import Trajectory, integrate
from gradflow.validation import check_array, check_choice, check_real, fail

SOURCE = "lin2021faster"
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Pair:
    """Two neurons on spherically symmetric data; made by `pair`, hashable.

    Attributes
    ----------
    law : SphericalLaw
    inner : tuple of two tuples
        :math:`w_1(0),w_2(0)`.
    teacher : tuple of float
        The unit vector v, shape (d,).
    slope : float
        α.
    outer : tuple of float
        :math:`a_1(0),a_2(0)`.
    trained : bool
        Whether the outer weights move.
    """

    law: SphericalLaw
    inner: tuple[tuple[float, ...], ...]
    teacher: tuple[float, ...]
    slope: float = 0.0
    outer: tuple[float, ...] = (1.0, -1.0)
    trained: bool = False

    @property
    def risk(self) -> PopulationRisk:
        """The population risk, logistic loss."""
        outer = "trained" if self.trained else "fixed"
        net = TwoLayer(self.law.dim, 2, LeakyReLU(self.slope), outer=outer)
        return PopulationRisk(net, logistic, self.law, LinearTeacher(np.array(self.teacher)))

    @property
    def w(self) -> np.ndarray:
        """The neurons at time 0, shape (2, d)."""
        return np.array(self.inner)

    def but(self, **changes: Any) -> Pair:
        """A copy with fields replaced."""
        return replace(self, **changes)

    def __str__(self) -> str:
        return f"{self.law.name} d={self.law.dim}, α={self.slope:g}"


def pair(
    law: SphericalLaw,
    inner: Any,
    teacher: Any = None,
    *,
    slope: float = 0.0,
    outer: Any = (1.0, -1.0),
    trained: bool = False,
) -> Pair:
    """A checked `Pair`.

    Parameters
    ----------
    law : SphericalLaw
    inner : array (2, d)
    teacher : array (d,), optional
        Default: the last axis.
    slope : float
    outer : array (2,) or "balanced"
        "balanced": trained outer weights ±|w_i|.
    trained : bool
    """
    w = check_array("inner", inner, (2, law.dim))
    v = np.eye(law.dim)[-1] if teacher is None else np.asarray(LinearTeacher(teacher).direction)
    slope = check_real("slope", slope)
    if not 0 <= slope <= 1:
        raise fail("slope", slope, "is not in [0, 1]", "pass 0 for ReLU, 1 for linear neurons")
    if isinstance(outer, str):
        check_choice("outer", outer, ("balanced",))
        outer, trained = np.linalg.norm(w, axis=1) * np.array([1.0, -1.0]), True
    a = check_array("outer", np.asarray(outer, dtype=np.float64), (2,))
    rows = tuple(tuple(map(float, row)) for row in w)
    return Pair(law, rows, tuple(map(float, v)), float(slope), tuple(map(float, a)), trained)


def random_pairs(law: SphericalLaw, count: int, seed: int, **options: Any) -> list[Pair]:
    """Pairs with standard normal neurons, from a seed; ``options`` as for `pair`."""
    rng = np.random.default_rng(seed)
    return [pair(law, rng.normal(size=(2, law.dim)), **options) for _ in range(count)]


def pair_path(
    lab: Lab,
    one: Pair,
    *,
    t_end: float = 1e12,
    times: np.ndarray | None = None,
    rtol: float = FINE,
) -> Trajectory:
    """The flow of a pair, integrated once for all claims that ask for it.

    Default times: 128 of them, log-spaced from 1 to ``t_end``.
    """
    times = np.geomspace(1.0, t_end, 128) if times is None else times

    def build() -> Trajectory:
        return integrate(
            one.risk,
            {"inner": one.w, "outer": np.array(one.outer)},
            until=until.time(float(times[-1])),
            rtol=rtol,
            save_at=times,
            throw=True,
        )

    return lab.get(("pair path", one, times.tobytes(), rtol), build)


def fine_and_coarse(
    lab: Lab,
    one: Pair,
    read: Callable[[Trajectory], np.ndarray],
    *,
    tolerances: tuple[float, float] = (FINE, COARSE),
    **options: Any,
) -> tuple[np.ndarray, Any]:
    """A quantity of the fine path and its absolute error.

    The error is the distance to the path at the looser tolerance, plus a few units of rounding.
    """
    fine, coarse = (read(pair_path(lab, one, rtol=rtol, **options)) for rtol in tolerances)
    return fine, np.abs(fine - coarse) + 4 * _EPS * np.abs(fine)


@lru_cache(maxsize=256)
def pair_rate(one: Pair, regime: str, name: str) -> Any:
    """The derived rate with the law's constants and the slope put in (cached: sympy is slow)."""
    outer = "trained" if one.trained else "fixed"
    rate = derive("two-neuron", regime=regime, outer=outer).rates[name]
    return rate.evaluate(one.law, alpha=one.slope, tau1=1, tau2=0)


# -- hypotheses ---------------------------------------------------------------------------------


def opposite_outer(one: Pair) -> Hypothesis:
    """a₁ > 0 > a₂."""
    a1, a2 = one.outer
    return Hypothesis("outer weights a1 > 0 > a2", lambda lab: (a1 > 0 > a2, f"a = {one.outer}"))


def unit_outer(one: Pair) -> Hypothesis:
    """The outer weights are ±1 and fixed: the constants are stated for these."""
    fits = one.outer == (1.0, -1.0) and not one.trained
    return Hypothesis("outer weights (1, -1), fixed", lambda lab: (fits, f"a = {one.outer}"))


def balanced_outer(one: Pair) -> Hypothesis:
    """|a_i| = |w_i| and both layers trained."""
    norms = np.linalg.norm(one.w, axis=1)
    fits = one.trained and bool(np.allclose(np.abs(one.outer), norms, rtol=1e-12, atol=0))
    return Hypothesis("trained, |a_i| = |w_i|", lambda lab: (fits, f"a = {one.outer}"))


def may_turn(one: Pair) -> Hypothesis:
    """Not all on the teacher's axis with a neuron at θ = π: nothing would turn it."""
    omega = np.sign(one.outer)[:, None] * one.w
    v = np.array(one.teacher)
    stuck = not any(rejection(w, v).any() for w in omega) and bool((omega @ v).min() < 0)
    return Hypothesis("theta_i(0) != pi", lambda lab: (not stuck, f"w(0) = {one.inner}"))


def slope_is(one: Pair, what: str) -> Hypothesis:
    """``what``: "ReLU" (α=0), "leaky" (0<α<1) or "linear" (α=1)."""
    kind = "ReLU" if one.slope == 0 else "linear" if one.slope == 1 else "leaky"
    return Hypothesis(f"{what} neurons", lambda lab: (kind == what, f"α = {one.slope:g}"))


def symmetric_pair(one: Pair, holds: bool = True) -> Hypothesis:
    """w₂ = -w₁ at the start, or not."""
    fits = np.array_equal(one.w[1], -one.w[0]) == holds
    return Hypothesis(f"w2 {'=' if holds else '!='} -w1", lambda lab: (fits, f"w(0) = {one.inner}"))


def generic(ones: Sequence[Pair], what: str) -> list[Hypothesis]:
    """Fixed outer weights ±1, nothing stuck, and the kind of neuron."""
    checks = (unit_outer, may_turn, lambda one: slope_is(one, what))
    return [check(one) for one in ones for check in checks]


# -- published: convergence in direction --------------------------------------------------------


def directional_convergence(
    ones: Sequence[Pair], name: str, *, t_end: float = 1e6, angle: float = 1e-6
) -> Qualitative:
    """Every neuron of every pair comes within ``angle`` of its target, and is still closing in.

    Margins are log-angles: by how much -ln tan(θ_i/2) exceeds its mark at ``t_end``, and by how
    much it has grown since ``t_end``/10.
    """
    times = np.geomspace(t_end / 10, t_end, 2)
    mark = -np.log(np.tan(angle / 2))

    def measure(lab: Lab, side: float = 1.0) -> list[Outcome]:
        outcomes = []
        for start, one in enumerate(ones):
            fine, coarse = (
                -side * pair_path(lab, one, times=times, rtol=rtol).exact["log_tan_half_angle"]
                for rtol in (1e-9, 1e-7)
            )
            error = np.abs(fine - coarse)
            for i in range(2):
                label = f"start {start}, neuron {i + 1}"
                near, gain = fine[1, i] - mark, fine[1, i] - fine[0, i]
                outcomes.append(Outcome(f"{label} is close", near, error[1, i]))
                outcomes.append(Outcome(f"{label} closes in", gain, error[:, i].sum()))
        return outcomes

    opposed = [ones[0].but(inner=(tuple(-x for x in ones[0].teacher), ones[0].teacher))]
    checks = [check(one) for one in ones for check in (opposite_outer, may_turn)]
    return Qualitative(
        id=f"{SOURCE}/{name}",
        title="both neurons converge in direction",
        statement="two neurons, a1 > 0 > a2: θ_i(t) -> 0, the angle of w_i to sgn(a_i) v",
        provenance="published",
        hypotheses=checks,
        measure=measure,
        control=Control.replacing("the targets exchanged", measure=lambda lab: measure(lab, -1.0)),
        broken=Control.replacing(
            "both neurons start opposite to their targets",
            hypotheses=[check(one) for one in opposed for check in (opposite_outer, may_turn)],
        ),
    )


# -- w2 = -w1 -----------------------------------------------------------------------------------


def symmetric_time_change(ones: Sequence[Pair], name: str = "symmetric-time-change") -> Equality:
    """Norms and gains of the log-angle against the linear flow at the derived times.

    Leaky angles are compared down to :math:`2e^{-12}`: rounding seeds the slow mode, which a
    symmetric pair does not have and which outlives the fast one.
    """
    times = np.geomspace(1.0, 1e12, 128)

    def clock(one: Pair) -> float:
        law: Any = derive("two-neuron", regime="symmetric").equations["time_change"].rhs
        values = {"alpha": one.slope, "t": 1.0}
        return float(law.subs({s: values[str(s)] for s in law.free_symbols}))

    def linear(lab: Lab, one: Pair, rtol: float, pace: float) -> np.ndarray:
        gain = 1 + one.slope
        start = Instance(one.law, tuple(gain * x for x in one.inner[0]), one.teacher)
        path = linear_path(lab, start, times=pace * times, rtol=rtol)
        seen = visible(lab, one)
        return np.concatenate([path.radius / gain, start.log_tan - path.log_tan[seen]])

    def visible(lab: Lab, one: Pair) -> np.ndarray:
        angle = pair_path(lab, one, times=times).exact["log_tan_half_angle"][:, 0]
        return (angle > -12) | (one.slope in (0, 1))

    def read(path: Trajectory, one: Pair, seen: np.ndarray) -> np.ndarray:
        first = Instance(one.law, one.inner[0], one.teacher).log_tan
        angle = path.exact["log_tan_half_angle"][seen, 0]
        return np.concatenate([path.exact["neuron_norms"][:, 0], first - angle])

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in ones:
            seen = visible(lab, one)
            fine, noise = fine_and_coarse(
                lab, one, lambda p, o=one, s=seen: read(p, o, s), times=times
            )
            spread = linear(lab, one, FINE, clock(one)) - linear(lab, one, COARSE, clock(one))
            value.append(fine)
            # the gain of the log-angle subtracts its start
            error.append(noise + np.abs(spread) + 8 * _EPS)
            labels += [f"{one}, R, t={t:.3g}" for t in times]
            labels += [f"{one}, angle, t={t:.3g}" for t in times[seen]]
        return Measurement(np.concatenate(value), np.concatenate(error), labels)

    return Equality(
        id=f"{SOURCE}/{name}",
        title="a symmetric pair is the linear flow in another time",
        statement="w2 = -w1: (1+α) w1(t) = u((1+α)²t/2), u the linear flow; ReLU: half speed",
        provenance="derived",
        hypotheses=[c(one) for one in ones for c in (unit_outer, may_turn, symmetric_pair)],
        predict=lambda lab: np.concatenate([linear(lab, o, FINE, clock(o)) for o in ones]),
        measure=measure,
        tolerance=1e-10,
        control=Control.replacing(
            "the linear flow in its own time",
            predict=lambda lab: np.concatenate([linear(lab, o, FINE, 1.0) for o in ones]),
        ),
    )


# -- α = 1 --------------------------------------------------------------------------------------


def sum_conserved(ones: Sequence[Pair], name: str = "linear-neurons-sum") -> Equality:
    """α=1: f depends on w₁ - w₂ alone, so w₁ + w₂ stays where it is."""
    times = np.geomspace(1.0, 1e6, 8)

    def totals(path: Trajectory, sign: float = 1.0) -> np.ndarray:
        inner = np.asarray(path.params.inner)
        return (inner[:, 0] + sign * inner[:, 1]).ravel()

    def measure(lab: Lab, sign: float = 1.0) -> Measurement:
        found = [fine_and_coarse(lab, one, lambda p: totals(p, sign), times=times) for one in ones]
        labels = [
            f"{one}, entry {i}, t={t:.3g}"
            for one in ones
            for t in times
            for i in range(one.law.dim)
        ]
        value, error = (np.concatenate(part) for part in zip(*found, strict=True))
        return Measurement(value, error, labels)

    return Equality(
        id=f"{SOURCE}/{name}",
        title="linear neurons conserve their sum",
        statement="α = 1, a = (1, -1): w1(t) + w2(t) = w1(0) + w2(0)",
        provenance="derived",
        hypotheses=generic(ones, "linear"),
        predict=lambda lab: np.concatenate([np.tile(o.w.sum(axis=0), times.size) for o in ones]),
        measure=measure,
        tolerance=1e-10,
        control=Control.replacing("the difference w1 - w2", measure=lambda lab: measure(lab, -1.0)),
    )
