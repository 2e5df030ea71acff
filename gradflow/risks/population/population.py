r"""Population risk on spherically symmetric data, with a linear teacher or a teacher net.

:math:`L(\theta)=E\,\ell(y f(x;\theta))`, :math:`y=\mathrm{sgn}(v\cdot x)`, x spherically
symmetric in :math:`\mathbb R^d`. Exact reductions take the place of sampling: two numbers (R, θ)
for linear nets, planar integrals of radial functions for two neurons; and, for
:math:`L=\tfrac12E(f-f^\circ)^2` with a teacher net on Gaussian inputs, the moments of pairs of
neurons. Sources: `lin2021directional`, `lin2021faster`, `tian2017analytical`.
"""

from __future__ import annotations

from typing import cast

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from gradflow.data.laws.laws import SphericalLaw
from gradflow.data.teachers import LinearTeacher, NetworkTeacher
from gradflow.losses import AbstractLoss, AbstractMarginLoss
from gradflow.networks.abstract import AbstractNetwork, check_key
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.networks import LinearPredictor, TwoLayer
from gradflow.registry import register
from gradflow.risks.base import AbstractRisk
from gradflow.risks.population.reduction import AbstractReduction, Teacher
from gradflow.risks.population.reductions import reduction_for
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

    net: LinearPredictor | DeepLinear | TwoLayer
    loss: AbstractLoss
    law: SphericalLaw = eqx.field(static=True)
    teacher: Teacher
    reduction: AbstractReduction

    def __init__(
        self,
        net: AbstractNetwork,
        loss: AbstractLoss,
        law: SphericalLaw,
        teacher: Teacher,
    ):
        if not isinstance(net, (LinearPredictor, DeepLinear, TwoLayer)):
            raise fail(
                "net", net, "has no population risk", "pass LinearPredictor, DeepLinear or TwoLayer"
            )
        if net.outputs > 1:
            problem = f"has {net.outputs} outputs, of which no population risk is known"
            raise fail(
                "net", net.name, problem, "use outputs=1, or sample it and use EmpiricalRisk"
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
        self.reduction = reduction_for(teacher, net, loss, law)

    @property
    def name(self) -> str:
        return "population"

    def charts(self, params: PyTree) -> tuple[str, ...]:
        return (*self.reduction.charts, *super().charts(params))

    @property
    def direction(self) -> Array:
        """The unit vector v of a linear teacher, shape (d,)."""
        return jnp.asarray(cast(LinearTeacher, self.teacher).direction)

    def end_to_end(self, params: PyTree) -> Array:
        """The linear net's vector :math:`w_e` with :math:`f(x)=w_e\\cdot x`, shape (d,)."""
        return cast(LinearPredictor, self.net).end_to_end(params)

    def __call__(self, params: PyTree) -> Array:
        return self.reduction.risk_at(self.net, self.net.as_params(params), self.teacher)

    def log(self, params: PyTree) -> Array:
        """ln L(θ); with a teacher net −inf where L is not positive to rounding."""
        return self.reduction.log_at(self.net, self.net.as_params(params), self.teacher)

    def gradient(self, params: PyTree) -> PyTree:
        return self.reduction.gradient_at(self.net, self.net.as_params(params), self.teacher)

    def sample(self, key: Array, n: int) -> tuple[Array, Array]:
        """``n`` labelled inputs: X (n, d) and y (n,), sgn(v·x) or f°(x) by the teacher."""
        x = self.law.sample(check_key("key", key), n)
        return x, self.teacher.label(x)


register("population", PopulationRisk)
