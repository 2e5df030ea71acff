"""Pytrees of arrays, apart into a JSON-able structure and the arrays. No pickle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import PyTree

from gradflow import registry
from gradflow.validation import fail


def describe_tree(tree: PyTree) -> tuple[PyTree, list[np.ndarray]]:
    """Split a pytree of arrays into a JSON-able structure and its arrays.

    Dicts, lists, tuples, None and registered dataclasses are known.
    """
    arrays: list[np.ndarray] = []

    def walk(node: PyTree) -> PyTree:
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


def rebuild_tree(structure: Mapping[str, Any], arrays: list[PyTree]) -> PyTree:
    """Inverse of :func:`describe_tree`."""
    rest = iter(arrays)

    def walk(node: Mapping[str, Any]) -> PyTree:
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


__all__ = ["describe_tree", "leaf_names", "rebuild_tree"]
