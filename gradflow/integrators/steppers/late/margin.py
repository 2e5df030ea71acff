r"""The limit ρ^D → ∞ of the late phase: a max-margin flow on the sphere.

When the margins of the support A relax infinitely fast, they stay equal, and the weights follow
from that alone. With ε = ρ^{−D} (order 1) or ε = 0 (order 0),

.. math::
   \hat K_Ap-\mu\mathbf 1=-\beta\bigl[\hat q_A+\varepsilon(\ln p_A-\ln\omega_A)-\text{mean}\bigr],
   \qquad\mathbf 1\cdot p=1,\qquad u'=g-D(p\cdot\hat q)u,\qquad r'=D\,p\cdot\hat q,

β a rate at which rounding is forgotten. Not stiff, and of a cost that does not depend on ρ. The
flow is piecewise smooth in A too: a datum leaves where p_i = 0 and one enters where its margin
meets those of A; the new support is that of the element of least norm of
:math:`\operatorname{conv}\{\nabla\hat q_i\}` over the data of least margin, by non-negative least
squares. The weights jump where sides change, so sides and weights are settled in turn there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize

from gradflow.integrators.steppers.late.balance import FLOOR, balance, bordered
from gradflow.integrators.steppers.late.cell import Cell, gradient, margins, some
from gradflow.integrators.steppers.late.events import NODES, Hit, Standing, kind_of, resolve
from gradflow.integrators.steppers.late.explicit import explicit_step
from gradflow.integrators.steppers.late.field import MarginNet
from gradflow.integrators.steppers.late.loop import AbstractPhase, evaluate, root

#: β in units of |g|, the rate of the flow itself.
_BETA = 8.0
#: A margin within this of the least one belongs to the data of least margin.
_NEAR = 1e-9
_SETTLE = 12
#: Weights beyond this say that the gradients are dependent.
_HUGE = 1e6


def least_norm_weights(rows: np.ndarray) -> np.ndarray:
    """Return the p ≥ 0, Σp = 1, that minimises ``|rowsᵀ p|``; rows (k, P).

    ``min |rowsᵀx|² + (1 − Σx)²`` over x ≥ 0 has its solution along p.
    """
    # The triangular factor has the geometry of the rows in k dimensions.
    size = max(float(np.sqrt(np.max(np.einsum("ij,ij->i", rows, rows)))), 1e-300)
    triangle = np.linalg.qr(rows.T / size, mode="r")
    k = len(rows)
    try:
        x, _ = optimize.nnls(np.vstack([triangle, np.ones((1, k))]), np.append(
            np.zeros(len(triangle)), 1.0), maxiter=100 * k)  # fmt: skip
    except RuntimeError:
        x = np.ones(k)
    return x / np.sum(x)


class MarginPhase(AbstractPhase):
    """The max-margin flow; see :class:`~gradflow.integrators.steppers.late.loop.AbstractPhase`.

    A state is u (P,), r = ln ρ, s.

    Parameters
    ----------
    net : MarginNet
    Y, standing, rtol, stop, record, stats
        As for the loop.
    candidates : (k,) ints
        Data among which the support is sought first.
    """

    form = "margin"

    def __init__(self, net: MarginNet, Y: np.ndarray, standing: Standing, rtol: float,
                 stop: Callable[..., float], record: Callable[..., None], stats: dict[str, int],
                 candidates: np.ndarray) -> None:  # fmt: skip
        super().__init__(net, Y, standing, rtol, stop, record, stats)
        self.unsettled, self.beta = 0, 0.0
        self._asked: tuple[np.ndarray | None, list[tuple]] = None, []
        self._made_of: tuple[object, object] = (None, None)
        self.support = self._least(np.asarray(candidates, int))

    # ------------------------------------------------------------------------------ the field
    def _epsilon(self, Y: np.ndarray) -> float:
        return math.exp(-self.net.degree * Y[self.net.P])

    @property
    def _supported(self) -> Cell:
        """The cell of the support alone."""
        now = (self.standing.pattern, self.support)
        if now[0] is not self._made_of[0] or now[1] is not self._made_of[1]:
            self._made_of, self._only = now, some(self.cell, self.support)
        return self._only

    def _least(self, which: np.ndarray, drop: int = -1) -> np.ndarray:
        """The support of the element of least norm over some data."""
        if len(which) == 1:
            return which
        u = self.Y[: self.net.P]
        p = least_norm_weights(some(self.cell, which).gradients(u))
        keep = p > np.where(which == drop, 1e-6, 1e-11)
        return which[keep] if keep.any() else which[[int(np.argmax(p))]]

    def _balance(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Return p_A, g (P,), q̂_A and the common level of the margins."""
        p, g, q, level = balance(self._supported, Y, self.beta, self._epsilon(Y))
        if not abs(p).max() < _HUGE:
            p, level = self._dependent(Y, q)
            g = gradient(self._supported, np.array(self.net.split(Y[: self.net.P])[1]), Y, p)
        return p, g, q, level

    def _dependent(self, Y: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, float]:
        """p_A and the level where the gradients are dependent: p is not unique, g is."""
        U, A = self.net.split(Y[: self.net.P])
        matrix = bordered(self._supported, np.array(A), U @ self._supported.XT).T
        p, level = np.full(q.size, 1.0 / q.size), q
        for _ in range(3):
            logs = np.log(np.maximum(p, FLOOR)) - self._supported.log_weights
            level = q + self._epsilon(Y) * logs
            right = np.append(-self.beta * (level - np.mean(level)), 1.0)
            p = np.linalg.lstsq(matrix, right, rcond=1e-12)[0][:-1]
        return p, float(np.mean(level))

    def _field(self, Y: np.ndarray) -> np.ndarray:
        P, D = self.net.P, self.net.degree
        p, g, q, _ = self._balance(Y)
        self.stats["rhs"] += 1
        rate, grows = np.empty(P + 2), D * float(p @ q)
        rate[:P], rate[P], rate[P + 1] = g - grows * Y[:P], grows, math.exp((2 - D) * Y[P])
        return rate

    def _at_all(self, states: np.ndarray) -> list[tuple]:
        """`_balance` of the rows of an array, remembered: exits and the support both ask."""
        if self._asked[0] is not states:
            self._asked = states, [self._balance(Y) for Y in states]
        return self._asked[1]

    def weights(self, Y: np.ndarray) -> np.ndarray:
        p = np.zeros((*Y.shape[:-1], self.net.n))
        if Y.ndim == 1:
            p[self.support] = self._balance(Y)[0]
        else:
            p[:, self.support] = [found[0] for found in self._at_all(Y)]
        return p

    def velocity(self, Y: np.ndarray) -> tuple[float, float]:
        rate = self._field(Y)
        return float(np.linalg.norm(rate[: self.net.P])), float(rate[self.net.P])

    def elapsed(self, Y: np.ndarray) -> tuple[float, float, np.ndarray]:
        net, r, D = self.net, Y[self.net.P], self.net.degree
        p, g, q, _ = self._balance(Y)
        p = np.maximum(p, 1e-300)
        # p_i = ω_i e^{−q_i}/L, and t L → ρ^{2−2D}/|g|².
        log_loss = float(p @ (net.at.log_weights[self.support] - np.log(p) - np.exp(D * r) * q))
        log_w = (2 - 2 * D) * r - float(np.log(g @ g))
        return log_loss, float(log_w - log_loss), margins(self.cell, Y[: net.P])

    # ------------------------------------------------------------------------------ steps
    def prepare(self) -> None:
        self.beta = _BETA * float(np.linalg.norm(self._balance(self.Y)[1]))
        self.f0 = self._field(self.Y)
        self.p0, g, _, level = self._balance(self.Y)
        self.gap0 = self._gaps(self.Y, level)
        U, _ = self.net.split(self.Y[: self.net.P])
        self.speed = float(np.linalg.norm(g)) + float(np.linalg.norm(U))

    def first_step(self) -> float:
        return 1e-2 / (self.speed + self.beta)

    def longest_step(self) -> float:
        # The relaxation at the rate β must stay inside the region of stability.
        return 2.5 / self.beta

    def take(self, h: float) -> tuple[np.ndarray, float, np.ndarray]:
        Y1, e, poly = explicit_step(self._field, self.Y, self.f0, h)
        if not np.all(np.isfinite(e)):
            return Y1, math.inf, poly
        m, P = self.net.m, self.net.P
        sizes = [np.linalg.norm(Y[:P].reshape(m, -1), axis=1) for Y in (self.Y, Y1, e)]
        unit = self.rtol * np.maximum(np.maximum(sizes[0], sizes[1]), 1e-150)
        blocks = np.where(self.standing.dead, 0.0, sizes[2] / unit)
        return Y1, float(max(np.max(blocks), abs(e[P]) / self.rtol)), poly

    def after_event(self, h: float, what: list[tuple[int, int, str]]) -> float:
        return h

    # ------------------------------------------------------------------------------ the support
    def _gaps(self, Y: np.ndarray, level: float) -> np.ndarray:
        """How far the margins lie above those of the support; inf for its members."""
        net = self.net
        q = margins(self.cell, Y[: net.P]) - self._epsilon(Y) * net.at.log_weights
        gaps = q - level
        gaps[self.support] = np.inf
        return gaps

    def own_event(self, nodes: np.ndarray, poly: np.ndarray, before: float) -> Hit:
        hit, previous = Hit(), 0.0
        for node, Y, (p, _, _, level) in zip(NODES, nodes, self._at_all(nodes), strict=True):
            if previous >= before or hit.kind:
                break
            for j in np.flatnonzero(p < np.minimum(self.p0, 0.0) - 1e-11):
                beyond = lambda x, j=j: -self._balance(evaluate(poly, x))[0][j]
                xi = previous if beyond(previous) >= 0 else root(beyond, previous, node)
                if xi < min(hit.xi, before):
                    hit = Hit(xi, "leave", -1, int(self.support[j]), extra=j)
            for j in np.flatnonzero(self._gaps(Y, level) < np.minimum(self.gap0, 0.0) - 1e-12):
                beyond = lambda x, j=j: -self._gap(evaluate(poly, x), int(j))
                xi = previous if beyond(previous) >= 0 else root(beyond, previous, node)
                if xi < min(hit.xi, before):
                    hit = Hit(xi, "enter", -1, int(j))
            previous = node
        return hit

    def _gap(self, Y: np.ndarray, j: int) -> float:
        return float(self._gaps(Y, self._balance(Y)[3])[j])

    def own_distance(self, hit: Hit, Y: np.ndarray) -> float:
        if hit.kind == "leave":
            return float(self._balance(Y)[0][hit.extra])
        return self._gap(Y, hit.surface)

    def settle(self, hit: Hit, what: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
        before = self.support
        near = self._gaps(self.Y, self._balance(self.Y)[3]) <= _NEAR + 30 * self._epsilon(self.Y)
        if hit.kind == "enter":
            near[hit.surface] = True
        pool = np.union1d(before, np.flatnonzero(near))
        if hit.kind in ("leave", "enter"):
            self.support = self._least(pool, hit.surface if hit.kind == "leave" else -1)
        else:
            self._settle_sides(hit, what, pool)
        gone, come = np.setdiff1d(before, self.support), np.setdiff1d(self.support, before)
        what += [(-1, int(i), "support-out") for i in gone]
        what += [(-1, int(i), "support-in") for i in come]
        return what

    def _settle_sides(self, hit: Hit, what: list, pool: np.ndarray) -> None:
        """Sides from weights, weights from sides, in turn until both agree."""
        P, start = self.net.P, self.standing.sides.copy()
        again: np.ndarray | None = None
        for _ in range(_SETTLE):
            old = self.standing.sides
            u, self.standing, done = resolve(
                self.net, self.standing, self.Y[:P], self.weights(self.Y), hit, again
            )
            self.move(u)
            what += [x for x in done if x[2] in ("branch", "origin") and x not in what]
            self.support = self._least(pool)
            if np.array_equal(old, self.standing.sides):
                break
            again = (old != self.standing.sides) | (again if again is not None else False)
        else:
            self.unsettled += 1
        for k, g in np.argwhere(start != self.standing.sides):
            kind = kind_of(int(start[k, g]), int(self.standing.sides[k, g]))
            what.append((int(k), int(g), kind))
