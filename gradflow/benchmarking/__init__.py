"""Benchmarking: which solver, on which flow, to which accuracy, at which cost.

`work_precision` measures solvers on problems: any risk with a start and an end (`Problem`), the
package's own (`problem_table`), any integrator by name, any solver of diffrax, any function
(`FunctionSolver`). It integrates through the façade's `integrate` and knows nothing of claims.
"""

from gradflow.benchmarking.advice import Advice as Advice
from gradflow.benchmarking.problem import Problem as Problem
from gradflow.benchmarking.problem import Route as Route
from gradflow.benchmarking.problems import problem_names as problem_names
from gradflow.benchmarking.problems import problem_table as problem_table
from gradflow.benchmarking.row import Outcome as Outcome
from gradflow.benchmarking.row import Row as Row
from gradflow.benchmarking.solvers.contract import AbstractSolver as AbstractSolver
from gradflow.benchmarking.solvers.contract import Attempt as Attempt
from gradflow.benchmarking.solvers.function import FunctionSolver as FunctionSolver
from gradflow.benchmarking.solvers.names import as_solver as as_solver
from gradflow.benchmarking.solvers.names import solver_names as solver_names
from gradflow.benchmarking.table import WorkPrecision as WorkPrecision
from gradflow.benchmarking.work_precision import work_precision as work_precision
