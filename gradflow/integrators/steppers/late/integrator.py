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
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.integrators.contract import RESULTS
from gradflow.integrators.steppers.late.events import LateEvent, Standing
from gradflow.integrators.steppers.late.field import MarginNet
from gradflow.integrators.steppers.late.full import FullPhase, begin
from gradflow.integrators.steppers.late.loop import AbstractPhase
from gradflow.integrators.steppers.late.margin import MarginPhase
from gradflow.integrators.watch import Watch
from gradflow.numerics.logs import log_subtract

#: ρ^D where the limit takes over.
SWITCH = 1e9


@dataclass
class LateRun:
    """The late phase at its recorded points, arrays with time first.

    Attributes
    ----------
    clock : (rows,)
        The loss clock s, ds = L dt, continued from the start (for D = 1 it grows like ρ, and is
        inf beyond 1.8e308).
    log_t, log_rho, log_loss, margin : (rows,)
        ln t, ln ‖θ‖, ln L, and the normalised margin min q̂.
    U, A : (rows, m, D), (rows, m)
        Weights divided by ‖θ‖ (with fixed outer weights ``A`` is as it is).
    form : (rows,) of str
        "full" or "margin".
    saved : (rows,) bools
        The rows at ``save_log_t``.
    events : list of LateEvent
    stats : dict
        steps, rejected, rhs, jacobians, events, run_seconds, for the rows kept; "check_steps" for
        the repeated switches.
    result, detail : str
    sides : (m, G) ints
        The pattern at the end.
    seen_again : (n,) bools
        With the result "seen": the data that are.
    switch_error, switch_ratio : float
        The largest change of the final direction when the switch is made 10 times later, and how
        much smaller it is than the change before (expected about 10 or more). nan where there was
        no switch or no check.
    """

    clock: np.ndarray
    log_t: np.ndarray
    log_rho: np.ndarray
    log_loss: np.ndarray
    margin: np.ndarray
    U: np.ndarray
    A: np.ndarray
    form: np.ndarray
    saved: np.ndarray
    events: list[LateEvent]
    stats: dict[str, Any]
    result: str
    detail: str
    sides: np.ndarray
    seen_again: np.ndarray
    switch_error: float = math.nan
    switch_ratio: float = math.nan

    @property
    def ok(self) -> bool:
        """Whether the run ended as asked."""
        return RESULTS[self.result][0]

    @property
    def message(self) -> str:
        """The result in words, with its remedy."""
        text = f"{self.result}: {RESULTS[self.result][1]}"
        return f"{text} ({self.detail})" if self.detail else text


def _counts() -> dict[str, int]:
    return {"steps": 0, "rejected": 0, "rhs": 0, "jacobians": 0, "events": 0}


@dataclass(frozen=True)
class _Totals:
    """What the data that no neuron sees add: c to the loss, c Δt to its clock."""

    log_rest: float
    log_t: float
    start: float

    @classmethod
    def of(cls, net: MarginNet, log_t: float, clock: float) -> _Totals:
        return cls(net.log_rest, log_t, clock)

    def log_loss(self, seen: float) -> float:
        """ln L from that of the others."""
        return float(np.logaddexp(seen, self.log_rest))

    def clock(self, s: float, log_t: float) -> float:
        """The loss clock (inf beyond floats), from that of the others since the start."""
        if self.log_rest == -np.inf or not log_t > self.log_t:
            return float(self.start + s)
        elapsed = log_subtract(log_t, self.log_t)
        return float(self.start + s + np.exp(self.log_rest + elapsed))

    def margin(self, q: np.ndarray) -> float:
        """The least normalised margin: 0 for a datum that no neuron sees."""
        least = float(q.min())
        return least if self.log_rest == -np.inf else min(least, 0.0)


@dataclass
class _Ends:
    """The stopping function of a run."""

    net: MarginNet
    totals: _Totals
    log_t: float | None
    log_rho: float | None
    log_loss: float | None
    direction: float | None
    clock: float | None = None
    switch: float = math.inf
    rest: bool = False

    def __call__(self, phase: AbstractPhase, Y: np.ndarray) -> float:
        P, D = self.net.P, self.net.degree
        values: list[Any] = [D * Y[P] - math.log(self.switch)] if self.switch < math.inf else []
        if self.log_rho is not None:
            values.append(Y[P] - self.log_rho)
        log_loss, log_t, q = phase.logs(Y)
        if self.clock is not None:
            gap = self.totals.clock(Y[-1], log_t) - self.clock
            values.append(gap / max(1.0, abs(self.clock)))
        if self.log_t is not None:
            values.append((log_t - self.log_t) / max(1.0, abs(self.log_t)))
        if self.log_loss is not None:
            gap = self.log_loss - self.totals.log_loss(log_loss)
            values.append(gap / max(1.0, abs(self.log_loss)))
        if self.direction is not None or float(q.min()) <= 0:
            speed, radial = phase.velocity(Y)
            if self.direction is not None:
                # Per unit of ln t: dζ/d ln t = tL ρ^{D−2}.
                rate = math.log(max(speed, 1e-300)) + log_t + log_loss + (D - 2) * Y[P]
                values.append(math.log(self.direction) - rate)
            if float(q.min()) <= 0 and math.hypot(speed, radial) < 1e-9:
                self.rest = True
                values.append(1.0)
        return float(max(values, default=-1.0))


