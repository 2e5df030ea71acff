"""Watching a sweep from outside: its progress, a limit on its seconds, Ctrl-C."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gradflow.integrators.watch import Progress, Watch, is_read
from gradflow.sweeps.work import Work

#: Seconds before the first line, and between two, where a line can be written over; elsewhere the
#: time until the first one, and the factor from one to the next.
_QUIET, _LINE = 3.0, 0.5
_FIRST, _FACTOR = 10.0, 2.0


class Board(Watch):
    """Watches a sweep.

    The first Ctrl-C ends the point that is computed here, which is then not computed, and the
    sweep; a second one raises ``KeyboardInterrupt`` as usual.

    Parameters
    ----------
    progress : callable, False or None
        As in `gf.sweep`.
    max_seconds : float or None
    work : Work
    """

    def __init__(
        self, progress: Progress | bool | None, max_seconds: float | None, work: Work
    ) -> None:
        super().__init__(progress if callable(progress) else False, max_seconds)
        self._silent = progress is not None
        self._rewrites = is_read(sys.stderr)
        self._due = _QUIET if self._rewrites else _FIRST
        self._work, self._inside, self._writing = work, False, threading.Lock()

    @property
    def seconds(self) -> float:
        """Since the sweep began."""
        return time.monotonic() - self._began

    @contextmanager
    def point(self) -> Iterator[None]:
        """A point is computed here: Ctrl-C ends it."""
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        super()._on_interrupt(number, frame)
        if self._inside:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """Somebody has asked to end."""
        self._interrupted = True

    def tell(self) -> None:
        """Tell a listener how many points are done."""
        if self._told is None:
            return
        done, rate, left = self._pace()
        news = {
            "done": done, "total": self._work.total, "failed": self._work.failed,
            "seconds": self.seconds, "per_second": rate, "seconds_left": left,
        }  # fmt: skip
        if self._tell(news) is False:
            self._interrupted = True

    def _pace(self) -> tuple[int, float, float]:
        """Points done, points a second in this sitting, and seconds left at that rate."""
        done = len(self._work.done)
        rate = self._work.computed / max(self.seconds, 1e-9)
        left = self._work.total - done
        return done, rate, left / rate if rate > 0 else (float("inf") if left else 0.0)

    def show(self) -> None:
        """Show a line, if it is time (called from another thread)."""
        if self._silent or self.seconds < self._due:
            return
        self._due = self.seconds + _LINE if self._rewrites else self.seconds * _FACTOR
        done, rate, left = self._pace()
        failures = f", {self._work.failed} failed" if self._work.failed else ""
        line = f"{done} of {self._work.total} points{failures}, {rate:.3g}/s, {span(left)} left"
        with self._writing:
            if self._rewrites:
                self._shown = True
                print(f"\r{line:<78.78}", end="", file=sys.stderr, flush=True)
            else:
                print(line, file=sys.stderr, flush=True)


def span(seconds: float) -> str:
    """Return a time as ``40 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.3g} h" if seconds < float("inf") else "unknown time"


__all__ = ["Board", "span"]
