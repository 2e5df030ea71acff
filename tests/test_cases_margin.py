"""Published experiments on wide nets and on unbalanced starts, repeated at small sizes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.certificates import global_max_margin, hard_margin_svm

# `chizat2020implicit`: wide two-layer ReLU nets with biases, logistic loss, k² clusters of
# alternating labels (the source: k = 3, n = 256, d = 15; here without the dimensions of pure noise,
# where the largest margin over nets of any width is known exactly).


def _clusters(n, rng, k=3):
    cell = rng.integers(0, k, size=(n, 2))
    X = (cell - (k - 1) / 2 + rng.uniform(-0.35, 0.35, size=(n, 2))) / k
    return X, np.where(np.sum(cell, axis=1) % 2 == 0, 1.0, -1.0)


def _on_the_sphere(width, rng):
    V = rng.normal(size=(width, 3))
    return V / np.linalg.norm(V, axis=1, keepdims=True), rng.choice([-1.0, 1.0], size=width)


@pytest.mark.slow
def test_the_variation_norm_margin_of_wide_nets_approaches_its_maximum_and_beats_fixed_features():
    X, y = _clusters(16, np.random.default_rng(0))
    fresh_X, fresh_y = _clusters(4000, np.random.default_rng(1))
    shares, errors, best = {}, {}, None
    for width in (12, 48):
        net = gf.TwoLayer(2, width, gf.relu, bias=True)
        risk = gf.EmpiricalRisk(net, gf.logistic, X, y)
        best = global_max_margin(risk) if best is None else best
        assert best.upper - best.lower < 1e-9 * best.upper
        for seed in range(3):
            V, signs = _on_the_sphere(width, np.random.default_rng(seed))
            rows = V / np.sqrt(width)
            start = net.params(rows[:, :2], signs / np.sqrt(width), rows[:, 2])
            path = gf.integrate(risk, start, until=gf.until.log_time(1e6), rtol=1e-5)
            limit = gf.certify(path)
            if not limit.accepted:  # a net this narrow need not separate the data
                assert width == 12
                continue
            # no net has a larger margin; θ of unit norm has Σ|a_k||(w_k, b_k)| = 1/2
            assert limit.normalised_margin <= best.upper * (1 + 1e-9)
            shares.setdefault(width, []).append(limit.normalised_margin / best.margin)
            if width == 48:
                f = np.asarray(net(limit.params, jnp.asarray(fresh_X)))
                errors.setdefault("both", []).append(np.mean(np.sign(f) != fresh_y))

                # the output layer alone: a linear predictor of fixed features, whose limit is the
                # hard-margin SVM (Σ|c_j| = 1/2 to compare)
                def features(points, V=V):
                    return np.maximum(np.c_[points, np.ones(len(points))] @ V.T, 0.0)

                svm = hard_margin_svm(features(X), y)
                assert svm.separable
                margin = svm.margin / (2 * np.sum(np.abs(svm.direction)))
                assert margin < limit.normalised_margin
                f = features(fresh_X) @ svm.direction
                errors.setdefault("outer", []).append(np.mean(np.sign(f) != fresh_y))
    assert np.mean(shares[48]) > np.mean(shares[12])
    assert np.min(shares[48]) > 0.8
    assert np.mean(errors["both"]) < np.mean(errors["outer"])


# `kunin2024rich`: unbalanced starts. A student of 50 ReLU neurons, a teacher of 3, d = 2, n = 20,
# |a_k| = τ/α, |w_k| = τα, so that a_k² - |w_k|² = τ²(α⁻² - α²) is conserved; f = 0 at the start.


def _student(tau, alpha, seed, width=50, n=20):
    rng = np.random.default_rng(seed)
    teacher, X = rng.normal(size=(3, 2)), rng.normal(size=(n, 2))
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = np.maximum(X @ teacher.T, 0.0) @ rng.choice([-1.0, 1.0], size=3)
    U = rng.normal(size=(width // 2, 2))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    # (τ is that of the sum over k divided by √m)
    size = tau * width**-0.25
    net = gf.TwoLayer(2, width, gf.relu)
    start = net.params(
        size * alpha * np.concatenate([U, U]), size / alpha * np.repeat([1.0, -1.0], width // 2)
    )
    risk = gf.EmpiricalRisk(net, gf.squared, X, y)
    until = gf.until.loss(1e-4) | gf.until.time(1e3)
    path = gf.integrate(risk, start, until=until, rtol=1e-6)
    assert path.result.ok
    conserved = size**2 * (alpha**-2 - alpha**2)
    kept = path.observe("balancedness")
    top = np.max(np.abs(np.asarray(path.params.outer))) ** 2
    np.testing.assert_allclose(kept, conserved, rtol=0, atol=1e-5 * max(top, size**2))
    sides = path.observe("activation_pattern")
    return path, float(np.mean(sides[0] != sides[-1]))


@pytest.mark.slow
def test_a_large_second_layer_makes_the_first_one_learn_features():
    turned = {}
    for tau in (0.1, 2.0):
        for alpha in (0.5, 1.0, 2.0):
            runs = [_student(tau, alpha, seed) for seed in range(3)]
            turned[tau, alpha] = np.mean([share for _, share in runs])
            if tau == 2.0:
                assert all(path.stopped_by.startswith("loss") for path, _ in runs)
                turned["time", alpha] = np.mean([path.t_final for path, _ in runs])
    # The share of activations that change: less and less as the first layer outweighs the second,
    for tau in (0.1, 2.0):
        assert turned[tau, 0.5] > turned[tau, 1.0] > turned[tau, 2.0]
    # and far more from small starts (rich) than from large ones (lazy).
    for alpha in (0.5, 1.0, 2.0):
        assert turned[0.1, alpha] > 5 * turned[2.0, alpha]
    # At the large scale the outweighing second layer is also the fastest.
    assert turned["time", 0.5] < turned["time", 1.0] < turned["time", 2.0]
