"""Recipes: one run, or a sweep, as a file says it (:func:`recipe`)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from jaxtyping import PyTree

from gradflow import observables
from gradflow.certificates.certificate import certify
from gradflow.integration import IntegrationWarning, integrate
from gradflow.integrators.save import AbstractSave
from gradflow.integrators.until import AbstractUntil
from gradflow.integrators.watch import Progress
from gradflow.paths import saving
from gradflow.paths.path import Recorded
from gradflow.paths.trajectory import Trajectory
from gradflow.recipes import grid, numerics
from gradflow.recipes.data import digest, existing
from gradflow.recipes.errors import RecipeError, nearest, shown
from gradflow.recipes.failing import refusals
from gradflow.recipes.models import risk_of, start_of
from gradflow.recipes.reading import Text, of_mapping, read_file
from gradflow.recipes.schema import (
    Document,
    Integrate,
    Risk,
    Start,
    Teacher,
    checked,
    refuse_unknown,
)
from gradflow.recipes.toml import Table, Value
from gradflow.risks.base import AbstractRisk

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

#: Names of results that a point of a sweep has besides observables.
RESULTS = ("result", "t_final", "log_t_final", "certified", "log_t")
#: Names that ``gf.sweep`` and its tables have for other things.
_TAKEN = ("max_seconds", "error", "point")
#: Values of an axis that are built at the door; of more the first and the last.
_BUILT = 16


#: Tables of fixed keys, in which no key goes unnoticed while others are read.
_STRUCTS = {
    "risk": Risk, "start": Start, "until": numerics.stops(), "integrate": Integrate,
    "teacher": Teacher,
}  # fmt: skip


class Made(NamedTuple):
    """What an integration is made of.

    Attributes
    ----------
    risk : AbstractRisk
    start : pytree
    until : stopping condition
    options : dict
        Further arguments of ``gf.integrate``.
    """

    risk: AbstractRisk
    start: PyTree
    until: AbstractUntil
    options: Table


class Recipe:
    """A risk, a start, a horizon, and what is read of the path, as a file says them.

    Made by :func:`recipe`. It is a function of the keys that vary: ``recipe(seed=3)`` integrates
    one point of the grid and returns its results by name. It can be pickled.

    Attributes
    ----------
    observe : tuple of str
    certificate, series : bool
    axes : tuple of Axis
        The grid.
    """

    def __init__(self, text: Text) -> None:
        self._text = text
        try:
            asked = checked(text.table, Document, ())
            self._tables: Table = {
                name: value
                for name, value in msgspec.structs.asdict(asked).items()
                if value is not None
            }
            for name, struct in _STRUCTS.items():
                refuse_unknown(self._tables.get(name, {}), _names(struct), (name,))
            self.title, self.certificate = asked.title, asked.certificate
            self.series = asked.series
            self.observe = _observables(asked.observe)
            taken = {*RESULTS, *_TAKEN, *observables.names()}
            self.axes = grid.axes_of(asked.grid, self._tables, taken)
        except RecipeError as error:
            raise error.at(text.lines, text.file) from None

    def __repr__(self) -> str:
        over = f" over {', '.join(self.parameters)}" if self.axes else ""
        return f"Recipe({self._text.file or self.title or 'a mapping'}{over})"

    @property
    def text(self) -> str:
        """The text of its file; "" of a mapping."""
        return self._text.text

    @property
    def parameters(self) -> dict[str, list[Value]]:
        """The names that vary and their values: the dimensions of a sweep."""
        return {axis.name: list(axis.values) for axis in self.axes}

    def make(self, **point: Value) -> Made:
        """Build the risk, the start and the numerical choices of one point.

        Raises
        ------
        RecipeError
            What cannot be built, with its key and line.
        """
        axes = {axis.name: axis for axis in self.axes}
        changes: dict[tuple[str, ...], Value] = {}
        for name, value in point.items():
            if name not in axes:
                raise RecipeError((name,), f"does not vary in this recipe; {nearest(name, axes)}")
            changes[axes[name].key] = value
        try:
            return self._made(grid.with_values(self._tables, changes))
        except RecipeError as error:
            # (a key of the grid stands where its values are listed)
            places = {axes[name].key: axes[name].place for name in point}
            lines = {**self._text.lines}
            lines |= {key: lines[place] for key, place in places.items() if place in lines}
            raise error.at(lines, self._text.file) from error

    def _made(self, tables: Mapping[str, Value]) -> Made:
        folder = self._text.folder
        risk = risk_of(tables, folder)
        assert risk.net is not None
        start = start_of(tables["start"], risk.net, folder)
        ends = numerics.until_of(tables["until"])
        options = numerics.options_of(tables["integrate"], start)
        if self.series:
            _check_series(options["save_at"])
        return Made(risk, start, ends, options)

    def check(self) -> Made:
        """Build all that can be built before the first step, at every value of each axis.

        Of an axis with many values the first and the last are built; values are combined with the
        first ones of the other axes.

        Returns
        -------
        Made
            The first point.

        Raises
        ------
        RecipeError
            With the key and the line.
        """
        first = {axis.name: axis.values[0] for axis in self.axes}
        made = self.make(**first)
        shapes = self._check_made(made)
        for axis in self.axes:
            values = axis.values[1:] if len(axis.values) <= _BUILT else axis.values[-1:]
            for value in values:
                found = self._check_made(self.make(**{**first, axis.name: value}))
                self._check_shapes(shapes, found, axis)
        return made

    def _check_made(self, made: Made) -> list[tuple[int, ...]]:
        try:
            numerics.check(made.risk, made.start, made.until, made.options)
            return self._check_observables(made)
        except RecipeError as error:
            raise self._placed(error) from error

    def _placed(self, error: RecipeError) -> RecipeError:
        return error.at(self._text.lines, self._text.file)

    def _check_shapes(
        self, first: list[tuple[int, ...]], found: list[tuple[int, ...]], axis: grid.Axis
    ) -> None:
        """A table has arrays of one shape."""
        for index, (name, one, other) in enumerate(zip(self.observe, first, found, strict=True)):
            if one != other:
                problem = f"{name!r} has another shape for another {axis.name}: {one}, then {other}"
                raise self._placed(RecipeError(("observe", index), f"{problem}; leave it out"))

    def _check_observables(self, made: Made) -> list[tuple[int, ...]]:
        """Refuse what has no meaning for the risk before the flow is integrated for it."""
        import jax

        one = Recorded(
            made.risk, jax.tree.map(lambda leaf: np.asarray(leaf)[None], made.start), np.zeros(1),
            np.full(1, -np.inf), energy=np.zeros(1), initial=made.start,
        )  # fmt: skip
        shapes: list[tuple[int, ...]] = []
        for index, name in enumerate(self.observe):
            with refusals(("observe", index)), np.errstate(all="ignore"):
                shapes.append(one.observe(name).shape[1:])
        if self.certificate and made.risk.has_loss_kinks:
            raise RecipeError(("certificate",), "is not given for a loss with kinks; leave it out")
        return shapes

    def run(self, progress: Progress | bool | None = None) -> Trajectory:
        """Integrate, as ``gf.integrate`` does.

        Raises
        ------
        RecipeError
            What cannot be built; a recipe with a grid, which is swept.
        """
        self.refuse_grid()
        made = self.make()
        return integrate(made.risk, made.start, until=made.until, progress=progress, **made.options)

    def save(self, path: Trajectory, where: str | os.PathLike[str]) -> None:
        """Write a path with the observables asked for and the recipe's text, as one NetCDF file.

        ``gf.load`` reads it back; the observables are for other readers.
        """
        saving.save(path, where, self.observe, {"recipe": self.text} if self.text else None)

    def __call__(self, **point: Value) -> dict[str, object]:
        """Integrate one point of the grid, and read it.

        Returns
        -------
        dict
            ``result`` (how it ended), ``t_final`` and ``log_t_final``; the observables at the end,
            or with ``series`` at all times of ``save_at`` (NaN from where a path ended before);
            with ``certificate`` whether the limit was ``certified``.
        """
        made = self.make(**point)
        options = made.options if self.series else {**made.options, "save_at": None}
        with warnings.catch_warnings():
            # (how it ended is a result)
            warnings.simplefilter("ignore", IntegrationWarning)
            path = integrate(made.risk, made.start, until=made.until, progress=False, **options)
        found: dict[str, object] = {
            "result": path.result.name, "t_final": path.t_final, "log_t_final": path.log_t_final,
        }  # fmt: skip
        for name in self.observe:
            found[name] = _series(path, name, options) if self.series else _last(path, name)
        if self.certificate:
            found["certified"] = certify(path).accepted
        return found

    def sweep(
        self,
        *,
        store: str | os.PathLike[str] | None = None,
        client: Client | str | None = None,
        workers: int | None = None,
        progress: Progress | bool | None = None,
    ) -> xr.Dataset:
        """Integrate every point of the grid (``gf.sweep``, which says what the arguments are).

        Files that the recipe names are read where points are computed: on a cluster they must be
        there, at the same place.

        Returns
        -------
        xarray.Dataset
            Its dimensions are the `parameters`; its variables what a point returns.

        Raises
        ------
        RecipeError
            A recipe without a grid, or one that cannot be built.
        """
        from gradflow.sweeps.sweep import sweep

        if not self.axes:
            raise self._placed(RecipeError(("grid",), "is missing; run the recipe instead"))
        self.check()
        values: Table = {axis.name: axis.values for axis in self.axes}
        return sweep(self, store=store, client=client, workers=workers, progress=progress, **values)

    def refuse_grid(self) -> None:
        """Raise a `RecipeError` where there is a grid, which a run has no use for."""
        if self.axes:
            problem = "is for a sweep; sweep it, or take the grid out"
            raise self._placed(RecipeError(("grid",), problem))

    def describe(self) -> dict[str, object]:
        """What the results of a point depend on, as JSON: tables, and the digests of files.

        The title and the grid do not count: a larger grid has the same points, and more.
        """
        kept = {n: value for n, value in self._tables.items() if n not in ("title", "grid")}
        tables = grid.with_values(kept, {axis.key: "of the grid" for axis in self.axes})
        files = {}
        for key in (("data", "file"), ("start", "file"), ("teacher", "params", "file")):
            inner: Value = tables
            for part in key:
                inner = inner.get(part) if isinstance(inner, Mapping) else None
            if isinstance(inner, str):
                files[inner] = digest(existing(self._text.folder, inner, key))
        return {"kind": "recipe", "recipe": tables, "files": files}


def _names(struct: type[msgspec.Struct]) -> set[str]:
    return set(struct.__struct_fields__)


def _check_series(asked: AbstractSave | None) -> None:
    if asked is None or asked.asked is None or asked.asked[0] == "clock":
        fix = "say integrate.save_at as times or log_times, which all points share"
        raise RecipeError(("series",), f"is of times that are not fixed; {fix}")


def _last(path: Trajectory, name: str) -> xr.DataArray:
    """An observable at the end of a path that recorded its steps."""
    import xarray as xr

    values, dims = path.observe(name)[-1], _dims(path, name)
    return xr.DataArray(values, dims=dims)


def _series(path: Trajectory, name: str, options: Mapping[str, Value]) -> xr.DataArray:
    """An observable at the times of ``save_at``; NaN from where the path ended."""
    import xarray as xr

    kind, times = options["save_at"].asked
    with np.errstate(divide="ignore"):
        log_t = np.log(times) if kind == "t" else times
    values = path.observe(name)
    whole = np.full((log_t.size, *values.shape[1:]), np.nan)
    whole[: len(values)] = values
    return xr.DataArray(whole, dims=("log_t", *_dims(path, name)), coords={"log_t": log_t})


def _dims(path: Trajectory, name: str) -> tuple[str, ...]:
    return tuple(map(str, path.to_xarray(name)[name].dims[1:]))


def _observables(names: list[str]) -> tuple[str, ...]:
    known = observables.names()
    for index, name in enumerate(names):
        if name not in known:
            raise RecipeError(("observe", index), f"{shown(name)} is none; {nearest(name, known)}")
    return tuple(dict.fromkeys(names))


def recipe(source: str | os.PathLike[str] | Mapping[str, Value]) -> Recipe:
    """Read a recipe: a risk, a start, a horizon and what is observed, without code.

    :mod:`gradflow.recipes` lists the keys; ``notebooks/recipes/`` holds examples.

    Parameters
    ----------
    source : path-like or mapping
        A TOML file, or its content as a mapping (files it names are then looked for in the current
        folder).

    Returns
    -------
    Recipe
        ``.run()`` integrates; ``.check()`` builds all but integrates nothing.

    Raises
    ------
    RecipeError
        A ``ValueError`` that names the key, the line and the fix. What only shows when the risk is
        built (files, shapes, numbers out of range) is told by ``.check()`` and ``.run()``.
    """
    if isinstance(source, Mapping):
        return Recipe(of_mapping(source, Path().absolute()))
    if not isinstance(source, (str, os.PathLike)):
        raise RecipeError((), "is neither a path nor a mapping; pass the name of a TOML file")
    return Recipe(read_file(source))


__all__ = ["Made", "Recipe", "recipe"]
