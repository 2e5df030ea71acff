r"""The vector field inside a cell, compiled.

.. math:: \dot w_k=P_k\Bigl(\sum_i(a_k\cdot r_i)\,S_{ki}x_i-\lambda_ww_k-\tau|a_k|\hat w_k\Bigr),
   \qquad \dot a_k=\sum_ir_i\varphi(w_k\cdot x_i)-\lambda_aa_k-\tau\|w_k\|\hat a_k,

with the pulls :math:`r_i=-\omega_i\,\partial\ell/\partial f_i` and P_k onto the flat on which
neuron k slides. In the loss clock all forces are divided by L, through logarithms.
"""

from __future__ import annotations

import math

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner, kernel
from gradflow.integrators.steppers.cells.hold import hold
from gradflow.integrators.steppers.cells.margins import hinge_pulls, hold_margins
from gradflow.integrators.steppers.cells.own import LOGS, PULLS, call_back
from gradflow.integrators.steppers.cells.system import (
    CROSS_ENTROPY,
    EXPONENTIAL,
    HINGE,
    LOG,
    LOGISTIC,
    LOSS,
    OWN,
    SQUARED,
    Cell,
    System,
    Work,
)

#: exp of it is a float.
_LARGEST = 700.0
_LN2 = math.log(2.0)


@inner
def log_logistic(z: float) -> float:
    """ln ln(1 + e^{−z}), where neither underflows."""
    if z > 0:
        u = math.exp(-z)
        return -z + (math.log1p(-0.5 * u) if u < 1e-8 else math.log(math.log1p(u) / u))
    return math.log(-z + math.log1p(math.exp(z)))


@inner
def softplus(z: float) -> float:
    """ln(1 + e^z)."""
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


