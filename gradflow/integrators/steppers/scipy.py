"""scipy's solvers behind the contract: RK45, DOP853, LSODA, Radau, BDF.

The field and its Jacobian are compiled; the loop is scipy's ``OdeSolver``, stepped from here so
that steps can be capped, saved and interrupted. scipy's interpolants are less accurate than its
steps (hundreds of tolerances for DOP853), so one-step methods reach stops and save points by a step
from the last point; the multistep methods (LSODA, BDF) interpolate with their own polynomial.
"""

from __future__ import annotations

import functools as ft
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, optimize

from gradflow.integrators.contract import (
    AbstractIntegrator,
    Problem,
    Result,
    Solution,
    register_integrator,
)
from gradflow.integrators.statistics import UNKNOWN, empty_stats
from gradflow.numerics.compiled import compile_once

_SOLVERS: dict[str, Any] = {
    "rk45": integrate.RK45,
    "dop853": integrate.DOP853,
    "lsoda": integrate.LSODA,
    "radau": integrate.Radau,
    "bdf": integrate.BDF,
}
_IMPLICIT = ("lsoda", "radau", "bdf")
_MULTISTEP = ("lsoda", "bdf")
#: An absolute tolerance that takes a component out of error control.
_UNCONTROLLED = 1e150


def _field(flow: Any, s: Any, Y: Any) -> Any:
    return flow.field(s, Y)


def _jacobian(flow: Any, s: Any, Y: Any) -> Any:
    return jax.jacfwd(lambda state: flow.field(s, state))(Y)


def _probe(flow: Any, events: tuple[Any, ...], measure: Any, s: Any, Y: Any) -> Any:
    values = [jnp.asarray(event(flow, s, Y), jnp.float64) for event in events]
    values.append(s if measure is None else jnp.asarray(measure(flow, s, Y), jnp.float64))
    return jnp.stack(values)


def _root(function: Any, a: float, b: float, **options: Any) -> float:
    root: Any = optimize.brentq(function, a, b, **options)
    return float(root)


