"""Watching a batch from outside: its progress, a limit on its seconds, Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from gradflow.integrators.watch import Describe, Progress, Watch, is_read

#: Seconds before the first line, and between two, where a line can be written over; elsewhere the
#: time until the first one, and the factor from one to the next.
_QUIET, _LINE = 3.0, 0.5
_FIRST, _FACTOR = 10.0, 2.0


class Board(Watch):
    """Watches all members of a batch that are integrated here.

    Parameters
    ----------
    progress : callable, False or None
        As in :func:`~gradflow.many.starts.integrate_many`.
    max_seconds : float or None
    total : int
        How many members there are.
    news : callable
        Collects what has been done elsewhere; returns how many members are done and how many of
        them failed.
    """

    def __init__(
        self, progress: Progress | bool | None, max_seconds: float | None, total: int,
        news: Callable[[], tuple[int, int]],
    ) -> None:  # fmt: skip
        super().__init__(progress if callable(progress) else False, max_seconds)
        self._silent = progress is not None
        self._rewrites = is_read(sys.stderr)
        self._due = _QUIET if self._rewrites else _FIRST
        self._total, self._news = total, news

    @property
    def seconds(self) -> float:
        """Since the batch began."""
        return time.monotonic() - self._began

    def look(
        self, s: float, s_end: float, Y: Callable[[], np.ndarray], *, steps: int, events: int,
        describe: Describe | None,
    ) -> str | None:  # fmt: skip
        """Whether the member that is under way is to end."""
        self.tell()
        return self.over()

    def tell(self) -> None:
        """Tell how many members are done."""
        done, failed = self._news()
        rate = done / max(self.seconds, 1e-9)
        if self._told is not None:
            news = {
                "done": done, "total": self._total, "failed": failed, "seconds": self.seconds,
                "per_second": rate,
            }  # fmt: skip
            if self._tell(news) is False:
                self._interrupted = True
        if self._silent or self.seconds < self._due:
            return
        self._due = self.seconds + _LINE if self._rewrites else self.seconds * _FACTOR
        failures = f", {failed} failed" if failed else ""
        line = f"{done} of {self._total} flows{failures}, {rate:.3g}/s, {self.seconds:.0f} s"
        self._write(line)

    def _write(self, line: str) -> None:
        if not self._rewrites:
            print(line, file=sys.stderr, flush=True)
            return
        self._shown = True
        print(f"\r{line:<78.78}", end="", file=sys.stderr, flush=True)


class Stopped(Watch):
    """Ends an integration before its first step, with the result ``name``."""

    def __init__(self, name: str) -> None:
        super().__init__(False)
        self._name = name

    def over(self) -> str:
        """Return the name."""
        return self._name


__all__ = ["Board", "Stopped"]
