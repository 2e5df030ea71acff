"""What the compiled loop and the host hand each other: codes, places of numbers, rows of steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: How the loop ended: its share is done, the end of the clock's interval, the step is too small,
#: something is not finite; or what the host is to decide: a surface met, a way off a flat, the sign
#: of an outer weight whose neuron slides, steps that stability limits, a datum at its margin, one
#: that is held there no longer.
RUNNING, REACHED, TOO_SMALL, NON_FINITE, MET, LEAVES, TURNS, STIFF = 0, 1, 2, 3, 4, 5, 6, 7
MARGIN, RELEASED = 8, 9
#: Places of the numbers in ``num`` and ``count``.
S, H, LOG_RISK, BUDGET, S_END = 0, 1, 2, 3, 4
ATTEMPTS, ACCEPTED, RHS, NEURON, SURFACE, STUCK, ROWS, EVENTS = 0, 1, 2, 3, 4, 5, 6, 7
JACOBIANS = 10


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
