r"""The vector field inside a cell, compiled.

.. math:: \dot w_k=P_k\Bigl(\sum_i(a_k\cdot r_i)\,S_{ki}x_i-\lambda_ww_k-\tau|a_k|\hat w_k\Bigr),
   \qquad \dot a_k=\sum_ir_i\varphi(w_k\cdot x_i)-\lambda_aa_k-\tau\|w_k\|\hat a_k,

with the pulls :math:`r_i=-\omega_i\,\partial\ell/\partial f_i` and P_k onto the flat on which
neuron k slides. In the loss clock all forces are divided by L, through logarithms.
"""

from __future__ import annotations

import math

import numpy as np

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.cells.system import (
    CROSS_ENTROPY,
    EXPONENTIAL,
    HINGE,
    LOG,
    LOGISTIC,
    LOSS,
    SOFT_LOGISTIC,
    SQUARED,
    Cell,
    System,
    Work,
)

#: exp of it is a float.
_LARGEST = 700.0


@kernel
def log_logistic(z: float) -> float:
    """ln ln(1 + e^{−z}), where neither underflows."""
    if z > 0:
        u = math.exp(-z)
        return -z + (math.log1p(-0.5 * u) if u < 1e-8 else math.log(math.log1p(u) / u))
    return math.log(-z + math.log1p(math.exp(z)))


@kernel
def softplus(z: float) -> float:
    """ln(1 + e^z)."""
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


@kernel
def log_loss(loss: int, f: np.ndarray, y: np.ndarray) -> float:
    """ln ℓ(f_i, y_i) of one datum, f and y of shape (o,)."""
    if loss == LOGISTIC:
        return log_logistic(f[0] * y[0])
    if loss == EXPONENTIAL:
        return -f[0] * y[0]
    if loss == HINGE:
        z = f[0] * y[0]
        return math.log1p(-z) if z < 1 else -np.inf
    if loss == SQUARED:
        top = 0.0
        for j in range(f.size):
            top = max(top, abs(f[j] - y[j]))
        if top == 0:
            return -np.inf
        total = 0.0
        for j in range(f.size):
            total += ((f[j] - y[j]) / top) ** 2
        return 2 * math.log(top) + math.log(0.5 * total)
    if loss == SOFT_LOGISTIC:
        value = y[0] * softplus(-f[0]) + (1 - y[0]) * softplus(f[0])
        return math.log(value)
    top = np.max(f)
    total = 0.0
    for j in range(f.size):
        total += math.exp(f[j] - top)
    shift = top + math.log(total)
    value = 0.0
    for j in range(f.size):
        if y[j] > 0:
            value += y[j] * (shift - f[j])
    return math.log(value) if value > 0 else -np.inf


@kernel
def pull(loss: int, f: np.ndarray, y: np.ndarray, logs: float, out: np.ndarray) -> None:
    """−e^{logs} ∂ℓ/∂f of one datum into ``out`` (o,)."""
    if loss == LOGISTIC:
        out[0] = y[0] * math.exp(logs - softplus(f[0] * y[0]))
    elif loss == EXPONENTIAL:
        out[0] = y[0] * math.exp(logs - f[0] * y[0])
    elif loss == HINGE:
        out[0] = y[0] * math.exp(logs) if f[0] * y[0] < 1 else 0.0
    elif loss == SQUARED:
        weight = math.exp(logs)
        for j in range(f.size):
            out[j] = weight * (y[j] - f[j])
    elif loss == SOFT_LOGISTIC:
        weight = math.exp(logs)
        out[0] = weight * (y[0] * math.exp(-softplus(f[0])) - (1 - y[0]) * math.exp(-softplus(-f[0])))
    else:
        weight, top, total, mass = math.exp(logs), np.max(f), 0.0, 0.0
        for j in range(f.size):
            out[j] = math.exp(f[j] - top)
            total += out[j]
            mass += y[j]
        for j in range(f.size):
            out[j] = weight * (y[j] - mass * out[j] / total)


@kernel
def pulls(sys: System, work: Work, penalty: float) -> float:
    """Fill ``work.r`` from ``work.f``; return ln L. In the loss clock r is in units of L."""
    n = sys.y.shape[0]
    top = -np.inf
    for i in range(n):
        work.logs[i] = log_loss(sys.loss, work.f[i], sys.y[i]) + sys.logw[i]
        top = max(top, work.logs[i])
    log_risk = top
    if top > -np.inf:
        total = 0.0
        for i in range(n):
            total += math.exp(work.logs[i] - top)
        log_risk = top + math.log(total)
    if penalty > 0:
        lp = math.log(penalty)
        high = max(lp, log_risk)
        log_risk = high + math.log(math.exp(lp - high) + math.exp(log_risk - high))
    unit = log_risk if sys.clock == LOSS else 0.0
    for i in range(n):
        pull(sys.loss, work.f[i], sys.y[i], sys.logw[i] - unit, work.r[i])
    return log_risk


@kernel
def penalty_of(sys: System, W: np.ndarray, a: np.ndarray) -> float:
    """The penalties' value."""
    total = 0.0
    if sys.l2a > 0 or sys.tv > 0 or np.max(sys.l2w) > 0:
        for k in range(W.shape[0]):
            square, mass = 0.0, 0.0
            for j in range(W.shape[1]):
                total += 0.5 * sys.l2w[j] * W[k, j] ** 2
                square += W[k, j] ** 2
            for j in range(a.shape[1]):
                total += 0.5 * sys.l2a * a[k, j] ** 2
                mass += a[k, j] ** 2
            total += sys.tv * math.sqrt(square * mass)
    return total


