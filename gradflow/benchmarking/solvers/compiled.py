"""Tsit5 in Numba, which takes the field as it finds it: what a fast loop alone is worth."""

from __future__ import annotations

import numba
import numpy as np

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.plain import LOSSES, PIECEWISE, not_plain, plain_net
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts, atol_of

#: Attempted steps of one compiled loop, after which the clock is looked at.
_STEPS_AT_ONCE = 20_000


def _tableau() -> tuple[np.ndarray, np.ndarray]:
    """Rows of A (with b as the last) and the error weights, from diffrax."""
    import diffrax

    tableau = diffrax.Tsit5().tableau
    A = np.zeros((7, 7))
    for i, row in enumerate(tableau.a_lower):
        A[i + 1, : len(row)] = row
    return A, np.array(tableau.b_error)


@numba.njit(cache=True)
def _field(y, X, target, omega, m, kind, low, high, loss, trained):
    n, d = X.shape
    W, a = y[: m * d].reshape(m, d), y[m * d :]
    phi, slope = np.empty((m, n)), np.empty((m, n))
    f = np.zeros(n)
    h = np.dot(W, X.T)
    for k in range(m):
        for i in range(n):
            if kind == PIECEWISE:
                s = high if h[k, i] > 0 else low
                slope[k, i], phi[k, i] = s, s * h[k, i]
            else:
                z = np.tanh(h[k, i])
                slope[k, i], phi[k, i] = 1 - z * z, z
            f[i] += a[k] * phi[k, i]
    pull = np.empty(n)
    for i in range(n):
        if loss == 0:
            pull[i] = omega[i] * (target[i] - f[i])
        elif loss == 1:
            pull[i] = omega[i] * target[i] / (1 + np.exp(min(target[i] * f[i], 700.0)))
        else:
            pull[i] = omega[i] * target[i] * np.exp(-target[i] * f[i])
    out = np.zeros_like(y)
    G = np.empty((m, n))
    for k in range(m):
        total = 0.0
        for i in range(n):
            G[k, i] = a[k] * slope[k, i] * pull[i]
            total += phi[k, i] * pull[i]
        if trained:
            out[m * d + k] = total
    out[: m * d] = np.dot(G, X).ravel()
    return out


@numba.njit(cache=True)
def _march(y, t, h, t_end, rtol, atol, most, A, weights, X, target, omega, m, kind, low, high,
           loss, trained):  # fmt: skip
    """Up to ``most`` attempts: y, t, h, accepted, evaluations."""
    K = np.empty((7, y.size))
    K[0] = _field(y, X, target, omega, m, kind, low, high, loss, trained)
    if h <= 0:
        h = min(t_end, 1e-3 * (np.max(np.abs(y)) + 1e-300) / (np.max(np.abs(K[0])) + 1e-300))
    accepted, count = 0, 1
    for _ in range(most):
        if t >= t_end or h < 1e-16 * t:
            break
        last = t + h >= t_end
        size = t_end - t if last else h
        for s in range(1, 7):
            at = y.copy()
            for j in range(s):
                if A[s, j] != 0:
                    at += size * A[s, j] * K[j]
            K[s] = _field(at, X, target, omega, m, kind, low, high, loss, trained)
        count += 6
        worst = 0.0
        for p in range(y.size):
            gap = 0.0
            for s in range(7):
                gap += weights[s] * K[s, p]
            bound = atol + rtol * max(abs(y[p]), abs(at[p]))
            worst += (size * gap / bound) ** 2
        worst = np.sqrt(worst / y.size)
        if worst <= 1:
            y, t = at, (t_end if last else t + size)
            K[0] = K[6]
            accepted += 1
        h = size * min(5.0, max(0.2, 0.9 * max(worst, 1e-10) ** -0.2))
    return y, t, h, accepted, count


class NumbaTsit5(AbstractSolver):
    """Tsit5 with field and steps compiled by Numba; kinks are stepped over."""

    name = "numba-tsit5"

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({"explicit Runge-Kutta"})

    def refusal(self, problem: Problem) -> str | None:
        return not_plain(problem)

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        net = plain_net(problem)
        data = (
            np.ascontiguousarray(net.X), net.y, net.weights, net.m, net.activation, net.low,
            net.high, LOSSES[net.loss], net.trained,
        )  # fmt: skip
        A, weights = _tableau()
        atol = atol_of(problem, setting)
        with field.compiling():
            _march(problem.y0.copy(), 0.0, 0.0, problem.t_end, setting, atol, 0, A, weights, *data)
        y, t, h, steps, count = problem.y0.copy(), 0.0, 0.0, 0, 0
        while t < problem.t_end:
            y, t, h, more, evaluations = _march(
                y, t, h, problem.t_end, setting, atol, _STEPS_AT_ONCE, A, weights, *data
            )
            steps, count = steps + more, count + evaluations
            counts = Counts(count, 0, steps)
            if not np.all(np.isfinite(y)) or (t < problem.t_end and h < 1e-16 * t):
                return Attempt(None, "the step vanishes", t=t, counts=counts)
            if field.left < 0 and t < problem.t_end:
                return Attempt(None, "", True, t, counts)
        return Attempt(y, counts=counts)
