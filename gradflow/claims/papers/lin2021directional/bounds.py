r"""Published bounds on the flow of the linear predictor: its angle and its norm.

T is the first time at which :math:`-w\cdot\nabla L=R[h(R)-\tfrac{c_0}\pi(1-\cos\theta)]` crosses
zero upward; T = 0 if the norm grows from the start. The bounds are in
`formulas`, in the coordinate :math:`X=-2\ln\tan(\theta/2)`, in which
:math:`\cos\theta=1-2/(e^X+1)` does not saturate. Since exactly :math:`X'=2c_0/(\pi R)`, both angle
bounds are statements on R: :math:`R\le\|w(0)\|` up to T, and
:math:`R^2\le\|w(T)\|^2+0.6(t-T)` after it. Source: `lin2021directional`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import gradflow as gf
from gradflow.claims import Bound, Claim, Control, Hypothesis, Lab, Measurement
from gradflow.claims.papers.lin2021directional import PAPER
from gradflow.claims.papers.lin2021directional import formulas as published
from gradflow.claims.papers.lin2021directional.rates import (
    ALL,
    CIRCLE,
    GAUSSIAN,
    SOURCE,
    SPHERE,
    Instances,
    hypotheses,
    several,
)
from gradflow.claims.papers.lin2021directional.setting import (
    COARSE,
    FINE,
    Instance,
    Path,
    horizon,
    instance,
    linear_path,
    turning_point,
)

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class _Stretch:
    """A piece of a path: times since its beginning, X there, and R, ln tan(θ/2) where it begins.

    ``last`` is R at its end.
    """

    t: np.ndarray
    x: np.ndarray
    radius: float
    log_tan: float
    last: float


def _early(lab: Lab, one: Instance, rtol: float) -> _Stretch:
    times = turning_point(lab, one).t * np.geomspace(1e-3, 1, 64)
    path = linear_path(lab, one, times=times, rtol=rtol)
    return _Stretch(times, -2 * path.log_tan, one.radius, one.log_tan, float(path.radius[-1]))


def after_turn(lab: Lab, one: Instance) -> Instance:
    """The instance that starts at w(T): the flow has no memory; v becomes the last axis."""
    turn = turning_point(lab, one)
    if turn.t == 0:
        return one
    start = np.zeros(one.law.dim)
    radius = np.exp(turn.log_radius)
    start[0], start[-1] = radius / np.cosh(turn.log_tan), -radius * np.tanh(turn.log_tan)
    return instance(one.law, start)


def _late(lab: Lab, one: Instance, rtol: float) -> _Stretch:
    late = after_turn(lab, one)
    c0 = late.law.c0
    # from a small part of the time scales on which R and the bound first change
    first = 1e-2 * min(late.radius / c0, late.radius**2 / 0.6)
    since = np.geomspace(first, 1e8 * max(1 / c0**2, late.radius / c0), 64)
    path = linear_path(lab, late, times=since, rtol=rtol)
    return _Stretch(since, -2 * path.log_tan, late.radius, late.log_tan, float(path.radius[-1]))


Piece = Callable[[Lab, Instance, float], _Stretch]
#: (instance, stretch, factor) -> the bound on X, its growth multiplied by the factor.
Formula = Callable[[Instance, _Stretch, float], np.ndarray]


def _angle_bound(
    some: tuple[Instance, ...], piece: Piece, formula: Formula, control: Formula, because: str,
    *, extra: tuple[Hypothesis, ...] = (), **fields,
) -> Bound:  # fmt: skip
    def bound_of(formula: Formula) -> Callable[[Lab, float], Measurement]:
        def bound(lab: Lab, factor: float) -> Measurement:
            fine, coarse = (
                np.concatenate([formula(one, piece(lab, one, rtol), factor) for one in some])
                for rtol in (FINE, COARSE)
            )
            return Measurement.from_solves(coarse, fine)

        return bound

    def measure(lab: Lab) -> Measurement:
        pieces = [(one, piece(lab, one, FINE)) for one in some]
        coarse = np.concatenate([piece(lab, one, COARSE).x for one in some])
        labels = [f"t={t:.3g}, {one}" for one, part in pieces for t in part.t]
        return Measurement.from_solves(
            coarse, np.concatenate([part.x for _, part in pieces]), labels=labels
        )

    def sharp(lab: Lab) -> float:
        best = np.inf
        for one in some:
            part = piece(lab, one, COARSE)
            rest = formula(one, part, 0.0)
            best = min(best, np.min((part.x - rest) / (formula(one, part, 1.0) - rest)))
        return float(best)

    return Bound(
        measure=measure,
        bound=bound_of(formula),
        sharp=sharp,
        hypotheses=(*hypotheses(some), *extra),
        control=Control.replacing(because, bound=bound_of(control)),
        **fields,
    )


def _shrinking(some: tuple[Instance, ...]) -> Hypothesis:
    def check(lab: Lab) -> tuple[bool, str]:
        grown = [str(one) for one in some if turning_point(lab, one).t == 0]
        return not grown, "T = 0 for " + "; ".join(grown)

    return Hypothesis("the norm shrinks at first", check)


def flow_early(
    some: Instances = (CIRCLE, GAUSSIAN, SPHERE), *, id: str = f"{SOURCE}/flow-bound-before-T"
) -> Bound:
    """cos θ ≥ 1 - 2/(e^{A₁t+B₁}+1) for t ≤ T."""
    some = several(some)

    def stated(one: Instance, part: _Stretch, factor: float) -> np.ndarray:
        return published.flow_early(factor * part.t, one.law.c0, part.radius, part.log_tan)

    def smaller(one: Instance, part: _Stretch, factor: float) -> np.ndarray:
        return published.flow_early(factor * part.t, one.law.c0, part.last, part.log_tan)

    return _angle_bound(
        some, _early, stated, smaller, "‖w(T)‖ in place of ‖w(0)‖ in A1",
        extra=(_shrinking(some),),
        **PAPER.words("flow-bound-before-T", id),
    )  # fmt: skip


def flow_late(some: Instances = ALL, *, id: str = f"{SOURCE}/flow-bound-after-T") -> Bound:
    """cos θ ≥ 1 - 2/(e^{A₂√(t-T+C₂)+B₂}+1) for t > T."""
    some = several(some)

    def with_rate(scale: float) -> Formula:
        def bound(one: Instance, part: _Stretch, factor: float) -> np.ndarray:
            # The value at T stays; only the growth from there is multiplied.
            where = (one.law.c0, part.radius, part.log_tan)
            start = published.flow_late(0.0, *where, scale=scale)
            return start + factor * (published.flow_late(part.t, *where, scale=scale) - start)

        return bound

    return _angle_bound(
        some, _late, with_rate(1.0), with_rate(np.sqrt(np.pi)),
        "π under the root: A2 = 4c0/√(0.6π)",
        **PAPER.words("flow-bound-after-T", id),
    )  # fmt: skip


#: A start along which the norm grows at nearly the fastest rate there is.
FAST = instance(gf.Gaussian(3), [1e-3, 0.0, 1.0])


def norm_upper(some: Instances = (FAST, *ALL), *, id: str = f"{SOURCE}/norm-upper-bound") -> Bound:
    """‖w‖² ≤ ‖w(0)‖² + 0.6 t."""
    some = several(some)
    times = {one: horizon(one) * np.geomspace(1e-14, 1, 64) for one in some}

    def bound(lab: Lab, factor: float) -> np.ndarray:
        parts = [published.log_norm_upper(factor * times[one], one.radius, 1) for one in some]
        return np.concatenate(parts)

    def path(lab: Lab, one: Instance, rtol: float) -> Path:
        return linear_path(lab, one, times=times[one], rtol=rtol)

    def measure(lab: Lab) -> Measurement:
        fine, coarse = (
            np.concatenate([path(lab, one, rtol).log_radius for one in some])
            for rtol in (FINE, COARSE)
        )
        labels = [f"t={t:.3g}, {one}" for one in some for t in times[one]]
        return Measurement.from_solves(coarse, fine, extra=_EPS, labels=labels)

    def sharp(lab: Lab) -> float:
        growth = [
            np.max((path(lab, one, COARSE).radius ** 2 - one.radius**2) / (0.6 * times[one]))
            for one in some
        ]
        return float(max(growth))

    def half(lab: Lab, factor: float) -> np.ndarray:
        return bound(lab, factor * 0.5 * lab.once(sharp))

    return Bound(
        **PAPER.words("norm-upper-bound", id),
        hypotheses=hypotheses(some),
        measure=measure,
        bound=bound,
        sharp=sharp,
        side="upper",
        control=Control.replacing("half the growth that is seen", bound=half),
    )


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "flow-bound-before-T": flow_early,
    "flow-bound-after-T": flow_late,
    "norm-upper-bound": norm_upper,
}
