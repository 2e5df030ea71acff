"""Smooth and stiff flows under "auto": implicit where stability limits steps, and at rest."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

import gradflow as gf
from gradflow.integration import IntegrationWarning


def tanh_net(seed, scale=0.5, activation=gf.tanh):
    """12 data of 3 entries, 5 neurons, squared loss."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    net = gf.TwoLayer(3, 5, activation=activation)
    return gf.EmpiricalRisk(net, gf.squared, X, y), net.init(jax.random.key(seed), scale)


def sigmoid_fit(n=400):
    """A student of 5 sigmoid neurons of a teacher of 4."""
    rng = np.random.default_rng(1)
    X = rng.normal(0.0, 2.0, size=(n, 2))
    y = (1 / (1 + np.exp(-X @ rng.normal(0.0, 2.0, size=(4, 2)).T))) @ rng.normal(size=4)
    net = gf.TwoLayer(2, 5, activation=gf.sigmoid)
    return gf.EmpiricalRisk(net, gf.squared, X, y), net.init(jax.random.key(0), 1.0)


def logistic_regression():
    """60 data of 5 entries that no hyperplane separates, and the minimum of an optimiser."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    y = np.where(rng.random(60) < 1 / (1 + np.exp(-X[:, 0])), 1.0, -1.0)

    def value(w):
        q = y * (X @ w)
        return np.mean(np.logaddexp(0.0, -q)), -(y / (1 + np.exp(q))) @ X / 60

    found = minimize(value, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-13})
    assert np.max(np.abs(value(found.x)[1])) < 1e-9
    net = gf.LinearPredictor(5)
    return gf.EmpiricalRisk(net, gf.logistic, X, y), net.params(np.full(5, 0.01)), found.x


def flat(params):
    return np.asarray(ravel_pytree(params)[0])


def gap(one, other):
    return np.max(np.abs(flat(one) - flat(other)))


def left_to_go(risk, params, time):
    """Distance to the stationary point: (1/T + H)⁻¹ ∇L, the Hessian by autodiff."""
    theta, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda theta: risk(unravel(theta)))(theta)
    hessian = jax.hessian(lambda theta: risk(unravel(theta)))(theta)
    return np.max(np.abs(np.linalg.solve(np.eye(theta.size) / time + hessian, gradient)))


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 12))]
)
def test_a_smooth_net_rests_long_before_a_far_end(seed):
    risk, start = tanh_net(seed)
    path = gf.integrate(risk, start, until=1e9)
    assert (path.result.name, path.stopped_by, path.result.ok) == ("rest", "rest", True)
    assert path.t_final == pytest.approx(1e9)
    assert "speed" in path.result.message
    assert "loss" in path.result.message
    assert left_to_go(risk, path.final, 1e9) < path.rtol * np.max(np.abs(flat(path.final)))
    assert left_to_go(risk, start, 1e9) > 1e-3
    earlier = gf.integrate(risk, start, until=1e4)
    assert path.stats["rhs"] < 1.5 * earlier.stats["rhs"] + 200


def test_a_stiff_fit_costs_no_more_than_the_best_integrator():
    """Counts of right-hand sides, a Jacobian as one for each parameter (15)."""
    risk, start = sigmoid_fit()
    exact = gf.integrate(risk, start, until=1e4, rtol=1e-11, integrator="radau")
    best, auto = (
        gf.integrate(risk, start, until=1e4, rtol=1e-6, integrator=name)
        for name in ("lsoda", "auto")
    )
    cost = [path.stats["rhs"] + 15 * path.stats["jacobians"] for path in (best, auto)]
    assert cost[1] < 1.3 * cost[0]
    assert auto.stats["rhs"] < 1300  # explicit steps alone: 27,000
    assert gap(auto.final, exact.final) < 1e-5


def test_explicit_steps_alone_where_nothing_is_stiff():
    """The bits of the explicit method, under "auto" and by its name."""
    risk, start = tanh_net(3)
    auto = gf.integrate(risk, start, until=1.0)
    named = gf.integrate(risk, start, until=1.0, integrator="dopri8")
    np.testing.assert_array_equal(flat(auto.final), flat(named.final))
    assert auto.stats["rhs"] == named.stats["rhs"]
    assert auto.stats["jacobians"] == 0
    assert auto.result.name == "reached"


@pytest.mark.parametrize("rtol", [1e-5, 1e-8])
def test_accuracy_on_the_way_after_turning_implicit(rtol):
    """A linear flow with rates 1e-3 ... 1e3 against its closed form, between steps too."""
    rates = jnp.logspace(-3, 3, 7)
    risk = gf.FunctionRisk(lambda p: 0.5 * jnp.sum(rates * p["a"] ** 2))
    start = {"a": jnp.linspace(1.0, 2.0, 7)}
    times = np.array([1e-3, 0.1, 1.0, 30.0, 1e3])
    path = gf.integrate(risk, start, until=1e3, rtol=rtol, save_at=times)
    assert path.stats["jacobians"] > 0
    exact = np.exp(-np.outer(times, rates)) * np.asarray(start["a"])
    assert np.max(np.abs(np.asarray(path.params["a"]) - exact)) < 3 * rtol


def test_logistic_regression_without_separation_rests_at_its_minimum():
    risk, start, minimum = logistic_regression()
    path = gf.integrate(risk, start, until=1e6)
    assert path.result.name == "rest"
    assert path.stats["rhs"] < 2000
    assert gap(path.final, minimum) < 1e-8
    far = gf.integrate(risk, start, until=1e9)
    assert far.stats["rhs"] <= 1.1 * path.stats["rhs"]
    # a time beyond what the clock can count, and nothing that could come
    for never in (gf.until.log_time(1e4), gf.until.loss(0.1)):
        with pytest.warns(IntegrationWarning, match="come to rest"):
            assert gf.integrate(risk, start, until=never).result.name == "stationary"


@pytest.mark.parametrize("level", [1e-10, 1e-13])
def test_a_stop_by_gradient_comes_before_rest(level):
    risk, start, _ = logistic_regression()
    for until in (gf.until.gradient(level), gf.until.gradient(level) | gf.until.time(1e9)):
        path = gf.integrate(risk, start, until=until)
        assert path.stopped_by == f"gradient({level!r})"
        assert np.linalg.norm(flat(risk.gradient(path.final))) == pytest.approx(level, rel=0.1)


def test_a_gradient_below_rounding_ends_at_rest():
    risk, start = tanh_net(0)
    path = gf.integrate(risk, start, until=gf.until.gradient(1e-25))
    assert path.result.name == "rest"


@pytest.mark.parametrize("activation", [gf.tanh, gf.leaky_relu(1.0)], ids=["tanh", "linear"])
@pytest.mark.parametrize("scale", [1e-4, 1e-8])
def test_no_false_rest_from_saddle_to_saddle(activation, scale):
    """What rests is where the flow is for ever: at every end it agrees with a far later one."""
    risk, start = tanh_net(1, scale, activation)
    far = gf.integrate(risk, start, until=1e8, integrator="lsoda")
    least = float(risk(far.final))
    for end in (0.1, 3.0, 10.0, 30.0, 100.0, 1e3):
        path = gf.integrate(risk, start, until=end)
        if path.result.name == "rest":
            assert float(risk(path.final)) == pytest.approx(least, rel=1e-6, abs=1e-12)


def test_no_rest_where_a_margin_grows_for_ever():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(10, 2))
    y = np.sign(X @ np.array([1.0, -0.5]))
    net = gf.LinearPredictor(2)
    risk, start = gf.EmpiricalRisk(net, gf.logistic, X, y), net.params(np.array([0.1, 0.2]))
    for clock in ("log", "loss"):
        until = gf.until.time(1e9) | gf.until.gradient(1e-30)
        path = gf.integrate(risk, start, until=until, clock=clock)
        assert path.stopped_by == "time(1000000000.0)"


@pytest.mark.parametrize("clock", ["log", "physical", "loss"])
def test_at_rest_in_every_clock_with_save_points_and_dense_output(clock):
    """w' = -w + 1 in one direction, and a positive loss: w(t) = 1 + (w0 - 1) exp(-t)."""
    risk = gf.FunctionRisk(lambda p: 0.5 * jnp.sum((p["w"] - 1.0) ** 2) + 0.25)
    start = {"w": jnp.array([3.0, -2.0])}
    times = np.array([1.0, 50.0, 1e4, 1e6])
    path = gf.integrate(risk, start, until=1e6, clock=clock, save_at=times)
    assert path.result.name == "rest"
    assert path.t_final == pytest.approx(1e6)
    exact = 1.0 + (np.array([3.0, -2.0]) - 1.0) * np.exp(-times)[:, None]
    np.testing.assert_allclose(np.asarray(path.params["w"]), exact, atol=1e-7)
    dense = gf.integrate(risk, start, until=1e6, clock=clock, save_at=gf.save.dense())
    assert dense.t[-1] == pytest.approx(1e6)
    np.testing.assert_allclose(np.asarray(dense.at(5e5).params["w"]), 1.0, atol=1e-8)


