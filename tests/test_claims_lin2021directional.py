"""The claims of lin2021directional: supported, able to fail, and silent where they do not apply."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import scipy.stats

import gradflow as gf
from gradflow.claims import Lab, Status, claims, verify, weigh
from gradflow.claims.papers.lin2021directional import bounds, descent, gradient, rates
from gradflow.claims.papers.lin2021directional import formulas as published
from gradflow.claims.papers.lin2021directional.setting import (
    balanced,
    derived_rate,
    horizon,
    instance,
    linear_path,
    radial_pull,
    turning_point,
)

PATTERN = "lin2021directional/*"
IDS = [
    "direction-monotone",
    "norm-diverges",
    "norm-exponent",
    "norm-constant",
    "angle-exponent",
    "angle-constant",
    "loss-law",
    "exponential-loss",
    "hinge-loss",
    "flow-bound-before-T",
    "flow-bound-after-T",
    "norm-upper-bound",
    "descent-early-constant",
    "descent-early-decaying",
    "descent-early-growing",
    "descent-late-constant",
    "descent-late-decaying",
    "descent-late-growing",
    "gradient-normal-part",
    "gradient-teacher-part",
]

#: Builders that take instances; those of gradient descent with a step size.
FLOW = (
    rates.direction_monotone,
    rates.norm_diverges,
    rates.norm_exponent,
    rates.norm_constant,
    rates.angle_exponent,
    rates.angle_constant,
    rates.loss_law,
    bounds.flow_early,
    bounds.flow_late,
    bounds.norm_upper,
)
DESCENT = (descent.descent_early, descent.descent_late)


def built(one, step_size=0.1):
    found = [make(one, id=f"mine/{make.__name__}") for make in FLOW]
    return found + [make(step_size, one, id=f"mine/{make.__name__}") for make in DESCENT]


@pytest.fixture(scope="module")
def plain():
    return {v.id.partition("/")[2]: v for v in verify(PATTERN)}


def test_every_statement_is_there():
    assert {c.name for c in claims(PATTERN)} == set(IDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_supported_and_its_control_fails(plain, name):
    verdict = plain[name]
    assert verdict.status == Status.SUPPORTED, verdict.message
    assert verdict.control.as_expected, verdict.control.message
    assert verdict.control.status == Status.VIOLATED


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.05, 0.95])
def test_nothing_survives_a_perturbation(factor):
    status = {v.id: v.status for v in verify(PATTERN, perturb=factor)}
    assert set(status.values()) == {Status.VIOLATED}, status


@pytest.mark.slow
def test_the_bound_after_T_is_published_and_another_reading_of_it_the_control(plain):
    verdict = plain["flow-bound-after-T"]
    assert verdict.provenance == "published"
    assert "π under the root" in verdict.control.description


def test_the_bound_after_T_is_an_equality_at_T():
    for c0, radius, lam in ((0.64, 0.3, 0.2), (2.0, 50.0, -3.0)):
        assert published.flow_late(0.0, c0, radius, lam) == pytest.approx(-2 * lam, rel=1e-14)


@pytest.mark.slow
def test_rates_are_certified_far_below_the_tolerance(plain):
    for name in ("norm-exponent", "norm-constant", "angle-exponent", "angle-constant"):
        assert plain[name].tolerance <= 1e-8
        assert plain[name].error < 1e-10


def test_predictions_are_the_known_constants():
    law = gf.Gaussian(3)
    one = instance(law, [0.3, 0.2, -0.9])
    norm, angle = derived_rate(one, "norm"), derived_rate(one, "log_angle")
    assert norm.constant == pytest.approx((3 * law.kappa) ** (1 / 3), rel=1e-14)
    expected = 3 * law.c0 / (2 * np.pi) * (3 * law.kappa) ** (-1 / 3)
    assert angle.constant == pytest.approx(expected, rel=1e-14)
    for loss, mass, slope in (("exponential", 1.0, 1.0), ("hinge", 0.5, 1.0)):
        other = one.but(loss=loss)
        norm, angle = derived_rate(other, "norm"), derived_rate(other, "log_angle")
        assert norm.constant == pytest.approx((6 * law.p0 * mass) ** (1 / 3), rel=1e-14)
        pull = 2 / 3 * angle.constant * norm.constant
        assert pull == pytest.approx(2 * law.c0 / np.pi * slope, rel=1e-14)


# --- hypotheses --------------------------------------------------------------------------------


def test_opposite_to_the_teacher_nothing_applies():
    lab = Lab()
    for claim in built(instance(gf.Gaussian(3), [0.0, 0.0, -2.0])):
        verdict = weigh(claim, lab)
        assert verdict.status == Status.NOT_APPLICABLE, claim.id
        assert "theta(0) != pi" in verdict.message
        assert weigh(claim, lab, 1.05).status == Status.NOT_APPLICABLE


def test_opposite_to_a_teacher_in_general_position():
    v = np.array([2.0, -1.0, 2.0]) / 3
    claim = rates.norm_exponent(instance(gf.Gaussian(3), -1.7 * v, v), id="mine/norm")
    assert weigh(claim, Lab()).status == Status.NOT_APPLICABLE


def test_one_bad_instance_among_good_ones_is_named():
    bad = instance(gf.UniformSphere(2), [0.0, -1.0])
    claim = rates.norm_exponent([rates.CIRCLE, bad], id="mine/norm")
    verdict = weigh(claim, Lab())
    assert verdict.status == Status.NOT_APPLICABLE
    assert "theta(0) != pi" in verdict.message


def test_other_losses_do_not_fall_under_the_logistic_claims():
    for claim in built(instance(gf.Gaussian(3), [0.3, 0.0, -2.0], loss="hinge")):
        assert weigh(claim, Lab()).status == Status.NOT_APPLICABLE, claim.id
    claim = rates.other_loss(rates.GAUSSIAN, id="mine/other")
    assert weigh(claim, Lab()).status == Status.NOT_APPLICABLE


def test_unbalanced_layers_fail_the_hypothesis():
    law = gf.Gaussian(3)
    wide = [np.array([[1.0, 0.0, -1.0], [0.0, 0.5, 0.2]]), np.array([[0.3, 2.0]])]
    reason = balanced(instance(law, wide, depth=2)).failure(Lab())
    assert reason is not None
    assert "not balanced" in reason
    assert balanced(instance(law, [0.3, 0.2, -0.9], depth=2)).failure(Lab()) is None


def test_a_norm_that_grows_at_once_has_no_early_bound():
    one = instance(gf.Gaussian(3), [0.1, 0.0, 1.0])
    lab = Lab()
    assert turning_point(lab, one).t == 0
    assert weigh(bounds.flow_early(one, id="mine/early"), lab).status == Status.NOT_APPLICABLE
    assert weigh(bounds.flow_late(one, id="mine/late"), lab).status == Status.SUPPORTED


def test_descent_toward_the_teacher_is_outside_the_statement_on_early_steps_alone():
    one, lab = instance(gf.UniformSphere(2), [0.6, 0.8]), Lab()
    early = descent.descent_early(0.1, one, id="mine/early")
    assert weigh(early, lab).status == Status.NOT_APPLICABLE
    for delta in (0.1, 1.0):
        late = descent.descent_late(0.1, one, delta=delta, id="mine/late")
        assert weigh(late, lab).status == Status.SUPPORTED


def test_the_norm_growth_condition_is_checked_at_every_n():
    lab, eta = Lab(), np.full(descent.STEPS, 0.1)
    growth = descent.descent(lab, rates.CIRCLE, eta).growth(rates.CIRCLE.law.c0)
    allowed = growth.min() - 1
    assert 1 < allowed < np.inf

    def status(delta):
        claim = descent.descent_late(0.1, rates.CIRCLE, delta=delta, id="mine/late")
        return weigh(claim, lab).status

    assert status(0.99 * allowed) == Status.SUPPORTED
    assert status(1.01 * allowed) == Status.NOT_APPLICABLE


def test_deeper_nets_and_bad_input_are_refused():
    law = gf.Gaussian(3)
    with pytest.raises(ValueError, match="lin2021faster"):
        rates.norm_exponent(instance(law, [0.3, 0.2, -0.9], depth=4), id="mine/deep")
    with pytest.raises(ValueError, match="at least one"):
        rates.norm_exponent([], id="mine/none")
    with pytest.raises(ValueError, match="start"):
        instance(law, [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="start"):
        instance(law, [1.0, np.nan, 0.0])
    with pytest.raises(ValueError, match="shape"):
        instance(law, [1.0, 0.0])
    with pytest.raises(ValueError, match="direction"):
        instance(law, [1.0, 0.0, 0.0], [1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="step_size"):
        descent.descent_early(-0.1, rates.CIRCLE, id="mine/step")
    with pytest.raises(ValueError, match="zero vector"):
        gradient.points(law, [[0.0, 0.0, 0.0]])


# --- instances that are not registered ---------------------------------------------------------

OWN = {
    "tiny start": instance(gf.UniformSphere(4), [1e-7, 0.0, 0.0, -1e-7]),
    "large start": instance(gf.Gaussian(3), [8e3, 0.0, -6e3]),
    "nearly opposed": instance(gf.UniformSphere(2), [1e-12, -1.0]),
    "large data": instance(gf.Gaussian(3, 100.0), [0.3, 0.2, -0.9]),
    "small data": instance(gf.Gaussian(3, 1e-3), [0.3, 0.2, -0.9]),
    "many dimensions": instance(gf.UniformSphere(50), np.r_[np.ones(49) / 7, -1.0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_claims_hold_and_can_fail_on_other_instances(name):
    lab = Lab()
    for claim in built(OWN[name]):
        verdict = weigh(claim, lab)
        assert verdict.status == Status.SUPPORTED, f"{claim.id}: {verdict.message}"
        assert weigh(claim, lab, 0.95).status == Status.VIOLATED, claim.id


@pytest.mark.slow
def test_claims_hold_on_a_custom_law():
    law = gf.RadialLaw(3, scipy.stats.gamma(3.0))
    lab = Lab()
    for claim in built(instance(law, [1.0, 0.0, -1.0])):
        assert weigh(claim, lab).status == Status.SUPPORTED, claim.id
    claim = gradient.normal_part(gradient.points(law), id="mine/gradient")
    assert weigh(claim, lab).status == Status.SUPPORTED


def test_a_wrong_law_is_seen():
    """The rates of one law do not pass for those of another one 1e-6 away."""
    one = instance(gf.Gaussian(3), [0.3, 0.2, -0.9])
    claim = rates.norm_constant(one, id="mine/norm")
    near = one.but(law=gf.Gaussian(3, 1.0 + 1e-6))
    wrong = dataclasses.replace(claim, predict=lambda lab: [derived_rate(near, "norm").constant])
    assert weigh(wrong, Lab()).status == Status.VIOLATED


# --- second routes -----------------------------------------------------------------------------


def test_paths_agree_with_another_integrator():
    lab, times = Lab(), np.geomspace(1e-2, 1e6, 16)
    ours = linear_path(lab, rates.GAUSSIAN, times=times)
    other = linear_path(lab, rates.GAUSSIAN, times=times, integrator="dop853")
    np.testing.assert_allclose(ours.log_radius, other.log_radius, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.log_tan, other.log_tan, rtol=1e-9, atol=1e-9)


def test_the_control_flow_without_deformation_is_the_flow():
    times = np.geomspace(1e-2, 100, 8)
    one = instance(gf.Gaussian(3), [1.0, 0.0, 0.0])
    c0 = one.law.c0
    start = np.array([np.sin(2.0), 0.0, np.cos(2.0)]) / c0
    path = linear_path(Lab(), one.but(start=tuple(start)), times=times / c0**2)
    log_radius, log_tan = rates.deformed_path(one, 2.0, times)
    np.testing.assert_allclose(log_radius, path.log_radius, atol=1e-8)
    np.testing.assert_allclose(log_tan, path.log_tan, atol=1e-8)


@pytest.mark.parametrize("law", [gf.Gaussian(3), gf.UniformSphere(2), gf.StudentT(4, 5.0)])
def test_the_quadrature_of_the_definition_agrees_with_the_risk(law):
    for point in gradient.points(law)[1:5:2]:
        w, v = np.array(point.weight), np.array(point.teacher)
        risk = gf.PopulationRisk(gf.LinearPredictor(law.dim), gf.logistic, law, gf.LinearTeacher(v))
        exact = -np.asarray(risk.gradient(w).weight)
        across = v - (v @ w) * w / (w @ w)
        across /= np.linalg.norm(across)
        value, error = gradient.force(point, np.pi / 2)
        assert error < 1e-12
        assert value == pytest.approx(exact @ across, abs=1e-12)
        value, _ = gradient.force(point, point.polar[1])
        assert value == pytest.approx(exact @ v, abs=1e-12)


def test_the_quadrature_of_the_definition_agrees_with_samples():
    law = gf.UniformBall(4)
    point = gradient.points(law)[3]
    w, v = np.array(point.weight), np.array(point.teacher)
    x = np.asarray(law.sample(jax.random.key(0), 400_000))
    y = np.where(x @ v >= 0, 1.0, -1.0)
    for loss, slope in gradient.SLOPES.items():
        terms = slope(y * (x @ w)) * y * (x @ v)
        value, _ = gradient.force(point, point.polar[1], loss)
        assert abs(terms.mean() - value) < 4 * terms.std() / np.sqrt(terms.size)


def test_descent_by_two_routes():
    lab, eta = Lab(), 0.2 / np.sqrt(1.0 + np.arange(descent.STEPS))
    one = instance(gf.UniformSphere(2), [0.6, -0.8])
    first, second = descent.descent(lab, one, eta), descent.descent_again(lab, one, eta)
    np.testing.assert_allclose(first.along, second.along, rtol=0, atol=1e-12)
    np.testing.assert_allclose(first.across, second.across, rtol=1e-11)


def test_the_turning_time_is_where_the_norm_is_least():
    lab = Lab()
    turn = turning_point(lab, rates.CIRCLE).t
    times = turn * np.array([0.999, 1.0, 1.001])
    before, there, after = linear_path(lab, rates.CIRCLE, times=times).log_radius
    assert there < before
    assert there < after
    late = bounds.after_turn(lab, rates.CIRCLE)
    speed = radial_pull(late, np.log([late.radius]), np.array([late.log_tan]))
    assert speed[0] == pytest.approx(0.0, abs=1e-7)


def test_the_horizon_follows_the_memory_of_the_start():
    law = gf.Gaussian(3)
    assert horizon(instance(law, [0.3, 0.2, -0.9])) == 1e12
    assert horizon(instance(law, [0.0, 1e4, 0.0])) >= 1e23
