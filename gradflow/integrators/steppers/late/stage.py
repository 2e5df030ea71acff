"""The late phase as the last stage of an integration: when it takes over, what it hands back."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from gradflow.cells.forces import Forces
from gradflow.cells.pattern import Pattern
from gradflow.flows.charts.late import LateChart
from gradflow.flows.flow import Flow
from gradflow.integrators.contract import AbstractEvent, Happening, Result, Solution
from gradflow.integrators.statistics import empty_stats
from gradflow.integrators.steppers.late.integrator import late_phase
from gradflow.integrators.until import (
    DirectionEvent,
    LossEvent,
    Resolved,
    TimeEvent,
)
from gradflow.integrators.watch import Watch
from gradflow.losses import Exponential, Logistic

#: The late phase begins with every margin and ρ^D above these: earlier its directions and
#: logarithms are no better than weights, later explicit steps are cut short by stiffness. What is
#: found does not depend on them, the work hardly: margins 1 … 10 took 1,530 … 1,479 steps on the
#: instance of benchmarks/kinks.py.
_LEAST_MARGIN = 8.0
_LEAST_SIZE = 30.0
#: The same where ReLU neurons leave data unseen, whose loss must be large beside all the others'.
_LEAST_BESIDE = 12.0
#: A ReLU neuron sees a datum from this cosine on: one that slides past it does not.
_SEES = 1e-12
#: How far a neuron is put on the side to which it has crossed.
_OFF = 1e-10


class SeparatedEvent(AbstractEvent):
    """The data are separated, and weights are large enough for the late phase.

    Data that no ReLU neuron sees have no say, as long as there are others.

    Attributes
    ----------
    forces : Forces or None
        None where neurons see everything (α > 0).
    must : (n,) bools or None
        Data that have a say in any case.
    """

    role = "handover"
    forces: Forces | None = None
    must: Any = None

    @property
    def label(self) -> str:
        return "separated"

    @classmethod
    def of(cls, flow: Flow, must: np.ndarray | None = None) -> SeparatedEvent:
        """Return the event of a flow with kinks."""
        at = flow.arrangement
        if at is None or not at.blind:
            return cls()
        return cls(Forces.of(at), np.zeros(len(at.y), bool) if must is None else must)

    def __call__(self, flow: Any, s: Any, Y: Any) -> Any:
        chart = flow.chart
        state = flow.split(Y)[0]
        risk = chart.risk
        params = chart.params(state)
        margins, least = risk.margins(params), jnp.asarray(_LEAST_MARGIN)
        if self.forces is not None:
            forces = self.forces
            W, N = forces.split(params)[0], forces.normals
            cosines = (N @ W.T) / jnp.maximum(
                jnp.linalg.norm(N, axis=1)[:, None] * jnp.linalg.norm(W, axis=1)[None, :], 1e-300
            )
            sign = jnp.sign(forces.scale)[:, None]
            seen = jnp.any(sign * cosines[forces.surface] > _SEES, axis=1) | self.must
            margins = jnp.where(seen, margins, jnp.where(jnp.any(seen), jnp.inf, 0.0))
            least = jnp.where(jnp.all(seen), _LEAST_MARGIN, _LEAST_BESIDE)
        size = jnp.sqrt(jnp.sum(jnp.where(chart.trained, state, 0.0) ** 2))
        # In units where inputs, and fixed outer weights, have size 1.
        constant = 1.0 if getattr(risk.net, "bias", False) else 0.0
        inputs = jnp.sqrt(jnp.max(jnp.sum(risk.X**2, axis=1)) + constant)
        fixed = jnp.sqrt(jnp.sum(jnp.where(chart.trained, 0.0, state) ** 2))
        unit = inputs * jnp.where(fixed > 0, fixed, 1.0)
        ready = risk.net.degree * jnp.log(size) + jnp.log(unit) - np.log(_LEAST_SIZE)
        return jnp.minimum(jnp.min(margins) - least, ready)


def has_late_stage(flow: Flow, resolved: Resolved) -> bool:
    """Whether an integration goes on to the late phase once the data are separated.

    It does in the loss clock, for the exponential and logistic loss, when it is to end by time,
    loss or direction.
    """
    at = flow.arrangement
    return (
        flow.clock.name == "loss"
        and at is not None
        and isinstance(at.loss, (Exponential, Logistic))
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
    watch: Watch | None = None,
) -> tuple[Flow, Solution, np.ndarray]:
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
    watch : Watch, optional
        Asked at each step whether to go on.

    Returns
    -------
    flow : Flow
        In the chart of directions.
    solution : Solution
    seen_again : (n,) bools
        Where a neuron has come to see a datum that none saw, the data: the flow itself goes on.
    """
    at = flow.arrangement
    assert at is not None
    state, energy, extra = flow.split(before.Y_final)
    W, a = at.split(flow.chart.decode(state))
    tau = float(extra[0])
    tau_end = _threshold(resolved, TimeEvent)
    direction = _threshold(resolved, DirectionEvent)
    sides: Any = before.sides
    unseen = None
    if at.blind:
        unseen = Pattern(at, sides[W.any(axis=1)]).unseen
    run = late_phase(
        at, W, a, _log_time(tau), clock=before.s_final, sides=sides, unseen=unseen, rtol=rtol,
        log_t_end=None if tau_end is None else _log_time(tau_end),
        log_loss_end=_threshold(resolved, LossEvent),
        direction_tol=None if direction is None else float(np.exp(direction)),
        clock_end=resolved.s_end if np.isfinite(resolved.s_end) else None,
        save_log_t=None if save is None else _log_time(save),
        max_steps=max(max_steps, 1), watch=watch,
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
    event = _which(resolved, run) if run.ok else None
    stats["events"] = len(run.events) + (event is not None)
    stats["run_seconds"] = run.stats["run_seconds"]
    solution = Solution(
        s=run.clock[keep], Y=Y[keep], s_final=float(run.clock[-1]), Y_final=Y[-1], stats=stats,
        result=Result("event" if run.ok else run.result, run.detail),
        event=event,
        happenings=tuple(
            Happening(e.clock, float(np.logaddexp(0.0, e.log_t)), e.neuron, e.surface, e.kind)
            for e in run.events
        ),
        sides=run.sides,
    )  # fmt: skip
    return late, solution, run.seen_again


def off_the_surface(flow: Flow, params: Any, sides: Any, seen: np.ndarray) -> Any:
    """Move neurons that have come to see data ``seen`` (n,) to their side, by a relative 1e-10.

    On the surface itself what carried them over is lost beside what pulls them on.
    """
    at = flow.arrangement
    assert at is not None
    W, a = at.split(params)
    N = at.normals
    for g in np.unique(at.surface[seen]):
        size = np.linalg.norm(N[g])
        for k in np.flatnonzero((sides[:, g] != 0) & W.any(axis=1)):
            short = _OFF * size * np.linalg.norm(W[k]) - sides[k, g] * (N[g] @ W[k])
            # (without leaving the surfaces it slides on)
            held = N[sides[k] == 0]
            way = N[g] - (np.linalg.lstsq(held.T, N[g], rcond=None)[0] @ held if len(held) else 0.0)
            room = float(way @ N[g])
            if short > 0 and room > 1e-9 * size**2:
                W[k] += sides[k, g] * short * way / room
    return at.join(W, a)


def _log_time(tau: Any) -> Any:
    """ln t from ln(1+t)."""
    with np.errstate(divide="ignore"):
        out = tau + np.log(-np.expm1(-np.asarray(tau, float)))
    return float(out) if np.ndim(out) == 0 else out


def _which(resolved: Resolved, run: Any) -> AbstractEvent | None:
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
    return resolved.events[int(np.argmin(gaps))] if gaps else None


__all__ = ["SeparatedEvent", "has_late_stage", "late_stage", "off_the_surface"]