class ScipyIntegrator(AbstractIntegrator):
    """One of scipy's solvers.

    Parameters
    ----------
    name : str
        ``rk45``, ``dop853``, ``lsoda``, ``radau``, ``bdf``.

    Notes
    -----
    ``stats["rhs"]`` and ``stats["jacobians"]`` are scipy's own counts (for LSODA: ODEPACK's calls
    of the compiled functions, counted here). Rejected steps are not reported by scipy and are
    unknown.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def solve(self, problem: Problem) -> Solution:
        """Integrate one stage (see :class:`~gradflow.integrators.contract.AbstractIntegrator`)."""
        stats = empty_stats()
        stats["rejected"] = UNKNOWN
        started = time.perf_counter()
        flow, Y0, s0 = problem.flow, problem.Y0, problem.s0
        measure = problem.save_by if problem.save is not None else None
        compile_seconds = 0.0
        counts = {"rhs": 0, "jacobians": 0}

        def compiled(fn: Any, *front: Any) -> Any:
            nonlocal compile_seconds
            point = (np.float64(s0), Y0)
            program, arrays, seconds = compile_once(fn, fn.__name__, (*front, *point))
            compile_seconds += seconds
            constant = arrays[: len(arrays) - 2]
            return lambda s, Y: np.asarray(program(*constant, np.float64(s), np.asarray(Y)))

        field_program = compiled(_field, flow)
        probe = compiled(_probe, flow, problem.events, measure)

        def field(s: float, Y: np.ndarray) -> np.ndarray:
            counts["rhs"] += 1
            return field_program(s, Y)

        options: dict[str, Any] = {}
        if self.name in _IMPLICIT:
            jacobian_program = compiled(_jacobian, flow)

            def jacobian(s: float, Y: np.ndarray) -> np.ndarray:
                counts["jacobians"] += 1
                return jacobian_program(s, Y)

            options["jac"] = jacobian

        rtol = problem.tolerances.rtol_local
        atol = problem.tolerances.atol_with(_UNCONTROLLED)
        saved_s: list[float] = []
        saved_Y: list[np.ndarray] = []
        pending = [] if problem.save is None else list(problem.save)
        values = probe(s0, Y0)
        if problem.save is None:
            saved_s.append(s0)
            saved_Y.append(Y0)
        while pending and pending[0] <= values[-1]:
            pending.pop(0)
            saved_s.append(s0)
            saved_Y.append(Y0)

        s, Y, event, detail = s0, Y0, None, ""
        result: str | None = None
        if s0 >= problem.s_end:
            result = "reached"
        elif not np.all(np.isfinite(field(s0, Y0))):
            result = "non_finite"
        elif np.any(values[:-1] >= 0):
            result, event = "event", int(np.argmax(values[:-1]))
        solver = None
        if result is None:
            solver = _SOLVERS[self.name](
                field, s0, Y0, problem.s_end, rtol=rtol, atol=atol,
                **options,
            )  # fmt: skip
        steps = 0

        def exact_curve(a: float, Ya: np.ndarray, dense: Any) -> Any:
            """The solution inside the step that began at (a, Ya)."""
            if self.name in _MULTISTEP:
                return dense

            def curve(x: float) -> np.ndarray:
                if x <= a:
                    return Ya
                inner = _SOLVERS[self.name](
                    field, a, Ya, x, rtol=rtol, atol=atol,
                    first_step=x - a, **options,
                )  # fmt: skip
                while inner.status == "running":
                    inner.step()
                return np.array(inner.y)

            return curve

        while result is None:
            assert solver is not None
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                # LSODA warns where it fails; the result says so.
                warnings.simplefilter("ignore")
                said = solver.step()
            if solver.status == "failed":
                result, detail = self._failure(said)
                break
            steps += 1
            before = values
            values = probe(solver.t, solver.y)
            limit = solver.t
            dense: Any = None
            crossed = (values[:-1] >= 0) & (before[:-1] < 0)
            if np.any(crossed):
                dense = exact_curve(s, Y, solver.dense_output())
                limit, event = self._locate(probe, dense, s, solver.t, crossed)
                result = "event"
            end_measure = values[-1] if limit == solver.t else probe(limit, dense(limit))[-1]
            while pending and pending[0] <= end_measure:
                if dense is None:
                    dense = exact_curve(s, Y, solver.dense_output())
                target = pending.pop(0)
                at = target if measure is None else _root(
                    lambda x, goal=target, curve=dense: probe(x, curve(x))[-1] - goal, s, limit,
                    xtol=1e-300, rtol=1e-14,
                )  # fmt: skip
                saved_s.append(at)
                saved_Y.append(np.array(dense(at)))
            s = limit
            Y = np.array(solver.y) if limit == solver.t else np.array(dense(limit))
            if problem.save is None:
                saved_s.append(s)
                saved_Y.append(Y)
            if result is None and solver.status == "finished":
                result = "reached"
            elif result is None and problem.step_cap is not None and steps >= problem.step_cap:
                result = "steps"
            elif result is None and steps >= problem.max_steps:
                result = "max_steps"
            if steps % 1000 == 0 or result is not None:
                ended = problem.look(s, lambda Y=Y: Y, steps=steps)
                result = result or (ended and ended.name)
        stats.update(steps=steps, rhs=counts["rhs"], jacobians=counts["jacobians"])
        stats["events"] = int(result == "event")
        stats.update(problem.tolerances.stats())
        stats["compile_seconds"] = compile_seconds
        stats["run_seconds"] = time.perf_counter() - started - compile_seconds
        return Solution(
            s=np.array(saved_s), Y=np.array(saved_Y).reshape(len(saved_s), Y0.shape[0]),
            s_final=float(s), Y_final=Y, stats=stats, result=Result(str(result), detail),
            event=None if event is None else problem.events[event],
        )  # fmt: skip

    @staticmethod
    def _failure(said: Any) -> tuple[str, str]:
        text = str(said or "")
        return ("step_too_small" if "step size" in text.lower() else "failed"), text

    @staticmethod
    def _locate(probe: Any, dense: Any, a: float, b: float, crossed: np.ndarray) -> tuple:
        """Earliest root of the crossed events inside the step."""
        best, which = b, int(np.argmax(crossed))
        for k in np.flatnonzero(crossed):
            value = lambda x, k=k: probe(x, dense(x))[k]
            # The curve's end differs from the step's by rounding, so the sign is asked again.
            bracketed = value(a) < 0 <= value(b)
            root = _root(value, a, b, xtol=1e-300, rtol=1e-14) if bracketed else b
            if root <= best:
                best, which = float(root), int(k)
        return best, which


for _name in _SOLVERS:
    register_integrator(_name, ft.partial(ScipyIntegrator, _name))
