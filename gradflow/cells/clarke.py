r"""The velocity of the flow where neurons stand on surfaces, with its multipliers and branches.

Away from surfaces it is :math:`\dot w_k=a_k\sum_gF^{\sigma_{kg}}_gn_g`. On them neuron k takes a
consistent element of the Clarke subdifferential, the one of least norm where all its surfaces
attract (:mod:`.selection`); at :math:`w_k=0` all surfaces of the neuron meet (:mod:`.origin`).
Sources: `filippov1988`, `clarke1983`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.origin import way_out
from gradflow.cells.pattern import Pattern
from gradflow.cells.selection import Selection, select


@dataclass(frozen=True)
class Velocity:
    """The velocity of all neurons and how it came about.

    Attributes
    ----------
    dW : (m, D) array
    da : (m,) array
        Zero where the outer weights do not move.
    nu : (m, G) array
        The force of surface g on neuron k is ``F⁻ + ν (F⁺ − F⁻)``: 1 on its + side, 0 on its −
        side, between where it slides.
    branches : (m,) ints
        In how many ways each neuron may go on; 1 where it is sure (or a_k = 0: it rests).
    """

    dW: np.ndarray
    da: np.ndarray
    nu: np.ndarray
    branches: np.ndarray

    @property
    def speed(self) -> float:
        """``|dθ/dt|``, no square under- or overflowing on the way."""
        flat = np.concatenate([self.dW.ravel(), self.da])
        top = float(np.max(np.abs(flat), initial=0.0))
        return top * float(np.linalg.norm(flat / top)) if 0 < top < np.inf else top


def clarke(
    pattern: Pattern, W: np.ndarray, a: np.ndarray, forces: tuple[np.ndarray, np.ndarray]
) -> Velocity:
    """Return the velocity of the flow at weights W (m, D), a (m,).

    Parameters
    ----------
    pattern : Pattern
        Where the neurons stand; a surface is judged where its side is 0.
    forces : two (G,) arrays
        F⁺ and F⁻.
    """
    at, (up, down) = pattern.arrangement, forces
    nu, force = pattern.plus.copy(), np.where(pattern.sides > 0, up, down)
    drive = force @ at.normals
    branches = np.ones(len(W), int)
    for k in np.flatnonzero(np.any(pattern.sides == 0, axis=1) & (a != 0)):
        if not np.any(W[k]):
            drive[k], nu[k] = way_out(at, float(a[k]), up, down)
            continue
        members = np.flatnonzero(pattern.sides[k] == 0)
        chosen = ways_on(at, pattern.sides[k], members, float(a[k]), up, down)
        drive[k], nu[k, members], branches[k] = chosen.g, chosen.nu, chosen.branches
    if not at.trained:
        return Velocity(a[:, None] * drive, np.zeros(len(a)), nu, branches)
    da = np.sum(np.where(pattern.sides == 0, 0.0, force * at.heights(W)), axis=1)
    return Velocity(a[:, None] * drive, da, nu, branches)


def speeds(arrangement: Arrangement, W: np.ndarray, a: np.ndarray, pulls: np.ndarray) -> np.ndarray:
    """Return ``|dθ/dt|`` (rows,) at weights (rows, m, D), (rows, m) and pulls (rows, n)."""
    at = arrangement
    return np.array([
        clarke(Pattern.at(at, w), w, outer, at.per_surface(pull)).speed
        for w, outer, pull in zip(W, a, pulls, strict=True)
    ])  # fmt: skip


def ways_on(
    at: Arrangement, sides: np.ndarray, members: np.ndarray, outer: float,
    up: np.ndarray, down: np.ndarray, forced: np.ndarray | None = None,
) -> Selection:  # fmt: skip
    """Choose the sides of one neuron of outer weight ``outer`` on its surfaces ``members``.

    Parameters
    ----------
    sides : (G,) ints
        Its sides elsewhere.
    forced : (K,) ints, optional
        As in `select`.
    """
    force = np.where(sides > 0, up, down)
    force[members] = down[members]
    jump = (up - down)[members]
    return select(force @ at.normals, at.normals[members], jump, outer, forced)
