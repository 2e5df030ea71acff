"""Run a solver on a problem, some times, and count: in this process."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from gradflow.benchmarking.field import Field, Programs, TimeUp
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.row import Outcome, Row
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt

#: Calls that take less than this together are repeated, up to so many times as often.
_SHORT_SECONDS, _TIMES_AS_OFTEN = 0.3, 3


@dataclass(frozen=True)
class Task:
    """A solver on a problem, at some settings.

    Attributes
    ----------
    problem : Problem
    solver : AbstractSolver
    settings : tuple of float
    repeats : int
        Calls of which the median is taken; fewer where they take long, more where short.
    time_limit : float
        CPU seconds of one call.
    """

    problem: Problem
    solver: AbstractSolver
    settings: tuple[float, ...]
    repeats: int
    time_limit: float

    def blank(self, setting: float) -> Row:
        """A row of which nothing is known yet."""
        label, asked = self.solver.label(setting), self.solver.asked(setting)
        return Row(self.problem.name, self.solver.name, label, setting, asked)


@dataclass(frozen=True)
class Ran:
    """A row that is not judged yet, and the end state that was claimed, if one was."""

    row: Row
    y: np.ndarray | None = None


def run_task(task: Task, beat: Callable[[], None] = lambda: None) -> Iterator[Ran]:
    """The runs of a task, one a setting; after a time-out the others are not tried.

    ``beat`` is called after every call of the solver.
    """
    for setting, reason in not_tried(task).items():
        yield Ran(replace(task.blank(setting), **reason))
        if setting == task.settings[-1]:
            return
    programs = Programs(task.problem)
    late: str | None = None
    for setting in task.settings:
        if late is not None:
            said = f"not tried: timed out at {late}"
            yield Ran(replace(task.blank(setting), outcome=Outcome.TIME_OUT, message=said))
            continue
        ran = _run(task, programs, setting, beat)
        if ran.row.outcome == Outcome.TIME_OUT:
            late = ran.row.setting
        yield ran


def not_tried(task: Task) -> dict[float, dict]:
    """Why no setting of a task can be tried; empty where they can."""
    missing = task.solver.missing()
    if missing is not None:
        reason = {"outcome": Outcome.NOT_INSTALLED, "message": f"no module {missing}"}
        return dict.fromkeys(task.settings, reason)
    refusal = task.solver.refusal(task.problem)
    if refusal is not None:
        reason = {"outcome": Outcome.NOT_APPLICABLE, "message": refusal}
        return dict.fromkeys(task.settings, reason)
    return {}


def _run(task: Task, programs: Programs, setting: float, beat: Callable[[], None]) -> Ran:
    calls: list[_Call] = []
    while not _is_known(calls, task.repeats):
        field = Field(programs, task.time_limit)
        wall, cpu = time.perf_counter(), time.process_time()
        attempt = _attempt(task, field, setting)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        calls.append(_Call(attempt, field, wall, cpu))
        beat()
        # (what takes long is not repeated; compiling does not count)
        spent = sum(task.time_limit - call.field.left for call in calls)
        if attempt.y is None or spent > task.time_limit:
            break
    first = calls[0]
    said, counts = first.attempt, first.attempt.counts
    row = replace(
        task.blank(setting), runs=len(calls), **_times(calls),
        rhs=float(first.field.rhs if counts.rhs is None else counts.rhs),
        jacobians=float(first.field.jacobians if counts.jacobians is None else counts.jacobians),
        steps=float(counts.steps), message=said.message, stopped_at=said.t,
    )  # fmt: skip
    if said.y is not None:
        return Ran(row, said.y)
    return Ran(replace(row, outcome=Outcome.TIME_OUT if said.timed_out else Outcome.FAILED))


def _is_known(calls: list[_Call], repeats: int) -> bool:
    """Whether there are enough calls for a median: of short ones, which the machine disturbs more,
    there are more."""
    short = repeats > 1 and sum(call.cpu for call in calls[1:]) < _SHORT_SECONDS
    return len(calls) >= (_TIMES_AS_OFTEN * repeats if short else repeats)


@dataclass(frozen=True)
class _Call:
    """One call of a solver and what it took, compiling included."""

    attempt: Attempt
    field: Field
    wall: float
    cpu: float


def _times(calls: list[_Call]) -> dict[str, float]:
    """Seconds: of several calls the first, which compiles, is not one the median is taken of."""
    first = calls[0]
    if len(calls) == 1:
        compiling, cpu = first.field.compile_seconds
        return {"compile_seconds": compiling, "run_seconds": first.wall - compiling,
                "cpu_seconds": first.cpu - cpu}  # fmt: skip
    run = statistics.median(call.wall for call in calls[1:])
    cpu = statistics.median(call.cpu for call in calls[1:])
    return {"compile_seconds": max(first.wall - run, 0.0), "run_seconds": run, "cpu_seconds": cpu}


def _attempt(task: Task, field: Field, setting: float) -> Attempt:
    """One call; whatever goes wrong is what the solver says of it."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            attempt = task.solver.run(task.problem, field, setting)
    except TimeUp:
        return Attempt(None, "", True, field.t)
    except Exception as error:
        said = str(error).partition("\n")[0][:200]
        attempt = Attempt(None, f"{type(error).__name__}: {said}", t=field.t)
    if field.time_up:  # (some libraries do not pass on what a callback raises)
        return Attempt(None, "", True, field.t)
    return attempt
