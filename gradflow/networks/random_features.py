"""The last layer of a two-layer net over fixed inner weights: f(x) = Σ_k v_k φ(w_k·x)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.networks.abstract import SCHEMES, AbstractNetwork, Layer, check_inputs, check_key
from gradflow.networks.activations import (
    AbstractActivation,
    apply_activation,
    as_activation,
)
from gradflow.networks.activations.pieces import IDENTITY
from gradflow.networks.parameters import (
    LinearParams,
    check_leaf,
    read_linear,
    require_finite,
)
from gradflow.validation import check_array, check_choice, check_integer, check_positive, fail


class RandomFeatures(AbstractNetwork[LinearParams]):
    """``f(x) = Σ_k v_k φ(w_k·x)``, k = 1 … m, with the inner weights w_k fixed.

    On data X (n, d) the predictions are ``Av`` with the features ``A = φ(XWᵀ)`` (n, m): with the
    squared loss the flow is linear, and its modes are those of AAᵀ (`benson2020over`).

    Parameters
    ----------
    inner : (m, d) array
        The fixed inner weights w_k; a row may not be zero.
    activation : AbstractActivation or callable
        φ, for example a JAX function, ``gf.relu`` or ``gf.shifted_relu(0.3)``.

    Raises
    ------
    ValueError
        If ``inner`` is no finite float64 matrix without zero rows, or φ is no activation.
    """

    inner: jax.Array
    activation: AbstractActivation
    kind: ClassVar[str] = "random_features"

    def __init__(
        self, inner: ArrayLike, activation: AbstractActivation | Callable[[jax.Array], jax.Array]
    ) -> None:
        rows = check_array("inner", inner, (None, None))
        if rows.size == 0:
            raise fail("inner", rows, "holds no weights", "pass an array (m, d) with m, d >= 1")
        if not np.all(np.any(rows != 0, axis=1)):
            dead = int(np.argmin(np.any(rows != 0, axis=1)))
            raise fail("inner", rows, f"row {dead} is zero", "pass rows that are not zero")
        self.inner = jnp.asarray(rows)
        self.activation = as_activation("activation", activation)

    @classmethod
    def draw(
        cls,
        key: jax.Array,
        dim: int,
        width: int,
        activation: AbstractActivation,
        law: str = "gaussian",
    ) -> RandomFeatures:
        """Draw the inner weights.

        Parameters
        ----------
        key : jax.Array
            Random key; the same key gives the same bits.
        dim, width : int
            Input dimension d ≥ 1 and number of features m ≥ 1.
        activation : AbstractActivation
        law : {"gaussian", "sphere"}
            ``w_k ~ N(0, I)`` or uniform on the unit sphere.
        """
        key = check_key("key", key)
        shape = (
            check_integer("width", width, minimum=1),
            check_integer("dim", dim, minimum=1),
        )
        rows = np.asarray(jax.random.normal(key, shape, dtype=jnp.float64))
        if check_choice("law", law, ("gaussian", "sphere")) == "sphere":
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return cls(rows, activation)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Input dimension d."""
        return self.inner.shape[1]

    @property
    def width(self) -> int:
        """Number of features m."""
        return self.inner.shape[0]

    def features(self, x: ArrayLike) -> jax.Array:
        """Return φ(Wx): (m,) for one point, the matrix A (n, m) for points (n, d)."""
        check_inputs(self, x)
        return apply_activation(self.activation, jnp.asarray(x) @ self.inner.T)

    def __call__(self, params: LinearParams, x: jax.Array) -> jax.Array:
        return self.features(x) @ params.weight

    def params(self, weight: ArrayLike) -> LinearParams:
        """Return checked parameters: the last layer v (m,). Zero is a fine start here."""
        return self.check_start(LinearParams(check_leaf("weight", weight, (self.width,))))

    def as_params(self, value: PyTree) -> LinearParams:
        return read_linear(self.name, value, self.width)

    def check_start(self, params: LinearParams) -> LinearParams:
        params = self.as_params(params)
        if not isinstance(params.weight, Tracer):
            require_finite(params)
        return params

    def init(self, key: jax.Array, scale: float, scheme: str = "gaussian") -> LinearParams:
        """Draw v = scale·N(0, I/m); both schemes are the same here (nothing to balance)."""
        key, scale = check_key("key", key), check_positive("scale", scale)
        check_choice("scheme", scheme, SCHEMES)
        draw = jax.random.normal(key, (self.width,), dtype=jnp.float64)
        return self.params(scale / np.sqrt(self.width) * draw)

    def freeze(self, tree: LinearParams) -> LinearParams:
        return tree

    def balancedness(self, params: LinearParams) -> None:
        return None

    def layer(self, X: np.ndarray) -> Layer:
        features = np.asarray(self.features(X))
        return Layer(features, IDENTITY, trained=False, layout="linear", of_features=True)

    def neurons(self, params: LinearParams) -> tuple[jax.Array, jax.Array]:
        return self.inner, params.weight

    @property
    def vanishes_at_zero(self) -> bool:
        return (self.activation.degree or 0) > 0

    @property
    def degree(self) -> int:
        return 1

    @property
    def name(self) -> str:
        return f"RandomFeatures(dim={self.dim}, width={self.width}, {self.activation.name})"
