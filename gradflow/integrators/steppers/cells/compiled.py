"""Compile the kernel's functions once a machine: Numba, with its cache on disk or in memory."""

from __future__ import annotations

import hashlib
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import event

F = TypeVar("F", bound=Callable[..., object])

_OPTIONS = {"nogil": True, "error_model": "numpy"}


#: How a file of the engine names another one that it imports from.
_ROOMS = re.compile(r"gradflow\.integrators\.steppers\.(cells|late)\.(\w+) import")


def stamp(steppers: Path) -> str:
    """What tells one version of the compiled sources from another: they, and what they import."""
    texts = {file: file.read_text() for room in ("cells", "late") for file in
             sorted((steppers / room).glob("*.py"))}  # fmt: skip
    own = [file for file, text in texts.items() if "cells.compiled import" in text]
    named = {steppers / room / f"{name}.py" for file in own for room, name in
             _ROOMS.findall(texts[file])}  # fmt: skip
    read = sorted(named.union(own))
    return hashlib.sha256("".join(texts[file] for file in read).encode()).hexdigest()


_STAMP = stamp(Path(__file__).parents[1])


def inner(function: F) -> F:
    """Return ``function`` compiled as a part of others: only compiled code can call it."""
    return _compiled(function, {"no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def kernel(function: F) -> F:
    """Return ``function`` compiled for plain arrays, releasing the interpreter's lock.

    What is compiled is kept beside the source, or in the user's cache folder where that cannot be
    written; where neither can, it is compiled again in every process, with a warning.
    """
    return _compiled(function, {"no_cfunc_wrapper": True})


def _compiled(function: F, flags: dict[str, bool]) -> F:
    options: dict[str, Any] = {**_OPTIONS, **flags}
    try:
        made: Any = numba.njit(cache=True, **options)(function)
        # (Numba looks at a function's own file only, not at those of what it calls)
        made._cache._cache_file._source_stamp = _STAMP
        return made
    except RuntimeError:  # (Numba found no folder it may write)
        warnings.warn(
            "no folder was found in which compiled code can be kept: it is compiled again in every "
            "process (about a minute); set NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=3,
        )
        return cast(F, numba.njit(**options)(function))


class _Said(event.Listener):
    """Says once that something is compiled, where that takes long and nothing else shows."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: Any) -> None:
        """Numba compiles a function that it did not find in its cache."""
        module = str(event.data["dispatcher"].py_func.__module__)
        if self._said or not module.startswith("gradflow.integrators."):
            return
        self._said = True
        print(
            "gradflow: compiling its kernel, once on this machine (about a minute)",
            file=sys.stderr,
            flush=True,
        )

    def on_end(self, event: Any) -> None:
        """It has been compiled."""


event.register("numba:compile", _Said())
