"""An orthonormal frame of the plane of two neurons, and the teacher seen from it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

#: A teacher this close to the plane of the neurons is in it.
_COPLANAR = 1e-15


class NeuronPlane(NamedTuple):
    """Frame of span(w1, w2) and the coordinates of w and v in it."""

    axes: Array  # (2, d), orthonormal rows
    normal: Array  # (d,), unit, or 0 if v is in the plane
    w: Array  # (2, 2): row k holds the coordinates of w_k
    v: Array  # (2,)
    v_normal: Array  # v.n >= 0


def _reject(x: Array, axis: Array) -> Array:
    """x less its part along a unit axis, twice, so that only rounding is left of it."""
    x = x - jnp.dot(x, axis) * axis
    return x - jnp.dot(x, axis) * axis


def _unit(x: Array, instead: Array) -> Array:
    """x / |x|, or ``instead`` where x = 0."""
    top = jnp.max(jnp.abs(x))
    y = jnp.where(top > 0, x / jnp.where(top > 0, top, 1.0), instead)
    return y / jnp.sqrt(jnp.sum(y**2))


def neuron_plane(w: Array, v: Array) -> NeuronPlane:
    """Orthonormal frame of span(w1, w2), completed toward v if the neurons are parallel."""
    if w.shape[1] == 2:
        axes, normal = jnp.eye(2), jnp.zeros(2)
        return NeuronPlane(axes, normal, w, v, jnp.zeros(()))
    units = [_unit(w[0], v), _unit(w[1], v)]
    longer = jnp.max(jnp.abs(w[0])) >= jnp.max(jnp.abs(w[1]))
    first = jnp.where(longer, units[0], units[1])
    second = _reject(jnp.where(longer, units[1], units[0]), first)
    toward = _reject(v, first)
    spare = _reject(jnp.zeros_like(v).at[jnp.argmin(jnp.abs(first))].set(1.0), first)
    toward = jnp.where(jnp.max(jnp.abs(toward)) > 1e-13, toward, spare)
    second = jnp.where(jnp.max(jnp.abs(second)) > 1e-14, second, toward)
    second = _unit(_reject(_unit(second, spare), first), spare)
    axes = jnp.stack([first, second])
    rest = _reject(_reject(_reject(v, first), second), first)
    size = jnp.sqrt(jnp.sum(rest**2))
    off = size > _COPLANAR
    normal = jnp.where(off, rest / jnp.where(off, size, 1.0), 0.0)
    return NeuronPlane(axes, normal, w @ axes.T, axes @ v, jnp.where(off, size, 0.0))
