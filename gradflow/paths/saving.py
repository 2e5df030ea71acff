"""Writing a path: the dataset that ``to_xarray`` shows, and what is needed beside it."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from gradflow import registry
from gradflow.flows.course import Course
from gradflow.numerics.files import replace_file
from gradflow.paths import view
from gradflow.paths.events import KINDS, Events
from gradflow.paths.tree import describe_tree
from gradflow.validation import fail

if TYPE_CHECKING:
    import xarray as xr

    from gradflow.paths.path import AbstractPath

FORMAT = "gradflow-path-2"


class NeedsRiskWarning(UserWarning):
    """A file was written whose risk ``load`` cannot rebuild: it must be passed."""


def save(
    path: AbstractPath,
    where: str | os.PathLike[str],
    observables: Sequence[str] = (),
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Write a path; see :meth:`AbstractPath.save`.

    Parameters
    ----------
    path : AbstractPath
    where : path-like
    observables : sequence of str
        Written beside it, for other readers than ``gf.load``, which computes them anew.
    attributes : mapping of str to str, optional
        Of the file.
    """
    if not path.kind:
        raise fail("path", path, "has no file format", "save what gf.integrate or gf.descend gave")
    data = view.whole(path)
    beside = view.chosen(path, list(observables)).data_vars if observables else {}
    header: dict[str, Any] = {"format": FORMAT, "path": path.kind, "risk": path.risk.describe()}
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
    extra |= _event_table(path.events, header)
    extra |= _course_table(path.course, header)
    extra |= {str(name): array for name, array in beside.items() if name not in data}
    data = data.assign(extra).assign_attrs({**(attributes or {}), "gradflow": json.dumps(header)})
    replace_file(where, lambda name: _write(data, name))
    _say_what_load_needs(where, header["risk"])


def _write(data: xr.Dataset, name: str) -> None:
    data.to_netcdf(name, engine="scipy", format="NETCDF3_64BIT")


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return list(vars(value).values())
    return dict(value) if isinstance(value, Mapping) else value


def _bare(name: str, array: ArrayLike) -> tuple[tuple[str, ...], np.ndarray]:
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


def _say_what_load_needs(where: Any, description: dict[str, Any]) -> None:
    missing = registry.unknown(description)
    if missing:
        warnings.warn(
            f"{os.fspath(where)} is written; to read it, pass the risk: gf.load(path, risk=...), "
            f"because {missing[0]}",
            NeedsRiskWarning,
            stacklevel=4,
        )


__all__ = ["FORMAT", "NeedsRiskWarning", "save"]
