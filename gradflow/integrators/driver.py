"""Drive an integration through its stages, each with the stepper it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

# Importing the steppers' files registers them.
import gradflow.integrators.steppers.cells.stepper
import gradflow.integrators.steppers.diffrax
import gradflow.integrators.steppers.late.stepper
import gradflow.integrators.steppers.scipy
import gradflow.integrators.steppers.switching  # noqa: F401
from gradflow.flows.event import AbstractEvent, limits
from gradflow.flows.flow import Flow
from gradflow.flows.stage import AbstractStage
from gradflow.integrators.contract import (
    AbstractIntegrator,
    Problem,
    Result,
    ShiftedDense,
    Solution,
    make_integrator,
)

# (named here, where every stepper is registered)
from gradflow.integrators.contract import integrator_names as integrator_names
from gradflow.integrators.settings import Settings
from gradflow.integrators.statistics import add_stats, empty_stats
from gradflow.integrators.tolerances import Tolerances
from gradflow.integrators.until import Resolved
from gradflow.integrators.watch import Watch
from gradflow.validation import fail

#: Stages that one integration may have: charts hand over a few times, data are seen again rarely.
MAX_STAGES = 33


@dataclass(frozen=True)
class Run:
    """The stages of one integration, in order."""

    stages: tuple[tuple[Flow, Solution], ...]
    stats: dict[str, float]
    result: Result
    stopped_by: str
    integrator: str


class Journey:
    """One integration on its way: the stage it is in, the stages done, what is left to record.

    Parameters
    ----------
    stage : AbstractStage
        Where it begins.
    integrator : AbstractIntegrator
        What was asked for; stages that need another stepper bring it.
    settings : Settings

    Raises
    ------
    ValueError
        If it would never end, or save points cannot be reached.
    """

    def __init__(
        self,
        stage: AbstractStage,
        integrator: AbstractIntegrator,
        settings: Settings,
    ) -> None:
        self.stage: AbstractStage | None = stage
        self.integrator, self.settings, self.watch = integrator, settings, Watch()
        self.done: list[tuple[Flow, Solution]] = []
        self.total = empty_stats()
        self.resolved = settings.until.resolve(stage.flow)
        self.save, self.save_by = settings.save.resolve(stage.flow)
        self._check_ends()

    def _check_ends(self) -> None:
        settings, resolved, save, stage = self.settings, self.resolved, self.save, self.stage
        assert stage is not None
        if not (math.isfinite(resolved.s_end) or resolved.events or resolved.step_cap):
            raise fail("until", settings.until, "never ends", "combine it with gf.until.time(...)")
        for event in resolved.events:
            event.check(stage.flow, stage.start.Y)
        s0 = stage.start.s + stage.origin
        tau0 = float(stage.flow.log1p_t(s0, stage.start.Y))
        last = min(limits(resolved.events, "time"), default=np.inf)
        if resolved.s_end < s0 or last < tau0:
            raise fail(
                "until", settings.until, f"lies before the start at ln(1+t) = {tau0:.10g}",
                "times count from t = 0, not from t0 or the end of a path: pass a later one",
            )  # fmt: skip
        if save is None or not save.size:
            return
        # Where time is a state, save points are values of ln(1+t), as are the thresholds of time.
        first, end = (s0, resolved.s_end) if self.save_by is None else (tau0, last)
        # A save point that cannot be reached is a mistake, not an empty row.
        if save[-1] > end * (1 + 1e-12):
            raise fail("save_at", settings.save, "lies beyond the end", "drop it or raise until")
        if save[0] < first * (1 - 1e-12):
            raise fail("save_at", settings.save, "lies before the start", "drop it")

    def problem(self, stage: AbstractStage) -> Problem:
        """What its stepper is to solve."""
        flow, start, origin = stage.flow, stage.start, stage.origin
        self.resolved = resolved = self.settings.until.resolve(flow)
        name, total, save = stage.stepper or self.integrator.name, self.total, self.save
        rejected = total["rejected"]
        attempts = int(total["steps"] + (0 if math.isnan(rejected) else rejected))
        cap = resolved.step_cap
        return Problem(
            flow=flow.core(), Y0=start.Y, s0=start.s, sides=start.sides,
            s_end=resolved.s_end - origin if math.isfinite(resolved.s_end) else np.inf,
            tolerances=Tolerances.of(flow, start.Y, self.settings.asked, name),
            events=(*resolved.events, *stage.handovers()),
            save=save - origin if save is not None and self.save_by is None else save,
            save_by=self.save_by, max_steps=max(self.settings.max_steps - attempts, 1),
            step_cap=None if cap is None else cap - int(total["steps"]),
            dense=self.settings.save.dense, watch=self.watch, describe=flow.describe,
        )  # fmt: skip

    def solve(self, stage: AbstractStage) -> Solution:
        """One stage."""
        problem, over = self.problem(stage), stage.over()
        if over is not None:
            return _nothing(problem, over.sides, Result("event"), stage.handovers()[0])
        ended = self.watch.over()
        if ended is not None:
            return _nothing(problem, stage.start.sides, Result(ended))
        stepper = make_integrator(stage.stepper) if stage.stepper else self.integrator
        return stepper.solve(problem)

    def take(self, solution: Solution) -> None:
        """Note how the stage ended, and go on to the next."""
        stage = self.stage
        assert stage is not None
        solution = _shifted(solution, stage.origin)
        self.done.append((stage.flow, solution))
        add_stats(self.total, solution.stats)
        self.watch.stage_done(solution.stats)
        if self.save is not None:
            self.save = self.save[solution.s.shape[0] :]
        self.stage = stage.following(solution.end) if stage.hands_over(solution) else None

    def run(self, watch: Watch) -> Run:
        """Go through the stages that are left, in somebody's sight."""
        self.watch = watch
        while self.stage is not None and len(self.done) < MAX_STAGES:
            self.take(self.solve(self.stage))
        last = self.done[-1][1]
        result, stopped_by = last.result, _label(last, self.resolved)
        if self.stage is not None:
            result = Result(self.stage.short_of_stages)
            stopped_by = result.name
        return Run(tuple(self.done), self.total, result, stopped_by, self.integrator.name)


def _nothing(
    problem: Problem, sides: np.ndarray | None, result: Result, event: AbstractEvent | None = None
) -> Solution:
    """A stage that ends where it starts."""
    here = 1
    if problem.save is not None:
        flow, by = problem.flow, problem.save_by
        value = problem.s0 if by is None else float(flow.log1p_t(problem.s0, problem.Y0))
        here = int(np.searchsorted(problem.save, value, side="right"))
    return Solution(
        s=np.full(here, problem.s0), Y=np.repeat(problem.Y0[None], here, axis=0),
        s_final=problem.s0, Y_final=problem.Y0, stats=empty_stats(), result=result,
        event=event, sides=sides,
    )  # fmt: skip


def _shifted(solution: Solution, s: float) -> Solution:
    """The solution with ``s`` added to its clock."""
    if s == 0:
        return solution
    return replace(
        solution, s=solution.s + s, s_final=solution.s_final + s,
        dense=None if solution.dense is None else ShiftedDense(solution.dense, s),
        happenings=tuple(replace(event, s=event.s + s) for event in solution.happenings),
    )  # fmt: skip


def _label(solution: Solution, resolved: Resolved) -> str:
    if solution.event is not None:
        return solution.event.label
    if solution.result.name == "reached":
        return resolved.end_label
    if solution.result.name == "steps":
        return f"steps({resolved.step_cap})"
    return solution.result.name
