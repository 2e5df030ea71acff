"""Claims on linear teachers: what holds, what must not, what is left unsaid."""

from __future__ import annotations

import numpy as np
import pytest

import gradflow as gf
from gradflow.claims import Lab, Status, claims, weigh
from gradflow.claims.sarussi2021linear import LARGEST_PULL, Schedule, reluctant, sgd, sgd_bound
from gradflow.claims.sarussi2021linear_clusters import (
    cluster_rule,
    clusters,
    exactly_linear,
    random_clusters,
    worst_clusters,
)
from gradflow.claims.sarussi2021linear_common import random_student, student

PATTERN = "sarussi2021linear/*"
BALLS = gf.datasets.two_balls(30, seed=7)


@pytest.fixture(scope="module")
def lab():
    """One bench for all: the perturbed claims reuse the trajectories."""
    return Lab()


@pytest.mark.slow
@pytest.mark.parametrize("claim", claims(PATTERN), ids=lambda claim: claim.name)
def test_claim_is_supported_its_control_fails_and_no_perturbation_survives(claim, lab):
    verdict = weigh(claim, lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    assert verdict.control is not None
    assert verdict.control.as_expected
    for factor in (1.05, 0.95):
        altered = weigh(claim, lab, factor)
        assert altered.status in (Status.VIOLATED, Status.NOT_APPLICABLE), altered.message


def test_ids_citations_and_provenance():
    found = claims(PATTERN)
    assert {c.citation for c in found} == {"sarussi2021linear"}
    assert {c.provenance for c in found} == {"reconstructed", "derived"}


# -- SGD ----------------------------------------------------------------------------------------


def test_constant_of_the_sgd_bound_is_the_largest_pull():
    z = np.linspace(0, 5, 5_000_001)
    assert np.max(z / (1 + np.exp(z))) == pytest.approx(LARGEST_PULL, rel=1e-12)
    assert LARGEST_PULL < 0.2785


@pytest.mark.parametrize("sampling", ["independent", "reshuffled"])
def test_derivatives_are_those_of_the_data_that_sgd_draws(sampling):
    """One step moves neuron j by η |ℓ'| y a_j φ' x: compare with the states, draw by draw."""
    one = random_student(BALLS, 2, 0.5, seed=3)
    how = Schedule(0.5, 70, 4, sampling)
    run = gf.descend(
        one.risk, one.params, step_size=0.5, steps=70, batch=1, key=how.key, sampling=sampling
    )
    moved = np.diff(np.asarray(run.params.inner), axis=0)
    length = np.linalg.norm(moved, axis=2)
    pull = sgd(Lab(), one, how).pull
    # every neuron moves along the datum, by η|ℓ'||a||x| or by α times that
    size = np.linalg.norm(one.X, axis=1)
    ratio = length / (0.5 * pull[:, None] * one.v)
    near = np.abs(ratio[:, :, None] - np.array([1.0, 0.3])[:, None, None, None] * size)
    assert np.all(near.min(axis=(0, 3)) < 1e-12)


@pytest.mark.parametrize("slope", [0.05, 0.9])
def test_sgd_bound_for_data_and_a_start_of_ones_own(slope, rng):
    teacher = rng.normal(size=4)
    X = rng.normal(size=(23, 4))
    one = student(X, np.sign(X @ teacher), rng.normal(size=(6, 4)), slope=slope)
    claim = sgd_bound(one, step_size=0.2, steps=333, seeds=9, sampling="independent", id="x/y")
    own = Lab()
    assert weigh(claim, own).status is Status.SUPPORTED
    assert weigh(claim, own, 1.05).status is Status.VIOLATED


def test_a_start_on_the_flat_side_needs_the_slope():
    one = reluctant(BALLS, 3, slope=0.1)
    verdict = weigh(sgd_bound(one, steps=3000, seeds=0, control="slope", id="x/y"), Lab())
    assert verdict.status is Status.SUPPORTED
    assert verdict.control is not None
    assert verdict.control.status is Status.VIOLATED


def test_a_control_that_holds_leaves_the_claim_undecided():
    one = random_student(BALLS, 2, 0.5)
    verdict = weigh(sgd_bound(one, steps=64, control="slope", id="x/y"), Lab())
    assert verdict.status is Status.INCONCLUSIVE


def _inseparable():
    X, y = BALLS
    return random_student((np.r_[X, X[:1]], np.r_[y, -y[:1]]), 2, 0.1)


BROKEN = [
    (_inseparable, "linearly separable"),
    (lambda: random_student(BALLS, 2, 0.1, slope=0.0), "0 < α < 1"),
    (lambda: random_student(BALLS, 2, 0.1, slope=1.0), "0 < α < 1"),
    (lambda: student(*BALLS, np.ones((3, 2)), outer=[1.0, -1.0, 1.0]), "equal halves"),
    (lambda: student(*BALLS, np.ones((2, 2)), outer=[1.0, -0.5]), "equal halves"),
    (lambda: student(*BALLS, np.ones((2, 2)), outer=[0.0, 0.0]), "equal halves"),
]


@pytest.mark.parametrize(("make", "reason"), BROKEN)
def test_where_the_setting_fails_nothing_is_claimed(make, reason):
    claim = sgd_bound(make(), steps=16, id="x/y")
    for factor in (None, 1.05):
        verdict = weigh(claim, Lab(), factor)
        assert verdict.status is Status.NOT_APPLICABLE
        assert reason in verdict.message


# -- clusters -----------------------------------------------------------------------------------


def test_cluster_rule_for_a_net_of_ones_own(rng):
    w, u = rng.normal(size=(2, 9, 3)) + np.array([[[1.0, 0, 0]], [[-1.0, 0.5, 0]]])
    for centres in (None, [[1.0, 0, 0], [-1.0, 0.5, 0]]):
        net = clusters(w, u, centres, slope=0.6, v=0.2)
        claim = cluster_rule(net, id="x/y")
        assert weigh(claim, Lab()).status is Status.SUPPORTED
        for factor in (1.05, 0.95):
            assert weigh(claim, Lab(), factor).status is Status.VIOLATED


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("slope", [0.01, 0.5, 0.99])
def test_thresholds_are_sharp_in_any_dimension(dim, slope):
    for means in (False, True):
        net = random_clusters(4, dim, 1.0, slope=slope, seed=dim, means=means)
        verdict = weigh(cluster_rule(net, id="x/y"), Lab())
        assert verdict.status is Status.SUPPORTED
        worst = weigh(cluster_rule(worst_clusters(dim, slope=slope, means=means), id="x/z"), Lab())
        assert worst.measured == pytest.approx(0.999 * worst.predicted, rel=1e-9)


def test_means_err_less_than_any_centres_and_a_search_does_not_beat_the_threshold(rng):
    """Random sign patterns of spread in one dimension: the rule's worst case by brute force."""
    slope, largest = 0.2, 0.0
    for _ in range(2000):
        u, w = rng.choice([-1.0, 0.0, 1.0], size=(2, 6)) - 0.6
        w = w - w.mean() + rng.uniform(-1.5, 1.5)
        r = max(np.ptp(w - w.mean()), np.abs(u - u.mean()).max(), np.abs(w - w.mean()).max())
        net = np.where(w > 0, w, slope * w).sum() - np.where(u > 0, u, slope * u).sum()
        gap = w.mean() - u.mean()
        if np.sign(net) != np.sign(gap):
            largest = max(largest, abs(gap) / r)
    assert 0.3 < largest <= (1 - slope) / (1 + slope)


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (cluster_rule(random_clusters(3, 2, 1.0, slope=0.0), id="x/a"), "0 < α < 1"),
        (cluster_rule(random_clusters(3, 2, 1.0, slope=1.0), id="x/b"), "0 < α < 1"),
        (cluster_rule(random_clusters(3, 2, 0.0), id="x/c"), "r > 0"),
        (exactly_linear(random_clusters(3, 2, 1.0), id="x/d"), "r = 0"),
        (exactly_linear(clusters([[1.0, 2.0]], [[1.0, 2.0]]), id="x/e"), "centres differ"),
    ],
)
def test_where_a_hypothesis_on_clusters_fails_nothing_is_claimed(claim, reason):
    verdict = weigh(claim, Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert reason in verdict.message


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: student(BALLS.X, BALLS.y[:3], np.ones((2, 2))), "y"),
        (lambda: student(BALLS.X, 2 * BALLS.y, np.ones((2, 2))), "y"),
        (lambda: student(*BALLS, np.ones((2, 3))), "inner"),
        (lambda: student(*BALLS, np.ones((3, 2))), "inner"),
        (lambda: student(*BALLS, np.zeros((2, 2))), "inner"),
        (lambda: student(*BALLS, np.ones((2, 2)), slope=1.2), "slope"),
        (lambda: student(*BALLS, np.ones((2, 2)), outer=[1.0]), "outer"),
        (lambda: random_student(BALLS.X, 2, 0.1), "data"),
        (lambda: random_student(BALLS, 0, 0.1), "half"),
        (lambda: random_student(BALLS, 2, 0.0), "scale"),
        (lambda: sgd_bound([], id="x/y"), "some"),
        (lambda: sgd_bound(random_student(BALLS, 2, 0.1), step_size=0.0, id="x/y"), "step_size"),
        (lambda: sgd_bound(random_student(BALLS, 2, 0.1), seeds=[], id="x/y"), "seeds"),
        (lambda: sgd_bound(random_student(BALLS, 2, 0.1), sampling="all", id="x/y"), "sampling"),
        (lambda: clusters([[1.0, 0.0]], [[1.0]]), "negative"),
        (lambda: clusters([[1.0]], [[2.0]], [[0.0]]), "centres"),
        (lambda: clusters([[1.0]], [[2.0]], slope=-0.1), "slope"),
        (lambda: clusters([[1.0]], [[2.0]], points=[[0.0]]), "points"),
        (lambda: random_clusters(2, 2, -1.0), "radius"),
        (lambda: cluster_rule([], id="x/y"), "nets"),
        (
            lambda: cluster_rule(
                [random_clusters(2, 2, 1.0), random_clusters(2, 2, 1.0, means=True)], id="x/y"
            ),
            "nets",
        ),
        (lambda: cluster_rule(random_clusters(2, 2, 1.0), probes=0, id="x/y"), "probes"),
    ],
)
def test_bad_input_is_refused(call, argument):
    with pytest.raises(ValueError, match=f"^{argument}="):
        call()
