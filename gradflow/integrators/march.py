"""The loop around a method that takes steps: accept, locate, save, count, stop.

A method behind it starts, advances and retakes (:class:`AbstractStepper`); it never learns what is
saved and what ends the stage. Stops and save points are reached by *steps of the method* from the
last accepted state, so they are as accurate as the steps, and saving or stopping does not change
the sequence of steps.
"""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass, replace

import numpy as np

from gradflow.integrators.contract import AbstractDense, AbstractEvent, Problem, Result, Solution
from gradflow.integrators.resting import Held, HeldDense, RestWatch
from gradflow.integrators.statistics import empty_stats
from gradflow.integrators.watch import FIRST_BUDGET, next_budget
from gradflow.numerics.roots import bracketed_roots

#: A stop is located to this share of its step, and of the clock.
_STEP_SHARE, _CLOCK_SHARE = 1e-13, 2e-16
#: A save variable is met to this (relative to 1 + its value).
_SAVE_SHARE = 4e-16


@dataclass(frozen=True)
class Steps:
    """Accepted steps in a row: step i goes from row i to row i+1.

    Attributes
    ----------
    s, Y : ndarray, shapes (n+1,), (n+1, D)
    values : ndarray, shape (n+1, E+1)
        Of the E events, and of the save variable.
    attempts : int
        Attempted steps, the n accepted ones included.
    ended : str or None
        The result with which the method itself came to its end.
    detail : str
        What the method said to that.
    memory : object
        What the method needs to take a step again, a row each.
    """

    s: np.ndarray
    Y: np.ndarray
    values: np.ndarray
    attempts: int = 0
    ended: str | None = None
    detail: str = ""
    memory: object = None

    @property
    def crossed(self) -> bool:
        """Whether an event has come to be >= 0 at the end."""
        return bool(np.any(self.values[-1, :-1] >= 0))


