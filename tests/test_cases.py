"""Published experiments, repeated: what their authors report must come out here.

Squared losses: `gf.squared` is ½(f−y)² and risks are means, so the mean squared error of a source
is twice the risk, and its flow runs twice as fast.
"""

import numpy as np
import pytest

import gradflow as gf
from gradflow import certificates

FOREVER = gf.until.log_time(1e10)


def _flat(params):
    leaves = (params.inner, params.outer)
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in leaves])


def _balanced(rows, rng):
    signs = rng.choice([-1.0, 1.0], size=len(rows))
    return signs * np.linalg.norm(rows, axis=1)


# `boursier2022orthogonal`: orthogonal data, squared loss, saddle to saddle.


@pytest.mark.slow
def test_orthogonal_toy_goes_from_saddle_to_saddle(rng):
    x, y, scale, width = np.array([-0.5, 2.0]), np.array([-1.0, 1.0]), 1e-6, 60
    rows = scale / np.sqrt(width) * rng.normal(size=(width, 2))
    net = gf.TwoLayer(1, width, gf.relu, bias=True)
    risk = gf.EmpiricalRisk(net, gf.squared, x[:, None], y)
    start = net.params(rows[:, :1], _balanced(rows, rng), rows[:, 1])
    path = gf.integrate(risk, start, until=gf.until.time(100.0))
    assert path.result.ok
    error = 2 * path.observe("loss")
    assert abs(error[0] - 1) < 1e-11
    source_time = path.t / 2
    plateau = error[(source_time > 7.5) & (source_time < 9)]
    np.testing.assert_allclose(plateau, 0.5, atol=2e-3)
    np.testing.assert_allclose(error[0] / plateau, 2.0, atol=1e-2)
    # The datum (2, 1) is fitted after about 7 units of time, the other after twice that.
    first, second = (np.interp(-level, -error, source_time) for level in (0.75, 0.25))
    assert 1.9 < second / first < 2.2
    assert error[-1] < 1e-16
    norm = path.observe("variation_norm")[-1]
    assert abs(norm - 3 / np.sqrt(5)) < 1e-8
    by_sign = path.observe("signed_masses")[-1]
    assert abs(by_sign[by_sign > 0].sum() - 1 / np.sqrt(5)) < 1e-8
    assert gf.certify(path).kkt_residual < 1e-12


@pytest.mark.slow
def test_wide_data_from_a_start_of_1e_20(rng):
    # d = 30, n = 15 of the source's 150 and 75, six teacher neurons, the start as small as there.
    d, n, width = 30, 15, 20
    X, teacher = rng.normal(size=(n, d)), rng.normal(size=(6, d))
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    y = np.maximum(X @ teacher.T, 0.0) @ np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    net = gf.TwoLayer(d, width, gf.relu)
    risk = gf.EmpiricalRisk(net, gf.squared, X, y)
    rows = 1e-20 / np.sqrt(width) * rng.normal(size=(width, d))
    start = net.params(rows, _balanced(rows, rng))
    until = gf.until.time(60.0)
    path = gf.integrate(risk, start, until=until, rtol=1e-7)
    tight = gf.integrate(risk, start, until=until, rtol=1e-10)
    assert path.result.ok
    assert tight.result.ok
    gap = np.max(np.abs(_flat(path.final) - _flat(tight.final)))
    assert gap < 1e-5 * np.max(np.abs(_flat(tight.final)))
    assert path.defects["balance"] < 1e-9
    assert path.defects["energy"] < 1e-7
    # The saddle at 0 is left, and late: at a rate r it takes ln(1e20)/r.
    loss = path.observe("loss")
    assert np.interp(5.0, path.t, loss) > 0.999999 * loss[0]
    assert loss[-1] < 0.5 * loss[0]


# `tsoy2024simplicity`: XOR clusters, four neurons of very different sizes.


