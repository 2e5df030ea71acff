r"""Claims on the published bounds of `lin2021faster`: balanced linear nets of more than two layers.

What was read is the submission; where a constant in it fails, the claim is the corrected bound, and
the bound as in the submission is its control.
The bounds themselves are in `formulas` of `lin2021directional`. Angles are compared as
:math:`X=-2\ln\tan(\theta/2)` and norms as :math:`\ln\|w_e\|`, which do not saturate. A factor
multiplies the part of a bound that grows with t; the angle bounds are attained as t → 0, so that
their best factor is close to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import gradflow as gf
from gradflow.claims import Bound, Claim, Control, Hypothesis, Lab, Measurement
from gradflow.claims.papers.lin2021directional import formulas as bounds
from gradflow.claims.papers.lin2021directional.setting import (
    Instance,
    balanced,
    instance,
    linear_path,
    logistic_loss,
    not_aligned,
    not_opposed,
    path_and_noise,
    turning_point,
)
from gradflow.claims.papers.lin2021faster import PAPER

SOURCE = "lin2021faster"
_SAMPLES = 128
_CHECKS = (logistic_loss, balanced, not_opposed, not_aligned)


def deeper_than(one: Instance, depth: int) -> Hypothesis:
    """The net has more than ``depth`` layers."""
    return Hypothesis(f"N > {depth}", lambda lab: (one.depth > depth, f"N = {one.depth}"))


def submitted_or_sharp(
    what: str, submitted: Callable[[Lab], np.ndarray], bound: Bound, fails: Callable[[Lab], bool]
) -> Control:
    """The bound as submitted (``what``) where that is stronger, else 5 % beyond the sharpest."""

    def control(lab: Lab, factor: float) -> Any:
        return submitted(lab) if fails(lab) else bound.bound(lab, 1.05 * lab.once(bound.sharp))

    return Control.replacing(
        f"as in the submission: {what} (where that is weaker: 5 % beyond the sharpest factor)",
        bound=control,
    )


def _bound(
    one: Instance,
    *,
    quantity: str,
    times: Callable[[Lab], np.ndarray],
    curve: Callable[[Lab, np.ndarray, float], np.ndarray],
    sharp: Callable[[Lab, np.ndarray, np.ndarray], float],
    sign: float = 1.0,
    **fields: Any,
) -> Bound:
    """A bound on ``sign`` times a quantity; ``sharp`` reads a solve by another integrator."""

    def measure(lab: Lab) -> Measurement:
        at = times(lab)
        path, value, noise = path_and_noise(lab, one, quantity, times=at)
        labels = [f"t={t:.4g}" for t in path.t]
        return Measurement(sign * value, abs(sign) * noise, labels)

    def best(lab: Lab) -> float:
        at = times(lab)
        other = linear_path(lab, one, times=at, integrator="dop853")
        return sharp(lab, at, sign * getattr(other, quantity))

    hypotheses = [
        deeper_than(one, 2),
        *(check(one) for check in _CHECKS),
        *fields.pop("hypotheses", ()),
    ]
    return Bound(
        measure=measure,
        bound=lambda lab, factor: curve(lab, times(lab), factor),
        sharp=best,
        hypotheses=hypotheses,
        **fields,
    )


def early_angle_bound(one: Instance, *, name: str = "angle-bound-early") -> Bound:
    """Lower bound on the angle while the norm shrinks, corrected; the control is as submitted."""

    def times(lab: Lab) -> np.ndarray:
        return turning_point(lab, one).t * np.arange(1, _SAMPLES + 1) / _SAMPLES

    def curve(lab: Lab, t: np.ndarray, factor: float, form: bounds.Form = "corrected"):
        full = bounds.deep_early(t, one.law.c0, one.radius, one.log_tan, one.depth, form)
        return -2 * one.log_tan + factor * (full + 2 * one.log_tan)

    def sharp(lab: Lab, t: np.ndarray, x: np.ndarray) -> float:
        return float(np.min((x + 2 * one.log_tan) / (curve(lab, t, 1.0) + 2 * one.log_tan)))

    def shrinks(lab: Lab) -> tuple[bool, str]:
        return turning_point(lab, one).t > 0, "the norm grows from the start on"

    claim = _bound(
        one,
        quantity="log_tan",
        sign=-2.0,
        times=times,
        curve=curve,
        sharp=sharp,
        **PAPER.words("angle-bound-early-N{N}", f"{SOURCE}/{name}-N{one.depth}", N=one.depth),
        hypotheses=[Hypothesis("T > 0", shrinks)],
        tolerance=1e-12,
        control=None,
    )
    control = submitted_or_sharp(
        "exponent 2c0/π",
        lambda lab: curve(lab, times(lab), 1.0, "submitted"),
        claim,
        lambda lab: one.law.c0 * (one.depth - 2) > 1.01,
    )
    return replace(claim, control=control)


def late_angle_bound(one: Instance, *, name: str = "angle-bound-late", t_end: float = 1e6) -> Bound:
    """Lower bound on the angle from T on, corrected; the control is as submitted."""

    def times(lab: Lab) -> np.ndarray:
        turn = turning_point(lab, one).t
        return turn + np.geomspace(1e-3 * max(turn, 1.0), t_end, _SAMPLES)

    def curve(lab: Lab, t: np.ndarray, factor: float, form: bounds.Form = "corrected"):
        turn = turning_point(lab, one)
        radius = np.exp(turn.log_radius)
        full = bounds.deep_late(t - turn.t, one.law.c0, radius, turn.log_tan, one.depth, form)
        return -2 * turn.log_tan + factor * (full + 2 * turn.log_tan)

    def sharp(lab: Lab, t: np.ndarray, x: np.ndarray) -> float:
        start = 2 * turning_point(lab, one).log_tan
        return float(np.min((x + start) / (curve(lab, t, 1.0) + start)))

    claim = _bound(
        one,
        quantity="log_tan",
        sign=-2.0,
        times=times,
        curve=curve,
        sharp=sharp,
        **PAPER.words("angle-bound-late-N{N}", f"{SOURCE}/{name}-N{one.depth}", N=one.depth),
        tolerance=1e-12,
        control=None,
    )
    control = submitted_or_sharp(
        "rate 2c0‖w(T)‖^(2-2/N)/π",
        lambda lab: curve(lab, times(lab), 1.0, "submitted"),
        claim,
        lambda lab: turning_point(lab, one).log_radius > 0.01,
    )
    return replace(claim, control=control)


def _from_start(t_end: float) -> Callable[[Lab], np.ndarray]:
    return lambda lab: np.geomspace(1e-2, t_end, _SAMPLES)


def upper_angle_bound(
    one: Instance, *, name: str = "angle-bound-upper", t_end: float = 1e6
) -> Bound:
    """Upper bound on the alignment at every time."""

    def curve(lab: Lab, t: np.ndarray, factor: float) -> np.ndarray:
        full = bounds.deep_upper(t, one.law.c0, one.radius, one.log_tan, one.depth)
        return -2 * one.log_tan + factor * (full + 2 * one.log_tan)

    def sharp(lab: Lab, t: np.ndarray, x: np.ndarray) -> float:
        return float(np.max((x + 2 * one.log_tan) / (curve(lab, t, 1.0) + 2 * one.log_tan)))

    return _bound(
        one,
        quantity="log_tan",
        sign=-2.0,
        side="upper",
        times=_from_start(t_end),
        curve=curve,
        sharp=sharp,
        **PAPER.words("angle-bound-upper-N{N}", f"{SOURCE}/{name}-N{one.depth}", N=one.depth),
        tolerance=1e-12,
        control=Control.perturbed(),
    )


def norm_bound(one: Instance, side: str, *, t_end: float = 1e6) -> Bound:
    """Published bounds on ln ‖w_e‖; the factor multiplies the term that grows with t."""
    root, law = 2 / one.depth, one.law

    def upper(lab: Lab, t: np.ndarray, factor: float) -> np.ndarray:
        return bounds.log_norm_upper(factor * t, one.radius, one.depth)

    def lower(lab: Lab, t: np.ndarray, factor: float) -> np.ndarray:
        return bounds.log_norm_lower(factor * t, law.c0, one.radius, one.depth)

    def spent(lab: Lab, t: np.ndarray, log_radius: np.ndarray) -> float:
        if side == "upper":
            return float(np.max((np.exp(root * log_radius) - one.radius**root) / (0.6 * t)))
        gained = np.exp((root - 1) * log_radius) - one.radius ** (root - 1)
        return float(np.max(gained / ((one.depth - 2) * law.c0 * t)))

    return _bound(
        one,
        quantity="log_radius",
        times=_from_start(t_end),
        curve={"upper": upper, "lower": lower}[side],
        sharp=spent,
        side=side,
        tighten="down",
        **PAPER.words(
            f"norm-bound-{side}-N{{N}}", f"{SOURCE}/norm-bound-{side}-N{one.depth}", N=one.depth
        ),
        tolerance=1e-12,
        control=Control.perturbed(),
    )


# -- the instances of the package ---------------------------------------------------------------


def _ahead(depth: int, side: float) -> Instance:
    return instance(gf.UniformSphere(2), [3.0, 4.0 * side], depth=depth)


#: By depth.
_BOTH = {
    3: instance(gf.Gaussian(3), [1.0, 2.0, -2.0], depth=3),
    4: instance(gf.UniformSphere(2), [0.6, -0.8], depth=4),
}
DEFAULTS: dict[str, Callable[[], Claim]] = {
    **{f"angle-bound-early-N{n}": lambda n=n: early_angle_bound(_ahead(n, -1.0)) for n in (4, 6)},
    **{f"angle-bound-late-N{n}": lambda n=n: late_angle_bound(_ahead(n, 1.0)) for n in (4, 6)},
    **{f"angle-bound-upper-N{n}": partial(upper_angle_bound, one) for n, one in _BOTH.items()},
    **{
        f"norm-bound-{side}-N{n}": partial(norm_bound, one, side)
        for n, one in _BOTH.items()
        for side in ("upper", "lower")
    },
}
