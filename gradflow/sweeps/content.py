"""Digests of JSON-able content, and values in one short line."""

from __future__ import annotations

import hashlib
import json

import numpy as np

#: Numbers, strings and lists of them, as JSON has them.
Json = object

#: Characters of a label.
_LABEL = 80


class UnstableError(ValueError):
    """Nothing tells the value in another process."""


def digest(data: bytes, size: int = 16) -> str:
    """Return the BLAKE2b digest of some bytes, in hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def digest_of(content: Json) -> str:
    """Return the digest of some JSON-able content."""
    return digest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def plain(value: object) -> object:
    """Return NumPy's numbers as Python's own, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) and value.dtype.kind in "biufU" else value


def label(value: object) -> str:
    """Return a value in one short line."""
    value = plain(value)
    describe = getattr(value, "describe", None)
    if isinstance(value, str):
        text = value
    elif callable(describe) and not isinstance(value, type):
        text = json.dumps(describe(), default=str)
    else:
        named = callable(value) and getattr(value, "__name__", None)
        text = str(named or repr(value))
    text = " ".join(text.split())
    return text if len(text) <= _LABEL else text[: _LABEL - 3] + "..."


__all__ = ["Json", "UnstableError", "digest", "digest_of", "label", "plain"]
