"""What a value is, and what a function is, whatever process looks at them: the same content gives
the same key, and a store knows when a function has changed.

A function is its code and what it reads. Comments, docstrings and places in the file do not count.
What it reads from outside counts where it cannot change while it runs: numbers, strings, tuples,
arrays, what describes itself, and functions and classes of its own module. Lists, dictionaries and
names that it assigns itself are state, not configuration.
"""

from __future__ import annotations

import builtins
import dataclasses
import dis
import enum
import functools
import inspect
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import cast

import numpy as np

from gradflow.sweeps.content import Json, UnstableError, digest, digest_of, label, plain

_PLAIN = (bool, int, str, type(None))

_ASSIGN = ("STORE_GLOBAL", "STORE_DEREF", "DELETE_GLOBAL", "DELETE_DEREF")
#: What a function may read that tells itself.
_FIXED = (bool, int, float, complex, str, bytes, type(None), tuple, frozenset, np.generic)
#: Functions within functions that are followed.
_DEPTH = 20


def content(value: object) -> Json:
    """Return what tells a value, JSON-able; 1, 1.0 and True differ.

    Raises
    ------
    UnstableError
        If only an address in memory tells it.
    """
    value = plain(value)
    name = type(value).__name__
    if isinstance(value, enum.Enum):
        return ["enum", _path_of(type(value)), value.name]
    if isinstance(value, _PLAIN):
        return [name, value]
    if isinstance(value, (float, complex, bytes, PurePath, np.generic)):
        return [name, repr(value)]
    if isinstance(value, (list, tuple)):
        return [name, *map(content, value)]
    if isinstance(value, (set, frozenset)):
        return [name, *sorted(map(content, value), key=digest_of)]
    if isinstance(value, Mapping):
        pairs = [[content(key), content(one)] for key, one in value.items()]
        return [name, *sorted(pairs, key=digest_of)]
    return _content_of_object(value)


def _content_of_object(value: object) -> Json:
    """Of arrays, functions, classes, and what describes itself."""
    where = _path_of(type(value))
    describe = getattr(value, "describe", None)
    if isinstance(value, type):
        return ["class", _path_of(value)]
    if callable(describe):
        try:
            return ["described", where, content(describe())]
        except (TypeError, ValueError) as error:
            raise UnstableError(f"{where} does not describe itself ({error})") from error
    array = _as_array(value)
    if array is not None:
        data = digest(np.ascontiguousarray(array).tobytes())
        return ["array", array.dtype.str, list(array.shape), data]
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if callable(value):
        return ["function", identity(value)]
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return ["object", where, content(fields)]
    text = repr(value)
    if " at 0x" in text:
        raise UnstableError(f"{where} shows nothing but its address in memory")
    return ["object", where, text]


def _as_array(value: object) -> np.ndarray | None:
    if not (hasattr(value, "__array__") and hasattr(value, "dtype")):
        return None
    try:
        array = np.asarray(value)
    except TypeError:  # (JAX's random keys)
        return None
    return None if array.dtype.hasobject else array


def _path_of(named: type | Callable[..., object]) -> str:
    return f"{named.__module__}.{named.__qualname__}"


def identity(fn: object, seen: tuple[int, ...] = ()) -> dict[str, Json]:
    """Return what tells a function, JSON-able: its name, and what ``describe()`` says or else its
    code and what it reads.

    Raises
    ------
    UnstableError
        If its arguments (of a partial function, or a bound method) tell only an address.
    """
    if id(fn) in seen or len(seen) > _DEPTH:
        return {"name": name_of(fn)}
    seen = (*seen, id(fn))
    describe = getattr(fn, "describe", None)
    if callable(describe) and not isinstance(fn, type):
        return {"name": name_of(fn), "describe": json.loads(json.dumps(describe()))}
    if isinstance(fn, functools.partial):
        given = {"args": content(fn.args), "keywords": content(fn.keywords)}
        return {**identity(fn.func, seen), "partial": given}
    if isinstance(fn, types.MethodType):
        return {**identity(fn.__func__, seen), "self": _state(fn.__self__)}
    if isinstance(fn, types.FunctionType):
        inner = getattr(fn, "__wrapped__", None)
        wraps = {} if inner is None else {"wraps": digest_of(identity(inner, seen))}
        return {**_of_function(fn, seen), **wraps}
    inner = getattr(fn, "__wrapped__", None)
    if callable(inner):
        return {**identity(inner, seen), "name": name_of(fn)}
    call = vars(type(fn)).get("__call__") or getattr(type(fn), "__call__", None)  # noqa: B004
    if isinstance(call, types.FunctionType) and not isinstance(fn, type):
        return {**_of_function(call, seen), "name": name_of(fn), "self": _state(fn)}
    return {"name": f"{getattr(fn, '__module__', None) or type(fn).__module__}.{name_of(fn)}"}


