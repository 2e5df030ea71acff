"""The empirical risk against Python loops, under underflow, at kinks, and at the door."""

from __future__ import annotations

import json
import math

import equinox as eqx
import jax
import numpy as np
import pytest

from gradflow.models.abstract_network import AbstractNetwork
from gradflow.models.activations import leaky_relu, relu, tanh
from gradflow.models.deep_linear import DeepLinear
from gradflow.models.losses import AbstractLoss, exponential, hinge, logistic, squared
from gradflow.models.networks import LinearPredictor, TwoLayer
from gradflow.risks.empirical import EmpiricalRisk

LOSSES = [logistic, exponential, hinge, squared]
NETS: list[AbstractNetwork] = [
    LinearPredictor(3),
    TwoLayer(3, 5, leaky_relu(0.3), bias=True),
    TwoLayer(3, 2, relu, outer="fixed"),
    DeepLinear(3, 3, width=2),
]


def data(n: int, dim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, dim)), np.where(rng.random(n) < 0.5, -1.0, 1.0)


def scalar_loss(loss: AbstractLoss, f: float, y: float) -> float:
    z = y * f
    if loss is squared:
        return 0.5 * (f - y) ** 2
    if loss is logistic:
        return math.log1p(math.exp(-z))
    return math.exp(-z) if loss is exponential else max(0.0, 1.0 - z)


@eqx.filter_jit
def predict(net: AbstractNetwork, params: object, x: np.ndarray) -> jax.Array:
    return net(params, x)


def naive(risk: EmpiricalRisk, params: object) -> float:
    total = 0.0
    for x, y in zip(np.asarray(risk.X), np.asarray(risk.y), strict=True):
        total += scalar_loss(risk.loss, float(predict(risk.net, params, x)), float(y))
    return total / len(risk.y) if risk.reduction == "mean" else total


