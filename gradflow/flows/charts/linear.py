r"""Log-radius, log-angle chart of linear nets on spherically symmetric data.

For the end-to-end vector :math:`w_e` of a balanced linear net of depth N (the linear predictor is
N=1), with :math:`R=\|w_e\|`, :math:`\theta` its angle to the teacher, :math:`F_R,F_\theta` the
radial and tangential parts of :math:`-\nabla L` at :math:`w_e`:

.. math:: (\ln R)'=N R^{1-2/N}F_R,\qquad (\ln\tan\tfrac\theta2)'=-R^{1-2/N}\,F_\theta/\sin\theta .

Balanced nets have rank one; only the first layer's right vector turns, so the layers are recovered
exactly. Source: `lin2021faster`, `du2018balanced`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.flows.charts.chart import AbstractChart
from gradflow.networks.parameters import DeepLinearParams, LinearParams
from gradflow.numerics.vectors import length, log_tan_half, perpendicular
from gradflow.risks.population.linear_reduction import AbstractLinearReduction
from gradflow.risks.population.population import PopulationRisk
from gradflow.validation import fail

#: A start counts as balanced when the layers' Gram matrices differ by less than this, relatively.
BALANCE_TOLERANCE = 1e-12
#: Closer to angle pi the passage of a linear predictor by the origin is too short for float64 time.
_CLOSEST_TO_PI = 1e-15


class LinearLogAngleChart(AbstractChart):
    r"""State :math:`(\ln R,\ \ln\tan(\theta/2))`; see the module's docstring."""

    reduction: AbstractLinearReduction
    depth: Array | int
    frame: np.ndarray | None
    outer_vectors: tuple[np.ndarray, ...] | None

    @staticmethod
    def refusal(risk: PopulationRisk, params: PyTree) -> str | None:
        """Why the start has no such chart (unbalanced layers, a start on the teacher's own axis);
        None when it has one."""
        layers = [np.asarray(w) for w in params.matrices]
        top = max(float(np.linalg.norm(w)) for w in layers)
        layers = [w / top for w in layers] if top > 0 else layers
        gaps = (after.T @ after - before @ before.T for before, after in pairwise(layers))
        defect = max((float(np.linalg.norm(gap)) for gap in gaps), default=0.0)
        if defect > BALANCE_TOLERANCE:
            return f"the layers are not balanced (relative defect {defect:.3g})"
        v, w = np.asarray(risk.direction), np.asarray(risk.end_to_end(params))
        if w @ v > 0 and not perpendicular(w, v).any():
            return "the start is on the teacher's axis, where ln tan(theta/2) is -infinity"
        return None

    @classmethod
    def of(cls, risk: PopulationRisk, params: PyTree) -> LinearLogAngleChart:
        """The chart at a start; the start fixes the plane in which the flow stays."""
        v = np.asarray(risk.direction)
        w = np.asarray(risk.end_to_end(params))
        radius = length(w)
        if radius == 0:
            raise fail(
                "params", w, "the end-to-end vector is zero or underflows",
                "start from a vector of norm > 1e-300",
            )  # fmt: skip
        across = perpendicular(w, v)
        # A linear predictor passes the origin within this share of the time it takes to get there.
        predictor = isinstance(params, LinearParams)
        floor = _CLOSEST_TO_PI if predictor else 0.0
        if w @ v < 0 and length(across) <= floor * radius:
            raise fail(
                "params",
                w,
                "the start is at angle pi to the teacher (to rounding), where ln tan(theta/2) is "
                "infinite",
                "turn the start by any angle, or pass chart='cartesian'",
            )
        size = length(across)
        side = across / size if size > 0 else np.zeros_like(v)
        layers = params.matrices
        vectors: list[np.ndarray] = []
        row = w / radius
        for layer in layers[:-1]:
            column = np.asarray(layer) @ row
            row = column / np.linalg.norm(column)
            vectors.append(row)
        outer = None if predictor else tuple(vectors)
        reduction = cast(AbstractLinearReduction, risk.reduction)
        return cls(reduction, len(layers), np.stack([v, side]), outer)

    @property
    def name(self) -> str:
        return "log-angle"

    def core(self) -> LinearLogAngleChart:
        # an array, so that nets of every depth share one compiled program
        return LinearLogAngleChart(self.reduction, jnp.asarray(float(self.depth)), None, None)

    def encode(self, params: PyTree) -> np.ndarray:
        assert self.frame is not None
        first, *others = params.matrices
        w = np.asarray(first, dtype=np.float64)
        for layer in others:
            w = np.asarray(layer) @ w
        w = w[0]
        v = self.frame[0]
        across = length(perpendicular(w, v))
        return np.array([np.log(length(w)), float(log_tan_half(w @ v, across))])

    def decode(self, y: np.ndarray) -> PyTree:
        return self._params(y, np)

    def params(self, y: Array) -> PyTree:
        return self._params(y, jnp)

    def _params(self, y: PyTree, xp: Any) -> PyTree:
        assert self.frame is not None
        log_radius, lam = y[..., 0, None], y[..., 1, None]
        # cos = -tanh(lam), sin = sech(lam)
        decay = xp.exp(-xp.abs(lam))
        sine = 2 * decay / (1 + decay**2)
        unit = -xp.tanh(lam) * self.frame[0] + sine * self.frame[1]
        if self.outer_vectors is None:
            return LinearParams(xp.exp(log_radius) * unit)
        # (a layer an outer vector, and the first)
        sigma = xp.exp(log_radius / (len(self.outer_vectors) + 1.0))[..., None]
        if not self.outer_vectors:
            return DeepLinearParams((sigma * unit[..., None, :],))
        rows = self.outer_vectors
        first = sigma * rows[0][:, None] * unit[..., None, :]
        middle = tuple(sigma * (b[:, None] * a[None, :]) for a, b in pairwise(rows))
        layers: Any = (first, *middle, sigma * rows[-1][None, :])
        return DeepLinearParams(layers)

    def exact(self, y: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "log_radius": y[..., 0],
            "log_tan_half_angle": y[..., 1:2],
            "neuron_norms": np.exp(y[..., 0:1]),
        }

    def scales(self, y: np.ndarray) -> np.ndarray:
        return np.ones_like(y)

    def _forces(self, y: Array) -> tuple[Array, Array, Array]:
        radial = self.reduction.radial_force(y[0], y[1])
        angular = self.reduction.angular_rate(y[0], y[1])
        return jnp.exp((1 - 2 / self.depth) * y[0]), radial, angular

    def velocity(self, y: Array) -> Array:
        pace, radial, angular = self._forces(y)
        return jnp.stack([self.depth * pace * radial, -pace * angular])

    def speed_squared(self, y: Array, dy: Array) -> Array:
        # N singular values sigma = R^{1/N}, each with sigma' = sigma (ln R)'/N, and the first
        # layer's turn
        sigma = jnp.exp(y[0] / self.depth)
        decay = jnp.exp(-jnp.abs(y[1]))
        turn = dy[1] * 2 * decay / (1 + decay**2)
        # (sigma first: the rates themselves are of size 1/R)
        return (sigma * dy[0]) ** 2 / self.depth + (sigma * turn) ** 2

    def log_risk(self, y: Array) -> Array:
        return self.reduction.log_value(y[0], y[1])

    def turning(self, y: Array, t: Array) -> Array:
        dy = self.velocity(y)
        decay = jnp.exp(-jnp.abs(y[1]))
        turn = jnp.abs(dy[1]) * 2 * decay / (1 + decay**2)
        return turn * (1 + t) / jnp.sqrt(self.depth)
