r"""Log-radius, log-angle charts of two neurons on spherically symmetric data (logistic loss).

The neurons, turned toward their own targets, are :math:`\omega_i=z_iv+e^{-\Lambda}q_i` with
:math:`(q_1,q_2)` of constant norm: :math:`\Lambda'=-(q\cdot\dot q_{raw})/|q|^2`. This is cartesian
early on and keeps relative accuracy of the angles for ever; with trained outer weights
:math:`b_i=|a_i|` joins the state.

Once all angles are small, a pair with fixed outer weights of opposite signs goes on in the tail
chart (`gradflow.flows.charts.two_neuron_tail`). Derived here for the setting of `lin2021faster`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.flows.charts.chart import AbstractChart
from gradflow.flows.charts.two_neuron_tail import (
    Placement,
    TwoNeuronTailChart,
    log_mode_ratio,
    log_norm,
    slow_mode,
)
from gradflow.flows.event import AbstractHandover
from gradflow.networks.activations import LeakyReLU
from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import TwoLayerParams
from gradflow.numerics.vectors import length, log_tan_half
from gradflow.risks.population.population import PopulationRisk
from gradflow.risks.population.two_neuron import PlanarState, TwoNeuronReduction, planar_frame
from gradflow.validation import fail

if TYPE_CHECKING:
    from gradflow.flows.flow import Flow

#: The tail begins when (angle^2 R^3), the wedges' size relative to h, is below exp(-2 * this).
TAIL_LOG_ANGLE = 20.0
#: ... and, for a leaky slope, when the fast mode has decayed by at least exp(-this).
TAIL_FAST_DECAY = 40.0
_slow_mode = eqx.filter_jit(slow_mode)


def _log_half_angle(z: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """ln tan(theta/2) from the v-part and the log of the perpendicular part, however small."""
    tiny = log_p < -700
    p = np.exp(np.clip(log_p, -700.0, 700.0))
    with np.errstate(divide="ignore"):
        direct = log_tan_half(z, p)
        small = np.where(z > 0, log_p - np.log(2 * np.abs(z)), np.log(2 * np.abs(z)) - log_p)
    return np.where(tiny, small, direct)


class TailHandover(AbstractHandover):
    """From the general chart to the tail."""

    def __call__(self, flow: Flow, s: Array, Y: Array) -> Array:
        chart: Any = flow.chart
        return chart.tail_gap(flow.split(Y)[0], flow.t(s, Y))

    def successor(self, chart: Any, y: np.ndarray, t: float) -> tuple[Any, np.ndarray]:
        return chart.next_stage(y, t)


class TwoNeuronChart(AbstractChart):
    """General chart: state (z_1, z_2, q_slow, q_fast, Lambda[, b_1, b_2]).

    For a leaky pair of opposite signs the perpendicular parts are rotated into the modes of K at
    equal caps, each with an error control of its own: a start close to the symmetric one holds
    little of the slow mode, and that little decides the late angle. A symmetric start stays
    symmetric to the last bit. Otherwise q_slow, q_fast are simply q_1, q_2.
    """

    reduction: TwoNeuronReduction
    signs: Array
    fixed_outer: Array
    modes: Array  # orthonormal rows (slow, fast)
    head_start: Array  # ln |q| / |q_slow| at the start, at most 60
    trained: bool = eqx.field(static=True)
    may_flip: bool = eqx.field(static=True)
    paired: bool = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)
    opposed: bool = eqx.field(static=True)
    slope: float = eqx.field(static=True)
    placement: Placement | None

    @staticmethod
    def refusal(risk: PopulationRisk, params: PyTree) -> str | None:
        """Why the start has no such chart; None when it has one."""
        v = np.asarray(risk.direction)
        omega = np.where(np.asarray(params.outer) >= 0, 1.0, -1.0)[:, None] * params.inner
        frame = np.asarray(planar_frame(jnp.asarray(omega), jnp.asarray(v)))
        if not (omega @ frame[1:].T).any() and (omega @ v).min() > 0:
            return "both neurons are on their targets' axis, where ln tan(theta/2) is -infinity"
        return None

    @classmethod
    def of(cls, risk: PopulationRisk, params: TwoLayerParams) -> TwoNeuronChart:
        """The chart at a start; the start fixes the plane in which the flow stays, and the
        signs."""
        inner, outer = np.asarray(params.inner), np.asarray(params.outer)
        v = np.asarray(risk.direction)
        signs = np.where(outer >= 0, 1.0, -1.0)
        omega = signs[:, None] * inner
        frame = np.asarray(planar_frame(jnp.asarray(omega), jnp.asarray(v)))
        if not (omega @ frame[1:].T).any() and (omega @ v).min() < 0:
            raise fail(
                "params.inner",
                inner,
                "a neuron starts at angle pi to its target and no perpendicular part turns it",
                "turn the start by any angle, or pass chart='cartesian'",
            )
        net = cast(TwoLayer, risk.net)
        slope = cast(LeakyReLU, net.activation).slope
        reduction = TwoNeuronReduction(risk.law.radial, slope, (int(signs[0]), int(signs[1])))
        trained = net.outer == "trained"
        b = signs * outer
        paired = bool(0 < slope < 1 and signs[0] != signs[1] and np.all(b > 0))
        modes = _equal_cap_modes(np.asarray(reduction.forms), b) if paired else np.eye(2)
        q = omega @ frame[1:].T
        with np.errstate(divide="ignore", invalid="ignore"):
            lead = np.log(np.linalg.norm(q)) - np.log(np.linalg.norm(modes[0] @ q))
        return cls(
            reduction,
            jnp.asarray(signs),
            jnp.asarray(b),
            jnp.asarray(modes),
            jnp.asarray(np.clip(np.nan_to_num(lead, nan=0.0, posinf=60.0), 0.0, 60.0)),
            trained,
            # a_i^2 - |w_i|^2 is conserved: an outer weight can change sign only if it is negative
            trained and bool(np.any(np.abs(outer) < (1 - 1e-12) * np.linalg.norm(inner, axis=1))),
            paired,
            bool(np.array_equal(omega[0], omega[1]) and b[0] == b[1]),
            bool(signs[0] != signs[1]),
            float(slope),
            Placement(frame, signs, outer),
        )

    @property
    def name(self) -> str:
        return "log-angle"

    def core(self) -> TwoNeuronChart:
        return eqx.tree_at(lambda c: c.placement, self, None, is_leaf=lambda x: x is None)

    def _place(self) -> Placement:
        if self.placement is None:
            raise ValueError("the core of a chart cannot encode or decode")
        return self.placement

    def encode(self, params: TwoLayerParams) -> np.ndarray:
        place = self._place()
        omega = place.signs[:, None] * np.asarray(params.inner)
        z, q = omega @ place.frame[0], omega @ place.frame[1:].T
        b = place.signs * np.asarray(params.outer)
        size = length(q)
        if q.any():
            q, lam = q / size, -np.log(size)
        else:
            lam = 0.0
        modes = np.asarray(self.modes) @ q
        if self.symmetric and self.paired:
            modes[0] = 0.0
        return np.concatenate([z, modes.ravel(), [lam], b if self.trained else []])

    def _unpack(self, y: PyTree) -> tuple[Any, Any, Any, Any]:
        b = y[..., 7:9] if self.trained else self.fixed_outer
        q = y[..., 2:6].reshape((*y.shape[:-1], 2, 2))
        if self.paired:
            modes = self.modes if isinstance(y, Array) else np.asarray(self.modes)
            q = modes.T @ q
        return y[..., 0:2], q, y[..., 6], b

    def _oriented(self, y: Array) -> tuple[TwoNeuronReduction, PlanarState]:
        """Reduction and state with b >= 0: a neuron whose outer weight changed sign is turned
        round."""
        z, q, lam, b = self._unpack(y)
        if not self.may_flip:
            return self.reduction, PlanarState(z, q, lam, b)
        turn = jnp.where(b >= 0, 1.0, -1.0)
        reduction = TwoNeuronReduction.with_traced_signs(
            self.reduction.radial, self.slope, turn * self.signs
        )
        return reduction, PlanarState(turn * z, turn[:, None] * q, lam, turn * b)

    def decode(self, y: np.ndarray) -> TwoLayerParams:
        z, q, lam, b = self._unpack(y)
        b = np.broadcast_to(np.asarray(b), z.shape)
        return self._place().params(z, np.exp(-lam)[..., None, None] * q, b)

    def params(self, y: Array) -> TwoLayerParams:
        z, q, lam, b = self._unpack(y)
        return self._place().params(z, jnp.exp(-lam) * q, b)

    def exact(self, y: np.ndarray) -> dict[str, np.ndarray]:
        z, q, lam, b = self._unpack(y)
        log_p = log_norm(q) - lam[..., None]
        return {
            # a neuron whose outer weight has changed sign has changed its target too
            "log_tan_half_angle": _log_half_angle(np.where(np.asarray(b) >= 0, z, -z), log_p),
            "neuron_norms": np.hypot(z, np.exp(np.minimum(log_p, 700.0))),
            "log_perpendicular": log_p,
            "cap_mean": _caps(np.asarray(self.reduction.forms), _numpy_b(y, self), z).mean(axis=-1),
            "cap_difference": np.diff(
                _caps(np.asarray(self.reduction.forms), _numpy_b(y, self), z)[..., ::-1], axis=-1
            )[..., 0],
            "log_mode_ratio": log_mode_ratio(q),
        }

    def scales(self, y: np.ndarray) -> np.ndarray:
        z, q, _, b = self._unpack(y)
        size = np.hypot(z, np.exp(log_norm(q) - y[6]))
        parts = y[2:6].reshape(2, 2)
        reach = np.hypot(parts[:, 0], parts[:, 1])
        # A part that starts at 0 is held to the other's rounding.
        reach = np.maximum(reach, 1e-12 * reach.max(initial=1e-288))
        out = [size, np.repeat(1e-3 * reach, 2), [1.0]]
        if self.trained:
            out.append(np.where(np.asarray(b) != 0, np.abs(np.asarray(b)), size))
        return np.concatenate(out)

    def rounding(self, y: np.ndarray) -> np.ndarray:
        # forces on q carry the rounding of the larger part
        noise = np.zeros_like(y)
        noise[2:6] = 4e-15 * np.linalg.norm(y[2:6])
        return noise

    def velocity(self, y: Array) -> Array:
        z, q, lam, b = self._unpack(y)
        reduction, state = self._oriented(y)
        force_z, force_q = reduction.force(state)
        if self.symmetric:
            # Both neurons feel one force; rounding must not tell them apart.
            force_z = jnp.broadcast_to(jnp.mean(force_z), (2,))
            force_q = jnp.broadcast_to(jnp.mean(force_q, axis=0), (2, 2))
        dz, dq = b * force_z, b[:, None] * force_q
        part, dpart = y[2:6].reshape(2, 2), dq
        if self.paired:
            dpart = self.modes @ dq
        square = jnp.sum(part**2)
        dlam = -jnp.sum(part * dpart) / jnp.where(square > 0, square, 1.0)
        # A symmetric pair's perpendicular part keeps its direction: only its size changes.
        turned = jnp.zeros_like(part) if self.symmetric else dpart + dlam * part
        parts = [dz, turned.ravel(), dlam[None]]
        if self.trained:
            db = z * force_z + jnp.exp(-2 * lam) * jnp.sum(q * force_q, axis=-1)
            parts.append(jnp.broadcast_to(jnp.mean(db), (2,)) if self.symmetric else db)
        return jnp.concatenate(parts)

    def speed_squared(self, y: Array, dy: Array) -> Array:
        raw = dy[2:6] - dy[6] * y[2:6]
        total = jnp.sum(dy[:2] ** 2) + jnp.exp(-2 * y[6]) * jnp.sum(raw**2)
        return total + jnp.sum(dy[7:] ** 2)

    def log_risk(self, y: Array) -> Array:
        reduction, state = self._oriented(y)
        return jnp.log(reduction.value(state))

    def turning(self, y: Array, t: Array) -> Array:
        dy = self.velocity(y)
        z, _, lam, b = self._unpack(y)
        shrink = jnp.exp(-lam)
        raw = shrink * (dy[2:6] - dy[6] * y[2:6])
        point = jnp.concatenate([z, shrink * y[2:6], b])
        moved = jnp.concatenate([dy[:2], raw, dy[7:] if self.trained else jnp.zeros(2)])
        size = jnp.sqrt(jnp.dot(point, point))
        across = moved - jnp.dot(point, moved) / size**2 * point
        return jnp.sqrt(jnp.dot(across, across)) * (1 + t) / size

    def handover(self) -> TailHandover | None:
        # A symmetric leaky pair has no slow mode, which the tail follows; nor is it stiff.
        if self.trained or not self.opposed or self.slope == 1.0:
            return None
        return None if self.symmetric and self.paired else TailHandover()

    def tail_gap(self, y: Array, t: Array) -> Array:
        """Negative while the wedges, or the fast mode, count; >= 0 from where the tail serves."""
        z, q, lam, b = self._unpack(y)
        ahead = jnp.all(z > 0)
        z = jnp.where(ahead, z, 1.0)
        reach = 0.5 * jnp.log(jnp.sum(q**2, axis=-1) + 1e-300) - lam - jnp.log(z)
        small = -jnp.max(reach + 1.5 * jnp.log(jnp.maximum(z, 1.0))) / TAIL_LOG_ANGLE - 1
        if self.slope > 0:
            caps = self.reduction.forms[:2] @ (b * z)
            _, gap, _ = slow_mode(
                self.reduction.forms, b, self.reduction.radial, jnp.mean(caps), caps[0] - caps[1]
            )
            small = jnp.minimum(small, gap * t / (TAIL_FAST_DECAY + self.head_start) - 1)
        return jnp.where(ahead, small, -1.0)

    def next_stage(self, y: np.ndarray, t: float) -> tuple[TwoNeuronTailChart, np.ndarray]:
        """The tail's chart and state (host)."""
        place = self._place()
        z, q, lam, b = (np.asarray(part) for part in self._unpack(y))
        forms = np.asarray(self.reduction.forms)
        caps = forms[:2] @ (b * z)
        mean, diff = 0.5 * (caps[0] + caps[1]), caps[0] - caps[1]
        if self.slope == 0:
            directions = q / np.hypot(q[:, 0], q[:, 1])[:, None]
            modes = log_norm(q) - lam
        else:
            _, _, offset = _slow_mode(
                self.reduction.forms,
                self.fixed_outer,
                self.reduction.radial,
                jnp.asarray(mean),
                jnp.asarray(diff),
            )
            angle = -0.25 * np.pi + float(offset)
            amplitude = np.cos(angle) * q[0] + np.sin(angle) * q[1]
            size = np.hypot(*amplitude)
            directions = np.stack([amplitude / size] * 2)
            modes = np.array([np.log(size) - lam])
        chart = TwoNeuronTailChart(
            self.reduction.radial,
            self.reduction.forms,
            self.fixed_outer,
            self.slope > 0,
            place,
            directions,
        )
        return chart, np.concatenate([[mean, diff], modes])


def _equal_cap_modes(forms: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Orthonormal rows (slow, fast): the eigenvectors of K for caps of equal size."""
    weighted = forms[:2] * b
    _, vectors = np.linalg.eigh(weighted.T @ weighted)
    if b[0] == b[1]:
        return np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2.0)
    return vectors.T


def _numpy_b(y: np.ndarray, chart: TwoNeuronChart) -> np.ndarray:
    return y[..., 7:9] if chart.trained else np.asarray(chart.fixed_outer)


def _caps(forms: np.ndarray, b: np.ndarray, z: np.ndarray) -> np.ndarray:
    """v-parts (M_A, M_B) of the caps' linear forms."""
    return (b * z) @ forms[:2].T
