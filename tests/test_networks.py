"""Networks: values against loops, conserved quantities, random starts, the door."""

from __future__ import annotations

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.networks.abstract import AbstractNetwork
from gradflow.networks.activations import (
    erf,
    gelu,
    leaky_relu,
    linear,
    monomial,
    relu,
    softplus,
    tanh,
)
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.networks import LinearPredictor, TwoLayer
from gradflow.networks.parameters import LinearParams, TwoLayerParams
from gradflow.registry import build

NETS: list[AbstractNetwork] = [
    LinearPredictor(3),
    TwoLayer(3, 5, relu),
    TwoLayer(2, 1, leaky_relu(0.3), outer="fixed"),
    TwoLayer(3, 4, linear, bias=True),
    TwoLayer(4, 3, tanh, outer="fixed", bias=True),
    DeepLinear(3, 1),
    DeepLinear(3, 2, width=1),
    DeepLinear(2, 4, width=5),
]
by_name = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)


def naive(net: AbstractNetwork, params: object, x: np.ndarray) -> float:
    """f(x) by loops over Python floats."""
    if isinstance(net, LinearPredictor):
        return sum(float(w) * float(c) for w, c in zip(params.weight, x, strict=True))
    if isinstance(net, DeepLinear):
        vector = [float(c) for c in x]
        for matrix in params.layers:
            vector = [sum(float(m) * v for m, v in zip(r, vector, strict=True)) for r in matrix]
        return vector[0]
    total = 0.0
    for k in range(net.width):
        pre = sum(float(w) * float(c) for w, c in zip(params.inner[k], x, strict=True))
        pre += 0.0 if params.bias is None else float(params.bias[k])
        total += float(params.outer[k]) * float(net.activation(jnp.asarray(pre)))
    return total


@by_name
@pytest.mark.parametrize("n", [1, 7])
def test_value_agrees_with_a_loop(net: AbstractNetwork, n: int, key: jax.Array) -> None:
    params = net.init(key, 1.3)
    X = np.random.default_rng(n).normal(size=(n, net.dim))
    evaluate = eqx.filter_jit(net)
    values = evaluate(params, jnp.asarray(X))
    assert values.shape == (n,)
    for x, value in zip(X, values, strict=True):
        single = evaluate(params, jnp.asarray(x))
        assert single.shape == ()
        assert float(value) == pytest.approx(naive(net, params, x), rel=1e-13, abs=1e-14)
        assert float(single) == pytest.approx(float(value), rel=1e-14, abs=1e-15)


@by_name
def test_homogeneity_degree(net: AbstractNetwork, key: jax.Array) -> None:
    params, x = net.init(key, 1.0), jnp.arange(1.0, net.dim + 1.0)
    if net.degree is None:
        return
    # Two scalings by powers of two, exact in float64: f(cθ) = c^D f(θ) to the last bit.
    trained = net.freeze(jax.tree.map(jnp.ones_like, params))
    scaled = jax.tree.map(lambda p, on: jnp.where(on > 0, 2.0 * p, p), params, trained)
    assert float(net(scaled, x)) == 2.0**net.degree * float(net(params, x))


@by_name
@pytest.mark.parametrize("scheme", ["gaussian", "balanced"])
def test_random_starts(net: AbstractNetwork, scheme: str, key: jax.Array) -> None:
    scale = 1e-60
    params = net.init(key, scale, scheme)
    assert eqx.tree_equal(params, net.init(key, scale, scheme))
    unit = net.init(key, 1.0, scheme)
    for leaf, one in zip(jax.tree.leaves(params), jax.tree.leaves(unit), strict=True):
        assert leaf.dtype == jnp.float64
        fixed = isinstance(net, TwoLayer) and net.outer == "fixed" and leaf is params.outer
        np.testing.assert_allclose(leaf, one if fixed else scale * one, rtol=4e-16)
    invariant = net.balancedness(params)
    if scheme == "balanced" and invariant is not None:
        assert np.max(np.abs(invariant)) <= 1e-14 * scale**2
    if isinstance(net, TwoLayer) and net.outer == "fixed":
        assert np.array_equal(params.outer, [1.0, -1.0, 1.0, -1.0][: net.width])


