"""Compile the kernel's functions once a machine: Numba, with its cache on disk or in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])

_OPTIONS = {"nogil": True, "error_model": "numpy"}


def kernel(function: F) -> F:
    """Return ``function`` compiled for plain arrays, releasing the interpreter's lock.

    What is compiled is kept beside the source, or in the user's cache folder where that cannot be
    written; where neither can, it is compiled again in every process.
    """
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)  # pyright: ignore[reportReturnType]
    except RuntimeError:  # (Numba found no folder it may write)
        return numba.njit(**_OPTIONS)(function)  # pyright: ignore[reportReturnType]
