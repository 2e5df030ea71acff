"""Stopping conditions: refused when senseless, met where they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
import gradflow.integrators.save as save
import gradflow.integrators.until as until
from gradflow.integration import integrate
from gradflow.risks.function import FunctionRisk

#: L = e^{-w}: w = ln(e^{w0} + t), L = 1/(e^{w0} + t), loss clock s = w - w0.
EXPONENTIAL = FunctionRisk(
    lambda p: jnp.exp(-p["w"]), log_fn=lambda p: -p["w"], label="exponential"
)
START = {"w": jnp.asarray(0.1)}
C = np.exp(0.1)


def run(**kwargs):
    return integrate(EXPONENTIAL, START, rtol=1e-9, **kwargs)


@pytest.mark.parametrize(
    "make", [until.time, until.clock, until.loss, until.gradient, until.direction]
)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "1", True])
def test_bad_values_are_refused(make, value):
    with pytest.raises(ValueError, match="pass"):
        make(value)


@pytest.mark.parametrize("value", [0, -3, 2.5, True])
def test_bad_step_counts_are_refused(value):
    with pytest.raises(ValueError, match="n="):
        until.steps(value)


@pytest.mark.parametrize("value", [[], [-1.0], [2.0, 1.0], [1.0, 1.0], [np.nan]])
def test_bad_save_points_are_refused(value):
    with pytest.raises(ValueError, match="t="):
        save.times(value)


def test_conditions_combine():
    both = until.time(10.0) | until.loss(0.5) | until.steps(7)
    assert repr(both) == "time(10.0) | loss(0.5) | steps(7)"
    assert repr(both | 3) == "time(10.0) | loss(0.5) | steps(7) | time(3.0)"
    with pytest.raises(ValueError, match="until"):
        both | "soon"


@pytest.mark.parametrize("clock", ["log", "physical", "loss"])
def test_time_in_every_clock(clock):
    trajectory = run(until=until.time(50.0), clock=clock, save_at=[0.0, 1.0, 7.5, 50.0])
    assert trajectory.result.ok
    assert trajectory.stopped_by == "time(50.0)"
    assert trajectory.t_final == pytest.approx(50.0, rel=1e-12)
    np.testing.assert_array_equal(trajectory.t, [0.0, 1.0, 7.5, 50.0])
    np.testing.assert_allclose(trajectory.params["w"], np.log(C + trajectory.t), rtol=1e-9)
    assert trajectory.final["w"] == pytest.approx(np.log(C + 50.0), rel=1e-9)


def test_times_beyond_floating_point():
    trajectory = run(
        until=until.log_time(2000.0), clock="loss", save_at=save.log_times([1000.0, 2000.0])
    )
    np.testing.assert_allclose(trajectory.params["w"], [1000.0, 2000.0], rtol=1e-9)
    assert trajectory.t[0] == np.inf
    np.testing.assert_array_equal(trajectory.log_t, [1000.0, 2000.0])
    with pytest.raises(ValueError, match="clock='log'"):
        run(until=until.log_time(2000.0), clock="physical")


def test_clock_value():
    trajectory = run(until=until.clock(4.0), clock="loss")
    assert trajectory.clock_final == 4.0
    assert trajectory.final["w"] == pytest.approx(4.1, rel=1e-12)


@pytest.mark.parametrize(
    ("condition", "clock"), [(until.loss(1e-3), "log"), (until.gradient(1e-3), "loss")]
)
def test_loss_and_gradient(condition, clock):
    trajectory = run(until=condition | until.clock(1e2), clock=clock)
    assert trajectory.stopped_by == repr(condition)
    assert trajectory.t_final == pytest.approx(1e3 - C, rel=1e-8)
    assert trajectory.events[-1].kind == "stop"
    assert trajectory.stats["events"] == 1


def test_met_at_the_start():
    trajectory = run(until=until.loss(2.0) | until.clock(1e2))
    assert (trajectory.t_final, len(trajectory)) == (0.0, 1)


def test_direction_stops_when_turning_slows():
    # L = (x - 1)^2/2 + (y - 2)^2/2 turns at a rate that decays like e^{-t}.
    risk = FunctionRisk(lambda p: 0.5 * jnp.sum((p["x"] - jnp.array([1.0, 2.0])) ** 2))
    trajectory = integrate(
        risk, {"x": jnp.array([0.5, 0.1])}, until=until.direction(1e-6) | until.time(100.0)
    )
    assert trajectory.stopped_by == "direction(1e-06)"
    x = np.array([1.0, 2.0]) + np.array([-0.5, -1.9]) * np.exp(-trajectory.t_final)
    v = np.array([0.5, 1.9]) * np.exp(-trajectory.t_final)
    across = v - x * (x @ v) / (x @ x)
    rate = np.linalg.norm(across) * (1 + trajectory.t_final) / np.linalg.norm(x)
    assert rate == pytest.approx(1e-6, rel=1e-4)


def test_steps():
    trajectory = run(until=until.steps(5))
    assert (trajectory.stats["steps"], len(trajectory)) == (5, 6)
    assert trajectory.result.ok
    assert trajectory.stopped_by == "steps(5)"


def test_save_point_beyond_the_end_is_a_mistake():
    with pytest.raises(ValueError, match="save_at"):
        run(until=until.time(1.0), save_at=[2.0])


def test_a_number_is_a_physical_time():
    one, other = run(until=5), run(until=until.time(5.0))
    assert (one.stopped_by, one.t_final) == ("time(5.0)", other.t_final)
    for value in (-1.0, True, "1e6"):
        with pytest.raises(ValueError, match="pass"):
            run(until=value)


@pytest.mark.parametrize("integrator", ["tsit5", "kvaerno3", "lsoda"])
def test_a_function_of_ones_own_stops(integrator):
    reaches = until.when(lambda p: p["w"], at=2.0)
    trajectory = run(until=reaches | until.time(1e6), integrator=integrator)
    assert trajectory.stopped_by == "when(<lambda>, at=2.0)"
    assert trajectory.final["w"] == pytest.approx(2.0, abs=1e-9)
    assert trajectory.t_final == pytest.approx(np.exp(2.0) - C, rel=1e-7)


def test_an_accuracy_and_a_norm_stop_a_net_with_kinks():
    """Steps stop where they jump; the risk is there for those who ask for it."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(10, 2))
    held_out = X + 0.02 * rng.normal(size=(10, 2))
    net = gf.TwoLayer(2, 4, gf.leaky_relu(0.3))
    risk = gf.EmpiricalRisk(net, gf.logistic, X, np.sign(X[:, 0]))
    start = net.init(jax.random.key(2), 0.01, scheme="balanced")

    def accuracy(risk, params):
        right = risk.net(params, jnp.asarray(held_out)) * jnp.asarray(held_out[:, 0]) > 0
        return jnp.mean(right.astype(jnp.float64))

    stop = until.when(accuracy, at=0.9) | until.time(1e3)
    path = gf.integrate(risk, start, until=stop)
    assert path.stopped_by == "when(accuracy, at=0.9)"
    assert float(accuracy(risk, path.final)) >= 0.9
    assert float(accuracy(risk, jax.tree.map(lambda leaf: leaf[-2], path.params))) < 0.9
    norm = until.when(lambda p: jnp.max(jnp.linalg.norm(p.inner, axis=1)), at=1.0)
    path = gf.integrate(risk, start, until=norm | until.time(1e3))
    assert float(jnp.max(jnp.linalg.norm(path.final.inner, axis=1))) == pytest.approx(1.0)


