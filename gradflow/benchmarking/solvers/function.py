"""A user's own solver: any function of ``(field, y0, span, rtol)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts
from gradflow.validation import fail

_COUNTS = ("rhs", "jacobians", "steps")


class FunctionSolver(AbstractSolver):
    """``fn(field, y0, span, rtol)`` returns the end state, or ``(state, counts)``.

    Parameters
    ----------
    fn : callable
        ``field(t, y)`` counts itself, ``field.jacobian(t, y)`` too; ``span`` is (0, t_end). An
        exception is a failure; a state that is returned is a claim to have reached the end.
        ``counts`` is a mapping with any of ``rhs``, ``jacobians``, ``steps``.
    name : str, optional
        Default: that of the function.
    family : str, optional
        Of which kind the method is; default: one of its own, so that any reference judges it.
    """

    def __init__(
        self, fn: Callable[..., object], name: str | None = None, family: str | None = None
    ) -> None:
        if not callable(fn):
            raise fail("solver", fn, "is not callable", "pass a function (field, y0, span, rtol)")
        self.fn = fn
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        self._family = family or f"function {self.name}"

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({self._family})

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        found = self.fn(field, problem.y0.copy(), (0.0, problem.t_end), setting)
        counts: Mapping[str, float] = {}
        if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping):
            found, counts = found
        unknown = set(counts) - set(_COUNTS)
        if unknown:
            fix = "return any of rhs, jacobians, steps"
            raise fail("counts", sorted(unknown), "are not known counts", fix)
        try:
            y = np.asarray(found, np.float64)
        except (TypeError, ValueError):
            fix = f"return the state at the end, an array of shape {problem.y0.shape}"
            raise fail("the solver's state", type(found).__name__, "is no array", fix) from None
        if y.shape != problem.y0.shape:
            fix = f"return the state at the end, of shape {problem.y0.shape}"
            raise fail("the solver's state", y, f"has shape {y.shape}", fix)
        return Attempt(y, counts=Counts(**{key: float(counts[key]) for key in counts}))
