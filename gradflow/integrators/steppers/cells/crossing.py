"""Neurons on and off their surfaces, compiled: onto a flat, and plain crossings."""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner
from gradflow.integrators.steppers.cells.field import field, force
from gradflow.integrators.steppers.cells.hold import hold
from gradflow.integrators.steppers.cells.locate import FRESH, ON_SURFACE, PARKED, norm
from gradflow.integrators.steppers.cells.step import excess
from gradflow.integrators.steppers.cells.system import Cell, System, Work

#: A neuron whose |w| falls below this share of itself within a step has reached 0.
AT_ORIGIN = 1e-9
#: A pair has left its surface from this distance on, relative to |w||n|.
OFF = 1e-12
#: A pair that was parked on its surface has moved off it, to whichever side.
GONE = 1e-10
#: A rate below this share of its terms is rounding.
RATE = 1e-12


@inner
def settle(sys: System, cell: Cell, y: np.ndarray, m: int, D: int) -> None:
    """Put sliding neurons on their flats; pairs well off their surface are fresh no more."""
    W = y[: m * D].reshape(m, D)
    for k in range(m):
        if cell.rank[k] == D:
            continue
        for j in range(cell.rank[k]):
            c = -cell.held[k, j]
            for d in range(D):
                c += cell.Q[k, j, d] * W[k, d]
            for d in range(D):
                W[k, d] -= c * cell.Q[k, j, d]
        size = -1.0
        for g in range(cell.side.shape[1]):
            if cell.fresh[k, g]:
                if size < 0:
                    size = norm(W[k])
                h = cell.side[k, g] * height(sys, W[k], g)
                if cell.fresh[k, g] == PARKED:
                    h = OFF / GONE * abs(h)
                if h > OFF * size * sys.size[g]:
                    cell.fresh[k, g] = 0


@inner
def height(sys: System, w: np.ndarray, g: int) -> float:
    """n_g·w − level_g."""
    total = -sys.level[g]
    for d in range(w.size):
        total += sys.N[g, d] * w[d]
    return total


@inner
def piece_of(sys: System, e: int, side: int) -> int:
    """The piece of entry e of a surface on one of its sides."""
    return sys.piece[e] if side * sys.way[e] < 0 else sys.piece[e] + 1


@inner
def cross(
    sys: System, cell: Cell, work: Work, y: np.ndarray, before: float, k: int, g: int
) -> bool:
    """Let neuron k cross surface g, if that is all that happens there; whether it did.

    ``work`` holds the field at y. The rates on both sides must point across, no other surface be
    near, no flat be left.
    """
    m, D = work.DW.shape
    o = work.DA.shape[1]
    W, a = y[: m * D].reshape(m, D), y[m * D : m * (D + o)].reshape(m, o)
    w, side = W[k], cell.side[k, g]
    size = max(norm(w), 1e-300)
    if size <= AT_ORIGIN * before or cell.fresh[k, g]:
        return False
    for other in range(cell.side.shape[1]):
        if other == g or cell.side[k, other] == 0:
            continue
        near = size * sys.size[other] + abs(sys.level[other])
        if abs(height(sys, w, other)) <= ON_SURFACE * near:
            return False
    way = sys.N[g].copy()
    hold(cell.Q[k], cell.rank[k], way)
    reach = norm(way)
    if reach < 1e-7 * sys.size[g]:
        return False
    old, scale = 0.0, 0.0
    for d in range(D):
        old += sys.N[g, d] * work.DW[k, d]
        scale += abs(sys.N[g, d] * work.V[k, d])
    V = work.V[k].copy()
    for e in range(sys.start[g], sys.start[g + 1]):
        i = sys.datum[e]
        change = sys.slopes[piece_of(sys, e, -side)] - sys.slopes[piece_of(sys, e, side)]
        pulling = force(sys, work, a, k, i) * change
        for d in range(D):
            V[d] += pulling * sys.X[i, d]
    raw = V.copy()
    hold(cell.Q[k], cell.rank[k], V)
    new = 0.0
    for d in range(D):
        new += sys.N[g, d] * V[d]
        scale += abs(sys.N[g, d] * raw[d])
    mass = 0.0
    for j in range(o):
        mass += abs(a[k, j])
    slack = RATE * scale + sys.gain * mass * sys.hush * sys.size[g]
    if not (-side * old > 0 and -side * new > slack):
        return False
    saved = work.V[k].copy()
    work.V[k] = raw
    if cell.rank[k] and excess(sys, cell, work, a)[0] > 0:
        work.V[k] = saved
        return False
    work.DW[k] = V
    h = height(sys, w, g) / reach**2
    for d in range(D):
        w[d] -= h * way[d]
    put(sys, cell, k, g, -side)
    cell.fresh[k, g] = FRESH
    return True


@inner
def put(sys: System, cell: Cell, k: int, g: int, side: int) -> None:
    """Put neuron k on a side of surface g."""
    for e in range(sys.start[g], sys.start[g + 1]):
        i, piece = sys.datum[e], piece_of(sys, e, side)
        cell.S[k, i], cell.T[k, i] = sys.slopes[piece], sys.icepts[piece]
    cell.side[k, g] = side


@inner
def agrees(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, k1: np.ndarray, k: int, g: int
) -> bool:
    """Whether neuron k goes on across g, and all held data stay, with the pulls that hold them.

    If not, it is put back.
    """
    m, D = work.DW.shape
    field(sys, cell, work, s, y, k1)
    rate, scale = 0.0, 0.0
    for d in range(D):
        rate += sys.N[g, d] * work.DW[k, d]
        scale += abs(sys.N[g, d] * work.DW[k, d])
    a = y[m * D : m * (D + 1)].reshape(m, 1)
    if cell.side[k, g] * rate > RATE * scale and excess(sys, cell, work, a)[0] <= 0:
        return True
    put(sys, cell, k, g, -cell.side[k, g])
    cell.fresh[k, g] = 0
    field(sys, cell, work, s, y, k1)
    return False
