"""Certificates: KKT points from flows, exact margins and their evidence, stationary points."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

import gradflow as gf
from gradflow.certificates import (
    contradictions,
    global_max_margin,
    hard_margin_svm,
    kkt_residual,
    separable,
)


def _net_risk(X, y, width, slope, loss=gf.exponential, outer="trained", bias=False):
    net = gf.TwoLayer(X.shape[1], width, activation=gf.leaky_relu(slope), outer=outer, bias=bias)
    return gf.EmpiricalRisk(net, loss, X, y)


def _instance(seed, slope, loss=gf.exponential, n=12, d=3, m=6, scale=0.1):
    rng = np.random.default_rng(seed)
    v = rng.normal(size=d)
    X = rng.normal(size=(n, d))
    risk = _net_risk(X, np.sign(X @ v), m, slope, loss)
    a = scale * rng.choice([-1.0, 1.0], size=m)
    a[:2] = scale, -scale
    return risk, risk.net.params(scale * rng.normal(size=(m, d)), a)


def _separable(seed, n, d, gap=0.0):
    rng = np.random.default_rng(seed)
    v = rng.normal(size=d)
    v /= np.linalg.norm(v)
    X = rng.normal(size=(n, d))
    y = np.where(X @ v > 0, 1.0, -1.0)
    return X + gap * y[:, None] * v, y


def _symmetric(seed, pairs=4, d=2):
    X, y = _separable(seed, pairs, d, gap=0.2)
    return np.concatenate([X, -X]), np.concatenate([y, -y])


def _assert_kkt(risk, certificate):
    """Check a certificate from the definition: a naive loop, not the package's own matrices."""
    W, a = np.asarray(certificate.params.inner), np.asarray(certificate.params.outer)
    X, y, alpha = np.asarray(risk.X), np.asarray(risk.y), float(risk.net.activation.slope)
    assert np.sum(W**2) + np.sum(a**2) == pytest.approx(1, abs=1e-14)
    q = np.array([
        y[i] * sum(a[k] * max(W[k] @ X[i], alpha * (W[k] @ X[i])) for k in range(a.size))
        for i in range(y.size)
    ])  # fmt: skip
    gamma = np.min(q)
    assert gamma == pytest.approx(certificate.normalised_margin, rel=1e-12)
    lam = certificate.duals
    assert np.all(lam >= 0)
    assert np.all(q[lam > 1e-12 * np.max(lam)] <= gamma * (1 + 1e-10))
    slide = {(s.neuron, s.datum): s.slope for s in certificate.sliding}
    theta_W = W / np.sqrt(gamma)
    force = np.zeros_like(W)
    for k, i in itertools.product(range(a.size), range(y.size)):
        slope = slide.get((k, i), 1.0 if W[k] @ X[i] > 0 else alpha)
        force[k] += lam[i] * y[i] * slope * a[k] / np.sqrt(gamma) * X[i]
    assert np.max(np.abs(force - theta_W)) <= 1e-11 * np.max(np.abs(theta_W))


@pytest.fixture(scope="module")
def flow():
    """Flows of one shape to log t = 1e10, so that one compilation serves them."""
    found = {}

    def get(seed, slope, loss):
        key = seed, slope, loss
        if key not in found:
            risk, start = _instance(seed, slope, loss)
            found[key] = gf.integrate(risk, start, until=gf.until.log_time(1e10))
        return found[key]

    return get


@pytest.mark.parametrize(
    ("seed", "slope", "loss"),
    [(0, 0.0, gf.exponential), (1, 0.1, gf.exponential), (2, 0.5, gf.logistic)],
)
def test_flow_to_log_time_1e10_is_certified(flow, seed, slope, loss):
    path = flow(seed, slope, loss)
    assert path.result.ok
    limit = gf.certify(path)
    assert limit.accepted, limit.reason
    assert limit.kkt_residual <= 1e-12
    assert limit.normalised_margin >= limit.margin_before * (1 - 1e-12)
    assert all(slope - 1e-9 <= s <= 1 + 1e-9 for s in limit.slopes)
    assert all(force <= 1 + 1e-9 for force in limit.dropped.values())
    assert limit.distance < 0.5
    _assert_kkt(path.risk, limit)


