r"""Claims on two neurons and spherically symmetric data (the appendix of `lin2021faster`, and beyond).

:math:`f=a_1\varphi(w_1\cdot x)+a_2\varphi(w_2\cdot x)`, :math:`a_1>0>a_2`, :math:`\varphi(z)=\max(z,\alpha z)`, logistic
loss; :math:`R_i,\theta_i` are the norm of a neuron and the angle to its own target :math:`\mathrm{sgn}(a_i)v`. With
:math:`\kappa=\pi^2p_0/6`, :math:`\kappa_2=\kappa/2`, :math:`A=3c_0/(\pi^3p_0)`:

- published: both neurons converge in direction to their targets;
- :math:`w_2=-w_1`: :math:`(1+\alpha)w_1` follows the linear flow in the time :math:`(1+\alpha)^2t/2`;
- ReLU, late: :math:`R^3/3-k_2R-\dots=\kappa_2(t+\tau_i)`, :math:`\theta_i\sim CR^Be^{-AR^2}`, :math:`R_1-R_2\sim\kappa_2(\tau_1-\tau_2)/R^2`;
- ReLU, trained balanced outputs: :math:`\ln\tan(\theta_i/2)` has slope :math:`-c_0/2\pi`, :math:`|a_i|R_i\sim(2\kappa t)^{1/2}`;
- α=1: :math:`w_1+w_2` is constant;
- :math:`L=E\ln2\cosh(f/2)-\tfrac{(1+\alpha)c_0}{2\pi}v\cdot(w_1-w_2)`: the teacher enters linearly.

All but the first are derived; predictions come from ``gradflow.derive("two-neuron", ...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradflow import rates
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
    """A checked `Pair`; ``outer="balanced"`` means trained weights ±|w_i|, the teacher is the last axis by default."""
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


def pair_path(
    lab: Lab,
    one: Pair,
    *,
    t_end: float = 1e12,
    times: np.ndarray | None = None,
    rtol: float = FINE,
) -> Trajectory:
    """The flow of a pair, integrated once for all claims that ask; 128 log-spaced times by default."""
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
    lab: Lab, one: Pair, read: Callable[[Trajectory], np.ndarray], **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A quantity of the fine path and its absolute error: the distance to the coarse path, and rounding."""
    fine = read(pair_path(lab, one, rtol=FINE, **options))
    coarse = read(pair_path(lab, one, rtol=COARSE, **options))
    return fine, np.abs(fine - coarse) + 4 * _EPS * np.abs(fine)


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


def _generic(ones: Sequence[Pair], what: str) -> list[Hypothesis]:
    checks = (unit_outer, may_turn, lambda one: slope_is(one, what))
    return [check(one) for one in ones for check in checks]


# -- published: convergence in direction --------------------------------------------------------


def directional_convergence(
    ones: Sequence[Pair], name: str, *, t_end: float = 1e6, angle: float = 1e-6
) -> Qualitative:
    """Every neuron of every pair comes within ``angle`` of its target, and is still closing in.

    Margins are log-angles: by how much -ln tan(θ_i/2) exceeds its mark at ``t_end``, and by how much
    it has grown since ``t_end``/10.
    """
    times = np.geomspace(t_end / 10, t_end, 2)
    mark = -np.log(np.tan(angle / 2))

    def measure(lab: Lab) -> list[Outcome]:
        outcomes = []
        for start, one in enumerate(ones):
            fine, coarse = (
                -pair_path(lab, one, times=times, rtol=rtol).exact["log_tan_half_angle"]
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
        control=Control.replacing(
            "both neurons start opposite to their targets",
            hypotheses=[check(one) for one in opposed for check in (opposite_outer, may_turn)],
        ),
    )


# -- w2 = -w1 -----------------------------------------------------------------------------------


