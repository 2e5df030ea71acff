"""SUNDIALS' CVODE, through scikit-sundae."""

from __future__ import annotations

import numpy as np

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, atol_of


class Sundials(AbstractSolver):
    """CVODE's BDF with its own difference quotients for the Jacobian."""

    name = "sundials-bdf"
    library = "sksundae"

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({"multistep"})

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        from sksundae.cvode import CVODE  # pyright: ignore[reportMissingImports]

        def fill(t: float, y: np.ndarray, out: np.ndarray) -> None:
            out[:] = field(t, y)

        solver = CVODE(
            fill, method="BDF", rtol=setting, atol=atol_of(problem, setting),
            max_num_steps=1_000_000_000,
        )  # fmt: skip
        found = solver.solve(np.array([0.0, problem.t_end]), problem.y0.copy())
        if not found.success:
            return Attempt(None, str(found.message), field.time_up, float(found.t[-1]))
        return Attempt(np.array(found.y[-1]))
