"""The hinge loss, whose kinks lie at the margins y f = 1: passed, held, and let go."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import linprog

import gradflow as gf

RNG = np.random.default_rng(3)
X = RNG.normal(size=(10, 3))
Y = np.sign(X @ RNG.normal(size=3))


def flat(params) -> np.ndarray:
    return np.asarray(ravel_pytree(params)[0])


def descended(X, y, W, a, t: float, steps: int, trained: bool = True) -> np.ndarray:
    """Gradient descent on the mean hinge loss of a ReLU net, both derivatives 0 at their kinks."""
    W, a, h = W.copy(), a.copy(), t / steps
    for _ in range(steps):
        Z = W @ X.T
        A = np.maximum(Z, 0)
        r = np.where(y * (a @ A) < 1, y / len(y), 0.0)
        dW, da = a[:, None] * ((r * (Z > 0)) @ X), A @ r
        W += h * dW
        a += h * da * trained
    return np.concatenate([W.ravel(), a])


def test_one_datum():
    """w moves at the rate y x to its margin, and stays: t* = (1 − y w·x)/|x|²."""
    x, w = np.array([2.0, 1.0]), np.array([0.3, -1.2])
    risk = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.hinge, x[None], [-1.0])
    meets = (1 + w @ x) / (x @ x)
    path = gf.integrate(risk, w, until=1e9)
    assert path.result.name == "rest"
    assert flat(path.final) == pytest.approx(w - meets * x, rel=1e-14)
    assert [(e.kind, e.neuron, e.datum) for e in path.events] == [("margin", None, 0)]
    assert path.events[0].t == pytest.approx(meets, rel=1e-12)
    assert float(risk(path.final)) < 1e-15


def test_two_data_by_hand():
    """x = 1 of weight 2 is held at w = 1 against x = −1 of weight 1, which pulls back with 1/3."""
    risk = gf.EmpiricalRisk(
        gf.LinearPredictor(1), gf.hinge, [[1.0], [-1.0]], [1.0, 1.0], weights=[2.0, 1.0]
    )
    path = gf.integrate(risk, [0.25], until=5.0, save_at=[0.75, 1.5, 5.0])
    w = np.array([flat(jax.tree.map(lambda leaf, i=i: leaf[i], path.params))[0] for i in range(3)])
    assert w == pytest.approx([0.5, 0.75, 1.0], rel=1e-13)
    assert [(e.kind, e.datum) for e in path.events] == [("margin-in", 0)]
    assert path.events[0].t == pytest.approx(2.25, rel=1e-12)


def test_linear_separable():
    """At rest with every margin at least 1 and L = 0, at the same cost for any horizon."""
    risk = gf.EmpiricalRisk(gf.LinearPredictor(3), gf.hinge, X, Y)
    path = gf.integrate(risk, np.full(3, 1e-3), until=1e9)
    assert path.integrator == "piecewise"
    assert path.result.name == "rest"
    assert np.min(risk.margins(path.final)) > 1 - 1e-12
    assert float(risk(path.final)) < 1e-14
    assert path.stats["steps"] < 60
    assert {e.kind for e in path.events} == {"margin", "margin-in", "margin-out"}
    assert path.defects["energy"] < 1e-12


GRID = np.array([p for p in itertools.product((-1.0, 0.0, 1.0), repeat=2) if any(p)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["general", "grid", "duplicates"])
def test_linear_not_separable(kind, seed):
    """The flow of the hinge loss of a linear predictor ends at the linear program's optimum."""
    rng = np.random.default_rng(seed)
    rows = {"general": rng.normal(size=(16, 3)), "grid": GRID}.get(kind)
    if rows is None:
        rows = np.repeat(rng.normal(size=(6, 3)), 2, axis=0)
    (n, d), y = rows.shape, rng.choice([-1.0, 1.0], len(rows))
    risk = gf.EmpiricalRisk(gf.LinearPredictor(d), gf.hinge, rows, y)
    path = gf.integrate(risk, 0.1 * rng.normal(size=d), until=1e6)
    assert path.result.name == "rest"
    best = linprog(
        np.r_[np.zeros(d), np.full(n, 1 / n)], A_ub=np.c_[-y[:, None] * rows, -np.eye(n)],
        b_ub=-np.ones(n), bounds=[(None, None)] * d + [(0, None)] * n,
    )  # fmt: skip
    assert float(risk(path.final)) == pytest.approx(best.fun, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("outer", ["trained", "fixed"])
def test_relu_net_against_descent(outer, seed):
    """Descent in small steps comes closer at first order; a tighter run agrees."""
    labels = Y if seed % 2 else np.sign(np.sin(5 * X[:, 0]))
    net = gf.TwoLayer(3, 6, gf.relu, outer=outer)
    risk = gf.EmpiricalRisk(net, gf.hinge, X, labels)
    start = net.init(jax.random.key(seed), 1.0)
    path = gf.integrate(risk, start, until=5.0)
    assert path.result.ok
    assert path.integrator == "piecewise"
    assert path.defects["energy"] < 1e-7
    tight = gf.integrate(risk, start, until=5.0, rtol=1e-11)
    assert flat(path.final) == pytest.approx(flat(tight.final), abs=1e-7)
    W, a = (np.asarray(leaf) for leaf in (start.inner, start.outer))
    trained = outer == "trained"
    ends = [descended(X, labels, W, a, 5.0, steps, trained) for steps in (2000, 20_000)]
    errors = [np.max(np.abs(end - flat(tight.final))) for end in ends]
    assert errors[1] < 5e-4
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [gf.relu, gf.leaky_relu(0.2)], ids=str)
@pytest.mark.parametrize("kind", ["grid", "duplicates"])
def test_dependent_data(kind, activation, bias):
    """Lattice data, on which pulls cancel exactly, come to an end with the energy balanced."""
    rng = np.random.default_rng(7)
    rows = GRID if kind == "grid" else np.repeat(rng.normal(size=(5, 2)), 2, axis=0)
    net = gf.TwoLayer(2, 5, activation, bias=bias)
    risk = gf.EmpiricalRisk(net, gf.hinge, rows, rng.choice([-1.0, 1.0], len(rows)))
    path = gf.integrate(risk, net.init(jax.random.key(1), 0.5), until=100.0, max_steps=5000)
    assert path.result.ok
    assert np.all(np.isfinite(flat(path.final)))
    assert path.defects["energy"] < 1e-6


def test_going_on_from_held_data():
    """A flow that goes on where data are held goes on as if it had never stopped."""
    risk = gf.EmpiricalRisk(gf.LinearPredictor(3), gf.hinge, X, Y)
    held = gf.integrate(risk, np.full(3, 1e-3), until=1.1)
    assert held.events[-1].kind == "margin-in"
    on = gf.integrate(held, until=10.0)
    whole = gf.integrate(risk, np.full(3, 1e-3), until=10.0)
    assert flat(on.final) == pytest.approx(flat(whole.final), rel=1e-12)
