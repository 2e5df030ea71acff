"""Paths as ``xarray`` datasets over ln t, which overflows on no path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradflow.paths.tree import describe_tree, leaf_names
from gradflow.validation import fail

if TYPE_CHECKING:
    import xarray as xr

    from gradflow.paths.path import AbstractPath

Variable = tuple[tuple[str, ...], np.ndarray, dict[str, object]]

#: Read through the chart where it knows more; part of every view.
CHART_VALUES = ("log_loss", "gradient_norm")
#: Names that a parameter of a user's own pytree must not take.
_TAKEN = ("log_t", "time", "clock", "step", "energy", *CHART_VALUES)
_DIMS = {
    "weight": ("input",),
    "inner": ("neuron", "input"),
    "outer": ("neuron",),
    "bias": ("neuron",),
}


def whole(path: AbstractPath) -> xr.Dataset:
    """Parameters, energy, what the charts know, ln L and the gradient's norm, over ln t."""
    import xarray as xr

    variables = dict(param_variables(path))
    if path.energy is not None:
        variables["energy"] = (
            ("log_t",), path.energy, _attributes("integral of the squared speed", "1"),
        )  # fmt: skip
    known = {**path.exact, **{name: path.observe(name) for name in CHART_VALUES}}
    for name, array in known.items():
        variables[exact_name(name, variables)] = _known(name, np.asarray(array))
    return xr.Dataset(variables, coords=_coordinates(path), attrs=_about(path))


def chosen(path: AbstractPath, names: str | Sequence[str]) -> xr.Dataset:
    """Observables by name, over ln t."""
    import xarray as xr

    wanted = [names] if isinstance(names, str) else names
    if not isinstance(wanted, (list, tuple)) or not wanted:
        raise fail("observables", names, "names nothing", "pass names, as ['loss', 'norm']")
    variables = {name: _known(name, path.observe(name)) for name in wanted}
    return xr.Dataset(variables, coords=_coordinates(path), attrs=_about(path))


def param_variables(path: AbstractPath) -> dict[str, Variable]:
    """One variable for each array of the parameters, in the order of their tree."""
    from gradflow import observables

    structure, arrays = describe_tree(path.params)
    found: dict[str, Variable] = {}
    for keys, array in zip(leaf_names(structure), arrays, strict=True):
        name = "_".join(keys) or "params"
        if name in _TAKEN or name in observables.names() or name in path.exact:
            name = f"params_{name}"
        while name in found:  # two paths through the tree may join to one name
            name = f"{name}_"
        rest = _DIMS.get(name, ())
        if len(rest) != array.ndim - 1:
            rest = tuple(f"{name}_{i}" for i in range(1, array.ndim))
        found[name] = (("log_t", *rest), array, _attributes(f"parameters {name}", "weight"))
    return found


def exact_name(name: str, taken: Any) -> str:
    """The variable that holds what is exactly known under ``name``."""
    return f"exact_{name}" if name in taken else name


def _known(name: str, array: np.ndarray) -> Variable:
    from gradflow import observables

    if name not in observables.names():
        # What a chart tells besides is a number, or one number a neuron.
        dims = ("log_t", "neuron")[: array.ndim]
        return dims, array, _attributes(name.replace("_", " "), "1")
    spec = observables.get(name)
    dims = ("log_t", *spec.dims[1:])
    if len(dims) != array.ndim:
        dims = ("log_t", *(f"{name}_{i}" for i in range(1, array.ndim)))
    return dims, array, _attributes(spec.long_name, spec.unit)


def _attributes(long_name: str, unit: str) -> dict[str, object]:
    """Everything but an angle is a pure number; ``scales_as`` says how it scales with weights."""
    if unit in ("1", "rad"):
        return {"long_name": long_name, "units": unit}
    return {"long_name": long_name, "units": "1", "scales_as": unit}


def _coordinates(path: AbstractPath) -> dict[str, Variable]:
    found = {"log_t": (("log_t",), path.log_t, _attributes("ln t", "1"))}
    for name, (values, long_name) in path.coordinates().items():
        found[name] = (("log_t",), values, _attributes(long_name, "1"))
    return found


def _about(path: AbstractPath) -> dict[str, object]:
    from gradflow import __version__

    return {
        "title": f"gradient flow of {path.risk.name}",
        "risk": json.dumps(path.risk.describe()),
        "gradflow_version": __version__,
        **path.about(),
    }
