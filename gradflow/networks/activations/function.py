"""An activation made of any JAX function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gradflow.networks.activations.abstract import AbstractActivation
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
        One more than breakpoints: the slopes of a piecewise linear φ, left to right.
    degree : float, optional
        p with φ(cz) = c^p φ(z) for every c > 0.
    name : str, optional
        Default: that of ``fn``.

    Raises
    ------
    ValueError
        If JAX cannot trace ``fn``, or it does not have the slopes or the degree stated.

    Notes
    -----
    A file does not hold a function: a path of such a net is read by ``gf.load(path, risk=...)``.
    """
    check_traceable("activation", fn, ())
    points = check_array("breakpoints", breakpoints, (None,)) if len(breakpoints) else np.empty(0)
    if np.any(np.diff(points) <= 0):
        raise fail("breakpoints", points, "are not ascending", "sort them, each once")
    pieces = None if slopes is None else check_array("slopes", slopes, (points.size + 1,))
    power = None if degree is None else check_real("degree", degree)
    made = FunctionActivation(
        fn=fn,
        points=tuple(points.tolist()),
        stated=None if pieces is None else tuple(pieces.tolist()),
        power=int(power) if power is not None and power.is_integer() else power,
        label=getattr(fn, "__name__", type(fn).__name__) if name is None else str(name),
    )
    if pieces is not None:
        _check_slopes(made, points, pieces)
    if power is not None:
        _check_degree(made, power)
    return made


def _check_slopes(made: FunctionActivation, points: np.ndarray, pieces: np.ndarray) -> None:
    edges = np.concatenate([[-1.0], points, [1.0]]) if points.size else np.array([-1.0, 1.0])
    edges[0], edges[-1] = edges[1] - 1.0, edges[-2] + 1.0
    values = np.asarray(made(jnp.asarray(edges)))
    found = np.diff(values) / np.diff(edges)
    if not np.allclose(found, pieces, rtol=1e-9, atol=1e-12):
        raise fail("slopes", pieces, f"are not those of fn, {found}", "correct them or leave out")


def _check_degree(made: FunctionActivation, power: float) -> None:
    once, twice = (np.asarray(made(jnp.asarray(c * _POINTS))) for c in (1.0, 2.0))
    if not np.allclose(twice, 2.0**power * once, rtol=1e-9, atol=0):
        raise fail(
            "degree", power, "is not that of fn: fn(2z) is not 2^degree fn(z)",
            "correct it or leave it out",
        )  # fmt: skip
