"""Files that survive a kill."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from gradflow.validation import fail


def replace_file(path: str | os.PathLike[str], write: Callable[[str], None]) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename; its mode is the umask's.

    Parameters
    ----------
    path : path-like
        The file to make or to replace.
    write : callable
        Writes its content to the path it is given.

    Raises
    ------
    ValueError
        If ``path`` is no path, or lies in no folder.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise fail("path", path, "is not a path", "pass a file name")
    target = Path(path)
    if not target.parent.is_dir():
        raise fail("path", str(path), "lies in no existing folder", f"create {target.parent} first")
    temporary = str(target.parent / f".{target.name}.{secrets.token_hex(6)}")
    # (tempfile would leave a file that nobody else may read; this mode passes the umask)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        write(temporary)
        _fsync(temporary)
        os.replace(temporary, target)
        _fsync(str(target.parent))  # the rename itself
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all."""
    replace_file(path, lambda name: _write(name, text))


def _write(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["replace_file", "write_text"]
