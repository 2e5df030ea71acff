"""Claims on teacher and student: what holds, what must not, what is left unsaid."""

from __future__ import annotations

import numpy as np
import pytest

from gradflow.claims import Lab, Status, claims, statements, weigh
from gradflow.claims.papers.akiyama2021learnability.flow import (
    conic_equations,
    descent_order,
    global_convergence,
    linear_rate,
    plain_descent_lags,
)
from gradflow.claims.papers.akiyama2021learnability.minimisers import (
    dual_bound,
    one_teacher,
    recovery_slopes,
    several_teachers,
)
from gradflow.claims.papers.akiyama2021learnability.setting import teacher_student
from gradflow.symbolic import orthonormal_teachers as derived

PATTERN = "akiyama2021learnability/*"


@pytest.fixture(scope="module")
def lab():
    """One bench for all: the perturbed claims reuse the trajectories."""
    return Lab()


@pytest.mark.slow
@pytest.mark.parametrize("claim", statements(PATTERN), ids=lambda claim: claim.name)
def test_claim_is_supported_its_control_fails_and_no_perturbation_survives(claim, lab):
    claim = claims(claim.id)[0]
    verdict = weigh(claim, lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    assert verdict.control is not None
    assert verdict.control.status is Status.VIOLATED
    for factor in (1.05, 0.95):
        altered = weigh(claim, lab, factor)
        assert altered.status in (Status.VIOLATED, Status.NOT_APPLICABLE), altered.message


def test_a_tilted_teacher_of_another_weight_and_sign_in_three_dimensions():
    v = np.array([[2.0, -1.0, 2.0]]) / 3
    one = teacher_student(0.2, v, weights=[-1.5], width=60, seed=7, outer="trained", scale=1e-6)
    verdict = weigh(one_teacher(one), Lab())
    assert verdict.status is Status.SUPPORTED, verdict.message
    assert verdict.predicted == pytest.approx(1.1, rel=1e-14)


def test_two_tilted_teachers_of_another_weight():
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    one = teacher_student(0.2, turn, weights=[2.0, 2.0], seed=3)
    verdict = weigh(several_teachers(one), Lab())
    assert verdict.status is Status.SUPPORTED, verdict.message
    atoms = derived.solve(0.1, 2)
    assert min(abs(verdict.predicted - x) for x in (2 * atoms.mass, atoms.angle)) < 1e-14


def test_printed_digits_of_two_teachers():
    for lam, mass, degrees in ((0.1, 0.82558, 4.413), (0.01, 0.98231, 0.39)):
        claim = several_teachers(teacher_student(lam))
        r, _, delta, _ = claim.predict(Lab())
        assert r == pytest.approx(mass, abs=5e-6)
        assert np.rad2deg(delta) == pytest.approx(degrees, abs=5e-4)


SKEW = np.array([[1.0, 0.0], [0.6, 0.8]])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: several_teachers(teacher_student(0.1, SKEW)), "orthogonal"),
        (lambda: several_teachers(teacher_student(0.1, 2, weights=[1.0, 0.5])), "equal weight"),
        (lambda: several_teachers(teacher_student(0.1, 1)), "m >= 2"),
        (lambda: one_teacher(teacher_student(0.1, 2)), "m = 1"),
        (lambda: one_teacher(teacher_student(0.6, 1)), "lam"),
        (lambda: several_teachers(teacher_student(0.48, 2)), "lam"),
        (lambda: one_teacher(teacher_student(0.1, 1, signs=-np.ones(40))), "both signs"),
        (lambda: one_teacher(teacher_student(0.1, 1, width=3)), "M >= 4m"),
        (lambda: one_teacher(teacher_student(0.1, 1, scale=0.1)), "total mass"),
        (
            lambda: one_teacher(teacher_student(0.1, 1, particles=np.tile([[-0.6, 0.8]], (8, 1)))),
            "cover",
        ),
        (lambda: dual_bound(teacher_student(0.1, SKEW)), "orthogonal"),
        (lambda: linear_rate(teacher_student(0.1, SKEW)), "orthogonal"),
        (lambda: global_convergence(teacher_student(0.1, signs=np.ones(40))), "both signs"),
        (lambda: descent_order(teacher_student(0.1, outer="trained")), "fixed"),
        (lambda: plain_descent_lags(teacher_student(0.1, outer="trained")), "fixed"),
        (lambda: plain_descent_lags(teacher_student(0.1), steps=100), "budget"),
        (lambda: dual_bound(teacher_student(0.6, 1)), "lam"),
    ],
)
def test_where_a_hypothesis_fails_nothing_is_claimed(make, reason):
    verdict = weigh(make(), Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert reason in verdict.message


@pytest.mark.parametrize("roundings", [0, 1])
def test_rate_of_a_teacher_pair_of_other_weights_and_signs(roundings):
    """No symmetry, clusters settle more slowly than the particles within them; an ulp is no news.

    The last third of the path is rounding, and another rounding of the start is another one.
    """
    scale = 1e-4 * (1 + 3e-16 * roundings)
    one = teacher_student(0.15, 2, weights=[1.0, -0.7], seed=5, scale=scale)
    verdict = weigh(linear_rate(one), Lab())
    assert verdict.status is Status.SUPPORTED, verdict.message


def test_equations_hold_for_any_teacher():
    one = teacher_student(0.3, SKEW, weights=[1.0, -0.4], scale=0.05)
    verdict = weigh(conic_equations(one, (1.0, 3.0, 9.0)), Lab())
    assert verdict.status is Status.SUPPORTED, verdict.message


def test_slopes_for_four_teachers_in_a_larger_space():
    verdict = weigh(recovery_slopes(4, 6), Lab())
    assert verdict.status is Status.SUPPORTED, verdict.message


def test_bad_instances_are_refused():
    with pytest.raises(ValueError, match="lam"):
        teacher_student(-0.1)
    with pytest.raises(ValueError, match="teachers"):
        teacher_student(0.1, 3, dim=2)
    with pytest.raises(ValueError, match="directions"):
        teacher_student(0.1, [[1.0, 1.0]])
    with pytest.raises(ValueError, match="signs"):
        teacher_student(0.1, signs=np.zeros(40))
    with pytest.raises(ValueError, match="outer"):
        teacher_student(0.1, outer="free")
    with pytest.raises(ValueError, match="ones"):
        one_teacher([])
    with pytest.raises(ValueError, match="times"):
        conic_equations(teacher_student(0.1), (2.0, 1.0))
    with pytest.raises(ValueError, match="step_sizes"):
        plain_descent_lags(teacher_student(0.1), step_sizes=(0.0,))
    with pytest.raises(ValueError, match="dim"):
        recovery_slopes(3, 2)
