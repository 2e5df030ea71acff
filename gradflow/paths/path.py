"""What a path is: the protocol that observables, pictures and files read."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.paths.events import NO_EVENTS, Events
from gradflow.validation import check_array, fail

if TYPE_CHECKING:
    import os

    import xarray as xr

    from gradflow.flows.course import Course


#: Rounding of ln t, where t has been rounded.
ROUNDING = 8 * float(np.finfo(float).eps)


class AbstractPath(abc.ABC):
    """Parameters at recorded times; arrays carry time first. Reading never changes a path.

    Attributes
    ----------
    risk : AbstractRisk
    params : pytree
        Parameters, arrays of shape (n, ...).
    t, log_t : (n,) array
        Physical time (may overflow to inf), ln t (never does).
    exact : mapping of str to array
        What is known beyond the precision of ``params``, by observable name.
    events : Events
        What happened on the way.
    energy : (n,) array or None
        Integral of the squared speed over time, where it was integrated.
    initial : pytree or None
        Parameters at time 0, where they are known.
    """

    risk: Any
    params: PyTree
    t: np.ndarray
    log_t: np.ndarray
    exact: Mapping[str, np.ndarray]
    events: Events
    energy: np.ndarray | None
    initial: PyTree
    #: What it takes to go on from the end, where that is known.
    course: Course | None = None
    #: Of its files: the kind ("" = it has none), and what is kept beside the view, as trees of
    #: arrays, as arrays, and as JSON.
    kind: ClassVar[str] = ""
    trees: ClassVar[tuple[str, ...]] = ()
    arrays: ClassVar[tuple[str, ...]] = ()
    told: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return int(jax.tree.leaves(self.params)[0].shape[0])

    def chart_value(self, name: str) -> np.ndarray | None:
        """An observable through the chart, which may know it better; None where none does."""
        return None

    def coordinates(self) -> dict[str, tuple[np.ndarray, str]]:
        """What else than ln t says where on the path a row is: ``name: (values, long name)``."""
        return {"time": (self.t, "physical time")}

    def about(self) -> dict[str, object]:
        """How it was made, as attributes of a view."""
        return {}

    def at(self, t: ArrayLike | None = None, *, log_t: ArrayLike | None = None) -> AbstractPath:
        """The path at given times, as a path that can be observed.

        Between recorded times this needs dense output (``save_at=gf.save.dense()``).

        Parameters
        ----------
        t : float or increasing sequence
            Physical times.
        log_t : float or increasing sequence
            ln t instead, for times beyond floats.

        Raises
        ------
        ValueError
            For times outside the path, and between recorded ones where nothing else was kept.
        """
        return recorded_at(self, asked_times(t, log_t))

    def observe(self, what: str | Callable[..., ArrayLike], **options: object) -> np.ndarray:
        """Value of an observable at the recorded times (see :mod:`gradflow.observables`).

        Parameters
        ----------
        what : str or callable
            A name, or any function ``fn(params)`` or ``fn(risk, params)`` written in JAX, which
            returns an array.
        **options
            Of the observable, as ``observe("loss", X=..., y=...)``.
        """
        # (the one look upwards: names are found when something is read)
        from gradflow import observables

        return observables.observe(self, what, **options)

    def to_xarray(self, observables: str | Sequence[str] | None = None) -> xr.Dataset:
        """View as an ``xarray.Dataset`` over ``log_t``, with named dimensions and units.

        Parameters
        ----------
        observables : str or sequence of str, optional
            Names of observables; default: parameters and all that is known besides, which is what
            ``save`` writes.
        """
        from gradflow.paths import view

        return view.whole(self) if observables is None else view.chosen(self, observables)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one NetCDF-3 file, whole or not at all; read it with :func:`load`.

        Warns
        -----
        NeedsRiskWarning
            If ``load`` will need the risk: no file holds a function, nor a class of one's own that
            is not registered (``gf.register``).
        """
        from gradflow.paths import saving

        saving.save(self, path)


@dataclass(frozen=True, repr=False)
class Recorded(AbstractPath):
    """Rows of parameters and what is known of them: a bare path."""

    risk: Any
    params: PyTree
    t: np.ndarray = field(default_factory=lambda: np.zeros(0))
    log_t: np.ndarray = field(default_factory=lambda: np.zeros(0))
    exact: Mapping[str, np.ndarray] = field(default_factory=dict)
    events: Events = NO_EVENTS
    energy: np.ndarray | None = None
    initial: PyTree = None

    def __repr__(self) -> str:
        span = f", t = {self.t[0]:.6g} ... {self.t[-1]:.6g}" if self.t.size else ""
        # (the risk of what `as_path` was given may be any object)
        name = getattr(self.risk, "name", "an unknown risk")
        return f"Path of {name}\n  {self.t.size} points{span}; observe(...), params, to_xarray(...)"


