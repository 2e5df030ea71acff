"""From a small start to t = exp(1e10): the stages together, what is recorded, where it stops."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.flows.flow import make_flow
from gradflow.flows.separation import EarlyStage
from gradflow.flows.stage import Point
from gradflow.integrators.contract import Problem
from gradflow.integrators.steppers.late.integrator import late_phase
from gradflow.integrators.steppers.late.margin import least_norm_weights
from gradflow.integrators.steppers.late.stepper import LateIntegrator
from gradflow.integrators.tolerances import Asked, Tolerances

RNG = np.random.default_rng(3)
X = RNG.normal(size=(10, 3))
Y = np.sign(X @ RNG.normal(size=3))
RISK = gf.EmpiricalRisk(
    gf.TwoLayer(3, 5, activation=gf.leaky_relu(0.1)), gf.exponential, X, Y, reduction="mean"
)
_W = 1e-3 * RNG.normal(size=(5, 3))
START = RISK.net.params(
    inner=_W, outer=np.linalg.norm(_W, axis=1) * np.array([1.0, -1.0, 1.0, -1.0, 1.0])
)
FAR = gf.until.log_time(1e10)
TIMES = [1.0, 10.0, 1e3, 1e6, 1e9]


@pytest.fixture(scope="module")
def path():
    return gf.integrate(RISK, START, until=FAR)


@pytest.fixture(scope="module")
def handed_over(path):
    """The late stage that follows the early one."""
    flow, clock = path._stages[0].flow, path._stages[0]
    state = clock.Y[-1]
    at = flow.arrangement
    W = at.split(flow.chart.decode(flow.split(state)[0]))[0]
    sides = np.where(at.heights(W) < 0, -1, 1)
    early = EarlyStage(flow, Point(0.0, clock.Y[0]))
    return early.following(Point(float(clock.s[-1]), state, sides))


def _norm(params):
    outer, inner = np.asarray(params.outer), np.asarray(params.inner)
    return np.sqrt(np.sum(outer**2, axis=-1) + np.sum(inner**2, axis=(-2, -1)))


def _on(stage, until, save=None, *, rtol=1e-8, max_steps=20_000):
    flow, start = stage.flow, stage.start
    resolved = until.resolve(flow)
    problem = Problem(
        flow, start.Y, start.s, resolved.s_end, Tolerances.of(flow, start.Y, Asked(rtol), "late"),
        resolved.events, save=save, max_steps=max_steps, sides=start.sides,
    )  # fmt: skip
    late = LateIntegrator().solve(problem)
    return late, late.event.label if late.event is not None else ""


def _taus(log_t):
    return np.logaddexp(0.0, log_t)


def test_small_start_reaches_the_far_end(path):
    assert path.result.ok
    assert path.stopped_by == "log_time(10000000000.0)"
    assert path.chart_names == ("cartesian", "direction")
    assert path.log_t_final == pytest.approx(1e10, rel=1e-9)
    assert path.stats["steps"] < 1500
    assert np.all(np.diff(path.log_t[1:]) >= -1e-9 * path.log_t[2:])
    (begins,) = [event.log_t for event in path.events if event.kind == "stage"]
    assert {"crossing", "slide-in"} <= {e.kind for e in path.events if e.log_t > begins}


def test_time_and_loss_agree(path):
    # dL/dt = −|∇L|², so that t L |∇ ln L|² → 1; and d ln L/ds = −|∇ ln L|².
    log_loss = path.observe("log_loss")
    far = path.log_t > 1e4
    s, log_t, log_l = path.clock[far], path.log_t[far], log_loss[far]
    apart = np.diff(s) > 1e-9 * s[1:]
    speed = -np.diff(log_l)[apart] / np.diff(s)[apart]
    middle = 0.5 * (log_t + log_l)[1:][apart] + 0.5 * (log_t + log_l)[:-1][apart]
    assert np.max(np.abs(middle + np.log(speed))) < 0.05
    assert log_loss[-1] == pytest.approx(-1e10, rel=1e-8)
    rho, margin = _norm(path.final) ** 2, path.exact["normalised_margin"][-1]
    assert log_loss[-1] == pytest.approx(-rho * margin, rel=1e-7)


def test_rows_at_chosen_times(path, handed_over):
    few = gf.integrate(RISK, START, until=FAR, save_at=gf.save.log_times(TIMES))
    assert few.result.ok
    np.testing.assert_array_equal(few.log_t, TIMES)
    assert few.params.inner.shape == (5, 5, 3)
    directions = few.params.inner / _norm(few.params)[:, None, None]
    late, _ = _on(handed_over, FAR, _taus(TIMES[2:]))
    np.testing.assert_allclose(late.Y[:, :15].reshape(-1, 5, 3), directions[2:], atol=1e-7)
    for i, log_t in enumerate(TIMES):
        at = int(np.argmin(np.abs(path.log_t - log_t)))
        near = path.params.inner[at] / _norm(path.params)[at]
        assert np.max(np.abs(directions[i] - near)) < 0.05


def test_each_condition_stops_where_it_says(handed_over):
    late, label = _on(handed_over, gf.until.loss(1e-300))
    assert late.Y_final[-4] == pytest.approx(math.log(1e-300), rel=1e-9)
    late, label = _on(handed_over, gf.until.time(1e12))
    assert late.Y_final[-1] == pytest.approx(math.log(1e12), rel=1e-9)
    late, label = _on(handed_over, gf.until.direction(1e-6))
    assert late.result.ok
    assert 100.0 < late.Y_final[-1] < 1e10
    both = gf.until.loss(1e-300) | gf.until.time(1e12) | gf.until.direction(1e-12)
    late, label = _on(handed_over, both)
    assert label == "time(1000000000000.0)"
    assert late.Y_final[-1] == pytest.approx(math.log(1e12), rel=1e-9)
    late, label = _on(handed_over, gf.until.loss(1e-300) | FAR)
    assert label == "loss(1e-300)"
    late, label = _on(handed_over, gf.until.direction(1e-6) | FAR)
    assert label == "direction(1e-06)"


def test_nothing_asked_for_beyond_the_early_stage(handed_over):
    late, _ = _on(handed_over, FAR, _taus([1e9]))
    assert len(late.s) == 1
    late, _ = _on(handed_over, FAR, np.zeros(0), rtol=1e-6, max_steps=10_000)
    assert late.result.ok
    assert len(late.s) == 0
    assert late.Y_final[-1] == pytest.approx(1e10)


def test_late_trouble_is_reported(handed_over):
    late, _ = _on(handed_over, FAR, max_steps=30)
    assert not late.result.ok
    assert late.result.name == "max_steps"
    assert len(late.s) > 10


def test_data_that_cannot_be_separated_end_at_rest():
    # f(x) f(−x) ≤ 0 for one neuron, so it cannot give both the same sign.
    inputs = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    net = gf.TwoLayer(2, 1, activation=gf.leaky_relu(0.1))
    risk = gf.EmpiricalRisk(net, gf.logistic, inputs, [1.0, -1.0, -1.0, 1.0], reduction="mean")
    start = net.params(inner=[[0.0126, -0.0132]], outer=[0.12])
    with pytest.warns(gf.IntegrationWarning, match="has come to rest"):
        path = gf.integrate(risk, start, until=FAR)
    assert not path.result.ok
    assert path.result.name == "stationary"
    assert path.stats["steps"] < 5000
    assert "labels" in path.result.message
    assert np.min(np.asarray(risk.margins(path.final))) <= 0


def test_slow_turning_is_no_limit_before_the_data_are_separated():
    flow = make_flow(RISK, START, clock="loss")
    event = gf.until.direction(1e3).resolve(flow).events[0]
    Y = jnp.asarray(flow.initial(START))
    assert np.min(np.asarray(RISK.margins(START))) < 0
    assert float(event(flow, 0.0, Y)) < 0
    squared = dataclasses.replace(RISK, loss=gf.squared)
    assert float(event(make_flow(squared, START, clock="log"), 0.0, Y[:-1])) > 0


def test_linear_predictor_reaches_the_hard_margin_direction():
    risk = gf.EmpiricalRisk(gf.LinearPredictor(3), gf.logistic, X, Y, reduction="mean")
    path = gf.integrate(risk, np.full(3, 1e-3), until=FAR)
    p = least_norm_weights(X * Y[:, None])
    best = p @ (X * Y[:, None])
    found = jax.tree.leaves(path.final)[0]
    assert path.result.ok
    assert path.integrator == "dopri8-lsoda"
    np.testing.assert_allclose(
        found / np.linalg.norm(found), best / np.linalg.norm(best), atol=1e-8
    )


@pytest.mark.parametrize("outer", ["trained", "fixed"])
def test_units_of_the_data_do_not_matter(outer):
    net = gf.TwoLayer(3, 5, activation=gf.leaky_relu(0.1), outer=outer)
    rng = np.random.default_rng(1)
    W, a = 0.3 * rng.normal(size=(5, 3)), 0.5 * np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    runs = []
    for unit in (1.0, 1e5):
        # q, and so the loss, is the same: inputs times c, weights over c^{1/D}.
        f = math.sqrt(unit) if outer == "trained" else unit
        risk = gf.EmpiricalRisk(net, gf.exponential, unit * X, Y, reduction="mean")
        runs.append(
            late_phase(
                risk.arrangement,
                W / f,
                a / f if outer == "trained" else a,
                -2 * math.log(f),
                log_t_end=1e10,
            )
        )
        runs[-1].log_rho += math.log(f)
        runs[-1].log_t += 2 * math.log(f)
        runs[-1].margin /= unit
    one, other = runs
    assert one.ok
    assert other.ok
    for name in ("log_rho", "log_t", "margin"):
        assert getattr(other, name)[-1] == pytest.approx(getattr(one, name)[-1], rel=1e-7)
    np.testing.assert_allclose(other.U[-1], one.U[-1], atol=1e-7)
    assert len(one.events) == len(other.events)