def _small_flow(risk, seed):
    rng = np.random.default_rng(seed)
    a = 1e-3 * np.array([1.0, -1, 1, -1, 1, -1])
    start = risk.net.params(1e-3 * rng.normal(size=(6, 3)), a)
    return gf.certify(gf.integrate(risk, start, until=gf.until.log_time(1e10)))


def test_small_start_on_symmetric_data_ends_at_the_linear_margin():
    # (the same shape as the flows above; cf. Lyu, Li, Wang and Arora)
    X, y = _symmetric(2, pairs=6, d=3)
    limit = _small_flow(_net_risk(X, y, 6, 0.1), 0)
    assert limit.accepted, limit.reason
    value = 1.1 / 4 * hard_margin_svm(X, y).margin
    assert limit.normalised_margin == pytest.approx(value, rel=1e-9)


def test_small_start_on_orthogonally_separable_data_ends_at_two_margins():
    rng = np.random.default_rng(7)
    X = np.concatenate([0.2 + rng.random((6, 3)), -0.2 - rng.random((6, 3))])
    y = np.repeat([1.0, -1.0], 6)
    limit = _small_flow(_net_risk(X, y, 6, 0.0), 0)
    assert limit.accepted, limit.reason
    a = np.asarray(limit.params.outer)
    v = np.abs(a)[:, None] * np.asarray(limit.params.inner) / limit.normalised_margin
    for sign in (1, -1):
        svm = hard_margin_svm(X[y == sign], np.ones(6))
        np.testing.assert_allclose(
            np.sum(v[np.sign(a) == sign], axis=0), svm.direction / svm.margin, rtol=0, atol=1e-10
        )


def test_kkt_residual_falls_along_a_flow(flow):
    path = flow(1, 0.1, gf.exponential)
    rows = np.flatnonzero(path.observe("margin") > 0)
    rows = rows[np.linspace(0, rows.size - 1, 6).astype(int)]
    values = [
        kkt_residual(path.risk, jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), path.params)).total
        for i in rows
    ]
    assert values[-1] < 1e-3 * values[0]
    assert kkt_residual(path.risk, gf.certify(path).params).total <= 1e-12


def _late(seed, slope, n, d, m, loss=gf.exponential):
    """A late state without an integrator: many small normalised steps of the margin flow."""
    risk, start = _instance(seed, slope, loss, n, d, m)
    X, y = np.asarray(risk.X), np.asarray(risk.y)
    W, a = np.asarray(start.inner), np.asarray(start.outer)
    for beta, rate in ((1.0, 0.1), (30.0, 0.03), (300.0, 0.006), (3000.0, 0.001)):
        for _ in range(800):
            h = W @ X.T
            s = np.where(h > 0, 1.0, slope)
            q = y * (a @ (s * h))
            p = np.exp(-beta * (q - np.min(q)))
            p = p / np.sum(p) * y
            dW, da = a[:, None] * ((s * p) @ X), (s * h) @ p
            if beta > 1 or np.min(q) > 0.1:
                size = np.sqrt(np.sum(W**2) + np.sum(a**2))
                W, a = W / size, a / size
            W, a = W + rate * dW, a + rate * da
    return risk, risk.net.params(W, a)


@pytest.mark.parametrize(("n", "d", "m"), [(12, 3, 6), (40, 10, 20)])
@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5])
def test_random_late_states_are_certified(n, d, m, slope):
    accepted = 0
    for seed in range(4 if n < 20 else 2):
        risk, late = _late(seed, slope, n, d, m)
        limit = gf.certify(risk, late)
        if limit.accepted:
            accepted += 1
            assert limit.kkt_residual <= 1e-12
            assert limit.normalised_margin >= limit.margin_before * (1 - 1e-12)
            _assert_kkt(risk, limit)
        else:
            assert limit.reason
    assert accepted >= (3 if n < 20 else 2)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("outer", ["trained", "fixed"])
@pytest.mark.parametrize("bias", [False, True])
def test_biases_and_fixed_outer_weights(bias, outer, slope):
    for seed in (1, 2):
        X, y = _separable(seed, 12, 3, gap=0.1)
        rng = np.random.default_rng(seed)
        risk = _net_risk(X, y, 6, slope, outer=outer, bias=bias)
        a = np.array([1.0, -1, 1, -1, 1, -1])
        W = a[:, None] * (hard_margin_svm(X, y).direction + 0.2 * rng.normal(size=(6, 3)))
        start = risk.net.params(W, a, *([0.1 * rng.normal(size=6)] if bias else []))
        limit = gf.certify(risk, start)
        assert limit.accepted, limit.reason
        assert limit.normalised_margin > limit.margin_before
        assert kkt_residual(risk, limit.params).total <= 1e-12


