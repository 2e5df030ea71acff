"""The late phase: linear algebra, events, the limit, its switch, and what happens when it fails."""

import math

import numpy as np
import pytest
from scipy import integrate, optimize

import gradflow as gf
from gradflow.integrators.contract import RESULTS
from gradflow.integrators.steppers.late import integrator as late
from gradflow.integrators.steppers.late import rosenbrock
from gradflow.integrators.steppers.late.cell import Cell
from gradflow.integrators.steppers.late.field import MarginNet
from gradflow.integrators.steppers.late.full import begin
from gradflow.integrators.steppers.late.integrator import late_phase
from gradflow.integrators.steppers.late.jacobian import factor, linearise
from gradflow.integrators.steppers.late.loop import evaluate
from gradflow.integrators.steppers.late.margin import least_norm_weights
from gradflow.integrators.steppers.late.solve import solve
from gradflow.integrators.steppers.late.system import elapsed, expand
from gradflow.integrators.steppers.rosenbrock import GAMMA


def _risk(X, y, width, slope, loss=gf.exponential, outer="trained", reduction="mean"):
    net = gf.TwoLayer(X.shape[1], width, activation=gf.leaky_relu(slope), outer=outer)
    return gf.EmpiricalRisk(net, loss, X, y, reduction=reduction)


def _instance(seed, n=10, d=3, m=5, slope=0.1, loss=gf.exponential, outer="trained"):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = np.sign(X @ rng.normal(size=d))
    a = rng.choice([-1.0, 1.0], size=m) * (0.3 if outer == "trained" else 1.0)
    return _risk(X, y, m, slope, loss, outer), 0.3 * rng.normal(size=(m, d)), a


def _frozen(risk, W, a):
    """The net, its cell with every sign frozen, and the state of weights (W, a)."""
    net = MarginNet(risk.arrangement, a)
    pattern = net.pattern(np.sign(W @ net.N.T))
    return net, Cell.of(net, pattern), begin(net, W, a, pattern)


@pytest.mark.parametrize("loss", [gf.exponential, gf.logistic])
def test_rosenbrock_method_has_its_orders(loss):
    _, cell, y0 = _frozen(*_instance(3, loss=loss))
    end = 0.8
    there = (end / 32, end / 16, end)
    *halves, exact = integrate.solve_ivp(
        lambda z, y: expand(cell, y).rate, (0, end), y0, "DOP853", there, rtol=1e-13, atol=1e-15
    ).y.T
    errors = []
    for n, half in zip((8, 16), halves[::-1], strict=True):
        h, y = end / n, y0
        for i in range(n):
            at = expand(cell, y)
            J = linearise(cell, at, y)
            factors = factor(cell, at, J, 1.0 / (GAMMA * h))
            y, e, poly = rosenbrock.rosenbrock_step(cell, at, J, factors, y, h)
            if i == 0:
                inside = np.max(np.abs(evaluate(poly, 0.5) - half))
                estimate = np.max(np.abs(e))
        errors.append([np.max(np.abs(y - exact)), inside, estimate])
    rates = np.log2(np.array(errors[0]) / np.array(errors[1]))
    assert np.all(rates > 4.6)  # global order 5; dense output and estimate err locally like h^5


@pytest.mark.parametrize("outer", ["trained", "fixed"])
@pytest.mark.parametrize("loss", [gf.exponential, gf.logistic])
@pytest.mark.parametrize("far", [0, 2])
def test_structured_solve_is_the_inverse_of_the_jacobian(loss, outer, far):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(7, 3))
    X[1], X[2] = -2 * X[0], 0.5 * X[3]
    arrangement = _risk(X, np.where(X[:, 0] > 0, 1.0, -1.0), 4, 0.3, loss, outer).arrangement
    W, a = 0.7 * rng.normal(size=(4, 3)), rng.choice([-0.8, 0.8], size=4)
    net = MarginNet(arrangement, a)
    W[0] -= net.N[0] * (W[0] @ net.N[0]) / (net.N[0] @ net.N[0])
    sides = np.sign(W @ net.N.T)
    sides[0, 0] = 0
    pattern = net.pattern(sides)
    cell, Y = Cell.of(net, pattern), begin(net, W, a, pattern)
    Y[net.P + 1 : -2] += 0.1 * rng.normal(size=net.n)  # off the exact manifold too
    Y[net.P + 1 : net.P + 1 + far] += 30.0  # (data that do not count)
    at = expand(cell, Y)
    eye = 1e-6 * np.eye(len(Y))
    J = np.stack([(expand(cell, Y + e).rate - expand(cell, Y - e).rate) / 2e-6 for e in eye], 1)
    b = rng.normal(size=len(Y))
    bU, bA = net.split(b[: net.P])
    b[: net.P] = net.join(pattern.project(bU), bA)
    linear = linearise(cell, at, Y)
    assert len(linear.index) == net.n - far
    x = solve(cell, at, linear, factor(cell, at, linear, 2.7), Y, b)
    np.testing.assert_allclose(2.7 * x - J @ x, b, atol=1e-5)


