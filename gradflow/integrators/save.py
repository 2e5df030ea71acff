"""What to record: the solver's own steps, or the state at chosen times.

States at chosen times are reached by steps of the method, so they carry the accuracy of the steps
(scipy's multistep solvers use their own polynomials).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gradflow.flows.flow import Flow
from gradflow.integrators.until import LogTimeMeasure
from gradflow.numerics.logs import log1p_exp
from gradflow.validation import check_array, fail


class AbstractSave(abc.ABC):
    """A choice of save points.

    Attributes
    ----------
    dense : bool
        Whether the solution between the steps is kept as well.
    """

    dense: ClassVar[bool] = False

    @property
    def asked(self) -> tuple[str, np.ndarray] | None:
        """The time variable and its values asked for; None = where the solver steps."""
        return None

    @abc.abstractmethod
    def resolve(self, flow: Flow) -> tuple[np.ndarray | None, LogTimeMeasure | None]:
        """``(values, variable)``: increasing values of a variable; None = the clock itself."""


@dataclass(frozen=True)
class EveryStep(AbstractSave):
    """Every accepted step."""

    def resolve(self, flow: Flow) -> tuple[np.ndarray | None, LogTimeMeasure | None]:
        return None, None


@dataclass(frozen=True)
class Dense(AbstractSave):
    """Every accepted step, and the solution between them."""

    dense: ClassVar[bool] = True

    def resolve(self, flow: Flow) -> tuple[np.ndarray | None, LogTimeMeasure | None]:
        return None, None


@dataclass(frozen=True)
class Points(AbstractSave):
    """Chosen values of a time variable: ``"t"``, ``"log_t"`` or ``"clock"``."""

    kind: str
    values: tuple[float, ...]

    @property
    def asked(self) -> tuple[str, np.ndarray]:
        return self.kind, np.array(self.values)

    def resolve(self, flow: Flow) -> tuple[np.ndarray | None, LogTimeMeasure | None]:
        values = np.array(self.values)
        if self.kind == "clock":
            return values, None
        log1p_t = np.log1p(values) if self.kind == "t" else log1p_exp(values)
        if flow.clock.name == "log":
            return log1p_t, None
        if flow.clock.states:
            return log1p_t, LogTimeMeasure()
        if self.kind == "t":
            return np.array([flow.s_of_t(t) for t in values]), None
        with np.errstate(over="ignore"):
            t = np.exp(values)
        if not np.all(np.isfinite(t)):
            raise fail("save_at", self, "overflows the physical clock", "pass clock='log'")
        return t, None


def _points(argument: str, kind: str, values: Any, *, minimum: float) -> Points:
    if np.isscalar(values) or getattr(values, "ndim", None) == 0:
        values = [values]
    array = check_array(argument, values, (None,))
    if array.size == 0:
        raise fail(argument, array, "is empty", "pass at least one value, or save steps()")
    if np.any(array < minimum):
        raise fail(argument, array, "holds a negative time", f"pass values >= {minimum:g}")
    if np.any(np.diff(array) <= 0):
        raise fail(argument, array, "is not increasing", "sort it and drop repeats (np.unique)")
    return Points(kind, tuple(float(v) for v in array))


def times(t: Sequence[float] | np.ndarray) -> AbstractSave:
    """Save at physical times ``t`` >= 0, increasing."""
    return _points("t", "t", t, minimum=0.0)


def log_times(log_t: Sequence[float] | np.ndarray) -> AbstractSave:
    """Save at ln t = ``log_t``, increasing (for times beyond floating point)."""
    return _points("log_t", "log_t", log_t, minimum=-np.inf)


def clock(s: Sequence[float] | np.ndarray) -> AbstractSave:
    """Save at clock values ``s`` >= 0, increasing."""
    return _points("s", "clock", s, minimum=0.0)


def steps() -> AbstractSave:
    """Save every accepted step of the solver (the default)."""
    return EveryStep()


def dense() -> AbstractSave:
    """Save every accepted step, and what is needed to read the path between them.

    A state between two steps is a step of the method from the first of them (the multistep methods
    read their own polynomial), so it is as accurate as the steps.
    """
    return Dense()


def check_save(value: object) -> AbstractSave:
    """Return ``value`` as a choice of save points: None = steps, a sequence = physical times."""
    if value is None:
        return EveryStep()
    if isinstance(value, AbstractSave):
        return value
    return _points("save_at", "t", value, minimum=0.0)


__all__ = ["clock", "dense", "log_times", "steps", "times"]
