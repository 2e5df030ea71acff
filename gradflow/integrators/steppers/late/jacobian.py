r"""The Jacobian of the late-phase system, and (cI − J)⁻¹ by systems of the size of the support.

In u the Jacobian is :math:`H-D\beta I-D\,ug^\top` with H an arrow per neuron, whose resolvent
:math:`R=((c+D\beta)I-H)^{-1}` is known: with :math:`c_1=c+D\beta` and
:math:`\tau_k=c_1-|v_k|^2/c_1`,

.. math:: R\,(b,\beta)=\bigl((b+tv_k)/c_1,\ t\bigr)_k,\qquad t=(\beta+v_k\cdot b/c_1)/\tau_k .

Then u is eliminated, and a dense system remains for the data that count,
A = {p_i ρ^D > 1e−8}. Its products :math:`\nabla\hat q_i\cdot R\nabla\hat q_j` are
:math:`K_{ij}/c_1+\sum_kV_{ki}V_{kj}/\tau_k` with the Gram matrix K of the inner parts, whatever c
is; no row of the size of the net is formed. The other data follow by a product each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from gradflow.integrators.steppers.cells.compiled import inner, kernel
from gradflow.integrators.steppers.late.cell import Cell, columns, gradient, gram, some
from gradflow.integrators.steppers.late.system import COUNTS, Point


class Jacobian(NamedTuple):
    """The Jacobian at a point.

    Attributes
    ----------
    near : Cell
        The data that count.
    index : (a,) ints
        Their numbers.
    h, Xv : (m, a) arrays
        x_i·u_k and x_i·v_k of these data.
    inner, turned : (a, a) arrays
        Gram matrices of the inner parts, with a_k² and with a_k (v_k·u_k).
    shared, Hg, Du : (P,) arrays
        What all rows ∂σ_i'/∂u share, Hg, and D u.
    data : (4, n) array
        ρ^D η_i; ∂σ_i'/∂q̂_i by the curvature of the loss; ∂σ_i'/∂r; ∂σ_i'/∂σ_j but for the kernel.
    """

    near: Cell
    index: np.ndarray
    h: np.ndarray
    Xv: np.ndarray
    inner: np.ndarray
    turned: np.ndarray
    shared: np.ndarray
    Hg: np.ndarray
    Du: np.ndarray
    data: np.ndarray


class Factors(NamedTuple):
    """What solves (cI − J)x = b.

    Attributes
    ----------
    c, c1, rank_one : float
        rank_one = 1 + g·RDu.
    tau : (m,) array
    spine : (P,) array
        RDu.
    kappa : (a,) array
        Its share in the columns.
    lu, pivots : arrays
        Factors of the system of the data that count, transposed.
    """

    c: float
    c1: float
    rank_one: float
    tau: np.ndarray
    spine: np.ndarray
    kappa: np.ndarray
    lu: np.ndarray
    pivots: np.ndarray


@kernel
def linearise(cell: Cell, at: Point, Y: np.ndarray) -> Jacobian:
    """Return the Jacobian at a state from its parts."""
    m, n, P = at.A.size, at.data.shape[1], at.g.size
    D, big, total = 2 if cell.trained else 1, at.numbers[0], at.numbers[3]
    p, q, e, eta, moment = at.data[0], at.data[1], at.data[2], at.data[3], at.data[4]
    level, data, turn, tilt = np.log(total) - at.numbers[2], np.zeros((4, n)), np.zeros(n), 0.0
    for i in range(n):
        data[0, i] = big * eta[i]
        data[2, i] = D * big * (eta[i] * e[i] + level)
        data[3, i] = big * p[i] * (2.0 * e[i] - moment[i] / total)
        if cell.logistic:
            data[1, i] = big * big * e[i] * eta[i] * (1.0 - eta[i])
            # m' = −1 + log1p(x)/x with x = e^{−q}.
            x = np.exp(-min(max(big * q[i], -700.0), 700.0))
            slope = -0.5 * x if x < 1e-13 else np.log1p(x) / x - 1.0
            turn[i] = big * big / total * p[i] * slope
            tilt += turn[i] * q[i]
    for i in range(n):
        data[2, i] += D * (data[1, i] * q[i] + tilt)
    shared, Hg, Du = np.zeros(P), np.zeros(P), np.empty(P)
    if cell.logistic:
        shared = gradient(cell, at.A, Y, turn)
    width, dim = P // m, cell.X.shape[1]
    outer = np.zeros(m)
    for k in range(m if cell.trained else 0):
        corner = k * width + dim
        outer[k] = at.A[k] * at.g[corner]
        for d in range(dim):
            Hg[k * width + d] = at.v[k, d] * at.g[corner]
            Hg[corner] += at.A[k] * at.v[k, d] ** 2
    for j in range(P):
        shared[j] -= 2.0 * big * Hg[j]
        Du[j] = D * Y[j]
    index = np.empty(n, np.int64)
    a = 0
    for i in range(n):
        if p[i] * big > COUNTS:
            index[a] = i
            a += 1
    index = index[:a].copy()
    near = some(cell, index)
    squares = gram(near, at.A * at.A)
    turned = gram(near, outer) if cell.trained else squares
    return Jacobian(near, index, columns(at.h, index), columns(at.Xv, index), squares, turned,
                    shared, Hg, Du, data)  # fmt: skip


def factor(cell: Cell, at: Point, J: Jacobian, c: float) -> Factors:
    """Return the factors of cI − J."""
    c1, rank_one, tau, spine, kappa, T = _eliminate(cell, at, J, c)
    lu, pivots, _ = lapack.dgetrf(T.T, overwrite_a=True)  # pyright: ignore[reportAttributeAccessIssue]
    return Factors(c, c1, rank_one, tau, spine, kappa, lu.T, pivots.astype(np.int64))


@kernel
def _eliminate(
    cell: Cell, at: Point, J: Jacobian, c: float
) -> tuple[float, float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Eliminate u and r from cI − J: return what `Factors` keeps, and what remains, transposed."""
    m, a, D = at.A.size, J.index.size, 2 if cell.trained else 1
    c1 = c + D * at.numbers[1]
    tau, by_r, turned, kappa = np.empty(m), np.empty(a), np.empty(a), np.empty(a)
    for k in range(m):
        tau[k] = c1
        for d in range(at.v.shape[1]):
            tau[k] -= at.v[k, d] ** 2 / c1
    spine = arrow(cell, at.v, c1, tau, J.Du)
    along, share = np.dot(at.g, spine), np.dot(J.shared, spine)
    first, second = rows(J.near, at, J, spine)
    by_g = rows(J.near, at, J, arrow(cell, at.v, c1, tau, at.g))[0]
    by_shared = rows(J.near, at, J, arrow(cell, at.v, c1, tau, J.shared))[0]
    for i in range(a):
        k = J.index[i]
        by_r[i] = D / c * J.data[2, k]
        turned[i] = J.data[0, k] * second[i] + J.data[1, k] * first[i] + share + by_r[i] * along
        kappa[i] = (at.data[1, k] + by_g[i]) / (1.0 + along)
    T = _coupling(at, J, c1, tau)
    for j in range(a):
        k = J.index[j]
        p, common, pulled = at.data[0, k], J.data[3, k], by_g[j] + at.data[1, k]
        for i in range(a):
            T[j, i] += by_shared[j] + by_r[i] * pulled - kappa[j] * turned[i]
            T[j, i] = p * T[j, i] - common
        T[j, j] += c
    return c1, 1.0 + along, tau, spine, kappa, T


