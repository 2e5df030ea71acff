r"""Where on a step the first surface is met: switching functions are quartics of its fraction ξ."""

from __future__ import annotations

import math

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner
from gradflow.integrators.steppers.cells.system import Cell, System

#: Fractions of a step at which signs are compared.
_NODES = (0.25, 0.5, 0.75, 1.0)
#: A pair that has just left its surface; one that leaves at zero speed; one that stays on it.
FRESH, TANGENT, PARKED = 1, 2, 3
#: A pair is on its surface up to this distance, relative to |w||n|.
ON_SURFACE = 1e-11


@inner
def norm(v: np.ndarray) -> float:
    """|v|."""
    top = 0.0
    for d in range(v.size):
        top = max(top, abs(v[d]))
    if top == 0:
        return 0.0
    total = 0.0
    for d in range(v.size):
        total += (v[d] / top) ** 2
    return top * math.sqrt(total)


@inner
def room_of(sys: System, cell: Cell, y: np.ndarray, k: int, g: int) -> float:
    """How far beyond its surface a pair may get that is parked on it: forces may come back."""
    if cell.fresh[k, g] != PARKED:
        return 0.0
    D = sys.N.shape[1]
    return ON_SURFACE * (norm(y[k * D : (k + 1) * D]) * sys.size[g] + abs(sys.level[g]))


@inner
def horner(c: np.ndarray, x: float) -> float:
    """c_0 + … + c_4 x⁴."""
    return c[0] + x * (c[1] + x * (c[2] + x * (c[3] + x * c[4])))


@inner
def root(c: np.ndarray, hi: float) -> float:
    """A root in (0, hi] of a quartic that is > 0 at 0 and ≤ 0 at hi: the end that is ≤ 0."""
    lo = 0.0
    x = hi * min(max(c[0] / (c[0] - horner(c, hi)), 0.05), 0.95)
    for count in range(80):
        if hi - lo <= 4e-16 * hi:
            break
        value = horner(c, x)
        slope = c[1] + x * (2 * c[2] + x * (3 * c[3] + x * 4 * c[4]))
        if value > 0:
            lo = x
        else:
            hi = x
        # A little past the root, so that both ends close in.
        step = x - value / slope + (1e-16 * hi if value > 0 else -1e-16 * hi)
        x = step if lo < step < hi and count % 6 != 5 else 0.5 * (lo + hi)
    return hi


@inner
def quartic(
    sys: System, cell: Cell, y: np.ndarray, shape: np.ndarray, k: int, g: int, c: np.ndarray
) -> None:
    """The switching function of a pair, times its side, into ``c`` (5,).

    A pair that has just left its surface has a root at ξ = 0, which is divided out; one that left
    at zero speed a double one. One that is parked may get a little beyond.
    """
    D = sys.N.shape[1]
    for p in range(5):
        total = 0.0
        for d in range(D):
            total += (y[k * D + d] if p == 0 else shape[p - 1, k * D + d]) * sys.N[g, d]
        c[p] = total
    c[0] -= sys.level[g]
    drop = cell.fresh[k, g] if cell.fresh[k, g] != PARKED else 0
    for p in range(5):
        c[p] = cell.side[k, g] * c[p + drop] if p + drop < 5 else 0.0
    c[0] += room_of(sys, cell, y, k, g)


