r"""Population risk on spherically symmetric data, with a linear teacher or a teacher net.

:math:`L(\theta)=E\,\ell(y f(x;\theta))`, :math:`y=\mathrm{sgn}(v\cdot x)`, x spherically
symmetric in :math:`\mathbb R^d`. Exact reductions take the place of sampling: two numbers (R, θ)
for linear nets, planar integrals of radial functions for two neurons; and, for
:math:`L=\tfrac12E(f-f^\circ)^2` with a teacher net on Gaussian inputs, the moments of pairs of
neurons. Sources: `lin2021directional`, `lin2021faster`, `tian2017analytical`.
"""

from __future__ import annotations

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from gradflow.data.laws.laws import SphericalLaw
from gradflow.data.laws.radial import RadialFunctions
from gradflow.data.teachers import LinearTeacher, NetworkTeacher
from gradflow.losses import AbstractLoss, AbstractMarginLoss, logistic
from gradflow.networks.abstract import check_key
from gradflow.networks.activations import LeakyReLU
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.networks import LinearPredictor, TwoLayer
from gradflow.networks.parameters import LinearParams
from gradflow.registry import register
from gradflow.risks.base import AbstractRisk
from gradflow.risks.population.gaussian import (
    GaussianReduction,
    gaussian_gradient,
    gaussian_reduction,
    gaussian_value,
)
from gradflow.risks.population.linear_reduction import AbstractLinearReduction, linear_reduction
from gradflow.risks.population.margin_quadrature import TwoNeuronQuadrature
from gradflow.risks.population.two_neuron import PlanarState, TwoNeuronReduction, planar_frame
from gradflow.validation import fail


