"""The loop of a sweep: points are computed here and elsewhere until all are done."""

from __future__ import annotations

import threading
import time

from gradflow.sweeps.board import Board
from gradflow.sweeps.compute import Function, compute
from gradflow.sweeps.outcome import Outcome
from gradflow.sweeps.team import Team
from gradflow.sweeps.work import Work

#: Seconds between two looks of the thread that looks after processes and the line, and of this one
#: where others compute.
_LOOK, _PAUSE = 0.1, 0.01
#: Seconds that other processes have to end what they are at.
_GRACE = 2.0


def run(fn: Function, work: Work, team: Team, board: Board) -> str | None:
    """Compute points until none is left or it is time to end.

    Returns
    -------
    str or None
        Why it ended before all points were computed: "interrupted" or "max_seconds".
    """
    with board, team, _Looking(board, team):
        while not work.over and board.over() is None:
            if team.here:
                _compute_here(fn, work, board, team)
            else:
                time.sleep(_PAUSE)
            board.tell()
        team.close(0.0 if work.over else _GRACE)
        board.tell()
    return None if work.over else board.over()


def _compute_here(fn: Function, work: Work, board: Board, team: Team) -> None:
    numbers = work.take(team.size)
    if not numbers:
        time.sleep(_PAUSE)
        return
    came: list[Outcome] = []
    try:
        with board.point():
            for outcome in compute(fn, [work.grid.point(n) for n in numbers]):
                came.append(outcome)
    except KeyboardInterrupt:
        board.interrupt()
    work.keep(numbers, came)
    team.may_hire()


class _Looking:
    """A thread that looks after other processes and shows the line, while points are computed."""

    def __init__(self, board: Board, team: Team) -> None:
        self._board, self._team, self._end = board, team, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(_LOOK):
            self._team.tend()
            self._board.show()


__all__ = ["run"]
