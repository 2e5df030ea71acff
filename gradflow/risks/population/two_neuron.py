r"""Two neurons on spherically symmetric data with logistic loss: the exact population flow.

For :math:`f(x)=a_1\varphi(w_1\cdot x)+a_2\varphi(w_2\cdot x)`, :math:`\varphi(z)=\max(z,\alpha
z)`, and labels :math:`y=\mathrm{sgn}(v\cdot x)`, :math:`\ln(1+e^{-yf})=\psi(f)-yf/2` with
:math:`\psi(z)=\ln 2\cosh(z/2)` even.
The teacher therefore enters linearly, and :math:`E\,\psi(f)` splits over the four sign sectors of
:math:`(\omega_1\cdot x,\ \omega_2\cdot x)`, on each of which :math:`f=W\cdot x` is linear. Here
:math:`\omega_i=s_iw_i` is the neuron turned toward its own target :math:`v` (:math:`s_i` the sign
of :math:`a_i` at the start), and :math:`b_i=s_ia_i`.

Sectors, their linear forms and their angular extent (:math:`\gamma` = angle of
:math:`\omega_1,\omega_2`):
two opposite *caps* ``++`` and ``--`` of extent :math:`\pi-\gamma` (a half-plane less a wedge) and
two opposite
*wedges* ``+-`` and ``-+`` of extent :math:`\gamma`. With :math:`\hat e=W/M`, :math:`s,\bar s` the
angles from :math:`\hat e` to :math:`\omega_1,\omega_2` (:math:`s+\bar s=\gamma`) and :math:`\hat
n\perp\hat e` toward :math:`\omega_2`, a wedge contributes

.. math:: Z(W)=E[\psi'(W\cdot x)\,x;\ \text{wedge}]=[C(M,s)+C(M,\bar s)]\hat e+[S(M,s)-S(M,\bar
s)]\hat n,

.. math:: C(M,a)=\tfrac1{2\pi}\int_0^a\Psi'(M\sin u)\sin u\,du,\qquad S(M,a)=\bar\Psi(M\sin
a)/(2\pi M).

Everything is computed in coordinates :math:`\omega_i=z_iv+e^{-\Lambda}q_i`, in which complements
such as :math:`1-\cos\theta` are formed directly, so that angles of :math:`e^{-10000}` cost no
accuracy. Derived here; the setting is that of `lin2021faster`.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradflow.data.laws.radial import RadialFunctions
from gradflow.data.teachers import LinearTeacher
from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import TwoLayerParams
from gradflow.numerics.traced import length
from gradflow.risks.population.reduction import AbstractReduction, filled

#: Gauss-Legendre nodes on [0, 1] for the wedge integrals: 1e-14 for |w| up to 1e4, 1e-10 to 1e8.
NODES = 24
#: Nodes where the radial functions have fractional powers at 0 (heavy tails): graded as x^3.
GRADED_NODES = 48


def _unit_rule(count: int, power: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1] after the substitution x = y^power."""
    y, weight = np.polynomial.legendre.leggauss(count)
    y, weight = 0.5 * (y + 1), 0.5 * weight
    return y**power, power * y ** (power - 1) * weight


_PLAIN = _unit_rule(NODES, 1)
_GRADED = _unit_rule(GRADED_NODES, 3)
#: Beyond this Lambda the second-order wedge terms underflow; the cap keeps exp(Lambda) finite.
_LAMBDA_CAP = 300.0


class PlanarState(eqx.Module):
    r"""Two neurons :math:`\omega_i=z_iv+e^{-\Lambda}q_i` and weights :math:`b_i\ge0`; shapes
    (2,), q (2, 2), lam ()."""

    z: Array
    q: Array
    lam: Array
    b: Array


class Sectors(eqx.Module):
    """Linear forms of the four sectors and the geometry shared by force and value."""

    size: Array  # M, (4,)
    cosine: Array  # e_z, (4,)
    versine: Array  # 1 - e_z, (4,), free of cancellation
    lateral: Array  # q-part of W / M, (4, 2)
    normal_z: Array  # z-part of n, times exp(Lambda), (4,)
    normal_q: Array  # q-part of n (no scaling), (4, 2)
    angles: Array  # s and s-bar, (4, 2)
    opening: Array  # gamma, ()


def _safe_divide(numerator: Array, denominator: Array) -> Array:
    """0 where the denominator is 0: the direction is undefined there and multiplies a zero."""
    good = denominator != 0
    return jnp.where(good, numerator / jnp.where(good, denominator, 1.0), 0.0)


def _cross(p: Array, q: Array) -> Array:
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]


