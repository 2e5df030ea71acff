"""Teachers: the rules that label the data."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from gradflow.networks.abstract import AbstractNetwork
from gradflow.registry import Described, register
from gradflow.validation import check_unit_vector, fail


class LinearTeacher(Described, eqx.Module):
    r"""Labels :math:`y = \mathrm{sgn}(v\cdot x)`, :math:`\mathrm{sgn}(0) = 1`.

    Parameters
    ----------
    direction : array (d,)
        The unit vector v. A vector of another length is refused, not normalised.
    """

    direction: Array

    def __init__(self, direction: ArrayLike) -> None:
        v = check_unit_vector("direction", direction)
        if v.size < 2:
            raise fail("direction", v, "has fewer than 2 entries", "pass a vector in R^d, d >= 2")
        self.direction = jnp.asarray(v)

    @property
    def dim(self) -> int:
        """Dimension d of the data."""
        return self.direction.shape[0]

    def margin(self, x: ArrayLike) -> Array:
        """v.x for x of shape (..., d)."""
        return jnp.asarray(x) @ self.direction

    def label(self, x: ArrayLike) -> Array:
        """Labels in {-1.0, 1.0} of the rows of x (..., d); points on the boundary get +1."""
        return jnp.where(self.margin(x) >= 0, 1.0, -1.0)


class NetworkTeacher(Described, eqx.Module):
    r"""Targets :math:`y=f^\circ(x)`, the values of a net with fixed parameters.

    Parameters
    ----------
    net : AbstractNetwork
        The teacher's net, for example ``gf.TwoLayer(dim, width, gf.relu)``.
    params : parameters of ``net``
        Anything that the net reads as parameters.

    Raises
    ------
    ValueError
        If ``net`` is not a network, or ``params`` are not finite parameters of it, or a neuron of
        it is zero (drop it).
    """

    net: AbstractNetwork
    params: PyTree

    def __init__(self, net: AbstractNetwork, params: PyTree) -> None:
        if not isinstance(net, AbstractNetwork):
            raise fail("net", net, "is not a network", "pass gf.TwoLayer(...) or another network")
        if net.outputs > 1:
            problem = f"has {net.outputs} outputs, and a teacher one"
            raise fail("net", net.name, problem, "pass TwoLayer(..., outputs=1)")
        self.net, self.params = net, net.check_start(params)

    @property
    def dim(self) -> int:
        """Dimension d of the data."""
        return self.net.dim

    def label(self, x: ArrayLike) -> Array:
        """Targets f°(x): a scalar for x of shape (d,), shape (n,) for x of shape (n, d)."""
        return self.net(self.params, jnp.asarray(x))


register("linear_teacher", LinearTeacher)
register("network_teacher", NetworkTeacher)