def name_of(fn: object) -> str:
    """Return the name of a function, or of the class of a callable object; without its module,
    which is another one where the file is run instead of imported."""
    if isinstance(fn, functools.partial):
        return name_of(fn.func)
    named = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None)
    return str(named or type(fn).__qualname__)


def _state(owner: object) -> Json:
    try:
        return digest_of(content(getattr(owner, "__dict__", {}) or owner))
    except UnstableError:
        return name_of(type(owner))


def _of_function(fn: types.FunctionType, seen: tuple[int, ...]) -> dict[str, Json]:
    found: dict[str, Json] = {
        "name": name_of(fn), "code": digest_of(_code(fn.__code__, fn.__doc__)),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }  # fmt: skip
    for name, value in (fn.__kwdefaults__ or {}).items():
        found[f"default of {name}"] = _shown(value)
    for place, value in enumerate(fn.__defaults__ or ()):
        found[f"default {place}"] = _shown(value)
    reads = {name: _read(value, fn, seen) for name, value in _outside(fn)}
    return {**found, **{f"reads {k}": told for k, told in reads.items() if told is not None}}


def _code(code: types.CodeType, doc: str | None = None) -> Json:
    consts = list(code.co_consts)
    if consts and doc is not None and consts[0] == doc:
        consts[0] = None
    told: list[Json] = [code.co_code.hex(), list(code.co_names), list(code.co_varnames)]
    told += [list(code.co_freevars), list(code.co_cellvars), code.co_flags]
    return [*told, *map(_const, consts)]


def _const(value: object) -> Json:
    return ["code", _code(value)] if isinstance(value, types.CodeType) else content(_dotless(value))


def _dotless(value: object) -> object:
    """Constants of code that JSON lacks: ``...`` in subscripts, and tuples that hold it."""
    if value is Ellipsis:
        return ("Ellipsis",)
    return tuple(map(_dotless, value)) if isinstance(value, tuple) else value


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _codes(value)


def _outside(fn: types.FunctionType) -> Iterator[tuple[str, object]]:
    """Names and values that a function reads from outside and does not assign."""
    codes = list(_codes(fn.__code__))
    assigned = {
        step.argval for code in codes for step in dis.get_instructions(code)
        if step.opname in _ASSIGN
    }  # fmt: skip
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        if name not in assigned and cell != types.CellType():
            yield name, cell.cell_contents
    names = {name for code in codes for name in code.co_names} - assigned
    for name in sorted(names):
        if name in fn.__globals__ and not hasattr(builtins, name):
            yield name, fn.__globals__[name]


def _read(value: object, fn: types.FunctionType, seen: tuple[int, ...]) -> Json:
    """What tells a value that is read from outside; None where it does not count."""
    own = getattr(value, "__module__", None) == fn.__module__
    if isinstance(value, types.ModuleType):
        return None
    if isinstance(value, type):
        return digest_of(_class(value, seen)) if own else None
    if callable(value) and not hasattr(value, "describe"):
        return digest_of(identity(value, seen)) if own or _wraps_own(value, fn) else None
    fixed = isinstance(value, _FIXED) or hasattr(value, "describe")
    if fixed or (hasattr(value, "__array__") and hasattr(value, "dtype")):
        try:
            return _shown(value)
        except Exception:  # (describe() of a class of somebody's own may raise anything)
            return None
    return None


def _wraps_own(value: object, fn: types.FunctionType) -> bool:
    inner = getattr(value, "__wrapped__", None) or getattr(value, "func", None)
    return getattr(inner, "__module__", None) == fn.__module__


def _class(cls: type, seen: tuple[int, ...]) -> Json:
    methods = {k: v for k, v in vars(cls).items() if isinstance(v, types.FunctionType)}
    return [cls.__qualname__, {name: identity(one, seen) for name, one in methods.items()}]


def _shown(value: object) -> Json:
    """A short value as it is written; else its beginning and the digest of its content."""
    text = label(value)
    short = isinstance(value, (bool, int, float, str)) and len(text) < 60
    return text if short else f"{text[:40]} [{digest_of(content(value))[:12]}]"


def check_call(fn: Callable[..., object], names: list[str]) -> str | None:
    """Return what is wrong with calling a function with these names, or None."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # (some built-in functions tell nothing)
        return None
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        return f"takes {signature}, not ({', '.join(names)}): {error}"
    return None


def pickled(fn: Callable[..., object]) -> bytes:
    """Pickle a function for other processes: by value where it was made by hand, here or in a
    notebook.

    Raises
    ------
    Exception
        Whatever pickle raises: it has no common class (a lock, a generator).
    """
    import cloudpickle

    return cast(bytes, cloudpickle.dumps(fn))


__all__ = ["check_call", "content", "identity", "name_of", "pickled"]
