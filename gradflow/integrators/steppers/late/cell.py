r"""An activation cell as plain arrays for compiled code, and the products inside it.

With the pattern of sides frozen the normalised margins are polynomials in :math:`u=\theta/\rho`,

.. math:: \hat q_i(u)=\sum_ka_ks_{ki}\,x_i\cdot u_k,\qquad
          \nabla\hat q_i=\bigl(s_{ki}a_k\Pi_kx_i,\ s_{ki}\,x_i\cdot u_k\bigr)_k,

with the label in :math:`s_{ki}`, which is 0 where neuron k slides on the surface of datum i and its
w_k moves inside the flat that :math:`\Pi_k` projects on. Every function costs products of the size
(neurons × dimension × data); fixed outer weights leave out the second entries.

Compiled code is loops and products of matrices: it compiles fast, and array expressions do not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradflow.cells.pattern import Pattern
from gradflow.integrators.steppers.cells.compiled import inner, kernel
from gradflow.integrators.steppers.late.field import MarginNet


class Cell(NamedTuple):
    """Data, slopes and flats of a pattern.

    Attributes
    ----------
    X, XT : (n, D), (D, n) arrays
        The data and their transpose.
    S : (m, n) array
        s_ki.
    A : (m,) array
        The outer weights, used where they are fixed.
    log_weights : (n,) array
        ln ω_i.
    Q : (R, D) array
        Orthonormal rows across the flats.
    owner : (R,) ints
        Whose rows they are.
    reach : (m, n) array
        |s_ki Π_k x_i|².
    trained, logistic : bool
    """

    X: np.ndarray
    XT: np.ndarray
    S: np.ndarray
    A: np.ndarray
    log_weights: np.ndarray
    Q: np.ndarray
    owner: np.ndarray
    reach: np.ndarray
    trained: bool
    logistic: bool

    @classmethod
    def of(cls, net: MarginNet, pattern: Pattern) -> Cell:
        """Return the cell of a pattern."""
        at, sliding = net.at, pattern.sliding
        X, slid = net.N[at.surface], [k for k, _, _ in sliding]
        by_side = at.up * pattern.plus[:, at.surface] + at.down * pattern.minus[:, at.surface]
        S, XT = np.ascontiguousarray(at.y * by_side), np.ascontiguousarray(X.T)
        rows = [rows for _, _, rows in sliding]
        counts = [len(r) for r in rows]
        Q = np.concatenate(rows) if rows else np.zeros((0, net.dim))
        reach = np.tile(np.sum(X * X, axis=1), (net.m, 1))
        if rows:
            reach[slid] -= np.add.reduceat((Q @ XT) ** 2, np.cumsum([0, *counts[:-1]]))
        return cls(
            X=X, XT=XT, S=S, A=net.A, log_weights=at.log_weights,
            Q=Q, owner=np.repeat(np.array(slid, np.int64), counts),
            reach=reach * S * S, trained=net.trained, logistic=net.logistic,
        )  # fmt: skip

    def gradients(self, u: np.ndarray) -> np.ndarray:
        """Return the rows ∇q̂_i (n, P) at u (P,)."""
        n, (m, dim) = len(self.X), (len(self.A), self.X.shape[1])
        body = u.reshape(m, -1)
        weighted = (self.S * (body[:, -1] if self.trained else self.A)[:, None]).T
        rows = np.empty((n, *body.shape))
        inside = rows[:, :, :dim]
        np.multiply(weighted[:, :, None], self.X[:, None, :], out=inside)
        for k in np.unique(self.owner):
            across = self.Q[self.owner == k]
            inside[:, k] -= weighted[:, k, None] * ((self.X @ across.T) @ across)
        if self.trained:
            rows[:, :, -1] = (self.S * (body[:, :-1] @ self.XT)).T
        return rows.reshape(n, -1)


@inner
def weights_of(cell: Cell, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return U (m, D) and the outer weights (m,), trained or fixed, of a flat vector u (P,)."""
    m, dim = cell.S.shape[0], cell.X.shape[1]
    width = dim + 1 if cell.trained else dim
    U, A = np.empty((m, dim)), np.empty(m)
    for k in range(m):
        for d in range(dim):
            U[k, d] = u[k * width + d]
        A[k] = u[k * width + dim] if cell.trained else cell.A[k]
    return U, A


@inner
def pull(cell: Cell, c: np.ndarray) -> np.ndarray:
    """Return v_k = Π_k Σ_i c_i s_ki x_i (m, D), so that Σ_i c_i ∇q̂_i = (a_k v_k, v_k·u_k)_k."""
    m, n = cell.S.shape
    scaled = np.empty((m, n))
    for k in range(m):
        for i in range(n):
            scaled[k, i] = cell.S[k, i] * c[i]
    v = np.dot(scaled, cell.X)
    for r in range(cell.owner.size):
        k, along = cell.owner[r], 0.0
        for d in range(v.shape[1]):
            along += cell.Q[r, d] * v[k, d]
        for d in range(v.shape[1]):
            v[k, d] -= along * cell.Q[r, d]
    return v


@kernel
def margins(cell: Cell, u: np.ndarray) -> np.ndarray:
    """Return q̂ (n,)."""
    U, A = weights_of(cell, u)
    h = np.dot(U, cell.XT)
    q = np.zeros(h.shape[1])
    for k in range(h.shape[0]):
        for i in range(h.shape[1]):
            q[i] += A[k] * cell.S[k, i] * h[k, i]
    return q


@kernel
def gradient(cell: Cell, A: np.ndarray, u: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return Σ_i c_i ∇q̂_i (P,) at u, whose outer weights are A."""
    v = pull(cell, c)
    m, dim = v.shape
    width = dim + 1 if cell.trained else dim
    out = np.zeros(m * width)
    for k in range(m):
        for d in range(dim):
            out[k * width + d] = A[k] * v[k, d]
            if cell.trained:
                out[k * width + dim] += v[k, d] * u[k * width + d]
    return out


@inner
def columns(M: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return some columns of a matrix."""
    out = np.empty((M.shape[0], which.size))
    for k in range(M.shape[0]):
        for i in range(which.size):
            out[k, i] = M[k, which[i]]
    return out


@kernel
def some(cell: Cell, which: np.ndarray) -> Cell:
    """Return the cell of some of the data."""
    XT = columns(cell.XT, which)
    return Cell(
        XT.T.copy(), XT, columns(cell.S, which), cell.A, cell.log_weights[which], cell.Q,
        cell.owner, columns(cell.reach, which), cell.trained, cell.logistic,
    )  # fmt: skip


@inner
def gram(cell: Cell, factors: np.ndarray) -> np.ndarray:
    r"""Return :math:`\sum_kc_ks_{ki}s_{kj}\,x_i\cdot\Pi_kx_j` (n, n) for factors c (m,).

    One Hadamard product, less what the flats take: no row of the size of the net is formed.
    """
    m, n = cell.S.shape
    scaled, across = np.empty((m, n)), np.dot(cell.Q, cell.XT)
    taken = np.empty(across.shape)
    for k in range(m):
        for i in range(n):
            scaled[k, i] = factors[k] * cell.S[k, i]
    for r in range(cell.owner.size):
        k = cell.owner[r]
        for i in range(n):
            across[r, i] *= cell.S[k, i]
            taken[r, i] = factors[k] * across[r, i]
    K, slopes = np.dot(cell.X, cell.XT), np.dot(scaled.T, cell.S)
    less = np.dot(taken.T, across)
    for i in range(n):
        for j in range(n):
            K[i, j] = K[i, j] * slopes[i, j] - less[i, j]
    return K