def test_scale_and_duplicates_of_the_data_change_nothing():
    risk, late = _late(0, 0.1, 12, 3, 6)
    X, y = np.asarray(risk.X), np.asarray(risk.y)
    limit = gf.certify(risk, late)
    for scale in (1e-6, 1e6):
        other = gf.certify(_net_risk(scale * X, y, 6, 0.1), late)
        assert other.accepted, other.reason
        np.testing.assert_allclose(other.params.inner, limit.params.inner, rtol=0, atol=1e-13)
    twice = gf.certify(_net_risk(np.concatenate([X, X]), np.tile(y, 2), 6, 0.1), late)
    assert twice.accepted, twice.reason
    # the duals of least norm share alike
    half = 0.5 * limit.duals
    np.testing.assert_allclose(twice.duals, np.tile(half, 2), rtol=0, atol=1e-11 * np.max(half))


# --- agreement where the limit is linear


@pytest.mark.parametrize("loss", [gf.exponential, gf.logistic])
def test_linear_predictor_ends_at_the_svm(loss):
    X, y = _separable(3, 15, 4, gap=0.1)
    risk = gf.EmpiricalRisk(gf.LinearPredictor(4), loss, X, y)
    path = gf.integrate(risk, risk.net.params(0.01 * np.ones(4)), until=gf.until.log_time(1e4))
    limit, svm = gf.certify(path), hard_margin_svm(X, y)
    assert limit.accepted, limit.reason
    np.testing.assert_allclose(limit.params.weight, svm.direction, rtol=0, atol=1e-9)
    assert limit.normalised_margin == pytest.approx(svm.margin, abs=1e-12)
    np.testing.assert_allclose(limit.duals, svm.duals, rtol=1e-7, atol=1e-9 * np.max(svm.duals))
    top = global_max_margin(risk)
    assert top.lower == pytest.approx(svm.margin, abs=1e-12)
    assert top.upper == pytest.approx(svm.margin, abs=1e-12)


@pytest.mark.parametrize("outer", ["trained", "fixed"])
def test_linear_activation_ends_at_the_svm(outer):
    X, y = _separable(5, 14, 3, gap=0.1)
    svm = hard_margin_svm(X, y)
    rng = np.random.default_rng(0)
    risk = _net_risk(X, y, 4, 1.0, outer=outer)
    a = np.array([0.5, -0.4, 0.3, 0.8]) if outer == "trained" else np.array([1.0, -1.0, 1.0, 1.0])
    W = a[:, None] * (svm.direction + 0.02 * rng.normal(size=(4, 3)))
    limit = gf.certify(risk, risk.net.params(W, a))
    assert limit.accepted, limit.reason
    end = np.asarray(limit.params.outer) @ np.asarray(limit.params.inner)
    np.testing.assert_allclose(end / np.linalg.norm(end), svm.direction, rtol=0, atol=1e-9)
    factor = 0.5 if outer == "trained" else 2.0
    assert limit.normalised_margin == pytest.approx(factor * svm.margin, rel=1e-11)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5])
def test_symmetric_data_reach_the_linear_margin(slope):
    X, y = _symmetric(2)
    svm = hard_margin_svm(X, y)
    risk = _net_risk(X, y, 4, slope)
    rng = np.random.default_rng(1)
    a = np.array([0.5, -0.5, 0.3, -0.4])
    W = np.sign(a)[:, None] * (svm.direction + 0.01 * rng.normal(size=(4, 2)))
    limit = gf.certify(risk, risk.net.params(np.abs(a)[:, None] * W, a))
    assert limit.accepted, limit.reason
    value = (1 + slope) / 4 * svm.margin
    assert limit.normalised_margin == pytest.approx(value, abs=1e-9)
    top = global_max_margin(risk)
    assert top.upper - top.lower <= 1e-9 * top.upper
    if slope > 0:
        assert top.lower == pytest.approx(value, abs=1e-9)
    assert limit.normalised_margin <= top.upper * (1 + 1e-12)


