r"""Strictly convex quadratic programs over a box, small and exact: principal pivoting.

.. math:: \min_x\tfrac12x^\top Gx+b^\top x,\qquad l\le x\le u

with G positive definite. A guess of the active bounds is pivoted until the optimality conditions
hold: all violated indices at once while that lowers their number, else the last one alone
(Murty's rule), which cannot cycle. Sliding multipliers are such a problem.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree


def box_least_squares(G: Array, b: Array, lo: Array, hi: Array) -> tuple[Array, Array, Array]:
    """Minimise ``½ xᵀGx + bᵀx`` over ``lo ≤ x ≤ hi``.

    Parameters
    ----------
    G : (K, K) array
        Symmetric positive definite.
    b, lo, hi : (K,) arrays
        An entry with ``lo = hi`` is fixed.

    Returns
    -------
    x : (K,) array
    inside : (K,) bools
        Entries strictly between their bounds.
    solved : bool
        Whether the optimality conditions hold.
    """
    K = b.shape[0]
    fixed = lo >= hi
    scale = jnp.sqrt(jnp.diag(G))
    # Values are compared in units of the box, gradients in units of their own terms.
    slack_x = 1e-14 * jnp.maximum(jnp.abs(lo), jnp.abs(hi))

    def point(at: Array) -> tuple[Array, Array]:
        """x and its gradient with the entries ``at`` = -1 / 0 / +1 at lo / free / at hi."""
        bound = jnp.where(at < 0, lo, hi)
        held = at != 0
        system = jnp.where(held[:, None] | held[None, :], jnp.eye(K), G)
        right = jnp.where(held, bound, -(b + G @ jnp.where(held, bound, 0.0)))
        x = jnp.where(held, bound, jnp.linalg.solve(system, right))
        return x, G @ x + b

    def violations(at: Array, x: Array, gradient: Array) -> Array:
        size = scale * (jnp.abs(G) @ jnp.abs(x) / scale + jnp.abs(b)) + 1e-300
        slack = 1e-14 * size
        free = at == 0
        low = free & (x < lo - slack_x)
        high = free & (x > hi + slack_x)
        release = ((at < 0) & (gradient < -slack)) | ((at > 0) & (gradient > slack))
        return (low | high | release) & ~fixed

    def pivot(at: Array, x: Array, chosen: Array) -> Array:
        moved = jnp.where(at == 0, jnp.where(x < lo, -1, 1), 0)
        return jnp.where(chosen, moved, at)

    def go_on(state: PyTree) -> PyTree:
        _, _, bad, _, _, count = state
        return jnp.any(bad) & (count < 8 * K + 40)

    def body(state: PyTree) -> PyTree:
        at, x, bad, best, patience, count = state
        number = jnp.sum(bad)
        better = number < best
        patience = jnp.where(better, 3, patience - 1)
        best = jnp.minimum(best, number)
        last = jnp.arange(K) == jnp.max(jnp.where(bad, jnp.arange(K), -1))
        at = pivot(at, x, jnp.where(patience >= 0, bad, bad & last))
        x, gradient = point(at)
        return at, x, violations(at, x, gradient), best, patience, count + 1

    at = jnp.where(fixed, -1, 0)
    x, gradient = point(at)
    state = (at, x, violations(at, x, gradient), jnp.asarray(K + 1), jnp.asarray(3), jnp.asarray(0))
    at, x, bad, *_ = lax.while_loop(go_on, body, state)
    return jnp.clip(x, lo, hi), (at == 0) & ~fixed, ~jnp.any(bad)
