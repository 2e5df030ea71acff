"""A compiled function at every row of an array: few programs, the same bits as one row alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gradflow.numerics.compiled import compile_once

_FEWEST = 16


def map_rows(fn: Callable[..., Any], fixed: Any, rows: Any) -> np.ndarray:
    """``fn(fixed, row)`` for every row, compiled once per structure.

    Rows are taken one after the other (as much memory as one evaluation, and the same bits as one
    alone) and padded to a power of two, so that few lengths are compiled.

    Parameters
    ----------
    fn : callable
        Returns one array.
    fixed : pytree
        The same for every row.
    rows : pytree of arrays (n, ...)

    Returns
    -------
    (n, ...) array
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if count == 0:
        row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], np.float64), rows)
        return np.zeros((0, *jax.eval_shape(lambda p: fn(fixed, p), row).shape))
    size = max(_FEWEST, 1 << (count - 1).bit_length())

    def pad(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, np.repeat(leaf[-1:], size - count, axis=0)])

    program, arrays, _ = compile_once(
        _mapped, ("rows", fn), (_Static(fn), fixed, jax.tree.map(pad, rows))
    )
    return np.asarray(program(*arrays))[:count]


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Static:
    value: Any


def _mapped(fn: _Static, fixed: Any, rows: Any) -> Any:
    return jax.lax.map(lambda row: fn.value(fixed, row), rows)


__all__ = ["map_rows"]