def test_orthogonally_separable_data():
    # (one maximal margin vector for each label, of Phuong and Lampert)
    rng = np.random.default_rng(7)
    X = np.concatenate([0.2 + rng.random((5, 3)), -0.2 - rng.random((5, 3))])
    y = np.repeat([1.0, -1.0], 5)
    up, down = (hard_margin_svm(X[y == s], np.ones(5)) for s in (1, -1))
    risk = _net_risk(X, y, 4, 0.0)
    a = np.array([0.5, -0.5, 0.3, -0.4])
    W = np.where(a[:, None] > 0, np.mean(X[:5], axis=0), np.mean(X[5:], axis=0))
    limit = gf.certify(risk, risk.net.params(W + 0.05 * rng.normal(size=(4, 3)), a))
    assert limit.accepted, limit.reason
    W, a = np.asarray(limit.params.inner), np.asarray(limit.params.outer)
    v = np.abs(a)[:, None] * W / limit.normalised_margin
    for sign, svm in ((1, up), (-1, down)):
        np.testing.assert_allclose(
            np.sum(v[np.sign(a) == sign], axis=0), svm.direction / svm.margin, rtol=1e-10
        )


# --- what must not be accepted


def test_perturbed_limit_is_refused():
    risk, late = _late(0, 0.1, 12, 3, 6)
    good = gf.certify(risk, late)
    assert good.accepted
    assert gf.certify(risk, late, candidate=good.params).accepted
    bad = good.params.__class__(good.params.inner + 1e-6, good.params.outer, None)
    limit = gf.certify(risk, late, candidate=bad)
    assert not limit.accepted
    assert "residual" in limit.reason
    assert not gf.certify(risk, late, candidate=late).accepted


def test_dual_of_the_wrong_sign_is_refused():
    # w = z_1 combined with z_2 at equal margins, but the second multiplier is negative.
    X = np.array([[1.0, 0.0], [3.0, 0.5]])
    risk = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.logistic, X, np.ones(2))
    w = np.linalg.solve(X, np.ones(2))
    assert np.min(np.linalg.solve(X.T, w)) < 0
    late = risk.net.params(np.array([1.0, -1.0]))
    limit = gf.certify(risk, late, candidate=risk.net.params(w))
    assert not limit.accepted
    assert limit.kkt_residual > 0.1
    assert np.all(limit.duals >= 0)
    assert gf.certify(risk, late).accepted


def test_saddle_of_lower_margin_is_refused():
    # One positive neuron alone is a KKT point too where it separates; a second would grow.
    X, y = _symmetric(4)
    svm = hard_margin_svm(X, y)
    slope = 0.2
    risk = _net_risk(X, y, 2, slope)
    W = np.stack([svm.direction, -svm.direction])
    late = risk.net.params(W * 0.5, np.array([0.5, -0.5]))
    positive = hard_margin_svm(np.where(y[:, None] > 0, X, slope * X), y)
    saddle = risk.net.params(
        np.stack([positive.direction, -1e-300 * svm.direction]), np.array([1.0, 0.0])
    )
    assert kkt_residual(risk, saddle).total <= 1e-12
    limit = gf.certify(risk, late, candidate=saddle)
    assert not limit.accepted
    assert "below the flow's" in limit.reason
    # even from a flow of that margin, the neuron without mass would grow
    alone = gf.certify(risk, saddle)
    assert not alone.accepted
    assert "would grow" in alone.reason


def test_unseparated_start_is_refused_with_its_evidence():
    risk, start = _instance(0, 0.1)
    limit = gf.certify(risk, start)
    assert not limit.accepted
    assert "does not separate" in limit.reason
    assert limit.kkt_residual == np.inf
    lost = _net_risk(np.array([[1.0, 0.0], [-1.0, 0.2]]), np.ones(2), 1, 0.0)
    limit = gf.certify(lost, lost.net.params(np.array([[1.0, 0.0]]), np.ones(1)))
    assert not limit.accepted
    assert "no neuron is active on datum 1" in limit.reason
    X = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    y = np.array([1.0, -1.0, 1.0])
    clash = _net_risk(X, y, 2, 0.0)
    limit = gf.certify(clash, clash.net.params(np.eye(2), np.ones(2)))
    assert "opposite labels" in limit.reason
    linear = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.logistic, -X[[0, 2, 1]] + 1, -y)
    limit = gf.certify(linear, linear.net.params(np.array([1.0, 0.3])))
    assert not limit.accepted
    assert "separat" in limit.reason


