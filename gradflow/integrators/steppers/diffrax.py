"""Runge-Kutta methods of diffrax, explicit and implicit, inside one compiled loop.

diffrax supplies the steps and the step-size controller [kidger2022neural]; the loop is ours, for
four reasons. Stops and save points are reached by *steps of the method* from the last accepted
state, not by its interpolant, so they are as accurate as the steps, and saving or stopping does not
change the sequence of steps. Any number of steps fits in memory: the loop hands a bounded buffer to
the host and continues exactly where it was. Work is counted where it is done. And the field is
traced once per method, which is most of the compile time.

An iteration of the loop is one call of ``solver.step`` in one of four phases::

    START   a step of length 0: values of the events, FSAL state, first step size
    ADVANCE the usual step, accepted or rejected by the controller
    LOCATE  an accepted step crossed an event: probe inside it (regula falsi, bisection)
    SAVE    an accepted step passed save points: step to each of them
"""

from __future__ import annotations

import functools as ft
import time
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from diffrax import VeryChord
from jax import lax

from gradflow.integrators.contract import (
    AbstractIntegrator,
    Problem,
    Result,
    Solution,
    register_integrator,
)
from gradflow.integrators.statistics import empty_stats
from gradflow.numerics.compiled import compile_once

_START, _ADVANCE, _LOCATE, _SAVE = 0, 1, 2, 3
_RUNNING, _REACHED, _EVENT, _TOO_SMALL, _NON_FINITE = 0, 1, 2, 3, 4
_CODES = {_REACHED: "reached", _EVENT: "event", _TOO_SMALL: "step_too_small",
          _NON_FINITE: "non_finite"}  # fmt: skip

#: Bytes of recorded states handed over at once, and bounds on how many states that is.
_BUFFER_BYTES = 2**23
_MIN_ROWS, _MAX_ROWS = 16, 4096
#: Attempted steps between two looks at the host (progress, interrupts).
_SEGMENT = 20_000

#: Step-size controller: a trace of proportional control, which rejects fewer steps on decaying
#: problems and costs no steps elsewhere.
_PID: dict[str, Any] = {"pcoeff": 0.1, "icoeff": 0.9}

_EXPLICIT = {
    "tsit5": diffrax.Tsit5,
    "dopri5": diffrax.Dopri5,
    "dopri8": diffrax.Dopri8,
    "bosh3": diffrax.Bosh3,
    "heun": diffrax.Heun,
}
_IMPLICIT = {
    "kvaerno3": diffrax.Kvaerno3,
    "kvaerno4": diffrax.Kvaerno4,
    "kvaerno5": diffrax.Kvaerno5,
}


class _Point(NamedTuple):
    """A state on the trajectory with everything needed to go on from it."""

    s: Any
    Y: Any
    solver_state: Any
    events: Any
    measure: Any


class _Carry(NamedTuple):
    base: _Point  # last committed point
    ahead: _Point  # end of the accepted step (or located stop), not yet committed
    h: Any  # next step size
    controller: Any
    phase: Any
    stopping: Any  # a stop has been located; commit it and finish
    bracket: Any  # (a, value at a, b, value at b, side hit last, probes so far)
    target: Any  # index of the next save point in the window
    code: Any
    accepted: Any
    attempts: Any
    first_stages: Any  # steps that had to evaluate their first stage
    calls: Any


class _Out(NamedTuple):
    carry: _Carry
    saved_s: Any
    saved_Y: Any
    saved: Any


def _max_norm(x: Any) -> Any:
    return jnp.max(jnp.abs(x))


def _solver_and_terms(name: str, flow: Any, rtol: Any, atol: Any) -> tuple[Any, Any]:
    field = diffrax.ODETerm(lambda s, Y, args: flow.field(s, Y))
    if name in _EXPLICIT:
        return _EXPLICIT[name](scan_kind="lax"), field
    chord = VeryChord(rtol=rtol, atol=atol, norm=optx.max_norm)
    return _IMPLICIT[name](root_finder=chord, scan_kind="lax"), field


def _select(pred: Any, new: Any, old: Any) -> Any:
    return jax.tree_util.tree_map(ft.partial(jnp.where, pred), new, old)


def _segment(
    name: str,
    rows: int,
    saving_targets: bool,
    flow: Any,
    events: tuple[Any, ...],
    measure: Any,
    controls: dict[str, Any],
    carry: _Carry,
) -> _Out:
    """Advance until the stop, a full buffer, or the segment's share of steps."""
    rtol, atol, s_end = controls["rtol"], controls["atol"], controls["s_end"]
    solver, terms = _solver_and_terms(name, flow, rtol, atol)
    order = solver.error_order(terms)
    controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=_max_norm, **_PID)
    targets = controls["targets"]
    dim = carry.base.Y.shape[0]
    staged = bool(events) or saving_targets  # whether a step can be held back before commit

    def event_values(s: Any, Y: Any) -> Any:
        if not events:
            return jnp.zeros((0,))
        return jnp.stack([jnp.asarray(event(flow, s, Y), jnp.float64) for event in events])

    def measure_of(s: Any, Y: Any) -> Any:
        return s if measure is None else jnp.asarray(measure(flow, s, Y), jnp.float64)

    def gap_to(point_events: Any, point_measure: Any, phase: Any, target: Any) -> Any:
        """What the bracket looks for: < 0 before, >= 0 after."""
        worst = jnp.max(point_events) if events else jnp.asarray(-1.0)
        worst = jnp.where(jnp.isnan(worst), -jnp.inf, worst)
        if not saving_targets:
            return worst
        return jnp.where(phase == _LOCATE, worst, point_measure - targets[target])

    def body(state: tuple[_Carry, Any, Any, Any]) -> tuple[_Carry, Any, Any, Any]:
        c, saved_s, saved_Y, saved = state
        base = c.base
        starting = c.phase == _START
        advancing = c.phase == _ADVANCE
        # Where this step goes.
        free = base.s + c.h
        # 1e-12 of a step left over would make the next one meaningless.
        free = jnp.where(free > s_end - 1e-12 * c.h, s_end, free)
        x = jnp.where(starting, base.s, free)
        if staged:
            a, value_a, b, value_b, side, probes = c.bracket
            width = b - a
            tolerance = 1e-13 * (c.ahead.s - base.s) + 2e-16 * jnp.abs(b)
            secant = b - value_b * (width / (value_b - value_a))
            middle = a + 0.5 * width
            inside = (secant > a) & (secant < b) & (probes % 8 != 7)
            x_probe = jnp.where(inside, secant, middle)
            x_probe = jnp.clip(
                x_probe, jnp.minimum(a + 0.5 * tolerance, middle),
                jnp.maximum(b - 0.5 * tolerance, middle),
            )  # fmt: skip
            if saving_targets and measure is None:
                x_probe = jnp.where(c.phase == _SAVE, targets[c.target], x_probe)
            x = jnp.where(starting | advancing, x, x_probe)

        Y1, error, _, solver_state, _ = solver.step(
            terms, base.s, x, base.Y, None, base.solver_state, False
        )
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        keep, _, next_t1, _, controller_state, _ = controller.adapt_step_size(
            base.s, x, base.Y, Y1, None, error, order, c.controller
        )
        accepted = advancing & keep
        # adapt_step_size returns end points; at s >> h their difference has lost digits, so the
        # factor is what is kept.
        factor = (next_t1 - jnp.where(keep, x, base.s)) / (x - base.s)
        factor = jnp.where(jnp.isfinite(factor), jnp.clip(factor, 0.1, 10.0), 0.1)
        h = jnp.where(advancing, (x - base.s) * factor, c.h)
        # Clipping to s_end must not shrink what is remembered, and START proposes its own.
        h = jnp.where(accepted & (x >= s_end), jnp.maximum(h, c.h), h)
        h = jnp.where(starting, _first_step(controls, base, solver_state), h)
        point = _Point(x, Y1, solver_state, event_values(x, Y1), measure_of(x, Y1))
        first_stages = c.first_stages
        if base.solver_state is not None:
            first_stages = first_stages + jnp.where(base.solver_state[0], 1, 0)

        crossed = jnp.any(point.events >= 0) if events else jnp.asarray(False)
        code = jnp.where(
            starting & ~jnp.all(jnp.isfinite(Y1)),
            _NON_FINITE,
            jnp.where(starting & crossed, _EVENT, c.code),
        )
        code = jnp.where((code == _RUNNING) & advancing & ~(x > base.s), _TOO_SMALL, code)

        stopping = c.stopping
        if not staged:
            commit = accepted
            ahead = point
            phase = jnp.where(starting, _ADVANCE, c.phase)
            bracket, target = c.bracket, c.target
        else:
            locating = c.phase == _LOCATE
            saving = c.phase == _SAVE
            value = gap_to(point.events, point.measure, c.phase, c.target)
            after = value >= 0
            ahead = _select(accepted | (locating & after), point, c.ahead)
            # Shrink the bracket (Illinois: halve the value of an end that stays put twice).
            new_side = jnp.where(after, 1, -1)
            weight = jnp.where(new_side == side, 0.5, 1.0)
            new_a = jnp.where(after, a, x)
            new_va = jnp.where(after, weight * value_a, value)
            new_b = jnp.where(after, x, b)
            new_vb = jnp.where(after, value, weight * value_b)
            bracket = (new_a, new_va, new_b, new_vb, new_side, probes + 1)
            narrow = (new_b - new_a <= tolerance) | (probes > 100) | (value == 0)
            located = locating & narrow
            stopping = stopping | located
            hit = saving if measure is None else saving & (narrow | (jnp.abs(value) <= 4e-16 * (
                1.0 + jnp.abs(targets[c.target]))))  # fmt: skip
            target = c.target + jnp.where(hit, 1, 0) if saving_targets else c.target
            to_locate = accepted & crossed
            settled = (accepted & ~crossed) | located | hit
            if saving_targets:
                window_end = target >= rows
                more = jnp.where(
                    window_end, False, targets[jnp.minimum(target, rows - 1)] <= ahead.measure
                )
                # A full window: stay in SAVE, the host slides the window and comes back.
                to_save = settled & (more | (hit & window_end))
            else:
                to_save = jnp.asarray(False)
            commit = settled & ~to_save
            phase = jnp.where(
                to_locate, _LOCATE, jnp.where(to_save, _SAVE, jnp.where(commit, _ADVANCE, c.phase))
            )
            phase = jnp.where(starting, _ADVANCE, phase)
            fresh = to_locate | to_save
            start_value = gap_to(base.events, base.measure, phase, jnp.minimum(target, rows - 1))
            end_value = gap_to(ahead.events, ahead.measure, phase, jnp.minimum(target, rows - 1))
            bracket = _select(
                fresh, (base.s, start_value, ahead.s, end_value, *([jnp.asarray(0)] * 2)), bracket
            )
            if saving_targets:
                # The last row is a dump for iterations that record nothing.
                row = jnp.where(hit, saved, rows)
                saved_s = saved_s.at[row].set(x)
                saved_Y = saved_Y.at[row].set(Y1)
                saved = saved + jnp.where(hit, 1, 0)
        new_base = _select(commit, ahead, base)
        # The start is committed without moving: its events and FSAL state are valid from now on.
        new_base = _select(starting, point._replace(Y=base.Y), new_base)
        if not saving_targets:
            row = jnp.where(commit, saved, rows)
            saved_s = saved_s.at[row].set(new_base.s)
            saved_Y = saved_Y.at[row].set(new_base.Y)
            saved = saved + jnp.where(commit, 1, 0)
        code = jnp.where(commit & stopping, _EVENT, code)
        code = jnp.where((code == _RUNNING) & commit & (new_base.s >= s_end), _REACHED, code)
        carry = _Carry(
            base=new_base, ahead=ahead if staged else c.ahead, h=h,
            controller=_select(advancing, controller_state, c.controller), phase=phase,
            stopping=stopping, bracket=bracket, target=target, code=code,
            accepted=c.accepted + jnp.where(commit, 1, 0),
            attempts=c.attempts + jnp.where(advancing, 1, 0), first_stages=first_stages,
            calls=c.calls + 1,
        )  # fmt: skip
        return carry, saved_s, saved_Y, saved

    def go_on(state: tuple[_Carry, Any, Any, Any]) -> Any:
        c, _, _, saved = state
        return (
            (c.code == _RUNNING)
            & (saved < rows)
            # An accepted step is finished (its stops and save points) whatever the cap says.
            & ((c.attempts < controls["attempt_cap"]) | (c.phase > _ADVANCE))
            & (c.accepted < controls["step_cap"])
        )

    buffers = (jnp.zeros((rows + 1,)), jnp.zeros((rows + 1, dim)), jnp.asarray(0))
    carry, saved_s, saved_Y, saved = lax.while_loop(go_on, body, (carry, *buffers))
    return _Out(carry, saved_s, saved_Y, saved)


