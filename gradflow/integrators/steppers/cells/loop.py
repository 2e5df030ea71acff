"""The compiled loop: steps, cut where a surface is met, and the plain crossings among the meetings.

What needs more than a crossing is left to the host (:mod:`.host`): the loop returns with the step
cut there, and the host decides and comes back.
"""

from __future__ import annotations

import math

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner, kernel
from gradflow.integrators.steppers.cells.crossing import agrees, cross, settle
from gradflow.integrators.steppers.cells.cuts import first_left, first_met, leave_at, look
from gradflow.integrators.steppers.cells.exchange import (
    ACCEPTED,
    ATTEMPTS,
    BUDGET,
    EVENTS,
    LEAVES,
    LOG_RISK,
    MET,
    NEURON,
    NON_FINITE,
    REACHED,
    RELEASED,
    RHS,
    ROWS,
    RUNNING,
    S_END,
    STIFF,
    STUCK,
    SURFACE,
    TOO_SMALL,
    TURNS,
    H,
    Proposal,
    Record,
    Room,
    S,
)
from gradflow.integrators.steppers.cells.field import in_clock
from gradflow.integrators.steppers.cells.locate import norm
from gradflow.integrators.steppers.cells.margins import settle_margins
from gradflow.integrators.steppers.cells.step import (
    Tableau,
    error_norm,
    estimate,
    step,
    watched,
)
from gradflow.integrators.steppers.cells.stiffness import limited, rate_of_stages
from gradflow.integrators.steppers.cells.system import LOG, LOSS, Cell, System, Work

#: Zero-length events of one neuron in a row after which the host resolves its surfaces together.
MOST_STUCK = 6
#: A fraction of a step below which it counts as of length zero.
NO_LENGTH = 1e-10


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
        log_risk = look(sys, cell, work, s, y, h, step.shape, xi, turns, room, count)
    if watched(cell):
        hi, value, log_risk = first_left(
            sys, cell, work, s, y, h, step, xi, turns, whole, room, count, log_risk
        )
        if hi <= 1.0:
            xi, surface, log_risk = leave_at(
                sys, cell, work, s, y, h, step.shape, hi, value, room, count
            )
            ended, neuron, whole = LEAVES, -1, False
            if surface < cell.ray_neuron.size:
                neuron = cell.ray_neuron[surface]
            else:
                ended = RELEASED
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
