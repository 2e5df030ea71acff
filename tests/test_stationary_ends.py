"""Stationary points that certify the end of a path, and ends that none certifies."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial
from scipy.optimize import minimize

import gradflow as gf

# --- no minimum: the infimum lies at infinity, or the path is on its way


def _one_neuron(activation):
    net = gf.TwoLayer(1, 1, activation=activation, outer="fixed")
    return gf.EmpiricalRisk(net, gf.squared, np.ones((1, 1)), np.ones(1))


@pytest.mark.parametrize("w", [0.3, 1.359, 6.0, 16.42, 40.0])
@pytest.mark.parametrize("activation", [gf.tanh, gf.erf], ids=["tanh", "erf"])
def test_no_finite_weight_of_a_saturating_neuron_fits_one(activation, w):
    risk = _one_neuron(activation)
    end = gf.certify(risk, risk.net.params(np.array([[w]]), np.ones(1)))
    assert not end.accepted
    assert "infinity" in end.reason
    assert end.verdict == "undecided"
    assert end.distance == 0.0  # of the state itself: no other point is offered


@pytest.mark.slow
def test_end_of_a_path_whose_infimum_is_at_infinity():
    risk = _one_neuron(gf.tanh)
    start = risk.net.params(np.array([[0.3]]), np.ones(1))
    path = gf.integrate(risk, start, until=gf.until.time(10.0))
    end = gf.certify(path)
    assert end.kind == "stationary point"
    assert not end.accepted
    assert "infinity" in end.reason
    assert float(end.params.inner[0, 0]) == float(path.final.inner[0, 0])


@pytest.mark.slow
def test_two_neurons_stopped_early_are_on_their_way():
    X = np.linspace(-2, 2, 20)[:, None]
    net = gf.TwoLayer(1, 2, activation=gf.tanh)
    risk = gf.EmpiricalRisk(net, gf.squared, X, np.sin(2 * X[:, 0]))
    start = net.params(np.array([[0.5], [-0.3]]), np.array([0.4, 0.7]))
    end = gf.certify(gf.integrate(risk, start, until=gf.until.time(1.0)))
    assert not end.accepted
    assert "not stationary" in end.reason
    assert "integrate further" in end.reason


def _log_sum(X, y, w):
    rows = X @ w.T
    return jnp.mean(jax.nn.logsumexp(rows, axis=1) - jnp.where(y > 0, rows[:, 0], rows[:, 1]))


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0, 1e4])
def test_softmax_on_separable_data_has_no_minimum(size):
    X = np.random.default_rng(0).normal(size=(10, 2))
    risk = gf.FunctionRisk(Partial(_log_sum, jnp.asarray(X), jnp.sign(X @ np.array([1.0, 0.5]))))
    end = gf.certify(risk, jnp.asarray(size * np.array([[1.0, 0.5], [-1.0, -0.5]])))
    assert not end.accepted
    assert "infinity" in end.reason


# --- closed forms z = (w − c)/ℓ, at any scale


def _quadratic(z):
    return 0.5 * jnp.sum(jnp.geomspace(1.0, 1e-4, z.size) * z**2)


def _log_cosh(z):
    return jnp.sum(jnp.logaddexp(z, -z))


def _dip(z):
    return z @ z / (1 + z @ z)


def _double_well(z):
    return jnp.sum((z**2 + 2 * z) ** 2)  # (z+1)² = 1: a minimum at 0, a maximum at −1


def _bent(z):
    return z[0] ** 2 + jnp.sum((z[1:] - z[0] ** 2) ** 2)


def _inverse(z):
    return 1 / (1 + z @ z)


def _exponential(z):
    return jnp.exp(-z[0]) + jnp.sum(z[1:] ** 2)


def _softplus(z):
    return jnp.sum(jnp.logaddexp(0.0, -z))


def _tail(z):
    return jnp.sum((1 - jnp.tanh(z)) ** 2)


def _linear(z):
    return -jnp.sum(z)


def _log_sum_exp(z):
    return jnp.logaddexp(jnp.logaddexp(-z[0] - 0.3 * z[-1], -2 * z[0]), -0.5 * z[0] + 0.1 * z[-1])


def _scaled(form, turn, center, length, height, w):
    return height * form(turn @ ((w - center) / length))


def _risk(form, seed, length, height, shift):
    rng, dim = np.random.default_rng(seed), 3
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    center = shift * rng.normal(size=dim)
    numbers = (jnp.asarray(x) for x in (turn, center, length, height))
    risk = gf.FunctionRisk(Partial(_scaled, form, *numbers))
    return risk, lambda z: jnp.asarray(center + length * (turn.T @ z)), rng


FORMS = {
    "seed": st.integers(0, 10**6),
    "length": st.floats(-4, 4).map(lambda e: 10.0**e),
    "height": st.floats(-12, 12).map(lambda e: 10.0**e),
    "shift": st.sampled_from([0.0, 1.0, 1e3]),
}
repeat = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
)


@pytest.mark.parametrize(
    "form", [_inverse, _exponential, _softplus, _tail, _linear, _log_sum_exp],
    ids=lambda form: form.__name__,
)  # fmt: skip
@repeat
@given(out=st.floats(0, 1.5), **FORMS)
def test_no_certificate_where_there_is_no_stationary_point(form, seed, length, height, shift, out):
    risk, place, rng = _risk(form, seed, length, height, shift)
    z = rng.normal(size=3)
    z = 10.0**out * np.append(abs(z[0]) + 1, z[1:])
    if form in (_softplus, _tail):
        z = np.abs(z)
    end = gf.certify(risk, place(z))
    assert end.verdict in ("undecided", "saddle"), end.reason
    # (a slope below the rounding of the steep directions' gradient is lost; no minimum even then)
    noise = 1e4 * np.finfo(float).eps * (1 + shift / length)
    if form is not _exponential or math.exp(-z[0]) > noise:
        assert not end.accepted, end.reason


@pytest.mark.parametrize(
    "form", [_quadratic, _log_cosh, _dip, _double_well, _bent], ids=lambda form: form.__name__
)
@repeat
@given(off=st.floats(-8, -1.5), **FORMS)
def test_minima_are_certified_from_nearby(form, seed, length, height, shift, off):
    risk, place, rng = _risk(form, seed, length, height, shift)
    end = gf.certify(risk, place(10.0**off * rng.normal(size=3)))
    assert end.accepted, end.reason
    assert end.verdict == "minimum", end.reason
    assert end.index == 0
    gap = np.linalg.norm(np.asarray(end.params) - np.asarray(place(np.zeros(3))))
    assert gap <= 1e-7 * length + 1e-12 * shift


@pytest.mark.parametrize("height", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("condition", [1.0, 1e6, 1e10])
@pytest.mark.parametrize("turned", [False, True])
def test_a_quadratic_is_certified_from_anywhere(turned, condition, height):
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] if turned else np.eye(3)
    A = jnp.asarray(height * Q @ np.diag(np.geomspace(1, 1 / condition, 3)) @ Q.T)
    center = jnp.array([3.0, -1.0, 2.0])
    risk = gf.FunctionRisk(lambda p: 0.5 * (p - center) @ A @ (p - center))
    end = gf.certify(risk, jnp.array([5.0, 6.0, 7.0]))
    assert end.accepted, end.reason
    assert end.verdict == "minimum"
    np.testing.assert_allclose(end.params, center, rtol=0, atol=1e-14 * condition)


def test_curvature_below_its_error_decides_nothing():
    quartic = gf.FunctionRisk(lambda p: jnp.sum(p**4))
    end = gf.certify(quartic, jnp.array([1.0, 0.3]))
    assert end.accepted, end.reason
    assert end.verdict == "undecided"
    assert "2 directions of zero curvature" in end.reason
    valley = gf.FunctionRisk(lambda p: (p[0] * p[1] - 1) ** 2)
    end = gf.certify(valley, jnp.array([1.0, 1.1]))
    assert end.accepted, end.reason
    assert end.verdict == "undecided"
    assert "1 directions of zero curvature" in end.reason


def test_a_path_on_its_way_out_of_a_saddle_does_not_end_there():
    risk = gf.FunctionRisk(lambda p: (p[0] ** 2 - 1) ** 2 + p[1] ** 2)
    passing = gf.certify(risk, jnp.array([0.1, 1e-3]))
    assert not passing.accepted
    assert passing.verdict == "saddle"
    assert "the flow leaves that saddle" in passing.reason
    resting = gf.certify(risk, jnp.array([0.0, 1e-3]))
    assert resting.accepted
    assert (resting.verdict, resting.index) == ("saddle", 1)


def test_underflow_is_not_taken_for_a_minimum():
    risk = gf.FunctionRisk(lambda p: jnp.exp(-p[0]) + p[1] ** 2)
    end = gf.certify(risk, jnp.array([800.0, 0.1]))
    assert not end.accepted
    assert "underflows" in end.reason
    unused = gf.FunctionRisk(lambda p: p[1] ** 2)
    assert gf.certify(unused, jnp.array([800.0, 0.1])).accepted


def test_a_risk_that_is_not_finite_is_refused_with_its_reason():
    end = gf.certify(gf.FunctionRisk(lambda p: jnp.log(p[0])), jnp.array([0.0]))
    assert not end.accepted
    assert "not finite" in end.reason


# --- margin losses


@pytest.mark.slow
def test_logistic_regression_that_cannot_separate_has_a_minimum():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    y = np.sign(X @ np.ones(5) + 2 * rng.normal(size=60))
    risk = gf.EmpiricalRisk(gf.LinearPredictor(5), gf.logistic, X, y)
    start = risk.net.params(0.1 * np.ones(5))
    other = minimize(
        lambda w: np.mean(np.logaddexp(0, -y * (X @ w))), np.zeros(5), tol=1e-14, method="BFGS"
    )
    with pytest.warns(gf.IntegrationWarning, match="come to rest"):
        path = gf.integrate(risk, start, until=gf.until.log_time(1e3))
    for end in (gf.certify(path), gf.certify(risk, start)):
        assert end.kind == "stationary point"
        assert end.accepted, end.reason
        assert (end.verdict, end.index) == ("minimum", 0)
        assert "never will" in end.reason  # (the hint stays)
        np.testing.assert_allclose(end.params.weight, other.x, atol=1e-4)


@pytest.mark.parametrize("loss", [gf.logistic, gf.exponential], ids=["logistic", "exponential"])
def test_contradictory_labels_rest_at_a_positive_loss(loss):
    # 2ℓ(w) + ℓ(−w) is least at w = ln 2 for the logistic loss, at (ln 2)/2 for the exponential.
    risk = gf.EmpiricalRisk(gf.LinearPredictor(1), loss, np.ones((3, 1)), np.array([1.0, 1, -1]))
    end = gf.certify(risk, risk.net.params(np.array([0.6])))
    assert end.accepted, end.reason
    assert end.kind == "stationary point"
    assert end.verdict == "minimum"
    assert "opposite labels" in end.reason
    value = math.log(2) * (1.0 if loss is gf.logistic else 0.5)
    assert float(end.params.weight[0]) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("margin", [30.0, 46.0, 300.0])
def test_a_margin_that_grows_beside_contradictory_labels_has_no_limit(margin):
    """L falls along the other datum's margin by e^{-margin}, far below its rounding, for ever."""
    X, y = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1.0, -1.0, 1.0])
    net = gf.TwoLayer(2, 2, gf.relu)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, y)
    params = net.params(np.array([[1.0, margin + 1.0], [1.0, 1.0]]), np.array([1.0, -1.0]))
    np.testing.assert_array_equal(risk.net(params, X), [0.0, 0.0, margin])
    end = gf.certify(risk, params)
    assert not end.accepted


