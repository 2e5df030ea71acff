"""From the stages an integrator went through to a :class:`Trajectory`: read, joined, named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import observables
from gradflow.flows.course import Course
from gradflow.integrators.driver import Run
from gradflow.integrators.save import Points
from gradflow.integrators.settings import Settings
from gradflow.paths.trajectory import Event, Stage, Trajectory


def trajectory_of(
    risk: Any, params: Any, course: Course, settings: Settings, done: Run
) -> Trajectory:
    """Join the stages of an integration from ``params`` into one path."""
    save = settings.save
    by_steps = not isinstance(save, Points)
    stages: list[Stage] = []
    for index, (flow, solution) in enumerate(done.stages):
        # Recording steps, each stage repeats the last point of the one before in its own chart.
        skip = 1 if by_steps and index else 0
        stages.append(Stage(flow, solution.s[skip:], solution.Y[skip:]))
    kept = [stage for stage in stages if stage.s.shape[0]]
    pieces = [_read(stage.flow, stage.s, stage.Y) for stage in (kept or stages[:1])]
    merged = {
        key: np.concatenate([p[key] for p in pieces]) for key in ("t", "log_t", "clock", "energy")
    }
    if isinstance(save, Points):
        # The times asked for, not their round trip through the clock.
        asked = np.array(save.values)[: merged["t"].shape[0]]
        name = {"t": "t", "log_t": "log_t", "clock": "clock"}[save.kind]
        merged[name] = asked
        if save.kind == "t":
            with np.errstate(divide="ignore"):
                merged["log_t"] = np.log(asked)
    all_params = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *[p["params"] for p in pieces]
    )
    last_flow, last = done.stages[-1]
    end = _read(last_flow, np.array([last.s_final]), last.Y_final[None])
    events = _events(done)
    final = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), end["params"])
    return Trajectory(
        risk=risk, **merged, params=all_params, initial=params,
        final=final,
        t_final=float(end["t"][0]), log_t_final=float(end["log_t"][0]),
        clock_final=last.s_final, exact=_merge_exact(risk, pieces), events=events,
        stats=done.stats, result=done.result, stopped_by=done.stopped_by, rtol=settings.asked.rtol,
        atol=settings.asked.atol, clock_name=course.flow.clock.name,
        chart_names=tuple(flow.chart.name for flow, _ in done.stages),
        integrator=done.integrator, course=course, _stages=tuple(kept),
    )  # fmt: skip


def _read(flow: Any, s: np.ndarray, Y: np.ndarray) -> dict[str, Any]:
    y, energy, _ = flow.split(Y)
    with np.errstate(over="ignore"):
        t = np.array(flow.t(s, Y), np.float64)
    return {
        "t": t, "log_t": np.asarray(flow.log_t(s, Y)), "clock": s, "energy": energy,
        "params": flow.chart.decode(y), "exact": flow.chart.exact(y),
    }  # fmt: skip


def _events(done: Run) -> tuple[Event, ...]:
    out = []
    for index, (flow, solution) in enumerate(done.stages):
        out += _happenings(flow, solution.happenings)
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
    return tuple(out)


def _happenings(flow: Any, happenings: Any) -> list[Event]:
    if not happenings:
        return []
    s = np.array([event.s for event in happenings])
    extra = np.array([[event.tau] for event in happenings])
    with np.errstate(over="ignore"):
        t = np.asarray(flow.clock.time(s, extra)).tolist()
    log_t = flow.clock.log_time(s, extra).tolist()
    data = flow.arrangement.representatives.tolist()
    return [
        Event(
            t=t[i], log_t=log_t[i], clock=event.s, kind=event.kind,
            neuron=event.neuron if event.neuron >= 0 else None,
            datum=_datum(event, data),
        )
        for i, event in enumerate(happenings)
    ]  # fmt: skip


def _datum(event: Any, representatives: list[int]) -> int | None:
    if event.surface < 0:
        return None
    # The support consists of data, not of surfaces.
    return event.surface if event.kind.startswith("support") else representatives[event.surface]


@dataclass(frozen=True)
class _Path:
    risk: Any
    params: Any


def _merge_exact(risk: Any, pieces: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Join the charts' exact values; a stage without one falls back on its parameters."""
    keys = {key: None for piece in pieces for key in piece["exact"]}
    out: dict[str, np.ndarray] = {}
    for key in keys:
        parts = []
        for piece in pieces:
            if key in piece["exact"]:
                parts.append(np.asarray(piece["exact"][key]))
            elif key in observables.names():
                parts.append(observables.observe(_Path(risk, piece["params"]), key))
            else:
                break
        else:
            out[key] = np.concatenate(parts)
    return out


__all__ = ["trajectory_of"]
