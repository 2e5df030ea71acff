"""Where on a step the first datum passes its margin, compiled.

Outputs are products of weights, so on a step q_i is a polynomial of higher degree than the weights:
it is evaluated, not expanded.
"""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner
from gradflow.integrators.steppers.cells.step import dense
from gradflow.integrators.steppers.cells.system import Cell, System

#: Fractions of a step at which margins are looked at.
_NODES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: A root is found when its bracket is this narrow.
_NARROW = 4e-16


@inner
def beyond(sys: System, cell: Cell, y: np.ndarray, i: int) -> float:
    """By how much datum i is past its margin from where its pull has it, at the state y."""
    (m, D), total = (cell.S.shape[0], sys.X.shape[1]), 0.0
    for k in range(m):
        z = 0.0
        for d in range(D):
            z += y[k * D + d] * sys.X[i, d]
        total += y[m * D + k] * (cell.S[k, i] * z + cell.T[k, i])
    q = sys.y[i, 0] * (sys.gain * total + sys.offset[i, 0])
    return cell.act[i] * (q - 1.0) - cell.slack[i]


@inner
def all_beyond(sys: System, cell: Cell, y: np.ndarray, Z: np.ndarray, out: np.ndarray) -> None:
    """`beyond` of all data (n,) at once; ``Z`` (m, n) is room."""
    (m, n), D = cell.S.shape, sys.X.shape[1]
    np.dot(y[: m * D].reshape(m, D), sys.XT, Z)
    out[:] = 0.0
    for k in range(m):
        a = y[m * D + k]
        for i in range(n):
            out[i] += a * (cell.S[k, i] * Z[k, i] + cell.T[k, i])
    for i in range(n):
        q = sys.y[i, 0] * (sys.gain * out[i] + sys.offset[i, 0])
        out[i] = cell.act[i] * (q - 1.0) - cell.slack[i]


@inner
def margin_root(
    sys: System, cell: Cell, y: np.ndarray, shape: np.ndarray, i: int, low: float, hi: float,
    high: float, point: np.ndarray,
) -> float:  # fmt: skip
    """Where in (0, hi] datum i passes its margin: ``low`` ≤ 0 at 0, ``high`` > 0 at hi; past it."""
    lo, side = 0.0, 0
    for turn in range(100):
        if hi - lo <= _NARROW * hi:
            break
        x = hi - high * (hi - lo) / (high - low)
        if turn % 6 == 5 or not lo < x < hi:
            x = 0.5 * (lo + hi)
        dense(y, shape, x, point)
        here = beyond(sys, cell, point, i)
        if here > 0:
            hi, high = x, here
            low = 0.5 * low if side > 0 else low
            side = 1
        else:
            lo, low = x, here
            high = 0.5 * high if side < 0 else high
            side = -1
        if here == 0.0:
            return x
    return hi


@inner
def first_margin(
    sys: System, cell: Cell, y: np.ndarray, shape: np.ndarray, limit: float, point: np.ndarray
) -> tuple[float, int]:
    """The first datum that passes its margin within ξ ≤ limit: ``(ξ, datum)``; (limit, −1) if none.

    Looked at: five nodes, and the highest points of the parabolas through three of them.
    """
    m, n = cell.S.shape
    Z, values = np.empty((m, n)), np.empty((5, n))
    for node in range(5):
        dense(y, shape, limit * _NODES[node], point)
        all_beyond(sys, cell, point, Z, values[node])
    best, datum = limit, -1
    for i in range(n):
        if cell.act[i] == 0:
            continue
        if values[0, i] > 0:
            return 0.0, i
        hi, high = 2.0, 0.0
        for node in range(1, 5):
            before, middle = values[node - 1, i], values[node, i]
            if middle > 0:
                hi, high = limit * _NODES[node], middle
                break
            after = values[node + 1, i] if node < 4 else middle
            bend = before - 2 * middle + after
            if node == 4 or middle < before or middle < after or not bend < 0:
                continue
            if middle - (before - after) ** 2 / (8 * bend) > 0.3 * middle:
                xi = limit * (_NODES[node] + 0.125 * (before - after) / bend)
                dense(y, shape, xi, point)
                top = beyond(sys, cell, point, i)
                if top > 0:
                    hi, high = xi, top
                    break
        if hi > best:
            if hi > limit or datum < 0:
                continue
            dense(y, shape, best, point)
            hi, high = best, beyond(sys, cell, point, i)
            if high <= 0:
                continue
        at = margin_root(sys, cell, y, shape, i, values[0, i], hi, high, point)
        if at <= best:
            best, datum = at, i
    return best, datum
