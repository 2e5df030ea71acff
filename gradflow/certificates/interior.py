r"""The convex max-margin problem of one activation cell, by a primal-dual interior-point method.

With f = Σ_k c_k φ(v_k·x), slopes s_ki and sides P_kg of the cell,

.. math:: \min_V \sum_k|v_k|\ \text{(or }\tfrac12\sum_k|v_k|^2)\quad\text{s.t.}\quad
   \sum_kc_ky_is_{ki}\,x_i\cdot v_k\ge\gamma,\qquad P_{kg}\,n_g\cdot v_k\ge0 .

The sum of norms is treated as by Andersen, Christiansen, Conn and Overton (2000): a dual vector
g_k, |g_k| < 1, stands beside every v_k, so that neurons of vanishing mass cost no more steps than
others. The cost of a step is one QR factorisation a neuron, of G + D rows, and one n×n Cholesky.

A neuron that leans on walls with multipliers μ and slacks σ has terms (μ/σ)nnᵀ in its Hessian
beside others of size one. Summed up they would bury what moves it along its walls; the QR
factorisation of the square roots, largest first, keeps both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern


@dataclass(frozen=True)
class CellSolution:
    """What the interior-point method ends with.

    Attributes
    ----------
    V : (m, D) array
    force : (m, D) array
        g_k, of norm 1 for a neuron that carries mass, and less for one that carries none.
    slack, duals : (n,) arrays
        Of the margins.
    wall_slack, wall_duals : (m, G) arrays
        Of the cell's walls.
    gap : float
        By how much Σ|v_k| (or ½Σ|v_k|²) may still be above the optimum.
    """

    V: np.ndarray
    force: np.ndarray
    slack: np.ndarray
    duals: np.ndarray
    wall_slack: np.ndarray
    wall_duals: np.ndarray
    gap: float


def solve_cell(
    cells: Arrangement,
    V: np.ndarray,
    c: np.ndarray,
    sides: np.ndarray,
    level: float,
    tol: float = 1e-12,
    steps: int = 120,
) -> CellSolution:
    """Solve the problem of the cell ``sides`` (entries ±1), margins asked to be ≥ ``level``.

    ``V`` is the starting point, of size about 1; it need not lie in the cell.
    """
    at = _Interior(cells, V, c, sides.astype(float), level)
    for _ in range(steps):
        at.look()
        if (at.gap <= tol and at.defect <= 1e3 * tol) or not at.step(tol):
            break
    # back to the rows as they are
    return CellSolution(at.V, at.force, at.s * at.size, at.lam / at.size, at.sigma, at.mu, at.total)


class _Direction(NamedTuple):
    """Changes of one Newton step."""

    V: np.ndarray
    s: np.ndarray
    lam: np.ndarray
    sigma: np.ndarray
    mu: np.ndarray


class _Interior:
    """Where the method stands: V, the margins' slacks and multipliers s, λ, the walls' σ, μ, and
    the forces g.

    Attributes
    ----------
    rows : (m, n, D) array
        c_k y_i s_ki x_i / level, scaled by ``size`` (n,) so that all slacks have one size.
    value, wall : (n,), (m, G) arrays
        What the slacks should be at V.
    pull : (m, D) array
        Σ λ_i rows_i + Σ μ_g P_g n_g, which the forces should be.
    total, gap, defect : float
        The duality gap, its mean over the complementary pairs, and the largest residual.
    """

    value: np.ndarray
    wall: np.ndarray
    pull: np.ndarray

    def __init__(
        self, cells: Arrangement, V: np.ndarray, c: np.ndarray, sides: np.ndarray, level: float
    ) -> None:
        self.trained, self.walls = cells.trained, cells.activation_kinked
        self.N, self.sides = cells.normals, sides
        rows = (c[:, None] * cells.y * Pattern(cells, sides).slopes / level)[
            :, :, None
        ] * cells.inputs
        # (rows of size 1 keep all slacks of one size)
        self.size = np.maximum(np.linalg.norm(rows, axis=(0, 2)), 1e-300)
        self.rows = rows / self.size[:, None]
        self.V = 2.0 * V
        mass = max(float(np.mean(np.linalg.norm(self.V, axis=1))), 1e-12)
        self._reach()
        self.s = np.maximum(self.value, 0.1 / self.size)
        self.sigma = np.maximum(self.wall, 1e-2 * mass)
        tau = 0.1 * mass
        self.lam, self.mu = tau / self.s, tau / self.sigma
        self.force = _slope(self.V, tau)[0] if self.trained else self.V
        self.total = self.gap = self.defect = np.inf

    def _reach(self) -> None:
        self.value = np.einsum("kid,kd->i", self.rows, self.V) - 1 / self.size
        self.wall = self.sides * (self.V @ self.N.T)

    def _pushed(self, weights: np.ndarray) -> np.ndarray:
        return weights @ self.N if self.walls else np.zeros(self.V.shape)

    def look(self) -> None:
        """Measure how far from optimal this is."""
        self._reach()
        parts = [self.s @ self.lam, float(np.sum(self.sigma * self.mu)) if self.walls else 0.0]
        count = self.s.size + (self.sigma.size if self.walls else 0)
        if self.trained:
            lengths = np.linalg.norm(self.V, axis=1)
            parts.append(float(np.sum(lengths) - np.sum(self.V * self.force)))
            count += self.V.shape[0]
        self.total = max(sum(parts), 0.0)
        self.gap = self.total / count
        self.pull = np.einsum("kid,i->kd", self.rows, self.lam) + self._pushed(self.mu * self.sides)
        # A cell without interior leaves a neuron no mass and its multipliers no bound.
        most = 1.0 + (np.max(self.mu, axis=1)[:, None] if self.walls else 0.0)
        self.defect = max(
            float(np.max(np.abs((self.force if self.trained else self.V) - self.pull) / most)),
            float(np.max(np.abs(self.value - self.s))),
            float(np.max(np.abs(self.wall - self.sigma))) if self.walls else 0.0,
        )

    def step(self, tol: float) -> bool:
        """Take one step towards the point of gap τ; whether there was one to take."""
        tau = max(0.1 * self.gap, 0.01 * tol) if self.defect < 10 * self.gap else 0.5 * self.gap
        d = self._direction(tau)
        if d is None:
            return False
        primal, dual = _step(self.s, d.s), _step(self.lam, d.lam)
        if self.walls:
            primal = min(primal, _step(self.sigma, d.sigma))
            dual = min(dual, _step(self.mu, d.mu))
        if self.trained:
            # g − pull + (change of both) = 0
            new = self.pull + np.einsum("kid,i->kd", self.rows, d.lam)
            d_force = new + self._pushed(d.mu * self.sides) - self.force
            dual = min(dual, _ball_step(self.force, d_force))
            self.force = self.force + dual * d_force
        else:
            primal = dual = min(primal, dual)
        if not np.isfinite(primal + dual + float(np.sum(d.V))):
            return False
        self.V, self.s = self.V + primal * d.V, self.s + primal * d.s
        self.sigma = self.sigma + primal * d.sigma
        self.lam, self.mu = self.lam + dual * d.lam, self.mu + dual * d.mu
        if not self.trained:
            self.force = self.V
        return True

    def _curvature(self, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """The objective's gradient (m, D) and Hessian (m, D, D), norms smoothed by τ."""
        m, D = self.V.shape
        if not self.trained:
            return self.V, np.broadcast_to(np.eye(D), (m, D, D)).copy()
        drive, t, rise = _slope(self.V, tau)
        cross = self.force[:, :, None] * rise[:, None, :]
        return drive, (np.eye(D) - 0.5 * (cross + np.swapaxes(cross, 1, 2))) / t[:, None, None]

    def _direction(self, tau: float) -> _Direction | None:
        """Newton's direction; None where its equations are singular."""
        (m, D), rows, lam, mu, sigma = self.V.shape, self.rows, self.lam, self.mu, self.sigma
        drive, H = self._curvature(tau)
        b = -(drive - np.einsum("kid,i->kd", rows, lam))
        e = tau / lam - self.s - (self.value - self.s)
        L = np.linalg.cholesky(H + 1e-15 * np.trace(H, axis1=1, axis2=2)[:, None, None] * np.eye(D))
        lean = None
        if self.walls:
            lean = _Lean(self.sides, self.N, mu, sigma, self.wall - sigma, tau, L)
            L = np.swapaxes(lean.R, 1, 2)
        half = np.linalg.solve(L, np.swapaxes(rows, 1, 2))  # (m, D, n)
        half_b = np.linalg.solve(L, b[:, :, None])[:, :, 0]
        if lean is not None:
            half_b = half_b + lean.push
        flat = half.reshape(m * D, -1)
        K = flat.T @ flat + np.diag(self.s / lam)
        try:
            d_lam = cho_solve(cho_factor(K), e - flat.T @ half_b.ravel())
        except np.linalg.LinAlgError:
            return None
        back = half_b + np.einsum("kdi,i->kd", half, d_lam)
        dV = np.linalg.solve(np.swapaxes(L, 1, 2), back[:, :, None])[:, :, 0]
        ds = np.einsum("kid,kd->i", rows, dV) + self.value - self.s
        if lean is None:
            nothing = np.zeros_like(sigma)
            return _Direction(dV, ds, d_lam, nothing, nothing)
        d_mu = lean.change(back)
        direct = self.sides * (dV @ self.N.T) + self.wall - sigma
        # Small slacks from complementarity: their change has digits of its own there.
        d_sigma = np.where(mu > sigma, (tau - sigma * (mu + d_mu)) / mu, direct)
        return _Direction(dV, ds, d_lam, d_sigma, d_mu)


