r"""Losses whose derivative jumps at the margin 1 (hinge): data held there, compiled.

A datum with :math:`q_i=y_if_i<1` pulls with :math:`\omega_i`, one beyond does not. Pulling raises
q_i, so at q_i = 1 a datum passes or is *held*: it pulls with :math:`c_i=\mu_i\omega_i`, μ_i in
[0, 1], such that q_i stays. For the held data A with the gradients :math:`G_A=\partial q_A/\partial
\theta`, projected on what the neurons' flats leave free, and the velocity v of all else

.. math:: G_A(v+G_A^\top c)=0,\qquad G_A=LQ\ \Rightarrow\ L^\top c=-Qv,

Q orthonormal rows, L lower triangular: the condition of G_A is not squared. A datum is let go where
its μ leaves [0, 1].
"""

from __future__ import annotations

import math

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner, kernel
from gradflow.integrators.steppers.cells.hold import hold
from gradflow.integrators.steppers.cells.system import Cell, System, Work

#: A gradient this close to the span of others, relative to its size, is in it.
_DEPENDENT = 1e-11
#: A multiplier below this is rounding.
_NO_PULL = 1e-14
#: μ may leave [0, 1] by this: a datum let go late by δ is off by δ² only.
LATE = 1e-9
#: A datum is off its margin from this on, relative to the terms of its output.
AT_MARGIN = 1e-11


@inner
def hinge_pulls(act: np.ndarray, y: np.ndarray, logw: np.ndarray, out: np.ndarray) -> None:
    """The pulls (n,) of data that are not held."""
    for i in range(act.size):
        out[i] = y[i] * math.exp(logw[i]) if act[i] > 0 else 0.0


@kernel
def gradients(
    sys: System, cell: Cell, work: Work, a: np.ndarray, data: np.ndarray, B: np.ndarray
) -> None:
    """Fill the rows ∂q_i/∂θ (A, P) of some data, projected; ``work.A`` is φ at the state."""
    m, D = work.V.shape
    for p in range(data.size):
        i = data[p]
        scale = sys.y[i, 0] * sys.gain
        for k in range(m):
            part = B[p, k * D : (k + 1) * D]
            slope = scale * a[k, 0] * cell.S[k, i]
            for d in range(D):
                part[d] = slope * sys.X[i, d]
            if cell.rank[k]:
                hold(cell.Q[k], cell.rank[k], part)
            if sys.trained:
                B[p, m * D + k] = scale * work.A[k, i]


@inner
def triangulate(B: np.ndarray, L: np.ndarray) -> None:
    """Turn the rows of B into orthonormal ones Q with B = L Q; dependent ones become 0."""
    L[:] = 0.0
    for p in range(B.shape[0]):
        whole = math.sqrt(np.dot(B[p], B[p]))
        for _ in range(2):  # (once more for what rounding has left)
            for q in range(p):
                c = np.dot(B[q], B[p])
                L[p, q] += c
                for j in range(B.shape[1]):
                    B[p, j] -= c * B[q, j]
        left = math.sqrt(np.dot(B[p], B[p]))
        if left > _DEPENDENT * whole:
            L[p, p] = left
            for j in range(B.shape[1]):
                B[p, j] /= left
        else:
            B[p] = 0.0


@inner
def kept_gradients(
    sys: System, cell: Cell, work: Work, a: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Q and L of the held data."""
    (m, D), A = work.V.shape, cell.kept.size
    Q, L = np.empty((A, m * (D + 1) if sys.trained else m * D)), np.empty((A, A))
    gradients(sys, cell, work, a, cell.kept, Q)
    triangulate(Q, L)
    return Q, L


@inner
def hold_margins(sys: System, cell: Cell, work: Work, a: np.ndarray) -> None:
    """Add to the forces in ``work``, and its pulls, those of the held data."""
    (m, D), A = work.V.shape, cell.kept.size
    Q, L = kept_gradients(sys, cell, work, a)
    c = np.zeros(A)
    for p in range(A - 1, -1, -1):
        along = 0.0
        for k in range(m):
            for d in range(D):
                along += Q[p, k * D + d] * work.DW[k, d]
            if sys.trained:
                along += Q[p, m * D + k] * work.DA[k, 0]
        for q in range(p + 1, A):
            along += L[q, p] * c[q]
        c[p] = -along / L[p, p] if L[p, p] > 0 else 0.0
    for p in range(A):
        i = cell.kept[p]
        # (a pull that is rounding would still decide on which side of a surface neurons are)
        work.r[i, 0] = sys.y[i, 0] * c[p] if abs(c[p]) > _NO_PULL * math.exp(sys.logw[i]) else 0.0
        for k in range(m):
            pulling = sys.gain * a[k, 0] * work.r[i, 0] * cell.S[k, i]
            for d in range(D):
                work.U[k, d] += pulling * sys.X[i, d]
                work.V[k, d] += pulling * sys.X[i, d]
            if sys.trained:
                work.DA[k, 0] += sys.gain * work.r[i, 0] * work.A[k, i]
    work.DW[:] = work.V
    for k in range(m):
        if cell.rank[k]:
            hold(cell.Q[k], cell.rank[k], work.DW[k])


@inner
def margin_excess(sys: System, cell: Cell, work: Work) -> tuple[float, int]:
    """By how much the multipliers leave [0, 1], ≤ 0 while none does; the place of the worst."""
    worst, at = -1.0, -1
    for p in range(cell.kept.size):
        i = cell.kept[p]
        mu = sys.y[i, 0] * work.r[i, 0] * math.exp(-sys.logw[i])
        over = max(mu - 1.0, -mu) - LATE
        if over > worst:
            worst, at = over, p
    return worst, at


@inner
def settle_margins(sys: System, cell: Cell, work: Work, y: np.ndarray) -> None:
    """Put held data back to their margin, a Newton step; data well off it are fresh no more.

    ``work`` holds the outputs at y.
    """
    for i in range(cell.act.size):
        if cell.slack[i] > 0:
            off = sys.y[i, 0] * work.f[i, 0] - 1.0
            if -cell.act[i] * off > 10.0 * cell.slack[i]:
                cell.slack[i] = 0.0
    A = cell.kept.size
    if A == 0:
        return
    m, D = work.V.shape
    Q, L = kept_gradients(sys, cell, work, y[m * D : m * (D + 1)].reshape(m, 1))
    u = np.zeros(A)
    for p in range(A):
        i = cell.kept[p]
        left = 1.0 - sys.y[i, 0] * work.f[i, 0]
        for q in range(p):
            left -= L[p, q] * u[q]
        u[p] = left / L[p, p] if L[p, p] > 0 else 0.0
        for j in range(Q.shape[1]):
            y[j] += u[p] * Q[p, j]
