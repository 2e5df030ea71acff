"""The members of a batch, here and in other processes, until all are done or it is over."""

from __future__ import annotations

import multiprocessing
import threading
import time
import warnings
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import PyTree

from gradflow.integration import Prepared
from gradflow.integrators.contract import Result
from gradflow.integrators.watch import Progress
from gradflow.many.board import Board, Stopped
from gradflow.many.workers import POOL, Crew, Parcel, Sent
from gradflow.paths.trajectory import Trajectory

#: Seconds of work left from which other processes help: they import this package first, if they
#: are not there yet.
_COLD, _WARM = 8.0, 0.5
#: Seconds that workers have to end what they are at once the batch is over.
_GRACE = 10.0


@dataclass
class _Pace:
    """How long a member takes, as far as can be told.

    The first one, and any before it is looked at, may compile a program.
    """

    began: float = 0.0
    looked: float | None = None
    walls: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """A member begins."""
        self.began, self.looked = time.monotonic(), None

    def look(self) -> None:
        """Somebody looks at it."""
        if self.looked is None:
            self.looked = time.monotonic()

    def end(self) -> None:
        """It is done."""
        self.walls.append(time.monotonic() - self.began)

    @property
    def seconds(self) -> float:
        """Seconds of a member."""
        rest, now = self.walls[1:], time.monotonic()
        since = 0.0 if self.looked is None else now - self.looked
        return max(sum(rest) / max(len(rest), 1), since)


class Batch:
    """Integrates some members, in any order.

    Parameters
    ----------
    members : list of Prepared
    which : list of int
        The place of each one's risk among the distinct ones.
    options : dict
        The arguments of each.
    workers : int or None
        Processes at work, this one included; None: as many as there are cores, where it pays.
    progress, max_seconds
        Of the whole.

    Attributes
    ----------
    paths : dict
        What is done, by number.
    errors : dict
        What was raised.
    """

    def __init__(
        self, members: list[Prepared], which: list[int], options: dict[str, Any],
        workers: int | None, progress: Progress | bool | None, max_seconds: float | None,
    ) -> None:  # fmt: skip
        self.members, self.which, self.options = members, which, options
        self.paths: dict[int, Trajectory] = {}
        self.errors: dict[int, Exception] = {}
        self._waiting, self._lock = deque(range(len(members))), threading.Lock()
        self._workers, self._max_seconds = workers, max_seconds
        self.board = Board(progress, max_seconds, len(members), self._news)
        self._pace = _Pace()
        self._crew: Crew | None = None
        self._parcel: Parcel | None = None
        # (processes of somebody's pool have cores of their own, and may be forbidden children)
        child = multiprocessing.parent_process() is not None
        self._alone = workers == 1 or child or members[0].settings.save.dense

    # ------------------------------------------------------------------------------ the loop
    def run(self) -> None:
        """Integrate until all members are done, or it is time to end."""
        with self.board:
            try:
                while len(self.paths) < len(self.members) and self.board.over() is None:
                    number = self._take()
                    if number is None:
                        self._collect(0.2)
                        self.board.tell()
                    else:
                        self._here(number)
                self._end()
            finally:
                if self._parcel is not None:
                    self._parcel.close()
            self.board.tell()

    def _take(self) -> int | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _hand_out(self) -> tuple[int, int, PyTree] | None:
        """What a worker needs of the next member (called from another thread)."""
        number = None if self.board.over() else self._take()
        if number is None:
            return None
        member = self.members[number]
        return number, self.which[number], member.start

    def _here(self, number: int) -> None:
        """Integrate a member in this process."""
        self._pace.begin()
        try:
            self.paths[number] = self.members[number].run(self.board)
        except Exception as error:
            self._raised(number, error)
        self._pace.end()
        self.board.tell()
        self._hire()

    def _raised(self, number: int, error: Exception) -> None:
        """Keep what was raised in a member; its path ends with the stages done before."""
        self.errors[number] = error
        path = self.members[number].run(Stopped("raised"))
        said = Result("raised", f"{type(error).__name__}: {error}")
        self.paths[number] = replace(path, result=said)

    def _end(self) -> None:
        """Give what is not done the result with which the batch ends."""
        name = self.board.over()
        if len(self.paths) == len(self.members):
            return
        assert name is not None
        if self._parcel is not None:
            self._parcel.recall()
        last = time.monotonic() + _GRACE
        while self._crew is not None and self._crew.out and time.monotonic() < last:
            self._collect(0.2)
        for number, member in enumerate(self.members):
            if number not in self.paths:
                self.paths[number] = member.run(Stopped(name))

    # ------------------------------------------------------------------------------ others
    def _hire(self) -> None:
        """Have other processes help, if they have not yet been asked and it pays."""
        if self._crew is not None or self._alone or not self._waiting:
            return
        # Imported here: it asks the machine.
        from loky import cpu_count

        count = min((self._workers or cpu_count()) - 1, len(self._waiting))
        needed = 0.0 if self._workers else _WARM if POOL.warm else _COLD
        if count < 1 or len(self._waiting) * self._pace.seconds < needed:
            return
        risks: dict[int, Any] = {}
        for place, member in zip(self.which, self.members, strict=True):
            risks[place] = member.risk
        try:
            self._parcel = Parcel([risks[place] for place in range(len(risks))], self.options)
        except Exception:  # (what pickle raises has no common class: a lock, a generator)
            self._alone = True
            return
        limit = float("inf") if self._max_seconds is None else self._max_seconds
        deadline = time.time() + limit - self.board.seconds
        self._crew = Crew(count, self._parcel, self._hand_out, deadline)

    def _news(self) -> tuple[int, int]:
        """What is done, and has failed, wherever it was."""
        self._collect()
        self._pace.look()
        self._hire()
        failed = sum(not path.result.ok for path in self.paths.values())
        return len(self.paths), failed

    def _collect(self, seconds: float = 0.0) -> None:
        if self._crew is None:
            return
        for number, sent in self._crew.collect(seconds):
            if sent is None:
                with self._lock:
                    self._waiting.appendleft(number)
            else:
                self._keep(number, sent)

    def _keep(self, number: int, sent: Sent) -> None:
        if sent.error is not None:
            self._raised(number, sent.error)
            return
        for message in sent.warnings:
            warnings.warn(message, stacklevel=2)
        member = self.members[number]
        path = sent.path(member.risk)
        self.paths[number] = replace(path, initial=member.start)


__all__ = ["Batch"]
