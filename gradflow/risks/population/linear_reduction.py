r"""A linear predictor on spherically symmetric data, reduced to (R, θ) for every margin loss.

For :math:`f(x)=w\cdot x`, :math:`y=\mathrm{sgn}(v\cdot x)`, :math:`R=|w|` and θ the angle from w to
v, the predictor is right (:math:`yf=|f|`) outside two opposite wedges of angle θ and wrong inside.
With :math:`G(m)=E\,\ell(\rho m)`, :math:`g=-G'` over the radius ρ of the 2-D marginal and
:math:`h_\ell(R)=-E[|x_1|\,\ell'(R|x_1|)]`,

.. math::
    L &= E\,\ell(R|x_1|)+\tfrac1\pi\int_0^\theta[G(-R\sin\beta)-G(R\sin\beta)]\,d\beta,\\
    F_R &= -\partial_RL = h_\ell(R)
        -\tfrac1\pi\int_0^\theta[g(R\sin\beta)+g(-R\sin\beta)]\sin\beta\,d\beta,\\
    F_\theta &= \tfrac1R\partial_\theta L = \tfrac1{\pi R}[G(-R\sin\theta)-G(R\sin\theta)],

and the flow is :math:`R'=F_R`, :math:`(\ln\tan\tfrac\theta2)'=-A/R` with
:math:`A=F_\theta/\sin\theta`. For the logistic loss :math:`\ell'(z)+\ell'(-z)=-1` makes everything
elementary (`lin2021faster`),

.. math:: L=H(R)+\tfrac{c_0}\pi R(1-\cos\theta),\quad
    F_R=h(R)-\tfrac{c_0}\pi(1-\cos\theta),\quad A=\tfrac{c_0}\pi.

For θ > π/2 the integrals run over the complement, :math:`L=E\,\ell(-R|x_1|)-\tfrac1\pi
\int_0^{\pi-\theta}`, so that no sum loses more than one bit, except F_R where it really changes
sign. Derived here for the other losses.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import singledispatch
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.data.laws.laws import SphericalLaw
from gradflow.data.laws.radial import RadialFunctions
from gradflow.data.teachers import LinearTeacher
from gradflow.losses import AbstractMarginLoss, Logistic
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.networks import LinearPredictor
from gradflow.numerics.traced import log_tan_half, rejection
from gradflow.risks.population.margin_moments import RadialMoments, radial_moments
from gradflow.risks.population.reduction import AbstractReduction


def gauss(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return 0.5 * (x + 1), 0.5 * w


def wedge_rule(moments: RadialMoments, m: Array, angle: Array, order: int) -> tuple[Array, Array]:
    r"""Nodes and weights in β for integrals over [0, angle] of functions of m sin β.

    Smooth losses vary on the scale β ~ 1/(m E s) near 0 and, if they grow exponentially, near the
    upper end: nodes sinh-graded from 0 on the lower half, plain Gauss-Legendre on the upper half.
    The hinge on a bounded law has a kink at sin β = 1/(m s_max), with half-integer powers above it:
    the interval is broken there and the upper part graded by sinh².

    Parameters
    ----------
    moments : RadialMoments
    m : Array
        Scale, any shape (...), >= 0.
    angle : Array
        Upper limit in [0, π/2], of the shape of m.
    order : int
        Nodes on each of the two parts.

    Returns
    -------
    nodes, weights : Array of shape (..., 2 order)
    """
    x, w = (jnp.asarray(part) for part in gauss(order))
    m, angle = m[..., None], angle[..., None]
    shape = (1,) * (m.ndim - 1) + (order,)
    x, w = x.reshape(shape), w.reshape(shape)
    tiny = 1e-290
    if moments.kinked:
        # arcsin has no derivative at 1: keep its argument below.
        reach = m * moments.largest
        edge = jnp.where(reach > 1, jnp.arcsin(1.0 / jnp.where(reach > 1, reach, 2.0)), jnp.pi / 2)
        middle = jnp.minimum(edge, angle)
        scale = jnp.maximum(middle, tiny)
        # sqrt at 0 has no derivative: keep the argument positive, the weight vanishes there.
        top = jnp.arcsinh(jnp.sqrt(jnp.maximum(angle - middle, tiny) / scale))
        upper = middle + jnp.minimum(scale * jnp.sinh(top * x) ** 2, angle - middle)
        upper_weight = jnp.where(angle > middle, w * top * scale * jnp.sinh(2.0 * top * x), 0.0)
        lower, lower_weight = middle * x, middle * w
    else:
        middle = 0.5 * angle
        scale = 1.0 / jnp.maximum(m * moments.mean, 1e-3)
        top = jnp.arcsinh(middle / scale)
        lower = scale * jnp.sinh(top * x)
        lower_weight = w * top * scale * jnp.cosh(top * x)
        upper, upper_weight = middle * (1.0 + x), middle * w
    return (
        jnp.concatenate([lower, upper], axis=-1),
        jnp.concatenate([lower_weight, upper_weight], axis=-1),
    )


_Linear = LinearPredictor | DeepLinear


class AbstractLinearReduction(AbstractReduction):
    """Value and force of a linear predictor in the coordinates log R and λ = ln tan(θ/2).

    Both coordinates may be extreme (λ down to −1e20; R from 1e−60 to 1e12): nothing is formed by
    subtracting nearby numbers. All methods can be compiled and differentiated.
    """

    charts: ClassVar[tuple[str, ...]] = ("linear-log-angle",)

    @abstractmethod
    def radial_force(self, log_R: Array, lam: Array) -> Array:
        """F_R = −∂L/∂R, so that R' = F_R."""

    @abstractmethod
    def angular_rate(self, log_R: Array, lam: Array) -> Array:
        """A = F_θ/sin θ > 0, so that λ' = −A/R; finite as θ → 0 and θ → π."""

    @abstractmethod
    def value(self, log_R: Array, lam: Array) -> Array:
        """The risk L; inf where it exceeds float64."""

    @abstractmethod
    def log_value(self, log_R: Array, lam: Array) -> Array:
        """ln L, finite even where L overflows."""

    def risk_at(self, net: _Linear, params: PyTree, teacher: LinearTeacher) -> Array:
        return _linear_value(self, net.end_to_end(params), teacher.direction)

    def gradient_at(self, net: _Linear, params: PyTree, teacher: LinearTeacher) -> PyTree:
        w, pull_back = jax.vjp(net.end_to_end, params)
        return net.freeze(pull_back(_linear_gradient(self, w, teacher.direction))[0])

    def value_of(self, w: Array, v: Array) -> Array:
        """L at w of shape (d,), for the unit vector v; its derivative is `gradient_of`."""
        return _value_of((w, v), self)

    def gradient_of(self, w: Array, v: Array) -> Array:
        r"""dL/dw of shape (d,), at any scale of w.

        :math:`-\nabla L=(F_R\cos\theta+A\sin^2\theta)\,v+(F_R-A\cos\theta)\,w_\perp/R`,
        :math:`w_\perp=w-(v\cdot w)v`. At w = 0 it is
        :math:`\ell'(0)\,E[yx]=-(2c_0/\pi)|\ell'(0)|\,v`.
        """
        along, across, log_R, lam = _polar(w, v)
        radial, rate = self.radial_force(log_R, lam), self.angular_rate(log_R, lam)
        sine_squared = jnp.sum(across**2)
        toward = radial * along + rate * sine_squared
        return -(toward * v + (radial - rate * along) * across)


