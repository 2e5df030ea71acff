"""Reading a path back: the inverse of its ``save``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

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
from gradflow.paths import view
from gradflow.paths.descent import Descent
from gradflow.paths.events import KINDS, Events
from gradflow.paths.saving import FORMAT, NeedsRiskWarning
from gradflow.paths.trajectory import Trajectory
from gradflow.paths.tree import leaf_names, rebuild_tree
from gradflow.risks.base import AbstractRisk
from gradflow.validation import fail

if TYPE_CHECKING:
    import xarray as xr

_OLD = "gradflow-trajectory-1"


def _course_of(risk: AbstractRisk, data: xr.Dataset, header: dict[str, Any]) -> Course | None:
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


def load(path: str | os.PathLike[str], risk: AbstractRisk | None = None) -> Trajectory | Descent:
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
    asked = {name: take(name) for name in view.CHART_VALUES if name not in header["exact"]}
    course = _course_of(rows["risk"], data, header)
    return Trajectory(
        **rows, **kept, course=course, clock=take("clock"), energy=take("energy"), _asked=asked,
    )  # fmt: skip


def _opened(path: str | os.PathLike[str]) -> tuple[xr.Dataset, dict[str, Any]]:
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
    if found != FORMAT:
        old = "is of an old format" if found == _OLD else "is of an unknown format"
        raise fail("path", str(path), f"{old}, {found!r}", "integrate again and save the path")
    return data, header


def _tree(
    structure: PyTree, arrays: list[np.ndarray], convert: Callable[[np.ndarray], PyTree]
) -> PyTree:
    return rebuild_tree(structure, [convert(array) for array in arrays])


def _risk_of(path: str | os.PathLike[str], description: dict[str, Any]) -> AbstractRisk:
    missing = registry.unknown(description)
    if missing:
        raise fail(
            "path", str(path), f"holds a risk that cannot be rebuilt: {missing[0]}",
            "pass the risk: gf.load(path, risk=...), or register its class: gf.register(kind, cls)",
        )  # fmt: skip
    return registry.build(description)


__all__ = ["NeedsRiskWarning", "load"]
