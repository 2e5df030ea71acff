"""Solvers × problems × tolerances: what each reaches, says it reaches, and costs."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from gradflow.benchmarking.problem import Problem, Route
from gradflow.benchmarking.problems import problem_table
from gradflow.benchmarking.row import (
    DISHONEST,
    RESOLVED,
    Outcome,
    Reference,
    Row,
    judge,
    with_errors,
)
from gradflow.benchmarking.running import Ran, Task, run_task
from gradflow.benchmarking.solvers.contract import AbstractSolver
from gradflow.benchmarking.solvers.names import SolverLike, as_solver, as_solvers
from gradflow.benchmarking.table import WorkPrecision
from gradflow.benchmarking.worker import Worker
from gradflow.validation import (
    check_array,
    check_bool,
    check_integer,
    check_positive,
    check_rtol,
    fail,
)

#: CPU seconds that a reference may take.
REFERENCE_LIMIT = 120.0
#: The step of descent as a reference.
_SMALL_STEP = 1e-4
_LIBRARIES = ("numpy", "scipy", "jax", "diffrax", "numba", "scikit-sundae", "heyoka", "nosnoc")

#: Runs the settings of a task, in this process or in another.
Runner = Callable[[Task], Iterator[Ran]]


def work_precision(
    problems: Problem | str | Sequence[Problem | str],
    solvers: SolverLike | Sequence[SolverLike],
    tolerances: float | Sequence[float] = (1e-5, 1e-7, 1e-9),
    *,
    repeats: int = 3,
    time_limit: float = 10.0,
    compile_limit: float = 60.0,
    isolate: bool = True,
    progress: Callable[[Row], object] | None = None,
) -> WorkPrecision:
    r"""Measure what solvers reach on flows, and what it costs.

    Each end state is held against a reference that a method of another kind found at a tighter
    tolerance; the reference's own error is its distance to a second one. The error is
    :math:`\max_p|\theta_p-\theta^{\rm ref}_p|/\max_p|\theta^{\rm ref}_p|`. A solver that says it
    has succeeded while its error exceeds 100 times what was asked is recorded as DISHONEST. Nothing
    is dropped: failures, time-outs, libraries that are not installed and solvers that cannot be
    tried on a problem are rows too.

    Parameters
    ----------
    problems : gf.benchmarking.Problem, name or pattern, or several
        Any risk with a start and an end; names are those of ``gf.benchmarking.problem_table()``.
    solvers : str, diffrax solver, callable, or several
        Names or patterns of ``gf.benchmarking.solver_names()`` and of ``gf.integrator_names()``,
        ``diffrax.Tsit5()``, or a function ``(field, y0, span, rtol)`` that returns the state at the
        end, or ``(state, counts)``; ``field(t, y)`` and ``field.jacobian(t, y)`` count themselves.
    tolerances : sequence of float
        Relative ones. Stock solvers get an absolute tolerance of rtol times the size of the start.
        Solvers with settings of their own (gradient descent: step sizes) take those instead.
    repeats : int
        Calls after the first, which compiles; times are their median. Fewer where a call is long,
        more where they take less than 0.3 s together.
    time_limit : float
        CPU seconds that a call may take, compiling apart; a solver that does not heed it is ended
        after four times as many by the wall. Tighter tolerances of a solver that timed out are
        recorded as time-outs without being tried.
    compile_limit : float
        Wall-clock seconds for compiling, after which a solver is ended.
    isolate : bool
        Whether solvers run in a process beside this one, on one thread: crashes and hangs are then
        rows. False: in this process, which a hang then hangs.
    progress : callable, optional
        Called with every row.

    Returns
    -------
    WorkPrecision
        Ctrl-C ends the measurement with the rows so far (``about["interrupted"]``).

    Raises
    ------
    ValueError
        Bad input; a solver for which every reference of a problem is of its own kind.
    """
    tasks = [(p, as_routes(p)) for p in _problems(problems)]
    chosen = as_solvers(solvers)
    asked = _tolerances(tolerances)
    repeats = check_integer("repeats", repeats, minimum=1)
    time_limit = check_positive("time_limit", time_limit)
    compile_limit = check_positive("compile_limit", compile_limit)
    check_bool("isolate", isolate)
    for problem, routes in tasks:
        _refuse_kin(problem, routes, chosen)
    table = WorkPrecision((), (), {**_about(), "tolerances": list(asked), "repeats": repeats,
                                   "time_limit": time_limit})  # fmt: skip
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        run: Runner = run_task
        if isolate:
            run = stack.enter_context(Worker(compile_limit)).run
        try:
            for problem, routes in tasks:
                found, told = _references(problem, routes, run)
                table = table.with_problem(_described(problem, told))
                for solver in chosen:
                    limit = time_limit * solver.patience
                    task = Task(problem, solver, solver.settings or asked, repeats + 1, limit)
                    for ran in run(task):
                        row = _judged(ran, problem, solver, found)
                        table = table.with_row(row)
                        if progress is not None:
                            progress(row)
        except KeyboardInterrupt:
            table = table.with_about(interrupted=True)
    seconds = time.perf_counter() - began
    return table.with_about(seconds=round(seconds, 1), load_after=_load())


def as_routes(problem: Problem) -> list[tuple[AbstractSolver, Route]]:
    """The routes to a problem's reference that can be tried, with their solvers.

    Where kinks leave but one, small steps of descent are the second: not accurate, but no kin.
    """
    routes = [(as_solver(route.solver), route) for route in problem.routes]
    open_to = [pair for pair in routes if not pair[0].missing() and not pair[0].refusal(problem)]
    if problem.kinked and len(open_to) < 2:
        route = Route("descent", min(_SMALL_STEP, problem.t_end / 1000))
        open_to.append((as_solver(route.solver), route))
    return open_to


def _problems(value: Problem | str | Sequence[Problem | str]) -> list[Problem]:
    out: list[Problem] = []
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, str):
            out += problem_table(one)
            continue
        if not isinstance(one, Problem):
            fix = "pass gf.benchmarking.Problem(name, risk, start, t_end) or a name of the table"
            raise fail("problems", one, "is not a problem", fix)
        out.append(one)
    names = [problem.name for problem in out]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not out:
        raise fail("problems", value, "is empty", "pass at least one")
    if twice:
        raise fail("problems", twice, "come twice", "give each a name of its own")
    return out


def _tolerances(value: float | Sequence[float]) -> tuple[float, ...]:
    several = check_array("tolerances", np.atleast_1d(np.asarray(value)), (None,))
    if not several.size:
        raise fail("tolerances", value, "is empty", "pass at least one, as 1e-6")
    # (the loosest first: what times out at one is not tried at tighter ones)
    return tuple(sorted({check_rtol(float(rtol)) for rtol in several}, reverse=True))


def _refuse_kin(
    problem: Problem, routes: list[tuple[AbstractSolver, Route]], solvers: list[AbstractSolver]
) -> None:
    """A solver is not judged by its own kind."""
    for solver in solvers:
        if solver.missing() or solver.refusal(problem):
            continue
        kin = solver.families(problem)
        if not routes:
            fix = "name others: gf.benchmarking.Route(solver, rtol)"
            raise fail("routes", problem.routes, f"of {problem.name!r} cannot be tried", fix)
        if all(route_solver.families(problem) & kin for route_solver, _ in routes):
            names = [route_solver.name for route_solver, _ in routes]
            raise fail(
                "routes", names, f"of problem {problem.name!r} are all of the kind of "
                f"{solver.name} ({', '.join(sorted(kin))}), which would be judged by itself",
                "add gf.benchmarking.Route(solver, rtol) of another method",
            )  # fmt: skip


def _references(
    problem: Problem, routes: list[tuple[AbstractSolver, Route]], run: Runner
) -> tuple[list[Reference], list[dict[str, object]]]:
    """The references that could be found, and what became of each."""
    found, told = [], []
    for solver, route in routes:
        task = Task(problem, solver, (route.setting,), 1, REFERENCE_LIMIT)
        ran = next(iter(run(task)))
        name = f"{solver.name} {solver.label(route.setting)}"
        told.append({"name": name, "seconds": ran.row.run_seconds, "message": ran.row.message})
        if ran.y is not None:
            found.append(Reference(name, solver.families(problem), ran.y))
        else:
            told[-1]["message"] = f"{ran.row.outcome}: {ran.row.message}"
    found = with_errors(found)
    errors = {ref.name: ref.error for ref in found}
    return found, [{**one, "error": errors.get(str(one["name"]))} for one in told]


def _judged(ran: Ran, problem: Problem, solver: AbstractSolver, references: list[Reference]) -> Row:
    if ran.y is None:
        return ran.row
    return judge(ran.row, ran.y, solver.families(problem), references)


def _described(problem: Problem, references: list[dict[str, object]]) -> dict[str, object]:
    return {
        "name": problem.name, "tags": list(problem.tags), "about": problem.about,
        "risk": problem.risk.name, "size": problem.size, "t_end": problem.t_end,
        "references": references,
    }  # fmt: skip


def _load() -> float:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")


def _about() -> dict[str, object]:
    """Where and when."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "date": time.strftime("%Y-%m-%d"), "machine": platform.machine(), "cores": os.cpu_count(),
        "load_before": _load(), "versions": versions, "dishonest": DISHONEST, "resolved": RESOLVED,
    }  # fmt: skip


__all__ = ["Outcome", "work_precision"]
