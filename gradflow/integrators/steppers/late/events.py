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

from gradflow.integrators.steppers.late.field import REST, Cell, MarginNet
from gradflow.integrators.steppers.piecewise.selection import select

#: Fractions of a step at which signs are looked at.
NODES = np.array([0.25, 0.5, 0.75, 1.0])
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
class Pattern:
    """Sides of all pairs, the pairs fresh from their surface, and the cell that follows."""

    cell: Cell
    fresh: np.ndarray
    dead: np.ndarray

    @classmethod
    def of(cls, net: MarginNet, sides: np.ndarray) -> Pattern:
        """Return the pattern of given sides, nothing being fresh."""
        return cls(net.cell(sides), np.zeros(sides.shape, bool), np.zeros(net.m, bool))

    @property
    def sides(self) -> np.ndarray:
        """The sides (m, G): +1, -1, 0 = sliding."""
        return self.cell.sides


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
    size = np.linalg.norm(net.split(u)[0], axis=1)
    return np.where(size > 0, size, 1.0)[:, None] * net.sizes


def first_surface(net: MarginNet, pattern: Pattern, poly: np.ndarray) -> Hit:
    """Return the earliest surface met by ``u(ξ) = Σ_j poly[j] ξ^j``, 0 < ξ ≤ 1.

    Parameters
    ----------
    poly : (q+1, P) array
    """
    if not net.kinked:
        return Hit()
    blocks = np.stack([net.split(row)[0] for row in poly])
    H = blocks @ net.N.T
    H *= pattern.sides / scales(net, poly[0])
    powers = NODES[:, None] ** np.arange(len(poly))
    values = np.tensordot(powers, H, 1)
    # Fresh pairs: the root at 0 is known, so the constant term is rounding.
    fresh = pattern.fresh
    if fresh.any():
        values[:, fresh] -= np.minimum(H[0][fresh], 0.0)
    bad = values < -_ROUNDING
    bad[:, fresh] = values[:, fresh] < -10 * _ROUNDING
    if not bad.any():
        return Hit()
    node = int(np.argmax(bad.any(axis=(1, 2))))
    best = Hit()
    for k, g in np.argwhere(bad[node]):
        line = H[:, k, g]
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
    pattern: Pattern,
    u: np.ndarray,
    p: np.ndarray,
    hit: Hit,
    again: np.ndarray | None = None,
) -> tuple[np.ndarray, Pattern, list[tuple[int, int, str]]]:
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
    pattern : Pattern
    what : list of (neuron, surface, kind)
    """
    U, A = net.split(u)
    U, A = U.copy(), A.copy()
    sides = pattern.sides.copy()
    fresh = pattern.fresh.copy()
    up, down = net.per_surface(p * net.y)
    jump = up - down
    scaled = (U @ net.N.T) * sides / scales(net, u)
    touched = (sides != 0) & (scaled <= _ROUNDING * 10) & ~fresh
    touched[pattern.dead] = False
    if hit.kind == "surface":
        touched[hit.neuron, hit.surface] = sides[hit.neuron, hit.surface] != 0
    if again is not None:
        touched |= again & (sides != 0)
    # A neuron held on D − 1 surfaces that meets one more is at w = 0, where all its surfaces meet.
    resting = ~U.any(axis=1) & ~pattern.dead
    held = [k for k, _, rows in pattern.cell.sliding if len(rows) == net.dim - 1]
    what: list[tuple[int, int, str]] = []
    first = again is None
    if first and hit.kind == "surface" and hit.neuron in held and not resting[hit.neuron]:
        what.append((hit.neuron, -1, "origin"))
        resting[hit.neuron] = True
        U[hit.neuron] = 0.0
    if first and hit.kind == "outer":
        A[hit.neuron] = -_TURNED * hit.extra
        what.append((hit.neuron, -1, "branch"))
    neurons = set(np.flatnonzero(touched.any(axis=1)).tolist())
    if hit.neuron >= 0:
        neurons.add(hit.neuron)
    for k in sorted(neurons):
        slid = np.flatnonzero(sides[k] == 0)
        met = np.flatnonzero(sides[k] != 0 if resting[k] else touched[k])
        C = np.concatenate([slid, met])
        forced = np.zeros(len(C), int)
        if hit.kind == "exit" and k == hit.neuron and not resting[k]:
            forced[hit.surface == C] = 1 if hit.bound > 0.5 else -1
        if len(C) == 0:
            continue
        on = net.N[C]
        U[k] -= on.T @ np.linalg.lstsq(on.T, U[k], rcond=None)[0]
        base = np.where(sides[k] > 0, up, down)
        base[C] = down[C]
        chosen = select(base @ net.N, on, jump[C], np.sign(A[k]), forced)
        if resting[k] and np.linalg.norm(chosen.g) <= REST * (
            np.sum(np.maximum(np.abs(up), np.abs(down)) * net.sizes)
        ):
            sides[k], fresh[k] = 0, False
            continue
        new_sides = chosen.sides
        # Asked again with other weights, what is consistent stays.
        kept = [way for way in chosen.ways if np.array_equal(way.sides, sides[k, C])]
        if again is not None and kept:
            new_sides = kept[0].sides
        elif chosen.branches > 1:
            what.append((k, int(C[0]), "branch"))
        if resting[k]:
            what.append((k, -1, "slide-out"))
            sides[k, C], fresh[k, C] = new_sides, new_sides != 0
            continue
        for g, new in zip(C, new_sides, strict=True):
            old = sides[k, g]
            if new == 0 and old != 0:
                what.append((k, int(g), "slide-in"))
            elif new != 0 and old == 0:
                what.append((k, int(g), "slide-out"))
            elif new != old:
                what.append((k, int(g), "crossing"))
            sides[k, g] = new
            fresh[k, g] = new != 0
    fresh &= sides != 0
    return net.join(U, A if net.trained else None), Pattern(
        net.cell(sides), fresh, pattern.dead.copy()
    ), what  # fmt: skip


def refreshed(net: MarginNet, pattern: Pattern, u: np.ndarray) -> None:
    """Drop from the fresh pairs those that are clearly off their surface (in place)."""
    if pattern.fresh.any():
        scaled = (net.split(u)[0] @ net.N.T) * pattern.sides / scales(net, u)
        pattern.fresh &= scaled < _CLEAR
