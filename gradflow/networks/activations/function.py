"""An activation made of any JAX function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gradflow.networks.activations.abstract import AbstractActivation
from gradflow.networks.activations.kinks import linear_slopes, warn_of_kinks
from gradflow.networks.activations.piecewise import check_breakpoints
from gradflow.validation import check_array, check_real, check_traceable, fail

#: Where what is said of a function is compared with the function.
_POINTS = np.array([-2.75, -1.3, -0.4, 0.35, 1.1, 2.6])


class FunctionActivation(AbstractActivation):
    """``φ = fn``; see `activation`. The derivative at a break is that of the piece on its left."""

    fn: Callable[[jax.Array], jax.Array] = eqx.field(static=True)
    points: tuple[float, ...] = eqx.field(static=True)
    stated: tuple[float, ...] | None = eqx.field(static=True)
    power: float | None = eqx.field(static=True)
    label: str = eqx.field(static=True)
    kind: ClassVar[str] = "function"

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.vectorize(self.fn)(z)

    def derivative(self, z: jax.Array) -> jax.Array:
        z = jnp.asarray(z)
        if self.stated is not None:
            which = jnp.searchsorted(jnp.asarray(self.points), z, side="left")
            return jnp.asarray(self.stated)[which]
        for point in self.points:
            # (the next number below 0 is subnormal, which a compiled program takes for 0)
            below = np.nextafter(point, -np.inf) if point else -1e-300
            z = jnp.where(z == point, below, z)
        return jax.jvp(jnp.vectorize(self.fn), (z,), (jnp.ones_like(z),))[1]

    @property
    def name(self) -> str:
        return self.label

    @property
    def kinked(self) -> bool:
        at = np.asarray(self.points)
        above = np.where(at == 0, 1e-300, np.nextafter(at, np.inf))
        sides = [np.asarray(self.derivative(jnp.asarray(z))) for z in (at, above)]
        return not np.allclose(*sides, rtol=1e-9, atol=1e-12)

    @property
    def homogeneous(self) -> bool:
        return self.power == 1

    @property
    def degree(self) -> float | None:
        return self.power

    @property
    def breaks(self) -> tuple[float, ...]:
        return self.points

    @property
    def slopes(self) -> tuple[float, ...] | None:
        return self.stated

    def describe(self) -> dict[str, object]:
        """Return what is said of φ; the function itself cannot be read back from a file."""
        return {
            "kind": self.kind,
            "function": self.label,
            "breakpoints": self.points,
            "slopes": self.stated,
            "degree": self.power,
        }


def activation(
    fn: Callable[[jax.Array], jax.Array],
    breakpoints: Sequence[float] = (),
    slopes: Sequence[float] | None = None,
    degree: float | None = None,
    name: str | None = None,
) -> FunctionActivation:
    """Return an activation φ = fn, to be passed as ``activation=`` to a net.

    Parameters
    ----------
    fn : callable
        φ, written in JAX: takes a number (or an array, entry by entry) and returns as much.
    breakpoints : sequence of floats
        Where φ or a derivative of it jumps, ascending; between them φ is analytic.
    slopes : sequence of floats, optional
        One more than breakpoints: the slopes of a piecewise linear φ, left to right. Default: those
        found, if φ is linear between the breakpoints. Flows of a piecewise linear φ are followed
        from kink to kink; kinks between curved pieces are not located.
    degree : float, optional
        p with φ(cz) = c^p φ(z) for every c > 0; 1 is found for a φ of such pieces.
    name : str, optional
        Default: that of ``fn``.

    Raises
    ------
    ValueError
        If JAX cannot trace ``fn``, or it does not have the slopes or the degree stated.

    Warns
    -----
    UnstatedKinkWarning
        If φ' jumps somewhere in [−6, 6] besides the breakpoints.

    Notes
    -----
    A file does not hold a function: a path of such a net is read by ``gf.load(path, risk=...)``.
    """
    check_traceable("activation", fn, ())
    points = check_breakpoints(breakpoints)
    power = None if degree is None else check_real("degree", degree)
    made = FunctionActivation(
        fn=fn,
        points=tuple(points.tolist()),
        stated=None,
        power=int(power) if power is not None and power.is_integer() else power,
        label=getattr(fn, "__name__", type(fn).__name__) if name is None else str(name),
    )
    found = linear_slopes(made, points)
    stated = None if slopes is None else check_array("slopes", slopes, (points.size + 1,))
    if stated is not None:
        _check_slopes(found, stated)
        found = tuple(stated.tolist())
    if power is not None:
        _check_degree(made, power)
    made = replace(made, stated=found)
    if power is None and made.pieces is not None and made.pieces.central:
        made = replace(made, power=1)
    warn_of_kinks(made)
    return made


def _check_slopes(found: tuple[float, ...] | None, stated: np.ndarray) -> None:
    if found is None:
        problem = "are stated of a fn that is not linear between the breakpoints"
        raise fail("slopes", stated, problem, "correct the breakpoints, or leave slopes out")
    if not np.allclose(found, stated, rtol=1e-9, atol=1e-12):
        problem = f"are not those of fn, {np.array(found)}"
        raise fail("slopes", stated, problem, "correct them or leave them out")


def _check_degree(made: FunctionActivation, power: float) -> None:
    once, twice = (np.asarray(made(jnp.asarray(c * _POINTS))) for c in (1.0, 2.0))
    if not np.allclose(twice, 2.0**power * once, rtol=1e-9, atol=0):
        raise fail(
            "degree", power, "is not that of fn: fn(2z) is not 2^degree fn(z)",
            "correct it or leave it out",
        )  # fmt: skip
