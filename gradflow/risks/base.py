"""What every risk offers: a value, its logarithm, a gradient, and a description.

A risk L(θ) is a scalar function of a parameter pytree. Flows follow −∇L; they ask a risk for
nothing but what stands here. A new risk is one new subclass.
"""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.networks.abstract import AbstractNetwork
from gradflow.registry import Described


class AbstractRisk(Described, eqx.Module):
    """A scalar function L(θ) of the parameters of a network (or of any pytree).

    Attributes
    ----------
    net : AbstractNetwork or None
        The network whose parameters θ are; None when θ is a bare pytree.
    """

    net: eqx.AbstractVar[AbstractNetwork | None]

    def __hash__(self) -> int:
        # Of the structure and the arrays' shapes, so that ``jax.jit(risk)`` takes a risk as the
        # function it is; equality compares the numbers.
        leaves, structure = jax.tree.flatten(self)
        return hash((structure, tuple(map(_mark, leaves))))

    @abstractmethod
    def __call__(self, params: PyTree) -> jax.Array:
        """Return L(θ), a 0-d float64 array."""

    @abstractmethod
    def log(self, params: PyTree) -> jax.Array:
        """Return ln L(θ), exact where L(θ) underflows if the loss allows it."""

    @abstractmethod
    def gradient(self, params: PyTree) -> PyTree:
        """Return ∇L(θ), shaped like θ, zero on the entries that are not trained."""

    @property
    def arrangement(self) -> Arrangement | None:
        """The surfaces of its data that neurons meet (host); None where none are known."""
        return None

    def least_margin(self, params: PyTree) -> jax.Array | None:
        """Return the least margin on finite data, where the loss vanishes only if it is infinite.

        Until it is positive there is no limit direction. None for other risks.
        """
        return None

    def charts(self, params: PyTree) -> tuple[str, ...]:
        """Return the kinds of charts in which the flow from ``params`` may be integrated.

        The best first; :mod:`gradflow.flows.charts.offers` says what the names stand for.
        """
        return ("cartesian", *(() if self.net is None else self.net.coordinates))

    def as_params(self, value: PyTree) -> PyTree:
        """Return ``value`` as parameters of this risk; a ``ValueError`` when it cannot be."""
        return value if self.net is None else self.net.as_params(value)

    @property
    def floor(self) -> float | None:
        """A lower bound of L that finite parameters may attain; None where none is known."""
        return None

    @property
    def mass(self) -> float:
        """What the mean loss is multiplied by in L: 1, or the total weight in a sum over data."""
        return 1.0

    @property
    def conserves_balance(self) -> bool:
        """Whether the flow conserves what its network's ``balancedness`` names."""
        return True

    @property
    def has_margin_limits(self) -> bool:
        """Whether flows that separate the data go to infinity, to a max-margin direction."""
        return False

    @property
    def has_loss_kinks(self) -> bool:
        """Whether the loss itself has a kink, besides those of the network."""
        return False

    @property
    @abstractmethod
    def name(self) -> str:
        """A short readable name."""


def _mark(leaf: PyTree) -> PyTree:
    """What is hashed of a leaf: an array's shape and dtype, a function itself."""
    return (leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf
