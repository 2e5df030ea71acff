r"""The register of observables, and how one is read along a path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.numerics.rows import map_rows
from gradflow.paths.path import AbstractPath, as_path
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_choice, fail, takes_two


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


def observe(
    path: AbstractPath, what: str | Callable[..., ArrayLike], **options: object
) -> np.ndarray:
    """Value of an observable along ``path``, time first.

    Parameters
    ----------
    path : AbstractPath, or an object with ``params`` and ``risk``
    what : str or callable
        A registered name, a quantity the path's chart offers (``path.exact``), or any function
        ``fn(params)`` or ``fn(risk, params)`` written in JAX that returns an array.
    **options
        Passed to the observable; with options the chart's value is not used.

    Raises
    ------
    ValueError
        Unknown name; an observable the risk or the network has no meaning for; a function that JAX
        cannot trace.
    """
    path = as_path(path)
    if callable(what):
        return _of_function(path, what, options)
    if what in path.exact and not options:
        return np.asarray(path.exact[what])
    check_choice("name", what, {*_REGISTRY, *path.exact})
    if what not in _REGISTRY:
        raise fail(
            "options", options, f"are not taken by {what!r}, which the chart knows exactly",
            "leave them out",
        )  # fmt: skip
    known = list(inspect.signature(_REGISTRY[what].function).parameters)[1:]
    for option, value in options.items():
        if option not in known:
            fix = "choose one of " + ", ".join(known) if known else "it takes none: leave it out"
            raise fail(option, value, f"is not an option of observe({what!r})", fix)
    return np.asarray(_REGISTRY[what].function(path, **options))


def _of_function(
    path: AbstractPath, fn: Callable[..., ArrayLike], options: Mapping[str, object]
) -> np.ndarray:
    if options:
        raise fail("options", options, "are not taken by a function", "close over them instead")
    try:
        return map_rows(_Asked(fn, takes_two(fn)), path.risk, path.params)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError, TypeError) as error:
        raise fail(
            "what", fn, f"is no function of (risk, params) that JAX can trace ({error})"[:300],
            "write fn(params) or fn(risk, params) with jax.numpy, returning an array",
        ) from error  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """A function of the user's, whose number becomes an array."""

    fn: Callable[..., ArrayLike]
    takes_risk: bool

    def __call__(self, risk: AbstractRisk, params: PyTree) -> jax.Array:
        return jnp.asarray(self.fn(risk, params) if self.takes_risk else self.fn(params))
