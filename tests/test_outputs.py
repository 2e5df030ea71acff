"""Two-layer nets of several outputs: values and gradients against loops, observables, refusals."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import gradflow as gf
from gradflow import certificates
from gradflow.registry import build

PHI = {"relu": lambda z: max(z, 0.0), "hard_tanh": lambda z: min(max(z, -1.0), 1.0)}
PHI["leaky_relu(0.2)"] = lambda z: max(z, 0.2 * z)


def instance(phi=gf.relu, loss=gf.squared, o=3, n=8, d=2, m=5, **options):
    rng = np.random.default_rng(o)
    net = gf.TwoLayer(d, m, phi, outputs=o, **options)
    y = rng.normal(size=(n, o)) if loss is gf.squared else rng.integers(o, size=n)
    omega = rng.uniform(0.5, 2.0, n)
    risk = gf.EmpiricalRisk(net, loss, rng.normal(size=(n, d)), y, weights=omega)
    return risk, net.init(jax.random.key(o), 0.8)


def loop(risk, params):
    """f (n, o), and the weighted mean of the definition of the loss, in plain floats."""
    net, y, X = risk.net, np.asarray(risk.y), np.asarray(risk.X)
    W, a = np.asarray(params.inner), np.asarray(params.outer)
    b = np.zeros(net.width) if params.bias is None else np.asarray(params.bias)
    f, omega, total = np.zeros(y.shape), np.asarray(risk.weights), 0.0
    for i in range(risk.n):
        for k in range(net.width):
            f[i] += net.factor * PHI[net.activation.name](float(W[k] @ X[i] + b[k])) * a[k]
        soft = np.exp(f[i]) / np.sum(np.exp(f[i]))
        squares, entropy = 0.5 * np.sum((f[i] - y[i]) ** 2), -np.sum(y[i] * np.log(soft))
        total += omega[i] * (squares if risk.loss.name == "squared" else entropy)
    return f, total / np.sum(omega)


CASES = {
    "squared": {"bias": True},
    "cross-entropy": {"loss": gf.cross_entropy, "scaling": "ntk"},
    "fixed": {"loss": gf.cross_entropy, "outer": "fixed", "phi": gf.leaky_relu(0.2), "o": 2},
    "hard tanh": {"phi": gf.hard_tanh, "n": 1, "m": 1, "scaling": "mean-field"},
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_against_loops(case: str) -> None:
    risk, params = instance(**CASES[case])
    f, value = loop(risk, params)
    np.testing.assert_allclose(risk.predictions(params), f, rtol=1e-13, atol=1e-14)
    assert risk.net(params, risk.X[0]).shape == (risk.net.outputs,)
    assert float(risk(params)) == pytest.approx(value, rel=1e-13)
    assert float(risk.log(params)) == pytest.approx(np.log(value), rel=1e-12)
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, params))
    gradient, relative = (jax.tree.leaves(tree) for tree in (
        risk.gradient(params), risk.log_gradient(params)
    ))  # fmt: skip
    for which, leaf in enumerate(leaves):
        found = np.asarray(gradient[which])
        np.testing.assert_allclose(relative[which], found / value, rtol=1e-10, atol=1e-13)
        for at in np.ndindex(leaf.shape):
            sides = []
            for h in (1e-6, -1e-6):
                moved = [one.copy() for one in leaves]
                moved[which][at] += h
                sides.append(loop(risk, jax.tree.unflatten(structure, moved))[1])
            frozen = which == 1 and risk.net.outer == "fixed"
            slope = 0.0 if frozen else (sides[0] - sides[1]) / 2e-6
            assert found[at] == pytest.approx(slope, abs=3e-9)
    at = risk.arrangement
    assert at.outputs == risk.net.outputs
    assert not at.central
    np.testing.assert_allclose(at.predictions(*at.split(params)), f, rtol=1e-13, atol=1e-14)
    again = build(json.loads(json.dumps(risk.describe())))
    assert again.describe() == risk.describe()
    assert float(again(build(json.loads(json.dumps(params.describe()))))) == float(risk(params))


def test_starts_are_balanced_or_spread_over_the_outputs() -> None:
    net = gf.TwoLayer(3, 7, gf.relu, outputs=4)
    balance = net.balancedness(net.init(jax.random.key(0), 1e-3, "balanced"))
    np.testing.assert_allclose(balance, 0.0, atol=1e-21)
    assert net.init(jax.random.key(0), 1.0).outer.shape == (7, 4)
    fixed = gf.TwoLayer(3, 5, gf.relu, outer="fixed", outputs=2).init(jax.random.key(0), 1.0)
    np.testing.assert_array_equal(fixed.outer, [[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0]])
    with pytest.raises(ValueError, match=r"outer=.*shape"):
        net.params(np.ones((7, 3)), np.ones(7))
    with pytest.raises(ValueError, match="outputs="):
        gf.TwoLayer(3, 7, gf.relu, outputs=0)


def test_two_classes_are_the_logistic_flow_of_the_difference() -> None:
    """From outer weights (−b_k, b_k) f_0 = −f_1 for ever: the cross-entropy is the logistic loss of
    2f_1, of outer weights c_k = 2b_k that move at the rate 2."""
    rng = np.random.default_rng(0)
    X, y, W = rng.normal(size=(9, 2)), rng.integers(2, size=9), rng.normal(size=(4, 2))
    b, options = 0.3 * np.ones(4), {"until": 3.0, "rtol": 1e-10, "clock": "log"}
    two, one = gf.TwoLayer(2, 4, gf.softplus, outputs=2), gf.TwoLayer(2, 4, gf.softplus)
    start = two.params(W, np.stack([-b, b], axis=1))
    path = gf.integrate(gf.EmpiricalRisk(two, gf.cross_entropy, X, y), start, **options)
    risk = gf.EmpiricalRisk(one, gf.logistic, X, 2.0 * y - 1.0)
    same = gf.integrate(risk, one.params(W, 2 * b), metric={"outer": 2.0}, **options)
    np.testing.assert_allclose(path.final.inner, same.final.inner, rtol=1e-8)
    np.testing.assert_allclose(path.final.outer[:, 1], same.final.outer / 2, rtol=1e-8)
    np.testing.assert_allclose(path.observe("loss")[-1], same.observe("loss")[-1], rtol=1e-8)
    assert path.observe("accuracy")[-1] == same.observe("accuracy")[-1]
    assert path.defects["energy"] < 1e-8


def test_observables_of_several_outputs_and_those_that_need_one(tmp_path) -> None:
    risk, start = instance(gf.tanh, gf.cross_entropy)
    path = gf.integrate(risk, start, until=1.0, rtol=1e-6)
    f = np.asarray(risk.predictions(path.final))
    share = np.mean(np.argmax(f, axis=1) == np.argmax(risk.y, axis=1))
    assert path.observe("accuracy")[-1] == pytest.approx(share)
    assert path.observe("accuracy", X=risk.X[:2], y=[0, 1]).shape == path.t.shape
    masses = np.linalg.norm(path.final.outer, axis=1) * np.linalg.norm(path.final.inner, axis=1)
    np.testing.assert_allclose(path.observe("neuron_masses")[-1], masses, rtol=1e-12)
    assert np.all(path.observe("alive"))
    for name in ("loss", "gradient_norm", "norm", "neuron_norms", "variation_norm"):
        assert np.all(np.isfinite(path.observe(name)))
    for name in ("margin", "normalised_margin", "kkt_residual", "signed_masses"):
        with pytest.raises(ValueError, match="output"):
            path.observe(name)
    for refused in (certificates.kkt_residual, lambda r, p: certificates.global_max_margin(r)):
        with pytest.raises(ValueError, match=r"several outputs.*outputs=1"):
            refused(risk, path.final)
    path.save(tmp_path / "path.nc")
    again = gf.load(tmp_path / "path.nc")
    np.testing.assert_array_equal(again.final.outer, path.final.outer)
    assert again.risk.name == risk.name


def test_penalties_of_several_outputs() -> None:
    risk, params = instance(gf.relu)
    J = gf.Regularised(risk, 0.3, l2=0.2)
    inner, outer = np.asarray(params.inner), np.asarray(params.outer)
    sizes = np.linalg.norm(outer, axis=1) * np.linalg.norm(inner, axis=1)
    expected = 0.3 * np.sum(sizes) + 0.1 * np.sum(inner**2) + 0.1 * np.sum(outer**2)
    assert float(J(params) - risk(params)) == pytest.approx(expected, rel=1e-13)
    automatic, own = jax.grad(lambda p: J(p))(params), J.gradient(params)
    np.testing.assert_allclose(own.outer, automatic.outer, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(own.inner, automatic.inner, rtol=1e-12, atol=1e-14)
    assert (J.arrangement.tv, J.arrangement.l2, J.arrangement.outputs) == (0.3, 0.2, 3)


def test_what_has_one_output_says_so() -> None:
    net = gf.TwoLayer(3, 2, gf.relu, outputs=2)
    with pytest.raises(ValueError, match="2 outputs"):
        gf.PopulationRisk(net, gf.logistic, gf.Gaussian(3), gf.LinearTeacher(np.eye(3)[0]))
    with pytest.raises(ValueError, match="2 outputs"):
        gf.NetworkTeacher(net, net.init(jax.random.key(0), 1.0))
    risk, params = instance(gf.relu)
    with pytest.raises(ValueError, match="conic"):
        gf.integrate(risk, params, until=1.0, metric="conic")
    with pytest.raises(ValueError, match=r"y=.*shape"):
        gf.EmpiricalRisk(net, gf.squared, np.ones((4, 3)), np.ones(4))
