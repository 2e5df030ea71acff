"""Integrate a risk's gradient flow from one start (:func:`integrate`) or many
(:func:`integrate_many`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from diffrax import AbstractSolver

from gradflow.flows.flow import make_flow
from gradflow.integrators.contract import Result
from gradflow.integrators.driver import Run, Settings, check_settings, run, run_many
from gradflow.integrators.watch import Progress
from gradflow.paths.building import trajectory_of
from gradflow.paths.trajectory import Trajectory
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
    integrator: str | AbstractSolver = "auto",
    rtol: float = 1e-8,
    atol: float | None = None,
    save_at: Any = None,
    max_steps: int = 1_000_000,
    throw: bool = False,
    progress: Progress | bool | None = None,
    max_seconds: float | None = None,
    safety: float | None = None,
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
    integrator : str or diffrax solver
        ``"auto"``; ``piecewise`` (event-located, for risks with kinks; taken by "auto" whenever the
        risk has kinks), ``piecewise-slides`` (the same for large nets: locates where neurons begin
        to slide, and lets other crossings pass under error control); diffrax:
        ``tsit5 dopri5 dopri8 bosh3 heun``, implicit ``kvaerno3/4/5``; scipy:
        ``rk45 dop853 lsoda radau bdf``. A Runge-Kutta solver object of diffrax serves as well
        (``diffrax.Tsit5()``).
    rtol : float
        Relative tolerance. Local errors are kept below a share of it (``safety``), so that the
        accumulated error usually stays below; an error bar comes from a second, tighter solve,
        never from here.
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
    progress : callable or False, optional
        Called now and then with a dict ``s, s_end, steps, events, seconds, steps_per_second, log_t,
        log_loss, loss``; ends the integration by returning False. Default: on a terminal or in a
        notebook a line shows after three seconds; False: none.
    max_seconds : float, optional
        Wall-clock seconds, compiling included, after which the integration ends with the part
        computed (result ``max_seconds``). Ctrl-C ends it so too (result ``interrupted``).
    safety : float, optional
        Share of the tolerances that the error of one step may take; 1 hands the solver what was
        asked. Default: the method's own (0.1, dopri8 0.01, piecewise 0.03).

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
        max_steps=max_steps, progress=progress, max_seconds=max_seconds, safety=safety,
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


def _assemble(risk: Any, params: Any, clock_name: str, settings: Settings, done: Run) -> Trajectory:
    path = trajectory_of(risk, params, clock_name, settings, done)
    if path.result.name != "stationary":
        return path
    detail = _why_not_separated(risk, path.final, path.result.detail)
    return replace(path, result=Result("stationary", detail))


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
    integrator: str | AbstractSolver = "auto",
    rtol: float = 1e-8,
    atol: float | None = None,
    save_at: Any = None,
    max_steps: int = 1_000_000,
    progress: Progress | bool | None = None,
    max_seconds: float | None = None,
    safety: float | None = None,
) -> list[Trajectory]:
    """Integrate a flow with kinks from many starts at once (one compiled, batched program).

    Parameters
    ----------
    risk : AbstractRisk
        With kinks, so that the event-located integrator applies.
    starts : sequence of parameters
        Of equal shapes.
    until, clock, integrator, rtol, atol, save_at, max_steps, progress, max_seconds, safety
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
        max_steps=max_steps, progress=progress, max_seconds=max_seconds, safety=safety,
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


__all__ = ["integrate", "integrate_many"]
