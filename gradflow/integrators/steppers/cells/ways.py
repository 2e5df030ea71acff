r"""How one neuron goes on from a flat it has come to, or is to leave.

The surfaces that meet there are C, the neuron's force without them u, and on their two sides they
add :math:`F^\pm_gn_g`. With the sides :math:`\sigma` of some and the others slid on, spanning a
flat L, the neuron moves by :math:`(I-P_L)(u+\sum_{C\setminus L}F^{\sigma_g}_gn_g)`; sides must
agree with the signs of its rates, and L must hold: along each of its rays p

.. math:: E_p=u\cdot p+\sum_C\bigl(F^+_g\max(n_g\cdot p,0)+F^-_g\min(n_g\cdot p,0)\bigr)\le0.

With the repelling members on given sides the rest is the least norm over the box of the attracting
ones. More than one consistent way: the flow is not unique there. Sources: `filippov1988`,
`clarke1983`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.cells.selection import box_minimum
from gradflow.integrators.steppers.cells.flats import Flat, Flats

#: Rates below this share of their terms are none.
_NO_RATE = 1e-10
#: Jumps below this share of the largest force do not move a neuron.
_NO_JUMP = 1e-13
#: What pulls along a ray counts from this share of all forces on: along one of two sides, each with
#: a rate that counts as none, it may come to twice as much.
_PULL = 2 * _NO_RATE
#: E_p this close to 0, in all forces: nothing holds the neuron along the ray.
_NEUTRAL = 1e-12
#: Repelling members whose sides are all tried.
_MOST_TRIED = 10
_ROUNDS = 3


@dataclass(frozen=True)
class Pull:
    """What acts on a neuron at a meeting of surfaces.

    Attributes
    ----------
    members : (C,) ints
    u : (D,) array
        The force of all else.
    normals : (C, D) array
    up, down : (C,) arrays
        F⁺ and F⁻ (the sign and size of the outer weight in them).
    noise : (C,) array
        Below it their differences are rounding.
    fuzz : float
        What rounding leaves of the sum of all forces on the neuron.
    present : (C,) ints
        The side of each member that moves by neither force: where it has been, or is going.
    """

    members: np.ndarray
    u: np.ndarray
    normals: np.ndarray
    up: np.ndarray
    down: np.ndarray
    noise: np.ndarray
    fuzz: float
    present: np.ndarray

    @property
    def size(self) -> float:
        """|u| + Σ max(|F⁺|, |F⁻|) |n|: all forces."""
        loudest = np.maximum(np.abs(self.up), np.abs(self.down))
        return float(np.linalg.norm(self.u) + loudest @ np.linalg.norm(self.normals, axis=1))

    @property
    def no_rate(self) -> np.ndarray:
        """Rates (C,) of members up to which they are none."""
        return (_NO_RATE * self.size + self.fuzz) * np.linalg.norm(self.normals, axis=1)

    @property
    def slack(self) -> np.ndarray:
        """Rates (C,) of members up to which they agree with either side."""
        return self.no_rate + self.noise * np.sum(self.normals**2, axis=1)

    @property
    def jump(self) -> np.ndarray:
        """F⁺ − F⁻, 0 where it is none."""
        jump = self.up - self.down
        size = np.linalg.norm(self.normals, axis=1)
        loudest = max(float(np.linalg.norm(self.u)), float(np.max(np.abs(jump) * size, initial=0)))
        return np.where(
            (np.abs(jump) <= self.noise) | (np.abs(jump) * size <= _NO_JUMP * loudest), 0.0, jump
        )

    def energies(self, flat: Flat, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return E_p (R,) on a flat's rays, and what of them may be noise.

        Parameters
        ----------
        chosen : (D,) array
            The force of all that is not on the flat.
        """
        assert flat.rays is not None
        at = np.searchsorted(self.members, flat.members)
        along = flat.rays @ self.normals[at].T
        along[flat.signs == 0] = 0.0
        terms = np.where(along > 0, self.up[at], self.down[at]) * along
        return flat.rays @ chosen + terms.sum(axis=1), np.abs(along) @ self.noise[at] + self.fuzz


@dataclass(frozen=True)
class Way:
    """A way on: the flat slid on, the side of each member (0 on it), and who stays without a rate.

    Attributes
    ----------
    flat : Flat
    sides : (C,) ints
    rates : (C,) array
    parked : (C,) bools
    """

    flat: Flat
    sides: np.ndarray
    rates: np.ndarray
    parked: np.ndarray


