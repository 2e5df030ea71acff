"""A store: a folder of points, each there whole or not at all.

``sweep.json`` tells what the store was made by; ``points/*.seg`` hold the entries, a file for each
sitting (see :mod:`gradflow.sweeps.segments`); ``paths/*.nc`` are the paths that points returned;
``asked`` holds the keys of the points that were last asked for; ``lock`` is held by the sweep at
work; ``damaged/`` keeps files in which damage was found.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradflow.numerics.files import replace_file, write_text
from gradflow.sweeps.configuration import FORMAT, Configuration
from gradflow.sweeps.content import digest
from gradflow.sweeps.errors import SweepError
from gradflow.sweeps.lock import Lock
from gradflow.sweeps.outcome import Held, Outcome, Piece
from gradflow.sweeps.segments import FOREIGN, Appender, Entry, Flaw, body_at, packed, scan
from gradflow.validation import fail

_HEADER, _POINTS, _PATHS, _ASKED, _DAMAGED = "sweep.json", "points", "paths", "asked", "damaged"
#: Seconds between two times that what was appended is made to survive a loss of power.
_SYNC = 2.0
#: Bytes of a key.
_KEY = 16


@dataclass
class Contents:
    """What the files of a store hold.

    Attributes
    ----------
    entries : dict
        Whole ones by key; the last of each point.
    flaws : list of Flaw
        What is damaged, foreign or unfinished.
    files : dict
        Files with flaws: their whole entries, and the flaws.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    files: dict[Path, tuple[list[Entry], list[Flaw]]] = field(default_factory=dict)


def segments_of(folder: Path) -> list[Path]:
    """Return the files of entries, oldest first."""
    return sorted((folder / _POINTS).glob("*.seg"))


def contents_of(folder: Path, store: str | None) -> Contents:
    """Read all entries of a store, those of the configuration with the digest ``store`` (None:
    of any)."""
    found = Contents()
    for path in segments_of(folder):
        whole: list[Entry] = []
        flaws: list[Flaw] = []
        for one in scan(path):
            if isinstance(one, Entry) and store is not None and one.store != store:
                one = _flaw(path, one, FOREIGN)
            elif isinstance(one, Entry):
                broken = _broken_file(folder, one.outcome)
                if broken:
                    one = _flaw(path, one, broken)
            if isinstance(one, Entry):
                found.entries[one.key] = one
                whole.append(one)
            else:
                flaws.append(one)
                if not one.foreign:
                    found.entries.pop(one.key, None)
        if flaws:
            found.files[path] = whole, flaws
            found.flaws += flaws
    # (what was computed again since is no flaw any more)
    found.flaws = [one for one in found.flaws if one.foreign or one.key not in found.entries]
    return found


def _flaw(path: Path, one: Entry, reason: str) -> Flaw:
    return Flaw(f"{path.name} at byte {one.begin}", reason, one.key, one.label, one.begin)


def _broken_file(folder: Path, outcome: Outcome) -> str:
    """What is wrong with the files of paths that a point returned; "" if nothing is."""
    for piece in outcome.pieces:
        if piece.kind == "file":
            name, size, check = str(outcome.value(piece)).split("|")
            try:
                data = (folder / name).read_bytes()
            except OSError:
                return f"its file {name} cannot be read"
            if len(data) != int(size) or digest(data) != check:
                return f"its file {name} is damaged"
    return ""


