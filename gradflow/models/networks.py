"""Networks f(x; θ): the linear predictor, the two-layer net and the deep linear net.

A network object holds sizes and the activation, never the parameters. The parameters θ are a small
pytree with attribute and item access (``p.inner`` or ``p["inner"]``), made and checked by
``net.params(...)`` or drawn by ``net.init(...)``.

Balancedness (`du2018balanced`): along the gradient flow of any risk ``a_k² − |w_k|²`` is constant
for a two-layer net with a 1-homogeneous activation and both layers trained (a bias counts as one
more entry of w_k), and ``W_{j+1}ᵀ W_{j+1} − W_j W_jᵀ`` is constant for a deep linear net.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradflow.models.activations import (
    AbstractActivation,
    activation_from_description,
    apply_activation,
)
from gradflow.validation import check_array, check_choice, check_integer, check_positive, fail

SCHEMES = ("balanced", "gaussian")


def check_key(argument: str, value: Any) -> jax.Array:
    """Return ``value`` if it is one JAX random key (typed, or two legacy uint32 words)."""
    is_array = isinstance(value, (jax.Array, np.ndarray))
    if is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ():
        return jnp.asarray(value)
    if is_array and value.dtype == np.uint32 and value.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(value))
    raise fail(argument, value, "is not a JAX random key", "pass jax.random.key(0)")


def _leaf(argument: str, value: Any, shape: tuple[int, ...]) -> jax.Array:
    """Check one parameter array; of a traced array only shape and dtype can be checked."""
    if isinstance(value, Tracer):
        if value.dtype != jnp.float64:
            raise fail(argument, value, f"has dtype {value.dtype}", "pass a float64 array")
        if value.shape != shape:
            raise fail(argument, value, f"has shape {value.shape}", f"pass shape {shape}")
        return value
    return jnp.asarray(check_array(argument, value, shape))


def _check_static(argument: str, value: Any, shape: tuple[int, ...]) -> None:
    """Check what can be read off without touching the numbers (called on every evaluation)."""
    found, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if found != shape:
        raise fail(argument, value, f"has shape {found}", f"pass shape {shape}")
    if dtype != np.float64:
        raise fail(argument, value, f"has dtype {dtype}", "pass a float64 array")


def _norm(vector: np.ndarray) -> float:
    """Return |vector| without underflow or overflow of the squares."""
    top = float(np.max(np.abs(vector)))
    return 0.0 if top == 0 else top * float(np.linalg.norm(vector / top))


def _frobenius(matrix: jax.Array) -> jax.Array:
    """Return the Frobenius norm without underflow or overflow of the squares."""
    top = jnp.max(jnp.abs(matrix))
    return top * jnp.linalg.norm(matrix / jnp.where(top > 0, top, 1.0))


class AbstractParams(eqx.Module):
    """Parameters of a network: a pytree with attribute access and item access by field name."""

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(f"{name!r}: choose one of {', '.join(self.keys())}")
        return getattr(self, name)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields."""
        return tuple(self.__dataclass_fields__)


class LinearParams(AbstractParams):
    """Parameters of `LinearPredictor`: ``weight`` (d,)."""

    weight: jax.Array


class TwoLayerParams(AbstractParams):
    """Parameters of `TwoLayer`: ``inner`` (m, d), ``outer`` (m,), ``bias`` (m,) or None."""

    inner: jax.Array
    outer: jax.Array
    bias: jax.Array | None = None


class DeepLinearParams(AbstractParams):
    """Parameters of `DeepLinear`: ``layers`` = (W_1 (h, d), …, W_N (1, h))."""

    layers: tuple[jax.Array, ...]


P = TypeVar("P", bound=AbstractParams)


class AbstractNetwork(eqx.Module, Generic[P]):
    """A scalar function f(x; θ) of an input x in R^d, with the shapes of its parameters."""

    dim: eqx.AbstractVar[int]
    kind: eqx.AbstractClassVar[str]

    @abstractmethod
    def __call__(self, params: P, x: jax.Array) -> jax.Array:
        """Return f(x; θ): a scalar for x of shape (d,), shape (n,) for x of shape (n, d)."""

    @abstractmethod
    def as_params(self, value: Any) -> P:
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
    @abstractmethod
    def degree(self) -> int | None:
        """D with f(x; cθ) = c^D f(x; θ), c > 0, θ the trained parameters; None if there is none."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short readable name."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return a JSON-able description that `network_from_description` reads."""


def _wrong_params(net: AbstractNetwork, value: Any, fix: str) -> ValueError:
    return fail("params", value, f"cannot be read as parameters of {net.name}", fix)