# Compiled once for all laws of one layout.


@eqx.filter_jit
def _linear_value(reduction: AbstractLinearReduction, w: Array, v: Array) -> Array:
    return reduction.value_of(w, v)


@eqx.filter_jit
def _linear_gradient(reduction: AbstractLinearReduction, w: Array, v: Array) -> Array:
    return reduction.gradient_of(w, v)


@eqx.filter_custom_jvp
def _value_of(point: tuple[Array, Array], reduction: AbstractLinearReduction) -> Array:
    w, v = point
    _, _, log_R, lam = _polar(w, v)
    return reduction.value(log_R, lam)


@_value_of.def_jvp
def _value_of_jvp(primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]) -> tuple[Array, Array]:
    # The polar form has no derivative at w = 0 and on the axis, where L itself is differentiable.
    ((w, v), reduction), ((dw, dv), _) = primals, tangents
    tangent = jnp.zeros(())
    if dw is not None:
        tangent = tangent + jnp.dot(reduction.gradient_of(w, v), dw)
    if dv is not None:
        # dL/dθ = R A sin θ and dθ/dv = −w_⊥/|w_⊥| for a unit vector v.
        _, across, log_R, lam = _polar(w, v)
        pull = -jnp.exp(log_R) * reduction.angular_rate(log_R, lam)
        tangent = tangent + pull * jnp.dot(across, dv)
    return _value_of((w, v), reduction), tangent


def _polar(w: Array, v: Array) -> tuple[Array, Array, Array, Array]:
    """cos θ, w_⊥/R, log R and ln tan(θ/2); the direction v stands in at w = 0."""
    top = jnp.max(jnp.abs(w))
    zero = top == 0
    top = jnp.where(zero, 1.0, top)
    u = jnp.where(zero, v, w / top)
    along = jnp.dot(u, v)
    across = rejection(u, v)
    lateral = jnp.sqrt(jnp.sum(across**2))
    size = jnp.hypot(along, lateral)
    log_R = jnp.where(zero, -jnp.inf, jnp.log(size) + jnp.log(top))
    return along / size, across / size, log_R, log_tan_half(along, lateral)


