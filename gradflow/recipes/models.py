"""Networks, losses, laws, teachers and starts of a recipe, by the names that descriptions use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
from jaxtyping import PyTree

from gradflow import losses, registry
from gradflow.data.laws.laws import SphericalLaw
from gradflow.data.laws.radial_law import RadialLaw
from gradflow.data.teachers import LinearTeacher, NetworkTeacher
from gradflow.losses import AbstractLoss
from gradflow.networks import activations
from gradflow.networks.abstract import AbstractNetwork
from gradflow.networks.activations import AbstractActivation
from gradflow.networks.random_features import RandomFeatures
from gradflow.recipes.data import Arrays, check_sizes, finite, held_in, picked, read_data
from gradflow.recipes.errors import Key, RecipeError, nearest, shown
from gradflow.recipes.failing import refusals
from gradflow.recipes.schema import (
    MOST_NUMBERS,
    Risk,
    Start,
    Teacher,
    checked,
    of_signature,
    refuse_unknown,
)
from gradflow.recipes.toml import Table, Value
from gradflow.risks.base import AbstractRisk
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.risks.population.population import PopulationRisk
from gradflow.risks.regularised import Regularised

#: Layers of a deep linear net.
_DEEPEST = 1000


def part(value: object, base: type, module: ModuleType | None, key: Key, **known: object) -> PyTree:
    """A registered object: by the name that ``gf`` has it under, or by ``{kind = ...}``.

    Parameters
    ----------
    value : str or mapping
    base : type
        The class that it is to be of.
    module : module or None
        Where ready-made ones stand by name, as ``relu``.
    key : tuple
        Where it stands.
    **known
        Arguments that need not be given.
    """
    ready = {n: v for n, v in vars(module).items() if isinstance(v, base)} if module else {}
    kinds = {k: c for k, c in registry.kinds_of(base).items() if not k.startswith("function")}
    if isinstance(value, str):
        if value in ready:
            return ready[value]
        value = {"kind": value}
    if not isinstance(value, Mapping):
        raise RecipeError(key, f"is {shown(value)}; write a name, or a table with a kind")
    kind = value.get("kind")
    if "kind" not in value:
        fields = set().union(*(of_signature(cls).__struct_fields__ for cls in kinds.values()))
        refuse_unknown(value, fields, key, also=("kind",))
    if not isinstance(kind, str) or kind not in kinds:
        at = (*key, "kind") if "kind" in value else key
        problem = f"{shown(kind)} is none" if "kind" in value else "has no kind"
        raise RecipeError(at, f"{problem}; {nearest(str(kind), {*kinds, *ready})}")
    given = {name: entry for name, entry in value.items() if name != "kind"}
    return _made(kind, kinds[kind], given, key, known)


def _made(kind: str, cls: type, given: Table, key: Key, known: dict[str, object]) -> PyTree:
    signature = of_signature(cls)
    fields = signature.__struct_fields__
    given = {**{n: v for n, v in known.items() if n in fields}, **given}
    checked(given, signature, key, also=("kind",))
    check_sizes(given, key)
    if "activation" in fields:
        entry = given["activation"]
        given["activation"] = part(entry, AbstractActivation, activations, (*key, "activation"))
    if "loss" in fields:
        given["loss"] = part(given["loss"], AbstractLoss, losses, (*key, "loss"))
    with refusals(key, {name: (*key, name) for name in given}):
        return registry.build({"kind": kind, **given})


def network(table: Mapping[str, Value], key: Key, dim: int | None) -> AbstractNetwork:
    """The net of ``[net]``; its input dimension may be left to the data."""
    known = {} if dim is None else {"dim": dim}
    if table.get("kind") == RandomFeatures.kind and "inner" not in table:
        net = _drawn_features(table, key, known)
    else:
        net = part(table, AbstractNetwork, None, key, **known)
    if getattr(net, "depth", 0) > _DEEPEST:
        raise RecipeError((*key, "depth"), f"is more than the {_DEEPEST} layers a recipe may have")
    shapes = jax.eval_shape(lambda k: net.init(k, 1.0), jax.random.key(0))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    if count > MOST_NUMBERS:
        raise RecipeError(key, f"has {count:.0e} parameters; at most {MOST_NUMBERS:.0e} are taken")
    return net


def _drawn_features(table: Mapping[str, Value], key: Key, known: Table) -> RandomFeatures:
    """Random features drawn from a seed."""
    given = {**known, **{name: entry for name, entry in table.items() if name != "kind"}}
    seed = given.pop("seed", None)
    checked(given, of_signature(RandomFeatures.draw, leave_out=("key",)), key, ("kind", "seed"))
    check_sizes(given, key)
    entry = given.pop("activation")
    phi = part(entry, AbstractActivation, activations, (*key, "activation"))
    with refusals(key, {name: (*key, name) for name in given}):
        return RandomFeatures.draw(random_key(seed, (*key, "seed")), activation=phi, **given)


def random_key(seed: object, key: Key) -> jax.Array:
    """The JAX key of a seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise RecipeError(key, f"is {shown(seed)}; write an integer from 0 to 2^63 - 1")
    return jax.random.key(seed)


