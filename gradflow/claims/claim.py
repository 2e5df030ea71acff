"""What a claim is: hypotheses, a measurement, and a negative control.

A claim holds a *prediction*, which comes from a derivation, against a *measurement*, which comes
from a trajectory and carries a numerical error found by a second, tighter or different solve.
Predicting and measuring are separate callables, so that a prediction can be altered: a check that
cannot fail is no evidence. Every claim therefore brings a negative control, and `Claim.perturbed`
builds the altered claim of ``gradflow verify --perturb``.

The three kinds of claim are in `gradflow.claims.kinds`.

Numerics support a statement; they never prove it.
"""

from __future__ import annotations

import dataclasses
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from gradflow.claims.evidence import Evidence, Status
from gradflow.claims.lab import Lab
from gradflow.claims.statement import Statement
from gradflow.validation import check_positive, fail

#: What a negative control may come out as.
CONTROL_OUTCOMES = (Status.VIOLATED, Status.NOT_APPLICABLE)


@dataclass(frozen=True)
class Measurement:
    """Measured numbers with their numerical errors.

    Attributes
    ----------
    value : float or ndarray, shape (n,)
    error : float or ndarray, broadcastable to ``value``
        Absolute numerical error, non-negative: from a second, tighter or different solve.
    labels : sequence of str, length n, optional
        What each component is, for messages.
    """

    value: Any
    error: Any
    labels: Sequence[str] = ()

    @classmethod
    def from_solves(
        cls,
        coarse: ArrayLike,
        fine: ArrayLike,
        *,
        extra: ArrayLike = 0.0,
        labels: Sequence[str] = (),
    ) -> Measurement:
        """Take the fine solve; its error is the distance to the coarse one, plus ``extra``.

        A few units of rounding are added, since two solves may agree in all their bits.
        """
        fine = np.asarray(fine, dtype=np.float64)
        rounding = 4 * np.finfo(np.float64).eps * np.abs(fine)
        distance = np.abs(fine - np.asarray(coarse, dtype=np.float64))
        return cls(fine, distance + rounding + np.asarray(extra), labels)


@dataclass(frozen=True)
class Outcome:
    """One named boolean outcome of a qualitative claim.

    Attributes
    ----------
    name : str
    margin : float
        Signed distance from the boundary of the outcome: positive where it holds.
    error : float
        Numerical error of the margin.
    """

    name: str
    margin: float
    error: float = 0.0

    @classmethod
    def exact(cls, name: str, holds: bool) -> Outcome:
        """An outcome without a numerical error, such as a stop reason."""
        return cls(name, 1.0 if holds else -1.0, 0.0)


@dataclass(frozen=True)
class Hypothesis:
    """An assumption of the statement; ``check(lab)`` returns a bool, or a bool and a reason."""

    name: str
    check: Callable[[Lab], bool | tuple[bool, str]]

    def failure(self, lab: Lab) -> str | None:
        """Why the hypothesis fails, or None where it holds."""
        answer = lab.once(self.check)
        holds, reason = answer if isinstance(answer, tuple) else (answer, "")
        if holds:
            return None
        return f"hypothesis fails: {self.name}" + (f" ({reason})" if reason else "")


@dataclass(frozen=True)
class Control:
    """A negative control: the claim with something changed, so that it must not hold.

    Parameters
    ----------
    description : str
        Shown beside the claim, for example the printed constant that fails.
    changes : mapping
        Fields of the claim to replace: ``predict``, ``bound``, ``measure``, ``hypotheses``, ...
    factor : float, optional
        Instead of ``changes``: perturb the claim by this factor.
    expected : tuple of Status
        Outcomes that confirm the control, out of VIOLATED and NOT_APPLICABLE.
    """

    description: str
    changes: Mapping[str, object] = field(default_factory=dict)
    factor: float | None = None
    expected: tuple[Status, ...] = CONTROL_OUTCOMES

    def __post_init__(self) -> None:
        if bool(self.changes) == (self.factor is not None):
            raise fail(
                "changes",
                dict(self.changes),
                "and factor: exactly one of them makes a control",
                "pass either changes or factor",
            )
        if not self.expected or any(s not in CONTROL_OUTCOMES for s in self.expected):
            raise fail(
                "expected",
                self.expected,
                "is not a set of failing statuses",
                "choose from VIOLATED and NOT_APPLICABLE",
            )

    @classmethod
    def perturbed(cls, factor: float = 1.05) -> Control:
        """The claim's own prediction off by ``factor``."""
        return cls(f"prediction altered by the factor {factor:g}", factor=factor)

    @classmethod
    def replacing(
        cls, description: str, *, expected: tuple[Status, ...] = CONTROL_OUTCOMES, **changes: Any
    ) -> Control:
        """The claim with fields replaced: ``Control.replacing("as printed", bound=printed)``."""
        return cls(description, changes, None, expected)


@dataclass(frozen=True, kw_only=True)
class Claim(ABC):
    """What every kind of claim has in common; use `Equality`, `Bound` or `Qualitative`.

    Attributes
    ----------
    id, title, statement, provenance, citation, quick
        As for `Statement`.
    control : Control
    hypotheses : sequence of Hypothesis
    """

    id: str
    title: str
    statement: str
    provenance: str
    control: Control | None
    citation: str = ""
    hypotheses: Sequence[Hypothesis] = ()
    quick: bool = False

    #: "equality", "bound" or "qualitative"
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "citation", self.about.citation)

    @property
    def about(self) -> Statement:
        """The claim in words."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(Statement)}
        return Statement(**shared)

    @property
    def name(self) -> str:
        """The part of the id after the slash."""
        return self.about.name

    @property
    def source(self) -> str:
        """The part of the id before the slash."""
        return self.about.source

    @abstractmethod
    def decide(self, lab: Lab) -> Evidence:
        """Measure, predict and compare; hypotheses have been checked."""

    @abstractmethod
    def perturbed(self, factor: float, lab: Lab) -> Claim:
        """The claim with its prediction altered by ``factor``, without a control."""

    def weigh(self, lab: Lab) -> Evidence:
        """Check the hypotheses, then decide; whatever is raised becomes an ERROR."""
        try:
            for hypothesis in self.hypotheses:
                failure = hypothesis.failure(lab)
                if failure is not None:
                    return Evidence(Status.NOT_APPLICABLE, failure)
            return self.decide(lab)
        except Exception as error:
            return Evidence(Status.ERROR, describe(error))

    def controlled(self, lab: Lab) -> Claim:
        """The claim as its negative control alters it."""
        assert self.control is not None
        if self.control.factor is not None:
            return self.perturbed(self.control.factor, lab)
        return self._replace(control=None, **self.control.changes)

    def _replace(self, **changes: Any) -> Self:
        unknown = set(changes) - {f.name for f in dataclasses.fields(self)}
        if unknown:
            raise fail(
                "changes",
                sorted(unknown),
                f"are not fields of a {self.kind} claim",
                "choose from " + ", ".join(f.name for f in dataclasses.fields(self)),
            )
        return dataclasses.replace(self, **changes)


def check_factor(factor: float) -> float:
    """A perturbation factor: positive, finite and not 1."""
    factor = check_positive("perturb", factor)
    if factor == 1:
        raise fail("perturb", factor, "alters nothing", "pass for example 1.05 or 0.95")
    return factor


def describe(error: Exception) -> str:
    """The error in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}]" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{place}"
