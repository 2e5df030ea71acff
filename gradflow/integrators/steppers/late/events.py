r"""Events of the late phase: surfaces met, multipliers that leave [0, 1], and the way on.

Inside a step u is a polynomial in the fraction ξ of the step, the switching functions
:math:`h_{kg}=n_g\cdot u_k` are linear in u, hence polynomials too. A pair that was just on its
surface has the known root ξ = 0, which is divided out, never compared with zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import optimize

from gradflow.cells.clarke import ways_on
from gradflow.cells.origin import REST
from gradflow.cells.pattern import Pattern
from gradflow.integrators.steppers.late.field import MarginNet

#: Fractions of a step at which signs are looked at.
NODES = np.array([0.25, 0.5, 0.75, 1.0])
#: What takes the coefficients of a dense output to its values there.
POWERS = NODES[:, None] ** np.arange(5)
#: |h|/(|n||u_k|) below this is rounding.
_ROUNDING = 1e-13
#: A pair counts as off its surface from here on.
_CLEAR = 1e-9
#: An outer weight that has just changed sign.
_TURNED = 1e-200


@dataclass(frozen=True)
class LateEvent:
    """One event: where it was and what happened.

    Attributes
    ----------
    clock, log_t : float
        The loss clock s, and ln t.
    neuron, surface : int
        -1 where none is meant. For the support, ``surface`` is the datum.
    kind : str
        crossing, slide-in, slide-out, support-in, support-out, death, origin, branch.
    """

    clock: float
    log_t: float
    neuron: int
    surface: int
    kind: str


@dataclass
class Standing:
    """Where the neurons stand: the sides, the pairs fresh from their surface, the dead neurons."""

    pattern: Pattern
    fresh: np.ndarray
    dead: np.ndarray

    @classmethod
    def of(cls, net: MarginNet, sides: np.ndarray) -> Standing:
        """Return the standing of given sides, nothing being fresh or dead."""
        return cls(net.pattern(sides), np.zeros(sides.shape, bool), np.zeros(net.m, bool))

    @property
    def sides(self) -> np.ndarray:
        """The sides (m, G): +1, -1, 0 = sliding."""
        return self.pattern.sides

    def copy(self) -> Standing:
        """Return a standing whose marks may change."""
        return Standing(self.pattern, self.fresh.copy(), self.dead.copy())


@dataclass
class Hit:
    """The earliest event of a step: its fraction and what it is."""

    xi: float = np.inf
    kind: str = ""
    neuron: int = -1
    surface: int = -1
    bound: float = 0.0
    extra: Any = field(default=None, repr=False)


def scales(net: MarginNet, u: np.ndarray) -> np.ndarray:
    """Return ``|n_g||u_k|`` (m, G), 1 where a neuron is zero."""
    U = net.split(u)[0]
    size = np.sqrt(np.sum(U * U, axis=1))
    return np.where(size > 0, size, 1.0)[:, None] * net.at.sizes


def first_surface(net: MarginNet, standing: Standing, nodes: np.ndarray, poly: np.ndarray) -> Hit:
    """Return the earliest surface met by ``u(ξ) = Σ_j poly[j] ξ^j``, 0 < ξ ≤ 1.

    Parameters
    ----------
    nodes : (4, P) array
        u at `NODES`.
    poly : (5, P) array
    """
    if not net.at.activation_kinked:
        return Hit()
    unit = standing.sides / scales(net, poly[0])
    values = (net.split(nodes)[0] @ net.N.T) * unit
    bad = values < -_ROUNDING
    fresh = standing.fresh
    if fresh.any():
        # Fresh pairs: the root at 0 is known, so the constant term is rounding.
        begin = np.minimum((net.split(poly[0])[0] @ net.N.T) * unit, 0.0)[fresh]
        bad[:, fresh] = values[:, fresh] - begin < -10 * _ROUNDING
    if not bad.any():
        return Hit()
    node = int(np.argmax(bad.any(axis=(1, 2))))
    blocks = net.split(poly)[0]
    best = Hit()
    for k, g in np.argwhere(bad[node]):
        line = (blocks[:, k] @ net.N[g]) * unit[k, g]
        end = NODES[node]
        if fresh[k, g]:
            line = line[1:]
            at_zero = line[0]
        else:
            at_zero = line[0] if line[0] > 0 else 0.0
        at_end = np.polynomial.polynomial.polyval(end, line)
        xi = 0.0
        if at_zero > 0 > at_end:
            options: Any = {"xtol": 1e-15, "rtol": 1e-14}
            value = lambda x, line=line: np.polynomial.polynomial.polyval(x, line)
            found: Any = optimize.brentq(value, 0.0, end, **options)
            xi = float(found)
        if xi < best.xi:
            best = Hit(xi, "surface", int(k), int(g))
    return best


def resolve(
    net: MarginNet,
    standing: Standing,
    u: np.ndarray,
    p: np.ndarray,
    hit: Hit,
    again: np.ndarray | None = None,
) -> tuple[np.ndarray, Standing, list[tuple[int, int, str]]]:
    """Choose the new sides of every neuron touched by an event at u, with the weights p.

    Parameters
    ----------
    u : (P,) array
        The state at the event; the neurons touched are projected onto their surfaces.
    hit : Hit
        The located event: a surface, an exit (with its ``bound``), or an outer sign.
    again : (m, G) bools, optional
        Pairs known to be on their surface, to be judged once more (with other weights).

    Returns
    -------
    u : (P,) array
    standing : Standing
    what : list of (neuron, surface, kind)
    """
    event = _Event(net, standing, u, p, hit, again)
    for k in event.neurons():
        event.decide(k)
    return event.result()


class _Event:
    """One event being resolved; ``what`` collects what happens."""

    def __init__(self, net: MarginNet, standing: Standing, u: np.ndarray, p: np.ndarray, hit: Hit,
                 again: np.ndarray | None) -> None:  # fmt: skip
        self.net, self.hit, self.again, self.dead = net, hit, again, standing.dead
        U, A = net.split(u)
        self.U, self.A = U.copy(), A.copy()
        self.sides, self.fresh = standing.sides.copy(), standing.fresh.copy()
        self.up, self.down = net.per_surface(p * net.at.y)
        self.what: list[tuple[int, int, str]] = []
        self.touched = self._touched(u)
        self.resting = ~U.any(axis=1) & ~self.dead
        if again is None:
            self._first(standing.pattern)

    def _touched(self, u: np.ndarray) -> np.ndarray:
        """Which pairs (m, G) off their surfaces so far have come to them."""
        sides, hit = self.sides, self.hit
        scaled = (self.U @ self.net.N.T) * sides / scales(self.net, u)
        touched = (sides != 0) & (scaled <= _ROUNDING * 10) & ~self.fresh
        touched[self.dead] = False
        if hit.kind == "surface":
            touched[hit.neuron, hit.surface] = sides[hit.neuron, hit.surface] != 0
        if self.again is not None:
            touched |= self.again & (sides != 0)
        return touched

    def _first(self, pattern: Pattern) -> None:
        """What the event itself brings, however its sides are judged later."""
        hit, dim = self.hit, self.net.dim
        # A neuron held on D − 1 surfaces that meets one more is at w = 0, where all its surfaces
        # meet.
        held = [k for k, _, rows in pattern.sliding if len(rows) == dim - 1]
        if hit.kind == "surface" and hit.neuron in held and not self.resting[hit.neuron]:
            self.what.append((hit.neuron, -1, "origin"))
            self.resting[hit.neuron] = True
            self.U[hit.neuron] = 0.0
        if hit.kind == "outer":
            self.A[hit.neuron] = -_TURNED * hit.extra
            self.what.append((hit.neuron, -1, "branch"))

    def neurons(self) -> list[int]:
        """The neurons to be judged."""
        found = set(np.flatnonzero(self.touched.any(axis=1)).tolist())
        return sorted(found | {self.hit.neuron} if self.hit.neuron >= 0 else found)

    def decide(self, k: int) -> None:
        """Choose the sides of neuron k on all its surfaces together."""
        net, hit, sides, resting = self.net, self.hit, self.sides, bool(self.resting[k])
        met = np.flatnonzero(sides[k] != 0 if resting else self.touched[k])
        C = np.concatenate([np.flatnonzero(sides[k] == 0), met])
        if len(C) == 0:
            return
        forced = np.zeros(len(C), int)
        if hit.kind == "exit" and k == hit.neuron and not resting:
            forced[hit.surface == C] = 1 if hit.bound > 0.5 else -1
        on = net.N[C]
        self.U[k] -= on.T @ np.linalg.lstsq(on.T, self.U[k], rcond=None)[0]
        chosen = ways_on(net.at, sides[k], C, float(self.A[k]), self.up, self.down, forced)
        loudest = np.sum(np.maximum(np.abs(self.up), np.abs(self.down)) * net.at.sizes)
        if resting and np.linalg.norm(chosen.g) <= REST * loudest:
            sides[k], self.fresh[k] = 0, False
            return
        new = chosen.sides
        # Asked again with other weights, what is consistent stays.
        kept = [way for way in chosen.ways if np.array_equal(way.sides, sides[k, C])]
        if self.again is not None and kept:
            new = kept[0].sides
        elif chosen.branches > 1:
            self.what.append((k, int(C[0]), "branch"))
        if resting:
            self.what.append((k, -1, "slide-out"))
        else:
            self.what += [
                (k, int(g), kind_of(int(sides[k, g]), int(side)))
                for g, side in zip(C, new, strict=True) if side != sides[k, g]
            ]  # fmt: skip
        sides[k, C], self.fresh[k, C] = new, new != 0

    def result(self) -> tuple[np.ndarray, Standing, list[tuple[int, int, str]]]:
        """What `resolve` returns."""
        net = self.net
        u = net.join(self.U, self.A)
        fresh = self.fresh & (self.sides != 0)
        return u, Standing(net.pattern(self.sides), fresh, self.dead.copy()), self.what


def kind_of(old: int, new: int) -> str:
    """What a change of side is called."""
    return "slide-in" if new == 0 else "slide-out" if old == 0 else "crossing"


def refreshed(net: MarginNet, standing: Standing, u: np.ndarray) -> None:
    """Drop from the fresh pairs those that are clearly off their surface (in place)."""
    if standing.fresh.any():
        scaled = (net.split(u)[0] @ net.N.T) * standing.sides / scales(net, u)
        standing.fresh &= scaled < _CLEAR
