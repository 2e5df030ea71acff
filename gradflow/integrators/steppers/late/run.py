"""What a run of the late phase leaves behind: its rows, its ends, its units."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.integrators.contract import RESULTS
from gradflow.integrators.steppers.late.events import LateEvent
from gradflow.integrators.steppers.late.field import MarginNet
from gradflow.integrators.steppers.late.loop import AbstractPhase
from gradflow.numerics.logs import log_subtract


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


@dataclass(frozen=True)
class Totals:
    """What the data that no neuron sees add: c to the loss, c Δt to its clock."""

    log_rest: float
    log_t: float
    start: float

    @classmethod
    def of(cls, net: MarginNet, log_t: float, clock: float) -> Totals:
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
class Ends:
    """The stopping function of a run."""

    net: MarginNet
    totals: Totals
    log_t: float | None
    log_loss: float | None
    direction: float | None
    clock: float | None = None
    switch: float = math.inf
    rest: bool = False

    def __call__(self, phase: AbstractPhase, Y: np.ndarray) -> float:
        P, D = self.net.P, self.net.degree
        values: list[Any] = [D * Y[P] - math.log(self.switch)] if self.switch < math.inf else []
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
class Rows:
    """What a phase leaves behind."""

    net: MarginNet
    totals: Totals
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

    def extend(self, other: Rows) -> None:
        """Append the rows of another part."""
        self.rows += other.rows
        self.u += other.u
        self.saved += other.saved
        self.events += other.events


@dataclass(frozen=True)
class Units:
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
    def of(cls, at: Arrangement, a: np.ndarray) -> Units:
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
