"""Looking, along an integration, whether its flow has come to rest, and keeping it there.

The question (:mod:`.rest`) costs a Jacobian and a factorisation, so it is asked only where the
state has not moved by more than the tolerance since t was half of what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradflow.flows.event import limits
from gradflow.integrators.contract import AbstractDense, Problem
from gradflow.integrators.rest import Rest, at_rest
from gradflow.numerics.compiled import compile_once
from gradflow.numerics.jacobian import has_jacobian, jacobian

#: Time for which a flow must stay where no end was asked for, in units of that passed.
_WITHOUT_END = 100.0
#: Coordinates up to which a Jacobian is stored and factored.
_MOST_COORDINATES = 4000
#: Differences of ln t between looks, and between states that are kept to compare with.
_LOOKS_APART, _DOUBLED = 0.3, float(np.log(2.0))
#: Where the loss is a clock, velocities in physical time underflow below this.
_LEAST_LOG_LOSS = -600.0

#: Velocity, Jacobian and noise of the velocity.
Motion = Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray | None]]
Flow = Any  # a pytree; see :class:`~gradflow.flows.flow.Flow`


def _motion(flow: Flow, Y: Array) -> tuple[Array, Array]:
    y = flow.split(Y)[0]
    return flow.velocity(y), jacobian(flow.velocity, y)


@dataclass(frozen=True)
class Held:
    """A flow that rests, and the end to which it is kept.

    Attributes
    ----------
    rest : Rest
    index : int
        Which of the states looked at.
    s, Y : float, ndarray (D,)
        Where it came to rest.
    s_end, Y_end : float, ndarray (D,)
        The end asked for; the same where none was.
    result : str
        "stationary" where a loss that vanishes only at infinity stays positive, and what was asked
        for never comes, or at a time beyond the clock; else "rest".
    said : str
        When, how slow, at which loss.
    """

    rest: Rest
    index: int
    s: float
    Y: np.ndarray
    s_end: float
    Y_end: np.ndarray
    result: str
    said: str


class RestWatch:
    """Looks whether the flow of a problem has come to rest.

    Parameters
    ----------
    problem : Problem
    motion : callable, optional
        Velocity, Jacobian, and what rounding leaves of the velocity (D,), (D, D), (D,), at the last
        state; by default by differentiation of the flow.

    Attributes
    ----------
    compile_seconds : float
    jacobians : int
        Evaluations of velocity and Jacobian.
    """

    def __init__(self, problem: Problem, motion: Motion | None = None) -> None:
        self.problem, self.flow, self.motion = problem, problem.flow, motion
        self.compile_seconds, self.jacobians = 0.0, 0
        size = self.flow.split(problem.Y0)[0].size
        self.rtol = problem.tolerances.rtol
        self.atol = float(np.min(problem.tolerances.asked_atol[:size], initial=np.inf))
        self.looks = size <= _MOST_COORDINATES and problem.step_cap is None
        self.marks: list[tuple[float, np.ndarray]] = []  # ln t, and the state there
        self.next = -np.inf  # ln t before which nothing is asked

    def look(self, s: np.ndarray, Y: np.ndarray, *, over: bool) -> Held | None:
        """Where it rests first of some accepted states; None where it moves at all of them.

        Parameters
        ----------
        s, Y : ndarray, shapes (k,), (k, D)
            In order, each call's first being the last of the call before.
        over : bool
            Whether these are the last.
        """
        if not self.looks:
            return None
        log_t, states = np.asarray(self.flow.log_t(s, Y)), self.flow.split(Y)[0]
        if not self.marks and self.motion is None and np.isfinite(log_t[0]):
            # (gone on from a rest, rounding alone would be followed for as long again)
            held = self._ask(float(s[0]), Y[0], 0)
            if held is not None:
                return held
        # (a motion of the stepper's own is known at its last state only)
        last = len(log_t) - 1
        at = 0 if self.motion is None else last
        if at:
            self._mark(log_t, states, last)
        while at <= last:
            at = max(at, int(np.searchsorted(log_t, self.next)))
            at = last if over and at > last else at
            self._mark(log_t, states, min(at, last))
            if at > last or not np.isfinite(log_t[at]):
                return None
            self.next = log_t[at] + _LOOKS_APART
            if self._stays(log_t[at], states[at]):
                held = self._ask(float(s[at]), Y[at], at)
                if held is not None:
                    return held
                self.next = log_t[at] + _DOUBLED
            at += 1
        return None

    def _mark(self, log_t: np.ndarray, states: np.ndarray, last: int) -> None:
        """Keep some of the states up to ``last`` to compare with."""
        at = 0
        while at <= last:
            if self.marks:
                at = max(at, int(np.searchsorted(log_t, self.marks[-1][0] + _LOOKS_APART)))
            if at <= last:
                self.marks.append((float(log_t[at]), states[at]))
            at += 1

    def _stays(self, log_t: float, here: np.ndarray) -> bool:
        """Whether it has not moved since t was half of what it is."""
        half = log_t - _DOUBLED
        while len(self.marks) > 1 and self.marks[1][0] <= half:
            self.marks.pop(0)
        mark, before = self.marks[0]
        moved = np.max(np.abs(here - before), initial=0.0)
        allowed = max(self.rtol * np.max(np.abs(here), initial=0.0), self.atol)
        return mark <= half and bool(moved <= allowed)

    def _ask(self, s: float, Y: np.ndarray, index: int) -> Held | None:
        flow = self.flow
        told = flow.describe(s, Y)
        if flow.clock.states and told["log_loss"] < _LEAST_LOG_LOSS:
            return None
        if self.motion is None and not has_jacobian(flow.velocity, jnp.asarray(flow.split(Y)[0])):
            self.looks = False
            return None
        s_end, Y_end = end = self._end(s, Y)
        with np.errstate(over="ignore"):
            t, t_end = (float(flow.t(*point)) for point in ((s, Y), end))
        never = not (self._timed and np.isfinite(s_end))
        left = t_end - t if self._timed else _WITHOUT_END * t
        F, J, noise = self._motion(Y)
        # (as long again as it took, at least: else every flow rests just before its end)
        T = max(left, t) if np.isfinite(t) else np.inf
        rest = at_rest(F, J, flow.split(Y)[0], T, self.rtol, noise, atol=self.atol)
        if rest is None or self._would_stop(rest, s_end, Y_end):
            return None
        said = (
            f"at ln t = {told['log_t']:.6g}, speed {rest.speed:.3g}, loss {told['loss']:.6g}; in "
            f"{T:.3g} more it moves by {rest.displacement:.1e}"
        )
        if not np.isfinite(s_end):
            s_end, Y_end = s, Y
        lost = never and flow.least_margin(jnp.asarray(Y)) is not None
        return Held(rest, index, s, Y, s_end, Y_end, "stationary" if lost else "rest", said)

    def _motion(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        self.jacobians += 1
        if self.motion is not None:
            return self.motion()
        program, arrays, seconds = compile_once(_motion, "rest", (self.flow, jnp.asarray(Y)))
        self.compile_seconds += seconds
        F, J = (np.asarray(part) for part in program(*arrays))
        return F, J, None

    @property
    def _timed(self) -> bool:
        """Whether an end was asked for that comes by itself."""
        return bool(np.isfinite(self.problem.s_end) or limits(self.problem.events, "time"))

    def _end(self, s: float, Y: np.ndarray) -> tuple[float, np.ndarray]:
        """The end asked for, reached at rest; the point itself where there is none."""
        ends = [self.flow.held_until(s, Y, at) for at in limits(self.problem.events, "time")]
        s_end = self.problem.s_end
        if np.isfinite(s_end):
            ends.append((s_end, self.flow.held_to(s, Y, s_end)))
        return min(ends, key=lambda end: end[0], default=(s, Y))

    def _would_stop(self, rest: Rest, s: float, Y: np.ndarray) -> bool:
        """Whether what is still to come meets a stop that is no time."""
        later = Y.copy()
        later[: rest.to_come.size] += rest.to_come
        at = jnp.asarray(s), jnp.asarray(later)
        others = [event for event in self.problem.events if event.quantity != "time"]
        return any(float(event(self.flow, *at)) >= 0 for event in others)


class HeldDense(AbstractDense):
    """A solution that rests from where another one ends."""

    def __init__(
        self, dense: AbstractDense, s_last: float, held: Callable[[float], np.ndarray]
    ) -> None:
        self._dense, self._held = dense, held
        self.s_first, self.s_last = dense.s_first, s_last

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """States (k, D) at clock values ``s`` (k,)."""
        s = np.asarray(s, np.float64)
        self._check(s)
        out = self._dense(np.minimum(s, self._dense.s_last))
        for i in np.flatnonzero(s > self._dense.s_last):
            out[i] = self._held(float(s[i]))
        return out
