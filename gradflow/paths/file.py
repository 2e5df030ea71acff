"""Files that survive a kill, and objects rebuilt from their descriptions. No pickle."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Importing these registers what files may hold.
import gradflow.data.laws.radial_law
import gradflow.networks.networks
import gradflow.risks.empirical
import gradflow.risks.function
import gradflow.risks.population.population
import gradflow.risks.regularised  # noqa: F401
from gradflow import registry
from gradflow.validation import fail


def replace_file(path: str | os.PathLike[str], write: Callable[[str], None]) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename.

    Parameters
    ----------
    path : path-like
        The file to make or to replace.
    write : callable
        Writes its content to the path it is given.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise fail("path", path, "is not a path", "pass a file name")
    target = Path(path)
    if not target.parent.is_dir():
        raise fail("path", str(path), "lies in no existing folder", f"create {target.parent} first")
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        write(temporary)
        _fsync(temporary)
        os.replace(temporary, target)
        _fsync(str(target.parent))  # the rename itself
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_tree(tree: Any) -> tuple[Any, list[np.ndarray]]:
    """Split a pytree of arrays into a JSON-able structure and its arrays.

    Dicts, lists, tuples, None and registered dataclasses are known.
    """
    arrays: list[np.ndarray] = []

    def walk(node: Any) -> Any:
        if node is None:
            return {"kind": "none"}
        if isinstance(node, dict):
            return {"kind": "dict", "keys": list(node), "items": [walk(v) for v in node.values()]}
        if isinstance(node, (list, tuple)) and not hasattr(node, "_fields"):
            kind = "list" if isinstance(node, list) else "tuple"
            return {"kind": kind, "items": [walk(v) for v in node]}
        if hasattr(node, "__array__"):
            arrays.append(np.asarray(node))
            return {"kind": "array"}
        name = registry.kind_of(type(node))
        if name is not None and dataclasses.is_dataclass(node):
            fields = [f.name for f in dataclasses.fields(node)]
            items = [walk(getattr(node, f)) for f in fields]
            return {"kind": "module", "name": name, "keys": fields, "items": items}
        raise fail(
            "params", node, "cannot be stored",
            "use dicts, lists and tuples of arrays, or a dataclass registered by gf.register",
        )  # fmt: skip

    return walk(tree), arrays


def rebuild_tree(structure: Mapping[str, Any], arrays: list[Any]) -> Any:
    """Inverse of :func:`describe_tree`."""
    rest = iter(arrays)

    def walk(node: Mapping[str, Any]) -> Any:
        kind = node["kind"]
        if kind == "none":
            return None
        if kind == "array":
            return next(rest)
        items = [walk(item) for item in node["items"]]
        if kind == "dict":
            return dict(zip(node["keys"], items, strict=True))
        if kind == "list":
            return items
        if kind == "tuple":
            return tuple(items)
        return registry.class_of(node["name"])(**dict(zip(node["keys"], items, strict=True)))

    return walk(structure)


def leaf_names(structure: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Path of every array of :func:`describe_tree`, in order."""
    out: list[tuple[str, ...]] = []

    def walk(node: Mapping[str, Any], path: tuple[str, ...]) -> None:
        if node["kind"] == "array":
            out.append(path)
        elif node["kind"] != "none":
            keys = node.get("keys") or [str(i) for i in range(len(node["items"]))]
            for key, item in zip(keys, node["items"], strict=True):
                walk(item, (*path, str(key)))

    walk(structure, ())
    return out
