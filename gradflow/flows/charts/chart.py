"""Charts: coordinates in which a flow is integrated.

Coordinates turn parameters into a flat float64 state and back, and know the risk there. A chart is
coordinates in which the flow has a velocity. Encoding and decoding happen on the host (NumPy,
batched over leading axes); everything that enters an integrator is JAX.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.flows.event import AbstractHandover
from gradflow.flows.metrics import AbstractMetric, Euclidean
from gradflow.risks.base import AbstractRisk


class AbstractCoordinates(eqx.Module):
    """Coordinates of parameters; see the module's docstring for the split between host and JAX."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The public name of the coordinates."""

    @abc.abstractmethod
    def encode(self, params: PyTree) -> np.ndarray:
        """State of ``params``, a flat float64 vector (host)."""

    @abc.abstractmethod
    def decode(self, y: np.ndarray) -> PyTree:
        """Parameters at the states ``y`` (..., n), stacked over the leading axes (host)."""

    @abc.abstractmethod
    def params(self, y: Array) -> PyTree:
        """Parameters at one state (JAX)."""

    @abc.abstractmethod
    def exact(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """What cartesian parameters cannot represent, by observable name (host)."""

    @abc.abstractmethod
    def scales(self, y: np.ndarray) -> np.ndarray:
        """Sizes to which absolute tolerances are relative, one for each state (host)."""

    def rounding(self, y: np.ndarray) -> np.ndarray:
        """Absolute errors that rounding in the coordinates makes unavoidable (host)."""
        return np.zeros_like(y)

    @abc.abstractmethod
    def log_risk(self, y: Array) -> Array:
        """ln L (JAX)."""

    @abc.abstractmethod
    def gradient_norm(self, y: Array) -> Array:
        """Norm of the risk's gradient (JAX)."""

    def core(self) -> AbstractCoordinates:
        """The same without data used on the host only, so that compiled programs are shared."""
        return self

    @property
    def arrangement(self) -> Arrangement | None:
        """The surfaces of the data that the flow meets, where the coordinates keep neurons apart
        (host); else None."""
        return None

    @property
    def rates(self) -> PyTree | None:
        """The rate at which each parameter moves against its gradient, shaped like the parameters,
        where the coordinates are these; None elsewhere."""
        return None

    @property
    def euclidean(self) -> bool:
        """Whether velocities are the gradient's, and no metric's."""
        return True

    def least_margin(self, y: Array) -> Array | None:
        """The least margin, of a loss that vanishes only where it is infinite; else None (JAX)."""
        return None


class AbstractChart(AbstractCoordinates):
    """Coordinates with the velocity of a flow in them."""

    @abc.abstractmethod
    def velocity(self, y: Array) -> Array:
        """dy/dt in physical time (JAX)."""

    @abc.abstractmethod
    def speed_squared(self, y: Array, dy: Array) -> Array:
        r""":math:`\|d\theta/dt\|^2` in the metric of the flow, at which L is spent (JAX)."""

    def gradient_norm(self, y: Array) -> Array:
        return jnp.sqrt(self.speed_squared(y, self.velocity(y)))

    def log_velocity(self, y: Array) -> Array:
        """Velocity in the loss clock, dy/ds with ds = L dt (JAX)."""
        return self.velocity(y) * jnp.exp(-self.log_risk(y))

    @abc.abstractmethod
    def turning(self, y: Array, t: Array) -> Array:
        """Rate at which the direction of the parameters turns, per unit of ln(1+t) (JAX)."""

    def handover(self) -> AbstractHandover | None:
        """Where another chart takes over; None where this one serves for ever."""
        return None


class CartesianChart(AbstractChart):
    """The parameters themselves, raveled; the metric says how the gradient moves them."""

    risk: AbstractRisk
    template: PyTree
    trained: Array
    metric: AbstractMetric

    def __init__(self, risk: AbstractRisk, params: PyTree, metric: AbstractMetric | None = None):
        self.risk = risk
        self.metric = Euclidean() if metric is None else metric
        self.template = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.float64), params)
        flat, _ = ravel_pytree(self.template)
        self.trained = jnp.ones_like(flat, dtype=bool)
        if risk.net is not None:
            ones = jax.tree.map(jnp.ones_like, self.template)
            self.trained = ravel_pytree(risk.net.freeze(ones))[0] != 0

    @property
    def name(self) -> str:
        return "cartesian"

    @property
    def arrangement(self) -> Arrangement | None:
        return None if self.rates is None else self.risk.arrangement

    @property
    def euclidean(self) -> bool:
        return self.metric.plain

    @property
    def rates(self) -> PyTree | None:
        return self.metric.rates(self.template)

    def least_margin(self, y: Array) -> Array | None:
        return self.risk.least_margin(self.params(y))

    def params(self, y: Array) -> PyTree:
        return ravel_pytree(self.template)[1](y)

    def encode(self, params: PyTree) -> np.ndarray:
        return np.asarray(ravel_pytree(params)[0], dtype=np.float64)

    def decode(self, y: np.ndarray) -> PyTree:
        leaves, structure = jax.tree.flatten(self.template)
        sizes = [leaf.size for leaf in leaves]
        pieces = np.split(y, np.cumsum(sizes)[:-1], axis=-1)
        shaped = [
            p.reshape(y.shape[:-1] + leaf.shape) for p, leaf in zip(pieces, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, shaped)

    def exact(self, y: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def scales(self, y: np.ndarray) -> np.ndarray:
        largest = np.max(np.abs(y), initial=0.0)
        return np.full(y.shape, largest if largest > 0 else 1.0)

    def velocity(self, y: Array) -> Array:
        return self.metric.velocity(y, ravel_pytree(self.risk.gradient(self.params(y)))[0])

    def log_velocity(self, y: Array) -> Array:
        gradient = jax.grad(lambda state: self.risk.log(self.params(state)))(y)
        return self.metric.velocity(y, jnp.where(self.trained, gradient, 0.0))

    def speed_squared(self, y: Array, dy: Array) -> Array:
        return self.metric.square(y, dy)

    def gradient_norm(self, y: Array) -> Array:
        gradient = ravel_pytree(self.risk.gradient(self.params(y)))[0]
        return jnp.sqrt(jnp.dot(gradient, gradient))

    def log_risk(self, y: Array) -> Array:
        return self.risk.log(self.params(y))

    def turning(self, y: Array, t: Array) -> Array:
        dy = self.velocity(y)
        size = jnp.sqrt(jnp.dot(y, y))
        unit = y / size
        across = dy - jnp.dot(unit, dy) * unit
        return jnp.sqrt(jnp.dot(across, across)) * (1 + t) / size
