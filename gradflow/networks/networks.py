"""Networks f(x; θ): the linear predictor, the two-layer net, and the register of all networks.

Parameters are made and checked by ``net.params(...)`` or drawn by ``net.init(...)``; they have
attribute and item access (``p.inner`` or ``p["inner"]``).

Balancedness (`du2018balanced`): along the gradient flow of any risk ``a_k² − |w_k|²`` is constant
for a two-layer net with a 1-homogeneous activation and both layers trained (a bias counts as one
more entry of w_k), and ``a_k² − |w_k|²/p`` for one of degree p.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.networks.abstract import (
    SCHEMES,
    AbstractNetwork,
    Layer,
    check_inputs,
    check_key,
    gaussian_rows,
)
from gradflow.networks.activations import (
    AbstractActivation,
    apply_activation,
    as_activation,
    kinks_remark,
)
from gradflow.networks.activations.pieces import IDENTITY
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.parameters import (
    LinearParams,
    TwoLayerParams,
    check_leaf,
    check_shape,
    joined_rows,
    read_linear,
    read_mapping,
    read_params,
    require_finite,
)
from gradflow.networks.random_features import RandomFeatures
from gradflow.registry import register
from gradflow.validation import check_bool, check_choice, check_integer, check_positive, fail


class LinearPredictor(AbstractNetwork[LinearParams]):
    """``f(x; w) = w·x``, x in R^d.

    Parameters
    ----------
    dim : int
        Input dimension d ≥ 1.
    """

    dim: int = eqx.field(static=True)
    kind: ClassVar[str] = "linear_predictor"

    def __init__(self, dim: int) -> None:
        self.dim = check_integer("dim", dim, minimum=1)

    def __call__(self, params: LinearParams, x: jax.Array) -> jax.Array:
        check_inputs(self, x)
        return jnp.asarray(x) @ params.weight

    def end_to_end(self, params: LinearParams) -> jax.Array:
        """Return w, the vector of ``f(x) = w·x``, shape (d,)."""
        return params.weight

    def params(self, weight: ArrayLike) -> LinearParams:
        """Return checked parameters; the zero vector is refused (its angle is undefined)."""
        return self.check_start(LinearParams(check_leaf("weight", weight, (self.dim,))))

    def as_params(self, value: PyTree) -> LinearParams:
        return read_linear(self.name, value, self.dim)

    def check_start(self, params: LinearParams) -> LinearParams:
        params = self.as_params(params)
        if not isinstance(params.weight, Tracer):
            require_finite(params)
            weight = np.asarray(params.weight)
            if not np.any(weight):
                raise fail(
                    "weight", weight, "is zero: its direction is undefined", "start at weight != 0"
                )
        return params

    def init(self, key: jax.Array, scale: float, scheme: str = "gaussian") -> LinearParams:
        """Draw w = scale·N(0, I/d); both schemes are the same here (nothing to balance)."""
        key, scale = check_key("key", key), check_positive("scale", scale)
        check_choice("scheme", scheme, SCHEMES)
        return self.params(scale * gaussian_rows(key, 1, self.dim)[0])

    def freeze(self, tree: LinearParams) -> LinearParams:
        return tree

    def neurons(self, params: LinearParams) -> tuple[jax.Array, jax.Array]:
        W = params.weight[..., None, :]
        return W, jnp.ones(W.shape[:-1])

    @property
    def vanishes_at_zero(self) -> bool:
        return True

    def balancedness(self, params: LinearParams) -> None:
        return None

    def layer(self, X: np.ndarray) -> Layer:
        return Layer(X, IDENTITY, trained=False, layout="linear")

    @property
    def degree(self) -> int:
        return 1

    @property
    def name(self) -> str:
        return f"LinearPredictor(dim={self.dim})"


class TwoLayer(AbstractNetwork[TwoLayerParams]):
    """``f(x) = s Σ_k a_k φ(w_k·x [+ b_k])``, k = 1 … m, a_k in R or R^o.

    Parameters
    ----------
    dim, width : int
        Input dimension d ≥ 1 and number of neurons m ≥ 1.
    activation : AbstractActivation or callable
        φ, for example ``gf.relu`` or ``gf.leaky_relu(0.3)``, or a JAX function (`gf.activation`
        says more of it).
    outer : {"trained", "fixed"}
        Whether the flow moves the outer weights a.
    bias : bool
        Whether each neuron has a trained bias b_k.
    scaling : {None, "ntk", "mean-field"}
        s = 1, 1/√m or 1/m.
    outputs : int
        o ≥ 1. With o = 1 outer weights are an array (m,) and f(x) is a number, with more (m, o) and
        a vector (o,).
    """

    activation: AbstractActivation
    dim: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    outer: Literal["trained", "fixed"] = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    scaling: Literal["ntk", "mean-field"] | None = eqx.field(static=True)
    _outputs: int = eqx.field(static=True)
    kind: ClassVar[str] = "two_layer"

    def __init__(
        self,
        dim: int,
        width: int,
        activation: AbstractActivation | Callable[[jax.Array], jax.Array],
        outer: str = "trained",
        bias: bool = False,
        scaling: str | None = None,
        outputs: int = 1,
    ) -> None:
        self.dim = check_integer("dim", dim, minimum=1)
        self.width = check_integer("width", width, minimum=1)
        self.activation = as_activation("activation", activation)
        self.outer = check_choice("outer", outer, ("trained", "fixed"))  # type: ignore[assignment]
        self.bias = check_bool("bias", bias)
        if scaling is not None:
            scaling = check_choice("scaling", scaling, ("ntk", "mean-field"))
        self.scaling = scaling  # type: ignore[assignment]
        self._outputs = check_integer("outputs", outputs, minimum=1)

    @property
    def outputs(self) -> int:
        return self._outputs

    @property
    def _outer_shape(self) -> tuple[int, ...]:
        return (self.width,) if self.outputs == 1 else (self.width, self.outputs)

    @property
    def factor(self) -> float:
        """s."""
        power = {None: 0.0, "ntk": -0.5, "mean-field": -1.0}[self.scaling]
        return float(self.width) ** power

    def __call__(self, params: TwoLayerParams, x: jax.Array) -> jax.Array:
        check_inputs(self, x)

        def one(point: jax.Array) -> jax.Array:
            pre = params.inner @ point
            if params.bias is not None:
                pre = pre + params.bias
            out = apply_activation(self.activation, pre) @ params.outer
            return out if self.scaling is None else self.factor * out

        x = jnp.asarray(x)
        return one(x) if x.ndim == 1 else jax.vmap(one)(x)

    def params(
        self, inner: ArrayLike, outer: ArrayLike, bias: ArrayLike | None = None
    ) -> TwoLayerParams:
        """Return checked parameters: inner (m, d), outer (m,), or (m, o) for o > 1 outputs, and
        bias (m,) if the net has one.

        A neuron with ``w_k = 0`` (with a bias: ``(w_k, b_k) = 0``) is refused: its direction is
        undefined and a homogeneous activation has no gradient there. A zero outer weight passes.
        """
        return self.check_start(self._build(inner, outer, bias))

    def _build(self, inner: ArrayLike, outer: ArrayLike, bias: ArrayLike | None) -> TwoLayerParams:
        if self.bias and bias is None:
            raise fail("bias", None, "is missing", f"pass an array of shape ({self.width},)")
        if not self.bias and bias is not None:
            raise fail(
                "bias", bias, "is given to a net without one", "use TwoLayer(..., bias=True)"
            )
        return TwoLayerParams(
            inner=check_leaf("inner", inner, (self.width, self.dim)),
            outer=check_leaf("outer", outer, self._outer_shape),
            bias=None if bias is None else check_leaf("bias", bias, (self.width,)),
        )

    def as_params(self, value: PyTree) -> TwoLayerParams:
        params = read_params(TwoLayerParams, value, self._read)
        check_shape("params.inner", params.inner, (self.width, self.dim))
        check_shape("params.outer", params.outer, self._outer_shape)
        if (params.bias is not None) != self.bias:
            wanted = f"an array of shape ({self.width},)" if self.bias else "None"
            raise fail("params.bias", params.bias, "does not match the net", f"pass {wanted}")
        if params.bias is not None:
            check_shape("params.bias", params.bias, (self.width,))
        return params

    def _read(self, value: PyTree) -> TwoLayerParams:
        given = read_mapping(self.name, value, frozenset({"inner", "outer"}), frozenset({"bias"}))
        return self._build(given["inner"], given["outer"], given.get("bias"))

    def check_start(self, params: TwoLayerParams) -> TwoLayerParams:
        params = self.as_params(params)
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
            require_finite(params)
            alive = np.any(np.asarray(params.inner) != 0, axis=1)
            if params.bias is not None:
                alive |= np.asarray(params.bias) != 0
            if not np.all(alive):
                raise fail(
                    "inner",
                    np.asarray(params.inner),
                    f"row {int(np.argmin(alive))} is zero: the neuron's direction is undefined",
                    "start every neuron at nonzero weights",
                )
        return params

    def init(self, key: jax.Array, scale: float, scheme: str = "gaussian") -> TwoLayerParams:
        """Draw a random start.

        Inner rows are ``scale·N(0, I/d)``, so |w_k| is about ``scale`` (with a bias (w_k, b_k) is
        drawn so, in d+1 dimensions). Trained outer weights are independent ``scale·N(0, 1)`` under
        "gaussian" and ``±|w_k|`` (with a bias ``±|(w_k, b_k)|``) with fair random signs under
        "balanced". Fixed outer weights have nothing to balance: they are +1, −1, +1, … in both
        schemes, whatever ``scale`` is. With o > 1 outputs the rows a_k are ``scale·N(0, I/o)``,
        random directions of length |w_k|, or the basis vectors e_1, …, e_o, −e_1, … in turn.
        """
        key, scale = check_key("key", key), check_positive("scale", scale)
        scheme = check_choice("scheme", scheme, SCHEMES)
        key_inner, key_outer = jax.random.split(key)
        rows = gaussian_rows(key_inner, self.width, self.dim + int(self.bias))
        if self.outputs > 1:
            outer = self._outer_rows(key_outer, scale, scheme, rows)
        elif self.outer == "fixed":
            outer = _turns(jnp.arange(self.width))
        elif scheme == "gaussian":
            outer = scale * jax.random.normal(key_outer, (self.width,), dtype=jnp.float64)
        else:
            signs = jax.random.rademacher(key_outer, (self.width,), dtype=jnp.float64)
            # The norm of the unscaled rows: squares of numbers near 1e-200 would underflow.
            outer = scale * signs * jnp.linalg.norm(rows, axis=1)
        inner = scale * rows[:, : self.dim]
        return self.params(inner, outer, scale * rows[:, self.dim] if self.bias else None)

    def _outer_rows(self, key: jax.Array, scale: float, scheme: str, inner: jax.Array) -> jax.Array:
        """Draw the outer weights (m, o) of several outputs, for unscaled inner rows."""
        if self.outer == "fixed":
            turn, which = jnp.divmod(jnp.arange(self.width), self.outputs)
            return _turns(turn)[:, None] * jnp.eye(self.outputs)[which]
        rows = gaussian_rows(key, self.width, self.outputs)
        if scheme == "balanced":
            rows = rows * (jnp.linalg.norm(inner, axis=1) / jnp.linalg.norm(rows, axis=1))[:, None]
        return scale * rows

    def freeze(self, tree: TwoLayerParams) -> TwoLayerParams:
        if self.outer == "trained":
            return tree
        return TwoLayerParams(tree.inner, jnp.zeros_like(tree.outer), tree.bias)

    def balancedness(self, params: TwoLayerParams) -> jax.Array | None:
        """Return ``|a_k|² − (|w_k|² [+ b_k²])/p`` (m,), p the degree of φ, 1 for a (leaky) ReLU.

        With ``g_k = s Σ_i ∂ℓ/∂f_i φ(w_k·x_i)`` both ``a_k a_k'`` and ``w_k·w_k'/p`` are −a_k g_k,
        since ``w·∇φ(w·x) = pφ(w·x)``, whatever the scaling s. None if outer is fixed or φ has no
        degree.
        """
        p = self.activation.degree
        if self.outer == "fixed" or p is None or p <= 0:
            return None
        squares = jnp.sum(jnp.square(params.inner), axis=1)
        if params.bias is not None:
            squares = squares + jnp.square(params.bias)
        outer = jnp.square(params.outer)
        if self.outputs > 1:
            outer = jnp.sum(outer, axis=1)
        return outer - (squares if p == 1 else squares / p)

    def neurons(self, params: TwoLayerParams) -> tuple[jax.Array, jax.Array]:
        return joined_rows(params), params.outer

    def layer(self, X: np.ndarray) -> Layer | None:
        pieces, trained = self.activation.pieces, self.outer == "trained"
        if pieces is None:
            return None
        rows = np.concatenate([X, np.ones((len(X), 1))], axis=1) if self.bias else X
        layout = "bias" if self.bias else "plain"
        if pieces.central:  # s φ(w·x) = φ(w·sx)
            rows = self.factor * rows
        else:
            pieces = pieces.scaled(self.factor)
        return Layer(rows, pieces, trained, layout, outputs=self.outputs)

    def unlocated_kinks(self) -> str | None:
        return kinks_remark(self.activation)

    @property
    def vanishes_at_zero(self) -> bool:
        return not self.bias and (self.activation.degree or 0) > 0

    @property
    def degree(self) -> float | None:
        p = self.activation.degree
        return None if p is None else p + int(self.outer == "trained")

    @property
    def coordinates(self) -> tuple[str, ...]:
        conic = self.activation.homogeneous and not self.bias and self.outputs == 1
        return ("conic",) if conic else ()

    def conic_refusal(self) -> str | None:
        if not self.activation.homogeneous or self.outputs > 1:
            return super().conic_refusal()
        if self.outer == "trained":
            return (
                "is for fixed outer weights (outer='fixed'): with trained balanced ones the plain "
                "gradient flow is conic already"
            )
        return None

    @property
    def name(self) -> str:
        parts = f"dim={self.dim}, width={self.width}, {self.activation.name}, outer={self.outer}"
        scaling = "" if self.scaling is None else f", scaling={self.scaling}"
        outputs = "" if self.outputs == 1 else f", outputs={self.outputs}"
        return f"TwoLayer({parts}{', bias' if self.bias else ''}{scaling}{outputs})"


def _turns(count: jax.Array) -> jax.Array:
    """+1, −1, +1, …"""
    return jnp.where(count % 2 == 0, 1.0, -1.0)


for _class in (LinearPredictor, TwoLayer, DeepLinear, RandomFeatures):
    register(_class.kind, _class)
