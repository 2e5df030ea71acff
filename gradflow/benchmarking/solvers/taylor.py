"""heyoka: Taylor's method of high order, on the field in symbols.

For piecewise linear neurons either the field holds heyoka's own (leaky) ReLU, over whose kink a
Taylor step goes unseen; or the sides are parameters, and a terminal event for each surface turns
the side of the pair that met it, as a user would write it down who has not heard of sliding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.plain import PIECEWISE, PlainNet, not_plain, plain_net
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts

#: n m (d + 1) beyond which the symbols are not compiled.
_MOST_TERMS = 1000
#: Steps after which the clock is looked at.
_STEPS_AT_ONCE = 200


class Heyoka(AbstractSolver):
    """heyoka's adaptive Taylor integrator.

    Parameters
    ----------
    events : bool
        Whether kinks are terminal events.
    """

    library = "heyoka"

    def __init__(self, events: bool) -> None:
        self.events = events
        self.name = "heyoka-events" if events else "heyoka"
        self._made: dict[tuple[str, float], tuple[Any, list[int]]] = {}

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({"Taylor"})

    def refusal(self, problem: Problem) -> str | None:
        reason = not_plain(problem)
        if reason is not None:
            return reason
        net = plain_net(problem)
        if net.X.size * net.m > _MOST_TERMS:
            return f"compiles symbols of at most {_MOST_TERMS} terms"
        if self.events and not net.kinked:
            return "there are no kinks to locate"
        return None

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        net = plain_net(problem)
        import heyoka as hy  # pyright: ignore[reportMissingImports]

        integrator, met = self._at_start(hy, net, problem, field, setting)
        steps, t = 0, 0.0
        while True:
            out = integrator.propagate_until(problem.t_end, max_steps=_STEPS_AT_ONCE)
            outcome, taken = out[0], out[3]
            steps, t = steps + taken, float(integrator.time)
            counts = Counts(math.nan, 0, steps)
            remark = f"{met[0]} events" if self.events else ""
            state = np.array(integrator.state)
            if outcome == hy.taylor_outcome.time_limit:
                return Attempt(state, remark, counts=counts)
            late = field.left < 0
            if outcome != hy.taylor_outcome.step_limit or late:
                return Attempt(None, "" if late else str(outcome), late, t, counts)

    def _at_start(
        self, hy: Any, net: PlainNet, problem: Problem, field: Field, rtol: float
    ) -> tuple[Any, list[int]]:
        """The integrator, compiled once, at the start; and its count of events."""
        key = (problem.name, rtol)
        if key not in self._made:
            with field.compiling():
                met = [0]
                count = met if self.events else None
                self._made[key] = _integrator(hy, net, problem.y0, rtol, count), met
        integrator, met = self._made[key]
        integrator.time, met[0] = 0.0, 0
        integrator.state[:] = problem.y0
        if self.events:
            integrator.pars[:] = _slopes(net, problem.y0)
            integrator.reset_cooldowns()
        return integrator, met


def _slopes(net: PlainNet, y: np.ndarray) -> np.ndarray:
    """φ' of every pair, neuron by neuron."""
    return np.where(net.split(y)[0] @ net.X.T > 0, net.high, net.low).ravel()


def _integrator(hy: Any, net: PlainNet, y0: np.ndarray, rtol: float, met: list[int] | None) -> Any:
    """The integrator; ``met`` counts events, None takes heyoka's own activations."""
    n, d = net.X.shape
    names = [f"y{j}" for j in range(y0.size)]
    states = hy.make_vars(*names)
    W = [states[k * d : (k + 1) * d] for k in range(net.m)]
    a = states[net.m * d :]
    h = [
        [hy.sum([W[k][j] * net.X[i, j] for j in range(d)]) for i in range(n)] for k in range(net.m)
    ]
    phi, slope = _activations(hy, net, h, met is not None)
    f = [hy.sum([a[k] * phi[k][i] for k in range(net.m)]) for i in range(n)]
    pull = [_pull(hy, net, f[i], i) for i in range(n)]
    system = []
    for k in range(net.m):
        for j in range(d):
            terms = [pull[i] * slope[k][i] * net.X[i, j] for i in range(n)]
            system.append((W[k][j], a[k] * hy.sum(terms)))
    for k in range(net.m):
        rate = hy.sum([pull[i] * phi[k][i] for i in range(n)])
        system.append((a[k], rate if net.trained else 0.0 * a[k]))
    options: dict[str, Any] = {}
    if met is not None:
        options["pars"] = _slopes(net, y0)
        options["t_events"] = [
            hy.t_event(h[k][i], callback=_Turn(k * n + i, net.low, net.high, met))
            for k in range(net.m)
            for i in range(n)
        ]
    return hy.taylor_adaptive(system, y0.copy(), tol=rtol, compact_mode=True, **options)


class _Turn:
    """Turns the side of a pair whose surface was met, and lets the integration go on."""

    def __init__(self, which: int, low: float, high: float, met: list[int]) -> None:
        self.which, self.low, self.high, self.met = which, low, high, met

    def __call__(self, integrator: Any, sign: int) -> bool:
        self.met[0] += 1
        integrator.pars[self.which] = self.high if sign > 0 else self.low
        return True

    def __deepcopy__(self, memo: object) -> _Turn:
        return self  # (heyoka copies its callbacks; the count is shared)


def _activations(hy: Any, net: PlainNet, h: list[list[Any]], by_sides: bool) -> tuple[Any, Any]:
    """φ and φ' of every pair."""
    n = len(h[0])
    if net.activation != PIECEWISE:
        phi = [[hy.tanh(z) for z in row] for row in h]
        return phi, [[1.0 - p * p for p in row] for row in phi]
    if by_sides:
        slope = [[hy.par[k * n + i] for i in range(n)] for k in range(len(h))]
    elif not net.kinked:
        slope = [[hy.expression(net.low) for _ in row] for row in h]
    else:
        low, bend = net.low, net.high - net.low
        slope = [[low + bend * hy.relup(z) for z in row] for row in h]
    phi = [[s * z for s, z in zip(*rows, strict=True)] for rows in zip(slope, h, strict=True)]
    return phi, slope


def _pull(hy: Any, net: PlainNet, f: Any, i: int) -> Any:
    """−ω_i ∂ℓ/∂f."""
    y, weight = float(net.y[i]), float(net.weights[i])
    if net.loss == "squared":
        return weight * (y - f)
    if net.loss == "logistic":
        return (weight * y) * hy.sigmoid(-y * f)
    return (weight * y) * hy.exp(-y * f)
