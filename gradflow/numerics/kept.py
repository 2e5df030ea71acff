"""What is made of an object once and kept beside it, as long as it lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by the identity of the objects that they were made of.

    Equinox modules tell their structure by their instance's attributes, so what is derived from
    one cannot be kept in it (as ``functools.cached_property`` does): its compiled programs would no
    longer be shared.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[object], T]] = {}

    def get(self, thing: object, make: Callable[..., T]) -> T:
        """The value kept for ``thing``, else ``make(thing)``."""
        key = id(thing)
        found = self._kept.get(key)
        if found is not None and found[0]() is thing:
            return found[1]
        value = make(thing)
        self._kept[key] = weakref.ref(thing, lambda _: self._kept.pop(key, None)), value
        return value
