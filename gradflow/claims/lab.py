"""The bench that claims share within one verification: what one computes, the next one reuses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Lab:
    """A memo of trajectories and measurements, alive for one `verify` call.

    A result is built once, also when several threads ask for it. A failure is remembered too,
    since it would only fail again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[Hashable, threading.RLock] = {}
        self._results: dict[Hashable, tuple[bool, Any]] = {}

    def get(self, name: Hashable, build: Callable[[], T]) -> T:
        """The result of ``build()``, computed at the first call with this name."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            if name not in self._results:
                try:
                    self._results[name] = (True, build())
                except Exception as error:
                    self._results[name] = (False, error)
            good, result = self._results[name]
        if not good:
            raise result
        return result

    def once(self, measure: Callable[[Lab], T]) -> T:
        """``measure(lab)``, computed once per function: a control reuses its claim's."""
        return self.get(("once", measure), lambda: measure(self))
