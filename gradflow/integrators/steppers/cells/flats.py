r"""Flats: where a neuron that lies on several surfaces at once may be, and how it leaves.

A neuron on surfaces of normals n_g, g in a set, lies on the flat whose normals span V; every
surface of the arrangement that contains the flat is then met, whether it was hit or not. With all
forces frozen the energy in the directions of V is linear on each cone of the fan that these
surfaces cut V into, so whether the flat holds the neuron is decided on the fan's *rays*: the unit
vectors p of V that are orthogonal to all but one dimension of it. No multipliers, no pseudo-inverse
of dependent normals. Sources: `filippov1988`, `clarke1983`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

#: Singular values below this share of the largest are none; a normal this close to a span is in it.
_RANK = 1e-10
#: Components of a ray below this are zero.
_ZERO = 1e-11
#: Sets of surfaces that are remembered.
_MOST = 10_000
#: With more subsets than this rays are not listed.
MOST_RAYS = 2_000


@dataclass(frozen=True)
class Flat:
    """The flat of some surfaces.

    Attributes
    ----------
    members : (C,) ints
        Every surface that contains it.
    Q : (r, D) array
        Orthonormal rows spanning V.
    held : (r,) array
        Q w on it.
    rays : (R, D) array or None
        None where they are too many.
    signs : (R, C) ints
        Of n_g·p.
    """

    members: np.ndarray
    Q: np.ndarray
    held: np.ndarray
    rays: np.ndarray | None
    signs: np.ndarray

    @property
    def rank(self) -> int:
        """r."""
        return len(self.Q)


class Flats:
    """The flats of an arrangement, remembered.

    Parameters
    ----------
    normals : (G, D) array
    level : (G,) array
        Surfaces n_g·w = level_g.
    """

    def __init__(self, normals: np.ndarray, level: np.ndarray) -> None:
        self.size = np.linalg.norm(normals, axis=1)
        self.unit, self.level = normals / self.size[:, None], level / self.size
        self._known: dict[bytes, Flat] = {}

    def of(self, members: np.ndarray) -> Flat:
        """Return the flat of some surfaces that meet."""
        key = np.sort(np.asarray(members, np.int64)).tobytes()
        if key not in self._known:
            if len(self._known) > _MOST:
                self._known.clear()
            self._known[key] = self._make(np.unique(members))
        return self._known[key]

    def _make(self, members: np.ndarray) -> Flat:
        D = self.unit.shape[1]
        if not len(members):
            none = np.zeros((0, D))
            return Flat(members, none, np.zeros(0), none, np.zeros((0, 0), int))
        left, values, rows = np.linalg.svd(self.unit[members], full_matrices=False)
        rank = int(np.sum(values > _RANK * values[0]))
        Q = np.eye(D) if rank == D else rows[:rank]
        # (Q w = held: the least solution of n·w = level)
        least = (left[:, :rank].T @ self.level[members] / values[:rank]) @ rows[:rank]
        held = Q @ least
        coordinates = self.unit @ Q.T
        off = np.linalg.norm(self.unit - coordinates @ Q, axis=1)
        apart = np.abs(coordinates @ held - self.level)
        at = np.flatnonzero((off <= _RANK) & (apart <= _RANK * (1 + np.abs(self.level))))
        rays = _rays(coordinates[at])
        if rays is None:
            return Flat(at, Q, held, None, np.zeros((0, len(at)), int))
        signs = np.sign(np.where(np.abs(coordinates[at] @ rays.T) <= _ZERO, 0.0,
                                 coordinates[at] @ rays.T)).astype(int).T  # fmt: skip
        return Flat(at, Q, held, rays @ Q, signs)

    def put(self, flat: Flat, w: np.ndarray) -> np.ndarray:
        """Return w (D,) moved onto the flat."""
        if flat.rank == w.size:
            return flat.held @ flat.Q
        return w - (flat.Q @ w - flat.held) @ flat.Q


def _rays(coordinates: np.ndarray) -> np.ndarray | None:
    """The rays (R, r) of the fan of hyperplanes with unit normals (C, r) that span R^r."""
    C, r = coordinates.shape
    if r == 1:
        return np.array([[1.0], [-1.0]])
    if math.comb(C, r - 1) > MOST_RAYS:
        return None
    subsets = np.array(list(combinations(range(C), r - 1)))
    _, values, rows = np.linalg.svd(coordinates[subsets], full_matrices=True)
    full = values[:, -1] > _RANK * values[:, 0]
    lines = rows[full, -1]
    first = np.argmax(np.abs(lines) > 0.5 / math.sqrt(r), axis=1)
    lines = lines * np.sign(lines[np.arange(len(lines)), first])[:, None]
    _, which = np.unique(np.round(lines, 9), axis=0, return_index=True)
    lines = lines[np.sort(which)]
    return np.concatenate([lines, -lines])
