"""The arrangement of a data risk: surfaces, sums and forces against the risk and against loops."""

from __future__ import annotations

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.cells.arrangement import Arrangement
from gradflow.cells.forces import Forces
from gradflow.cells.surfaces import surfaces_of

LOSSES = [gf.logistic, gf.exponential, gf.squared]
#: (n, d, m)
SHAPES = [(1, 1, 1), (7, 3, 2), (13, 5, 1), (129, 2, 5)]


# ---------------------------------------------------------------------------------------------
# Surfaces


def naive_surfaces(X: np.ndarray, tolerance: float = 1e-12) -> list[list[int]]:
    """Groups of rows on one line, every pair compared."""
    groups: list[list[int]] = []
    for i, x in enumerate(X):
        for group in groups:
            base = X[group[0]]
            across = x / np.linalg.norm(x) - base / np.linalg.norm(base)
            along = x / np.linalg.norm(x) + base / np.linalg.norm(base)
            if min(np.linalg.norm(across), np.linalg.norm(along)) < tolerance:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def check(X: np.ndarray, groups: list[list[int]]) -> None:
    """The grouping is ``groups``, in the order of first members, and gives the rows back."""
    normals, surface, scale = surfaces_of(X)
    assert normals.shape == (len(groups), X.shape[1])
    for g, members in enumerate(groups):
        assert np.flatnonzero(surface == g).tolist() == members
        np.testing.assert_array_equal(normals[g], X[members[0]])
        assert scale[members[0]] == 1.0
    size = np.max(np.abs(X), axis=1, keepdims=True)
    assert np.max(np.abs(scale[:, None] * normals[surface] - X) / size) < 1e-13


@pytest.mark.parametrize("d", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("n", [1, 2, 7, 13, 129])
def test_surfaces_of_random_rows_with_copies(n: int, d: int) -> None:
    rng = np.random.default_rng(n + 1000 * d)
    base = rng.normal(size=(max(1, n // 2), d))
    X = base[rng.integers(len(base), size=n)]
    X = X * rng.choice([-1.0, 1.0, 3.0, -0.1, 1e5, -1e-5], size=n)[:, None]
    check(X, naive_surfaces(X))


def test_distinct_rows_keep_their_numbers() -> None:
    X = np.random.default_rng(3).normal(size=(129, 4))
    normals, surface, scale = surfaces_of(X)
    np.testing.assert_array_equal(normals, X)
    np.testing.assert_array_equal(surface, np.arange(129))
    np.testing.assert_array_equal(scale, np.ones(129))


@pytest.mark.parametrize("d", [2, 3, 50])
@pytest.mark.parametrize("gap", [1e-9, 1e-11])
def test_near_collinear_rows_stay_apart(d: int, gap: float) -> None:
    rng = np.random.default_rng(d)
    x = rng.normal(size=d)
    x /= np.linalg.norm(x)
    across = rng.normal(size=d)
    across -= across @ x * x
    across /= np.linalg.norm(across)
    X = np.stack([x, x + gap * across, -x, 2 * (x + gap * across), x - gap * across])
    check(X, [[0, 2], [1, 3], [4]])


def test_one_dimension_is_one_surface() -> None:
    X = np.random.default_rng(0).normal(size=(129, 1))
    normals, surface, scale = surfaces_of(X)
    assert normals.shape == (1, 1)
    assert not np.any(surface)
    np.testing.assert_allclose(scale, X[:, 0] / X[0, 0], rtol=1e-15)


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e160, 1e200])
def test_sizes_far_from_one(size: float) -> None:
    X = size * np.array([[1.0, 2.0], [3.0, -1.0], [-2.0, -4.0], [1.0, 2.0 + 1e-9]])
    check(X, [[0, 2], [1], [3]])


def test_a_zero_row_is_on_the_first_surface_with_scale_zero() -> None:
    X = np.array([[0.0, 0.0], [1.0, 2.0], [-2.0, -4.0], [1.0, 0.0]])
    normals, surface, scale = surfaces_of(X)
    np.testing.assert_array_equal(normals, X[[1, 3]])
    np.testing.assert_array_equal(surface, [0, 0, 0, 1])
    np.testing.assert_array_equal(scale, [0.0, 1.0, -2.0, 1.0])


def test_small_integers_and_signs() -> None:
    """Data on a grid: many rows on few lines, many equal products."""
    grid = np.array([[a, b, c] for a in range(-3, 4) for b in range(-3, 4) for c in range(-3, 4)])
    X = grid[np.any(grid != 0, axis=1)].astype(float)
    check(X, naive_surfaces(X))


def test_many_data_are_grouped_fast() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 100))
    X[2500:] = -3.0 * X[:2500]
    for rows, count in ((X, 2500), (X[:, :1], 1), (np.repeat(X[:50], 100, axis=0), 50)):
        started = time.process_time()
        normals, _, _ = surfaces_of(rows)
        assert time.process_time() - started < 2.0
        assert len(normals) == count


# ---------------------------------------------------------------------------------------------
# The arrangement of a risk


