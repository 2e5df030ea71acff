"""Whether a flow in the loss clock has come to rest at a positive loss.

The loss clock of a margin loss ends nowhere unless the data get separated. At a stable rest the
steps of an explicit method stay short, so that waiting for the clock to grow would take for ever.
"""

from __future__ import annotations

import numpy as np

from gradflow.flows.event import limits
from gradflow.integrators.contract import Problem
from gradflow.integrators.steppers.piecewise.step import Carry, Rates

#: Attempted steps between two looks.
LOOK = 2_000
#: Rates below this many tolerances are those of a state at rest: an explicit method hovers there.
_HOVER = 100.0
#: Neurons below this share of the largest squared one are small.
_SMALL = 1e-4
#: Forces below this share of the largest are faint.
_FAINT = 1e-2
#: An end that is this many steps away is waited for.
_PATIENCE = 200_000


def is_at_rest(now: Rates, W: np.ndarray, a: np.ndarray, sizes: np.ndarray, rtol: float) -> bool:
    """Whether every neuron's rate, in units of what could move it, is zero to the tolerance.

    A small neuron that grows away from a saddle has a rate of its own size, so this is no plateau.

    Parameters
    ----------
    now : Rates
        Of ln L: ``dW`` (m, D), ``da`` (m,).
    W, a : (m, D), (m,) arrays
    sizes : (G,) array
        Norms of the normals.
    """
    unit = float(np.max(sizes, initial=0.0))
    # A small neuron that shrinks goes on shrinking, at a rate of its own size, and moves no other.
    mass = a**2 + np.sum(W**2, axis=1)
    shrinks = (a * now.da + np.sum(W * now.dW, axis=1) <= 0) & (mass <= _SMALL * np.max(mass))
    could = unit * np.stack([np.abs(a), np.linalg.norm(W, axis=1)])
    does = np.stack([np.linalg.norm(now.dW, axis=1), np.abs(now.da)])
    return bool(np.all((does <= _HOVER * rtol * could) | shrinks))


def pulls_unseen(now: Rates, sides: np.ndarray, held: np.ndarray) -> bool:
    """Whether all that still pulls hard is seen by no neuron, so that it holds nobody in place.

    What is seen, though faint, is then all there is: no rest.

    Parameters
    ----------
    now : Rates
        ``up``, ``down`` (G,): the forces of the two sides.
    sides : (m, G) ints
        +1, -1, 0 = sliding.
    held : (m, K) array
        Forces with which surfaces slid on hold a neuron.
    """
    loud = max(np.max(np.abs(now.up), initial=0.0), np.max(np.abs(now.down), initial=0.0))
    felt = np.where(sides > 0, np.abs(now.up), np.where(sides < 0, np.abs(now.down), 0.0))
    most = max(float(np.max(felt, initial=0.0)), float(np.max(np.abs(held), initial=0.0)))
    return 0 < most < _FAINT * loud


def end_is_far(problem: Problem, carry: Carry, log_risk: float) -> bool:
    """Whether a time to stop at, if any, is out of reach at the present step and loss."""
    if np.isfinite(problem.s_end):
        return False
    taus = limits(problem.events, "time")
    if not taus:
        return True
    # Δs = L Δt.
    with np.errstate(over="ignore"):
        steps = np.exp(min(taus) + log_risk) / max(float(carry.h), 1e-300)
    return bool(steps > _PATIENCE)
