"""Arrangements of any piecewise linear activation, loss and offset: values and gradients against
loops."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import gradflow as gf
from gradflow.cells.arrangement import Arrangement
from gradflow.networks.activations.pieces import Pieces

ACTIVATIONS = {
    "relu": gf.relu,
    "leaky 2": gf.leaky_relu(2.0),
    "leaky -0.5": gf.leaky_relu(-0.5),
    "|z|": gf.absolute,
    "shifted": gf.shifted_relu(0.3),
    "hard tanh": gf.hard_tanh,
    "four": gf.piecewise_linear([-0.5, 0.25, 2.0], [0.3, -1.5, 0.0, 4.0], 0.7),
    "redundant": gf.piecewise_linear([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]),
    "affine": gf.piecewise_linear([], [2.0], 1.0),
}


def instance(phi: str, shape: tuple[int, int, int], **options: object) -> tuple:
    n, d, m = shape
    rng = np.random.default_rng(n + d)
    net = gf.TwoLayer(d, m, ACTIVATIONS[phi], **options)
    risk = gf.EmpiricalRisk(
        net, gf.squared, rng.normal(size=(n, d)), rng.normal(size=n), weights=rng.uniform(1, 2, n)
    )
    return risk, net.init(jax.random.key(n), 0.9)


def loop(at: Arrangement, W: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f and ∂L/∂(W, a) of the squared loss, number by number from the fields alone."""
    n, m = len(at.y), len(a)
    f, piece = np.zeros(n), np.zeros((m, n), int)
    for i in range(n):
        for k in range(m):
            z = float(np.dot(W[k], at.inputs[i]))
            piece[k, i] = sum(z > b for b in at.breakpoints)
            f[i] += a[k] * (at.slopes[piece[k, i]] * z + at.intercepts[piece[k, i]])
    pull = np.exp(at.log_weights) * (f - at.y)
    dW, da = np.zeros_like(W), np.zeros_like(a)
    for i in range(n):
        for k in range(m):
            p = piece[k, i]
            dW[k] += pull[i] * a[k] * at.slopes[p] * at.inputs[i]
            da[k] += pull[i] * (at.slopes[p] * np.dot(W[k], at.inputs[i]) + at.intercepts[p])
    return f, np.concatenate([dW, da[:, None]], axis=1)


@pytest.mark.parametrize("phi", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "options"), [
    ((1, 1, 1), {}),
    ((7, 3, 5), {"bias": True, "scaling": "ntk"}),
    ((9, 2, 4), {"outer": "fixed", "scaling": "mean-field"}),
], ids=str)  # fmt: skip
def test_the_fields_are_the_net(phi, options, shape) -> None:
    risk, params = instance(phi, shape, **options)
    at = risk.arrangement
    W, a = at.split(params)
    f, gradient = loop(at, W, a)
    np.testing.assert_allclose(at.predictions(W, a), f, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(risk.net(params, risk.X), f, rtol=1e-12, atol=1e-13)
    expected = risk.gradient(params)
    inner = expected.inner
    if at.layout == "bias":
        inner = np.concatenate([inner, expected.bias[:, None]], axis=1)
    np.testing.assert_allclose(gradient[:, :-1], inner, rtol=1e-11, atol=1e-12)
    if at.trained:
        np.testing.assert_allclose(gradient[:, -1], expected.outer, rtol=1e-11, atol=1e-12)


CENTRAL = {"relu", "leaky 2", "leaky -0.5", "|z|", "redundant"}


@pytest.mark.parametrize("phi", ACTIVATIONS)
def test_which_arrangements_are_central(phi) -> None:
    at = instance(phi, (5, 2, 3))[0].arrangement
    assert at.central == (phi in CENTRAL)
    assert at.activation_kinked == at.kinked == (phi != "affine")
    assert not at.loss_kinked


@pytest.mark.parametrize("net", [gf.LinearPredictor(3), gf.TwoLayer(3, 4, gf.relu)], ids=str)
def test_the_hinge_has_kinks_of_its_own(net, rng) -> None:
    X = rng.normal(size=(6, 3))
    at = gf.EmpiricalRisk(net, gf.hinge, X, np.sign(X[:, 0])).arrangement
    assert at.kinked
    assert at.loss_kinked
    assert not at.central
    assert at.activation_kinked == (net.name != "LinearPredictor(dim=3)")


def test_pieces_drop_breakpoints_without_a_jump() -> None:
    pieces = Pieces.of([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(pieces.breakpoints, [0.0])
    np.testing.assert_array_equal(pieces.slopes, [0.0, 1.0])
    np.testing.assert_array_equal(pieces(np.array([-1.0, 0.0, 2.0])), [0.0, 0.0, 2.0])
    assert pieces.central


@pytest.mark.parametrize("phi", ["|z|", "leaky -0.5"])
def test_a_kink_slid_on_is_certified_for_slopes_outside_0_1(phi) -> None:
    """f = −φ(w_1) ≤ 0 at x_1 = (1, 0), whose target is positive: w_1 = 0 is best, at slope 0."""
    net = gf.TwoLayer(2, 1, ACTIVATIONS[phi], outer="fixed")
    risk = gf.EmpiricalRisk(net, gf.squared, np.eye(2), np.array([0.4, -0.7]))
    found = gf.certify(risk, net.params(np.array([[0.0, 0.7]]), np.array([-1.0])))
    assert found.accepted, found.reason
    (slide,) = found.sliding
    assert slide.slope == pytest.approx(0.0, abs=1e-12)
    assert float(risk(found.params)) == pytest.approx(0.5 * 0.4**2 / 2, rel=1e-14)


def test_the_largest_margin_of_absolute_values() -> None:
    """|z| separates x from −x of one label: γ* = ½ max_u min_i |u·x_i| for labels +1, here at
    u = (1, 1)/√2 with margin 1/(2√2)."""
    from gradflow.certificates import global_max_margin

    X = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    risk = gf.EmpiricalRisk(gf.TwoLayer(2, 3, gf.absolute), gf.logistic, X, np.ones(3))
    found = global_max_margin(risk)
    assert found.margin == pytest.approx(1 / (2 * np.sqrt(2)), rel=1e-9)
    assert found.upper == pytest.approx(found.margin, rel=1e-8)
