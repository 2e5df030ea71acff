r"""The Jacobian of the field inside a cell.

In a cell every pair has one piece of φ, :math:`\varphi(w_k\cdot x_i)=S_{ki}\,w_k\cdot x_i+T_{ki}`,
and neuron k moves in the orthogonal complement of the span of the surfaces it slides on
(projection :math:`P_k=I-Q_k^\top Q_k`; none: :math:`P_k=I`). With forces
:math:`r_i=-\omega_i\,\partial\ell/\partial f_i` and :math:`u_k=P_k\sum_iS_{ki}x_ir_i^\top`

.. math:: \dot w_k=u_ka_k-\lambda P_kw_k,\qquad \dot a_k=\sum_i\varphi_{ki}r_i-\lambda a_k,
          \qquad J=-G^\top EG+\begin{pmatrix}0&u\\u^\top&0\end{pmatrix}-\lambda P,

G_i = ∂f_i/∂θ and E_i = ω_i ∂²ℓ/∂f_i² ≥ 0. J is symmetric: slides are constant between events, and
multipliers do not enter. In the loss clock the field F is that of −∇ ln L, and J gains FFᵀ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class CellJacobian:
    r"""J at a point of a cell, for m neurons in R^D, n data and o outputs; P = m(D + o) weights.

    Attributes
    ----------
    inputs : (n, D) array
        x_i.
    slopes, values : (m, n) arrays
        S and φ; all outputs of the net times its gain is in ``values``, ``outer`` and ``pulls``.
    outer : (m, o) array
        a.
    pulls : (n, o) array
        r, in the unit of the clock.
    roots : (n, o, o) array
        R_i with :math:`E_i=R_iR_i^\top`, in the unit of the clock.
    slides : mapping of int to (r, D) array
        Q_k, orthonormal rows, of the neurons that slide.
    trained : bool
        Whether the outer weights move; if not, P = mD.
    decay, decay_outer : (D,) array, float
        λ, in the unit of the clock.
    extra : (m, D + o, D + o) array or None
        What a further smooth term of single neurons adds to J, in their (w, a) blocks.
    climb : (P,) array or None
        F in the loss clock.
    """

    inputs: np.ndarray
    slopes: np.ndarray
    values: np.ndarray
    outer: np.ndarray
    pulls: np.ndarray
    roots: np.ndarray
    slides: Mapping[int, np.ndarray]
    trained: bool
    decay: np.ndarray
    decay_outer: float = 0.0
    extra: np.ndarray | None = None
    climb: np.ndarray | None = None

    # -- sizes and parts ----------------------------------------------------------------------
    @property
    def size(self) -> int:
        """P, the number of weights that move."""
        (m, o), D = self.outer.shape, self.inputs.shape[1]
        return m * (D + o) if self.trained else m * D

    def split(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the (m, D) and (m, o) parts of v (P,)."""
        m, o = self.outer.shape
        count = m * self.inputs.shape[1]
        return v[:count].reshape(m, -1), v[count:].reshape(m, o if self.trained else 0)

    def projected(self, W: np.ndarray) -> np.ndarray:
        """Return the rows of W (m, D) projected on what the slides leave free."""
        if not self.slides:
            return W
        W = W.copy()
        for k, Q in self.slides.items():
            W[k] -= Q.T @ (Q @ W[k])
        return W

    @cached_property
    def pull(self) -> np.ndarray:
        """u (m, o, D), the coupling of inner and outer weights."""
        u = (self.slopes[:, None, :] * self.pulls.T) @ self.inputs
        for k, Q in self.slides.items():
            u[k] -= (u[k] @ Q.T) @ Q
        return u

    @cached_property
    def growth(self) -> float:
        """A bound on the largest eigenvalue of J.

        The term of E is negative, so what grows is at most max |u_k|, less the decay.
        """
        bound = 0.0
        if self.trained:
            bound = float(np.max(np.linalg.norm(self.pull, axis=(1, 2)), initial=0.0))
        if self.extra is not None:
            bound += float(np.max(np.linalg.norm(self.extra, axis=(1, 2)), initial=0.0))
        if self.climb is not None:
            bound += float(self.climb @ self.climb)
        return bound

    @property
    def uniform(self) -> bool:
        """Whether neurons decay alike in all their entries, and nothing else pulls them."""
        return self.extra is None and float(np.ptp(self.decay)) == 0.0

    # -- products -----------------------------------------------------------------------------
    def outputs(self, v: np.ndarray) -> np.ndarray:
        """Return G v (n, o)."""
        V, va = self.split(v)
        moved = (self.slopes * (V @ self.inputs.T)).T @ self.outer
        return moved + self.values.T @ va if self.trained else moved

    def adjoint(self, z: np.ndarray) -> np.ndarray:
        """Return Gᵀ z (P,) of z (n, o)."""
        W = self.projected((self.slopes * (self.outer @ z.T)) @ self.inputs)
        return self._joined(W, self.values @ z)

    def times(self, v: np.ndarray) -> np.ndarray:
        """Return J v (P,) for v in the space that the slides leave free."""
        V, va = self.split(v)
        bent = np.einsum("icd,ied,ie->ic", self.roots, self.roots, self.outputs(v))
        W, a = -self.decay * V, -self.decay_outer * va
        if self.trained:
            W = W + np.einsum("kod,ko->kd", self.pull, va)
            a = a + np.einsum("kod,kd->ko", self.pull, V)
        if self.extra is not None:
            both = np.concatenate([V, va], axis=1)
            D, size = V.shape[1], both.shape[1]
            both = np.einsum("kij,kj->ki", self.extra[:, :size, :size], both)
            W, a = W + both[:, :D], a + both[:, D:]
        result = self._joined(self.projected(W), a) - self.adjoint(bent)
        return result if self.climb is None else result + self.climb * (self.climb @ v)

    def _joined(self, W: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.concatenate([W.reshape(-1), a.reshape(-1)]) if self.trained else W.reshape(-1)

    @cached_property
    def dense(self) -> np.ndarray:
        """J (P, P)."""
        (m, o), (n, D) = self.outer.shape, self.inputs.shape
        G = np.zeros((n, o, self.size))
        seen = self.outer.T[:, :, None] * self.slopes  # (o, m, n)
        inner = seen.transpose(2, 0, 1)[..., None] * self.inputs[:, None, None, :]
        for k, Q in self.slides.items():
            inner[:, :, k] -= (inner[:, :, k] @ Q.T) @ Q
        G[:, :, : m * D] = inner.reshape(n, o, m * D)
        if self.trained:
            for c in range(o):
                G[:, c, m * D + c :: o] = self.values.T
        G = (self.roots.transpose(0, 2, 1) @ G).reshape(n * o, -1)
        J = -(G.T @ G)
        self._add_blocks(J)
        return J if self.climb is None else J + np.outer(self.climb, self.climb)

    def _add_blocks(self, J: np.ndarray) -> None:
        """Add what couples a neuron's own weights only."""
        (m, o), D = self.outer.shape, self.inputs.shape[1]
        blocks = np.zeros((m, D + o, D + o))
        if self.extra is not None:
            blocks += self.extra
        free = np.arange(D)
        blocks[:, free, free] -= self.decay
        for k, Q in self.slides.items():
            P = np.eye(D) - Q.T @ Q
            blocks[k, :D] = P @ blocks[k, :D]
            blocks[k, :, :D] = blocks[k, :, :D] @ P
        w = np.arange(m * D).reshape(m, D)
        J[w[:, :, None], w[:, None, :]] += blocks[:, :D, :D]
        if not self.trained:
            return
        rest = D + np.arange(o)
        blocks[:, rest, rest] -= self.decay_outer
        blocks[:, D:, :D] += self.pull
        blocks[:, :D, D:] += self.pull.transpose(0, 2, 1)
        a = m * D + np.arange(m * o).reshape(m, o)
        J[a[:, :, None], a[:, None, :]] += blocks[:, D:, D:]
        J[a[:, :, None], w[:, None, :]] += blocks[:, D:, :D]
        J[w[:, :, None], a[:, None, :]] += blocks[:, :D, D:]
