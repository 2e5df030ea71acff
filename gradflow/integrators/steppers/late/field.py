r"""Margins of a two-layer (leaky) ReLU net on finite data, inside one activation cell.

With the pattern of sides :math:`P_{kg}\in\{+,-,0\}` frozen (0: neuron k slides on surface g, its
w_k moves inside :math:`n_g^\perp`), the normalised margins :math:`\hat q_i(u)=y_if(x_i;u)` are
polynomials in :math:`u=\theta/\rho` and

.. math:: \nabla\hat q_i=y_i\bigl(s_{ki}a_k\Pi_kx_i,\ s_{ki}\,x_i\cdot u_k\bigr)_k,\qquad
          g=\sum_ip_i\nabla\hat q_i=\bigl(a_kv_k,\ v_k\cdot u_k\bigr)_k,\qquad
          v_k=\Pi_k\sum_ip_iy_is_{ki}x_i .

Everything here costs products of the size (data × neurons × dimension); the n×n kernel of the
gradients is never formed. Fixed outer weights leave out the second entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradflow.integrators.steppers.piecewise.selection import box_minimum
from gradflow.losses import Logistic
from gradflow.numerics.logs import log1p_ratio

#: A force at w = 0 below this, in units of its terms, is none.
REST = 1e-10
#: The force of a datum that no neuron sees, where the others' add up to 1. It stands for e^{q}.
WALL = 1e3


def unseen_data(surface: np.ndarray, scale: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return which data (n,) no ReLU neuron with the sides (m, G) sees: none is on their side."""
    on_plus, on_minus = np.sum(sides > 0, axis=0) > 0, np.sum(sides < 0, axis=0) > 0
    return ~np.where(scale > 0, on_plus[surface], on_minus[surface])


@dataclass
class Cell:
    """A pattern of sides with what follows from it.

    Attributes
    ----------
    sides : (m, G) ints
    plus, minus : (m, G) float masks
    basis : (m, r, D) array
        Orthonormal rows spanning the normals each neuron slides on, zeros where it slides on fewer.
    sliding : list of (neuron, its surfaces, its rows of the basis)
    backs : list of (surfaces, D) arrays
        Pseudo-inverses of the transposed normals: ``−back @ force`` are the multipliers' jumps.
    """

    sides: np.ndarray
    plus: np.ndarray
    minus: np.ndarray
    basis: np.ndarray
    sliding: list[tuple[int, np.ndarray, np.ndarray]]
    backs: list[np.ndarray]

    def project(self, v: np.ndarray) -> np.ndarray:
        """Remove from the blocks v (m, D) what points out of the surfaces slid on."""
        if self.basis.shape[1] == 0:
            return v
        inside = np.einsum("krd,kd->kr", self.basis, v)
        return v - np.einsum("krd,kr->kd", self.basis, inside)


@dataclass
class Fields:
    """Values at one point: h (m, G), v (m, D), g = (gU, gA), q̂ (n,), slopes ∇q̂·g (n,)."""

    h: np.ndarray
    v: np.ndarray
    gU: np.ndarray
    gA: np.ndarray | None
    q: np.ndarray
    e: np.ndarray

    @property
    def square(self) -> float:
        """``|g|²``."""
        total = float(np.sum(self.gU * self.gU))
        return total if self.gA is None else total + float(self.gA @ self.gA)


