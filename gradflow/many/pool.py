"""Processes that stay for other batches."""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref

from loky import ProcessPoolExecutor, process_executor

#: Seconds without work after which a worker goes.
_IDLE_SECONDS = 300
#: Seconds between two looks whether the process that started a worker is still there.
_ORPHAN_SECONDS = 1.0
#: A worker's linear algebra stays on its own core.
_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")


def _begin() -> None:
    """Make a worker ready: Ctrl-C, which reaches it too, is for the process that recalls it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # (where psutil is installed, loky takes 300 MB of compiled programs for a leak and starts
    # the process again, without them)
    process_executor._USE_PSUTIL = False
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that started it has been killed, which nothing else tells."""
    while os.getppid() == parent:
        time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


class Pool:
    """Some processes, started when they are asked for."""

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._size, self._lock = 0, threading.Lock()
        _POOLS.add(self)

    @property
    def warm(self) -> bool:
        """Whether there are any."""
        return self._executor is not None

    def of(self, size: int) -> ProcessPoolExecutor:
        """Return ``size`` of them."""
        with self._lock:
            if self._executor is not None and self._size != size:
                self._executor.shutdown(wait=False)
                self._executor = None
            if self._executor is None or not _alive(self._executor):
                self._executor = ProcessPoolExecutor(
                    size, timeout=_IDLE_SECONDS, initializer=_begin, env=_ENVIRONMENT
                )
                self._size = size
            return self._executor

    def drop(self, executor: ProcessPoolExecutor) -> None:
        """Have no more of those of an executor that is broken."""
        with self._lock:
            if self._executor is executor:
                self._executor = None
        executor.shutdown(wait=False, kill_workers=True)


def _alive(executor: ProcessPoolExecutor) -> bool:
    """Whether it takes work: a process may have died since."""
    try:
        executor.submit(os.getpid)
    except RuntimeError:
        return False
    return True


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _forget() -> None:
    """A process that is forked off does not have them."""
    for pool in list(_POOLS):
        pool.__init__()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

__all__ = ["Pool"]