class _Lean:
    """The walls' part of one Newton step, as a least-squares problem a neuron.

    The rows √(μ/σ)P n, largest first, stand above the factor L0ᵀ of the rest of the Hessian;
    ``R`` (m, D, D) is the triangular factor of all, ``push`` (m, D) what the walls add to R⁻ᵀb.
    """

    def __init__(
        self, sides: np.ndarray, N: np.ndarray, mu: np.ndarray, sigma: np.ndarray,
        short: np.ndarray, tau: float, L0: np.ndarray,
    ) -> None:  # fmt: skip
        root = np.sqrt(mu / sigma)
        self.order = np.argsort(-root, axis=1)
        self.root = np.take_along_axis(root, self.order, axis=1)
        self.mu = mu
        signed = np.take_along_axis(sides, self.order, axis=1) * self.root
        tall = np.concatenate([signed[:, :, None] * N[self.order], np.swapaxes(L0, 1, 2)], axis=1)
        Q, self.R = np.linalg.qr(tall)
        self.Q = Q[:, : N.shape[0]]
        goal = tau / np.sqrt(mu * sigma) - root * short
        self.goal = np.take_along_axis(goal, self.order, axis=1)
        self.push = np.einsum("kgd,kg->kd", self.Q, self.goal)

    def change(self, back: np.ndarray) -> np.ndarray:
        """Return dμ (m, G) of the step with ``R dV = back`` (m, D)."""
        left = self.root * (self.goal - np.einsum("kgd,kd->kg", self.Q, back))
        out = np.empty_like(left)
        np.put_along_axis(out, self.order, left, axis=1)
        return out - self.mu


def _slope(V: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return v/t, t and ∇t for t = τ + √(τ² + |v|²), the barrier's optimal bound on |v|."""
    root = np.sqrt(tau**2 + np.sum(V**2, axis=1))
    t = tau + root
    return V / t[:, None], t, V / root[:, None]


def _step(x: np.ndarray, dx: np.ndarray) -> float:
    """Return the step ≤ 1 that keeps x positive with something to spare."""
    falling = dx < 0
    if not np.any(falling):
        return 1.0
    return float(min(1.0, 0.95 * np.min(-x[falling] / dx[falling])))


def _ball_step(g: np.ndarray, dg: np.ndarray) -> float:
    """Return the step ≤ 1 that keeps every |g_k| below 1."""
    A = np.sum(dg**2, axis=1)
    B = np.sum(g * dg, axis=1)
    C = np.maximum(1 - np.sum(g**2, axis=1), 0.0)
    root = np.sqrt(B**2 + A * C)
    # (the smaller root's stable form)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(B > 0, C / (B + root), (root - B) / A)
    far = far[(A > 0) & np.isfinite(far)]
    return float(min(1.0, 0.95 * np.min(far, initial=np.inf)))
