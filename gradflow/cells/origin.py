r"""A neuron at w = 0, where all its surfaces meet.

Its limiting fields are :math:`a\sum_gF^{\sigma_g}_gn_g` over the cells around 0. It rests there iff
0 is in their convex hull; else it leaves along a ray that is the field of the cell it points into.
Sources: `filippov1988`, `clarke1983`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.selection import box_minimum

#: A force below this, in units of its terms, is none.
REST = 1e-10
#: Rates below this share of their bound are rounding: the surface is slid on.
_FLAT = 1e-12
#: Cells tried for a way out.
_MAX_TURNS = 10
#: Jumps below this share of the loudest force do not count in the least norm.
_SILENT = 1e-14


class Surfaces(Protocol):
    """The surfaces through 0: their normals (G, D), the norms of these (G,), and D."""

    @property
    def normals(self) -> np.ndarray: ...

    @property
    def sizes(self) -> np.ndarray: ...

    @property
    def dim(self) -> int: ...


def way_out(
    at: Arrangement | Surfaces,
    outer: float,
    up: np.ndarray,
    down: np.ndarray,
    other: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the force (D,) along which a neuron leaves w = 0, and its multipliers ν (G,).

    The force is 0 where the neuron rests: 0 is in the convex hull of the limiting fields, or no ray
    is found that is the field of the cell it points into (it would be back at once).

    Parameters
    ----------
    outer : float
        The neuron's outer weight.
    up, down : (G,) arrays
        F⁺ and F⁻.
    other : (D,) array, optional
        A force that is the same on all sides.
    """
    N, jump, u = at.normals, up - down, down @ at.normals
    u = u if other is None else u + other
    mu, _ = box_minimum(u, N, np.minimum(jump, 0.0), np.maximum(jump, 0.0))
    least = np.divide(mu, jump, out=np.zeros_like(mu), where=jump != 0)
    g = u + mu @ N
    scale = float(np.sum(np.maximum(np.abs(up), np.abs(down)) * at.sizes))
    if float(np.linalg.norm(g)) <= REST * scale:
        return np.zeros(at.dim), least
    for _ in range(_MAX_TURNS):
        side = np.sign(outer) * (N @ g)
        flat = flat_rates(at, side, g)
        expected = np.where(side > 0, jump, 0.0)
        if not np.any(~flat & (np.abs(mu - expected) > 1e-12 * np.abs(jump))):
            return g, np.divide(mu, jump, out=np.zeros_like(mu), where=jump != 0)
        # Not the field of the cell that it points into: take that one.
        mu = np.where(flat, mu, expected)
        g = u + mu @ N
    return np.zeros(at.dim), least


def flat_rates(at: Arrangement | Surfaces, rates: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return which of the rates n_g·g (G,) are rounding."""
    return np.abs(rates) <= _FLAT * np.linalg.norm(g) * at.sizes


def can_grow(at: Arrangement | Surfaces, outer: float, up: np.ndarray, down: np.ndarray) -> bool:
    """Whether a neuron at w = 0 can grow along some direction v: a Σ_g F_g n_g·v > 0.

    The sum is the neuron's potential on the unit sphere; fixed points of v ← ±G(v)/|G(v)| are
    looked for from many starts.
    """
    rng, N = np.random.default_rng(0), at.normals
    starts = np.concatenate([N, -N, rng.normal(size=(64, at.dim))])
    best, scale = -np.inf, float(np.sum(np.maximum(np.abs(up), np.abs(down))))
    for _ in range(30):
        v = starts / np.maximum(np.linalg.norm(starts, axis=1, keepdims=True), 1e-300)
        H = v @ N.T
        force = np.sign(outer) * np.where(H > 0, up, down)
        best = max(best, float(np.max(np.sum(force * H, axis=1))))
        starts = v + force @ N / scale
    return best > 1e-9 * scale


def unrest(at: Arrangement | Surfaces, up: np.ndarray, down: np.ndarray) -> float:
    """Return the least norm of a limiting field at w = 0, in units of the fields' sizes."""
    jump, size = up - down, np.maximum(np.abs(up), np.abs(down)) * at.sizes
    loud = np.abs(jump) * at.sizes > _SILENT * np.max(size)
    N, jump = at.normals[loud], jump[loud]
    base = down @ at.normals
    mu, _ = box_minimum(base, N, np.minimum(jump, 0.0), np.maximum(jump, 0.0))
    return float(np.linalg.norm(base + mu @ N)) / max(float(np.sum(size)), 1e-300)
