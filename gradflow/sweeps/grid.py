"""Where a function is evaluated: a grid of named parameters, or a list of points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from gradflow.sweeps.content import UnstableError, digest_of, label, plain
from gradflow.sweeps.identity import content
from gradflow.validation import fail

#: The dimension of a list of points.
POINT = "point"
#: The most points of one sweep: their keys are held in memory.
MOST_POINTS = 10_000_000
#: Integers that a float holds exactly.
_EXACT = 2**53


@dataclass(frozen=True)
class Axis:
    """A parameter with its values, and what stands for them in a table.

    Attributes
    ----------
    name : str
    values : sequence
        As the function gets them.
    coordinate : ndarray or None
        The values where they are all numbers, all strings or all booleans.
    labels : list of str
        Else.
    """

    name: str
    values: Sequence[object]
    coordinate: np.ndarray | None = None
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Grid:
    """Points, numbered along the last axis first.

    Attributes
    ----------
    axes : list of Axis
        Along dimensions of their own, or (``listed``) all along the dimension "point".
    fixed : list of Axis
        With one value, and no dimension.
    listed : bool
    """

    axes: list[Axis]
    fixed: list[Axis]
    listed: bool = False

    @property
    def names(self) -> list[str]:
        """Names of all parameters."""
        return [axis.name for axis in [*self.axes, *self.fixed]]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions."""
        return (POINT,) if self.listed else tuple(axis.name for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions."""
        lengths = tuple(len(axis.values) for axis in self.axes)
        return lengths[:1] if self.listed else lengths

    @property
    def size(self) -> int:
        """The number of points."""
        return math.prod(self.shape)

    def point(self, number: int) -> dict[str, object]:
        """Return the arguments at a point."""
        places = np.unravel_index(number, self.shape) if self.shape else ()
        if self.listed:
            places = (number,) * len(self.axes)
        chosen = {a.name: a.values[int(i)] for a, i in zip(self.axes, places, strict=True)}
        return chosen | {axis.name: axis.values[0] for axis in self.fixed}

    def label(self, number: int) -> str:
        """Return a point in one line, as ``seed=3, scale=0.1``."""
        point = self.point(number)
        shown = {axis.name: point[axis.name] for axis in self.axes} or point
        return ", ".join(f"{name}={label(value)}" for name, value in shown.items())

    def keys(self) -> Iterator[str]:
        """Yield the keys of all points in order: digests of their arguments' names and contents.

        Raises
        ------
        ValueError
            If a value shows nothing by which another process knows it.
        """
        told = {axis.name: [_told(axis.name, v) for v in axis.values] for axis in self.axes}
        fixed = [[axis.name, _told(axis.name, axis.values[0])] for axis in self.fixed]
        for number in range(self.size):
            places = np.unravel_index(number, self.shape) if self.shape else ()
            if self.listed:
                places = (number,) * len(self.axes)
            here = [
                [n, values[int(i)]] for (n, values), i in zip(told.items(), places, strict=True)
            ]
            yield digest_of(sorted([*here, *fixed]))


def _told(name: str, value: object) -> str:
    try:
        return digest_of(content(value))
    except UnstableError as error:
        raise fail(
            name, value, f"cannot be known again ({error})",
            "pass numbers, strings, or objects with a describe() or a repr that tells them",
        ) from error  # fmt: skip


def grid_of(points: object, parameters: Mapping[str, object]) -> Grid:
    """Check the parameters of a sweep.

    Raises
    ------
    ValueError
        No parameter, an empty one, values twice, too many points, points of different names.
    """
    if points is not None:
        return _listed(points, parameters)
    if not parameters:
        raise fail("parameters", {}, "names no parameter", "pass for example seed=range(20)")
    total = 1
    for name, given in parameters.items():
        total *= max(len(cast(Sized, given)), 1) if _is_many(name, given) else 1
    _check_size("parameters", list(parameters), total)
    axes = [_axis(name, given) for name, given in parameters.items() if _is_many(name, given)]
    fixed = [_alone(name, v) for name, v in parameters.items() if not _is_many(name, v)]
    return Grid(axes, fixed)


def _listed(points: object, parameters: Mapping[str, object]) -> Grid:
    if not isinstance(points, (list, tuple)) or not all(isinstance(p, Mapping) for p in points):
        raise fail("points", points, "is not a list of dicts", "pass [{'seed': 0}, {'seed': 1}]")
    if not points:
        raise fail("points", points, "is empty", "pass at least one dict")
    _check_size("points", f"{len(points)} points", len(points))
    names = list(points[0])
    for place, point in enumerate(points):
        if set(point) != set(names):
            raise fail(
                "points", dict(point), f"point {place} has the names {sorted(point)}, the first "
                f"one has {sorted(names)}", "give all points the same names",
            )  # fmt: skip
    bad = [n for n in [*names, *parameters] if not isinstance(n, str) or n == POINT]
    if bad or not names:
        raise fail("points", names, "are no names of parameters", f"use names other than {POINT!r}")
    both = [name for name in parameters if name in names]
    if both:
        raise fail("points", both, "are named outside of the points too", "name them once")
    many = [name for name, given in parameters.items() if _is_many(name, given)]
    if many:
        raise fail(many[0], parameters[many[0]], "has several values beside points=",
                   "put it into the points")  # fmt: skip
    axes = [_coordinates(name, [plain(p[name]) for p in points]) for name in names]
    seen: dict[str, int] = {}
    grid = Grid(axes, [_alone(name, v) for name, v in parameters.items()], listed=True)
    for place, key in enumerate(_loose_keys(grid)):
        if seen.setdefault(key, place) != place:
            raise fail("points", points[place], f"is there twice (points {seen[key]} and {place})",
                       "leave one out, or tell them apart by a seed")  # fmt: skip
    return grid


def _loose_keys(grid: Grid) -> Iterator[str]:
    """Keys where all values have one; else nothing to compare."""
    try:
        yield from list(grid.keys())
    except ValueError:
        return


def _check_size(name: str, value: object, total: int) -> None:
    if total > MOST_POINTS:
        raise fail(name, value, f"make {total} points", f"sweep at most {MOST_POINTS} at once")


def _is_many(name: str, given: object) -> bool:
    """Whether a parameter has several values."""
    if isinstance(given, (str, bytes, Mapping, type)):
        return False
    if isinstance(given, (set, frozenset)):
        raise fail(name, given, "has no order", f"pass sorted({name})")
    if hasattr(given, "__array__") or hasattr(given, "dtype"):
        return len(getattr(given, "shape", ())) > 0
    if isinstance(given, Sequence):
        return True
    if isinstance(given, Iterator):
        raise fail(name, given, "can be read only once", f"pass list({name})")
    return False


def _alone(name: str, value: object) -> Axis:
    return _coordinates(name, [plain(value)])


def _axis(name: str, given: object) -> Axis:
    many = cast(Sequence[object], given)
    values = [plain(many[i]) for i in range(len(many))]
    if not values:
        raise fail(name, given, "is empty", "pass at least one value")
    seen: dict[str, int] = {}
    for place, value in enumerate(values):
        try:
            key = digest_of(content(value))
        except UnstableError:
            continue
        if seen.setdefault(key, place) != place:
            raise fail(name, given, f"holds {label(value)} twice", "pass each value once")
    return _coordinates(name, values)


def _coordinates(name: str, values: list[object]) -> Axis:
    kinds = {type(value) for value in values}
    if kinds in ({bool}, {str}):
        return Axis(name, values, np.array(values))
    if kinds <= {int, float}:
        numbers = cast(list[float], values)
        if kinds == {int} and all(-(2**63) <= v < 2**63 for v in numbers):
            return Axis(name, values, np.array(values, np.int64))
        if all(isinstance(v, float) or abs(v) <= _EXACT for v in numbers):
            return Axis(name, values, np.array(values, np.float64))
    return Axis(name, values, labels=[label(value) for value in values])


__all__ = ["POINT", "Axis", "Grid", "grid_of"]
