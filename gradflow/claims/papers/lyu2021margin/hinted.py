r"""Claims on hinted data (`lyu2021margin`): the switch of early alignment, and what it costs.

The derivations are in `hint`. If all neurons with :math:`a_k>0` come
to w* there is one group left, and where all data are active the net is
:math:`f=\sum a_kw_k\cdot x`, at unit norm at most :math:`\tfrac12w^*\cdot x`: the margin is
:math:`\tfrac12\gamma^*=\tfrac12\epsilon`. The best net has two groups. With the dual
:math:`p=(0,\tfrac12,\tfrac12)` the largest force of a cell is
:math:`s=\tfrac12\sqrt{(1+\alpha)^2\epsilon^2+(1-\alpha)^2K^2}`, and the margin ½s is attained by
two neurons along the forces of the cells in which :math:`x_3` or :math:`x_2` is not active.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np

import gradflow as gf
from gradflow.claims import (
    Claim,
    Control,
    Equality,
    Hypothesis,
    Lab,
    Measurement,
    Outcome,
    Qualitative,
)
from gradflow.claims.instances import Several, every, several
from gradflow.claims.papers.lyu2021margin import PAPER
from gradflow.claims.papers.lyu2021margin.hint import Hint, align, hint, leaky_hints, read_hint
from gradflow.claims.papers.lyu2021margin.setting import (
    ALIGNED,
    COARSE,
    FINE,
    SOURCE,
    Instance,
    instance,
    leaky,
    limit,
    path,
    trained,
    unique,
)

#: Points of a map this near to the switch, relative in K, are not judged.
_NEAR = 1e-6
#: Part of the norm that neurons beyond either surface must have; found in ensembles, not proved.
TWO_SIDED = 0.1
#: How many times γ*/2 the optimum must be, likewise.
GAINFUL = 1.5


def _ratio(one: Hint, angles: np.ndarray) -> float:
    """Largest angle to w*, over that of the surface on which x_3 is switched off."""
    return float(np.max(angles)) / float(np.arctan2(one.eps, one.K))


# -- the switch ---------------------------------------------------------------------------------


def switch_map(hints: Several[Hint], *, id: str = f"{SOURCE}/hinted-switch-map") -> Qualitative:
    """All positive neurons come to w* exactly where the inequality holds, at every grid point.

    Eight neurons in all directions. A margin is by how much the largest angle, in units of the
    angle at which :math:`x_3` is switched off, lies below ½ or above; its error is the distance to
    the angle by exact geometry.
    """
    points = several("hints", hints, Hint)
    judged = [one for one in points if abs(one.K / one.critical - 1) > _NEAR]

    def measure(lab: Lab, side: float = 1.0) -> list[Outcome]:
        found = []
        for one in judged:
            by_flow = _ratio(one, one.flow_angles(lab))
            error = abs(by_flow - _ratio(one, one.exact_angles())) + 1e-12
            sign = side * (1.0 if one.aligns else -1.0)
            what = "all come to w*" if sign > 0 else "some do not come to w*"
            found.append(Outcome(f"{what}, {one}", sign * (0.5 - by_flow), error))
        return found

    away = Hypothesis("some points are away from the switch", lambda lab: bool(judged))
    return Qualitative(
        **PAPER.words("hinted-switch-map", id),
        hypotheses=[leaky_hints(points), away],
        measure=measure,
        control=Control.replacing(
            "the inequality reversed", measure=lambda lab: measure(lab, -1.0)
        ),
        broken=Control.replacing(
            "ReLU neurons, of which some never move",
            hypotheses=[leaky_hints([hint(one.H, one.K, one.eps, slope=0.0) for one in points])],
        ),
    )


def switch_location(
    hints: Several[Hint], *, width: float = 4e-6, id: str = f"{SOURCE}/hinted-switch-location"
) -> Equality:
    """The K at which flows begin to go elsewhere than to w*, by bisection over flows.

    Parameters
    ----------
    hints : Hint or sequence of Hint
        Their K does not matter.
    width : float
        Relative width at which the bisection stops.
    """
    points = several("hints", hints, Hint)

    def splits(lab: Lab, one: Hint, K: float, exact: bool) -> bool:
        at = Hint(one.H, K, one.eps, one.slope)
        return _ratio(at, at.exact_angles() if exact else at.flow_angles(lab)) > 0.5

    def bisect(lab: Lab, one: Hint, exact: bool) -> float:
        low, high = one.eps, 2 * one.H
        if splits(lab, one, low, exact):
            raise RuntimeError(f"no alignment at K = ε, {one}")
        while not splits(lab, one, high, exact):
            low, high = high, 2 * high
            if high > 1e6 * one.H:
                raise RuntimeError(f"no switch up to K = {low:g}, {one}")
        while high / low - 1 > width:
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if splits(lab, one, middle, exact) else (middle, high)
        return float(np.sqrt(low * high))

    def measure(lab: Lab) -> Measurement:
        flow, exact = (np.array([bisect(lab, one, how) for one in points]) for how in (False, True))
        labels = [f"H={one.H:g} ε={one.eps:g} α={one.slope:g}" for one in points]
        return Measurement.from_solves(exact, flow, extra=width * flow, labels=labels)

    def predict(lab: Lab) -> np.ndarray:
        return np.array([one.critical for one in points])

    return Equality(
        **PAPER.words("hinted-switch-location", id),
        hypotheses=[leaky_hints(points)],
        predict=predict,
        measure=measure,
        tolerance=1e-4,
        control=Control.replacing(
            "√(ε (H + 2ε)/(1-α)), the force where all data are active",
            predict=lambda lab: np.array(
                [np.sqrt(o.eps * (o.H + 2 * o.eps) / (1 - o.slope)) for o in points]
            ),
        ),
    )


def split_directions(hints: Several[Hint], *, id: str = f"{SOURCE}/hinted-split-angle") -> Equality:
    """Beyond the switch the other attracting directions are at arctan((1−α)K/(H+(1+α)ε))."""
    points = several("hints", hints, Hint)

    def measure(lab: Lab) -> Measurement:
        loose, fine = (
            np.array([np.max(one.flow_angles(lab, rtol)) for one in points])
            for rtol in (1e-6, 1e-7)
        )
        exact = np.array([np.max(one.exact_angles()) for one in points])
        labels = [str(one) for one in points]
        return Measurement.from_solves(loose, fine, extra=np.abs(fine - exact), labels=labels)

    def predict(lab: Lab) -> np.ndarray:
        return np.array([one.split_angle for one in points])

    return Equality(
        **PAPER.words("hinted-split-angle", id),
        hypotheses=[leaky_hints(points), align(points, False)],
        predict=predict,
        measure=measure,
        tolerance=1e-3,
        control=Control.replacing(
            "the datum's own direction, arctan(K/ε)",
            predict=lambda lab: np.array([np.arctan2(one.K, one.eps) for one in points]),
        ),
    )


# -- the limits ---------------------------------------------------------------------------------


def _hints_of(ones: Sequence[Instance]) -> list[Hint]:
    found = [read_hint(one) for one in ones]
    return [one for one in found if one is not None]


def _is_hinted(ones: Sequence[Instance]) -> Hypothesis:
    name = "data +1: H w*, ε w* + K w⊥, ε w* - K w⊥"
    return every(name, ones, lambda one: "other data" if read_hint(one) is None else "")


def _inequality(ones: Sequence[Instance]) -> Hypothesis:
    return align(_hints_of(ones))


def _when_felt(
    lab: Lab, one: Instance, hinted_by: Hint, times: float = 1.0
) -> tuple[np.ndarray, np.ndarray] | None:
    """(w_k, a_k) over |θ| when that is ``times`` the size at which f begins to be felt.

    None if no neuron with a_k > 0 grows.
    """
    end = np.log(100 * max(one.felt / one.scale, 1.0)) / ((hinted_by.H + 2 * hinted_by.eps) / 6)
    run = path(lab, one, end)
    w, a = np.asarray(run.params.inner), np.asarray(run.params.outer)
    size = np.sqrt(np.sum(w**2, axis=(1, 2)) + np.sum(a**2, axis=1))
    felt = size >= times * one.felt
    at = int(np.argmax(felt))
    return (w[at] / size[at], a[at] / size[at]) if felt.any() else None


def _share(w: np.ndarray, a: np.ndarray, chosen: np.ndarray) -> float:
    """The chosen neurons' part of the norm."""
    return float(np.sqrt(np.sum(w[chosen] ** 2) + np.sum(a[chosen] ** 2)))


