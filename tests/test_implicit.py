"""Implicit steps in a cell: the Jacobian, both solves, and the method's orders."""

from __future__ import annotations

import functools as ft
import itertools

import numpy as np
import pytest
from scipy import integrate

from gradflow.integrators.steppers import rosenbrock
from gradflow.integrators.steppers.cells.field import field
from gradflow.integrators.steppers.cells.implicit import implicit_step
from gradflow.integrators.steppers.cells.linearise import linearise
from gradflow.integrators.steppers.cells.packed import by_reference
from gradflow.integrators.steppers.cells.solves import by_data, by_weights
from gradflow.integrators.steppers.cells.system import (
    CROSS_ENTROPY,
    EXPONENTIAL,
    LOG,
    LOGISTIC,
    LOSS,
    PHYSICAL,
    SOFT_LOGISTIC,
    SQUARED,
    Cell,
    System,
    room,
)

LOSSES = {
    "squared": SQUARED, "logistic": LOGISTIC, "exponential": EXPONENTIAL,
    "soft": SOFT_LOGISTIC, "softmax": CROSS_ENTROPY,
}  # fmt: skip
CLOCKS = {"physical": PHYSICAL, "log": LOG, "loss": LOSS}


def _with_arrays(kind, arrays):
    """A tuple of the kernel with these entries; the field asks for no others."""
    return kind(**{name: arrays.get(name, np.zeros(0)) for name in kind._fields})