# --- hard margins


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (7, 2), (13, 5), (30, 8), (61, 3)])
def test_hard_margin_against_slsqp(n, d, bias):
    X, y = _separable(n, n, d, gap=0.3)
    if bias and n == 1:
        X, y = np.concatenate([X, X + 1]), np.array([1.0, -1.0])
    svm = hard_margin_svm(X, y, bias=bias)
    assert svm.separable
    assert svm.residual <= 1e-12
    Z = y[:, None] * (np.column_stack([X, np.ones(len(X))]) if bias else X)
    mask = np.append(np.ones(d), 0.0) if bias else np.ones(d)
    start = separable(X, y, bias=bias)
    w0 = np.append(start.direction, start.offset)[: Z.shape[1]] / start.margin
    other = minimize(
        lambda w: 0.5 * np.sum(mask * w**2), w0, jac=lambda w: mask * w, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda w: Z @ w - 1, "jac": lambda w: Z},
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    assert svm.margin == pytest.approx(1 / np.linalg.norm(other.x[:d]), rel=1e-8)
    w = svm.direction / svm.margin
    np.testing.assert_allclose((svm.duals * y) @ X, w, rtol=0, atol=1e-11 * np.linalg.norm(w))
    assert np.min(y * (X @ svm.direction + svm.offset)) == pytest.approx(svm.margin, rel=1e-11)
    assert np.all(svm.duals >= 0)
    if bias:
        assert abs(svm.duals @ y) <= 1e-11 * np.sum(svm.duals)


def test_hard_margin_with_duplicates_and_any_scale():
    X, y = _separable(2, 9, 3, gap=0.2)
    svm = hard_margin_svm(X, y)
    again = hard_margin_svm(np.concatenate([X, X, 2 * X]), np.tile(y, 3))
    np.testing.assert_allclose(again.direction, svm.direction, rtol=0, atol=1e-12)
    assert again.residual <= 1e-12
    for scale in (1e-150, 1e150):
        scaled = hard_margin_svm(scale * X, y)
        np.testing.assert_allclose(scaled.direction, svm.direction, rtol=0, atol=1e-12)
        assert scaled.margin == pytest.approx(scale * svm.margin, rel=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n", "d"), [(4, 1), (12, 3), (40, 5)])
def test_gordan_evidence(n, d, bias):
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n, d))
    y = rng.choice([-1.0, 1.0], size=n)
    X[-1], y[-1] = X[0], -y[0]
    svm, decided = hard_margin_svm(X, y, bias=bias), separable(X, y, bias=bias)
    assert svm.separable is False
    assert decided.separable is False
    for p in (svm.gordan, decided.gordan):
        assert np.all(p >= 0)
        assert np.sum(p) == pytest.approx(1, abs=1e-13)
        assert np.linalg.norm((p * y) @ X) <= 1e-12 * np.max(np.linalg.norm(X, axis=1))
        if bias:
            assert abs(p @ y) <= 1e-12


def test_separable_says_which_and_shows_it():
    X, y = _separable(8, 20, 3)
    found = separable(X, y)
    assert found.separable is True
    assert np.min(y * (X @ found.direction)) == pytest.approx(found.margin)
    assert found.margin > 0
    xor = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    assert separable(xor, np.array([1.0, 1, -1, -1]), bias=True).separable is False
    shifted = X + 10 * np.ones(3)
    assert separable(shifted, y, bias=True).separable is True
    # a margin of 1e-10 is still found
    thin = np.array([[1.0, 1e-10], [-1.0, 1e-10]])
    assert separable(thin, np.ones(2)).separable is True
    assert hard_margin_svm(thin, np.ones(2)).separable is True
    # a zero row can never be separated without a bias
    assert separable(np.zeros((1, 2)), np.ones(1)).separable is False


def test_contradictions():
    X = np.array([[1.0, 0], [2, 0], [-3, 0], [0, 1], [0, 2], [1, 1]])
    y = np.array([1.0, -1, -1, 1, 1, -1])
    (only,) = contradictions(X, y)
    assert only.positive == (0,)
    assert only.negative == (1,)
    assert contradictions(X[2:], y[2:]) == ()


