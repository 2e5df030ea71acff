r"""How one neuron goes on from a point where several of its surfaces meet.

The candidates C are the surfaces that the neuron has just met or slides on. With u the force when
all of them push with their minus side, :math:`J_i=F^+_i-F^-_i` the jumps and :math:`n_i` the
normals, the velocity is a positive multiple of

.. math:: \operatorname{sgn}(a)\,g,\qquad g=u+\sum_{i\in C}\nu_iJ_in_i,\qquad \nu\in[0,1]^C,

and the rates :math:`r_i=\operatorname{sgn}(a)\,n_i\cdot g` of the switching functions must agree
with the sides: ν=1 needs r ≥ 0 (plus side), ν=0 needs r ≤ 0 (minus side), and 0<ν<1 needs r = 0
(sliding), which is stable on attracting surfaces (aJ < 0) only. With the repelling members on given
sides the rest is the optimality condition of the convex problem :math:`\min|g|^2` over the box, so
each assignment of sides to the repelling members leaves at most one candidate; the assignment that
maximises that minimum is always consistent, so there is a way on. More than one consistent
assignment: the flow is not unique there. Sources: `filippov1988`, `clarke1983`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

#: Jumps |J||n| below this fraction of the largest force do not move a neuron.
_NO_JUMP = 1e-13
#: Rates and multipliers are compared up to this many of their own rounding units.
_SLACK = 1e-13
#: Repelling members whose sides are all tried; with more, only the first 2^10 assignments are.
_MAX_ENUMERATED = 10


@dataclass(frozen=True)
class Way:
    """One consistent way on: sides (+1, -1, 0 = sliding), multipliers ν, and the force g."""

    sides: np.ndarray
    nu: np.ndarray
    g: np.ndarray


@dataclass(frozen=True)
class Selection:
    """Every consistent way on from a point.

    Attributes
    ----------
    sides : (K,) ints
        Of the chosen way (the first found): +1, -1, or 0 for sliding.
    nu : (K,)
        Its multipliers ν: the force of surface i is ``F⁻_i + ν_i J_i``.
    g : (D,)
        Its force; the neuron's velocity is ``a g``.
    branches : int
        The number of consistent ways. 1: unique. 0: none was found, which happens only with forced
        members, or beyond the cap, or where rounding hides the answer; the sides are then those of
        the least-squares problem with every repelling member on the plus side.
    ways : list of Way
    complete : bool
        Whether all assignments were tried (false with over 10 repelling members).
    """

    sides: np.ndarray
    nu: np.ndarray
    g: np.ndarray
    branches: int
    ways: list[Way] = field(repr=False)
    complete: bool = True


def box_minimum(
    u: np.ndarray, N: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise ``|u + Σ μ_i N_i|`` over ``lo ≤ μ ≤ hi`` by an active-set method.

    Parameters
    ----------
    u : (D,) array
    N : (K, D) array
        Rows; where they are linearly dependent μ is not unique, but the minimum is, and the free
        rows returned are independent.
    lo, hi : (K,) arrays

    Returns
    -------
    mu : (K,) array
    free : (K,) bools
        Entries strictly inside their bounds.
    """
    K = len(N)
    free = np.zeros(K, bool)
    mu = np.where(np.abs(lo) <= np.abs(hi), lo, hi)
    if K == 0:
        return mu, free
    # Most often nothing or everything is free: the unconstrained minimum first.
    trial = np.linalg.lstsq(N.T, -u, rcond=None)[0]
    if np.all((trial > lo) & (trial < hi)):
        return _independent(trial, ~free, N, lo, hi)
    mu = np.clip(trial, lo, hi)
    free = (mu > lo) & (mu < hi)
    size = np.linalg.norm(N, axis=1)
    scale = size * (np.linalg.norm(u) + size @ np.maximum(np.abs(lo), np.abs(hi)))
    for _ in range(30 * K + 30):
        while np.any(free):
            held = u + np.where(free, 0.0, mu) @ N
            goal = mu.copy()
            goal[free] = np.linalg.lstsq(N[free].T, -held, rcond=None)[0]
            outside = free & ((goal <= lo) | (goal >= hi))
            if not np.any(outside):
                mu = goal
                break
            # As far towards the goal as the box allows; what stops it is bound there.
            bound = np.where(goal <= lo, lo, hi)
            gap = goal - mu
            moving = outside & (gap != 0)
            step = np.where(outside, 0.0, np.inf)
            step[moving] = (bound[moving] - mu[moving]) / gap[moving]
            t = min(1.0, max(0.0, float(np.min(step))))
            stopped = outside & (step <= t)
            mu = np.where(free, mu + t * gap, mu)
            mu[stopped] = bound[stopped]
            free &= ~stopped
        slope = N @ (u + mu @ N)
        pull = np.where(mu <= lo, -slope, slope)  # > 0: leaving the bound lowers the norm
        pull[free | (lo >= hi)] = 0.0
        worst = int(np.argmax(pull / np.maximum(scale, 1e-300)))
        if pull[worst] <= _SLACK * scale[worst]:
            break
        free[worst] = True
    return _independent(mu, free, N, lo, hi)


