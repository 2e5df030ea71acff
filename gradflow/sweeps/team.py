"""Who computes the points of a sweep: this process, others beside it, or a cluster."""

from __future__ import annotations

import multiprocessing
import threading
import time

from gradflow.sweeps.cluster import ClusterHands
from gradflow.sweeps.hands import POOL, AbstractHands, LocalHands, LonelyHands, Parcel
from gradflow.sweeps.work import Work

#: Seconds of work left from which other processes help: they import what the function needs
#: first, if they are not there yet.
_COLD, _WARM = 8.0, 0.5


class Team:
    """Those at work, while the context is open.

    Parameters
    ----------
    work : Work
    function : bytes or None
        The pickled function; None if it cannot be pickled.
    client : distributed.Client, str or None
    workers : int or None
        As in `gf.sweep`.

    Attributes
    ----------
    here : bool
        Whether points are computed in this process.
    """

    def __init__(
        self, work: Work, function: bytes | None, client: object, workers: int | None
    ) -> None:
        self.here = client is None and (workers is None or workers == 1)
        self._work, self._function, self._client, self._workers = work, function, client, workers
        # (processes of somebody's pool have cores of their own, and may be forbidden children)
        child = multiprocessing.parent_process() is not None
        self._alone = self.here and (workers == 1 or child or function is None)
        self._hands: list[AbstractHands] = []
        self._parcel: Parcel | None = None
        self._lonely, self._began = False, time.monotonic()
        self._lock, self._closed = threading.RLock(), False

    def __enter__(self) -> None:
        if self.here or not self._work.waiting:
            return
        assert self._function is not None
        if self._client is not None:
            self._hands.append(ClusterHands(self._work, self._client, self._function))
        else:
            self._hire(min(self._workers or 1, self._work.waiting))

    def __exit__(self, *_: object) -> None:
        self.close(0.0)

    @property
    def size(self) -> int:
        """How many share the points."""
        return self.here + sum(hands.capacity() for hands in self._hands) or 1

    def _hire(self, count: int) -> None:
        assert self._function is not None
        self._parcel = Parcel(self._function)
        self._hands.append(LocalHands(self._work, self._parcel, count, optional=self.here))

    def may_hire(self) -> None:
        """Have other processes help this one, if that pays and they have not yet been asked."""
        with self._lock:
            if not (self._alone or self._hands or self._closed or self._work.over):
                self._consider()

    def _consider(self) -> None:
        # Imported here: it asks the machine.
        from loky import cpu_count

        count = min(cpu_count() - 1, self._work.waiting)
        needed = _WARM if POOL.warm else _COLD
        # (a long first point tells nothing until it is done)
        since = time.monotonic() - self._began
        seconds = self._work.pace or (since if since > 2 * needed else 0.0)
        if count > 0 and self._work.waiting * seconds >= needed:
            self._hire(count)

    def tend(self) -> None:
        """Look after other processes (called from a thread of its own)."""
        try:
            with self._lock:
                self._tend()
        except Exception as error:  # (a thread's exceptions are nobody's)
            self._work.end_with(f"other processes cannot be had ({type(error).__name__}: {error})")

    def _tend(self) -> None:
        if self._closed:
            return
        self.may_hire()
        if self._work.suspected and self._parcel is not None and not self._lonely:
            self._lonely = True
            self._hands.append(LonelyHands(self._work, self._parcel))
        for hands in list(self._hands):
            hands.tend()

    def close(self, grace: float) -> None:
        """Take what comes back within some seconds, and let the others go."""
        self._work.stop()
        with self._lock:
            self._closed = True
        for hands in self._hands:
            hands.close(grace)
        self._hands = []
        if self._parcel is not None:
            self._parcel.close()
            self._parcel = None


__all__ = ["Team"]
