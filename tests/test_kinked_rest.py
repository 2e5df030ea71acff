"""Kinked flows that come to rest: steps no longer limited by stability, the end found and kept."""

import jax
import numpy as np
import pytest

import gradflow as gf

#: Loss at t = 10, 100 and 1000 of the regressions below, by an event-located method of its own
#: (explicit steps alone, rtol 1e-10), confirmed by Euler's method to the order of its step.
LOSSES = {
    0: (0.438422231408, 0.278302033899, 0.081592292504),
    1: (0.104253581608, 0.042438071780, 0.033036543210),
    4: (0.063706369162, 0.003421671032, 0.002963349399),
    8: (0.237594785343, 0.044261248092, 0.000026669142),
    9: (0.224341072890, 0.016961342015, 0.005463782747),
    11: (0.203384360433, 0.117686393997, 0.098276340510),
}


def _regression(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    net = gf.TwoLayer(3, 5, activation=gf.relu)
    return gf.EmpiricalRisk(net, gf.squared, X, y), net.init(jax.random.key(seed), 0.5)


@pytest.mark.parametrize("seed", LOSSES)
def test_a_regression_comes_to_rest(seed):
    risk, start = _regression(seed)
    path = gf.integrate(
        risk, start, until=gf.until.time(1e9), rtol=1e-5, save_at=[10.0, 100.0, 1000.0, 1e9],
        max_steps=450,
    )  # fmt: skip
    assert path.result.name == "rest"
    assert path.log_t[-1] == pytest.approx(np.log(1e9))
    np.testing.assert_allclose(path.observe("loss")[:3], LOSSES[seed], rtol=0, atol=1e-6)
    # (nothing is left that moves it)
    assert path.observe("gradient_norm")[-1] < 1e-7


@pytest.mark.parametrize("clock", ["physical", "log"])
def test_the_clock_does_not_matter(clock):
    risk, start = _regression(4)
    path = gf.integrate(
        risk, start, until=gf.until.time(1e6), rtol=1e-8, clock=clock, save_at=[100.0, 1000.0]
    )
    np.testing.assert_allclose(path.observe("loss"), LOSSES[4][1:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_a_fit_to_soft_labels_comes_to_rest(seed):
    X = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    net = gf.TwoLayer(2, 4, activation=gf.relu)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, np.array([0.75, 0.75, 0.25, 0.25]))
    path = gf.integrate(
        risk, net.init(jax.random.key(seed), 0.3), until=gf.until.time(1e9), rtol=1e-5,
        max_steps=120,
    )  # fmt: skip
    assert path.result.name == "rest"
    assert path.observe("gradient_norm")[-1] < 1e-7


@pytest.mark.parametrize("scale", [1e-4, 1e-8])
def test_a_saddle_is_no_rest(scale):
    risk, _ = _regression(0)
    start = risk.net.init(jax.random.key(3), scale)
    path = gf.integrate(risk, start, until=gf.until.time(3.0), rtol=1e-5)
    assert path.result.name == "reached"
    # all that is left at rest is flat or falls
    path = gf.integrate(risk, start, until=gf.until.time(1e9), rtol=1e-5)
    assert path.result.name == "rest"
    assert path.observe("loss")[-1] < 0.8 * path.observe("loss")[0]


def test_a_stop_by_gradient_comes_before_rest():
    risk, start = _regression(4)
    path = gf.integrate(risk, start, until=gf.until.time(1e9) | gf.until.gradient(1e-6), rtol=1e-8)
    assert path.result.name == "event"
    assert path.observe("gradient_norm")[-1] == pytest.approx(1e-6, rel=1e-3)
