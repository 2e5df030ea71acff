"""Observables of a net on its data against naive loops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

import gradflow as gf
from gradflow import observables
from gradflow.networks.parameters import LinearParams, TwoLayerParams

observe = observables.observe
SIZES = [(1, 1, 1), (7, 1, 3), (13, 5, 1), (129, 3, 4)]


def instance(size, scale=1.0, *, bias=False, outer="trained", slope=0.3, seed=0, times=3):
    """A path and its numbers: n data, d inputs, m neurons."""
    n, d, m = size
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, d)), np.where(rng.random(n) < 0.5, -1.0, 1.0)
    net = gf.TwoLayer(d, m, gf.leaky_relu(slope), outer=outer, bias=bias)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, y)
    W, a = scale * rng.normal(size=(times, m, d)), rng.normal(size=(times, m))
    if outer == "trained":
        a = scale * a
    b = scale * rng.normal(size=(times, m)) if bias else None
    return SimpleNamespace(risk=risk, params=TwoLayerParams(W, a, b)), X, y


def hidden(path, t, k, x):
    b = path.params.bias
    products = [float(w) * float(z) for w, z in zip(path.params.inner[t, k], x, strict=True)]
    return sum(products) + (0.0 if b is None else float(b[t, k]))


def output(path, t, x, slope=0.3):
    """f(x), one neuron after the other."""
    total = 0.0
    for k, a in enumerate(path.params.outer[t]):
        h = hidden(path, t, k, x)
        total += float(a) * max(h, slope * h)
    return total


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_margins_against_loops(size, bias):
    path, X, y = instance(size, bias=bias)
    q = np.array([[t * output(path, s, x) for x, t in zip(X, y, strict=True)] for s in range(3)])
    np.testing.assert_allclose(observe(path, "margins"), q, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(observe(path, "margin"), q.min(axis=1), rtol=1e-12, atol=1e-14)
    leaves = [path.params.inner, path.params.outer] + ([path.params.bias] if bias else [])
    square = sum(np.sum(leaf**2, axis=tuple(range(1, leaf.ndim))) for leaf in leaves)
    found = observe(path, "normalised_margin")
    np.testing.assert_allclose(found, q.min(axis=1) / square, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("outer", ["trained", "fixed"])
@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e150, 1e200])
def test_normalised_margin_does_not_depend_on_the_size(outer, scale):
    one, _, _ = instance((7, 3, 5), outer=outer)
    other, _, _ = instance((7, 3, 5), scale, outer=outer)
    expected = observe(one, "normalised_margin")
    np.testing.assert_allclose(observe(other, "normalised_margin"), expected, rtol=1e-13)


def test_normalised_margin_of_deep_and_linear_nets():
    X, y = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([1.0, 1.0])
    linear = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.exponential, X, y)
    path = SimpleNamespace(risk=linear, params=LinearParams(1e-180 * np.array([[3.0, 4.0]])))
    assert observe(path, "normalised_margin")[0] == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e150])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pattern_and_active_data_against_loops(size, scale, bias):
    path, X, _ = instance(size, scale, bias=bias)
    pattern = observe(path, "activation_pattern")
    n, _, m = size
    assert pattern.shape == (3, m, n)
    assert pattern.dtype == np.int8
    expected = [
        [[math.copysign(1, hidden(path, t, k, x)) for x in X] for k in range(m)] for t in range(3)
    ]
    np.testing.assert_array_equal(pattern, expected)
    np.testing.assert_array_equal(
        observe(path, "active_data"), np.sum(np.array(expected) > 0, axis=2)
    )


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e150])
def test_a_pair_on_its_surface_reads_zero(scale):
    X = np.array([[1.0, 1.0], [1e6, 1e6], [1.0, 0.0]])
    net = gf.TwoLayer(2, 3, gf.relu, outer="fixed")
    risk = gf.EmpiricalRisk(net, gf.logistic, X, [1.0, 1.0, -1.0])
    W = scale * np.array([[[1.0, -1.0], [1.0, -1.0 - 1e-14], [-1.0, 1.0 + 1e-9]]])
    path = SimpleNamespace(risk=risk, params=TwoLayerParams(W, np.ones((1, 3))))
    found = observe(path, "activation_pattern")[0]
    np.testing.assert_array_equal(found, [[0, 0, 1], [0, 0, 1], [1, 1, -1]])
    exact = observe(path, "activation_pattern", tolerance=0.0)[0]
    np.testing.assert_array_equal(exact, [[0, 0, 1], [-1, -1, 1], [1, 1, -1]])
    coarse = observe(path, "activation_pattern", tolerance=1e-6)[0]
    np.testing.assert_array_equal(coarse, [[0, 0, 1], [0, 0, 1], [0, 0, -1]])
    np.testing.assert_array_equal(observe(path, "active_data")[0], [1, 1, 2])
    np.testing.assert_array_equal(observe(path, "active_data", tolerance=1e-6)[0], [1, 1, 0])


def test_kkt_residual_of_a_linear_predictor():
    """The max-margin direction of two data of label +1 is the point of their segment nearest 0."""
    X = np.array([[2.0, 0.0], [1.0, 3.0]])
    along = np.dot(X[0], X[0] - X[1]) / np.dot(X[0] - X[1], X[0] - X[1])
    best = X[0] + along * (X[1] - X[0])
    risk = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.logistic, X, [1.0, 1.0])
    path = SimpleNamespace(
        risk=risk, params=LinearParams(np.stack([best, 1e3 * best, X[1], -best]))
    )
    found = observe(path, "kkt_residual")
    assert np.all(found[:2] < 1e-14)
    assert 1e-3 < found[2] < 1.0
    assert found[3] == math.inf
    parts = [observe(path, "kkt_residual", part=part) for part in
             ("stationarity", "complementarity", "feasibility")]  # fmt: skip
    np.testing.assert_array_equal(np.max(parts, axis=0)[:3], found[:3])
    with pytest.raises(ValueError, match=r"part='dual'.*stationarity"):
        observe(path, "kkt_residual", part="dual")


def test_no_rows_are_no_values():
    path, _, _ = instance((7, 2, 3), times=0)
    assert observe(path, "margin").shape == (0,)
    assert observe(path, "margins").shape == (0, 7)
    assert observe(path, "activation_pattern").shape == (0, 3, 7)


def test_refusals():
    path, X, y = instance((7, 2, 3))
    for name in ("margins", "kkt_residual"):
        squared = gf.EmpiricalRisk(path.risk.net, gf.squared, X, 0.5 * y)
        with pytest.raises(ValueError, match="labels -1"):
            observe(SimpleNamespace(risk=squared, params=path.params), name)
    with pytest.raises(ValueError, match="finite data"):
        observe(SimpleNamespace(risk=None, params=path.params), "activation_pattern")
    with pytest.raises(ValueError, match="tolerance=-1"):
        observe(path, "activation_pattern", tolerance=-1.0)
    with pytest.raises(ValueError, match="carries no energy"):
        observe(path, "energy")
    for name, spec in ((name, observables.get(name)) for name in observables.names()):
        assert set(spec.dims[1:]) <= {
            "neuron", "datum", "input", "direction", "sign", "layer_or_neuron",
        }, name  # fmt: skip