def header_of(folder: Path) -> Configuration | None:
    """Return what a store was made by; None where its header is missing or damaged."""
    try:
        header = json.loads((folder / _HEADER).read_bytes())
        told = Configuration(header["told"], header["beside"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if header.get("digest") == told.digest else None


def asked_of(folder: Path) -> list[str]:
    """Return the keys of the points that were last asked for."""
    try:
        data = (folder / _ASKED).read_bytes()
    except OSError:
        return []
    return [data[i : i + _KEY].hex() for i in range(0, len(data), _KEY)]


class Store:
    """An open store, which no other sweep may open.

    Parameters
    ----------
    where : path-like
        A folder: empty, of a sweep of the same configuration, or yet to be made.
    now : Configuration
    wait : bool
        Wait while another sweep is at work on it.

    Attributes
    ----------
    folder : Path
    entries : dict
        Outcomes by key.
    flaws : list of Flaw
        What was found damaged, foreign or unfinished, and is to be computed again.
    moved : dict
        Packages that have other versions than when it was made: those and these.

    Raises
    ------
    ValueError
        If the folder cannot be written, or holds something else.
    SweepError
        If it was made by another configuration, or another sweep is at work on it.
    """

    def __init__(self, where: str | os.PathLike[str], now: Configuration, wait: bool) -> None:
        self.folder = _folder(where)
        try:
            self._lock = Lock(self.folder, wait)
        except OSError as error:
            raise _unwritable(where, error) from error
        try:
            self._open(where, now)
        except BaseException:
            self._lock.close()
            raise
        self._synced = time.monotonic()

    def _open(self, where: str | os.PathLike[str], now: Configuration) -> None:
        made_by, lost = header_of(self.folder), []
        if made_by is None:
            made_by, lost = self._begin(where, now)
        differences = made_by.differences(now)
        if differences:
            raise SweepError(
                f"the store {str(where)!r} was made by another configuration:\n  "
                + "\n  ".join(differences)
                + "\nchoose another store (the points of this one stay), or go back to what it "
                "was made by"
            )
        self.moved = {
            name: (version, now.beside.get(name)) for name, version in made_by.beside.items()
            if version != now.beside.get(name)
        }  # fmt: skip
        self._store = now.digest
        found = contents_of(self.folder, self._store)
        self._salvage(found)
        self.flaws = lost + found.flaws
        self.entries = {key: entry.outcome for key, entry in found.entries.items()}
        self._segment = Appender(self.folder / _POINTS / f"{self._number():06d}.seg")

    def _begin(
        self, where: str | os.PathLike[str], now: Configuration
    ) -> tuple[Configuration, list[Flaw]]:
        """Write the header of a new store, or one that was lost: entries tell whose they are."""
        whole = [e for p in segments_of(self.folder) for e in scan(p) if isinstance(e, Entry)]
        if whole and all(entry.store != now.digest for entry in whole):
            raise SweepError(
                f"the header of the store {str(where)!r} is missing or damaged, and its "
                f"{len(whole)} points are of another configuration: choose another store"
            )
        if not whole and (self.folder / _HEADER).exists() and self._foreign():
            raise fail("store", str(where), f"holds a {_HEADER} that is not of a sweep",
                       "choose another folder")  # fmt: skip
        header = {"told": now.told, "beside": now.beside, "digest": now.digest}
        try:
            for name in (_POINTS, _PATHS):
                (self.folder / name).mkdir(exist_ok=True)
            write_text(self.folder / _HEADER, json.dumps(header, indent=1))
        except OSError as error:
            raise _unwritable(where, error) from error
        lost = [Flaw(_HEADER, "missing or damaged, written again", label="the header")]
        return now, lost if whole else []

    def _foreign(self) -> bool:
        """Whether the header is a file of somebody else's: no folder of points is beside it."""
        return not (self.folder / _POINTS).is_dir()

    def _number(self) -> int:
        names = [path.stem for path in segments_of(self.folder)]
        names += [path.stem for path in (self.folder / _DAMAGED).glob("*.seg")]
        return 1 + max((int(name) for name in names if name.isdigit()), default=0)

    def _salvage(self, found: Contents) -> None:
        """Put files with flaws aside, and have their whole entries in new ones."""
        for path, (whole, flaws) in found.files.items():
            last = max((entry.end for entry in whole), default=0)
            if [flaw.reason for flaw in flaws] == ["unfinished"] and flaws[0].begin >= last:
                os.truncate(path, flaws[0].begin)
                continue
            data, aside = path.read_bytes(), self.folder / _DAMAGED
            aside.mkdir(exist_ok=True)
            replace_file(aside / f"{self._number():06d}.seg", lambda name, d=data: _write(name, d))
            good = b"".join(data[entry.begin : entry.end] for entry in whole)
            replace_file(path, lambda name, good=good: _write(name, good))
        if found.files:
            found.entries = contents_of(self.folder, self._store).entries

    # ------------------------------------------------------------------------------ writing
    def ask(self, keys: Iterable[str]) -> None:
        """Note which points are asked for."""
        data = bytes.fromhex("".join(keys))
        replace_file(self.folder / _ASKED, lambda name: _write(name, data))

    def append(self, key: str, label: str, outcome: Outcome) -> Outcome:
        """Append a point, whole or not at all; return its outcome as it is kept.

        Raises
        ------
        OSError
            The disk is full, or fails.
        """
        kept = self._with_files(key, outcome)
        data = packed(key, label, self._store, kept)
        begin = self._segment.append(data)
        self.entries[key] = replace(kept, body=body_at(self._segment.path, begin, data, kept))
        if time.monotonic() - self._synced > _SYNC:
            self._segment.sync()
            self._synced = time.monotonic()
        return self.entries[key]

    def _with_files(self, key: str, outcome: Outcome) -> Outcome:
        """Write paths to files of their own."""
        if not any(piece.kind == "path" for piece in outcome.pieces):
            return outcome
        pieces: list[Piece] = []
        parts: list[bytes] = []
        for piece in outcome.pieces:
            data, kind = outcome.bytes_of(piece) if piece.size else b"", piece.kind
            if kind == "path":
                name = f"{_PATHS}/{key}-{re.sub(r'[^0-9A-Za-z]+', '_', piece.name)}.nc"
                replace_file(self.folder / name, lambda where, data=data: _write(where, data))
                data, kind = f"{name}|{len(data)}|{digest(data)}".encode(), "file"
            at = {"offset": sum(map(len, parts)), "size": len(data), "check": digest(data, 8)}
            pieces.append(replace(piece, kind=kind, **at))
            parts.append(data)
        return replace(outcome, pieces=tuple(pieces), body=Held(b"".join(parts)))

    def close(self) -> None:
        """Have everything survive a loss of power, and let the store go.

        Raises
        ------
        OSError
            The disk is full, or fails.
        """
        try:
            self._segment.sync()
        finally:
            self._segment.close()
            self._lock.close()


def _folder(where: str | os.PathLike[str]) -> Path:
    if not isinstance(where, (str, os.PathLike)) or not os.fspath(where):
        raise fail("store", where, "is no path", "pass the name of a folder")
    folder = Path(where).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise _unwritable(where, error) from error
    ours = (_HEADER, _POINTS, _PATHS, _ASKED, _DAMAGED, "lock")
    if not (folder / _HEADER).exists() and not (folder / _POINTS).is_dir():
        strange = [
            name for name in others if name not in ours and not name.startswith(f".{_HEADER}")
        ]
        if strange:
            raise fail("store", str(where), f"holds {strange[0]!r} and is no store",
                       "pass an empty folder, or one that is yet to be made")  # fmt: skip
    return folder


def _unwritable(where: object, error: OSError) -> ValueError:
    return fail("store", str(where), f"cannot be written ({error.strerror or error})",
                "pass a folder that can, on a disk with room")  # fmt: skip


def _write(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)


def reason_of(error: OSError) -> str:
    """Say in a few words what a disk did."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.strerror})"
    return f"the disk fails ({error.strerror or error})"


__all__ = ["FORMAT", "Store", "asked_of", "contents_of", "header_of", "reason_of", "segments_of"]
