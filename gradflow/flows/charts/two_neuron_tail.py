r"""Tail of the two-neuron flow: fixed outer weights of opposite signs, once aligned.

With all angles small the wedges are negligible (relative size :math:`e^{-40}`). With
:math:`M_A,M_B` the norms of the two caps' linear forms, :math:`S=(M_A+M_B)/2`,
:math:`D=M_A-M_B`, the flow is :math:`\dot z_i=\tfrac{b_i}2[c_i^Ah(M_A)+c_i^Bh(M_B)]`,
:math:`\dot q=-Kq`, :math:`K_{ij}=\sum_Xb_ic_i^Xk(M_X)c_j^Xb_j`,
:math:`k(M)=\tfrac1{2M}(c_0/\pi-h(M))`. For ReLU K is diagonal and each :math:`\ln|p_i|` is a
quadrature; for a leaky slope the fast mode has died and the flow follows the slow eigenvector of K
with its adiabatic correction, which removes the stiffness. Differences such as
:math:`h(M_A)-h(M_B)=D\int h'` are never formed by subtraction. Derived here for the setting of
`lin2021faster`.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.data.laws.radial import RadialFunctions
from gradflow.flows.charts.chart import AbstractChart
from gradflow.networks.parameters import TwoLayerParams

_GL_X = 0.5 * np.polynomial.legendre.leggauss(10)[0]
_GL_W = 0.5 * np.polynomial.legendre.leggauss(10)[1]


class Placement(eqx.Module):
    """Where the plane of the neurons lies, and signs: used on the host only."""

    frame: np.ndarray
    signs: np.ndarray
    outer: np.ndarray

    def params(
        self, z: Array | np.ndarray, p: Array | np.ndarray, b: Array | np.ndarray
    ) -> TwoLayerParams:
        """Parameters from v-parts (..., 2), perpendicular parts (..., 2, 2) and weights (..., 2),
        on the host or in JAX."""
        omega = z[..., None] * self.frame[:1] + p @ self.frame[1:]
        inner: Any = self.signs[:, None] * omega
        outer: Any = self.signs * b
        return TwoLayerParams(inner, outer, None)


def log_norm(q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.hypot(q[..., 0], q[..., 1]))


def slow_mode(forms: Array, b: Array, radial: RadialFunctions, s: Array, d: Array):
    """Slow eigenvalue, gap and angle offset of K; the slow eigenvector is at angle -pi/4 +
    offset."""
    k_a, k_b = cap_rate(radial, s + 0.5 * d), cap_rate(radial, s - 0.5 * d)
    mean_k, diff_k = 0.5 * (k_a + k_b), difference(cap_rate_slope, radial, s, d)
    weighted = forms[:2] * b[None, :]
    g = weighted[:, 0] ** 2 - weighted[:, 1] ** 2
    delta = 0.5 * (mean_k * (g[0] + g[1]) + 0.5 * diff_k * (g[0] - g[1]))
    cross = weighted[0, 0] * weighted[0, 1] * k_a + weighted[1, 0] * weighted[1, 1] * k_b
    trace = jnp.sum(weighted[0] ** 2) * k_a + jnp.sum(weighted[1] ** 2) * k_b
    half_gap = jnp.sqrt(delta**2 + cross**2)
    fast = 0.5 * trace + half_gap
    determinant = (
        k_a * k_b * (weighted[0, 0] * weighted[1, 1] - weighted[0, 1] * weighted[1, 0]) ** 2
    )
    return determinant / fast, 2 * half_gap, 0.5 * jnp.arctan2(-delta, cross)


def cap_rate(radial: RadialFunctions, m: Array) -> Array:
    """k(M) = (c0/pi - h(M)) / (2M), the rate at which a cap's linear form loses its perpendicular
    part."""
    return 0.5 * radial.h_complement(m) / m


def cap_rate_slope(radial: RadialFunctions, m: Array) -> Array:
    """k'(M)."""
    return -0.5 * radial.dh(m) / m - cap_rate(radial, m) / m


def _h_slope(radial: RadialFunctions, m: Array) -> Array:
    return radial.dh(m)


