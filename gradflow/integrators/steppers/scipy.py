"""scipy's solvers behind the contract: RK45, DOP853, LSODA, Radau, BDF.

The field and its Jacobian are compiled; the steps are those of scipy's ``OdeSolver``. scipy's
interpolants are less accurate than its steps (hundreds of tolerances for DOP853), so one-step
methods retake steps to reach stops and save points; the multistep methods (LSODA, BDF) interpolate
with their own polynomial.
"""

from __future__ import annotations

import functools as ft
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree
from scipy import integrate

from gradflow.flows.flow import Flow
from gradflow.integrators.contract import (
    AbstractEvent,
    AbstractIntegrator,
    Problem,
    Solution,
    register_integrator,
)
from gradflow.integrators.march import AbstractStepper, Steps, march
from gradflow.integrators.statistics import UNKNOWN
from gradflow.integrators.until import LogTimeMeasure
from gradflow.numerics.compiled import compile_once
from gradflow.numerics.jacobian import jacobian

_SOLVERS: dict[str, Callable[..., integrate.OdeSolver]] = {
    "rk45": integrate.RK45,
    "dop853": integrate.DOP853,
    "lsoda": integrate.LSODA,
    "radau": integrate.Radau,
    "bdf": integrate.BDF,
}
_IMPLICIT = ("lsoda", "radau", "bdf")
_MULTISTEP = ("lsoda", "bdf")
#: Right-hand sides of an attempted step, of the explicit methods.
_STAGES = {"rk45": 6, "dop853": 12}
#: Iterations of an implicit step, at most.
_MOST_ITERATIONS = 10
#: An absolute tolerance that takes a component out of error control.
_UNCONTROLLED = 1e150
#: Seconds between two looks at who watches inside one step.
_LOOK_SECONDS = 0.5

Curve = Callable[[np.ndarray], np.ndarray]


def _field(flow: Flow, s: Array, Y: Array) -> Array:
    return flow.field(s, Y)


def _jacobian(flow: Flow, s: Array, Y: Array) -> Array:
    return jacobian(lambda state: flow.field(s, state), Y)


def _probe(
    flow: Flow,
    events: tuple[AbstractEvent, ...],
    measure: LogTimeMeasure | None,
    s: Array,
    Y: Array,
) -> Array:
    values = [jnp.asarray(event(flow, s, Y), jnp.float64) for event in events]
    values.append(s if measure is None else jnp.asarray(measure(flow, s, Y), jnp.float64))
    return jnp.stack(values)


class _Enough(Exception):
    """Raised inside a step that is to go no further; carries the result's name."""