def test_start_size_is_the_scale() -> None:
    net = TwoLayer(30, 500, relu)
    params = net.init(jax.random.key(3), 1e-3)
    norms = np.linalg.norm(params.inner, axis=1)
    assert np.sqrt(np.mean(norms**2)) == pytest.approx(1e-3, rel=0.03)
    assert np.sqrt(np.mean(params.outer**2)) == pytest.approx(1e-3, rel=0.1)
    signs = np.sign(net.init(jax.random.key(3), 1e-3, "balanced").outer)
    assert abs(np.sum(signs)) < 4 * np.sqrt(500)


def test_legacy_and_typed_keys_agree() -> None:
    net = TwoLayer(3, 2, relu)
    assert eqx.tree_equal(net.init(jax.random.key(7), 1.0), net.init(jax.random.PRNGKey(7), 1.0))


@settings(derandomize=True, max_examples=10, deadline=None)
@given(
    depth=st.integers(1, 6),
    width=st.integers(1, 4),
    exponent=st.integers(-280, 280),
    seed=st.integers(0, 99),
)
def test_balanced_deep_net_has_the_vector_and_no_defect(
    depth: int, width: int, exponent: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vector = 10.0**exponent * rng.normal(size=3)
    hidden = rng.normal(size=(depth - 1, width))
    hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
    net = DeepLinear(3, depth, width)
    for params in (net.balanced(vector), net.balanced(vector, hidden)):
        root = np.linalg.norm(vector / 10.0**exponent) ** (1 / depth) * 10.0 ** (exponent / depth)
        np.testing.assert_allclose(net.end_to_end(params), vector, rtol=2e-13)
        if 1e-100 < root < 1e100:
            defects = net.balancedness(params)
            assert defects is None or float(np.max(defects)) <= 2e-15 * root**2


def test_end_to_end_is_the_product(key: jax.Array) -> None:
    net = DeepLinear(3, 4, width=2)
    params = net.init(key, 1.0)
    product = np.linalg.multi_dot([np.asarray(w) for w in reversed(params.layers)])
    np.testing.assert_allclose(net.end_to_end(params), product[0], rtol=1e-14)
    assert net.balancedness(params).shape == (3,)
    one = DeepLinear(3, 1)
    assert one.balancedness(one.init(key, 1.0)) is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [leaky_relu(0.3), erf, softplus, gelu])
def test_balancedness_is_conserved_exactly_by_homogeneous_nets(
    activation: object, bias: bool, key: jax.Array
) -> None:
    """d/dt(a² − |w|² − b²) = −2(a ∂_a − w·∂_w − b ∂_b)L = 0 by Euler's identity for φ."""
    net = TwoLayer(3, 4, activation, bias=bias)
    params = net.init(key, 1.0)
    assert (net.balancedness(params) is None) == (not activation.homogeneous)
    X = jnp.asarray(np.random.default_rng(1).normal(size=(9, 3)))
    g = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(net(p, X)))))(params)
    rate = params.outer * g.outer - jnp.sum(params.inner * g.inner, axis=1)
    if bias:
        rate = rate - params.bias * g.bias
    assert (float(jnp.max(jnp.abs(rate))) < 1e-14) == activation.homogeneous


def test_gradient_uses_the_stated_derivative_at_a_kink() -> None:
    net = TwoLayer(2, 1, leaky_relu(0.3))
    params = net.params(inner=[[1.0, 0.0]], outer=[2.0])
    g = jax.grad(net)(params, jnp.asarray([0.0, 5.0]))
    assert np.array_equal(g.inner, [[0.0, 0.3 * 2.0 * 5.0]])


def test_freeze_zeroes_fixed_outer_weights(key: jax.Array) -> None:
    for outer in ("trained", "fixed"):
        net = TwoLayer(3, 2, relu, outer=outer)
        params = net.init(key, 1.0)
        frozen = net.freeze(params)
        assert np.array_equal(frozen.inner, params.inner)
        assert np.any(np.asarray(frozen.outer)) == (outer == "trained")


