"""Between the steps of the event-located integrator: from an accepted state on, once more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradflow.integrators.contract import AbstractDense, AbstractIntegrator, Problem, Solution
from gradflow.integrators.watch import Watch


class PiecewiseDense(AbstractDense):
    """The solution between recorded states.

    Every accepted step stays on one side of each surface or slides on it, and the sides at its
    start follow from the state: the integrator goes on from there to where it is asked.
    """

    def __init__(
        self, integrator: AbstractIntegrator, problem: Problem, solution: Solution
    ) -> None:
        self._integrator, self._s, self._Y = integrator, solution.s, solution.Y
        self.s_first, self.s_last = float(solution.s[0]), float(solution.s[-1])
        self._problem = replace(
            problem, events=(), save_by=None, step_cap=None, dense=False, sides=None,
            watch=Watch(), describe=None,
        )  # fmt: skip

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """States (k, D) at clock values ``s`` (k,)."""
        s = np.asarray(s, np.float64)
        self._check(s)
        at = np.clip(np.searchsorted(self._s, s, side="right") - 1, 0, None)
        out = self._Y[at].copy()
        for i in np.unique(at[s > self._s[at]]):
            asked = np.flatnonzero((at == i) & (s > self._s[i]))
            points, where = np.unique(s[asked], return_inverse=True)
            out[asked] = self._from(int(i), points)[where]
        return out

    def _from(self, i: int, points: np.ndarray) -> np.ndarray:
        """States at increasing ``points`` between rows i and i+1."""
        problem = replace(
            self._problem, Y0=self._Y[i], s0=float(self._s[i]), s_end=float(points[-1]),
            save=points,
        )  # fmt: skip
        return self._integrator.solve(problem).Y
