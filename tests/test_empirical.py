"""The empirical risk against Python loops, under underflow, at kinks, and at the door."""

from __future__ import annotations

import json
import math

import equinox as eqx
import jax
import numpy as np
import pytest

from gradflow.losses import AbstractLoss, exponential, hinge, logistic, squared
from gradflow.networks.abstract import AbstractNetwork
from gradflow.networks.activations import leaky_relu, relu, tanh
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.networks import LinearPredictor, TwoLayer
from gradflow.registry import build
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
    again = build(json.loads(json.dumps(risk.describe())))
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


# ---------------------------------------------------------------------------------------------
# Sample weights

#: (n, d, m)
SHAPES = [(1, 1, 1), (7, 3, 2), (13, 5, 1), (129, 2, 5)]


def weighted(
    shape: tuple[int, int, int], loss: AbstractLoss, reduction: str, outer: str, bias: bool
) -> tuple[EmpiricalRisk, object]:
    n, d, m = shape
    rng = np.random.default_rng(n + 1000 * d)
    net = TwoLayer(d, m, leaky_relu(0.25), outer=outer, bias=bias)
    X, y = data(n, d)
    targets = y if loss is not squared else rng.normal(size=n)
    risk = EmpiricalRisk(net, loss, X, targets, reduction, weights=rng.uniform(0.1, 5.0, size=n))
    return risk, net.init(jax.random.key(n), 0.8)


def loop(risk: EmpiricalRisk, params: object) -> tuple[float, list[np.ndarray]]:
    """Value and gradient (inner, outer, bias) of a weighted two-layer risk, number by number."""
    W, a = np.asarray(params.inner), np.asarray(params.outer)
    b = np.zeros(len(a)) if params.bias is None else np.asarray(params.bias)
    alpha, value = risk.net.activation.slope, 0.0
    dW, da, db = np.zeros_like(W), np.zeros_like(a), np.zeros_like(b)
    omega = [float(w) for w in np.asarray(risk.weights)]
    scale = 1.0 / sum(omega) if risk.reduction == "mean" else 1.0
    for x, y, w in zip(np.asarray(risk.X), np.asarray(risk.y), omega, strict=True):
        h = [sum(float(p) * float(q) for p, q in zip(W[k], x, strict=True)) + float(b[k])
             for k in range(len(a))]  # fmt: skip
        f = sum(float(a[k]) * max(h[k], alpha * h[k]) for k in range(len(a)))
        value += scale * w * scalar_loss(risk.loss, f, float(y))
        z = float(y) * f
        if risk.loss is squared:
            pull = f - float(y)
        elif risk.loss is logistic:
            pull = -float(y) / (1.0 + math.exp(z))
        else:
            pull = -float(y) * math.exp(-z)
        for k in range(len(a)):
            slope = 1.0 if h[k] > 0 else alpha
            da[k] += scale * w * pull * slope * h[k]
            dW[k] += scale * w * pull * float(a[k]) * slope * x
            db[k] += scale * w * pull * float(a[k]) * slope
    return value, [dW, da * (risk.net.outer == "trained"), db]


