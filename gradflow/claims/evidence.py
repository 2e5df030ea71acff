"""What weighing a claim leaves behind: evidence, verdicts, and tables of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from gradflow.claims.statement import Statement
from gradflow.numerics.format import number
from gradflow.validation import check_choice, fail

if TYPE_CHECKING:
    import xarray as xr


class Status(StrEnum):
    """Outcome of a claim; members compare equal to their names."""

    SUPPORTED = "SUPPORTED"
    VIOLATED = "VIOLATED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    ERROR = "ERROR"


def _of(path: str) -> property:
    """A property that reads what a part of the object has."""
    return property(attrgetter(path), doc=f"The ``{path}``.")


class Row(NamedTuple):
    """One component of the evidence; ``predicted`` is NaN where a claim predicts no number."""

    label: str
    predicted: float
    measured: float
    error: float


_NONE = np.zeros(0)


@dataclass(frozen=True, eq=False)
class Table(Sequence[Row]):
    """All components that were compared.

    Attributes
    ----------
    labels : tuple of str, length n
    predicted, measured, error : ndarray, shape (n,)
        ``error`` is the numerical error of ``measured``, in the unit of the claim's tolerance
        (relative or absolute).
    """

    labels: tuple[str, ...] = ()
    predicted: np.ndarray = field(default_factory=lambda: _NONE)
    measured: np.ndarray = field(default_factory=lambda: _NONE)
    error: np.ndarray = field(default_factory=lambda: _NONE)

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Table: ...
    def __getitem__(self, index: int | slice) -> Row | Table:
        columns = self.predicted[index], self.measured[index], self.error[index]
        if isinstance(index, slice):
            return Table(self.labels[index], *columns)
        return Row(self.labels[index], *map(float, columns))

    def __str__(self) -> str:
        shown = [(r.label, *(number(x, 8) for x in r[1:3]), number(r.error, 2)) for r in self]
        return _columns(("component", "predicted", "measured", "error"), shown)

    def to_xarray(self) -> xr.Dataset:
        """The columns over the dimension ``component``."""
        import xarray as xr

        columns = {name: getattr(self, name) for name in ("predicted", "measured", "error")}
        return xr.Dataset(
            {name: ("component", column) for name, column in columns.items()},
            {"component": list(self.labels)},
        )


@dataclass(frozen=True)
class Evidence:
    """A decision and the numbers it rests on.

    Attributes
    ----------
    status : Status
    message : str
        Why, in words.
    table : Table
        All components; empty where nothing was measured.
    deciding : int or None
        The row that decides: the worst of its kind.
    tolerance : float
    details : mapping
        JSON-able.
    """

    status: Status
    message: str = ""
    table: Table = field(default_factory=Table)
    deciding: int | None = None
    tolerance: float = math.nan
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        """The row that decides; NaN where there is none."""
        if self.deciding is None:
            return Row("", math.nan, math.nan, math.nan)
        return self.table[self.deciding]


@dataclass(frozen=True)
class ControlVerdict:
    """What came of the negative control.

    Attributes
    ----------
    description : str
    evidence : Evidence
    expected : tuple of Status
        What it must come out as.
    """

    description: str
    evidence: Evidence
    expected: tuple[Status, ...]

    status = _of("evidence.status")
    message = _of("evidence.message")
    predicted = _of("evidence.row.predicted")
    measured = _of("evidence.row.measured")

    @property
    def as_expected(self) -> bool:
        """Whether it failed as it must."""
        return self.evidence.status in self.expected


@dataclass(frozen=True)
class Verdict:
    """The result of weighing one claim.

    Attributes
    ----------
    claim : Statement
        What was claimed.
    evidence : Evidence
        The decision, with all components.
    control : ControlVerdict or None
        None where it was not run: under a perturbation, or when a hypothesis fails.
    seconds : float
        Wall-clock time; a trajectory shared by several claims counts for the first of them.
    hypotheses : tuple of str
        Names of the hypotheses that were checked.
    perturb : float or None

    Notes
    -----
    ``id``, ``title``, … are the statement's; ``predicted``, ``measured`` and ``error`` those of the
    deciding row, NaN where there is none.
    """

    claim: Statement
    evidence: Evidence
    control: ControlVerdict | None = None
    seconds: float = math.nan
    hypotheses: tuple[str, ...] = ()
    perturb: float | None = None

    id = _of("claim.id")
    source = _of("claim.source")
    title = _of("claim.title")
    statement = _of("claim.statement")
    provenance = _of("claim.provenance")
    kind = _of("claim.kind")
    citation = _of("claim.citation")
    status = _of("evidence.status")
    message = _of("evidence.message")
    predicted = _of("evidence.row.predicted")
    measured = _of("evidence.row.measured")
    error = _of("evidence.row.error")
    tolerance = _of("evidence.tolerance")
    details = _of("evidence.details")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; numbers that are not finite become None."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in _SHOWN}
        control = self.control
        if control is not None:
            shown["control"] = {name: getattr(control, name) for name in _SHOWN_OF_CONTROL}
        table = self.evidence.table
        shown["evidence"] = {name: getattr(table, name) for name in _COLUMNS}
        return _jsonable(shown)


_SHOWN = (
    "id", "source", "title", "statement", "provenance", "kind", "citation", "status", "predicted",
    "measured", "error", "tolerance", "seconds", "message", "hypotheses", "control", "perturb",
    "details",
)  # fmt: skip
_COLUMNS = ("labels", "predicted", "measured", "error")
_SHOWN_OF_CONTROL = ("description", "status", "as_expected", "predicted", "measured", "message")


class Verdicts(Sequence[Verdict]):
    """Verdicts in the order of registration: a list that filters, and prints as a table.

    >>> found = gf.verify("lin2021*")
    >>> found.status("VIOLATED", "ERROR")
    >>> found["lin2021faster/norm-exponent-N3"].evidence.table.to_xarray()
    """

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        self._verdicts = tuple(verdicts)

    def __len__(self) -> int:
        return len(self._verdicts)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self._verdicts)

    @overload
    def __getitem__(self, index: int | str) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice) -> Verdicts: ...
    def __getitem__(self, index: int | str | slice) -> Verdict | Verdicts:
        if isinstance(index, str):
            found = [v for v in self if v.id == index]
            if not found:
                raise KeyError(index)
            return found[0]
        if isinstance(index, slice):
            return Verdicts(self._verdicts[index])
        return self._verdicts[index]

    def __repr__(self) -> str:
        rows = [
            (v.id, number(v.predicted, 6), number(v.measured, 6), number(v.error, 2),
             number(v.tolerance, 2), v.provenance, str(v.status))
            for v in self
        ]  # fmt: skip
        headings = ("claim", "predicted", "measured", "error", "tolerance", "provenance", "status")
        tally = ", ".join(f"{n} {name}" for name, n in self.counts().items()) or "no verdicts"
        return _columns(headings, rows) + f"\n{tally}"

    def status(self, *names: str) -> Verdicts:
        """The verdicts that came out as one of these.

        Raises
        ------
        ValueError
            A name that is no status; none.
        """
        if not names:
            raise fail("names", names, "is empty", "pass for example 'VIOLATED'")
        chosen = [Status(check_choice("status", name, tuple(map(str, Status)))) for name in names]
        return Verdicts([v for v in self if v.status in chosen])

    def counts(self) -> dict[str, int]:
        """Number of verdicts by status, in the order of `Status`, zeros left out."""
        tally = {str(s): sum(v.status is s for v in self) for s in Status}
        return {name: n for name, n in tally.items() if n}

    def to_xarray(self) -> xr.Dataset:
        """Numbers and labels over the dimension ``claim``."""
        import xarray as xr

        names = ("predicted", "measured", "error", "tolerance", "seconds")
        labels = ("status", "kind", "provenance")
        columns = {name: [float(getattr(v, name)) for v in self] for name in names}
        columns |= {name: [str(getattr(v, name)) for v in self] for name in labels}
        return xr.Dataset(
            {name: ("claim", column) for name, column in columns.items()},
            {"claim": [v.id for v in self]},
        )


def _columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under headings, the first and the last two to the left, numbers to the right."""
    table = [headings, *rows]
    width = [max(len(row[i]) for row in table) for i in range(len(headings))]
    right = range(1, 5)
    return "\n".join(
        "  ".join(
            cell.rjust(width[i]) if i in right else cell.ljust(width[i])
            for i, cell in enumerate(row)
        ).rstrip()
        for row in table
    )


def _jsonable(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, (np.floating, float)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, StrEnum):
        return str(value)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)
