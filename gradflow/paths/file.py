"""One file a path: the dataset that ``to_xarray`` shows, and what is needed beside it."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

# Importing these registers what files may hold.
import gradflow.data.laws.radial_law
import gradflow.networks.networks
import gradflow.risks.empirical
import gradflow.risks.function
import gradflow.risks.population.population
import gradflow.risks.regularised  # noqa: F401
from gradflow import registry
from gradflow.flows.course import Course
from gradflow.integrators.contract import Result
from gradflow.numerics.files import replace_file
from gradflow.paths import view
from gradflow.paths.descent import Descent
from gradflow.paths.events import KINDS, Events
from gradflow.paths.path import AbstractPath
from gradflow.paths.trajectory import Trajectory
from gradflow.paths.tree import describe_tree, leaf_names, rebuild_tree
from gradflow.validation import fail

if TYPE_CHECKING:
    import xarray as xr

_FORMAT = "gradflow-path-2"
_OLD = "gradflow-trajectory-1"


class NeedsRiskWarning(UserWarning):
    """A file was written whose risk ``load`` cannot rebuild: it must be passed."""


def save(path: AbstractPath, where: str | os.PathLike[str]) -> None:
    """Write a path; see :meth:`AbstractPath.save`."""
    if not path.kind:
        raise fail("path", path, "has no file format", "save what gf.integrate or gf.descend gave")
    data = view.whole(path)
    header: dict[str, Any] = {"format": _FORMAT, "path": path.kind, "risk": path.risk.describe()}
    header["params"] = describe_tree(path.params)[0]
    header["names"] = list(view.param_variables(path))
    taken: list[str] = [*header["names"], "energy"]
    header["exact"] = {name: view.exact_name(name, taken) for name in path.exact}
    header["fields"] = {name: _plain(getattr(path, name)) for name in path.told}
    extra: dict[str, Any] = {}
    for name in path.trees:
        header[f"tree_{name}"], arrays = describe_tree(getattr(path, name))
        for k, array in enumerate(arrays):
            extra[f"{name}_tree_{k}"] = _bare(f"{name}_tree_{k}", array)
    extra |= {name: _bare(name, getattr(path, name)) for name in path.arrays}
    if path.course is not None:
        header["course"] = path.course.description()
        header["tree_course"], arrays = describe_tree(path.course.params)
        extra |= {f"course_tree_{k}": _bare(f"course_tree_{k}", a) for k, a in enumerate(arrays)}
        for name, array in path.course.arrays().items():
            extra[f"course_{name}"] = _bare(f"course_{name}", array)
    extra |= _event_table(path.events, header)
    extra |= _course_table(path.course, header)
    data = data.assign(extra).assign_attrs(gradflow=json.dumps(header))
    replace_file(where, lambda name: _write(data, name))
    _say_what_load_needs(where, header["risk"])


def _write(data: xr.Dataset, name: str) -> None:
    data.to_netcdf(name, engine="scipy", format="NETCDF3_64BIT")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return list(vars(value).values())
    return dict(value) if isinstance(value, Mapping) else value


def _bare(name: str, array: Any) -> tuple[tuple[str, ...], np.ndarray]:
    array = np.asarray(array, np.float64)
    return tuple(f"{name}_{i}" for i in range(array.ndim)), array


def _event_table(events: Events, header: dict[str, Any]) -> dict[str, Any]:
    """The events as variables over ``event``; labels, which are few, in the header."""
    header["labels"] = {str(i): event.label for i, event in enumerate(events) if event.label}
    if not events:
        return {}
    columns = events.columns()
    kinds = {"flag_values": np.arange(len(KINDS), dtype=np.int32), "flag_meanings": " ".join(KINDS)}
    codes = np.array([KINDS.index(event.kind) for event in events], np.int32)
    table: dict[str, Any] = {
        f"event_{name}": (("event",), columns[name])
        for name in ("t", "log_t", "clock", "neuron", "datum")
    }
    return {**table, "event_kind": (("event",), codes, kinds)}


def _course_table(course: Course | None, header: dict[str, Any]) -> dict[str, Any]:
    """What it takes to go on; nothing where a file cannot hold it."""
    description = None if course is None else course.description()
    if course is None or description is None:
        return {}
    header["course"] = description
    header["course_params"], arrays = describe_tree(course.params)
    parts = {f"params_{k}": array for k, array in enumerate(arrays)} | course.arrays()
    return {f"course_{name}": _bare(f"course_{name}", array) for name, array in parts.items()}


def _course_of(risk: Any, data: xr.Dataset, header: dict[str, Any]) -> Course | None:
    if "course" not in header:
        return None
    kept = [str(name) for name in data.data_vars if str(name).startswith("course_")]
    arrays = {name.removeprefix("course_"): np.asarray(data[name].values) for name in kept}
    structure = header["course_params"]
    leaves = [arrays[f"params_{k}"] for k in range(len(leaf_names(structure)))]
    return Course.read(risk, _tree(structure, leaves, jnp.asarray), header["course"], arrays)


def _events_of(data: xr.Dataset, header: dict[str, Any]) -> Events:
    if "event_kind" not in data:
        return Events()
    columns: dict[str, Any] = {
        name: data[f"event_{name}"].values for name in ("t", "log_t", "clock", "neuron", "datum")
    }
    columns["kind"] = [KINDS[code] for code in data["event_kind"].values]
    columns["label"] = [header["labels"].get(str(i), "") for i in range(data.sizes["event"])]
    return Events.of_columns(columns)


def _say_what_load_needs(where: Any, description: dict[str, Any]) -> None:
    missing = registry.unknown(description)
    if missing:
        warnings.warn(
            f"{os.fspath(where)} is written; to read it, pass the risk: gf.load(path, risk=...), "
            f"because {missing[0]}",
            NeedsRiskWarning,
            stacklevel=4,
        )


def load(path: str | os.PathLike[str], risk: Any = None) -> Trajectory | Descent:
    """Read a path written by its ``save``: the same numbers to the bit.

    Parameters
    ----------
    path : path-like
    risk : AbstractRisk, optional
        Needed for a risk made of a function, which no file can hold, or of a class that is not
        registered here (``gf.register``); else rebuilt from the file.

    Raises
    ------
    ValueError
        No such file, not a path, or a risk that must be passed.
    """
    data, header = _opened(path)
    take = lambda name: np.asarray(data[name].values)
    rows: dict[str, Any] = {
        "risk": _risk_of(path, header["risk"]) if risk is None else risk,
        "params": _tree(header["params"], [take(name) for name in header["names"]], np.asarray),
        "t": take("time"), "log_t": take("log_t"), "events": _events_of(data, header),
        "exact": {name: take(variable) for name, variable in header["exact"].items()},
    }  # fmt: skip
    kept: dict[str, Any] = header["fields"]
    cls = {"trajectory": Trajectory, "descent": Descent}[header["path"]]
    for name in cls.trees:
        structure = header[f"tree_{name}"]
        arrays = [take(f"{name}_tree_{k}") for k in range(len(leaf_names(structure)))]
        rows[name] = _tree(structure, arrays, jnp.asarray)
    rows |= {name: take(name) for name in cls.arrays}
    if cls is Descent:
        return Descent(**rows, **kept, step=take("step").astype(np.int64))
    kept["result"] = Result(*kept["result"])
    kept["chart_names"] = tuple(kept["chart_names"])
    kept["atol"] = np.asarray(kept["atol"]) if isinstance(kept["atol"], list) else kept["atol"]
    kept["course"] = _course_of(data, header, rows["risk"])
    asked = {name: take(name) for name in view.CHART_VALUES if name not in header["exact"]}
    return Trajectory(
        **rows, **kept, clock=take("clock"), energy=take("energy"), _asked=asked,
        course=_course_of(rows["risk"], data, header),
    )  # fmt: skip


def _course_of(data: xr.Dataset, header: dict[str, Any], risk: Any) -> Course | None:
    if header.get("course") is None:
        return None
    arrays = {
        name.removeprefix("course_"): np.asarray(data[name].values)
        for name in map(str, data.data_vars) if name.startswith("course_")
    }  # fmt: skip
    structure = header["tree_course"]
    leaves = [arrays[f"tree_{k}"] for k in range(len(leaf_names(structure)))]
    params = _tree(structure, leaves, jnp.asarray)
    return Course.read(risk, params, header["course"], arrays)


def _opened(path: Any) -> tuple[xr.Dataset, dict[str, Any]]:
    import xarray as xr

    fix = "pass a file written by the save of a path"
    if not isinstance(path, (str, os.PathLike)):
        raise fail("path", path, "is not a path", fix)
    if not os.path.isfile(path):
        raise fail("path", str(path), "is not a file", fix)
    try:
        with xr.open_dataset(
            path, engine="scipy", decode_times=False, mask_and_scale=False
        ) as opened:
            data = opened.load()
        header = json.loads(data.attrs["gradflow"])
        found = header["format"]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise fail("path", str(path), f"is not a readable trajectory ({error})", fix) from error
    if found != _FORMAT:
        old = "is of an old format" if found == _OLD else "is of an unknown format"
        raise fail("path", str(path), f"{old}, {found!r}", "integrate again and save the path")
    return data, header


def _tree(structure: Any, arrays: list[np.ndarray], convert: Callable[[np.ndarray], Any]) -> Any:
    return rebuild_tree(structure, [convert(array) for array in arrays])


def _risk_of(path: Any, description: dict[str, Any]) -> Any:
    missing = registry.unknown(description)
    if missing:
        raise fail(
            "path", str(path), f"holds a risk that cannot be rebuilt: {missing[0]}",
            "pass the risk: gf.load(path, risk=...), or register its class: gf.register(kind, cls)",
        )  # fmt: skip
    return registry.build(description)


__all__ = ["NeedsRiskWarning", "load", "save"]
