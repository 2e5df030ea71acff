r"""Pairs of neurons on spherically symmetric data: instances, hypotheses, paths, and their reading.

:math:`f=a_1\varphi(w_1\cdot x)+a_2\varphi(w_2\cdot x)`, :math:`\varphi(z)=\max(z,\alpha z)`, with
logistic loss, in the setting of `lin2021faster`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Hypothesis, Lab, Measurement
from gradflow.claims.instances import row, rows
from gradflow.claims.papers.lin2021directional.setting import COARSE, FINE, unit_teacher
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

    law: gf.SphericalLaw
    inner: tuple[tuple[float, ...], ...]
    teacher: tuple[float, ...]
    slope: float = 0.0
    outer: tuple[float, ...] = (1.0, -1.0)
    trained: bool = False

    @property
    def risk(self) -> gf.PopulationRisk:
        """The population risk, logistic loss."""
        outer = "trained" if self.trained else "fixed"
        net = gf.TwoLayer(self.law.dim, 2, gf.LeakyReLU(self.slope), outer=outer)
        return gf.PopulationRisk(
            net, gf.logistic, self.law, gf.LinearTeacher(np.array(self.teacher))
        )

    @property
    def w(self) -> np.ndarray:
        """The neurons at time 0, shape (2, d)."""
        return np.array(self.inner)

    def but(self, **changes: object) -> Pair:
        """A copy with fields replaced."""
        return replace(self, **changes)

    def __str__(self) -> str:
        return f"{self.law.name} d={self.law.dim}, α={self.slope:g}"


def pair(
    law: gf.SphericalLaw,
    inner: ArrayLike,
    teacher: ArrayLike | None = None,
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
    v = unit_teacher(law, teacher)
    slope = check_real("slope", slope)
    if not 0 <= slope <= 1:
        raise fail("slope", slope, "is not in [0, 1]", "pass 0 for ReLU, 1 for linear neurons")
    if isinstance(outer, str):
        check_choice("outer", outer, ("balanced",))
        outer, trained = np.linalg.norm(w, axis=1) * np.array([1.0, -1.0]), True
    a = check_array("outer", np.asarray(outer, dtype=np.float64), (2,))
    return Pair(law, rows(w), row(v), float(slope), row(a), trained)


def random_pairs(law: gf.SphericalLaw, count: int, seed: int, **options: Any) -> list[Pair]:
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
) -> gf.Trajectory:
    """The flow of a pair, integrated once for all claims that ask for it.

    Default times: 128 of them, log-spaced from 1 to ``t_end``.
    """
    times = np.geomspace(1.0, t_end, 128) if times is None else times

    def build() -> gf.Trajectory:
        return gf.integrate(
            one.risk,
            {"inner": one.w, "outer": np.array(one.outer)},
            until=gf.until.time(float(times[-1])),
            rtol=rtol,
            save_at=times,
            throw=True,
        )

    return lab.get(("pair path", one, times.tobytes(), rtol), build)


def fine_and_coarse(
    lab: Lab,
    one: Pair,
    read: Callable[[gf.Trajectory], np.ndarray],
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
    rate = gf.derive("two-neuron", regime=regime, outer=outer).rates[name]
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
    stuck = not any(gf.perpendicular(w, v).any() for w in omega) and bool((omega @ v).min() < 0)
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


# -- reading a path ----------------------------------------------------------------------------


def corrections_of(rate: Any) -> list[tuple[float, int]]:
    """The derived correction powers, as `gradflow.rates` takes them."""
    return [(-power, log_power) for power, log_power in rate.corrections]


def law_of(estimates: Sequence[gf.rates.Estimate], labels: Sequence[str]) -> Measurement:
    """Estimates as one measurement."""
    return Measurement([e.value for e in estimates], [e.error for e in estimates], labels)


def decay(x, log_y, noise, part: str, corrections=((1.0, 0),)) -> gf.rates.Estimate:
    """A or B of ln y = -A x + B ln s + ..., x = s², each read off without knowing the other."""
    # R (or S) carries a relative error too, which A x multiplies.
    law = gf.rates.exponential_rate(x, log_y, corrections, noise=noise + 4 * _EPS * np.abs(log_y))
    if part == "rate":
        return law.rate
    return gf.rates.Estimate(2 * law.power.value, 2 * law.power.error)