def _xor(count, rng, delta=0.01, sigma=0.005):
    noise = sigma * rng.normal(size=(4 * count, 2))
    x = noise[np.linalg.norm(noise, axis=1) < delta][: count // 8] + np.array([1.0, 0.0])
    x = np.concatenate([x, x * np.array([-1.0, 1.0])])
    x = np.concatenate([x, x * np.array([1.0, -1.0])])
    return np.concatenate([x, x[:, ::-1]]), np.repeat([-1.0, 1.0], len(x))


@pytest.mark.slow
def test_xor_clusters_are_learned_one_by_one_and_equally_in_the_end(rng):
    X, y = _xor(64, rng)
    rows = 1e-4 * np.array([[1.0, 0.0], [0.0, 0.1], [-0.001, 0.0], [0.0, -0.01]])
    outer = np.array([-1.0, 1.0, -1.0, 1.0]) * np.linalg.norm(rows, axis=1)
    net = gf.TwoLayer(2, 4, gf.relu)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, y)
    path = gf.integrate(risk, net.params(rows, outer), until=FOREVER)
    assert path.result.ok
    mass = path.observe("neuron_masses")
    learned = [path.log_t[np.argmax(mass[:, k] > 1)] for k in (0, 1, 3, 2)]
    assert np.all(np.diff(learned) > 0.1)
    directions = path.observe("neuron_directions")
    assert np.max(np.min(np.abs(directions), axis=2)) < 0.02
    np.testing.assert_allclose(mass[-1] / mass[-1].sum(), 0.25, atol=1e-5)
    limit = gf.certify(path)
    assert limit.accepted
    best = certificates.global_max_margin(risk)
    assert abs(limit.normalised_margin - best.margin) < 1e-9 * best.margin


# `elkabetz2021continuous`: gradient descent stays close to the flow.


@pytest.mark.slow
def test_descent_converges_to_the_flow_at_first_order():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3))
    y = np.sign(X @ np.array([1.0, -0.5, 0.3]))
    net = gf.TwoLayer(3, 6, gf.leaky_relu(0.1))
    risk = gf.EmpiricalRisk(net, gf.logistic, X, y)
    start = net.params(0.3 * rng.normal(size=(6, 3)), 0.3 * rng.choice([-1.0, 1.0], size=6))
    time, first = 20.0, 0.1
    flow = gf.integrate(
        risk, start, until=gf.until.time(time), clock="physical", rtol=1e-10, throw=True
    )
    assert len(flow.events) > 10
    divisors, errors = np.array([1, 2, 5, 10, 20]), []
    for divisor in divisors:
        steps = round(time / first * divisor)
        path = gf.descend(risk, start, step_size=first / divisor, steps=steps, save_every=steps)
        errors.append(np.max(np.abs(_flat(path.final) - _flat(flow.final))))
    slope = np.polyfit(-np.log(divisors), np.log(errors), 1)[0]
    assert 0.9 < slope < 1.1
    assert errors[-1] < 5e-4


# `phuong2021inductive`: orthogonally separable data.


def _orthogonally_separable_digits():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    chosen = digits.target < 2
    X, y = digits.data[chosen] / 16, np.where(digits.target[chosen] == 0, 1.0, -1.0)
    X = X - (X[y > 0].mean(axis=0) + X[y < 0].mean(axis=0)) / 2
    while True:
        signed = X * y[:, None]
        failing = np.sum(signed @ signed.T <= 0, axis=1)
        if not failing.any():
            return X, y
        X, y = np.delete(X, np.argmax(failing), axis=0), np.delete(y, np.argmax(failing))


