r"""Claims on two neurons on spherically symmetric data: the appendix of `lin2021faster`, and more.

:math:`f=a_1\varphi(w_1\cdot x)+a_2\varphi(w_2\cdot x)` with :math:`a_1>0>a_2`,
:math:`\varphi(z)=\max(z,\alpha z)`, logistic loss; :math:`R_i,\theta_i` are a neuron's norm and
angle to its own target :math:`\mathrm{sgn}(a_i)v`.

- published for ReLU, in one sentence: both neurons converge in direction to their targets;
- :math:`w_2=-w_1`: :math:`(1+\alpha)w_1` is the linear flow in the time :math:`(1+\alpha)^2t/2`;
- α=1: :math:`w_1+w_2` is constant;
- :math:`R_1-R_2\propto R^{-2}` for ReLU, :math:`R^{-2q}` for a leaky slope.

All but the first are derived. `relu` and `leaky` state them of their instances, with the rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import gradflow as gf
from gradflow.claims import Control, Equality, Lab, Measurement, Outcome, Qualitative
from gradflow.claims.papers.lin2021directional.setting import COARSE, FINE, Instance, linear_path
from gradflow.claims.papers.lin2021faster import PAPER
from gradflow.claims.papers.lin2021faster.pairs import (
    SOURCE,
    Pair,
    corrections_of,
    fine_and_coarse,
    generic,
    law_of,
    may_turn,
    opposite_outer,
    pair_path,
    pair_rate,
    symmetric_pair,
    unit_outer,
)

_EPS = float(np.finfo(np.float64).eps)


# -- convergence in direction -------------------------------------------------------------------


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
        **PAPER.words(
            "direction-relu" if all(one.slope == 0 for one in ones) else "direction-leaky",
            f"{SOURCE}/{name}",
        ),
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
        law: Any = gf.derive("two-neuron", regime="symmetric").equations["time_change"].rhs
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

    def read(path: gf.Trajectory, one: Pair, seen: np.ndarray) -> np.ndarray:
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
        **PAPER.words("symmetric-time-change", f"{SOURCE}/{name}"),
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

    def totals(path: gf.Trajectory, sign: float = 1.0) -> np.ndarray:
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
        **PAPER.words("linear-neurons-sum", f"{SOURCE}/{name}"),
        hypotheses=generic(ones, "linear"),
        predict=lambda lab: np.concatenate([np.tile(o.w.sum(axis=0), times.size) for o in ones]),
        measure=measure,
        tolerance=1e-10,
        control=Control.replacing("the difference w1 - w2", measure=lambda lab: measure(lab, -1.0)),
    )


# -- difference of the norms --------------------------------------------------------------------


def norm_difference(ones: Sequence[Pair], name: str, what: str) -> Equality:
    """Exponent of R₁ - R₂ along the mean norm: -2 for ReLU, -2q for a leaky slope."""

    def predict(lab: Lab) -> list[float]:
        if what == "ReLU":
            # the law in t over the norm's own exponent
            return [
                pair_rate(one, "decoupled", "norm_difference").exponent
                / pair_rate(one, "decoupled", "norm").exponent
                for one in ones
            ]
        return [pair_rate(one, "leaky", "norm_difference_of_norm").exponent for one in ones]

    def measure(lab: Lab) -> Measurement:
        found = []
        for one in ones:
            mean, _ = fine_and_coarse(lab, one, lambda p: p.exact["cap_mean"])
            gap, noise = fine_and_coarse(lab, one, lambda p: p.exact["cap_difference"])
            powers = _difference_powers(one)
            late = mean > 30
            log_y, relative = np.log(np.abs(gap[late])), noise[late] / np.abs(gap[late])
            found.append(gf.rates.extrapolate(np.log(mean[late]), log_y, powers, noise=relative))
        return law_of([f.exponent for f in found], [*map(str, ones)])

    return Equality(
        **PAPER.words(f"{what.lower()}-norm-difference", f"{SOURCE}/{name}"),
        hypotheses=[*generic(ones, what), *(symmetric_pair(one, False) for one in ones)],
        predict=predict,
        measure=measure,
        tolerance=1e-3,
        control=Control.perturbed(),
    )


def _difference_powers(one: Pair) -> list[tuple[float, int]]:
    if one.slope == 0:
        return [(2.0, 0)]
    return corrections_of(pair_rate(one, "leaky", "norm_difference_of_norm"))
