"""The loop of implicit steps: what the compiled loop is to explicit ones, where those are stiff."""

from __future__ import annotations

import copy

import numpy as np

from gradflow.integrators.steppers.cells.exchange import (
    ACCEPTED,
    ATTEMPTS,
    BUDGET,
    EVENTS,
    JACOBIANS,
    LEAVES,
    LOG_RISK,
    MET,
    RHS,
    ROWS,
    RUNNING,
    S_END,
    TOO_SMALL,
    TURNS,
    H,
    Proposal,
    Record,
    Room,
    S,
)
from gradflow.integrators.steppers.cells.field import field
from gradflow.integrators.steppers.cells.host import Host
from gradflow.integrators.steppers.cells.implicit import ImplicitStep, implicit_step
from gradflow.integrators.steppers.cells.linearise import linearise
from gradflow.integrators.steppers.cells.loop import (
    NO_LENGTH,
    goes_on,
    take,
)
from gradflow.integrators.steppers.cells.step import error_norm, excess, watched
from gradflow.integrators.steppers.cells.stiffness import Calm, LargestRate

#: Fractions of a step at which flats are looked at.
_NODES = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
#: What the host decides before the next step.
_DECISIONS = (MET, LEAVES, TURNS)
#: Errors of stiff steps die out: they may be this many times those of explicit ones.
_LOOSER = 5.0
#: The first implicit step, and the one after an event, in units of the last: what has just changed
#: has to settle.
_SHORTER = 0.1
#: A fifth-order estimate; bounds on the change of the step.
_EXPONENT, _SAFE, _LEAST, _MOST = -0.2, 0.9, 0.2, 8.0


class Relaxation:
    """A phase of implicit steps from where the host is.

    Parameters
    ----------
    host : Host
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.calm, self.rate = Calm(), LargestRate()
        self.over = False
        self._rejected: tuple[float, float] | None = None  # length and error of the last try
        host.num[H] *= _SHORTER

    def copy(self) -> Relaxation:
        """Return one that goes on as this one does."""
        new = copy.copy(self)
        new.calm, new.rate = copy.copy(self.calm), copy.copy(self.rate)
        return new

    def advance(self, attempts: int, accepted: int, record: Record) -> int:
        """Take steps as the compiled loop does; ``over`` where explicit ones are to follow."""
        host, count = self.host, self.host.count
        count[ROWS] = count[EVENTS] = 0
        last_try, last_row = count[ATTEMPTS] + attempts, count[ACCEPTED] + accepted
        dim, shape = host.y.size, host.cell.side.shape
        room = Room(np.empty(dim), np.empty(dim), np.empty(shape), np.empty((5, *shape)))
        code = RUNNING
        while code == RUNNING and not self.over and goes_on(count, last_try, last_row, record):
            code = self._step(room, record)
        return code

    def field(self, s: float, y: np.ndarray) -> np.ndarray:
        """The field in the cell."""
        dy = np.empty_like(y)
        field(self.host.sys_ref, self.host.cell_ref, self.host.work_ref, s, y, dy)
        self.host.count[RHS] += 1
        return dy

    def _step(self, room: Room, record: Record) -> int:
        """Try one step."""
        host, num = self.host, self.host.num
        s = float(num[S])
        ends = bool(s + num[H] > num[S_END] - 1e-12 * num[H])
        h = float(num[S_END] - s if ends else num[H])
        host.refresh()
        at = linearise(host.sys, host.cell, host.work, s, host.y, host.k1, host.num[LOG_RISK])
        taken = implicit_step(self.field, at, s, host.y, h, host.k1)
        host.count[ATTEMPTS] += 1
        host.count[JACOBIANS] += 1
        worst = np.inf if taken is None else self._error(taken)
        if taken is None or not worst <= 1.0:
            num[H] = h * self._shorter(h, worst)
            return TOO_SMALL if s + num[H] == s else RUNNING
        self._rejected = None
        factor = min(max(_SAFE * max(worst, 1e-30) ** _EXPONENT, _LEAST), _MOST)
        rate = self.rate(at.weights, host.k1[: at.weights.size])
        code, went = self._take(taken, h, ends, room, record)
        if code == RUNNING and went == h:
            num[H] = max(h * factor, num[H]) if ends else h * factor
        else:
            still = went <= NO_LENGTH * h
            num[H] = h * min(1.0, factor) * _SHORTER * (_SHORTER if still else 1.0)
        self.over = self.calm.after(h * rate)
        return code

    def _take(
        self, taken: ImplicitStep, h: float, ends: bool, room: Room, record: Record
    ) -> tuple[int, float]:
        """Go along a step; return how it ended and how far it went, h if to its end."""
        host, cell = self.host, self.host.cell
        s, events = float(host.num[S]), int(host.count[EVENTS])
        f1 = np.empty_like(taken.y)
        log_risk = field(host.sys_ref, host.cell_ref, host.work_ref, s + h, taken.y, f1)
        host.count[RHS] += 1
        over = np.full(7, 1.0 if watched(cell) else -1.0)
        a = taken.y[host.m * host.D : host.m * (host.D + host.o)].reshape(host.m, host.o)
        over[6] = excess(host.sys_ref, host.cell_ref, host.work_ref, a)[0]
        proposal = Proposal(taken.y, f1, taken.dense, over, _NODES)
        code = take(
            host.sys_ref, host.cell_ref, host.work_ref, host.num, host.count, host.y, host.k1, h,
            ends, proposal, log_risk, room, record,
        )  # fmt: skip
        cut = host.count[EVENTS] > events or code in _DECISIONS
        return code, float(host.num[S]) - s if cut else h

    def _error(self, taken: ImplicitStep) -> float:
        host = self.host
        worst = error_norm(
            host.sys_ref, host.y, taken.y, taken.error, host.m, host.D, host.o, host.num[BUDGET]
        )
        return worst / _LOOSER

    def _shorter(self, h: float, worst: float) -> float:
        """The change of a step that was rejected.

        After an event stiff components are off their slow course, and errors fall with a lower
        power of h than at leisure: the power is read off two tries in a row.
        """
        before, self._rejected = self._rejected, (h, worst)
        if not np.isfinite(worst):
            return 0.5
        if before is None or not np.isfinite(before[1]):
            return min(max(_SAFE * worst**_EXPONENT, _LEAST), _SAFE)
        power = np.log(before[1] / worst) / np.log(before[0] / h)
        power = min(max(power, 0.5), 5.0)
        return float(max(_SHORTER, min(0.5, 0.8 * worst ** (-1.0 / power))))
