"""The Jacobian of the state's field at a point, from what the field has just found there."""

from __future__ import annotations

import math

import numpy as np

from gradflow.integrators.steppers.cells.curvature import curvature_roots
from gradflow.integrators.steppers.cells.implicit import StateJacobian
from gradflow.integrators.steppers.cells.jacobian import CellJacobian
from gradflow.integrators.steppers.cells.system import LOG, LOSS, Cell, System, Work


def linearise(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, dy: np.ndarray, log_risk: float
) -> StateJacobian:
    r"""Return the Jacobian at (s, y), where ``field`` has just filled ``work`` and dy.

    The rate of the energy E is :math:`|\dot\theta|^2` in physical time, so with the clock's
    :math:`F=d\theta/ds` and Jacobian J

    .. math:: \partial_\theta\frac{dE}{ds}=2JF,\qquad 2e^{-u}JF,\qquad L(2JF-|F|^2F)

    in the physical, the log and the loss clock; that of τ = ln(1+t) is
    :math:`\tau'=1/(Le^\tau)` in the last, with the derivatives :math:`\tau'F` and −τ'.
    """
    weights = _of_weights(sys, cell, work, s, y, dy, log_risk)
    P, (m, o) = weights.size, work.DA.shape
    place = m * (sys.X.shape[1] + o)
    F = dy[:P]
    bent = 2.0 * weights.times(F)
    own = np.zeros(y.size - place)
    if sys.clock == LOG:
        rows = bent[None] * math.exp(-s)
        return StateJacobian(weights, place - P, rows, own, by_clock=dy)
    if sys.clock == LOSS:
        risk, pace = math.exp(min(log_risk, 700.0)), dy[place + 1]
        rows = np.stack([risk * (bent - (F @ F) * F), pace * F])
        own[1] = -pace
        return StateJacobian(weights, place - P, rows, own)
    return StateJacobian(weights, place - P, bent[None], own)


def _of_weights(
    sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, dy: np.ndarray, log_risk: float
) -> CellJacobian:
    (m, o), D = work.DA.shape, sys.X.shape[1]
    W, a = y[: m * D].reshape(m, D), y[m * D : m * (D + o)].reshape(m, o)
    log_pace = s if sys.clock == LOG else 0.0  # of physical forces
    log_unit = log_risk if sys.clock == LOSS else -log_pace
    unit = math.exp(-log_unit)
    P = m * (D + o) if sys.trained else m * D
    return CellJacobian(
        inputs=sys.X,
        slopes=cell.S,
        values=sys.gain * work.A,
        outer=sys.gain * a,
        pulls=sys.gain * math.exp(log_pace) * work.r,
        roots=curvature_roots(sys.loss, work.f, sys.y, sys.logw - log_unit),
        slides=_slides(cell),
        trained=bool(sys.trained),
        decay=unit * sys.l2w,
        decay_outer=unit * sys.l2a,
        extra=_of_variation(unit * sys.tv, W, a) if sys.tv > 0 else None,
        climb=dy[:P] if sys.clock == LOSS else None,
    )


def _slides(cell: Cell) -> dict[int, np.ndarray]:
    D = cell.Q.shape[2]
    return {
        int(k): cell.Q[k, : cell.rank[k]] if cell.rank[k] < D else np.eye(D)
        for k in np.flatnonzero(cell.rank)
    }


def _of_variation(tv: float, W: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return −τ ∂²(|a_k| |w_k|) (m, D + o, D + o); zero where a neuron has no mass."""
    D, o = W.shape[1], a.shape[1]
    size, mass = np.linalg.norm(W, axis=1), np.linalg.norm(a, axis=1)
    some = (size > 0) & (mass > 0)
    size, mass = np.where(some, size, 1.0), np.where(some, mass, 1.0)
    unit_w, unit_a = W / size[:, None], a / mass[:, None]
    H = np.empty((len(W), D + o, D + o))
    H[:, :D, :D] = (mass / size)[:, None, None] * (
        np.eye(D) - unit_w[:, :, None] * unit_w[:, None, :]
    )
    H[:, D:, D:] = (size / mass)[:, None, None] * (
        np.eye(o) - unit_a[:, :, None] * unit_a[:, None, :]
    )
    H[:, :D, D:] = unit_w[:, :, None] * unit_a[:, None, :]
    H[:, D:, :D] = H[:, :D, D:].transpose(0, 2, 1)
    return np.where(some[:, None, None], -tv * H, 0.0)