def _from_mapping(
    net: AbstractNetwork,
    value: Any,
    required: frozenset[str],
    optional: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    names = ", ".join(sorted(required | optional))
    if not isinstance(value, Mapping):
        raise _wrong_params(net, value, f"pass net.params(...) or a dict with {names}")
    if not required <= set(value) <= required | optional:
        raise _wrong_params(net, dict(value), f"pass a dict with exactly {names}")
    return dict(value)


def _require_finite(params: AbstractParams) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.all(np.isfinite(np.asarray(leaf))):
            name = "params" + jax.tree_util.keystr(path)
            raise fail(name, np.asarray(leaf), "holds NaN or infinity", "pass finite numbers")


def _check_inputs(net: AbstractNetwork, x: jax.Array) -> None:
    if np.ndim(x) not in (1, 2) or np.shape(x)[-1] != net.dim:
        raise fail("x", x, f"has shape {np.shape(x)}", f"pass shape ({net.dim},) or (n, {net.dim})")


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
        _check_inputs(self, x)
        return jnp.asarray(x) @ params.weight

    def params(self, weight: Any) -> LinearParams:
        """Return checked parameters; the zero vector is refused (its angle is undefined)."""
        return self.check_start(LinearParams(_leaf("weight", weight, (self.dim,))))

    def as_params(self, value: Any) -> LinearParams:
        if isinstance(value, LinearParams):
            _check_static("params.weight", value.weight, (self.dim,))
            return value
        if not isinstance(value, Mapping):
            return LinearParams(_leaf("params", value, (self.dim,)))
        given = _from_mapping(self, value, frozenset({"weight"}))
        return LinearParams(_leaf("weight", given["weight"], (self.dim,)))

    def check_start(self, params: LinearParams) -> LinearParams:
        params = self.as_params(params)
        if not isinstance(params.weight, Tracer):
            _require_finite(params)
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
        return self.params(scale * _rows(key, 1, self.dim)[0])

    def freeze(self, tree: LinearParams) -> LinearParams:
        return tree

    def balancedness(self, params: LinearParams) -> None:
        return None

    @property
    def degree(self) -> int:
        return 1

    @property
    def name(self) -> str:
        return f"LinearPredictor(dim={self.dim})"

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim}


def _rows(key: jax.Array, count: int, dim: int) -> jax.Array:
    """Return ``count`` independent rows N(0, I/dim), of norm about 1."""
    return jax.random.normal(key, (count, dim), dtype=jnp.float64) / np.sqrt(dim)