def risk_of(tables: Mapping[str, Value], folder: Path) -> AbstractRisk:
    """The risk that ``[data]``, ``[net]``, ``[risk]`` and ``[teacher]`` say."""
    data, net = tables["data"], tables["net"]
    asked = checked(tables["risk"], Risk, ("risk",))
    loss = part(asked.loss, AbstractLoss, losses, ("risk", "loss"))
    teacher = tables.get("teacher")
    if "law" in data:
        risk = _population(data, net, loss, teacher, folder)
        if asked.reduction != "mean":
            raise RecipeError(("risk", "reduction"), "is of finite data; leave it out with a law")
    else:
        arrays = read_data(data, folder)
        if teacher is not None:
            raise RecipeError(("teacher",), "labels the inputs of a law, and data have their own y")
        risk = _empirical(arrays, net, loss, asked.reduction)
    if asked.tv is None and asked.l2 is None:
        return risk
    with refusals(("risk",), {"lam": ("risk", "tv"), "l2": ("risk", "l2")}):
        return Regularised(risk, asked.tv, asked.l2)


def _empirical(
    data: Arrays, net: Mapping[str, Value], loss: AbstractLoss, reduction: str
) -> EmpiricalRisk:
    if data.X.ndim != 2:
        raise RecipeError(("data", "X"), f"has shape {data.X.shape}; a row is a datum")
    made = network(net, ("net",), data.X.shape[1])
    if len(data.X) * getattr(made, "width", 1) > MOST_NUMBERS:
        size = len(data.X) * getattr(made, "width", 1)
        problem = f"times the number of data is {size:.0e}; at most {MOST_NUMBERS:.0e} are taken"
        raise RecipeError(("net", "width"), problem)
    keys: dict[str, Key] = {name: ("data", name) for name in Arrays._fields}
    keys |= {"reduction": ("risk", "reduction"), "net": ("net",), "loss": ("risk", "loss")}
    with refusals(("data",), keys):
        return EmpiricalRisk(made, loss, data.X, data.y, reduction, data.weights, data.offset)


