"""What a store was made by, and how that differs from what asks for it now."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import gradflow
from gradflow.sweeps.compute import Function
from gradflow.sweeps.content import Json, digest_of
from gradflow.sweeps.identity import identity

#: Of the files of a store.
FORMAT = 1
#: Packages on whose versions the last bits may depend.
_BITS = ("numpy", "scipy", "jax", "numba")
#: Differences that an error names.
_NAMED = 8


@dataclass(frozen=True)
class Configuration:
    """What must be the same for points to be the same.

    Attributes
    ----------
    told : dict
        Format, version of gradflow, the function, the names of its parameters.
    beside : dict
        Versions that are noted only.
    """

    told: Mapping[str, Json]
    beside: Mapping[str, Json] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What its entries are marked with."""
        return digest_of(self.told)

    @property
    def name(self) -> str:
        """The name of the function."""
        function = self.told.get("function")
        return str(function.get("name", "?")) if isinstance(function, Mapping) else "?"

    def differences(self, now: Configuration) -> list[str]:
        """Return what differs, a line each; [] where they are the same."""
        there, here = _flat(self.told), _flat(now.told)
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        return [_line(name, there, here) for name in names][:_NAMED] + (
            [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        )


def configuration(fn: Function, names: list[str]) -> Configuration:
    """Return that of a function now.

    Raises
    ------
    UnstableError
        If nothing tells its arguments.
    TypeError, ValueError
        If its ``describe()`` is not JSON-able.
    """
    told = {
        "format": FORMAT, "gradflow": gradflow.__version__, "parameters": sorted(names),
        "function": identity(fn),
    }  # fmt: skip
    python = ".".join(map(str, sys.version_info[:3]))
    return Configuration(told, {"python": python, **{name: _version(name) for name in _BITS}})


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _flat(told: Json, prefix: str = "") -> dict[str, Json]:
    """Entries of mappings in mappings by dotted names."""
    if not isinstance(told, Mapping):
        return {prefix: told}
    flat: dict[str, Json] = {}
    for name, value in told.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _line(name: str, there: Mapping[str, Json], here: Mapping[str, Json]) -> str:
    show = lambda told: _short(told[name]) if name in told else "absent"
    return f"{name}: {show(there)} in the store, {show(here)} now"


def _short(value: Json) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."


__all__ = ["FORMAT", "Configuration", "configuration"]