class Case:
    """A system, a point of it and its cell; the field again, by JAX from the loss."""

    def __init__(
        self, n=5, D=3, m=4, o=1, loss="squared", clock="physical", trained=True, slides=(),
        l2=0.0, tv=0.0, gain=1.0, seed=0,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        X, self.trained, self.loss, self.clock = rng.normal(size=(n, D)), trained, loss, clock
        X[:, -1] = 1.0
        targets = {"squared": rng.normal(size=(n, o)), "soft": rng.uniform(size=(n, 1))}
        if loss == "softmax":
            y = rng.dirichlet(np.ones(o), size=n) * 1.5
        else:
            y = targets.get(loss, rng.choice([-1.0, 1.0], size=(n, 1)))
        self.shape, self.gain, self.l2, self.tv = (m, D, o), gain, l2, tv
        arrays = {
            "X": X, "XT": np.ascontiguousarray(X.T), "y": y, "gain": gain, "clock": CLOCKS[clock],
            "logw": np.log(rng.uniform(0.5, 1.5, n) / n), "loss": LOSSES[loss],
            "offset": 0.1 * rng.normal(size=(n, o)), "l2w": np.full(D, l2), "l2a": l2, "tv": tv,
            "trained": trained,
        }  # fmt: skip
        self.sys = _with_arrays(System, arrays)
        W, a = rng.normal(size=(m, D)), rng.normal(size=(m, o))
        S, T = rng.choice([-1.0, 0.1, 1.0], size=(m, n)), rng.choice([0.0, 0.3], size=(m, n))
        Q, rank = np.zeros((m, max(D, 1), D)), np.zeros(m, np.int64)
        for k, data in slides:
            rows = np.linalg.svd(X[list(data)])[2][: len(data)]
            Q[k, : len(rows)], rank[k] = rows, len(rows)
            S[k, list(data)] = 0.0
            W[k] -= rows.T @ (rows @ W[k])
        none = {"act": np.zeros(0, np.int8), "kept": np.zeros(0, np.int64)}
        self.cell = _with_arrays(Cell, {"S": S, "T": T, "Q": Q, "rank": rank, **none})
        self.work, extra = room(m, n, D, o), [0.3] if clock == "loss" else []
        self.s = 1.3
        self.y = np.concatenate([W.ravel(), a.ravel(), [0.2], extra])
        self.weights = m * (D + o) if trained else m * D

    def risk(self, theta):
        """L and ∂L/∂f by the formulas, for complex arguments too."""
        m, D, o = self.shape
        sys, W, a = self.sys, theta[: m * D].reshape(m, D), theta[m * D :].reshape(m, o)
        phi = self.cell.S * (W @ sys.X.T) + self.cell.T
        f = self.gain * phi.T @ a + sys.offset
        z, e = f * sys.y, np.exp(f)
        each, slope = {
            "squared": lambda: (0.5 * (f - sys.y) ** 2, f - sys.y),
            "logistic": lambda: (np.log(1 + np.exp(-z)), -sys.y / (1 + np.exp(z))),
            "exponential": lambda: (np.exp(-z), -sys.y * np.exp(-z)),
            "soft": lambda: (np.log(1 + e) - sys.y * f, e / (1 + e) - sys.y),
            "softmax": lambda: (
                sys.y * (np.log(np.sum(e, axis=1, keepdims=True)) - f),
                np.sum(sys.y, axis=1, keepdims=True) * e / np.sum(e, axis=1, keepdims=True) - sys.y,
            ),
        }[self.loss]()
        masses = np.sqrt(np.sum(W**2, axis=1) * np.sum(a**2, axis=1))
        value = np.sum(np.exp(sys.logw) * np.sum(each, axis=1))
        value += 0.5 * self.l2 * np.sum(theta**2) + self.tv * np.sum(masses)
        return value, np.exp(sys.logw)[:, None] * slope, phi, W, a

    def force(self, theta):
        """L and −∇L, held on the slides."""
        L, slope, phi, W, a = self.risk(theta)
        pull = -self.gain * (self.cell.S * (a @ slope.T)) @ self.sys.X - self.l2 * W
        outer = -self.gain * phi @ slope - self.l2 * a
        size = np.sqrt(np.sum(W**2, axis=1))[:, None]
        mass = np.sqrt(np.sum(a**2, axis=1))[:, None]
        if self.tv:
            pull, outer = pull - self.tv * mass * W / size, outer - self.tv * size * a / mass
        force = np.concatenate([pull.ravel(), outer.ravel() if self.trained else 0 * a.ravel()])
        return L, self.free()[: theta.size, : theta.size] @ force

    def field(self, s, y):
        """dy/ds by the formulas, for complex arguments too."""
        end = y.size - (2 if self.clock == "loss" else 1)
        L, F = self.force(y[:end])
        if self.clock == "loss":
            return np.concatenate([F / L, [F @ F / L, np.exp(-y[-1]) / L]])
        return (np.exp(s) if self.clock == "log" else 1.0) * np.concatenate([F, [F @ F]])

    @ft.cached_property
    def derivatives(self):
        """∂/∂y and ∂/∂s of the field by complex steps, in what is free to move."""
        columns = [
            self.field(self.s, self.y + 1e-30j * e).imag / 1e-30 for e in np.eye(self.y.size)
        ]
        by_clock = self.field(self.s + 1e-30j, self.y + 0j).imag / 1e-30
        return np.stack(columns, axis=1) @ self.free(), by_clock

    def kernel_field(self, s, y):
        dy = np.zeros_like(y)
        self.found = field(*by_reference(self.sys, self.cell, self.work), s, y, dy)
        return dy

    def linearised(self):
        dy = self.kernel_field(self.s, self.y)
        return linearise(self.sys, self.cell, self.work, self.s, self.y, dy, self.found), dy

    def free(self):
        """Orthogonal projection of the state on what slides and fixed layers leave free."""
        m, D, o = self.shape
        P = np.eye(self.y.size)
        P[self.weights : m * (D + o)] = 0.0
        for k in range(m):
            Q = self.cell.Q[k, : self.cell.rank[k]]
            P[k * D : (k + 1) * D, k * D : (k + 1) * D] -= Q.T @ Q
        return P


CASES = {
    **{
        f"{loss}-{clock}": {"loss": loss, "clock": clock, "o": 3 if loss == "softmax" else 1}
        for loss, clock in itertools.product(LOSSES, CLOCKS)
    },
    "slides": {"slides": ((0, (1,)), (2, (0, 3)))},
    "slides-loss": {"slides": ((0, (1,)), (2, (0, 3))), "clock": "loss", "loss": "logistic"},
    "neuron-at-0": {"slides": ((1, (0, 1, 2)),)},
    "fixed": {"trained": False, "slides": ((3, (2,)),)},
    "fixed-log": {"trained": False, "clock": "log", "loss": "logistic"},
    "decay": {"l2": 0.3, "slides": ((0, (1,)),)},
    "decay-loss": {"l2": 0.3, "clock": "loss", "loss": "logistic"},
    "variation": {"tv": 0.2, "slides": ((0, (1,)),), "clock": "log"},
    "variation-fixed": {"tv": 0.2, "trained": False},
    "gain": {"gain": 2.5, "o": 2},
    "outputs": {"o": 2, "slides": ((1, (4,)),), "tv": 0.1},
    "one": {"n": 1, "D": 1, "m": 1},
    "wide": {"n": 3, "D": 7, "m": 9, "slides": ((5, (0, 2)),)},
    "long": {"n": 17, "D": 2, "m": 1},
}


@ft.cache
def _case(name):
    return Case(**CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_the_jacobian_of_the_state_is_that_of_the_formulas(name):
    at = _case(name)
    got, dy = at.linearised()
    np.testing.assert_allclose(dy, at.field(at.s, at.y), rtol=1e-12, atol=1e-13)
    J, by_clock = at.derivatives
    P, scale = at.weights, np.max(np.abs(J))
    np.testing.assert_allclose(got.weights.dense, J[:P, :P], rtol=0, atol=1e-13 * scale)
    v = at.free()[:P, :P] @ np.random.default_rng(1).normal(size=P)
    np.testing.assert_allclose(got.weights.times(v), J[:P, :P] @ v, rtol=0, atol=1e-12 * scale)
    others = slice(P + got.held, None)
    np.testing.assert_allclose(got.rows, J[others, :P], rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(np.diag(got.own), J[others, others], rtol=0, atol=1e-13 * scale)
    if got.by_clock is None:
        assert not np.any(by_clock)
    else:
        np.testing.assert_allclose(got.by_clock, by_clock, rtol=1e-12, atol=1e-13)
    assert got.weights.growth >= np.max(np.linalg.eigvalsh(J[:P, :P])) - 1e-12 * scale


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].get("slides")])
def test_the_formulas_are_a_gradient(name):
    at = _case(name)
    theta = at.y[: at.y.size - (2 if at.clock == "loss" else 1)]
    slopes = [at.risk(theta + 1e-30j * e)[0].imag / 1e-30 for e in np.eye(theta.size)[: at.weights]]
    np.testing.assert_allclose(at.force(theta)[1][: at.weights], -np.array(slopes), rtol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_the_solve_of_the_state_inverts_its_jacobian(name):
    at = _case(name)
    got, _ = at.linearised()
    mu = 1.5 * got.weights.growth + 2.0
    J, _ = at.derivatives
    b = at.free() @ np.random.default_rng(1).normal(size=at.y.size)
    if got.by_clock is not None:
        J = np.block([[J, got.by_clock[:, None]], [np.zeros((1, len(J) + 1))]])
        b = np.append(b, 0.7)
    exact = np.linalg.solve(mu * np.eye(len(J)) - J, b)
    np.testing.assert_allclose(got.factor(mu)(b), exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if "tv" not in CASES[name]])