def test_field_is_the_gradient_flow_of_the_log_risk():
    risk, W, a = _instance(2, loss=gf.logistic)
    net, cell, Y = _frozen(risk, W, a)
    params = risk.net.params(inner=W, outer=a)
    g = risk.gradient(params)
    full = -np.concatenate([np.asarray(g.inner), np.asarray(g.outer)[:, None]], 1).ravel()
    full /= float(risk(params)) * math.exp(Y[net.P])  # (ln θ)' per unit of the loss clock
    rate = expand(cell, Y).rate
    u = Y[: net.P]
    np.testing.assert_allclose(rate[: net.P], full - (full @ u) * u, atol=1e-13)
    assert rate[net.P] == pytest.approx(full @ u, rel=1e-12)
    assert elapsed(cell, Y)[0] == pytest.approx(float(risk.log(params)), rel=1e-13)


def test_kinks_40_to_the_reference():
    rng = np.random.default_rng(0)
    n, d, m = 40, 10, 20
    v = rng.normal(size=d)
    X = [rng.normal(size=(n, d)) for _ in range(2)][1]
    y = np.sign(X @ v)
    W, a = 0.1 * rng.normal(size=(m, d)), 0.1 * rng.choice([-1, 1], size=m)
    arrangement = _risk(X, y, m, 0.1, reduction="sum").arrangement
    run = late_phase(arrangement, W, a, -20.0, clock_end=4.0, rtol=1e-9)
    assert run.ok
    kinds = [event.kind for event in run.events]
    assert [kinds.count(k) for k in ("crossing", "slide-in", "slide-out")] == [164, 14, 1]
    assert run.events[0].clock == pytest.approx(0.0095036521784, abs=1e-11)
    assert math.exp(2 * run.log_rho[-1]) == pytest.approx(6.1406164249956, rel=1e-9)
    assert run.margin[-1] == pytest.approx(-0.0368485263757, abs=1e-10)


def test_agrees_with_the_explicit_event_located_integrator():
    risk, W, a = _instance(5, loss=gf.logistic)
    end = 20.0
    params = risk.net.params(inner=W, outer=a)
    early = gf.integrate(
        risk, params, until=gf.until.clock(end), clock="loss", integrator="piecewise",
        rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    run = late_phase(risk.arrangement, W, a, -30.0, clock_end=end, rtol=1e-9)
    assert run.ok
    assert {"slide-in", "crossing"} <= {event.kind for event in run.events}
    rho = math.exp(run.log_rho[-1])
    assert rho**2 > 10.0
    np.testing.assert_allclose(rho * run.U[-1], np.asarray(early.final.inner), atol=1e-7)
    assert run.log_t[-1] == pytest.approx(float(early.log_t[-1]), rel=1e-7)


def test_smooth_flow_against_an_explicit_solver():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(6, 3))
    y = np.sign(X @ rng.normal(size=3))
    risk = gf.EmpiricalRisk(gf.LinearPredictor(3), gf.logistic, X, y, reduction="mean")
    w0 = 0.5 * rng.normal(size=3)

    def field(s, state):
        q = y * (X @ state[:3])
        loss = np.mean(np.logaddexp(0, -q))
        return np.append(((y / (1 + np.exp(q))) @ X) / (len(y) * loss), 1 / loss)

    exact = integrate.solve_ivp(
        field, (0, 30.0), np.append(w0, 1.0), "DOP853", rtol=1e-12, atol=1e-12
    ).y[:, -1]
    run = late_phase(risk.arrangement, w0[None], np.ones(1), 0.0, clock_end=30.0, rtol=1e-9)
    np.testing.assert_allclose(math.exp(run.log_rho[-1]) * run.U[-1, 0], exact[:3], rtol=1e-6)
    assert run.log_t[-1] == pytest.approx(math.log(exact[3]), rel=1e-7)