class TwoNeuronReduction(AbstractReduction):
    r"""Risk and forces of the two-neuron net as functions of planar coordinates.

    Parameters
    ----------
    radial : RadialFunctions
        The radial functions of the law.
    slope : float
        The slope :math:`\alpha\in[0,1]` of the activation on the negative side.
    signs : tuple of int
        :math:`(s_1,s_2)`, the signs of the outer weights at the start.

    Notes
    -----
    ``forms[j, i]`` is the slope of neuron *i* in sector *j*, the sectors being ``++, --, +-,
    -+``; a neuron of
    positive sign has slope 1 where :math:`\omega_i\cdot x>0` and :math:`\alpha` elsewhere, one of
    negative sign the other way round. Which entries vanish is static, so that ReLU does half the
    work.
    """

    charts: ClassVar[tuple[str, ...]] = ("two-neuron-log-angle",)

    radial: RadialFunctions
    slope: Array
    forms: Array
    active: tuple[tuple[bool, bool], ...] = eqx.field(static=True)

    def __init__(self, radial: RadialFunctions, slope: float, signs: tuple[int, int]):
        plus = [1.0 if s > 0 else slope for s in signs]
        minus = [slope if s > 0 else 1.0 for s in signs]
        forms = np.array(
            [
                [plus[0], plus[1]],
                [minus[0], minus[1]],
                [plus[0], minus[1]],
                [minus[0], plus[1]],
            ]
        )
        self.radial, self.slope = radial, jnp.asarray(float(slope))
        self.forms = jnp.asarray(forms)
        # The angle from W to omega_1 vanishes when W has no omega_2 part, and conversely.
        self.active = tuple((bool(row[1] != 0), bool(row[0] != 0)) for row in forms)

    @classmethod
    def with_traced_signs(
        cls, radial: RadialFunctions, slope: Array | float, signs: Array
    ) -> TwoNeuronReduction:
        """The same reduction for signs known only at run time (every sector is then computed)."""
        plus = jnp.where(signs > 0, 1.0, slope)
        minus = jnp.where(signs > 0, slope, 1.0)
        forms = jnp.stack(
            [plus, minus, jnp.stack([plus[0], minus[1]]), jnp.stack([minus[0], plus[1]])]
        )
        general = cls(radial, 0.5, (1, -1))
        return eqx.tree_at(lambda r: (r.slope, r.forms), general, (jnp.asarray(slope), forms))

    def risk_at(self, net: TwoLayer, params: TwoLayerParams, teacher: LinearTeacher) -> Array:
        return _planar_value(self.radial, self.slope, params.inner, params.outer, teacher.direction)

    def gradient_at(
        self, net: TwoLayer, params: TwoLayerParams, teacher: LinearTeacher
    ) -> TwoLayerParams:
        parts = _planar_gradient(
            self.radial, self.slope, params.inner, params.outer, teacher.direction
        )
        return filled(net, params, *parts)

    def sectors(self, state: PlanarState) -> Sectors:
        """The four linear forms and their angles to the neurons."""
        z, q, b = state.z, state.q, state.b
        shrink = jnp.exp(-state.lam)
        coefficient = self.forms * b[None, :]
        w_z = coefficient @ z
        w_q = coefficient @ q
        size = length(jnp.stack([w_z, *(shrink * w_q.T)], axis=-1))
        cosine = _safe_divide(w_z, size)
        lateral = _safe_divide(w_q, size[:, None])
        sine_squared = shrink**2 * jnp.sum(lateral**2, axis=-1)
        versine = jnp.where(
            cosine > 0, sine_squared / (1 + jnp.where(cosine > 0, cosine, 0.0)), 1 - cosine
        )
        # omega_1 x omega_2, divided by exp(-Lambda)
        mixed = z[0] * q[1] - z[1] * q[0]
        spin = _cross(q[0], q[1])
        wedge = length(jnp.concatenate([mixed, (shrink * spin)[None]]))
        product = z[0] * z[1] + shrink**2 * jnp.dot(q[0], q[1])
        square = z**2 + shrink**2 * jnp.sum(q**2, axis=-1)
        toward = coefficient * square[None, :] + coefficient[:, ::-1] * product
        across = coefficient[:, ::-1] * (shrink * wedge)
        toward = jnp.where(
            (across == 0) & (toward == 0), 1.0, toward
        )  # W = 0: no direction, angle 0
        opening = jnp.arctan2(shrink * wedge, product)
        first = jnp.arctan2(across[:, 0], toward[:, 0])
        second = jnp.arctan2(across[:, 1], toward[:, 1])
        # Nearly opposite neurons: W is a difference, its direction is rounding, the sum is not.
        second = jnp.where(
            product < 0, jnp.clip(opening - first, 0.0, jnp.pi), jnp.broadcast_to(second, (4,))
        )
        angles = jnp.stack([first, second], axis=-1)
        along = lateral @ q.T  # (W_q . q_i) / M
        unit = _safe_divide(jnp.ones(()), wedge)
        normal_z = (z[1] * along[:, 0] - z[0] * along[:, 1]) * unit
        normal_q = unit * (
            cosine[:, None] * mixed[None, :]
            + shrink**2 * (along[:, :1] * q[1][None, :] - along[:, 1:] * q[0][None, :])
        )
        return Sectors(size, cosine, versine, lateral, normal_z, normal_q, angles, opening)

    def _wedge_nodes(self, size: Array, angle: Array) -> tuple[Array, Array]:
        """Nodes u and weights du on [0, angle] or [0, pi - angle], the shorter (sinh-graded at
        scale 1/M)."""
        folded = jnp.maximum(jnp.minimum(angle, jnp.pi - angle), 0.0)
        grade = jnp.arcsinh(0.5 * size * folded)
        # Below this the plain rule is exact to rounding, and sinh from exponentials would cancel.
        small = grade < 0.5
        safe = jnp.where(small, 1.0, grade)[:, None]
        small = small[:, None]
        nodes, weights = _PLAIN if self.radial.smooth_at_zero else _GRADED
        x = jnp.asarray(nodes)[None, :]
        grown = jnp.exp(safe * x)
        shrunk = 1 / grown
        scale = 0.5 / jnp.sinh(safe)
        ratio = jnp.where(small, x, scale * (grown - shrunk))
        slope = jnp.where(small, jnp.ones_like(x), scale * safe * (grown + shrunk))
        width = folded[:, None]
        return width * ratio, width * slope * jnp.asarray(weights)[None, :]

    def _select(self, values: Array) -> Array:
        """Entries (sector, side) that are not identically zero, as a flat array."""
        return jnp.stack([values[j, k] for j in range(4) for k in range(2) if self.active[j][k]])

    def _scatter(self, flat: Array) -> Array:
        """Undo ``_select``, with zeros elsewhere."""
        zero = jnp.zeros(())
        entries = iter(range(flat.shape[0]))
        rows = [
            jnp.stack([flat[next(entries)] if self.active[j][k] else zero for k in range(2)])
            for j in range(4)
        ]
        return jnp.stack(rows)

    def _wedge_integral(self, sectors: Sectors, integrand, total: Array) -> Array:
        """Integral over [0, angle] of ``integrand(M sin u, sin u)``; ``total`` is the one over
        [0, pi]."""
        angle = self._select(sectors.angles)
        size = self._select(jnp.stack([sectors.size, sectors.size], axis=-1))
        total = self._select(jnp.stack([total, total], axis=-1))
        u, weight = self._wedge_nodes(size, angle)
        sine = jnp.sin(u)
        part = jnp.sum(integrand(size[:, None] * sine, sine) * weight, axis=-1)
        return self._scatter(jnp.where(angle > 0.5 * jnp.pi, total - part, part))

    def force(self, state: PlanarState) -> tuple[Array, Array]:
        r"""Force :math:`-\partial L/\partial(b_i\omega_i)`: its v-part (2,) and its q-part, times
        :math:`e^{\Lambda}` (2, 2).

        With :math:`F_i` this force, :math:`\dot\omega_i=b_iF_i` and, for trained outer weights,
        :math:`\dot b_i=\omega_i\cdot F_i`.
        """
        sectors = self.sectors(state)
        size, angles = sectors.size, sectors.angles
        c0 = self.radial.c0
        shrink = jnp.exp(-state.lam)
        complement = self.radial.h_complement(size[:2])
        h = self.radial.h(size[:2])
        total = jnp.pi * self.radial.h_complement(size)
        cosines = self._wedge_integral(
            sectors, lambda m, sine: self.radial.psi_prime(m) * sine, total
        )
        radial_part = jnp.sum(cosines, axis=-1) / (2 * jnp.pi)
        # Psi-bar and the amplification act on the same small angle: apply exp(Lambda) before it
        # underflows.
        sines = self._scatter(self.radial.psi_bar(self._select(size[:, None] * jnp.sin(angles))))
        lift = jnp.exp(jnp.minimum(state.lam, _LAMBDA_CAP))
        normal_part = _safe_divide(sines[:, 0] - sines[:, 1], 2 * jnp.pi * size)
        wedge_z = radial_part * sectors.cosine + shrink * normal_part * sectors.normal_z
        wedge_q = (
            radial_part[:, None] * sectors.lateral
            + (lift * normal_part)[:, None] * sectors.normal_q
        )
        cap_z = c0 / (2 * jnp.pi) * sectors.versine[:2] + 0.5 * h * sectors.cosine[:2] + wedge_z[:2]
        cap_q = -0.5 * complement[:, None] * sectors.lateral[:2] + wedge_q[:2]
        caps, wedges = self.forms[:2].T, self.forms[2:].T
        return caps @ cap_z - wedges @ wedge_z[2:], caps @ cap_q - wedges @ wedge_q[2:]

    def value(self, state: PlanarState) -> Array:
        r"""The risk :math:`L=E\ln(1+e^{-|f|})+E\max(0,-yf)`, both parts without cancellation.

        The second part is :math:`\tfrac{c_0}{4\pi}\{\sum_{caps}[2(M-v\cdot
        W)-M(\mathrm{vers}\,s+\mathrm{vers}\,\bar s)]
        +\sum_{wedges}M(\mathrm{vers}\,s+\mathrm{vers}\,\bar s)\}`, vers = 1 − cos.
        """
        sectors = self.sectors(state)
        size, angles = sectors.size, sectors.angles
        excess = self.radial.H(size)
        parts = self._wedge_integral(sectors, lambda m, sine: self.radial.g(m), jnp.pi * excess)
        # where W vanishes f = 0 on the whole wedge
        whole = jnp.where(size > 0, jnp.sum(parts, axis=-1), jnp.log(2.0) * sectors.opening)
        wedge_g = whole / (2 * jnp.pi)
        correct = jnp.sum(0.5 * excess[:2] - wedge_g[:2]) + jnp.sum(wedge_g[2:])
        vers = jnp.sum(2 * jnp.sin(0.5 * angles) ** 2, axis=-1)
        wrong = jnp.sum(2 * size[:2] * sectors.versine[:2] - size[:2] * vers[:2])
        wrong = wrong + jnp.sum(size[2:] * vers[2:])
        return correct + self.radial.c0 / (4 * jnp.pi) * wrong