def test_a_function_of_ones_own_in_a_log_angle_chart():
    risk = gf.PopulationRisk(
        gf.LinearPredictor(3), gf.logistic, gf.Gaussian(3), teacher=gf.LinearTeacher([0, 0, 1.0])
    )
    reaches = until.when(lambda p: p.weight[2], at=2.0)
    path = gf.integrate(risk, risk.net.params([0.3, 0.0, 0.1]), until=reaches | until.time(1e6))
    assert path.chart == "log-angle"
    assert path.final.weight[2] == pytest.approx(2.0, rel=1e-9)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda p: float(p["w"]), "cannot be traced"),
        (lambda p: jnp.stack([p["w"]] * 2), r"shape \(2,\)"),
        (3.0, "callable"),
    ],
    ids=["not traceable", "vector", "no function"],
)
def test_senseless_functions_are_refused(fn, words):
    with pytest.raises(ValueError, match=words):
        run(until=until.when(fn) | until.time(1.0))


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap], ids=lambda f: f.__name__)
def test_transformations_get_a_message(transform):
    risk = FunctionRisk(lambda p: jnp.sum(p**2), label="bowl")

    def end(p):
        return jnp.sum(integrate(risk, p, until=1.0).final)

    with pytest.raises(ValueError, match=r"gf\.integrate_many"):
        transform(end)(jnp.ones(2))