class LogisticLinear(AbstractLinearReduction):
    r"""Closed form for the logistic loss: F_R = h(R) − (c₀/π)(1 − cos θ), A = c₀/π."""

    radial: RadialFunctions

    def __init__(self, law: SphericalLaw):
        self.radial = law.radial

    def _rate(self) -> Array:
        return self.radial.c0 / jnp.pi

    def radial_force(self, log_R: Array, lam: Array) -> Array:
        # h = c0/pi − complement would lose digits at large R, and the sum below none anywhere.
        versine = 2.0 * jax.nn.sigmoid(2.0 * lam)
        return self.radial.h(jnp.exp(log_R)) - self._rate() * versine

    def angular_rate(self, log_R: Array, lam: Array) -> Array:
        return jnp.broadcast_to(self._rate(), jnp.shape(lam))

    def value(self, log_R: Array, lam: Array) -> Array:
        return jnp.exp(self.log_value(log_R, lam))

    def log_value(self, log_R: Array, lam: Array) -> Array:
        R = jnp.exp(log_R)
        versine = 2.0 * jax.nn.sigmoid(2.0 * lam)
        return jnp.log(self.radial.H(R) + self._rate() * R * versine)


class QuadratureLinear(AbstractLinearReduction):
    r"""Any margin loss: tabulated G, g and |x₁|-moments, one Gauss-Legendre rule over the wedge.

    Parameters
    ----------
    loss : AbstractMarginLoss
        Exponential, hinge, or a smooth loss of polynomial growth.
    law : SphericalLaw
        Law of the inputs; the exponential loss needs a bounded or Gaussian one.

    Raises
    ------
    ValueError
        If the risk is infinite for every w ≠ 0 off the teacher (exponential loss, heavy tails).

    Notes
    -----
    Relative error about 1e-13 (F_R: relative to its two terms) for R from 1e-60 to 1e12, as long
    as a growing loss stays below e^300 or so on the wrong side.
    """

    planar: RadialMoments
    marginal: RadialMoments
    order: int = eqx.field(static=True, default=112)

    def __init__(self, loss: AbstractMarginLoss, law: SphericalLaw, order: int = 112):
        self.planar = radial_moments(loss, law, 2)
        self.marginal = radial_moments(loss, law, 1)
        self.order = order

    def _wedge(self, R: Array, lam: Array) -> tuple[Array, Array, Array]:
        """The smaller of θ and π − θ: whether it is θ, its nodes sin β and their weights."""
        right = lam <= 0
        angle = 2.0 * jnp.arctan(jnp.exp(-jnp.abs(lam)))
        nodes, weights = wedge_rule(self.planar, R, angle, self.order)
        return right, jnp.sin(nodes), weights / jnp.pi

    def _exponent(self, R: Array, lam: Array) -> Array:
        """Growth exponent at the worst margin, factored out of every integral."""
        sine = jnp.where(lam <= 0, 1.0 / jnp.cosh(jnp.minimum(jnp.abs(lam), 700.0)), 1.0)
        return self.planar.growth(jax.lax.stop_gradient(R * sine))

    def radial_force(self, log_R: Array, lam: Array) -> Array:
        R = jnp.exp(log_R)
        right, sine, weight = self._wedge(R, lam)
        top = self._exponent(R, lam)
        m = R * sine
        wedge = jnp.sum(weight * sine * self.planar.total(m) * jnp.exp(self.planar.growth(m) - top))
        low = self.marginal.right_slope(R) * jnp.exp(-top) - wedge
        high = wedge - self.marginal.wrong_slope(R) * jnp.exp(self.marginal.growth(R) - top)
        return jnp.where(right, low, high) * jnp.exp(top)

    def angular_rate(self, log_R: Array, lam: Array) -> Array:
        R = jnp.exp(log_R)
        fade = jnp.exp(-jnp.abs(lam))
        m = R * 2.0 * fade / (1.0 + fade**2)
        return self.planar.gap(m) * jnp.exp(self.planar.growth(m)) / jnp.pi

    def value(self, log_R: Array, lam: Array) -> Array:
        return jnp.exp(self.log_value(log_R, lam))

    def log_value(self, log_R: Array, lam: Array) -> Array:
        R = jnp.exp(log_R)
        right, sine, weight = self._wedge(R, lam)
        top = self._exponent(R, lam)
        m = R * sine
        wedge = jnp.sum(weight * m * self.planar.gap(m) * jnp.exp(self.planar.growth(m) - top))
        low = self.marginal.right_value(R) * jnp.exp(-top) + wedge
        high = self.marginal.wrong_value(R) * jnp.exp(self.marginal.growth(R) - top) - wedge
        return jnp.log(jnp.where(right, low, high)) + top


@singledispatch
def linear_reduction(loss: AbstractMarginLoss, law: SphericalLaw) -> AbstractLinearReduction:
    """The reduction of a linear predictor for a loss and a law.

    Raises
    ------
    ValueError
        If the population risk is infinite (see `QuadratureLinear`).
    """
    return QuadratureLinear(loss, law)


@linear_reduction.register
def _(loss: Logistic, law: SphericalLaw) -> AbstractLinearReduction:
    return LogisticLinear(law)
