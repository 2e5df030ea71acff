"""Compile each structure once, and know what compiling cost.

JAX's own cache hides compilation in the first call. Here a function is lowered and compiled ahead
of time, so that compile and run seconds are told apart and a second call pays no tracing.

Programs hold memory maps, up to a thousand each, and Linux allows a process 65,530: where they run
short, the programs least recently used are let go.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import equinox as eqx
import jax
from jax.typing import ArrayLike
from jaxtyping import PyTree

_CACHE: OrderedDict[Hashable, Callable[..., PyTree]] = OrderedDict()
_MAPS, _MOST_MAPS = Path("/proc/self/maps"), 40_000


def compile_once(
    fn: Callable[..., PyTree], key: Hashable, arguments: tuple[object, ...]
) -> tuple[Callable[..., PyTree], tuple[ArrayLike, ...], float]:
    """Return ``(program, arrays, seconds)``; ``program(*arrays)`` evaluates ``fn(*arguments)``.

    ``fn`` must return arrays only. Arrays in ``arguments`` are run-time inputs; everything else in
    them is part of the structure, as is ``key`` (whatever else ``fn`` depends on).

    Parameters
    ----------
    fn : callable
        The function; it is called once per structure, under tracing.
    key : hashable
        Tells apart functions that differ by more than their arguments' structure.
    arguments : tuple of pytrees

    Returns
    -------
    program : callable
    arrays : tuple
        The array leaves to call it with.
    seconds : float
        Time spent tracing and compiling; 0.0 when the program was in the cache.
    """
    leaves, treedef = jax.tree_util.tree_flatten(arguments)
    arrays = tuple(leaf for leaf in leaves if eqx.is_array(leaf))
    static = tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves)
    shapes = tuple((a.shape, a.dtype) for a in arrays)
    full_key = (key, treedef, static, shapes)
    if full_key in _CACHE:
        _CACHE.move_to_end(full_key)
        return _CACHE[full_key], arrays, 0.0
    is_dynamic = [eqx.is_array(leaf) for leaf in leaves]

    def flat(*values: ArrayLike) -> PyTree:
        it = iter(values)
        merged = [
            next(it) if dynamic else leaf for dynamic, leaf in zip(is_dynamic, static, strict=True)
        ]
        return fn(*jax.tree_util.tree_unflatten(treedef, merged))

    start = time.perf_counter()
    program = jax.jit(flat).lower(*arrays).compile()
    seconds = time.perf_counter() - start
    _CACHE[full_key] = program
    if _crowded():
        for _ in range(len(_CACHE) // 2):
            _CACHE.popitem(last=False)
    return program, arrays, seconds


def _crowded() -> bool:
    """Whether this process is short of memory maps (where that can be told)."""
    try:
        return _MAPS.read_bytes().count(b"\n") > _MOST_MAPS
    except OSError:
        return False


def clear_compiled() -> None:
    """Forget every compiled program (for measuring cold starts)."""
    _CACHE.clear()
