"""``[until]`` and ``[integrate]``: what a recipe passes to ``gf.integrate``."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Mapping

import msgspec
import numpy as np
from jaxtyping import PyTree

from gradflow.integration import course_of, prepare
from gradflow.integrators import save, until
from gradflow.integrators.save import AbstractSave
from gradflow.integrators.until import AbstractUntil
from gradflow.recipes.errors import Key, RecipeError, nearest, shown
from gradflow.recipes.failing import refusals
from gradflow.recipes.schema import Integrate, checked, refuse_unknown
from gradflow.recipes.toml import Table, Value
from gradflow.recipes.values import RULES, numbers
from gradflow.risks.base import AbstractRisk


def stops() -> type[msgspec.Struct]:
    """The struct of ``[until]``: a condition of ``gf.until`` is a key, and its value the number."""
    fields = []
    for name in until.__all__:
        parameters = list(inspect.signature(getattr(until, name)).parameters.values())
        if len(parameters) == 1:  # (gf.until.when takes a function, which no file holds)
            hint = int if parameters[0].annotation in (int, "int") else float
            fields.append((name, hint | None, None))
    return msgspec.defstruct("Until", fields)


def until_of(table: Mapping[str, Value]) -> AbstractUntil:
    """The stopping condition; of several the first that is met.

    Raises
    ------
    RecipeError
        None, or one out of its range.
    """
    asked = checked(table, stops(), ("until",))
    parts = []
    for name in table:
        with refusals(("until", name)):
            parts.append(getattr(until, name)(getattr(asked, name)))
    if not parts:
        raise RecipeError(
            ("until",), f"is empty; say {', '.join(asked.__struct_fields__)}, or some"
        )
    return functools.reduce(operator.or_, parts)


_KINDS = {"log_times": save.log_times, "times": save.times, "clock": save.clock}


def save_of(value: object) -> AbstractSave | None:
    """What ``integrate.save_at`` stands for; None for the solver's steps."""
    key: Key = ("integrate", "save_at")
    if value is None or value == "steps":
        return None
    if isinstance(value, str):
        raise RecipeError(key, f"is {shown(value)}; write 'steps', times, or a table")
    kind = "times"
    if isinstance(value, Mapping):
        refuse_unknown(value, {*_KINDS, *RULES}, key)
        chosen = [name for name in value if name in _KINDS]
        if chosen and len(value) > 1:
            raise RecipeError(key, f"is to hold one of {', '.join((*_KINDS, *RULES))}")
        if chosen:
            kind = chosen[0]
            key, value = (*key, kind), value[kind]
    points = numbers(value, key)
    with refusals(key):
        return _KINDS[kind](points)


def options_of(table: Mapping[str, Value], params: PyTree) -> Table:
    """The keyword arguments of ``gf.integrate``, without ``until``."""
    key: Key = ("integrate",)
    asked = msgspec.structs.asdict(checked(table, Integrate, key))
    if isinstance(asked["metric"], dict):
        names = params.keys() if hasattr(params, "keys") else ()
        for name in asked["metric"]:
            if name not in names:
                problem = f"is no known key; {nearest(name, names)}"
                raise RecipeError((*key, "metric", name), problem)
    return {**asked, "save_at": save_of(asked["save_at"])}


def check(
    risk: AbstractRisk, start: PyTree, ends: AbstractUntil, options: Mapping[str, Value]
) -> None:
    """Go through all that ``gf.integrate`` checks before its first step.

    Raises
    ------
    RecipeError
        What it would refuse.
    """
    keys: dict[str, Key] = {name: ("integrate", name) for name in options}
    keys |= {"until": ("until",), "params": ("start",), "t": ("integrate", "t0")}
    at = {name: options[name] for name in ("t0", "clock", "chart", "metric")}
    rest = {name: value for name, value in options.items() if name not in at}
    with refusals(("integrate",), keys), np.errstate(all="ignore"):
        course = course_of(risk, start, **at)
        prepare(risk, course.params, course, {**rest, "until": ends, "progress": False})


__all__ = ["check", "options_of", "save_of", "stops", "until_of"]