def _aligned_early(ones: Sequence[Instance]) -> Hypothesis:
    """σ is so small that when f begins to be felt one group is there, and it is along w*."""

    def why(lab: Lab, one: Instance) -> str:
        hinted_by = read_hint(one)
        if hinted_by is None:  # another hypothesis says so
            return ""
        state = _when_felt(lab, one, hinted_by)
        if state is None:
            return "no neuron with a_k > 0 grows"
        w, a = state
        star, up = one.X[0] / hinted_by.H, a > 0
        gap = np.linalg.norm(w / np.linalg.norm(w, axis=1)[:, None] - star, axis=1)
        if _share(w, a, ~up) > ALIGNED:
            return f"neurons with a_k <= 0 have {_share(w, a, ~up):.2g} of the norm"
        off = float(np.max(gap[up]))
        return f"a neuron is {off:.2g} off w*; pass a smaller scale" if off > ALIGNED else ""

    return every(
        f"small start: one group, within {ALIGNED:g} of w* when f is felt", ones, measured=why
    )


def _two_sided(ones: Sequence[Instance]) -> Hypothesis:
    """When f is felt neurons stand beyond the surface of x_2 and beyond that of x_3.

    At |θ|² max|x_i| = ¼: a little later than where a small start must be aligned.
    """

    def why(lab: Lab, one: Instance) -> str:
        hinted_by = read_hint(one)
        if hinted_by is None:
            return ""
        state = _when_felt(lab, one, hinted_by, 5.0)
        if state is None:
            return "no neuron with a_k > 0 grows"
        w, a = state
        least = min(_share(w, a, (a > 0) & (w @ one.X[i] < 0)) for i in (1, 2))
        return f"on one side they have {least:.2g} of the norm" if least < TWO_SIDED else ""

    name = f"a larger start: beyond both surfaces neurons of {TWO_SIDED:g} of |θ| when f is felt"
    return every(name, ones, measured=why)