@dataclass
class _Rows:
    """What a phase leaves behind."""

    net: MarginNet
    totals: _Totals
    rows: list[tuple] = field(default_factory=list)
    u: list[np.ndarray] = field(default_factory=list)
    saved: list[bool] = field(default_factory=list)
    events: list[LateEvent] = field(default_factory=list)

    def __call__(
        self, phase: AbstractPhase, what: list[tuple[int, int, str]], at: np.ndarray | None = None
    ) -> None:
        Y, P = phase.Y if at is None else at, self.net.P
        log_loss, log_t, q = phase.logs(Y)
        clock, totals = self.totals.clock(Y[-1], log_t), self.totals
        loss, margin = totals.log_loss(log_loss), totals.margin(q)
        self.rows.append((clock, log_t, float(Y[P]), loss, margin, phase.form))
        self.u.append(Y[:P].copy())
        self.saved.append(at is not None)
        for k, g, kind in what:
            # The support's data by their number in the data set, the first of equal ones.
            g = int(self.net.first[g]) if kind.startswith("support") else g
            self.events.append(LateEvent(clock, log_t, k, g, kind))

    def extend(self, other: _Rows) -> None:
        """Append the rows of another part."""
        self.rows += other.rows
        self.u += other.u
        self.saved += other.saved
        self.events += other.events


@dataclass(frozen=True)
class _Units:
    """Inputs of size 1: θ̃ = f θ, t̃ = f² t, s̃ = f² s leave every margin and the loss as they are.

    Attributes
    ----------
    inputs, outer : float
        What inputs and fixed outer weights are divided by.
    factor : float
        f, the root of order D of their product.
    """

    inputs: float
    outer: float
    factor: float

    @classmethod
    def of(cls, at: Arrangement, a: np.ndarray) -> _Units:
        sizes = at.sizes[at.surface] * np.abs(at.scale)
        inputs, outer = float(np.max(sizes, initial=0.0)) or 1.0, 1.0
        if at.trained:
            return cls(inputs, outer, math.sqrt(inputs))
        if np.all(np.isfinite(a)):
            outer = float(np.linalg.norm(a)) or 1.0
        return cls(inputs, outer, inputs * outer)

    @property
    def log(self) -> float:
        """ln f."""
        return math.log(self.factor)

    @property
    def clock(self) -> float:
        """f², the unit of the loss clock."""
        return self.factor**2

    def undo(self, run: LateRun, net: MarginNet) -> LateRun:
        """Turn a run in these units into one in the user's (in place)."""
        run.clock /= self.clock
        run.log_t -= 2 * self.log
        run.log_rho -= self.log
        run.margin *= self.inputs * self.outer
        if not net.trained:
            run.A *= self.outer
        run.events = [
            replace(e, clock=e.clock / self.clock, log_t=e.log_t - 2 * self.log) for e in run.events
        ]
        return run


def _margin_from(full: FullPhase, rtol: float, ends: _Ends, record: Any,
                 stats: dict[str, int]) -> MarginPhase:  # fmt: skip
    net, Y, sigma = full.net, full.Y, full.sigma
    start = np.append(Y[: net.P + 1], Y[-1])
    # (the margins behind σ are known to rounding of their size)
    known = 64 * np.finfo(float).eps * np.exp(net.degree * Y[net.P])
    candidates = np.flatnonzero(sigma - np.min(sigma) < 30.0 + known)
    phase = MarginPhase(
        net, start, full.standing.copy(), rtol, ends, record, stats, candidates
    )
    phase.log_start, phase.look = full.log_start, full.look
    return phase


def _looks(watch: Watch, units: _Units) -> Callable[[AbstractPhase], str | None]:
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


