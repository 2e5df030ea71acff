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
from typing import Any

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
    V: Any,
    c: np.ndarray,
    sides: np.ndarray,
    level: float,
    tol: float = 1e-12,
    steps: int = 120,
) -> CellSolution:
    """Solve the problem of the cell ``sides`` (entries ±1), margins asked to be ≥ ``level``.

    ``V`` is the starting point, of size about 1; it need not lie in the cell.
    """
    # (numpy's overloads, inferred through this loop, take a type checker minutes)
    xp: Any = np
    m, D = V.shape
    walls = cells.slope < 1
    N = cells.normals
    sides = sides.astype(float)
    rows = (c[:, None] * cells.y * Pattern(cells, sides).slopes / level)[
        :, :, None
    ] * cells.inputs  # (m, n, D)
    # (rows of size 1 keep all slacks of one size)
    size = xp.maximum(xp.linalg.norm(rows, axis=(0, 2)), 1e-300)
    rows = rows / size[:, None]

    def pushed(weights: np.ndarray) -> np.ndarray:
        return weights @ N if walls else xp.zeros((m, D))

    V = 2.0 * V
    mass = max(float(xp.mean(xp.linalg.norm(V, axis=1))), 1e-12)
    value = xp.einsum("kid,kd->i", rows, V) - 1 / size
    s = xp.maximum(value, 0.1 / size)
    wall = sides * (V @ N.T)
    sigma = xp.maximum(wall, 1e-2 * mass)
    tau = 0.1 * mass
    lam, mu = tau / s, tau / sigma
    force = _slope(V, tau)[0] if cells.trained else V
    gap = total = xp.inf
    for _ in range(steps):
        value = xp.einsum("kid,kd->i", rows, V) - 1 / size
        wall = sides * (V @ N.T)
        parts = [s @ lam, float(xp.sum(sigma * mu)) if walls else 0.0]
        count = s.size + (sigma.size if walls else 0)
        if cells.trained:
            parts.append(float(xp.sum(xp.linalg.norm(V, axis=1)) - xp.sum(V * force)))
            count += m
        total = max(sum(parts), 0.0)
        gap = total / count
        pull = xp.einsum("kid,i->kd", rows, lam) + pushed(mu * sides)
        # A cell without interior leaves a neuron no mass and its multipliers no bound.
        most = 1.0 + (xp.max(mu, axis=1)[:, None] if walls else 0.0)
        defect = max(
            float(xp.max(xp.abs((force if cells.trained else V) - pull) / most)),
            float(xp.max(xp.abs(value - s))),
            float(xp.max(xp.abs(wall - sigma))) if walls else 0.0,
        )
        if gap <= tol and defect <= 1e3 * tol:
            break
        tau = max(0.1 * gap, 0.01 * tol) if defect < 10 * gap else 0.5 * gap
        if cells.trained:
            drive, t, rise = _slope(V, tau)
            cross = force[:, :, None] * rise[:, None, :]
            H = (xp.eye(D) - 0.5 * (cross + xp.swapaxes(cross, 1, 2))) / t[:, None, None]
        else:
            drive = V
            H = xp.broadcast_to(xp.eye(D), (m, D, D)).copy()
        b = -(drive - xp.einsum("kid,i->kd", rows, lam))
        e = tau / lam - s - (value - s)
        L = xp.linalg.cholesky(H + 1e-15 * xp.trace(H, axis1=1, axis2=2)[:, None, None] * xp.eye(D))
        if walls:
            lean = _Lean(sides, N, mu, sigma, wall - sigma, tau, L)
            L = xp.swapaxes(lean.R, 1, 2)
        half = xp.linalg.solve(L, xp.swapaxes(rows, 1, 2))  # (m, D, n)
        half_b = xp.linalg.solve(L, b[:, :, None])[:, :, 0]
        if walls:
            half_b = half_b + lean.push
        flat = half.reshape(m * D, -1)
        K = flat.T @ flat + xp.diag(s / lam)
        rhs = e - flat.T @ half_b.ravel()
        try:
            d_lam = cho_solve(cho_factor(K), rhs)
        except np.linalg.LinAlgError:
            break
        back = half_b + xp.einsum("kdi,i->kd", half, d_lam)
        dV = xp.linalg.solve(xp.swapaxes(L, 1, 2), back[:, :, None])[:, :, 0]
        ds = xp.einsum("kid,kd->i", rows, dV) + value - s
        primal, dual = _step(s, ds), _step(lam, d_lam)
        if walls:
            d_mu = lean.change(back)
            direct = sides * (dV @ N.T) + wall - sigma
            # Small slacks from complementarity: their change has digits of its own there.
            d_sigma = xp.where(mu > sigma, (tau - sigma * (mu + d_mu)) / mu, direct)
            primal, dual = min(primal, _step(sigma, d_sigma)), min(dual, _step(mu, d_mu))
        else:
            d_sigma = d_mu = xp.zeros_like(sigma)
        if cells.trained:
            # g − pull + (change of both) = 0
            new = pull + xp.einsum("kid,i->kd", rows, d_lam) + pushed(d_mu * sides)
            d_force = new - force
            dual = min(dual, _ball_step(force, d_force))
            force = force + dual * d_force
        else:
            primal = dual = min(primal, dual)
        if not xp.isfinite(primal + dual + float(xp.sum(dV))):
            break
        V, s, sigma = V + primal * dV, s + primal * ds, sigma + primal * d_sigma
        lam, mu = lam + dual * d_lam, mu + dual * d_mu
        if not cells.trained:
            force = V
    # back to the rows as they are
    return CellSolution(V, force, s * size, lam / size, sigma, mu, total)


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


def _slope(V: np.ndarray, tau: float) -> Any:
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
