"""Observables against naive NumPy."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import observables
from gradflow.losses import logistic
from gradflow.networks.activations import leaky_relu, tanh
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import DeepLinearParams, LinearParams, TwoLayerParams
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.risks.function import FunctionRisk

RNG = np.random.default_rng(5)
T, M, D, N = 5, 3, 2, 7
X = RNG.normal(size=(N, D))
Y = np.sign(X[:, 0])
NET = TwoLayer(dim=D, width=M, activation=leaky_relu(0.3))
RISK = EmpiricalRisk(NET, logistic, X, Y)
INNER, OUTER = RNG.normal(size=(T, M, D)), RNG.normal(size=(T, M))
PATH = SimpleNamespace(risk=RISK, params=TwoLayerParams(INNER, OUTER, None))


def forward(inner, outer, x):
    z = inner @ x
    return outer @ np.maximum(z, 0.3 * z)


def test_every_observable_is_documented():
    for name in observables.names():
        spec = observables.get(name)
        assert len(spec.doc) > 10
        assert spec.unit
        assert spec.dims[0] == "time"


def test_loss_margin_and_norms_against_loops():
    f = np.array([[forward(INNER[t], OUTER[t], x) for x in X] for t in range(T)])
    loss = np.mean(np.log1p(np.exp(-Y * f)), axis=1)
    np.testing.assert_allclose(observables.observe(PATH, "loss"), loss, rtol=1e-13)
    np.testing.assert_allclose(observables.observe(PATH, "log_loss"), np.log(loss), rtol=1e-12)
    margin = np.min(Y * f, axis=1)
    np.testing.assert_allclose(observables.observe(PATH, "margin"), margin, rtol=1e-13)
    norm = np.sqrt(np.sum(INNER**2, axis=(1, 2)) + np.sum(OUTER**2, axis=1))
    np.testing.assert_allclose(observables.observe(PATH, "norm"), norm, rtol=1e-14)
    np.testing.assert_allclose(
        observables.observe(PATH, "normalised_margin"), margin / norm**2, rtol=1e-13
    )
    sizes = np.linalg.norm(INNER, axis=2)
    np.testing.assert_allclose(observables.observe(PATH, "neuron_norms"), sizes, rtol=1e-14)
    np.testing.assert_allclose(
        observables.observe(PATH, "variation_norm"), np.sum(np.abs(OUTER) * sizes, 1), rtol=1e-14
    )
    np.testing.assert_allclose(
        observables.observe(PATH, "balancedness"), OUTER**2 - sizes**2, rtol=1e-13
    )


def test_gradient_norm_against_finite_differences():
    path = SimpleNamespace(risk=RISK, params=TwoLayerParams(INNER[:1], OUTER[:1], None))
    h, total = 1e-6, 0.0
    flat = np.concatenate([INNER[0].ravel(), OUTER[0]])

    def value(theta):
        inner, outer = theta[: M * D].reshape(M, D), theta[M * D :]
        return float(RISK(TwoLayerParams(jnp.asarray(inner), jnp.asarray(outer), None)))

    for k in range(flat.size):
        step = np.zeros(flat.size)
        step[k] = h
        total += ((value(flat + step) - value(flat - step)) / (2 * h)) ** 2
    measured = observables.observe(path, "gradient_norm")[0]
    assert measured == pytest.approx(np.sqrt(total), rel=1e-7)


@pytest.mark.parametrize("angle", [1e-150, 1e-9, 0.3, 1.5, 3.0, np.pi - 1e-9])
def test_angles_to_the_own_target(angle):
    v = np.array([0.0, 1.0])
    teacher = SimpleNamespace(direction=v)
    w = 2.0 * np.array([np.sin(angle), np.cos(angle)])
    path = SimpleNamespace(
        risk=SimpleNamespace(teacher=teacher),
        params=TwoLayerParams(np.stack([w, -w])[None], np.array([[1.0, -1.0]]), None),
    )
    lam = observables.observe(path, "log_tan_half_angle")
    expected = np.log(np.tan(angle / 2))
    np.testing.assert_allclose(lam, [[expected, expected]], rtol=1e-7 if angle > 3.1 else 1e-12)
    np.testing.assert_allclose(observables.observe(path, "angle")[0, 0], angle, rtol=1e-12)
    cosine = observables.observe(path, "cos_angle")[0, 0]
    np.testing.assert_allclose(cosine, np.cos(angle), rtol=1e-12, atol=1e-15)


def test_linear_nets_are_one_neuron():
    weight = RNG.normal(size=(T, D))
    linear = SimpleNamespace(risk=None, params=LinearParams(weight))
    np.testing.assert_allclose(
        observables.observe(linear, "neuron_norms")[:, 0], np.linalg.norm(weight, axis=1)
    )
    layers = (RNG.normal(size=(T, 3, D)), RNG.normal(size=(T, 1, 3)))
    deep = SimpleNamespace(
        risk=SimpleNamespace(net=DeepLinear(dim=D, depth=2, width=3)),
        params=DeepLinearParams(layers),
    )
    product = np.array([layers[1][t] @ layers[0][t] for t in range(T)])[:, 0]
    np.testing.assert_allclose(
        observables.observe(deep, "variation_norm"), np.linalg.norm(product, axis=1), rtol=1e-13
    )


def test_chart_values_come_first():
    path = SimpleNamespace(risk=RISK, params=PATH.params, exact={"norm": np.arange(5.0)})
    np.testing.assert_array_equal(observables.observe(path, "norm"), np.arange(5.0))


def test_small_norms_do_not_underflow():
    path = SimpleNamespace(risk=None, params=LinearParams(np.array([[3e-200, 4e-200]])))
    assert observables.observe(path, "norm")[0] == pytest.approx(5e-200, rel=1e-14)


def test_refusals():
    with pytest.raises(ValueError, match="log_loss"):
        observables.observe(PATH, "los")
    function = SimpleNamespace(
        risk=FunctionRisk(lambda p: jnp.sum(p["x"] ** 2)), params={"x": np.ones((2, 3))}
    )
    for name, word in [
        ("margin", "finite data"),
        ("normalised_margin", "finite data"),
        ("balancedness", "conserves"),
        ("neuron_norms", "neurons"),
        ("energy_defect", "energy"),
    ]:
        with pytest.raises(ValueError, match=word):
            observables.observe(function, name)
    with pytest.raises(ValueError, match="teacher"):
        observables.observe(PATH, "log_tan_half_angle")
    smooth = TwoLayer(dim=D, width=M, activation=tanh)
    path = SimpleNamespace(risk=EmpiricalRisk(smooth, logistic, X, Y), params=PATH.params)
    with pytest.raises(ValueError, match="homogeneous"):
        observables.observe(path, "normalised_margin")


def test_registering_twice_is_refused():
    with pytest.raises(ValueError, match="norm"):
        observables.observable("norm", long_name="again")(lambda path: path)


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 33])
def test_rows_are_independent_of_their_number(rows):
    params = TwoLayerParams(
        np.repeat(INNER[:1], rows, axis=0), np.repeat(OUTER[:1], rows, axis=0), None
    )
    values = observables.observe(SimpleNamespace(risk=RISK, params=params), "loss")
    assert values.shape == (rows,)
    np.testing.assert_array_equal(values, observables.observe(PATH, "loss")[0])