@by_name
def test_as_params_and_item_access(net: AbstractNetwork, key: jax.Array) -> None:
    params = net.init(key, 1.0)
    assert net.as_params(params) is params
    given = {name: params[name] for name in params.keys() if params[name] is not None}  # noqa: SIM118
    assert eqx.tree_equal(net.as_params(given), params)
    assert eqx.tree_equal(jax.jit(net.as_params)(given), params)
    with pytest.raises(KeyError, match="choose one of"):
        params["weights"]


@by_name
def test_description_round_trip(net: AbstractNetwork) -> None:
    again = build(json.loads(json.dumps(net.describe())))
    assert again == net
    assert hash(again) == hash(net)


LINEAR, TWO, DEEP = LinearPredictor(2), TwoLayer(2, 2, relu), DeepLinear(2, 3)
BIASED = TwoLayer(2, 2, relu, bias=True)
GOOD = {"inner": [[1.0, 0.0], [0.0, 1.0]], "outer": [1.0, -1.0]}
ZERO_ROW = {"inner": [[1.0, 0.0], [0.0, 0.0]], "outer": [1.0, -1.0]}
NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LinearPredictor(0), "dim=0"),
        (lambda: LinearPredictor(2.0), r"dim=2\.0.*int"),
        (lambda: TwoLayer(2, 0, relu), "width=0"),
        (lambda: TwoLayer(2, 2, "relu"), r"activation='relu'.*gf\.relu"),
        (lambda: TwoLayer(2, 2, relu, outer="frozen"), "outer='frozen'.*fixed, trained"),
        (lambda: TwoLayer(2, 2, relu, bias=1), "bias=1"),
        (lambda: DeepLinear(2, 0), "depth=0"),
        (lambda: DeepLinear(2, 2, width=0), "width=0"),
        (lambda: LINEAR.params([0.0, 0.0]), "weight=.*zero"),
        (lambda: LINEAR.params([1.0, NAN]), "weight=.*NaN"),
        (lambda: LINEAR.params([1.0]), r"weight=.*shape \(1,\).*\(2,\)"),
        (lambda: LINEAR.params(np.ones(2, np.float32)), "weight=.*float32"),
        (lambda: LINEAR.as_params("w"), "params='w'"),
        (lambda: LINEAR.as_params(LinearParams(jnp.ones(3))), r"params\.weight.*\(2,\)"),
        (lambda: LINEAR.as_params({"w": [1.0, 2.0]}), "params=.*weight"),
        (lambda: TWO.params(**ZERO_ROW), "inner=.*row 1 is zero"),
        (lambda: TWO.check_start(TWO.as_params(ZERO_ROW)), "inner=.*row 1 is zero"),
        (lambda: BIASED.params(**ZERO_ROW, bias=[0.0, 0.0]), "row 1 is zero"),
        (lambda: BIASED.params(**GOOD), "bias=None.*missing"),
        (lambda: TWO.params(**GOOD, bias=[0.0, 0.0]), "bias=.*without"),
        (lambda: TWO.params(inner=[[1.0, 0.0]], outer=[1.0]), r"inner=.*shape \(1, 2\)"),
        (lambda: TWO.params(inner=GOOD["inner"], outer=[1.0]), r"outer=.*shape \(1,\)"),
        (lambda: TWO.as_params(np.ones(2)), "params=.*TwoLayer.*inner, outer"),
        (lambda: TWO.as_params(LINEAR.params([1.0, 0.0])), "params=.*TwoLayer"),
        (
            lambda: TWO.as_params(TwoLayerParams(jnp.ones((2, 2), jnp.float32), jnp.ones(2))),
            r"params\.inner=.*float32",
        ),
        (
            lambda: TWO.check_start(TwoLayerParams(jnp.full((2, 2), NAN), jnp.ones(2))),
            r"params\.inner=.*NaN",
        ),
        (lambda: DEEP.balanced([0.0, 0.0]), "end_to_end_vector=.*zero"),
        (lambda: DEEP.balanced([1.0, 0.0], [[1.0, 1.0], [1.0, 0.0]]), "hidden=.*norm"),
        (lambda: DEEP.params([np.ones((2, 2))]), "layers=.*3 matrices"),
        (lambda: DEEP.params([np.ones((2, 2)), np.zeros((2, 2)), np.ones((1, 2))]), "product zero"),
        (lambda: DEEP.init(0, 1.0), r"key=0.*jax\.random\.key"),
        (lambda: TWO.init(jax.random.key(0), 0.0), r"scale=0\.0"),
        (lambda: TWO.init(jax.random.key(0), -1.0), r"scale=-1\.0"),
        (lambda: TWO.init(jax.random.key(0), 1.0, "xavier"), "scheme='xavier'.*balanced, gaussian"),
        (lambda: LINEAR(LINEAR.params([1.0, 0.0]), jnp.ones(3)), r"x=.*shape \(3,\)"),
        (lambda: build({"kind": "cnn"}), "kind='cnn'"),
    ],
)
def test_bad_input(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        call()


def test_zero_weights_have_a_value_but_are_no_start() -> None:
    params = TWO.as_params(ZERO_ROW)
    assert float(TWO(params, jnp.ones(2))) == 1.0
    assert float(LINEAR(LINEAR.as_params(np.zeros(2)), jnp.ones(2))) == 0.0
    # A bias keeps a neuron with w = 0 alive; a product that only underflows is no zero.
    BIASED.params(**ZERO_ROW, bias=[0.0, 1.0])
    DEEP.params([1e-200 * np.eye(2), 1e-200 * np.eye(2), [[1.0, 0.0]]])


SCALINGS = [None, "ntk", "mean-field"]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("activation", [leaky_relu(0.3), monomial(2), tanh], ids=lambda a: a.name)
def test_a_scaled_net_is_the_net_times_a_factor(activation, bias, scaling, key) -> None:
    net = TwoLayer(3, 4, activation, bias=bias, scaling=scaling)
    plain = TwoLayer(3, 4, activation, bias=bias)
    params, X = net.init(key, 0.8), jnp.asarray(np.random.default_rng(2).normal(size=(9, 3)))
    assert eqx.tree_equal(params, plain.init(key, 0.8))
    factor = {None: 1.0, "ntk": 0.5, "mean-field": 0.25}[scaling]
    np.testing.assert_allclose(net(params, X), factor * plain(params, X), rtol=1e-15)
    p = activation.degree
    if p is not None:
        assert net.degree == p + 1
        scaled = jax.tree.map(lambda leaf: 1.7 * leaf, params)
        np.testing.assert_allclose(net(scaled, X), 1.7**net.degree * net(params, X), rtol=1e-13)
        # conserved: a a' = w·w'/p for any risk
        g = jax.grad(lambda q: jnp.sum(jnp.sin(net(q, X))))(params)
        along = [jnp.sum(w * v, axis=1) for w, v in [(net.neurons(params)[0], net.neurons(g)[0])]]
        np.testing.assert_allclose(params.outer * g.outer, along[0] / p, atol=1e-14)
        squares = np.sum(np.asarray(net.neurons(params)[0]) ** 2, axis=1)
        np.testing.assert_allclose(net.balancedness(params), params.outer**2 - squares / p)
    again = build(json.loads(json.dumps(net.describe())))
    assert again.describe() == net.describe()
    assert (f"scaling={scaling}" in net.name) == (scaling is not None)


def test_bad_scaling() -> None:
    with pytest.raises(ValueError, match=r"scaling='1/m'.*mean-field, ntk"):
        TwoLayer(3, 4, relu, scaling="1/m")


@by_name
def test_neurons_make_the_function(net: AbstractNetwork, key: jax.Array) -> None:
    params, x = net.init(key, 0.8), np.random.default_rng(3).normal(size=net.dim)
    W, a = net.neurons(params)
    ones = np.ones(W.shape[-1] - net.dim)  # the bias entry
    heights = W @ np.concatenate([x, ones])
    phi = net.activation if isinstance(net, TwoLayer) else linear
    assert float(a @ phi(heights)) == pytest.approx(float(net(params, jnp.asarray(x))), rel=1e-13)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    assert net.neurons(many)[0].shape == (2, *W.shape)
    assert net.vanishes_at_zero == (float(net(params, jnp.zeros(net.dim))) == 0.0)
