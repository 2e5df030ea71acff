r"""Linear solves with μI − J, J the symmetric Jacobian of the field in a cell.

μI − J is positive definite iff no mode grows faster than μ: a Cholesky factorisation solves and
decides. Where there are fewer data than weights it is one of the n × n matrix of the data
(Woodbury), and G is not formed: without the term of the loss's curvature μI − J is block diagonal
by neurons, with blocks

.. math:: \begin{pmatrix}\mu_w I&-u_k\\-u_k^\top&\mu_a I\end{pmatrix},\qquad
          \tau_k=\mu_aI-u_k^\top u_k/\mu_w,

and the kernel of the data is, with :math:`T_k=\mathrm{diag}(a_kS_k)XQ_k^\top` of slides and
:math:`V_k=\varphi_k+\mathrm{diag}(a_kS_k)Xu_k/\mu_w`,

.. math:: GM^{-1}G^\top=XX^\top\circ\sum_ka_kS_kS_k^\top a_k^\top/\mu_w-\sum_kT_kT_k^\top/\mu_w
          +\sum_kV_k\tau_k^{-1}V_k^\top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from gradflow.integrators.steppers.cells.jacobian import CellJacobian

#: b ↦ (μI − J)⁻¹ b.
Solve = Callable[[np.ndarray], np.ndarray]

#: Woodbury pays below this many outputs of data a weight, and from this many weights on.
_FEW_DATA, _MANY_WEIGHTS = 0.8, 100


def factor(at: CellJacobian, mu: float) -> Solve | None:
    """Return the solve with μI − J, or None where that is not positive definite."""
    few = at.pulls.size < _FEW_DATA * at.size
    if few and at.size >= _MANY_WEIGHTS and at.uniform:
        return by_data(at, mu)
    return by_weights(at, mu)


def by_weights(at: CellJacobian, mu: float) -> Solve | None:
    """`factor` by the (P, P) matrix."""
    A = -at.dense
    A.flat[:: len(A) + 1] += mu
    return cholesky(A)


def by_data(at: CellJacobian, mu: float) -> Solve | None:
    """`factor` by the (n·o, n·o) matrix; None also where a neuron's own block is not definite."""
    blocks = _Blocks.of(at, mu)
    if blocks is None:
        return None
    n, o = at.pulls.shape
    kernel = blocks.kernel.reshape(n, o, n, o)
    kernel = np.einsum("iab,iajc,jcd->ibjd", at.roots, kernel, at.roots)
    inner = cholesky(np.eye(n * o) + kernel.reshape(n * o, n * o))
    if inner is None:
        return None

    def solve(b: np.ndarray) -> np.ndarray:
        x = blocks.solve(b)
        seen = np.einsum("iab,ia->ib", at.roots, at.outputs(x))
        z = inner(seen.reshape(-1)).reshape(n, o)
        return x - blocks.solve(at.adjoint(np.einsum("iab,ib->ia", at.roots, z)))

    return solve if at.climb is None else _with_climb(solve, at.climb)


def cholesky(A: np.ndarray) -> Solve | None:
    """Return the solve with a symmetric A, overwritten; None where it is not positive definite."""
    try:
        factored = linalg.cho_factor(A, lower=True, overwrite_a=True)
    except (linalg.LinAlgError, ValueError):  # (ValueError: not finite)
        return None
    return lambda b: linalg.cho_solve(factored, b, check_finite=False)


def _with_climb(solve: Solve, climb: np.ndarray) -> Solve | None:
    """Return the solve with A − FFᵀ from that with A (Sherman, Morrison), None if not definite."""
    through = solve(climb)
    left = 1.0 - float(climb @ through)
    if left <= 0:
        return None

    def corrected(b: np.ndarray) -> np.ndarray:
        x = solve(b)
        return x + through * (float(climb @ x) / left)

    return corrected


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The block diagonal part of μI − J, inverted, and the kernel G M⁻¹ Gᵀ of the data."""

    at: CellJacobian
    mu: float  # of the inner weights, decay included
    inverse: np.ndarray  # (m, o, o): τ_k⁻¹, τ_k = μ_a I − u_kᵀu_k/μ_w
    kernel: np.ndarray  # (n·o, n·o)

    @classmethod
    def of(cls, at: CellJacobian, mu: float) -> _Blocks | None:
        """Return them, or None where a block is not positive definite."""
        n, o = at.pulls.shape
        m = len(at.outer)
        inner = mu + float(np.max(at.decay))
        seen = (at.outer[:, None, :] * at.slopes[:, :, None]).reshape(m, n * o)
        gram = np.repeat(np.repeat(at.inputs @ at.inputs.T, o, axis=0), o, axis=1)
        kernel = (seen.T @ seen) * gram
        for k, Q in at.slides.items():
            T = seen[k][:, None] * np.repeat(at.inputs @ Q.T, o, axis=0)
            kernel -= T @ T.T
        kernel /= inner
        if not at.trained:
            return cls(at, inner, np.zeros((m, o, o)), kernel)
        outer = mu + at.decay_outer
        tau = outer * np.eye(o) - at.pull @ at.pull.transpose(0, 2, 1) / inner
        values, vectors = np.linalg.eigh(tau)
        if np.min(values) <= 0:
            return None
        half = vectors / np.sqrt(values)[:, None, :]
        along = at.inputs @ at.pull.reshape(m * o, -1).T  # (n, m·o): x_i·u_k
        along = along.reshape(n, 1, m, o).transpose(2, 0, 1, 3)
        V = seen.reshape(m, n, o, 1) * along / inner
        V += at.values[:, :, None, None] * np.eye(o)
        V = (V.reshape(m, n * o, o) @ half).transpose(1, 0, 2).reshape(n * o, m * o)
        kernel += V @ V.T
        return cls(at, inner, half @ half.transpose(0, 2, 1), kernel)

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return M⁻¹ b."""
        inner, outer = self.at.split(b)
        if not self.at.trained:
            return b / self.mu
        pull = self.at.pull
        right = outer + np.einsum("kod,kd->ko", pull, inner) / self.mu
        t = np.einsum("koe,ke->ko", self.inverse, right)
        w = (inner + np.einsum("kod,ko->kd", pull, t)) / self.mu
        return np.concatenate([w.reshape(-1), t.reshape(-1)])
