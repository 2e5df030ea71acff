"""The squared loss."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from gradflow.losses.abstract import AbstractLoss


class Squared(AbstractLoss):
    """``ℓ(f, y) = ½(f − y)²``, ``∂ℓ/∂f = f − y``; any finite targets."""

    name: ClassVar[str] = "squared"

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return 0.5 * jnp.square(prediction - target)

    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return prediction - target

    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        # Through |f − y|, whose square may underflow; the inner `where` keeps NaN out of gradients.
        gap = jnp.abs(prediction - target)
        return jnp.where(
            gap > 0, 2.0 * jnp.log(jnp.where(gap > 0, gap, 1.0)) - math.log(2.0), -jnp.inf
        )
