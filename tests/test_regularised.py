"""The total-variation penalty: values, gradients, its kink at zero, files, and who may carry it."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import (
    EmpiricalRisk,
    FunctionRisk,
    Gaussian,
    LinearPredictor,
    NetworkTeacher,
    PopulationRisk,
    Regularised,
    TwoLayer,
    certify,
    descend,
    integrate,
    leaky_relu,
    load,
    logistic,
    probit_erf,
    relu,
    squared,
    tanh,
    until,
)
from gradflow.registry import build


def gaussian_risk(net, seed=0):
    rng = np.random.default_rng(seed)
    teacher = TwoLayer(net.dim, 2, relu)
    params = teacher.params(rng.normal(size=(2, net.dim)), np.array([1.0, -0.7]))
    return PopulationRisk(net, squared, Gaussian(net.dim), NetworkTeacher(teacher, params))


def data_risk(net, seed=0, loss=squared):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(9, net.dim))
    return EmpiricalRisk(net, loss, X, np.sign(X[:, 0]))


@pytest.mark.parametrize("outer", ["trained", "fixed"])
@pytest.mark.parametrize("make", [gaussian_risk, data_risk])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradient_against_a_plain_loop(make, outer, bias, rng):
    if bias and make is gaussian_risk:
        return  # no closed form
    net = TwoLayer(3, 5, leaky_relu(0.2), outer=outer, bias=bias)
    risk = make(net)
    J = Regularised(risk, 0.3)
    b = rng.normal(size=5) if bias else None
    params = net.params(rng.normal(size=(5, 3)), rng.normal(size=5), b)

    def penalty(p):
        total = 0.0
        for k in range(5):
            row = np.append(p.inner[k], p.bias[k]) if bias else np.asarray(p.inner[k])
            total += 0.3 * abs(float(p.outer[k])) * float(np.linalg.norm(row))
        return total

    assert float(J(params)) == pytest.approx(float(risk(params)) + penalty(params), rel=1e-14)
    assert float(J.log(params)) == pytest.approx(np.log(float(J(params))), rel=1e-14)
    gradient, plain = J.gradient(params), risk.gradient(params)
    leaves, structure = jax.tree.flatten(params)
    for which, leaf in enumerate(leaves):
        for at in np.ndindex(leaf.shape):
            sides = []
            for h in (1e-6, -1e-6):
                moved = list(leaves)
                moved[which] = leaf.at[at].add(h)
                sides.append(penalty(jax.tree.unflatten(structure, moved)))
            expected = (sides[0] - sides[1]) / 2e-6
            name = ("inner", "outer", "bias")[which]
            if name == "outer" and outer == "fixed":
                expected = 0.0
            own = float(getattr(gradient, name)[at] - getattr(plain, name)[at])
            assert own == pytest.approx(expected, abs=1e-9)


def test_gradient_agrees_with_autodiff_of_the_whole(rng):
    net = TwoLayer(4, 6, relu)
    J = Regularised(gaussian_risk(net), 0.1)
    params = net.params(rng.normal(size=(6, 4)), rng.normal(size=6))
    automatic = jax.grad(lambda p: J(p))(params)
    for one, other in zip(
        jax.tree.leaves(automatic), jax.tree.leaves(J.gradient(params)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_tiny_weights_keep_their_gradient_and_zero_ones_rest():
    net = TwoLayer(2, 3, relu)
    J = Regularised(gaussian_risk(net), 0.25)
    base = J.risk
    inner = jnp.array([[3e-200, 4e-200], [0.0, 0.0], [1.0, 0.0]])
    params = {"inner": inner, "outer": jnp.array([2e-200, 0.0, -1.0])}
    params = net.as_params(params)
    own = jax.tree.map(lambda a, b: a - b, J.gradient(params), base.gradient(params))
    np.testing.assert_allclose(own.inner[1], 0.0, atol=0)
    assert float(own.outer[1]) == 0.0
    np.testing.assert_allclose(own.inner[2], [0.25, 0.0], rtol=1e-15)
    assert float(own.outer[2]) == pytest.approx(-0.25)
    penalty = J._penalty_gradient(params)
    np.testing.assert_allclose(penalty.inner[0], 0.25 * 2e-200 * np.array([0.6, 0.8]), rtol=1e-14)
    assert float(penalty.outer[0]) == pytest.approx(0.25 * 5e-200, rel=1e-14)


def test_flow_keeps_energy_and_balance_and_its_file_can_be_read(tmp_path):
    net = TwoLayer(2, 6, relu)
    J = Regularised(gaussian_risk(net), 0.1)
    path = integrate(J, net.init(jax.random.key(3), 0.1, "balanced"), until=until.time(20.0))
    assert path.defects["energy"] < 1e-7
    assert path.defects["balance"] < 1e-7
    np.testing.assert_allclose(
        np.exp(path.observe("log_loss"))[-1], float(J(path.final)), rtol=1e-12
    )
    path.save(tmp_path / "path.nc")
    again = load(tmp_path / "path.nc")
    assert isinstance(again.risk, Regularised)
    assert float(again.risk(again.final)) == float(J(path.final))


def test_descent_and_a_certificate_of_its_limit():
    net = TwoLayer(2, 1, relu)
    teacher = NetworkTeacher(net, net.params(np.array([[0.6, 0.8]]), np.ones(1)))
    J = Regularised(PopulationRisk(net, squared, Gaussian(2), teacher), 0.1)
    start = net.params(np.array([[0.9, 0.1]]), np.array([0.9]))
    done = descend(J, start, step_size=0.2, steps=400)
    found = certify(J, done.final)
    assert found.accepted, found.reason
    mass = abs(float(found.params.outer[0])) * np.asarray(found.params.inner[0])
    np.testing.assert_allclose(mass, 0.8 * np.array([0.6, 0.8]), atol=1e-11)


def test_margin_losses_may_be_regularised_too(rng):
    net = TwoLayer(3, 4, relu)
    J = Regularised(data_risk(net, loss=logistic), 0.01)
    params = net.params(rng.normal(size=(4, 3)), rng.normal(size=4))
    path = integrate(J, params, until=until.time(5.0), rtol=1e-6)
    assert path.defects["energy"] < 1e-3
    # What the penalties add is known to who follows kinks, and is no central arrangement.
    assert J.arrangement is J.arrangement
    assert (J.arrangement.tv, J.arrangement.l2) == (0.01, 0.0)
    assert not J.arrangement.central
    assert J.risk.arrangement.central
    np.testing.assert_allclose(path.observe("margins")[-1], J.risk.margins(path.final))


@pytest.mark.parametrize("lam", [None, 0.3])
@pytest.mark.parametrize("options", [
    {}, {"outer": "fixed", "scaling": "ntk"}, {"bias": True, "scaling": "mean-field"},
], ids=str)  # fmt: skip
def test_weight_decay_against_a_plain_loop(options, lam, rng):
    net = TwoLayer(3, 5, leaky_relu(0.2), **options)
    risk = data_risk(net)
    J = Regularised(risk, lam, l2=0.7)
    params = net.init(jax.random.key(1), 1.0)
    expected, slope = float(risk(params)), risk.gradient(params)
    for k in range(5):
        row = [float(z) for z in params.inner[k]]
        row += [] if params.bias is None else [float(params.bias[k])]
        a, size = float(params.outer[k]), sum(z * z for z in row) ** 0.5
        expected += 0.35 * (sum(z * z for z in row) + (a * a if net.outer == "trained" else 0.0))
        expected += 0.0 if lam is None else lam * net.factor * abs(a) * size
    assert float(J(params)) == pytest.approx(expected, rel=1e-14)
    assert float(J.log(params)) == pytest.approx(np.log(expected), rel=1e-14)
    automatic = net.freeze(jax.grad(lambda p: J(p))(params))
    pairs = (jax.tree.leaves(tree) for tree in (automatic, J.gradient(params)))
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-13, atol=1e-15)
    assert (slope.outer == 0).all() == (net.outer == "fixed")
    at = J.arrangement
    assert at.l2 == 0.7
    assert at.tv == (0.0 if lam is None else pytest.approx(0.3 * net.factor, rel=1e-15))
    np.testing.assert_array_equal(at.inputs, risk.arrangement.inputs)
    again = build(json.loads(json.dumps(J.describe())))
    assert float(again(params)) == float(J(params))
    assert again.name == J.name


def test_weight_decay_of_any_network_and_of_a_function():
    """dw/dt = −λw for a function that is constant; ridge regression rests at its solution."""
    J = Regularised(FunctionRisk(lambda p: 0.0 * jnp.sum(p) + 1.0), l2=0.5)
    path = integrate(J, jnp.array([1.0, -2.0]), until=until.time(3.0), rtol=1e-10)
    np.testing.assert_allclose(path.final, np.exp(-1.5) * np.array([1.0, -2.0]), rtol=1e-9)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(7, 2)), rng.normal(size=7)
    ridge = Regularised(EmpiricalRisk(LinearPredictor(2), squared, X, y), l2=0.3)
    end = integrate(ridge, {"weight": jnp.ones(2)}, until=until.time(200.0), rtol=1e-10).final
    solution = np.linalg.solve(X.T @ X / 7 + 0.3 * np.eye(2), X.T @ y / 7)
    np.testing.assert_allclose(end.weight, solution, rtol=1e-8)
    assert Regularised(data_risk(TwoLayer(2, 3, tanh)), l2=1.0).arrangement is None


def test_balance_decays_under_weight_decay():
    net = TwoLayer(2, 4, relu)
    J = Regularised(gaussian_risk(net), l2=0.2)
    path = integrate(J, net.init(jax.random.key(0), 1.0), until=until.time(5.0), rtol=1e-10)
    balance = path.observe("balancedness")
    np.testing.assert_allclose(balance[-1], np.exp(-2.0) * balance[0], rtol=1e-7)
    assert "balance" not in path.defects
    assert path.defects["energy"] < 1e-8


def test_bad_input_is_refused():
    net = TwoLayer(2, 3, relu)
    with pytest.raises(ValueError, match="lam"):
        Regularised(gaussian_risk(net), 0.0)
    with pytest.raises(ValueError, match="regularised already"):
        Regularised(Regularised(gaussian_risk(net), 0.1), 0.1)
    with pytest.raises(ValueError, match="is not a risk"):
        Regularised(net, 0.1)
    with pytest.raises(ValueError, match="two-layer"):
        Regularised(FunctionRisk(lambda p: jnp.sum(p**2)), 0.1)
    with pytest.raises(ValueError, match="homogeneous"):
        Regularised(gaussian_risk(TwoLayer(2, 3, probit_erf)), 0.1)
    with pytest.raises(ValueError, match=r"lam=None.*l2"):
        Regularised(gaussian_risk(net))
    with pytest.raises(ValueError, match=r"^l2="):
        Regularised(gaussian_risk(net), l2=-1.0)
