"""The event-located integrator: the compiled loop and its host, a stepper of the march."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from gradflow.flows.event import Reading, limits
from gradflow.integrators.contract import (
    AbstractIntegrator,
    Happening,
    Problem,
    Solution,
    register_integrator,
)
from gradflow.integrators.march import AbstractStepper, Steps, march
from gradflow.integrators.resting import RestWatch
from gradflow.integrators.steppers.cells.build import Units, Vectors, own_loss, system_of
from gradflow.integrators.steppers.cells.crossing import (
    AT_ORIGIN,
)
from gradflow.integrators.steppers.cells.exchange import (
    ACCEPTED,
    ATTEMPTS,
    BUDGET,
    EVENTS,
    JACOBIANS,
    LEAVES,
    LOG_RISK,
    MARGIN,
    MET,
    NEURON,
    NON_FINITE,
    REACHED,
    RELEASED,
    RHS,
    ROWS,
    RUNNING,
    S_END,
    STIFF,
    STUCK,
    SURFACE,
    TOO_SMALL,
    TURNS,
    H,
    Record,
    S,
)
from gradflow.integrators.steppers.cells.host import Host
from gradflow.integrators.steppers.cells.loop import (
    MOST_STUCK,
    advance,
    measure,
)
from gradflow.integrators.steppers.cells.motion import motion
from gradflow.integrators.steppers.cells.relax import Relaxation
from gradflow.integrators.steppers.cells.step import TSIT5, dense
from gradflow.integrators.steppers.cells.system import PHYSICAL
from gradflow.numerics.blas import one_thread
from gradflow.validation import fail

_ENDED = {REACHED: "reached", TOO_SMALL: "step_too_small", NON_FINITE: "non_finite"}
#: What is left to the host.
_DECISIONS = (MET, LEAVES, TURNS, MARGIN, RELEASED)
#: Bytes of recorded states handed over at once, and bounds on how many states that is.
_BUFFER_BYTES = 2**22
_MIN_ROWS, _MAX_ROWS = 16, 1024
#: ln(1+t) up to which t is a float.
_LATEST = 600.0
#: Steps between two looks at neurons on flats that the loop cannot watch.
_WATCH = 20
#: Steps between two looks at events.
_LOOK = 64
#: Implicit steps between two looks at whether the flow rests.
_PAUSE = 16
#: Attempted steps between two looks, and the work, in multiplications of one product or one
#: factorisation, that may lie between them where steps are slow.
_MOST_ATTEMPTS, _PRODUCTS, _FACTORISATIONS = 256, 2e8, 5e9


@dataclass(frozen=True)
class Snapshot:
    """All that the loop and its host change."""

    parts: tuple[Any, ...]
    happenings: int

    @classmethod
    def of(cls, host: Host) -> Snapshot:
        """Copy it."""
        cell = host.cell._replace(
            S=host.cell.S.copy(), T=host.cell.T.copy(), side=host.cell.side.copy(),
            fresh=host.cell.fresh.copy(), Q=host.cell.Q.copy(), rank=host.cell.rank.copy(),
            held=host.cell.held.copy(), act=host.cell.act.copy(), slack=host.cell.slack.copy(),
        )  # fmt: skip
        parts = (
            host.y.copy(),
            host.k1.copy(),
            host.num.copy(),
            host.count.copy(),
            cell,
            dict(host.on),
            set(host.pinned),
        )
        return cls(parts, len(host.happenings))

    def restore(self, host: Host) -> None:
        """Go back to it; the work that was done stays counted."""
        rhs, attempts = host.count[RHS], host.count[ATTEMPTS]
        y, k1, num, count, cell, on, pinned = self.parts
        host.y[:], host.k1[:], host.num[:], host.count[:] = y, k1, num, count
        host.count[RHS], host.count[ATTEMPTS] = rhs, attempts
        host.cell = Snapshot._copied(cell)
        host.on, host.pinned = dict(on), set(pinned)
        del host.happenings[self.happenings :]
        host.refresh()
        host.k1[:] = k1

    @staticmethod
    def _copied(cell: Any) -> Any:
        names = ("S", "T", "side", "fresh", "Q", "rank", "held", "act", "slack")
        return cell._replace(**{name: getattr(cell, name).copy() for name in names})


@dataclass(frozen=True)
class Timer:
    """The kernel's clock. It goes by t where the flow's goes by ln(1+t).

    Near a rest the field of the log clock has rates that grow with it, and implicit steps of some
    length, whose Jacobian is that of their beginning, throw the flow off.

    Attributes
    ----------
    by_time : bool
    s_end : float
        The end of the flow's clock.
    """

    by_time: bool
    s_end: float

    @classmethod
    def of(cls, problem: Problem) -> Timer:
        """Return that of a problem; times beyond floats are left to the log clock."""
        ends = [problem.s_end, *limits(problem.events, "time")]
        end = max((e for e in ends if np.isfinite(e)), default=0.0)
        by_time = problem.flow.clock.name == "log" and end <= _LATEST
        return cls(by_time, problem.s_end)

    def inward(self, s: Any) -> Any:
        """The kernel's values of the clock."""
        return np.expm1(s) if self.by_time else s

    def outward(self, t: Any) -> Any:
        """The flow's values of the clock."""
        if not self.by_time:
            return t
        return np.where(t == np.expm1(self.s_end), self.s_end, np.log1p(t))


