"""The compiled loop: steps, cut where a surface is met, and the plain crossings among the meetings.

What needs more than a crossing is left to the host (:mod:`.events`): the loop returns with the step
cut there, and the host decides and comes back.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner, kernel
from gradflow.integrators.steppers.cells.field import field, force, in_clock
from gradflow.integrators.steppers.cells.hold import hold
from gradflow.integrators.steppers.cells.locate import (
    FRESH,
    ON_SURFACE,
    PARKED,
    first_crossing,
    horner,
    norm,
    root,
    suspects,
)
from gradflow.integrators.steppers.cells.locate_margins import first_margin
from gradflow.integrators.steppers.cells.margins import settle_margins
from gradflow.integrators.steppers.cells.step import (
    Tableau,
    dense,
    error_norm,
    estimate,
    excess,
    step,
    watched,
)
from gradflow.integrators.steppers.cells.stiffness import limited, rate_of_stages
from gradflow.integrators.steppers.cells.system import LOG, LOSS, Cell, System, Work

#: How the loop ended: its share is done, the end of the clock's interval, the step is too small,
#: something is not finite; or what the host is to decide: a surface met, a way off a flat, the sign
#: of an outer weight whose neuron slides, steps that stability limits, a datum at its margin, one
#: that is held there no longer.
RUNNING, REACHED, TOO_SMALL, NON_FINITE, MET, LEAVES, TURNS, STIFF = 0, 1, 2, 3, 4, 5, 6, 7
MARGIN, RELEASED = 8, 9
#: What happened.
CROSSED = 0
#: Places of the numbers in ``num`` and ``count``.
S, H, LOG_RISK, BUDGET, S_END = 0, 1, 2, 3, 4
ATTEMPTS, ACCEPTED, RHS, NEURON, SURFACE, STUCK, ROWS, EVENTS = 0, 1, 2, 3, 4, 5, 6, 7
JACOBIANS = 10
#: Zero-length events of one neuron in a row after which the host resolves its surfaces together.
MOST_STUCK = 6
#: A neuron whose |w| falls below this share of itself within a step has reached 0.
AT_ORIGIN = 1e-9
#: A pair has left its surface from this distance on, relative to |w||n|.
OFF = 1e-12
#: A pair that was parked on its surface has moved off it, to whichever side.
GONE = 1e-10
#: A rate below this share of its terms is rounding.
RATE = 1e-12
#: A fraction of a step below which it counts as of length zero.
NO_LENGTH = 1e-10
#: A flat is left late by at most this share of a step: the rate starts from zero.
_LATE = 1e-8


class Record(NamedTuple):
    """Accepted steps and events of one call, filled by the loop.

    Attributes
    ----------
    s, y : (rows + 1,), (rows + 1, dim) arrays
        Row 0 is the start.
    values : (rows + 1, 4) array
        ln L, ln |dθ/dt|, ln of the turning per unit of ln(1+t), min_i y_i f_i.
    shape : (rows, 4, dim) array
        Each step's coefficients of ξ … ξ⁴.
    event_s : (events,) array
    event : (events, 3) ints
        Row of the state, neuron, surface.
    """

    s: np.ndarray
    y: np.ndarray
    values: np.ndarray
    shape: np.ndarray
    event_s: np.ndarray
    event: np.ndarray


class Proposal(NamedTuple):
    """A step within its tolerance, before what happens in it is looked for.

    Attributes
    ----------
    y1, f1 : (dim,) arrays
        The state at its end and the field there.
    shape : (4, dim) array
        The coefficients of ξ … ξ⁴.
    over : (7,) array
        By how much a flat may be left at the nodes; the last, exact, at the end.
    nodes : (7,) array
    """

    y1: np.ndarray
    f1: np.ndarray
    shape: np.ndarray
    over: np.ndarray
    nodes: np.ndarray


class Room(NamedTuple):
    """Room to look at points of a step: a state, its field, and (m, G), (5, m, G) arrays."""

    point: np.ndarray
    dy: np.ndarray
    first: np.ndarray
    heights: np.ndarray


@kernel
def measure(
    sys: System, work: Work, s: float, y: np.ndarray, log_risk: float, out: np.ndarray
) -> None:
    """ln L, ln |dθ/dt|, the logarithm of the direction's turning, the least margin into ``out``."""
    m, D = work.DW.shape
    o = work.DA.shape[1]
    size, along, speed = 0.0, 0.0, 0.0
    for k in range(m):
        for d in range(D):
            size += y[k * D + d] ** 2
            along += y[k * D + d] * work.DW[k, d]
            speed += work.DW[k, d] ** 2
        for j in range(o):
            size += y[m * D + k * o + j] ** 2
            along += y[m * D + k * o + j] * work.DA[k, j]
            speed += work.DA[k, j] ** 2
    along = along / size if size > 0 else 0.0
    across = 0.0
    for k in range(m):
        for d in range(D):
            across += (work.DW[k, d] - along * y[k * D + d]) ** 2
        for j in range(o):
            across += (work.DA[k, j] - along * y[m * D + k * o + j]) ** 2
    if sys.clock == LOSS:
        unit, later = log_risk, y[m * (D + o) + 1]
    else:
        unit, later = 0.0, s if sys.clock == LOG else math.log1p(s)
    out[0] = log_risk
    out[1] = 0.5 * math.log(speed) + unit if speed > 0 else -np.inf
    out[2] = 0.5 * math.log(across / size) + unit + later if across > 0 else -np.inf
    out[3] = np.inf
    for i in range(work.f.shape[0]):
        out[3] = min(out[3], work.f[i, 0] * sys.y[i, 0])


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
        if abs(height(sys, w, other)) <= ON_SURFACE * size * sys.size[other]:
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
def leave_at(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, h: float, shape: np.ndarray,
    hi: float, value: float, point: np.ndarray, dy: np.ndarray,
) -> tuple[float, int, int]:  # fmt: skip
    """Where in (0, hi] a flat ceases to hold its neuron, given that it does not at hi.

    Returns ``(ξ, ray, evaluations)``; false position with the Illinois rule, guarded by bisection.
    """
    (m, D), o = work.DW.shape, work.DA.shape[1]
    a = point[m * D : m * (D + o)].reshape(m, o)
    lo, low, side, count = 0.0, -1.0, 0, 1
    field(sys, cell, work, s, y, dy)
    low = excess(sys, cell, work, y[m * D : m * (D + o)].reshape(m, o))[0]
    if low > 0:
        return 0.0, excess(sys, cell, work, y[m * D : m * (D + o)].reshape(m, o))[1], count
    high = value
    for turn in range(60):
        if hi - lo <= _LATE * hi:
            break
        x = hi - high * (hi - lo) / (high - low)
        x = min(max(x, lo + 0.4 * _LATE * hi), hi - 0.4 * _LATE * hi)
        if turn % 4 == 3 or not lo < x < hi:
            x = 0.5 * (lo + hi)
        dense(y, shape, x, point)
        field(sys, cell, work, s + x * h, point, dy)
        here = excess(sys, cell, work, a)[0]
        count += 1
        if here > 0:
            hi, high = x, here
            low = 0.5 * low if side > 0 else low
            side = 1
        else:
            lo, low = x, here
            high = 0.5 * high if side < 0 else high
            side = -1
    dense(y, shape, hi, point)
    field(sys, cell, work, s + hi * h, point, dy)
    return hi, excess(sys, cell, work, a)[1], count + 1


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
def look(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, h: float, shape: np.ndarray,
    xi: float, turns: int, room: Room,
) -> float:  # fmt: skip
    """Put the state at ξ into ``room.point`` and its field into ``room.dy``; return ln L.

    The outer weight of the neuron ``turns``, if any, is 0 there: its rounding has a sign, and with
    that neuron's flat would be left to either side.
    """
    m, D = work.DW.shape
    dense(y, shape, xi, room.point)
    if turns >= 0:
        room.point[m * D + turns] = 0.0
    return field(sys, cell, work, s + xi * h, room.point, room.dy)


