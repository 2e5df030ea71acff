r"""Claims on uniqueness (`lyu2021margin`): a flow is unique unless it meets a surface that it can
leave both ways, and such surfaces are reported.

On hinted data with :math:`(1-\alpha)K^2>\epsilon(H+(1+\alpha)\epsilon)` the surface of
:math:`\epsilon w^*-Kw_\perp` repels neurons with :math:`a>0` and attracts those with :math:`a<0`;
see `hint`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Lab, Measurement, Outcome, Qualitative
from gradflow.claims.instances import Several, several
from gradflow.claims.papers.lyu2021margin import PAPER
from gradflow.claims.papers.lyu2021margin.hint import DIRECTIONS, Hint, align, hint, leaky_hints
from gradflow.claims.papers.lyu2021margin.setting import SOURCE, path
from gradflow.validation import check_array, check_positive, fail

#: The datum ε w* − K w_⊥.
_DATUM = 2
_SCALE = 1e-8
#: |a(0)|/|w(0)| of the neurons that slide.
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def _branches(run: gf.Trajectory) -> list[tuple[int, float]]:
    """(neuron, time) of every branch on the surface."""
    return [
        (event.neuron, event.t)
        for event in run.events
        if event.kind == "branch" and event.datum == _DATUM and event.neuron is not None
    ]


def branching(
    hints: Several[Hint], *, offset: float = 1e-3, id: str = f"{SOURCE}/branching"
) -> Qualitative:
    """Neuron 0 starts on the surface of ε w* − K w_⊥, with a = |w|; seven others elsewhere.

    Beyond the switch this start must be reported to branch, there and then. On this side of it, and
    from starts that are turned off the surface by ``offset`` (radians, either way), the flow must
    be reported unique; from the turned starts the neuron leaves to the side it is on.
    """
    points = several("hints", hints, Hint)
    offset = check_positive("offset", offset)

    def run(lab: Lab, one: Hint, turn: float) -> gf.Trajectory:
        angle = 2 * np.pi * DIRECTIONS
        w = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        # (off the surface by an angle, on it to the last bit)
        ridge = one.ridge
        w[0] = ridge if turn == 0 else ridge + np.tan(turn) * np.array([-ridge[1], ridge[0]])
        start = one.start(w, np.linalg.norm(w, axis=1), _SCALE)
        return path(lab, start, one.duration(_SCALE))

    def measure(lab: Lab, side: float = 1.0) -> list[Outcome]:
        found = []
        for one in points:
            on = run(lab, one, 0.0)
            at_once = any(k == 0 and t == 0 for k, t in _branches(on))
            if (side < 0) == one.aligns:
                found.append(Outcome.exact(f"branches at once, {one}", at_once))
            else:
                found.append(Outcome.exact(f"unique from the surface, {one}", on.unique))
            for turn in (offset, -offset):
                off = run(lab, one, turn)
                found.append(
                    Outcome.exact(f"unique off the surface by {turn:g}, {one}", off.unique)
                )
                if not one.aligns:
                    w = np.asarray(off.final.inner)[0]
                    # positive beyond the surface, where x_3 is not active
                    out = one.K * w[1] - one.eps * w[0]
                    name = f"leaves to its side from {turn:g}, {one}"
                    found.append(
                        Outcome(name, float(np.sign(turn) * out / np.linalg.norm(w)), 1e-9)
                    )
        return found

    return Qualitative(
        **PAPER.words("branching", id),
        hypotheses=[leaky_hints(points)],
        measure=measure,
        control=Control.replacing(
            "the inequality reversed", measure=lambda lab: measure(lab, -1.0)
        ),
        broken=Control.replacing(
            "ReLU neurons",
            hypotheses=[leaky_hints([hint(one.H, one.K, one.eps, slope=0.0) for one in points])],
        ),
    )


def branch_time(
    hints: Several[Hint], *, ratios: ArrayLike = RATIOS, id: str = f"{SOURCE}/branch-time"
) -> Equality:
    """Neurons with a < 0 slide on the surface until a = 0, where it begins to repel: a branch.

    Parameters
    ----------
    hints : Hint or sequence of Hint
    ratios : array (8,)
        −a(0)/|w(0)| of each neuron, in (0, 1).
    """
    points = several("hints", hints, Hint)
    shares = check_array("ratios", ratios, (len(RATIOS),))
    if not np.all((shares > 0) & (shares < 1)):
        raise fail("ratios", shares, "are not all in (0, 1)", "pass -a/|w| of each neuron")

    def times(lab: Lab, rtol: float) -> np.ndarray:
        found = []
        for one in points:
            start = one.start(np.tile(one.ridge, (shares.size, 1)), -shares, _SCALE)
            last = float(np.max(np.arctanh(shares))) / one.slide_rate
            branch = dict(_branches(path(lab, start, 1.5 * last, rtol)))
            missing = [k for k in range(shares.size) if k not in branch]
            if missing:
                raise RuntimeError(f"no branch of neuron {missing[0]} is reported, {one}")
            found += [branch[k] for k in range(shares.size)]
        return np.array(found)

    def measure(lab: Lab) -> Measurement:
        labels = [f"-a/|w| = {share:g}, {one}" for one in points for share in shares]
        return Measurement.from_solves(times(lab, 1e-8), times(lab, 1e-10), labels=labels)

    def predict(lab: Lab) -> np.ndarray:
        return np.concatenate([np.arctanh(shares) / one.slide_rate for one in points])

    return Equality(
        **PAPER.words("branch-time", id),
        hypotheses=[leaky_hints(points), align(points, False)],
        predict=predict,
        measure=measure,
        tolerance=1e-6,
        control=Control.replacing(
            "artanh replaced by its argument",
            predict=lambda lab: np.concatenate([shares / one.slide_rate for one in points]),
        ),
    )


#: On either side of the switch.
POINTS = (hint(5.0, 0.9, 0.1), hint(5.0, 1.2, 0.1), hint(3.0, 2.0, 0.4), hint(3.0, 0.8, 0.4))

DEFAULTS: dict[str, Callable[[], Claim]] = {
    "branching": lambda: branching(POINTS),
    "branch-time": lambda: branch_time([one for one in POINTS if not one.aligns]),
}
