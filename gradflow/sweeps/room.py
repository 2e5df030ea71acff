"""How much memory there is, asked before it is used up."""

from __future__ import annotations

import os
from pathlib import Path

#: The share of the memory available that results of a sweep without a store may take, and that one
#: column of a table may take before it stays on disk.
_SWEEP, _COLUMN = 0.5, 0.25
#: Bytes of results before anybody looks.
_UNSEEN = 1 << 24


def available() -> int:
    """Return the bytes of memory that are available."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # (no Linux)
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fits(size: int) -> bool:
    """Whether a column of so many bytes may be read into memory."""
    return size < _UNSEEN or size < _COLUMN * available()


class Room:
    """Adds up results that are held in memory.

    Parameters
    ----------
    total : int
        Points of the sweep.
    """

    def __init__(self, total: int) -> None:
        self._total, self._points, self._bytes, self._look = total, 0, 0, 0

    def add(self, size: int) -> str | None:
        """Count a point of so many bytes; return what is wrong, if memory will not do."""
        self._points, self._bytes = self._points + 1, self._bytes + size
        whole = self._bytes * self._total // self._points
        if whole < _UNSEEN or self._bytes < self._look:
            return None
        self._look = max(2 * self._bytes, _UNSEEN) if self._bytes < _UNSEEN else (
            self._bytes + _UNSEEN
        )  # fmt: skip
        room = available()
        # (the table is a second copy of what is there by then)
        if 2 * whole - self._bytes <= _SWEEP * room + self._bytes:
            return None
        return (
            f"the results of {self._total} points take about {_shown(whole)} (twice, while the "
            f"table is made), and {_shown(room)} of memory are available: pass store= (a folder), "
            "which keeps them on disk"
        )


def _shown(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


__all__ = ["Room", "available", "fits"]
