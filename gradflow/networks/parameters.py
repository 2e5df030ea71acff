"""Parameters of the networks: small pytrees of arrays, and the checks of what is read as one.

The shapes belong to a network, which calls the checks; here it appears by its name only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from gradflow.registry import Described, register
from gradflow.validation import check_array, fail


class AbstractParams(Described, eqx.Module):
    """Parameters of a network: a pytree with attribute access and item access by field name."""

    def __getitem__(self, name: str) -> PyTree:
        if name not in self.keys():
            raise KeyError(f"{name!r}: choose one of {', '.join(self.keys())}")
        return getattr(self, name)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields."""
        return tuple(self.__dataclass_fields__)


P = TypeVar("P", bound=AbstractParams)


class LinearParams(AbstractParams):
    """Parameters of `LinearPredictor`: ``weight`` (d,); of `RandomFeatures`: ``weight`` (m,)."""

    weight: jax.Array

    @property
    def matrices(self) -> tuple[jax.Array, ...]:
        """The one layer as a matrix (1, d)."""
        return (self.weight[None],)


class TwoLayerParams(AbstractParams):
    """Parameters of `TwoLayer`: ``inner`` (m, d), ``outer`` (m,), ``bias`` (m,) or None.

    With o > 1 outputs ``outer`` is (m, o).
    """

    inner: jax.Array
    outer: jax.Array
    bias: jax.Array | None = None


class DeepLinearParams(AbstractParams):
    """Parameters of `DeepLinear`: ``layers`` = (W_1 (h, d), …, W_N (1, h))."""

    layers: tuple[jax.Array, ...]

    @property
    def matrices(self) -> tuple[jax.Array, ...]:
        """The layers."""
        return self.layers


def _of_lists(cls: type[AbstractParams]) -> Callable[..., AbstractParams]:
    """Build parameters from nested lists: of an array, or (deep linear nets) of several."""

    def array(value: PyTree) -> PyTree:
        return None if value is None else jnp.asarray(np.asarray(value, np.float64))

    def build(**parts: PyTree) -> AbstractParams:
        return cls(
            **{k: tuple(map(array, v)) if k == "layers" else array(v) for k, v in parts.items()}
        )

    return build


for _kind, _class in (
    ("linear_params", LinearParams),
    ("two_layer_params", TwoLayerParams),
    ("deep_linear_params", DeepLinearParams),
):
    register(_kind, _class, _of_lists(_class))


def joined_rows(params: TwoLayerParams) -> jax.Array:
    """Return the rows (..., m, d) of inner weights; with biases (..., m, d+1), the bias last."""
    if params.bias is None:
        return params.inner
    return jnp.concatenate([params.inner, params.bias[..., None]], axis=-1)


def check_leaf(argument: str, value: PyTree, shape: tuple[int, ...]) -> jax.Array:
    """Check one parameter array; of a traced array only shape and dtype can be checked."""
    if isinstance(value, Tracer):
        if value.dtype != jnp.float64:
            raise fail(argument, value, f"has dtype {value.dtype}", "pass a float64 array")
        if value.shape != shape:
            raise fail(argument, value, f"has shape {value.shape}", f"pass shape {shape}")
        return value
    return jnp.asarray(check_array(argument, value, shape))


def check_shape(argument: str, value: PyTree, shape: tuple[int, ...]) -> None:
    """Check what can be read off without touching the numbers (called on every evaluation)."""
    found, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if found != shape:
        raise fail(argument, value, f"has shape {found}", f"pass shape {shape}")
    if dtype != np.float64:
        raise fail(argument, value, f"has dtype {dtype}", "pass a float64 array")


def wrong_params(net: str, value: PyTree, fix: str) -> ValueError:
    """Build the error for what is no set of parameters of the network of that name."""
    return fail("params", value, f"cannot be read as parameters of {net}", fix)


def read_params(cls: type[P], value: PyTree, read: Callable[[PyTree], P]) -> P:
    """Return ``value`` if it is parameters of the class, else what ``read`` makes of it."""
    return value if isinstance(value, cls) else read(value)


def read_linear(net: str, value: PyTree, size: int) -> LinearParams:
    """Return ``value``, parameters, a vector or a dict of one, as the vector (size,) of a net."""

    def read(given: PyTree) -> LinearParams:
        if not isinstance(given, Mapping):
            return LinearParams(check_leaf("params", given, (size,)))
        weight = read_mapping(net, given, frozenset({"weight"}))["weight"]
        return LinearParams(check_leaf("weight", weight, (size,)))

    params = read_params(LinearParams, value, read)
    check_shape("params.weight", params.weight, (size,))
    return params


def read_mapping(
    net: str,
    value: PyTree,
    required: frozenset[str],
    optional: frozenset[str] = frozenset(),
) -> dict[str, PyTree]:
    """Return a mapping with the required and perhaps the optional names as a dict."""
    names = ", ".join(sorted(required | optional))
    if not isinstance(value, Mapping):
        raise wrong_params(net, value, f"pass net.params(...) or a dict with {names}")
    if not required <= set(value) <= required | optional:
        raise wrong_params(net, dict(value), f"pass a dict with exactly {names}")
    return dict(value)


def require_finite(params: AbstractParams) -> None:
    """Refuse NaN and infinity, naming the array that holds them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.all(np.isfinite(np.asarray(leaf))):
            name = "params" + jax.tree_util.keystr(path)
            raise fail(name, np.asarray(leaf), "holds NaN or infinity", "pass finite numbers")
