r"""The conic (Wasserstein-Fisher-Rao) flow of a two-layer net: masses and directions of neurons.

With a positively homogeneous activation a net is a measure
:math:`\nu=\sum_ks_kp_k\,\delta_{u_k}`, :math:`p_k=|a_k|\|w_k\|`, :math:`s_k=\mathrm{sgn}\,a_k`,
:math:`u_k=w_k/\|w_k\|`, and a risk J of it (penalty included) has in the mass and the direction of
neuron k the derivatives :math:`G_k` and :math:`p_k\nabla G_k`, with the potential

.. math:: G_k(u)=s_kV(u)+\lambda,\qquad V(u)=E\,(f-f^\circ)(x)\,\varphi(u\cdot x)
    \text{ for the squared loss},

and ∇ the gradient along the sphere. As :math:`\nabla_{w_k}J=|a_k|(G_ku_k+\nabla G_k)` and
:math:`\partial_{a_k}J=s_k\|w_k\|G_k`:

* **Trained outer weights, balanced.** :math:`|a_k|=\|w_k\|=\rho_k` stays so, and the gradient flow
  is :math:`\rho'=-\rho G,\ u'=-\nabla G`; for the mass :math:`p=\rho^2`: :math:`p'=-2pG`.
* **Fixed outer weights, norm-dependent step.** :math:`w_k'=-\|w_k\|\nabla_{w_k}J`, the gradient
  flow in the metric :math:`|dw|^2/\|w\|=dr^2/r+r\,|du|^2` of a cone, is
  :math:`r'=-|a|rG,\ u'=-|a|\nabla G`; for :math:`a=\pm1` the mass is r itself:
  :math:`r'=-rG,\ u'=-\nabla G`.

In the coordinates :math:`(\ln\|w_k\|,u_k)` both are one field; they differ in the mass, squared or
not, that a norm stands for: relative to transport the balanced flow reacts twice as fast. They have
the same stationary measures, and different curves. Small masses keep their relative accuracy, since
their logarithms are states. Source: `akiyama2021learnability`.
"""

from __future__ import annotations

from types import ModuleType
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.flows.charts.chart import AbstractChart
from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import TwoLayerParams, joined_rows
from gradflow.numerics.traced import row_norms
from gradflow.numerics.vectors import directions, log_lengths
from gradflow.risks.base import AbstractRisk

#: Metrics in which a gradient flow, or a descent, may be taken.
METRICS = ("euclidean", "conic")
#: Relative difference of |a_k| and ‖w_k‖ up to which a start counts as balanced.
_BALANCED = 1e-12
#: Masses below this are raised to it where forces are evaluated: they act on nothing, and the force
#: on a neuron does not depend on its mass.
_LEAST_LOG_MASS = -600.0


def norm_dependent(params: TwoLayerParams, gradient: TwoLayerParams) -> TwoLayerParams:
    r"""The gradient in the conic metric: row k times :math:`\|w_k\|` (a bias counted in w_k)."""
    size = row_norms(joined_rows(params))
    bias = None if gradient.bias is None else size * gradient.bias
    return TwoLayerParams(size[:, None] * gradient.inner, gradient.outer, bias)


def conic_metric_refusal(risk: AbstractRisk) -> str | None:
    """Why a risk has no norm-dependent step; None where it has one."""
    return "needs a two-layer net" if risk.net is None else risk.net.conic_refusal()


