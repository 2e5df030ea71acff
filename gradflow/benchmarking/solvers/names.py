"""Solvers by name, and whatever else is read as one."""

from __future__ import annotations

import fnmatch
import functools as ft
from collections.abc import Callable, Sequence

import diffrax

from gradflow.benchmarking.solvers.compiled import NumbaTsit5
from gradflow.benchmarking.solvers.complementarity import Nosnoc
from gradflow.benchmarking.solvers.contract import AbstractSolver
from gradflow.benchmarking.solvers.descent import Descent, RelativeDescent
from gradflow.benchmarking.solvers.diffrax import Diffrax
from gradflow.benchmarking.solvers.function import FunctionSolver
from gradflow.benchmarking.solvers.located import Located
from gradflow.benchmarking.solvers.ours import Ours
from gradflow.benchmarking.solvers.scipy import Scipy
from gradflow.benchmarking.solvers.sundials import Sundials
from gradflow.benchmarking.solvers.taylor import Heyoka
from gradflow.integrators.driver import integrator_names
from gradflow.validation import fail

#: What ``gradflow bench`` tries, in the order of its table.
_TABLE: dict[str, Callable[[], AbstractSolver]] = {
    "auto": ft.partial(Ours, "auto"),
    "piecewise": ft.partial(Ours, "piecewise"),
    "tsit5-lsoda": ft.partial(Ours, "tsit5-lsoda"),
    "dopri8-lsoda": ft.partial(Ours, "dopri8-lsoda"),
    "lsoda": ft.partial(Ours, "lsoda"),
    "diffrax-tsit5": lambda: Diffrax(diffrax.Tsit5()),
    "diffrax-dopri8": lambda: Diffrax(diffrax.Dopri8()),
    "diffrax-kvaerno5": lambda: Diffrax(diffrax.Kvaerno5()),
    "scipy-rk45": ft.partial(Scipy, "RK45"),
    "scipy-rk45-naive": ft.partial(Scipy, "RK45", naive=True),
    "scipy-lsoda": ft.partial(Scipy, "LSODA"),
    "scipy-radau": ft.partial(Scipy, "Radau"),
    "scipy-radau-jac": ft.partial(Scipy, "Radau", exact_jacobian=True),
    "numba-tsit5": NumbaTsit5,
    "sundials-bdf": Sundials,
    "heyoka": ft.partial(Heyoka, False),
    "heyoka-events": ft.partial(Heyoka, True),
    "nosnoc": Nosnoc,
    "descent": Descent,
    "descent-relative": RelativeDescent,
}
#: Those that only serve as references, unless they are asked for.
_MORE: dict[str, Callable[[], AbstractSolver]] = {
    "located": Located,
    "scipy-dop853": ft.partial(Scipy, "DOP853"),
    "scipy-lsoda-jac": ft.partial(Scipy, "LSODA", exact_jacobian=True),
    "scipy-bdf": ft.partial(Scipy, "BDF"),
}
#: Those of ``gradflow bench --quick``.
QUICK = (
    "auto", "piecewise", "lsoda", "diffrax-tsit5", "scipy-rk45-naive", "scipy-lsoda",
    "scipy-radau-jac", "numba-tsit5", "sundials-bdf", "heyoka-events", "descent",
)  # fmt: skip

SolverLike = AbstractSolver | str | diffrax.AbstractSolver | Callable[..., object]


def solver_names() -> tuple[str, ...]:
    """The solvers of ``gradflow bench``, in order."""
    return tuple(_TABLE)


def matching(pattern: str) -> list[str]:
    """Names of the table that match a shell-style pattern.

    Raises
    ------
    ValueError
        If none does.
    """
    found = [name for name in _TABLE if fnmatch.fnmatch(name, pattern)]
    found += [name for name in (*_MORE, *integrator_names()) if name == pattern not in found]
    if not found:
        raise fail("solvers", pattern, "matches no solver", "choose among " + ", ".join(_TABLE))
    return found


@ft.singledispatch
def as_solver(value: SolverLike) -> AbstractSolver:
    """Read a solver: a name, a solver object of diffrax, a function, or one of these classes.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if not callable(value):
        fix = "pass a name, a diffrax solver or a function (field, y0, span, rtol)"
        raise fail("solver", value, "is not a solver", fix)
    return FunctionSolver(value)


@as_solver.register
def _(value: AbstractSolver) -> AbstractSolver:
    return value


@as_solver.register
def _(value: str) -> AbstractSolver:
    made = {**_TABLE, **_MORE}.get(value)
    if made is not None:
        return made()
    if value not in integrator_names():
        known = ", ".join(sorted({*_TABLE, *_MORE, *integrator_names()}))
        raise fail("solver", value, "is not a known name", f"choose one of {known}")
    return Ours(value)


@as_solver.register
def _(value: diffrax.AbstractSolver) -> AbstractSolver:
    return Diffrax(value)


def as_solvers(value: SolverLike | Sequence[SolverLike]) -> list[AbstractSolver]:
    """Read one solver or several; a string may be a pattern over the table."""
    several = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    out: list[AbstractSolver] = []
    for one in several:
        if isinstance(one, str):
            out += [as_solver(name) for name in matching(one)]
        else:
            out.append(as_solver(one))
    names = [solver.name for solver in out]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not out:
        raise fail("solvers", value, "is empty", "pass at least one")
    if twice:
        fix = "name them apart: gf.benchmarking.FunctionSolver(fn, name=...)"
        raise fail("solvers", twice, "come twice", fix)
    return out