@inner
def _coupling(at: Point, J: Jacobian, c1: float, tau: np.ndarray) -> np.ndarray:
    """Return rows ∂σ_i'/∂u times R times columns ∇q̂_j, [j, i], but for what all rows share."""
    near, a = J.near, J.index.size
    left, V = np.zeros(J.h.shape), np.zeros(J.h.shape)
    for k in range(tau.size if near.trained else 0):
        outer = at.g[(k + 1) * (at.g.size // tau.size) - 1]
        for i in range(a):
            one, S = J.index[i], near.S[k, i]
            V[k, i] = S * (J.h[k, i] + at.A[k] / c1 * J.Xv[k, i])
            W = S * J.Xv[k, i] * (at.A[k] + outer / c1)
            left[k, i] = (J.data[0, one] * (W + c1 * V[k, i]) + J.data[1, one] * V[k, i]) / tau[k]
    T = np.dot(V.T, left)
    for i in range(a):
        eta, bend = J.data[0, J.index[i]], J.data[1, J.index[i]]
        for j in range(a):
            T[j, i] += (eta + bend / c1) * J.inner[i, j]
            if near.trained:
                T[j, i] += eta / c1 * J.turned[i, j]
    return T


@inner
def arrow(cell: Cell, v: np.ndarray, c1: float, tau: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return R b."""
    m, dim = v.shape
    width, out = b.size // m, np.empty(b.size)
    for k in range(m):
        at, t = k * width, 0.0
        if cell.trained:
            for d in range(dim):
                t += v[k, d] * b[at + d]
            t = (b[at + dim] + t / c1) / tau[k]
            out[at + dim] = t
        for d in range(dim):
            out[at + d] = (b[at + d] + t * v[k, d]) / c1
    return out


@inner
def rows(cell: Cell, at: Point, J: Jacobian, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ∇q̂_i·y and (∇²q̂_i g + H∇q̂_i)·y for the data of a cell: those that count, or all."""
    m, n = cell.S.shape
    dim = cell.X.shape[1]
    width = dim + 1 if cell.trained else dim
    h, Xv = (J.h, J.Xv) if n == J.index.size else (at.h, at.Xv)
    Y = np.empty((m, dim))
    for k in range(m):
        for d in range(dim):
            Y[k, d] = y[k * width + d]
    Xy = np.dot(Y, cell.XT)
    first, second = np.zeros(n), np.zeros(n)
    for k in range(m):
        a, S = at.A[k], cell.S[k]
        if cell.trained:
            outer, y_outer, vy = at.g[k * width + dim], y[k * width + dim], 0.0
            for d in range(dim):
                vy += at.v[k, d] * Y[k, d]
            for i in range(n):
                first[i] += S[i] * (a * Xy[k, i] + y_outer * h[k, i])
                second[i] += S[i] * (outer * Xy[k, i] + 2.0 * a * y_outer * Xv[k, i] + vy * h[k, i])
        else:
            for i in range(n):
                first[i] += S[i] * a * Xy[k, i]
    return first, second
