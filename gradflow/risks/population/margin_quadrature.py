r"""Two neurons on spherically symmetric data with any margin loss, by angular quadrature.

For :math:`f(x)=a_1\varphi(w_1\cdot x)+a_2\varphi(w_2\cdot x)`, :math:`\varphi(z)=\max(z,\alpha z)`,
:math:`y=\mathrm{sgn}(v\cdot x)`, the output is :math:`f=\rho F(\phi)` in polar coordinates of
span(w₁, w₂), and :math:`F=A\cdot e(\phi)` on each of the four sectors between the lines
:math:`w_k\cdot x=0`. If v lies in the plane,

.. math:: L=\tfrac1{2\pi}\int G(y(\phi)F(\phi))\,d\phi,\qquad G(m)=E\,\ell(\rho m).

Otherwise let :math:`v=v_\parallel+v_\perp n` and let :math:`\tau=\pm1` be the sign of
:math:`v_\parallel\cdot e(\phi)`. Seen from the 3-D marginal (radius r, polar angle η from n) the
label is τ, except for :math:`\eta<\eta^*` or :math:`\pi-\eta<\eta^*`, where it is the sign of
:math:`n\cdot x`; :math:`\tan\eta^*=v_\perp/|v_\parallel\cdot e(\phi)|`. With
:math:`G_3(m)=E\,\ell(rm)` and :math:`S=\tau F` the integrand becomes

.. math:: K=G(S)+\mathrm{sgn}(S)\,W(|S|),\quad
    W(s)=\tfrac12\int_0^{\eta^*}[G_3(-s\sin\eta)-G_3(s\sin\eta)]\sin\eta\,d\eta\ge0,

which never loses more than one bit. With :math:`d_3(m)=g_3(m)+g_3(-m)`, :math:`K'=-g(S)+W'(|S|)`,
:math:`W'=\tfrac12\int_0^{\eta^*}d_3(s\sin\eta)\sin^2\eta\,d\eta`, and under the integral

.. math::
    \partial_{a_k}L&=\tfrac1{2\pi}\int\tau K'\,\varphi(w_k\cdot e)\,d\phi,\\
    \partial_{w_k}L&=\tfrac{a_k}{2\pi}\int\varphi'(w_k\cdot e)\Bigl[\tau K'e
        -\tfrac n2\int_0^{\eta^*}d_3(|F|\sin\eta)\sin\eta\cos\eta\,d\eta\Bigr]d\phi.

The circle is broken where w_k·x, F or v∥·x changes sign (and, for the hinge on a bounded law, where
the largest input reaches the kink); each panel is graded from both ends on the distance to the
nearest singularity, 1/|A| or v⊥. Derived here; the setting is that of `lin2021faster`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from gradflow.data.laws.laws import SphericalLaw
from gradflow.data.teachers import LinearTeacher
from gradflow.losses import AbstractMarginLoss
from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import TwoLayerParams
from gradflow.risks.population.linear_reduction import gauss, wedge_rule
from gradflow.risks.population.margin_moments import RadialMoments, radial_moments
from gradflow.risks.population.neuron_plane import NeuronPlane, neuron_plane
from gradflow.risks.population.reduction import AbstractReduction, filled
from gradflow.validation import fail

_TINY = 1e-290


class _Nodes(NamedTuple):
    """Quadrature on the circle; N = panels x nodes of each."""

    direction: Array  # e(phi), (2, N)
    weight: Array  # (N,), includes 1/(2 pi)
    sign: Array  # tau = sgn(v_par . e), (N,)
    gates: Array  # phi'(w_k . e), (2, N)
    output: Array  # F, (N,)


class TwoNeuronQuadrature(AbstractReduction):
    """Population risk of two neurons without bias, any margin loss, any dimension d >= 2.

    Parameters
    ----------
    loss : AbstractMarginLoss
        Exponential, hinge, logistic, or a smooth loss of polynomial growth.
    law : SphericalLaw
        Law of the inputs; the exponential loss needs a bounded or Gaussian one.
    slope : float
        α in [0, 1] of the activation φ(z) = max(z, αz).
    order, inner_order : int
        Nodes of the graded part of a panel end (half as many on the plain part next to it), and of
        each of the two parts of the wedge in η (default 24, hinge 40).

    Raises
    ------
    ValueError
        If the risk is infinite, or the slope is outside [0, 1].

    Notes
    -----
    Error of the gradient below 1e-10 of its largest entry for |a_k||w_k| from 1e-6 to 1e3 (1e-13
    where no angle is tiny), as long as a growing loss stays below e^300 or
    so. φ'(0) = α: a neuron w_k = 0 gets the gradient of slope α.
    """

    planar: RadialMoments
    spatial: RadialMoments | None
    slope: Array
    order: int = eqx.field(static=True)
    inner_order: int = eqx.field(static=True)

    def __init__(
        self,
        loss: AbstractMarginLoss,
        law: SphericalLaw,
        slope: float,
        order: int = 80,
        inner_order: int | None = None,
    ):
        if not 0 <= slope <= 1:
            raise fail("slope", slope, "is not the slope of a leaky ReLU", "pass 0 <= slope <= 1")
        self.planar = radial_moments(loss, law, 2)
        self.spatial = radial_moments(loss, law, 3) if law.dim > 2 else None
        self.slope, self.order = jnp.asarray(float(slope)), order
        # e^{-1/(2m^2)}, the start of the hinge's Gaussian moments, asks for more nodes.
        self.inner_order = inner_order or (40 if self.planar.hinge else 24)

    def risk_at(self, net: TwoLayer, params: TwoLayerParams, teacher: LinearTeacher) -> Array:
        return _quadrature_value(self, params.inner, params.outer, teacher.direction)

    def gradient_at(
        self, net: TwoLayer, params: TwoLayerParams, teacher: LinearTeacher
    ) -> TwoLayerParams:
        parts = _quadrature_gradient(self, params.inner, params.outer, teacher.direction)
        return filled(net, params, *parts)

    def value(self, w: Array, a: Array, v: Array) -> Array:
        """L at inner weights w (2, d), outer weights a (2,) and the unit vector v (d,).

        Its derivative is `gradient` (a custom rule: the breakpoints are not differentiated).
        """
        return _value((w, a, v), self)

    def gradient(self, w: Array, a: Array, v: Array) -> tuple[Array, Array]:
        """(dL/dw, dL/da) of shapes (2, d) and (2,)."""
        plane = neuron_plane(w, v)
        nodes = self._nodes(plane, a)
        margin = nodes.sign * nodes.output
        zero = jnp.zeros_like(margin)
        inner, lateral = self._off_plane(self._force_wedge, plane, nodes, (zero, zero))
        pull = nodes.weight * nodes.sign * (inner - self.planar.slope(margin))
        forms = plane.w @ nodes.direction
        outer_gradient = (nodes.gates * forms) @ pull
        in_plane = (nodes.gates * pull[None, :]) @ nodes.direction.T
        normal = -nodes.gates @ (nodes.weight * lateral)
        gradient = in_plane @ plane.axes + normal[:, None] * plane.normal[None, :]
        return a[:, None] * gradient, outer_gradient

    def _direct_value(self, w: Array, a: Array, v: Array) -> Array:
        plane = neuron_plane(w, v)
        nodes = self._nodes(plane, a)
        margin = nodes.sign * nodes.output
        (wedge,) = self._off_plane(self._value_wedge, plane, nodes, (jnp.zeros_like(margin),))
        return jnp.sum(nodes.weight * (self.planar.value(margin) + jnp.sign(margin) * wedge))

    def _off_plane(
        self, wedge: Callable[..., PyTree], plane: NeuronPlane, nodes: _Nodes, zero: PyTree
    ) -> PyTree:
        """The corrections of a teacher outside the plane, computed only where there is one."""
        if self.spatial is None:
            return zero
        return jax.lax.cond(plane.v_normal > 0, lambda: wedge(plane, nodes), lambda: zero)

    def _wedge(self, plane: NeuronPlane, nodes: _Nodes) -> tuple[Array, Array, Array, Array]:
        """sin η, cos η, weights and margins |F| sin η of the wedge at every node of the circle."""
        assert self.spatial is not None
        size = jnp.abs(nodes.output)
        angle = jnp.arctan2(plane.v_normal, jnp.abs(plane.v @ nodes.direction))
        eta, weight = wedge_rule(self.spatial, size, angle, self.inner_order)
        sine = jnp.sin(eta)
        return sine, jnp.cos(eta), 0.5 * weight, size[:, None] * sine

    def _value_wedge(self, plane: NeuronPlane, nodes: _Nodes) -> tuple[Array]:
        assert self.spatial is not None
        sine, _, weight, m = self._wedge(plane, nodes)
        gap = m * self.spatial.gap(m) * jnp.exp(self.spatial.growth(m))
        return (jnp.sum(weight * sine * gap, axis=-1),)

    def _force_wedge(self, plane: NeuronPlane, nodes: _Nodes) -> tuple[Array, Array]:
        assert self.spatial is not None
        sine, cosine, weight, m = self._wedge(plane, nodes)
        total = weight * sine * self.spatial.total(m) * jnp.exp(self.spatial.growth(m))
        return jnp.sum(total * sine, axis=-1), jnp.sum(total * cosine, axis=-1)

    def _nodes(self, plane: NeuronPlane, a: Array) -> _Nodes:
        """Break the circle and grade every panel from both ends."""
        left = self._breakpoints(plane, a)
        right = jnp.roll(left, -1).at[-1].add(2 * jnp.pi)
        middle = _direction(0.5 * (left + right))
        form = self._forms(plane, a, middle)
        sign = jnp.where(plane.v @ middle >= 0, 1.0, -1.0)
        half = 0.5 * (right - left)
        offset, weight = self._graded(plane, form, left, half)
        back, back_weight = self._graded(plane, form, right, half)
        angle = jnp.concatenate([left[:, None] + offset, right[:, None] - back], axis=1)
        weight = jnp.concatenate([weight, back_weight], axis=1).ravel() / (2 * jnp.pi)
        direction = _direction(angle)
        # An empty panel may sit where the loss overflows: it must contribute 0, not 0 times inf.
        output = jnp.einsum("cp,cpn->pn", form, direction).ravel()
        count = angle.shape[1]
        return _Nodes(
            direction.reshape(2, -1),
            weight,
            jnp.repeat(sign, count),
            jnp.repeat(_gate(plane.w @ middle, self.slope), count, axis=1),
            jnp.where(weight > 0, output, 0.0),
        )

    def _forms(self, plane: NeuronPlane, a: Array, direction: Array) -> Array:
        """A with F = A . e on the sectors around the given directions (2, P): shape (2, P)."""
        gates = _gate(plane.w @ direction, self.slope)
        return plane.w.T @ (a[:, None] * gates)

    def _breakpoints(self, plane: NeuronPlane, a: Array) -> Array:
        """Sorted angles in [0, 2 pi), repeated where a candidate does not exist."""
        turn = 2 * jnp.pi
        quarter = jnp.asarray([jnp.pi / 2, -jnp.pi / 2])
        edges = jnp.arctan2(plane.w[:, 1], plane.w[:, 0])[:, None] + quarter[None, :]
        edges = jnp.sort(jnp.mod(edges.ravel(), turn))
        ends = jnp.roll(edges, -1).at[-1].add(turn)
        form = self._forms(plane, a, _direction(0.5 * (edges + ends)))
        phase = jnp.arctan2(form[1], form[0])
        candidates = [phase + jnp.pi / 2]  # F = 0
        if self.planar.kinked:
            top = self.planar.largest
            reach = jnp.arccos(jnp.minimum(1.0, 1.0 / jnp.maximum(top * _norm(form), _TINY)))
            candidates += [phase + reach, phase - reach]
            if self.spatial is not None:
                # sin(eta*) |F| s_max = 1 is a quadratic form in e(phi).
                mean, cosine, sine = self._kink_form(plane, form)
                size = jnp.hypot(cosine, sine)
                reach = jnp.arccos(jnp.clip(-mean / jnp.maximum(size, _TINY), -1.0, 1.0))
                phase = jnp.arctan2(sine, cosine)
                candidates += [0.5 * (phase + reach), 0.5 * (phase - reach)]
        # Each condition holds on a whole line, so it meets a sector (at most pi wide) once.
        points = [edges, jnp.arctan2(plane.v[1], plane.v[0]) + quarter]
        for candidate in candidates:
            angle = edges + jnp.mod(candidate - edges, jnp.pi)
            points.append(jnp.where(angle < ends, angle, edges))
        return jnp.sort(jnp.mod(jnp.concatenate(points), turn))

    def _kink_form(self, plane: NeuronPlane, form: Array) -> tuple[Array, Array, Array]:
        """(c, p, q) with e.Qe = c + p cos 2phi + q sin 2phi, Q = (s v_n)^2 AA' - v_n^2 I - vv'."""
        up = (plane.v_normal * self.planar.largest) ** 2
        xx = up * form[0] ** 2 - plane.v_normal**2 - plane.v[0] ** 2
        yy = up * form[1] ** 2 - plane.v_normal**2 - plane.v[1] ** 2
        return 0.5 * (xx + yy), 0.5 * (xx - yy), up * form[0] * form[1] - plane.v[0] * plane.v[1]

    def _graded(
        self, plane: NeuronPlane, form: Array, end: Array, half: Array
    ) -> tuple[Array, Array]:
        """Offsets in (0, half) from a panel end and their weights, (P, nodes)."""
        x, w = (jnp.asarray(part)[None, :] for part in gauss(self.order))
        half = half[:, None]
        scale = jnp.minimum(self._singularity(plane, form, end)[:, None], half)
        scale = jnp.maximum(scale, jnp.maximum(1e-14 * half, _TINY))
        if self.planar.kinked:  # half-integer powers at the ends, no growth inside
            top = jnp.arcsinh(jnp.sqrt(half / scale))
            return scale * jnp.sinh(top * x) ** 2, w * top * scale * jnp.sinh(2.0 * top * x)
        top = jnp.arcsinh(0.5 * half / scale)
        near, near_weight = scale * jnp.sinh(top * x), w * top * scale * jnp.cosh(top * x)
        x, w = (jnp.asarray(part)[None, :] for part in gauss(self.order // 2))
        far, far_weight = 0.5 * half * (1.0 + x), 0.5 * half * w
        return (
            jnp.concatenate([near, far], axis=1),
            jnp.concatenate([near_weight, far_weight], axis=1),
        )

    def _singularity(self, plane: NeuronPlane, form: Array, end: Array) -> Array:
        """Distance in the complex angle from a panel end to the nearest other singularity, (P,)."""
        e = _direction(end)
        size = jnp.maximum(_norm(form), _TINY)
        output = jnp.abs(form[0] * e[0] + form[1] * e[1])
        if self.planar.kinked:
            edge = 1.0 / self.planar.largest
            apart = jnp.abs(output - edge)
            distance = jnp.where(apart < 1e-9 * (edge + output), edge, apart) / size
        else:
            distance = (output + 1.0 / self.planar.mean) / size
        if self.spatial is None:
            return distance
        lateral = jnp.hypot(plane.v @ e, plane.v_normal) / jnp.maximum(_norm(plane.v), _TINY)
        distance = jnp.where(plane.v_normal > 0, jnp.minimum(distance, lateral), distance)
        if self.planar.kinked:
            mean, cosine, sine = self._kink_form(plane, form)
            double = e[0] ** 2 - e[1] ** 2, 2.0 * e[0] * e[1]
            scale = jnp.abs(mean) + jnp.hypot(cosine, sine)
            apart = jnp.abs(mean + cosine * double[0] + sine * double[1]) / jnp.maximum(
                scale, _TINY
            )
            other = (plane.v_normal > 0) & (apart > 1e-9)
            distance = jnp.where(other, jnp.minimum(distance, apart), distance)
        return distance


@eqx.filter_custom_jvp
def _value(point: tuple[Array, Array, Array], risk: TwoNeuronQuadrature) -> Array:
    return risk._direct_value(*point)


@_value.def_jvp
def _value_jvp(primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]) -> tuple[Array, Array]:
    ((w, a, v), risk), ((dw, da, dv), _) = primals, tangents
    inner, outer = risk.gradient(w, a, v)
    tangent = jnp.zeros(())
    if dw is not None:
        tangent = tangent + jnp.sum(inner * dw)
    if da is not None:
        tangent = tangent + jnp.sum(outer * da)
    if dv is not None:
        # L is invariant under rotating w and v together: that fixes the derivative in v.
        along = (w @ v) @ inner - (inner @ v) @ w
        tangent = tangent - jnp.dot(along, dv)
    return risk._direct_value(w, a, v), tangent


# Compiled once for all laws of one layout, all slopes and signs; one program a shape.


@eqx.filter_jit
def _quadrature_value(
    reduction: TwoNeuronQuadrature, inner: Array, outer: Array, v: Array
) -> Array:
    return reduction.value(inner, outer, v)


@eqx.filter_jit
def _quadrature_gradient(reduction: TwoNeuronQuadrature, inner: Array, outer: Array, v: Array):
    return reduction.gradient(inner, outer, v)


def _gate(z: Array, slope: Array) -> Array:
    return jnp.where(z > 0, 1.0, slope)


def _direction(angle: Array) -> Array:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _norm(x: Array) -> Array:
    """Norm over the first axis of length 2."""
    return jnp.hypot(x[0], x[1])
