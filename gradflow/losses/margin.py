"""Margin losses: logistic, exponential, hinge."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from gradflow.losses.abstract import AbstractMarginLoss
from gradflow.numerics.logs import log1p_ratio


# The sigmoid with the derivative σ(z)σ(−z): no 1 − σ, which cancels for large z.
@jax.custom_jvp
def _sigmoid(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(z)


@_sigmoid.defjvp
def _sigmoid_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _sigmoid(z), _sigmoid(z) * _sigmoid(-z) * dz


# ln(1 + e^{-z}) with the derivative −σ(−z); the derivative of the formula below would be undefined
# at the corner of |z|, where the function is smooth.
@jax.custom_jvp
def _logistic(z: jax.Array) -> jax.Array:
    return jnp.maximum(-z, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


@_logistic.defjvp
def _logistic_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _logistic(z), -_sigmoid(-z) * dz


@jax.custom_jvp
def _log_logistic(z: jax.Array) -> jax.Array:
    # z > 0: ln log1p(u) = −z + ln(log1p(u)/u), two terms of one sign, and nothing underflows.
    ratio = log1p_ratio(jnp.exp(-jnp.maximum(z, 0.0)), jnp)
    return jnp.where(z > 0, jnp.log(ratio) - z, jnp.log(_logistic(jnp.minimum(z, 0.0))))


@_log_logistic.defjvp
def _log_logistic_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    u = jnp.exp(-jnp.maximum(z, 0.0))
    ratio = log1p_ratio(u, jnp)
    low = jnp.minimum(z, 0.0)
    slope = jnp.where(z > 0, 1.0 / ((1.0 + u) * ratio), _sigmoid(-low) / _logistic(low))
    return _log_logistic(z), -slope * dz


class Logistic(AbstractMarginLoss):
    """``ℓ(z) = ln(1 + e^{−z})``, ``ℓ'(z) = −1/(1 + e^z)``; −ℓ'(0) = ½, M = π²/12.

    ``ln ℓ(z)`` is −z + O(e^{−z}) for large z and ln(−z) for very negative z;
    ``ln(−ℓ'(z)) = −ln(1 + e^z)``.
    """

    name: ClassVar[str] = "logistic"
    vanishes: ClassVar[bool] = True
    neg_derivative_at_zero: ClassVar[float] = 0.5
    mass: ClassVar[float] = math.pi**2 / 12

    def of_margin(self, z: jax.Array) -> jax.Array:
        return _logistic(z)

    def margin_derivative(self, z: jax.Array) -> jax.Array:
        return -_sigmoid(-z)

    def log_of_margin(self, z: jax.Array) -> jax.Array:
        return _log_logistic(z)

    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        return -_logistic(-z)


class Exponential(AbstractMarginLoss):
    """``ℓ(z) = e^{−z}``, ``ℓ'(z) = −e^{−z}``; −ℓ'(0) = 1, M = 1.

    The value is inf for z < −709.78, where e^{−z} exceeds float64; the logarithms never overflow.
    """

    name: ClassVar[str] = "exponential"
    vanishes: ClassVar[bool] = True
    neg_derivative_at_zero: ClassVar[float] = 1.0
    mass: ClassVar[float] = 1.0

    def of_margin(self, z: jax.Array) -> jax.Array:
        return jnp.exp(-z)

    def margin_derivative(self, z: jax.Array) -> jax.Array:
        return -jnp.exp(-z)

    def log_of_margin(self, z: jax.Array) -> jax.Array:
        return -z

    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        return -z


class Hinge(AbstractMarginLoss):
    """``ℓ(z) = max(0, 1 − z)``, ``ℓ'(z) = −1`` for z < 1 and 0 for z ≥ 1; −ℓ'(0) = 1, M = ½.

    Both logarithms are −inf for z ≥ 1. The derivative at the kink z = 1 is 0: a datum that has
    reached the margin exerts no pull.
    """

    name: ClassVar[str] = "hinge"
    neg_derivative_at_zero: ClassVar[float] = 1.0
    mass: ClassVar[float] = 0.5

    def of_margin(self, z: jax.Array) -> jax.Array:
        return jnp.where(z < 1, 1.0 - z, 0.0)

    def margin_derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z < 1, -jnp.ones_like(z), 0.0)

    def log_of_margin(self, z: jax.Array) -> jax.Array:
        # log1p keeps the digits of a tiny z; the inner `where` keeps NaN out of gradients.
        return jnp.where(z < 1, jnp.log1p(-jnp.where(z < 1, z, 0.0)), -jnp.inf)

    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z < 1, jnp.zeros_like(z), -jnp.inf)

    @property
    def kinked(self) -> bool:
        return True
