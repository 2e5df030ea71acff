"""The conic flow: as a chart of the balanced gradient flow, and as the norm-dependent step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gradflow as gf
from gradflow.certificates import (
    AtomicMeasure,
    decay_rates,
    orthonormal_teachers,
    tv_minimiser,
)
from gradflow.flows.charts.chart import CartesianChart
from gradflow.flows.charts.conic import ConicChart
from gradflow.numerics.vectors import angles

LAM, T = 0.1, 20.0


def problem(outer, dim=2, width=8, lam=LAM, activation=gf.relu):
    teacher = gf.TwoLayer(dim, 2, gf.relu)
    known = gf.NetworkTeacher(teacher, teacher.params(np.eye(dim)[:2], np.ones(2)))
    net = gf.TwoLayer(dim, width, activation, outer=outer)
    risk = gf.PopulationRisk(net, gf.squared, gf.Gaussian(dim), known)
    return net, gf.Regularised(risk, lam)


def start(net, seed=0, scale=1e-2):
    rng = np.random.default_rng(seed)
    inner = scale * rng.normal(size=(net.width, net.dim))
    sign = np.where(np.arange(net.width) % 2 == 0, 1.0, -1.0)
    norms = np.linalg.norm(inner, axis=1)
    return net.params(inner, sign if net.outer == "fixed" else sign * norms)


def measure_field(t, y, sign, factor):
    """(ln p, θ) in the plane from the kernel alone: (ln p)' = −factor G, θ' = −G'(θ)."""
    log_p, theta = np.split(y, 2)
    teacher = np.array([0.0, np.pi / 2])
    phi = np.concatenate([theta, teacher])
    c = np.concatenate([sign * np.exp(log_p), -np.ones(2)])
    gap = theta[:, None] - phi
    apart = np.abs(np.mod(gap + np.pi, 2 * np.pi) - np.pi)
    side = np.sign(np.sin(gap))
    k = (np.sin(apart) + (np.pi - apart) * np.cos(apart)) / (2 * np.pi)
    slope = -(np.pi - apart) * np.sin(apart) / (2 * np.pi) * side
    return np.concatenate([-factor * (sign * (k @ c) + LAM), -sign * (slope @ c)])


@pytest.mark.parametrize(("outer", "factor"), [("fixed", 1.0), ("trained", 2.0)])
def test_masses_and_angles_obey_the_equations_of_the_measure(outer, factor):
    net, J = problem(outer)
    options = {"metric": "conic"} if outer == "fixed" else {"chart": "conic"}
    params = start(net)
    path = gf.integrate(J, params, until=gf.until.time(T), rtol=1e-10, save_at=[5.0, T], **options)
    assert path.chart == "conic"
    assert path.defects["energy"] < 1e-10
    nu = AtomicMeasure.of_params(params)
    sign = np.sign(nu.weights)
    theta = np.arctan2(nu.directions[:, 1], nu.directions[:, 0])
    y0 = np.concatenate([np.log(np.abs(nu.weights)), theta])
    done = solve_ivp(
        measure_field, (0, T), y0, "DOP853", [5.0, T], rtol=1e-12, atol=1e-13, args=(sign, factor)
    )
    for i in range(2):
        reached = AtomicMeasure.of_params(jax.tree.map(lambda leaf, i=i: leaf[i], path.params))
        log_p, angle = np.split(done.y[:, i], 2)
        np.testing.assert_allclose(np.log(np.abs(reached.weights)), log_p, atol=1e-9)
        expected = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        np.testing.assert_allclose(reached.directions, expected, atol=1e-9)


def test_the_chart_of_a_balanced_net_leaves_its_gradient_flow_alone():
    net, J = problem("trained")
    params = start(net)
    times = [2.0, 5.0]
    curved, plain = (
        gf.integrate(J, params, until=gf.until.time(5.0), rtol=1e-10, save_at=times, chart=chart)
        for chart in ("conic", "cartesian")
    )
    for one, other in zip(
        jax.tree.leaves(curved.params), jax.tree.leaves(plain.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-8)
    np.testing.assert_allclose(curved.energy, plain.energy, rtol=1e-8)
    np.testing.assert_allclose(
        curved.observe("gradient_norm"), plain.observe("gradient_norm"), rtol=1e-6
    )
    np.testing.assert_allclose(curved.observe("log_loss"), plain.observe("log_loss"), rtol=1e-8)


def test_the_chart_turns_as_the_parameters_do():
    net, J = problem("trained", dim=3)
    params = start(net, scale=0.5)
    conic, plain = ConicChart(J, params), CartesianChart(J, params)
    t = jnp.asarray(2.0)
    one = conic.turning(jnp.asarray(conic.encode(params)), t)
    assert float(one) == pytest.approx(
        float(plain.turning(jnp.asarray(plain.encode(params)), t)), rel=1e-12
    )


def test_the_two_flows_differ_on_the_way_and_agree_in_the_limit():
    ends = []
    for outer, options in (("fixed", {"metric": "conic"}), ("trained", {"chart": "conic"})):
        net, J = problem(outer)
        params = start(net)
        if outer == "trained":  # the same measure as that of the fixed outer weights
            norms = np.linalg.norm(params.inner, axis=1, keepdims=True)
            params = net.params(
                np.asarray(params.inner) / np.sqrt(norms),
                np.sign(params.outer) * np.sqrt(norms[:, 0]),
            )  # fmt: skip
        path = gf.integrate(
            J, params, until=gf.until.time(400.0), save_at=[5.0, 400.0], rtol=1e-10, **options
        )
        ends.append(np.exp(path.observe("log_loss")))
    assert abs(ends[0][0] / ends[1][0] - 1) > 1e-2
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-6)