@pytest.mark.parametrize("share", [0.02, 1.2])
def test_the_solve_by_data_is_that_by_weights(name, share):
    at = _case(name)
    weights = at.linearised()[0].weights
    mu = share * weights.growth + 0.1
    P = weights.size
    definite = np.min(np.linalg.eigvalsh(mu * np.eye(P) - weights.dense)) > 0
    dense, data = by_weights(weights, mu), by_data(weights, mu)
    assert (dense is not None) == definite
    b = at.free()[:P, :P] @ np.random.default_rng(2).normal(size=P)
    if data is not None:
        assert dense is not None
        np.testing.assert_allclose(data(b), dense(b), rtol=1e-9, atol=1e-11)
    elif share > 1:
        raise AssertionError("no mode grows as fast as mu")


def _rigid_body(y):
    return np.array([y[1] * y[2], 0.1 * y[1] ** 2 - y[0] * y[2], -0.51 * y[0] * y[1]])


def test_the_method_has_its_orders():
    y0 = np.array([0.3, 1.0, 0.9])
    exact = integrate.solve_ivp(
        lambda t, y: _rigid_body(y), (0, 2), y0, "DOP853", rtol=1e-13, atol=1e-14,
        dense_output=True,
    ).sol  # fmt: skip
    errors = []
    for n in (16, 32):
        h, y = 2.0 / n, y0
        for i in range(n):
            J = [[0, y[2], y[1]], [-y[2], 0.2 * y[1], -y[0]], [-0.51 * y[1], -0.51 * y[0], 0]]
            M = np.eye(3) / (rosenbrock.GAMMA * h) - np.array(J)
            y1, k = rosenbrock.rosenbrock_step(
                _rigid_body, lambda b, M=M: np.linalg.solve(M, b), y, h, _rigid_body(y)
            )
            if i == 0:
                c = rosenbrock.quartic(y, y1, k)
                inside = y + sum(c[p] * 0.5 ** (p + 1) for p in range(4)) - exact(h / 2)
                np.testing.assert_allclose(y + np.sum(c, axis=0), y1, rtol=1e-13)
                first = [np.max(np.abs(inside)), np.max(np.abs(k[7]))]
            y = y1
        errors.append([np.max(np.abs(y - exact(2.0))), *first])
    rates = np.log2(np.array(errors[0]) / np.array(errors[1]))
    assert np.all(rates > 4.6)  # global order 5; dense output and estimate err locally like h^5


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_step_of_the_state_has_order_five(clock):
    at = Case(loss="logistic", clock=clock, slides=((0, (1,)),), l2=0.1)
    span = 0.4 if clock != "loss" else 0.2
    exact = integrate.solve_ivp(
        lambda s, y: at.kernel_field(s, y), (at.s, at.s + span), at.y, "DOP853", rtol=1e-13,
        atol=1e-15,
    ).y[:, -1]  # fmt: skip
    errors = []
    for n in (2, 4):
        h, y, start = span / n, at.y, at.s
        for i in range(n):
            at.s, at.y = start + i * h, y
            J, f0 = at.linearised()
            taken = implicit_step(at.kernel_field, J, at.s, y, h, f0)
            assert taken is not None
            y = taken.y
        at.s, at.y = start, Case(loss="logistic", clock=clock, slides=((0, (1,)),), l2=0.1).y
        errors.append(np.max(np.abs(y - exact)))
    assert errors[1] < 1e-5
    assert errors[0] / errors[1] > 2**4.2


def test_a_step_that_would_damp_a_growing_mode_is_refused():
    # near the saddle at 0 everything grows at rates up to max |u_k|
    at = Case(loss="squared", n=6, D=3, m=3, seed=2)
    at.y[:-1] *= 1e-3
    J, f0 = at.linearised()
    fastest = float(np.max(np.linalg.eigvalsh(J.weights.dense)))
    assert fastest > 0.01
    assert implicit_step(at.kernel_field, J, at.s, at.y, 1.1 / fastest, f0) is None
    assert implicit_step(at.kernel_field, J, at.s, at.y, 0.9 / fastest, f0) is not None