@inner
def first_left(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, h: float, step: Proposal,
    xi: float, turns: int, whole: bool, room: Room, count: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """The first ξ looked at, up to the one given, at which a flat does not hold; its excess.

    2 if they all hold.
    """
    (m, D), o = work.DW.shape, work.DA.shape[1]
    a = room.point[m * D : m * (D + o)].reshape(m, o)
    for i in range(1, 6):
        if step.over[i] > 0 and step.nodes[i] < xi:
            # (stages are no points of the solution)
            look(sys, cell, work, s, y, h, step.shape, step.nodes[i], -1, room)
            count[RHS] += 1
            value = excess(sys, cell, work, a)[0]
            if value > 0:
                return step.nodes[i], value
    value = step.over[6]
    if not whole:
        look(sys, cell, work, s, y, h, step.shape, xi, turns, room)
        value = excess(sys, cell, work, a)[0]
    return (xi, value) if value > 0 else (2.0, value)


@kernel
def take(
    sys: System, cell: Cell, work: Work, num: np.ndarray, count: np.ndarray, y: np.ndarray,
    k1: np.ndarray, h: float, ends: bool, step: Proposal, log_risk: float, room: Room,
    record: Record,
) -> int:  # fmt: skip
    """Go along an accepted step as far as what happens first in it; return how it ended."""
    (m, D), o, s = work.DW.shape, work.DA.shape[1], num[S]
    xi, ended, neuron, surface = first_met(sys, cell, y, step.shape, room, m, D, o)
    turns = neuron if ended == TURNS else -1
    whole = xi >= 1.0 and ended == RUNNING
    if not whole:
        log_risk = look(sys, cell, work, s, y, h, step.shape, xi, turns, room)
        count[RHS] += 1
    if watched(cell):
        hi, value = first_left(sys, cell, work, s, y, h, step, xi, turns, whole, room, count)
        if hi <= 1.0:
            xi, surface, more = leave_at(
                sys, cell, work, s, y, h, step.shape, hi, value, room.point, room.dy
            )
            count[RHS] += more
            ended, neuron, turns, whole = LEAVES, -1, -1, False
            if surface < cell.ray_neuron.size:
                neuron = cell.ray_neuron[surface]
            else:
                ended = RELEASED
        if not whole:
            log_risk = look(sys, cell, work, s, y, h, step.shape, xi, turns, room)
        elif np.max(step.over[1:6]) > 0:
            log_risk = field(sys, cell, work, s + h, step.y1, room.dy)
    before = norm(y[neuron * D : (neuron + 1) * D]) if neuron >= 0 else 0.0
    if whole:
        y[:], k1[:] = step.y1, step.f1
        num[S] = num[S_END] if ends else s + h
    else:
        y[:], k1[:] = room.point, room.dy
        num[S] = s + xi * h
    settle(sys, cell, y, m, D)
    if cell.act.size:
        settle_margins(sys, cell, work, y)
    num[LOG_RISK] = log_risk
    if ended != RUNNING:
        ended = happened(
            sys, cell, work, num, count, y, k1, before, ended, xi, neuron, surface, record
        )
    else:
        count[STUCK] = 0
    write(sys, work, num, count, y, step.shape, xi, record)
    if not np.all(np.isfinite(k1)):
        return NON_FINITE
    return REACHED if ended == RUNNING and num[S] >= num[S_END] else ended


@inner
def happened(
    sys: System, cell: Cell, work: Work, num: np.ndarray, count: np.ndarray, y: np.ndarray,
    k1: np.ndarray, before: float, ended: int, xi: float, neuron: int, surface: int, record: Record,
) -> int:  # fmt: skip
    """Note what has cut a step, and let a neuron cross if that is all; return what is left."""
    stuck = xi <= NO_LENGTH and neuron == count[NEURON]
    count[STUCK] = count[STUCK] + 1 if stuck else 0
    count[NEURON], count[SURFACE] = neuron, surface
    if ended != MET or count[STUCK] > MOST_STUCK:
        return ended
    if not cross(sys, cell, work, y, before, neuron, surface):
        return ended
    if cell.kept.size and not agrees(sys, cell, work, num[S], y, k1, neuron, surface):
        return ended
    place = count[EVENTS]
    record.event_s[place] = num[S]
    record.event[place, 0] = count[ROWS] + 1
    record.event[place, 1] = neuron
    record.event[place, 2] = surface
    count[EVENTS] += 1
    in_clock(sys, work, num[S], num[LOG_RISK], y, k1)
    return RUNNING


@inner
def write(
    sys: System, work: Work, num: np.ndarray, count: np.ndarray, y: np.ndarray, shape: np.ndarray,
    xi: float, record: Record,
) -> None:  # fmt: skip
    """Record the step to ξ that has been taken."""
    row, share = count[ROWS], 1.0
    for p in range(4):
        share *= xi
        for c in range(y.size):
            record.shape[row, p, c] = share * shape[p, c]
    measure(sys, work, num[S], y, num[LOG_RISK], record.values[row + 1])
    record.s[row + 1] = num[S]
    record.y[row + 1] = y
    count[ROWS] += 1
    count[ACCEPTED] += 1


@kernel
def advance(
    tab: Tableau, sys: System, cell: Cell, work: Work, num: np.ndarray, count: np.ndarray,
    y: np.ndarray, k1: np.ndarray, attempts: int, accepted: int, record: Record,
) -> int:  # fmt: skip
    """Take steps from ``y``, whose field is ``k1``, both changed in place; return how it ended.

    At most ``attempts`` attempted and ``accepted`` accepted steps, and no more than ``record`` has
    room for.
    """
    (m, D), o, dim = work.DW.shape, work.DA.shape[1], y.size
    K, y1 = np.empty((7, dim)), np.empty(dim)
    shape, over = np.empty((4, dim)), np.empty(7)
    room = Room(
        np.empty(dim), np.empty(dim), np.empty(cell.side.shape),
        np.empty((5, m, cell.side.shape[1])),
    )  # fmt: skip
    proposal = Proposal(y1, K[6], shape, over, tab.C)
    count[ROWS] = count[EVENTS] = 0
    last_try, last_row = count[ATTEMPTS] + attempts, count[ACCEPTED] + accepted
    code = RUNNING
    while code == RUNNING and goes_on(count, last_try, last_row, record):
        s = num[S]
        ends = s + num[H] > num[S_END] - 1e-12 * num[H]
        h = num[S_END] - s if ends else num[H]
        K[0] = k1
        log_risk = step(tab, sys, cell, work, s, y, h, K, y1, shape, over, num[LOG_RISK])
        estimate(tab, h, K, room.dy)
        worst = error_norm(sys, y, y1, room.dy, m, D, o, num[BUDGET])
        count[ATTEMPTS] += 1
        count[RHS] += 6
        factor = min(max(0.9 * max(worst, 1e-30) ** -0.2, 0.2), 8.0)
        if not worst <= 1.0:
            num[H] = h * min(factor, 0.9)
            if s + num[H] == s:
                code = TOO_SMALL
            continue
        stiff = limited(count, h * rate_of_stages(tab, y, h, K, y1, m * (D + o)))
        # What was remembered stays where the end of the interval cut the step.
        num[H] = max(h * factor, num[H]) if ends else h * factor
        code = take(sys, cell, work, num, count, y, k1, h, ends, proposal, log_risk, room, record)
        if stiff and code == RUNNING:
            code = STIFF
    return code


@kernel
def goes_on(count: np.ndarray, last_try: int, last_row: int, record: Record) -> bool:
    """Whether more steps are wanted, and there is room for them."""
    wanted = count[ATTEMPTS] < last_try and count[ACCEPTED] < last_row
    return wanted and count[ROWS] < record.shape.shape[0] and count[EVENTS] < record.event_s.size
