"""Reading a recipe's text: TOML, in bounds that keep a hostile file from hanging the reader."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gradflow.recipes.errors import Key, RecipeError, shown
from gradflow.recipes.lines import lines_of

#: Bytes of a file. A recipe is text; data belong into files of their own.
_LARGEST = 1_000_000
#: Tables in tables in tables.
_DEEPEST = 24
#: ``tomllib`` takes quadratic time over the parts of a dotted key.
_LONG_KEY = re.compile(r"(?:[^.=,#\n]{1,100}\.){40}")
_LINE = re.compile(r"\(at line (\d+), column \d+\)|\(at end of document\)")


class Text(NamedTuple):
    """What a file says.

    Attributes
    ----------
    text : str
    table : dict
        As ``tomllib`` reads it.
    lines : dict
        The line of each key.
    file : str
        Its name, "" for a text that is no file's.
    folder : Path
        Files that it names are looked for here.
    """

    text: str
    table: dict[str, object]
    lines: dict[Key, int]
    file: str
    folder: Path


def read_file(path: str | os.PathLike[str]) -> Text:
    """Read a recipe's file.

    Raises
    ------
    RecipeError
        No such file, not UTF-8, not TOML, too large or too deep.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            raw = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError((), f"cannot be read: {reason}", file=shown(name)) from None
    if len(raw) > _LARGEST:
        problem = f"is larger than {_LARGEST} bytes; put data into a .npz, .csv or .nc file"
        raise RecipeError((), problem, file=name)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError((), "is not UTF-8 text; save it as UTF-8", line=line, file=name) from None
    # (absolute: other processes may work in other folders)
    return read_text(text, name, Path(path).absolute().parent)


def read_text(text: str, file: str = "", folder: Path | None = None) -> Text:
    """Read a recipe's text."""
    long = _LONG_KEY.search(text)
    if long is not None:
        line = text.count("\n", 0, long.start()) + 1
        raise RecipeError((), "has a key of 40 parts or more", line=line, file=file)
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise RecipeError((), _too_deep(), file=file) from None
    except ValueError as error:  # (TOMLDecodeError, and integers of 4300 digits)
        said, found = str(error), _LINE.search(str(error))
        line = None
        if found is not None:
            line = int(found[1]) if found[1] else text.count("\n") + 1
            said = said[: found.start()].strip()
        raise RecipeError((), f"is not TOML: {shown_problem(said)}", line=line, file=file) from None
    _check_depth(table, file)
    return Text(text, table, lines_of(text.replace("\r\n", "\n")), file, folder or Path())


def of_mapping(table: Mapping[str, object], folder: Path | None = None) -> Text:
    """A recipe given as a mapping, as a file would say it."""
    _check_depth(table, "")
    return Text("", dict(table), {}, "", folder or Path())


def shown_problem(said: str) -> str:
    """A library's words, in one printable line."""
    text = " ".join(said.split())
    text = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return text[:200] + "..." if len(text) > 200 else text


def _too_deep() -> str:
    return f"has more than {_DEEPEST} tables or arrays in each other"


def _check_depth(table: object, file: str) -> None:
    level = [table]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, (Mapping, list))
        ]
        if not level:
            return
    raise RecipeError((), _too_deep(), file=file)


__all__ = ["Text", "of_mapping", "read_file", "read_text", "shown_problem"]
