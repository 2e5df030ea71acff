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

import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.origin import REST, unrest
from gradflow.cells.pattern import Pattern
from gradflow.losses import Logistic
from gradflow.numerics.logs import log1p_ratio

#: The force of a datum that no neuron sees, where the others' add up to 1. It stands for e^{q}.
WALL = 1e3


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
    arrangement : Arrangement
    A : (m,) array
        The outer weights, used where they are fixed.
    unit, outer_unit : float
        What inputs, and fixed outer weights, are divided by.
    unseen : (n,) bools, optional
        Data that no neuron sees (ReLU). Their loss stays; beside it that of the others vanishes, so
        that on its own side such a datum pushes with a force beyond all bounds: a wall for the
        neurons that it repels. They count neither among the n data nor in the loss here.

    Attributes
    ----------
    at : Arrangement
        Of the data that are seen, merged and in units of ``unit``.
    first : (n,) ints
        Their numbers in the data set, the first of equal ones.
    """

    def __init__(
        self, arrangement: Arrangement, A: np.ndarray, unit: float = 1.0, outer_unit: float = 1.0,
        unseen: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.whole = whole = arrangement
        self.unseen = np.zeros(len(whole.y), bool) if unseen is None else np.asarray(unseen, bool)
        self.at, self.first = whole.merged(np.flatnonzero(~self.unseen), unit)
        self.N, self.dim, self.n = self.at.normals, self.at.dim, len(self.at.y)
        self.trained, self.degree = self.at.trained, self.at.degree
        self.logistic = isinstance(whole.loss, Logistic)
        self.A = np.array(A, float) / outer_unit
        self.m = len(self.A)
        self.width = self.dim + 1 if self.trained else self.dim
        self.P = self.m * self.width
        # What the loss keeps: ln Σ ω_i ℓ(0) over the data that no neuron sees.
        at_zero = float(np.log(np.log(2.0))) if self.logistic else 0.0
        logs = whole.log_weights[self.unseen]
        self.log_rest = float(np.logaddexp.reduce(logs, initial=-np.inf)) + at_zero
        self.wall_up, self.wall_down = np.zeros(whole.count), np.zeros(whole.count)
        for i in np.flatnonzero(self.unseen):
            side = self.wall_up if whole.scale[i] > 0 else self.wall_down
            side[whole.surface[i]] += WALL * whole.y[i] * whole.scale[i]

    def pattern(self, sides: np.ndarray) -> Pattern:
        """Return the pattern of sides (m, G)."""
        return Pattern(self.at, np.array(sides, np.int8))

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
        """Return the forces F⁺, F⁻ (G,) of pulls c = y p (n,), walls included."""
        up, down = self.at.per_surface(c)
        return (self.wall_up + up, self.wall_down + down) if self.unseen.any() else (up, down)

    def seen_again(self, sides: np.ndarray, dead: np.ndarray) -> np.ndarray:
        """Return which of the unseen data (n,) some living neuron sees."""
        if not self.unseen.any():
            return self.unseen
        return self.unseen & ~Pattern(self.whole, sides[~dead]).unseen

    def per_datum(self, plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
        """Return ``y (c⁺A⁺ + c⁻A⁻)`` (n,) of sums over surfaces."""
        return self.at.y * self.at.per_datum(plus, minus)

    def pull(self, pattern: Pattern, p: np.ndarray) -> np.ndarray:
        """Return v (m, D) = Π_k Σ_i p_i y_i s_ki x_i."""
        return pattern.drive(*self.per_surface(p * self.at.y))

    def signed_slopes(self, pattern: Pattern, which: np.ndarray) -> np.ndarray:
        """Return y_i s_ki (|which|, m) in units of the normals, 0 on surfaces slid on."""
        at, surface = self.at, self.at.surface[which]
        return at.y[which][:, None] * (
            at.up[which][:, None] * pattern.plus[:, surface].T
            + at.down[which][:, None] * pattern.minus[:, surface].T
        )

    def gradient(self, pattern: Pattern, u: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return ``Σ_i p_i ∇q̂_i`` (P,)."""
        U, A = self.split(u)
        v = self.pull(pattern, p)
        return self.join(A[:, None] * v, np.sum(v * U, axis=1) if self.trained else None)

    def slopes(self, pattern: Pattern, A: np.ndarray, h: np.ndarray, dU: np.ndarray,
               dA: np.ndarray | None) -> np.ndarray:  # fmt: skip
        """Return ``∇q̂_i · (dU, dA)`` (n,)."""
        change = A[:, None] * (dU @ self.N.T)
        if dA is not None:
            change = change + dA[:, None] * h
        return self.per_datum(np.einsum("kg,kg->g", pattern.plus, change),
                              np.einsum("kg,kg->g", pattern.minus, change))  # fmt: skip

    def margins(self, pattern: Pattern, u: np.ndarray) -> np.ndarray:
        """Return q̂ (n,)."""
        U, A = self.split(u)
        h = U @ self.N.T
        return self.per_datum(A @ (pattern.plus * h), A @ (pattern.minus * h))

    def fields(self, pattern: Pattern, u: np.ndarray, p: np.ndarray) -> Fields:
        """Return everything the right-hand side needs at u (P,) and weights p (n,)."""
        U, A = self.split(u)
        h = U @ self.N.T
        v = self.pull(pattern, p)
        gU = A[:, None] * v
        gA = np.einsum("kd,kd->k", v, U) if self.trained else None
        q = self.per_datum(A @ (pattern.plus * h), A @ (pattern.minus * h))
        return Fields(h, v, gU, gA, q, self.slopes(pattern, A, h, gU, gA))

    def gradients(
        self, pattern: Pattern, u: np.ndarray, which: np.ndarray, h: np.ndarray
    ) -> np.ndarray:
        """Return the rows ∇q̂_i (|which|, m, width) of a few data."""
        A = self.split(u)[1]
        surface, s = self.at.surface[which], self.signed_slopes(pattern, which)
        rows = np.empty((len(which), self.m, self.width))
        normals = self.N[surface]
        np.multiply((s * A)[:, :, None], normals[:, None, :], out=rows[:, :, : self.dim])
        if pattern.basis.shape[1]:
            inside = np.einsum("krd,id->ikr", pattern.basis, normals) * (s * A)[:, :, None]
            rows[:, :, : self.dim] -= np.einsum("krd,ikr->ikd", pattern.basis, inside)
        if self.trained:
            rows[:, :, -1] = s * h[:, surface].T
        return rows

    def multipliers(self, pattern: Pattern, p: np.ndarray) -> list[np.ndarray]:
        """Return ν on the surfaces of each sliding neuron (in [0, 1] while it slides).

        A neuron at w = 0 rests while 0 is among its limiting fields: the distance from that, in
        units of what counts as zero, stands for its multipliers.
        """
        if not pattern.sliding:
            return []
        up, down = self.per_surface(p * self.at.y)
        jump = up - down
        slid = [k for k, _, _ in pattern.sliding]
        plus = pattern.plus[slid]
        forces = (plus * up + (1.0 - plus) * down) @ self.N
        out = []
        for (_, where, rows), back, force in zip(
            pattern.sliding, pattern.backs, forces, strict=True
        ):
            if len(rows) == self.dim:
                nu = np.full(len(where), 0.5)
                nu[0] = unrest(self.at, up, down) / REST
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

    # ------------------------------------------------------------- the loss in late coordinates
    def log_pull(self, q: np.ndarray) -> np.ndarray:
        """Return ``ln(ω_i(−ℓ')(q_i))`` (n,)."""
        if self.logistic:
            return self.at.log_weights - np.logaddexp(0.0, q)
        return self.at.log_weights - q

    def log_loss(self, q: np.ndarray) -> float:
        """Return ``ln Σ ω_i ℓ(q_i)``."""
        logs = self.at.log_weights - q
        if self.logistic:
            # ln ln(1+e^{−q}) = −q + ln(log1p(x)/x), x = e^{−q}; for q < 0 directly.
            x = np.exp(-np.maximum(q, 0.0))
            ratio = log1p_ratio(x)
            low = np.log(np.logaddexp(0.0, -np.minimum(q, 0.0)))
            logs = self.at.log_weights + np.where(q > 0, np.log(ratio) - q, low)
        return float(np.logaddexp.reduce(logs))
