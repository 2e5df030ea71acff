"""Parameters as neurons: a block w_k (its bias the last entry) and an outer weight a_k each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from gradflow.networks.parameters import LinearParams, TwoLayerParams


def split(layout: str, params: PyTree) -> tuple[jax.Array, jax.Array]:
    """Return the blocks ``W`` (..., m, D) and outer weights ``a`` (..., m) of parameters.

    Parameters
    ----------
    layout : {"plain", "bias", "linear"}
        "linear": one neuron of outer weight 1.
    """
    if layout == "linear":
        W = params.weight[..., None, :]
        return W, jnp.ones(W.shape[:-1])
    if layout == "bias":
        return jnp.concatenate([params.inner, params.bias[..., None]], axis=-1), params.outer
    return params.inner, params.outer


def join(layout: str, W: PyTree, a: PyTree) -> LinearParams | TwoLayerParams:
    """Return parameters, of the arrays' own kind: the inverse of `split`."""
    if layout == "linear":
        return LinearParams(W[..., 0, :])
    if layout == "bias":
        return TwoLayerParams(W[..., :-1], a, W[..., -1])
    return TwoLayerParams(W, a)