@jax.jit
def planar_frame(omega: Array, v: Array) -> Array:
    r"""Orthonormal rows :math:`(v,f_1,f_2)` whose span holds both neurons; missing directions are
    zero rows.

    Parameters
    ----------
    omega : array (2, d)
        The neurons.
    v : array (d,)
        Unit teacher. If it is a coordinate axis, perpendicular parts are exact however small;
        otherwise parts below the rounding of ``omega`` count as zero.
    """

    def reject(x, rows):
        for _ in range(2):  # twice is enough
            for row in rows:
                x = x - jnp.dot(x, row) * row
        return x

    def direction(x, floor):
        size = length(x)
        keep = size > floor
        return jnp.where(keep, x / jnp.where(keep, size, 1.0), jnp.zeros_like(x))

    eps = 4 * np.finfo(float).eps
    rounding = jnp.where(jnp.count_nonzero(v) == 1, 0.0, eps)
    across = jnp.stack([reject(omega[i], [v]) for i in range(2)])
    lengths = length(across)
    # the longer perpendicular part first: its direction is the better known
    long = jnp.where(lengths[0] >= lengths[1], 0, 1)
    first = direction(across[long], rounding * length(omega[long]))
    rest = reject(across[1 - long], [v, first])
    floor = jnp.maximum(eps * lengths[1 - long], rounding * length(omega[1 - long]))
    return jnp.stack([v, first, direction(rest, floor)])