@inner
def suspects(
    sys: System, cell: Cell, y: np.ndarray, shape: np.ndarray, H: np.ndarray, point: np.ndarray,
    first: np.ndarray,
) -> float:  # fmt: skip
    """For each pair the first ξ (m, G) at which it is seen beyond its surface, 2 if it is not.

    Looked at: four nodes, and the lowest points of the parabolas through three of them. ``H``
    (5, m, G) is room for the values. Returns the least.
    """
    m, G = cell.side.shape
    D = sys.N.shape[1]
    W = point[: m * D].reshape(m, D)
    for node in range(5):
        xi = 0.0 if node == 0 else _NODES[node - 1]
        for c in range(m * D):
            point[c] = y[c] + xi * (
                shape[0, c] + xi * (shape[1, c] + xi * (shape[2, c] + xi * shape[3, c]))
            )
        np.dot(W, sys.NT, H[node])
    least = 2.0
    for k in range(m):
        for g in range(G):
            side, fresh = cell.side[k, g], cell.fresh[k, g]
            first[k, g] = 2.0
            if side == 0:
                continue
            # (a surface moved back by the room there is)
            level = sys.level[g] - side * room_of(sys, cell, y, k, g)
            fresh = fresh if fresh != PARKED else 0
            v1 = side * (H[1, k, g] - level)
            v2 = side * (H[2, k, g] - level)
            v3 = side * (H[3, k, g] - level)
            v4 = side * (H[4, k, g] - level)
            v0 = 0.0 if fresh else side * (H[0, k, g] - level)
            at = 2.0
            if v1 < 0:
                at = 0.25
            elif v2 < 0:
                at = 0.5
            elif v3 < 0:
                at = 0.75
            elif v4 < 0:
                at = 1.0
            if fresh == 0 and v0 <= 0:
                at = 0.0
            elif at > 0.25 and dips(v0, v1, v2, v3, v4):
                at = min(at, dip(sys, cell, y, shape, k, g, v0, v1, v2, v3, v4, at))
            first[k, g] = at
            least = min(least, at)
    return least


@inner
def dips(v0: float, v1: float, v2: float, v3: float, v4: float) -> bool:
    """Whether five values of a quartic let it fall below zero between them.

    Between nodes it falls short of their least by a share of their range only.
    """
    low = min(v0, v1, v2, v3, v4)
    return low < 0.3 * (max(v0, v1, v2, v3, v4) - low)


@inner
def dip(
    sys: System, cell: Cell, y: np.ndarray, shape: np.ndarray, k: int, g: int,
    v0: float, v1: float, v2: float, v3: float, v4: float, at: float,
) -> float:  # fmt: skip
    """A ξ before ``at`` at which the pair is below zero between the nodes; 2 if none is seen."""
    for j in range(1, 4):
        left, middle, right = (v0, v1, v2) if j == 1 else ((v1, v2, v3) if j == 2 else (v2, v3, v4))
        bend = left - 2 * middle + right
        if 0.25 * (j - 1) >= at or not bend > 0:
            continue
        # (the lowest value of the parabola: far above zero most often)
        low = middle - (left - right) ** 2 / (8 * bend)
        if low > 0.2 * min(left, middle, right) and low > 0:
            continue
        vertex = 0.25 * j + 0.125 * (left - right) / bend
        if not 0.25 * (j - 1) < vertex < 0.25 * (j + 1):
            continue
        c = np.empty(5)
        quartic(sys, cell, y, shape, k, g, c)
        if horner(c, vertex) < 0:
            return vertex
    return 2.0


@inner
def first_crossing(
    sys: System, cell: Cell, y: np.ndarray, shape: np.ndarray, first: np.ndarray, least: float
) -> tuple[float, int, int]:
    """The first root over the suspects: ``(ξ, neuron, surface)``, ξ = 2 if there is none."""
    m, G = first.shape
    best, neuron, surface = 2.0, -1, -1
    c = np.empty(5)
    for k in range(m):
        for g in range(G):
            # (a pair seen beyond only later than a root already found may still cross before it)
            if first[k, g] > 1.0:
                continue
            quartic(sys, cell, y, shape, k, g, c)
            at = 0.0
            if first[k, g] > 0 and c[0] > 0:
                if horner(c, first[k, g]) > 0:
                    continue  # (negative by rounding alone)
                hi = first[k, g]
                if best < hi and horner(c, best) <= 0:
                    hi = best
                at = root(c, hi)
            elif cell.fresh[k, g] and c[0] <= 0 and horner(c, first[k, g]) > 0:
                continue
            if at < best:
                best, neuron, surface = at, k, g
    return best, neuron, surface
