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

from collections.abc import Callable

import numpy as np
import scipy.linalg as sla
from scipy import integrate, optimize

from gradflow.cells.pattern import Pattern
from gradflow.integrators.steppers.late.events import NODES, Hit, Standing, kind_of, resolve
from gradflow.integrators.steppers.late.field import MarginNet
from gradflow.integrators.steppers.late.loop import AbstractPhase, evaluate, root

#: β in units of |g|, the rate of the flow itself.
_BETA = 8.0
#: Weights below this are taken to be it inside ln p.
_FLOOR = 1e-4
#: A margin within this of the least one belongs to the data of least margin.
_NEAR = 1e-9
_SETTLE = 12
_RK = integrate.RK45


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
    order : int
        1: with the correction ε = ρ^{−D}; 0: without.
    """

    form = "margin"

    def __init__(self, net: MarginNet, Y: np.ndarray, standing: Standing, rtol: float,
                 stop: Callable[..., float], record: Callable[..., None], stats: dict[str, int],
                 candidates: np.ndarray, order: int = 1) -> None:  # fmt: skip
        super().__init__(net, Y, standing, rtol, stop, record, stats)
        self.order = order
        self.unsettled, self.beta = 0, 0.0
        self.support = self._least(np.asarray(candidates, int))

    # ------------------------------------------------------------------------------ the field
    def _epsilon(self, Y: np.ndarray) -> float:
        return float(np.exp(-self.net.degree * Y[self.net.P])) if self.order else 0.0

    def _rows(self, Y: np.ndarray, which: np.ndarray) -> np.ndarray:
        net, u = self.net, Y[: self.net.P]
        h = net.split(u)[0] @ net.N.T
        return net.gradients(self.standing.pattern, u, which, h).reshape(len(which), net.P)

    def _least(self, which: np.ndarray, drop: int = -1) -> np.ndarray:
        """The support of the element of least norm over some data."""
        if len(which) == 1:
            return which
        p = least_norm_weights(self._rows(self.Y, which))
        keep = p > np.where(which == drop, 1e-6, 1e-11)
        return which[keep] if keep.any() else which[[int(np.argmax(p))]]

    def _solve(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Return p_A, g (P,), q̂_A and the common level of the margins."""
        net, A = self.net, self.support
        rows = self._rows(Y, A)
        q = rows @ Y[: net.P] / net.degree
        k, epsilon = len(A), self._epsilon(Y)
        logs = net.at.log_weights[A]
        if k == 1:
            return np.ones(1), rows[0], q, float(q[0] - epsilon * logs[0])
        M = np.zeros((k + 1, k + 1))
        M[:k, :k] = rows @ rows.T
        M[:k, k] = -1.0
        M[k, :k] = 1.0
        lu = sla.lu_factor(M, check_finite=False)
        right = np.ones(k + 1)
        p = np.full(k, 1.0 / k)
        for _ in range(3 if epsilon > 0 else 1):
            level = q + epsilon * (np.log(np.maximum(p, _FLOOR)) - logs)
            right[:k] = -self.beta * (level - np.mean(level))
            x = sla.lu_solve(lu, right, check_finite=False)
            if not np.all(np.abs(x) < 1e6):
                # Dependent gradients: p is not unique, g is.
                x = np.linalg.lstsq(M, right, rcond=1e-12)[0]
            p = x[:k]
        return p, p @ rows, q, float(np.mean(level))

    def _field(self, Y: np.ndarray) -> np.ndarray:
        net = self.net
        p, g, q, _ = self._solve(Y)
        beta = float(p @ q)
        out = np.empty_like(Y)
        out[: net.P] = g - (net.degree * beta) * Y[: net.P]
        out[net.P] = net.degree * beta
        out[net.P + 1] = np.exp((2 - net.degree) * Y[net.P])
        self.stats["rhs"] += 1
        return out

    def weights(self, Y: np.ndarray) -> np.ndarray:
        p = np.zeros(self.net.n)
        p[self.support] = self._solve(Y)[0]
        return p

    def velocity(self, Y: np.ndarray) -> tuple[float, float]:
        rate = self._field(Y)
        return float(np.linalg.norm(rate[: self.net.P])), float(rate[self.net.P])

    def elapsed(self, Y: np.ndarray, pattern: Pattern) -> tuple[float, float, np.ndarray]:
        net, r, D = self.net, Y[self.net.P], self.net.degree
        p, g, q, _ = self._solve(Y)
        p = np.maximum(p, 1e-300)
        # p_i = ω_i e^{−q_i}/L, and t L → ρ^{2−2D}/|g|².
        log_loss = float(p @ (net.at.log_weights[self.support] - np.log(p) - np.exp(D * r) * q))
        log_w = (2 - 2 * D) * r - float(np.log(g @ g))
        return log_loss, float(log_w - log_loss), net.margins(pattern, Y[: net.P])

    # ------------------------------------------------------------------------------ steps
    def prepare(self) -> None:
        self.beta = _BETA * float(np.linalg.norm(self._solve(self.Y)[1]))
        self.f0 = self._field(self.Y)
        p, g, _, level = self._solve(self.Y)
        self.p0, self.gap0 = p, self._gaps(self.Y, level)
        U, _ = self.net.split(self.Y[: self.net.P])
        self.speed = float(np.linalg.norm(g)) + float(np.linalg.norm(U))

    def first_step(self) -> float:
        return 1e-2 / (self.speed + self.beta)

    def longest_step(self) -> float:
        # The relaxation at the rate β must stay inside the region of stability.
        return 2.5 / self.beta

    def take(self, h: float) -> tuple[np.ndarray, float, Callable[[], np.ndarray]]:
        Y0, k = self.Y, np.empty((7, len(self.Y)))
        k[0] = self.f0
        for i in range(1, 6):
            k[i] = self._field(Y0 + h * (_RK.A[i, :i] @ k[:i]))
        Y1 = Y0 + h * (_RK.B @ k[:6])
        k[6] = self._field(Y1)
        if not np.all(np.isfinite(k[6])):
            return Y1, np.inf, lambda: Y0[None]
        e, m, P = h * (_RK.E @ k), self.net.m, self.net.P
        size = np.maximum(*(np.linalg.norm(Y[:P].reshape(m, -1), axis=1) for Y in (Y0, Y1)))
        wrong = np.linalg.norm(e[:P].reshape(m, -1), axis=1)
        blocks = np.where(self.standing.dead, 0.0, wrong / (self.rtol * np.maximum(size, 1e-150)))
        error = float(max(float(np.max(blocks)), abs(e[P]) / self.rtol))
        return Y1, error, lambda: np.concatenate([Y0[None], h * (_RK.P.T @ k)])

    def after_event(self, h: float, what: list[tuple[int, int, str]]) -> float:
        return h

    # ------------------------------------------------------------------------------ the support
    def _gaps(self, Y: np.ndarray, level: float) -> np.ndarray:
        """How far the margins lie above those of the support; inf for its members."""
        net = self.net
        q = net.margins(self.standing.pattern, Y[: net.P]) - self._epsilon(Y) * net.at.log_weights
        gaps = q - level
        gaps[self.support] = np.inf
        return gaps

    def own_event(self, poly: np.ndarray, Y1: np.ndarray, before: float) -> Hit:
        hit, previous = Hit(), 0.0
        for node in NODES:
            if previous >= before or hit.kind:
                break
            Y = Y1 if node == 1.0 else evaluate(poly, node)
            p, _, _, level = self._solve(Y)
            for j in np.flatnonzero(p < np.minimum(self.p0, 0.0) - 1e-11):
                beyond = lambda x, j=j: -self._solve(evaluate(poly, x))[0][j]
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
        return float(self._gaps(Y, self._solve(Y)[3])[j])

    def own_distance(self, hit: Hit, Y: np.ndarray) -> float:
        if hit.kind == "leave":
            return float(self._solve(Y)[0][hit.extra])
        return self._gap(Y, hit.surface)

    def settle(self, hit: Hit, what: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
        before = self.support
        near = self._gaps(self.Y, self._solve(self.Y)[3]) <= _NEAR + 30 * self._epsilon(self.Y)
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
            self.Y[:P] = u
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
