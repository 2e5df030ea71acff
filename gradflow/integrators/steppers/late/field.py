r"""Data and shape of a two-layer (leaky) ReLU net on separated data, as the late phase sees them.

Margins are those of weights of norm 1: with :math:`u=\theta/\rho` they are
:math:`\hat q_i(u)=y_if(x_i;u)`, polynomials inside an activation cell (:mod:`.cell`).
"""

from __future__ import annotations

import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.numerics.logs import log1p_ratio

#: The force of a datum that no neuron sees, where the others' add up to 1. It stands for e^{q}.
WALL = 1e3


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
        self.logistic = whole.loss.name == "logistic"
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
        """Return the blocks U (..., m, D) and outer weights A (..., m) of flat u (..., P)."""
        body = u.reshape(*u.shape[:-1], self.m, self.width)
        return (body[..., :-1], body[..., -1]) if self.trained else (body, self.A)

    def join(self, U: np.ndarray, A: np.ndarray) -> np.ndarray:
        """Return the flat vector of blocks: the inverse of `split`."""
        return np.concatenate([U, A[:, None]], axis=1).ravel() if self.trained else U.ravel()

    def per_surface(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the forces F⁺, F⁻ (..., G) of pulls c = y p (..., n), walls included."""
        if c.ndim > 1 and not self.at.plain:
            up, down = np.stack([self.at.per_surface(row) for row in c], axis=1)
        else:
            up, down = self.at.per_surface(c)
        return (self.wall_up + up, self.wall_down + down) if self.unseen.any() else (up, down)

    def seen_again(self, sides: np.ndarray, dead: np.ndarray) -> np.ndarray:
        """Return which of the unseen data (n,) some living neuron sees."""
        if not self.unseen.any():
            return self.unseen
        return self.unseen & ~Pattern(self.whole, sides[~dead]).unseen

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