def _independent(
    mu: np.ndarray, free: np.ndarray, N: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move a minimiser along what leaves the minimum alone until its free rows are independent."""
    while np.any(free):
        rows = N[free] / np.maximum(np.linalg.norm(N[free], axis=1), 1e-300)[:, None]
        left, values, _ = np.linalg.svd(rows)
        rank = int(np.sum(values > 1e-12 * values[0]))
        if rank == len(rows):
            break
        where = np.flatnonzero(free)
        line = left[:, -1] / np.maximum(np.linalg.norm(N[free], axis=1), 1e-300)
        with np.errstate(divide="ignore"):
            room = np.where(line > 0, hi[where] - mu[where], lo[where] - mu[where]) / line
        room[line == 0] = np.inf
        first = int(np.argmin(room))
        mu[where] += room[first] * line
        mu[where[first]] = hi[where[first]] if line[first] > 0 else lo[where[first]]
        free[where[first]] = False
        mu = np.clip(mu, lo, hi)
    return mu, free


def select(
    u: np.ndarray,
    normals: np.ndarray,
    jumps: np.ndarray,
    outer_sign: float,
    forced: Sequence[int] | np.ndarray | None = None,
) -> Selection:
    """Choose the sides of one neuron on its candidate surfaces.

    Parameters
    ----------
    u : (D,) array
        The force ``Σ_g F_g n_g``, with the minus-side force F⁻ on every candidate.
    normals : (K, D) array
        Normals n_i of the candidates.
    jumps : (K,) array
        ``J_i = F⁺_i − F⁻_i``.
    outer_sign : float
        The sign of a_k (0 is taken as +).
    forced : (K,) ints, optional
        +1 or -1 gives a member its side, whatever its rate; 0 leaves it free.

    Returns
    -------
    Selection
        Ways in the order of their repelling members' sides, plus before minus, the last member
        changing fastest; the first is the chosen one.
    """
    u = np.asarray(u, float)
    N = np.asarray(normals, float).reshape(-1, u.shape[0])
    J = np.asarray(jumps, float)
    K = len(J)
    sign = -1.0 if outer_sign < 0 else 1.0
    given = np.zeros(K, int) if forced is None else np.asarray(forced, int)
    size = np.linalg.norm(N, axis=1)
    reach = np.abs(J) * size
    largest = max(float(np.linalg.norm(u)), float(np.max(reach, initial=0.0)))
    silent = (given == 0) & (reach <= _NO_JUMP * largest)
    repelling = np.flatnonzero((given == 0) & ~silent & (sign * J > 0))
    attracting = np.flatnonzero((given == 0) & ~silent & (sign * J < 0))
    base = u + (J * (given > 0)) @ N
    slack = _SLACK * size * (float(np.linalg.norm(u)) + float(np.sum(reach)))

    R = len(repelling)
    number = 2 ** min(R, _MAX_ENUMERATED)
    ways: list[Way] = []
    fallback: Way | None = None
    for code in range(number):
        minus = np.array([(code >> (R - 1 - j)) & 1 for j in range(R)], bool)
        nu = (given > 0).astype(float)
        nu[repelling] = ~minus
        start = base + J[repelling] @ (N[repelling] * ~minus[:, None])
        j = J[attracting]
        mu, inside = box_minimum(start, N[attracting], np.minimum(j, 0.0), np.maximum(j, 0.0))
        nu[attracting] = np.clip(mu / j, 0.0, 1.0)
        sides = np.where(nu > 0.5, 1, -1)
        sides[attracting[inside]] = 0
        g = start + mu @ N[attracting]
        rates = sign * (N @ g)
        sides[silent] = np.where(rates[silent] >= 0, 1, -1)
        nu[silent] = sides[silent] > 0
        way = Way(sides, nu, g)
        fallback = fallback or way
        free = np.setdiff1d(np.arange(K), np.flatnonzero(given))
        right = (sides[free] * rates[free] >= -slack[free]) | (sides[free] == 0)
        if np.all(right):
            ways.append(way)
    assert fallback is not None
    best = ways[0] if ways else fallback
    return Selection(best.sides, best.nu, best.g, len(ways), ways, R <= _MAX_ENUMERATED)
