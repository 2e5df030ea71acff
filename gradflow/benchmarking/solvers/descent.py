"""Gradient descent, as what people do today: small steps, or steps that follow the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts
from gradflow.paths.descent import Descent as Path
from gradflow.paths.descent import descend
from gradflow.paths.steps import RelativeChange, relative_change

#: Steps of one compiled loop, after which the clock is looked at.
_STEPS_AT_ONCE = 20_000


class Descent(AbstractSolver):
    """θ ← θ − η∇L in a compiled loop, t_end/η times (η lowered so that the last step ends there).

    It is the explicit Euler method of the flow, and claims no accuracy.
    """

    name = "descent"
    settings = (1e-1, 1e-2, 1e-3, 1e-4)

    def __init__(self) -> None:
        self._programs: dict[str, Callable[..., Array]] = {}

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({"Euler"})

    def label(self, setting: float) -> str:
        return f"step {setting:.0e}"

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        if problem.name not in self._programs:

            def descend(y: Array, step: Array, count: Array) -> Array:
                return lax.fori_loop(0, count, lambda _, y: y + step * problem.velocity(y), y)

            with field.compiling():
                example = jnp.asarray(problem.y0), jnp.asarray(1.0), jnp.asarray(1)
                self._programs[problem.name] = jax.jit(descend).lower(*example).compile()
        program, y = self._programs[problem.name], jnp.asarray(problem.y0)
        total = max(math.ceil(problem.t_end / setting), 1)
        step, done = problem.t_end / total, 0
        while done < total:
            count = min(_STEPS_AT_ONCE, total - done)
            y = jax.block_until_ready(program(y, jnp.asarray(step), jnp.asarray(count)))
            done += count
            counts = Counts(done, 0, done)
            if not bool(jnp.all(jnp.isfinite(y))):
                return Attempt(None, "diverged", t=done * step, counts=counts)
            if field.left < 0 and done < total:
                return Attempt(None, "", True, done * step, counts)
        return Attempt(np.asarray(y), counts=counts)


class RelativeDescent(AbstractSolver):
    r"""``gf.descend`` with ``gf.steps.relative_change(c)``: steps that change the gradient by c.

    The rule of those who let descent follow a flow in studies of lazy training
    (`geiger2020disentangling`).
    """

    name = "descent-relative"
    settings = (1e-1, 1e-2, 1e-3)

    def __init__(self) -> None:
        self._compiled: set[str] = set()

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({"Euler"})

    def label(self, setting: float) -> str:
        return f"change {setting:.0e}"

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        if problem.name not in self._compiled:
            with field.compiling():
                _some_steps(problem, problem.start, relative_change(setting), problem.t_end, 1)
            self._compiled.add(problem.name)
        theta, how, t = problem.start, relative_change(setting), 0.0
        tried = steps = 0.0
        while True:
            part = _some_steps(problem, theta, how, problem.t_end - t, _STEPS_AT_ONCE)
            taken = part.step_size
            theta, t = part.final, t + float(np.sum(taken))
            tried, steps = tried + part.stats["gradients"], steps + part.stats["steps"]
            counts = Counts(tried, 0, steps)
            if part.result == "completed":
                return Attempt(np.asarray(ravel_pytree(theta)[0]), counts=counts)
            if part.result != "max_steps":
                return Attempt(None, part.message, t=t, counts=counts)
            if field.left < 0:
                return Attempt(None, "", True, t, counts)
            how = relative_change(setting, first=float(taken[-1]))


def _some_steps(
    problem: Problem, theta: PyTree, how: RelativeChange, until: float, steps: int
) -> Path:
    """At most so many steps, of which the last is kept."""
    return descend(
        problem.risk, theta, step_size=how, until=until, steps=steps, save_every=_STEPS_AT_ONCE
    )