@pytest.mark.slow
def test_a_net_at_rest_that_does_not_separate_gets_its_index():
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(8, 2)), rng.choice([-1.0, 1], size=8)
    net = gf.TwoLayer(2, 2, activation=gf.relu)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, y)
    start = net.init(jax.random.key(2), 0.3, scheme="balanced")
    with pytest.warns(gf.IntegrationWarning, match="come to rest"):
        path = gf.integrate(risk, start, until=gf.until.log_time(1e3))
    assert str(path.result) == "stationary"
    end = gf.certify(path)
    assert end.kind == "stationary point"
    assert end.accepted, end.reason
    assert end.kkt_residual <= 1e-12
    assert end.index >= 0
    assert end.distance < 1e-4
    assert "integrate further" not in end.reason


def test_a_state_that_does_not_separate_yet_is_told_what_is_missing():
    risk = gf.EmpiricalRisk(
        gf.LinearPredictor(2), gf.logistic, np.array([[1.0, 0.2], [0.1, 1.0]]), np.ones(2)
    )
    end = gf.certify(risk, risk.net.params(np.array([1.0, -0.4])))
    assert end.kind == "max-margin KKT"
    assert not end.accepted
    assert "margin -0.279 at datum 1" in end.reason
    assert "integrate further" in end.reason


