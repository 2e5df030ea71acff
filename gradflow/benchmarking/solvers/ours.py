"""The package's integrators."""

from __future__ import annotations

import warnings

import numpy as np
from jax.flatten_util import ravel_pytree

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts
from gradflow.integration import IntegrationWarning, integrate
from gradflow.paths.trajectory import Trajectory

_RK, _IRK, _LMM = "explicit Runge-Kutta", "implicit Runge-Kutta", "multistep"
_FAMILIES = {
    "piecewise": {"compiled events"}, "piecewise-slides": {"compiled events"},
    "tsit5-lsoda": {_RK, _LMM, _IRK}, "dopri8-lsoda": {_RK, _LMM, _IRK},
    "lsoda": {_LMM}, "bdf": {_LMM}, "radau": {_IRK},
    "kvaerno3": {_IRK}, "kvaerno4": {_IRK}, "kvaerno5": {_IRK},
}  # fmt: skip
#: Seconds by the wall that a second of CPU may take.
_WALL = 1.5


class Ours(AbstractSolver):
    """``gf.integrate`` with an integrator by name, in the clock and chart that it chooses.

    Parameters
    ----------
    integrator : str
    """

    def __init__(self, integrator: str) -> None:
        self.name = self.integrator = integrator
        self._compiled: set[tuple[str, float]] = set()

    def families(self, problem: Problem) -> frozenset[str]:
        name = self.integrator
        if name == "auto":
            name = "piecewise" if problem.kinked else "dopri8-lsoda"
        kin = set(_FAMILIES.get(name, {_RK}))
        if name in ("tsit5-lsoda", "dopri8-lsoda"):
            kin.discard(_IRK)  # (Radau goes on only where LSODA gives up)
        return frozenset(kin)

    def refusal(self, problem: Problem) -> str | None:
        if self.integrator.startswith("piecewise") and problem.risk.arrangement is None:
            return "locates the kinks of two-layer piecewise linear nets, of which there are none"
        return None

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        if (problem.name, setting) not in self._compiled:
            with field.compiling():
                self._integrate(problem, field, setting, max_steps=1)
            self._compiled.add((problem.name, setting))
        path = self._integrate(problem, field, setting, max_steps=100_000_000)
        stats, result = path.stats, path.result
        counts = Counts(*(float(stats[key]) for key in ("rhs", "jacobians", "steps")))
        if result.name == "interrupted":
            raise KeyboardInterrupt
        late = result.name == "max_seconds" or field.left < 0
        if late or not result.ok:
            message = "" if late else result.message
            return Attempt(None, message, late, float(path.t_final), counts)
        end = np.asarray(ravel_pytree(path.final)[0])
        remark = "" if path.unique else "the flow is not unique"
        if result.name == "rest":
            remark = f"at rest from t = {path.t_final:.3g}"
        return Attempt(end, remark, counts=counts)

    def _integrate(self, problem: Problem, field: Field, rtol: float, max_steps: int) -> Trajectory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IntegrationWarning)  # (the result says it)
            # (by the wall: no callback is paid for; a busy machine gets longer than by the CPU)
            return integrate(
                problem.risk, problem.start, until=problem.t_end, integrator=self.integrator,
                rtol=rtol, max_seconds=_WALL * max(field.left, 0.1), max_steps=max_steps,
            )  # fmt: skip
