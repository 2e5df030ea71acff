r"""How a flow in a cell moves in physical time, for whoever asks whether it rests.

The velocity F and its Jacobian hold the slides. Where the residuals cancel, F is what rounding
leaves: an output carries errors of ε times its terms, which the loss's curvature E_i and the
slopes hand on,

.. math:: \delta F_{w_k}=\sum_i|a_k||S_{ki}||x_i|\,\nu_i,\qquad
          \delta F_{a_k}=\sum_i|\varphi_{ki}|\nu_i,

.. math:: \nu_i=c\,\epsilon\,\bigl(|r_i|+E_i(|y_i|+\textstyle\sum_k|a_k\varphi_{ki}|)\bigr).
"""

from __future__ import annotations

import math

import numpy as np

from gradflow.integrators.steppers.cells.exchange import (
    LOG_RISK,
    S,
)
from gradflow.integrators.steppers.cells.host import Host
from gradflow.integrators.steppers.cells.jacobian import CellJacobian
from gradflow.integrators.steppers.cells.linearise import linearise
from gradflow.integrators.steppers.cells.margins import gradients
from gradflow.integrators.steppers.cells.system import LOG, LOSS, SQUARED

#: Roundings that meet in a velocity, and in steps taken about a rest.
_ROUNDINGS = 32.0


def motion(host: Host) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return velocity (N,), Jacobian (N, N) and noise (N,) of all m(D + o) weights at the state."""
    host.refresh()
    sys, s = host.sys, float(host.num[S])
    at = linearise(sys, host.cell, host.work, s, host.y, host.k1, host.num[LOG_RISK]).weights
    P, N = at.size, host.m * (host.D + host.o)
    pace = 1.0
    if sys.clock == LOSS:
        pace = math.exp(host.num[LOG_RISK])
    elif sys.clock == LOG:
        pace = math.exp(-s)
    F, J, noise = np.zeros(N), np.zeros((N, N)), np.zeros(N)
    F[:P] = pace * host.k1[:P]
    J[:P, :P] = at.dense
    if at.climb is not None:
        J[:P, :P] -= np.outer(at.climb, at.climb)
    J *= pace
    J[:P, :P] = _along_margins(host, J[:P, :P])
    noise[:P] = pace * _noise(host, at) + _ROUNDINGS * _EPS * (np.abs(J[:P, :P]) @ abs(host.y[:P]))
    return F, J, noise


_EPS = float(np.finfo(float).eps)


def _along_margins(host: Host, J: np.ndarray) -> np.ndarray:
    """J (P, P) between the directions in which data held at their margin stay there.

    The multipliers are in the pulls: where the flow rests, the curvature of the margins with it.
    """
    kept = host.cell.kept
    if not kept.size:
        return J
    G = np.zeros((kept.size, len(J)))
    gradients(host.sys, host.cell, host.work, host.a, kept, G)
    Q = np.linalg.qr(G.T)[0]
    J = J - Q @ (Q.T @ J)
    return J - (J @ Q) @ Q.T


def _noise(host: Host, at: CellJacobian) -> np.ndarray:
    """δF (P,), in the unit of the clock."""
    terms = np.abs(at.values).T @ np.abs(host.a) + np.abs(host.sys.offset)
    if host.sys.loss == SQUARED:
        terms = terms + np.abs(host.sys.y)
    curvature = np.abs(at.roots @ at.roots.transpose(0, 2, 1))
    nu = np.abs(at.pulls) + (curvature @ terms[:, :, None])[:, :, 0]
    W = (np.abs(at.slopes) * (np.abs(at.outer) @ nu.T)) @ np.abs(at.inputs)
    parts = [W.ravel(), (np.abs(at.values) @ nu).ravel()] if at.trained else [W.ravel()]
    return _ROUNDINGS * _EPS * np.concatenate(parts)
