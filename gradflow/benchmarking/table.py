"""The table of a measurement: rows that print, filter, are saved, drawn, and give advice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradflow.benchmarking.row import DISHONEST, Outcome, Row
from gradflow.numerics.files import write_text
from gradflow.validation import check_choice, fail

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from gradflow.benchmarking.advice import Advice

_FORMAT = "gradflow work-precision 1"
_HEADINGS = (
    "solver", "setting", "outcome", "error", "rhs", "Jacobians", "steps", "CPU s", "compile s",
)  # fmt: skip


@dataclass(frozen=True)
class WorkPrecision(Sequence[Row]):
    """What `gf.work_precision` found.

    Attributes
    ----------
    rows : tuple of Row
    problems : tuple of dict
        ``name, tags, about, risk, size, t_end, references`` of each; a reference has ``name,
        error`` (its distance to the nearest other; None where it was not found), ``message``.
    about : dict
        Date, machine, load before and after, versions, limits.
    """

    rows: tuple[Row, ...]
    problems: tuple[Mapping[str, object], ...]
    about: Mapping[str, object]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):  # type: ignore[override]
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    # ------------------------------------------------------------------------------ parts
    def where(
        self, *, problem: str | None = None, solver: str | None = None, outcome: str | None = None
    ) -> WorkPrecision:
        """The rows of a problem, of a solver, of an outcome."""
        if outcome is not None:
            check_choice("outcome", outcome, [str(known) for known in Outcome])
        wanted = (("problem", problem), ("solver", solver), ("outcome", outcome))
        rows = [
            row for row in self.rows
            if all(value is None or getattr(row, key) == value for key, value in wanted)
        ]  # fmt: skip
        return replace(self, rows=tuple(rows))

    @property
    def dishonest(self) -> WorkPrecision:
        """The rows in which a solver claims what is not so."""
        return self.where(outcome=Outcome.DISHONEST)

    def with_row(self, row: Row) -> WorkPrecision:
        """The table with one more row."""
        return replace(self, rows=(*self.rows, row))

    def with_problem(self, problem: Mapping[str, object]) -> WorkPrecision:
        """The table with one more problem."""
        return replace(self, problems=(*self.problems, problem))

    def with_about(self, **more: object) -> WorkPrecision:
        """The table with more said of it."""
        return replace(self, about={**self.about, **more})

    # ------------------------------------------------------------------------------ as text
    def __str__(self) -> str:
        blocks = [_block(problem, self.where(problem=str(problem["name"])).rows)
                  for problem in self.problems]  # fmt: skip
        return "\n\n".join([*blocks, self.summary()])

    def summary(self) -> str:
        """How many rows ended how; and every dishonest one."""
        counts = {str(o): sum(row.outcome == o for row in self.rows) for o in Outcome}
        lines = [", ".join(f"{n} {name}" for name, n in counts.items() if n)]
        lies = [
            f"  {row.solver} at {row.setting} on {row.problem}: success, error {row.error:.1e}"
            for row in self.dishonest
        ]
        if lies:
            lines.append(f"DISHONEST (success, the error over {DISHONEST:g} times what was asked):")
            lines += lies
        return "\n".join(lines)

    def markdown(self) -> str:
        """The tables for a README, a dishonest success in bold."""
        parts = []
        for problem in self.problems:
            rows = self.where(problem=str(problem["name"])).rows
            parts.append("\n".join([
                f"### {problem['name']}", "", title(problem), "",
                "| " + " | ".join(_HEADINGS) + " |", "|" + "---|" * len(_HEADINGS),
                *("| " + " | ".join(_marked(row, cells(row))) + " |" for row in rows),
            ]))  # fmt: skip
        return "\n\n".join(parts)

    # ------------------------------------------------------------------------------ as data
    def to_records(self) -> list[dict[str, object]]:
        """The rows as dicts of JSON's types (``pandas.DataFrame`` reads them)."""
        return [row.to_record() for row in self.rows]

    def to_json(self) -> str:
        """Everything, as JSON; `from_json` is the inverse."""
        content = {"format": _FORMAT, "about": self.about, "problems": self.problems,
                   "rows": self.to_records()}  # fmt: skip
        return json.dumps(_finite(content), allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON, whole or not at all."""
        write_text(path, self.to_json())

    @classmethod
    def from_json(cls, text: str) -> WorkPrecision:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If it is something else.
        """
        fix = "pass the JSON that gf.work_precision(...).to_json() or gradflow bench --json wrote"
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise fail("text", content["format"], "is another format", fix)
            rows = tuple(Row.from_record(record) for record in content["rows"])
            return cls(rows, tuple(content["problems"]), content["about"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise fail("text", text[:60], f"is no table ({type(error).__name__})", fix) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WorkPrecision:
        """Read a file that `save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    def to_xarray(self) -> xr.Dataset:
        """The columns over the dimension ``row``."""
        import xarray as xr

        names = list(Row.__dataclass_fields__)
        columns = {name: [getattr(row, name) for row in self.rows] for name in names}
        columns["outcome"] = [str(outcome) for outcome in columns["outcome"]]
        about = {key: json.dumps(_finite(value)) for key, value in self.about.items()}
        data = {name: ("row", np.array(values)) for name, values in columns.items()}
        return xr.Dataset(data, attrs=about)

    # ------------------------------------------------------------------------------ read
    def plot(self) -> Figure:
        """Error against CPU seconds and against evaluations, a panel a problem."""
        from gradflow.benchmarking.picture import draw

        return draw(self)

    def advise(self, errors: Sequence[float] = (1e-4, 1e-7)) -> Advice:
        """Which solver reached an error with the least time, by problem and by tag."""
        from gradflow.benchmarking.advice import advise

        return advise(self, errors)


def title(problem: Mapping[str, object]) -> str:
    """What a problem is, and how well its end is known."""
    tags = problem["tags"]
    assert isinstance(tags, Sequence)
    size, t_end = problem["size"], problem["t_end"]
    known = [", ".join(tags), f"{size} unknowns, to t = {t_end:g}"]
    said = f"{problem['about'] or problem['risk']} ({'; '.join(filter(None, known))})"
    return f"{said}. {_references(problem)}"


def _references(problem: Mapping[str, object]) -> str:
    found = problem["references"]
    assert isinstance(found, Sequence)
    said = [
        one["name"] + (f" (±{one['error']:.0e})" if one["error"] is not None
                       else f" ({one['message'] or 'alone'})")
        for one in found
    ]  # fmt: skip
    return "References: " + ", ".join(said)


def error_text(row: Row) -> str:
    """The error; with "≤" where the reference is no better known, "~" where nothing confirms it."""
    if math.isnan(row.error):
        where = "" if math.isnan(row.stopped_at) else f"at t = {row.stopped_at:.3g}"
        return where
    if math.isnan(row.reference_error) and not math.isinf(row.error):
        return f"~ {row.error:.1e}"
    if row.resolved or math.isinf(row.error):
        return f"{row.error:.1e}"
    return f"≤ {row.error + row.reference_error:.1e}"


def cells(row: Row) -> tuple[str, ...]:
    """A row as text."""
    count = lambda value: "" if math.isnan(value) else f"{value:,.0f}"
    seconds = lambda value: "" if math.isnan(value) else f"{value:.3g}"
    return (
        row.solver, row.setting, str(row.outcome), error_text(row), count(row.rhs),
        count(row.jacobians), count(row.steps), seconds(row.cpu_seconds),
        seconds(row.compile_seconds),
    )  # fmt: skip


def _marked(row: Row, texts: tuple[str, ...]) -> tuple[str, ...]:
    if row.outcome != Outcome.DISHONEST:
        return texts
    return tuple(f"**{text}**" if text else "" for text in texts)


def _block(problem: Mapping[str, object], rows: Sequence[Row]) -> str:
    lines = [_HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[j]) for line in lines) for j in range(len(_HEADINGS))]
    left = 3  # solver, setting and outcome are words
    shown = [
        "  ".join(text.ljust(w) if j < left else text.rjust(w)
                  for j, (text, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]  # fmt: skip
    return "\n".join([f"{problem['name']}: {title(problem)}", *(line.rstrip() for line in shown)])


def _finite(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value