@pytest.mark.parametrize("seed", [0, 1])
def test_two_moons_rest_with_neurons_parked_on_data(seed):
    """Neurons that died stand on a datum without force: what rounding leaves there is no slope."""
    angle, rng = np.linspace(0, np.pi, 15), np.random.default_rng(0)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    X = np.concatenate([upper, [1.0, 0.5] - upper]) + 0.05 * rng.normal(size=(30, 2))
    net = gf.TwoLayer(2, 20, gf.relu, bias=True)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, np.repeat([1.0, -1.0], 15))
    path = gf.integrate(risk, net.init(jax.random.key(seed), 1e-3), until=1e6)
    assert str(path.result) == "rest"
    parked = np.asarray(path.observe("neuron_norms"))[-1] < 1e-2
    assert np.sum(parked) >= 3
    end = gf.certify(path)
    assert end.kind == "stationary point"
    assert end.accepted, end.reason
    assert end.distance < 1e-12
    assert "integrate further" not in end.reason
    # the control: a state beside it, with the same neurons parked, is none
    shifted = net.params(
        inner=np.asarray(path.final.inner),
        outer=np.asarray(path.final.outer) * np.where(parked, 1.0, 1.05),
        bias=np.asarray(path.final.bias),
    )
    beside = gf.certify(risk, shifted)
    assert not beside.accepted or beside.distance > 1e-3
