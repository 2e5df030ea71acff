"""The points of one sweep that are left, handed out in shares to whoever computes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from gradflow.sweeps.errors import SweepError
from gradflow.sweeps.grid import Grid
from gradflow.sweeps.outcome import Outcome, failed
from gradflow.sweeps.room import Room
from gradflow.sweeps.store import Store, reason_of

#: Seconds that a share of the points should take, and the most points in it.
_SHARE, _MOST = 0.1, 256
#: Times that a point may end the process that computes it alone.
STRIKES = 3


class Work:
    """Hands out points and keeps what becomes of them; from any thread.

    Parameters
    ----------
    grid : Grid
    keys : list of str
        Of all points; [] without a store.
    store : Store or None
    retry : bool
        Whether points that failed are computed again.

    Attributes
    ----------
    done : dict
        Outcomes by number.
    error : SweepError or None
        Why the sweep cannot go on.
    warned : dict
        Points by what they warned of: module and name of its class, and text.
    notes : list of str
        What is to be told in the end.
    """

    def __init__(self, grid: Grid, keys: list[str], store: Store | None, retry: bool) -> None:
        self.grid, self.keys, self._store = grid, keys, store
        self.done: dict[int, Outcome] = {}
        if store is not None:
            known = {number: store.entries.get(key) for number, key in enumerate(keys)}
            self.done = {n: o for n, o in known.items() if o and not (retry and o.error)}
        self.found = len(self.done)
        self.error: SweepError | None = None
        self._waiting = deque(n for n in range(grid.size) if n not in self.done)
        #: What was out when processes died: to be computed alone, each with its strikes.
        self._suspects: deque[int] = deque()
        self._strikes: dict[int, int] = {}
        self._lock, self._stopped = threading.RLock(), False
        self._seconds, self._counted, self._computed = 0.0, 0, 0
        self._failed = sum(bool(outcome.error) for outcome in self.done.values())
        self.notes: list[str] = []
        self.warned: dict[tuple[str, str, str], list[int]] = {}
        self._room = None if store is not None else Room(grid.size)

    # ------------------------------------------------------------------------------ counts
    @property
    def total(self) -> int:
        """All points."""
        return self.grid.size

    @property
    def failed(self) -> int:
        """Points that failed."""
        return self._failed

    @property
    def computed(self) -> int:
        """Points computed in this sitting."""
        return self._computed

    @property
    def waiting(self) -> int:
        """Points that nobody is at."""
        return len(self._waiting) + len(self._suspects)

    @property
    def suspected(self) -> bool:
        """Whether points wait to be computed alone."""
        return bool(self._suspects)

    @property
    def over(self) -> bool:
        """Whether all is done, or it cannot go on."""
        return self.error is not None or len(self.done) == self.total

    @property
    def pace(self) -> float:
        """Seconds of a point, the first one (which may compile) apart."""
        return self._seconds / self._counted if self._counted else 0.0

    # ------------------------------------------------------------------------------ handing out
    def take(self, hands: int) -> list[int]:
        """Take a share of the points, where ``hands`` are at work."""
        with self._lock:
            if self._stopped or self.error is not None or not self._waiting:
                return []
            count = int(_SHARE / self.pace) if self.pace > 0 else 1 if not self._counted else _MOST
            count = max(1, min(count, _MOST, len(self._waiting) // (2 * hands)))
            return [self._waiting.popleft() for _ in range(count)]

    def take_suspect(self) -> list[int]:
        """Take a point that is to be computed alone in a process of its own."""
        with self._lock:
            if self._stopped or self.error is not None or not self._suspects:
                return []
            return [self._suspects.popleft()]

    def put_back(self, numbers: Iterable[int]) -> None:
        """Take back points that were not computed."""
        with self._lock:
            self._waiting.extendleft(reversed(list(numbers)))

    def suspect(self, numbers: Iterable[int]) -> None:
        """Take back points whose process has died, with others at work beside."""
        with self._lock:
            self._suspects.extend(numbers)

    def strike(self, number: int, how: str) -> None:
        """Take back a point that has ended a process all alone."""
        with self._lock:
            self._strikes[number] = self._strikes.get(number, 0) + 1
            if self._strikes[number] < STRIKES:
                self._suspects.append(number)
                return
        self.condemn(number, f"its process died {STRIKES} times ({how})")

    def condemn(self, number: int, said: str) -> None:
        """Keep that a point ends every process that computes it."""
        self.keep([number], [failed(f"{said}: killed, out of memory, or a crash")])

    def end_with(self, problem: str) -> None:
        """Go on no more."""
        self.error = self.error or SweepError(problem)

    def note(self, text: str) -> None:
        """Have something told when the sweep has ended."""
        self.notes.append(text)

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped = True

    # ------------------------------------------------------------------------------ keeping
    def keep(self, numbers: list[int], outcomes: list[Outcome]) -> None:
        """Keep what was computed: the first of ``numbers``; the rest was not reached."""
        with self._lock:
            self.put_back(numbers[len(outcomes) :])
            for number, outcome in zip(numbers, outcomes, strict=False):
                if number not in self.done:
                    self._keep(number, outcome)

    def _keep(self, number: int, outcome: Outcome) -> None:
        # (what the disk did not take is still returned)
        self.done[number] = outcome
        self._computed += 1
        self._failed += bool(outcome.error)
        if self._computed > 1:
            self._seconds, self._counted = self._seconds + outcome.seconds, self._counted + 1
        for told in outcome.warnings:
            self.warned.setdefault(told, []).append(number)
        if self._store is None:
            self._check_room(outcome)
            return
        if self.error is not None:
            return
        try:
            key, label = self.keys[number], self.grid.label(number)
            self.done[number] = self._store.append(key, label, outcome)
        except OSError as error:
            self.end_with(
                f"the store {str(self._store.folder)!r} cannot be written: {reason_of(error)}; the "
                f"{len(self._store.entries)} points in it are whole: make room and call gf.sweep "
                "again, it goes on from there"
            )

    def _check_room(self, outcome: Outcome) -> None:
        assert self._room is not None
        if any(piece.kind == "path" for piece in outcome.pieces):
            self.end_with(
                "a point returned a path, which is kept in a file: pass store= (a folder)"
            )
        problem = self._room.add(outcome.size)
        if problem:
            self.end_with(problem)


__all__ = ["STRIKES", "Work"]