@pytest.mark.parametrize("loss", [logistic, exponential, squared], ids=lambda loss: loss.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weighted_value_log_and_gradient_agree_with_loops(
    shape: tuple[int, int, int], loss: AbstractLoss
) -> None:
    # Reductions and outer modes, with and without bias, spread over the sizes.
    case = SHAPES.index(shape) + [logistic, exponential, squared].index(loss)
    outer, bias = ("trained", "fixed")[case % 2], case % 4 < 2
    reduction = ("sum", "mean", "mean", "sum")[case % 4]
    risk, params = weighted(shape, loss, reduction, outer, bias)
    value, parts = loop(risk, params)
    assert float(risk(params)) == pytest.approx(value, rel=1e-12)
    assert float(risk.log(params)) == pytest.approx(math.log(value), rel=1e-12, abs=1e-12)
    top = max(np.max(np.abs(part)) for part in parts)
    for tree, scale in ((risk.gradient(params), 1.0), (risk.log_gradient(params), value)):
        for name, part in zip(("inner", "outer", "bias"), parts, strict=True):
            if tree[name] is not None:
                found = scale * np.asarray(tree[name])
                np.testing.assert_allclose(found, part, rtol=1e-11, atol=1e-12 * top)


@pytest.mark.parametrize(("net", "reduction"), [(NETS[0], "mean"), (NETS[1], "sum")])
def test_integer_weights_repeat_rows(net: AbstractNetwork, reduction: str, key: jax.Array) -> None:
    X, y = data(7)
    counts = np.array([1, 3, 2, 1, 5, 1, 4])
    risk = EmpiricalRisk(net, logistic, X, y, reduction, weights=counts)
    repeated = EmpiricalRisk(
        net, logistic, np.repeat(X, counts, axis=0), np.repeat(y, counts), reduction
    )
    params = net.init(key, 0.7)
    for read in ("__call__", "log", "gradient", "log_gradient"):
        one, other = (jax.tree.leaves(getattr(r, read)(params)) for r in (risk, repeated))
        for p, q in zip(one, other, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-13, atol=1e-15)


def test_weights_of_one_and_their_scale() -> None:
    net, (X, y) = LinearPredictor(3), data(13)
    params = net.params([0.3, -0.2, 0.5])
    plain = EmpiricalRisk(net, exponential, X, y)
    weights = np.random.default_rng(0).uniform(1.0, 2.0, size=13)
    for scale in (1e-150, 1.0, 1e150):
        ones = EmpiricalRisk(net, exponential, X, y, weights=np.full(13, scale))
        assert float(ones.log(params)) == pytest.approx(float(plain.log(params)), rel=1e-14)
        one, other = (
            EmpiricalRisk(net, exponential, X, y, weights=s * weights) for s in (1.0, scale)
        )
        assert float(other(params)) == pytest.approx(float(one(params)), rel=1e-14)


@pytest.mark.parametrize("loss", [logistic, exponential], ids=lambda loss: loss.name)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weighted_log_is_exact_at_losses_of_e_to_minus_ten_million(
    loss: AbstractLoss, reduction: str
) -> None:
    """Margins 1e7, 1e7 and 2e7 of weights 2, 3, 5: ln Σ = −1e7 + ln 5, and half of it each way."""
    X = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    net = TwoLayer(2, 1, relu)
    risk = EmpiricalRisk(net, loss, X, [1.0, 1.0, 1.0], reduction, weights=[2.0, 3.0, 5.0])
    params = net.params([[1e4, 0.0]], [1e3])
    assert float(risk(params)) == 0.0
    expected = -1e7 + math.log(5.0) - (math.log(10.0) if reduction == "mean" else 0.0)
    assert float(risk.log(params)) == pytest.approx(expected, rel=1e-15)
    gradient = risk.log_gradient(params)
    np.testing.assert_allclose(gradient.inner, [[-1e3, -0.6e3]], rtol=1e-8)
    np.testing.assert_allclose(gradient.outer, [-1e4], rtol=1e-8)


@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 1e-3, 7.0, 1.0, 1.0, 3.0])])
def test_weights_survive_the_description(weights: np.ndarray | None, key: jax.Array) -> None:
    net = NETS[1]
    risk = EmpiricalRisk(net, squared, *data(7), reduction="sum", weights=weights)
    description = json.loads(json.dumps(risk.describe()))
    again = build(description)
    assert eqx.tree_equal(again, risk)
    params = net.init(key, 1.0)
    assert float(again(params)) == float(risk(params))
    # Descriptions written before there were weights are read as before.
    if weights is None:
        del description["weights"]
        assert eqx.tree_equal(build(description), risk)


def test_a_weighted_sample_follows_the_weights(key: jax.Array) -> None:
    weights = np.array([1.0, 2.0, 7.0])
    risk = EmpiricalRisk(LinearPredictor(1), squared, [[1.0], [2.0], [3.0]], [4.0, 5.0, 6.0],
                         weights=weights)  # fmt: skip
    X, y = map(np.asarray, risk.sample(key, 20000))
    np.testing.assert_array_equal(y, X[:, 0] + 3.0)
    for value, p in zip((1.0, 2.0, 3.0), weights / 10, strict=True):
        assert np.mean(value == X) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 20000))


