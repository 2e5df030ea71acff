"""σ(z), ln(1 + e^{−z}) and its logarithm, with derivatives that neither cancel nor underflow."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gradflow.numerics.logs import log1p_ratio


@jax.custom_jvp
def sigmoid(z: jax.Array) -> jax.Array:
    """Return σ(z), of the derivative σ(z)σ(−z): no 1 − σ, which cancels for large z."""
    return jax.nn.sigmoid(z)


@sigmoid.defjvp
def _sigmoid_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return sigmoid(z), sigmoid(z) * sigmoid(-z) * dz


@jax.custom_jvp
def log1p_exp_neg(z: jax.Array) -> jax.Array:
    """Return ln(1 + e^{−z}), of the derivative −σ(−z).

    That of the formula below is undefined at the corner of |z|, where the function is smooth.
    """
    return jnp.maximum(-z, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


@log1p_exp_neg.defjvp
def _log1p_exp_neg_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return log1p_exp_neg(z), -sigmoid(-z) * dz


@jax.custom_jvp
def log_log1p_exp_neg(z: jax.Array) -> jax.Array:
    """Return ln ln(1 + e^{−z})."""
    # z > 0: ln log1p(u) = −z + ln(log1p(u)/u), two terms of one sign, and nothing underflows.
    ratio = log1p_ratio(jnp.exp(-jnp.maximum(z, 0.0)), jnp)
    return jnp.where(z > 0, jnp.log(ratio) - z, jnp.log(log1p_exp_neg(jnp.minimum(z, 0.0))))


@log_log1p_exp_neg.defjvp
def _log_log1p_exp_neg_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    u = jnp.exp(-jnp.maximum(z, 0.0))
    ratio = log1p_ratio(u, jnp)
    low = jnp.minimum(z, 0.0)
    slope = jnp.where(z > 0, 1.0 / ((1.0 + u) * ratio), sigmoid(-low) / log1p_exp_neg(low))
    return log_log1p_exp_neg(z), -slope * dz
