"""What the papers' instances have in common: several of them, hashable arrays, hypotheses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from gradflow.claims.claim import Hypothesis
from gradflow.claims.lab import Lab
from gradflow.validation import fail

T = TypeVar("T")
#: One instance, or several of them.
Several: TypeAlias = T | Iterable[T]
Row = tuple[float, ...]


def several(argument: str, some: Several[T], kind: type[T]) -> tuple[T, ...]:
    """One instance or several of ``kind``, as a tuple.

    Raises
    ------
    ValueError
        None; something else.
    """
    found: object = (some,) if isinstance(some, kind) else some
    if not isinstance(found, Iterable):
        raise fail(argument, some, f"is no {kind.__name__}", f"pass a {kind.__name__}")
    found = tuple(found)
    if not found:
        raise fail(argument, found, "is empty", f"pass at least one {kind.__name__}")
    for one in found:
        if not isinstance(one, kind):
            raise fail(argument, one, f"is no {kind.__name__}", f"pass a {kind.__name__}")
    return found


def row(vector: Iterable[float] | np.ndarray) -> Row:
    """A vector as a tuple: hashable, and the same numbers."""
    return tuple(map(float, vector))


def rows(matrix: Iterable[Iterable[float]] | np.ndarray) -> tuple[Row, ...]:
    """A matrix as a tuple of rows."""
    return tuple(map(row, matrix))


def every(
    name: str, ones: Sequence[T], why: Callable[[T], str] | None = None,
    *, measured: Callable[[Lab, T], str] | None = None,
) -> Hypothesis:  # fmt: skip
    """A hypothesis on all instances: ``why(one)`` says what is wrong with one, or nothing.

    ``measured(lab, one)`` where it takes a flow to say.
    """

    def check(lab: Lab) -> tuple[bool, str]:
        for one in ones:
            reason = measured(lab, one) if measured is not None else why(one) if why else ""
            if reason:
                return False, f"{reason}; {one}"
        return True, ""

    return Hypothesis(name, check)