@pytest.mark.parametrize("n", [1, 7, 13])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_value_log_and_gradient_agree_with_loops(
    loss: AbstractLoss, n: int, key: jax.Array
) -> None:
    net = NETS[n % len(NETS)]  # 1, 7, 13: with bias, deep linear, with bias
    reduction = "mean" if (n + LOSSES.index(loss)) % 2 else "sum"
    risk = EmpiricalRisk(net, loss, *data(n), reduction=reduction)
    params = net.init(key, 0.7)
    value = naive(risk, params)
    assert float(risk(params)) == pytest.approx(value, rel=1e-13)
    assert float(risk.log(params)) == pytest.approx(math.log(value), rel=1e-13, abs=1e-13)
    # Central differences of the loop, along one direction.
    gradient, log_gradient = risk.gradient(params), risk.log_gradient(params)
    rng = np.random.default_rng(0)
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, params))
    steps = [rng.normal(size=leaf.shape) for leaf in leaves]

    def at(h: float) -> float:
        moved = [p + h * s for p, s in zip(leaves, steps, strict=True)]
        return naive(risk, structure.unflatten(moved))

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    for found, expected in ((gradient, slope), (log_gradient, slope / value)):
        pairs = zip(jax.tree.leaves(found), steps, strict=True)
        along = sum(float(np.sum(np.asarray(g) * s)) for g, s in pairs)
        assert along == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_every_net_and_frozen_entries(net: AbstractNetwork, key: jax.Array) -> None:
    risk = EmpiricalRisk(net, logistic, *data(13))
    params = net.init(key, 0.7)
    assert float(risk(params)) == pytest.approx(naive(risk, params), rel=1e-13)
    gradient = risk.gradient(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert eqx.tree_equal(net.freeze(gradient), gradient)
    if isinstance(net, TwoLayer) and net.outer == "fixed":
        assert not np.any(np.asarray(gradient.outer))
        assert not np.any(np.asarray(risk.log_gradient(params).outer))


@pytest.mark.parametrize("loss", [logistic, exponential], ids=lambda loss: loss.name)
def test_log_is_exact_where_every_loss_underflows(loss: AbstractLoss) -> None:
    """Margins 1e4, 2e4, 3e4: ln L = −1e4 − ln 3 (+ e^{−1e4}), ∇ ln L = −x_1."""
    net = LinearPredictor(2)
    X, y = np.array([[1.0, 0.0], [-2.0, 0.0], [3.0, 5.0]]), np.array([1.0, -1.0, 1.0])
    risk = EmpiricalRisk(net, loss, X, y)
    params = net.params([1e4, 0.0])
    assert float(risk(params)) == 0.0
    assert float(risk.log(params)) == pytest.approx(-1e4 - math.log(3.0), rel=1e-15)
    assert np.array_equal(risk.log_gradient(params).weight, [-1.0, 0.0])
    summed = EmpiricalRisk(net, loss, X, y, reduction="sum")
    assert float(summed.log(params)) == -1e4
    # The other end: misclassified by far, where the exponential overflows.
    wrong = net.params([-1e4, 0.0])
    expected = 3e4 - math.log(3.0) if loss is exponential else math.log(2e4)
    assert float(risk.log(wrong)) == pytest.approx(expected, rel=1e-14)


def test_hinge_log_is_minus_infinity_when_fitted() -> None:
    net = LinearPredictor(1)
    risk = EmpiricalRisk(net, hinge, [[1.0], [2.0]], [1.0, 1.0])
    assert float(risk.log(net.params([2.0]))) == -math.inf
    assert float(risk.log(net.params([0.75]))) == pytest.approx(math.log(0.125), rel=1e-15)
    assert np.array_equal(risk.log_gradient(net.params([0.75])).weight, [-4.0])
    # Exactly on the kink z = 1 of the loss the stated derivative is 0.
    assert np.array_equal(risk.gradient(net.params([1.0])).weight, [0.0])


def test_gradient_at_a_kink_of_the_activation() -> None:
    net = TwoLayer(2, 1, leaky_relu(0.25))
    risk = EmpiricalRisk(net, squared, [[0.0, 4.0]], [1.0])
    gradient = risk.gradient(net.params([[1.0, 0.0]], [2.0]))
    assert np.array_equal(gradient.inner, [[0.0, (0.0 - 1.0) * 2.0 * 0.25 * 4.0]])


def test_margins_and_sample(key: jax.Array) -> None:
    net = TwoLayer(3, 4, tanh)
    risk, params = EmpiricalRisk(net, logistic, *data(7)), net.init(key, 1.0)
    assert np.array_equal(risk.margins(params), risk.y * net(params, risk.X))
    X, y = risk.sample(key, 5000)
    rows = {(*map(float, x), float(t)) for x, t in zip(risk.X, risk.y, strict=True)}
    drawn = [(*map(float, x), float(t)) for x, t in zip(np.asarray(X), np.asarray(y), strict=True)]
    assert set(drawn) == rows
    assert max(abs(drawn.count(row) - 5000 / 7) for row in rows) < 4 * math.sqrt(5000 / 7)
    with pytest.raises(ValueError, match="squared"):
        EmpiricalRisk(net, squared, *data(7)).margins(params)


def test_parameters_may_be_given_as_a_dict_or_a_vector() -> None:
    risk = EmpiricalRisk(LinearPredictor(3), logistic, *data(7))
    weight = np.array([0.1, -0.2, 0.3])
    value = float(risk(risk.net.params(weight)))
    assert float(risk(weight)) == float(risk({"weight": weight})) == value
    assert float(risk(np.zeros(3))) == pytest.approx(math.log(2.0), rel=1e-15)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_description_round_trip(net: AbstractNetwork, key: jax.Array) -> None:
    risk = EmpiricalRisk(net, exponential, *data(7), reduction="sum")
    again = EmpiricalRisk.from_description(json.loads(json.dumps(risk.describe())))
    assert eqx.tree_equal(again, risk)
    params = net.init(key, 1.0)
    assert float(again(params)) == float(risk(params))
    assert "n=7" in risk.name


NET = LinearPredictor(2)
X2 = np.array([[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("net", logistic, X2, [1, -1]), "net='net'"),
        ((NET, "logistic", X2, [1, -1]), r"loss='logistic'.*gf\.logistic"),
        ((NET, logistic, X2[0], [1]), r"X=.*shape \(2,\)"),
        ((NET, logistic, np.ones((2, 3)), [1, -1]), r"X=.*shape \(2, 3\).*2"),
        ((NET, logistic, np.zeros((0, 2)), []), "X=.*no data"),
        ((NET, logistic, X2, [1]), "y=.*length 1, but X has 2 rows"),
        ((NET, logistic, X2, [0, 1]), r"y=.*-1 and \+1"),
        ((NET, hinge, X2, [0.5, 1]), r"y=.*-1 and \+1"),
        ((NET, squared, X2, [0.5, math.nan]), "y=.*NaN"),
        ((NET, logistic, np.full((2, 2), math.inf), [1, -1]), "X=.*NaN or infinity"),
        ((NET, logistic, X2.astype(np.float32), [1, -1]), "X=.*float32"),
        ((NET, logistic, X2, [[1], [-1]]), r"y=.*shape \(2, 1\)"),
        ((NET, logistic, X2, [1, -1], "average"), "reduction='average'.*mean, sum"),
    ],
)
def test_bad_input(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        EmpiricalRisk(*arguments)
