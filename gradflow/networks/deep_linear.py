"""The deep linear net ``f(x) = W_N ⋯ W_1 x``.

Balancedness (`du2018balanced`): along the gradient flow of any risk ``W_{j+1}ᵀ W_{j+1} − W_j W_jᵀ``
is constant. From a balanced start all layers keep one norm, and the end-to-end vector moves by an
ODE of its own (`arora2018optimization`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.networks.abstract import (
    SCHEMES,
    AbstractNetwork,
    check_inputs,
    check_key,
    gaussian_rows,
)
from gradflow.networks.parameters import (
    DeepLinearParams,
    check_leaf,
    check_shape,
    read_mapping,
    read_params,
    require_finite,
    wrong_params,
)
from gradflow.numerics import traced
from gradflow.numerics.vectors import length, scaled
from gradflow.validation import check_array, check_choice, check_integer, check_positive, fail


class DeepLinear(AbstractNetwork[DeepLinearParams]):
    """``f(x) = W_N ⋯ W_1 x = w_e·x``, a linear net of depth N.

    Parameters
    ----------
    dim : int
        Input dimension d ≥ 1.
    depth : int
        Number of layers N ≥ 1 (N = 1 is the linear predictor, as a (1, d) matrix).
    width : int, optional
        Width h of every hidden layer; default d.
    """

    dim: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    kind: ClassVar[str] = "deep_linear"

    def __init__(self, dim: int, depth: int, width: int | None = None) -> None:
        self.dim = check_integer("dim", dim, minimum=1)
        self.depth = check_integer("depth", depth, minimum=1)
        self.width = self.dim if width is None else check_integer("width", width, minimum=1)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shapes of W_1 … W_N."""
        sizes = (self.dim, *(self.width,) * (self.depth - 1), 1)
        return tuple((sizes[j + 1], sizes[j]) for j in range(self.depth))

    def __call__(self, params: DeepLinearParams, x: jax.Array) -> jax.Array:
        check_inputs(self, x)
        return jnp.asarray(x) @ self.end_to_end(params)

    def end_to_end(self, params: DeepLinearParams) -> jax.Array:
        """Return ``w_e = (W_N ⋯ W_1)ᵀ``, shape (d,)."""
        row = params.layers[-1][0]
        for matrix in reversed(params.layers[:-1]):
            row = row @ matrix
        return row

    def params(self, layers: Sequence[ArrayLike]) -> DeepLinearParams:
        """Return checked parameters from the sequence W_1 … W_N; ``w_e = 0`` is refused.

        Layers whose product underflows to zero although no layer is zero are accepted.
        """
        return self.check_start(self._build(layers))

    def _build(self, layers: Sequence[ArrayLike]) -> DeepLinearParams:
        if not isinstance(layers, (list, tuple)) or len(layers) != self.depth:
            raise fail(
                "layers", layers, "is not one matrix per layer", f"pass {self.depth} matrices"
            )
        pairs = enumerate(zip(layers, self.shapes, strict=True))
        return DeepLinearParams(tuple(check_leaf(f"layers[{j}]", w, s) for j, (w, s) in pairs))

    def as_params(self, value: PyTree) -> DeepLinearParams:
        params = read_params(DeepLinearParams, value, self._read)
        if len(params.layers) != self.depth:
            raise wrong_params(self.name, params, f"pass {self.depth} layers")
        for j, (matrix, shape) in enumerate(zip(params.layers, self.shapes, strict=True)):
            check_shape(f"params.layers[{j}]", matrix, shape)
        return params

    def _read(self, value: PyTree) -> DeepLinearParams:
        return self._build(read_mapping(self.name, value, frozenset({"layers"}))["layers"])

    def check_start(self, params: DeepLinearParams) -> DeepLinearParams:
        params = self.as_params(params)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
            return params
        require_finite(params)
        # Scaling each layer to size 1 tells a zero product from one that only underflows.
        row = np.ones(1)
        for matrix in reversed([np.asarray(w) for w in params.layers]):
            row = row @ scaled(matrix, axis=(0, 1))
        if not np.any(row):
            raise fail(
                "layers",
                [np.asarray(w).tolist() for w in params.layers],
                "have product zero: the direction of w_e is undefined",
                "start at W_N ... W_1 != 0, for example net.balanced(vector)",
            )
        return params

    def balanced(
        self, end_to_end_vector: ArrayLike, hidden: ArrayLike | None = None
    ) -> DeepLinearParams:
        """Return balanced layers with the given end-to-end vector w_e.

        With ``r = |w_e|^{1/N}``, ``ŵ = w_e/|w_e|``: ``W_1 = r u_1 ŵᵀ``, ``W_j = r u_j u_{j−1}ᵀ``,
        ``W_N = r u_{N−1}ᵀ``, so that ``W_{j+1}ᵀW_{j+1} = W_jW_jᵀ = r² u_j u_jᵀ`` to rounding.

        Parameters
        ----------
        end_to_end_vector : (d,) array
            w_e, not zero.
        hidden : (N−1, h) array, optional
            Unit vectors u_1 … u_{N−1}; default: the first basis vector.
        """
        vector = check_array("end_to_end_vector", end_to_end_vector, (self.dim,))
        size = length(vector)
        if size == 0:
            raise fail("end_to_end_vector", vector, "is zero", "pass a nonzero vector")
        if self.depth == 1:
            return self.params((vector[None, :],))
        return self._balanced(size ** (1.0 / self.depth), vector / size, hidden)

    def _balanced(
        self, root: float, unit: np.ndarray, hidden: ArrayLike | None
    ) -> DeepLinearParams:
        shape = (self.depth - 1, self.width)
        if hidden is None:
            rows = np.zeros(shape)
            rows[:, 0] = 1.0
        else:
            rows = check_array("hidden", hidden, shape)
            if np.any(np.abs(np.linalg.norm(rows, axis=1) - 1.0) > 1e-12):
                raise fail("hidden", rows, "holds rows of norm other than 1", "normalise the rows")
        middle = (root * np.outer(rows[j], rows[j - 1]) for j in range(1, self.depth - 1))
        return self.params((root * np.outer(rows[0], unit), *middle, root * rows[-1][None, :]))

    def along(self, params: DeepLinearParams, direction: np.ndarray) -> DeepLinearParams:
        """Return balanced rank-one layers along ``direction``, turned as ``params`` turn it."""
        hidden: list[np.ndarray] = []
        row = direction
        for layer in params.layers[:-1]:
            row = np.asarray(layer) @ row
            row = row / np.linalg.norm(row)
            hidden.append(row)
        if float(np.asarray(params.layers[-1])[0] @ row) < 0 and hidden:
            hidden[-1] = -hidden[-1]
        return self.balanced(direction, np.array(hidden) if hidden else None)

    def flat_directions(self, params: DeepLinearParams) -> int:
        """Return the dimension of the fibre of w_e, smooth where its differential has full rank."""
        flat, unravel = ravel_pytree(params)
        jacobian = np.asarray(jax.jacrev(lambda part: self.end_to_end(unravel(part)))(flat))
        rank = int(np.linalg.matrix_rank(jacobian))
        return flat.size - rank if rank == jacobian.shape[0] else -1

    def init(self, key: jax.Array, scale: float, scheme: str = "gaussian") -> DeepLinearParams:
        """Draw a random start.

        "gaussian": independent entries, each layer scale·N(0, 1/fan-in). "balanced": balanced
        layers along uniformly random directions, each of norm ``scale·|N(0, I_d/d)|``, so |w_e|
        is about scale^N.
        """
        key, scale = check_key("key", key), check_positive("scale", scale)
        scheme = check_choice("scheme", scheme, SCHEMES)
        if scheme == "gaussian":
            keys = jax.random.split(key, self.depth)
            pairs = zip(keys, self.shapes, strict=True)
            return self.params(tuple(scale * gaussian_rows(k, *shape) for k, shape in pairs))
        key_vector, key_hidden = jax.random.split(key)
        vector = np.asarray(gaussian_rows(key_vector, 1, self.dim)[0])
        size = length(vector)
        if self.depth == 1:
            return self.params((scale * vector[None, :],))
        hidden = np.asarray(gaussian_rows(key_hidden, self.depth - 1, self.width))
        hidden = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
        return self._balanced(scale * size, vector / size, hidden)

    def freeze(self, tree: DeepLinearParams) -> DeepLinearParams:
        return tree

    def balancedness(self, params: DeepLinearParams) -> jax.Array | None:
        """Return ``|W_{j+1}ᵀW_{j+1} − W_jW_jᵀ|_F`` (N−1,); None for one layer."""
        if self.depth == 1:
            return None
        pairs = zip(params.layers[:-1], params.layers[1:], strict=True)
        return jnp.stack([traced.length(jnp.ravel(u.T @ u - w @ w.T)) for w, u in pairs])

    def neurons(self, params: DeepLinearParams) -> tuple[jax.Array, jax.Array]:
        rows = params.layers[0]
        for matrix in params.layers[1:]:
            rows = matrix @ rows
        return rows, jnp.ones(rows.shape[:-1])

    @property
    def vanishes_at_zero(self) -> bool:
        return True

    @property
    def degree(self) -> int:
        return self.depth

    @property
    def name(self) -> str:
        return f"DeepLinear(dim={self.dim}, depth={self.depth}, width={self.width})"
