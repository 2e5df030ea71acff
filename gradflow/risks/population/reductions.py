"""Which reduction a population risk has: by teacher, net and loss, one registered function each."""

from __future__ import annotations

from functools import singledispatch

from gradflow.data.laws.laws import SphericalLaw
from gradflow.data.teachers import LinearTeacher, NetworkTeacher
from gradflow.losses import AbstractLoss, AbstractMarginLoss, Logistic
from gradflow.networks.abstract import AbstractNetwork
from gradflow.networks.activations import LeakyReLU
from gradflow.networks.networks import TwoLayer
from gradflow.risks.population.gaussian import gaussian_reduction
from gradflow.risks.population.linear_reduction import linear_reduction
from gradflow.risks.population.margin_quadrature import TwoNeuronQuadrature
from gradflow.risks.population.reduction import AbstractReduction
from gradflow.risks.population.two_neuron import TwoNeuronReduction
from gradflow.validation import fail


@singledispatch
def reduction_for(
    teacher: object, net: AbstractNetwork, loss: AbstractLoss, law: SphericalLaw
) -> AbstractReduction:
    """The reduction of a net's population risk; a ``ValueError`` where there is none."""
    raise fail(
        "teacher", teacher, "is not a teacher",
        "pass gf.LinearTeacher(v) or gf.NetworkTeacher(net, params)",
    )  # fmt: skip


@reduction_for.register
def _(
    teacher: NetworkTeacher, net: AbstractNetwork, loss: AbstractLoss, law: SphericalLaw
) -> AbstractReduction:
    return gaussian_reduction(net, loss, law, teacher)


@reduction_for.register
def _(
    teacher: LinearTeacher, net: AbstractNetwork, loss: AbstractMarginLoss, law: SphericalLaw
) -> AbstractReduction:
    return _of_labels(net, loss, law)


@singledispatch
def _of_labels(
    net: AbstractNetwork, loss: AbstractMarginLoss, law: SphericalLaw
) -> AbstractReduction:
    """With the labels of a linear teacher: of linear nets, and of those registered."""
    return linear_reduction(loss, law)


@_of_labels.register
def _(net: TwoLayer, loss: AbstractMarginLoss, law: SphericalLaw) -> AbstractReduction:
    if net.scaling is not None:
        raise fail(
            "net", net.name, "has a scaling, which the reduction to two neurons has not",
            "leave scaling out, or sample the law and use EmpiricalRisk",
        )  # fmt: skip
    if net.width != 2 or net.bias:
        raise fail(
            "net", net, "the population risk is reduced for two neurons without bias",
            "pass TwoLayer(dim, width=2), or sample the law and use EmpiricalRisk",
        )  # fmt: skip
    if not isinstance(net.activation, LeakyReLU):
        raise fail(
            "net.activation", net.activation.name, "has no exact reduction",
            "pass gf.relu, gf.leaky_relu(alpha) or gf.linear",
        )  # fmt: skip
    slope = net.activation.slope
    if not 0 <= slope <= 1:
        raise fail(
            "net.activation", net.activation.name, "has a slope outside [0, 1], where the exact "
            "reduction does not hold", "sample the law and use EmpiricalRisk",
        )  # fmt: skip
    return _of_two_neurons(loss, law, slope)


@singledispatch
def _of_two_neurons(loss: AbstractMarginLoss, law: SphericalLaw, slope: float) -> AbstractReduction:
    """Of two neurons with the labels of a linear teacher."""
    return TwoNeuronQuadrature(loss, law, slope)


@_of_two_neurons.register
def _(loss: Logistic, law: SphericalLaw, slope: float) -> AbstractReduction:
    return TwoNeuronReduction(law.radial, slope, (1, -1))
