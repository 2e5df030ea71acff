"""The two-neuron flow in Cartesian coordinates of any dimension, generated from the sectors."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import sympy as sp

from gradflow.symbolic.notation import M, c0, expr
from gradflow.symbolic.two_neuron.wedges import invariants, pulls, s, sbar

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

    from gradflow.symbolic.codegen import Radial

R1, R2 = sp.symbols("R1 R2", positive=True)
gamma = sp.Symbol("gamma", nonnegative=True)


class Reciprocal(sp.Function):
    """1/m for m > 0 and 0 for m = 0 (what it multiplies vanishes there)."""

    nargs = 1


def coefficients(slope: sp.Expr) -> tuple[sp.Expr, ...]:
    """Forces on w1 and u2 as combinations of v and the unit vectors of w1, u2.

    Each sector subtracts along*e + across*n with e = (c1 w1 + c2 u2)/M and
    n = (-cos(sbar) w1/|w1| + cos(s) u2/|u2|)/sin(gamma).

    Returns
    -------
    (on v, F1 on w1-hat, F1 on u2-hat, F2 on w1-hat, F2 on u2-hat)
    """
    result = [sp.S.Zero] * 4
    for pull in pulls(slope):
        size, start, rest = invariants(pull.sides, R1, R2, gamma)
        table = {M: size, s: start, sbar: rest}
        along, across = pull.along.subs(table), pull.across.subs(table)
        inverse, spread = Reciprocal(size), Reciprocal(sp.sin(gamma))
        first = along * pull.sides[0] * R1 * inverse - across * sp.cos(rest) * spread
        second = along * pull.sides[1] * R2 * inverse + across * sp.cos(start) * spread
        for neuron in (0, 1):
            result[2 * neuron] -= pull.weights[neuron] * first
            result[2 * neuron + 1] -= pull.weights[neuron] * second
    on_v = (1 + slope) * c0 / (2 * sp.pi)
    return (expr(on_v), *(expr(r) for r in result))


def cartesian_field(slope: sp.Expr, outer: str) -> Callable[[Radial], Callable[..., object]]:
    """Return ``build(radial) -> field``; see ``Derivation.vector_field``."""

    def build(radial: Radial) -> Callable[..., object]:
        import jax.numpy as jnp

        from gradflow.symbolic import codegen

        compiled = codegen.compile_expressions(
            coefficients(slope),
            (R1, R2, gamma),
            radial,
            {"Reciprocal": lambda m: jnp.where(m > 0, 1 / jnp.where(m > 0, m, 1.0), 0.0)},
        )

        def forces(first: Array, second: Array, direction: Array) -> tuple[Array, Array]:
            """-dL/dw1 and -dL/du2 for fixed unit outer weights."""
            norm1, norm2 = jnp.linalg.norm(first), jnp.linalg.norm(second)
            unit1, unit2 = first / norm1, second / norm2
            # |w1 - u2| and |w1 + u2| of the units: accurate for nearly (anti)parallel neurons.
            angle = 2 * jnp.arctan2(jnp.linalg.norm(unit1 - unit2), jnp.linalg.norm(unit1 + unit2))
            on_v, f11, f12, f21, f22 = compiled(norm1, norm2, angle)
            return (
                on_v * direction + f11 * unit1 + f12 * unit2,
                on_v * direction + f21 * unit1 + f22 * unit2,
            )

        def fixed(weights: ArrayLike, direction: ArrayLike) -> Array:
            """dW/dt, rows w1' and w2', for weights (2, d) and teacher direction v (d,)."""
            weights, direction = jnp.asarray(weights, float), jnp.asarray(direction, float)
            one, two = forces(weights[0], -weights[1], direction)
            return jnp.stack([one, -two])

        def trained(
            weights: ArrayLike, direction: ArrayLike, outer_weights: ArrayLike
        ) -> tuple[Array, Array]:
            """(dW/dt (2, d), da/dt (2,)) for outer weights a = (a1, -a2), a1, a2 > 0."""
            weights, direction = jnp.asarray(weights, float), jnp.asarray(direction, float)
            size = jnp.abs(jnp.asarray(outer_weights, float))
            one, two = forces(size[0] * weights[0], -size[1] * weights[1], direction)
            inner = jnp.stack([size[0] * one, -size[1] * two])
            return inner, jnp.stack([jnp.dot(weights[0], one), jnp.dot(weights[1], two)])

        return fixed if outer == "fixed" else trained

    return build
