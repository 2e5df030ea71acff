r"""The squared population risk of a teacher net on Gaussian inputs, in closed form.

A net without bias is a sum of *atoms*, :math:`f(x)=\sum_kc_k\varphi(u_k\cdot x)`, and so is its
teacher; with the moments K of :mod:`.gaussian_kernels`

.. math:: L=\tfrac12E(f-f^\circ)^2
   =\tfrac12a^TK_{WW}a-a^TK_{WV}b+\tfrac12b^TK_{VV}b.

Gradients and Hessians are those of this form. Rounding, with S = Σ|a_k||w_k| + Σ|b_j||v_j| and
ε = 1e-16: the gradient in w_k is good to about ε|a_k|S absolutely, which is what rounding the
parameters costs anyway. The form itself would be good to εS² only; for like activations (both of
the relu family, or both erf) the value is taken from :mod:`.gaussian_values` instead
and keeps a relative accuracy of about εS/√L where the teacher is nearly recovered, down to
L ~ (εS)²; below that it is rounding, of either sign, and ``log`` is −inf where it is not positive.
For the other pairs, and for those a user registers, the floor is εS² throughout.

Where a neuron vanishes, see :mod:`.gaussian_kernels`. With fixed outer weights a flow
can reach :math:`w_k=0` in finite time and stay; integrators do not locate that cone, so a run that
meets it stalls there in steps of vanishing size and says so in its result.

Sources: `tian2017analytical` (the gradient, ReLU), `saad1995online` (erf).
"""

from __future__ import annotations

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from gradflow.data.laws.laws import Gaussian, SphericalLaw
from gradflow.data.teachers import NetworkTeacher
from gradflow.losses import AbstractLoss, Squared
from gradflow.networks.abstract import AbstractNetwork
from gradflow.networks.activations import AbstractActivation, linear
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.networks import LinearPredictor, TwoLayer
from gradflow.risks.population.gaussian_kernels import check_gaussian_pair, gaussian_kernel
from gradflow.risks.population.gaussian_values import value_near_minimum
from gradflow.risks.population.reduction import AbstractReduction, Teacher
from gradflow.validation import fail


class Atoms(eqx.Module):
    """f(x) = Σ_k c_k φ(u_k·x): weights (m,) and vectors (m, d)."""

    activation: AbstractActivation
    weights: Array
    vectors: Array


@ft.singledispatch
def activation_of(net: AbstractNetwork) -> AbstractActivation:
    """The activation of the net's atoms: linear, where the net is."""
    return linear


@activation_of.register
def _(net: TwoLayer) -> AbstractActivation:
    return net.activation


@ft.singledispatch
def atoms_of(net: LinearPredictor | DeepLinear, params: PyTree) -> Atoms:
    """The atoms of a net without bias; a linear net is one atom of the linear activation."""
    return Atoms(linear, jnp.ones(1), net.end_to_end(params)[None, :])


@atoms_of.register
def _(net: TwoLayer, params: PyTree) -> Atoms:
    return Atoms(net.activation, net.factor * params.outer, params.inner)


class GaussianReduction(AbstractReduction):
    """The teacher's atoms and the scale of the inputs: all that a net's risk needs to know."""

    teacher: Atoms
    scale: Array

    def risk_at(self, net: AbstractNetwork, params: PyTree, teacher: Teacher) -> Array:
        return gaussian_value(self, net, params)

    def gradient_at(self, net: AbstractNetwork, params: PyTree, teacher: Teacher) -> PyTree:
        return gaussian_gradient(self, net, params)

    def log_at(self, net: AbstractNetwork, params: PyTree, teacher: Teacher) -> Array:
        return jnp.log(jnp.maximum(self.risk_at(net, params, teacher), 0.0))

    def value_of(self, student: Atoms) -> Array:
        """L for a student's atoms; differentiated through the quadratic form."""
        phi, chi = student.activation, self.teacher.activation

        def form(W: Array, a: Array, V: Array, b: Array) -> Array:
            own = a @ gaussian_kernel(phi, phi, W, W) @ a
            cross = a @ gaussian_kernel(phi, chi, W, V) @ b
            return 0.5 * own - cross + 0.5 * (b @ gaussian_kernel(chi, chi, V, V) @ b)

        near = value_near_minimum(phi, chi)
        value = jax.custom_jvp(form if near is None else ft.partial(near, phi, chi))
        value.defjvp(
            lambda primals, tangents: (value(*primals), jax.jvp(form, primals, tangents)[1])
        )
        vectors, targets = self.scale * student.vectors, self.scale * self.teacher.vectors
        return value(vectors, student.weights, targets, self.teacher.weights)


def gaussian_reduction(
    net: AbstractNetwork, loss: AbstractLoss, law: SphericalLaw, teacher: NetworkTeacher
) -> GaussianReduction:
    """The reduction for a checked net and law of one dimension; refuses what has no closed form."""
    if not isinstance(loss, Squared):
        raise fail(
            "loss", loss, "has no closed form with the values of a net as targets",
            "pass gf.squared, or a margin loss with teacher=gf.LinearTeacher(v)",
        )  # fmt: skip
    if not isinstance(law, Gaussian):
        raise fail(
            "law", law, "has no closed form with a network teacher",
            "pass gf.Gaussian(d), or sample the law and use EmpiricalRisk",
        )  # fmt: skip
    for argument, one in (("net", net), ("teacher.net", teacher.net)):
        if not isinstance(one, (LinearPredictor, DeepLinear, TwoLayer)):
            raise fail(
                argument, one, "has no closed form", "pass LinearPredictor, DeepLinear or TwoLayer"
            )
        if isinstance(one, TwoLayer) and one.bias:
            raise fail(
                argument, one.name, "has biases, with which there is no closed form",
                "pass a net with bias=False, or sample the law and use EmpiricalRisk",
            )  # fmt: skip
    atoms = atoms_of(teacher.net, teacher.params)
    phi = activation_of(net)
    for argument, one, other in (
        ("net.activation", phi, phi),
        ("teacher.net.activation", atoms.activation, atoms.activation),
        ("net.activation, teacher.net.activation", phi, atoms.activation),
    ):
        check_gaussian_pair(argument, one, other)
    return GaussianReduction(atoms, jnp.asarray(law.scale, jnp.float64))


# Compiled once for each structure (nets, activations, shapes), not for each risk or teacher.


@eqx.filter_jit
def gaussian_value(reduction: GaussianReduction, net: AbstractNetwork, params: PyTree) -> Array:
    """L(θ)."""
    return reduction.value_of(atoms_of(net, params))


@eqx.filter_jit
def gaussian_gradient(reduction: GaussianReduction, net: AbstractNetwork, params: PyTree) -> PyTree:
    """∇L(θ), zero on the entries that are not trained."""
    return net.freeze(jax.grad(lambda p: reduction.value_of(atoms_of(net, p)))(params))