@kernel
def hold(cell: Cell, k: int, v: np.ndarray) -> None:
    """Remove from v (D,) what points off the flat of neuron k."""
    if cell.rank[k] == v.size:
        v[:] = 0.0
        return
    for j in range(cell.rank[k]):
        c = 0.0
        for d in range(v.size):
            c += cell.Q[k, j, d] * v[d]
        for d in range(v.size):
            v[d] -= c * cell.Q[k, j, d]


@kernel
def drive(sys: System, cell: Cell, work: Work, k: int, W: np.ndarray, a: np.ndarray, unit: float) -> None:
    """Fill row k of ``work.DW`` and ``work.DA`` from ``work.U`` and the penalties."""
    D, o = W.shape[1], a.shape[1]
    size, mass = 0.0, 0.0
    if sys.tv > 0:
        for d in range(D):
            size += W[k, d] ** 2
        for j in range(o):
            mass += a[k, j] ** 2
        size, mass = math.sqrt(size), math.sqrt(mass)
    for d in range(D):
        v = work.U[k, d] - unit * sys.l2w[d] * W[k, d]
        if size > 0:
            v -= unit * sys.tv * mass * W[k, d] / size
        work.V[k, d] = v
        work.DW[k, d] = v
    hold(cell, k, work.DW[k])
    for j in range(o):
        if not sys.trained:
            work.DA[k, j] = 0.0
            continue
        work.DA[k, j] -= unit * sys.l2a * a[k, j]
        if mass > 0:
            work.DA[k, j] -= unit * sys.tv * size * a[k, j] / mass


@kernel
def outputs(sys: System, cell: Cell, work: Work, W: np.ndarray, a: np.ndarray) -> None:
    """Fill ``work.Z``, ``work.A`` and ``work.f``."""
    m, n, o = W.shape[0], sys.X.shape[0], a.shape[1]
    np.dot(W, sys.XT, work.Z)
    for k in range(m):
        for i in range(n):
            work.A[k, i] = cell.S[k, i] * work.Z[k, i] + cell.T[k, i]
    if o == 1:
        f = np.dot(a.reshape(m), work.A)
        for i in range(n):
            work.f[i, 0] = sys.gain * f[i] + sys.offset[i, 0]
    else:
        f2 = np.dot(np.ascontiguousarray(a.T), work.A)
        for i in range(n):
            for j in range(o):
                work.f[i, j] = sys.gain * f2[j, i] + sys.offset[i, j]


@kernel
def force(sys: System, work: Work, a: np.ndarray, k: int, i: int) -> float:
    """gain a_k·r_i: what datum i pulls neuron k with, per unit of slope."""
    total = 0.0
    for j in range(a.shape[1]):
        total += a[k, j] * work.r[i, j]
    return sys.gain * total


@kernel
def forces(sys: System, cell: Cell, work: Work, W: np.ndarray, a: np.ndarray) -> float:
    """Fill all of ``work`` at weights W (m, D), a (m, o); return ln L."""
    m, n, o = W.shape[0], sys.X.shape[0], a.shape[1]
    outputs(sys, cell, work, W, a)
    log_risk = pulls(sys, work, penalty_of(sys, W, a))
    for k in range(m):
        for i in range(n):
            work.M[k, i] = 0.0
        for j in range(o):
            pulling = sys.gain * a[k, j]
            for i in range(n):
                work.M[k, i] += pulling * work.r[i, j]
        for i in range(n):
            work.M[k, i] *= cell.S[k, i]
    np.dot(work.M, sys.X, work.U)
    if sys.trained:
        if o == 1:
            one = np.dot(work.A, np.ascontiguousarray(work.r[:, 0]))
            for k in range(m):
                work.DA[k, 0] = sys.gain * one[k]
        else:
            work.DA[:] = sys.gain * np.dot(work.A, work.r)
    unit = math.exp(-log_risk) if sys.clock == LOSS else 1.0
    for k in range(m):
        drive(sys, cell, work, k, W, a, unit)
    return log_risk


@kernel
def in_clock(sys: System, work: Work, s: float, log_risk: float, y: np.ndarray, dy: np.ndarray) -> float:
    """Fill dy/ds from ``work``; return |dθ|² in the clock's unit of forces."""
    m, D = work.DW.shape
    o = work.DA.shape[1]
    rate = math.exp(s) if sys.clock == LOG else 1.0
    speed = 0.0
    for k in range(m):
        for d in range(D):
            dy[k * D + d] = rate * work.DW[k, d]
            speed += work.DW[k, d] ** 2
        for j in range(o):
            dy[m * D + k * o + j] = rate * work.DA[k, j]
            speed += work.DA[k, j] ** 2
    place = m * (D + o)
    if sys.clock == LOSS:
        # (what is spent may be beyond floats)
        dy[place] = speed * math.exp(min(log_risk, _LARGEST))
        dy[place + 1] = math.exp(min(-log_risk - y[place + 1], _LARGEST))
    else:
        dy[place] = rate * speed
    return speed


@kernel
def field(sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, dy: np.ndarray) -> float:
    """Fill ``dy`` with dY/ds in the cell; return ln L."""
    m, D = work.DW.shape
    o = work.DA.shape[1]
    W = y[: m * D].reshape(m, D)
    a = y[m * D : m * (D + o)].reshape(m, o)
    log_risk = forces(sys, cell, work, W, a)
    in_clock(sys, work, s, log_risk, y, dy)
    return log_risk