class _Attempts:
    """How many steps a solver has attempted, told from what it asks of the field.

    An explicit method asks for a fixed number of values a step. An implicit one asks at new clock
    values in every attempt (three for Radau, one for the others) and at these only, a few times;
    more often means steps too short to change the clock.
    """

    def __init__(self, name: str) -> None:
        self._stages = _STAGES.get(name)
        self._abscissae = 3 if name == "radau" else 1
        self._known: deque[float] = deque(maxlen=self._abscissae + 1)
        self._asked = self._repeats = 0

    def see(self, s: float) -> None:
        """Count one evaluation at ``s``."""
        if self._stages is not None:
            self._asked += 1
            return
        self._repeats += 1
        if s not in self._known or self._repeats > _MOST_ITERATIONS * self._abscissae:
            self._known.append(s)
            self._asked += 1
            self._repeats = 0

    @property
    def made(self) -> int:
        """Attempts begun."""
        return -(-self._asked // (self._stages or self._abscissae))

    @property
    def exact(self) -> bool:
        """Whether that is the solver's own count."""
        return self._stages is not None


class ScipyStepper(AbstractStepper):
    """One of scipy's solvers at work on one problem; without a first step it chooses its own."""

    def __init__(self, name: str, problem: Problem, first_step: float | None = None) -> None:
        self.name, self.problem = name, problem
        self.compile_seconds, self.rhs, self.jacobians = 0.0, 0, 0
        self.solver: integrate.OdeSolver | None = None
        self.first_step = first_step
        self.tried = _Attempts(name)
        self.stepping = False
        measure = problem.save_by if problem.save is not None else None
        self.field_program = self._compiled(_field, problem.flow)
        self.probe = self._compiled(_probe, problem.flow, problem.events, measure)
        self.options: dict[str, Any] = {
            "rtol": problem.tolerances.rtol_local,
            "atol": problem.tolerances.atol_with(_UNCONTROLLED),
        }
        if name in _IMPLICIT:
            self.jacobian_program = self._compiled(_jacobian, problem.flow)
            self.options["jac"] = self._jacobian
        self.looked = time.monotonic()
        self.accepted = 0
        self.last = Steps(np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0)))

    def _compiled(self, fn: Callable[..., Array], *front: PyTree) -> Callable[..., np.ndarray]:
        point = (np.float64(self.problem.s0), self.problem.Y0)
        program, arrays, seconds = compile_once(fn, fn.__name__, (*front, *point))
        self.compile_seconds += seconds
        constant = arrays[: len(arrays) - 2]
        return lambda s, Y: np.asarray(program(*constant, np.float64(s), np.asarray(Y)))

    def _field(self, s: float, Y: np.ndarray) -> np.ndarray:
        self.rhs += 1
        if self.stepping:
            self.tried.see(s)
            if self.tried.made > self.problem.max_steps:
                raise _Enough("max_steps")
            if time.monotonic() - self.looked > _LOOK_SECONDS:
                self._look()
        return self.field_program(s, Y)

    def _look(self) -> None:
        last, self.looked = self.last, time.monotonic()
        heard = self.problem.look(float(last.s[-1]), lambda: last.Y[-1], steps=self.accepted)
        if heard is not None:
            raise _Enough(heard.name)

    def _jacobian(self, s: float, Y: np.ndarray) -> np.ndarray:
        self.jacobians += 1
        return self.jacobian_program(s, Y)

    def start(self) -> Steps:
        """Evaluate the start."""
        s, Y = self.problem.s0, self.problem.Y0
        values = self.probe(s, Y)
        finite = bool(np.all(np.isfinite(self._field(s, Y))))
        self.last = Steps(
            np.array([s]), Y[None].copy(), values[None], 0, None if finite else "non_finite"
        )
        return self.last

    def advance(self, attempts: int, accepted: int, target: float) -> Steps:
        """Take steps until an event, a save point, or the share of steps."""
        s, Y, values = ([part[-1]] for part in (self.last.s, self.last.Y, self.last.values))
        curves: list[Curve | None] = []
        ended, detail, before = None, "", self.tried.made
        problem = self.problem
        if self.solver is None:
            self.solver = _SOLVERS[self.name](
                self._field, problem.s0, problem.Y0, problem.s_end, first_step=self.first_step,
                **self.options,
            )  # fmt: skip
        solver = self.solver
        while len(s) <= accepted and self.tried.made - before < attempts and ended is None:
            try:
                ended, detail = self._step(solver)
            except _Enough as enough:
                ended = str(enough)
            if ended is None and not solver.t > s[-1]:
                ended, detail = "step_too_small", "a step left the clock where it was"
            if ended in (None, "reached") and not np.all(np.isfinite(solver.y)):
                ended, detail = "failed", "a step led to a state that is not finite"
            if ended not in (None, "reached"):
                break
            self.accepted += 1
            s.append(float(solver.t))
            Y.append(np.array(solver.y))
            values.append(self.probe(solver.t, solver.y))
            stops = bool(np.any(values[-1][:-1] >= 0)) or values[-1][-1] >= target
            curves.append(self._curve(solver, stops))
            if stops:
                break
        made = self.tried.made - before
        self.last = Steps(np.array(s), np.array(Y), np.array(values), made, ended, detail, curves)
        return self.last

    def _step(self, solver: integrate.OdeSolver) -> tuple[str | None, str]:
        """One step; how it ended the integration, if it did, and what scipy said."""
        self.stepping = True
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                # LSODA warns where it fails; the result says so.
                warnings.simplefilter("ignore")
                said = str(solver.step() or "")
        except (ValueError, np.linalg.LinAlgError) as error:
            # (a Jacobian that is not finite, as second derivatives at angle 0 are)
            return "failed", str(error)
        finally:
            self.stepping = False
        if solver.status == "failed":
            return ("step_too_small" if "step size" in said.lower() else "failed"), said
        return ("reached" if solver.status == "finished" else None), ""

    def _curve(self, solver: integrate.OdeSolver, stops: bool) -> Curve | None:
        """The polynomial of a multistep method's last step, where it will be asked for."""
        wanted = self.name in _MULTISTEP and (stops or self.problem.dense)
        return cast(Curve, solver.dense_output()) if wanted else None

    def retake(self, steps: Steps, index: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
        """Steps taken again to inner points; multistep methods read their polynomial."""
        states = []
        for i, x in zip(index, s, strict=True):
            curve = cast(list[Curve | None], steps.memory)[i]
            states.append(self._again(steps, i, x) if curve is None else np.array(curve(x)))
        Y = np.array(states).reshape(len(s), steps.Y.shape[1])
        return Y, np.array([self.probe(x, y) for x, y in zip(s, Y, strict=True)])

    def _again(self, steps: Steps, i: int, x: float) -> np.ndarray:
        a = steps.s[i]
        if x <= a:
            return steps.Y[i]
        try:
            return self._from(self.name, a, steps.Y[i], x, self.options)
        except (ValueError, np.linalg.LinAlgError):
            if self.name not in _IMPLICIT:
                raise
            # (the step itself had an older Jacobian; the one here is not finite)
            options = {key: value for key, value in self.options.items() if key != "jac"}
            return self._from("dop853", a, steps.Y[i], x, options)

    def _from(
        self, name: str, a: float, Y: np.ndarray, x: float, options: dict[str, Any]
    ) -> np.ndarray:
        """The state at ``x``, by steps of a method from ``a``."""
        inner = _SOLVERS[name](self._field, a, Y, x, first_step=x - a, **options)
        said = ""
        while inner.status == "running":
            said = str(inner.step() or "")
        if inner.status != "finished":
            raise ValueError(f"{name} did not get from {a!r} to {x!r} inside a step: {said}")
        return np.array(inner.y)

    def work(self, accepted: int, attempts: int) -> dict[str, float]:
        """scipy's own counts (see :class:`ScipyIntegrator`)."""
        return {
            "rejected": max(attempts - accepted, 0) if self.tried.exact else UNKNOWN,
            "rhs": self.rhs,
            "jacobians": self.jacobians,
            "compile_seconds": self.compile_seconds,
        }


class ScipyIntegrator(AbstractIntegrator):
    """One of scipy's solvers.

    Parameters
    ----------
    name : str
        ``rk45``, ``dop853``, ``lsoda``, ``radau``, ``bdf``.

    Notes
    -----
    ``stats["rhs"]`` and ``stats["jacobians"]`` count calls of the compiled functions. Rejected
    steps are not reported by the implicit methods (NaN); the attempts that ``max_steps`` bounds are
    told there from the clock values at which the field is asked for.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def solve(self, problem: Problem) -> Solution:
        """Integrate one stage (see :class:`~gradflow.integrators.contract.AbstractIntegrator`)."""
        return march(ScipyStepper(self.name, problem), problem)


for _name in _SOLVERS:
    register_integrator(_name, ft.partial(ScipyIntegrator, _name))
