"""Integrate a risk's gradient flow (:func:`integrate`) and keep it (:class:`Trajectory`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import observables
from gradflow.flows.flow import make_flow
from gradflow.integrators.base import Result
from gradflow.integrators.compiled import compile_once
from gradflow.integrators.driver import Run, Settings, check_settings, run, run_many
from gradflow.integrators.save import Points
from gradflow.risks.base import AbstractRisk
from gradflow.storage import (
    describe_tree,
    leaf_names,
    rebuild_tree,
    replace_file,
    risk_from_description,
)
from gradflow.validation import check_bool, fail

#: Quantities read through the chart, which knows them beyond cartesian precision.
_CHART_VALUES = ("log_loss", "gradient_norm")
_FORMAT = "gradflow-trajectory-1"


@dataclass(frozen=True)
class Event:
    """Something that happened on the way.

    Attributes
    ----------
    t, log_t, clock : float
        When: physical time, its logarithm, value of the clock.
    kind : str
        ``"stop"``; ``"stage"`` (the chart was changed); where kinks are located: ``"crossing"``,
        ``"slide-in"``, ``"slide-out"``, ``"death"`` (no datum moves the neuron any more),
        ``"branch"`` (the flow goes on in more than one way; one was taken), ``"origin"`` (the
        neuron's weights vanish); in the late phase also ``"support-in"``, ``"support-out"``.
    label : str
    neuron, datum : int or None
        Where a kink was met; of data that share a surface, the first.
    """

    t: float
    log_t: float
    clock: float
    kind: str
    label: str = ""
    neuron: int | None = None
    datum: int | None = None


@dataclass(frozen=True)
class _Stage:
    """Recorded chart states of one stage."""

    flow: Any
    s: np.ndarray
    Y: np.ndarray


@dataclass(frozen=True, repr=False)
class Trajectory:
    """A gradient flow's path at recorded times; arrays carry time first.

    Attributes
    ----------
    risk : AbstractRisk
    t, log_t, clock : ndarray, shape (n,)
        Physical time (may overflow to inf), ln t (never does), value of the clock.
    params : pytree
        Parameters, arrays of shape (n, ...).
    initial, final : pytree
        Parameters at time 0 and where the integration stopped (recorded or not).
    t_final, log_t_final, clock_final : float
        When it stopped.
    exact : dict of ndarray
        What the chart knows beyond cartesian precision, by observable name.
    energy : ndarray, shape (n,)
        Integral of ``|dtheta/dt|^2`` over time, which on the exact flow is L(0) - L(t).
    events : tuple of Event
    stats : mapping
        ``steps`` (accepted), ``rejected``, ``rhs``, ``jacobians``, ``events``, ``compile_seconds``,
        ``run_seconds``; -1 where a solver does not report a number.
    result : Result
        ``.name``, ``.ok``, ``.message`` (with the remedy).
    stopped_by : str
        The condition that stopped it.
    rtol : float
    atol : float or None
        As asked; None = scaled to the start.
    clock_name, integrator : str
    chart_names : tuple of str
        The charts of the stages, in order.
    """

    risk: Any
    t: np.ndarray
    log_t: np.ndarray
    clock: np.ndarray
    params: Any
    initial: Any
    final: Any
    t_final: float
    log_t_final: float
    clock_final: float
    exact: dict[str, np.ndarray]
    energy: np.ndarray
    events: tuple[Event, ...]
    stats: Mapping[str, float]
    result: Result
    stopped_by: str
    rtol: float
    atol: float | None
    clock_name: str
    chart_names: tuple[str, ...]
    integrator: str
    _stages: tuple[_Stage, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return int(self.t.shape[0])

    def observe(self, name: str, **options: Any) -> np.ndarray:
        """Value of an observable at the recorded times (see :mod:`gradflow.observables`)."""
        return observables.observe(self, name, **options)

    def chart_value(self, name: str) -> np.ndarray | None:
        """``log_loss`` or ``gradient_norm`` through the chart; None where states are not kept."""
        if name not in _CHART_VALUES or not self._stages:
            return None
        rows = [_chart_rows(name, stage) for stage in self._stages if stage.s.shape[0]]
        value = np.concatenate(rows) if rows else np.zeros(0)
        self.exact[name] = value
        return value

    @property
    def unique(self) -> bool:
        """Whether no point was met at which the flow goes on in more than one way."""
        return all(event.kind != "branch" for event in self.events)

    @property
    def chart(self) -> str:
        """The chart, or the charts joined by arrows."""
        return " -> ".join(self.chart_names)

    def __repr__(self) -> str:
        span = f"t = {self.t[0]:.6g} ... {self.t[-1]:.6g}" if len(self) else "nothing recorded"
        work = ", ".join(f"{int(self.stats[k])} {k}" for k in ("steps", "rejected", "rhs"))
        return (
            f"Trajectory of {getattr(self.risk, 'name', type(self.risk).__name__)}\n"
            f"  {len(self)} points, {span}, "
            f"stopped at t = {self.t_final:.6g} by {self.stopped_by}\n"
            f"  {self.integrator}, clock {self.clock_name}, chart {self.chart}, "
            f"rtol = {self.rtol:g}, atol = {'scaled' if self.atol is None else f'{self.atol:g}'}\n"
            f"  {work}, {self.stats['run_seconds']:.3g} s + "
            f"{self.stats['compile_seconds']:.3g} s compiling\n"
            f"  result: {self.result.name} ({self.result.message})"
        )

    @property
    def defects(self) -> dict[str, float]:
        r"""How far the flow's exact invariants drifted: free monitors of the numerical error.

        ``energy`` is the largest :math:`|L(0)-L(t)-\int\|\dot\theta\|^2|/|L(0)|`; ``balance`` the
        largest change of :math:`a_k^2-\|w_k\|^2` (for deep linear nets, of the layers' Gram
        matrices) relative to the largest squared weight, absent where nothing is conserved.
        Source: `du2018balanced`.
        """
        found = {"energy": float(np.max(np.abs(self.observe("energy_defect")), initial=0.0))}
        net = getattr(self.risk, "net", None)
        if net is not None and net.balancedness(self.initial) is not None:
            balance = np.asarray(self.observe("balancedness"))
            size = max(float(np.max(np.abs(x))) for x in jax.tree.leaves(self.params)) ** 2
            found["balance"] = float(np.max(np.abs(balance - balance[0]))) / size
        return found

    def to_xarray(self) -> Any:
        """View as an ``xarray.Dataset`` with named dimensions, units and attributes."""
        import xarray as xr

        from gradflow import __version__

        variables: dict[str, Any] = {}
        structure, arrays = describe_tree(self.params)
        for path, array in zip(leaf_names(structure), arrays, strict=True):
            name = "_".join(path) or "params"
            if name in _TAKEN or name in observables.names() or name in self.exact:
                name = f"params_{name}"
            while name in variables:  # two paths may join to one name
                name = f"{name}_"
            attrs = {"long_name": f"parameters {name}", "units": "weight"}
            variables[name] = (_dims(name, array), array, attrs)
        variables["energy"] = (
            ("time",), self.energy,
            {"long_name": "integral of the squared speed", "units": "1"},
        )  # fmt: skip
        for name, array in self.exact.items():
            known = name in observables.names()
            spec = observables.get(name) if known else None
            dims = spec.dims if spec and len(spec.dims) == array.ndim else None
            if dims is None:
                # What a chart tells besides is a number, or one number a neuron.
                dims = ("time", "neuron")[: array.ndim]
            attrs = {
                "long_name": spec.long_name if spec else name.replace("_", " "),
                "units": spec.unit if spec else "1",
            }
            variables[name if name not in variables else f"exact_{name}"] = (dims, array, attrs)
        coords = {
            "time": (("time",), self.t, {"long_name": "physical time", "units": "time"}),
            "log_t": (("time",), self.log_t, {"long_name": "ln t", "units": "1"}),
            "clock": (("time",), self.clock, {"long_name": self.clock_name, "units": "1"}),
        }
        attrs = {
            "title": "gradient flow of " + str(getattr(self.risk, "name", "a risk")),
            "risk": json.dumps(self.risk.describe()),
            "gradflow_version": __version__,
            "integrator": self.integrator, "clock": self.clock_name, "chart": self.chart,
            "rtol": self.rtol, "atol": "scaled" if self.atol is None else self.atol,
            "result": self.result.name, "message": self.result.message,
            "stopped_by": self.stopped_by, "t_final": self.t_final,
            **{f"stats_{k}": float(v) for k, v in self.stats.items()},
        }  # fmt: skip
        return xr.Dataset(variables, coords=coords, attrs=attrs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one NetCDF-3 file, whole or not at all; read it with :func:`load`.

        The chart's values of ``log_loss`` and ``gradient_norm`` are computed and stored too.
        """
        import xarray as xr

        for name in _CHART_VALUES:
            if name not in self.exact:
                self.chart_value(name)
        header = {
            "format": _FORMAT,
            "risk": self.risk.describe(),
            "events": [vars(event) for event in self.events],
            "stats": dict(self.stats),
            "result": [self.result.name, self.result.detail],
            "stopped_by": self.stopped_by,
            "rtol": self.rtol,
            "atol": self.atol,
            "clock_name": self.clock_name,
            "chart_names": list(self.chart_names),
            "integrator": self.integrator,
        }
        variables: dict[str, Any] = {}

        def put(name: str, array: Any) -> None:
            array = np.asarray(array, np.float64)
            variables[name] = (tuple(f"{name}_{i}" for i in range(array.ndim)), array)

        for name in ("t", "log_t", "clock", "energy"):
            put(name, getattr(self, name))
        for name in ("t_final", "log_t_final", "clock_final"):
            put(name, getattr(self, name))
        for name in ("params", "initial", "final"):
            header[f"tree_{name}"], arrays = describe_tree(getattr(self, name))
            for k, array in enumerate(arrays):
                put(f"{name}_{k}", array)
        header["exact"] = list(self.exact)
        for k, array in enumerate(self.exact.values()):
            put(f"exact_{k}", array)
        dataset = xr.Dataset(variables, attrs={"gradflow": json.dumps(header)})
        replace_file(
            path, lambda name: dataset.to_netcdf(name, engine="scipy", format="NETCDF3_64BIT")
        )


def load(path: str | os.PathLike[str], risk: Any = None) -> Trajectory:
    """Read a trajectory written by :meth:`Trajectory.save`.

    Parameters
    ----------
    path : path-like
    risk : AbstractRisk, optional
        Needed for a risk made of a function, which no file can hold; else rebuilt from the file.

    Raises
    ------
    ValueError
        No such file, not a trajectory, or a risk that must be passed.
    """
    import xarray as xr

    if not isinstance(path, (str, os.PathLike)):
        raise fail("path", path, "is not a path", "pass a file written by Trajectory.save")
    if not os.path.isfile(path):
        raise fail("path", str(path), "is not a file", "pass a file written by Trajectory.save")
    try:
        with xr.open_dataset(path, engine="scipy", decode_times=False) as opened:
            dataset = opened.load()
        header = json.loads(dataset.attrs["gradflow"])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise fail(
            "path", str(path), f"is not a readable trajectory ({error})",
            "pass a file written by Trajectory.save",
        ) from error  # fmt: skip

    def take(name: str) -> np.ndarray:
        return np.asarray(dataset[name].values, np.float64)

    def tree(name: str, convert: Callable[[np.ndarray], Any]) -> Any:
        structure = header[f"tree_{name}"]
        arrays = [convert(take(f"{name}_{k}")) for k in range(len(leaf_names(structure)))]
        return rebuild_tree(structure, arrays)

    return Trajectory(
        risk=risk_from_description(header["risk"]) if risk is None else risk,
        t=take("t"), log_t=take("log_t"), clock=take("clock"),
        params=tree("params", np.asarray), initial=tree("initial", jnp.asarray),
        final=tree("final", jnp.asarray),
        t_final=float(take("t_final")), log_t_final=float(take("log_t_final")),
        clock_final=float(take("clock_final")),
        exact={name: take(f"exact_{k}") for k, name in enumerate(header["exact"])},
        energy=take("energy"), events=tuple(Event(**event) for event in header["events"]),
        stats=header["stats"], result=Result(*header["result"]), stopped_by=header["stopped_by"],
        rtol=header["rtol"], atol=header["atol"], clock_name=header["clock_name"],
        chart_names=tuple(header["chart_names"]), integrator=header["integrator"],
    )  # fmt: skip


def integrate(
    risk: Any,
    params: Any,
    *,
    until: Any,
    clock: str = "auto",
    chart: str = "auto",
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
    chart : {"auto", "cartesian", "log-angle"}
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
    if not isinstance(risk, AbstractRisk):
        raise fail(
            "risk", risk, "is not a risk",
            "pass gf.PopulationRisk(...), gf.EmpiricalRisk(...) or gf.FunctionRisk(fn)",
        )  # fmt: skip
    throw = check_bool("throw", throw)
    settings = check_settings(
        until=until, save_at=save_at, integrator=integrator, rtol=rtol, atol=atol,
        max_steps=max_steps, progress=progress,
    )  # fmt: skip
    params = risk.as_params(params)
    if risk.net is not None:
        params = risk.net.check_start(params)
    flow = make_flow(risk, params, chart=chart, clock=_clock(risk, clock))
    done = run(flow, params, settings)
    trajectory = _assemble(risk, params, flow.clock.name, settings, done)
    if done.result.name == "stationary":
        said = Result("stationary", _why_not_separated(risk, trajectory.final, done.result.detail))
        trajectory = replace(trajectory, result=said)
    if throw and not trajectory.result.ok:
        raise RuntimeError(f"integration failed ({done.result.name}): {done.result.message}")
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
    if not isinstance(risk, AbstractRisk):
        raise fail("risk", risk, "is not a risk", "pass gf.EmpiricalRisk(...)")
    settings = check_settings(
        until=until, save_at=save_at, integrator=integrator, rtol=rtol, atol=atol,
        max_steps=max_steps, progress=progress,
    )  # fmt: skip
    if not isinstance(starts, (list, tuple)) or not starts:
        raise fail("starts", starts, "holds no start", "pass a list of parameters")
    params = [risk.as_params(start) for start in starts]
    if risk.net is not None:
        params = [risk.net.check_start(one) for one in params]
    flow = make_flow(risk, params[0], chart="cartesian", clock=_clock(risk, clock))
    return [
        _assemble(risk, one, flow.clock.name, settings, done)
        for one, done in zip(params, run_many(flow, params, settings), strict=True)
    ]


def _clock(risk: Any, clock: Any) -> Any:
    if not isinstance(clock, str) or clock != "auto":
        return clock
    return "loss" if getattr(risk.kinks(), "margin_loss", False) else "log"


def _assemble(risk: Any, params: Any, clock_name: str, settings: Settings, done: Run) -> Trajectory:
    save = settings.save
    by_steps = not isinstance(save, Points)
    stages: list[_Stage] = []
    for index, (flow, solution) in enumerate(done.stages):
        # Recording steps, each stage repeats the last point of the one before in its own chart.
        skip = 1 if by_steps and index else 0
        stages.append(_Stage(flow, solution.s[skip:], solution.Y[skip:]))
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
    return Trajectory(
        risk=risk, **merged, params=all_params, initial=params,
        final=jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), end["params"]),
        t_final=float(end["t"][0]), log_t_final=float(end["log_t"][0]),
        clock_final=last.s_final, exact=_merge_exact(risk, pieces), events=events,
        stats=done.stats, result=done.result, stopped_by=done.stopped_by, rtol=settings.rtol,
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
    data = flow.kinks().representatives.tolist()
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


def _chart_rows(name: str, stage: _Stage) -> np.ndarray:
    """A chart function at every recorded state, compiled once per structure and power of two."""
    rows = stage.s.shape[0]
    size = max(16, 1 << (rows - 1).bit_length())
    padded = np.concatenate([stage.Y, np.repeat(stage.Y[-1:], size - rows, axis=0)])
    fn = _log_loss_rows if name == "log_loss" else _gradient_norm_rows
    program, arrays, _ = compile_once(fn, name, (stage.flow.core(), padded))
    return np.asarray(program(*arrays))[:rows]


def _log_loss_rows(flow: Any, Y: Any) -> Any:
    return jax.lax.map(lambda row: flow.chart.log_risk(flow.split(row)[0]), Y)


def _gradient_norm_rows(flow: Any, Y: Any) -> Any:
    return jax.lax.map(lambda row: flow.chart.gradient_norm(flow.split(row)[0]), Y)


#: Names of the view that a parameter of a user's own pytree must not take.
_TAKEN = ("time", "log_t", "clock", "energy")
_NAMES = {
    "weight": ("input",),
    "inner": ("neuron", "input"),
    "outer": ("neuron",),
    "bias": ("neuron",),
}


def _dims(name: str, array: np.ndarray) -> tuple[str, ...]:
    known = _NAMES.get(name, ())
    if len(known) == array.ndim - 1:
        return ("time", *known)
    return ("time", *(f"{name}_{i}" for i in range(1, array.ndim)))


__all__ = ["Event", "Trajectory", "integrate", "integrate_many", "load"]
