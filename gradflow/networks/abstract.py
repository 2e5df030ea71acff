"""What a network is: a scalar function f(x; θ) that knows its parameters' shapes.

A network object holds sizes and the activation, never the parameters θ
(:mod:`.parameters`). Beside the interface stand the checks of its arguments and the
random draw that the networks share.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.networks.activations.pieces import Pieces
from gradflow.networks.parameters import AbstractParams
from gradflow.registry import Described
from gradflow.validation import fail

#: The random starts of ``init``.
SCHEMES = ("balanced", "gaussian")

P = TypeVar("P", bound=AbstractParams)


class Layer(NamedTuple):
    """A network on data as one layer of piecewise linear neurons, ``f(x_i) = Σ_k a_k φ(w_k·z_i)``.

    Attributes
    ----------
    inputs : (n, D) array
        z_i: the data with a bias entry, or features of them.
    pieces : Pieces
        φ.
    trained : bool
        Whether the outer weights a_k move.
    layout : {"plain", "bias", "linear"}
        How parameters hold w_k and a_k (:mod:`gradflow.cells.blocks`).
    of_features : bool
        Whether z_i are features.
    outputs : int
        The number of outputs; of several, a_k is a vector.
    """

    inputs: np.ndarray
    pieces: Pieces
    trained: bool
    layout: str
    of_features: bool = False
    outputs: int = 1


class AbstractNetwork(Described, eqx.Module, Generic[P]):
    """A scalar function f(x; θ) of an input x in R^d, with the shapes of its parameters."""

    dim: eqx.AbstractVar[int]
    kind: eqx.AbstractClassVar[str]

    @abstractmethod
    def __call__(self, params: P, x: jax.Array) -> jax.Array:
        """Return f(x; θ): a scalar for x of shape (d,), shape (n,) for x of shape (n, d); with
        several `outputs` one axis more."""

    @abstractmethod
    def as_params(self, value: PyTree) -> P:
        """Return ``value`` as parameters of this network.

        Accepts the parameter object and a dict of arrays (a linear predictor also takes its bare
        weight vector). Shapes and dtypes are always checked, the numbers unless the value is a
        parameter object. Zero weights pass (a risk has a value there); `check_start` and
        ``params(...)`` refuse them.
        """

    @abstractmethod
    def check_start(self, params: P) -> P:
        """Return ``params`` if a flow can start there; a ``ValueError`` for zero weights or NaN."""

    @abstractmethod
    def init(self, key: jax.Array, scale: float, scheme: str = "gaussian") -> P:
        """Draw a random start of size ``scale``."""

    @abstractmethod
    def freeze(self, tree: P) -> P:
        """Return ``tree`` (a gradient, say) with the entries that are not trained set to zero."""

    @abstractmethod
    def balancedness(self, params: P) -> jax.Array | None:
        """Return the quantities that the flow conserves, or None where it conserves none."""

    @property
    def outputs(self) -> int:
        """o, the number of outputs: f is a number for o = 1 and a vector (o,) for more."""
        return 1

    def flat_directions(self, params: P) -> int:
        """Return the dimension of the manifold of parameters through ``params`` with the same f;
        −1 where there is one of unknown dimension."""
        return 0

    def along(self, params: P, direction: np.ndarray) -> P | None:
        """Return parameters with f(x) ∝ w·x, w the ``direction``, that a late flow from ``params``
        tends to in direction; None for a net without such."""
        return None

    def layer(self, X: np.ndarray) -> Layer | None:
        """Return the network on data X (n, d) as one layer of piecewise linear neurons, if it is.

        Its flow is then followed from kink to kink.
        """
        return None

    def neurons(self, params: P) -> tuple[jax.Array, jax.Array] | None:
        """Return the weights ``(W, a)`` of the neurons, or None where the net has none.

        W (m, D) holds what meets the data, with a bias as the last entry of a row; a (m,) are the
        outer weights, (m, o) of o > 1 outputs, 1 for linear nets, whose one neuron is their vector.
        Leading axes stay.
        """
        return None

    def unlocated_kinks(self) -> str | None:
        """Say which kinks of the net no flow locates, and what helps; None where there are none."""
        return None

    @property
    def vanishes_at_zero(self) -> bool:
        """Whether f(0; θ) = 0 for every θ, so that a datum at 0 says nothing."""
        return False

    @property
    @abstractmethod
    def degree(self) -> float | None:
        """D with f(x; cθ) = c^D f(x; θ), c > 0, θ the trained parameters; None if there is none."""

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Kinds of charts (:mod:`gradflow.flows.charts.offers`) that its flows have by themselves,
        besides the cartesian one."""
        return ()

    def conic_refusal(self) -> str | None:
        """Why a step cannot go by ‖w_k‖ times the gradient in w_k; None where it can."""
        return "needs a two-layer net of one output with a positively homogeneous activation"

    @property
    @abstractmethod
    def name(self) -> str:
        """A short readable name."""


def check_key(argument: str, value: object) -> jax.Array:
    """Return ``value`` if it is one JAX random key (typed, or two legacy uint32 words)."""
    is_array = isinstance(value, (jax.Array, np.ndarray))
    if is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ():
        return jnp.asarray(value)
    if is_array and value.dtype == np.uint32 and value.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(value))
    raise fail(argument, value, "is not a JAX random key", "pass jax.random.key(0)")


def check_inputs(net: AbstractNetwork, x: ArrayLike) -> None:
    """Refuse inputs that are neither one point nor a batch of points."""
    if np.ndim(x) not in (1, 2) or np.shape(x)[-1] != net.dim:
        raise fail("x", x, f"has shape {np.shape(x)}", f"pass shape ({net.dim},) or (n, {net.dim})")


def gaussian_rows(key: jax.Array, count: int, dim: int) -> jax.Array:
    """Return ``count`` independent rows N(0, I/dim), of norm about 1."""
    return jax.random.normal(key, (count, dim), dtype=jnp.float64) / np.sqrt(dim)
