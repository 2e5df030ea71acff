"""Symmetric and hinted data: what their docstrings promise, exactly."""

from __future__ import annotations

import numpy as np
import pytest

import gradflow as gf


@pytest.mark.parametrize(("n", "dim"), [(2, 1), (4, 2), (10, 2), (14, 3), (40, 17)])
@pytest.mark.parametrize("margin", [0.01, 0.5, 3.0])
def test_symmetric_data_have_the_margin_that_was_asked_for(n, dim, margin):
    X, y = gf.datasets.symmetric(n, dim=dim, margin=margin, spread=0.7, seed=3)
    assert X.shape == (n, dim)
    assert y.shape == (n,)
    rows = {(*x, label) for x, label in zip(X.tolist(), y.tolist(), strict=True)}
    assert rows == {tuple(-v for v in row) for row in rows}
    svm = gf.certificates.hard_margin_svm(X, y)
    assert svm.margin == pytest.approx(margin, rel=1e-13)
    np.testing.assert_allclose(svm.direction, np.eye(dim)[0], atol=1e-12)
    # no rounding in what is promised exactly
    assert np.min(y * X[:, 0]) == margin


def test_same_seed_same_bits_and_other_seeds_other_data():
    one, same, other = (gf.datasets.symmetric(12, dim=3, seed=seed) for seed in (4, 4, 5))
    assert np.array_equal(one.X, same.X)
    assert np.array_equal(one.y, same.y)
    assert not np.array_equal(one.X, other.X)


@pytest.mark.parametrize("direction", [None, np.array([0.6, -0.8]), np.array([-1.0, 0.0])])
def test_hinted_data(direction):
    H, K, eps = 5.0, 0.9, 0.1
    X, y = gf.datasets.hinted(H, K, eps, direction=direction)
    star = np.array([1.0, 0.0]) if direction is None else direction
    np.testing.assert_array_equal(y, np.ones(3))
    np.testing.assert_allclose(X @ star, [H, eps, eps], atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1) ** 2, [H**2, *[eps**2 + K**2] * 2])
    np.testing.assert_allclose(X[1] + X[2], 2 * eps * star, atol=1e-15)
    svm = gf.certificates.hard_margin_svm(X, y)
    assert svm.margin == pytest.approx(eps, rel=1e-13)
    np.testing.assert_allclose(svm.direction, star, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: gf.datasets.symmetric(7), "n"),
        (lambda: gf.datasets.symmetric(2, dim=2), "n"),
        (lambda: gf.datasets.symmetric(True), "n"),
        (lambda: gf.datasets.symmetric(10, dim=0), "dim"),
        (lambda: gf.datasets.symmetric(margin=0.0), "margin"),
        (lambda: gf.datasets.symmetric(spread=-1.0), "spread"),
        (lambda: gf.datasets.symmetric(seed=-1), "seed"),
        (lambda: gf.datasets.hinted(0.05, 0.9, 0.1), "H"),
        (lambda: gf.datasets.hinted(5.0, 0.0, 0.1), "K"),
        (lambda: gf.datasets.hinted(5.0, 0.9, float("nan")), "eps"),
        (lambda: gf.datasets.hinted(direction=[1.0, 1.0]), "direction"),
        (lambda: gf.datasets.hinted(direction=[1.0, 0.0, 0.0]), "direction"),
    ],
)
def test_bad_input_is_named(make, argument):
    with pytest.raises(ValueError, match=f"^{argument}="):
        make()
