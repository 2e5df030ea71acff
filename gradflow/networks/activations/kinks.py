"""What can be seen of a function's kinks: its slopes between breakpoints, kinks it does not state.

Everything here is read off derivatives at sample points (host, once a function).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.networks.activations.abstract import AbstractActivation
from gradflow.numerics.kept import Kept

#: φ' is sampled here; 0, ±½ and ±1 lie inside the gaps.
_GRID = np.linspace(-6.03, 6.01, 97)
#: Halvings of a gap in which φ' changes: to some 1e-13 of its place.
_HALVINGS = 40
#: φ' jumps where it still changes by this share of its size in a gap that small.
_JUMP = 1e-4
#: Where a piece is compared with a line: shares of it, or distances from its one end.
_INSIDE = np.array([0.03, 0.21, 0.5, 0.83, 0.97])
_BEYOND = np.array([0.013, 0.21, 0.9, 3.7, 41.0, 900.0, 3e4, 2e6])

Function = Callable[[jax.Array], jax.Array]


class UnstatedKinkWarning(UserWarning):
    """An activation has kinks that it does not state: flows cannot locate them."""


def linear_slopes(phi: Function, points: np.ndarray) -> tuple[float, ...] | None:
    """Return the slopes of φ between breakpoints (J,); None where it is not linear there."""
    slope, found = _derivative(phi), []
    for z in _samples(points):
        values, slopes = np.asarray(phi(jnp.asarray(z))), slope(z)
        line = values[0] + slopes[0] * (z - z[0])
        size = np.abs(values) + np.abs(values[0]) + np.abs(slopes[0] * (z - z[0]))
        straight = np.all(np.abs(values - line) <= 1e-12 * size)
        if not straight or np.ptp(slopes) > 1e-12 * np.abs(slopes[0]):
            return None
        found.append(float(slopes[0]))
    return tuple(found)


def _samples(points: np.ndarray) -> list[np.ndarray]:
    """Return points of every piece."""
    if points.size == 0:
        return [np.concatenate([-_BEYOND, _BEYOND])]
    inner = [a + (b - a) * _INSIDE for a, b in pairwise(points)]
    return [points[0] - _BEYOND, *inner, points[-1] + _BEYOND]


#: Unstated kinks, found once an activation.
_UNSTATED: Kept[tuple[float, ...]] = Kept()


def unstated_kinks(activation: AbstractActivation) -> tuple[float, ...]:
    """Return where φ' jumps in [−6, 6] besides the breaks that the activation states.

    φ' is bisected wherever it changes between sample points. A kink beyond them, or two between
    neighbours that cancel, is not seen.
    """
    return _UNSTATED.get(activation, _scan)


def _scan(activation: AbstractActivation) -> tuple[float, ...]:
    slope = _derivative(activation)
    left, right = _GRID[:-1].copy(), _GRID[1:].copy()
    at_left, at_right = slope(left), slope(right)
    for _ in range(_HALVINGS):
        middle = 0.5 * (left + right)
        at = slope(middle)
        near = np.abs(at - at_left) >= np.abs(at_right - at)
        right, at_right = np.where(near, middle, right), np.where(near, at, at_right)
        left, at_left = np.where(near, left, middle), np.where(near, at_left, at)
    size, change = np.maximum(np.abs(at_left), np.abs(at_right)), np.abs(at_right - at_left)
    # (where both slopes are rounding beside the others, nothing jumps)
    jumps = (change > _JUMP * size) & (change > _JUMP**2 * np.max(size, initial=0.0))
    found = np.round(0.5 * (left + right)[jumps], 9) + 0.0
    stated = np.array(activation.breaks)
    return tuple(z for z in found.tolist() if not np.any(np.abs(stated - z) < 1e-6))


def _derivative(phi: Function) -> Callable[[np.ndarray], np.ndarray]:
    """φ' of JAX, whatever an activation states, on arrays."""
    compiled = jax.jit(lambda z: jax.jvp(phi, (z,), (jnp.ones_like(z),))[1])
    return lambda z: np.asarray(compiled(jnp.asarray(z)))


def kinks_remark(activation: AbstractActivation) -> str | None:
    """Say which kinks of φ no flow locates, and how to state them; None where there are none."""
    if activation.pieces is not None:
        return None
    unstated = unstated_kinks(activation)
    if unstated:
        return (
            f"the activation {activation.name} has kinks that it does not state, near z = "
            f"{_listed(unstated)}; where it is linear between them, pass "
            f"gf.activation(fn, breakpoints={list(unstated)})"
        )
    if activation.kinked:
        return (
            f"the activation {activation.name} has kinks at z = {_listed(activation.breaks)}, "
            "which are not located since it is not linear between them"
        )
    return None


def _listed(points: tuple[float, ...]) -> str:
    return ", ".join(f"{z:g}" for z in points[:4]) + (", ..." if len(points) > 4 else "")


def warn_of_kinks(activation: AbstractActivation) -> None:
    """Warn of kinks that an activation has and does not state."""
    if activation.pieces is None and unstated_kinks(activation):
        warnings.warn(str(kinks_remark(activation)), UnstatedKinkWarning, stacklevel=3)