def _gainful(ones: Sequence[Instance]) -> Hypothesis:
    """Two groups are clearly better than one; where they hardly are, one may remain."""
    gains = [(found.gain, found.hint_is_slack) for found in _hints_of(ones)]
    holds = all(gain >= GAINFUL and slack for gain, slack in gains)
    name = f"the hint is no support datum, and the optimum at least {GAINFUL:g} γ*/2"
    return Hypothesis(name, lambda lab: (holds, f"it is {min(gains)[0]:.3g} γ*/2" if gains else ""))


def one_neuron_limit(some: Several[Instance], *, id: str = f"{SOURCE}/hinted-limit") -> Equality:
    """From a small start, where the inequality holds: one effective neuron, margin γ*/2."""
    ones = several("instances", some, Instance)
    names = ["margin", "Σ a w.w*"]

    def measure(lab: Lab) -> Measurement:
        def read(rtol: float) -> np.ndarray:
            parts = []
            for one in ones:
                found = limit(lab, one, rtol)
                a, w = np.asarray(found.params.outer), np.asarray(found.params.inner)
                parts += [found.normalised_margin, float(a @ w @ one.svm.direction)]
            return np.array(parts)

        extra = np.repeat([limit(lab, one).kkt_residual for one in ones], 2)
        labels = [f"{name}, {one}" for one in ones for name in names]
        return Measurement.from_solves(read(COARSE), read(FINE), extra=extra, labels=labels)

    def predict(lab: Lab) -> np.ndarray:
        return np.ravel([[one.svm.margin / 2, 0.5] for one in ones])

    def best(lab: Lab) -> np.ndarray:
        # (where one group is as good as two, γ* itself: the ½ of two layers forgotten)
        best = [o.optimum if o.gain > 1.01 else o.eps for o in _hints_of(ones)]
        return np.ravel([[value, 0.5] for value in best])

    return Equality(
        **PAPER.words("hinted-limit", id),
        hypotheses=[
            trained(ones), leaky(ones), _is_hinted(ones), _inequality(ones), _aligned_early(ones),
            unique(ones),
        ],
        predict=predict,
        measure=measure,
        tolerance=1e-8,
        control=Control.replacing(
            "the optimum over nets of any width, or γ* where that is γ*/2 too", predict=best
        ),
    )  # fmt: skip