# --- the global maximum


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_global_margin_in_the_plane(seed, slope):
    X, y = _separable(seed, 9, 2)
    risk = _net_risk(X, y, 6, slope)
    top = global_max_margin(risk)
    assert 0 < top.lower <= top.upper * (1 + 1e-13)
    assert top.upper - top.lower <= 1e-9 * top.upper
    # the dual bound by brute force
    angle = np.linspace(0, 2 * np.pi, 20001)
    h = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ X.T
    G = np.where(h > 0, h, slope * h) @ (top.duals * y)
    assert 0.5 * np.max(np.abs(G)) <= top.upper * (1 + 1e-12)
    # (its peaks may be corners, between the net's angles)
    assert 0.5 * np.max(np.abs(G)) >= top.upper * (1 - 1e-3)
    # and the net attains the lower one
    f = np.where(X @ top.atoms.T > 0, X @ top.atoms.T, slope * (X @ top.atoms.T)) @ top.weights
    assert np.min(y * f) == pytest.approx(top.lower, rel=1e-10)
    assert np.sum(np.abs(top.weights)) == pytest.approx(0.5, rel=1e-12)
    for start in range(2):
        net, late = _late(10 * seed + start, slope, 9, 2, 5)
        best = global_max_margin(net)
        limit = gf.certify(net, late)
        if limit.accepted:
            assert limit.normalised_margin <= best.upper * (1 + 1e-12)


def test_global_margin_with_a_bias_and_in_space():
    X = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    y = np.array([1.0, 1, -1, -1])
    top = global_max_margin(_net_risk(X, y, 4, 0.0, bias=True))
    assert top.upper - top.lower <= 1e-9 * top.upper
    assert top.lower > 0
    X, y = _separable(5, 8, 3)
    top = global_max_margin(_net_risk(X, y, 6, 0.1))
    assert top.upper - top.lower <= 1e-9 * top.upper
    u = np.random.default_rng(0).normal(size=(20000, 3))
    h = u / np.linalg.norm(u, axis=1)[:, None] @ X.T
    G = np.where(h > 0, h, 0.1 * h) @ (top.duals * y)
    assert 0.5 * np.max(np.abs(G)) <= top.upper * (1 + 1e-12)


# --- stationary points


def _least_squares_start(seed, n, d, m, slope):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, d)), rng.normal(size=n)
    net = gf.TwoLayer(d, m, activation=gf.leaky_relu(slope))
    risk = gf.EmpiricalRisk(net, gf.squared, X, y)
    flat, unravel = ravel_pytree(net.params(rng.normal(size=(m, d)), rng.normal(size=m)))
    fun = jax.jit(jax.value_and_grad(lambda v: risk(unravel(v))))
    end = minimize(lambda v: [np.asarray(x) for x in fun(jnp.asarray(v))], flat, jac=True,
                   method="BFGS", options={"gtol": 1e-5, "maxiter": 2000})  # fmt: skip
    return risk, unravel(jnp.asarray(end.x))


def _difference_spectrum(risk, params, h=1e-6):
    flat, unravel = ravel_pytree(params)
    gradient = jax.jit(jax.grad(lambda v: risk(unravel(v))))
    H = np.array([
        (np.asarray(gradient(flat.at[j].add(h))) - np.asarray(gradient(flat.at[j].add(-h))))
        / (2 * h) for j in range(flat.size)
    ])  # fmt: skip
    return np.linalg.eigvalsh(0.5 * (H + H.T))


def test_interpolating_minimum():
    risk, near = _least_squares_start(0, 6, 3, 8, 0.2)
    end = gf.certify(risk, near)
    assert end.kind == "stationary point"
    assert end.accepted, end.reason
    assert end.kkt_residual <= 1e-12
    assert float(risk(end.params)) <= 1e-24
    assert end.verdict == "degenerate minimum"
    expected = _difference_spectrum(risk, end.params)
    np.testing.assert_allclose(end.spectrum, expected, rtol=0, atol=1e-7 * expected[-1])


def test_neuron_at_zero_is_a_saddle():
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    net = gf.TwoLayer(3, 2, activation=gf.leaky_relu(0.3))
    risk = gf.EmpiricalRisk(net, gf.squared, X, y)
    origin = net.params(np.ones((2, 3)), np.ones(2))
    origin = jax.tree.map(jnp.zeros_like, origin)
    end = gf.certify(risk, origin)
    assert end.verdict == "saddle", end.reason
    assert end.accepted
    assert end.kkt_residual <= 1e-12


