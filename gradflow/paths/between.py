"""Paths between recorded times, by the solutions of their stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import root_scalar

from gradflow.paths.path import ROUNDING, AbstractPath, Asked, Recorded, not_kept
from gradflow.paths.stages import Stage, join, read


def solution_at(
    path: AbstractPath, stages: Sequence[Stage], end: float, asked: Asked
) -> AbstractPath:
    """The path at any times up to ln t = ``end``, by the solutions of its stages."""
    log_t = asked.log_t
    # (ln t of the end, by way of the clock, may be off by rounding)
    outside = (log_t > end + ROUNDING * max(abs(end), 1.0)) | (log_t < path.log_t[0])
    if np.any(outside):
        fix = f"pass {asked.name} in [{asked.shown(path.log_t[0])}, {asked.shown(end)}]"
        raise asked.refused(outside, "lies outside the path", fix)
    tau = np.logaddexp(0.0, log_t)
    ends = [float(np.ravel(stage.flow.log1p_t(stage.s[-1:], stage.Y[-1:]))[0]) for stage in stages]
    which = np.minimum(np.searchsorted(ends, tau), len(stages) - 1)
    pieces = []
    for number, stage in enumerate(stages):
        here = which == number
        if not np.any(here):
            continue
        if stage.dense is None:
            raise not_kept(asked, here)
        s = np.array([_clock_at(stage, one) for one in tau[here]])
        pieces.append(read(stage.flow, s, stage.dense(s)))
    rows = join(path.risk, pieces)
    with np.errstate(over="ignore"):
        t = np.exp(log_t)
    return Recorded(
        path.risk, rows["params"], t, log_t, exact=rows["exact"], energy=rows["energy"],
        initial=path.initial,
    )  # fmt: skip


def _clock_at(stage: Stage, tau: float) -> float:
    """The value of the stage's clock at which ln(1+t) = ``tau``."""
    dense, flow = stage.dense, stage.flow
    assert dense is not None
    low, high = float(dense.s_first), float(dense.s_last)
    with np.errstate(over="ignore"):
        s = tau if flow.clock.name == "log" else flow.s_of_t(float(np.expm1(tau)))
    if s is not None:
        return float(np.clip(s, low, high))

    def ahead(at: float) -> float:
        one = np.array([at])
        return float(np.ravel(flow.log1p_t(one, dense(one)))[0]) - tau

    # Brackets from the recorded states; time is a state that only grows.
    known = np.ravel(flow.log1p_t(stage.s, stage.Y))
    above = int(np.clip(np.searchsorted(known, tau), 0, len(known) - 1))
    low, high = (low if above == 0 else float(stage.s[above - 1])), float(stage.s[above])
    if ahead(low) >= 0 or low == high:
        return low
    if ahead(high) <= 0:
        return high
    found = root_scalar(
        ahead, bracket=(low, high), method="brentq", xtol=1e-14 * max(abs(high), 1e-300), rtol=1e-14
    )
    return float(found.root)


__all__ = ["solution_at"]
