"""What an activation is, and the one rule by which every gradient goes through it."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from gradflow.networks.activations.pieces import Pieces
from gradflow.registry import Described


class Parts(NamedTuple):
    """What the even and the odd part of φ, ``(φ(z) ± φ(−z))/2``, are on an interval around 0.

    Attributes
    ----------
    even, odd : float
        The degree of a part that is a polynomial (−1: it is zero); inf where it is none.
    reason : str
        The formula that shows it.
    """

    even: float
    odd: float
    reason: str


class AbstractActivation(Described, eqx.Module):
    """A scalar function φ applied to each entry of an array.

    A concrete class gives its ``kind`` (the name in a description), the value and the derivative
    (at a kink: the one-sided value that the package states). The rest has defaults: a smooth φ of
    no degree of homogeneity, described by its fields. What a class knows of its pieces (`breaks`,
    `slopes`) serves event location and the kernels of random features, `parts` the latter.
    """

    kind: eqx.AbstractClassVar[str]

    @abstractmethod
    def __call__(self, z: jax.Array) -> jax.Array:
        """Return φ(z), entry by entry."""

    @abstractmethod
    def derivative(self, z: jax.Array) -> jax.Array:
        """Return φ'(z), entry by entry."""

    @property
    def name(self) -> str:
        """A short readable name, for example ``leaky_relu(0.3)``; by default the kind."""
        return self.kind

    @property
    def kinked(self) -> bool:
        """True when φ' jumps somewhere."""
        return False

    @property
    def homogeneous(self) -> bool:
        """True when φ(cz) = cφ(z) for every c > 0 (degree 1)."""
        return False

    @property
    def degree(self) -> float | None:
        """p with φ(cz) = c^p φ(z) for every c > 0; None if there is none."""
        return 1 if self.homogeneous else None

    @property
    def breaks(self) -> tuple[float, ...]:
        """The points between which φ is analytic, ascending; by default 0 if there is a kink."""
        return (0.0,) if self.kinked else ()

    @property
    def slopes(self) -> tuple[float, ...] | None:
        """The slope of φ on each piece between the `breaks`, left to right; None if φ is not
        piecewise linear (and continuous)."""
        return None

    @property
    def pieces(self) -> Pieces | None:
        """The pieces of a piecewise linear φ (host); None for others."""
        if self.slopes is None:
            return None
        with jax.ensure_compile_time_eval():
            value = float(self(jnp.asarray((*self.breaks, 0.0)[0])))
        return Pieces.of(self.breaks, self.slopes, value)

    def parts(self, reach: float = math.inf) -> Parts | None:
        """Return the even and the odd part of φ on [−reach, reach]; None where nothing is known."""
        return None


@eqx.filter_custom_jvp
def apply_activation(activation: AbstractActivation, z: jax.Array) -> jax.Array:
    """Return φ(z), differentiated through ``activation.derivative`` and nothing else.

    Networks call this rather than ``activation(z)``: automatic differentiation of a `max` may
    choose another element at a kink than the one that the activation states.
    """
    return activation(z)


@apply_activation.def_jvp
def _apply_activation_jvp(
    primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]
) -> tuple[jax.Array, jax.Array]:
    activation, z = primals
    _, dz = tangents
    out = activation(z)
    return out, jnp.zeros_like(out) if dz is None else activation.derivative(z) * dz
