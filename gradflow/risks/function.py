"""Any scalar JAX function of a pytree as a risk."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from gradflow.registry import register
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_array, fail


class FunctionRisk(AbstractRisk):
    """``L(θ) = fn(θ)`` for a function written in JAX.

    Parameters
    ----------
    fn : callable
        Takes a pytree of float64 arrays, returns one float64 number (a 0-d array). Kinks of ``fn``
        are differentiated as JAX does.
    log_fn : callable, optional
        ``ln fn``, for a function that underflows; default: the logarithm of ``fn``.
    label : str, optional
        A readable name; default: that of ``fn``.
    """

    fn: Callable[[PyTree], jax.Array]
    log_fn: Callable[[PyTree], jax.Array] | None
    label: str = eqx.field(static=True)
    net: None

    def __init__(
        self,
        fn: Callable[[PyTree], jax.Array],
        log_fn: Callable[[PyTree], jax.Array] | None = None,
        label: str | None = None,
    ) -> None:
        for argument, value in (("fn", fn), ("log_fn", log_fn)):
            if not callable(value) and not (argument == "log_fn" and value is None):
                raise fail(argument, value, "is not callable", "pass a function of the parameters")
        self.fn, self.log_fn, self.net = fn, log_fn, None
        self.label = getattr(fn, "__name__", type(fn).__name__) if label is None else str(label)

    @property
    def name(self) -> str:
        return f"FunctionRisk({self.label})"

    def as_params(self, value: PyTree) -> PyTree:
        """Return ``value`` with every leaf a finite float64 JAX array.

        Raises
        ------
        ValueError
            If there is no leaf, or a leaf is not a finite float64 array (or an int, converted).
        """
        leaves, structure = jax.tree_util.tree_flatten_with_path(value)
        if not leaves:
            raise fail("params", value, "holds no array", "pass a pytree of float64 arrays")
        checked = [_leaf("params" + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
        return jax.tree_util.tree_unflatten(structure, checked)

    def __call__(self, params: PyTree) -> jax.Array:
        return _value(self, self.as_params(params))

    def log(self, params: PyTree) -> jax.Array:
        """Return ``log_fn(θ)`` if given, else ln fn(θ): −inf at 0, NaN where fn is negative."""
        return _log_value(self, self.as_params(params))

    def gradient(self, params: PyTree) -> PyTree:
        return _gradient(self, self.as_params(params))

    def log_gradient(self, params: PyTree) -> PyTree:
        """Return ``∇ ln L(θ)``."""
        return _log_gradient(self, self.as_params(params))


register("function", FunctionRisk)


def _leaf(argument: str, value: PyTree) -> jax.Array:
    if isinstance(value, Tracer):
        if value.dtype != jnp.float64:
            raise fail(argument, value, f"has dtype {value.dtype}", "pass a float64 array")
        return value
    if isinstance(value, (str, bytes, bool)):
        raise fail(argument, value, "is not an array", "pass a float64 array")
    return jnp.asarray(check_array(argument, value, (None,) * np.ndim(value)))


def _scalar(argument: str, value: PyTree) -> jax.Array:
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != () or dtype != jnp.float64:
        problem = f"returns shape {shape} and dtype {dtype}"
        raise fail(argument, "<function>", problem, "return one float64 number")
    return jnp.asarray(value)


def _traced(argument: str, fn: Callable[[PyTree], PyTree], params: PyTree) -> jax.Array:
    """``fn(params)``; a function that JAX cannot trace is named, with the fix."""
    try:
        return _scalar(argument, fn(params))
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        problem = f"cannot be traced by JAX ({type(error).__name__})"
        fix = "write it with jax.numpy and jax.lax, without NumPy, float() or `if` on the values"
        raise fail(argument, "<function>", problem, fix) from error


def _value_of(risk: FunctionRisk, params: PyTree) -> jax.Array:
    return _traced("fn", risk.fn, params)


def _log_of(risk: FunctionRisk, params: PyTree) -> jax.Array:
    if risk.log_fn is None:
        return jnp.log(_value_of(risk, params))
    return _traced("log_fn", risk.log_fn, params)


@eqx.filter_jit
def _value(risk: FunctionRisk, params: PyTree) -> jax.Array:
    return _value_of(risk, params)


@eqx.filter_jit
def _gradient(risk: FunctionRisk, params: PyTree) -> PyTree:
    return jax.grad(lambda p: _value_of(risk, p))(params)


@eqx.filter_jit
def _log_value(risk: FunctionRisk, params: PyTree) -> jax.Array:
    return _log_of(risk, params)


@eqx.filter_jit
def _log_gradient(risk: FunctionRisk, params: PyTree) -> PyTree:
    return jax.grad(lambda p: _log_of(risk, p))(params)
