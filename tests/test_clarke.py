"""The velocity on kinks: two routes to it, multipliers, neurons at zero; the gradient's norm."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import gradflow as gf
from gradflow.cells.clarke import clarke
from gradflow.cells.pattern import Pattern
from gradflow.observables import observe


def regression(seed: int = 0) -> tuple[gf.EmpiricalRisk, object]:
    """A ReLU regression whose neurons come to slide on many surfaces."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    risk = gf.EmpiricalRisk(gf.TwoLayer(3, 5, gf.relu), gf.squared, X, y)
    return risk, risk.net.init(jax.random.key(seed), 0.5)


@pytest.fixture(scope="module")
def sliding() -> gf.Trajectory:
    risk, start = regression()
    return gf.integrate(risk, start, until=gf.until.time(100.1), save_at=[10.0, 99.9, 100.0, 100.1])


def velocity(risk: gf.EmpiricalRisk, params: object):
    """The velocity at parameters, and the pattern there (squared loss)."""
    at = risk.arrangement
    W, a = at.split(params)
    pulls = np.exp(at.log_weights) * (at.y - at.predictions(W, a))
    pattern = Pattern.at(at, W)
    return clarke(pattern, W, a, at.per_surface(pulls)), pattern, W, a


def test_the_gradient_norm_of_a_sliding_flow_is_its_speed(sliding) -> None:
    """Against differences of the path (one step of it is enough to err by 1e-3 or so)."""
    assert [event.kind for event in sliding.events].count("slide-in") > 5
    ends = [np.asarray(leaf) for leaf in jax.tree.leaves(sliding.params)]
    moved = np.sqrt(sum(np.sum((leaf[3] - leaf[1]) ** 2) for leaf in ends))
    assert sliding.observe("gradient_norm")[2] == pytest.approx(moved / 0.2, rel=1e-5)
    # what the energy, integrated beside the flow, says
    spent = np.diff(sliding.energy)[1:] / np.diff(sliding.t)[1:]
    assert sliding.observe("gradient_norm")[2] ** 2 == pytest.approx(np.mean(spent), rel=1e-4)


def test_a_sliding_flow_stops_where_it_is_slow() -> None:
    """The gradient of one side never falls below 0.2 on the way."""
    risk, start = regression()
    path = gf.integrate(risk, start, until=gf.until.gradient(0.021) | gf.until.time(200.0))
    assert path.stopped_by == "gradient(0.021)"
    assert path.observe("gradient_norm")[-1] == pytest.approx(0.021, rel=1e-9)
    sides = jax.tree.leaves(risk.gradient(path.final))
    assert np.sqrt(sum(np.sum(np.square(leaf)) for leaf in sides)) > 0.2


def test_a_saved_path_has_the_same_gradient_norm(sliding, tmp_path) -> None:
    sliding.save(tmp_path / "path.nc")
    np.testing.assert_allclose(
        gf.load(tmp_path / "path.nc").observe("gradient_norm"), sliding.observe("gradient_norm"),
        rtol=1e-12,
    )  # fmt: skip


def test_multipliers_hold_a_sliding_neuron_on_its_surfaces(sliding) -> None:
    found, pattern, _, _ = velocity(sliding.risk, sliding.final)
    on = pattern.sides == 0
    assert np.sum(on) >= 5
    assert np.all(found.branches == 1)
    assert np.all((found.nu[on] > 0) & (found.nu[on] < 1))
    rates = pattern.arrangement.heights(found.dW)
    assert np.max(np.abs(rates[on])) < 1e-13
    np.testing.assert_array_equal(found.nu[~on], pattern.sides[~on] > 0)


@pytest.mark.parametrize("outer", ["trained", "fixed"])
@pytest.mark.parametrize(
    "loss", [gf.logistic, gf.exponential, gf.squared], ids=lambda loss: loss.name
)
def test_off_the_surfaces_it_is_the_gradient(loss, outer) -> None:
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(7, 3)), np.where(rng.random(7) < 0.5, -1.0, 1.0)
    X[3], X[5] = -2 * X[0], 0.5 * X[1]
    net = gf.TwoLayer(3, 4, gf.leaky_relu(0.2), outer=outer, bias=True)
    risk = gf.EmpiricalRisk(net, loss, X, y)
    rows = [net.init(jax.random.key(seed), 0.7) for seed in range(3)]
    path = SimpleNamespace(risk=risk, params=jax.tree.map(lambda *x: np.stack(x), *rows))
    expected = [
        np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(risk.gradient(row))))
        for row in rows
    ]
    np.testing.assert_allclose(observe(path, "gradient_norm"), expected, rtol=1e-12)


def test_a_neuron_at_zero_leaves_along_the_field_of_the_cell_it_points_into() -> None:
    """Two orthogonal data that pull up: a > 0 leaves with slope 1, a < 0 with slope 1/2."""
    risk = gf.EmpiricalRisk(gf.TwoLayer(2, 2, gf.leaky_relu(0.5)), gf.squared, np.eye(2), [0.0, 0])
    at, W, a = risk.arrangement, np.zeros((2, 2)), np.array([1.0, -1.0])
    found = clarke(Pattern.at(at, W), W, a, at.per_surface(np.array([1.0, 2.0])))
    np.testing.assert_allclose(found.dW, [[1.0, 2.0], [-0.5, -1.0]], atol=1e-15)
    np.testing.assert_array_equal(found.nu, [[1.0, 1.0], [0.0, 0.0]])


def test_a_neuron_at_zero_rests_where_opposite_pulls_hold_it() -> None:
    risk = gf.EmpiricalRisk(gf.TwoLayer(1, 2, gf.relu), gf.squared, [[1.0]], [0.0])
    at, W = risk.arrangement, np.zeros((2, 1))
    for a in ([-1.0, 0.0], [1.0, 0.0]):
        found = clarke(Pattern.at(at, W), W, np.array(a), at.per_surface(np.array([-a[0]])))
        assert found.speed == 0.0
