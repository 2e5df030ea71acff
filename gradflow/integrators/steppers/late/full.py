r"""The late phase in full: implicit steps through the fast layers.

The system of :mod:`.system` is stiff – the margins of the support relax at
the rate ρ^D, everything else at the rate 1. Each step is one of a stiffly accurate Rosenbrock
method: one structured factorisation, eight solves, no iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradflow.cells.pattern import Pattern
from gradflow.integrators.steppers import rosenbrock
from gradflow.integrators.steppers.late.loop import AbstractPhase
from gradflow.integrators.steppers.late.system import LateSystem

#: From this σ on (p < 1e-26) a datum is controlled as a margin, not as a weight.
_FAR = 60.0


class FullPhase(AbstractPhase):
    """The full system; see :class:`~gradflow.integrators.steppers.late.loop.AbstractPhase`.

    ``rtol`` is relative per neuron, however small, and absolute in ln ρ and in the margins q̂.
    """

    form = "full"
    shortens = True

    def __init__(self, system: LateSystem, *args: Any) -> None:
        super().__init__(system.net, *args)
        self.system = system

    def prepare(self) -> None:
        self.f0, self.linear = self.system.linearise(self.Y, self.standing.pattern)
        self.stats["rhs"] += 1
        self.stats["jacobians"] += 1

    def first_step(self) -> float:
        linear = self.linear
        fastest = linear.big * float(np.max(np.diag(linear.kernel), initial=0.0))
        return 0.3 / (fastest + linear.growth + 1.0)

    def longest_step(self) -> float:
        # (1/γh)I − H must stay definite: neurons grow at rates up to `growth`.
        growth = self.linear.growth
        return 0.5 / (rosenbrock.GAMMA * growth) if growth > 0 else np.inf

    def weights(self, Y: np.ndarray) -> np.ndarray:
        return np.exp(-Y[self.system.sigma])

    def elapsed(self, Y: np.ndarray, pattern: Pattern) -> tuple[float, float, np.ndarray]:
        return self.system.elapsed(Y, pattern)

    def velocity(self, Y: np.ndarray) -> tuple[float, float]:
        rate = self.system.field(Y, self.standing.pattern)
        return float(np.linalg.norm(rate[: self.net.P])), float(rate[self.net.P])

    def take(self, h: float) -> tuple[np.ndarray, float, Callable[[], np.ndarray]]:
        self.stats["rhs"] += 7
        pattern = self.standing.pattern
        try:
            solve = self.linear.factor(1.0 / (rosenbrock.GAMMA * h))
            Y1, k = rosenbrock.rosenbrock_step(
                lambda Y: self.system.field(Y, pattern), solve, self.Y, h, self.f0
            )
        except (ValueError, np.linalg.LinAlgError):
            return self.Y, np.inf, lambda: self.Y[None]
        if not np.all(np.isfinite(Y1)):
            return Y1, np.inf, lambda: self.Y[None]

        def dense() -> np.ndarray:
            return np.concatenate([self.Y[None], rosenbrock.quartic(self.Y, Y1, k)])

        return Y1, self._error(self.Y, Y1, k[7]), dense

    def _error(self, Y0: np.ndarray, Y1: np.ndarray, e: np.ndarray) -> float:
        system, net, rtol = self.system, self.net, self.rtol
        P, at_r, sigma = system.P, system.at_r, system.sigma
        ends = [np.linalg.norm(Y[:P].reshape(net.m, -1), axis=1) for Y in (Y0, Y1)]
        size = np.maximum(*ends)  # a neuron may leave from 0
        wrong = np.linalg.norm(e[:P].reshape(net.m, -1), axis=1)
        blocks = np.where(self.standing.dead, 0.0, wrong / (rtol * np.maximum(size, 1e-150)))
        big = np.exp(system.D * Y0[at_r])
        near = np.minimum(Y0[sigma], Y1[sigma]) < _FAR
        # An error δ in ln p relaxes at the rate ρ^D and moves u by δ/ρ^D only; one in ln t = O(ρ^D)
        # is relative to that.
        loose = np.minimum(10 * rtol * (1.0 + big), 0.1)
        unit = np.where(near, loose, rtol * np.maximum(big, 10.0))
        worst = max(
            float(np.max(blocks)),
            abs(e[at_r]) / rtol,
            float(np.max(np.abs(e[sigma]) / unit)),
            abs(e[system.at_w]) / (loose * max(Y0[system.at_w], Y1[system.at_w], 1e-300)),
        )
        if system.D == 1:
            worst = max(worst, abs(e[system.at_s]) / (rtol * max(abs(Y1[system.at_s]), 1.0)))
        return float(worst) if np.isfinite(worst) else math.inf

    def after_event(self, h: float, what: list[tuple[int, int, str]]) -> float:
        # A layer of width ρ^{−D} follows where the weights have to move.
        surfaces = [g for _, g, _ in what if g >= 0]
        touched = np.isin(self.net.at.surface, surfaces)
        p = self.weights(self.Y)
        if surfaces and np.all(p[touched] * self.linear.big < 1e-9):
            return h
        return min(h, self.first_step())
