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

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gradflow.losses import AbstractMarginLoss, Hinge
from gradflow.networks.abstract import AbstractNetwork
from gradflow.risks.kinked import DataKinks
from gradflow.validation import fail

#: A pair with |w_k·n_g| below this share of |w_k||n_g| stands on its surface.
ON_SURFACE = 1e-11


@dataclass(frozen=True)
class Cells:
    """Data, surfaces and slope of the problem (host arrays).

    Attributes
    ----------
    Z : (n, D) array
        Inputs, bias entry included.
    y : (n,) array
    normals : (G, D) array
        Unit normals of the surfaces.
    surface, scale : (n,) arrays
        ``Z[i] = scale[i] * normals[surface[i]]``.
    slope : float
        α; with α = 1 there are no kinks.
    trained : bool
        Whether the outer weights are trained (degree 2) or fixed (degree 1).
    kinks : DataKinks
        Splits and joins parameters.
    """

    Z: np.ndarray
    y: np.ndarray
    normals: np.ndarray
    surface: np.ndarray
    scale: np.ndarray
    slope: float
    trained: bool
    kinks: DataKinks

    @property
    def degree(self) -> int:
        """D, the degree of homogeneity of f in the trained weights."""
        return 2 if self.trained else 1

    def split(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return W (m, D) and a (m,) with the trained weights scaled to unit norm, and so that
        no square under- or overflows on the way."""
        W, a = (np.array(part, dtype=float) for part in self.kinks.split(params))
        return self.normalise(W, a)

    def normalise(self, W: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale the trained weights to unit norm (zero weights stay)."""
        parts = [W.ravel(), a] if self.trained else [W.ravel()]
        flat = np.concatenate(parts)
        top = float(np.max(np.abs(flat), initial=0.0))
        if top == 0:
            return W, a
        size = float(np.linalg.norm(flat / top))
        return W / top / size, (a / top / size if self.trained else a)

    def heights(self, W: np.ndarray) -> np.ndarray:
        """Return h_kg = w_k·n_g (m, G)."""
        return W @ self.normals.T

    def sides(self, W: np.ndarray) -> np.ndarray:
        """Return the pattern (m, G): +1, −1, or 0 where the neuron stands on the surface."""
        if self.slope == 1:
            return np.ones((W.shape[0], self.normals.shape[0]), dtype=int)
        h = self.heights(W)
        size = np.linalg.norm(W, axis=1)[:, None]
        return np.where(np.abs(h) <= ON_SURFACE * size, 0, np.sign(h)).astype(int)

    def slopes(self, sides: np.ndarray) -> np.ndarray:
        """Return s_ki (m, n) on the given sides; a pair on its surface counts as on side +1."""
        signs = np.where(sides == 0, 1, sides)[:, self.surface] * np.sign(self.scale)
        return np.where(signs >= 0, 1.0, self.slope)

    def activations(self, W: np.ndarray) -> np.ndarray:
        """Return φ(w_k·x_i) (m, n)."""
        h = W @ self.Z.T
        return np.where(h >= 0, h, self.slope * h)

    def margins(self, W: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Return q_i (n,)."""
        return self.y * (a @ self.activations(W))

    def to_convex(self, W: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(V, c)`` with f = Σ_k c_k φ(v_k·x)."""
        if self.trained:
            return np.abs(a)[:, None] * W, np.sign(a)
        return W, a

    def from_convex(self, V: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return balanced ``(W, a)`` of unit norm for v_k, c_k."""
        if not self.trained:
            return self.normalise(V, c)
        root = np.sqrt(np.linalg.norm(V, axis=1))
        W = V / np.where(root > 0, root, 1.0)[:, None]
        return self.normalise(W, c * root)

    def join(self, W: np.ndarray, a: np.ndarray) -> Any:
        """Return parameters of the network."""
        return self.kinks.join(jax.numpy.asarray(W), jax.numpy.asarray(a))


def cells_of(risk: Any) -> Cells | None:
    """Return the problem of a risk whose kinks are known; None for another network."""
    kinks = risk.kinks()
    if not isinstance(kinks, DataKinks):
        return None
    normals = np.asarray(kinks.normals)
    size = np.linalg.norm(normals, axis=1)
    surface = np.asarray(kinks.surface)
    return Cells(
        Z=kinks.inputs(), y=np.asarray(kinks.y), normals=normals / size[:, None], surface=surface,
        scale=np.asarray(kinks.scale) * size[surface], slope=float(kinks.slope),
        trained=bool(kinks.outer_trained), kinks=kinks,
    )  # fmt: skip


def check_margin_risk(risk: Any) -> None:
    """Refuse a risk that has no max-margin problem."""
    if getattr(risk, "X", None) is None or getattr(risk, "y", None) is None:
        raise fail(
            "risk", getattr(risk, "name", risk), "has no finite data, so no margins",
            "use gf.EmpiricalRisk",
        )  # fmt: skip
    if not isinstance(risk.loss, AbstractMarginLoss) or isinstance(risk.loss, Hinge):
        raise fail(
            "risk", risk.name, "its flow has no max-margin limit", "use gf.logistic or exponential"
        )
    if not isinstance(risk.net, AbstractNetwork) or risk.net.degree is None:
        raise fail(
            "risk", risk.name, "its network is not homogeneous, so it has no normalised margin",
            "use gf.relu, gf.leaky_relu(...) or a linear network",
        )  # fmt: skip
