r"""The chart of the late phase: direction, ln ρ, and what cartesian weights cannot hold.

The state is ``(θ/ρ, ln ρ, ln L, min_i q̂_i)`` with ρ = ‖θ‖ over the trained weights and the
normalised margins q̂. Past ρ^D ~ 1e8 the loss depends on digits of θ that float64 does not have, so
ln L and the normalised margin are states of their own. Source: `lyu2020homogeneous`.
"""

from __future__ import annotations

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.flows.charts.chart import AbstractCoordinates, CartesianChart
from gradflow.risks.base import AbstractRisk


class LateChart(AbstractCoordinates):
    """Direction and logarithms; the late phase has a system and a stepper of its own."""

    risk: AbstractRisk
    cartesian: CartesianChart

    def __init__(self, risk: AbstractRisk, params: PyTree) -> None:
        self.risk = risk
        self.cartesian = CartesianChart(risk, params)

    @property
    def name(self) -> str:
        return "direction"

    @property
    def arrangement(self) -> Arrangement | None:
        return self.risk.arrangement

    def states(
        self, W: np.ndarray, a: np.ndarray, log_rho: np.ndarray, log_loss: np.ndarray,
        margin: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Chart states from unit-normalised weights (rows, m, D), (rows, m) (host)."""
        assert self.arrangement is not None
        leaves = jax.tree.leaves(self.arrangement.join(W, a))
        flat = [np.asarray(leaf).reshape(len(W), -1) for leaf in leaves]
        return np.concatenate([*flat, np.stack([log_rho, log_loss, margin], axis=1)], axis=1)

    def _scaled(self, y: PyTree, xp: ModuleType) -> PyTree:
        """Cartesian states: the trained entries times ρ."""
        trained = np.asarray(self.cartesian.trained) if xp is np else self.cartesian.trained
        return y[..., :-3] * xp.where(trained, xp.exp(y[..., -3:-2]), 1.0)

    def encode(self, params: PyTree) -> np.ndarray:
        # ln ρ = 0: the weights as they are, to the last bit.
        state = self.cartesian.encode(params)
        log_loss = float(self.cartesian.log_risk(jnp.asarray(state)))
        margin = self.risk.least_margin(params)
        rho = float(np.linalg.norm(state[np.asarray(self.cartesian.trained)]))
        degree = getattr(self.risk.net, "degree", None) or 1
        least = np.nan if margin is None else float(margin) / rho**degree
        return np.concatenate([state, [0.0, log_loss, least]])

    def decode(self, y: np.ndarray) -> PyTree:
        return self.cartesian.decode(self._scaled(np.asarray(y), np))

    def params(self, y: Array) -> PyTree:
        return self.cartesian.params(self._scaled(y, jnp))

    def exact(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """ln L, ln ρ and the normalised margin; the last two where cartesian numbers overflow."""
        return {
            "log_norm": y[..., -3],
            "log_loss": y[..., -2],
            "normalised_margin": y[..., -1],
        }

    def scales(self, y: np.ndarray) -> np.ndarray:
        return np.ones(y.shape)

    def log_risk(self, y: Array) -> Array:
        return y[-2]

    def gradient_norm(self, y: Array) -> Array:
        """L |∇ ln L|, zero where L underflows."""
        flat = jax.grad(lambda state: self.cartesian.log_risk(state))(self._scaled(y, jnp))
        flat = jnp.where(self.cartesian.trained, flat, 0.0)
        return jnp.exp(y[-2]) * jnp.sqrt(jnp.dot(flat, flat))