def test_smooth_saddle_and_minimum():
    risk = gf.FunctionRisk(lambda p: jnp.sum((p["u"] * p["v"] - 1.0) ** 2) + 0.1 * p["u"][0] ** 4)
    zero = {"u": jnp.array([1e-4]), "v": jnp.array([-2e-4])}
    end = gf.certify(risk, zero)
    assert end.verdict == "saddle", end.reason
    assert end.kkt_residual <= 1e-12
    np.testing.assert_allclose(end.spectrum, [-2.0, 2.0], atol=1e-9)
    bowl = gf.FunctionRisk(lambda p: jnp.sum((p - 2.0) ** 2) + jnp.sum(p**4))
    end = gf.certify(bowl, jnp.array([0.5, 1.0]))
    assert end.verdict == "minimum"
    assert end.accepted
    np.testing.assert_allclose(end.spectrum, _difference_spectrum(bowl, end.params), rtol=1e-6)


def test_minimum_of_too_few_neurons():
    # A net that cannot interpolate: its minima have the fibre (a, w) -> (a/c, c w) only.
    accepted = 0
    for seed in range(6):
        risk, near = _least_squares_start(seed, 15, 2, 2, 0.3)
        end = gf.certify(risk, near)
        if not end.accepted:
            assert "not stationary" in end.reason
            continue
        accepted += 1
        assert end.kkt_residual <= 1e-12 * max(1, end.spectrum[-1])
        assert end.verdict in ("minimum", "degenerate minimum", "saddle", "undecided")
        if end.verdict == "degenerate minimum" and not end.sliding:
            expected = _difference_spectrum(risk, end.params)
            np.testing.assert_allclose(end.spectrum, expected, rtol=0, atol=1e-6 * expected[-1])
            # (neurons of one pattern: f depends on the sum of a_k w_k, in R^2, alone)
            signs = np.sign(np.asarray(end.params.inner) @ np.asarray(risk.X).T)
            same = len({tuple(row) for row in signs}) == 1
            assert np.sum(np.abs(end.spectrum) < 1e-9 * expected[-1]) == (4 if same else 2)
    assert accepted >= 4


@pytest.mark.parametrize("seed", [0, 3])
def test_plateau_with_a_vanishing_neuron_is_a_saddle(seed):
    one, near = _least_squares_start(seed, 12, 3, 1, 0.3)
    alone = gf.certify(one, near)
    assert alone.verdict == "degenerate minimum", alone.reason
    assert alone.kkt_residual <= 1e-12
    net = gf.TwoLayer(3, 2, activation=gf.leaky_relu(0.3))
    risk = gf.EmpiricalRisk(net, gf.squared, one.X, one.y)
    tiny = 1e-10
    W = np.concatenate([alone.params.inner, tiny * np.array([[1.0, 0.5, -0.3]])])
    end = gf.certify(risk, net.params(W, np.append(alone.params.outer, tiny)))
    assert end.accepted
    assert end.kkt_residual <= 1e-12
    assert end.verdict == "saddle", end.reason
    assert end.distance < 1e-8
    checked = gf.certify(risk, end.params, candidate=end.params)
    assert checked.verdict == "saddle", checked.reason


def test_minimum_on_a_kink():
    risk, near = _least_squares_start(3, 12, 3, 1, 0.3)
    end = gf.certify(risk, near)
    assert end.accepted, end.reason
    (slide,) = end.sliding
    assert 0.3 <= slide.slope <= 1
    w, x = np.asarray(end.params.inner)[0], np.asarray(risk.X)[slide.datum]
    assert abs(w @ x) <= 1e-14 * np.linalg.norm(w) * np.linalg.norm(x)
    assert end.spectrum.size == 3  # four weights, one direction across the kink
    low = float(risk(end.params))
    for side in (-1e-4, 1e-4):
        off = risk.net.params(end.params.inner + side * x[None], end.params.outer)
        assert float(risk(off)) > low + 1e-3 * 1e-4


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_slope_of_a_neuron_on_a_kink_whatever_the_targets_size(share):
    # f = (0, 1, 1); residuals (3, 3s, -3s) balance with slope s at the datum the neuron stands on.
    X = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = np.array([0.0, 1.0, 1.0]) - 3.0 * np.array([1.0, share, -share])
    net = gf.TwoLayer(2, 1, activation=gf.relu, outer="fixed")
    risk = gf.EmpiricalRisk(net, gf.squared, X, y)
    end = gf.certify(risk, net.params(np.array([[1.0, 0.0]]), np.ones(1)))
    assert end.accepted, end.reason
    assert end.verdict == "minimum", end.reason
    assert end.kkt_residual <= 1e-12
    np.testing.assert_allclose(end.slopes, [share], atol=1e-14)


