"""The late phase as the last stage of an integration: when it takes over, what it hands back."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from gradflow.flows.flow import Flow
from gradflow.flows.late_chart import LateChart
from gradflow.integrators.base import Happening, Result, Solution, empty_stats
from gradflow.integrators.late import late_phase
from gradflow.integrators.until import (
    AbstractEvent,
    DirectionEvent,
    LossEvent,
    Resolved,
    TimeEvent,
)
from gradflow.models.losses import Exponential, Logistic

#: The late phase begins with every margin and ρ^D above these: earlier its directions and
#: logarithms are no better than weights, later explicit steps are cut short by stiffness. What is
#: found does not depend on them, the work hardly: margins 1 … 10 took 1,530 … 1,479 steps on the
#: instance of benchmarks/kinks.py.
_LEAST_MARGIN = 8.0
_LEAST_SIZE = 30.0


class SeparatedEvent(AbstractEvent):
    """The data are separated, and weights are large enough for the late phase."""

    def __call__(self, flow: Any, s: Any, Y: Any) -> Any:
        chart = flow.chart
        state = flow.split(Y)[0]
        risk = chart.risk
        margins = risk.margins(chart.params(state))
        size = jnp.sqrt(jnp.sum(jnp.where(chart.trained, state, 0.0) ** 2))
        # In units where inputs, and fixed outer weights, have size 1.
        constant = 1.0 if getattr(risk.net, "bias", False) else 0.0
        inputs = jnp.sqrt(jnp.max(jnp.sum(risk.X**2, axis=1)) + constant)
        fixed = jnp.sqrt(jnp.sum(jnp.where(chart.trained, 0.0, state) ** 2))
        unit = inputs * jnp.where(fixed > 0, fixed, 1.0)
        ready = risk.net.degree * jnp.log(size) + jnp.log(unit) - np.log(_LEAST_SIZE)
        return jnp.minimum(jnp.min(margins) - _LEAST_MARGIN, ready)


def has_late_stage(flow: Flow, resolved: Resolved) -> bool:
    """Whether an integration goes on to the late phase once the data are separated.

    It does in the loss clock, for the exponential and logistic loss, when it is to end by time,
    loss or direction.
    """
    kinks = flow.kinks()
    loss = getattr(kinks, "loss", None)
    return (
        flow.clock.name == "loss"
        and isinstance(loss, (Exponential, Logistic))
        and resolved.step_cap is None
        and bool(resolved.events)
        and all(isinstance(e, (TimeEvent, LossEvent, DirectionEvent)) for e in resolved.events)
    )


def _threshold(resolved: Resolved, kind: type) -> float | None:
    values = [float(e.threshold) for e in resolved.events if isinstance(e, kind)]  # type: ignore[attr-defined]
    if not values:
        return None
    return min(values) if kind is TimeEvent else max(values)


def late_stage(
    flow: Flow,
    before: Solution,
    resolved: Resolved,
    *,
    rtol: float,
    max_steps: int,
    save: np.ndarray | None,
) -> tuple[Flow, Solution]:
    """Go on from the end of the early stage.

    Parameters
    ----------
    flow : Flow
        The early stage's, in the cartesian chart and the loss clock.
    before : Solution
        Its end, with the sides of all pairs.
    resolved : Resolved
    rtol : float
        As asked.
    max_steps : int
    save : ndarray or None
        Values of ln(1+t) at which to record; None = every step.

    Returns
    -------
    flow : Flow
        In the chart of directions.
    solution : Solution
    """
    kinks: Any = flow.kinks()
    state, energy, extra = flow.split(before.Y_final)
    W, a = map(np.asarray, kinks.split(flow.chart.decode(state)))
    tau = float(extra[0])
    tau_end = _threshold(resolved, TimeEvent)
    direction = _threshold(resolved, DirectionEvent)
    run = late_phase(
        kinks, W, a, _log_time(tau), clock=before.s_final, sides=before.sides, rtol=rtol,
        log_t_end=None if tau_end is None else _log_time(tau_end),
        log_loss_end=_threshold(resolved, LossEvent),
        direction_tol=None if direction is None else float(np.exp(direction)),
        clock_end=resolved.s_end if np.isfinite(resolved.s_end) else None,
        save_log_t=None if save is None else _log_time(save),
        max_steps=max(max_steps, 1),
    )  # fmt: skip
    chart: Any = flow.chart
    late = Flow(LateChart(chart.risk, chart.template), flow.clock)
    states = late.chart.states(run.U, run.A, run.log_rho, run.log_loss, run.margin)  # type: ignore[attr-defined]
    # What the loss has spent; here the energy is no monitor.
    first = float(np.exp(chart.log_risk(jnp.asarray(state))))
    spent = float(energy) + first - np.exp(run.log_loss)
    taus = np.logaddexp(0.0, run.log_t)
    Y = np.concatenate([states, spent[:, None], taus[:, None]], axis=1)
    keep = np.ones(len(Y), bool) if save is None else run.saved
    stats = {
        **empty_stats(),
        **{k: run.stats[k] for k in ("steps", "rejected", "rhs", "jacobians")},
    }
    stats["events"] = len(run.events)
    stats["run_seconds"] = run.stats["run_seconds"]
    solution = Solution(
        s=run.clock[keep], Y=Y[keep], s_final=float(run.clock[-1]), Y_final=Y[-1], stats=stats,
        result=Result("event" if run.ok else run.result, run.detail),
        event=_which(resolved, run) if run.ok else None,
        happenings=tuple(
            Happening(e.clock, float(np.logaddexp(0.0, e.log_t)), e.neuron, e.surface, e.kind)
            for e in run.events
        ),
        sides=run.sides,
    )  # fmt: skip
    return late, solution


def _log_time(tau: Any) -> Any:
    """ln t from ln(1+t)."""
    with np.errstate(divide="ignore"):
        out = tau + np.log(-np.expm1(-np.asarray(tau, float)))
    return float(out) if np.ndim(out) == 0 else out


def _which(resolved: Resolved, run: Any) -> int | None:
    """The condition that ended a run: the one nearest to its threshold."""
    gaps: list[float] = []
    for event in resolved.events:
        threshold = float(event.threshold)  # type: ignore[attr-defined]
        if isinstance(event, TimeEvent):
            tau = float(np.logaddexp(0.0, run.log_t[-1]))
            gaps.append(abs(tau - threshold) / max(1.0, abs(threshold)))
        elif isinstance(event, LossEvent):
            gaps.append(abs(run.log_loss[-1] - threshold) / max(1.0, abs(threshold)))
        else:
            gaps.append(1e-6)  # (met when no other is)
    return int(np.argmin(gaps)) if gaps else None


__all__ = ["SeparatedEvent", "has_late_stage", "late_stage"]
