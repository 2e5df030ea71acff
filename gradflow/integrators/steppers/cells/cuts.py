"""Where a step is cut, compiled: at what it meets first, or where a flat holds no longer."""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner
from gradflow.integrators.steppers.cells.exchange import (
    MARGIN,
    MET,
    RHS,
    RUNNING,
    TURNS,
    Proposal,
    Room,
)
from gradflow.integrators.steppers.cells.field import field
from gradflow.integrators.steppers.cells.locate import first_crossing, horner, root, suspects
from gradflow.integrators.steppers.cells.locate_margins import first_margin
from gradflow.integrators.steppers.cells.step import dense, excess
from gradflow.integrators.steppers.cells.system import Cell, System, Work

#: A flat is left late by at most this share of a step: the rate starts from zero.
_LATE = 1e-8


@inner
def first_met(
    sys: System, cell: Cell, y: np.ndarray, shape: np.ndarray, room: Room, m: int, D: int, o: int
) -> tuple[float, int, int, int]:
    """What is met first on a step: ``(ξ, how, neuron, surface)``; ξ = 1 and RUNNING if nothing.

    At a margin the neuron is −1, and the surface a datum.
    """
    xi, ended, neuron, surface = 1.0, RUNNING, -1, -1
    if cell.side.shape[1]:
        least = suspects(sys, cell, y, shape, room.heights, room.point, room.first)
        if least <= 1.0:
            at, k, g = first_crossing(sys, cell, y, shape, room.first, least)
            if at <= 1.0:
                xi, ended, neuron, surface = at, MET, k, g
    if sys.trained and np.max(cell.rank) > 0:
        at, k = turning_outer(cell, y, shape, m, D, o, xi)
        if k >= 0:
            xi, ended, neuron = at, TURNS, k
    if cell.act.size:
        at, i = first_margin(sys, cell, y, shape, xi, room.point)
        if i >= 0:
            xi, ended, neuron, surface = at, MARGIN, -1, i
    return xi, ended, neuron, surface


@inner
def turning_outer(
    cell: Cell, y: np.ndarray, shape: np.ndarray, m: int, D: int, o: int, xi: float
) -> tuple[float, int]:
    """Where within ξ ≤ xi the outer weight of a neuron that slides passes 0: ``(ξ, neuron)``."""
    best, neuron = xi, -1
    c = np.empty(5)
    for k in range(m):
        if cell.rank[k] == 0 or o > 1:
            continue
        at = m * D + k
        if y[at] == 0:
            continue
        sign = 1.0 if y[at] > 0 else -1.0
        c[0] = sign * y[at]
        for p in range(4):
            c[p + 1] = sign * shape[p, at]
        for share in (0.25, 0.5, 0.75, 1.0):
            if horner(c, share * best) <= 0:
                best, neuron = root(c, share * best), k
                break
    return best, neuron


@inner
def look(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, h: float, shape: np.ndarray,
    xi: float, turns: int, room: Room, count: np.ndarray,
) -> float:  # fmt: skip
    """Put the state at ξ into ``room.point`` and its field into ``room.dy``; return ln L.

    The outer weight of the neuron ``turns``, if any, is 0 there: its rounding has a sign, and with
    that neuron's flat would be left to either side.
    """
    m, D = work.DW.shape
    dense(y, shape, xi, room.point)
    if turns >= 0:
        room.point[m * D + turns] = 0.0
    count[RHS] += 1
    return field(sys, cell, work, s + xi * h, room.point, room.dy)


@inner
def first_left(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, h: float, step: Proposal,
    xi: float, turns: int, whole: bool, room: Room, count: np.ndarray, log_risk: float,
) -> tuple[float, float, float]:  # fmt: skip
    """The first ξ looked at, up to the one given, at which a flat does not hold; its excess; ln L.

    ξ = 2 if they all hold. ``work`` holds the field, and ``log_risk`` is ln L, at the ξ given,
    before and, if they all hold, after.
    """
    (m, D), o = work.DW.shape, work.DA.shape[1]
    a = room.point[m * D : m * (D + o)].reshape(m, o)
    moved = False
    for i in range(1, 6):
        if step.over[i] > 0 and step.nodes[i] < xi:
            # (stages are no points of the solution)
            log_risk = look(sys, cell, work, s, y, h, step.shape, step.nodes[i], -1, room, count)
            moved = True
            value = excess(sys, cell, work, a)[0]
            if value > 0:
                return step.nodes[i], value, log_risk
    value = step.over[6]
    if whole and moved:
        count[RHS] += 1
        log_risk = field(sys, cell, work, s + h, step.y1, room.dy)
    elif not whole:
        if moved:
            log_risk = look(sys, cell, work, s, y, h, step.shape, xi, turns, room, count)
        value = excess(sys, cell, work, a)[0]
    return xi if value > 0 else 2.0, value, log_risk


@inner
def leave_at(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, h: float, shape: np.ndarray,
    hi: float, value: float, room: Room, count: np.ndarray,
) -> tuple[float, int, float]:  # fmt: skip
    """Where in (0, hi] a flat ceases to hold its neuron, given that it does not at hi.

    Returns ``(ξ, ray, ln L)``, with the state and its field in ``room``; false position with the
    Illinois rule, guarded by bisection.
    """
    (m, D), o = work.DW.shape, work.DA.shape[1]
    a = room.point[m * D : m * (D + o)].reshape(m, o)
    log_risk = look(sys, cell, work, s, y, h, shape, 0.0, -1, room, count)
    low, ray = excess(sys, cell, work, a)
    if low > 0:
        return 0.0, ray, log_risk
    lo, high, side = 0.0, value, 0
    for turn in range(60):
        if hi - lo <= _LATE * hi:
            break
        x = hi - high * (hi - lo) / (high - low)
        x = min(max(x, lo + 0.4 * _LATE * hi), hi - 0.4 * _LATE * hi)
        if turn % 4 == 3 or not lo < x < hi:
            x = 0.5 * (lo + hi)
        look(sys, cell, work, s, y, h, shape, x, -1, room, count)
        here = excess(sys, cell, work, a)[0]
        if here > 0:
            hi, high = x, here
            low = 0.5 * low if side > 0 else low
            side = 1
        else:
            lo, low = x, here
            high = 0.5 * high if side < 0 else high
            side = -1
    log_risk = look(sys, cell, work, s, y, h, shape, hi, -1, room, count)
    return hi, excess(sys, cell, work, a)[1], log_risk