class TwoLayer(AbstractNetwork[TwoLayerParams]):
    """``f(x) = Σ_k a_k φ(w_k·x [+ b_k])``, k = 1 … m.

    Parameters
    ----------
    dim, width : int
        Input dimension d ≥ 1 and number of neurons m ≥ 1.
    activation : AbstractActivation
        φ, for example ``gf.relu`` or ``gf.leaky_relu(0.3)``.
    outer : {"trained", "fixed"}
        Whether the flow moves the outer weights a.
    bias : bool
        Whether each neuron has a trained bias b_k.
    """

    activation: AbstractActivation
    dim: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    outer: Literal["trained", "fixed"] = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    kind: ClassVar[str] = "two_layer"

    def __init__(
        self,
        dim: int,
        width: int,
        activation: AbstractActivation,
        outer: str = "trained",
        bias: bool = False,
    ) -> None:
        self.dim = check_integer("dim", dim, minimum=1)
        self.width = check_integer("width", width, minimum=1)
        if not isinstance(activation, AbstractActivation):
            raise fail(
                "activation",
                activation,
                "is not an activation",
                "pass gf.relu or gf.leaky_relu(0.3)",
            )
        self.activation = activation
        self.outer = check_choice("outer", outer, ("trained", "fixed"))  # type: ignore[assignment]
        if not isinstance(bias, bool):
            raise fail("bias", bias, "is not a bool", "pass True or False")
        self.bias = bias

    def __call__(self, params: TwoLayerParams, x: jax.Array) -> jax.Array:
        _check_inputs(self, x)

        def one(point: jax.Array) -> jax.Array:
            pre = params.inner @ point
            if params.bias is not None:
                pre = pre + params.bias
            return apply_activation(self.activation, pre) @ params.outer

        x = jnp.asarray(x)
        return one(x) if x.ndim == 1 else jax.vmap(one)(x)

    def params(self, inner: Any, outer: Any, bias: Any = None) -> TwoLayerParams:
        """Return checked parameters: inner (m, d), outer (m,), bias (m,) if the net has one.

        A neuron with ``w_k = 0`` (with a bias: ``(w_k, b_k) = 0``) is refused: its direction is
        undefined and a homogeneous activation has no gradient there. A zero outer weight passes.
        """
        return self.check_start(self._build(inner, outer, bias))

    def _build(self, inner: Any, outer: Any, bias: Any) -> TwoLayerParams:
        if self.bias and bias is None:
            raise fail("bias", None, "is missing", f"pass an array of shape ({self.width},)")
        if not self.bias and bias is not None:
            raise fail(
                "bias", bias, "is given to a net without one", "use TwoLayer(..., bias=True)"
            )
        return TwoLayerParams(
            inner=_leaf("inner", inner, (self.width, self.dim)),
            outer=_leaf("outer", outer, (self.width,)),
            bias=None if bias is None else _leaf("bias", bias, (self.width,)),
        )

    def as_params(self, value: Any) -> TwoLayerParams:
        if isinstance(value, TwoLayerParams):
            _check_static("params.inner", value.inner, (self.width, self.dim))
            _check_static("params.outer", value.outer, (self.width,))
            if (value.bias is not None) != self.bias:
                wanted = f"an array of shape ({self.width},)" if self.bias else "None"
                raise fail("params.bias", value.bias, "does not match the net", f"pass {wanted}")
            if value.bias is not None:
                _check_static("params.bias", value.bias, (self.width,))
            return value
        given = _from_mapping(self, value, frozenset({"inner", "outer"}), frozenset({"bias"}))
        return self._build(given["inner"], given["outer"], given.get("bias"))

    def check_start(self, params: TwoLayerParams) -> TwoLayerParams:
        params = self.as_params(params)
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
            _require_finite(params)
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
        schemes, whatever ``scale`` is.
        """
        key, scale = check_key("key", key), check_positive("scale", scale)
        scheme = check_choice("scheme", scheme, SCHEMES)
        key_inner, key_outer = jax.random.split(key)
        rows = _rows(key_inner, self.width, self.dim + int(self.bias))
        if self.outer == "fixed":
            outer = jnp.where(jnp.arange(self.width) % 2 == 0, 1.0, -1.0)
        elif scheme == "gaussian":
            outer = scale * jax.random.normal(key_outer, (self.width,), dtype=jnp.float64)
        else:
            signs = jax.random.rademacher(key_outer, (self.width,), dtype=jnp.float64)
            # The norm of the unscaled rows: squares of numbers near 1e-200 would underflow.
            outer = scale * signs * jnp.linalg.norm(rows, axis=1)
        inner = scale * rows[:, : self.dim]
        return self.params(inner, outer, scale * rows[:, self.dim] if self.bias else None)

    def freeze(self, tree: TwoLayerParams) -> TwoLayerParams:
        if self.outer == "trained":
            return tree
        return TwoLayerParams(tree.inner, jnp.zeros_like(tree.outer), tree.bias)

    def balancedness(self, params: TwoLayerParams) -> jax.Array | None:
        """Return ``a_k² − |w_k|² [− b_k²]`` (m,); None if outer is fixed or φ is smooth."""
        if self.outer == "fixed" or not self.activation.homogeneous:
            return None
        squares = jnp.sum(jnp.square(params.inner), axis=1)
        if params.bias is not None:
            squares = squares + jnp.square(params.bias)
        return jnp.square(params.outer) - squares

    @property
    def degree(self) -> int | None:
        if not self.activation.homogeneous:
            return None
        return 2 if self.outer == "trained" else 1

    @property
    def name(self) -> str:
        parts = f"dim={self.dim}, width={self.width}, {self.activation.name}, outer={self.outer}"
        return f"TwoLayer({parts}{', bias' if self.bias else ''})"

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "dim": self.dim,
            "width": self.width,
            "activation": self.activation.describe(),
            "outer": self.outer,
            "bias": self.bias,
        }


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
        _check_inputs(self, x)
        return jnp.asarray(x) @ self.end_to_end(params)

    def end_to_end(self, params: DeepLinearParams) -> jax.Array:
        """Return ``w_e = (W_N ⋯ W_1)ᵀ``, shape (d,)."""
        row = params.layers[-1][0]
        for matrix in reversed(params.layers[:-1]):
            row = row @ matrix
        return row

    def params(self, layers: Any) -> DeepLinearParams:
        """Return checked parameters from the sequence W_1 … W_N; ``w_e = 0`` is refused.

        Layers whose product underflows to zero although no layer is zero are accepted.
        """
        return self.check_start(self._build(layers))

    def _build(self, layers: Any) -> DeepLinearParams:
        if not isinstance(layers, (list, tuple)) or len(layers) != self.depth:
            raise fail(
                "layers", layers, "is not one matrix per layer", f"pass {self.depth} matrices"
            )
        pairs = enumerate(zip(layers, self.shapes, strict=True))
        return DeepLinearParams(tuple(_leaf(f"layers[{j}]", w, s) for j, (w, s) in pairs))

    def as_params(self, value: Any) -> DeepLinearParams:
        if isinstance(value, DeepLinearParams):
            if len(value.layers) != self.depth:
                raise _wrong_params(self, value, f"pass {self.depth} layers")
            for j, (matrix, shape) in enumerate(zip(value.layers, self.shapes, strict=True)):
                _check_static(f"params.layers[{j}]", matrix, shape)
            return value
        return self._build(_from_mapping(self, value, frozenset({"layers"}))["layers"])

    def check_start(self, params: DeepLinearParams) -> DeepLinearParams:
        params = self.as_params(params)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
            return params
        _require_finite(params)
        # Scaling each layer to size 1 tells a zero product from one that only underflows.
        row = np.ones(1)
        for matrix in reversed([np.asarray(w) for w in params.layers]):
            top = np.max(np.abs(matrix))
            row = row @ (matrix / top) if top > 0 else np.zeros(matrix.shape[1])
        if not np.any(row):
            raise fail(
                "layers",
                [np.asarray(w).tolist() for w in params.layers],
                "have product zero: the direction of w_e is undefined",
                "start at W_N ... W_1 != 0, for example net.balanced(vector)",
            )
        return params

    def balanced(self, end_to_end_vector: Any, hidden: Any = None) -> DeepLinearParams:
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
        size = _norm(vector)
        if size == 0:
            raise fail("end_to_end_vector", vector, "is zero", "pass a nonzero vector")
        if self.depth == 1:
            return self.params((vector[None, :],))
        return self._balanced(size ** (1.0 / self.depth), vector / size, hidden)

    def _balanced(self, root: float, unit: np.ndarray, hidden: Any) -> DeepLinearParams:
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
            return self.params(tuple(scale * _rows(k, *shape) for k, shape in pairs))
        key_vector, key_hidden = jax.random.split(key)
        vector = np.asarray(_rows(key_vector, 1, self.dim)[0])
        size = _norm(vector)
        if self.depth == 1:
            return self.params((scale * vector[None, :],))
        hidden = np.asarray(_rows(key_hidden, self.depth - 1, self.width))
        hidden = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
        return self._balanced(scale * size, vector / size, hidden)

    def freeze(self, tree: DeepLinearParams) -> DeepLinearParams:
        return tree

    def _defects(self, params: DeepLinearParams) -> list[jax.Array]:
        pairs = zip(params.layers[:-1], params.layers[1:], strict=True)
        return [_frobenius(above.T @ above - below @ below.T) for below, above in pairs]

    def balancedness(self, params: DeepLinearParams) -> jax.Array | None:
        """Return ``|W_{j+1}ᵀW_{j+1} − W_jW_jᵀ|_F`` (N−1,); None for one layer."""
        return None if self.depth == 1 else jnp.stack(self._defects(params))

    def balance_defect(self, params: DeepLinearParams) -> jax.Array:
        """Return the largest entry of `balancedness`; 0 for one layer."""
        if self.depth == 1:
            return jnp.zeros((), dtype=jnp.float64)
        return jnp.max(jnp.stack(self._defects(params)))

    @property
    def degree(self) -> int:
        return self.depth

    @property
    def name(self) -> str:
        return f"DeepLinear(dim={self.dim}, depth={self.depth}, width={self.width})"

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim, "depth": self.depth, "width": self.width}


def _two_layer(activation: Mapping[str, Any], **rest: Any) -> TwoLayer:
    return TwoLayer(activation=activation_from_description(activation), **rest)


_REGISTRY: dict[str, Callable[..., AbstractNetwork]] = {}


def register_network(kind: str, factory: Callable[..., AbstractNetwork]) -> None:
    """Let `network_from_description` build ``factory(**rest)`` from ``{"kind": kind, **rest}``."""
    if kind in _REGISTRY:
        raise fail("kind", kind, "is registered already", "choose another name")
    _REGISTRY[kind] = factory


register_network(LinearPredictor.kind, LinearPredictor)
register_network(TwoLayer.kind, _two_layer)
register_network(DeepLinear.kind, DeepLinear)


def network_from_description(description: Mapping[str, Any]) -> AbstractNetwork:
    """Rebuild a network from what its ``describe()`` returned."""
    options = dict(description)
    kind = check_choice("network kind", options.pop("kind", None), _REGISTRY)
    return _REGISTRY[kind](**options)
