"""Files that survive a kill: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from gradflow.validation import fail


def replace_file(path: str | os.PathLike[str], write: Callable[[str], None]) -> None:
    """Make or replace a file: temporary name, fsync, rename.

    Its mode is that of the file it replaces; a new one has what the umask leaves of 0666.

    Parameters
    ----------
    path : path-like
        The file.
    write : callable
        Writes its content to the path it is given.

    Raises
    ------
    ValueError
        If ``path`` is no path, or lies in no existing folder.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise fail("path", path, "is not a path", "pass a file name")
    target = Path(path)
    if not target.parent.is_dir():
        raise fail("path", str(path), "lies in no existing folder", f"create {target.parent} first")
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)  # (of mode 0600, whatever the umask)
    try:
        os.chmod(temporary, _mode(target))
        write(temporary)
        _fsync(temporary)
        os.replace(temporary, target)
        _fsync(str(target.parent))  # the rename itself
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Make or replace a UTF-8 text file, whole or not at all."""

    def write(name: str) -> None:
        Path(name).write_text(text, encoding="utf-8")

    replace_file(path, write)


def _mode(target: Path) -> int:
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