@pytest.mark.parametrize("seed", [0, 4])
def test_full_system_and_limit_agree(seed, monkeypatch):
    risk, W, a = _instance(seed)
    ends = {"log_loss_end": -1e9, "rtol": 1e-9}
    monkeypatch.setattr(late, "SWITCH", 1e7)
    limit = late_phase(risk.arrangement, W, a, -3.0, **ends)
    monkeypatch.setattr(late, "SWITCH", math.inf)
    full = late_phase(risk.arrangement, W, a, -3.0, **ends)
    assert limit.ok
    assert full.ok
    assert limit.form[-1] == "margin"
    assert full.form[-1] == "full"
    np.testing.assert_allclose(limit.U[-1], full.U[-1], atol=1e-8)
    np.testing.assert_allclose(limit.A[-1], full.A[-1], atol=1e-8)
    assert limit.log_t[-1] == pytest.approx(full.log_t[-1], rel=1e-8)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_where_the_limit_fails_the_full_system_goes_on(failures, monkeypatch):
    """Past the switch that failed, to 1e4 and then 1e6 times the first, where it tries again."""
    risk, W, a = _instance(0)
    ends = {"log_t_end": 1e18, "rtol": 1e-8}
    plain = late_phase(risk.arrangement, W, a, -3.0, **ends)
    tried = []

    class Failing(late.MarginPhase):
        def run(self, max_steps):
            tried.append(math.exp(2 * self.Y[self.net.P]))
            return "stuck" if 2 < len(tried) <= 2 + failures else super().run(max_steps)

    monkeypatch.setattr(late, "MarginPhase", Failing)
    run = late_phase(risk.arrangement, W, a, -3.0, **ends)
    levels = [x * late.SWITCH for x in (0.1, 1, 10, 1e4, 1e6)]
    np.testing.assert_allclose(tried, levels[: len(tried)], rtol=1e-6)
    assert run.ok == (failures < 3)
    assert run.result == ("stuck" if failures == 3 else "reached")
    assert np.all(np.diff(run.log_t) >= 0)
    if run.ok:
        np.testing.assert_allclose(run.U[-1], plain.U[-1], atol=1e-7)


@pytest.mark.parametrize("loss", [gf.exponential, gf.logistic])
def test_linear_predictor_goes_to_the_hard_margin_direction(loss):
    rng = np.random.default_rng(8)
    X = rng.normal(size=(8, 3))
    y = np.sign(X @ rng.normal(size=3))
    risk = gf.EmpiricalRisk(gf.LinearPredictor(3), loss, X, y, reduction="mean")
    run = late_phase(
        risk.arrangement, 0.1 * rng.normal(size=(1, 3)), np.ones(1), 0.0, log_t_end=1e12
    )
    p = least_norm_weights(X * y[:, None])
    g = p @ (X * y[:, None])
    assert run.ok
    np.testing.assert_allclose(run.U[-1, 0], g / np.linalg.norm(g), atol=1e-9)
    assert run.margin[-1] == pytest.approx(np.linalg.norm(g), rel=1e-9)


def test_least_norm_weights_meet_the_optimality_conditions():
    rng = np.random.default_rng(0)
    for k, dim in [(4, 7), (9, 3), (6, 6)]:
        rows = rng.normal(size=(k, dim)) + 0.8
        p = least_norm_weights(rows)
        g = p @ rows
        assert np.all(p >= 0)
        assert np.sum(p) == pytest.approx(1.0)
        assert np.all(rows @ g >= g @ g - 1e-10)
    scaled = optimize.nnls(np.vstack([rows.T, np.ones(6)]), np.append(np.zeros(6), 1.0))[0]
    np.testing.assert_allclose(p, scaled / scaled.sum(), atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_random_instances_go_far(seed):
    outer, loss = ("trained", "fixed")[seed % 2], (gf.exponential, gf.logistic)[seed % 3 == 0]
    risk, W, a = _instance(20 + seed, loss=loss, outer=outer, slope=0.2)
    run = late_phase(risk.arrangement, W, a, -3.0, rtol=1e-6, log_t_end=1e10)
    assert run.ok, run.message
    assert run.log_t[-1] == pytest.approx(1e10)
    assert run.switch_error < 1e-6
    assert np.all(np.diff(run.log_t) >= -1e-9 * np.maximum(1.0, np.abs(run.log_t[1:])))
    size = np.exp(risk.net.degree * run.log_rho)
    if loss is gf.exponential:  # −ln Σ e^{−q} / ρ^D never falls (lyu2020homogeneous)
        big = size > 10
        assert np.all(np.diff((-run.log_loss - math.log(10))[big] / size[big]) > -1e-9)
    # ln L = −ρ^D γ to leading order
    ratio = -run.log_loss[-1] / (size[-1] * run.margin[-1])
    assert ratio == pytest.approx(1.0, abs=1e-4)


def test_balancedness_is_conserved_along_the_way():
    risk, W, a = _instance(7)
    a = 1.5 * a
    run = late_phase(risk.arrangement, W, a, -3.0, log_loss_end=-50.0)
    gap = np.exp(2 * run.log_rho)[:, None] * (run.A**2 - np.sum(run.U**2, axis=2))
    np.testing.assert_allclose(gap, np.broadcast_to(gap[0], gap.shape), atol=1e-5)


def test_symmetric_data_and_equal_neurons():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(6, 2))
    v = rng.normal(size=2)
    X = np.concatenate([X, -X])
    y = np.sign(X @ v)
    margin = np.linalg.norm(least_norm_weights(X * y[:, None]) @ (X * y[:, None]))
    run = late_phase(
        _risk(X, y, 4, 0.3).arrangement, 0.1 * np.stack([v, v, -v, -v]),
        0.1 * np.array([1.0, 1.0, -1.0, -1.0]), 0.0, log_t_end=1e10,
    )  # fmt: skip
    assert run.ok
    assert run.margin[-1] == pytest.approx(1.3 * margin / 4, rel=1e-8)
    np.testing.assert_allclose(run.U[-1, 0], run.U[-1, 1], atol=1e-12)


