r"""The max-margin problem of a two-layer (leaky) ReLU net on data, in the variables of its cells.

For a margin loss the flow that separates the data converges in direction to a KKT point of

.. math:: \min_\theta\tfrac12\|\theta\|^2\quad\text{s.t.}\quad
   q_i(\theta)=y_i\sum_k a_k\varphi(w_k\cdot x_i)\ge1

(`lyu2020homogeneous`), θ the trained weights. Inside an activation cell φ is linear on every pair,
and with both layers trained a KKT point is balanced, :math:`a_k^2=|w_k|^2`, so that in
:math:`v_k=|a_k|w_k` the problem is convex: minimise :math:`\sum_k|v_k|`. With fixed outer weights
it is convex in :math:`v_k=w_k`: minimise :math:`\tfrac12\sum_k|v_k|^2`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.networks.abstract import AbstractNetwork
from gradflow.risks.base import AbstractRisk
from gradflow.validation import fail


def cells_of(risk: AbstractRisk) -> Arrangement | None:
    """Return the arrangement of a risk's data with unit normals; None where it has no central one,
    in which alone the problem is convex."""
    at = risk.arrangement
    return at.unit if at is not None and at.central else None


def unit_split(cells: Arrangement, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return W (m, D) and a (m,) with the trained weights scaled to unit norm."""
    return normalise(cells, *cells.split(params))


def normalise(cells: Arrangement, W: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale the trained weights to unit norm (zero weights stay).

    No square under- or overflows on the way.
    """
    parts = [W.ravel(), a] if cells.trained else [W.ravel()]
    flat = np.concatenate(parts)
    top = float(np.max(np.abs(flat), initial=0.0))
    if top == 0:
        return W, a
    size = float(np.linalg.norm(flat / top))
    return W / top / size, (a / top / size if cells.trained else a)


def to_convex(cells: Arrangement, W: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(V, c)`` with f = Σ_k c_k φ(v_k·x)."""
    if cells.trained:
        return np.abs(a)[:, None] * W, np.sign(a)
    return W, a


def from_convex(cells: Arrangement, V: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return balanced ``(W, a)`` of unit norm for v_k, c_k."""
    if not cells.trained:
        return normalise(cells, V, c)
    root = np.sqrt(np.linalg.norm(V, axis=1))
    W = V / np.where(root > 0, root, 1.0)[:, None]
    return normalise(cells, W, c * root)


def join(cells: Arrangement, W: np.ndarray, a: np.ndarray) -> PyTree:
    """Return parameters of the network."""
    return jax.tree.map(jnp.asarray, cells.join(W, a))


def check_margin_risk(risk: Any) -> None:
    """Refuse a risk that has no max-margin problem."""
    if getattr(risk, "X", None) is None or getattr(risk, "y", None) is None:
        raise fail(
            "risk", getattr(risk, "name", risk), "has no finite data, so no margins",
            "use gf.EmpiricalRisk",
        )  # fmt: skip
    if risk.net.outputs > 1 or risk.offset is not None:
        problem = "has several outputs" if risk.net.outputs > 1 else "has an offset"
        raise fail(
            "risk", risk.name, f"{problem}, and margins are those of a homogeneous net of one",
            "use gf.TwoLayer(..., outputs=1) without offset=, or gf.certify for stationary points",
        )  # fmt: skip
    if not risk.loss.margin or risk.loss.kinked:
        raise fail(
            "risk", risk.name, "its flow has no max-margin limit", "use gf.logistic or exponential"
        )
    if not isinstance(risk.net, AbstractNetwork) or risk.net.degree is None:
        raise fail(
            "risk", risk.name, "its network is not homogeneous, so it has no normalised margin",
            "use gf.relu, gf.leaky_relu(...) or a linear network",
        )  # fmt: skip