class ConicChart(AbstractChart):
    """States ``(ln ‖w_k‖ (m,), u_k (m·d,))``; see the module's docstring for the two flows."""

    risk: AbstractRisk
    outer: Array
    balanced: bool = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __init__(self, risk: AbstractRisk, params: TwoLayerParams) -> None:
        net = cast(TwoLayer, risk.net)  # (no other offers the chart)
        self.risk, self.dim = risk, net.dim
        self.balanced = net.outer == "trained"
        self.outer = jnp.sign(params.outer) if self.balanced else params.outer

    @staticmethod
    def metric_refusal(risk: AbstractRisk) -> str | None:
        """Why the chart does not serve the flow of the risk in the conic metric, or None."""
        if risk.arrangement is not None and risk.arrangement.kinked:
            return "does not locate the kinks of a net or a loss on data"
        net = risk.net
        if net is None or "conic" not in net.coordinates:
            return "needs a two-layer net with a positively homogeneous activation and no bias"
        return conic_metric_refusal(risk)

    @staticmethod
    def refusal(risk: AbstractRisk, params: TwoLayerParams) -> str | None:
        """Why the chart does not serve the plain gradient flow from a start, or None."""
        if risk.arrangement is not None and risk.arrangement.kinked:
            return "does not locate the kinks of a net or a loss on data"
        if cast(TwoLayer, risk.net).outer == "fixed":
            return "needs trained outer weights (for fixed ones see metric='conic')"
        norms = np.asarray(row_norms(params.inner))
        off = np.abs(np.abs(np.asarray(params.outer)) / norms - 1)
        if np.any(off > _BALANCED):
            k = int(np.argmax(off))
            return f"needs a balanced start: |a_k| and |w_k| differ by {off[k]:.2g} at k = {k}"
        return None

    @property
    def name(self) -> str:
        return "conic"

    def encode(self, params: PyTree) -> np.ndarray:
        inner = np.asarray(params.inner)
        return np.concatenate([log_lengths(inner), directions(inner).ravel()])

    def decode(self, y: np.ndarray) -> PyTree:
        return self._params(np.asarray(y), np.asarray(self.outer), np)

    def params(self, y: Array) -> PyTree:
        return self._params(y, self.outer, jnp)

    def _params(self, y: PyTree, outer: Array | np.ndarray, xp: ModuleType) -> TwoLayerParams:
        log_norm, u = self._split(y, xp)
        norm = xp.exp(log_norm)
        scale = norm if self.balanced else xp.ones_like(norm)
        return TwoLayerParams(norm[..., None] * u, outer * scale)

    def _split(self, y: PyTree, xp: ModuleType) -> tuple[PyTree, PyTree]:
        """ln ‖w_k‖ and unit vectors: what integration adds to their length is divided out."""
        m = self.outer.shape[0]
        u = y[..., m:].reshape(*y.shape[:-1], m, self.dim)
        return y[..., :m], u / xp.sqrt(xp.sum(u * u, axis=-1, keepdims=True))

    def _measure(self, y: Array) -> tuple[TwoLayerParams, Array, Array]:
        """Parameters of the same measure whose outer weights do not move; ln ‖w_k‖; u_k (JAX)."""
        log_norm, u = self._split(y, jnp)
        log_mass = jnp.maximum(2 * log_norm if self.balanced else log_norm, _LEAST_LOG_MASS)
        return TwoLayerParams(jnp.exp(log_mass)[:, None] * u, self.outer), log_norm, u

    def least_margin(self, y: Array) -> Array | None:
        return self.risk.least_margin(self.params(y))

    def exact(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """``log_neuron_norms``, ln ‖w_k‖, also where the norms underflow."""
        return {"log_neuron_norms": self._split(np.asarray(y), np)[0]}

    def scales(self, y: np.ndarray) -> np.ndarray:
        return np.ones(y.shape)

    def velocity(self, y: Array) -> Array:
        params, _, u = self._measure(y)
        force = self.risk.gradient(params).inner
        along = jnp.sum(u * force, axis=1)
        return -jnp.concatenate([along, (force - along[:, None] * u).ravel()])

    def _speeds(self, y: Array, dy: Array) -> tuple[Array, Array, Array]:
        """‖w_k‖ and the squared rates of ln ‖w_k‖ and u_k."""
        m = self.outer.shape[0]
        turn = jnp.sum(jnp.square(dy[m:].reshape(m, self.dim)), axis=1)
        return jnp.exp(y[:m]), jnp.square(dy[:m]), turn

    def speed_squared(self, y: Array, dy: Array) -> Array:
        norm, grow, turn = self._speeds(y, dy)
        if self.balanced:
            return jnp.sum(jnp.square(norm) * (2 * grow + turn))
        return jnp.sum(norm * (grow + turn))  # |dw|²/‖w‖

    def gradient_norm(self, y: Array) -> Array:
        """The Euclidean norm of the risk's gradient in the trained weights."""
        norm, grow, turn = self._speeds(y, self.velocity(y))
        if self.balanced:
            return jnp.sqrt(jnp.sum(jnp.square(norm) * (2 * grow + turn)))
        return jnp.sqrt(jnp.sum(grow + turn))

    def log_risk(self, y: Array) -> Array:
        return self.risk.log(self._measure(y)[0])

    def turning(self, y: Array, t: Array) -> Array:
        m = self.outer.shape[0]
        dy = self.velocity(y)
        weight = jax.nn.softmax(2 * y[:m])  # shares of ‖θ‖²
        mean = jnp.sum(weight * dy[:m])
        _, _, turn = self._speeds(y, dy)
        moved = jnp.square(dy[:m] - mean) + (0.5 if self.balanced else 1.0) * turn
        return jnp.sqrt(jnp.sum(weight * moved)) * (1 + t)
