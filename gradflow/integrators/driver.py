"""Run a flow through its stages with any integrator: checks at the door, tolerances, counts."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

# Importing the solver files registers their integrators.
import gradflow.integrators.steppers.diffrax
import gradflow.integrators.steppers.scipy  # noqa: F401
from gradflow.flows.flow import Flow
from gradflow.integrators.contract import (
    AbstractIntegrator,
    Problem,
    Result,
    Solution,
    make_integrator,
)
from gradflow.integrators.save import AbstractSave, check_save
from gradflow.integrators.statistics import add_stats, empty_stats
from gradflow.integrators.steppers.late.stage import (
    SeparatedEvent,
    has_late_stage,
    late_stage,
    off_the_surface,
)
from gradflow.integrators.steppers.piecewise.integrator import PiecewiseIntegrator
from gradflow.integrators.tolerances import Asked, Tolerances
from gradflow.integrators.until import (
    AbstractUntil,
    Resolved,
    StageEndEvent,
    TimeEvent,
    check_until,
)
from gradflow.integrators.watch import Describe, Progress, Watch
from gradflow.validation import (
    check_integer,
    check_positive,
    check_rtol,
    fail,
)

#: An absolute tolerance above this share of the start's size is no tolerance for a small start.
SMALL_START_SHARE = 0.01
_MAX_STAGES = 16
#: Weights up to which cartesian coordinates hold margins to a few digits.
_MODERATE = 1e6


class SmallStartWarning(UserWarning):
    """The absolute tolerance is not small against the start: growth from it may be wrong."""


@dataclass(frozen=True)
class Settings:
    """Checked numerical choices of one integration."""

    until: AbstractUntil
    save: AbstractSave
    integrator: AbstractIntegrator | Literal["auto"]
    asked: Asked
    max_steps: int
    progress: Progress | bool | None
    max_seconds: float | None

    def integrator_of(self, flow: Flow, resolved: Resolved) -> AbstractIntegrator:
        """The integrator asked for, or the one that serves the flow."""
        if self.integrator == "auto":
            return make_integrator(auto_integrator(flow, self.asked.rtol, resolved))
        return self.integrator

    def watch(self) -> Watch:
        """Who watches one integration."""
        return Watch(self.progress, self.max_seconds)


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
    max_seconds: Any = None,
    safety: Any = None,
) -> Settings:
    """Check every numerical argument; a ``ValueError`` names argument, value and fix."""
    if not (isinstance(integrator, str) and integrator == "auto"):
        integrator = make_integrator(integrator)
    rtol = check_rtol(rtol)
    if atol is not None:
        atol = check_positive("atol", atol)
    if progress not in (None, False) and not callable(progress):
        raise fail(
            "progress", progress, "is not callable", "pass a function of a dict, None, or False"
        )
    if max_seconds is not None:
        max_seconds = check_positive("max_seconds", max_seconds)
    if safety is not None:
        safety = check_positive("safety", safety)
    return Settings(
        until=check_until(until),
        save=check_save(save_at),
        integrator=integrator,
        asked=Asked(rtol, atol, safety),
        max_steps=check_integer("max_steps", max_steps, minimum=1),
        progress=progress,
        max_seconds=max_seconds,
    )


def start_scale(params: Any) -> float:
    """Size of the smallest block of the start: the least max |entry| over the arrays of ``params``.

    Zero blocks do not count.
    """
    sizes = [float(np.max(np.abs(leaf), initial=0.0)) for leaf in jax.tree.leaves(params)]
    return min((size for size in sizes if size > 0), default=1.0)


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
    with settings.watch() as watch:
        return _run(flow, params, settings, watch)


def _run(flow: Flow, params: Any, settings: Settings, watch: Watch) -> Run:
    scale = start_scale(params)
    atol = settings.asked.atol
    if atol is not None and np.max(atol) > SMALL_START_SHARE * scale:
        warnings.warn(
            f"atol={np.max(atol):g}: the start has size {scale:.3g}, so growth from it is not "
            f"controlled; pass atol <= {SMALL_START_SHARE * scale:.3g}, or leave atol out",
            SmallStartWarning,
            stacklevel=4,
        )
    resolved = settings.until.resolve(flow)
    integrator = settings.integrator_of(flow, resolved)
    name = integrator.name
    if not (math.isfinite(resolved.s_end) or resolved.events or resolved.step_cap):
        raise fail("until", settings.until, "never ends", "combine it with gf.until.time(...)")
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
        tolerances = Tolerances.of(flow, Y, settings.asked, name)
        attempts_left = settings.max_steps - _attempts(total)
        cap = None if resolved.step_cap is None else resolved.step_cap - int(total["steps"])
        solution = integrator.solve(
            Problem(
                flow=core, Y0=Y, s0=s, s_end=resolved.s_end, tolerances=tolerances,
                events=events, save=save,
                save_by=save_by, max_steps=max(attempts_left, 1), step_cap=cap,
                dense=settings.save.dense,
                watch=watch, describe=_description(flow),
            )
        )  # fmt: skip
        stages.append((flow, solution))
        add_stats(total, solution.stats)
        watch.stage_done(solution.stats)
        result = solution.result
        if isinstance(solution.event, SeparatedEvent):
            return _through_late_stages(
                flow, solution, total, resolved, settings, save, name, watch
            )
        if solution.event is None or solution.event.role == "stop":
            stopped_by = _label(solution, resolved)
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
    watch: Watch,
) -> Run:
    """Go on from an early stage that ended with the data separated.

    Where a ReLU neuron comes to see a datum that none saw, the late phase ends and an early stage
    follows, with that datum to be separated, and so on.
    """
    integrator = make_integrator(name)
    stages = [(flow, solution)]
    must: Any = False

    def rest(save: np.ndarray | None) -> np.ndarray | None:
        return None if save is None else save[stages[-1][1].s.shape[0] :]

    def steps_left() -> int:
        return max(settings.max_steps - _attempts(total), 1)

    for _ in range(_MAX_STAGES):
        save = rest(save)
        late_flow, late, seen_again = late_stage(
            flow, stages[-1][1], resolved, rtol=settings.asked.rtol_local("late"), save=save,
            max_steps=steps_left(), watch=watch,
        )  # fmt: skip
        stages.append((late_flow, late))
        add_stats(total, late.stats)
        watch.stage_done(late.stats)
        last = late.Y_final
        if not seen_again.any() or late.result.name != "seen" or not _is_moderate(late_flow, last):
            break
        must, save = must | seen_again, rest(save)
        events = (*resolved.events, SeparatedEvent.of(flow, must))
        params = late_flow.chart.decode(late_flow.split(last)[0])
        state = flow.chart.encode(off_the_surface(flow, params, late.sides, seen_again))
        Y = np.asarray(flow.restart(last, np.asarray(state)), np.float64)
        tolerances = Tolerances.of(flow, Y, settings.asked, name)
        save_by, s = settings.save.resolve(flow)[1], late.s_final
        # The clock may have grown beyond the spacing of steps: from 0, then shifted.
        solution = integrator.solve(
            Problem(
                flow=flow.core(), Y0=Y, s0=0.0, tolerances=tolerances,
                s_end=resolved.s_end - s if np.isfinite(resolved.s_end) else np.inf,
                events=events, save=save - s if save is not None and save_by is None else save,
                save_by=save_by, max_steps=steps_left(), step_cap=resolved.step_cap,
                dense=settings.save.dense,
                watch=watch, describe=_description(flow),
            )
        )  # fmt: skip
        solution = _shifted(solution, s)
        stages.append((flow, solution))
        add_stats(total, solution.stats)
        watch.stage_done(solution.stats)
        if not isinstance(solution.event, SeparatedEvent):
            break
    else:
        # (separated once more, and no stage left to go on)
        flow, solution = stages[-1]
        stages[-1] = flow, replace(solution, result=Result("seen"), event=None)
    end = stages[-1][1]
    return Run(tuple(stages), total, end.result, _label(end, resolved), name)


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
    with settings.watch() as watch:
        return _run_many(flow, starts, settings, watch)


def _run_many(flow: Flow, starts: list[Any], settings: Settings, watch: Watch) -> list[Run]:
    resolved = settings.until.resolve(flow)
    integrator = settings.integrator_of(flow, resolved)
    name = integrator.name
    if not isinstance(integrator, PiecewiseIntegrator):
        raise fail(
            "integrator", name, "does not batch over starts",
            "pass integrator='piecewise' and a risk with kinks, or integrate one by one",
        )  # fmt: skip
    save, save_by = settings.save.resolve(flow)
    _check_reach(save, save_by, resolved, settings.save)
    late = has_late_stage(flow, resolved)
    events = (*resolved.events, SeparatedEvent.of(flow)) if late else resolved.events
    problems = []
    for params in starts:
        Y = np.asarray(flow.initial(params), np.float64)
        tolerances = Tolerances.of(flow, Y, settings.asked, name)
        problems.append(
            Problem(
                flow=flow.core(), Y0=Y, s0=0.0, s_end=resolved.s_end, tolerances=tolerances,
                events=events, save=save,
                save_by=save_by, max_steps=settings.max_steps, step_cap=resolved.step_cap,
                dense=settings.save.dense,
                watch=watch, describe=_description(flow),
            )
        )  # fmt: skip
    runs = []
    for solution in integrator.solve_many(problems):
        total = dict(solution.stats)
        if isinstance(solution.event, SeparatedEvent):
            runs.append(
                _through_late_stages(flow, solution, total, resolved, settings, save, name, watch)
            )
            continue
        stopped_by = _label(solution, resolved)
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


def _description(flow: Flow) -> Describe:
    """What the flow tells of itself at (s, Y): ln t and ln L."""

    def describe(s: float, Y: np.ndarray) -> dict[str, float]:
        log_t = float(np.asarray(flow.log_t(np.array([s]), Y[None]))[0])
        log_loss = float(flow.chart.log_risk(jnp.asarray(flow.split(Y)[0])))
        with np.errstate(over="ignore"):
            return {"log_t": log_t, "log_loss": log_loss, "loss": float(np.exp(log_loss))}

    return describe


def _attempts(stats: dict[str, float]) -> int:
    rejected = stats["rejected"]
    return int(stats["steps"] + (0 if math.isnan(rejected) else rejected))


def _label(solution: Solution, resolved: Resolved) -> str:
    if solution.event is not None:
        return solution.event.label
    if solution.result.name == "reached":
        return resolved.end_label
    if solution.result.name == "steps":
        return f"steps({resolved.step_cap})"
    return solution.result.name