def test_a_saddle_is_no_rest_though_it_is_left_late():
    """L = (x² - 1)²/4 + y²/2 from x = 1e-12: left at t = ln(1e12), as the closed form says."""
    risk = gf.FunctionRisk(lambda p: 0.25 * (p["x"] ** 2 - 1.0) ** 2 + 0.5 * p["y"] ** 2)
    start = {"x": jnp.array(1e-12), "y": jnp.array(1.0)}
    path = gf.integrate(risk, start, until=26.0, save_at=[20.0, 26.0])
    assert path.result.name == "reached"
    # x² / (1 - x²) grows like exp(2t)
    odds = 1e-24 * np.exp(2 * np.array([20.0, 26.0]))
    np.testing.assert_allclose(np.asarray(path.params["x"]), np.sqrt(odds / (1 + odds)), rtol=1e-6)
    assert gf.integrate(risk, start, until=1e6).result.name == "rest"


def test_a_function_without_forward_derivatives_is_integrated_all_the_same():
    @jax.custom_vjp
    def half_square(x):
        return 0.5 * x**2

    half_square.defvjp(lambda x: (half_square(x), x), lambda x, bar: (bar * x,))
    rates = jnp.array([1.0, 300.0])
    risk = gf.FunctionRisk(lambda p: jnp.sum(rates * half_square(p["a"])) + 1.0)
    path = gf.integrate(risk, {"a": jnp.ones(2)}, until=1e5)
    assert path.result.name == "rest"
    assert np.max(np.abs(flat(path.final))) < 1e-8


def test_a_path_goes_on_from_rest():
    risk, start = tanh_net(0)
    path = gf.integrate(risk, start, until=1e9)
    on = gf.integrate(path, until=1e10)
    assert on.integrator == path.integrator
    assert on.result.ok
    assert gap(on.final, path.final) < 1e-7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gf.integrate(risk, start, until=1e9, throw=True).result.name == "rest"


def test_a_loss_beyond_floats_is_left_in_its_own_clock():
    """One datum, exponential loss: w(t) = ln(exp(w0) + t)."""
    net = gf.LinearPredictor(1)
    risk = gf.EmpiricalRisk(net, gf.exponential, np.ones((1, 1)), np.ones(1))
    for w in (-800.0, -100.0, -5.0):
        path = gf.integrate(risk, net.params(np.array([w])), until=1e3)
        assert path.result.name == "event"
        assert flat(path.final)[0] == pytest.approx(np.logaddexp(w, np.log(1e3)), rel=1e-8)
