"""An orthonormal frame of the plane of two neurons, and the teacher seen from it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gradflow.numerics.traced import direction, rejection

#: A teacher this close to the plane of the neurons is in it.
_COPLANAR = 1e-15


class NeuronPlane(NamedTuple):
    """Frame of span(w1, w2) and the coordinates of w and v in it."""

    axes: Array  # (2, d), orthonormal rows
    normal: Array  # (d,), unit, or 0 if v is in the plane
    w: Array  # (2, 2): row k holds the coordinates of w_k
    v: Array  # (2,)
    v_normal: Array  # v.n >= 0


def neuron_plane(w: Array, v: Array) -> NeuronPlane:
    """Orthonormal frame of span(w1, w2), completed toward v if the neurons are parallel."""
    if w.shape[1] == 2:
        axes, normal = jnp.eye(2), jnp.zeros(2)
        return NeuronPlane(axes, normal, w, v, jnp.zeros(()))
    units = [direction(w[0], v), direction(w[1], v)]
    longer = jnp.max(jnp.abs(w[0])) >= jnp.max(jnp.abs(w[1]))
    first = jnp.where(longer, units[0], units[1])
    second = rejection(jnp.where(longer, units[1], units[0]), first)
    toward = rejection(v, first)
    spare = rejection(jnp.zeros_like(v).at[jnp.argmin(jnp.abs(first))].set(1.0), first)
    toward = jnp.where(jnp.max(jnp.abs(toward)) > 1e-13, toward, spare)
    second = jnp.where(jnp.max(jnp.abs(second)) > 1e-14, second, toward)
    second = direction(rejection(direction(second, spare), first), spare)
    axes = jnp.stack([first, second])
    rest = rejection(rejection(rejection(v, first), second), first)
    size = jnp.sqrt(jnp.sum(rest**2))
    off = size > _COPLANAR
    normal = jnp.where(off, rest / jnp.where(off, size, 1.0), 0.0)
    return NeuronPlane(axes, normal, w @ axes.T, axes @ v, jnp.where(off, size, 0.0))