def test_small_norms_are_states():
    net, J = problem("fixed")
    params = start(net, scale=1e-20)
    path = gf.integrate(J, params, until=gf.until.time(1.0), metric="conic", rtol=1e-10)
    log_norms = path.exact["log_neuron_norms"]
    assert log_norms.shape == (len(path), net.width)
    # nothing pushes back yet: ln r' = −(s V + λ) at the direction, V that of the teacher alone
    assert np.all(np.abs(log_norms[-1] - log_norms[0]) < 2)
    assert np.max(log_norms[-1]) < np.log(1e-18)
    nu = AtomicMeasure.of_params(params)
    teacher = orthonormal_teachers(2, 2)
    rate = np.sign(nu.weights) * teacher.potential(nu.directions) - LAM
    first = (log_norms[1] - log_norms[0]) / path.t[1]
    np.testing.assert_allclose(first, rate, atol=2 * path.t[1])
    # masses far below the floats move as their directions say
    deep = net.params(np.asarray(params.inner) * 1e-280, params.outer)
    sunk = gf.integrate(J, deep, until=gf.until.time(1.0), metric="conic", rtol=1e-10)
    np.testing.assert_allclose(
        sunk.exact["log_neuron_norms"][-1] - sunk.exact["log_neuron_norms"][0],
        log_norms[-1] - log_norms[0], rtol=1e-8,
    )  # fmt: skip


def test_norm_dependent_descent_is_the_plain_loop():
    net, J = problem("fixed")
    params = start(net, scale=0.3)
    done = gf.descend(J, params, step_size=0.1, steps=5, metric="conic")
    inner = np.asarray(params.inner)
    for _ in range(5):
        gradient = np.asarray(J.gradient(net.params(inner, params.outer)).inner)
        inner = inner - 0.1 * np.linalg.norm(inner, axis=1, keepdims=True) * gradient
    np.testing.assert_allclose(done.final.inner, inner, rtol=1e-12)
    np.testing.assert_array_equal(done.final.outer, params.outer)


def test_norm_dependent_descent_converges_to_the_conic_flow_at_first_order():
    net, J = problem("fixed")
    params = start(net, scale=0.1)
    flow = gf.integrate(J, params, until=gf.until.time(4.0), metric="conic", rtol=1e-11)
    gaps = []
    for steps in (80, 160, 320):
        done = gf.descend(J, params, step_size=4.0 / steps, steps=steps, metric="conic")
        gaps.append(np.max(np.abs(np.asarray(done.final.inner) - np.asarray(flow.final.inner))))
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.025)


def test_norm_dependent_batches_and_biases(key):
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    net = gf.TwoLayer(2, 3, gf.relu, outer="fixed", bias=True)
    risk = gf.EmpiricalRisk(net, gf.squared, X, y)
    params = net.init(key, 0.5)
    once = gf.descend(risk, params, step_size=0.1, steps=1, metric="conic")
    g = risk.gradient(params)
    size = np.sqrt(np.sum(np.asarray(params.inner) ** 2, 1) + np.asarray(params.bias) ** 2)
    np.testing.assert_allclose(once.final.bias, params.bias - 0.1 * size * g.bias, rtol=1e-13)
    options = {"batch": 4, "key": key, "metric": "conic", "step_size": 0.1, "steps": 6}
    first = gf.descend(risk, params, **options)
    again = gf.descend(risk, params, **options)
    np.testing.assert_array_equal(first.final.inner, again.final.inner)


def test_files_keep_the_logarithms(tmp_path):
    net, J = problem("fixed")
    path = gf.integrate(J, start(net), until=gf.until.time(2.0), metric="conic")
    path.save(tmp_path / "conic.nc")
    again = gf.load(tmp_path / "conic.nc")
    np.testing.assert_array_equal(again.exact["log_neuron_norms"], path.exact["log_neuron_norms"])
    assert path.to_xarray()["log_neuron_norms"].dims == ("log_t", "neuron")


