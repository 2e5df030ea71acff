"""Gradient descent, as what people do today: small steps, or steps that follow the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts

#: Steps of one compiled loop, after which the clock is looked at.
_STEPS_AT_ONCE = 20_000
_GROW, _SHRINK = 1.2, 0.5


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
    r"""Descent whose step keeps the gradient's relative change at most c:
    :math:`|\nabla L(\theta-\eta g)-g|\le c|g|`, η halved until it holds and grown by 1.2 after.

    The rule of those who let descent follow a flow from a small start (`chizat2019lazy`).
    """

    name = "descent-relative"
    settings = (1e-1, 1e-2, 1e-3)

    def __init__(self) -> None:
        self._programs: dict[str, Callable[..., tuple[Array, ...]]] = {}

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({"Euler"})

    def label(self, setting: float) -> str:
        return f"change {setting:.0e}"

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        if problem.name not in self._programs:
            with field.compiling():
                y, one = jnp.asarray(problem.y0), jnp.asarray(1.0)
                lowered = jax.jit(lambda *s: _relative(problem, *s)).lower(y, y, one, one, one)
                self._programs[problem.name] = lowered.compile()
        program = self._programs[problem.name]
        y = jnp.asarray(problem.y0)
        t, step, steps, tried = 0.0, setting, 0, 0
        g = jnp.asarray(field(0.0, problem.y0))
        while t < problem.t_end:
            out = program(y, g, jnp.asarray(t), jnp.asarray(step), jnp.asarray(setting))
            y, g, t, step = out[0], out[1], float(out[2]), float(out[3])
            steps, tried = steps + int(out[4]), tried + int(out[5])
            counts = Counts(tried + 1, 0, steps)
            if not bool(jnp.all(jnp.isfinite(y))):
                return Attempt(None, "diverged", t=t, counts=counts)
            if step < 1e-16 * max(t, 1e-300):
                return Attempt(None, "the step vanishes: the gradient jumps", t=t, counts=counts)
            if field.left < 0 and t < problem.t_end:
                return Attempt(None, "", True, t, counts)
        return Attempt(np.asarray(y), counts=counts)


def _relative(
    problem: Problem, y: Array, g: Array, t: Array, step: Array, change: Array
) -> tuple[Array, ...]:
    """Some thousand steps: y, g, t, the next step, how many were taken, how many were tried."""
    norm = jnp.linalg.norm
    t_end = jnp.asarray(problem.t_end)

    def unfinished(carry: tuple[Array, ...]) -> Array:
        _, _, t, step, _, tried = carry
        return (t < t_end) & (tried < _STEPS_AT_ONCE) & (step > 1e-16 * t)

    def one(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        y, g, t, step, taken, tried = carry
        last = t + step >= t_end
        size = jnp.where(last, t_end - t, step)
        y_new = y + size * g
        g_new = problem.velocity(y_new)
        good = norm(g_new - g) <= change * norm(g)
        keep = lambda new, old: jnp.where(good, new, old)
        t_new = jnp.where(last, t_end, t + size)
        step_new = jnp.where(good, _GROW * step, _SHRINK * size)
        return (
            keep(y_new, y), keep(g_new, g), keep(t_new, t), step_new,
            taken + good.astype(taken.dtype), tried + 1,
        )  # fmt: skip

    zero = jnp.zeros((), jnp.int64)
    return lax.while_loop(unfinished, one, (y, g, t, step, zero, zero))
