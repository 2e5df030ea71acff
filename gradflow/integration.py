"""Integrate a risk's gradient flow from a start (:func:`integrate`)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from diffrax import AbstractSolver
from jax.core import Tracer
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.flows.course import Course
from gradflow.flows.flow import Flow
from gradflow.flows.metrics import Metric
from gradflow.flows.stage import AbstractStage
from gradflow.integrators.contract import Result
from gradflow.integrators.driver import Journey
from gradflow.integrators.save import AbstractSave
from gradflow.integrators.settings import Settings, check_atol, check_settings
from gradflow.integrators.until import AbstractUntil, check_start_time
from gradflow.integrators.watch import Progress, Watch
from gradflow.paths.building import trajectory_of
from gradflow.paths.trajectory import Trajectory
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_bool, fail


class IntegrationWarning(UserWarning):
    """An integration ended before its end; the part computed is there, with the remedy."""


class IntegrationError(RuntimeError):
    """An integration failed, or its flow is not unique, and ``throw=True`` was passed.

    Attributes
    ----------
    path : Trajectory
        The part computed.
    paths : list of Trajectory
        Those of all starts, in order.
    """

    def __init__(
        self, message: str, path: Trajectory, paths: list[Trajectory] | None = None
    ) -> None:
        super().__init__(message)
        self.path, self.paths = path, [path] if paths is None else paths


def integrate(
    risk: AbstractRisk | Trajectory,
    params: PyTree = None,
    *,
    until: AbstractUntil | float,
    t0: AbstractUntil | float = 0.0,
    clock: str = "auto",
    chart: str = "auto",
    metric: Metric = "euclidean",
    integrator: str | AbstractSolver = "auto",
    rtol: float | None = None,
    atol: PyTree = None,
    save_at: AbstractSave | ArrayLike | None = None,
    max_steps: int = 1_000_000,
    throw: bool = False,
    progress: Progress | bool | None = None,
    max_seconds: float | None = None,
    safety: float | None = None,
) -> Trajectory:
    r"""Integrate the gradient flow :math:`\dot\theta=-\nabla L(\theta)` from ``params``.

    Parameters
    ----------
    risk : AbstractRisk or Trajectory
        A path (a loaded one too) goes on where it ended, as if it had never stopped: at its own
        time, in its clock, chart, metric and stage, with its integrator and tolerances unless
        others are passed. ``params`` is then left out; what comes back begins at the end of the
        path.
    params : pytree
        The start (anything ``risk.as_params`` reads).
    until : number or stopping condition
        A physical time (``until=1e6`` is ``gf.until.time(1e6)``), or ``gf.until.time``,
        ``.log_time``, ``.clock``, ``.loss``, ``.gradient``, ``.direction``, ``.when``, ``.steps``;
        combine with ``|``.
    t0 : float or ``gf.until.log_time(...)``
        The physical time at the start, ≥ 0; for times beyond floats by its logarithm. ``until`` and
        ``save_at`` count from the same zero.
    clock : {"auto", "log", "physical", "loss"}
        The variable integrated over: ln(1+t), t, or s with ds = L dt. "auto" is the loss clock for
        margin losses on finite data (ln t is then a state, and t may exceed any float), else log.
    chart : {"auto", "cartesian", "log-angle", "conic"} or a registered name
        Coordinates; they leave the flow alone. "auto": the first that ``risk.charts`` offers.
        "conic": (ln‖w_k‖, w_k/‖w_k‖) of a balanced two-layer net with both layers trained, so that
        norms of any size keep their digits.
    metric : {"euclidean", "conic"}, mapping or callable
        "conic" (fixed outer weights): neuron k moves by −‖w_k‖ times its gradient, the flow of the
        norm-dependent step (:mod:`gradflow.flows.charts.conic`). A mapping, as
        ``{"inner": 1, "outer": 100}``: the rates of the layers, θ̇_l = −rate_l ∇_l L, 1 for those
        left out. A function of the parameters: a positive definite matrix G with θ̇ = −G⁻¹∇L, with
        an integrator of diffrax or SciPy. Both in cartesian coordinates
        (:mod:`gradflow.flows.metrics`).
    integrator : str or diffrax solver
        ``"auto"``; ``piecewise`` (event-located, for risks with kinks; taken by "auto" whenever the
        risk has kinks; ``piecewise-slides`` is an older name of it); ``dopri8-lsoda``,
        ``tsit5-lsoda`` (taken by "auto" where there are no kinks, the latter for rtol >= 1e-6:
        explicit until stability limits the steps, then LSODA with the exact Jacobian, until the
        flow rests, which is the result ``rest``); diffrax:
        ``tsit5 dopri5 dopri8 bosh3 heun``, implicit ``kvaerno3/4/5``; scipy:
        ``rk45 dop853 lsoda radau bdf``. A Runge-Kutta solver object of diffrax serves as well
        (``diffrax.Tsit5()``).
    rtol : float, optional
        Relative tolerance; default 1e-8. Local errors are kept below a share of it (``safety``), so
        that the accumulated error usually stays below; an error bar comes from a second, tighter
        solve, never from here.
    atol : float, array or pytree, optional
        Absolute tolerance in units of the state; in the cartesian chart also one for each parameter
        (an array like the raveled parameters, or a pytree shaped like them). Default: ``rtol``
        times the size of the start, component by component, so that starts of 1e-20 grow correctly.
    save_at : sequence of times or ``gf.save...``, optional
        What to record; default: the solver's steps.
    max_steps : int
        Bound on attempted steps.
    throw : bool
        Raise ``gf.IntegrationError``, which carries the ``path``, on numerical failure, and where
        the flow is not unique (a ``branch`` event); default: a ``gf.IntegrationWarning`` on
        failure, and ``result`` and ``events`` tell; what was computed is kept.
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
        Bad input, naming the argument, its value and the fix; values traced by ``jax.jit``,
        ``jax.grad`` or ``jax.vmap`` among them.
    IntegrationError
        Only with ``throw=True``.

    Warns
    -----
    IntegrationWarning
        If the integration failed; once, with the remedy.
    SmallStartWarning
        If ``atol`` exceeds 1 % of the start's size.
    """
    check_bool("throw", throw)
    numerics = {
        "until": until, "save_at": save_at, "integrator": integrator, "rtol": rtol, "atol": atol,
        "max_steps": max_steps, "progress": progress, "max_seconds": max_seconds, "safety": safety,
    }  # fmt: skip
    if isinstance(risk, Trajectory):
        course = _going_on(risk, params, t0, clock, chart, metric)
        prepared = prepare(risk.risk, risk.final, course, _as_before(risk, numerics))
    else:
        course = course_of(risk, params, t0, clock, chart, metric)
        prepared = prepare(risk, course.params, course, numerics)
    with prepared.settings.watch() as watch:
        path = prepared.run(watch)
    if throw:
        raise_failed(path)
    elif not path.result.ok:
        warnings.warn(_failure(path), IntegrationWarning, stacklevel=2)
    return path


@dataclass(frozen=True)
class Prepared:
    """An integration whose arguments have been checked (:func:`prepare`).

    Attributes
    ----------
    risk : AbstractRisk
    start : pytree
    course : Course
    stage : AbstractStage
        Where the course begins.
    settings : Settings
    journey : Journey
        It is made once.
    """

    risk: AbstractRisk
    start: PyTree
    course: Course
    stage: AbstractStage
    settings: Settings
    journey: Journey

    def run(self, watch: Watch) -> Trajectory:
        """Integrate in the sight of ``watch``, which has been entered."""
        done = self.journey.run(watch)
        gone = self.course.gone(self.stage, [solution.end for _, solution in done.stages])
        path = trajectory_of(self.risk, self.start, gone, self.settings, done)
        return replace(path, result=_explained(path))


def prepare(
    risk: AbstractRisk, start: PyTree, course: Course, numerics: dict[str, object]
) -> Prepared:
    """Check the numerical arguments of an integration along a course.

    Raises
    ------
    ValueError
        Bad input.
    """
    if numerics["rtol"] is None:
        numerics = {**numerics, "rtol": 1e-8}
    settings = check_settings(**numerics)
    settings = replace(settings, until=settings.until.of(risk))
    flow = course.flow
    atol = check_atol(settings.asked.atol, flow, start)
    settings = replace(settings, asked=replace(settings.asked, atol=atol))
    resolved = settings.until.resolve(flow)
    save, save_by = settings.save.resolve(flow)
    # (the late phase counts no steps, and records at times only)
    capped = resolved.step_cap is not None or (save is not None and save_by is None)
    quantities = {event.quantity for event in resolved.events}
    stage = course.stage(quantities, capped=capped, located=settings.locates)
    _check_metric(risk, flow, settings)
    journey = Journey(stage, settings.stepper(stage.kinked), settings)
    return Prepared(risk, start, course, stage, settings, journey)


def course_of(
    risk: AbstractRisk | Trajectory,
    params: PyTree,
    t0: AbstractUntil | float,
    clock: str,
    chart: str,
    metric: Metric,
) -> Course:
    """Return the course from a start.

    Raises
    ------
    ValueError
        If something is wrong with the risk, the start or what is asked for.
    """
    if not isinstance(risk, AbstractRisk):
        raise fail(
            "risk", risk, "is not a risk",
            "pass gf.PopulationRisk(...), gf.EmpiricalRisk(...), gf.FunctionRisk(fn), or a path to "
            "go on from",
        )  # fmt: skip
    traced = [leaf for leaf in jax.tree.leaves((risk, params)) if isinstance(leaf, Tracer)]
    if traced:
        raise fail(
            "params", traced[0], "is traced by jax.jit, jax.grad or jax.vmap",
            "integrate outside of them: for many starts use gf.integrate_many; derivatives of the "
            "end in the start (the variational equation) are not offered",
        )  # fmt: skip
    params = risk.as_params(params)
    start = params if risk.net is None else risk.net.check_start(params)
    if isinstance(clock, str) and clock == "auto":  # (arrays compare entry by entry)
        at = risk.arrangement
        clock = "loss" if at is not None and at.central and at.margin_loss else "log"
    course = Course.of(risk, start, clock=clock, chart=chart, metric=metric)
    return course.begin(check_start_time(t0))


def _going_on(
    path: Trajectory,
    params: PyTree,
    t0: AbstractUntil | float,
    clock: str,
    chart: str,
    metric: Metric,
) -> Course:
    """The course of a path, which cannot be changed on the way."""
    taken = {
        "params": (params, params is None), "t0": (t0, t0 == 0.0),
        "clock": (clock, clock in ("auto", path.clock_name)), "chart": (chart, chart == "auto"),
        "metric": (metric, metric == "euclidean"),
    }  # fmt: skip
    for argument, (value, left_out) in taken.items():
        if not left_out:
            raise fail(
                argument, value, "is given by the path that goes on",
                f"leave {argument} out, or start from path.risk, path.final and t0",
            )  # fmt: skip
    if path.course is None:
        raise fail(
            "risk", path, "does not know how it was integrated",
            "pass its risk and its final parameters, with t0=path.t_final",
        )  # fmt: skip
    return path.course


def _as_before(path: Trajectory, numerics: dict[str, object]) -> dict[str, object]:
    """The numerical choices of the path, where no others are passed."""
    before = {"rtol": path.rtol, "atol": path.atol}
    kept = {key: value for key, value in before.items() if numerics[key] is None}
    if numerics["integrator"] == "auto":
        kept["integrator"] = path.integrator
    return {**numerics, **kept}


def _check_metric(risk: AbstractRisk, flow: Flow, settings: Settings) -> None:
    """Kinks are not passed over in silence in a metric in which they cannot be located."""
    at = risk.arrangement
    located = at is not None and at.kinked
    if not located or flow.arrangement is not None or settings.explicit:
        return
    if flow.chart.name == "cartesian":
        raise fail(
            "metric", "...", "is a matrix that moves neurons over kinks, which are located where "
            "layers move at rates of their own only",
            "pass rates by name, as {'inner': 1, 'outer': 100}; or name an explicit integrator, as "
            "integrator='dopri8', with a small max_steps: it steps over kinks, and chatters where "
            "a neuron slides",
        )  # fmt: skip


def _explained(path: Trajectory) -> Result:
    """The result, with what can be said of kinks or of data that the flow has not separated."""
    result, net, at = path.result, path.risk.net, path.risk.arrangement
    remark = None if result.ok or net is None else net.unlocated_kinks()
    if remark is not None:
        return Result(result.name, "; ".join(filter(None, (result.detail, remark))))
    if result.name != "stationary" or at is None or not (at.central and at.margin_loss):
        return result
    # Imported here: a linear program's libraries are needed in this case only.
    from gradflow.certificates import contradictions

    risk: Any = path.risk
    margins = np.asarray(risk.margins(path.final))
    wrong = np.flatnonzero(margins <= 0)
    said = [result.detail] if result.detail else []
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
    return Result("stationary", "; ".join(said))


def _failure(path: Trajectory) -> str:
    return f"integration failed ({path.result.name}): {path.result.message}"


def raise_failed(path: Trajectory) -> None:
    """Raise ``IntegrationError`` if a path's integration failed, or its flow is not unique."""
    if not path.result.ok:
        raise IntegrationError(_failure(path), path)
    if not path.unique:
        at = next(event for event in path.events if event.kind == "branch")
        raise IntegrationError(
            f"the flow is not unique: at ln t = {at.log_t:.10g} neuron {at.neuron} can leave the "
            f"surface of datum {at.datum} in more than one way; perturb the start, or pass "
            "throw=False to follow one of them",
            path,
        )


__all__ = ["IntegrationError", "IntegrationWarning", "integrate"]
