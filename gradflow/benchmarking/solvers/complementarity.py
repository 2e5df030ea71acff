"""nosnoc: the flow as a complementarity system, every step a nonlinear program [filippov1988].

Each φ' is low + (high − low)α with a multiplier α in [0, 1] for every pair, 0 or 1 off its surface,
and the finite elements move so that switches fall between them. There is no error control: how many
steps a tolerance takes is set here by the order of the Radau method inside.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from typing import Any

import numpy as np

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.plain import PlainNet, not_plain, plain_net
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts

#: Pairs of a neuron and a datum, of which each is a multiplier in every stage.
_MOST_PAIRS = 12
#: Radau IIA stages, of order 2s − 1; and steps at a tolerance of 1.
_STAGES, _STEPS = 4, 4


class Nosnoc(AbstractSolver):
    """nosnoc with the step reformulation and Radau IIA of order 7, two elements a step."""

    name = "nosnoc"
    library = "nosnoc"
    patience = 4.0  # (no other passes slides, and it is slow)

    def __init__(self) -> None:
        self._made: dict[tuple[str, float], Any] = {}

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({"complementarity"})

    def refusal(self, problem: Problem) -> str | None:
        reason = not_plain(problem)
        if reason is not None:
            return reason
        net = plain_net(problem)
        if not net.kinked:
            return "there are no kinks"
        if net.m * len(net.y) > _MOST_PAIRS:
            return f"solves nonlinear programs of at most {_MOST_PAIRS} pairs of neuron and datum"
        return None

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        net = plain_net(problem)
        total = math.ceil(_STEPS * setting ** (-1 / (2 * _STAGES - 1)))
        key = (problem.name, setting)
        # (the library sets its own filter of warnings and talks)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            if key not in self._made:
                with field.compiling():
                    self._made[key] = _solver(net, problem.y0, problem.t_end / total, setting)
            solver, y = self._made[key], problem.y0.copy()
            for step in range(total):
                t, counts = step * problem.t_end / total, Counts(math.nan, math.nan, step)
                if field.left < 0:
                    return Attempt(None, f"of {total} steps", True, t, counts)
                solver.set("x0", y)
                found = solver.solve()
                if found["status"].name != "SUCCESS":
                    return Attempt(None, found["status"].name, t=t, counts=counts)
                y = np.asarray(found["x_list"][-1], float).ravel()
        return Attempt(y, counts=Counts(math.nan, math.nan, total))


def _solver(net: PlainNet, y0: np.ndarray, h: float, rtol: float) -> Any:
    """A solver of one step of length h."""
    import casadi as ca  # pyright: ignore[reportMissingImports]
    import nosnoc  # pyright: ignore[reportMissingImports]

    n, d = net.X.shape
    x = ca.SX.sym("x", y0.size)
    alpha = ca.SX.sym("alpha", net.m * n)
    W = ca.reshape(x[: net.m * d], d, net.m)
    a = x[net.m * d :]
    heights = ca.DM(net.X) @ W  # (n, m)
    slopes = net.low + (net.high - net.low) * ca.reshape(alpha, n, net.m)
    f = (slopes * heights) @ a
    pull = ca.vertcat(*[_pull(ca, net, f[i], i) for i in range(n)])
    velocity = [a[k] * (ca.DM(net.X).T @ (pull * slopes[:, k])) for k in range(net.m)]
    rates = (slopes * heights).T @ pull if net.trained else ca.SX.zeros(net.m)
    model = nosnoc.NosnocModel(
        x=x, x0=y0, f_x=[ca.vertcat(*velocity, rates)], alpha=[alpha],
        c=[ca.reshape(heights, n * net.m, 1)],
    )  # fmt: skip
    options = nosnoc.NosnocOpts()
    options.pss_mode = nosnoc.PssMode.STEP
    options.n_s, options.N_finite_elements, options.terminal_time = _STAGES, 2, h
    options.comp_tol = options.sigma_N = max(rtol / 100, 1e-13)
    options.step_equilibration = nosnoc.StepEquilibrationMode.HEURISTIC_MEAN
    return nosnoc.NosnocSolver(options, model)


def _pull(ca: Any, net: PlainNet, f: Any, i: int) -> Any:
    """−ω_i ∂ℓ/∂f."""
    y, weight = float(net.y[i]), float(net.weights[i])
    if net.loss == "squared":
        return weight * (y - f)
    if net.loss == "logistic":
        return weight * y / (1 + ca.exp(y * f))
    return weight * y * ca.exp(-y * f)
