"""What a recipe may say: its tables as typed structs, and the one function that checks a table.

Tables of fixed keys are structs here. What a network, a law or a data set takes is read off the
signature of the class or function itself (:func:`of_signature`), so that nothing is listed twice.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import msgspec

from gradflow.recipes.errors import Key, RecipeError, nearest, shown
from gradflow.recipes.toml import Table, Value

S = TypeVar("S", bound=msgspec.Struct)

#: Numbers that a file may ask for in one array: as many as fit into 160 MB.
MOST_NUMBERS = 20_000_000


#: The name of an array in a file, names of columns, or the numbers (which are checked apart).
Array = str | list[Value] | None


class Data(msgspec.Struct):
    """``[data]`` with ``file`` or with arrays; a data set or a law has its own keys beside."""

    file: str | None = None
    X: Array = None
    y: Array = None
    weights: Array = None
    offset: Array = None


class Risk(msgspec.Struct):
    """``[risk]``."""

    loss: str | Table
    reduction: str = "mean"
    tv: float | None = None
    l2: float | None = None


class Start(msgspec.Struct):
    """``[start]``: a draw, a file of arrays, or arrays."""

    seed: int | None = None
    scale: float | None = None
    scheme: str = "gaussian"
    file: str | None = None
    inner: Array = None
    outer: Array = None
    bias: Array = None
    weight: Array = None
    layers: list[Value] | None = None


class Teacher(msgspec.Struct):
    """``[teacher]`` of a law's inputs: a direction, or a net with its parameters."""

    direction: list[float] | None = None
    net: Table | None = None
    params: Table | None = None


class Integrate(msgspec.Struct):
    """``[integrate]``: arguments of ``gf.integrate``."""

    integrator: str = "auto"
    rtol: float | None = None
    atol: float | None = None
    clock: str = "auto"
    chart: str = "auto"
    metric: str | dict[str, float] = "euclidean"
    t0: float = 0.0
    save_at: str | list[float] | Table | None = None
    max_steps: int = 1_000_000
    max_seconds: float | None = None
    safety: float | None = None


class Document(msgspec.Struct):
    """The file as a whole."""

    data: Table
    net: Table
    risk: Table
    start: Table
    until: Table
    title: str = ""
    observe: list[str] = []
    certificate: bool = False
    series: bool = False
    teacher: Table | None = None
    integrate: Table = {}
    grid: Table = {}


def checked(table: object, struct: type[S], key: Key, also: Collection[str] = ()) -> S:
    """Return a table as a struct.

    Parameters
    ----------
    table : object
        As the file has it.
    struct : type
    key : tuple
        Where it stands.
    also : collection of str
        Names to suggest besides.

    Raises
    ------
    RecipeError
        An unknown key, with the nearest; a value of the wrong type; a missing key.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(key, f"is {_kind(table)}, not a table")
    known = {field.encode_name for field in msgspec.structs.fields(struct)}
    refuse_unknown(table, known, key, also)
    try:
        return msgspec.convert(table, struct)
    except msgspec.ValidationError as error:
        raise _translated(str(error), table, key) from None
    except RecursionError:
        raise RecipeError(key, "is nested too deep") from None


def refuse_unknown(
    table: Mapping[str, object], known: Collection[str], key: Key, also: Collection[str] = ()
) -> None:
    """Refuse keys that are not known, with the nearest one that is."""
    for name in table:
        if name not in known:
            raise RecipeError((*key, name), f"is no known key; {nearest(name, {*known, *also})}")


_AT = re.compile(r" - at `\$([^`]*)`$")
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]|\[\.\.\.\]|\.([^.\[]+)")
_TYPES = {
    "int": "an integer", "float": "a number", "str": "a string", "bool": "true or false",
    "object": "a table", "array": "an array", "null": "",
}  # fmt: skip


def _translated(said: str, table: Mapping[str, object], key: Key) -> RecipeError:
    """The library's complaint, with the key in full and in TOML's words."""
    found = _AT.search(said)
    said = said[: found.start()] if found else said
    inner: list[str | int] = []
    for step in _STEP.finditer(found[1] if found else ""):
        name, index, other = step.groups()
        if name is None and index is None and other is None:
            break
        inner.append(int(index) if index is not None else name or other)
    missing = re.fullmatch(r"Object missing required field `(\w+)`", said)
    if missing:
        return RecipeError((*key, *inner, missing[1]), "is missing")
    wrong = re.fullmatch(r"Expected `([^`]*)`, got `([^`]*)`", said)
    if wrong:
        wanted = [_TYPES.get(part, part) for part in wrong[1].split(" | ")]
        wanted = " or ".join(dict.fromkeys(filter(None, wanted)))
        value = shown(repr(_value(table, inner)))
        got = _TYPES.get(wrong[2]) or f"a {wrong[2]}"
        return RecipeError((*key, *inner), f"is {got}, {value}; write {wanted}")
    return RecipeError((*key, *inner), said[:1].lower() + said[1:])


def _value(table: Value, keys: list[str | int]) -> object:
    for part in keys:
        try:
            table = table[part]
        except (KeyError, IndexError, TypeError):
            return "?"
    return table


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "an array"
    named = _TYPES.get(type(value).__name__, "")
    return f"{named or type(value).__name__}, {shown(value)}"


#: Annotations that a value in a file is checked against before a constructor sees it.
_PLAIN = (int, float, str, bool)


def of_signature(
    function: Callable[..., object], leave_out: Collection[str] = ()
) -> type[msgspec.Struct]:
    """The struct of a table that holds a function's arguments.

    Plain types are checked; whatever else is annotated is left to the function.
    """
    hints = _hints(function)
    required, optional = [], []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in leave_out or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD,
        ):  # fmt: skip
            continue
        hint = _plain(hints.get(name))
        if parameter.default is inspect.Parameter.empty:
            required.append((name, hint))
        else:
            optional.append((name, hint | None if hint is not Value else Value, msgspec.UNSET))
    return msgspec.defstruct("Arguments", [*required, *optional])


def _hints(function: Callable[..., object]) -> Table:
    try:
        target = vars(function).get("__init__", function) if inspect.isclass(function) else function
        return typing.get_type_hints(target)
    except (NameError, TypeError):
        return {}


def _plain(hint: Value) -> Value:
    """The type if a file can be held to it, else anything."""
    if hint in _PLAIN:
        return hint
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and all(part in _PLAIN for part in parts):
        return hint
    if origin in (types.UnionType, typing.Union) and set(parts) <= {*_PLAIN, type(None)}:
        return hint
    return Value


__all__ = [
    "MOST_NUMBERS",
    "Data",
    "Document",
    "Integrate",
    "Risk",
    "Start",
    "Teacher",
    "checked",
    "of_signature",
    "refuse_unknown",
]
