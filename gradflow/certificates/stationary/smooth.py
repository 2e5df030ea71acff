"""A risk as a smooth function of its trained weights."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradflow.certificates.stationary.judge import Landing
from gradflow.certificates.stationary.newton import newton
from gradflow.risks.base import AbstractRisk


def smooth_landing(risk: AbstractRisk, params: object, candidate: object) -> Landing:
    """Return the stationary point that Newton's method finds from ``params``, or ``candidate``."""
    flat, unravel = ravel_pytree(params if candidate is None else candidate)
    trained = _trained(risk, params)
    origin = np.asarray(ravel_pytree(params)[0])[trained]

    def field(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        g, H = _derivatives(risk, unravel(flat), trained, jnp.asarray(part))
        return np.asarray(g), np.asarray(H)

    def value(part: np.ndarray) -> float:
        return float(_value(risk, unravel(flat), trained, jnp.asarray(part)))

    found = newton(field, origin, 60 if candidate is None else 0)
    point = found.point if candidate is None else np.asarray(flat)[trained]
    final = unravel(jnp.asarray(flat).at[trained].set(point))
    return Landing(
        params=final, field=field, point=point, basis=np.eye(point.size),
        origin=origin, weights=point, predicted=float(np.linalg.norm(found.first)),
        first=found.first, lengths=found.lengths, curvature=found.curvature,
        levels=(value(origin), value(point)), size=abs(value(origin)), floor=risk.floor,
        flat=0 if risk.net is None else risk.net.flat_directions(final),
        shrunk=lambda mask, factor: value(np.where(mask, factor, 1.0) * point),
        off=np.zeros(0),
    )  # fmt: skip


def _trained(risk: AbstractRisk, params: object) -> np.ndarray:
    """Indices of the weights that the flow moves."""
    ones = jax.tree.map(jnp.ones_like, params)
    kept = ones if risk.net is None else risk.net.freeze(ones)
    return np.flatnonzero(np.asarray(ravel_pytree(kept)[0]))


# (compiled once per structure of risk and parameters, whatever their numbers)
def _of_part(risk: AbstractRisk, params: object, trained: np.ndarray, part: jax.Array) -> jax.Array:
    flat, unravel = ravel_pytree(params)
    return jnp.asarray(risk(unravel(flat.at[trained].set(part)))).reshape(())


@eqx.filter_jit
def _value(risk: AbstractRisk, params: object, trained: np.ndarray, part: jax.Array) -> jax.Array:
    return _of_part(risk, params, trained, part)


@eqx.filter_jit
def _derivatives(
    risk: AbstractRisk, params: object, trained: np.ndarray, part: jax.Array
) -> tuple[jax.Array, jax.Array]:
    gradient = jax.grad(_of_part, argnums=3)
    return gradient(risk, params, trained, part), jax.jacfwd(gradient, argnums=3)(
        risk, params, trained, part
    )
