"""How many threads BLAS computes on: one, wherever many small products follow each other."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from functools import cache

import scipy.linalg  # noqa: F401  (its BLAS is the one that compiled loops call)
from threadpoolctl import ThreadpoolController


class _OneThread(AbstractContextManager[None]):
    """One thread while anybody is inside; the number is the whole process's, so it is counted."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._limits = _controller().limit(limits=1, user_api="blas")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limits.restore_original_limits()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


#: Inside ``with one_thread:`` BLAS computes on one thread, with the same bits on every machine of a
#: kind. What other threads of Python compute meanwhile is limited too.
one_thread = _OneThread()

__all__ = ["one_thread"]
