"""Run a flow through its stages with any integrator: checks at the door, tolerances, counts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import equinox as eqx
import jax
import numpy as np

# Importing the solver files registers their integrators.
import gradflow.integrators.steppers.diffrax
import gradflow.integrators.steppers.scipy  # noqa: F401
from gradflow.flows.flow import Flow
from gradflow.integrators.contract import (
    Problem,
    Result,
    Solution,
    empty_stats,
    integrator_names,
    make_integrator,
)
from gradflow.integrators.save import AbstractSave, check_save
from gradflow.integrators.steppers.late.stage import (
    SeparatedEvent,
    has_late_stage,
    late_stage,
    off_the_surface,
)
from gradflow.integrators.steppers.piecewise.integrator import PiecewiseIntegrator
from gradflow.integrators.until import (
    AbstractUntil,
    Resolved,
    StageEndEvent,
    TimeEvent,
    check_until,
)
from gradflow.validation import (
    SMALLEST_RTOL,
    check_choice,
    check_integer,
    check_positive,
    check_rtol,
    fail,
)

#: What local error estimates must stay below, as a share of the tolerance asked: local errors add
#: up. At these shares the global error of the test problems (logistic growth and saddles left from
#: 1e-60 included) stays below the tolerance asked; the estimate of dopri8 is the sharper one.
SAFETY = 0.1
SAFETY_OF = {"dopri8": 0.01, "piecewise": 0.03, "piecewise-slides": 0.03}
#: An absolute tolerance above this share of the start's size is no tolerance for a small start.
SMALL_START_SHARE = 0.01
_MAX_STAGES = 16
#: Weights up to which cartesian coordinates hold margins to a few digits.
_MODERATE = 1e6
_TINY = 1e-300


class SmallStartWarning(UserWarning):
    """The absolute tolerance is not small against the start: growth from it may be wrong."""


@dataclass(frozen=True)
class Settings:
    """Checked numerical choices of one integration."""

    until: AbstractUntil
    save: AbstractSave
    integrator: str
    rtol: float
    atol: float | None
    max_steps: int
    progress: Callable[[dict[str, Any]], None] | None


@dataclass(frozen=True)
class Run:
    """The stages of one integration, in order."""

    stages: tuple[tuple[Flow, Solution], ...]
    stats: dict[str, float]
    result: Result
    stopped_by: str
    integrator: str


def check_settings(
    *,
    until: Any,
    save_at: Any = None,
    integrator: Any = "auto",
    rtol: Any = 1e-8,
    atol: Any = None,
    max_steps: Any = 1_000_000,
    progress: Any = None,
) -> Settings:
    """Check every numerical argument; a ``ValueError`` names argument, value and fix."""
    check_choice("integrator", integrator, [*integrator_names(), "auto"])
    rtol = check_rtol(rtol)
    if atol is not None:
        atol = check_positive("atol", atol)
    if progress is not None and not callable(progress):
        raise fail("progress", progress, "is not callable", "pass a function of a dict, or None")
    return Settings(
        until=check_until(until),
        save=check_save(save_at),
        integrator=integrator,
        rtol=rtol,
        atol=atol,
        max_steps=check_integer("max_steps", max_steps, minimum=1),
        progress=cast(Any, progress),
    )


def start_scale(params: Any) -> float:
    """Size of the smallest block of the start: the least max |entry| over the arrays of ``params``.

    Zero blocks do not count.
    """
    sizes = [float(np.max(np.abs(leaf), initial=0.0)) for leaf in jax.tree.leaves(params)]
    return min((size for size in sizes if size > 0), default=1.0)


def absolute_tolerances(flow: Flow, Y0: np.ndarray, rtol: float) -> np.ndarray:
    """Default absolute tolerances: ``rtol`` times the size of each component at the stage's start.

    A component that starts at zero takes the scale its chart gives. In cartesian coordinates the
    largest entry is no scale for a small one (a saddle left from 1e-20 beside an entry of order 1),
    so each takes its own size. No tolerance is below what rounding in the chart allows.
    """
    scale = np.asarray(flow.scales(Y0), np.float64)
    if flow.chart.name == "cartesian":
        size = np.abs(Y0)
        clock_from = Y0.shape[0] - 1 - flow.clock.states
        own = (size > 0) & (np.arange(Y0.shape[0]) < clock_from)
        scale = np.where(own, size, scale)
    return np.maximum(np.maximum(rtol * scale, flow.rounding(Y0)), _TINY)


def _tolerances(
    flow: Flow, Y0: np.ndarray, rtol: float, settings: Settings, name: str
) -> np.ndarray:
    """Absolute tolerances of a stage: the share of the one asked for, or the default."""
    if settings.atol is None:
        return absolute_tolerances(flow, Y0, rtol)
    return np.full(Y0.shape, SAFETY_OF.get(name, SAFETY) * settings.atol)


def auto_integrator(flow: Flow, rtol: float, resolved: Resolved) -> str:
    """The integrator taken for ``"auto"``.

    Event-located where the risk has kinks or the flow may go on to the late phase, else explicit,
    of order 8 for tight tolerances.
    """
    at = flow.arrangement
    if at is not None and (at.kinked or has_late_stage(flow, resolved)):
        return "piecewise"
    return "dopri8" if rtol < 1e-6 else "tsit5"


def run(flow: Flow, params: Any, settings: Settings) -> Run:
    """Integrate ``flow`` from ``params``, stage after stage of its charts."""
    scale = start_scale(params)
    if settings.atol is not None and settings.atol > SMALL_START_SHARE * scale:
        warnings.warn(
            f"atol={settings.atol:g}: the start has size {scale:.3g}, so growth from it is not "
            f"controlled; pass atol <= {SMALL_START_SHARE * scale:.3g}, or leave atol out",
            SmallStartWarning,
            stacklevel=3,
        )
    resolved = settings.until.resolve(flow)
    name = settings.integrator
    if name == "auto":
        name = auto_integrator(flow, settings.rtol, resolved)
    integrator = make_integrator(name)
    if not (math.isfinite(resolved.s_end) or resolved.events or resolved.step_cap):
        raise fail("until", settings.until, "never ends", "combine it with gf.until.time(...)")
    safety = SAFETY_OF.get(name, SAFETY)
    rtol = max(safety * settings.rtol, SMALLEST_RTOL)
    save, save_by = settings.save.resolve(flow)
    _check_reach(save, save_by, resolved, settings.save)

    late = name.startswith("piecewise") and has_late_stage(flow, resolved)
    Y = np.asarray(flow.initial(params), np.float64)
    s = 0.0
    stages: list[tuple[Flow, Solution]] = []
    total = empty_stats()
    result, stopped_by = Result("failed", "more stages than charts"), ""
    for _ in range(_MAX_STAGES):
        core = flow.core()
        events = resolved.events
        staged = _has_stage_end(core, Y)
        if staged:
            events = (*events, StageEndEvent())
        if late:
            events = (*events, SeparatedEvent.of(flow))
        atol = _tolerances(flow, Y, rtol, settings, name)
        attempts_left = settings.max_steps - int(total["steps"] + max(total["rejected"], 0))
        cap = None if resolved.step_cap is None else resolved.step_cap - int(total["steps"])
        solution = integrator.solve(
            Problem(
                flow=core, Y0=Y, s0=s, s_end=resolved.s_end, rtol=rtol, atol=atol,
                error_mask=np.asarray(flow.error_mask(Y)), events=events, save=save,
                save_by=save_by, max_steps=max(attempts_left, 1), step_cap=cap,
                progress=settings.progress,
            )
        )  # fmt: skip
        stages.append((flow, solution))
        _add(total, solution.stats)
        result = solution.result
        if late and result.name == "event" and solution.event == len(events) - 1:
            return _through_late_stages(flow, solution, total, resolved, settings, save, name)
        if not (staged and result.name == "event" and solution.event == len(events) - 1):
            stopped_by = _label(result, solution.event, resolved)
            break
        s, last = solution.s_final, solution.Y_final
        t = float(flow.t(s, last))
        chart, y = flow.chart.next_stage(flow.split(last)[0], t)
        Y = np.asarray(flow.restart(last, np.asarray(y)), np.float64)
        flow = flow.with_chart(chart)
        if save is not None:
            save = save[solution.s.shape[0] :]
    return Run(tuple(stages), total, result, stopped_by, name)


def _through_late_stages(
    flow: Flow,
    solution: Solution,
    total: dict[str, float],
    resolved: Resolved,
    settings: Settings,
    save: np.ndarray | None,
    name: str,
) -> Run:
    """Go on from an early stage that ended with the data separated.

    Where a ReLU neuron comes to see a datum that none saw, the late phase ends and an early stage
    follows, with that datum to be separated, and so on.
    """
    integrator = make_integrator(name)
    rtol = max(SAFETY_OF[name] * settings.rtol, SMALLEST_RTOL)
    stages = [(flow, solution)]
    must: Any = False

    def rest(save: np.ndarray | None) -> np.ndarray | None:
        return None if save is None else save[stages[-1][1].s.shape[0] :]

    def steps_left() -> int:
        return max(settings.max_steps - int(total["steps"] + total["rejected"]), 1)

    for _ in range(_MAX_STAGES):
        save = rest(save)
        late_flow, late, seen_again = late_stage(
            flow, stages[-1][1], resolved, rtol=settings.rtol, save=save, max_steps=steps_left()
        )
        stages.append((late_flow, late))
        _add(total, late.stats)
        last = late.Y_final
        if not seen_again.any() or late.result.name != "seen" or not _is_moderate(late_flow, last):
            break
        must, save = must | seen_again, rest(save)
        events = (*resolved.events, SeparatedEvent.of(flow, must))
        params = late_flow.chart.decode(late_flow.split(last)[0])
        state = flow.chart.encode(off_the_surface(flow, params, late.sides, seen_again))
        Y = np.asarray(flow.restart(last, np.asarray(state)), np.float64)
        atol = _tolerances(flow, Y, rtol, settings, name)
        save_by, s = settings.save.resolve(flow)[1], late.s_final
        # The clock may have grown beyond the spacing of steps: from 0, then shifted.
        solution = integrator.solve(
            Problem(
                flow=flow.core(), Y0=Y, s0=0.0, rtol=rtol, atol=atol,
                s_end=resolved.s_end - s if np.isfinite(resolved.s_end) else np.inf,
                error_mask=np.asarray(flow.error_mask(Y)), events=events,
                save=save - s if save is not None and save_by is None else save,
                save_by=save_by, max_steps=steps_left(), step_cap=resolved.step_cap,
                progress=settings.progress,
            )
        )  # fmt: skip
        solution = _shifted(solution, s)
        stages.append((flow, solution))
        _add(total, solution.stats)
        if solution.result.name != "event" or solution.event != len(events) - 1:
            break
    else:
        # (separated once more, and no stage left to go on)
        flow, solution = stages[-1]
        stages[-1] = flow, replace(solution, result=Result("seen"), event=None)
    end = stages[-1][1]
    return Run(tuple(stages), total, end.result, _label(end.result, end.event, resolved), name)


def _shifted(solution: Solution, s: float) -> Solution:
    """The solution with ``s`` added to its clock."""
    return replace(
        solution, s=solution.s + s, s_final=solution.s_final + s,
        happenings=tuple(replace(event, s=event.s + s) for event in solution.happenings),
    )  # fmt: skip


def _is_moderate(late: Flow, Y: np.ndarray) -> bool:
    """Whether weights are small enough for margins to keep digits in cartesian coordinates."""
    return float(late.split(Y)[0][-3]) < math.log(_MODERATE)


def run_many(flow: Flow, starts: list[Any], settings: Settings) -> list[Run]:
    """Integrate ``flow`` from many starts in one compiled program (event-located flows only)."""
    resolved = settings.until.resolve(flow)
    name = settings.integrator
    if name == "auto":
        name = auto_integrator(flow, settings.rtol, resolved)
    integrator = make_integrator(name)
    if not isinstance(integrator, PiecewiseIntegrator):
        raise fail(
            "integrator", name, "does not batch over starts",
            "pass integrator='piecewise' and a risk with kinks, or integrate one by one",
        )  # fmt: skip
    save, save_by = settings.save.resolve(flow)
    _check_reach(save, save_by, resolved, settings.save)
    late = has_late_stage(flow, resolved)
    events = (*resolved.events, SeparatedEvent.of(flow)) if late else resolved.events
    safety = SAFETY_OF[name]
    rtol = max(safety * settings.rtol, SMALLEST_RTOL)
    problems = []
    for params in starts:
        Y = np.asarray(flow.initial(params), np.float64)
        atol = _tolerances(flow, Y, rtol, settings, name)
        problems.append(
            Problem(
                flow=flow.core(), Y0=Y, s0=0.0, s_end=resolved.s_end, rtol=rtol, atol=atol,
                error_mask=np.asarray(flow.error_mask(Y)), events=events, save=save,
                save_by=save_by, max_steps=settings.max_steps, step_cap=resolved.step_cap,
                progress=settings.progress,
            )
        )  # fmt: skip
    runs = []
    for solution in integrator.solve_many(problems):
        total = dict(solution.stats)
        if late and solution.result.name == "event" and solution.event == len(events) - 1:
            runs.append(_through_late_stages(flow, solution, total, resolved, settings, save, name))
            continue
        stopped_by = _label(solution.result, solution.event, resolved)
        runs.append(Run(((flow, solution),), total, solution.result, stopped_by, name))
    return runs


_STAGED: dict[Any, bool] = {}


def _has_stage_end(core: Flow, Y: np.ndarray) -> bool:
    """Whether the chart ever hands over; asked once per structure, by tracing."""
    leaves, treedef = jax.tree_util.tree_flatten(core)
    key = (treedef, *(leaf.shape if eqx.is_array(leaf) else leaf for leaf in leaves), Y.shape)
    if key not in _STAGED:
        arrays, static = eqx.partition(core, eqx.is_array)

        def end(dynamic: Any, s: Any, state: Any) -> Any:
            return eqx.combine(dynamic, static).stage_end(s, state)

        _STAGED[key] = jax.eval_shape(end, arrays, np.float64(0.0), Y) is not None
    return _STAGED[key]


def _check_reach(save: np.ndarray | None, by: Any, resolved: Resolved, asked: AbstractSave) -> None:
    """A save point that cannot be reached is a mistake, not an empty row."""
    if save is None:
        return
    # Where time is a state, save points are values of ln(1+t) and so are the thresholds of time.
    ends = [resolved.s_end] if by is None else [
        float(event.threshold) for event in resolved.events if isinstance(event, TimeEvent)
    ]  # fmt: skip
    if save[-1] <= min(ends, default=np.inf) * (1 + 1e-12):
        return
    raise fail("save_at", asked, "lies beyond the end", "drop it or raise until")


def _add(total: dict[str, float], stats: dict[str, float]) -> None:
    for key, value in stats.items():
        unknown = value < 0 or total.get(key, 0) < 0
        total[key] = -1 if unknown else total.get(key, 0) + value


def _label(result: Result, event: int | None, resolved: Resolved) -> str:
    if result.name == "event" and event is not None:
        return resolved.labels[event]
    if result.name == "reached":
        return resolved.end_label
    if result.name == "steps":
        return f"steps({resolved.step_cap})"
    return result.name
