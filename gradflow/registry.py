"""Kind ↔ class, once: what ``describe()`` writes, :func:`build` reads.

A description is a JSON-able mapping: ``{"kind": "leaky_relu", "slope": 0.3}``. Its other entries
are the arguments of the constructor, read from attributes of the same names, descriptions inside
descriptions. Activations, losses, networks, laws, teachers, risks and parameters all stand in one
register, and a class of one's own beside them:

>>> @gf.register("cubic")
... class Cubic(AbstractActivation): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np

from gradflow.validation import fail

C = TypeVar("C", bound=type)


class Described:
    """What its class's kind and its constructor's arguments tell completely."""

    def describe(self) -> dict[str, object]:
        """Return a JSON-able description, from which `gradflow.registry.build` makes an equal."""
        return describe(self)


class _Entry(NamedTuple):
    cls: type
    build: Callable[..., object]


_ENTRIES: dict[str, _Entry] = {}


@overload
def register(kind: str) -> Callable[[C], C]: ...
@overload
def register(kind: str, cls: C, build: Callable[..., object] | None = None) -> C: ...
def register(kind: str, cls: Any = None, build: Callable[..., object] | None = None) -> Any:
    """Register a class of activations, losses, networks, laws, teachers or risks under a kind.

    Parameters
    ----------
    kind : str
        The name in descriptions and files.
    cls : type, optional
        The class; without it a decorator is returned.
    build : callable, optional
        Makes an object from the description's entries; default: the class itself.

    Raises
    ------
    ValueError
        If another class has the kind.
    """
    if not isinstance(kind, str) or not kind:
        raise fail("kind", kind, "is not a name", 'pass a string, as gf.register("cubic", Cubic)')
    if cls is None:
        return lambda decorated: register(kind, decorated, build)
    if not isinstance(cls, type):
        raise fail("cls", cls, "is not a class", "pass the class, not an object of it")
    known = _ENTRIES.get(kind)
    # A notebook's cell that is run again defines its class anew.
    if known is not None and _place(known.cls) != _place(cls):
        raise fail("kind", kind, f"is registered for {_place(known.cls)}", "choose another name")
    _ENTRIES[kind] = _Entry(cls, cls if build is None else build)
    return cls


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def kind_of(cls: type) -> str | None:
    """The kind of a class; None where it has none."""
    return next((kind for kind, entry in _ENTRIES.items() if entry.cls is cls), None)


def class_of(kind: str) -> type:
    """The class of a kind."""
    if kind not in _ENTRIES:
        raise fail("kind", kind, "is not registered", _fix({"kind": kind}))
    return _ENTRIES[kind].cls


def kinds_of(base: type) -> dict[str, type]:
    """The kinds registered for subclasses of a class, and their classes."""
    return {kind: entry.cls for kind, entry in _ENTRIES.items() if issubclass(entry.cls, base)}


def describe(thing: object) -> dict[str, object]:
    """Describe an object by its kind and its constructor's arguments.

    An object of an unregistered class gets the class's own ``kind``, or its name (`unknown` finds
    it).

    Raises
    ------
    ValueError
        If the object keeps an argument under no attribute of the same name, or one that no
        description can hold.
    """
    cls = type(thing)
    found: dict[str, object] = {"kind": kind_of(cls) or str(vars(cls).get("kind", cls.__name__))}
    if not cls.__module__.startswith("gradflow."):
        found["class"] = _place(cls)
    for name in inspect.signature(cls).parameters:
        if not hasattr(thing, name):
            problem = f"keeps no attribute of the name of its argument {name!r}"
            raise fail("object", thing, problem, f"keep it as self.{name}, or define describe()")
        found[name] = _encode(name, getattr(thing, name))
    return found


def _encode(name: str, value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Described):
        return value.describe()
    if isinstance(value, (tuple, list)):
        return [_encode(name, item) for item in value]
    if hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    if callable(value):
        return {"function": getattr(value, "__name__", type(value).__name__)}
    raise fail(name, value, "has no description", "pass numbers, arrays or registered objects")


def build(description: Mapping[str, object]) -> Any:
    """Make an object from its description.

    Raises
    ------
    ValueError
        If a kind is not registered, an entry is missing or unknown, or a function is asked for.
    """
    if not isinstance(description, Mapping) or "kind" not in description:
        raise fail("description", description, "names no kind", 'pass {"kind": ..., ...}')
    missing = unknown(description)
    if missing:
        raise fail("kind", description["kind"], f"cannot be built: {missing[0]}", _fix(description))
    entry = _ENTRIES[str(description["kind"])]
    parts = {k: _decode(v) for k, v in description.items() if k not in ("kind", "class")}
    try:
        inspect.signature(entry.build).bind(**parts)
    except TypeError as error:
        fix = f"pass the entries of {entry.cls.__name__}.describe()"
        raise fail("description", dict(description), str(error), fix) from None
    return entry.build(**parts)


def _decode(value: object) -> object:
    if isinstance(value, Mapping):
        return build(value) if "kind" in value else value
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [_decode(item) for item in value]
    return value


def unknown(description: object) -> list[str]:
    """Say what in a description cannot be built here: unregistered kinds, and functions."""
    if isinstance(description, (list, tuple)):
        numbers = not description or isinstance(description[0], (int, float))
        return [] if numbers else [found for item in description for found in unknown(item)]
    if not isinstance(description, Mapping):
        return []
    own: list[str] = []
    if "function" in description:
        own = [f"no file holds the function {description['function']!r}"]
    elif "kind" in description and description["kind"] not in _ENTRIES:
        where = f" ({description['class']})" if "class" in description else ""
        own = [f"no class is registered as {description['kind']!r}{where}"]
    return own + [found for item in description.values() for found in unknown(item)]


def _fix(description: Mapping[str, object]) -> str:
    known = ", ".join(sorted(_ENTRIES))
    return (
        f'pass the risk, as gf.load(path, risk=...), or gf.register("{description["kind"]}", Class)'
        f" first; known: {known}"
    )


__all__ = [
    "Described",
    "build",
    "class_of",
    "describe",
    "kind_of",
    "kinds_of",
    "register",
    "unknown",
]