def difference(slope, radial: RadialFunctions, s: Array, d: Array) -> Array:
    """F(s + d/2) - F(s - d/2) as d times the mean of F' (Gauss-Legendre): no cancellation for
    small d."""
    return d * jnp.dot(jnp.asarray(_GL_W), slope(radial, s + d * jnp.asarray(_GL_X)))


def log_mode_ratio(q: np.ndarray) -> np.ndarray:
    """ln |q_1 + q_2| / |q_1 - q_2|: slow against fast mode of a leaky pair."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return log_norm(q[..., 0, :] + q[..., 1, :]) - log_norm(q[..., 0, :] - q[..., 1, :])


class TwoNeuronTailChart(AbstractChart):
    """Tail chart: state (S, D, ln p_1, ln p_2) for ReLU, (S, D, ln amplitude) for a leaky slope."""

    radial: RadialFunctions
    forms: Array
    b: Array
    leaky: bool = eqx.field(static=True)
    placement: Placement | None
    directions: np.ndarray | None

    @property
    def name(self) -> str:
        return "log-angle"

    def core(self) -> TwoNeuronTailChart:
        return TwoNeuronTailChart(self.radial, self.forms, self.b, self.leaky, None, None)

    def encode(self, params: PyTree) -> np.ndarray:
        raise ValueError("the tail chart is entered from the general chart, not from parameters")

    def _parts(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """v-parts (..., 2), ln|p_i| (..., 2) and the offset of the slow eigenvector (...)."""
        forms, b = np.asarray(self.forms), np.asarray(self.b)
        caps = np.stack([y[..., 0] + 0.5 * y[..., 1], y[..., 0] - 0.5 * y[..., 1]], axis=-1)
        z = np.linalg.solve(forms[:2], caps[..., None])[..., 0] / b
        if not self.leaky:
            return z, y[..., 2:4], np.zeros(y.shape[:-1])
        offset = np.asarray(_offsets(self, _padded(y)))[: y.reshape(-1, 3).shape[0]].reshape(
            y.shape[:-1]
        )
        angle = -0.25 * np.pi + offset
        modes = np.stack([np.log(np.cos(angle)), np.log(-np.sin(angle))], axis=-1)
        return z, y[..., 2:3] + modes, offset

    def decode(self, y: np.ndarray) -> TwoLayerParams:
        assert self.placement is not None
        assert self.directions is not None
        z, log_p, _ = self._parts(y)
        sign = np.array([1.0, -1.0 if self.leaky else 1.0])
        p = (sign * np.exp(log_p))[..., None] * self.directions
        return self.placement.params(z, p, np.broadcast_to(np.asarray(self.b), z.shape))

    def params(self, y: Array) -> TwoLayerParams:
        assert self.placement is not None
        assert self.directions is not None
        caps = jnp.stack([y[0] + 0.5 * y[1], y[0] - 0.5 * y[1]])
        z = jnp.linalg.solve(self.forms[:2], caps) / self.b
        if self.leaky:
            angle = -0.25 * np.pi + _adiabatic_offset(self, y)
            p = jnp.exp(y[2]) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        else:
            p = jnp.exp(y[2:4])
        return self.placement.params(z, p[:, None] * self.directions, self.b)

    def exact(self, y: np.ndarray) -> dict[str, np.ndarray]:
        z, log_p, offset = self._parts(y)
        if self.leaky:
            # (q_1 + q_2)/(q_1 - q_2) = tan(offset)
            with np.errstate(divide="ignore"):
                ratio = np.log(np.abs(np.tan(offset)))
        else:
            p = np.exp(log_p - log_p.max(axis=-1, keepdims=True))[..., None] * self.directions
            ratio = log_mode_ratio(p)
        return {
            "log_tan_half_angle": log_p - np.log(2 * z),
            "neuron_norms": z,
            "log_perpendicular": log_p,
            "cap_mean": y[..., 0],
            "cap_difference": y[..., 1],
            "log_mode_ratio": ratio,
        }

    def scales(self, y: np.ndarray) -> np.ndarray:
        # D may cross nothing and decay algebraically: it keeps relative accuracy of its own
        return np.concatenate([np.zeros(2), np.ones(y.shape[0] - 2)]) + 1e-30

    def velocity(self, y: Array) -> Array:
        s, d = y[0], y[1]
        weighted = self.forms[:2] * self.b[None, :]
        h_a, h_b = self.radial.h(s + 0.5 * d), self.radial.h(s - 0.5 * d)
        diff = difference(_h_slope, self.radial, s, d)
        p, q = jnp.sum(weighted[0] ** 2), jnp.sum(weighted[1] ** 2)
        x = jnp.sum(weighted[0] * weighted[1])
        ds = 0.25 * ((p + x) * h_a + (x + q) * h_b)
        dd = 0.25 * ((h_a + h_b) * (p - q) + diff * (p + q - 2 * x))
        if not self.leaky:
            k = jnp.stack([cap_rate(self.radial, s + 0.5 * d), cap_rate(self.radial, s - 0.5 * d)])
            # each neuron belongs to one cap: weighted is diagonal up to the order of the signs
            return jnp.concatenate([jnp.stack([ds, dd]), -(weighted**2).T @ k])

        def offset(s, d):
            return slow_mode(self.forms, self.b, self.radial, s, d)[2]

        slow, gap, _ = slow_mode(self.forms, self.b, self.radial, s, d)
        _, turn = jax.jvp(offset, (s, d), (ds, dd))
        return jnp.stack([ds, dd, -slow - gap * jnp.sin(turn / gap) ** 2])

    def speed_squared(self, y: Array, dy: Array) -> Array:
        caps = jnp.stack([dy[0] + 0.5 * dy[1], dy[0] - 0.5 * dy[1]])
        dz = jnp.linalg.solve(self.forms[:2], caps) / self.b
        return jnp.dot(dz, dz)

    def log_risk(self, y: Array) -> Array:
        # both caps; the wedges and the angles are below exp(-40) of this
        caps = jnp.stack([y[0] + 0.5 * y[1], y[0] - 0.5 * y[1]])
        return jnp.log(0.5 * jnp.sum(self.radial.H(caps)))

    def turning(self, y: Array, t: Array) -> Array:
        dy = self.velocity(y)
        caps = jnp.stack([y[:2] @ jnp.array([1.0, 0.5]), y[:2] @ jnp.array([1.0, -0.5])])
        moved = jnp.stack([dy[:2] @ jnp.array([1.0, 0.5]), dy[:2] @ jnp.array([1.0, -0.5])])
        z = jnp.linalg.solve(self.forms[:2], caps) / self.b
        dz = jnp.linalg.solve(self.forms[:2], moved) / self.b
        size = jnp.sqrt(jnp.dot(z, z) + jnp.dot(self.b, self.b))
        across = jnp.abs(z[0] * dz[1] - z[1] * dz[0])
        frozen = jnp.dot(dz, dz) * jnp.dot(self.b, self.b)
        return jnp.sqrt(across**2 + frozen) / size**2 * (1 + t)


def _adiabatic_offset(chart: TwoNeuronTailChart, state: Array) -> Array:
    """Offset of the slow eigenvector at one state, adiabatic correction included."""

    def offset(s, d):
        return slow_mode(chart.forms, chart.b, chart.radial, s, d)[2]

    _, gap, here = slow_mode(chart.forms, chart.b, chart.radial, state[0], state[1])
    dy = chart.velocity(state)
    _, turn = jax.jvp(offset, (state[0], state[1]), (dy[0], dy[1]))
    return here - turn / gap


@eqx.filter_jit
def _offsets(chart: TwoNeuronTailChart, y: Array) -> Array:
    """The same at the states ``y`` (n, 3)."""
    core = chart.core()
    return jax.vmap(lambda state: _adiabatic_offset(core, state))(y)


def _padded(y: np.ndarray) -> Array:
    """States as (n, 3) with n rounded up to a power of two >= 256: few programs are compiled."""
    flat = y.reshape(-1, y.shape[-1])
    extra = (1 << max(len(flat) - 1, 255).bit_length()) - len(flat)
    return jnp.asarray(np.concatenate([flat, np.repeat(flat[-1:], extra, axis=0)]))
