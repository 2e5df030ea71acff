"""Which solver for my flow: the cheapest honest one, from a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradflow.benchmarking.row import Outcome, Row
from gradflow.validation import check_positive

if TYPE_CHECKING:
    from gradflow.benchmarking.table import WorkPrecision

#: What the package takes when nothing is asked for.
AUTO = "auto"
#: Within this factor of the fastest, seconds are taken for equal.
CLOSE = 1.3


@dataclass(frozen=True)
class Best:
    """The fastest to an error, on a problem or over the problems of a tag.

    Attributes
    ----------
    of : str
        The problem or the tag.
    error : float
        What was to be reached.
    solver, setting : str
        Empty where none did. Of a tag: the least geometric mean over its problems, of those that
        reached it on all.
    seconds : float
        CPU seconds, for a tag the geometric mean.
    close : tuple of str
        Others within a factor 1.3.
    auto : float
        How many times as long ``integrator="auto"`` took; infinite where it did not reach it, NaN
        where it was not tried.
    liars : tuple of str
        Those that claimed a wrong state on the problem, or on one of the tag's, at any setting;
        none of them is advised.
    """

    of: str
    error: float
    solver: str = ""
    setting: str = ""
    seconds: float = math.nan
    close: tuple[str, ...] = ()
    auto: float = math.nan
    liars: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """The answers, by tag and by problem."""

    by_tag: tuple[Best, ...]
    by_problem: tuple[Best, ...]

    def __str__(self) -> str:
        parts = []
        for heading, several in (("flow", self.by_tag), ("problem", self.by_problem)):
            lines = [(heading, "error", "solver", "CPU s", "auto", "close to it", "not to trust"),
                     *map(_cells, several)]  # fmt: skip
            widths = [max(len(line[j]) for line in lines) for j in range(6)]
            parts.append("\n".join(
                "  ".join((*(t.ljust(w) for t, w in zip(line, widths, strict=False)), line[6]))
                .rstrip() for line in lines
            ))  # fmt: skip
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """The answer by tag, as a table for a README."""
        head = ("your flow is", "to an error of", "take", "CPU s", "auto takes", "close to it",
                "claims what is not so")  # fmt: skip
        rows = [head, ("---",) * len(head), *map(_cells, self.by_tag)]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(best: Best) -> tuple[str, ...]:
    if math.isnan(best.auto):
        auto = ""
    else:
        auto = "does not" if math.isinf(best.auto) else f"×{best.auto:.2g}"
    seconds = "" if math.isnan(best.seconds) else f"{best.seconds:.2g}"
    return (
        best.of, f"{best.error:.0e}", f"{best.solver or 'none reached it'} {best.setting}".strip(),
        seconds, auto, ", ".join(best.close), ", ".join(best.liars),
    )  # fmt: skip


def advise(table: WorkPrecision, errors: Sequence[float] = (1e-3, 1e-6)) -> Advice:
    """The fastest honest solver to each error, by problem and by tag.

    A solver counts with its cheapest row whose error is at most that; one that was dishonest on a
    problem at any setting is not advised for it.
    """
    levels = [check_positive("errors", error) for error in errors]
    names = [str(problem["name"]) for problem in table.problems]
    by_problem = tuple(_on_problem(table, name, level) for name in names for level in levels)
    tags: dict[str, list[str]] = {}
    for problem in table.problems:
        own = problem["tags"]
        assert isinstance(own, Sequence)
        for tag in own:
            tags.setdefault(str(tag), []).append(str(problem["name"]))
    by_tag = tuple(
        _on_tag(table, tag, tags[tag], level) for tag in sorted(tags) for level in levels
    )
    return Advice(by_tag, by_problem)


def _cheapest(table: WorkPrecision, problem: str, level: float) -> tuple[dict[str, Row], set[str]]:
    """By solver, the cheapest row that reaches a level; and who was dishonest."""
    rows = table.where(problem=problem).rows
    liars = {row.solver for row in rows if row.outcome == Outcome.DISHONEST}
    found: dict[str, Row] = {}
    for row in rows:
        bound = row.error if row.resolved else row.error + row.reference_error
        if row.outcome != Outcome.REACHED or not bound <= level or row.solver in liars:
            continue
        if row.solver not in found or row.cpu_seconds < found[row.solver].cpu_seconds:
            found[row.solver] = row
    return found, liars


def _on_problem(table: WorkPrecision, problem: str, level: float) -> Best:
    found, liars = _cheapest(table, problem, level)
    tried = any(row.solver == AUTO for row in table.where(problem=problem))
    seconds = {name: row.cpu_seconds for name, row in found.items()}
    best = _best(problem, level, seconds, tried, liars)
    return best if not best.solver else Best(
        **{**vars(best), "setting": found[best.solver].setting}
    )  # fmt: skip


def _on_tag(table: WorkPrecision, tag: str, problems: list[str], level: float) -> Best:
    several = [_cheapest(table, problem, level) for problem in problems]
    liars = set().union(*(lied for _, lied in several))
    everywhere = set.intersection(*(set(found) for found, _ in several)) - liars
    seconds = {
        name: statistics.geometric_mean([found[name].cpu_seconds for found, _ in several])
        for name in everywhere
    }
    tried = any(row.solver == AUTO for row in table)
    return _best(tag, level, seconds, tried, liars)


def _best(
    of: str, level: float, seconds: dict[str, float], tried: bool, liars: Iterable[str]
) -> Best:
    told = tuple(sorted(liars))
    if not seconds:
        return Best(of, level, auto=math.inf if tried else math.nan, liars=told)
    solver = min(seconds, key=lambda name: seconds[name])
    least = seconds[solver]
    close = tuple(
        name for name in sorted(seconds, key=lambda name: seconds[name])
        if name != solver and seconds[name] <= CLOSE * least
    )  # fmt: skip
    auto = math.nan
    if tried:
        auto = seconds[AUTO] / least if AUTO in seconds else math.inf
    return Best(of, level, solver, "", least, close, auto, told)
