r"""The event-located integrator for flows with kinks: ``integrator="piecewise"``.

The method is in ``piecewise_step`` (one step), ``piecewise_loop`` (the compiled loop) and
``piecewise_run`` (what the host does between segments of the loop).
"""

from __future__ import annotations

import functools as ft
import time
from dataclasses import replace
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import PyTree

from gradflow.cells.forces import Forces
from gradflow.flows.event import AbstractEvent
from gradflow.flows.flow import Flow
from gradflow.integrators.contract import (
    AbstractIntegrator,
    Problem,
    Result,
    Solution,
    register_integrator,
)
from gradflow.integrators.steppers.piecewise.dense import PiecewiseDense
from gradflow.integrators.steppers.piecewise.loop import segment
from gradflow.integrators.steppers.piecewise.run import PiecewiseRun
from gradflow.integrators.steppers.piecewise.step import Carry, Out
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

    def solve_many(self, problems: list[Problem]) -> list[Solution]:
        """Integrate problems that differ by their starts, in one program (vmap).

        All have the flow, events, tolerances and save points of the first; each goes its own steps,
        and those that have ended wait for the others. Times in ``stats`` are shares of the whole.
        """
        started = time.perf_counter()
        runs = [PiecewiseRun(self.locate, problem) for problem in problems]
        results: list[Result | None] = [run.begin() for run in runs]
        first = problems[0]
        structure = runs[0].structure()
        fn = ft.partial(_segments, structure)
        compile_seconds = 0.0
        while any(result is None for result in results):
            slots = max(run.carry.pattern.slots.shape[1] for run in runs)
            for run in runs:
                run.make_room(slots)
            controls, carries = (
                _stack([r.controls() for r in runs]),
                _stack([r.carry for r in runs]),
            )
            ended = np.array([result is not None for result in results])
            # (a cap of zero attempts: nothing moves)
            controls["attempt_cap"] = np.where(ended, 0, controls["attempt_cap"])
            arguments = (first.flow, runs[0].forces, first.events, controls, carries)
            program, arrays, seconds = compile_once(fn, ("piecewise-many", structure), arguments)
            compile_seconds += seconds
            began, attempts = time.perf_counter(), max(int(run.carry.attempts) for run in runs)
            out = jax.tree.map(np.asarray, program(*arrays))
            made = int(np.max(out.carry.attempts)) - attempts
            budget = next_budget(runs[0].budget, made, time.perf_counter() - began)
            for run in runs:
                run.budget = budget
            for index, run in enumerate(runs):
                if results[index] is None:
                    results[index] = run.take(jax.tree.map(lambda leaf, i=index: leaf[i], out))
        share = (time.perf_counter() - started - compile_seconds) / len(runs)
        for run in runs:
            run.compile_seconds = compile_seconds / len(runs)
        return [
            self._with_dense(run.problem, run.solution(result, share))
            for run, result in zip(runs, results, strict=True)
            if result is not None
        ]

    def _with_dense(self, problem: Problem, solution: Solution) -> Solution:
        if not problem.dense:
            return solution
        return replace(solution, dense=PiecewiseDense(self, problem, solution))


def _segments(
    structure: tuple[object, ...],
    flow: Flow,
    forces: Forces,
    events: tuple[AbstractEvent, ...],
    controls: PyTree,
    carries: PyTree,
) -> Out:
    def one(controls: PyTree, carry: Carry) -> Out:
        run: Any = segment
        return run(*structure, flow, forces, events, controls, carry)

    return jax.vmap(one)(controls, carries)


def _stack(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)


register_integrator("piecewise-old", PiecewiseIntegrator)
register_integrator("piecewise-slides", ft.partial(PiecewiseIntegrator, "slides"))
