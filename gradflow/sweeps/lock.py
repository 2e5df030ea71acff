"""One sweep at a time on a store: a lock that ends with the process that holds it."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from gradflow.sweeps.errors import SweepError

_NAME = "lock"
#: Seconds for which somebody who only asks may hold it, and between two tries.
_PATIENCE, _PAUSE = 0.5, 0.05


class Lock:
    """Held from construction to `close`.

    Parameters
    ----------
    folder : Path
    wait : bool
        Wait until it is free.

    Raises
    ------
    SweepError
        If another sweep holds it.
    OSError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path, wait: bool = False) -> None:
        # (of POSIX systems only)
        import fcntl

        self._descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
        last = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait and time.monotonic() > last:
                    os.close(self._descriptor)
                    raise SweepError(
                        f"another sweep is at work on the store {str(folder)!r} "
                        f"({_holder(folder) or 'unknown'}): wait for it (wait=True), or choose "
                        "another store"
                    ) from None
                time.sleep(_PAUSE)
        told = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(told).encode(), 0)

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)


def _holder(folder: Path) -> str:
    try:
        told = json.loads((folder / _NAME).read_bytes())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told["since"]))
        return f"process {told['pid']} on {told['host']}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def held_by(folder: Path) -> str | None:
    """Return who holds the lock of a store; None if nobody does."""
    import fcntl

    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _holder(folder) or "unknown"
    finally:
        os.close(descriptor)


__all__ = ["Lock", "held_by"]