@pytest.mark.slow
def test_end_of_a_regression_that_rests_on_four_kinks():
    # (two of the four neurons have the slope 0 there, one the slope 1)
    rng = np.random.default_rng(1)
    net = gf.TwoLayer(3, 5, activation=gf.relu)
    risk = gf.EmpiricalRisk(net, gf.squared, rng.normal(size=(12, 3)), rng.normal(size=12))
    start = net.init(jax.random.key(1), 0.5, scheme="balanced")
    path = gf.integrate(risk, start, until=gf.until.time(2e3) | gf.until.gradient(1e-9), rtol=1e-9)
    end = gf.certify(path)
    assert end.accepted, end.reason
    assert end.kkt_residual <= 1e-12
    assert end.distance < 1e-6


def test_end_of_a_squared_flow():
    # (a point where minimisers stop is seldom stationary at a kink; a flow's end is)
    risk, near = _least_squares_start(2, 12, 3, 1, 0.3)
    assert not gf.certify(risk, near).accepted
    size = float(np.linalg.norm(near.inner))
    start = risk.net.params(near.inner / size, near.outer * size)
    end = gf.certify(gf.integrate(risk, start, until=gf.until.time(1e4)))
    assert end.accepted, end.reason
    assert end.kkt_residual <= 1e-12
    assert end.verdict == "degenerate minimum"
    assert end.distance < 1e-5


def test_deep_linear_nets():
    X, y = _separable(6, 12, 3, gap=0.2)
    svm = hard_margin_svm(X, y)
    risk = gf.EmpiricalRisk(gf.DeepLinear(3, 3, width=2), gf.logistic, X, y)
    start = risk.net.balanced(svm.direction + np.array([0.05, 0.0, -0.05]))
    before = kkt_residual(risk, start)
    limit = gf.certify(risk, start)
    assert limit.accepted, limit.reason
    assert limit.kkt_residual <= 1e-12 < before.total
    w = np.asarray(risk.net.end_to_end(limit.params))
    np.testing.assert_allclose(w / np.linalg.norm(w), svm.direction, rtol=0, atol=1e-12)
    fit = gf.EmpiricalRisk(gf.DeepLinear(3, 2), gf.squared, X, X @ np.array([1.0, 2.0, -1.0]))
    end = gf.certify(fit, fit.net.balanced(np.array([0.9, 2.1, -1.0])))
    assert end.verdict == "degenerate minimum", end.reason
    assert end.kkt_residual <= 1e-12
    origin = jax.tree.map(jnp.zeros_like, fit.net.balanced(np.ones(3)))
    assert gf.certify(fit, origin).verdict == "saddle"


# --- bad input


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: hard_margin_svm(np.zeros((0, 2)), np.zeros(0)), "no data|empty|X"),
        (lambda: hard_margin_svm(np.ones((2, 2)), np.ones(3)), "length 3"),
        (lambda: hard_margin_svm(np.ones((2, 2)), np.array([1.0, 0.0])), "labels"),
        (lambda: separable(np.array([[np.nan, 1.0]]), np.ones(1)), "X"),
        (lambda: contradictions(np.ones(3), np.ones(3)), "X"),
        (lambda: gf.certify(3), "target"),
        (lambda: gf.certify(_instance(0, 0.1)[0]), "params"),
        (lambda: gf.certify(*_instance(0, 0.1), tol=-1.0), "tol"),
        (lambda: global_max_margin(_instance(0, 0.1, d=4)[0]), "dimension 4"),
        (lambda: kkt_residual(*_least_squares_start(0, 3, 2, 2, 0.1)), "max-margin"),
        (lambda: global_max_margin(_instance(0, 0.1)[0], tol=np.nan), "tol"),
        (lambda: hard_margin_svm(np.ones((2, 2)), np.ones(2), bias="yes"), "bias"),
        (lambda: gf.certify(_instance(0, 0.1)[0], np.ones(3)), "params"),
        (lambda: gf.certify(_instance(0, 0.1)[0], _instance(0, 0.1, m=5)[1]), "params"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
