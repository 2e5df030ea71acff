"""What every risk offers: a value, its logarithm, a gradient, and a description.

A risk L(θ) is a scalar function of a parameter pytree. Flows follow −∇L; they ask a risk for
nothing but what stands here. A new risk is one new subclass.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax

from gradflow.networks.abstract import AbstractNetwork
from gradflow.risks.kinked import AbstractKinks


class AbstractRisk(eqx.Module):
    """A scalar function L(θ) of the parameters of a network (or of any pytree).

    Attributes
    ----------
    net : AbstractNetwork or None
        The network whose parameters θ are; None when θ is a bare pytree.
    """

    net: eqx.AbstractVar[AbstractNetwork | None]

    @abstractmethod
    def __call__(self, params: Any) -> jax.Array:
        """Return L(θ), a 0-d float64 array."""

    @abstractmethod
    def log(self, params: Any) -> jax.Array:
        """Return ln L(θ), exact where L(θ) underflows if the loss allows it."""

    @abstractmethod
    def gradient(self, params: Any) -> Any:
        """Return ∇L(θ), shaped like θ, zero on the entries that are not trained."""

    def kinks(self) -> AbstractKinks | None:
        """Return the kinks that an event-located integrator must know; None for a smooth risk."""
        return None

    def as_params(self, value: Any) -> Any:
        """Return ``value`` as parameters of this risk; a ``ValueError`` when it cannot be."""
        return value if self.net is None else self.net.as_params(value)

    @property
    def floor(self) -> float | None:
        """A lower bound of L that finite parameters may attain; None where none is known."""
        return None

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

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return a JSON-able description."""