def _first_step(controls: dict[str, Any], base: _Point, solver_state: Any) -> Any:
    """Hairer's first guess, 1 % of the time in which the state changes by itself.

    Without a stored field value (methods that are not FSAL): a small step; growing it tenfold a
    step costs little.
    """
    small = controls["small_step"]
    if solver_state is None:
        return small
    field = solver_state[1]
    scale = controls["atol"] + controls["rtol"] * jnp.abs(base.Y)
    size, speed = _max_norm(base.Y / scale), _max_norm(field / scale)
    guess = 0.01 * size / speed
    bad = (size < 1e-5) | (speed < 1e-5) | ~jnp.isfinite(guess)
    return jnp.where(bad, small, guess)


def _rows_for(dim: int) -> int:
    return int(np.clip(_BUFFER_BYTES // (8 * dim), _MIN_ROWS, _MAX_ROWS))


class DiffraxIntegrator(AbstractIntegrator):
    """A Runge-Kutta method of diffrax behind the contract.

    Parameters
    ----------
    name : str
        Explicit: ``tsit5``, ``dopri5``, ``dopri8``, ``bosh3``, ``heun``; implicit:
        ``kvaerno3``, ``kvaerno4``, ``kvaerno5``.

    Notes
    -----
    Error control: a step is accepted when max_i |e_i| / (atol_i + rtol max(|Y_i|, |Y_i^new|)) < 1
    over the controlled components (the largest, not the mean: one small neuron counts as much as a
    thousand others).

    ``stats["rhs"]`` is exact for explicit methods: evaluations in accepted, rejected and probing
    steps. For implicit methods the number of Newton iterations is not reported by diffrax; the
    count is a lower bound, two residuals per implicit stage (its chord method never does fewer)
    plus the explicit first stage, and ``stats["jacobians"]`` is one per attempted or probing step.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def solve(self, problem: Problem) -> Solution:
        """Integrate one stage (see :class:`~gradflow.integrators.contract.AbstractIntegrator`)."""
        stats = empty_stats()
        started = time.perf_counter()
        dim = problem.Y0.shape[0]
        rows = _rows_for(dim)
        atol = problem.tolerances.atol_with(np.inf)
        saving_targets = problem.save is not None
        pending = np.asarray(problem.save if saving_targets else [], np.float64)
        measure = problem.save_by if saving_targets else None
        parts_s, parts_Y = [], []
        if saving_targets:
            first = (
                problem.s0
                if measure is None
                else float(measure(problem.flow, jnp.asarray(problem.s0), jnp.asarray(problem.Y0)))
            )
            here = int(np.searchsorted(pending, first, side="right"))
            parts_s.append(np.full(here, problem.s0))
            parts_Y.append(np.repeat(problem.Y0[None, :], here, axis=0))
            pending = pending[here:]
        else:
            parts_s.append(np.array([problem.s0]))
            parts_Y.append(problem.Y0[None, :])

        step_cap = problem.step_cap if problem.step_cap is not None else 2**62
        controls = {
            "rtol": np.float64(problem.tolerances.rtol_local),
            "atol": atol,
            "s_end": np.float64(problem.s_end),
            "small_step": np.float64(1e-6 * max(1.0, abs(problem.s0))),
            "targets": np.full(rows if saving_targets else 1, np.inf),
            "attempt_cap": np.int64(0),
            "step_cap": np.int64(step_cap),
        }
        carry = self._initial_carry(problem, atol)
        key = (self.name, rows, saving_targets)
        fn = ft.partial(_segment, self.name, rows, saving_targets)
        result: Result | None = None
        if problem.s0 >= problem.s_end:
            result = Result("reached")
        compile_seconds = 0.0
        while result is None:
            attempts = int(carry.attempts)
            controls["attempt_cap"] = np.int64(min(attempts + _SEGMENT, problem.max_steps))
            if saving_targets:
                window = np.full(rows, np.inf)
                window[: min(rows, pending.size)] = pending[:rows]
                controls["targets"] = window
            program, arrays, seconds = compile_once(
                fn, key, (problem.flow, problem.events, measure, controls, carry)
            )
            compile_seconds += seconds
            out = program(*arrays)
            carry = out.carry
            saved = int(out.saved)
            parts_s.append(np.asarray(out.saved_s)[:saved].copy())
            parts_Y.append(np.asarray(out.saved_Y)[:saved].copy())
            if saving_targets:
                pending = pending[saved:]
                carry = self._slide(carry, pending, problem)
            code = int(carry.code)
            if code != _RUNNING:
                result = Result(_CODES[code])
            elif int(carry.accepted) >= step_cap:
                result = Result("steps")
            elif int(carry.attempts) >= problem.max_steps:
                result = Result("max_steps")
            here = carry.base
            ended = problem.look(
                float(here.s), lambda Y=here.Y: np.asarray(Y), steps=int(carry.accepted)
            )
            result = result or ended
        event = None
        if result.name == "event":
            event = problem.events[int(np.argmax(np.asarray(carry.base.events)))]
            stats["events"] = 1
        accepted, calls = int(carry.accepted), int(carry.calls)
        stats["steps"] = accepted
        stats["rejected"] = int(carry.attempts) - accepted
        stats.update(self._work(calls, int(carry.first_stages)))
        stats.update(problem.tolerances.stats())
        stats["compile_seconds"] = compile_seconds
        stats["run_seconds"] = time.perf_counter() - started - compile_seconds
        return Solution(
            s=np.concatenate(parts_s),
            Y=np.concatenate(parts_Y),
            s_final=float(carry.base.s),
            Y_final=np.array(carry.base.Y),
            stats=stats,
            result=result,
            event=event,
        )

    def _initial_carry(self, problem: Problem, atol: np.ndarray) -> _Carry:
        flow, Y0 = problem.flow, problem.Y0
        solver, _ = _solver_and_terms(self.name, flow, problem.tolerances.rtol_local, atol)
        state: Any = None
        if solver.tableau.fsal:
            state = (np.bool_(True), np.zeros_like(Y0))
        point = _Point(
            np.float64(problem.s0), Y0, state, np.full(len(problem.events), -1.0), np.float64(0.0)
        )
        one, none = np.float64(1.0), np.int64(0)
        return _Carry(
            base=point, ahead=point, h=one, controller=(one, one, np.bool_(False)),
            phase=np.int64(_START), stopping=np.bool_(False),
            bracket=(one, one, one, one, none, none), target=none, code=none, accepted=none,
            attempts=none, first_stages=none, calls=none,
        )  # fmt: skip

    @staticmethod
    def _slide(carry: _Carry, pending: np.ndarray, problem: Problem) -> _Carry:
        """Move the window of save points to the next pending one, between two segments."""
        carry = carry._replace(target=np.int64(0))
        if int(carry.phase) != _SAVE or int(carry.code) != _RUNNING:
            return carry
        base, ahead = carry.base, carry.ahead
        if pending.size and pending[0] <= float(ahead.measure):
            bracket = (
                base.s, np.float64(base.measure - pending[0]), ahead.s,
                np.float64(ahead.measure - pending[0]), np.int64(0), np.int64(0),
            )  # fmt: skip
            return carry._replace(bracket=bracket)
        # The window ended exactly with this step's last save point: commit the step here.
        code = _RUNNING
        if bool(carry.stopping):
            code = _EVENT
        elif float(ahead.s) >= problem.s_end:
            code = _REACHED
        return carry._replace(
            base=ahead, phase=np.int64(_ADVANCE), code=np.int64(code),
            accepted=np.int64(carry.accepted) + 1,
        )  # fmt: skip

    def _work(self, calls: int, first_stages: int) -> dict[str, int]:
        """Right-hand sides and Jacobians of ``calls`` steps of the method."""
        solver, _ = _solver_and_terms(self.name, None, 1e-3, 1e-3)
        tableau = solver.tableau
        stages = tableau.num_stages
        if self.name in _EXPLICIT:
            return {"rhs": calls * (stages - int(tableau.fsal)) + first_stages, "jacobians": 0}
        return {"rhs": 2 * calls * (stages - 1) + first_stages, "jacobians": calls}


for _name in (*_EXPLICIT, *_IMPLICIT):
    register_integrator(_name, ft.partial(DiffraxIntegrator, _name))
