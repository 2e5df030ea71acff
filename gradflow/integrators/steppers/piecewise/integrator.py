r"""The event-located integrator for flows with kinks: ``integrator="piecewise"``.

The method is in ``piecewise_step`` (one step), ``piecewise_loop`` (the compiled loop) and
``piecewise_run`` (what the host does between segments of the loop).
"""

from __future__ import annotations

import functools as ft
import time
from dataclasses import replace
from typing import ClassVar

import jax

from gradflow.integrators.contract import (
    AbstractIntegrator,
    Problem,
    Solution,
    register_integrator,
)
from gradflow.integrators.steppers.piecewise.dense import PiecewiseDense
from gradflow.integrators.steppers.piecewise.loop import segment
from gradflow.integrators.steppers.piecewise.run import PiecewiseRun
from gradflow.integrators.watch import next_budget
from gradflow.numerics.compiled import compile_once


class PiecewiseIntegrator(AbstractIntegrator):
    """Event-located Tsit5 on a flow with kinks.

    Parameters
    ----------
    locate : {"all", "slides"}
        Which surfaces end a step: all of them, or those only on which a neuron begins to slide;
        the other crossings then pass inside steps, under error control. For large nets, where
        there are as many crossings as pairs.

    Notes
    -----
    Error control: the largest error of a neuron's entries, relative to the largest of its entries.
    ``stats["rhs"]`` counts evaluations of the field in accepted, rejected and probing steps.
    """

    locates: ClassVar[bool] = True

    def __init__(self, locate: str = "all") -> None:
        self.locate = locate
        self.name = "piecewise-old" if locate == "all" else "piecewise-slides"

    def solve(self, problem: Problem) -> Solution:
        """Integrate one stage (see :class:`~gradflow.integrators.contract.AbstractIntegrator`)."""
        started = time.perf_counter()
        run = PiecewiseRun(self.locate, problem)
        result = run.begin()
        if result is None:
            structure = run.structure()
            fn = ft.partial(segment, *structure)
        while result is None:
            arguments = (problem.flow, run.forces, problem.events, run.controls(), run.carry)
            program, arrays, seconds = compile_once(fn, ("piecewise", structure), arguments)
            run.compile_seconds += seconds
            began, attempts = time.perf_counter(), int(run.carry.attempts)
            out = jax.block_until_ready(program(*arrays))
            made = int(out.carry.attempts) - attempts
            run.budget = next_budget(run.budget, made, time.perf_counter() - began)
            result = run.take(out)
        solution = run.solution(result, time.perf_counter() - started - run.compile_seconds)
        return self._with_dense(problem, solution)

    def _with_dense(self, problem: Problem, solution: Solution) -> Solution:
        if not problem.dense:
            return solution
        return replace(solution, dense=PiecewiseDense(self, problem, solution))


register_integrator("piecewise-old", PiecewiseIntegrator)
register_integrator("piecewise-slides", ft.partial(PiecewiseIntegrator, "slides"))
