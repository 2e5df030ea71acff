"""Linearly separable data: what each law promises, seeds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gradflow import certificates, datasets

DRAWS = [datasets.two_balls, datasets.separable_gaussians, datasets.orthogonally_separable]


@pytest.mark.parametrize("draw", DRAWS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("n", "dim"), [(2, 1), (7, 2), (40, 5)])
def test_shapes_labels_and_separation(draw, n, dim):
    X, y = draw(n, dim=dim, seed=3)
    assert X.shape == (n, dim)
    assert X.dtype == y.dtype == np.float64
    assert np.sum(y > 0) == (n + 1) // 2
    assert np.all(y * X[:, 0] > 0)
    assert certificates.separable(X, y).separable


@pytest.mark.parametrize("draw", DRAWS, ids=lambda f: f.__name__)
def test_same_seed_same_bits(draw):
    assert np.array_equal(draw(9, seed=5).X, draw(9, seed=5).X)
    assert not np.array_equal(draw(9, seed=5).X, draw(9, seed=6).X)


def test_two_balls_are_uniform_in_balls():
    X, y = datasets.two_balls(20_000, dim=3, centre=2.0, radius=0.5, seed=1)
    away = X - 2.0 * y[:, None] * np.eye(3)[0]
    radius = np.linalg.norm(away, axis=1)
    assert radius.max() < 0.5
    # E r = R d/(d+1), Var r = R² (d/(d+2) − d²/(d+1)²)
    error = 0.5 * np.sqrt((3 / 5 - 9 / 16) / 20_000)
    assert abs(radius.mean() - 0.5 * 3 / 4) < 4 * error
    assert np.linalg.norm(away.mean(axis=0)) < 4 * 0.5 * np.sqrt(3 / 5 / 20_000)


def test_defaults_are_the_sources_settings():
    X, y = datasets.two_balls()
    assert X.shape == (500, 2)
    assert np.linalg.norm(X - 0.5 * y[:, None] * np.eye(2)[0], axis=1).max() <= 0.2


def test_gaussians_have_their_margin_and_their_law_across():
    X, y = datasets.separable_gaussians(20_000, centre=0.3, std=0.5, margin=0.2, seed=2)
    along = y * X[:, 0]
    assert along.min() >= 0.2
    # the mean of a normal cut at 0.2: μ + σ φ(z)/Φ(−z), z = (0.2 − μ)/σ
    z = (0.2 - 0.3) / 0.5
    density, tail = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), 0.5793
    assert along.mean() == pytest.approx(0.3 + 0.5 * density / tail, abs=0.01)
    assert X[:, 1].std() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("dim", [1, 2, 6])
def test_all_pairs_are_orthogonally_separable(dim):
    X, y = datasets.orthogonally_separable(60, dim=dim, half_angle=0.78, radii=(0.2, 2.0), seed=4)
    signed = y[:, None] * X
    assert (signed @ signed.T).min() > 0
    norms = np.linalg.norm(X, axis=1)
    assert norms.min() >= 0.2
    assert norms.max() <= 2.0


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: datasets.two_balls(1), "n"),
        (lambda: datasets.two_balls(10, dim=0), "dim"),
        (lambda: datasets.two_balls(10, radius=0.5), "radius"),
        (lambda: datasets.two_balls(10, radius=-0.1), "radius"),
        (lambda: datasets.two_balls(10, centre=float("nan")), "centre"),
        (lambda: datasets.two_balls(10, seed=-1), "seed"),
        (lambda: datasets.separable_gaussians(10, std=0), "std"),
        (lambda: datasets.separable_gaussians(10, margin=5.0), "margin"),
        (lambda: datasets.separable_gaussians(10, margin=0.0), "margin"),
        (lambda: datasets.separable_gaussians(2.5), "n"),  # type: ignore[arg-type]
        (lambda: datasets.orthogonally_separable(10, half_angle=0.8), "half_angle"),
        (lambda: datasets.orthogonally_separable(10, radii=(2.0, 1.0)), "radii"),
        (lambda: datasets.orthogonally_separable(10, radii=1.0), "radii"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused(call, argument):
    with pytest.raises(ValueError, match=f"^{argument}="):
        call()
