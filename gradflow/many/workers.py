"""Processes that integrate members of a batch beside this one.

A member is prepared again where it is integrated, from the same risk, start and arguments; what it
becomes has the same bits in every process.
"""

from __future__ import annotations

import io
import pickle
import queue
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cloudpickle
import equinox as eqx
import jax
from jaxtyping import PyTree

from gradflow.integrators.watch import Watch
from gradflow.many.member import prepare_member
from gradflow.many.pool import Pool
from gradflow.paths.trajectory import Trajectory
from gradflow.risks.base import AbstractRisk

_SHARED, _RUNNING = "shared", "running"


class Parcel:
    """What the members of a batch share, in a folder that workers read; its end is theirs.

    Parameters
    ----------
    risks : list of AbstractRisk
    options : dict
        The other arguments.

    Raises
    ------
    Exception
        Whatever pickle raises where something cannot be sent to another process.
    """

    def __init__(self, risks: list[AbstractRisk], options: dict[str, Any]) -> None:
        content = cloudpickle.dumps((risks, options))
        self._folder = tempfile.TemporaryDirectory(prefix="gradflow-", ignore_cleanup_errors=True)
        self.folder = self._folder.name
        Path(self.folder, _SHARED).write_bytes(content)
        Path(self.folder, _RUNNING).touch()

    def recall(self) -> None:
        """Tell the workers to end what they are at."""
        Path(self.folder, _RUNNING).unlink(missing_ok=True)

    def close(self) -> None:
        """Recall, and clean up."""
        self.recall()
        self._folder.cleanup()


@lru_cache(maxsize=1)
def _opened(folder: str) -> tuple[list[AbstractRisk], dict[str, Any]]:
    return pickle.loads(Path(folder, _SHARED).read_bytes())


class _FarWatch(Watch):
    """Ends an integration where its batch is over or its time is up."""

    def __init__(self, folder: str, deadline: float) -> None:
        super().__init__(False, max(deadline - time.time(), 1e-9))
        self._running = Path(folder, _RUNNING)

    def look(self, *_: object, **__: object) -> str | None:
        """Whether to end."""
        return self.over()

    def over(self) -> str | None:
        """Return the result to end with."""
        return super().over() if self._running.exists() else "interrupted"


class _Packer(cloudpickle.Pickler):
    """Pickles a path without what the other side has."""

    def __init__(self, file: io.BytesIO, risk: AbstractRisk) -> None:
        super().__init__(file)
        self._known = {id(part): place for place, part in enumerate(_parts(risk))}

    def persistent_id(self, obj: object) -> int | None:
        return self._known.get(id(obj))


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, risk: AbstractRisk) -> None:
        super().__init__(file)
        self._known = _parts(risk)

    def persistent_load(self, pid: int) -> object:
        return self._known[pid]


def _parts(risk: AbstractRisk) -> list[object]:
    return [risk, *filter(eqx.is_array, jax.tree.leaves(risk))]


@dataclass(frozen=True)
class Sent:
    """What a worker hands back: a path, packed, or what was raised; and its warnings."""

    packed: bytes = b""
    error: Exception | None = None
    warnings: tuple[Warning, ...] = field(default=())

    def path(self, risk: AbstractRisk) -> Trajectory:
        """Unpack the path."""
        return _Unpacker(io.BytesIO(self.packed), risk).load()


def _work(folder: str, which: int, start: PyTree, deadline: float) -> Sent:
    risks, options = _opened(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (of its arguments the batch has warned)
        prepared = prepare_member(risks[which], start, options)
    with warnings.catch_warnings(record=True) as caught, _FarWatch(folder, deadline) as watch:
        warnings.simplefilter("always")
        try:
            path = prepared.run(watch)
        except Exception as error:
            return Sent(error=error)
    file = io.BytesIO()
    _Packer(file, risks[which]).dump(path)
    told = tuple(w.message for w in caught if isinstance(w.message, Warning))
    return Sent(file.getvalue(), warnings=told)


POOL = Pool()


class Crew:
    """Some processes at work on the members of one batch.

    Parameters
    ----------
    size : int
    parcel : Parcel
    take : callable
        Returns ``(number, which risk, start)`` of the next member, None where there is none left.
        Called from another thread.
    deadline : float
        By ``time.time()``.
    """

    def __init__(
        self, size: int, parcel: Parcel, take: Callable[[], tuple[int, int, PyTree] | None],
        deadline: float,
    ) -> None:  # fmt: skip
        self._executor, self._parcel, self._take = POOL.of(size), parcel, take
        self._deadline = deadline
        self.out: set[int] = set()
        self.broken = False
        self._back: queue.SimpleQueue[tuple[int, Future[Sent]]] = queue.SimpleQueue()
        for _ in range(size):
            # (members are handed out to processes that have started)
            self._executor.submit(_opened, parcel.folder).add_done_callback(self._next)

    def _next(self, done: Future[Any]) -> None:
        """Hand out a member to a process that has done something."""
        failed = done.cancelled() or done.exception() is not None
        taken = None if failed or self.broken else self._take()
        if taken is None:
            return
        number, which, start = taken
        self.out.add(number)
        try:
            future = self._executor.submit(_work, self._parcel.folder, which, start, self._deadline)
        except RuntimeError as error:  # (broken meanwhile)
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda done: self._take_back(number, done))

    def _take_back(self, number: int, done: Future[Sent]) -> None:
        self._back.put((number, done))
        self._next(done)

    def collect(self, seconds: float = 0.0) -> list[tuple[int, Sent | None]]:
        """Return what has come back, waiting up to ``seconds``; None for a member that is lost."""
        came: list[tuple[int, Sent | None]] = []
        while self.out:
            try:
                number, done = self._back.get(timeout=0.0 if came else seconds or 1e-4)
            except queue.Empty:
                break
            self.out.discard(number)
            lost = done.cancelled() or done.exception() is not None
            if lost:
                self._lose()
            came.append((number, None if lost else done.result()))
        return came

    def _lose(self) -> None:
        """A process has died, or something could not be sent."""
        if not self.broken:
            self.broken = True
            POOL.drop(self._executor)


__all__ = ["POOL", "Crew", "Parcel", "Sent"]
