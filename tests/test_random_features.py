"""The last layer over fixed features, and the data sets on which bias-free nets fail."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.registry import build


@pytest.fixture
def net(key):
    return gf.RandomFeatures.draw(key, 3, 5, gf.shifted_relu(0.3))


def test_value_agrees_with_a_loop_and_with_two_layers(net, key, rng):
    params = net.init(key, 1.0)
    X = rng.normal(size=(7, 3))
    A = np.array([[max(float(w @ x) - 0.3, 0.0) for w in np.asarray(net.inner)] for x in X])
    np.testing.assert_allclose(net.features(X), A, rtol=1e-14)
    np.testing.assert_allclose(net(params, X), A @ np.asarray(params.weight), rtol=1e-13)
    assert net(params, jnp.asarray(X[0])).shape == ()
    wide = gf.TwoLayer(3, 5, net.activation)
    same = wide(wide.params(np.asarray(net.inner), np.asarray(params.weight)), X)
    np.testing.assert_allclose(net(params, X), same, rtol=1e-13)


def test_only_the_last_layer_moves(net, key, rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=4)
    risk = gf.EmpiricalRisk(net, gf.squared, X, y)
    gradient = risk.gradient(net.init(key, 1.0))
    assert [leaf.shape for leaf in jax.tree.leaves(gradient)] == [(5,)]
    params = net.init(key, 1.0)
    A, v = np.asarray(net.features(X)), np.asarray(params.weight)
    np.testing.assert_allclose(risk.gradient(params).weight, A.T @ (A @ v - y) / 4, rtol=1e-13)


def test_draws(key):
    net = gf.RandomFeatures.draw(key, 3, 5, gf.relu, "sphere")
    np.testing.assert_allclose(np.linalg.norm(net.inner, axis=1), 1.0, rtol=1e-15)
    again = gf.RandomFeatures.draw(key, 3, 5, gf.relu, "sphere")
    assert np.array_equal(net.inner, again.inner)
    assert net.degree == 1
    assert net.balancedness(net.init(key, 1.0)) is None
    assert net.params(np.zeros(5)).weight.shape == (5,)
    norm = np.linalg.norm(gf.RandomFeatures.draw(key, 2, 4000, gf.relu).init(key, 0.1).weight)
    assert norm == pytest.approx(0.1, rel=0.1)


def test_descriptions_and_files(net, key, rng, tmp_path):
    again = build(json.loads(json.dumps(net.describe())))
    assert again.describe() == net.describe()
    assert again.name == net.name == "RandomFeatures(dim=3, width=5, shifted_relu(0.3))"
    risk = gf.EmpiricalRisk(net, gf.squared, rng.normal(size=(4, 3)), rng.normal(size=4))
    assert build(json.loads(json.dumps(risk.describe()))).name == risk.name
    path = gf.integrate(risk, net.params(np.zeros(5)), until=gf.until.time(1.0))
    path.save(tmp_path / "path.nc")
    loaded = gf.load(tmp_path / "path.nc")
    np.testing.assert_array_equal(loaded.params.weight, path.params.weight)
    np.testing.assert_array_equal(loaded.risk.net.inner, net.inner)


def test_logistic_loss_and_descent(net, key):
    X, y = np.eye(3), np.array([1.0, -1.0, 1.0])
    risk = gf.EmpiricalRisk(net, gf.logistic, X, y)
    path = gf.integrate(risk, net.init(key, 0.1), until=gf.until.time(5.0), throw=True)
    assert path.observe("loss")[-1] < path.observe("loss")[0]
    with pytest.raises(ValueError, match=r"activation_pattern.*no trained neurons"):
        path.observe("activation_pattern")
    done = gf.descend(risk, net.init(key, 0.1), step_size=0.1, steps=10)
    assert float(risk(done.final)) < float(risk(net.init(key, 0.1)))


def test_bad_networks(key):
    with pytest.raises(ValueError, match=r"(?s)inner=.*row 1 is zero"):
        gf.RandomFeatures([[1.0, 0.0], [0.0, 0.0]], gf.relu)
    with pytest.raises(ValueError, match=r"inner=.*no weights"):
        gf.RandomFeatures(np.zeros((0, 2)), gf.relu)
    with pytest.raises(ValueError, match="activation="):
        gf.RandomFeatures(np.eye(2), "relu")
    with pytest.raises(ValueError, match="law="):
        gf.RandomFeatures.draw(key, 2, 3, gf.relu, "uniform")
    net = gf.RandomFeatures(np.eye(2), gf.relu)
    with pytest.raises(ValueError, match=r"weight=.*shape"):
        net.params(np.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        net.params([0.0, np.nan])
    with pytest.raises(ValueError, match=r"(?s)X=.*row 0 is zero"):
        gf.EmpiricalRisk(net, gf.squared, np.zeros((1, 2)), np.ones(1))
    shifted = gf.RandomFeatures(np.eye(2), gf.elu)
    assert gf.EmpiricalRisk(shifted, gf.squared, np.zeros((1, 2)), np.ones(1)).n == 1


def test_hexagon():
    X, y = gf.datasets.hexagon()
    angle = np.arange(6) * np.pi / 3
    np.testing.assert_allclose(X, np.stack([np.cos(angle), np.sin(angle)], axis=1), atol=1e-15)
    assert np.array_equal(X[3:], -X[:3])
    assert np.array_equal(y, (-1.0) ** np.arange(6))


def test_antipodal_pairs():
    X, y = gf.datasets.antipodal_pairs(4, 3, seed=1)
    assert X.shape == (8, 3)
    assert np.array_equal(X[4:], -X[:4])
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1.0, rtol=1e-15)
    assert set(y) <= {-1.0, 1.0}
    assert np.array_equal(X, gf.datasets.antipodal_pairs(4, 3, seed=1).X)
    with pytest.raises(ValueError, match="pairs="):
        gf.datasets.antipodal_pairs(0, 3, seed=1)
    with pytest.raises(ValueError, match="dim="):
        gf.datasets.antipodal_pairs(2, 1, seed=1)
    with pytest.raises(ValueError, match="seed="):
        gf.datasets.antipodal_pairs(2, 2, seed=-1)
