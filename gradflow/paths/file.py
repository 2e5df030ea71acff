"""Pytrees and risks as descriptions, and rebuilt from them. No pickle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from gradflow.validation import fail


def describe_tree(tree: Any) -> tuple[Any, list[np.ndarray]]:
    """Split a pytree of arrays into a JSON-able structure and its arrays.

    Dicts, lists, tuples, None and the parameter classes of :mod:`gradflow.networks.parameters` are
    known.
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
        name = type(node).__name__
        if name in _param_classes():
            fields = [f.name for f in dataclasses.fields(cast(Any, node))]
            items = [walk(getattr(node, f)) for f in fields]
            return {"kind": "module", "name": name, "keys": fields, "items": items}
        raise fail("params", node, "cannot be stored", "use dicts, lists and tuples of arrays")

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
        return _param_classes()[node["name"]](**dict(zip(node["keys"], items, strict=True)))

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


def _param_classes() -> dict[str, Any]:
    from gradflow.networks.parameters import DeepLinearParams, LinearParams, TwoLayerParams

    return {kind.__name__: kind for kind in (LinearParams, TwoLayerParams, DeepLinearParams)}


def risk_from_description(description: Mapping[str, Any]) -> Any:
    """Rebuild a risk from what its ``describe()`` returned.

    Raises
    ------
    ValueError
        For a risk made of a function: a function cannot be read back from a file.
    """
    kind = description.get("risk", description.get("kind"))
    if kind == "empirical":
        from gradflow.risks.empirical import EmpiricalRisk

        return EmpiricalRisk.from_description(dict(description))
    if kind == "population":
        from gradflow.risks.population.population import PopulationRisk

        own = getattr(PopulationRisk, "from_description", None)
        if own is not None:
            return own(dict(description))
        import gradflow.data.laws.radial_law  # noqa: F401  (its import registers the law)
        from gradflow.data.laws.laws import law_from_description
        from gradflow.data.teachers import teacher_from_description
        from gradflow.losses import loss_from_description
        from gradflow.networks.networks import network_from_description

        return PopulationRisk(
            network_from_description(description["net"]),
            cast(Any, loss_from_description(description["loss"])),
            law_from_description(description["law"]),
            teacher_from_description(description["teacher"]),
        )
    if kind == "regularised":
        from gradflow.risks.regularised import Regularised

        return Regularised(risk_from_description(description["of"]), description["lam"])
    raise fail("risk", kind, "cannot be rebuilt from a file", "pass it: gf.load(path, risk=...)")
