"""Problems that benchmark scripts share: data, a start, and the plain vector field of the flow."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf


@dataclass(frozen=True)
class Kinked:
    """A two-layer (leaky) ReLU net on finite data, both layers trained, exponential loss summed.

    Attributes
    ----------
    X, y : (n, d) and (n,) arrays
        Data.
    W, a : (m, d) and (m,) arrays
        The start.
    slope : float
        Slope of the activation for negative inputs.
    end : float
        Where to stop, in the loss clock.
    """

    X: np.ndarray
    y: np.ndarray
    W: np.ndarray
    a: np.ndarray
    slope: float
    end: float

    def risk(self) -> gf.EmpiricalRisk:
        """The risk whose flow is integrated."""
        net = gf.TwoLayer(self.X.shape[1], len(self.a), gf.leaky_relu(self.slope))
        return gf.EmpiricalRisk(net, gf.exponential, self.X, self.y, reduction="sum")

    def params(self):
        """The start as parameters of the net."""
        return self.risk().net.params(self.W, self.a)

    def start(self) -> np.ndarray:
        """The start as one flat vector, W row by row and then a."""
        return np.concatenate([self.W.ravel(), self.a])

    def margins(self, state: np.ndarray) -> np.ndarray:
        """y_i f(x_i) at a flat state."""
        W, a = state[: self.W.size].reshape(self.W.shape), state[self.W.size :]
        h = self.X @ W.T
        return self.y * (np.maximum(h, self.slope * h) @ a)

    def field(self, state: jax.Array) -> jax.Array:
        """Velocity in the loss clock, minus the gradient of ln sum_i e^{-q_i} (JAX)."""
        W, a = state[: self.W.size].reshape(self.W.shape), state[self.W.size :]
        h = self.X @ W.T
        slopes = jnp.where(h > 0, 1.0, self.slope)
        q = self.y * ((slopes * h) @ a)
        pull = (jax.nn.softmax(-q) * self.y)[:, None] * slopes
        return jnp.concatenate([(a[:, None] * (pull.T @ self.X)).ravel(), jnp.sum(pull * h, 0)])


def kinks_40() -> Kinked:
    """40 data in 10 dimensions, 20 neurons: 178 events and an end with 13 pairs sliding."""
    rng = np.random.default_rng(0)
    n, d, m = 40, 10, 20
    v = rng.normal(size=d)
    v /= np.linalg.norm(v)
    rng.normal(size=(n, d))  # a first draw of data, which is not used
    X = rng.normal(size=(n, d))
    W = 0.1 * rng.normal(size=(m, d))
    a = 0.1 * rng.choice([-1, 1], size=m)
    return Kinked(X, np.sign(X @ v), W, a, slope=0.1, end=4.0)
