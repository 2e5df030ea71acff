"""A gradient flow's path: what was recorded, its files and its views (:class:`Trajectory`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import observables, registry
from gradflow.flows.course import Course
from gradflow.integrators.contract import Result
from gradflow.numerics.files import replace_file
from gradflow.numerics.rows import map_rows
from gradflow.paths.file import (
    describe_tree,
    leaf_names,
    rebuild_tree,
)
from gradflow.validation import fail

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
class Stage:
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
    course : Course or None
        What it takes to go on from the end (``gf.integrate(path, until=...)``).
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
    atol: float | np.ndarray | None
    clock_name: str
    chart_names: tuple[str, ...]
    integrator: str
    course: Course | None = field(default=None, compare=False)
    _stages: tuple[Stage, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return int(self.t.shape[0])

    def observe(self, name: str, **options: Any) -> np.ndarray:
        """Value of an observable at the recorded times (see :mod:`gradflow.observables`)."""
        return observables.observe(self, name, **options)

    def chart_value(self, name: str) -> np.ndarray | None:
        """``log_loss`` or ``gradient_norm`` through the chart; None where states are not kept."""
        if name not in _CHART_VALUES or not self._stages:
            return None
        at = self.risk.arrangement
        if name == "gradient_norm" and at is not None and at.kinked:
            return None  # (charts know one side of a kink only)
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
        atol = "scaled" if self.atol is None else f"{np.max(self.atol):g}"
        work = ", ".join(f"{self.stats[k]:.0f} {k}" for k in ("steps", "rejected", "rhs"))
        return (
            f"Trajectory of {getattr(self.risk, 'name', type(self.risk).__name__)}\n"
            f"  {len(self)} points, {span}, "
            f"stopped at t = {self.t_final:.6g} by {self.stopped_by}\n"
            f"  {self.integrator}, clock {self.clock_name}, chart {self.chart}, "
            f"rtol = {self.rtol:g}, atol = {atol}\n"
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
            "atol": self.atol if self.atol is None else np.asarray(self.atol).tolist(),
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
        if self.course is not None:
            header["course"] = self.course.description()
            header["tree_course"], arrays = describe_tree(self.course.params)
            for k, array in enumerate(arrays):
                put(f"course_{k}", array)
            for name, array in self.course.arrays().items():
                put(f"course_{name}", array)
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

    risk = _risk_of(path, header["risk"]) if risk is None else risk
    course = None
    if header.get("course") is not None:
        arrays = {
            str(name).removeprefix("course_"): take(str(name))
            for name in dataset.data_vars if str(name).startswith("course_")
        }  # fmt: skip
        course = Course.read(risk, tree("course", jnp.asarray), header["course"], arrays)
    return Trajectory(
        risk=risk, course=course,
        t=take("t"), log_t=take("log_t"), clock=take("clock"),
        params=tree("params", np.asarray), initial=tree("initial", jnp.asarray),
        final=tree("final", jnp.asarray),
        t_final=float(take("t_final")), log_t_final=float(take("log_t_final")),
        clock_final=float(take("clock_final")),
        exact={name: take(f"exact_{k}") for k, name in enumerate(header["exact"])},
        energy=take("energy"), events=tuple(Event(**event) for event in header["events"]),
        stats=header["stats"], result=Result(*header["result"]), stopped_by=header["stopped_by"],
        rtol=header["rtol"], atol=_atol_of(header["atol"]), clock_name=header["clock_name"],
        chart_names=tuple(header["chart_names"]), integrator=header["integrator"],
    )  # fmt: skip


def _atol_of(stored: float | list[float] | None) -> float | np.ndarray | None:
    return np.asarray(stored) if isinstance(stored, list) else stored


def _risk_of(path: Any, description: dict[str, Any]) -> Any:
    missing = registry.unknown(description)
    if missing:
        raise fail(
            "path", str(path), f"holds a risk that cannot be rebuilt: {missing[0]}",
            "pass the risk: gf.load(path, risk=...), or register its class: gf.register(kind, cls)",
        )  # fmt: skip
    return registry.build(description)


def _chart_rows(name: str, stage: Stage) -> np.ndarray:
    """A chart function at every recorded state."""
    return map_rows(_log_loss if name == "log_loss" else _gradient_norm, stage.flow.core(), stage.Y)


def _log_loss(flow: Any, row: jax.Array) -> jax.Array:
    return flow.chart.log_risk(flow.split(row)[0])


def _gradient_norm(flow: Any, row: jax.Array) -> jax.Array:
    return flow.chart.gradient_norm(flow.split(row)[0])


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


__all__ = ["Event", "Stage", "Trajectory", "load"]