@pytest.mark.parametrize("outer", ["fixed", "trained"])
def test_the_field_is_that_of_the_weights_for_leaky_nets_too(outer):
    """Second route: d ln r = u·w'/r and du = (I − uuᵀ) w'/r from the field of the weights."""
    net, J = problem(outer, dim=3, activation=gf.leaky_relu(0.3))
    params = start(net, scale=0.4)
    if outer == "fixed":
        params = net.params(params.inner, np.linspace(-2, 2, net.width))
    chart = ConicChart(J, params)
    speed = np.asarray(chart.velocity(jnp.asarray(chart.encode(params))))
    moved = -np.asarray(J.gradient(params).inner)
    norm = np.linalg.norm(params.inner, axis=1, keepdims=True)
    if outer == "trained":
        moved = moved / norm
    u = np.asarray(params.inner) / norm
    along = np.sum(u * moved, axis=1)
    np.testing.assert_allclose(speed[: net.width], along, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        speed[net.width :].reshape(-1, 3), moved - along[:, None] * u, rtol=1e-11, atol=1e-14
    )


def test_what_the_chart_and_the_metric_do_not_serve_is_refused():
    net, J = problem("trained")
    fixed, J_fixed = problem("fixed")
    until = gf.until.time(1.0)
    with pytest.raises(ValueError, match=r"metric=.*fixed outer weights"):
        gf.integrate(J, start(net), until=until, metric="conic")
    with pytest.raises(ValueError, match=r"metric=.*fixed outer weights"):
        gf.descend(J, start(net), step_size=0.1, steps=2, metric="conic")
    with pytest.raises(ValueError, match=r"chart=.*trained outer weights"):
        gf.integrate(J_fixed, start(fixed), until=until, chart="conic")
    with pytest.raises(ValueError, match="does not serve the conic metric"):
        gf.integrate(J_fixed, start(fixed), until=until, chart="cartesian", metric="conic")
    unbalanced = net.params(np.ones((8, 2)), np.ones(8))
    with pytest.raises(ValueError, match="balanced start"):
        gf.integrate(J, unbalanced, until=until, chart="conic")
    with pytest.raises(ValueError, match="metric"):
        gf.integrate(J, start(net), until=until, metric="round")
    rng = np.random.default_rng(0)
    data = gf.EmpiricalRisk(fixed, gf.squared, rng.normal(size=(5, 2)), np.ones(5))
    with pytest.raises(ValueError, match="kinks"):
        gf.integrate(data, start(fixed), until=until, metric="conic")
    with pytest.raises(ValueError, match="two-layer"):
        gf.integrate(
            gf.FunctionRisk(lambda p: jnp.sum(p**2)), jnp.ones(2), until=until, metric="conic"
        )


def test_a_norm_beyond_the_floats_has_a_logarithm():
    net, J = problem("fixed", dim=2, width=2)
    params = net.params(1.5e308 * np.array([[1.0, 1.0], [1.0, 0.0]]), np.ones(2))
    logs = ConicChart(J, params).encode(params)[:2]
    np.testing.assert_allclose(logs - np.log(1.5e308), [np.log(2) / 2, 0], atol=1e-12)


def test_angles_near_zero_and_pi():
    u = np.array([[1.0, 0.0]])
    v = np.array([[np.cos(1e-9), np.sin(1e-9)], [-1.0, 0.0], [-np.cos(1e-9), np.sin(1e-9)]])
    np.testing.assert_allclose(angles(u, v)[0], [1e-9, np.pi, np.pi - 1e-9], rtol=1e-15)


@pytest.mark.parametrize(("outer", "reaction"), [("fixed", 1.0), ("trained", 2.0)])
def test_collective_rates_are_eigenvalues_of_the_flow_at_the_minimiser(outer, reaction):
    """Second route: automatic differentiation of the field of one neuron an atom."""
    star = tv_minimiser(orthonormal_teachers(3, 2), LAM)
    net, J = problem(outer, dim=3, width=2)
    size = star.masses if outer == "fixed" else np.sqrt(star.masses)
    params = net.params(
        size[:, None] * star.measure.directions, np.ones(2) if outer == "fixed" else size
    )
    chart = ConicChart(J, params)
    y = jnp.asarray(chart.encode(params))
    assert np.max(np.abs(chart.velocity(y))) < 1e-15
    rates = np.sort(np.linalg.eigvals(-np.asarray(jax.jacfwd(chart.velocity)(y))).real)
    np.testing.assert_allclose(rates[:2], 0, atol=1e-12)  # the lengths of u_1 and u_2
    assert 2 * rates[2] == pytest.approx(decay_rates(star, reaction=reaction).collective, rel=1e-9)
