"""How far the sweep of a store is; read beside a sweep that is at work on it, too."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from gradflow.sweeps.board import span
from gradflow.sweeps.lock import held_by
from gradflow.sweeps.segments import Flaw
from gradflow.sweeps.store import asked_of, contents_of, header_of, segments_of
from gradflow.validation import fail

#: Failures and flaws that are shown.
_NAMED = 10


@dataclass(frozen=True)
class Status:
    """What a store tells.

    Attributes
    ----------
    function : str
        Its name.
    version : str
        Of gradflow, when the store was made.
    asked, done, failed : int
        Points last asked for; those of them that are there; those of these that failed.
    others : int
        Points there that were not asked for the last time.
    errors : list of (str, str)
        Points that failed, and what was raised.
    flaws : list of Flaw
        Entries that are damaged, foreign or unfinished, and will be computed again.
    running : str or None
        Who is at work.
    seconds : float
        Of all points together.
    age : float or None
        Seconds since a point was last added.
    rate : float or None
        Points a second in the last sitting.
    """

    function: str
    version: str
    asked: int
    done: int
    failed: int
    others: int
    errors: list[tuple[str, str]]
    flaws: list[Flaw]
    running: str | None
    seconds: float
    age: float | None
    rate: float | None

    @property
    def left(self) -> int:
        """Points that are not there."""
        return self.asked - self.done

    def text(self) -> str:
        """Return some lines."""
        lines = [f"{self.function}, gradflow {self.version}"]
        failures = f" ({self.failed} failed)" if self.failed else ""
        lines.append(f"{self.done} of {self.asked} points done{failures}, {self.left} left")
        if self.others:
            lines.append(f"{self.others} more points, not asked for the last time")
        lines.append(f"running: {self.running}" if self.running else "not running")
        if self.age is not None:
            lines.append(f"last point {span(self.age)} ago, {span(self.seconds)} of computing")
        if self.rate:
            left = f", {span(self.left / self.rate)} left" if self.running and self.left else ""
            lines.append(f"{self.rate:.3g} points/s in the last sitting{left}")
        lines += [f"failed: {label}: {error}" for label, error in self.errors[:_NAMED]]
        if len(self.errors) > _NAMED:
            lines.append(f"failed: and {len(self.errors) - _NAMED} more")
        lines += [f"to be computed again: {flaw}" for flaw in self.flaws[:_NAMED]]
        if len(self.flaws) > _NAMED:
            lines.append(f"to be computed again: and {len(self.flaws) - _NAMED} more")
        return "\n".join(lines)


def status_of(folder: str | os.PathLike[str]) -> Status:
    """Read a store, without changing it.

    Raises
    ------
    ValueError
        If the folder is no store.
    """
    where = Path(folder)
    segments = segments_of(where)
    header = header_of(where)
    if header is None and not segments:
        raise fail("DIR", str(folder), "is no store of a sweep", "pass what was given as store=")
    running = held_by(where)
    found = contents_of(where, None if header is None else header.digest)
    flaws = [f for f in found.flaws if not (running and f.reason == "unfinished")]
    if header is None:
        flaws.insert(0, Flaw("sweep.json", "missing or damaged", label="the header"))
    asked = asked_of(where) or list(found.entries)
    there = [found.entries[key] for key in asked if key in found.entries]
    errors = [(e.label, e.outcome.error) for e in there if e.outcome.error]
    age, rate = _sitting(segments)
    return Status(
        header.name if header else "unknown function",
        str(header.told.get("gradflow")) if header else "unknown",
        len(asked), len(there), len(errors), len(found.entries) - len(there), errors, flaws,
        running, sum(e.outcome.seconds for e in found.entries.values()), age, rate,
    )  # fmt: skip


def _sitting(segments: list[Path]) -> tuple[float | None, float | None]:
    """Seconds since the last point, and points a second in the last sitting."""
    from gradflow.sweeps.segments import Entry, scan

    if not segments:
        return None, None
    last = segments[-1]
    told, entries = last.stat(), [one for one in scan(last) if isinstance(one, Entry)]
    began = min((one.written for one in entries), default=told.st_mtime)
    took = told.st_mtime - began
    rate = (len(entries) - 1) / took if len(entries) > 1 and took > 0 else None
    return time.time() - told.st_mtime, rate


__all__ = ["Status", "status_of"]
