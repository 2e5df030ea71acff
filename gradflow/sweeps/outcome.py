"""What a function gave at a point, as named pieces of bytes: the same in memory and in a store.

Nothing is pickled: a piece is an array with its dtype, shape and names of dimensions, a text, or
the file of a path.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gradflow.sweeps.content import digest, plain

#: Columns of the table that are not results.
RESERVED = ("error",)
#: Kinds of dtype that are kept: booleans, numbers, times, texts.
_KINDS = "biufcmMU"
#: Of a traceback.
_LONGEST_TRACE = 4000


class DamagedError(Exception):
    """Bytes are not those that were written."""


class Body(Protocol):
    """Bytes, wherever they are."""

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` of them from ``offset``."""
        ...


@dataclass(frozen=True)
class Held:
    """Bytes in memory."""

    data: bytes

    def read(self, offset: int, size: int) -> bytes:
        """Return a part."""
        return self.data[offset : offset + size]


@dataclass(frozen=True)
class Piece:
    """One result, or a coordinate of one, and where its bytes are in the body.

    Attributes
    ----------
    name : str
    kind : str
        array, text, none, coordinate, path (the bytes of its file), or file (the name, size and
        digest of one in a store).
    dtype : str
        Of NumPy.
    shape : tuple of int
    dims : tuple of str or None
        As an ``xarray.DataArray`` names them.
    offset, size : int
        In the body.
    check : str
        The digest of its bytes.
    """

    name: str
    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] | None = None
    offset: int = 0
    size: int = 0
    check: str = ""

    def told(self) -> list[object]:
        """Return it JSON-able."""
        return [
            self.name, self.kind, self.dtype, list(self.shape),
            None if self.dims is None else list(self.dims), self.offset, self.size, self.check,
        ]  # fmt: skip

    @staticmethod
    def of(told: list) -> Piece:
        """Return what `told` tells."""
        name, kind, dtype, shape, dims, *rest = told
        return Piece(name, kind, dtype, tuple(shape), dims if dims is None else tuple(dims), *rest)


@dataclass(frozen=True)
class Outcome:
    """What became of a point.

    Attributes
    ----------
    pieces : tuple of Piece
    body : Body
    error : str
        What was raised, in one line; "" if nothing was.
    trace : str
    seconds : float
    warnings : tuple of (module, name, text)
        Of their classes, and what they said.
    """

    pieces: tuple[Piece, ...] = ()
    body: Body = field(default_factory=lambda: Held(b""))
    error: str = ""
    trace: str = ""
    seconds: float = 0.0
    warnings: tuple[tuple[str, str, str], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(piece.size for piece in self.pieces)

    def bytes_of(self, piece: Piece) -> bytes:
        """Read and check a piece.

        Raises
        ------
        DamagedError
            If it is not what was written.
        """
        data = self.body.read(piece.offset, piece.size)
        if len(data) != piece.size or digest(data, 8) != piece.check:
            raise DamagedError(piece.name)
        return data

    def value(self, piece: Piece) -> np.ndarray | str | None:
        """Return a piece as it was given: an array (of any number of axes), a text, or None."""
        if piece.kind == "none":
            return None
        data = self.bytes_of(piece)
        if piece.kind in ("text", "file"):
            return data.decode()
        return np.frombuffer(data, np.dtype(piece.dtype)).reshape(piece.shape)


def failed(error: str, trace: str = "", seconds: float = 0.0) -> Outcome:
    """Return the outcome of a point that has no results."""
    return Outcome(error=error, trace=trace[-_LONGEST_TRACE:], seconds=seconds)


class _Body:
    """Pieces, one after the other."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, piece: Piece, data: bytes = b"") -> None:
        """Append a piece with its bytes."""
        at = {"offset": self._length, "size": len(data), "check": digest(data, 8)}
        self.pieces.append(replace(piece, **at))
        self._parts.append(data)
        self._length += len(data)

    def outcome(self) -> Outcome:
        """Return all."""
        return Outcome(tuple(self.pieces), Held(b"".join(self._parts)))


def outcome_of(result: object, parameters: Sequence[str]) -> Outcome:
    """Return the pieces of what a function returned.

    Raises
    ------
    ValueError
        If it is no mapping of names to numbers, texts, booleans, None, arrays and paths.
    """
    if not isinstance(result, Mapping):
        raise ValueError(
            f"returned {type(result).__name__}, not a mapping of names to results: "
            "return for example {'margin': 0.5}"
        )
    body = _Body()
    for name, value in result.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"returned the name {name!r}: names are strings")
        if name in RESERVED or name in parameters:
            what = "a parameter" if name in parameters else "the column of what a point raised"
            raise ValueError(f"returned a result named {name!r}, which is {what}: rename it")
        _add(body, name, value)
    _check_dims(body.pieces, parameters)
    return body.outcome()


def _add(body: _Body, name: str, value: object) -> None:
    value = plain(value)
    if value is None:
        body.add(Piece(name, "none"))
    elif isinstance(value, str):
        body.add(Piece(name, "text"), value.encode())
    elif all(hasattr(value, part) for part in ("save", "observe", "params")):
        body.add(Piece(name, "path"), _file_of(value))
    else:
        _add_array(body, name, value)


def _add_array(body: _Body, name: str, value: Any) -> None:
    xarray, dims = sys.modules.get("xarray"), None
    if xarray is not None and isinstance(value, xarray.DataArray):
        dims = tuple(map(str, value.dims))
        for dim in value.dims:
            if dim in value.coords:
                _put(
                    body, Piece(f"{name}/{dim}", "coordinate", dims=(str(dim),)), value[dim].values
                )
    _put(body, Piece(name, "array", dims=dims), value)


def _put(body: _Body, piece: Piece, value: object) -> None:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{piece.name!r} is no array of one shape ({error})") from error
    if array.dtype.kind == "O" and array.size and all(isinstance(v, str) for v in array.flat):
        array = array.astype(np.str_)
    if array.dtype.kind == "U" and not array.ndim and piece.kind == "array":
        body.add(Piece(piece.name, "text"), str(array).encode())
        return
    if array.dtype.kind not in _KINDS:
        raise ValueError(
            f"{piece.name!r} is a {type(value).__name__} (dtype {array.dtype}): return numbers, "
            "strings, booleans, arrays of them, or paths"
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    whole = replace(piece, dtype=array.dtype.str, shape=array.shape)
    body.add(whole, np.ascontiguousarray(array).tobytes())


def _file_of(path: object) -> bytes:
    handle, name = tempfile.mkstemp(suffix=".nc")
    os.close(handle)
    try:
        path.save(name)  # pyright: ignore[reportAttributeAccessIssue]  (has been asked for)
        return Path(name).read_bytes()
    finally:
        Path(name).unlink(missing_ok=True)


def _check_dims(pieces: Sequence[Piece], parameters: Sequence[str]) -> None:
    """One length for each named dimension, and none that is a parameter."""
    lengths: dict[str, tuple[int, str]] = {}
    for piece in pieces:
        for dim, length in zip(piece.dims or (), piece.shape, strict=False):
            if dim in parameters:
                raise ValueError(f"{piece.name!r} has the dimension {dim!r}, which is a parameter")
            known, where = lengths.setdefault(dim, (length, piece.name))
            if known != length:
                raise ValueError(
                    f"dimension {dim!r} has {known} entries in {where!r}, and {length} in "
                    f"{piece.name!r}"
                )


__all__ = ["RESERVED", "Body", "DamagedError", "Held", "Outcome", "Piece", "failed", "outcome_of"]
