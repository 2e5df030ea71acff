"""What takes the place of sampling: a population risk as a function of few numbers."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from gradflow.data.teachers import LinearTeacher, NetworkTeacher
from gradflow.networks.abstract import AbstractNetwork
from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import TwoLayerParams

Teacher = LinearTeacher | NetworkTeacher


class AbstractReduction(eqx.Module):
    """Value and gradient of a population risk for one kind of net, loss, law and teacher.

    Attributes
    ----------
    charts : tuple of str
        Kinds of charts that flows of such a risk have besides those of the net.
    """

    charts: ClassVar[tuple[str, ...]] = ()

    #: Kinds of charts that flows of such a risk have besides those of the net.
    charts: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def risk_at(self, net: AbstractNetwork, params: PyTree, teacher: Teacher) -> Array:
        """L(θ)."""

    @abstractmethod
    def gradient_at(self, net: AbstractNetwork, params: PyTree, teacher: Teacher) -> PyTree:
        """∇L(θ), zero on the entries that are not trained."""

    def log_at(self, net: AbstractNetwork, params: PyTree, teacher: Teacher) -> Array:
        """ln L(θ)."""
        return jnp.log(self.risk_at(net, params, teacher))


def filled(net: TwoLayer, params: TwoLayerParams, inner: Array, outer: Array) -> TwoLayerParams:
    """A gradient of a two-layer net without bias from its two parts."""
    zero = jax.tree.map(jnp.zeros_like, params)
    return net.freeze(eqx.tree_at(lambda p: (p.inner, p.outer), zero, (inner, outer)))
