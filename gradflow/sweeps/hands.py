"""Other processes of this machine that compute points."""

from __future__ import annotations

import tempfile
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import gradflow
from gradflow.many.pool import Pool
from gradflow.sweeps.compute import compute_far, pickled_points
from gradflow.sweeps.outcome import Outcome
from gradflow.sweeps.work import Work

#: What comes back: the points done, or the version of another gradflow.
Answer = list[Outcome] | str
#: Times that processes may die as they start.
_STARTS = 3

#: The processes for shares of points, and the one for points that are computed alone.
POOL, ALONE = Pool(), Pool()


class AbstractHands(ABC):
    """Keeps some processes supplied with points.

    What comes back is kept, and the next points are handed out, in the threads in which it comes
    back; processes are started by whoever calls `tend`.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.out: dict[int, list[int]] = {}
        self._lock, self._count, self._closed = threading.RLock(), 0, False

    @abstractmethod
    def capacity(self) -> int:
        """How many shares may be out at once."""

    @abstractmethod
    def submit(self, numbers: list[int]) -> Future[Answer]:
        """Send points to a process."""

    def receive(self, future: Future[Answer]) -> Answer:
        """Return what has come back."""
        return future.result()

    @abstractmethod
    def lost(self, numbers: list[int], error: BaseException, team: int) -> None:
        """Some points, sent to a team of processes, have not come back."""

    def team(self) -> int:
        """The number of the processes that are there now; others have another one."""
        return 0

    def take(self) -> list[int]:
        """Take points."""
        return self.work.take(max(self.capacity(), 1))

    def tend(self) -> None:
        """Look after the processes, and hand out points."""
        self.fill()

    def fill(self) -> None:
        """Hand out as much as they can do."""
        with self._lock:
            while not self._closed and len(self.out) < self.capacity():
                numbers = self.take()
                if not numbers:
                    return
                self._count += 1
                self.out[self._count] = numbers
                came = partial(self._came, self._count, self.team())
                try:
                    future = self.submit(numbers)
                except Exception as error:  # (the processes have died meanwhile)
                    future = Future()
                    future.set_exception(error)
                future.add_done_callback(came)

    def _came(self, count: int, team: int, future: Future[Answer]) -> None:
        """Keep what has come back (called from another thread)."""
        with self._lock:
            numbers = self.out.pop(count, None)
        if numbers is None:
            return
        try:
            answer = self.receive(future)
        except BaseException as error:  # (a cancelled future's is no Exception)
            self.lost(numbers, error, team)
        else:
            self._answered(numbers, answer)
        self.fill()

    def _answered(self, numbers: list[int], answer: Answer) -> None:
        if isinstance(answer, str):
            self.work.put_back(numbers)
            self.work.end_with(
                f"a worker has gradflow {answer}, and here it is {gradflow.__version__}: install "
                "the same version there"
            )
            return
        self.work.keep(numbers, answer)

    def close(self, grace: float) -> None:
        """Take no more than what comes back within some seconds."""
        last = time.monotonic() + grace
        while self.out and time.monotonic() < last:
            time.sleep(0.02)
        with self._lock:
            self._closed = True
            left, self.out = list(self.out.values()), {}
        for numbers in left:
            self.work.put_back(numbers)
        self.end(bool(left))

    @abstractmethod
    def end(self, busy: bool) -> None:
        """Let processes go; ``busy`` ones are at points that nobody waits for any more."""


class Parcel:
    """A function, pickled once, in a file that processes of this machine read.

    Parameters
    ----------
    function : bytes
    """

    def __init__(self, function: bytes) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gradflow-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name, "function")
        self.path.write_bytes(function)

    def close(self) -> None:
        """Clean up."""
        self._folder.cleanup()


def _ready() -> None:
    """A process has started; it imports what computing needs."""
    from gradflow.numerics.blas import one_thread

    with one_thread:
        pass


class LocalHands(AbstractHands):
    """Processes beside this one, which stay for later sweeps.

    Parameters
    ----------
    work : Work
    parcel : Parcel
    size : int
    pool : Pool
    optional : bool
        Whether the sweep can do without them.
    """

    def __init__(
        self, work: Work, parcel: Parcel, size: int, pool: Pool = POOL, optional: bool = False
    ) -> None:
        super().__init__(work)
        self._optional = optional
        self._parcel, self._size, self._pool = parcel, size, pool
        self._team, self._started, self._deaths = 0, 0, 0
        self._death = ""
        self._start()

    def _start(self) -> None:
        """Hand out points to processes as soon as they have started."""
        self._executor = self._pool.of(self._size)
        self._team, self._started, self._death = self._team + 1, 0, ""
        for _ in range(self._size):
            future = self._executor.submit(_ready)
            future.add_done_callback(partial(self._is_ready, self._team))

    def _is_ready(self, team: int, future: Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        with self._lock:
            if team != self._team or future.cancelled():
                return
            if error is not None:
                self._died(error, team)
                return
            self._started += 1
        self.fill()

    def team(self) -> int:
        """Count how often they have been started."""
        return self._team

    def capacity(self) -> int:
        """As many as have started."""
        return 0 if self._death else self._started

    def submit(self, numbers: list[int]) -> Future[Answer]:
        """Send points to a process."""
        points = pickled_points([self.work.grid.point(number) for number in numbers])
        path = str(self._parcel.path)
        return self._executor.submit(compute_far, gradflow.__version__, path, points)

    def lost(self, numbers: list[int], error: BaseException, team: int) -> None:
        """A process has died: any of the points at work may have done it."""
        self.work.suspect(numbers)
        self._died(error, team)

    def _died(self, error: BaseException, team: int) -> None:
        with self._lock:
            if team == self._team and not self._death:
                self._deaths = 0 if self._started else self._deaths + 1
                self._death = f"{type(error).__name__}: {error}"

    def tend(self) -> None:
        """Start others where they have died."""
        with self._lock:
            if self._death and not self._closed:
                if self._deaths >= _STARTS:
                    self._closed = True
                    (self.work.note if self._optional else self.work.end_with)(
                        f"worker processes die as they start ({self._death})"
                    )
                    return
                self._pool.drop(self._executor)
                self._start()
        self.fill()

    def end(self, busy: bool) -> None:
        """Processes that have nothing to do stay for later sweeps."""
        if busy or self._death:
            self._pool.drop(self._executor)


class LonelyHands(LocalHands):
    """One process for points that were at work when others died, one at a time."""

    def __init__(self, work: Work, parcel: Parcel) -> None:
        super().__init__(work, parcel, 1, ALONE)

    def take(self) -> list[int]:
        """Take a point that is to be computed alone."""
        return self.work.take_suspect()

    def lost(self, numbers: list[int], error: BaseException, team: int) -> None:
        """It is this point that has ended the process."""
        for number in numbers:
            self.work.strike(number, type(error).__name__)
        self._died(error, team)


__all__ = ["AbstractHands", "Answer", "LocalHands", "LonelyHands", "Parcel"]