def symmetric_time_change(ones: Sequence[Pair], name: str = "symmetric-time-change") -> Equality:
    """Norms and gains of the log-angle against the linear flow at the derived times."""
    times = np.geomspace(1.0, 1e12, 128)

    def clock(one: Pair) -> float:
        law = derive("two-neuron", regime="symmetric").equations["time_change"].rhs
        values = {"alpha": one.slope, "t": 1.0}
        return float(law.subs({s: values[str(s)] for s in law.free_symbols}))

    def linear(lab: Lab, one: Pair, rtol: float, pace: float) -> np.ndarray:
        gain = 1 + one.slope
        start = Instance(one.law, tuple(gain * x for x in one.inner[0]), one.teacher)
        path = linear_path(lab, start, times=pace * times, rtol=rtol)
        return np.concatenate([path.radius / gain, start.log_tan - path.log_tan])

    def read(path: Trajectory, one: Pair) -> np.ndarray:
        first = Instance(one.law, one.inner[0], one.teacher).log_tan
        exact = path.exact
        return np.concatenate(
            [exact["neuron_norms"][:, 0], first - exact["log_tan_half_angle"][:, 0]]
        )

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in ones:
            fine, noise = fine_and_coarse(lab, one, lambda p, o=one: read(p, o), times=times)
            spread = linear(lab, one, FINE, clock(one)) - linear(lab, one, COARSE, clock(one))
            value.append(fine)
            # the gain of the log-angle subtracts its start
            error.append(noise + np.abs(spread) + 8 * _EPS)
            labels += [f"{one}, {what}, t={t:.3g}" for what in ("R", "angle") for t in times]
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


# -- ReLU, generic ------------------------------------------------------------------------------


def corrections_of(rate: Any) -> list[tuple[float, int]]:
    """The derived correction powers, as `gradflow.rates` takes them."""
    return [(-power, log_power) for power, log_power in rate.corrections]


def law_of(estimates: Sequence[rates.Estimate], labels: Sequence[str]) -> Measurement:
    """Estimates as one measurement."""
    return Measurement([e.value for e in estimates], [e.error for e in estimates], labels)


def relu_norms(ones: Sequence[Pair], part: str, *, tolerance: float, t_end: float = 1e12) -> Equality:
    """Exponent, leading constant or second-order coefficient of R_i as t → ∞, both neurons."""

    def law(one: Pair) -> Any:
        return derive("two-neuron", regime="decoupled").rates["norm"].evaluate(one.law)

    def predict(lab: Lab) -> np.ndarray:
        if part == "second-order":
            return np.repeat([law(one).coefficients[0] for one in ones], 2)
        return np.repeat([getattr(law(one), part) for one in ones], 2)

    def measure(lab: Lab) -> Measurement:
        found, labels = [], []
        for one in ones:
            norms, noise = fine_and_coarse(
                lab, one, lambda p: p.exact["neuron_norms"], t_end=t_end
            )
            log_t, known = pair_path(lab, one, t_end=t_end).log_t, law(one)
            for i in range(2):
                log_y, relative = np.log(norms[:, i]), noise[:, i] / norms[:, i]
                found.append(_norm_part(part, log_t, log_y, relative, known))
                labels.append(f"{one}, neuron {i + 1}")
        return law_of(found, labels)

    return Equality(
        id=f"{SOURCE}/relu-norm-{part}",
        title=f"decoupled ReLU neurons: {part} of the norm's law",
        statement="ReLU: R_i ~ (π²p0 t/4)^(1/3) (1 + c t^(-2/3) + ...), "
        "from R³/3 - k2 R - (k2²-k4)/R = (π²p0/12)(t + τ_i)",
        provenance="derived",
        hypotheses=_generic(ones, "ReLU"),
        predict=predict,
        measure=measure,
        tolerance=tolerance,
        control=Control.perturbed(),
    )


def _norm_part(part: str, log_t, log_y, noise, known) -> rates.Estimate:
    powers = corrections_of(known)
    if part == "exponent":
        return rates.extrapolate(log_t, log_y, powers, noise=noise).exponent
    constant = rates.constant_with_known_exponent
    if part == "constant":
        return constant(log_t, log_y, known.exponent, powers, noise=noise).constant
    # R/(leading law) - 1 ~ c t^(-2/3): its own corrections are the further ones, less the first.
    rest = np.expm1(log_y - known.exponent * log_t - np.log(known.constant))
    late = (log_t > np.log(1e3)) & (np.abs(rest) > 1e5 * (noise + 4 * _EPS))
    first, sign = powers[0][0], np.sign(rest[late][-1])
    law = constant(
        log_t[late],
        np.log(sign * rest[late]),
        -first,
        [(p - first, k) for p, k in powers[1:]],
        noise=((noise + 4 * _EPS * np.abs(log_y)) / np.abs(rest))[late],
    )
    return rates.Estimate(sign * law.constant.value, law.constant.error)
