"""The table of a sweep: an ``xarray.Dataset`` whose dimensions are the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from xarray.backends.common import BackendArray
from xarray.core import indexing

from gradflow.sweeps.columns import Column, columns_of, fill_of, misfits
from gradflow.sweeps.grid import POINT, Axis, Grid
from gradflow.sweeps.outcome import Outcome
from gradflow.sweeps.room import fits

#: What stands in the column ``error`` of points that were not reached.
NOT_COMPUTED = "not computed"
#: Characters of a text that a column of fixed width may have.
_WIDEST = 1000

Dims = Mapping[str, Sequence[str]]


class _OnDisk(BackendArray):
    """A column that is read from the store where it is asked for."""

    def __init__(self, column: Column, grid: tuple[int, ...]) -> None:
        self._column, self._grid = column, grid
        self.shape, self.dtype = (*grid, *column.shape), column.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
        """Read what outer indices choose: rows from disk, and of each row a part."""
        outer, inner = key[: len(self._grid)], key[len(self._grid) :]
        lists = [_places(one, n) for one, n in zip(outer, self._grid, strict=True)]
        numbers = np.arange(int(np.prod(self._grid))).reshape(self._grid)
        chosen = numbers[np.ix_(*lists)] if lists else numbers
        within = [_places(one, n) for one, n in zip(inner, self._column.shape, strict=True)]
        out = np.empty((chosen.size, *map(len, within)), self.dtype)
        for place, number in enumerate(chosen.ravel()):
            row = self._column.read(np.array([number]))[0]
            out[place] = row[np.ix_(*within)] if within else row
        out = out.reshape((*chosen.shape, *map(len, within)))
        # (a number takes its axis away)
        return out[tuple(0 if isinstance(one, (int, np.integer)) else slice(None) for one in key)]


def _places(key: int | slice | np.ndarray, length: int) -> np.ndarray:
    return np.atleast_1d(np.arange(length)[key])


def table_of(
    grid: Grid, outcomes: Mapping[int, Outcome], name: str, dims: Dims, folder: Path | None
) -> xr.Dataset:
    """Put outcomes into a table.

    Parameters
    ----------
    grid : Grid
    outcomes : dict
        By number of point; those that are missing have not been computed.
    name : str
        Of the function.
    dims : dict
        Names of the dimensions of results.
    folder : Path or None
        Of the store: the names of files are told from here on.
    """
    errors = {n: outcome.error for n, outcome in outcomes.items() if outcome.error}
    fine = {n: outcome for n, outcome in outcomes.items() if not outcome.error}
    wrong = misfits(fine, grid.label)
    fine = {n: outcome for n, outcome in fine.items() if n not in wrong}
    told = [NOT_COMPUTED] * grid.size
    for number in range(grid.size):
        if number in outcomes:
            told[number] = errors.get(number, wrong.get(number, ""))
    data = xr.Dataset(coords=_coordinates(grid), attrs={"function": name})
    for column in columns_of(fine, grid.size):
        data = _assign(data, grid, column, dims, folder)
    data["error"] = grid.dims, np.array(told, np.str_).reshape(grid.shape)
    seconds = np.array([outcomes[n].seconds if n in outcomes else np.nan for n in range(grid.size)])
    data.encoding["seconds"] = xr.DataArray(
        seconds.reshape(grid.shape), _coordinates(grid), grid.dims
    )
    return data


def _coordinates(grid: Grid) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    coords: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for axis in grid.axes:
        dims = (POINT,) if grid.listed else (axis.name,)
        coords |= _coordinate(axis, dims, slice(None), grid.listed)
    for axis in grid.fixed:
        coords |= _coordinate(axis, (), 0, True)
    return coords


def _coordinate(
    axis: Axis, dims: tuple[str, ...], which: slice | int, bare: bool
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The values of a parameter; where they are neither numbers nor strings, labels."""
    if axis.coordinate is not None:
        return {axis.name: (dims, axis.coordinate[which])}
    labels = np.array(axis.labels, np.str_)[which]
    if bare:
        return {axis.name: (dims, labels)}
    return {axis.name: (dims, np.arange(len(axis.values))), f"{axis.name}_label": (dims, labels)}


def _assign(
    data: xr.Dataset, grid: Grid, column: Column, dims: Dims, folder: Path | None
) -> xr.Dataset:
    named, coords = _dims_of(column, dims, grid)
    every = (*grid.dims, *named)
    if not fits(column.bytes) and folder is not None and column.dtype.kind != "U":
        lazy = indexing.LazilyIndexedArray(_OnDisk(column, grid.shape))
        return data.assign({column.name: xr.Variable(every, lazy), **coords})
    if column.dtype.kind == "U" and not column.shape:
        values = _texts(column, folder)
    else:
        values = column.read(np.arange(grid.size))
    return data.assign(
        {column.name: (every, values.reshape((*grid.shape, *column.shape))), **coords}
    )


def _texts(column: Column, folder: Path | None) -> np.ndarray:
    """Texts of the width they need; as objects where one is very long."""
    texts = [""] * column.size
    for number, (outcome, piece) in column.rows.items():
        value = outcome.value(piece)
        texts[number] = "" if value is None else str(value)
        if piece.kind == "file":
            assert folder is not None
            texts[number] = str(folder / texts[number].split("|")[0])
    longest = max(map(len, texts))
    return np.array(texts, np.str_ if longest <= _WIDEST else object)


def _dims_of(
    column: Column, dims: Dims, grid: Grid
) -> tuple[tuple[str, ...], dict[str, xr.Variable]]:
    """Names of a result's dimensions, and coordinates along them that all points share."""
    if column.dims is None:
        given = dims.get(column.name)
        return tuple(given or (f"{column.name}_{k}" for k in range(len(column.shape)))), {}
    coords: dict[str, xr.Variable] = {}
    for dim in column.dims:
        found = [_coordinate_of(outcome, f"{column.name}/{dim}") for outcome, _ in
                 column.rows.values()]  # fmt: skip
        there = [one for one in found if one is not None]
        if not there:
            continue
        if len(there) == len(found) and all(np.array_equal(there[0], one) for one in there):
            coords[dim] = xr.Variable((dim,), there[0])
        else:
            dtype = np.result_type(*(one.dtype for one in there), np.float16)
            values = np.full((grid.size, len(there[0])), fill_of(dtype), dtype)
            for number, one in zip(column.rows, found, strict=True):
                if one is not None:
                    values[number] = one
            every = values.reshape((*grid.shape, -1))
            coords[f"{column.name}_{dim}"] = xr.Variable((*grid.dims, dim), every)
    return column.dims, coords


def _coordinate_of(outcome: Outcome, name: str) -> np.ndarray | None:
    found = [piece for piece in outcome.pieces if piece.name == name]
    return np.asarray(outcome.value(found[0])) if found else None


__all__ = ["NOT_COMPUTED", "table_of"]
