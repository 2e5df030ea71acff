"""The late phase behind the contract: what it takes over, what it hands back."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.flows.charts.late import LateChart
from gradflow.flows.event import AbstractEvent, limits
from gradflow.integrators.contract import (
    AbstractIntegrator,
    Happening,
    Problem,
    Result,
    Solution,
    register_integrator,
)
from gradflow.integrators.statistics import empty_stats
from gradflow.integrators.steppers.late.integrator import late_phase
from gradflow.integrators.steppers.late.run import LateRun


class LateIntegrator(AbstractIntegrator):
    """The late phase of a margin flow (:func:`.integrator.late_phase`) as a stepper."""

    name = "late"

    def solve(self, problem: Problem) -> Solution:
        """Go on from a state of the late chart, to a time, loss or speed of turning."""
        flow = problem.flow
        chart, at = cast(LateChart, flow.chart), cast(Arrangement, flow.arrangement)
        state, energy, extra = flow.split(problem.Y0)
        W, a = at.split(chart.decode(state))
        sides: Any = problem.sides
        direction = max(limits(problem.events, "direction"), default=None)
        tau_end = min(limits(problem.events, "time"), default=None)
        run = late_phase(
            at, W, a, _log_time(float(extra[0])), clock=problem.s0, sides=sides,
            unseen=Pattern(at, sides[W.any(axis=1)]).unseen if at.blind else None,
            rtol=problem.tolerances.rtol_local,
            log_t_end=None if tau_end is None else _log_time(tau_end),
            log_loss_end=max(limits(problem.events, "loss"), default=None),
            direction_tol=None if direction is None else float(np.exp(direction)),
            clock_end=problem.s_end if np.isfinite(problem.s_end) else None,
            save_log_t=() if problem.save is None else _log_time(problem.save),
            max_steps=problem.max_steps, watch=problem.watch,
        )  # fmt: skip
        states = chart.states(run.U, run.A, run.log_rho, run.log_loss, run.margin)
        # What the loss has spent; here the energy is no monitor.
        spent = float(energy) + float(np.exp(state[-2])) - np.exp(run.log_loss)
        taus = np.logaddexp(0.0, run.log_t)
        Y = np.concatenate([states, spent[:, None], taus[:, None]], axis=1)
        keep = np.ones(len(Y), bool) if problem.save is None else run.saved
        event = _which(problem.events, run) if run.ok else None
        return Solution(
            s=run.clock[keep], Y=Y[keep], s_final=float(run.clock[-1]), Y_final=Y[-1],
            stats=_stats(problem, run, event), result=_result(run),
            event=event, happenings=_happenings(run), sides=run.sides,
            seen=run.seen_again if run.result == "seen" else None,
        )  # fmt: skip


def _result(run: LateRun) -> Result:
    return Result("event" if run.ok else run.result, run.detail)


def _stats(problem: Problem, run: LateRun, event: AbstractEvent | None) -> dict[str, float]:
    counted = {name: run.stats[name] for name in ("steps", "rejected", "rhs", "jacobians")}
    return {
        **empty_stats(), **counted, **problem.tolerances.stats(),
        "events": len(run.events) + (event is not None), "run_seconds": run.stats["run_seconds"],
    }  # fmt: skip


def _happenings(run: LateRun) -> tuple[Happening, ...]:
    return tuple(
        Happening(e.clock, float(np.logaddexp(0.0, e.log_t)), e.neuron, e.surface, e.kind)
        for e in run.events
    )


def _log_time(tau: Any) -> Any:
    """ln t from ln(1+t)."""
    with np.errstate(divide="ignore"):
        out = tau + np.log(-np.expm1(-np.asarray(tau, float)))
    return float(out) if np.ndim(out) == 0 else out


def _which(events: tuple[AbstractEvent, ...], run: LateRun) -> AbstractEvent | None:
    """The condition that ended a run: the one nearest to its threshold."""
    ends = {"time": float(np.logaddexp(0.0, run.log_t[-1])), "loss": float(run.log_loss[-1])}

    def gap(event: AbstractEvent) -> float:
        limit = event.limit(event.quantity)
        if event.quantity not in ends or limit is None:
            return 1e-6  # (met when no other is)
        return abs(ends[event.quantity] - limit) / max(1.0, abs(limit))

    return min(events, key=gap, default=None)


register_integrator("late", LateIntegrator, hidden=True)
