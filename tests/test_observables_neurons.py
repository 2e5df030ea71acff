"""Observables of neurons against naive loops, at awkward sizes and from 1e-200 to 1e150."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import gradflow as gf
from gradflow import observables
from gradflow.networks.parameters import DeepLinearParams, LinearParams, TwoLayerParams

observe = observables.observe

#: (times, neurons, inputs)
SIZES = [(1, 1, 1), (3, 7, 1), (2, 1, 5), (5, 13, 3), (2, 129, 2)]
SCALES = [1e-200, 1.0, 1e150]


def path_of(inner, outer, bias=None, risk=None):
    return SimpleNamespace(risk=risk, params=TwoLayerParams(inner, outer, bias))


def random_path(size, scale=1.0, *, bias=False, seed=0):
    rng = np.random.default_rng(seed)
    T, m, d = size
    shift = scale * rng.normal(size=(T, m)) if bias else None
    return path_of(scale * rng.normal(size=(T, m, d)), rng.normal(size=(T, m)), shift)


def rows(path, *, bias=False):
    """Every neuron as a list of Python floats, [time][neuron]."""
    out = []
    for t, w in enumerate(path.params.inner):
        extra = path.params.bias is not None and bias
        out.append([[*map(float, w[k]), *([float(path.params.bias[t, k])] if extra else [])]
                    for k in range(len(w))])  # fmt: skip
    return out


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_norms_directions_and_masses_against_loops(size, scale, bias):
    path = random_path(size, scale, bias=bias)
    outer = path.params.outer
    plain, full = rows(path), rows(path, bias=True)
    norms = np.array([[math.hypot(*w) for w in one] for one in plain])
    np.testing.assert_allclose(observe(path, "neuron_norms"), norms, rtol=1e-14)
    full_norms = np.array([[math.hypot(*w) for w in one] for one in full])
    np.testing.assert_allclose(observe(path, "signed_masses"), outer * full_norms, rtol=1e-14)
    masses = observe(path, "neuron_masses")
    np.testing.assert_allclose(masses, abs(outer) * full_norms, rtol=1e-14)
    np.testing.assert_allclose(observe(path, "variation_norm"), masses.sum(axis=1), rtol=1e-14)
    logs = observe(path, "log_neuron_masses")
    np.testing.assert_allclose(
        logs, np.log(abs(outer)) + np.log(full_norms), rtol=1e-14, atol=1e-15
    )
    for option, lists, sizes in ((False, plain, norms), (True, full, full_norms)):
        found = observe(path, "neuron_directions", bias=option)
        np.testing.assert_allclose(found, np.array(lists) / sizes[..., None], rtol=1e-14)


def test_masses_whose_product_underflows():
    path = path_of(np.full((1, 1, 2), 1e-200), np.array([[-1e-250]]))
    assert observe(path, "neuron_masses")[0, 0] == 0.0
    expected = math.log(math.sqrt(2)) - 450 * math.log(10)
    assert observe(path, "log_neuron_masses")[0, 0] == pytest.approx(expected, rel=1e-15)
    dead = path_of(np.zeros((1, 1, 2)), np.zeros((1, 1)))
    assert observe(dead, "log_neuron_masses")[0, 0] == -math.inf


def naive_angle(w, e):
    """From the cosine: a second route, good to 1e-7 or so away from 0 and pi."""
    top = max(map(abs, w))
    dot = sum(x * y for x, y in zip(w, e, strict=True)) / top
    cosine = dot / (math.hypot(*(x / top for x in w)) * math.hypot(*e))
    return math.acos(max(-1.0, min(1.0, cosine)))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_angles_to_directions_against_loops(size, scale):
    path = random_path(size, scale)
    directions = 3e5 * np.random.default_rng(1).normal(size=(4, size[2]))
    found = observe(path, "angles_to", directions=directions)
    assert found.shape == (*size[:2], 4)
    expected = [[[naive_angle(w, e) for e in directions] for w in one] for one in rows(path)]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert np.array_equal(found[..., 2:3], observe(path, "angles_to", directions=directions[2:3]))


ANGLES = [0.0, 1e-300, 1e-150, 1e-9, 0.3, 1.5, 3.0, math.pi - 1e-9]


@pytest.mark.parametrize(
    ("angle", "scale"),
    # (an entry scale·sin(angle) must be a float64)
    [(a, s) for a in ANGLES for s in SCALES if a == 0 or a * s > 1e-305],
)
def test_angles_cancel_nowhere(angle, scale):
    w = scale * np.array([[[math.cos(angle), math.sin(angle)]]])
    found = observe(path_of(w, np.ones((1, 1))), "angles_to", directions=[[7.0, 0.0]])
    np.testing.assert_allclose(found, [[[angle]]], rtol=2e-15)


def test_directions_with_a_bias_entry_and_a_dead_neuron():
    path = path_of(np.array([[[1.0, 0.0], [0.0, 0.0]]]), np.ones((1, 2)), np.array([[1.0, 0.0]]))
    plain = observe(path, "angles_to", directions=[[0.0, 1.0]])[0, :, 0]
    assert plain[0] == pytest.approx(math.pi / 2, rel=1e-15)
    assert math.isnan(plain[1])
    full = observe(path, "angles_to", directions=[[1.0, 0.0, 0.0]])[0, :, 0]
    assert full[0] == pytest.approx(math.pi / 4, rel=1e-15)
    assert np.isnan(observe(path, "neuron_directions")[0, 1]).all()


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_clusters_against_loops(size, scale, bias):
    path = random_path(size, scale, bias=bias)
    spread = observe(path, "cluster_spread", bias=bias)
    log_tan = observe(path, "log_tan_half_angle_to_mean", bias=bias)
    assert spread.shape == (size[0], 2)
    for t, one in enumerate(rows(path, bias=bias)):
        for column, positive in enumerate((True, False)):
            members = [k for k in range(size[1]) if (path.params.outer[t, k] >= 0) == positive]
            if not members:
                assert math.isnan(spread[t, column])
                continue
            group = [[x / scale for x in one[k]] for k in members]
            mean = [math.fsum(entries) / len(group) for entries in zip(*group, strict=True)]
            away = [math.dist(w, mean) for w in group]
            assert spread[t, column] == pytest.approx(max(away) / math.hypot(*mean), rel=1e-12)
            for k in members:
                if len(members) > 1:
                    angle = 2 * math.atan(math.exp(log_tan[t, k]))
                    assert angle == pytest.approx(naive_angle(one[k], mean), abs=1e-7)


def test_a_cluster_closes():
    """Neurons at w(1 + eps c_j): the spread is eps max|c_j| and one cluster has none."""
    inner = np.array([[[2.0, 0.0], [2.0, 2e-30], [0.0, 5.0]]])
    path = path_of(inner, np.array([[1.0, 1.0, -1.0]]))
    np.testing.assert_allclose(observe(path, "cluster_spread"), [[0.5e-30, 0.0]], rtol=1e-14)
    log_tan = observe(path, "log_tan_half_angle_to_mean")
    np.testing.assert_allclose(log_tan[0, :2], math.log(0.25e-30), rtol=1e-14)
    assert log_tan[0, 2] == -math.inf


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_stable_rank_against_the_power_method(size, scale):
    path = random_path(size, scale)
    for t, one in enumerate(np.array(rows(path)) / scale):
        largest = max(np.linalg.eigvalsh(one.T @ one))
        expected = np.sum(one**2) / largest
        assert observe(path, "stable_rank")[t] == pytest.approx(expected, rel=1e-12)


def test_stable_rank_of_known_matrices():
    inner = np.stack([np.eye(3), np.outer([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), np.zeros((3, 3))])
    found = observe(path_of(inner, np.ones((3, 3))), "stable_rank")
    np.testing.assert_allclose(found[:2], [3.0, 1.0], rtol=1e-14)
    assert math.isnan(found[2])


@pytest.mark.parametrize("scale", [1e-200, 1e150])
@pytest.mark.parametrize("angle", [1e-9, 0.3, 2.9])
def test_angle_to_the_teacher_does_not_depend_on_the_size(scale, angle):
    w = scale * np.array([[[math.sin(angle), math.cos(angle)]]])
    risk = SimpleNamespace(teacher=SimpleNamespace(direction=np.array([0.0, 1.0])))
    found = observe(path_of(w, np.ones((1, 1)), risk=risk), "log_tan_half_angle")
    assert found[0, 0] == pytest.approx(math.log(math.tan(angle / 2)), rel=1e-12)


def test_linear_nets_are_one_neuron_of_outer_weight_one():
    weight = np.array([[3.0, 4.0], [0.0, -2.0]])
    deep = (np.stack([np.eye(2)] * 2), weight[:, None, :])
    for params in (LinearParams(weight), DeepLinearParams(deep)):
        path = SimpleNamespace(risk=None, params=params)
        np.testing.assert_array_equal(observe(path, "signed_masses"), [[5.0], [2.0]])
        np.testing.assert_allclose(observe(path, "stable_rank"), [1.0, 1.0], rtol=1e-15)
        right = observe(path, "angles_to", directions=[[3.0, 4.0]])[:, 0, 0]
        np.testing.assert_allclose(right, [0.0, math.pi - math.acos(0.8)], atol=1e-15)
        np.testing.assert_array_equal(observe(path, "cluster_spread")[:, 0], [0.0, 0.0])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("angles_to", {}, "directions=None: is missing"),
        ("angles_to", {"directions": [[1.0, 0.0]]}, r"directions=.*shape \(1, 2\)"),
        ("angles_to", {"directions": [1.0, 0.0, 0.0]}, r"directions=.*shape \(3,\)"),
        ("angles_to", {"directions": np.zeros((2, 3))}, "zero row"),
        ("angles_to", {"directions": [[1.0, math.nan, 0.0]]}, "NaN"),
        ("neuron_directions", {"bias": 1}, "bias=1: is not a bool"),
        ("cluster_spread", {"biases": True}, "biases=True: is not an option.*bias"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        observe(random_path((2, 3, 3)), name, **options)


def test_a_trajectory_offers_them_all(key):
    """Nothing is refused on the finite data of two layers but what needs a teacher."""
    X = np.array([[1.0, 0.5], [-0.5, 1.0], [0.3, -1.0]])
    # Without kinks: on a surface a stock solver chatters, and spends energy on it.
    net = gf.TwoLayer(2, 4, gf.linear, bias=True)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, [1.0, -1.0, 1.0])
    path = gf.integrate(risk, net.init(key, 0.1), until=gf.until.time(1.0), rtol=1e-6)
    sizes = {"neuron": 4, "datum": 3, "input": 2, "direction": 1, "sign": 2, "layer_or_neuron": 4}
    for name in observables.names():
        if name in ("log_tan_half_angle", "angle", "cos_angle", "kkt_residual"):
            continue
        asked = {"angles_to": {"directions": [[1.0, 0.0]]}, "distance_to": {"flow": path}}
        options = asked.get(name, {})
        value = path.observe(name, **options)
        dims = observables.get(name).dims
        assert value.shape == (len(path), *(sizes[dim] for dim in dims[1:])), name
    np.testing.assert_array_equal(path.observe("energy"), path.energy)
    first, last = np.asarray(path.observe("loss"))[[0, -1]]
    assert path.observe("energy")[-1] == pytest.approx(first - last, rel=1e-3)
    assert jax.tree.structure(path.params) == jax.tree.structure(path.initial)
