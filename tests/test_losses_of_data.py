"""Soft labels, offsets, and losses of several outputs: values, logs and gradients."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import gradflow as gf
from gradflow import certificates
from gradflow.losses import CrossEntropy, SoftLogistic, SumOverOutputs
from gradflow.observables import observe
from gradflow.registry import build

MARGINS = [-1e300, -750.0, -40.0, -1.3, 0.0, 1e-9, 0.7, 38.0, 750.0, 1e300]


@pytest.mark.parametrize("p", [0.0, 1e-300, 1e-12, 0.25, 0.5, 0.9, 1.0 - 2.0**-50, 1.0])
def test_soft_logistic_has_every_digit(p: float) -> None:
    f = jnp.asarray(MARGINS)
    value, log = gf.soft_logistic(f, jnp.asarray(p)), gf.soft_logistic.log(f, jnp.asarray(p))
    slope = gf.soft_logistic.derivative(f, jnp.asarray(p))
    with mpmath.workdps(400):
        for i, z in enumerate(MARGINS):
            z, q = mpmath.mpf(z), 1 - mpmath.mpf(p)
            # ln(1 + e^{±z}) beyond what mpmath's exponent is comfortable with
            up, down = (
                (x if x > 1e5 else mpmath.log1p(mpmath.exp(x)) if x > -1e5 else mpmath.mpf(0))
                for x in (-z, z)
            )
            sigma = 1 / (1 + mpmath.exp(-z)) if abs(z) < 1e5 else mpmath.mpf(z > 0)
            other = 1 / (1 + mpmath.exp(z)) if abs(z) < 1e5 else mpmath.mpf(z < 0)
            exact = p * up + q * down
            assert float(value[i]) == pytest.approx(float(exact), rel=4e-15, abs=1e-307)
            expected = q * sigma - p * other
            scale = float(q * sigma + p * other)
            assert float(slope[i]) == pytest.approx(float(expected), rel=4e-15, abs=1e-15 * scale)
            if exact > 0:
                assert float(log[i]) == pytest.approx(
                    float(mpmath.log(exact)), rel=4e-15, abs=4e-15
                )


def test_soft_logistic_of_labels_is_the_logistic_loss_and_its_derivatives_are_those_of_jax() -> (
    None
):
    f = jnp.asarray([-800.0, -2.0, 0.3, 700.0])
    for y in (-1.0, 1.0):
        p = jnp.asarray((1 + y) / 2)
        soft, hard = gf.soft_logistic, gf.logistic
        y = jnp.asarray(y)
        np.testing.assert_allclose(soft(f, p), hard(f, y), rtol=1e-15, atol=1e-307)
        np.testing.assert_allclose(soft.log(f, p), hard.log(f, y), rtol=1e-15)
        np.testing.assert_allclose(soft.derivative(f, p), hard.derivative(f, y), rtol=1e-15)
    by_jax = jax.vmap(jax.grad(lambda z: gf.soft_logistic.log(z, 0.3)))(f)
    expected = gf.soft_logistic.derivative(f, 0.3) / gf.soft_logistic(f, 0.3)
    np.testing.assert_allclose(by_jax, expected, rtol=1e-13)
    assert np.all(np.isfinite(jax.vmap(jax.grad(lambda z: gf.soft_logistic.log(z, 1.0)))(f)))


def test_logistic_takes_soft_labels_and_hard_ones_but_not_0_and_1() -> None:
    X, net = np.eye(3), gf.TwoLayer(3, 2, gf.relu)
    soft = gf.EmpiricalRisk(net, gf.logistic, X, [0.0, 0.9, 1.0])
    assert isinstance(soft.loss, SoftLogistic)
    assert not soft.has_margin_limits
    assert soft.floor is None
    assert soft.least_margin(net.init(jax.random.key(0), 1.0)) is None
    assert gf.EmpiricalRisk(net, gf.logistic, X, [-1.0, 1.0, 1.0]).has_margin_limits
    with pytest.raises(ValueError, match=r"y=.*2\*y - 1.*soft_logistic"):
        gf.EmpiricalRisk(net, gf.logistic, X, [0.0, 1.0, 1.0])
    stated = gf.EmpiricalRisk(net, gf.soft_logistic, X, [0.0, 1.0, 1.0])
    params = net.init(jax.random.key(1), 1.0)
    hard = gf.EmpiricalRisk(net, gf.logistic, X, [-1.0, 1.0, 1.0])
    assert float(stated(params)) == pytest.approx(float(hard(params)), rel=1e-15)
    with pytest.raises(ValueError, match=r"^y=.*outside \[0, 1\]"):
        gf.EmpiricalRisk(net, gf.soft_logistic, X, [0.0, 1.5, 1.0])
    with pytest.raises(ValueError, match="margin"):
        soft.margins(params)
    again = build(json.loads(json.dumps(soft.describe())))
    assert float(again(params)) == float(soft(params))


@pytest.mark.parametrize("loss", [gf.logistic, gf.squared, gf.hinge, "soft"], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_an_offset_is_added_to_the_outputs(loss, weighted, rng) -> None:
    n, net = 7, gf.TwoLayer(3, 4, gf.leaky_relu(0.2), bias=True)
    X, offset = rng.normal(size=(n, 3)), rng.normal(size=n)
    soft = loss == "soft"
    y = rng.uniform(0, 1, n) if soft else rng.choice([-1.0, 1.0], n)
    loss = gf.logistic if soft else loss
    omega = rng.uniform(0.5, 2, n) if weighted else None
    risk = gf.EmpiricalRisk(net, loss, X, y, weights=omega, offset=offset)
    params = net.init(jax.random.key(0), 1.0)
    f = np.asarray(net(params, X)) + offset
    np.testing.assert_allclose(risk.predictions(params), f, rtol=1e-15)

    def value(p):
        w = np.ones(n) if omega is None else omega
        terms = [w[i] * risk.loss(net(p, X[i]) + offset[i], jnp.asarray(y[i])) for i in range(n)]
        return sum(terms) / float(np.sum(w))

    assert float(risk(params)) == pytest.approx(float(value(params)), rel=1e-13)
    assert float(risk.log(params)) == pytest.approx(math.log(float(value(params))), rel=1e-12)
    for one, other in zip(
        jax.tree.leaves(jax.grad(value)(params)),
        jax.tree.leaves(risk.gradient(params)),
        strict=True,
    ):
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-13)
    at = risk.arrangement
    assert not at.central
    np.testing.assert_allclose(at.predictions(*at.split(params)), f, rtol=1e-13)
    again = build(json.loads(json.dumps(risk.describe())))
    assert float(again(params)) == float(risk(params))
    assert not risk.has_margin_limits


def test_an_offset_is_in_the_margins_and_leaves_none_that_are_normalised(rng) -> None:
    net, X = gf.TwoLayer(2, 3, gf.relu), rng.normal(size=(4, 2))
    y, offset = np.array([1.0, -1.0, 1.0, -1.0]), rng.normal(size=4)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, y, offset=offset)
    params = net.init(jax.random.key(0), 1.0)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    path = SimpleNamespace(risk=risk, params=stacked)
    expected = y * (np.asarray(net(params, X)) + offset)
    np.testing.assert_allclose(observe(path, "margins")[0], expected, rtol=1e-14)
    np.testing.assert_allclose(risk.margins(params), expected, rtol=1e-14)
    for refused in (
        lambda: observe(path, "normalised_margin"), lambda: certificates.kkt_residual(risk, params)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="offset"):
            refused()


def test_a_centred_net_starts_at_zero_and_scales() -> None:
    """α(f − f₀) with the squared loss is α² times the centred risk for targets y/α."""
    rng, net = np.random.default_rng(3), gf.TwoLayer(2, 5, gf.relu)
    X, y, start = rng.normal(size=(6, 2)), rng.normal(size=6), net.init(jax.random.key(0), 1.0)
    other = net.init(jax.random.key(1), 1.0)
    centred = gf.EmpiricalRisk(net, gf.squared, X, y / 30, offset=-net(start, X))
    np.testing.assert_allclose(centred.predictions(start), 0.0, atol=1e-16)
    lazy = 30 * (net(other, X) - net(start, X))
    expected = np.mean(0.5 * (np.asarray(lazy) - y) ** 2)
    assert 900 * float(centred(other)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("offset", [np.zeros(3), np.zeros((5, 1)), [0, 0, 0, 0, np.nan], "a"])
def test_bad_offsets(offset) -> None:
    with pytest.raises(ValueError, match=r"^offset="):
        gf.EmpiricalRisk(gf.LinearPredictor(2), gf.squared, np.ones((5, 2)), np.ones(5),
                         offset=offset)  # fmt: skip


def test_batches_of_a_risk_with_an_offset(rng) -> None:
    net = gf.LinearPredictor(2)
    X, y, offset = rng.normal(size=(8, 2)), rng.normal(size=8), rng.normal(size=8)
    risk = gf.EmpiricalRisk(net, gf.squared, X, y, offset=offset)
    start = net.params([0.3, -0.2])
    options = {"step_size": 0.1, "steps": 4, "batch": 4, "key": jax.random.key(0)}
    moved = gf.descend(risk, start, sampling="reshuffled", **options)
    shifted = gf.EmpiricalRisk(net, gf.squared, X, y - offset)
    same = gf.descend(shifted, start, sampling="reshuffled", **options)
    np.testing.assert_allclose(moved.final.weight, same.final.weight, rtol=1e-13)
    with pytest.raises(ValueError, match="offset"):
        gf.descend(risk, start, **options)


# ---------------------------------------------------------------------------------------------
# Losses of several outputs


@pytest.mark.parametrize("o", [2, 3, 7])
def test_cross_entropy_against_the_definition_and_where_a_class_is_sure(o: int, rng) -> None:
    F = np.concatenate([rng.normal(size=(4, o)), 60 * rng.normal(size=(3, o))])
    F = np.concatenate([F, np.eye(o)[:1] * 900.0, -np.eye(o)[:1] * 900.0])
    P = rng.dirichlet(np.ones(o), size=len(F))
    P[::2] = np.eye(o)[rng.integers(o, size=len(P[::2]))]
    value, log = gf.cross_entropy(jnp.asarray(F), jnp.asarray(P)), gf.cross_entropy.log(F, P)
    slope = gf.cross_entropy.derivative(jnp.asarray(F), jnp.asarray(P))
    with mpmath.workdps(900):
        for i in range(len(F)):
            powers = [mpmath.exp(mpmath.mpf(z)) for z in F[i]]
            total = sum(powers)
            q = [w / total for w in powers]
            # (P sums to 1 up to rounding: the definition is taken with the rest)
            exact = -sum(p * mpmath.log(s) for p, s in zip(P[i], q, strict=True))
            assert float(value[i]) == pytest.approx(float(exact), rel=1e-14, abs=1e-307)
            assert float(log[i]) == pytest.approx(float(mpmath.log(exact)), rel=1e-14, abs=1e-14)
            for j in range(o):
                mass = sum(mpmath.mpf(p) for p in P[i])
                expected = float(mass * q[j] - mpmath.mpf(P[i, j]))
                assert float(slope[i, j]) == pytest.approx(expected, rel=1e-13, abs=1e-16)
    by_jax = jax.grad(lambda f: jnp.sum(gf.cross_entropy.log(f, jnp.asarray(P))))(jnp.asarray(F))
    assert np.all(np.isfinite(by_jax))


def test_two_classes_are_the_logistic_loss() -> None:
    f, y = jnp.asarray([-3.0, 0.4, 50.0, 800.0]), jnp.asarray([1.0, -1.0, 1.0, 1.0])
    F, P = jnp.stack([0 * f, f], axis=1), jnp.stack([(1 - y) / 2, (1 + y) / 2], axis=1)
    np.testing.assert_allclose(gf.cross_entropy(F, P), gf.logistic(f, y), rtol=1e-14)
    np.testing.assert_allclose(gf.cross_entropy.log(F, P), gf.logistic.log(f, y), rtol=1e-14)
    expected = gf.logistic.derivative(f, y)
    np.testing.assert_allclose(gf.cross_entropy.derivative(F, P)[:, 1], expected, rtol=1e-14)


def test_what_targets_each_loss_takes() -> None:
    loss, targets = gf.cross_entropy.taking("y", np.array([0, 2, 1]), 3)
    assert isinstance(loss, CrossEntropy)
    np.testing.assert_array_equal(targets, np.eye(3)[[0, 2, 1]])
    loss, targets = gf.squared.taking("y", np.ones((4, 2)), 2)
    assert isinstance(loss, SumOverOutputs)
    assert loss.taking("y", np.ones((4, 2)), 2)[0].describe() == loss.describe()
    bad = [
        (gf.cross_entropy, [0, 1, 3], 3, "y=.*np.unique"),
        (gf.cross_entropy, [0.5, 1, 2], 3, "y=.*np.unique"),
        (gf.cross_entropy, [[0.5, 0.6, 0.0]], 3, "y=.*no probabilities"),
        (gf.cross_entropy, [[0.5, 0.5]], 3, "y=.*shape"),
        (gf.cross_entropy, [0, 1], 1, "loss=.*outputs=2"),
        (gf.squared, [0.0, 1.0], 2, "y=.*shape"),
        (gf.squared, np.ones((3, 2)), 1, "y=.*outputs=2"),
        (gf.logistic, np.ones((3, 2)), 2, "loss=.*cross_entropy"),
        (gf.soft_logistic, np.ones((3, 2)), 2, "loss=.*cross_entropy"),
    ]
    for loss, value, outputs, words in bad:
        with pytest.raises(ValueError, match=rf"(?s)^{words}"):
            loss.taking("y", np.asarray(value), outputs)
