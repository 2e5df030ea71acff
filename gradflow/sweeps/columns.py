"""What points returned, column by column: of one name, kind and shape in all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gradflow.sweeps.errors import SweepError
from gradflow.sweeps.outcome import DamagedError, Outcome, Piece

#: Kinds of dtype that one column may mix, as NumPy promotes them without loss of meaning.
_NUMBERS = "iufc"
#: Integers that a float holds exactly.
_EXACT = 2**53

#: Of a piece, what must be the same at all points: name, class of values, shape, dimensions.
Form = tuple[str, str, tuple[int, ...], tuple[str, ...] | None]


@dataclass(frozen=True)
class Column:
    """A result at all points that have it.

    Attributes
    ----------
    name : str
    dtype : dtype
        Wide enough for all, and for what stands where there is none.
    shape : tuple of int
        At one point.
    dims : tuple of str or None
    rows : dict
        Outcome and piece by number of point.
    size : int
        Points of the sweep.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    dims: tuple[str, ...] | None
    rows: Mapping[int, tuple[Outcome, Piece]]
    size: int

    @property
    def bytes(self) -> int:
        """Of the whole column."""
        return self.dtype.itemsize * self.size * int(np.prod(self.shape, dtype=np.int64))

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of some points, ``(n, *shape)``; NaN, NaT or "" where there is none.

        Raises
        ------
        SweepError
            If the store has been damaged since it was opened.
        """
        out = np.full((len(numbers), *self.shape), fill_of(self.dtype), self.dtype)
        for place, number in enumerate(numbers):
            found = self.rows.get(int(number))
            if found is not None:
                out[place] = self._value(*found)
        return out

    def _value(self, outcome: Outcome, piece: Piece) -> object:
        try:
            return outcome.value(piece)
        except (DamagedError, OSError) as error:
            raise SweepError(
                f"an entry of {self.name!r} in the store has been damaged since it was opened: "
                "call gf.sweep again, which computes it again"
            ) from error


def fill_of(dtype: np.dtype) -> object:
    """What stands where a point has no result."""
    if dtype.kind in "mM":
        return np.array("NaT", dtype)[()]
    if dtype.kind in "fcO":
        return np.nan
    return "" if dtype.kind == "U" else 0


def form_of(outcome: Outcome) -> tuple[Form, ...]:
    """Return what must be the same at all points."""
    forms = [_form(piece) for piece in outcome.pieces if piece.kind != "coordinate"]
    return tuple(sorted(forms, key=lambda form: form[0]))


def _form(piece: Piece) -> Form:
    kind = np.dtype(piece.dtype).kind if piece.kind == "array" else piece.kind
    kind = "number" if kind in _NUMBERS else {"text": "U", "file": "U"}.get(kind, kind)
    return piece.name, kind, piece.shape, piece.dims


def misfits(outcomes: Mapping[int, Outcome], label: object) -> dict[int, str]:
    """Return what is wrong with points whose results differ in name or shape from what most points
    return (of ties, the first)."""
    forms = {number: form_of(outcome) for number, outcome in sorted(outcomes.items())}
    # (None stands for any result)
    nothing = lambda form: tuple(one for one in form if one[1] != "none")
    counts = Counter(forms.values())
    if len(counts) < 2:
        return {}
    usual = max(counts, key=lambda form: (counts[form], len(nothing(form))))
    first = next(number for number, form in forms.items() if form == usual)
    wrong: dict[int, str] = {}
    for number, form in forms.items():
        said = _differs(form, usual)
        if said:
            wrong[number] = f"SweepError: {said} at the point {label(first)}"  # pyright: ignore
    return wrong


def _differs(form: tuple[Form, ...], usual: tuple[Form, ...]) -> str:
    names, wanted = [one[0] for one in form], [one[0] for one in usual]
    if names != wanted:
        return f"returned the names {names}, and not {wanted} as"
    for one, other in zip(form, usual, strict=True):
        if one != other and "none" not in (one[1], other[1]):
            return f"returned {_said(one)}, and not {_said(other)} as"
    return ""


def _said(form: Form) -> str:
    name, kind, shape, dims = form
    words = {"U": "text", "b": "boolean", "M": "time", "m": "time span"}
    what = words.get(kind, kind)
    return f"{name!r} of kind {what} and shape {shape}" + (f", dimensions {dims}" if dims else "")


def columns_of(outcomes: Mapping[int, Outcome], size: int) -> list[Column]:
    """Return the columns of points that fit together, in the order of the first one's results."""
    rows: dict[str, dict[int, tuple[Outcome, Piece]]] = {}
    for number, outcome in sorted(outcomes.items()):
        for piece in outcome.pieces:
            # (a path without a store has no file to be named)
            if piece.kind not in ("coordinate", "path"):
                rows.setdefault(piece.name, {})[number] = outcome, piece
    return [_column(name, found, size) for name, found in rows.items()]


def _column(name: str, rows: dict[int, tuple[Outcome, Piece]], size: int) -> Column:
    there = {number: found for number, found in rows.items() if found[1].kind != "none"}
    if not there:
        return Column(name, np.dtype(np.float64), (), None, {}, size)
    some = next(iter(there.values()))[1]
    if some.kind in ("text", "file"):
        longest = max(piece.size for _, piece in there.values())
        return Column(name, np.dtype(f"<U{max(longest, 1)}"), (), None, there, size)
    dtype = np.result_type(*{piece.dtype for _, piece in there.values()})
    whole = len(there) == size
    if not whole and dtype.kind == "b":
        dtype = np.dtype(np.float64)
    elif not whole and dtype.kind in "iu":
        dtype = np.dtype(np.float64) if _are_exact(there) else np.dtype(object)
    return Column(name, dtype, some.shape, some.dims, there, size)


def _are_exact(rows: Mapping[int, tuple[Outcome, Piece]]) -> bool:
    """Whether floats hold all these integers."""
    values = (np.asarray(outcome.value(piece)) for outcome, piece in rows.values())
    return all(np.all(np.abs(value.astype(np.float64)) <= _EXACT) for value in values)


__all__ = ["Column", "columns_of", "fill_of", "misfits"]