def late_phase(
    arrangement: Arrangement,
    W: Any,
    a: Any,
    log_t: float,
    *,
    clock: float = 0.0,
    sides: Any = None,
    unseen: Any = None,
    rtol: float = 1e-8,
    log_t_end: float | None = None,
    log_rho_end: float | None = None,
    log_loss_end: float | None = None,
    direction_tol: float | None = None,
    clock_end: float | None = None,
    save_log_t: np.ndarray | None = None,
    max_steps: int = 100_000,
    max_events: int = 100_000,
    switch: float = SWITCH,
    check: bool = True,
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
    log_t_end, log_rho_end, log_loss_end, clock_end : float, optional
        Stop at ln t, ln ‖θ‖, (from above) ln L, or the loss clock; the first that is met counts.
    direction_tol : float, optional
        Stop when the direction turns slower than this per unit of ln t.
    save_log_t : array, optional
        Increasing values of ln t, beyond the start's, at which a row is wanted; ``saved`` marks
        these rows.
    max_steps, max_events : int
        For each part of the run.
    switch : float
        ρ^D where the limit takes over; inf for never.
    check : bool
        Whether the switch is repeated, which makes it 10 times later for the rows kept.
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
    units = _Units.of(arrangement, a)
    net = MarginNet(arrangement, a, units.inputs, units.outer, unseen)
    W = units.factor * W
    a = units.factor * a if net.trained else a
    shift = 2 * units.log
    if sides is None:
        sides = np.where(W @ net.N.T < 0, -1, 1)
    size = np.max(np.abs(W), axis=1) + (np.abs(a) if net.trained else 0.0)
    dead = (size == 0) & net.trained
    standing = Standing.of(net, np.where(dead[:, None], 1, np.asarray(sides)))
    standing.dead |= dead
    totals = _Totals.of(net, log_t + shift, clock * units.clock)
    keep, stats = _Rows(net, totals), _counts()
    ends = _Ends(
        net, totals, None if log_t_end is None else log_t_end + shift,
        None if log_rho_end is None else log_rho_end + units.log, log_loss_end, direction_tol,
        None if clock_end is None else clock_end * units.clock,
    )  # fmt: skip
    finite = np.all(np.isfinite(W)) and np.all(np.isfinite(a)) and np.any(size > 0)
    with np.errstate(all="ignore"):
        Y = begin(net, W, a, standing.pattern) if finite else np.zeros(net.P + net.n + 3)
    full = FullPhase(net, Y, standing, rtol, ends, keep, stats)
    full.log_start = log_t + shift
    if watch is not None:
        full.look = _looks(watch, units)
    full.save_at = [] if save_log_t is None else [float(x) + shift for x in np.ravel(save_log_t)]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keep(full, [])
    if not finite or not np.all(np.isfinite(Y)):
        return units.undo(_finish(full, keep, stats, "non_finite", began), net)

    error = ratio = math.nan
    early: list[np.ndarray] = []
    stages = [0.1 * switch, switch, 10 * switch] if check else [switch]
    result, check_steps = "reached", 0
    for number, level in enumerate([*stages, 1e4 * switch, 1e6 * switch]):
        ends.switch = level
        result = full.run(max_steps, max_events)
        ended = ends.rest or net.degree * full.Y[net.P] < math.log(level) * (1 - 1e-9)
        if result != "reached" or ended:
            result = "stationary" if ends.rest else result
            return units.undo(_finish(full, keep, stats, result, began), net)
        ends.switch = math.inf
        if number < len(stages) - 1:
            trial = _margin_from(full, rtol, ends, lambda *_: None, counts := _counts())
            if trial.run(max_steps, max_events) == "reached":
                early.append(trial.Y[: net.P])
            check_steps += counts["steps"]
            continue
        rows, counts = _Rows(net, totals), _counts()
        phase = _margin_from(full, rtol, ends, rows, counts)
        phase.save_at = list(full.save_at)
        result = phase.run(max_steps, max_events)
        settled = result not in ("step_too_small", "stuck")
        if settled or number == len(stages) + 1:
            break
        # The limit could not settle an event: the full system goes through, and it tries again.
    changes = [float(np.max(np.abs(u - phase.Y[: net.P]))) for u in early]
    if len(changes) == 2 and result == "reached":
        error, ratio = changes[1], changes[0] / max(changes[1], 1e-300)
    keep.extend(rows)
    for name, count in counts.items():
        stats[name] += count
    stats["check_steps"] = check_steps
    run = _finish(phase, keep, stats, result, began)
    run.switch_error, run.switch_ratio = error, ratio
    # What the checks do not confirm is no success, however plausible.
    doubts = []
    if phase.unsettled:
        doubts.append(f"{phase.unsettled} events were left without agreement of sides and weights")
    if error > 100 * rtol and ratio < 3:
        doubts.append(f"the end moves by {error:.1e} with the place of the switch to the limit")
    if doubts:
        run.detail = "; ".join([run.detail, *doubts] if run.detail else doubts)
        run.result = "unsettled" if run.ok else run.result
    return units.undo(run, net)


def _finish(phase: AbstractPhase, keep: _Rows, stats: dict[str, Any], result: str,
            began: float) -> LateRun:  # fmt: skip
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
    stats["run_seconds"] = time.perf_counter() - began
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
