"""Activations of two linear pieces: the positively homogeneous family and the shifted ReLU."""

from __future__ import annotations

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from gradflow.networks.activations.abstract import AbstractActivation, Parts
from gradflow.validation import check_real, fail


class LeakyReLU(AbstractActivation):
    """``φ(z) = max(z, αz)`` with slope α in [0, 1]; ``φ'(z) = 1`` for z > 0 and α for z ≤ 0.

    The derivative at z = 0 is α: one end of the Clarke interval [α, 1], stated here so that every
    route to a gradient uses the same element. α = 0 is ReLU, α = 1 is linear (no kink).

    Raises
    ------
    ValueError
        If ``slope`` is not a number in [0, 1].
    """

    slope: float = eqx.field(static=True)
    kind: ClassVar[str] = "leaky_relu"

    def __init__(self, slope: float) -> None:
        slope = check_real("slope", slope)
        if not 0.0 <= slope <= 1.0:
            raise fail("slope", slope, "is outside [0, 1]", "pass 0 <= slope <= 1 (0 is ReLU)")
        self.slope = abs(slope)  # -0.0 and 0.0 are one activation

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, z, self.slope * z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, jnp.ones_like(z), jnp.full_like(z, self.slope))

    @property
    def name(self) -> str:
        if self.slope == 0.0:
            return "relu"
        return "linear" if self.slope == 1.0 else f"leaky_relu({self.slope!r})"

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
        return Parts(math.inf if self.kinked else -1, 1, "φ(z) = (1+α)z/2 + (1−α)|z|/2")


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
