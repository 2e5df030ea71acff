"""Integrate a risk's gradient flow from one start (:func:`integrate`) or many
(:func:`integrate_many`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import observables
from gradflow.flows.flow import make_flow
from gradflow.integrators.contract import Result
from gradflow.integrators.driver import Run, Settings, check_settings, run, run_many
from gradflow.integrators.save import Points
from gradflow.paths.trajectory import Event, Stage, Trajectory
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_bool, fail


def integrate(
    risk: Any,
    params: Any,
    *,
    until: Any,
    clock: str = "auto",
    chart: str = "auto",
    metric: str = "euclidean",
    integrator: str = "auto",
    rtol: float = 1e-8,
    atol: float | None = None,
    save_at: Any = None,
    max_steps: int = 1_000_000,
    throw: bool = False,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Trajectory:
    r"""Integrate the gradient flow :math:`\dot\theta=-\nabla L(\theta)` from ``params``.

    Parameters
    ----------
    risk : AbstractRisk
    params : pytree
        The start (anything ``risk.as_params`` reads).
    until : stopping condition
        ``gf.until.time(1e6)``, ``.log_time``, ``.clock``, ``.loss``, ``.gradient``, ``.direction``,
        ``.steps``; combine with ``|``.
    clock : {"auto", "log", "physical", "loss"}
        The variable integrated over: ln(1+t), t, or s with ds = L dt. "auto" is the loss clock for
        margin losses on finite data (ln t is then a state, and t may exceed any float), else log.
    chart : {"auto", "cartesian", "log-angle", "conic"}
        Coordinates; they leave the flow alone. "conic": (ln‖w_k‖, w_k/‖w_k‖) of a balanced
        two-layer net with both layers trained, so that norms of any size keep their digits.
    metric : {"euclidean", "conic"}
        "conic" (fixed outer weights): neuron k moves by −‖w_k‖ times its gradient, the flow of the
        norm-dependent step (:mod:`gradflow.flows.charts.conic`).
    integrator : str
        ``"auto"``; ``piecewise`` (event-located, for risks with kinks; taken by "auto" whenever the
        risk has kinks), ``piecewise-slides`` (the same for large nets: locates where neurons begin
        to slide, and lets other crossings pass under error control); diffrax:
        ``tsit5 dopri5 dopri8 bosh3 heun``, implicit ``kvaerno3/4/5``; scipy:
        ``rk45 dop853 lsoda radau bdf``.
    rtol : float
        Relative tolerance. Local errors are kept a factor ten below it, so that the accumulated
        error usually stays below; an error bar comes from a second, tighter solve, never from here.
    atol : float, optional
        Absolute tolerance in units of the state. Default: ``rtol`` times the size of the start,
        component by component, so that starts of 1e-20 grow correctly.
    save_at : sequence of times or ``gf.save...``, optional
        What to record; default: the solver's steps.
    max_steps : int
        Bound on attempted steps.
    throw : bool
        Raise ``RuntimeError`` on numerical failure, and where the flow is not unique (a ``branch``
        event); default: report it in ``result`` and ``events`` and keep what was computed.
    progress : callable, optional
        Called now and then with a dict ``s, s_end, steps``.

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError
        Bad input, naming the argument, its value and the fix.

    Warns
    -----
    SmallStartWarning
        If ``atol`` exceeds 1 % of the start's size.
    """
    throw = check_bool("throw", throw)
    settings = check_settings(
        until=until, save_at=save_at, integrator=integrator, rtol=rtol, atol=atol,
        max_steps=max_steps, progress=progress,
    )  # fmt: skip
    params = _start(risk, params)
    flow = make_flow(risk, params, chart=chart, clock=_clock(risk, clock), metric=metric)
    done = run(flow, params, settings)
    trajectory = _assemble(risk, params, flow.clock.name, settings, done)
    if throw and not trajectory.result.ok:
        raise RuntimeError(
            f"integration failed ({trajectory.result.name}): {trajectory.result.message}"
        )
    if throw and not trajectory.unique:
        at = next(event for event in trajectory.events if event.kind == "branch")
        raise RuntimeError(
            f"the flow is not unique: at ln t = {at.log_t:.10g} neuron {at.neuron} can leave the "
            f"surface of datum {at.datum} in more than one way; perturb the start, or pass "
            "throw=False to follow one of them"
        )
    return trajectory


def _why_not_separated(risk: Any, final: Any, detail: str) -> str:
    """What can be said of data that a flow has not separated: which, and whether any net could."""
    # Imported here: a linear program's libraries are needed in this case only.
    from gradflow.certificates import contradictions

    margins = np.asarray(risk.margins(final))
    wrong = np.flatnonzero(margins <= 0)
    said = [detail] if detail else []
    if wrong.size:
        shown = ", ".join(map(str, wrong[:5])) + (", ..." if wrong.size > 5 else "")
        said.append(f"{wrong.size} of {margins.size} data have margin <= 0: {shown}")
    X = np.asarray(risk.X)
    if getattr(risk.net, "bias", False):
        X = np.concatenate([X, np.ones((X.shape[0], 1))], axis=1)
    for group in contradictions(X, np.asarray(risk.y))[:3]:
        said.append(
            f"rows {list(group.positive[:3])} (label +1) and {list(group.negative[:3])} (label -1) "
            "have one direction: no positively homogeneous net separates them"
        )
    return "; ".join(said)


def integrate_many(
    risk: Any,
    starts: Any,
    *,
    until: Any,
    clock: str = "auto",
    integrator: str = "auto",
    rtol: float = 1e-8,
    atol: float | None = None,
    save_at: Any = None,
    max_steps: int = 1_000_000,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[Trajectory]:
    """Integrate a flow with kinks from many starts at once (one compiled, batched program).

    Parameters
    ----------
    risk : AbstractRisk
        With kinks, so that the event-located integrator applies.
    starts : sequence of parameters
        Of equal shapes.
    until, clock, integrator, rtol, atol, save_at, max_steps, progress
        As in :func:`integrate`.

    Returns
    -------
    list of Trajectory
        In the order of the starts. One start alone and the same start in a batch agree to rounding
        (about 1e-15 a step), not to the bit.

    Raises
    ------
    ValueError
        Bad input; a risk or an integrator without batches.
    """
    settings = check_settings(
        until=until, save_at=save_at, integrator=integrator, rtol=rtol, atol=atol,
        max_steps=max_steps, progress=progress,
    )  # fmt: skip
    if not isinstance(starts, (list, tuple)) or not starts:
        raise fail("starts", starts, "holds no start", "pass a list of parameters")
    params = [_start(risk, start) for start in starts]
    flow = make_flow(risk, params[0], chart="cartesian", clock=_clock(risk, clock))
    return [
        _assemble(risk, one, flow.clock.name, settings, done)
        for one, done in zip(params, run_many(flow, params, settings), strict=True)
    ]


def _start(risk: Any, params: Any) -> Any:
    """Return ``params`` as a start of the risk's flow, or say what is wrong with either."""
    if not isinstance(risk, AbstractRisk):
        raise fail(
            "risk", risk, "is not a risk",
            "pass gf.PopulationRisk(...), gf.EmpiricalRisk(...) or gf.FunctionRisk(fn)",
        )  # fmt: skip
    params = risk.as_params(params)
    return params if risk.net is None else risk.net.check_start(params)


def _clock(risk: Any, clock: Any) -> Any:
    if not isinstance(clock, str) or clock != "auto":
        return clock
    arrangement = risk.arrangement
    return "loss" if arrangement is not None and arrangement.margin_loss else "log"


def _assemble(risk: Any, params: Any, clock_name: str, settings: Settings, done: Run) -> Trajectory:
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
    result = done.result
    if result.name == "stationary":
        result = Result("stationary", _why_not_separated(risk, final, result.detail))
    return Trajectory(
        risk=risk, **merged, params=all_params, initial=params,
        final=final,
        t_final=float(end["t"][0]), log_t_final=float(end["log_t"][0]),
        clock_final=last.s_final, exact=_merge_exact(risk, pieces), events=events,
        stats=done.stats, result=result, stopped_by=done.stopped_by, rtol=settings.rtol,
        atol=settings.atol, clock_name=clock_name,
        chart_names=tuple(flow.chart.name for flow, _ in done.stages),
        integrator=done.integrator, _stages=tuple(kept),
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


__all__ = ["integrate", "integrate_many"]