def test_zero_rows() -> None:
    """Refused where the net is 0 on them for good, welcome where a bias or φ(0) ≠ 0 sees them."""
    X = np.array([[1.0, 0.0], [0.0, 0.0]])
    for net in (LinearPredictor(2), TwoLayer(2, 3, relu), DeepLinear(2, 2, width=2)):
        with pytest.raises(ValueError, match=r"(?s)X=.*row 1 is zero.*bias=True"):
            EmpiricalRisk(net, logistic, X, [1, -1])
    net = TwoLayer(2, 1, relu, bias=True)
    risk = EmpiricalRisk(net, exponential, X, [1, -1])
    params = net.params([[1.0, 0.0]], [1.0], [2.0])
    assert float(risk(params)) == pytest.approx((math.exp(-3.0) + math.exp(2.0)) / 2, rel=1e-15)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0], r"weights=.*shape \(1,\).*\(2,\)"),
        ([1.0, 0.0], r"weights=.*<= 0.*drop"),
        ([1.0, -1.0], r"weights=.*<= 0"),
        ([1.0, math.nan], "weights=.*NaN"),
        ([1.0, math.inf], "weights=.*infinity"),
        ("uniform", "weights='?uniform"),
        (2.0, r"weights=.*shape \(\)"),
    ],
)
def test_bad_weights(weights: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        EmpiricalRisk(NET, logistic, X2, [1, -1], weights=weights)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_a_risk_is_a_function_that_jax_compiles(net: AbstractNetwork, key: jax.Array) -> None:
    risk = EmpiricalRisk(net, logistic, *data(7))
    params = net.init(key, 0.7)
    compiled = jax.jit(risk)
    assert float(compiled(params)) == pytest.approx(float(risk(params)), rel=1e-15)
    slope = net.freeze(jax.jit(jax.grad(risk))(params))
    for found, expected in zip(
        jax.tree.leaves(slope), jax.tree.leaves(risk.gradient(params)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-16)
    # Other data of the same shapes are another function.
    X, y = data(7)
    other = EmpiricalRisk(net, logistic, 2 * X, y)
    assert float(jax.jit(other)(params)) == pytest.approx(float(other(params)), rel=1e-15)
    same = EmpiricalRisk(net, logistic, X, y)
    assert hash(same) == hash(risk)
    assert same == risk
    assert other != risk


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.ones((4, 2), np.float32), np.ones(4), r"^X=.*float32.*np\.asarray\(X, np\.float64\)"),
        (np.ones((4, 2)), np.ones((4, 1)), r"^y=.*np\.ravel\(y\)"),
        (np.ones((2, 4)), np.ones(4), r"^X=.*np\.transpose\(X\)"),
        (np.ones(2), np.ones(1), r"^X=.*np\.reshape\(X, \(1, -1\)\)"),
        (np.ones((4, 2), bool), np.ones(4), r"^X=.*bool.*np\.asarray\(X, np\.float64\)"),
        (np.full((5000, 2), np.nan), np.ones(5000), r"^X=array of shape \(5000, 2\).*at \[0, 0\]"),
    ],
    ids=["float32", "column", "transposed", "one point", "bool", "large"],
)
def test_inputs_of_another_form_are_told_the_line_that_makes_them(X, y, words) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        EmpiricalRisk(LinearPredictor(2), squared, X, y)
    assert len(str(caught.value)) < 300


def test_integers_are_converted_exactly() -> None:
    X, y = np.arange(8).reshape(4, 2), np.array([1, -1, 1, 1], np.int8)
    risk = EmpiricalRisk(TwoLayer(2, 3, relu, bias=True), logistic, X, y)
    assert risk.X.dtype == risk.y.dtype == np.float64
    np.testing.assert_array_equal(risk.X, X)
