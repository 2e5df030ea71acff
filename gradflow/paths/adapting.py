r"""Gradient descent whose steps keep the gradient's relative change small, compiled."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.numerics.traced import length
from gradflow.paths.steps import RelativeChange

#: Below this share of |θ| a refused step is shortened no more: it would not move θ.
_NO_MOVE = 4 * float(np.finfo(np.float64).eps)


class Adapted(NamedTuple):
    """Iterates of a descent with steps of its own choice.

    Attributes
    ----------
    step : (T,) int array
        Those kept.
    params : pytree
        Stacked.
    sizes : (N,) array
        η of the steps taken.
    attempts : int
        Steps tried; each cost one gradient, and the start one more.
    ended : {"completed", "max_steps", "stalled", "diverged"}
    compile_seconds, run_seconds : float
    """

    step: np.ndarray
    params: PyTree
    sizes: np.ndarray
    attempts: int
    ended: str
    compile_seconds: float
    run_seconds: float


class _State(NamedTuple):
    """Where the descent is: θ, its gradient, t in two parts, the next η, what was tried."""

    theta: PyTree
    gradient: PyTree
    t: Array
    carry: Array
    eta: Array
    attempts: Array
    stalled: Array
    finite: Array


def _norm(tree: PyTree) -> Array:
    """Euclidean norm of a whole pytree, without underflow."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return length(jnp.concatenate(leaves))


def _finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


@eqx.filter_jit
def _first(rule: Any, theta: PyTree, change: Array, first: Array) -> _State:
    """The state before the first step."""
    zero, no = jnp.zeros(()), jnp.array(False)
    gradient, _ = rule(theta, jnp.asarray(0), rule.start())
    speed = _norm(gradient)
    own = change * _norm(theta) / jnp.where(speed > 0, speed, 1.0)
    # (at rest, or at 0, no scale is known)
    own = jnp.where((speed > 0) & (own > 0), own, 1.0)
    eta = jnp.where(jnp.isnan(first), own, first)
    return _State(theta, gradient, zero, zero, eta, jnp.asarray(0), no, _finite(gradient))


@eqx.filter_jit
def _advance(
    rule: Any, state: _State, how: Array, until: Array, first: Array, count: Array, rows: PyTree
) -> tuple[_State, Array, PyTree, Array]:
    """Take up to ``count`` steps; keep θ and η of each.

    ``how`` is (change, growth, shrink). A step that would pass ``until`` ends there.
    """
    change, growth, shrink = how
    sizes, none = jnp.zeros(jax.tree.leaves(rows)[0].shape[0]), jnp.asarray(0)

    def going(carry: PyTree) -> Array:
        taken, state, _, _ = carry
        return (taken < count) & ~state.stalled & state.finite & (state.t < until)

    def attempt(carry: PyTree) -> PyTree:
        taken, old, rows, sizes = carry
        left = (until - old.t) - old.carry
        last = old.eta >= left
        eta = jnp.where(last, left, old.eta)
        theta = jax.tree.map(lambda p, g: p - eta * g, old.theta, old.gradient)
        gradient, _ = rule(theta, first + taken, rule.start())
        speed = _norm(old.gradient)
        moved = _norm(jax.tree.map(jnp.subtract, gradient, old.gradient))
        # (written so that NaN is refused)
        good = (moved <= change * speed) & _finite(theta)
        easy = moved <= 0.5 * change * speed
        longer = jnp.where(easy & ~last, growth * old.eta, old.eta)
        # A refused step that would hardly move θ is the end: the gradient jumps here, or is noise.
        shorter = shrink * eta
        stuck = ~good & ((eta * speed <= _NO_MOVE * _norm(old.theta)) | (shorter == 0))
        # Neumaier's sum: t is compared with `until` to the last bit.
        total = old.t + eta
        lost = jnp.where(old.t >= eta, (old.t - total) + eta, (eta - total) + old.t)
        new = _State(
            theta, gradient, jnp.where(last, until, total), old.carry + lost, longer,
            old.attempts + 1, jnp.array(False), jnp.array(True),
        )  # fmt: skip
        back = old._replace(eta=shorter, attempts=old.attempts + 1, stalled=stuck)
        state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, back)
        rows = jax.tree.map(lambda r, k: r.at[taken].set(k), rows, state.theta)
        return taken + jnp.where(good, 1, 0), state, rows, sizes.at[taken].set(eta)

    taken, state, rows, sizes = jax.lax.while_loop(going, attempt, (none, state, rows, sizes))
    return state, taken, rows, sizes


def adapt(
    rule: Any, theta: PyTree, how: RelativeChange, steps: int, until: float, every: int, chunk: int
) -> Adapted:
    """Descend until ``until`` (inf: for ``steps`` steps), in chunks of one compiled program."""
    tick = time.perf_counter()
    numbers = jnp.asarray([how.change, how.growth, how.shrink])
    end = jnp.asarray(until)
    first = jnp.asarray(np.nan if how.first is None else how.first)
    rows = jax.tree.map(lambda leaf: jnp.zeros((chunk, *leaf.shape), leaf.dtype), theta)
    state = _first(rule, theta, jnp.asarray(how.change), first)
    nothing = jnp.asarray(0)
    jax.block_until_ready(_advance(rule, state, numbers, end, nothing, nothing, rows))
    compile_seconds = time.perf_counter() - tick

    tick = time.perf_counter()
    saved_steps = [np.zeros(1, dtype=np.int64)]
    saved = [jax.tree.map(lambda leaf: np.asarray(leaf)[None], theta)]
    sizes, done = [np.zeros(0)], 0
    while True:
        count = min(chunk, steps - done)
        state, taken, rows, eta = _advance(
            rule, state, numbers, end, jnp.asarray(done), jnp.asarray(count), rows
        )
        taken = int(taken)
        index = done + 1 + np.arange(taken)
        kept = np.flatnonzero(index % every == 0)
        saved_steps.append(index[kept])
        saved.append(jax.tree.map(lambda leaf, k=kept: np.asarray(leaf)[k], rows))
        sizes.append(np.asarray(eta)[:taken])
        done += taken
        if taken < count or done == steps or float(state.t) >= until:
            break
    if done % every:
        saved_steps.append(np.array([done]))
        saved.append(jax.tree.map(lambda leaf: np.asarray(leaf)[None], state.theta))
    ended = _ended(state, until)
    params = jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *saved)
    run_seconds = time.perf_counter() - tick
    return Adapted(
        np.concatenate(saved_steps), params, np.concatenate(sizes), int(state.attempts), ended,
        compile_seconds, run_seconds,
    )  # fmt: skip


def _ended(state: _State, until: float) -> str:
    if bool(state.stalled):
        return "stalled"
    if not bool(state.finite):
        return "diverged"
    return "completed" if not np.isfinite(until) or float(state.t) >= until else "max_steps"


__all__ = ["Adapted", "adapt"]
