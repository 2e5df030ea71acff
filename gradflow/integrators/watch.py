"""Watching an integration from outside: progress, a time limit, Ctrl-C.

Integrators look up between segments of their compiled loops (:meth:`Watch.look`); what they hear
ends them with the part computed.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import numpy as np

#: What a watching function is told, and may answer: False ends the integration.
Progress = Callable[[dict[str, float]], object]
#: ``describe(s, Y)``: further entries of that dict.
Describe = Callable[[float, np.ndarray], dict[str, float]]

#: Seconds for which a compiled loop may run between two looks, and the most attempted steps.
_LOOK_SECONDS, LARGEST_BUDGET = 0.2, 20_000
#: Attempted steps before the first look.
FIRST_BUDGET = 256
#: Seconds before the first progress line, and between two.
_QUIET_SECONDS, _LINE_SECONDS = 3.0, 0.5


def next_budget(budget: int, attempts: int, seconds: float) -> int:
    """Attempted steps until the next look, after ``attempts`` of the last took ``seconds``."""
    wanted = _LOOK_SECONDS * max(attempts, 1) / max(seconds, 1e-6)
    return int(np.clip(wanted, 1, min(LARGEST_BUDGET, 16 * budget)))


class Watch:
    """Progress, a limit on seconds and interrupts of one integration, over all its stages.

    Use as a context manager: inside it the first Ctrl-C ends the integration at the next look, a
    second one raises ``KeyboardInterrupt`` as usual. (Only where Python's own handler is in place,
    in the main thread.)

    Parameters
    ----------
    progress : callable, False or None
        Called at each look with a dict ``s, s_end, steps, events, seconds, steps_per_second`` and
        what the flow tells of itself (``log_t``, ``loss``); False as an answer ends the
        integration. None: a line on stderr after three seconds, where somebody may read it; False:
        nothing.
    max_seconds : float or None
        Wall-clock seconds, compiling included, after which the integration ends.
    """

    def __init__(
        self, progress: Progress | bool | None = False, max_seconds: float | None = None
    ) -> None:
        self._told = progress if callable(progress) else None
        self._line = progress is not False and self._told is None and is_read(sys.stderr)
        self._max_seconds = np.inf if max_seconds is None else max_seconds
        self._began = self._last_line = time.monotonic()
        self._interrupted = self._shown = self._armed = False
        self._steps = self._events = 0.0

    def __enter__(self) -> Watch:
        self._began = time.monotonic()
        if threading.current_thread() is threading.main_thread() and (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._on_interrupt)
            self._armed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._armed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._armed = False
        self._clear_line()

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            signal.default_int_handler(number, frame)
        self._interrupted = True

    def stage_done(self, stats: dict[str, float]) -> None:
        """Count the work of a finished stage."""
        self._steps += stats["steps"]
        self._events += stats["events"]

    def look(
        self,
        s: float,
        s_end: float,
        Y: Callable[[], np.ndarray],
        *,
        steps: int,
        events: int,
        describe: Describe | None,
    ) -> str | None:
        """Tell of the progress; return the name of the result to end with, or None.

        Parameters
        ----------
        s, s_end : float
        Y : callable
            Returns the state, should it be needed.
        steps, events : int
            Of this stage so far.
        describe : callable or None
            What the flow tells of itself at ``(s, Y)``.
        """
        seconds = time.monotonic() - self._began
        due = self._line and seconds > _QUIET_SECONDS
        due = due and time.monotonic() - self._last_line > _LINE_SECONDS
        goes_on: object = True
        if self._told is not None or due:
            steps_now = self._steps + steps
            news = {
                "s": s, "s_end": s_end, "steps": steps_now, "events": self._events + events,
                "seconds": seconds, "steps_per_second": steps_now / max(seconds, 1e-9),
                **(describe(s, Y()) if describe is not None else {}),
            }  # fmt: skip
            if self._told is not None:
                goes_on = self._tell(news)
            else:
                self._show(news)
        return "interrupted" if goes_on is False else self.over()

    def over(self) -> str | None:
        """Return the name of the result to end with, if it is time to end."""
        if self._interrupted:
            return "interrupted"
        late = time.monotonic() - self._began >= self._max_seconds
        return "max_seconds" if late else None

    def _tell(self, news: dict[str, float]) -> object:
        assert self._told is not None
        try:
            return self._told(news)
        except KeyboardInterrupt:
            return False

    def _show(self, news: dict[str, float]) -> None:
        self._last_line, self._shown = time.monotonic(), True
        at = f"ln t = {news['log_t']:.6g}" if "log_t" in news else f"s = {news['s']:.6g}"
        loss = f", ln L = {news['log_loss']:.6g}" if "log_loss" in news else ""
        text = (
            f"{at}{loss}, {news['events']:.0f} events, {news['steps']:.0f} steps "
            f"({news['steps_per_second']:.0f}/s), {news['seconds']:.0f} s"
        )
        print(f"\r{text:<78.78}", end="", file=sys.stderr, flush=True)

    def _clear_line(self) -> None:
        if self._shown:
            print(f"\r{'':78}\r", end="", file=sys.stderr, flush=True)
            self._shown = False


def is_read(stream: object) -> bool:
    """Whether somebody may read a line that is written over: a terminal or a notebook."""
    if "ipykernel" in sys.modules:
        return True
    isatty = getattr(stream, "isatty", None)
    return bool(isatty is not None and isatty())
