"""Which solver for my flow: the cheapest honest one, from a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradflow.benchmarking.row import Outcome
from gradflow.integrators.driver import integrator_names
from gradflow.validation import check_positive

if TYPE_CHECKING:
    from gradflow.benchmarking.table import WorkPrecision

#: What the package takes when nothing is asked for.
AUTO = "auto"
#: Within this factor of the fastest, seconds are taken for equal.
CLOSE = 1.3
#: Errors that are asked about.
ERRORS = (1e-4, 1e-7)


@dataclass(frozen=True)
class Best:
    """The fastest to an error, on a problem or over the problems of a tag.

    Attributes
    ----------
    of : str
        The problem or the tag.
    error : float
        What was to be reached.
    solver : str
        Empty where none did. Of a tag: the least geometric mean of seconds over its problems, among
        those that reached the error on all of them.
    seconds : float
        CPU seconds; for a tag the geometric mean.
    close : tuple of str
        Others within a factor 1.3.
    own, own_seconds : str and float
        The fastest among the package's integrators, "auto" left out.
    auto_seconds : float
        Those of ``integrator="auto"``; infinite where it did not reach the error, NaN where it was
        not tried.
    own_work, auto_work : float
        Evaluations of the field and of its Jacobian, each of which counts as many as there are
        unknowns; the least of the rows that reach the error, summed over the problems.
    liars : tuple of str
        Those that claimed a wrong state on the problem, or on one of the tag's, at any setting;
        none of them is advised.
    """

    of: str
    error: float
    solver: str = ""
    seconds: float = math.nan
    close: tuple[str, ...] = ()
    own: str = ""
    own_seconds: float = math.nan
    auto_seconds: float = math.nan
    own_work: float = math.nan
    auto_work: float = math.nan
    liars: tuple[str, ...] = ()

    @property
    def auto_ratio(self) -> float:
        """How many times as long as the package's fastest "auto" took."""
        return self.auto_seconds / self.own_seconds

    @property
    def auto_agrees(self) -> bool:
        """Whether "auto" takes at most 1.3 times the seconds of the package's fastest."""
        return self.auto_ratio <= CLOSE


@dataclass(frozen=True)
class Advice:
    """The answers, by tag and by problem."""

    by_tag: tuple[Best, ...]
    by_problem: tuple[Best, ...]

    def __str__(self) -> str:
        parts = []
        for heading, several in (("flow", self.by_tag), ("problem", self.by_problem)):
            lines = [(heading, *_HEADINGS), *map(_cells, several)]
            widths = [max(len(line[j]) for line in lines) for j in range(len(lines[0]) - 1)]
            parts.append("\n".join(
                "  ".join((*(t.ljust(w) for t, w in zip(line, widths, strict=False)), line[-1]))
                .rstrip() for line in lines
            ))  # fmt: skip
        return "\n\n".join([*parts, *self.disagreements()])

    def disagreements(self) -> list[str]:
        """Where ``integrator="auto"`` is not the best of the package, a line each."""
        return [
            f"auto takes {best.auto_seconds:.2g} s and {best.auto_work:,.0f} evaluations on "
            f"{best.of} to an error of {best.error:.0e}, {best.own} {best.own_seconds:.2g} s and "
            f"{best.own_work:,.0f}"
            for best in self.by_problem
            if best.own and not math.isnan(best.auto_seconds) and not best.auto_agrees
        ]

    def markdown(self) -> str:
        """The answer by tag, as a table for a README."""
        head = ("your flow is", *_HEADINGS)
        rows = [head, ("---",) * len(head), *map(_cells, self.by_tag)]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


_HEADINGS = (
    "to an error of", "fastest", "CPU s", "close to it", "fastest of the package", "CPU s",
    "auto, CPU s", "claims what is not so",
)  # fmt: skip


def _cells(best: Best) -> tuple[str, ...]:
    def seconds(value: float) -> str:
        if math.isinf(value):
            return "does not reach it"
        return "" if math.isnan(value) else f"{value:.2g}"

    return (
        best.of, f"{best.error:.0e}", best.solver or "none reached it", seconds(best.seconds),
        ", ".join(best.close), best.own, seconds(best.own_seconds), seconds(best.auto_seconds),
        ", ".join(best.liars),
    )  # fmt: skip


def advise(table: WorkPrecision, errors: Sequence[float] = ERRORS) -> Advice:
    """The fastest honest solver to each error, by problem and by tag.

    A solver counts with its cheapest row whose error is at most that; one that was dishonest on a
    problem at any setting is not advised for it.
    """
    levels = [check_positive("errors", error) for error in errors]
    names = [str(problem["name"]) for problem in table.problems]
    tags: dict[str, list[str]] = {}
    for problem in table.problems:
        own = problem["tags"]
        assert isinstance(own, Sequence)
        for tag in own:
            tags.setdefault(str(tag), []).append(str(problem["name"]))
    return Advice(
        tuple(_over(table, tag, tags[tag], level) for tag in sorted(tags) for level in levels),
        tuple(_over(table, name, [name], level) for name in names for level in levels),
    )


@dataclass(frozen=True)
class _Least:
    """The least seconds, and the least work, of a solver's rows that reach a level."""

    seconds: float = math.inf
    work: float = math.inf


def _reached(
    table: WorkPrecision, problem: str, level: float
) -> tuple[dict[str, _Least], set[str]]:
    """What it took to reach a level on a problem, by solver; and who was dishonest."""
    rows = table.where(problem=problem).rows
    liars = {row.solver for row in rows if row.outcome == Outcome.DISHONEST}
    sizes = {str(one["name"]): int(str(one["size"])) for one in table.problems}
    found: dict[str, _Least] = {}
    for row in rows:
        bound = row.error if row.resolved else row.error + row.reference_error
        if row.outcome == Outcome.REACHED and bound <= level and row.solver not in liars:
            least = found.get(row.solver, _Least())
            work = row.rhs + sizes[problem] * row.jacobians
            found[row.solver] = _Least(
                min(row.cpu_seconds, least.seconds), least.work if math.isnan(work) else
                min(work, least.work),
            )  # fmt: skip
    return found, liars


def _over(table: WorkPrecision, of: str, problems: list[str], level: float) -> Best:
    """The best over some problems."""
    several = [_reached(table, problem, level) for problem in problems]
    liars = set().union(*(lied for _, lied in several))
    everywhere = set.intersection(*(set(found) for found, _ in several)) - liars
    seconds = {
        name: statistics.geometric_mean([max(found[name].seconds, 1e-9) for found, _ in several])
        for name in everywhere
    }
    work = {name: sum(found[name].work for found, _ in several) for name in everywhere}
    order = sorted(seconds, key=lambda name: seconds[name])
    own = next((name for name in order if name in integrator_names()), "")
    tried = any(row.solver == AUTO and row.problem in problems for row in table)
    best = Best(
        of, level, own=own, own_seconds=seconds.get(own, math.nan),
        auto_seconds=seconds.get(AUTO, math.inf if tried else math.nan),
        own_work=work.get(own, math.nan), auto_work=work.get(AUTO, math.nan),
        liars=tuple(sorted(liars)),
    )  # fmt: skip
    if not order:
        return best
    least = seconds[order[0]]
    close = tuple(name for name in order[1:] if seconds[name] <= CLOSE * least)
    return replace(best, solver=order[0], seconds=least, close=close)
