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
from scipy.linalg.lapack import dgetrf

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.late.cell import Cell, pull
from gradflow.integrators.steppers.late.system import Point

#: Data with p_i ρ^D below this do not feed back within a step.
COUNTS = 1e-8


class Jacobian(NamedTuple):
    """The Jacobian at a point but for the Gram matrices.

    Attributes
    ----------
    near : Cell
        The data that count.
    index : (|A|,) ints
        Their numbers.
    h, Xv : (m, |A|) arrays
        x_i·u_k and x_i·v_k of these data.
    shared, Hg : (P,) arrays
        What all rows ∂σ_i'/∂u share, and Hg.
    data : (4, n) array
        ρ^D η_i; ∂σ_i'/∂q̂_i by the curvature of the loss; ∂σ_i'/∂r; ∂σ_i'/∂σ_j but for the kernel.
    """

    near: Cell
    index: np.ndarray
    h: np.ndarray
    Xv: np.ndarray
    shared: np.ndarray
    Hg: np.ndarray
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
    kappa : (|A|,) array
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


class Linear:
    """The Jacobian at a point, to be factorised for steps of any length.

    Parameters
    ----------
    cell : Cell
    at : Point
    u : (P,) array
    """

    def __init__(self, cell: Cell, at: Point, u: np.ndarray) -> None:
        self.cell, self.at, self.u = cell, at, u
        self.D = 2 if cell.trained else 1
        (p, q, e, eta, moment), (big, _, square, total) = at.data, at.numbers
        level = eta * e - square + np.log(total)
        Hg = self._hessian(at.g)
        shared, by_r, bend = -2.0 * big * Hg, self.D * big * level, np.zeros(p.size)
        if cell.logistic:
            bend = big * big * e * eta * (1.0 - eta)
            # m' = −1 + log1p(x)/x with x = e^{−q}.
            x = np.exp(-np.clip(big * q, -700.0, 700.0))
            turn = np.where(x < 1e-13, -0.5 * x, np.log1p(x) / np.maximum(x, 1e-300) - 1.0)
            turn *= big * big / total * p
            v = pull(cell, turn)
            shared += self._flat(at.A[:, None] * v, np.sum(v * self._blocks(u)[0], axis=1))
            by_r += bend * self.D * q + self.D * float(turn @ q)
        common = big * (2.0 * p * e - moment * p / total)
        index = np.flatnonzero(p * big > COUNTS)
        near, a = (cell, slice(None)) if index.size == p.size else (cell.only(index), index)
        self.parts = Jacobian(
            near, index, np.ascontiguousarray(at.h[:, a]), np.ascontiguousarray(at.Xv[:, a]),
            shared, Hg, np.stack([big * eta, bend, by_r, common]),
        )  # fmt: skip
        self.inner = near.gram(at.A**2)
        self.turned = near.gram(at.A * self._blocks(at.g)[1]) if cell.trained else None

    def _blocks(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The blocks (m, D) and outer entries (m,) of a flat vector."""
        rows = x.reshape(self.at.A.size, -1)
        if self.cell.trained:
            return rows[:, :-1], rows[:, -1]
        return rows, np.zeros(self.at.A.size)

    def _flat(self, U: np.ndarray, A: np.ndarray) -> np.ndarray:
        return np.column_stack([U, A]).ravel() if self.cell.trained else U.ravel()

    def _hessian(self, x: np.ndarray) -> np.ndarray:
        """Return Hx, H the Hessian of Σ p q̂ in u."""
        if not self.cell.trained:
            return np.zeros_like(x)
        U, A = self._blocks(x)
        return self._flat(self.at.v * A[:, None], np.sum(self.at.v * U, axis=1))

    def factor(self, c: float) -> Factors:
        """Return the factors of cI − J."""
        at, J, D = self.at, self.parts, self.D
        near, index = J.near, J.index
        c1 = c + D * float(at.numbers[1])
        tau = c1 - np.sum(at.v * at.v, axis=1) / c1
        R = lambda x: arrow(self.cell, at.v, c1, tau, x)
        spine = R(D * self.u)
        along = float(at.g @ spine)
        first, second = rows(near, at, J, spine)
        by_g, by_shared = (rows(near, at, J, R(x))[0] for x in (at.g, J.shared))
        p, q = at.data[0, index], at.data[1, index]
        eta, bend, by_r, common = J.data[:, index]
        by_r = (D / c) * by_r
        kappa = (q + by_g) / (1.0 + along)
        turned = eta * second + bend * first + float(J.shared @ spine) + by_r * along
        M = (eta + bend / c1)[:, None] * self.inner
        if self.turned is not None:
            M += (eta / c1)[:, None] * self.turned
            V = near.S * (J.h + (at.A / c1)[:, None] * J.Xv)
            W = near.S * J.Xv * (at.A + self._blocks(at.g)[1] / c1)[:, None]
            M += ((eta * (W + c1 * V) + bend * V) / tau[:, None]).T @ V
        M += by_shared + np.outer(by_r, by_g + q) - np.outer(turned, kappa)
        M *= p
        M -= common
        M[np.arange(index.size), np.arange(index.size)] += c
        lu, pivots, _ = dgetrf(M)
        return Factors(c, c1, 1.0 + along, tau, spine, kappa, lu.T, pivots.astype(np.int64))


@kernel
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


@kernel
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
                second[i] += S[i] * (
                    outer * Xy[k, i] + 2.0 * a * y_outer * Xv[k, i] + vy * h[k, i]
                )
        else:
            for i in range(n):
                first[i] += S[i] * a * Xy[k, i]
    return first, second