class MarginNet:
    """Data and shape of a net, as the late phase sees them.

    Equal data (same input, same label) are merged: their margins are equal for ever.

    Parameters
    ----------
    kinks : DataKinks
    A : (m,) array
        The outer weights, used where they are fixed.
    unit, outer_unit : float
        What inputs, and fixed outer weights, are divided by.
    unseen : (n,) bools, optional
        Data that no neuron sees (ReLU). Their loss stays; beside it that of the others vanishes, so
        that on its own side such a datum pushes with a force beyond all bounds: a wall for the
        neurons that it repels. They count neither among the n data nor in the loss here.
    """

    def __init__(
        self, kinks: Any, A: np.ndarray, unit: float = 1.0, outer_unit: float = 1.0,
        unseen: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.N = np.array(kinks.normals, float) / unit
        self.slope = float(kinks.slope)
        self.trained = bool(kinks.outer_trained)
        self.degree = 2 if self.trained else 1
        self.logistic = isinstance(kinks.loss, Logistic)
        self.A = np.array(A, float) / outer_unit
        columns = np.stack([np.asarray(kinks.surface), np.asarray(kinks.scale),
                            np.asarray(kinks.y, float)], axis=1)  # fmt: skip
        self.unseen = np.zeros(len(columns), bool) if unseen is None else np.asarray(unseen, bool)
        seen = np.flatnonzero(~self.unseen)
        all_logs = np.asarray(kinks.log_weights, float)
        _, first, of = np.unique(columns[seen], axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        of = np.argsort(order)[of.reshape(-1)]
        first = np.sort(first)
        logs = np.full(len(first), -np.inf)
        np.logaddexp.at(logs, of, all_logs[seen])
        self.first = first = seen[first]
        self.log_weights = logs
        self.all_surface, self.all_scale = np.asarray(kinks.surface), np.asarray(kinks.scale)
        self.surface = np.asarray(kinks.surface)[first]
        self.scale = np.asarray(kinks.scale, float)[first]
        self.y = np.asarray(kinks.y, float)[first]
        self.up = np.where(self.scale > 0, self.scale, self.slope * self.scale)
        self.down = np.where(self.scale > 0, self.slope * self.scale, self.scale)
        self.n, self.G, self.m = len(self.y), len(self.N), len(self.A)
        self.dim = self.N.shape[1]
        self.width = self.dim + 1 if self.trained else self.dim
        self.P = self.m * self.width
        self.sizes = np.linalg.norm(self.N, axis=1)
        self.kinked = self.slope != 1.0
        self._spans: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self.plain = self.n == self.G and bool(np.all(self.surface == np.arange(self.n)))
        self.plain = self.plain and not self.unseen.any()
        # What the loss keeps: ln Σ ω_i ℓ(0) over the data that no neuron sees.
        at_zero = float(np.log(np.log(2.0))) if self.logistic else 0.0
        self.log_rest = float(np.logaddexp.reduce(all_logs[self.unseen], initial=-np.inf)) + at_zero
        self.wall_up, self.wall_down = np.zeros(self.G), np.zeros(self.G)
        for g, scale, y in columns[self.unseen]:
            side = self.wall_up if scale > 0 else self.wall_down
            side[int(g)] += WALL * y * scale

    def cell(self, sides: np.ndarray) -> Cell:
        """Return the cell of a pattern (m, G)."""
        sides = np.array(sides, np.int8)
        sliding, backs, rank = [], [], 0
        for k in np.flatnonzero((sides == 0).any(1)):
            where = np.flatnonzero(sides[k] == 0)
            rows, back = self._span(where)
            sliding.append((int(k), where, rows))
            backs.append(back)
            rank = max(rank, len(rows))
        basis = np.zeros((self.m, rank, self.dim))
        for k, _, rows in sliding:
            basis[k, : len(rows)] = rows
        return Cell(
            sides, (sides > 0).astype(float), (sides < 0).astype(float), basis, sliding, backs
        )

    def _span(self, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Orthonormal rows spanning some normals, and the pseudo-inverse of their transpose."""
        key = where.tobytes()
        if key not in self._spans:
            if len(self._spans) > 10_000:
                self._spans.clear()
            # The right singular vectors: also right where the normals are dependent.
            left, values, rows = np.linalg.svd(self.N[where], full_matrices=False)
            use = values > 1e-12 * values[0]
            self._spans[key] = rows[use], (left[:, use] / values[use]) @ rows[use]
        return self._spans[key]

    def split(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the blocks U (m, D) and outer weights A (m,) of a flat u (P,)."""
        if self.trained:
            body = u.reshape(self.m, self.width)
            return body[:, :-1], body[:, -1]
        return u.reshape(self.m, self.dim), self.A

    def join(self, U: np.ndarray, A: np.ndarray | None) -> np.ndarray:
        """Return the flat vector of blocks: the inverse of `split`."""
        if self.trained:
            assert A is not None
            return np.concatenate([U, A[:, None]], axis=1).ravel()
        return U.ravel()

    def per_surface(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the forces F⁺, F⁻ (G,) of pulls c = y p (n,)."""
        if self.plain:
            return self.up * c, self.down * c
        return (self.wall_up + np.bincount(self.surface, self.up * c, self.G),
                self.wall_down + np.bincount(self.surface, self.down * c, self.G))  # fmt: skip

    def seen_again(self, sides: np.ndarray, dead: np.ndarray) -> np.ndarray:
        """Return which of the unseen data (n,) some living neuron sees."""
        if not self.unseen.any():
            return self.unseen
        return self.unseen & ~unseen_data(self.all_surface, self.all_scale, sides[~dead])

    def per_datum(self, plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
        """Return ``y (c⁺A⁺ + c⁻A⁻)`` (n,) of sums over surfaces."""
        if not self.plain:
            plus, minus = plus[self.surface], minus[self.surface]
        return self.y * (self.up * plus + self.down * minus)

    def pull(self, cell: Cell, p: np.ndarray) -> np.ndarray:
        """Return v (m, D) = Π_k Σ_i p_i y_i s_ki x_i."""
        up, down = self.per_surface(p * self.y)
        return cell.project((cell.plus * up + cell.minus * down) @ self.N)

    def gradient(self, cell: Cell, u: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return ``Σ_i p_i ∇q̂_i`` (P,)."""
        U, A = self.split(u)
        v = self.pull(cell, p)
        return self.join(A[:, None] * v, np.sum(v * U, axis=1) if self.trained else None)

    def slopes(self, cell: Cell, A: np.ndarray, h: np.ndarray, dU: np.ndarray,
               dA: np.ndarray | None) -> np.ndarray:  # fmt: skip
        """Return ``∇q̂_i · (dU, dA)`` (n,)."""
        change = A[:, None] * (dU @ self.N.T)
        if dA is not None:
            change = change + dA[:, None] * h
        return self.per_datum(np.einsum("kg,kg->g", cell.plus, change),
                              np.einsum("kg,kg->g", cell.minus, change))  # fmt: skip

    def margins(self, cell: Cell, u: np.ndarray) -> np.ndarray:
        """Return q̂ (n,)."""
        U, A = self.split(u)
        h = U @ self.N.T
        return self.per_datum(A @ (cell.plus * h), A @ (cell.minus * h))

    def fields(self, cell: Cell, u: np.ndarray, p: np.ndarray) -> Fields:
        """Return everything the right-hand side needs at u (P,) and weights p (n,)."""
        U, A = self.split(u)
        h = U @ self.N.T
        v = self.pull(cell, p)
        gU = A[:, None] * v
        gA = np.einsum("kd,kd->k", v, U) if self.trained else None
        q = self.per_datum(A @ (cell.plus * h), A @ (cell.minus * h))
        return Fields(h, v, gU, gA, q, self.slopes(cell, A, h, gU, gA))

    def gradients(self, cell: Cell, u: np.ndarray, which: np.ndarray, h: np.ndarray) -> np.ndarray:
        """Return the rows ∇q̂_i (|which|, m, width) of a few data."""
        A = self.split(u)[1]
        surface = self.surface[which]
        s = self.y[which][:, None] * (
            self.up[which][:, None] * cell.plus[:, surface].T
            + self.down[which][:, None] * cell.minus[:, surface].T
        )
        rows = np.empty((len(which), self.m, self.width))
        normals = self.N[surface]
        np.multiply((s * A)[:, :, None], normals[:, None, :], out=rows[:, :, : self.dim])
        if cell.basis.shape[1]:
            inside = np.einsum("krd,id->ikr", cell.basis, normals) * (s * A)[:, :, None]
            rows[:, :, : self.dim] -= np.einsum("krd,ikr->ikd", cell.basis, inside)
        if self.trained:
            rows[:, :, -1] = s * h[:, surface].T
        return rows

    def multipliers(self, cell: Cell, p: np.ndarray) -> list[np.ndarray]:
        """Return ν on the surfaces of each sliding neuron (in [0, 1] while it slides).

        A neuron at w = 0 rests while 0 is among its limiting fields: the distance from that, in
        units of what counts as zero, stands for its multipliers.
        """
        if not cell.sliding:
            return []
        up, down = self.per_surface(p * self.y)
        jump = up - down
        slid = [k for k, _, _ in cell.sliding]
        plus = cell.plus[slid]
        forces = (plus * up + (1.0 - plus) * down) @ self.N
        out = []
        for (_, where, rows), back, force in zip(cell.sliding, cell.backs, forces, strict=True):
            if len(rows) == self.dim:
                nu = np.full(len(where), 0.5)
                nu[0] = self.unrest(up, down) / REST
                out.append(nu)
                continue
            # Σ μ_i n_i = −(force inside the span).
            mu = -(back @ force)
            with np.errstate(divide="ignore", invalid="ignore"):
                nu = mu / jump[where]
            if self.unseen.any():
                # A wall pushes as hard as it has to: only where it would have to pull does it end.
                size = np.abs(jump[where])
                nu = np.where(self.wall_up[where] != 0, np.minimum(nu * size, 0.5), nu)
                pushed = 1.0 - np.minimum((1.0 - nu) * size, 0.5)
                nu = np.where(self.wall_down[where] != 0, pushed, nu)
            out.append(nu)
        return out

    def unrest(self, up: np.ndarray, down: np.ndarray) -> float:
        """Return the least norm of a limiting field at w = 0, in units of their sizes."""
        jump, size = up - down, np.maximum(np.abs(up), np.abs(down)) * self.sizes
        loud = np.abs(jump) * self.sizes > 1e-14 * np.max(size)
        N, jump = self.N[loud], jump[loud]
        base = down @ self.N
        mu, _ = box_minimum(base, N, np.minimum(jump, 0.0), np.maximum(jump, 0.0))
        return float(np.linalg.norm(base + mu @ N)) / max(float(np.sum(size)), 1e-300)

    # ------------------------------------------------------------- the loss in late coordinates
    def log_pull(self, q: np.ndarray) -> np.ndarray:
        """Return ``ln(ω_i(−ℓ')(q_i))`` (n,)."""
        if self.logistic:
            return self.log_weights - np.logaddexp(0.0, q)
        return self.log_weights - q

    def log_loss(self, q: np.ndarray) -> float:
        """Return ``ln Σ ω_i ℓ(q_i)``."""
        logs = self.log_weights - q
        if self.logistic:
            # ln ln(1+e^{−q}) = −q + ln(log1p(x)/x), x = e^{−q}; for q < 0 directly.
            x = np.exp(-np.maximum(q, 0.0))
            ratio = log1p_ratio(x)
            low = np.log(np.logaddexp(0.0, -np.minimum(q, 0.0)))
            logs = self.log_weights + np.where(q > 0, np.log(ratio) - q, low)
        return float(np.logaddexp.reduce(logs))