def _planar(radial: RadialFunctions, slope: Array, inner: Array, outer: Array, v: Array):
    """Reduction, state and frame of a two-neuron net with logistic loss."""
    signs = jnp.where(outer >= 0, 1.0, -1.0)
    reduction = TwoNeuronReduction.with_traced_signs(radial, slope, signs)
    omega = signs[:, None] * inner
    # The risk depends on inner products only, so the frame's own motion does not matter.
    frame = jax.lax.stop_gradient(planar_frame(omega, v))
    state = PlanarState(omega @ v, omega @ frame[1:].T, jnp.zeros(()), signs * outer)
    return reduction, state, frame


@eqx.filter_jit
def _planar_value(
    radial: RadialFunctions, slope: Array, inner: Array, outer: Array, v: Array
) -> Array:
    reduction, state, _ = _planar(radial, slope, inner, outer, v)
    return reduction.value(state)


@eqx.filter_jit
def _planar_gradient(
    radial: RadialFunctions, slope: Array, inner: Array, outer: Array, v: Array
) -> tuple[Array, Array]:
    reduction, state, frame = _planar(radial, slope, inner, outer, v)
    force_z, force_q = reduction.force(state)
    force = force_z[:, None] * v[None, :] + force_q @ frame[1:]
    # e_i = a_i w_i: dL/dw_i = -a_i F_i, dL/da_i = -w_i . F_i
    return -outer[:, None] * force, -jnp.sum(inner * force, axis=-1)