def test_relu_neurons_that_see_nothing_keep_their_direction():
    risk, W, a = _instance(11, slope=0.0)
    X = risk.arrangement.inputs
    X = X * np.where(X[:, :1] < 0, -1, 1)  # one half-space
    y = np.where(X[:, 1] > 0, 1.0, -1.0)
    W[0] = [-1.0, 0.0, 0.0]
    run = late_phase(_risk(X, y, 5, 0.0).arrangement, W, a, -3.0, rtol=1e-6, log_t_end=1e10)
    assert run.ok
    size = np.linalg.norm(run.U[:, 0], axis=1)
    np.testing.assert_allclose(run.U[:, 0] / size[:, None], np.tile(W[0], (len(size), 1)))
    np.testing.assert_allclose(size * np.exp(run.log_rho), 1.0, rtol=1e-5)


def test_a_datum_no_neuron_sees_ends_at_rest():
    X = np.array([[1.0, 0.2], [0.8, -0.3], [-1.0, 0.1]])
    y = np.array([1.0, 1.0, 1.0])
    W, a = np.array([[0.5, 0.0], [0.4, 0.1]]), np.array([0.5, 0.4])
    run = late_phase(_risk(X, y, 2, 0.0).arrangement, W, a, 0.0, log_t_end=1e10)
    assert run.result == "stationary"
    assert not run.ok
    assert "separated" in run.message
    assert len(run.log_t) > 10


def test_rows_where_they_are_wanted_and_stops():
    risk, W, a = _instance(0)
    arrangement = risk.arrangement
    times = [0.0, 50.0, 1e4, 1e8, 1e10]
    run = late_phase(arrangement, W, a, -3.0, log_t_end=1e10, save_log_t=times)
    np.testing.assert_allclose(run.log_t[run.saved], times, rtol=1e-9, atol=1e-9)
    alone = late_phase(arrangement, W, a, -3.0, log_t_end=1e4)
    at = np.flatnonzero(run.saved)[2]
    np.testing.assert_allclose(run.U[at], alone.U[-1], atol=1e-8)
    assert late_phase(arrangement, W, a, -3.0, log_loss_end=-1e6).log_loss[-1] == pytest.approx(
        -1e6
    )
    turned = late_phase(arrangement, W, a, -3.0, direction_tol=1e-9)
    assert turned.ok
    assert 10 < turned.log_t[-1] < 1e10


def test_trouble_is_a_result_and_what_was_computed_is_kept():
    risk, W, a = _instance(0)
    arrangement = risk.arrangement
    short = late_phase(arrangement, W, a, -3.0, log_t_end=1e10, max_steps=20)
    assert short.result == "max_steps"
    assert len(short.log_t) > 10
    assert "max_steps" in short.message
    assert late_phase(arrangement, np.nan * W, a, 0.0, log_t_end=1.0).result == "non_finite"
    assert late_phase(arrangement, 0 * W, 0 * a, 0.0, log_t_end=1.0).result == "non_finite"
    for ok, text in RESULTS.values():
        assert ok or "." in text
