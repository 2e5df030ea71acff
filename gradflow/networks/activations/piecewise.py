"""Piecewise linear activations: the positively homogeneous family, the shifted ReLU, any other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gradflow.networks.activations.abstract import AbstractActivation, Parts
from gradflow.networks.activations.pieces import Pieces
from gradflow.validation import check_array, check_real, fail


class LeakyReLU(AbstractActivation):
    """``φ(z) = z`` for z > 0 and αz for z ≤ 0, any slope α; ``φ'(z) = 1`` for z > 0, else α.

    The derivative at z = 0 is α: one end of the Clarke interval between α and 1, stated here so
    that every route to a gradient uses the same element. α = 0 is ReLU, α = 1 is linear (no kink),
    α = −1 is |z|; for α ≤ 1 it is max(z, αz).

    Raises
    ------
    ValueError
        If ``slope`` is not a finite number.
    """

    slope: float = eqx.field(static=True)
    kind: ClassVar[str] = "leaky_relu"

    def __init__(self, slope: float) -> None:
        self.slope = check_real("slope", slope) + 0.0  # -0.0 and 0.0 are one activation

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, z, self.slope * z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, jnp.ones_like(z), jnp.full_like(z, self.slope))

    @property
    def name(self) -> str:
        known = {0.0: "relu", 1.0: "linear", -1.0: "absolute"}
        return known.get(self.slope, f"leaky_relu({self.slope!r})")

    @property
    def kinked(self) -> bool:
        return self.slope != 1.0

    @property
    def homogeneous(self) -> bool:
        return True

    @property
    def slopes(self) -> tuple[float, ...]:
        return (self.slope, 1.0) if self.kinked else (1.0,)

    def parts(self, reach: float = math.inf) -> Parts:
        even = math.inf if self.kinked else -1
        return Parts(even, -1 if self.slope == -1.0 else 1, "φ(z) = (1+α)z/2 + (1−α)|z|/2")


class ShiftedReLU(AbstractActivation):
    """``φ(z) = max(z − b, 0)`` with the shift b; ``φ'(z) = 1`` for z > b and 0 for z ≤ b.

    The kink at b ≠ 0 has no mirror image at −b: neither the even nor the odd part is a polynomial.

    Raises
    ------
    ValueError
        If ``shift`` is not a finite number.
    """

    shift: float = eqx.field(static=True)
    kind: ClassVar[str] = "shifted_relu"

    def __init__(self, shift: float) -> None:
        self.shift = check_real("shift", shift) + 0.0  # -0.0 and 0.0 are one activation

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > self.shift, z - self.shift, jnp.zeros_like(z))

    def derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > self.shift, jnp.ones_like(z), jnp.zeros_like(z))

    @property
    def name(self) -> str:
        return f"shifted_relu({self.shift!r})"

    @property
    def kinked(self) -> bool:
        return True

    @property
    def homogeneous(self) -> bool:
        return self.shift == 0.0

    @property
    def breaks(self) -> tuple[float, ...]:
        return (self.shift,)

    @property
    def slopes(self) -> tuple[float, ...]:
        return (0.0, 1.0)

    def parts(self, reach: float = math.inf) -> Parts:
        if self.shift == 0.0:
            return Parts(math.inf, 1, "φ(z) = z/2 + |z|/2")
        if abs(self.shift) < reach:
            return Parts(math.inf, math.inf, "φ has a kink at b and none at −b")
        if self.shift > 0:
            return Parts(-1, -1, f"φ(z) = 0 for |z| <= {reach:g}")
        return Parts(0, 1, f"φ(z) = z − b for |z| <= {reach:g}")


class PiecewiseLinear(AbstractActivation):
    """``φ`` continuous and linear between breakpoints; ``φ'`` at one is the slope on its left.

    Parameters
    ----------
    breakpoints : sequence of J floats
        Ascending.
    slopes : sequence of J + 1 floats
        φ' between them, left to right.
    value_at_first : float, optional
        φ at the first breakpoint (of a linear φ: at 0); default: what makes φ(0) = 0.

    Raises
    ------
    ValueError
        If breakpoints do not ascend, or slopes are not one more.
    """

    breakpoints: tuple[float, ...] = eqx.field(static=True)
    stated_slopes: tuple[float, ...] = eqx.field(static=True)
    value_at_first: float = eqx.field(static=True)
    kind: ClassVar[str] = "piecewise_linear"

    def __init__(
        self,
        breakpoints: Sequence[float],
        slopes: Sequence[float],
        value_at_first: float | None = None,
    ) -> None:
        points = check_breakpoints(breakpoints)
        steps = check_array("slopes", slopes, (points.size + 1,))
        self.breakpoints = tuple((points + 0.0).tolist())
        self.stated_slopes = tuple((steps + 0.0).tolist())
        if value_at_first is None:
            value_at_first = -float(Pieces.of(points, steps)(np.zeros(())))
        self.value_at_first = check_real("value_at_first", value_at_first) + 0.0

    @property
    def _all(self) -> Pieces:
        return Pieces.of(self.breakpoints, self.stated_slopes, self.value_at_first)

    def __call__(self, z: jax.Array) -> jax.Array:
        points, slopes, intercepts = (part.tolist() for part in self._all)
        out = slopes[0] * z + intercepts[0]
        for point, slope, intercept in zip(points, slopes[1:], intercepts[1:], strict=True):
            out = jnp.where(z > point, slope * z + intercept, out)
        return out

    def derivative(self, z: jax.Array) -> jax.Array:
        points, slopes, _ = (part.tolist() for part in self._all)
        out = jnp.full_like(z, slopes[0])
        for point, slope in zip(points, slopes[1:], strict=True):
            out = jnp.where(z > point, slope, out)
        return out

    @property
    def name(self) -> str:
        known = next((n for n, b, s, v in _NAMED if (b, s, v) == self._key), None)
        shown = ", ".join(repr(list(part)) for part in (self.breakpoints, self.stated_slopes))
        return known or f"piecewise_linear({shown}, {self.value_at_first!r})"

    @property
    def _key(self) -> tuple[tuple[float, ...], tuple[float, ...], float]:
        return self.breakpoints, self.stated_slopes, self.value_at_first

    @property
    def kinked(self) -> bool:
        return len(set(self.stated_slopes)) > 1

    @property
    def homogeneous(self) -> bool:
        return self._all.central

    @property
    def breaks(self) -> tuple[float, ...]:
        return self.breakpoints

    @property
    def slopes(self) -> tuple[float, ...]:
        return self.stated_slopes


#: Piecewise linear activations that have a name of their own.
_NAMED = (("hard_tanh", (-1.0, 1.0), (0.0, 1.0, 0.0), -1.0),)


def check_breakpoints(value: Sequence[float]) -> np.ndarray:
    """Return breakpoints as an ascending array (J,)."""
    points = check_array("breakpoints", value, (None,)) if len(value) else np.empty(0)
    if np.any(np.diff(points) <= 0):
        raise fail("breakpoints", points, "are not ascending", "sort them, each once")
    return points
