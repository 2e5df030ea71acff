"""Charts and clocks: coordinates change the numbers that are carried, never the flow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.flows.flow import make_flow

V3 = np.array([0.0, 0.6, 0.8])


def two_neurons(slope, outer, weights=(1.0, -1.0), law=None, inner=None, seed=0):
    law = law or gf.Gaussian(3)
    net = gf.TwoLayer(dim=law.dim, width=2, activation=gf.leaky_relu(slope), outer=outer)
    v = V3 if law.dim == 3 else np.eye(law.dim)[-1]
    risk = gf.PopulationRisk(net, gf.logistic, law, teacher=gf.LinearTeacher(v))
    if inner is None:
        inner = np.random.default_rng(seed).normal(size=(2, law.dim))
    return risk, net.params(inner=inner, outer=np.array(weights))


def linear(depth, law=None, start=(0.6, 0.0, -0.8), loss=gf.logistic):
    law = law or gf.Gaussian(3)
    v = np.eye(law.dim)[-1]
    if depth == 1:
        net = gf.LinearPredictor(law.dim)
        params = net.params(weight=np.array(start))
    else:
        net = gf.DeepLinear(law.dim, depth)
        params = net.balanced(np.array(start))
    return gf.PopulationRisk(net, loss, law, teacher=gf.LinearTeacher(v)), params


CASES = {
    "relu-fixed": lambda: two_neurons(0.0, "fixed"),
    "leaky-trained": lambda: two_neurons(0.3, "trained"),
    "outer-sign-changes": lambda: two_neurons(
        0.3, "trained", (0.1, -0.2), inner=np.array([-1.2 * V3, 1.1 * V3]) + 0.05
    ),
    "like-signs": lambda: two_neurons(0.0, "trained", (0.5, 1.0)),
    "linear": lambda: linear(1),
    "linear-hinge": lambda: linear(1, loss=gf.hinge),
    "deep-3": lambda: linear(3),
    "deep-2": lambda: linear(2),
}


@pytest.mark.parametrize("case", CASES)
def test_log_angle_chart_agrees_with_cartesian(case):
    """Different coordinates and different integrators, the same trajectory."""
    risk, params = CASES[case]()
    until = gf.until.time(8.0)
    reduced = gf.integrate(risk, params, until=until, rtol=1e-10)
    plain = gf.integrate(
        risk, params, until=until, rtol=1e-10, chart="cartesian", integrator="tsit5"
    )
    assert reduced.chart_names[0] == "log-angle"
    assert plain.chart_names[0] == "cartesian"
    for one, other in zip(
        jax.tree.leaves(reduced.final), jax.tree.leaves(plain.final), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=3e-8, rtol=0)
    assert np.abs(reduced.observe("energy_defect")).max() < 1e-8
    np.testing.assert_allclose(
        reduced.observe("log_tan_half_angle")[-1],
        plain.observe("log_tan_half_angle")[-1],
        atol=1e-6,
    )


def test_outer_weights_really_changed_sign():
    risk, params = CASES["outer-sign-changes"]()
    final = gf.integrate(risk, params, until=gf.until.time(50.0), rtol=1e-10).final
    assert np.all(np.sign(np.asarray(final.outer)) == -np.sign(np.asarray(params.outer)))


@pytest.mark.parametrize("clock", ["physical", "loss"])
@pytest.mark.parametrize("case", ["relu-fixed", "linear"])
def test_clocks_leave_the_curve_alone(case, clock):
    risk, params = CASES[case]()
    one = gf.integrate(risk, params, until=gf.until.time(5.0), rtol=1e-10)
    other = gf.integrate(risk, params, until=gf.until.time(5.0), rtol=1e-10, clock=clock)
    assert other.t[-1] == pytest.approx(5.0, rel=1e-9)
    for a, b in zip(
        one.exact["log_tan_half_angle"][-1], other.exact["log_tan_half_angle"][-1], strict=True
    ):
        assert a == pytest.approx(b, abs=1e-8)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_tail_chart_continues_the_general_chart(slope):
    """Two integrators to t = 1e30; the angle is e^{-1e19}, and every number keeps its digits."""
    risk, params = two_neurons(slope, "fixed", law=gf.Gaussian(2), inner=[[0.6, -0.8], [0.5, 0.4]])
    until = gf.until.time(1e30)
    fine = gf.integrate(risk, params, until=until, rtol=1e-12)
    coarse = gf.integrate(risk, params, until=until, rtol=1e-9, integrator="tsit5")
    for name in ("neuron_norms", "log_tan_half_angle", "cap_difference"):
        one, other = fine.exact[name][-1], coarse.exact[name][-1]
        np.testing.assert_allclose(one, other, rtol=1e-7)
    assert fine.exact["neuron_norms"][-1].min() > 1e9
    assert fine.exact["log_tan_half_angle"][-1].max() < -1e17
    assert np.abs(fine.observe("energy_defect")).max() < 1e-11
    # The loss is about 1e-10: it comes out of no subtraction.
    kappa = risk.law.kappa
    caps = fine.exact["cap_mean"][-1]
    assert fine.observe("log_loss")[-1] == pytest.approx(np.log(kappa / caps), abs=1e-8)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_general_and_tail_velocities_agree_where_both_hold(slope):
    risk, params = two_neurons(slope, "fixed", law=gf.Gaussian(2), inner=[[0.6, -0.8], [0.5, 0.4]])
    flow = make_flow(risk, params)
    general = flow.chart
    y = flow.split(flow.initial(params))[0].copy()
    y[:2] = (7.0, 7.5)
    y[6] = 400.0
    if slope:
        # on the slow mode, as the tail assumes
        y[2:6] = (1.0, 0.0, 0.0, 0.0)
    tail, start = general.next_stage(y, 1e9)
    dy = np.asarray(general.velocity(jnp.asarray(y)))
    dtail = np.asarray(tail.velocity(jnp.asarray(start)))
    caps = np.asarray(general.reduction.forms)[:2] @ dy[:2]
    np.testing.assert_allclose(dtail[0], caps.mean(), rtol=1e-13)
    np.testing.assert_allclose(dtail[1], caps[0] - caps[1], rtol=1e-9)
    if not slope:
        rates = np.asarray(general.reduction.radial.h_complement(jnp.asarray(y[:2]))) / (2 * y[:2])
        np.testing.assert_allclose(-dtail[2:], rates, rtol=1e-13)
    else:
        np.testing.assert_allclose(dtail[2], -dy[6], rtol=2e-2)
    np.testing.assert_allclose(tail.exact(start)["neuron_norms"], y[:2], rtol=1e-14)
    np.testing.assert_allclose(np.asarray(tail.decode(start).inner).shape, (2, 2))


@pytest.mark.parametrize("case", ["relu-fixed", "leaky-trained", "deep-3", "linear"])
def test_encode_and_decode_are_inverse(case):
    risk, params = CASES[case]()
    flow = make_flow(risk, params)
    back = flow.chart.decode(flow.chart.encode(params))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)


def test_start_of_1e_minus_60_keeps_relative_accuracy():
    """Deep net, tiny start: R(t) by quadrature of the separable radial law is out of reach of
    atol."""
    risk, params = linear(2, start=(3e-61, 0.0, 1e-60))
    one = gf.integrate(risk, params, until=gf.until.time(50.0), rtol=1e-10)
    lam = one.exact["log_tan_half_angle"][:, 0]
    # N = 2: ln tan(theta/2) falls by exactly (c0/pi) t
    np.testing.assert_allclose(lam, lam[0] - risk.law.c0 / np.pi * one.t, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: linear(1, start=(0.0, 0.0, -1.0)), "angle pi"),
        (lambda: linear(3, start=(0.0, 0.0, -1.0)), "angle pi"),
        (lambda: two_neurons(0.0, "fixed", inner=[-1.0 * V3, 0.5 * V3]), "angle pi"),
    ],
    ids=["linear", "deep", "two-neuron"],
)
def test_start_at_angle_pi_is_refused(build, words):
    risk, params = build()
    with pytest.raises(ValueError, match=words):
        gf.integrate(risk, params, until=gf.until.time(1.0))


def test_unbalanced_layers_have_no_log_angle_chart():
    risk, params = linear(2)
    layers = (2.0 * params.layers[0], params.layers[1])
    unbalanced = risk.net.params(layers)
    with pytest.raises(ValueError, match="not balanced"):
        gf.integrate(risk, unbalanced, until=gf.until.time(1.0), chart="log-angle")
    auto = gf.integrate(risk, unbalanced, until=gf.until.time(1.0))
    assert auto.chart_names[0] == "cartesian"


def test_unknown_names_are_refused():
    risk, params = linear(1)
    for change in ({"chart": "polar"}, {"clock": "sidereal"}, {"integrator": "magic"}):
        with pytest.raises(ValueError, match="choose one of"):
            gf.integrate(risk, params, until=gf.until.time(1.0), **change)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_symmetric_pair_is_the_linear_flow_for_ever(slope):
    """w_2 = -w_1 never leaves the symmetric flow: no slow mode grows out of rounding."""
    w = np.array([0.5, 0.3, -0.7])
    risk, params = two_neurons(slope, "fixed", inner=np.stack([w, -w]))
    law = risk.law
    alone = gf.PopulationRisk(gf.LinearPredictor(3), gf.logistic, law, teacher=gf.LinearTeacher(V3))
    pair = gf.integrate(risk, params, until=gf.until.time(1e9), rtol=1e-10)
    single = gf.integrate(
        alone,
        alone.net.params(weight=(1 + slope) * w),
        until=gf.until.time(1e9 * (1 + slope) ** 2 / 2),
        rtol=1e-10,
    )
    for name in ("neuron_norms", "log_tan_half_angle"):
        factor = 1 + slope if name == "neuron_norms" else 1.0
        np.testing.assert_allclose(
            factor * pair.exact[name][-1], np.repeat(single.exact[name][-1], 2), rtol=1e-11
        )


def test_nearly_symmetric_leaky_pair_keeps_its_slow_mode():
    """A part 1e-8 of slow mode decides the late angle, and is integrated to its own accuracy."""
    w = np.array([0.5, 0.3, -0.7])
    inner = np.stack([w, -w * (1 + 1e-8)])
    risk, params = two_neurons(0.3, "fixed", inner=inner)
    until = gf.until.time(1e6)
    fine = gf.integrate(risk, params, until=until, rtol=1e-12)
    coarse = gf.integrate(risk, params, until=until, rtol=1e-9)
    np.testing.assert_allclose(
        fine.exact["log_tan_half_angle"][-1], coarse.exact["log_tan_half_angle"][-1], rtol=1e-8
    )
    rate = fine.exact["log_tan_half_angle"][-1, 0]
    assert -1500 < rate < -1000  # slow: the fast mode alone would be at about -4400


def test_start_on_the_teachers_axis_stays_there():
    risk, params = linear(1, start=(0.0, 0.0, 0.7))
    path = gf.integrate(risk, params, until=gf.until.time(1e4))
    assert path.result.ok
    assert path.chart == "cartesian"
    assert np.all(path.observe("log_tan_half_angle") == -np.inf)
    with pytest.raises(ValueError, match="on the teacher's axis"):
        make_flow(risk, params, chart="log-angle")


@pytest.mark.parametrize("second", ["on axis", "free"])
def test_neurons_on_the_teachers_axis(second):
    inner = np.array([V3, -2 * V3 if second == "on axis" else (0.5, -0.3, 0.4)])
    risk, params = two_neurons(0.0, "fixed", inner=inner)
    path = gf.integrate(risk, params, until=gf.until.time(1e3))
    same = gf.integrate(risk, params, until=gf.until.time(1e3), chart="cartesian", rtol=1e-10)
    np.testing.assert_allclose(path.final.inner, same.final.inner, rtol=1e-7, atol=1e-12)
    assert path.observe("log_tan_half_angle")[0, 0] < -36
    assert np.all(path.observe("energy_defect") < 1e-8)
    tables = [v for v in path.to_xarray().data_vars.values() if v.ndim == 2]
    assert tables
    assert all(v.dims == ("log_t", "neuron") for v in tables)


@pytest.mark.parametrize("across", [1e-200, 1e-170])
def test_squares_of_a_start_may_underflow(across):
    risk, params = linear(1, start=(across, 0.0, across))
    path = gf.integrate(risk, params, until=gf.until.time(1e3))
    assert path.result.ok
    assert path.observe("log_tan_half_angle")[0, 0] == pytest.approx(np.log(np.tan(np.pi / 8)))
    assert path.observe("energy_defect")[-1] < 1e-9


def test_defects_report_energy_and_balance():
    risk, params = two_neurons(0.3, "trained")
    path = gf.integrate(risk, params, until=gf.until.time(20.0), rtol=1e-10)
    assert set(path.defects) == {"energy", "balance"}
    assert max(path.defects.values()) < 1e-9
    fixed, start = two_neurons(0.3, "fixed")
    assert set(gf.integrate(fixed, start, until=gf.until.time(1.0)).defects) == {"energy"}


@pytest.mark.parametrize("slope", [0.0, 0.3])
@pytest.mark.parametrize("law", [gf.Gaussian(3), gf.StudentT(3, 2.5)], ids=lambda law: law.name)
def test_generated_vector_field_equals_autodiff_of_the_risk(slope, law):
    """sympy's two-neuron field and JAX's derivative of the population risk: two derivations."""
    risk, params = two_neurons(slope, "fixed", law=law)
    field = gf.derive("two-neuron", regime="generic", slope=slope).vector_field(
        law, coordinates="cartesian"
    )
    automatic = jax.grad(lambda p: risk(p))(params)
    np.testing.assert_allclose(field(params.inner, V3), -automatic.inner, atol=1e-10)


@pytest.mark.parametrize("depth", [1, 3])
def test_generated_linear_field_equals_autodiff_of_the_risk(depth):
    risk, params = linear(depth)
    v = np.asarray(risk.teacher.direction)
    name, options = ("linear", {}) if depth == 1 else ("deep-linear", {"depth": depth})
    field = gf.derive(name, **options).vector_field(risk.law.radial, coordinates="cartesian")
    w = np.asarray(risk.end_to_end(params))
    gradient = jax.grad(lambda p: risk(p))(params)
    if depth == 1:
        expected = -np.asarray(gradient.weight)
    else:
        moved = jax.jvp(risk.net.end_to_end, (params,), (jax.tree.map(lambda g: -g, gradient),))
        expected = np.asarray(moved[1])
    np.testing.assert_allclose(field(w, v), expected, atol=1e-10)
