"""Jacobians of vector fields in JAX, by whichever mode of differentiation a field has."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

#: Columns worked out at once: all of them would hold what the field holds once for each.
_COLUMNS = 64


def jacobian(fn: Callable[[Array], Array], y: Array) -> Array:
    """dfn/dy, shape (D, D), in forward mode; in reverse mode where ``fn`` has no forward one.

    (A function with a ``jax.custom_vjp`` has none.)
    """
    try:
        if y.shape[0] <= _COLUMNS:
            return jax.jacfwd(fn)(y)
        columns = lax.map(jax.linearize(fn, y)[1], jnp.eye(y.shape[0]), batch_size=_COLUMNS)
        return columns.T
    except TypeError:
        return jax.jacrev(fn)(y)


def has_jacobian(fn: Callable[[Array], Array], y: Array) -> bool:
    """Whether :func:`jacobian` can be traced; a host callback may have no derivative."""
    try:
        jax.eval_shape(lambda at: jacobian(fn, at), y)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True