def as_path(value: object) -> AbstractPath:
    """Return a path as it is, and whatever has ``risk`` and ``params`` as one."""
    if isinstance(value, AbstractPath):
        return value
    given = getattr(value, "__dict__", {})
    if not {"risk", "params"} <= set(given):
        raise fail("path", value, "is not a path", "pass what gf.integrate or gf.descend returned")
    return Recorded(**{f.name: given[f.name] for f in fields(Recorded) if f.name in given})


@dataclass(frozen=True)
class Asked:
    """Times at which a path is asked for.

    Attributes
    ----------
    name : {"t", "log_t"}
        In which they were given.
    values, log_t : (k,) arrays
        As they were given, and ln t.
    """

    name: str
    values: np.ndarray
    log_t: np.ndarray

    def refused(self, which: np.ndarray, problem: str, fix: str) -> ValueError:
        """The error for some of the times, as they were given."""
        return fail(self.name, self.values[which], problem, fix)

    def shown(self, log_t: float) -> str:
        """A time in the variable asked in."""
        with np.errstate(over="ignore"):
            return f"{log_t if self.name == 'log_t' else np.exp(log_t):.10g}"


def asked_times(t: ArrayLike | None, log_t: ArrayLike | None) -> Asked:
    """The times asked for, one of ``t`` and ``log_t``; increasing."""
    if (t is None) == (log_t is None):
        raise fail("t", t, "is to be given, or log_t, one of them", "pass t=..., or log_t=...")
    name, value = ("t", t) if log_t is None else ("log_t", log_t)
    given = np.atleast_1d(np.asarray(value))
    # (t = 0 is ln t = −inf)
    start = (given == -np.inf) if log_t is not None else np.zeros(given.shape, bool)
    times = check_array(name, np.where(start, 0.0, given) if np.any(start) else given, (None,))
    times = np.where(start, -np.inf, times)
    if np.any(np.diff(times) <= 0):
        raise fail(name, times, "is not increasing", "sort it and drop repeats (np.unique)")
    if log_t is not None:
        return Asked(name, times, times)
    if np.any(times < 0):
        raise fail(name, times, "holds a negative time", "pass times >= 0")
    with np.errstate(divide="ignore"):
        return Asked(name, times, np.log(times))


def _rows_at(path: AbstractPath, log_t: np.ndarray) -> np.ndarray:
    """The recorded row of every time; -1 where it was not recorded.

    A time that was read off the path, t = e^(ln t), may be off by its rounding.
    """
    if not len(path):
        return np.full(log_t.shape, -1)
    after = np.clip(np.searchsorted(path.log_t, log_t), 0, len(path) - 1)
    before = np.maximum(after - 1, 0)
    with np.errstate(invalid="ignore"):
        gaps = [np.abs(path.log_t[row] - log_t) for row in (after, before)]
        near = [gap <= ROUNDING * np.maximum(np.abs(log_t), 1.0) for gap in gaps]
    found = np.where(near[0], after, np.where(near[1], before, -1))
    return np.where(path.log_t[after] == log_t, after, found)


def recorded_at(path: AbstractPath, asked: Asked) -> AbstractPath:
    """Recorded rows of a path."""
    where = _rows_at(path, asked.log_t)
    if np.any(where < 0):
        raise not_kept(asked, where < 0)
    energy = None if path.energy is None else path.energy[where]
    return Recorded(
        path.risk, jax.tree.map(lambda leaf: np.asarray(leaf)[where], path.params),
        path.t[where], path.log_t[where],
        exact={name: value[where] for name, value in path.exact.items()},
        energy=energy, initial=path.initial,
    )  # fmt: skip


def not_kept(asked: Asked, which: np.ndarray) -> ValueError:
    """The error for times at which nothing was kept."""
    return asked.refused(
        which, "was not recorded, and nothing was kept between recorded times there",
        "integrate with save_at=gf.save.dense(), or with save_at=[times] where a stage keeps "
        "nothing between (the late phase; a file keeps recorded times only)",
    )  # fmt: skip


__all__ = [
    "ROUNDING",
    "AbstractPath",
    "Asked",
    "Recorded",
    "as_path",
    "asked_times",
    "not_kept",
    "recorded_at",
]
