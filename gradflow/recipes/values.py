"""Lists of values, written out or by a rule: ``[1, 2]``, ``{range = 20}``, ``{logspace = [...]}``.

======================= ===========================================================
``{range = 20}``        0, 1, …, 19; ``[first, stop]`` and ``[first, stop, step]`` too
``{linspace = [a, b, n]}`` n numbers from a to b
``{logspace = [a, b, n]}`` n numbers from 10^a to 10^b, evenly spaced in their logarithm
======================= ===========================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from gradflow.recipes.errors import Key, RecipeError
from gradflow.recipes.schema import checked

#: Values of one list.
MOST = 1_000_000


class Rule(msgspec.Struct):
    """A list by a rule; one of them."""

    range: int | list[int] | None = None
    linspace: tuple[float, float, int] | None = None
    logspace: tuple[float, float, int] | None = None


RULES = Rule.__struct_fields__


def is_rule(value: object) -> bool:
    """Whether a table stands for a list."""
    return isinstance(value, Mapping) and bool(set(value) & set(RULES))


def listed(value: object, key: Key) -> Sequence[object]:
    """The values of a list; integers by a rule stay a ``range``, which takes no room.

    Raises
    ------
    RecipeError
        Two rules in one, numbers that a rule cannot use, too many or no values.
    """
    if isinstance(value, list):
        values: Sequence[object] = value
    else:
        rule = checked(value, Rule, key)
        given = [name for name in RULES if getattr(rule, name) is not None]
        if len(given) != 1:
            raise RecipeError(key, f"is to hold one of {', '.join(RULES)}")
        values = _by(rule, given[0], (*key, given[0]))
    if not _length(values):
        raise RecipeError(key, "holds no value")
    return values


def _length(values: Sequence[object]) -> int:
    """``len``, also of a range whose length no machine can count."""
    if isinstance(values, range):
        return max(0, (values.stop - values.start + values.step - 1) // values.step)
    return len(values)


def _by(rule: Rule, name: str, key: Key) -> Sequence[object]:
    if name == "range":
        asked = rule.range if isinstance(rule.range, list) else [0, rule.range]
        if not 2 <= len(asked) <= 3 or (len(asked) == 3 and asked[2] <= 0):  # type: ignore[operator]
            raise RecipeError(key, "is to be a number, [first, stop] or [first, stop, step > 0]")
        numbers = range(*asked)  # type: ignore[arg-type]
        if _length(numbers) > MOST:
            raise RecipeError(key, f"holds {_length(numbers)} values; at most {MOST} are taken")
        if asked[-1] is not None and max(map(abs, (numbers.start, numbers.stop))) >= 2**63:
            raise RecipeError(key, "holds integers of 2^63 or more")
        return numbers
    low, high, count = getattr(rule, name)
    if not (np.isfinite(low) and np.isfinite(high)) or high < low:
        raise RecipeError(key, "is to be [first, last, count] with first <= last, both finite")
    if not 1 <= count <= MOST:
        raise RecipeError(key, f"holds {count} values; pass 1 to {MOST}")
    with np.errstate(over="ignore"):
        values = np.linspace(low, high, count)
        values = 10.0**values if name == "logspace" else values
    if not np.all(np.isfinite(values)):
        raise RecipeError(key, "holds numbers beyond floats: logspace takes powers of ten")
    return values.tolist()


def numbers(value: object, key: Key) -> np.ndarray:
    """The values of a list, all of them numbers."""
    values = listed(value, key)
    for index, entry in enumerate(values):
        if isinstance(entry, bool) or not isinstance(entry, (int, float)):
            raise RecipeError((*key, index), "is no number")
    return np.asarray(values, np.float64)


__all__ = ["RULES", "is_rule", "listed", "numbers"]
