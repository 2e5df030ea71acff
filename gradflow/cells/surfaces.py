"""The hyperplanes of data: rows on one line through the origin share a surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Rows whose directions differ by less than this are one surface.
_COLLINEAR = 1e-13


@dataclass(frozen=True)
class Surfaces:
    """The surfaces n_g·w = level_g of data and breakpoints, and which data are on each.

    Attributes
    ----------
    N, level : (G, D), (G,) arrays
    start, datum, piece, way : (G+1,), (E,), (E,), (E,) arrays
        Entries ``start[g]:start[g+1]`` are the data of surface g: on its − side they are on piece
        ``piece`` of φ, on its + side on the next one; the other way round where ``way`` is −1.
    """

    N: np.ndarray
    level: np.ndarray
    start: np.ndarray
    datum: np.ndarray
    piece: np.ndarray
    way: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, breakpoints: np.ndarray) -> Surfaces:
        """Return the surfaces of inputs (n, D): rows (x_i, −b_j) on one line share one."""
        n, J = len(X), len(breakpoints)
        seen = np.any(X != 0, axis=1) if J else np.zeros(n, bool)
        if not np.any(seen):
            none = np.zeros(0, np.int64)
            return cls(np.zeros((0, X.shape[1])), np.zeros(0), np.zeros(1, np.int64), none, none,
                       np.zeros(0, np.int8))  # fmt: skip
        rows = np.concatenate([
            np.repeat(X[seen], J, axis=0),
            -np.tile(breakpoints, int(seen.sum()))[:, None],
        ], axis=1)  # fmt: skip
        normals, surface, scale = surfaces_of(rows)
        order = np.argsort(surface, kind="stable")
        start = np.searchsorted(surface[order], np.arange(len(normals) + 1)).astype(np.int64)
        return cls(
            np.ascontiguousarray(normals[:, :-1]), -normals[:, -1].copy(), start,
            np.repeat(np.flatnonzero(seen), J)[order].astype(np.int64),
            np.tile(np.arange(J), int(seen.sum()))[order].astype(np.int64),
            np.sign(scale[order]).astype(np.int8),
        )  # fmt: skip


def surfaces_of(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group rows that lie on one line through the origin.

    Parameters
    ----------
    X : (n, D) array
        Rows; a zero row belongs to the first surface with scale 0.

    Returns
    -------
    normals : (G, D) array
        The first row of each group, as it is.
    surface : (n,) ints
    scale : (n,)
        ``X[i] = scale[i] * normals[surface[i]]`` to rounding; exactly 1 for the first of a group.
    """
    # Scaled by the largest entry: squares of 1e-200 underflow, those of 1e200 overflow.
    top = np.max(np.abs(X), axis=1, initial=0.0)
    scaled = X / np.where(top > 0, top, 1.0)[:, None]
    norms = np.linalg.norm(scaled, axis=1)
    surface, first_of = _group(scaled / np.where(norms > 0, norms, 1.0)[:, None], norms > 0)
    # Surfaces in the order of their first datum, so that plain data keep their numbers.
    rank = np.argsort(np.argsort(first_of))
    surface = np.where(surface >= 0, rank[surface], 0)
    firsts = np.sort(first_of).astype(int)
    normals = X[firsts]
    base, base_top = scaled[firsts][surface], top[firsts][surface]
    scale = top / base_top * (np.sum(scaled * base, axis=1) / np.sum(base * base, axis=1))
    scale[firsts] = 1.0
    return normals, surface, scale


def _group(unit: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return the group of each unit row (-1 where it does not count), and each group's first."""
    # A projection on one random direction sorts candidates; only neighbours are compared.
    direction = np.random.default_rng(0).normal(size=unit.shape[1])
    probe = np.abs(unit @ (direction / np.linalg.norm(direction)))
    order = np.argsort(probe, kind="stable")
    surface = np.full(unit.shape[0], -1)
    first_of: list[int] = []
    window = 8 * _COLLINEAR
    for place, i in enumerate(order):
        if not counts[i] or surface[i] >= 0:
            continue
        members = [int(i)]
        for j in order[place + 1 :]:
            if probe[j] - probe[i] > window:
                break
            if not counts[j] or surface[j] >= 0:
                continue
            sign = 1.0 if unit[i] @ unit[j] > 0 else -1.0
            if np.linalg.norm(unit[j] - sign * unit[i]) <= _COLLINEAR:
                members.append(int(j))
        surface[members] = len(first_of)
        first_of.append(min(members))
    return surface, first_of
