"""``[grid]``: keys of the recipe that take several values, and the dimensions they become."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from gradflow.recipes.errors import Key, RecipeError, nearest, shown
from gradflow.recipes.toml import Table, Value
from gradflow.recipes.values import is_rule, listed

#: A number of a grid is a float, or an integer that is none too large to be one.
_LARGEST = 1.7e308
#: Points of a sweep.
MOST_POINTS = 1_000_000
#: Tables whose entries may vary from point to point.
_VARY = ("data", "net", "risk", "teacher", "start", "until", "integrate")


class Axis(NamedTuple):
    """One key that varies.

    Attributes
    ----------
    name : str
        Of the dimension.
    key : tuple of str
        Where the values go.
    place : tuple
        Where the file lists them.
    values : sequence
    """

    name: str
    key: tuple[str, ...]
    place: Key
    values: Sequence[Value]


def axes_of(
    table: Mapping[str, Value], tables: Mapping[str, Value], results: Collection[str]
) -> tuple[Axis, ...]:
    """The axes of a grid.

    Parameters
    ----------
    table : mapping
        ``[grid]``; keys dotted in quotes, ``"start.seed"``, or as TOML nests them.
    tables : mapping
        The recipe, whose values are replaced.
    results : collection of str
        Names that dimensions must not take.

    Raises
    ------
    RecipeError
        Lists that are none, two of one key, too many points.
    """
    found: dict[tuple[str, ...], tuple[Key, Sequence[Value]]] = {}
    for place, value in _entries(table, ("grid",)):
        key = tuple(part for name in place[1:] for part in str(name).split("."))
        if key in found:
            raise RecipeError(place, "is listed twice")
        if key[0] not in _VARY:
            raise RecipeError(place, f"is no known key; {nearest(key[0], _VARY)}")
        if len(key) < 2:
            raise RecipeError(place, "is a table, which does not vary; write as 'start.seed'")
        _check_replaced(tables, key, place)
        values = listed(value, place)
        _check_values(values, place)
        found[key] = (place, values)
    names = _names(list(found), results)
    axes = tuple(Axis(name, key, *found[key]) for name, key in zip(names, found, strict=True))
    points = math.prod(len(axis.values) for axis in axes)
    if points > MOST_POINTS:
        raise RecipeError(("grid",), f"has {points} points; at most {MOST_POINTS} are taken")
    return axes


def _entries(table: Mapping[str, Value], place: Key) -> Iterator[tuple[Key, Value]]:
    for name, value in table.items():
        here = (*place, name)
        if isinstance(value, Mapping) and value and not is_rule(value):
            yield from _entries(value, here)
        elif isinstance(value, (list, Mapping)):
            yield here, value
        else:
            problem = (
                f"is {shown(value)}; write a list, {{range = 20}} or {{logspace = [-3, 0, 4]}}"
            )
            raise RecipeError(here, problem)


def _check_replaced(tables: Mapping[str, Value], key: tuple[str, ...], place: Key) -> None:
    """What stands at the key in the recipe is one value too, or nothing."""
    inner: Value = tables
    for end, part in enumerate(key, start=1):
        if not isinstance(inner, Mapping):
            raise RecipeError(place, f"is no key: {'.'.join(key[: end - 1])} is no table")
        if part not in inner:
            return
        inner = inner[part]
    if isinstance(inner, (Mapping, list)):
        raise RecipeError(key, "is a table or an array, and the grid has single values for it")


def _check_values(values: Sequence[Value], place: Key) -> None:
    """Refuse what is no coordinate: tables and arrays, a value twice, NaN."""
    if isinstance(values, range):
        return
    kinds = {type(value) for value in values}
    if not (kinds <= {int, float} or kinds in ({str}, {bool})):
        raise RecipeError(place, "is to hold numbers, or strings, or true and false")
    if kinds <= {int, float} and not all(abs(value) < _LARGEST for value in values):
        raise RecipeError(place, "holds NaN, infinity or an integer beyond floats")
    if len(set(values)) < len(values):
        raise RecipeError(place, "holds a value twice")


def _names(keys: list[tuple[str, ...]], results: Collection[str]) -> list[str]:
    """The last part of each key where no other has it, else all of them joined."""
    last = [key[-1] for key in keys]
    short = [
        name if last.count(name) == 1 and name not in results else "_".join(key)
        for name, key in zip(last, keys, strict=True)
    ]
    for name, key in zip(short, keys, strict=True):
        if not name.isidentifier() or short.count(name) > 1:
            place = ("grid", ".".join(key))
            raise RecipeError(place, f"names no key of a recipe ({shown(name)})")
    return short


def with_values(tables: Mapping[str, Value], changes: Mapping[tuple[str, ...], Value]) -> Table:
    """The recipe's tables with other values for some keys; they are left as they are.

    Raises
    ------
    RecipeError
        If a part of a key is no table.
    """
    changed = copy.deepcopy(dict(tables))
    for key, value in changes.items():
        inner: Value = changed
        for part in key[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise RecipeError(key, f"lies in {shown(part)}, which is no table")
        inner[key[-1]] = value
    return changed


__all__ = ["Axis", "axes_of", "with_values"]