@pytest.mark.slow
def test_each_class_of_digits_gets_its_own_max_margin(rng):
    X, y = _orthogonally_separable_digits()
    assert len(y) > 200
    some = rng.permutation(len(y))[:40]
    X, y = X[some], y[some]
    net = gf.TwoLayer(64, 4, gf.relu)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, y)
    rows = rng.normal(size=(4, 64))
    rows *= 1e-3 / np.linalg.norm(rows, axis=1, keepdims=True)
    start = net.params(rows, 1e-3 * np.array([1.0, -1.0, 1.0, -1.0]))
    path = gf.integrate(risk, start, until=FOREVER)
    assert path.result.ok
    limit = gf.certify(path)
    assert limit.accepted
    svm = {s: certificates.hard_margin_svm(s * X[y == s], np.ones(np.sum(y == s))) for s in (1, -1)}
    W, a = np.asarray(limit.params.inner), np.asarray(limit.params.outer)
    for row, weight in zip(W, a, strict=True):
        sign = int(np.sign(weight))
        np.testing.assert_allclose(
            row / np.linalg.norm(row), sign * svm[sign].direction, atol=1e-10
        )
    # The two share the norm so that both classes have the same margin.
    expected = 0.5 / (1 / svm[1].margin + 1 / svm[-1].margin)
    assert abs(limit.normalised_margin - expected) < 1e-11
    # The flow itself is on its way there: directions differ by a power of 1/ln t.
    assert limit.distance < 1e-3


# `tian2017analytical`: a ReLU student of a ReLU teacher on Gaussian inputs, from w* + noise.


def _tian(directions, vectors):
    """Σ_j E[1(e·x>0) (w_j·x)₊ x] = Σ_j [(π−θ_j) w_j + |w_j| sin θ_j ê] / 2π, for each e."""
    out = np.zeros_like(directions)
    for row, e in enumerate(directions / np.linalg.norm(directions, axis=1, keepdims=True)):
        for w in vectors:
            size = np.linalg.norm(w)
            # By Kahan: no digit is lost for parallel vectors, of which there is one a row.
            theta = 2 * np.arctan2(np.linalg.norm(w - size * e), np.linalg.norm(w + size * e))
            out[row] += ((np.pi - theta) * w + size * np.sin(theta) * e) / (2 * np.pi)
    return out


@pytest.mark.slow
def test_teacher_of_fifty_neurons_is_recovered_from_a_start_half_a_deviation_away():
    d, K, rng = 100, 50, np.random.default_rng(0)
    V = rng.normal(size=(K, d))
    W = V + 0.5 * rng.normal(size=(K, d))
    net = gf.TwoLayer(d, K, gf.relu, outer="fixed")
    teacher = gf.NetworkTeacher(net, net.params(V, np.ones(K)))
    risk = gf.PopulationRisk(net, gf.squared, gf.Gaussian(d), teacher=teacher)
    start = net.params(W, np.ones(K))
    expected = _tian(W, W) - _tian(W, V)
    gradient = np.asarray(risk.gradient(start).inner)
    np.testing.assert_allclose(gradient, expected, atol=1e-12 * np.max(np.abs(expected)))
    # The formula itself, against a sample of the expectation it stands for.
    x = rng.normal(size=(200_000, d))
    terms = ((x @ W[0] > 0) * np.maximum(x @ V[1], 0.0))[:, None] * x
    spread = terms.std(axis=0) / np.sqrt(len(x))
    assert np.all(np.abs(terms.mean(axis=0) - _tian(W[:1], V[1:2])[0]) < 5 * spread)
    path = gf.integrate(risk, start, until=gf.until.time(100.0), rtol=1e-7)
    tight = gf.integrate(risk, start, until=gf.until.time(100.0), rtol=1e-9)
    assert path.result.ok
    assert tight.result.ok
    gap = np.max(np.abs(_flat(path.final) - _flat(tight.final)))
    away = np.linalg.norm(np.asarray(path.final.inner) - V, axis=1)
    assert gap < 1e-6
    # Each student neuron comes back to its own teacher's, of length about ten.
    assert np.linalg.norm(W - V, axis=1).min() > 4
    assert away.max() < 0.05
    loss = path.observe("loss")
    assert np.all(np.diff(loss) < 0)
    assert loss[-1] < 1e-6 * loss[0]
    assert path.defects["energy"] < 1e-6
