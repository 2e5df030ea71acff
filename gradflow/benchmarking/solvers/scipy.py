"""SciPy's solvers, as a script calls them."""

from __future__ import annotations

import numpy as np
from scipy import integrate

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts, atol_of

_FAMILY = {
    "RK45": "explicit Runge-Kutta", "DOP853": "explicit Runge-Kutta",
    "Radau": "implicit Runge-Kutta", "LSODA": "multistep", "BDF": "multistep",
}  # fmt: skip
#: Tolerances below this are refused by SciPy (it clips them, with a warning).
_LEAST = 100 * float(np.finfo(float).eps)


class Scipy(AbstractSolver):
    """One of SciPy's solvers, step by step.

    Parameters
    ----------
    method : {"RK45", "DOP853", "LSODA", "Radau", "BDF"}
    exact_jacobian : bool
        Whether it is handed the Jacobian; else it takes differences of the field.
    naive : bool
        Whether ``atol`` is rtol itself, as in most scripts, and not relative to the start.
    """

    def __init__(self, method: str, exact_jacobian: bool = False, naive: bool = False) -> None:
        self.method, self.exact, self.naive = method, exact_jacobian, naive
        ending = "-jac" if exact_jacobian else "-naive" if naive else ""
        self.name = f"scipy-{method.lower()}{ending}"

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({_FAMILY[self.method]})

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        rtol = max(setting, _LEAST)
        options = {"jac": field.jacobian} if self.exact else {}
        solver = getattr(integrate, self.method)(
            field, 0.0, problem.y0.copy(), problem.t_end, rtol=rtol,
            atol=rtol if self.naive else atol_of(problem, rtol), **options,
        )  # fmt: skip
        steps, message = 0, None
        while solver.status == "running":
            message = solver.step()
            steps += 1
            field.check_time()
        counts = Counts(steps=steps)
        if solver.status == "failed":
            return Attempt(None, str(message or "failed"), t=float(solver.t), counts=counts)
        return Attempt(np.array(solver.y), counts=counts)
