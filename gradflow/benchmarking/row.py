"""One line of the table: what a solver was asked, what it said, and what was true."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum

import numpy as np

from gradflow.benchmarking.problem import error_between

#: A success whose error exceeds this many times what was asked is dishonest.
DISHONEST = 100.0
#: An error is resolved where the reference's own is at most this share of it.
RESOLVED = 0.1


class Outcome(StrEnum):
    """How a run ended."""

    REACHED = "reached"
    DISHONEST = "DISHONEST"
    FAILED = "failed"
    TIME_OUT = "time-out"
    NOT_INSTALLED = "not installed"
    NOT_APPLICABLE = "not applicable"
    UNJUDGED = "unjudged"


@dataclass(frozen=True)
class Row:
    """A solver on a problem at one setting.

    Attributes
    ----------
    problem, solver, setting : str
    value : float
        The setting as a number.
    asked : float
        The relative error asked for; NaN for solvers that promise none.
    outcome : Outcome
    error : float
        max |θ − θ_ref| / max |θ_ref| at the end, for those that claim to be there; infinite where
        what they claim is not finite.
    reference : str
        What the end was held against.
    reference_error : float
        By how much that differs from a second reference, of another kind.
    resolved : bool
        Whether the reference is good enough for ``error``; else all that is known is that the true
        one is at most error + reference_error, shown with "≤".
    rhs, jacobians, steps : float
        Evaluations of the field and of its Jacobian, accepted steps; NaN where not told.
    compile_seconds, run_seconds, cpu_seconds : float
        First call minus the median; median wall-clock and CPU seconds of ``runs`` calls.
    runs : int
    stopped_at : float
        The time reached by those that did not get to the end.
    message : str
    """

    problem: str
    solver: str
    setting: str
    value: float
    asked: float = math.nan
    outcome: Outcome = Outcome.FAILED
    error: float = math.nan
    reference: str = ""
    reference_error: float = math.nan
    resolved: bool = False
    rhs: float = math.nan
    jacobians: float = math.nan
    steps: float = math.nan
    compile_seconds: float = math.nan
    run_seconds: float = math.nan
    cpu_seconds: float = math.nan
    runs: int = 0
    stopped_at: float = math.nan
    message: str = ""

    @property
    def arrived(self) -> bool:
        """Whether the solver claims to have reached the end."""
        return self.outcome in (Outcome.REACHED, Outcome.DISHONEST, Outcome.UNJUDGED)

    def to_record(self) -> dict[str, object]:
        """A dict of JSON's types: NaN as None, infinity as a word."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: dict[str, object]) -> Row:
        """The inverse of `to_record`.

        Raises
        ------
        KeyError, TypeError
            If it is no record of a row.
        """
        kinds = {f.name: f.type for f in fields(cls)}
        values = {}
        for key, value in record.items():
            if kinds[key] == "float":
                values[key] = math.nan if value is None else float(str(value))
            else:
                values[key] = Outcome(value) if key == "outcome" else value
        return cls(**values)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


@dataclass(frozen=True)
class Reference:
    """A solution to judge others by.

    Attributes
    ----------
    name : str
    families : frozenset of str
    y : (P,) array
    error : float
        Distance to the nearest other reference; NaN where there is none.
    """

    name: str
    families: frozenset[str]
    y: np.ndarray
    error: float = math.nan


def with_errors(found: list[Reference]) -> list[Reference]:
    """References that know how far they are from the others."""
    out = []
    for one in found:
        gaps = [error_between(one.y, two.y) for two in found if two is not one]
        out.append(replace(one, error=min(gaps, default=math.nan)))
    return out


def judge(row: Row, y: np.ndarray, families: frozenset[str], references: list[Reference]) -> Row:
    """Hold a claimed end state against the best reference of another kind."""
    if not np.all(np.isfinite(y)):
        said = "success, with a state that is not finite"
        return replace(row, outcome=Outcome.DISHONEST, error=math.inf, message=said)
    other = [ref for ref in references if not ref.families & families]
    if not other:
        said = "no reference of another kind was found"
        message = "; ".join(filter(None, (row.message, said)))
        return replace(row, outcome=Outcome.UNJUDGED, message=message)
    best = other[0]
    error = error_between(y, best.y)
    resolved = bool(best.error <= RESOLVED * error)
    # (where nothing was asked, nothing was promised)
    lied = resolved and error > DISHONEST * row.asked
    return replace(
        row, outcome=Outcome.DISHONEST if lied else Outcome.REACHED, error=error,
        reference=best.name, reference_error=best.error, resolved=resolved,
    )  # fmt: skip