class CellsStepper(AbstractStepper):
    """The kernel at work on one problem."""

    def __init__(self, problem: Problem) -> None:
        flow, at = problem.flow, problem.flow.arrangement
        if at is None:
            raise fail(
                "integrator", "piecewise", "needs a risk that states its kinks",
                "use an EmpiricalRisk of TwoLayer with a piecewise linear activation, or 'auto'",
            )  # fmt: skip
        if at.loss_kinked and flow.clock.name == "loss":
            raise fail(
                "clock", "loss", f"stands still where the {at.loss.name} loss is 0, in finite time",
                "use clock='log' or 'physical'",
            )  # fmt: skip
        self.problem, self.flow = problem, flow
        units = Units.of(flow, at)
        self.vectors = Vectors(flow, at, units)
        W, a, extras = self.vectors.inward(problem.Y0)
        self.own = own_loss(at)
        sys = system_of(problem, at, units, len(W), self.own)
        self.timer = Timer.of(problem)
        if self.timer.by_time:
            sys = sys._replace(clock=PHYSICAL)
        self.host = Host(sys, at.breakpoints, W, a, extras, self.timer.inward(problem.s0))
        self.before: Snapshot | None = None
        host = self.host
        host.num[S_END] = self.timer.inward(problem.s_end)
        host.num[BUDGET] = max(np.exp(min(host.num[LOG_RISK], 700.0)) + extras[0], 1e-300)
        host.num[H] = self._first_step()
        self.share = _WATCH
        self.relaxation: Relaxation | None = None

    def _first_step(self) -> float:
        """1 % of the time in which the fastest neuron changes by its own size."""
        host = self.host
        m, D, o = host.m, host.D, host.o
        dW = host.k1[: m * D].reshape(m, D)
        da = host.k1[m * D : m * (D + o)].reshape(m, o)
        size = np.maximum(np.abs(host.W).max(axis=1), np.abs(host.a).max(axis=1))
        speed = np.maximum(np.abs(dW).max(axis=1), np.abs(da).max(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = 0.01 * float(np.min(np.where(speed > 0, size / speed, np.inf)))
        if np.isfinite(guess) and guess > 0:
            return guess
        return 1e-6 * max(1.0, abs(self.problem.s0))

    # ------------------------------------------------------------------------------ the march
    @property
    def pace(self) -> int:
        """Attempted steps until the next look: by the sizes, so that the same flow pauses alike."""
        host = self.host
        if self.relaxation is not None:
            few = _FACTORISATIONS / (host.m * (host.D + host.o)) ** 3
            return int(np.clip(few, 1, _PAUSE))
        few = _PRODUCTS / (host.m * host.D * len(host.sys.X))
        return int(np.clip(few, min(4, _MOST_ATTEMPTS), _MOST_ATTEMPTS))

    def start(self) -> Steps:
        host = self.host
        values = np.zeros((1, 4))
        self._measure(values[0])
        s, Y = np.array([self.problem.s0]), self.vectors.outward(host.y[None], host.m)
        ended = "failed" if host.trouble else None
        if not np.all(np.isfinite(host.k1)):
            ended = "non_finite"
        return Steps(s, Y, self._values(s, Y, values), ended=ended, detail=host.trouble)

    def _measure(self, out: np.ndarray) -> None:
        host = self.host
        measure(host.sys_ref, host.work_ref, host.num[S], host.y, host.num[LOG_RISK], out)

    def advance(self, attempts: int, accepted: int, target: float) -> Steps:
        if not self.problem.events:
            return self._go(attempts, accepted, pauses=True)
        # Few steps at a time: those after the one in which an event happens are taken in vain.
        share = min(attempts, _LOOK)
        began, relaxing = Snapshot.of(self.host), self._relaxing()
        steps = self._go(share, min(accepted, _LOOK), pauses=True)
        first = np.flatnonzero(np.any(steps.values[1:, :-1] >= 0, axis=1))
        if not first.size:
            return steps
        # Once more from the beginning, so that the step in which it happens is the last one.
        began.restore(self.host)
        self.relaxation = relaxing
        head = self._go(2**40, int(first[0])) if first[0] else None
        self.before = Snapshot.of(self.host)
        last = self._go(2**40, 1)
        return last if head is None else _joined(head, last)

    def _relaxing(self) -> Relaxation | None:
        return None if self.relaxation is None else self.relaxation.copy()

    def motion(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Velocity, Jacobian and noise of the velocity in the flow's coordinates, at the state."""
        host = self.host
        count = host.m * (host.D + host.o)
        probe = np.ones((2, host.y.size))
        probe[0, :count] = np.arange(count)
        extras = host.y.size - count
        probe = self.vectors.outward(probe, host.m)[:, :-extras]
        unit, order = probe[1], np.rint(probe[0] / probe[1]).astype(int)
        F, J, noise = motion(host)
        J = unit[:, None] * J[np.ix_(order, order)] / unit
        return unit * F[order], J, unit * noise[order]

    def _go(self, attempts: int, accepted: int, *, pauses: bool = False) -> Steps:
        """Some steps on, with what the host has to decide on the way.

        ``pauses``: implicit steps are few at a time, for others to see whether the flow rests.
        """
        host, parts, ended, detail = self.host, [], None, ""
        first_attempt, first_row = int(host.count[ATTEMPTS]), int(host.count[ACCEPTED])
        while ended is None:
            made = int(host.count[ATTEMPTS]) - first_attempt
            rows = int(host.count[ACCEPTED]) - first_row
            left = min(attempts - made, 2**40)
            if left <= 0 or rows >= accepted or sum(len(p[0]) for p in parts) >= self._rows:
                break
            paused = pauses and self.relaxation is not None
            ended, detail = self._once(
                min(left, _PAUSE) if paused else left, min(accepted - rows, 2**40), parts
            )
            if paused:
                break
        return self._steps(parts, int(host.count[ATTEMPTS]) - first_attempt, ended, detail)

    @property
    def _rows(self) -> int:
        return int(np.clip(_BUFFER_BYTES // (40 * self.host.y.size), _MIN_ROWS, _MAX_ROWS))

    def _once(self, attempts: int, accepted: int, parts: list[Any]) -> tuple[str | None, str]:
        """One call of the compiled loop, and the decision after it."""
        host = self.host
        slow = bool(host.slow)
        began = Snapshot.of(host) if slow else None
        rows = min(self._rows, accepted, self.share if slow else 2**40)
        record = Record(
            np.empty(rows + 1), np.empty((rows + 1, host.y.size)), np.empty((rows + 1, 4)),
            np.empty((rows, 4, host.y.size)), np.empty(rows + 2), np.empty((rows + 2, 3), np.int64),
        )  # fmt: skip
        record.s[0], record.y[0] = host.num[S], host.y
        self._measure(record.values[0])
        code = self._advance(attempts, accepted, record)
        if began is not None:
            wakes = host.wakes()
            if wakes is not None and (self.share > 1 or self._late(wakes, record)):
                began.restore(host)
                host.num[H] = min(host.num[H], (record.s[1] - record.s[0]) / 4)
                self.share = max(1, self.share // 4)
                return None, ""
            self.share = min(_WATCH, 2 * self.share)
        for j in range(host.count[EVENTS]):
            row, k, g = record.event[j]
            tau = float(record.y[row, -1])
            host.happenings.append(_crossing(record.event_s[j], tau, int(k), int(g)))
        trouble = self._decide(code, record)
        if began is not None and wakes is not None:
            trouble = trouble or host.meet(wakes[0], -1)
        used = int(host.count[ROWS])
        if not np.all(np.isfinite(host.y)):
            # (a decision among forces beyond floats; what came before it stays)
            host.y[:], code, trouble = record.y[used], NON_FINITE, ""
        elif used:
            record.y[used] = host.y
            self._measure(record.values[used])
        parts.append(
            (
                record.s[: used + 1],
                record.y[: used + 1],
                record.values[: used + 1],
                record.shape[:used],
            )
        )
        if trouble:
            return "failed", trouble
        return _ENDED.get(code), ""

    def _advance(self, attempts: int, accepted: int, record: Record) -> int:
        """Some explicit or some implicit steps."""
        host = self.host
        if self.relaxation is not None:
            code = self.relaxation.advance(attempts, accepted, record)
            if self.relaxation.over:
                self.relaxation = None
            return code
        code = advance(
            TSIT5, host.sys_ref, host.cell_ref, host.work_ref, host.num, host.count, host.y,
            host.k1, attempts, accepted, record,
        )  # fmt: skip
        if code != STIFF or host.margins.kinked:
            # (pulls that are constant, and data that are held, make no stiff modes)
            return code
        self.relaxation = Relaxation(host)
        return RUNNING

    def _late(self, wakes: tuple[int, float], record: Record) -> bool:
        """Whether a neuron should have left more than the tolerance ago."""
        h = float(record.s[1] - record.s[0])
        return wakes[1] * h > self.host.sys.rtol * float(np.max(np.abs(self.host.y)))

    def _decide(self, code: int, record: Record) -> str:
        """What happens where the loop has stopped; what went wrong, or ""."""
        host = self.host
        trouble = self._decide_neuron(code, record)
        if code == MARGIN:
            trouble = host.margins.decide(int(host.count[SURFACE]))
        elif code == RELEASED:
            trouble = host.margins.decide()
        if code in _DECISIONS and not trouble:
            trouble = host.margins.agree()
        return trouble

    def _decide_neuron(self, code: int, record: Record) -> str:
        host, k = self.host, int(self.host.count[NEURON])
        if code == MET:
            before = record.y[host.count[ROWS] - 1, k * host.D : (k + 1) * host.D]
            size = np.linalg.norm(before)
            vanished = size > 0 and np.linalg.norm(host.W[k]) <= AT_ORIGIN * size
            if host.count[STUCK] > MOST_STUCK:
                host.count[STUCK] = 0
            return host.meet(k, int(host.count[SURFACE]), origin=bool(vanished))
        if code == LEAVES:
            return host.leave(k, host.cell.ray[int(host.count[SURFACE])])
        if code == TURNS:
            return host.turn(k)
        return ""

    def _steps(self, parts: list[Any], attempts: int, ended: str | None, detail: str) -> Steps:
        host = self.host
        if not parts:
            s, y, values = np.array([host.num[S]]), host.y[None].copy(), np.zeros((1, 4))
            self._measure(values[0])
            shapes = np.zeros((0, 4, host.y.size))
        else:
            s = np.concatenate([parts[0][0], *(p[0][1:] for p in parts[1:])])
            y = np.concatenate([parts[0][1], *(p[1][1:] for p in parts[1:])])
            values = np.concatenate([parts[0][2], *(p[2][1:] for p in parts[1:])])
            shapes = np.concatenate([p[3] for p in parts])
        Y, inner = self.vectors.outward(y, host.m), s
        s = self.timer.outward(inner)
        values = self._values(s, Y, values)
        return Steps(s, Y, values, attempts, ended, detail, (y, shapes, inner))

    def _values(self, s: np.ndarray, Y: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Events and the save variable at some rows."""
        problem = self.problem
        out = np.empty((len(s), len(problem.events) + 1))
        reading = Reading(self.flow, s, Y, *values.T)
        for j, event in enumerate(problem.events):
            out[:, j] = event.read(reading)
        by = problem.save_by
        out[:, -1] = s if by is None else np.asarray(self.flow.log1p_t(s, Y))
        return out

    def retake(self, steps: Steps, index: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
        memory: Any = steps.memory
        host, (y, shapes, inner) = self.host, memory
        out, values = np.empty((len(index), host.y.size)), np.full((len(index), 4), np.nan)
        places = np.clip(self.timer.inward(s), inner[index], inner[index + 1])
        for row, (i, at) in enumerate(zip(index.tolist(), places.tolist(), strict=True)):
            dense(y[i], shapes[i], (at - inner[i]) / (inner[i + 1] - inner[i]), out[row])
        if self.before is not None and self.problem.events and np.all(index == len(steps.s) - 2):
            after = Snapshot.of(host)
            self.before.restore(host)
            for row, at in enumerate(places):
                host.y[:], host.num[S] = out[row], at
                host.refresh()
                self._measure(values[row])
            after.restore(host)
        Y = self.vectors.outward(out, host.m)
        return Y, self._values(s, Y, values)

    def work(self, accepted: int, attempts: int) -> dict[str, float]:
        count = self.host.count
        return {
            "rejected": attempts - accepted, "rhs": int(count[RHS]),
            "jacobians": int(count[JACOBIANS]), "compile_seconds": 0.0,
        }  # fmt: skip


def _crossing(s: float, tau: float, k: int, g: int) -> Happening:
    return Happening(float(s), tau, k, g, "crossing")


def _joined(head: Steps, last: Steps) -> Steps:
    """Steps in a row as one."""
    memory: Any = head.memory
    more: Any = last.memory
    return Steps(
        np.concatenate([head.s, last.s[1:]]), np.concatenate([head.Y, last.Y[1:]]),
        np.concatenate([head.values, last.values[1:]]), head.attempts + last.attempts, last.ended,
        last.detail,
        (np.concatenate([memory[0], more[0][1:]]), np.concatenate([memory[1], more[1]]),
         np.concatenate([memory[2], more[2][1:]])),
    )  # fmt: skip


class CellsIntegrator(AbstractIntegrator):
    """Event-located Tsit5 on a flow with kinks."""

    locates: ClassVar[bool] = True
    name = "piecewise"

    def solve(self, problem: Problem) -> Solution:
        """Integrate one stage (see :class:`~gradflow.integrators.contract.AbstractIntegrator`)."""
        with one_thread:
            stepper = CellsStepper(problem)
            solution = march(stepper, problem, RestWatch(problem, stepper.motion))
        host = stepper.host
        told = [replace(h, s=float(stepper.timer.outward(h.s))) for h in host.happenings]
        happenings = tuple(h for h in told if h.s <= solution.s_final)
        stats = {**solution.stats, "events": solution.stats["events"] + len(happenings)}
        return replace(
            solution, stats=stats, happenings=happenings, sides=host.cell.side.astype(int)
        )


register_integrator("piecewise", CellsIntegrator)
#: (an older name; crossings are located too)
register_integrator("piecewise-slides", CellsIntegrator)
