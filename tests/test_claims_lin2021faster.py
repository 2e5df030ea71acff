"""Claims on deep linear nets and two neurons: what holds, what must not, what is left unsaid."""

from __future__ import annotations

import numpy as np
import pytest

from gradflow import Gaussian, StudentT, UniformSphere
from gradflow.claims import Lab, Status, claims, statements, weigh
from gradflow.claims.papers.lin2021directional.setting import instance, turning_point
from gradflow.claims.papers.lin2021faster.bounds import (
    early_angle_bound,
    late_angle_bound,
    norm_bound,
    upper_angle_bound,
)
from gradflow.claims.papers.lin2021faster.deep import (
    balancedness_kept,
    exact_angle,
    growth,
    reduction_holds,
)
from gradflow.claims.papers.lin2021faster.identity import teacher_enters_linearly
from gradflow.claims.papers.lin2021faster.leaky import leaky_angles, mode_mix
from gradflow.claims.papers.lin2021faster.pairs import pair, pair_path, random_pairs
from gradflow.claims.papers.lin2021faster.relu import relu_norms, trained_rates
from gradflow.claims.papers.lin2021faster.two_neurons import (
    directional_convergence,
    sum_conserved,
    symmetric_time_change,
)

PATTERN = "lin2021faster/*"


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


def test_ids_citations_and_provenance():
    found = claims(PATTERN)
    assert len(found) >= 40
    assert {c.citation for c in found} == {"lin2021faster", "du2018balanced"}
    published = {c.name for c in found if c.provenance == "published"}
    assert {"direction-relu", "angle-exact-N2", "angle-bound-upper-N4"} <= published
    assert "direction-leaky" not in published
    corrected = {c.name for c in found if c.provenance == "corrected"}
    assert corrected == {f"angle-bound-{phase}-N{n}" for phase in ("early", "late") for n in (4, 6)}


def test_two_layers_align_at_one_rate_for_a_start_of_ones_own():
    one = instance(StudentT(4, 3.0), [0.1, -0.7, 0.2, -1.5], [0.5, 0.5, 0.5, 0.5], depth=2)
    verdict = weigh(exact_angle([one]), Lab())
    assert verdict.status is Status.SUPPORTED
    assert verdict.predicted == pytest.approx(one.law.c0 / np.pi, rel=1e-14)


@pytest.mark.parametrize("depth", [3, 5])
def test_growth_of_a_start_of_ones_own(depth):
    one = instance(UniformSphere(5), [0.1, -0.7, 0.2, -1.5, 0.3], depth=depth)
    kappa = np.pi**2 * one.law.p0 / 6
    verdict = weigh(growth([one], "norm", "constant", tolerance=1e-8), Lab())
    assert verdict.status is Status.SUPPORTED
    expected = ((depth + 2) * kappa) ** (depth / (depth + 2))
    assert verdict.predicted == pytest.approx(expected, rel=1e-13)


def _deep_claims(one):
    return [
        growth([one], "norm", "exponent", tolerance=1e-10),
        early_angle_bound(one),
        late_angle_bound(one),
        upper_angle_bound(one),
        norm_bound(one, "upper"),
        reduction_holds(one),
    ]


def _opposed():
    return instance(Gaussian(2), [0.0, -1.0], depth=3)


def _unbalanced():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=shape) for shape in ((2, 2), (2, 2), (1, 2))]
    return instance(Gaussian(2), layers, depth=3)


def _other_loss():
    return instance(Gaussian(2), [0.6, -0.8], depth=3, loss="hinge")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_opposed, "theta(0) != pi"), (_unbalanced, "balanced"), (_other_loss, "logistic")],
)
def test_where_a_hypothesis_on_a_deep_net_fails_nothing_is_claimed(make, reason):
    for claim in _deep_claims(make()):
        verdict = weigh(claim, Lab())
        assert verdict.status is Status.NOT_APPLICABLE, claim.id
        assert reason in verdict.message


def test_bounds_need_more_than_two_layers_and_the_early_one_a_shrinking_norm():
    two = instance(Gaussian(2), [0.6, -0.8], depth=2)
    assert weigh(upper_angle_bound(two), Lab()).status is Status.NOT_APPLICABLE
    ahead = instance(Gaussian(2), [0.01, 0.8], depth=3)
    assert turning_point(Lab(), ahead).t == 0
    assert weigh(early_angle_bound(ahead), Lab()).status is Status.NOT_APPLICABLE
    assert weigh(late_angle_bound(ahead), Lab()).status is Status.SUPPORTED