def instance(
    shape: tuple[int, int, int],
    loss: object = gf.logistic,
    *,
    shared: bool = False,
    slope: float = 0.25,
    outer: str = "trained",
    bias: bool = False,
    reduction: str = "mean",
    weights: bool = True,
    scale: float = 0.8,
) -> tuple[gf.EmpiricalRisk, object, Arrangement]:
    n, d, m = shape
    rng = np.random.default_rng(n + 1000 * d)
    X = rng.normal(size=(n, d))
    if shared:
        # About half of the data lie on lines of others: copies, antipodal, multiples.
        chosen = rng.integers(n, size=n // 2)
        X[n - n // 2 :] = X[chosen] * rng.choice([1.0, -1.0, 2.5, -0.5], size=n // 2)[:, None]
    y = rng.normal(size=n) if loss is gf.squared else np.where(rng.random(n) < 0.5, -1.0, 1.0)
    net = gf.TwoLayer(d, m, gf.leaky_relu(slope), outer=outer, bias=bias)
    omega = rng.uniform(0.1, 5.0, size=n) if weights else None
    risk = gf.EmpiricalRisk(net, loss, X, y, reduction, omega)
    params = net.init(jax.random.key(n), scale)
    at = risk.arrangement
    assert at is not None
    return risk, params, at


def sums(at: Arrangement, params: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A⁺, A⁻ and h_kg, one neuron and one surface after the other."""
    W, a = at.split(params)
    normals = at.normals
    plus, minus = np.zeros(len(normals)), np.zeros(len(normals))
    h = np.zeros((len(a), len(normals)))
    for k in range(len(a)):
        for g in range(len(normals)):
            h[k, g] = float(np.dot(W[k], normals[g]))
            plus[g] += a[k] * max(h[k, g], 0.0)
            minus[g] += a[k] * min(h[k, g], 0.0)
    return plus, minus, h


def gradient_by_forces(at: Arrangement, params: object, per_loss: bool) -> tuple:
    """−dw, −da of the flow, and ln L, from what the protocol gives."""
    _, a = at.split(params)
    plus, minus, h = sums(at, params)
    up, down, log_risk = Forces.of(at)(jnp.asarray(plus), jnp.asarray(minus), per_loss)
    force = np.where(h > 0, np.asarray(up), np.asarray(down))
    dW = -a[:, None] * (force @ at.normals)
    return dW, -np.sum(force * h, axis=1), float(log_risk)


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forces_are_the_gradient_of_the_risk(shape, loss, shared) -> None:
    case = SHAPES.index(shape) + LOSSES.index(loss) + shared
    risk, params, at = instance(
        shape, loss, shared=shared, bias=case % 4 < 2, outer=("trained", "fixed")[case % 2],
        reduction=("mean", "sum")[case % 3 % 2], weights=case % 3 > 0,
    )  # fmt: skip
    assert at.trained == (risk.net.outer == "trained")
    for per_loss, whole in ((False, risk.gradient(params)), (True, risk.log_gradient(params))):
        dW, da, log_risk = gradient_by_forces(at, params, per_loss)
        assert log_risk == pytest.approx(float(risk.log(params)), rel=1e-12, abs=1e-13)
        inner, outer = at.split(whole)
        top = np.max(np.abs(inner))
        np.testing.assert_allclose(dW, inner, rtol=1e-10, atol=1e-13 * top)
        if at.trained:
            np.testing.assert_allclose(da, outer, rtol=1e-10, atol=1e-13 * top)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_predictions_margins_and_data_come_back(shape: tuple[int, int, int]) -> None:
    risk, params, at = instance(shape, shared=True, bias=True)
    plus, minus, _ = sums(at, params)
    found = Forces.of(at).predictions(jnp.asarray(plus), jnp.asarray(minus))
    np.testing.assert_allclose(found, risk.net(params, risk.X), rtol=1e-12, atol=1e-13)
    ones = np.ones((risk.n, 1))
    np.testing.assert_allclose(at.inputs, np.hstack([risk.X, ones]), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("multiple", [1.0, -1.0, 3.0, -0.2])
def test_two_data_on_one_surface(multiple: float, slope: float) -> None:
    """x and cx: f = Σ a φ(w·x) and Σ a φ(c w·x) from the two sums of one surface."""
    x = np.array([0.6, -0.3])
    net = gf.TwoLayer(2, 3, gf.leaky_relu(slope))
    risk = gf.EmpiricalRisk(net, gf.exponential, np.stack([x, multiple * x]), [1.0, -1.0])
    at = risk.arrangement
    assert at is not None
    assert at.normals.shape == (1, 2)
    assert not at.plain
    params = net.params([[1.0, 0.2], [-0.5, 0.4], [0.1, -1.0]], [0.7, -0.4, 1.3])
    dW, da, log_risk = gradient_by_forces(at, params, False)
    gradient = risk.gradient(params)
    np.testing.assert_allclose(dW, gradient.inner, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(da, gradient.outer, rtol=1e-13, atol=1e-15)
    assert log_risk == pytest.approx(float(risk.log(params)), rel=1e-14, abs=1e-15)


def test_one_dimension_is_one_surface_of_a_risk() -> None:
    risk, params, at = instance((13, 1, 4))
    assert at.normals.shape == (1, 1)
    dW, da, _ = gradient_by_forces(at, params, False)
    np.testing.assert_allclose(dW, risk.gradient(params).inner, rtol=1e-12)
    np.testing.assert_allclose(da, risk.gradient(params).outer, rtol=1e-12)
    # With a bias every point of the line is a surface of its own.
    assert instance((13, 1, 4), bias=True)[2].plain


@pytest.mark.parametrize("loss", [gf.logistic, gf.exponential], ids=lambda loss: loss.name)
def test_forces_survive_losses_of_e_to_minus_ten_million(loss: object) -> None:
    risk, _, _ = instance((2, 2, 1))
    X = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    risk = gf.EmpiricalRisk(gf.TwoLayer(2, 1, gf.relu), loss, X, np.ones(3), "sum", [2.0, 3.0, 5.0])
    at = risk.arrangement
    assert at is not None
    dW, da, log_risk = gradient_by_forces(at, risk.net.params([[1e4, 0.0]], [1e3]), True)
    assert log_risk == pytest.approx(-1e7 + math.log(5.0), rel=1e-15)
    np.testing.assert_allclose(dW, [[-1e3, -0.6e3]], rtol=1e-8)
    np.testing.assert_allclose(da, [-1e4], rtol=1e-8)
    assert not np.any(gradient_by_forces(at, risk.net.params([[1e4, 0.0]], [1e3]), False)[0])


def test_squared_loss_below_the_smallest_float() -> None:
    """f − y = 1e-170: L underflows, −∇ ln L = −2/(f − y) does not."""
    risk = gf.EmpiricalRisk(gf.TwoLayer(1, 1, gf.relu), gf.squared, [[1.0]], [0.0])
    at = risk.arrangement
    assert at is not None
    up, _, log_risk = Forces.of(at)(jnp.asarray([1e-170]), jnp.zeros(1), True)
    assert float(log_risk) == pytest.approx(2 * math.log(1e-170) - math.log(2), rel=1e-14)
    up, _, _ = Forces.of(at)(jnp.asarray([1e-150]), jnp.zeros(1), True)
    assert float(up[0]) == pytest.approx(-2e150, rel=1e-11)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_split_and_join_are_inverse_over_leading_axes(bias: bool) -> None:
    risk, params, at = instance((7, 3, 2), bias=bias)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), params)
    for tree, lead in ((params, ()), (stacked, (3,))):
        W, a = at.split(tree)
        assert W.shape == (*lead, 2, 3 + bias)
        back = at.join(W, a)
        assert jax.tree.structure(back) == jax.tree.structure(tree)
        for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
            np.testing.assert_array_equal(one, other)
    assert risk.net.as_params(at.join(*at.split(params))) is not None


def test_the_linear_predictor_is_one_neuron_without_kinks() -> None:
    X, y = np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([1.0, -1.0])
    risk = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.logistic, X, y)
    at = risk.arrangement
    assert at is not None
    assert at.slope == 1.0
    assert not at.trained
    assert at.degree == 1
    params = risk.net.params([0.3, -0.7])
    dW, _, _ = gradient_by_forces(at, params, False)
    np.testing.assert_allclose(dW[0], risk.gradient(params).weight, rtol=1e-14)
    np.testing.assert_array_equal(at.join(*at.split(params)).weight, params.weight)


def test_it_is_made_once_and_is_no_part_of_a_risk_s_structure() -> None:
    """Risks on other data of one shape share compiled programs, whatever has been asked of them."""
    X, y = np.random.default_rng(0).normal(size=(2, 5, 3)), np.ones(5)
    one, other = (gf.EmpiricalRisk(gf.TwoLayer(3, 2, gf.relu), gf.squared, x, y) for x in X)
    assert one.arrangement is one.arrangement
    np.testing.assert_array_equal(one.arrangement.inputs, X[0])
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert [leaf.shape for leaf in jax.tree.leaves(one)] == [(5, 3), (5,)]


def test_degree_and_losses() -> None:
    assert instance((7, 3, 2))[2].degree == 2
    assert instance((7, 3, 2), outer="fixed")[2].degree == 1
    assert instance((7, 3, 2))[2].margin_loss
    assert not instance((7, 3, 2), gf.squared)[2].margin_loss


def test_risks_without_kinks_of_this_kind() -> None:
    X, y = np.array([[1.0, 2.0]]), np.array([1.0])
    nets = [gf.TwoLayer(2, 3, gf.tanh), gf.DeepLinear(2, 2, width=2)]
    assert all(gf.EmpiricalRisk(net, gf.logistic, X, y).arrangement is None for net in nets)
    assert gf.FunctionRisk(lambda p: jnp.sum(p**2)).arrangement is None
