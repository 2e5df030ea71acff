"""From the stages an integrator went through to a :class:`Trajectory`: read, joined, named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gradflow.flows.course import Course
from gradflow.flows.flow import Flow
from gradflow.integrators.contract import Happening, Result
from gradflow.integrators.driver import Run
from gradflow.integrators.settings import Settings
from gradflow.paths.events import Event, Events
from gradflow.paths.stages import Stage, join, read
from gradflow.paths.trajectory import Trajectory
from gradflow.risks.base import AbstractRisk


def trajectory_of(
    risk: AbstractRisk, params: PyTree, course: Course, settings: Settings, done: Run
) -> Trajectory:
    """Join the stages of an integration from ``params`` into one path."""
    by_steps = settings.save.asked is None
    stages: list[Stage] = []
    for index, (flow, solution) in enumerate(done.stages):
        # Recording steps, each stage repeats the last point of the one before in its own chart.
        skip = 1 if by_steps and index else 0
        stages.append(Stage(flow, solution.s[skip:], solution.Y[skip:], solution.dense))
    kept = [stage for stage in stages if stage.s.shape[0]]
    pieces = [read(stage.flow, stage.s, stage.Y) for stage in (kept or stages[:1])]
    rows = _as_asked(join(risk, pieces), settings)
    last_flow, last = done.stages[-1]
    end = read(last_flow, np.array([last.s_final]), last.Y_final[None])
    events = _events(done)
    return Trajectory(
        risk=risk, **rows, initial=params,
        final=jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), end["params"]),
        t_final=float(end["t"][0]), log_t_final=float(end["log_t"][0]),
        clock_final=last.s_final, events=events,
        stats=done.stats, result=_said(done.result, events), stopped_by=done.stopped_by,
        rtol=settings.asked.rtol, atol=settings.asked.atol, clock_name=course.flow.clock.name,
        chart_names=tuple(flow.chart.name for flow, _ in done.stages),
        integrator=done.integrator, course=course, _stages=tuple(kept),
    )  # fmt: skip


def _said(result: Result, events: Events) -> Result:
    """The result, which also says where the flow could have gone on otherwise."""
    branches = events.kind("branch")
    if not branches:
        return result
    first = branches[0]
    said = (
        f"unique=False: at ln t = {first.log_t:.10g} neuron {first.neuron} can leave the surface "
        f"of datum {first.datum} in more than one way, and one was followed"
    )
    return replace(result, detail=f"{result.detail}; {said}" if result.detail else said)


def _as_asked(rows: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The times asked for, not their round trip through the clock."""
    if settings.save.asked is None:
        return rows
    kind, values = settings.save.asked
    asked = values[: rows["t"].shape[0]]
    rows = {**rows, kind: asked}
    if kind == "t":
        with np.errstate(divide="ignore"):
            rows["log_t"] = np.log(asked)
    return rows


def _events(done: Run) -> Events:
    out: list[Event] = []
    for index, (flow, solution) in enumerate(done.stages):
        out += _at_surfaces(flow, solution.happenings)
        one = np.array([solution.s_final])
        with np.errstate(over="ignore"):
            t = float(np.asarray(flow.t(one, solution.Y_final[None]))[0])
        log_t = float(np.asarray(flow.log_t(one, solution.Y_final[None]))[0])
        if index + 1 < len(done.stages):
            following = done.stages[index + 1][0].chart.name
            label = f"chart {flow.chart.name} -> {following}"
            out.append(Event(t, log_t, solution.s_final, "stage", label))
        elif done.result.name == "event":
            out.append(Event(t, log_t, solution.s_final, "stop", done.stopped_by))
    return Events(out)


def _at_surfaces(flow: Flow, happenings: tuple[Happening, ...]) -> list[Event]:
    arrangement = flow.arrangement
    if not happenings or arrangement is None:
        return []
    s = np.array([event.s for event in happenings])
    extra = np.array([[event.tau] for event in happenings])
    with np.errstate(over="ignore"):
        t = np.asarray(flow.clock.time(s, extra)).tolist()
    log_t = flow.clock.log_time(s, extra).tolist()
    data = arrangement.representatives.tolist()
    return [
        Event(
            t=t[i], log_t=log_t[i], clock=event.s, kind=event.kind,
            neuron=event.neuron if event.neuron >= 0 else None,
            datum=_datum(event, data),
        )
        for i, event in enumerate(happenings)
    ]  # fmt: skip


def _datum(event: Happening, representatives: list[int]) -> int | None:
    if event.surface < 0:
        return None
    # Support and margins are of data, not of surfaces.
    of_data = event.kind.startswith(("support", "margin"))
    return event.surface if of_data else representatives[event.surface]


__all__ = ["trajectory_of"]