class AbstractStepper(abc.ABC):
    """A method at work on one problem."""

    @abc.abstractmethod
    def start(self) -> Steps:
        """Evaluate the start; return it as no steps."""

    @abc.abstractmethod
    def advance(self, attempts: int, accepted: int, target: float) -> Steps:
        """Go on from the last accepted state.

        Returns at the latest after about ``attempts`` attempted or exactly ``accepted`` accepted
        steps and with the first step in which an event comes to be >= 0; it may return where the
        save variable passes ``target``.
        """

    @property
    def pace(self) -> int | None:
        """Attempted steps until the next look, should they not be left to the clock on the wall.

        For methods whose pauses leave a trace: where a flow that rests is found to rest, say.
        """
        return None

    @abc.abstractmethod
    def retake(self, steps: Steps, index: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
        """Take steps ``index`` (k,) again, as far as ``s`` (k,) inside them only.

        Returns
        -------
        Y, values : ndarray, shapes (k, D), (k, E+1)
        """

    @abc.abstractmethod
    def work(self, accepted: int, attempts: int) -> dict[str, float]:
        """Return ``rejected``, ``rhs``, ``jacobians`` and ``compile_seconds`` so far."""


def march(stepper: AbstractStepper, problem: Problem, rest: RestWatch | None = None) -> Solution:
    """Solve ``problem`` with a method that takes steps; until it rests, where that is watched."""
    return _March(stepper, problem, rest).run()


class MarchDense(AbstractDense):
    """The solution between accepted states: steps of the method, taken again."""

    def __init__(self, stepper: AbstractStepper, pieces: list[Steps]) -> None:
        self._stepper, self._pieces = stepper, [piece for piece in pieces if len(piece.s) > 1]
        self._starts = np.array([piece.s[0] for piece in self._pieces])
        self.s_first, self.s_last = pieces[0].s[0], pieces[-1].s[-1]
        self._first = pieces[0].Y[0]

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """States (k, D) at clock values ``s`` (k,)."""
        s = np.asarray(s, np.float64)
        self._check(s)
        out = np.repeat(self._first[None], s.size, axis=0)
        if not self._pieces:
            return out
        where = np.clip(np.searchsorted(self._starts, s, side="right") - 1, 0, None)
        for number in np.unique(where):
            piece, at = self._pieces[number], np.flatnonzero(where == number)
            index = np.clip(np.searchsorted(piece.s, s[at], side="left") - 1, 0, None)
            inside = piece.s[index + 1] != s[at]
            out[at] = piece.Y[index + 1]
            inside &= s[at] > piece.s[index]
            at, index = at[inside], index[inside]
            out[at] = self._stepper.retake(piece, index, s[at])[0]
        first = s == self.s_first
        out[first] = self._first
        return out


class _March:
    """One stage: where it is, and what has been recorded."""

    def __init__(self, stepper: AbstractStepper, problem: Problem, rest: RestWatch | None) -> None:
        self.stepper, self.problem, self.rest = stepper, problem, rest
        self.held: Held | None = None
        self.pending = np.array([] if problem.save is None else problem.save, np.float64)
        self.recorded: list[tuple[np.ndarray, np.ndarray]] = []
        self.pieces: list[Steps] = []
        self.accepted = self.attempts = 0
        self.budget = FIRST_BUDGET
        self.event: AbstractEvent | None = None

    def run(self) -> Solution:
        """Integrate until the end, an event, a cap, a failure or an interrupt."""
        # (a method may have been compiled before)
        began = time.perf_counter() - self._compiling()
        result = self._begin()
        while result is None:
            result = self._go_on()
        stats = {**empty_stats(), **self.stepper.work(self.accepted, self.attempts)}
        stats["steps"], stats["events"] = self.accepted, int(self.event is not None)
        if self.rest is not None:
            stats["compile_seconds"] += self.rest.compile_seconds
            stats["rhs"] += self.rest.jacobians
            stats["jacobians"] += self.rest.jacobians
        stats["run_seconds"] = time.perf_counter() - began - stats["compile_seconds"]
        stats.update(self.problem.tolerances.stats())
        return Solution(
            s=np.concatenate([s for s, _ in self.recorded]),
            Y=np.concatenate([Y for _, Y in self.recorded]),
            s_final=float(self.last.s[-1]), Y_final=self.last.Y[-1].copy(), stats=stats,
            result=result, event=self.event,
            dense=self._dense() if self.problem.dense else None,
        )  # fmt: skip

    def _dense(self) -> AbstractDense:
        dense, held = MarchDense(self.stepper, self.pieces), self.held
        if held is None or held.s_end <= dense.s_last:
            return dense
        return HeldDense(dense, held.s_end, lambda s: self.problem.flow.held_to(held.s, held.Y, s))

    def _begin(self) -> Result | None:
        problem = self.problem
        self.last = start = self.stepper.start()
        if problem.save is None:
            self.recorded.append((start.s, start.Y))
        else:
            here = int(np.searchsorted(self.pending, start.values[0, -1], side="right"))
            self.recorded.append((np.repeat(start.s, here), np.repeat(start.Y, here, axis=0)))
            self.pending = self.pending[here:]
        if problem.dense:
            self.pieces.append(start)
        if problem.s0 >= problem.s_end:
            return Result("reached")
        if start.ended is not None:
            return Result(start.ended, start.detail)
        return self._stop(start) if start.crossed else None

    def _go_on(self) -> Result | None:
        problem, cap = self.problem, self.problem.step_cap
        left = 2**62 if cap is None else cap - self.accepted
        target = self.pending[0] if self.pending.size else np.inf
        began, compiling = time.perf_counter(), self._compiling()
        budget = min(self.stepper.pace or self.budget, problem.max_steps - self.attempts)
        steps = self.stepper.advance(budget, left, target)
        seconds = time.perf_counter() - began - (self._compiling() - compiling)
        self.budget = next_budget(self.budget, steps.attempts, seconds)
        self.attempts += steps.attempts
        self.accepted += len(steps.s) - 1
        crossed = len(steps.s) > 1 and steps.crossed
        steps = self._cut(steps) if crossed else steps
        stop = self._stop(steps) if crossed else None
        self.last = steps = self._rested(steps)
        self._record(steps)
        last = steps.Y[-1]
        heard = problem.look(float(steps.s[-1]), lambda: last, steps=self.accepted)
        if self.held is not None:
            return self._hold(self.held)
        if stop is not None:
            return stop
        if steps.ended is not None:
            return Result(steps.ended, steps.detail)
        if cap is not None and self.accepted >= cap:
            return Result("steps")
        if self.attempts >= problem.max_steps:
            return Result("max_steps")
        return heard

    def _compiling(self) -> float:
        return self.stepper.work(self.accepted, self.attempts)["compile_seconds"]

    def _stop(self, steps: Steps) -> Result:
        values = steps.values[-1, :-1]
        self.event = self.problem.events[int(np.argmax(np.nan_to_num(values, nan=-np.inf)))]
        return Result("event")

    def _rested(self, steps: Steps) -> Steps:
        """The steps up to where the flow rests, if it does before a stop that is no time."""
        if self.rest is None or (self.event is not None and self.event.quantity != "time"):
            return steps
        over = self.event is not None or steps.ended is not None
        self.held = held = self.rest.look(steps.s, steps.Y, over=over)
        if held is None or held.index == len(steps.s) - 1:
            return steps
        kept = slice(held.index + 1)
        self.accepted -= len(steps.s) - 1 - held.index
        return replace(steps, s=steps.s[kept], Y=steps.Y[kept], values=steps.values[kept])

    def _hold(self, held: Held) -> Result:
        """Keep a flow that rests as it is until the end asked for."""
        problem, flow = self.problem, self.problem.flow
        self.event = None
        last = np.array([held.s_end]), held.Y_end[None]
        if held.s_end > held.s:
            self.last = replace(self.last, s=last[0], Y=last[1])
        if problem.save is None and held.s_end > held.s:
            self.recorded.append(last)
        elif problem.save is not None and problem.save_by is None:
            s = self.pending[self.pending <= held.s_end]
            Y = [flow.held_to(held.s, held.Y, at) for at in s]
            self.recorded.append((s, np.reshape(Y, (s.size, held.Y.size))))
        elif problem.save is not None:
            end = float(flow.log1p_t(*last)[0])
            rows = [flow.held_until(held.s, held.Y, at) for at in self.pending[self.pending <= end]]
            self.recorded += [(np.array([s]), Y[None]) for s, Y in rows]
        return Result(held.result, held.said)

    def _cut(self, steps: Steps) -> Steps:
        """The steps up to the first point at which an event is >= 0."""
        at = np.array([len(steps.s) - 2])
        s, Y, values = steps.s.copy(), steps.Y.copy(), steps.values.copy()

        def probe(which: np.ndarray, x: np.ndarray) -> np.ndarray:
            Y_probe, probed = self.stepper.retake(steps, at, x)
            gap = _foremost(probed)
            if gap[0] >= 0:
                s[-1:], Y[-1:], values[-1:] = x, Y_probe, probed
            return gap

        bracketed_roots(
            probe, steps.s[at], _foremost(steps.values[at]), steps.s[at + 1],
            _foremost(steps.values[at + 1]), _widths(steps, at),
        )  # fmt: skip
        return replace(steps, s=s, Y=Y, values=values)

    def _record(self, steps: Steps) -> None:
        if self.problem.dense and len(steps.s) > 1:
            self.pieces.append(steps)
        if self.problem.save is None:
            self.recorded.append((steps.s[1:], steps.Y[1:]))
        elif len(steps.s) > 1:
            self._save(steps)

    def _save(self, steps: Steps) -> None:
        """Record the states at the save points passed."""
        # (a stop at a save point may fall short of it by a rounding)
        last = steps.values[-1, -1]
        last += _SAVE_SHARE * (1.0 + abs(last))
        passed = int(np.searchsorted(self.pending, last, side="right"))
        targets, self.pending = self.pending[:passed], self.pending[passed:]
        if not passed:
            return
        measure = steps.values[:, -1]
        at = np.clip(np.searchsorted(measure, targets, side="left") - 1, 0, len(steps.s) - 2)
        if self.problem.save_by is None:
            self.recorded.append((targets, self.stepper.retake(steps, at, targets)[0]))
            return
        states = steps.Y[at + 1].copy()
        exact = _SAVE_SHARE * (1.0 + np.abs(targets))

        def probe(which: np.ndarray, x: np.ndarray) -> np.ndarray:
            Y, values = self.stepper.retake(steps, at[which], x)
            gap = values[:, -1] - targets[which]
            after = gap >= -exact[which]
            states[which[after]] = Y[after]
            return gap

        s = bracketed_roots(
            probe, steps.s[at], measure[at] - targets, steps.s[at + 1], measure[at + 1] - targets,
            _widths(steps, at), exact,
        )  # fmt: skip
        self.recorded.append((s, states))


def _foremost(values: np.ndarray) -> np.ndarray:
    """The largest event of each row; NaN is before."""
    return np.max(np.nan_to_num(values[:, :-1], nan=-np.inf, posinf=np.inf, neginf=-np.inf), axis=1)


def _widths(steps: Steps, at: np.ndarray) -> np.ndarray:
    """Widths at which brackets in steps ``at`` are narrow enough."""
    return _STEP_SHARE * (steps.s[at + 1] - steps.s[at]) + _CLOCK_SHARE * np.abs(steps.s[at + 1])