def hinted_optimum(hints: Several[Hint], *, id: str = f"{SOURCE}/hinted-optimum") -> Equality:
    """The best margin of nets of any width: closed form against the linear program."""
    points = several("hints", hints, Hint)

    def measure(lab: Lab) -> Measurement:
        found = [gf.certificates.global_max_margin(one.start(np.ones((2, 2)), np.ones(2), 1.0).risk)
                 for one in points]  # fmt: skip
        values = [bound for best in found for bound in (best.lower, best.upper)]
        gaps = [abs(best.upper - best.lower) for best in found for _ in range(2)]
        labels = [f"{side}, {one}" for one in points for side in ("attained", "dual")]
        return Measurement(values, np.array(gaps) + 1e-14 * np.abs(values), labels)

    return Equality(
        **PAPER.words("hinted-optimum", id),
        hypotheses=[
            every(
                "the hint is no support datum of the best net",
                points,
                lambda one: "" if one.hint_is_slack else "it is one",
            )
        ],
        predict=lambda lab: np.repeat([one.optimum for one in points], 2),
        measure=measure,
        tolerance=1e-7,
        control=Control.replacing(
            "each neuron along its datum, the other one's slope forgotten: ¼ √(ε² + K²)",
            predict=lambda lab: np.repeat([np.hypot(one.eps, one.K) / 4 for one in points], 2),
        ),
    )


def larger_starts(
    some: Several[Instance],
    *,
    share: float = 0.99,
    smaller: float = 1e-7,
    id: str = f"{SOURCE}/hinted-larger",
) -> Qualitative:
    """From larger starts the limit's margin is near the optimum of nets of any width.

    That of most of the draws: neurons on both sides were enough for 200 of 204 random draws on
    random data, which is no theorem.

    Parameters
    ----------
    some : Instance or sequence of Instance
    share : float
        Of the optimum, that the certified limit must exceed.
    smaller : float
        The scale of the controls, the same draws made small.
    """
    ones = several("instances", some, Instance)

    def measure(lab: Lab, starts: Sequence[Instance] = ones) -> list[Outcome]:
        shares, errors = [], []
        for at in starts:
            best = gf.certificates.global_max_margin(at.risk)
            coarse, fine = (limit(lab, at, rtol).normalised_margin for rtol in (COARSE, FINE))
            shares.append(fine / best.upper)
            errors.append((abs(fine - coarse) + best.upper - best.lower) / best.upper + 1e-14)
        name = f"the median margin of {len(shares)} draws is above {share:g} of the optimum"
        return [Outcome(name, float(np.median(shares)) - share, max(errors))]

    small = [one.but(scale=smaller) for one in ones]
    setting = [trained(ones), leaky(ones), _is_hinted(ones), _inequality(ones), _gainful(ones)]
    return Qualitative(
        **PAPER.words("hinted-larger", id, share=share),
        hypotheses=[*setting, _two_sided(ones), unique(ones)],
        measure=measure,
        control=Control.replacing(
            "the first draw made small, and that hypothesis dropped",
            measure=lambda lab: measure(lab, small[:1]),
            hypotheses=setting,
        ),
        broken=Control.replacing("the same draws made small", hypotheses=[_two_sided(small)]),
    )


# -- the package's own instances ----------------------------------------------------------------


def _grid() -> list[Hint]:
    return [
        hint(5.0, K, eps, slope=slope)
        for slope, K, eps in product(
            (0.5, 0.2), np.linspace(0.4, 2.0, 6), np.linspace(0.05, 0.5, 5)
        )
    ]


@cache
def small_starts() -> tuple[Instance, ...]:
    """Four draws of eight neurons."""
    return tuple(instance(gf.datasets.hinted(), slope=0.5, width=8, seed=s) for s in range(4))


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "hinted-switch-location": lambda: switch_location(
        [hint(5.0, 1.0, eps, slope=0.5) for eps in (0.1, 0.4)]
    ),
    "hinted-optimum": lambda: hinted_optimum(
        [hint(), hint(3.0, 1.5, 0.3, slope=0.1), hint(5.0, 0.2, 0.1, slope=0.7)]
    ),
    "hinted-switch-map": lambda: switch_map(_grid()),
    "hinted-split-angle": lambda: split_directions([one for one in _grid() if not one.aligns]),
    "hinted-limit": lambda: one_neuron_limit(small_starts()),
    "hinted-larger": lambda: larger_starts([one.but(scale=0.1) for one in small_starts()]),
}
