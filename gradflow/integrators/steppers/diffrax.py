"""Runge-Kutta methods of diffrax, explicit and implicit.

diffrax supplies the steps and the step-size controller [kidger2022neural]. One compiled program a
method and flow does all there is to do, in one of three modes, so that the field is traced once,
which is most of the compile time::

    START    a step of length 0: values of the events, FSAL state, first step size
    ADVANCE  accepted and rejected steps, until an event is >= 0 or the buffer is full
    RETAKE   steps from given states to given clock values
"""

from __future__ import annotations

import dataclasses
import functools as ft
from typing import Any, NamedTuple, cast

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array, lax
from jaxtyping import PyTree

from gradflow.integrators.contract import (
    AbstractEvent,
    AbstractIntegrator,
    Problem,
    Solution,
    register_integrator,
    register_solver_type,
)
from gradflow.integrators.march import AbstractStepper, Steps, march
from gradflow.integrators.steppers import stiffness
from gradflow.integrators.steppers.stiffness import Stiffness
from gradflow.integrators.until import LogTimeMeasure
from gradflow.numerics.compiled import compile_once
from gradflow.validation import fail

_START, _ADVANCE, _RETAKE = 0, 1, 2
_RUNNING, _REACHED, _TOO_SMALL, _NON_FINITE = 0, 1, 2, 3
_ENDED = {_RUNNING: None, _REACHED: "reached", _TOO_SMALL: "step_too_small",
          _NON_FINITE: "non_finite"}  # fmt: skip

#: Bytes of states handed over at once, and bounds on how many states that is.
_BUFFER_BYTES = 2**23
_MIN_ROWS, _MAX_ROWS = 16, 4096
#: Steps retaken in one call.
_MAX_RETAKES = 64

#: Step-size controller: a trace of proportional control, which rejects fewer steps on decaying
#: problems and costs no steps elsewhere.
_PCOEFF, _ICOEFF = 0.1, 0.9
#: For implicit methods of order above 3: on stiff modes their error estimates change faster with
#: the step than their order says, so that the control above rejects every second step.
_STIFF_PCOEFF, _STIFF_ICOEFF = 0.4, 0.3
#: What stands in a solver for a tolerance that the step-size controller is to give.
_CONTROLLERS_OWN = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)().rtol

Flow = Any  # a pytree with ``field(s, Y)``


class _Point(NamedTuple):
    """A state and what a step from it needs: (whether its slope is missing, slope) of FSAL."""

    s: Array
    Y: Array
    memory: tuple[Array, Array] | None


class _Carry(NamedTuple):
    base: _Point  # last accepted state
    values: Array  # of the events and the save variable, there
    h: Array  # next step size
    controller: tuple[Array, Array, Array]
    code: Array
    accepted: Array
    attempts: Array
    first_stages: Array  # steps that had to evaluate their first stage
    calls: Array
    stiffness: Stiffness


class _Rows(NamedTuple):
    """States written by the loop (the last row is a dump for iterations that write none)."""

    point: _Point
    values: Array


class _Retakes(NamedTuple):
    start: _Point  # a row each
    to: Array


def _max_norm(x: Array) -> Array:
    return jnp.max(jnp.abs(x))


