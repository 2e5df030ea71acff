"""Metrics: rates by layer and matrices change the speed of parameters, and what spends the loss."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.flows.charts.chart import CartesianChart
from gradflow.flows.metrics import make_metric

RNG = np.random.default_rng(5)
X = RNG.normal(size=(20, 2))
Y = np.sin(2 * X[:, 0])
W, A = 0.5 * RNG.normal(size=(4, 2)), 0.5 * RNG.normal(size=4)
RATE = 100.0


def problem(activation, scale=1.0):
    net = gf.TwoLayer(2, 4, activation)
    return gf.EmpiricalRisk(net, gf.squared, scale * X, Y), net


@pytest.mark.parametrize("integrator", ["tsit5", "lsoda"])
def test_a_fast_outer_layer_is_the_plain_flow_of_rescaled_weights(integrator):
    """a = 10 b: b follows the plain gradient of f = 10 b·φ(Wx), so a moves at a rate of 100."""
    risk, net = problem(gf.tanh)
    rescaled = gf.FunctionRisk(lambda p: risk(net.params(p["w"], 10.0 * p["b"])), label="rescaled")
    options = {"until": 2.0, "rtol": 1e-9, "integrator": integrator}
    fast = gf.integrate(risk, net.params(W, A), metric={"outer": RATE}, **options)
    plain = gf.integrate(rescaled, {"w": W, "b": A / 10.0}, **options)
    np.testing.assert_allclose(fast.final.inner, plain.final["w"], atol=1e-7)
    np.testing.assert_allclose(fast.final.outer, 10.0 * plain.final["b"], atol=1e-7)
    assert np.max(fast.observe("energy_defect")) < 1e-7
    np.testing.assert_allclose(fast.energy[-1], plain.energy[-1], rtol=1e-7)


def test_kinks_are_located_at_rates_by_layer_and_stepped_over_on_demand():
    """relu is homogeneous: the rate 100 of the outer layer is a scale 10 of the data."""
    risk, net = problem(gf.relu)
    with pytest.raises(ValueError, match=r"metric=.*integrator='dopri8'"):
        gf.integrate(risk, net.params(W, A), until=1.0, metric=lambda p: jnp.eye(12))
    over = gf.integrate(
        risk, net.params(W, A), until=0.1, metric={"outer": RATE}, integrator="dopri8", rtol=1e-9
    )
    rescaled, _ = problem(gf.relu, scale=10.0)
    located = gf.integrate(rescaled, net.params(W, A / 10.0), until=0.1, rtol=1e-9)
    np.testing.assert_allclose(over.final.inner, located.final.inner, atol=1e-6)
    np.testing.assert_allclose(over.final.outer, 10.0 * located.final.outer, atol=1e-6)
    rates = gf.integrate(risk, net.params(W, A), until=0.1, metric={"outer": RATE}, rtol=1e-9)
    assert rates.integrator == "piecewise"
    np.testing.assert_allclose(rates.final.inner, located.final.inner, atol=1e-12)
    np.testing.assert_allclose(rates.final.outer, 10.0 * located.final.outer, atol=1e-12)


def test_rates_are_known_entry_by_entry():
    """What follows kinks reads them off the chart: per array, 1 for those left out."""
    risk, net = problem(gf.relu)
    start = net.params(W, A)
    rates = CartesianChart(risk, start, make_metric({"outer": RATE}, start)).rates
    np.testing.assert_array_equal(rates.inner, np.ones((4, 2)))
    np.testing.assert_array_equal(rates.outer, np.full(4, RATE))
    assert rates.bias is None
    np.testing.assert_array_equal(CartesianChart(risk, start).rates.outer, np.ones(4))
    matrix = make_metric(lambda p: jnp.eye(12), start)
    assert CartesianChart(risk, start, matrix).rates is None


@pytest.mark.parametrize("clock", ["physical", "loss"])
def test_a_matrix_metric(clock):
    """Newton's flow of a quadratic: θ' = -H⁻¹∇L = -(θ - θ*), and -L' = θ'·Hθ'."""
    H = jnp.array([[3.0, 1.0], [1.0, 2.0]])
    risk = gf.FunctionRisk(lambda p: 0.5 * p @ H @ p, label="quadratic")
    start = np.array([1.0, -2.0])
    path = gf.integrate(risk, start, until=1.5, metric=lambda p: H, clock=clock, rtol=1e-9)
    np.testing.assert_allclose(path.final, start * np.exp(-1.5), rtol=1e-8)
    assert np.max(path.observe("energy_defect")) < 1e-8


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ({"middle": 2.0}, "choose among inner, outer"),
        ({"outer": 0.0}, "positive"),
        ({"outer": "fast"}, "real number"),
        ("round", "is not a metric"),
        (lambda p: jnp.eye(3), "shape"),
        (lambda p: -jnp.eye(12), "positive definite"),
    ],
    ids=["unknown name", "zero", "no number", "unknown metric", "shape", "indefinite"],
)
def test_senseless_metrics_are_refused(metric, words):
    risk, net = problem(gf.tanh)
    with pytest.raises(ValueError, match=words):
        gf.integrate(risk, net.params(W, A), until=1.0, metric=metric)
