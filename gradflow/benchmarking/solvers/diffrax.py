"""diffrax's solvers, as a script calls them: one compiled loop, a PID controller."""

from __future__ import annotations

import math
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts, atol_of

#: Attempted steps of one compiled loop, after which the clock is looked at and the next begins.
_STEPS_AT_ONCE = 20_000
_IMPLICIT_AT_ONCE = 500


class Diffrax(AbstractSolver):
    """``diffrax.diffeqsolve`` with a solver object, in compiled loops of some thousand steps.

    Parameters
    ----------
    solver : diffrax.AbstractSolver
        An adaptive one.

    Notes
    -----
    A compiled loop cannot be interrupted, so a long solve is many short ones. Evaluations of
    implicit methods happen in compiled Newton iterations, which are not counted (NaN).
    """

    def __init__(self, solver: diffrax.AbstractSolver) -> None:
        self.solver = solver
        self.implicit = isinstance(solver, diffrax.AbstractImplicitSolver)
        self.name = f"diffrax-{type(solver).__name__.lower()}"
        self._programs: dict[str, Callable[..., diffrax.Solution]] = {}

    def __setstate__(self, state: dict[str, object]) -> None:
        """After a way between processes: tolerances that defer to the controller are known by
        identity, which pickling loses."""
        deferred = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)().rtol
        restore = lambda leaf: deferred if type(leaf) is type(deferred) else leaf
        for name, value in state.items():
            setattr(self, name, jax.tree.map(restore, value) if name == "solver" else value)

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({f"{'implicit' if self.implicit else 'explicit'} Runge-Kutta"})

    def _program(self, problem: Problem) -> Callable[..., diffrax.Solution]:
        if problem.name not in self._programs:
            most = _IMPLICIT_AT_ONCE if self.implicit else _STEPS_AT_ONCE
            term = diffrax.ODETerm(lambda t, y, args: problem.velocity(y))

            def solve(t: jax.Array, y: jax.Array, rtol: jax.Array, atol: jax.Array):
                return diffrax.diffeqsolve(
                    term, self.solver, t, problem.t_end, None, y,
                    stepsize_controller=diffrax.PIDController(rtol, atol),
                    max_steps=most, throw=False, saveat=diffrax.SaveAt(t1=True),
                )  # fmt: skip

            one = jnp.asarray(1.0)
            lowered = jax.jit(solve).lower(one, jnp.asarray(problem.y0), one, one)
            self._programs[problem.name] = lowered.compile()
        return self._programs[problem.name]

    def _evaluations(self, steps: int, loops: int) -> float:
        """Of the field, by an explicit method; two more choose a loop's first step."""
        tableau = getattr(self.solver, "tableau", None)
        if self.implicit or not isinstance(tableau, diffrax.ButcherTableau):
            return math.nan
        per_step = tableau.num_stages - bool(tableau.fsal)
        return per_step * steps + (2 + bool(tableau.fsal)) * loops

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        with field.compiling():
            program = self._program(problem)
        rtol, atol = jnp.asarray(setting), jnp.asarray(atol_of(problem, setting))
        t, y = jnp.asarray(0.0), jnp.asarray(problem.y0)
        steps = accepted = loops = 0
        while True:
            solution = jax.block_until_ready(program(t, y, rtol, atol))
            assert solution.ts is not None
            assert solution.ys is not None
            t, y = solution.ts[-1], solution.ys[-1]
            steps += int(solution.stats["num_steps"])
            accepted += int(solution.stats["num_accepted_steps"])
            loops += 1
            counts = Counts(self._evaluations(steps, loops), math.nan, accepted)
            if solution.result == diffrax.RESULTS.successful:
                return Attempt(np.asarray(y), counts=counts)
            late = field.left < 0
            if solution.result != diffrax.RESULTS.max_steps_reached or late:
                message = "" if late else diffrax.RESULTS[solution.result]
                return Attempt(None, message, late, float(t), counts)
