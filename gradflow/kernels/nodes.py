"""Gauss-Legendre rules on consecutive pieces, and activations on NumPy arrays."""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np

from gradflow.networks.activations import AbstractActivation


@lru_cache(maxsize=32)
def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(nodes)


def on_pieces(
    edges: np.ndarray, nodes: int, *, graded: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on the pieces between sorted ``edges`` (..., p + 1); shapes (..., p·nodes).

    Pieces of no length get weights of zero. ``graded`` draws nodes to the edges, for functions that
    are smooth but not analytic there.
    """
    x, w = _legendre(nodes)
    if graded:
        x, w = 0.5 * (3 * x - x**3), 1.5 * w * (1 - x) * (1 + x)
    middle = 0.5 * (edges[..., 1:] + edges[..., :-1])
    half = 0.5 * (edges[..., 1:] - edges[..., :-1])
    node = middle[..., None] + half[..., None] * x
    weight = half[..., None] * w
    shape = (*edges.shape[:-1], -1)
    return node.reshape(shape), weight.reshape(shape)


def values(activation: AbstractActivation, z: np.ndarray) -> np.ndarray:
    """φ(z), entry by entry."""
    return np.asarray(activation(jnp.asarray(z)))
