r"""The register of observables, and how one is read along a path."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradflow.validation import check_choice, fail


@dataclass(frozen=True)
class Observable:
    """A documented function of a path.

    Attributes
    ----------
    name, unit, long_name : str
        ``unit`` is ``"1"`` for pure numbers.
    dims : tuple of str
        Dimensions of the result, ``"time"`` first.
    function : callable
        ``function(path, **options) -> ndarray``.
    source : str
        Citation key of where the quantity comes from; empty where it needs none.
    """

    name: str
    unit: str
    long_name: str
    dims: tuple[str, ...]
    function: Callable[..., np.ndarray]
    source: str = ""

    @property
    def doc(self) -> str:
        """What it is and by which formula."""
        return (self.function.__doc__ or "").strip()


_REGISTRY: dict[str, Observable] = {}


def observable(
    name: str,
    *,
    unit: str = "1",
    long_name: str,
    dims: tuple[str, ...] = ("time",),
    source: str = "",
) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Register a function of a path under ``name``."""

    def register(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        if name in _REGISTRY:
            raise ValueError(f"name={name!r}: an observable of this name exists; choose another")
        _REGISTRY[name] = Observable(name, unit, long_name, dims, function, source)
        return function

    return register


def names() -> list[str]:
    """Names of all observables, sorted."""
    return sorted(_REGISTRY)


def get(name: str) -> Observable:
    """The observable called ``name``."""
    check_choice("name", name, _REGISTRY)
    return _REGISTRY[name]


def observe(path: Any, name: str, **options: Any) -> np.ndarray:
    """Value of an observable along ``path``, time first.

    Parameters
    ----------
    path : object with ``params`` and ``risk``
    name : str
        A registered name, or a quantity the path's chart offers (``path.exact``).
    **options
        Passed to the observable; with options the chart's value is not used.

    Raises
    ------
    ValueError
        Unknown name; an observable the risk or the network has no meaning for.
    """
    exact = getattr(path, "exact", {})
    if name in exact and not options:
        return np.asarray(exact[name])
    check_choice("name", name, {*_REGISTRY, *exact})
    if name not in _REGISTRY:
        raise fail(
            "options", options, f"are not taken by {name!r}, which the chart knows exactly",
            "leave them out",
        )  # fmt: skip
    known = list(inspect.signature(_REGISTRY[name].function).parameters)[1:]
    for option, value in options.items():
        if option not in known:
            fix = "choose one of " + ", ".join(known) if known else "it takes none: leave it out"
            raise fail(option, value, f"is not an option of observe({name!r})", fix)
    return np.asarray(_REGISTRY[name].function(path, **options))
