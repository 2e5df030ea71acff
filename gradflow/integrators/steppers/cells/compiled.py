"""Compile the kernel's functions once a machine: Numba, with its cache on disk or in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

_OPTIONS = {"nogil": True, "error_model": "numpy"}


def inner(function: F) -> F:
    """Return ``function`` compiled as a part of others: only compiled code can call it."""
    return _compiled(function, {"no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def kernel(function: F) -> F:
    """Return ``function`` compiled for plain arrays, releasing the interpreter's lock.

    What is compiled is kept beside the source, or in the user's cache folder where that cannot be
    written; where neither can, it is compiled again in every process.
    """
    return _compiled(function, {"no_cfunc_wrapper": True})


def _compiled(function: F, flags: dict[str, bool]) -> F:
    options: dict[str, Any] = {**_OPTIONS, **flags}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # (Numba found no folder it may write)
        return cast(F, numba.njit(**options)(function))