def _select(pred: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree_util.tree_map(ft.partial(jnp.where, pred), new, old)


def _ready(solver: diffrax.AbstractRungeKutta, rtol: Array, atol: Array) -> PyTree:
    """The solver for a loop that is not differentiated, with the controller's tolerances."""
    if not isinstance(solver, diffrax.AbstractImplicitSolver):
        return dataclasses.replace(solver, scan_kind="lax")
    finder = solver.root_finder
    given = {"rtol": rtol, "atol": atol, "norm": optx.max_norm}
    own = {k: v for k, v in given.items() if getattr(finder, k) is _CONTROLLERS_OWN}
    return dataclasses.replace(
        solver, scan_kind="lax", root_finder=dataclasses.replace(finder, **own)
    )


def _probe(
    flow: Flow,
    events: tuple[AbstractEvent, ...],
    measure: LogTimeMeasure | None,
    s: Array,
    Y: Array,
) -> Array:
    values = [jnp.asarray(event(flow, s, Y), jnp.float64) for event in events]
    last = s if measure is None else jnp.asarray(measure(flow, s, Y), jnp.float64)
    return jnp.stack([*values, last])


def _controller(rtol: Array, atol: Array, *, damped: bool) -> diffrax.PIDController:
    p, i = (_STIFF_PCOEFF, _STIFF_ICOEFF) if damped else (_PCOEFF, _ICOEFF)
    return diffrax.PIDController(rtol=rtol, atol=atol, norm=_max_norm, pcoeff=p, icoeff=i)


def _first_step(controls: dict[str, Array], base: _Point) -> Array:
    """Hairer's first guess, 1 % of the time in which the state changes by itself.

    Without a stored field value (methods that are not FSAL): a small step; growing it tenfold a
    step costs little.
    """
    small = controls["small_step"]
    if base.memory is None:
        return small
    scale = controls["atol"] + controls["rtol"] * jnp.abs(base.Y)
    size, speed = _max_norm(base.Y / scale), _max_norm(base.memory[1] / scale)
    guess = 0.01 * size / speed
    bad = (size < 1e-5) | (speed < 1e-5) | ~jnp.isfinite(guess)
    return jnp.where(bad, small, guess)


def _end_of_step(c: _Carry, s_end: Array) -> Array:
    free = c.base.s + c.h
    # 1e-12 of a step left over would make the next one meaningless.
    return jnp.where(free > s_end - 1e-12 * c.h, s_end, free)


def _next_size(c: _Carry, x: Array, keep: Any, proposed: Any, s_end: Array) -> Array:
    """The size of the next step.

    The controller returns end points; at s >> h their difference has lost digits, so the factor is
    what is kept.
    """
    factor = (proposed - jnp.where(keep, x, c.base.s)) / (x - c.base.s)
    factor = jnp.where(jnp.isfinite(factor), jnp.clip(factor, 0.1, 10.0), 0.1)
    h = (x - c.base.s) * factor
    # Clipping to s_end must not shrink what is remembered.
    return jnp.where(keep & (x >= s_end), jnp.maximum(h, c.h), h)


def _segment(
    rows: int,
    solver: diffrax.AbstractRungeKutta,
    flow: Flow,
    events: tuple[AbstractEvent, ...],
    measure: LogTimeMeasure | None,
    controls: dict[str, Array],
    carry: _Carry,
    retakes: _Retakes,
) -> tuple[_Carry, _Rows, Array]:
    """Run the loop in the mode asked for; return what it wrote, and how many rows."""
    rtol, atol, s_end, mode = (controls[k] for k in ("rtol", "atol", "s_end", "mode"))
    terms = diffrax.ODETerm(lambda s, Y, args: flow.field(s, Y))
    solver = _ready(solver, rtol, atol)
    order = cast(float, solver.error_order(terms))
    tableau = cast(diffrax.ButcherTableau, solver.tableau)
    implicit = isinstance(solver, diffrax.AbstractImplicitSolver)
    controller = _controller(rtol, atol, damped=implicit and order > 3)
    told = stiffness.is_told(tableau, implicit=implicit)
    starting, advancing, retaking = mode == _START, mode == _ADVANCE, mode == _RETAKE

    def body(state: tuple[_Carry, _Rows, Array]) -> tuple[_Carry, _Rows, Array]:
        c, out, count = state
        again = jax.tree_util.tree_map(lambda x: x[count % retakes.to.shape[0]], retakes)
        base: _Point = _select(retaking, again.start, c.base)
        x = jnp.where(starting, base.s, jnp.where(retaking, again.to, _end_of_step(c, s_end)))
        Y1, error, dense, memory, _ = solver.step(
            terms, base.s, x, base.Y, None, base.memory, False
        )
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        keep, _, proposed, _, controlled, _ = controller.adapt_step_size(
            base.s, x, base.Y, Y1, None, error, order, c.controller
        )
        accepted = advancing & keep
        point = _Point(x, Y1, cast("tuple[Array, Array] | None", memory))
        values = _probe(flow, events, measure, x, Y1)
        # The start is written without moving: its events and FSAL state are valid from now on.
        point = point._replace(Y=jnp.where(starting, base.Y, Y1))
        h = jnp.where(advancing, _next_size(c, x, keep, proposed, s_end), c.h)
        h = jnp.where(starting, _first_step(controls, point), h)
        code = jnp.where(starting & ~jnp.all(jnp.isfinite(Y1)), _NON_FINITE, c.code)
        code = jnp.where(advancing & ~(x > base.s), _TOO_SMALL, code)
        # A step of one spacing that is rejected, and shortened by less than half, rounds to itself.
        code = jnp.where(advancing & ~keep & (base.s + h >= x), _TOO_SMALL, code)
        code = jnp.where((code == _RUNNING) & accepted & (x >= s_end), _REACHED, code)
        moved = accepted | starting
        first_stages = c.first_stages
        if base.memory is not None:
            first_stages = first_stages + jnp.where(base.memory[0], 1, 0)
        stiff = c.stiffness
        if told:
            now = stiffness.counted(stiff, tableau, dense["k"], Y1 - base.Y, controls["modes"])
            stiff = _select(accepted, now, stiff)
        new = _Carry(
            base=_select(moved, point, c.base), values=jnp.where(moved, values, c.values), h=h,
            controller=_select(advancing, controlled, c.controller), code=code,
            accepted=c.accepted + jnp.where(accepted, 1, 0),
            attempts=c.attempts + jnp.where(advancing, 1, 0), first_stages=first_stages,
            calls=c.calls + 1, stiffness=stiff,
        )  # fmt: skip
        row = jnp.where(moved | retaking, count, rows)
        out = jax.tree_util.tree_map(lambda to, v: to.at[row].set(v), out, _Rows(point, values))
        return new, out, count + jnp.where(moved | retaking, 1, 0)

    def go_on(state: tuple[_Carry, _Rows, Array]) -> Array:
        c, _, count = state
        free = (
            (c.code == _RUNNING)
            & ~jnp.any(c.values[:-1] >= 0)
            & (c.attempts < controls["attempt_cap"])
            & (c.accepted < controls["step_cap"])
            & (c.stiffness.stiff < controls["patience"])
        )
        return (count < controls["limit"]) & (free | ~advancing)

    blank = _Rows(carry.base, carry.values)
    out = jax.tree_util.tree_map(lambda x: jnp.zeros((rows + 1, *x.shape), x.dtype), blank)
    return lax.while_loop(go_on, body, (carry, out, jnp.asarray(0)))


def _rows_for(dim: int) -> int:
    return int(np.clip(_BUFFER_BYTES // (8 * dim), _MIN_ROWS, _MAX_ROWS))


class DiffraxStepper(AbstractStepper):
    """A Runge-Kutta method at work on one problem.

    Parameters
    ----------
    solver : diffrax.AbstractRungeKutta
    problem : Problem
    patience : int, optional
        Stiff steps after which ``advance`` returns, whatever it was asked for.
    modes : ndarray of bool, shape (D,), optional
        The entries that tell of stiffness; default: all under error control.
    """

    def __init__(
        self,
        solver: diffrax.AbstractRungeKutta,
        problem: Problem,
        patience: int = stiffness.NEVER,
        modes: np.ndarray | None = None,
    ) -> None:
        self.solver, self.problem, self.patience = solver, problem, patience
        self.tableau = cast(diffrax.ButcherTableau, solver.tableau)
        self.rows = _rows_for(problem.Y0.shape[0])
        self.chunk = min(self.rows, _MAX_RETAKES)
        self.compile_seconds = 0.0
        self.controls = {
            "rtol": np.float64(problem.tolerances.rtol_local),
            "atol": problem.tolerances.atol_with(np.inf),
            "s_end": np.float64(problem.s_end),
            "small_step": np.float64(1e-6 * max(1.0, abs(problem.s0))),
            "modes": problem.tolerances.controlled if modes is None else modes,
        }
        self.carry = self._initial()
        self.blank = self._retakes(
            np.zeros(0), np.zeros((0, problem.Y0.shape[0])), None, np.zeros(0)
        )

    def _initial(self) -> _Carry:
        problem, memory = self.problem, None
        Y0 = jnp.asarray(problem.Y0)
        one, none = jnp.asarray(np.float64(1.0)), jnp.asarray(np.int64(0))
        if self.tableau.fsal:
            memory = (jnp.asarray(True), jnp.zeros_like(Y0))
        return _Carry(
            base=_Point(jnp.asarray(np.float64(problem.s0)), Y0, memory),
            values=jnp.asarray(np.full(len(problem.events) + 1, -1.0)), h=one,
            controller=(one, one, jnp.asarray(False)), code=none, accepted=none, attempts=none,
            first_stages=none, calls=none, stiffness=Stiffness.none(),
        )  # fmt: skip

    def _retakes(self, s: np.ndarray, Y: np.ndarray, memory: PyTree, to: np.ndarray) -> _Retakes:
        """Steps to retake, padded to the compiled size; without a memory slopes are missing."""
        if memory is None and self.tableau.fsal:
            memory = (np.ones(len(s), bool), np.zeros_like(Y))
        short = self.chunk - len(s)
        padded: PyTree = jax.tree_util.tree_map(
            lambda x: np.concatenate([x, np.zeros((short, *x.shape[1:]), x.dtype)]),
            ((s, Y, memory), to),
        )
        return _Retakes(_Point(*padded[0]), padded[1])

    def _call(
        self, mode: int, limit: int, retakes: _Retakes, attempts: int = 0, accepted: int = 0
    ) -> tuple[_Point, np.ndarray]:
        """Run the program; return the rows written."""
        problem, carry = self.problem, self.carry
        controls = {
            **self.controls, "mode": np.int64(mode), "limit": np.int64(limit),
            "patience": np.int64(self.patience),
            "attempt_cap": np.int64(int(carry.attempts) + attempts),
            "step_cap": np.int64(min(int(carry.accepted) + accepted, 2**62)),
        }  # fmt: skip
        measure = problem.save_by if problem.save is not None else None
        program, arrays, seconds = compile_once(
            ft.partial(_segment, self.rows), ("diffrax", self.rows),
            (self.solver, problem.flow, problem.events, measure, controls, carry, retakes),
        )  # fmt: skip
        self.compile_seconds += seconds
        self.carry, out, count = program(*arrays)
        written = int(count)
        point, values = jax.tree_util.tree_map(lambda x: np.asarray(x)[:written].copy(), out)
        return point, values

    @property
    def stiff(self) -> bool:
        """Whether patience with stiff steps has come to its end."""
        return int(self.carry.stiffness.stiff) >= self.patience

    def start(self) -> Steps:
        """Evaluate the start."""
        point, values = self._call(_START, 1, self.blank)
        ended = _ENDED[int(self.carry.code)]
        return Steps(np.asarray(point.s), np.asarray(point.Y), values, 0, ended)

    def advance(self, attempts: int, accepted: int, target: float) -> Steps:
        """Take steps until an event, a full buffer, or the share of steps."""
        before = self.carry
        rows = self._call(_ADVANCE, self.rows, self.blank, attempts, accepted)
        point, values = jax.tree_util.tree_map(
            lambda a, rows: np.concatenate([np.asarray(a)[None], rows]),
            (before.base, before.values), rows,
        )  # fmt: skip
        made = int(self.carry.attempts) - int(before.attempts)
        ended = _ENDED[int(self.carry.code)]
        s, Y = np.asarray(point.s), np.asarray(point.Y)
        return Steps(s, Y, values, made, ended, memory=point.memory)

    def retake(self, steps: Steps, index: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
        """Steps from accepted states to points inside the steps that followed."""
        kept = self.carry
        Y, values = np.empty((len(s), steps.Y.shape[1])), np.empty((len(s), steps.values.shape[1]))
        for first in range(0, len(s), self.chunk):
            part = slice(first, first + self.chunk)
            at = index[part]
            memory = jax.tree_util.tree_map(lambda x, at=at: x[at], steps.memory)
            retakes = self._retakes(steps.s[at], steps.Y[at], memory, s[part])
            point, Y_values = self._call(_RETAKE, len(at), retakes)
            Y[part], values[part] = point.Y, Y_values
        calls, first_stages = self.carry.calls, self.carry.first_stages
        self.carry = kept._replace(calls=calls, first_stages=first_stages)
        return Y, values

    def work(self, accepted: int, attempts: int) -> dict[str, float]:
        """Counts of the calls made (see :class:`DiffraxIntegrator`)."""
        stages, fsal = self.tableau.num_stages, int(self.tableau.fsal)
        calls, first = int(self.carry.calls), int(self.carry.first_stages)
        implicit = isinstance(self.solver, diffrax.AbstractImplicitSolver)
        return {
            "rejected": attempts - accepted,
            "rhs": (2 * calls * (stages - 1) if implicit else calls * (stages - fsal)) + first,
            "jacobians": calls if implicit else 0,
            "compile_seconds": self.compile_seconds,
        }


class DiffraxIntegrator(AbstractIntegrator):
    """A Runge-Kutta method of diffrax behind the contract.

    Parameters
    ----------
    solver : diffrax.AbstractRungeKutta
        Explicit, or diagonally implicit, with an error estimate: ``diffrax.Tsit5()``,
        ``diffrax.Kvaerno5()``, or one of one's own.

    Notes
    -----
    Error control: a step is accepted when max_i |e_i| / (atol_i + rtol max(|Y_i|, |Y_i^new|)) < 1
    over the controlled components (the largest, not the mean: one small neuron counts as much as a
    thousand others).

    ``stats["rhs"]`` is exact for explicit methods: evaluations in accepted, rejected and probing
    steps. For implicit methods the number of Newton iterations is not reported by diffrax; the
    count is a lower bound, two residuals per implicit stage (its chord method never does fewer)
    plus the explicit first stage, and ``stats["jacobians"]`` is one per attempted or probing step.

    Raises
    ------
    ValueError
        If the solver has not one Butcher tableau.
    """

    def __init__(self, solver: diffrax.AbstractSolver) -> None:
        if not isinstance(solver, diffrax.AbstractRungeKutta) or not isinstance(
            solver.tableau, diffrax.ButcherTableau
        ):
            raise fail(
                "integrator", solver, "is not a Runge-Kutta method with one tableau",
                "pass for example diffrax.Tsit5() or diffrax.Kvaerno5()",
            )  # fmt: skip
        self.solver, self.name = solver, type(solver).__name__.lower()

    def solve(self, problem: Problem) -> Solution:
        """Integrate one stage (see :class:`~gradflow.integrators.contract.AbstractIntegrator`)."""
        return march(DiffraxStepper(self.solver, problem), problem)


def _named(solver: type[diffrax.AbstractRungeKutta]) -> DiffraxIntegrator:
    return DiffraxIntegrator(solver())


for _solver in (
    diffrax.Tsit5, diffrax.Dopri5, diffrax.Dopri8, diffrax.Bosh3, diffrax.Heun,
    diffrax.Kvaerno3, diffrax.Kvaerno4, diffrax.Kvaerno5,
):  # fmt: skip
    register_integrator(_solver.__name__.lower(), ft.partial(_named, _solver))
register_solver_type(diffrax.AbstractSolver, DiffraxIntegrator)
