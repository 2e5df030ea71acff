r"""The late phase in full: implicit steps through the fast layers.

The system of :mod:`.system` is stiff – the margins of the support relax at the rate ρ^D, everything
else at the rate 1. Each step is one of a stiffly accurate Rosenbrock method: one structured
factorisation, eight solves, no iteration. Steps shorter than the layers are explicit.
"""

from __future__ import annotations

import math

import numpy as np

from gradflow.cells.pattern import Pattern
from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.late.cell import Cell, margins
from gradflow.integrators.steppers.late.explicit import explicit_step
from gradflow.integrators.steppers.late.field import MarginNet
from gradflow.integrators.steppers.late.jacobian import Jacobian, factor, linearise
from gradflow.integrators.steppers.late.loop import AbstractPhase
from gradflow.integrators.steppers.late.rosenbrock import rosenbrock_step
from gradflow.integrators.steppers.late.system import elapsed, expand, fastest
from gradflow.integrators.steppers.rosenbrock import GAMMA

#: From this σ on (p < 1e-26) a datum is controlled as a margin, not as a weight.
_FAR = 60.0
#: Steps up to this share of the fastest relaxation are explicit.
_MILD = 1.0


def begin(net: MarginNet, U: np.ndarray, A: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Return the state of weights U (m, D), A (m,), where time and the loss clock begin."""
    raw = net.join(U, A)
    rho = float(np.linalg.norm(raw))
    q = rho**net.degree * margins(Cell.of(net, pattern), raw / rho)
    sigma = net.log_loss(q) - net.log_pull(q)
    return np.concatenate([raw / rho, [np.log(rho)], sigma, [0.0, 0.0]])


class FullPhase(AbstractPhase):
    """The full system; see :class:`~gradflow.integrators.steppers.late.loop.AbstractPhase`.

    ``rtol`` is relative per neuron, however small, and absolute in ln ρ and in the margins q̂.
    """

    form = "full"
    shortens = True

    def prepare(self) -> None:
        self.at = expand(self.cell, self.Y)
        self.big = float(self.at.numbers[0])
        most, self.growth = fastest(self.cell, self.at)
        self.fastest = self.big * most
        self.linear: Jacobian | None = None
        self.stats["rhs"] += 1

    @property
    def sigma(self) -> np.ndarray:
        """σ (n,)."""
        return self.Y[self.net.P + 1 : -2]

    def first_step(self) -> float:
        return 0.3 / (self.fastest + self.growth + 1.0)

    def longest_step(self) -> float:
        # (1/γh)I − H must stay definite.
        return 0.5 / (GAMMA * self.growth) if self.growth > 0 else np.inf

    def weights(self, Y: np.ndarray) -> np.ndarray:
        return np.exp(-Y[..., self.net.P + 1 : -2])

    def elapsed(self, Y: np.ndarray) -> tuple[float, float, np.ndarray]:
        return elapsed(self.cell, Y)

    def velocity(self, Y: np.ndarray) -> tuple[float, float]:
        rate = expand(self.cell, Y).rate
        return float(np.linalg.norm(rate[: self.net.P])), float(rate[self.net.P])

    def take(self, h: float) -> tuple[np.ndarray, float, np.ndarray]:
        if h * (self.fastest + self.big) <= _MILD:
            self.stats["rhs"] += 6
            field = lambda Y: expand(self.cell, Y).rate
            Y1, e, poly = explicit_step(field, self.Y, self.at.rate, h)
        else:
            self.stats["rhs"] += 7
            if self.linear is None:
                self.linear = linearise(self.cell, self.at, self.Y)
                self.stats["jacobians"] += 1
            cell, at, J = self.cell, self.at, self.linear
            factors = factor(cell, at, J, 1.0 / (GAMMA * h))
            Y1, e, poly = rosenbrock_step(cell, at, J, factors, self.Y, h)
        P, D = self.net.P, self.net.degree
        return Y1, _worst(P, D, self.standing.dead, self.rtol, self.Y, Y1, e), poly

    def after_event(self, h: float, what: list[tuple[int, int, str]]) -> float:
        # A layer of width ρ^{−D} follows where the weights have to move.
        surfaces = [g for _, g, _ in what if g >= 0]
        touched = np.isin(self.net.at.surface, surfaces)
        p = self.weights(self.Y)
        if surfaces and np.all(p[touched] * self.big < 1e-9):
            return h
        return min(h, self.first_step())


@kernel
def _worst(
    P: int, D: int, dead: np.ndarray, rtol: float, Y0: np.ndarray, Y1: np.ndarray, e: np.ndarray
) -> float:
    """Return the largest error of a step in tolerances; inf where something is not finite."""
    m, n, worst = dead.size, Y0.size - P - 3, 0.0
    width = P // m
    for k in range(m):
        before = after = wrong = 0.0
        for j in range(k * width, (k + 1) * width):
            before, after, wrong = before + Y0[j] ** 2, after + Y1[j] ** 2, wrong + e[j] ** 2
        if not dead[k]:
            # (a neuron may leave from 0)
            size = max(math.sqrt(max(before, after)), 1e-150)
            worst = max(worst, math.sqrt(wrong) / (rtol * size))
    big = math.exp(D * Y0[P])
    # An error δ in ln p relaxes at the rate ρ^D and moves u by δ/ρ^D only; one in ln t = O(ρ^D)
    # is relative to that.
    loose = min(10 * rtol * (1.0 + big), 0.1)
    for i in range(P + 1, P + 1 + n):
        near = min(Y0[i], Y1[i]) < _FAR
        worst = max(worst, abs(e[i]) / (loose if near else rtol * max(big, 10.0)))
    w, s = P + 1 + n, P + 2 + n
    worst = max(worst, abs(e[P]) / rtol, abs(e[w]) / (loose * max(Y0[w], Y1[w], 1e-300)))
    if D == 1:
        worst = max(worst, abs(e[s]) / (rtol * max(abs(Y1[s]), 1.0)))
    for j in range(Y1.size):
        if not (math.isfinite(Y1[j]) and math.isfinite(e[j])):
            return math.inf
    return worst