@inner
def log_losses(loss: int, f: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Add ln ℓ(f_i, y_i) of losses of one output (n,) to ``out``."""
    for i in range(f.size):
        if loss == SQUARED:
            gap = abs(f[i] - y[i])
            out[i] += 2 * math.log(gap) - _LN2 if gap > 0 else -np.inf
        elif loss == LOGISTIC:
            out[i] += log_logistic(f[i] * y[i])
        elif loss == EXPONENTIAL:
            out[i] -= f[i] * y[i]
        elif loss == HINGE:
            z = f[i] * y[i]
            out[i] += math.log1p(-z) if z < 1 else -np.inf
        else:
            out[i] += math.log(y[i] * softplus(-f[i]) + (1 - y[i]) * softplus(f[i]))


@inner
def pull_each(
    loss: int, f: np.ndarray, y: np.ndarray, unit: float, logw: np.ndarray, out: np.ndarray
) -> None:
    """−ω_i e^{−unit} ∂ℓ/∂f_i of losses of one output (n,) into ``out``."""
    for i in range(f.size):
        log = logw[i] - unit
        if loss == SQUARED:
            out[i] = math.exp(log) * (y[i] - f[i])
        elif loss == LOGISTIC:
            out[i] = y[i] * math.exp(log - softplus(f[i] * y[i]))
        elif loss == EXPONENTIAL:
            out[i] = y[i] * math.exp(log - f[i] * y[i])
        else:
            up, down = math.exp(log - softplus(f[i])), math.exp(log - softplus(-f[i]))
            out[i] = y[i] * up - (1 - y[i]) * down


@inner
def log_losses_of_many(loss: int, f: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Add ln ℓ(f_i, y_i) of losses of several outputs (n, o) to ``out`` (n,)."""
    n, o = f.shape
    for i in range(n):
        top, value = -np.inf, 0.0
        if loss == CROSS_ENTROPY:
            shift = log_sum(f[i])
            for j in range(o):
                value += y[i, j] * (shift - f[i, j])
            out[i] += math.log(value) if value > 0 else -np.inf
            continue
        for j in range(o):
            top = max(top, abs(f[i, j] - y[i, j]))
        for j in range(o):
            value += 0.5 * ((f[i, j] - y[i, j]) / top) ** 2 if top > 0 else 0.0
        out[i] += 2 * math.log(top) + math.log(value) if top > 0 else -np.inf


@inner
def pull_many(
    loss: int, f: np.ndarray, y: np.ndarray, unit: float, logw: np.ndarray, out: np.ndarray
) -> None:
    """−ω_i e^{−unit} ∂ℓ/∂f_i of losses of several outputs into ``out`` (n, o)."""
    n, o = f.shape
    for i in range(n):
        weight = math.exp(logw[i] - unit)
        if loss == CROSS_ENTROPY:
            shift, mass = log_sum(f[i]), np.sum(y[i])
            for j in range(o):
                out[i, j] = weight * (y[i, j] - mass * math.exp(f[i, j] - shift))
        else:
            for j in range(o):
                out[i, j] = weight * (y[i, j] - f[i, j])


@inner
def log_sum(f: np.ndarray) -> float:
    """ln Σ_j e^{f_j}."""
    top, total = np.max(f), 0.0
    for j in range(f.size):
        total += math.exp(f[j] - top)
    return top + math.log(total)


@inner
def pulls(sys: System, cell: Cell, work: Work, penalty: float) -> float:
    """Fill ``work.r`` from ``work.f``; return ln L. In the loss clock r is in units of L."""
    n, o = sys.y.shape
    logs = work.logs
    logs[:] = sys.logw
    if sys.loss == OWN:
        call_back(sys.own, LOGS, 0.0, work.f, work.logs)  # pyright: ignore[reportCallIssue]
        for i in range(n):
            logs[i] += sys.logw[i]
    elif o == 1:
        log_losses(sys.loss, work.f.reshape(n), sys.y.reshape(n), logs)
    else:
        log_losses_of_many(sys.loss, work.f, sys.y, logs)
    log_risk = np.max(logs)
    if log_risk > -np.inf:
        log_risk = log_sum(logs)
    if penalty > 0:
        both = np.array([log_risk, math.log(penalty)])
        log_risk = log_sum(both)
    unit = log_risk if sys.clock == LOSS else 0.0
    if sys.loss == OWN:
        call_back(sys.own, PULLS, unit, work.f, work.r)  # pyright: ignore[reportCallIssue]
    elif sys.loss == HINGE:
        hinge_pulls(cell.act, sys.y.reshape(n), sys.logw, work.r.reshape(n))
    elif o == 1:
        pull_each(sys.loss, work.f.reshape(n), sys.y.reshape(n), unit, sys.logw, work.r.reshape(n))
    else:
        pull_many(sys.loss, work.f, sys.y, unit, sys.logw, work.r)
    return log_risk


@inner
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


@inner
def penalise(sys: System, work: Work, W: np.ndarray, a: np.ndarray, unit: float) -> None:
    """Take the penalties' forces off ``work.V`` and ``work.DA``."""
    V, DA, l2w = work.V, work.DA, sys.l2w
    (m, D), o = W.shape, a.shape[1]
    for k in range(m):
        size, mass = 0.0, 0.0
        for d in range(D):
            size += W[k, d] ** 2
            V[k, d] -= unit * l2w[d] * W[k, d]
        for j in range(o):
            mass += a[k, j] ** 2
            DA[k, j] -= unit * sys.l2a * a[k, j]
        size, mass, weight = math.sqrt(size), math.sqrt(mass), unit * sys.tv
        if weight > 0 and size > 0 and mass > 0:
            for d in range(D):
                V[k, d] -= weight * mass / size * W[k, d]
            for j in range(o):
                DA[k, j] -= weight * size / mass * a[k, j]


@inner
def outputs(sys: System, cell: Cell, work: Work, W: np.ndarray, a: np.ndarray) -> None:
    """Fill ``work.Z``, ``work.A`` and ``work.f``."""
    m, n, o = W.shape[0], sys.X.shape[0], a.shape[1]
    np.dot(W, sys.XT, work.Z)
    A, Z, S, T = work.A.reshape(-1), work.Z.reshape(-1), cell.S.reshape(-1), cell.T.reshape(-1)
    for e in range(A.size):
        A[e] = S[e] * Z[e] + T[e]
    if o == 1:
        f, offset = work.f.reshape(n), sys.offset.reshape(n)
        np.dot(a.reshape(m), work.A, f)
        for i in range(n):
            f[i] = sys.gain * f[i] + offset[i]
    else:
        f2 = np.dot(np.ascontiguousarray(a.T), work.A)
        for i in range(n):
            for j in range(o):
                work.f[i, j] = sys.gain * f2[j, i] + sys.offset[i, j]


@inner
def force(sys: System, work: Work, a: np.ndarray, k: int, i: int) -> float:
    """gain a_k·r_i: what datum i pulls neuron k with, per unit of slope."""
    total = 0.0
    for j in range(a.shape[1]):
        total += a[k, j] * work.r[i, j]
    return sys.gain * total


@inner
def forces(sys: System, cell: Cell, work: Work, W: np.ndarray, a: np.ndarray) -> float:
    """Fill all of ``work`` at weights W (m, D), a (m, o); return ln L."""
    m, n, o = W.shape[0], sys.X.shape[0], a.shape[1]
    outputs(sys, cell, work, W, a)
    log_risk = pulls(sys, cell, work, penalty_of(sys, W, a))
    for k in range(m):
        M, S = work.M[k], cell.S[k]
        if o == 1:
            pulling, r = sys.gain * a[k, 0], work.r.reshape(n)
            for i in range(n):
                M[i] = pulling * r[i] * S[i]
        else:
            for i in range(n):
                M[i] = force(sys, work, a, k, i) * S[i]
    np.dot(work.M, sys.X, work.U)
    if sys.trained:
        if o == 1:
            np.dot(work.A, work.r.reshape(n), work.DA.reshape(m))
        else:
            np.dot(work.A, work.r, work.DA)
        DA = work.DA.reshape(-1)
        for c in range(DA.size):
            DA[c] *= sys.gain
    work.V[:] = work.U
    if sys.l2a > 0 or sys.tv > 0 or np.max(sys.l2w) > 0:
        penalise(sys, work, W, a, math.exp(-log_risk) if sys.clock == LOSS else 1.0)
    if not sys.trained:
        work.DA[:] = 0.0
    work.DW[:] = work.V
    for k in range(m):
        if cell.rank[k]:
            hold(cell.Q[k], cell.rank[k], work.DW[k])
    if cell.kept.size:
        hold_margins(sys, cell, work, a)
    return log_risk


@inner
def in_clock(
    sys: System, work: Work, s: float, log_risk: float, y: np.ndarray, dy: np.ndarray
) -> float:
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
