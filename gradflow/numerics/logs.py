r"""Logarithms and exponentials where the plain formula underflows, overflows or cancels.

Functions with a parameter ``xp`` take NumPy arrays, or JAX arrays with ``xp=jax.numpy``.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from jax import Array

A = TypeVar("A", np.ndarray, "Array")

#: Below this, two terms of the series are exact to float64.
_SMALL = 1e-8


def log1p_ratio(u: A, xp: ModuleType = np) -> A:
    r""":math:`\ln(1+u)/u` for :math:`u\ge0`: 1 at 0, also where u has underflowed."""
    small = u < _SMALL
    safe = xp.where(small, 1.0, u)
    return xp.where(small, 1.0 - 0.5 * u, xp.log1p(safe) / safe)


def expm1_ratio(v: A, xp: ModuleType = np) -> A:
    r""":math:`(e^v-1)/v`, which is 1 at 0."""
    small = xp.abs(v) < _SMALL
    safe = xp.where(small, 1.0, v)
    return xp.where(small, 1.0 + 0.5 * v, xp.expm1(safe) / safe)


def log_subtract(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    r""":math:`\ln(e^a-e^b)` for :math:`a\ge b`; -inf where they are equal."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    with np.errstate(divide="ignore"):
        return a + np.log(-np.expm1(b - a))


def log_expm1(x: ArrayLike) -> np.ndarray:
    r""":math:`\ln(e^x-1)` for :math:`x\ge0`: the ln t of ln(1+t); -inf at 0."""
    return log_subtract(x, 0.0)


def log1p_exp(x: ArrayLike) -> np.ndarray:
    r""":math:`\ln(1+e^x)`: the ln(1+t) of ln t."""
    return np.logaddexp(0.0, x)


def log_sum_exp(logs: Array) -> Array:
    r""":math:`\ln\sum_i e^{l_i}` of a JAX array; -inf where every term is, and its gradient finite.

    The largest term is taken out, so nothing under- or overflows.
    """
    import jax
    import jax.numpy as jnp

    top = jax.lax.stop_gradient(jnp.max(logs))
    shift = jnp.where(jnp.isfinite(top), top, 0.0)
    return jnp.log(jnp.sum(jnp.exp(logs - shift))) + shift