class PopulationRisk(AbstractRisk):
    r"""Population risk against a linear teacher (margin losses) or a teacher net (squared loss).

    Parameters
    ----------
    net : LinearPredictor, DeepLinear or TwoLayer
        Against a linear teacher a ``TwoLayer`` net must have width 2, no bias and a (leaky) ReLU or
        linear activation; against a teacher net any width, no bias, and an activation with a closed
        form (relu, leaky relu, linear, erf).
    loss : AbstractLoss
        ``gf.logistic``, ``gf.exponential`` or ``gf.hinge`` with a linear teacher, ``gf.squared``
        with a teacher net.
    law : SphericalLaw
        Law of the inputs, of the net's dimension; with a teacher net ``gf.Gaussian(d)``.
    teacher : LinearTeacher or NetworkTeacher
        The unit vector :math:`v` of the labels :math:`y=\mathrm{sgn}(v\cdot x)`, or the net
        :math:`f^\circ` of the targets :math:`y=f^\circ(x)`.

    Raises
    ------
    ValueError
        If dimensions disagree or the net, loss, law or teacher has no reduction.

    Notes
    -----
    With logistic loss the teacher enters linearly,
    :math:`L=E\ln2\cosh(f/2)-\tfrac{(1+\alpha)c_0}{2\pi}\sum_i a_i\,v\cdot w_i` for two neurons,
    and :math:`L=E\ln(1+e^{-R|x_1|})+\tfrac{c_0}\pi(R-v\cdot w)` for a linear net. Source:
    `lin2021faster`.

    With a teacher net, :math:`L=\tfrac12E(f-f^\circ)^2` is a quadratic form in the outer weights
    whose entries are known functions of pairs of neurons; values, gradients and Hessians are exact,
    also where neurons are parallel. See :mod:`.gaussian`, for a neuron at zero too.
    """

    net: Any
    loss: AbstractLoss
    law: SphericalLaw = eqx.field(static=True)
    teacher: LinearTeacher | NetworkTeacher
    reduction: Any

    def __init__(
        self,
        net: Any,
        loss: AbstractLoss,
        law: SphericalLaw,
        teacher: LinearTeacher | NetworkTeacher,
    ):
        if not isinstance(net, (LinearPredictor, DeepLinear, TwoLayer)):
            raise fail(
                "net", net, "has no population risk", "pass LinearPredictor, DeepLinear or TwoLayer"
            )
        if not isinstance(teacher, (LinearTeacher, NetworkTeacher)):
            raise fail(
                "teacher", teacher, "is not a teacher",
                "pass gf.LinearTeacher(v) or gf.NetworkTeacher(net, params)",
            )  # fmt: skip
        if isinstance(teacher, LinearTeacher) and not isinstance(loss, AbstractMarginLoss):
            raise fail(
                "loss", loss, "is not a margin loss, as a linear teacher needs",
                "pass gf.logistic, gf.exponential or gf.hinge (or a gf.NetworkTeacher)",
            )  # fmt: skip
        if not isinstance(law, SphericalLaw):
            raise fail(
                "law", law, "is not a spherically symmetric law", "pass for example gf.Gaussian(d)"
            )
        dims = {"net": net.dim, "law": law.dim, "teacher": teacher.dim}
        if len(set(dims.values())) != 1:
            raise fail("dim", dims, "net, law and teacher differ in dimension", "make them equal")
        self.net, self.loss, self.law, self.teacher = net, loss, law, teacher
        if isinstance(teacher, NetworkTeacher):
            self.reduction = gaussian_reduction(net, loss, law, teacher)
        elif isinstance(net, TwoLayer):
            if net.scaling is not None:
                raise fail(
                    "net", net.name, "has a scaling, which the reduction to two neurons has not",
                    "leave scaling out, or sample the law and use EmpiricalRisk",
                )  # fmt: skip
            if net.width != 2 or net.bias:
                raise fail(
                    "net",
                    net,
                    "the population risk is reduced for two neurons without bias",
                    "pass TwoLayer(dim, width=2), or sample the law and use EmpiricalRisk",
                )
            if not isinstance(net.activation, LeakyReLU):
                raise fail(
                    "net.activation",
                    net.activation.name,
                    "has no exact reduction",
                    "pass gf.relu, gf.leaky_relu(alpha) or gf.linear",
                )
            slope = net.activation.slope
            if loss is logistic or type(loss) is type(logistic):
                self.reduction = TwoNeuronReduction(law.radial, slope, (1, -1))
            else:
                self.reduction = TwoNeuronQuadrature(cast(AbstractMarginLoss, loss), law, slope)
        else:
            self.reduction = linear_reduction(cast(AbstractMarginLoss, loss), law)

    @property
    def name(self) -> str:
        return "population"

    @property
    def direction(self) -> Array:
        """The unit vector v of a linear teacher, shape (d,)."""
        return jnp.asarray(cast(LinearTeacher, self.teacher).direction)

    def end_to_end(self, params: Any) -> Array:
        """The linear net's vector :math:`w_e` with :math:`f(x)=w_e\\cdot x`, shape (d,)."""
        return params.weight if isinstance(params, LinearParams) else self.net.end_to_end(params)

    def __call__(self, params: Any) -> Array:
        params = self.net.as_params(params)
        if isinstance(self.reduction, GaussianReduction):
            return gaussian_value(self.reduction, self.net, params)
        v = self.direction
        if isinstance(self.reduction, AbstractLinearReduction):
            return _linear_value(self.reduction, self.end_to_end(params), v)
        if isinstance(self.reduction, TwoNeuronQuadrature):
            return _quadrature_value(self.reduction, params.inner, params.outer, v)
        slope = jnp.asarray(self.net.activation.slope)
        return _planar_value(self.reduction.radial, slope, params.inner, params.outer, v)

    def log(self, params: Any) -> Array:
        """ln L(θ); with a teacher net −inf where L is not positive to rounding."""
        value = self(params)
        if isinstance(self.reduction, GaussianReduction):
            value = jnp.maximum(value, 0.0)
        return jnp.log(value)

    def gradient(self, params: Any) -> Any:
        params = self.net.as_params(params)
        if isinstance(self.reduction, GaussianReduction):
            return gaussian_gradient(self.reduction, self.net, params)
        v = self.direction
        if isinstance(self.reduction, AbstractLinearReduction):
            w, pull_back = jax.vjp(self.end_to_end, params)
            return self.net.freeze(pull_back(_linear_gradient(self.reduction, w, v))[0])
        if isinstance(self.reduction, TwoNeuronQuadrature):
            inner, outer = _quadrature_gradient(self.reduction, params.inner, params.outer, v)
        else:
            slope = jnp.asarray(self.net.activation.slope)
            inner, outer = _planar_gradient(
                self.reduction.radial, slope, params.inner, params.outer, v
            )
        zero = jax.tree.map(jnp.zeros_like, params)
        filled = eqx.tree_at(lambda p: (p.inner, p.outer), zero, (inner, outer))
        return self.net.freeze(filled)

    def sample(self, key: Array, n: int) -> tuple[Array, Array]:
        """``n`` labelled inputs: X (n, d) and y (n,), sgn(v·x) or f°(x) by the teacher."""
        x = self.law.sample(check_key("key", key), n)
        return x, self.teacher.label(x)


register("population", PopulationRisk)


# Compiled once for all laws of one layout, all slopes and signs; one program a shape.


@eqx.filter_jit
def _linear_value(reduction: AbstractLinearReduction, w: Array, v: Array) -> Array:
    return reduction.value_of(w, v)


@eqx.filter_jit
def _linear_gradient(reduction: AbstractLinearReduction, w: Array, v: Array) -> Array:
    return reduction.gradient_of(w, v)


@eqx.filter_jit
def _quadrature_value(
    reduction: TwoNeuronQuadrature, inner: Array, outer: Array, v: Array
) -> Array:
    return reduction.value(inner, outer, v)


@eqx.filter_jit
def _quadrature_gradient(reduction: TwoNeuronQuadrature, inner: Array, outer: Array, v: Array):
    return reduction.gradient(inner, outer, v)


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
