"""Gradient descent against its flow: distances, and the order by two routes."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.linalg

import gradflow as gf
from gradflow import order
from gradflow.plots.trajectory import panel

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(20, 3)), rng.normal(size=20)
LINEAR = gf.EmpiricalRisk(gf.LinearPredictor(3), gf.squared, X, Y)
START = np.array([1.0, -0.5, 2.0])
H, B = X.T @ X / 20, X.T @ Y / 20
BEST = np.linalg.solve(H, B)


def flow_of_linear(t: float) -> np.ndarray:
    """w(t) = w* + e^{−Ht} (w_0 − w*)."""
    return BEST + scipy.linalg.expm(-H * t) @ (START - BEST)


@pytest.fixture(scope="module")
def smooth():
    risk = gf.EmpiricalRisk(gf.TwoLayer(3, 4, gf.tanh), gf.squared, X, Y)
    return risk, risk.net.init(jax.random.key(0), 1.0)


def test_order_one_where_the_flow_has_a_closed_form():
    """ε(T) = −(T/2) H∇L(w(T)), and (1 − ηH)^n against e^{−HT} for every number of steps."""
    found = gf.descent_order(LINEAR, START, 1.0)
    assert found.conclusive
    assert abs(found.order - 1) <= found.error < 1e-4
    w = flow_of_linear(1.0)
    np.testing.assert_allclose(found.flow.final.weight, w, rtol=1e-11)
    for n, distance in zip(found.steps, found.distance, strict=True):
        euler = BEST + np.linalg.matrix_power(np.eye(3) - H / n, n) @ (START - BEST)
        assert distance == pytest.approx(np.linalg.norm(euler - w), rel=1e-8)
    exact = -0.5 * H @ (H @ w - B)
    assert np.linalg.norm(found.coefficient.weight - exact) <= found.coefficient_error < 1e-5
    solved = gf.first_order_error(LINEAR, START, 1.0).weight
    np.testing.assert_allclose(solved, exact, rtol=1e-8)


def test_order_one_of_a_smooth_net_and_its_constant_by_another_route(smooth):
    risk, start = smooth
    found = gf.descent_order(risk, start, 2.0)
    assert found.conclusive
    assert abs(found.order - 1) <= found.error < 1e-4
    expected = gf.first_order_error(risk, start, 2.0)
    apart = jax.tree.map(jnp.subtract, found.coefficient, expected)
    size = lambda tree: float(np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(tree))))
    assert size(apart) <= found.coefficient_error < 1e-4 * size(expected)
    # a wrong constant (the explicit method's for −∇L/2) is told apart
    wrong = jax.tree.map(lambda leaf: 0.5 * leaf, expected)
    assert (
        size(jax.tree.map(jnp.subtract, found.coefficient, wrong)) > 100 * found.coefficient_error
    )
    assert str(found).startswith("order 1.0000")


def test_another_order_is_not_taken_for_one(monkeypatch):
    """Descents of a method of order two measure two."""

    def midpoint(risk, start, *, step_size, steps, save_every):
        w = np.asarray(start)
        for _ in range(steps):
            half = w - 0.5 * step_size * (H @ w - B)
            w = w - step_size * (H @ half - B)
        return type("Done", (), {"result": "completed", "final": {"weight": w}})

    monkeypatch.setattr(order, "descend", midpoint)
    found = gf.descent_order(LINEAR, START, 1.0, steps=[16, 32, 64, 128])
    assert abs(found.order - 2) <= found.error < 0.05


@pytest.mark.parametrize(
    ("seed", "until", "said"),
    [(2, 5.0, "do not come nearer|do not settle"), (1, 5.0, "slides along kinks")],
)
def test_kinks_are_inconclusive_and_said_so(seed, until, said):
    """A neuron that passes the origin, and slides: a descent hops over both."""
    net = gf.TwoLayer(3, 4, gf.relu)
    risk = gf.EmpiricalRisk(net, gf.squared, X, Y)
    found = gf.descent_order(risk, net.init(jax.random.key(seed), 1.0), until)
    assert not found.conclusive
    assert str(found).startswith("INCONCLUSIVE")
    assert re.search(said, found.reason), found.reason


def test_a_diverged_descent_and_a_flow_known_too_little_are_inconclusive(smooth):
    quartic = gf.FunctionRisk(lambda p: jnp.sum(p**4))
    wild = gf.descent_order(quartic, np.array([3.0]), 4.0, steps=[8, 16, 256, 512])
    assert not wild.conclusive
    assert "diverged" in wild.reason
    risk, start = smooth
    loose = gf.descent_order(risk, start, 2.0, steps=[1000, 2000, 4000, 8000], rtol=1e-6)
    assert not loose.conclusive
    assert "the flow is known to" in loose.reason


def test_bad_arguments_are_named(smooth):
    for steps in ([64, 128, 256], [64, 64, 128, 256], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="steps"):
            gf.descent_order(LINEAR, START, 1.0, steps=steps)
    with pytest.raises(ValueError, match="rtol"):
        gf.descent_order(LINEAR, START, 1.0, rtol=1e-3)
    with pytest.raises(ValueError, match="until"):
        gf.descent_order(LINEAR, START, -1.0)
    kinked = gf.EmpiricalRisk(gf.TwoLayer(3, 2, gf.relu), gf.squared, X, Y)
    with pytest.raises(ValueError, match="has kinks"):
        gf.first_order_error(kinked, kinked.net.init(jax.random.key(0), 1.0), 1.0)


# --- distances ------------------------------------------------------------------------------------


def test_distance_to_the_flow_is_the_error_of_euler(tmp_path):
    run = gf.descend(LINEAR, START, step_size=0.1, until=2.0, save_every=5)
    dense = gf.integrate(LINEAR, START, until=2.0, rtol=1e-11, save_at=gf.save.dense())
    at_times = gf.integrate(LINEAR, START, until=2.0, rtol=1e-11, save_at=run.t)
    expected = [
        np.linalg.norm(np.asarray(w) - flow_of_linear(t))
        for t, w in zip(run.t, run.params.weight, strict=True)
    ]
    size = [np.linalg.norm(flow_of_linear(t)) for t in run.t]
    for flow in (dense, at_times):
        found = run.observe("distance_to", flow=flow)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        relative = run.observe("distance_to", flow=flow, relative=True)
        np.testing.assert_allclose(relative, found / size, rtol=1e-8)
    run.save(tmp_path / "run.nc")
    at_times.save(tmp_path / "flow.nc")
    again = gf.load(tmp_path / "run.nc").observe("distance_to", flow=gf.load(tmp_path / "flow.nc"))
    np.testing.assert_array_equal(again, run.observe("distance_to", flow=at_times))


def test_distance_needs_a_flow_that_covers_the_times(smooth):
    run = gf.descend(LINEAR, START, step_size=0.1, until=2.0)
    short = gf.integrate(LINEAR, START, until=1.0, save_at=gf.save.dense())
    with pytest.raises(ValueError, match=r"does not cover the times.*save_at=path\.t"):
        run.observe("distance_to", flow=short)
    steps = gf.integrate(LINEAR, START, until=2.0)
    with pytest.raises(ValueError, match="was not recorded"):
        run.observe("distance_to", flow=steps)
    with pytest.raises(ValueError, match="flow=None: is missing"):
        run.observe("distance_to")
    risk, start = smooth
    with pytest.raises(ValueError, match="other shapes"):
        run.observe("distance_to", flow=gf.integrate(risk, start, until=2.0))


@pytest.mark.parametrize("how", ["fixed", "relative change"])
def test_a_descent_is_a_path_like_any_other(smooth, tmp_path, how):
    risk, start = smooth
    step = 0.1 if how == "fixed" else gf.steps.relative_change(0.05)
    run = gf.descend(risk, start, step_size=step, until=1.0, save_every=3)
    run.save(tmp_path / "run.nc")
    again = gf.load(tmp_path / "run.nc")
    for name in ("t", "log_t", "step", "step_size"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run, name))
    assert (again.result, again.message) == (run.result, run.message)
    np.testing.assert_array_equal(again.observe("loss"), run.observe("loss"))
    data = run.to_xarray(["loss", "neuron_norms"])
    assert data["neuron_norms"].dims == ("log_t", "neuron")
    assert data["time"].values[-1] == 1.0
    flow = gf.integrate(risk, start, until=1.0)
    figure = gf.plot(run, ["loss"])
    panel(figure.axes[0], flow, "loss", descent=run)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels[-2:] == ["gradient flow", "gradient descent"]
    plt.close(figure)