def test_turning_point_is_where_the_norm_is_smallest():
    one = instance(UniformSphere(2), [3.0, -4.0], depth=4)
    lab = Lab()
    turn = turning_point(lab, one)
    cos = -np.tanh(turn.log_tan)
    pull = float(one.law.radial.h(np.exp(turn.log_radius))) - one.law.c0 / np.pi * (1 - cos)
    assert abs(pull) < 1e-11


def test_balanced_layers_leave_nothing_to_conserve():
    one = instance(Gaussian(2), [0.6, -0.8], depth=3)
    assert weigh(balancedness_kept(one), Lab()).status is Status.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (
            directional_convergence([pair(Gaussian(2), [[0, -1.0], [0, 2.0]])], "x"),
            "theta_i(0) != pi",
        ),
        (
            directional_convergence(
                [pair(Gaussian(2), [[1.0, 0], [0, 1.0]], outer=(1.0, 1.0))], "x"
            ),
            "a1 > 0 > a2",
        ),
        (symmetric_time_change([pair(Gaussian(2), [[1.0, 0], [0, 1.0]])]), "w2 = -w1"),
        (sum_conserved([pair(Gaussian(2), [[1.0, 0], [0, 1.0]], slope=0.5)]), "linear neurons"),
        (
            relu_norms([pair(UniformSphere(3), np.eye(3)[:2])], "second-order", tolerance=1e-3),
            "p''(0) != 0",
        ),
        (
            relu_norms(
                [pair(Gaussian(2), np.eye(2), outer=(2.0, -1.0))], "constant", tolerance=1e-10
            ),
            "outer weights (1, -1)",
        ),
        (
            trained_rates(
                [pair(Gaussian(2), np.eye(2), outer=(2.0, -1.0), trained=True)],
                "norm",
                tolerance=1e-8,
            ),
            "trained, |a_i| = |w_i|",
        ),
        (
            leaky_angles(
                [pair(Gaussian(2), [[1.0, 0.2], [-1.0, -0.2]], slope=0.3)], "rate", tolerance=1e-8
            ),
            "w2 != -w1",
        ),
        (mode_mix([pair(Gaussian(2), np.eye(2))]), "leaky neurons"),
        (teacher_enters_linearly([pair(Gaussian(3), np.eye(3)[:2])]), "d = 2"),
    ],
)
def test_where_a_hypothesis_on_two_neurons_fails_nothing_is_claimed(claim, reason):
    verdict = weigh(claim, Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert reason in verdict.message


def test_bad_pairs_are_refused():
    with pytest.raises(ValueError, match="slope"):
        pair(Gaussian(2), np.eye(2), slope=1.5)
    with pytest.raises(ValueError, match="inner"):
        pair(Gaussian(2), np.ones((3, 2)))
    with pytest.raises(ValueError, match="outer"):
        pair(Gaussian(2), np.eye(2), outer="free")


@pytest.mark.slow
def test_relu_constant_in_five_dimensions_with_a_tilted_teacher():
    rng = np.random.default_rng(5)
    one = pair(UniformSphere(5), rng.normal(size=(2, 5)), [0.0, 0.6, 0.0, -0.8, 0.0])
    lab = Lab()
    verdict = weigh(relu_norms([one], "constant", tolerance=1e-10), lab)
    assert verdict.status is Status.SUPPORTED
    expected = (np.pi**2 * one.law.p0 / 4) ** (1 / 3)
    assert verdict.predicted == pytest.approx(expected, rel=1e-13)
    # the same number, crudely, without any fit
    end = pair_path(lab, one).exact["neuron_norms"][-1] / 1e4
    assert end == pytest.approx([expected] * 2, rel=1e-5)


@pytest.mark.slow
def test_slow_mode_at_a_slope_of_ones_own():
    (one,) = random_pairs(Gaussian(2), 1, 21, slope=0.15)
    lab = Lab()
    for claim in (leaky_angles([one], "rate", tolerance=1e-8), mode_mix([one])):
        assert weigh(claim, lab).status is Status.SUPPORTED
    # the rate by hand: qA, A = 3 c0/(pi^3 p0)
    slope_squared = (0.85 / 1.15) ** 2
    rate = slope_squared * 3 * one.law.c0 / (np.pi**3 * one.law.p0)
    assert weigh(leaky_angles([one], "rate", tolerance=1e-8), lab).predicted == pytest.approx(rate)
