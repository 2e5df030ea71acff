r"""The full late-phase system of a homogeneous net, in compiled code.

States :math:`u=\theta/\rho`, :math:`r=\ln\rho`, :math:`\sigma_i=-\ln p_i` for every datum with
:math:`p_i=-\omega_i\ell'(q_i)/L`, :math:`w=tL` and the loss clock s. In the clock
:math:`d\zeta=\rho^{D-2}\,ds`, D the degree,

.. math::
   u'&=g-D\beta u,\qquad r'=D\beta,\qquad \beta=p\cdot\hat q,\qquad g=\textstyle\sum_ip_i\nabla\hat q_i,\\
   \sigma_i'&=\rho^D\bigl[\eta_i\,\nabla\hat q_i\cdot g-|g|^2+\ln\textstyle\sum_jp_jm_j\bigr],\qquad
   \eta_i=-q_i''\text{-factor}\ (1\text{ or }1/(1+e^{-q_i})),\\
   w'&=\rho^{2-D}-\rho^D|g|^2w,\qquad s'=\rho^{2-D}.

t is counted from the start, so that one at e^{258}, say, takes no digits.
m = ℓ/(−ℓ') at q (1 for the exponential loss), so that Σ p_j m_j = 1 on the exact flow; the last term
of σ' pulls back to it, without which round-off walks along the common shift of σ. σ is a state of
its own because the margins :math:`\rho^D\hat q_i(u)` lose all digits of their differences near
:math:`\rho^D=10^{15}`. Nothing here overflows: ln L = σ_i + ln(ω_i(−ℓ')(q_i)) and ln t = ln w − ln L.
"""  # noqa: E501

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.late.cell import Cell, margins, pull, weights_of

#: Data with p_i ρ^D below this do not feed back within a step.
COUNTS = 1e-8


class Point(NamedTuple):
    """The right-hand side at a state, and what it is made of.

    Attributes
    ----------
    rate : (P + n + 3,) array
        dY/dζ.
    g : (P,) array
        Σ p_i ∇q̂_i = (a_k v_k, v_k·u_k)_k.
    A : (m,) array
        The outer weights.
    h, v, Xv : (m, n), (m, D), (m, n) arrays
        x_i·u_k, v_k = Π_k Σ_i p_i s_ki x_i, and x_i·v_k.
    data : (5, n) array
        p_i, q̂_i, ∇q̂_i·g, η_i and m_i.
    numbers : (4,) array
        ρ^D, β, |g|² and Σ p_i m_i.
    """

    rate: np.ndarray
    g: np.ndarray
    A: np.ndarray
    h: np.ndarray
    v: np.ndarray
    Xv: np.ndarray
    data: np.ndarray
    numbers: np.ndarray


@kernel
def expand(cell: Cell, Y: np.ndarray) -> Point:
    """Return the right-hand side at a state with its parts."""
    m, n = cell.S.shape
    dim, D = cell.X.shape[1], 2 if cell.trained else 1
    width = dim + D - 1
    P = m * width
    data, numbers, g, out = np.zeros((5, n)), np.empty(4), np.empty(P), np.empty(Y.size)
    p, q, e, eta, moment = data[0], data[1], data[2], data[3], data[4]
    for i in range(n):
        p[i] = np.exp(-Y[P + 1 + i])
    U, A = weights_of(cell, Y)
    h, v = np.dot(U, cell.XT), pull(cell, p)
    Xv = np.dot(v, cell.XT)
    square = 0.0
    for k in range(m):
        a, outer = A[k], 0.0
        for d in range(dim):
            g[k * width + d] = a * v[k, d]
            outer += v[k, d] * U[k, d]
        if cell.trained:
            g[k * width + dim] = outer
        else:
            outer = 0.0
        for i in range(n):
            q[i] += a * cell.S[k, i] * h[k, i]
            e[i] += cell.S[k, i] * (a * a * Xv[k, i] + outer * h[k, i])
    for j in range(P):
        square += g[j] * g[j]
    big = np.exp(D * Y[P])
    beta = total = 0.0
    for i in range(n):
        eta[i] = moment[i] = 1.0
        if cell.logistic:
            x = np.exp(-min(max(big * q[i], -700.0), 700.0))
            eta[i] = 1.0 / (1.0 + x)
            moment[i] = (np.log1p(x) / x if x > 1e-8 else 1.0 - 0.5 * x) * (1.0 + x)
        beta += p[i] * q[i]
        total += p[i] * moment[i]
    for j in range(P):
        out[j] = g[j] - D * beta * Y[j]
    out[P] = D * beta
    level, speed = np.log(total) - square, np.exp((2.0 - D) * Y[P])
    for i in range(n):
        out[P + 1 + i] = big * (eta[i] * e[i] + level)
    out[P + 1 + n] = speed - big * square * Y[P + 1 + n]
    out[P + 2 + n] = speed
    numbers[0], numbers[1], numbers[2], numbers[3] = big, beta, square, total
    return Point(out, g, A, h, v, Xv, data, numbers)


@kernel
def fastest(cell: Cell, at: Point) -> tuple[float, float]:
    """Return the largest |∇q̂_i|² of the data that count, and the largest |v_k|.

    Margins relax at most at ρ^D times the first, trained neurons grow at most at the second.
    """
    most = growth = 0.0
    for i in range(at.data.shape[1]):
        if at.data[0, i] * at.numbers[0] > COUNTS:
            size = 0.0
            for k in range(at.A.size):
                size += at.A[k] ** 2 * cell.reach[k, i]
                if cell.trained:
                    size += (cell.S[k, i] * at.h[k, i]) ** 2
            most = max(most, size)
    for k in range(at.A.size if cell.trained else 0):
        size = 0.0
        for d in range(at.v.shape[1]):
            size += at.v[k, d] ** 2
        growth = max(growth, size)
    return most, np.sqrt(growth)


@kernel
def elapsed(cell: Cell, Y: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Return ``ln L``, ln of the time since the start, and q̂ (n,) of a state."""
    n = cell.X.shape[0]
    P, D = Y.size - n - 3, 2 if cell.trained else 1
    q = margins(cell, Y)
    big, log_loss, total = float(np.exp(D * Y[P])), 0.0, 0.0
    # All data agree on ln L; those that count know it best.
    for i in range(n):
        sigma, margin = Y[P + 1 + i], big * q[i]
        p = float(np.exp(-sigma))
        if p > 0:
            if cell.logistic:
                margin = max(margin, 0.0) + np.log1p(np.exp(-abs(margin)))
            log_loss += p * (sigma + cell.log_weights[i] - margin)
            total += p
    log_loss /= total
    return log_loss, float(np.log(Y[P + 1 + n])) - log_loss, q
