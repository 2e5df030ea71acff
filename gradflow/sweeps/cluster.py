"""The workers of a Dask cluster that compute points (``distributed`` is imported here only)."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

import gradflow
from gradflow.sweeps.compute import compute_far, pickled_points
from gradflow.sweeps.hands import AbstractHands, Answer
from gradflow.sweeps.work import Work
from gradflow.validation import fail

if TYPE_CHECKING:
    from distributed import Client

#: Seconds within which a scheduler has to answer.
_ANSWER = 5
#: Shares for each thread of a worker: one is computed while the next one is on its way.
_AHEAD = 2
#: What Dask raises where workers have died with a task, by name.
_KILLED = ("KilledWorker",)
#: Seconds after which it is asked whether a result is still there, and without any worker.
_FETCH, _GONE = 10, 60


def client_of(client: object) -> tuple[Client, bool]:
    """Return a connected client, and whether it was made here.

    Parameters
    ----------
    client : str or distributed.Client
        The address of a scheduler, or a client.

    Raises
    ------
    ValueError
        If ``distributed`` is missing, or no scheduler answers.
    """
    if find_spec("distributed") is None:
        raise fail("client", client, "needs the package distributed",
                   "install it: pip install 'gradflow-ode[dask]'")  # fmt: skip
    import distributed

    if isinstance(client, str):
        try:
            made = distributed.Client(client, timeout=_ANSWER, set_as_default=False)
        except (OSError, TimeoutError, ValueError, TypeError) as error:
            raise fail("client", client, f"no scheduler answers there ({type(error).__name__})",
                       "start one there (`dask scheduler`), or pass the address it shows, as "
                       "'tcp://host:8786'") from error  # fmt: skip
        return made, True
    if not isinstance(client, distributed.Client):
        raise fail("client", client, "is no Dask client", "pass a distributed.Client or an address")
    if client.asynchronous or client.status != "running":
        raise fail("client", client, f"is {client.status}, and not at hand",
                   "pass a client that is connected, and not asynchronous")  # fmt: skip
    return client, False


class ClusterHands(AbstractHands):
    """The workers of a Dask cluster, as many as there are at the time.

    A share whose worker has died is computed again by another one. Dask gives it up after four
    deaths; its points are then computed one at a time with nothing else at work, so that it is
    clear which one ends its worker.

    Parameters
    ----------
    work : Work
    client : distributed.Client or str
        Or the address of a scheduler.
    function : bytes
        Pickled.
    """

    def __init__(self, work: Work, client: object, function: bytes) -> None:
        super().__init__(work)
        self._client, self._own = client_of(client)
        self._function, self._threads = function, 0
        self._seen: float | None = None
        self._began, self._told = time.monotonic(), False
        self._futures: set[object] = set()
        #: Points that have been sent with nothing else at work.
        self._lonely: set[int] = set()

    def tend(self) -> None:
        """Look how many workers there are."""
        if self._client.status != "running":
            self.work.end_with(
                f"the scheduler is gone (the client is {self._client.status}): call gf.sweep again "
                "with another one; with a store it goes on from there"
            )
            return
        try:
            self._threads = sum(cast(dict[str, int], self._client.nthreads()).values())
        except OSError:  # (looked at again)
            return
        self._look(time.monotonic())
        self.fill()

    def _look(self, now: float) -> None:
        """Say where there is no worker; end where they were there and are gone."""
        if self._threads:
            self._seen = now
        elif self._seen is not None and now - self._seen > _GONE:
            self.work.end_with(
                f"the cluster has had no worker for {_GONE} s: call gf.sweep again when it has; "
                "with a store it goes on from there"
            )
        elif self._seen is None and not self._told and now - self._began > _ANSWER:
            self._told = True
            print("the cluster has no worker yet: waiting for one", file=sys.stderr, flush=True)

    def capacity(self) -> int:
        """Some for each thread of each worker; one for points that are computed alone."""
        return min(self._threads, 1) if self.work.suspected else _AHEAD * self._threads

    def take(self) -> list[int]:
        """Take points; one that is suspect, with nothing else at work."""
        if not self.work.suspected:
            return super().take()
        taken = [] if self.out else self.work.take_suspect()
        self._lonely.update(taken)
        return taken

    def receive(self, future: Future[Answer]) -> Answer:
        """Fetch what a worker has; not for ever, if it has died meanwhile."""
        while True:
            try:
                return future.result(timeout=_FETCH)
            except TimeoutError:
                if getattr(future, "status", "") != "finished":
                    raise

    def submit(self, numbers: list[int]) -> Future[Answer]:
        """Send points to the scheduler."""
        points = pickled_points([self.work.grid.point(number) for number in numbers])
        future = self._client.submit(
            compute_far, gradflow.__version__, self._function, points, pure=False,
        )  # fmt: skip
        # (the scheduler forgets what nobody holds)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return cast("Future[Answer]", future)

    def lost(self, numbers: list[int], error: BaseException, team: int) -> None:
        """Workers have died with these points, or cannot do anything."""
        name = type(error).__name__
        if name in _KILLED and numbers[0] in self._lonely:
            self.work.condemn(numbers[0], f"its workers died ({name})")
        elif name in _KILLED:
            self.work.suspect(numbers)
        elif "Cancelled" in name or name == "TimeoutError":
            self.work.put_back(numbers)
        else:
            self.work.put_back(numbers)
            said = " ".join(str(error).split())[:200]
            self.work.end_with(
                f"the workers of the cluster cannot compute ({name}: {said}): they need gradflow "
                f"{gradflow.__version__} and what the function imports"
            )

    def end(self, busy: bool) -> None:
        """Cancel what nobody waits for."""
        if self._client.status == "running" and self._futures:
            self._client.cancel(list(self._futures), force=True)
        if self._own:
            self._client.close(timeout=_ANSWER)


__all__ = ["ClusterHands", "client_of"]