def _population(
    data: Mapping[str, Value],
    net: Mapping[str, Value],
    loss: AbstractLoss,
    teacher: Value,
    folder: Path,
) -> PopulationRisk:
    given = {name: entry for name, entry in data.items() if name != "law"}
    if "kind" in given:
        raise RecipeError(("data", "kind"), "is no known key; did you mean 'law'?")
    known = {"dim": net["dim"]} if "dim" in net else {}
    if data["law"] == RadialLaw.name and isinstance(given.get("radius"), Mapping):
        _check_radius(given["radius"])
    law = part({"kind": data["law"], **given}, SphericalLaw, None, ("data",), **known)
    if teacher is None:
        raise RecipeError(("teacher",), "is missing: the inputs of a law have no labels without")
    made = network(net, ("net",), law.dim)
    keys: dict[str, Key] = {"net": ("net",), "loss": ("risk", "loss"), "law": ("data", "law")}
    rule = _teacher(teacher, law.dim, folder)
    with refusals(("data", "law"), {**keys, "teacher": ("teacher",)}):
        return PopulationRisk(made, loss, law, rule)


def _check_radius(table: Mapping[str, Value]) -> None:
    for name in table:
        if name not in ("distribution", "args"):
            problem = f"is no known key; {nearest(name, ('distribution', 'args'))}"
            raise RecipeError(("data", "radius", name), problem)
    if not isinstance(table.get("args", []), list):
        raise RecipeError(("data", "radius", "args"), "is no array of numbers")
    finite(table.get("args", []), ("data", "radius", "args"))


def _teacher(table: object, dim: int, folder: Path) -> LinearTeacher | NetworkTeacher:
    key: Key = ("teacher",)
    asked = checked(table, Teacher, key)
    if (asked.direction is None) == (asked.net is None):
        raise RecipeError(key, "is to have a direction, or a net with params")
    if asked.net is None:
        with refusals((*key, "direction")):
            return LinearTeacher(finite(asked.direction, (*key, "direction")))
    net = network(asked.net, (*key, "net"), dim)
    if asked.params is None:
        raise RecipeError((*key, "params"), "is missing: what a start has, for the teacher's net")
    params = start_of(asked.params, net, folder, (*key, "params"))
    with refusals(key):
        return NetworkTeacher(net, params)


_ARRAYS = ("inner", "outer", "bias", "weight", "layers")


def start_of(
    table: Mapping[str, Value], net: AbstractNetwork, folder: Path, key: Key = ("start",)
) -> PyTree:
    """The parameters that ``[start]`` says: drawn, of a file, or written out."""
    asked = checked(table, Start, key)
    arrays = {name: getattr(asked, name) for name in _ARRAYS if getattr(asked, name) is not None}
    if asked.file is None and not arrays:
        return _drawn(asked, net, key)
    for name in ("seed", "scale", "scheme"):
        if name in table:
            raise RecipeError((*key, name), "is of a draw, and this start has arrays; leave it out")
    if asked.file is not None:
        held = held_in(folder, asked.file, key)
        arrays = arrays or {name: name for name in _ARRAYS if name in held}
        if not arrays:
            fix = f"name some of {', '.join(_ARRAYS[:-1])}"
            raise RecipeError((*key, "file"), f"{shown(asked.file)} holds none; {fix}")
        found: Table = dict(picked(held, arrays, asked.file, key))
    else:
        found = {name: _numbers(value, (*key, name)) for name, value in arrays.items()}
    with refusals(key, {name: (*key, name) for name in found}):
        return net.check_start(net.as_params(found))


def _numbers(value: Value, key: Key) -> Value:
    if isinstance(value, str):
        raise RecipeError(key, "names an array, but there is no file to hold it")
    if key[-1] == "layers":
        return [finite(layer, (*key, index)) for index, layer in enumerate(value)]
    return finite(value, key)


def _drawn(asked: Start, net: AbstractNetwork, key: Key) -> PyTree:
    for name in ("seed", "scale"):
        if getattr(asked, name) is None:
            raise RecipeError((*key, name), "is missing: a start is drawn, or has arrays")
    drawn = random_key(asked.seed, (*key, "seed"))
    with refusals(key, {name: (*key, name) for name in ("scale", "scheme")}):
        return net.init(drawn, np.float64(asked.scale), asked.scheme)  # type: ignore[arg-type]


__all__ = ["network", "part", "risk_of", "start_of"]
