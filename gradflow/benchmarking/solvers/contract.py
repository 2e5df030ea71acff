"""What every solver is to the benchmark: a name, its kin, and one run."""

from __future__ import annotations

import abc
import importlib.util
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.problem import Problem


class Counts(NamedTuple):
    """What a solver counted itself; None: the field's own count (NaN for steps)."""

    rhs: float | None = None
    jacobians: float | None = None
    steps: float = math.nan


NO_COUNTS = Counts()


@dataclass(frozen=True)
class Attempt:
    """What a solver says of its run.

    Attributes
    ----------
    y : (P,) array or None
        The state at the end, if it claims to have reached it.
    message : str
        Why it did not; remarks.
    timed_out : bool
        Whether it stopped because its time was up.
    t : float
        Where it stopped, if it did not reach the end.
    counts : Counts
    """

    y: np.ndarray | None
    message: str = ""
    timed_out: bool = False
    t: float = math.nan
    counts: Counts = NO_COUNTS


class AbstractSolver(abc.ABC):
    """A solver of initial value problems, as the benchmark calls it.

    Attributes
    ----------
    name : str
    settings : tuple of float or None
        What it is run at, where that is not a tolerance; then it claims no accuracy.
    library : str or None
        A module that must be installed.
    patience : float
        How many times the limit of time it is given.
    """

    name: str
    settings: tuple[float, ...] | None = None
    library: str | None = None
    patience: float = 1.0

    @abc.abstractmethod
    def families(self, problem: Problem) -> frozenset[str]:
        """The kinds of methods that it may use on a problem: its kin judges it not."""

    @abc.abstractmethod
    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        """Integrate from ``problem.y0`` at 0 to ``problem.t_end``.

        Parameters
        ----------
        setting : float
            The relative tolerance, or one of ``settings``.
        """

    def refusal(self, problem: Problem) -> str | None:
        """Why it cannot be tried on a problem, or None."""
        return None

    def missing(self) -> str | None:
        """The library that is not installed, or None."""
        if self.library is None or importlib.util.find_spec(self.library) is not None:
            return None
        return self.library

    def label(self, setting: float) -> str:
        """A setting as people read it."""
        return f"rtol {setting:.0e}"

    def asked(self, setting: float) -> float:
        """The relative error that was asked for; NaN where none was."""
        return setting if self.settings is None else math.nan


def atol_of(problem: Problem, rtol: float) -> float:
    """The absolute tolerance that stock solvers are given: rtol relative to the start's size.

    (rtol itself, the habit, leaves the growth from a small start uncontrolled.)
    """
    return rtol * problem.scale
