"""What TOML holds, as types."""

from __future__ import annotations

from typing import Any

#: A value of a file: text, a number, a boolean, a date, an array or a table. It is checked where it
#: is read, and has no other type before.
Value = Any
#: A table of a file.
Table = dict[str, Value]

__all__ = ["Table", "Value"]
