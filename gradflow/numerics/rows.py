"""A function of one row, mapped over many rows of a path."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gradflow.numerics.compiled import compile_once


def map_rows(fn: Callable[..., Array], shared: object, rows: object) -> np.ndarray:
    """``fn(shared, row)`` for every row, shape (rows, ...), compiled once per structure.

    Rows are taken one after the other (as much memory as one evaluation, and the same bits as one
    alone) and padded to a power of two, so that few lengths are compiled.

    Parameters
    ----------
    fn : callable
        JAX function of the shared pytree and of one row.
    shared : pytree
    rows : pytree
        Arrays (rows, ...).
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if count == 0:
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], np.float64), rows)
        return np.zeros((0, *jax.eval_shape(lambda row: fn(shared, row), one).shape))
    size = max(16, 1 << (count - 1).bit_length())

    def pad(leaf: ArrayLike) -> np.ndarray:
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, np.repeat(leaf[-1:], size - count, axis=0)])

    def mapped(shared: object, rows: object) -> Array:
        return jax.lax.map(lambda row: fn(shared, row), rows)

    arguments = (shared, jax.tree.map(pad, rows))
    program, arrays, _ = compile_once(mapped, ("rows", fn), arguments)
    return np.asarray(program(*arrays))[:count]
