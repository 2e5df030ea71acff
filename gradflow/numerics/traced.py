r"""Lengths and directions in JAX, whatever the scale, with derivatives that are finite at zero.

The NumPy versions are in :mod:`gradflow.numerics.vectors`, which says why they are scaled.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def length(x: Array) -> Array:
    """Euclidean norm over the last axis, shape (...); its gradient at the zero vector is 0."""
    top = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(top > 0, top, 1.0))
    squared = jnp.sum((x / top) ** 2, axis=-1)
    good = squared > 0
    return jnp.where(good, jnp.sqrt(jnp.where(good, squared, 1.0)), 0.0) * top[..., 0]


@jax.custom_jvp
def polar(rows: Array) -> tuple[Array, Array]:
    """Norms (m,) and unit vectors (m, d) of rows; a zero row has the direction 0."""
    top = jnp.max(jnp.abs(rows), axis=1)
    nonzero = top > 0
    scaled = rows / jnp.where(nonzero, top, 1.0)[:, None]
    size = jnp.where(nonzero, jnp.sqrt(jnp.sum(jnp.square(scaled), axis=1)), 1.0)
    return top * size, scaled / size[:, None]


@polar.defjvp
def _polar_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (rows,), (moved,) = primals, tangents
    norm, unit = polar(rows)
    along = jnp.sum(unit * moved, axis=1)
    inverse = jnp.where(norm > 0, 1.0 / jnp.where(norm > 0, norm, 1.0), 0.0)
    return (norm, unit), (along, inverse[:, None] * (moved - along[:, None] * unit))


@jax.custom_jvp
def row_norms(rows: Array) -> Array:
    """Norms (m,) of rows (m, d); the derivative is along the unit vector, and 0 at a zero row."""
    return polar(rows)[0]


@row_norms.defjvp
def _row_norms_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (rows,), (moved,) = primals, tangents
    size = row_norms(rows)
    unit = rows / jnp.where(size > 0, size, 1.0)[:, None]
    return size, jnp.sum(unit * moved, axis=1)


def direction(x: Array, instead: Array) -> Array:
    """The unit vector of ``x`` (d,), or ``instead`` (a unit vector) where x = 0."""
    top = jnp.max(jnp.abs(x))
    y = jnp.where(top > 0, x / jnp.where(top > 0, top, 1.0), instead)
    return y / jnp.sqrt(jnp.sum(y**2))


def rejection(x: Array, axis: Array) -> Array:
    """Part of ``x`` (d,) perpendicular to a unit axis, subtracted twice: only rounding is left."""
    x = x - jnp.dot(x, axis) * axis
    return x - jnp.dot(x, axis) * axis


def log_tan_half(along: Array, across: Array) -> Array:
    r""":math:`\ln\tan(\theta/2)` of components ``along`` and ``across`` ≥ 0 (see `vectors`)."""
    half = jnp.log(across) - jnp.log(jnp.hypot(along, across) + jnp.abs(along))
    return jnp.where(along >= 0, half, -half)