def ways_on(flats: Flats, pull: Pull) -> list[Way]:
    """Return the consistent ways on from a meeting; none where no side of any agrees with its rate.

    Ways are in the order of their repelling members' sides, plus before minus.
    """
    jump = pull.jump
    repelling = np.flatnonzero(jump > 0)
    found: list[Way] = []
    for code in range(2 ** min(len(repelling), _MOST_TRIED)):
        plus = np.zeros(len(jump), bool)
        plus[repelling] = [
            not (code >> (len(repelling) - 1 - j)) & 1 for j in range(len(repelling))
        ]
        way = _consistent(flats, pull, jump, plus)
        if way is not None and not any(np.array_equal(way.sides, old.sides) for old in found):
            found.append(way)
    return found


def _consistent(flats: Flats, pull: Pull, jump: np.ndarray, plus: np.ndarray) -> Way | None:
    """The way on with the repelling members on the sides ``plus``, if there is one."""
    N, attracting, no_rate = pull.normals, jump < 0, pull.no_rate
    base = pull.u + np.where(plus, pull.up, pull.down) @ N
    mu, inside = box_minimum(base, N[attracting], jump[attracting], np.zeros(int(attracting.sum())))
    g = base + mu @ N[attracting]
    rates = N @ g
    slides = np.abs(rates) <= no_rate
    within = np.zeros(len(jump), bool)
    within[attracting] = inside
    slides = (slides & (jump != 0)) | within
    for _ in range(_ROUNDS):
        flat = flats.of(pull.members[slides])
        slides = np.isin(pull.members, flat.members)
        none = np.abs(rates) <= no_rate
        sides = np.where(slides, 0, np.where(none & (jump == 0), pull.present, np.sign(rates)))
        on_plus = np.where(attracting, sides > 0, np.where(jump > 0, plus, sides > 0))
        chosen = pull.u + np.where(slides, 0.0, np.where(on_plus, pull.up, pull.down)) @ N
        g = chosen - (chosen @ flat.Q.T) @ flat.Q
        rates = np.where(slides, 0.0, N @ g)
        none = ~slides & (np.abs(rates) <= no_rate) & (jump != 0)
        if not np.any(none & (jump < 0)):
            break
        slides = slides | (none & (jump < 0))
    sides = np.where(slides, 0, np.where(on_plus, 1, -1))
    if np.any(sides * rates < -pull.slack):
        return None
    still = ~slides & (np.abs(rates) <= pull.fuzz * np.linalg.norm(N, axis=1))
    if not flat.rank:
        return Way(flat, sides, rates, still)
    return _held(flats, pull, flat, sides, rates, chosen, still)


def along(flats: Flats, pull: Pull, sides: np.ndarray) -> Way | None:
    """The way on with these sides of the members (0: slid on), if it is consistent."""
    slid = sides == 0
    flat = flats.of(pull.members[slid])
    if np.any(np.isin(flat.members, pull.members[~slid])):
        return None
    N = pull.normals
    force = np.where(sides > 0, pull.up, np.where(slid, 0.0, pull.down))
    chosen = pull.u + force @ N
    rates = np.where(slid, 0.0, N @ (chosen - (chosen @ flat.Q.T) @ flat.Q))
    if np.any(sides * rates < -pull.slack):
        return None
    none = np.zeros(len(sides), bool)
    if not flat.rank:
        return Way(flat, sides, rates, none)
    return _held(flats, pull, flat, sides, rates, chosen, none)


def _held(
    flats: Flats, pull: Pull, flat: Flat, sides: np.ndarray, rates: np.ndarray, chosen: np.ndarray,
    still: np.ndarray,
) -> Way | None:  # fmt: skip
    """The way on if the flat holds; a neuron that nothing holds along a ray is left there."""
    if flat.rays is None:
        return Way(flat, sides, rates, still)
    energy, noise = pull.energies(flat, chosen)
    if np.any(energy > _PULL * pull.size + noise):
        return None
    neutral = np.abs(energy) <= _NEUTRAL * pull.size + pull.fuzz
    if not np.any(neutral) or np.all(neutral):
        return Way(flat, sides, rates, still)
    along = np.sign(np.sum(flat.signs[neutral], axis=0))
    at = np.searchsorted(pull.members, flat.members)
    sides, parked = sides.copy(), still.copy()
    sides[at], parked[at] = along, along != 0
    return Way(flats.of(flat.members[along == 0]), sides, rates, parked)
