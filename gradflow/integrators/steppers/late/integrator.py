r"""The late phase of the gradient flow on separated data: from ρ ~ 10 to any time whatever.

First the full system (:mod:`.full`), implicit and with every event, until
ρ^D ~ 1e9; then its limit (:mod:`.margin`), whose cost does not depend on
ρ. The error of the switch is O(ρ^{−D}) of where it is made: the limit is also run from 10 and 100
times earlier, and the differences at the end must fall accordingly.

ln t and ln ρ are carried, so t = exp(1e10) – or exp(1e30) – is an ordinary number here. Sources:
`lyu2020homogeneous` (the limit directions are KKT points of the max-margin problem),
`filippov1988`.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.integrators.steppers.late.events import Standing
from gradflow.integrators.steppers.late.field import MarginNet
from gradflow.integrators.steppers.late.full import FullPhase, begin
from gradflow.integrators.steppers.late.loop import AbstractPhase
from gradflow.integrators.steppers.late.margin import MarginPhase
from gradflow.integrators.steppers.late.run import Ends, LateRun, Rows, Totals, Units
from gradflow.integrators.watch import Watch

#: ρ^D where the limit takes over; from here and from a tenth of it, it is tried for comparison.
SWITCH = 1e9


def late_phase(
    arrangement: Arrangement,
    W: np.ndarray,
    a: np.ndarray,
    log_t: float,
    *,
    clock: float = 0.0,
    sides: np.ndarray | None = None,
    unseen: np.ndarray | None = None,
    rtol: float = 1e-8,
    log_t_end: float | None = None,
    log_loss_end: float | None = None,
    direction_tol: float | None = None,
    clock_end: float | None = None,
    save_log_t: Sequence[float] | np.ndarray = (),
    max_steps: int = 100_000,
    watch: Watch | None = None,
) -> LateRun:
    """Follow the flow of a margin loss from weights (W, a) at time e^{log_t} on.

    Parameters
    ----------
    arrangement : Arrangement
        Of a risk with the exponential or logistic loss.
    W : (m, D) array
    a : (m,) array
    log_t : float
    clock : float
        The loss clock at the start.
    sides : (m, G) ints, optional
        +1, -1, 0 (sliding); default: the signs of the switching functions.
    unseen : (n,) bools, optional
        Data that no neuron sees, with α = 0. They leave the loss as it is; when a neuron comes to
        see one the result is "seen".
    rtol : float
        Relative per neuron; absolute in ln ρ and in the normalised margins.
    log_t_end, log_loss_end, clock_end : float, optional
        Stop at ln t, (from above) ln L, or the loss clock; the first that is met counts.
    direction_tol : float, optional
        Stop when the direction turns slower than this per unit of ln t.
    save_log_t : array, optional
        Increasing values of ln t, beyond the start's, at which a row is wanted; ``saved`` marks
        these rows.
    max_steps : int
        For each part of the run.
    watch : Watch, optional
        Asked at each step whether to go on.

    Returns
    -------
    LateRun
        Numerical trouble is a result, with its remedy in ``message``; all that was computed is
        kept.
    """
    began = time.perf_counter()
    W, a = np.array(W, float), np.array(a, float)
    units = Units.of(arrangement, a)
    net = MarginNet(arrangement, a, units.inputs, units.outer, unseen)
    W, a, shift = units.factor * W, units.factor * a if net.trained else a, 2 * units.log
    totals = Totals.of(net, log_t + shift, clock * units.clock)
    ends = Ends(
        net, totals, None if log_t_end is None else log_t_end + shift, log_loss_end, direction_tol,
        None if clock_end is None else clock_end * units.clock,
    )  # fmt: skip
    Y, standing = _begin(net, W, a, sides)
    keep = Rows(net, totals)
    full = FullPhase(net, Y, standing, rtol, ends, keep, _counts())
    full.log_start = log_t + shift
    full.save_at = [float(x) + shift for x in np.ravel(save_log_t)]
    if watch is not None:
        full.look = _looks(watch, units)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keep(full, [])
    if np.all(np.isfinite(Y)):
        run = _through(full, ends, keep, max_steps)
    else:
        run = _finish(full, keep, full.stats, "non_finite")
    run.stats["run_seconds"] = time.perf_counter() - began
    return units.undo(run, net)


def _begin(
    net: MarginNet, W: np.ndarray, a: np.ndarray, sides: np.ndarray | None
) -> tuple[np.ndarray, Standing]:
    """The state of weights and where their neurons stand; NaN where there is no direction."""
    if sides is None:
        sides = np.where(W @ net.N.T < 0, -1, 1)
    size = np.max(np.abs(W), axis=1) + (np.abs(a) if net.trained else 0.0)
    dead = (size == 0) & net.trained
    standing = Standing.of(net, np.where(dead[:, None], 1, sides))
    standing.dead |= dead
    if not (np.all(np.isfinite(W)) and np.all(np.isfinite(a)) and np.any(size > 0)):
        return np.full(net.P + net.n + 3, np.nan), standing
    with np.errstate(all="ignore"):
        return begin(net, W, a, standing.pattern), standing


def _through(full: FullPhase, ends: Ends, keep: Rows, max_steps: int) -> LateRun:
    """The full system to the switch, which is tried at two earlier places, then the limit."""
    net, stats = full.net, full.stats
    early: list[np.ndarray] = []
    stats["check_steps"] = 0
    levels = [x * SWITCH for x in (0.1, 1, 10, 1e4, 1e6)]
    for number, level in enumerate(levels):
        ends.switch = level
        result = full.run(max_steps)
        ended = ends.rest or net.degree * full.Y[net.P] < math.log(level) * (1 - 1e-9)
        if result != "reached" or ended:
            return _finish(full, keep, stats, "stationary" if ends.rest else result)
        ends.switch = math.inf
        rows = Rows(net, keep.totals)
        phase = _margin_from(full, ends, rows)
        if number >= 2:
            phase.save_at = list(full.save_at)
        result = phase.run(max_steps)
        if number >= 2 and result not in ("step_too_small", "stuck"):
            # (else the limit could not settle an event: the full system goes through, and then
            # the limit tries again)
            break
        if number < 2:
            stats["check_steps"] += phase.stats["steps"]
            early += [phase.Y[: net.P]] if result == "reached" else []
    keep.extend(rows)
    for name, count in phase.stats.items():
        stats[name] += count
    run = _finish(phase, keep, stats, result)
    return _confirmed(run, phase, [float(np.max(np.abs(u - phase.Y[: net.P]))) for u in early])


def _confirmed(run: LateRun, phase: MarginPhase, changes: list[float]) -> LateRun:
    """What the checks do not confirm is no success, however plausible (in place)."""
    doubts = []
    if phase.unsettled:
        doubts.append(f"{phase.unsettled} events were left without agreement of sides and weights")
    if len(changes) == 2 and run.result == "reached":
        run.switch_error, run.switch_ratio = changes[1], changes[0] / max(changes[1], 1e-300)
        if run.switch_error > 100 * phase.rtol and run.switch_ratio < 3:
            doubts.append(
                f"the end moves by {run.switch_error:.1e} with the place of the switch to the limit"
            )
    if doubts:
        run.detail = "; ".join([run.detail, *doubts] if run.detail else doubts)
        run.result = "unsettled" if run.ok else run.result
    return run


def _counts() -> dict[str, Any]:
    return {"steps": 0, "rejected": 0, "rhs": 0, "jacobians": 0, "events": 0}


def _margin_from(full: FullPhase, ends: Ends, rows: Rows) -> MarginPhase:
    net, Y, sigma = full.net, full.Y, full.sigma
    start = np.append(Y[: net.P + 1], Y[-1])
    # (the margins behind σ are known to rounding of their size)
    known = 64 * np.finfo(float).eps * np.exp(net.degree * Y[net.P])
    candidates = np.flatnonzero(sigma - np.min(sigma) < 30.0 + known)
    phase = MarginPhase(
        net, start, full.standing.copy(), full.rtol, ends, rows, _counts(), candidates
    )
    phase.log_start, phase.look = full.log_start, full.look
    return phase


def _looks(watch: Watch, units: Units) -> Callable[[AbstractPhase], str | None]:
    """What a phase asks at each step: whether who watches wants it to go on."""

    def look(phase: AbstractPhase) -> str | None:
        def describe(s: float, Y: np.ndarray) -> dict[str, float]:
            log_loss, log_t, _ = phase.logs(Y)
            log_t -= 2 * units.log
            return {"s": log_t, "log_t": log_t, "log_loss": log_loss, "loss": math.exp(log_loss)}

        counts = phase.stats
        return watch.look(
            phase.log_start, math.inf, lambda: phase.Y, steps=counts["steps"],
            events=counts["events"], describe=describe,
        )  # fmt: skip

    return look


def _finish(phase: AbstractPhase, keep: Rows, stats: dict[str, Any], result: str) -> LateRun:
    net = keep.net
    columns = list(zip(*keep.rows, strict=True))
    parts = [net.split(u) for u in keep.u]
    U = np.array([part[0] for part in parts]).reshape(-1, net.m, net.dim)
    A = np.array([part[1] for part in parts]).reshape(-1, net.m)
    saved = np.array(keep.saved, bool)
    if phase.save_at and abs(phase.save_at[0] - keep.rows[-1][1]) <= 1e-9 * max(
        1.0, abs(phase.save_at[0])
    ):
        saved[-1] = True  # (the last time asked for is where it stopped)
    stats.setdefault("check_steps", 0)
    clock, log_t, log_rho, log_loss, margin = (np.array(column, float) for column in columns[:5])
    seen_again = net.seen_again(phase.standing.sides, phase.standing.dead)
    detail = phase.detail
    if result == "reached" and net.unseen.any():
        detail = f"no neuron sees {_some(np.flatnonzero(net.unseen))}: that part of the loss stays"
    return LateRun(
        clock=clock, log_t=log_t, log_rho=log_rho, log_loss=log_loss, margin=margin, U=U, A=A,
        form=np.array(columns[5], str), saved=saved, events=keep.events, stats=stats,
        result=result, detail=detail, sides=phase.standing.sides.copy(), seen_again=seen_again,
    )  # fmt: skip


def _some(data: np.ndarray) -> str:
    """The first few of some data, in words."""
    shown = ", ".join(map(str, data[:5])) + (", ..." if data.size > 5 else "")
    return f"datum {shown}" if data.size == 1 else f"data {shown}"
