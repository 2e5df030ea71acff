"""Files to which points are appended, one after the other, each whole or not at all.

An entry is::

    MAGIC  header length (4 bytes)  body length (8)  digest of all up to the body but MAGIC (16)
    header (JSON)  body

The header tells the point and the digest of every piece of the body. An entry that ends with the
file was being written when its process was killed; whatever else does not match is damage.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gradflow.sweeps.outcome import DamagedError, Held, Outcome, Piece

MAGIC = b"\x93gfpoint"
_LENGTHS, _DIGEST = struct.Struct("<IQ"), 16
_HEAD = len(MAGIC) + _LENGTHS.size + _DIGEST
#: Bytes of a body up to which it is kept in memory, and those read at once in search of an entry.
_SMALL, _BLOCK = 4096, 1 << 20


#: The reason why a whole entry is not used.
FOREIGN = "foreign: of another configuration"


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file."""

    path: Path
    begin: int

    def read(self, offset: int, size: int) -> bytes:
        """Return a part."""
        with open(self.path, "rb") as file:
            file.seek(self.begin + offset)
            return file.read(size)


@dataclass(frozen=True)
class Entry:
    """A whole entry.

    Attributes
    ----------
    key, label : str
        Of the point.
    store : str
        The digest of the configuration under which it was computed.
    outcome : Outcome
    written : float
        When, in seconds of `time.time`.
    begin, end : int
        In the file.
    """

    key: str
    label: str
    store: str
    outcome: Outcome
    written: float
    begin: int
    end: int


@dataclass(frozen=True)
class Flaw:
    """Bytes that are no whole entry.

    Attributes
    ----------
    where : str
    reason : str
        "unfinished" for what was being written when its process was killed.
    key, label : str
        Of the point, "" where they cannot be read.
    begin : int
    """

    where: str
    reason: str
    key: str = ""
    label: str = ""
    begin: int = 0

    @property
    def foreign(self) -> bool:
        """Whether it is whole, and of another configuration."""
        return self.reason == FOREIGN

    def __str__(self) -> str:
        point = self.label or "a point whose name cannot be read"
        return f"{point} ({self.where}: {self.reason})"


def packed(key: str, label: str, store: str, outcome: Outcome) -> bytes:
    """Return an entry as it is written."""
    header = {
        "key": key, "point": label, "store": store, "seconds": outcome.seconds,
        "error": outcome.error, "trace": outcome.trace,
        "written": time.time(), "pieces": [piece.told() for piece in outcome.pieces],
    }  # fmt: skip
    told = json.dumps(header, separators=(",", ":")).encode()
    body = outcome.body.read(0, outcome.size)
    lengths = _LENGTHS.pack(len(told), len(body))
    return b"".join([MAGIC, lengths, _check(lengths, told), told, body])


def _check(lengths: bytes, told: bytes) -> bytes:
    return hashlib.blake2b(lengths + told, digest_size=_DIGEST).digest()


def scan(path: Path) -> Iterator[Entry | Flaw]:
    """Read a file; what is damaged is stepped over.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        at, size = 0, os.fstat(file.fileno()).st_size
        while at < size:
            found, at = _read(path, file, at, size)
            yield found


def _read(path: Path, file: BinaryIO, at: int, size: int) -> tuple[Entry | Flaw, int]:
    """Read what begins at a place; and where to go on."""
    place = f"{path.name} at byte {at}"
    file.seek(at)
    head = file.read(_HEAD)
    if len(head) < _HEAD and head[: len(MAGIC)] == MAGIC[: len(head)]:
        return Flaw(place, "unfinished", begin=at), size
    lengths = head[len(MAGIC) : len(MAGIC) + _LENGTHS.size]
    told_size, body_size = _LENGTHS.unpack(lengths.ljust(_LENGTHS.size, b"\0"))
    told = file.read(min(told_size, size))
    if not head.startswith(MAGIC) or _check(lengths, told) != head[-_DIGEST:]:
        onward = _next(file, at + 1)
        cut = head.startswith(MAGIC) and at + _HEAD + told_size > size and onward is None
        flaw = Flaw(place, "unfinished" if cut else "damaged", begin=at)
        return flaw, size if onward is None else onward
    header = json.loads(told)
    begin, key, label = at + _HEAD + told_size, header["key"], header["point"]
    end = begin + body_size
    if end > size:
        return Flaw(place, "unfinished", key, label, at), size
    pieces = tuple(map(Piece.of, header["pieces"]))
    body = Held(file.read(body_size)) if body_size <= _SMALL else Stretch(path, begin)
    outcome = Outcome(pieces, body, header["error"], header["trace"], header["seconds"])
    try:
        for piece in pieces:
            outcome.bytes_of(piece)
    except DamagedError as error:
        return Flaw(place, f"damaged in {error}", key, label, at), end
    return Entry(key, label, header["store"], outcome, header["written"], at, end), end


def _next(file: BinaryIO, at: int) -> int | None:
    """Where the next entry may begin."""
    while True:
        file.seek(at)
        block = file.read(_BLOCK)
        found = block.find(MAGIC)
        if found >= 0:
            return at + found
        if len(block) < _BLOCK:
            return None
        at += _BLOCK - len(MAGIC)


class Appender:
    """Appends entries to a new file.

    Parameters
    ----------
    path : Path
        It is made at the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._end = path, 0
        self._descriptor: int | None = None

    def append(self, data: bytes) -> int:
        """Append an entry, whole or not at all; return where it begins.

        Raises
        ------
        OSError
            The disk is full, or fails; what was written of the entry has been taken away.
        """
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            self._descriptor = os.open(self.path, flags, 0o666)
        begin, rest = self._end, memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except BaseException:
            os.ftruncate(self._descriptor, begin)
            os.lseek(self._descriptor, begin, os.SEEK_SET)
            raise
        self._end += len(data)
        return begin

    def sync(self) -> None:
        """Have what was appended survive a loss of power."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def body_at(path: Path, begin: int, data: bytes, outcome: Outcome) -> Held | Stretch:
    """Return the body of an entry that was appended: in memory if it is small."""
    if outcome.size <= _SMALL:
        return Held(outcome.body.read(0, outcome.size))
    return Stretch(path, begin + len(data) - outcome.size)


__all__ = ["FOREIGN", "MAGIC", "Appender", "Entry", "Flaw", "Stretch", "body_at", "packed", "scan"]
