"""``[data]``: arrays of a file or of the recipe itself, or a data set of ``gf.datasets``."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradflow.recipes.errors import Key, RecipeError, misspelt, nearest, shown
from gradflow.recipes.failing import refusals
from gradflow.recipes.schema import MOST_NUMBERS, Data, checked, of_signature
from gradflow.recipes.toml import Value

_ARRAYS = ("X", "y", "weights", "offset")
#: Bytes of a file of data.
_LARGEST = 2_000_000_000


class Arrays(NamedTuple):
    """What a risk takes of finite data."""

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None


def read_data(table: Mapping[str, Value], folder: Path) -> Arrays:
    """The arrays that ``[data]`` names.

    Raises
    ------
    RecipeError
        No such file, array or data set; arrays that are not of finite numbers.
    """
    key: Key = ("data",)
    if "dataset" in table:
        return _dataset(table)
    wrong = misspelt(table, ("dataset", "law")) if "file" not in table else None
    if wrong is not None:
        fix = nearest(wrong, ("dataset", "law"))
        raise RecipeError((*key, wrong), f"is no known key; {fix}")
    asked = checked(table, Data, key, also=("dataset", "law"))
    if asked.X is None or asked.y is None:
        name = "X" if asked.X is None else "y"
        fix = "name it, or give a dataset or a law" if asked.file is None else "name its array"
        raise RecipeError((*key, name), f"is missing; {fix}")
    named = {name: getattr(asked, name) for name in _ARRAYS if getattr(asked, name) is not None}
    if asked.file is not None:
        held = held_in(folder, asked.file, key)
        found = picked(held, named, asked.file, key)
    else:
        found = {name: _inline(value, (*key, name)) for name, value in named.items()}
    if found["X"].ndim == 1:
        found["X"] = found["X"][:, None]
    return Arrays(**found)


def _dataset(table: Mapping[str, Value]) -> Arrays:
    from gradflow.data import datasets

    name = table["dataset"]
    known = [n for n in vars(datasets) if n.islower() and callable(getattr(datasets, n))]
    if not isinstance(name, str) or name not in known:
        raise RecipeError(
            ("data", "dataset"), f"{shown(name)} is none; {nearest(str(name), known)}"
        )
    make = getattr(datasets, name)
    given = {entry: value for entry, value in table.items() if entry != "dataset"}
    checked(given, of_signature(make), ("data",), also=("dataset",))
    check_sizes(given, ("data",))
    with refusals(("data",), {entry: ("data", entry) for entry in given}):
        return Arrays(*make(**given))


def check_sizes(given: Mapping[str, object], key: Key) -> None:
    """Refuse sizes whose product is more than memory may hold, before anything is made of it."""
    sizes = {
        name: value
        for name, value in given.items()
        if isinstance(value, int) and not isinstance(value, bool) and name != "seed" and value > 1
    }
    total = math.prod(sizes.values())
    if total > MOST_NUMBERS:
        largest = max(sizes, key=lambda name: sizes[name])
        raise RecipeError(
            (*key, largest),
            f"asks for {_magnitude(total)} numbers, and a recipe for at most {MOST_NUMBERS:.0e}",
        )


def _magnitude(count: int) -> str:
    return f"{count:.0e}" if count < 10**300 else f"10^{len(str(count)[:4000]) - 1} or more"


def _inline(value: object, key: Key) -> np.ndarray:
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
        raise RecipeError(key, "names an array, but there is no data.file to hold it")
    return finite(value, key)


def finite(value: object, key: Key) -> np.ndarray:
    """An array of finite float64 numbers."""
    try:
        if isinstance(value, list) and _holds_booleans(value):
            raise ValueError
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise ValueError
        array = array.astype(np.float64)
    except (ValueError, OverflowError, TypeError):
        raise RecipeError(key, "is no rectangular array of numbers") from None
    if not np.all(np.isfinite(array)):
        where = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        raise RecipeError(key, f"holds NaN or infinity at {where}; drop the row or fill it")
    if array.size > MOST_NUMBERS:
        raise RecipeError(key, f"holds {array.size} numbers; at most {MOST_NUMBERS} are taken")
    return array


def _holds_booleans(value: list[Value]) -> bool:
    """Whether some number is ``true`` or ``false``, which NumPy would take for 1 or 0."""
    return any(
        _holds_booleans(entry) if isinstance(entry, list) else isinstance(entry, bool)
        for entry in value
    )


def held_in(folder: Path, file: str, key: Key) -> dict[str, np.ndarray]:
    """The arrays of a file (``.npz``, ``.csv`` or ``.nc``) by their names.

    Parameters
    ----------
    folder : Path
        Of the recipe.
    file : str
    key : tuple
        Of the table that names the file.
    """
    path = existing(folder, file, (*key, "file"))
    readers = {".npz": _of_npz, ".csv": _of_csv, ".nc": _of_netcdf}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        fix = f"use {', '.join(readers)}"
        raise RecipeError((*key, "file"), f"{shown(file)} is of no kind that is read; {fix}")
    try:
        return reader(path)
    except RecipeError as error:
        raise RecipeError((*key, "file"), f"{shown(file)} {error.problem}") from None
    except Exception as error:  # (readers of three formats, each with its own)
        said = f"{shown(file)} cannot be read as {path.suffix}: {shown(str(error))}"
        raise RecipeError((*key, "file"), said) from error


def picked(
    held: Mapping[str, np.ndarray], named: Mapping[str, object], file: str, key: Key
) -> dict[str, np.ndarray]:
    """The arrays of a file under the names that the recipe calls them by.

    Parameters
    ----------
    held : mapping
        What the file holds.
    named : mapping
        An array's part in the recipe, and its name in the file (a list: columns side by side).
    file : str
    key : tuple
        Of the table that names them.
    """
    found = {}
    for part, names in named.items():
        columns = []
        for name in names if isinstance(names, list) else [names]:
            if not isinstance(name, str):
                raise RecipeError((*key, part), f"is to name an array of {shown(file)}")
            if name not in held:
                fix = nearest(name, held)
                raise RecipeError((*key, part), f"{shown(name)} is not in {shown(file)}; {fix}")
            columns.append(finite(held[name], (*key, part)))
        found[part] = columns[0] if not isinstance(names, list) else _beside(columns, (*key, part))
    return found


def _beside(columns: list[np.ndarray], key: Key) -> np.ndarray:
    if any(column.ndim != 1 for column in columns):
        raise RecipeError(key, "is a list of names, which are to be columns of numbers")
    if not columns or len({column.size for column in columns}) > 1:
        raise RecipeError(key, "is to name columns of one length")
    return np.stack(columns, axis=1)


def existing(folder: Path, file: str, key: Key) -> Path:
    """A file that a recipe names, looked for beside it."""
    try:
        path = folder / file
        if not path.is_file():
            raise RecipeError(key, f"{shown(file)} is no file in {shown(str(folder))}")
        if path.stat().st_size > _LARGEST:
            raise RecipeError(key, f"{shown(file)} is larger than {_LARGEST} bytes")
    except (OSError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(key, f"{shown(file)} is no file name") from None
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, by which a recipe tells that its data are the same."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        if not hasattr(held, "files"):
            raise RecipeError((), "holds one bare array; save it with np.savez(file, X=..., y=...)")
        return {name: held[name] for name in held.files}


def _of_csv(path: Path) -> dict[str, np.ndarray]:
    """Columns by the names in the first line."""
    with open(path, encoding="utf-8-sig") as stream:
        names = [name.strip().strip('"') for name in stream.readline().split(",")]
        if len(set(names)) < len(names) or not all(names):
            raise RecipeError((), "is to name its columns in the first line, each once")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # (that it holds no rows is said below)
            rows = np.loadtxt(stream, delimiter=",", ndmin=2, dtype=np.float64)
    if not rows.size or rows.shape[1] != len(names):
        raise RecipeError((), f"is to hold rows of {len(names)} numbers under its first line")
    return dict(zip(names, rows.T, strict=True))


def _of_netcdf(path: Path) -> dict[str, np.ndarray]:
    import xarray as xr

    with open(path, "rb") as stream:
        engine = "scipy" if stream.read(3) == b"CDF" else "h5netcdf"
    with xr.open_dataset(path, engine=engine, decode_times=False) as held:
        return {str(name): np.asarray(held[name].values) for name in held.variables}


__all__ = [
    "Arrays",
    "check_sizes",
    "digest",
    "existing",
    "finite",
    "held_in",
    "picked",
    "read_data",
]
