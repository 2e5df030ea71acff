"""Claims on linear teachers: what holds, what must not, what is left unsaid."""

from __future__ import annotations

import numpy as np
import pytest

import gradflow as gf
from gradflow.claims import Lab, Status, claims, statements, weigh
from gradflow.claims.papers.sarussi2021linear.agreement import (
    agreement_time,
    approach,
    reaches_agreement,
    starts,
)
from gradflow.claims.papers.sarussi2021linear.clusters import (
    cluster_rule,
    clusters,
    exactly_linear,
    random_clusters,
    worst_clusters,
)
from gradflow.claims.papers.sarussi2021linear.regimes import (
    agree,
    agree_perfectly,
    differences_kept,
    features,
    imperfect,
    limit_of,
    perfect,
    perfect_features,
    settled,
    svm_limit,
    trained,
    two_clusters,
)
from gradflow.claims.papers.sarussi2021linear.scale import (
    nonlinearity,
    nonlinearity_bounded,
    nonlinearity_falls,
)
from gradflow.claims.papers.sarussi2021linear.setting import random_student, student
from gradflow.claims.papers.sarussi2021linear.sgd import (
    LARGEST_PULL,
    Schedule,
    reluctant,
    sgd,
    sgd_bound,
)

PATTERN = "sarussi2021linear/*"
BALLS = gf.datasets.two_balls(30, seed=7)


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


def test_sgd_bound_for_data_and_a_start_of_ones_own(rng):
    teacher = rng.normal(size=4)
    X = rng.normal(size=(23, 4))
    one = student(X, np.sign(X @ teacher), rng.normal(size=(6, 4)), slope=0.05)
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


# -- regimes ------------------------------------------------------------------------------------

PARTS = ("margin", "direction", "certificate", "approach")


def test_agreement_is_what_a_loop_over_pairs_finds(rng):
    one = random_student(gf.datasets.two_balls(3, seed=1), 2, 1.0)
    seen = set()
    for W in rng.normal(size=(300, 4, 2)):
        signs = [[np.sign(w @ x) for x in one.X] for w in W]
        alike = signs[0] == signs[1] and signs[2] == signs[3]
        perfect = all(
            signs[j][i] == one.y[i] * (1 if j < 2 else -1) for j in range(4) for i in range(3)
        )
        assert (agree(one, W), agree_perfectly(one, W)) == (alike, perfect)
        seen.add((alike, perfect))
    assert seen == {(False, False), (True, False), (True, True)}


def test_a_neuron_on_a_kink_agrees_with_none():
    one = student([[1.0, 1e-16], [0.5, 1.0]], [1.0, 1.0], [[0.0, 1.0], [-1.0, -1.0]])
    assert not agree(one, one.W)
    assert agree(one, np.array([[0.1, 1.0], [-1.0, -1.0]]))


def test_agreeing_neurons_are_one_linear_predictor_on_the_features(rng):
    for one in (perfect()[0], imperfect()):
        mean = rng.normal(size=2)
        W = np.where((one.a > 0)[:, None], mean, -mean) + 1e-6 * rng.normal(size=(8, 2))
        assert agree(one, W)
        z, y = features(one, W)
        means = np.concatenate([W[one.a > 0].mean(axis=0), W[one.a < 0].mean(axis=0)])
        net = np.asarray(one.risk.net(one.risk.as_params({"inner": W, "outer": one.a}), one.risk.X))
        assert one.v * one.half * z @ means == pytest.approx(net, rel=1e-12)
        assert np.array_equal(y, one.y)
    star = np.where((one.a > 0)[:, None], one.svm.direction, -one.svm.direction)
    assert np.array_equal(features(one, star)[0], perfect_features(one)[0])


def test_the_limit_has_the_margin_that_is_predicted():
    for one in perfect():
        _, inner, margin = limit_of(one)
        assert np.linalg.norm(inner) == pytest.approx(1.0, rel=1e-14)
        net = np.asarray(
            one.risk.net(one.risk.as_params({"inner": inner, "outer": one.a}), one.risk.X)
        )
        assert np.min(one.y * net) == pytest.approx(margin, rel=1e-12)


@pytest.mark.slow
def test_regimes_for_data_and_a_start_of_ones_own():
    data = gf.datasets.orthogonally_separable(9, dim=3, half_angle=0.7, seed=11)
    one = random_student(data, 3, 0.4, slope=0.6, seed=2).but(outer=(0.7,) * 3 + (-0.7,) * 3)
    own = Lab()
    made = [svm_limit(one, part, id="x/y") for part in PARTS]
    made += [differences_kept(one, id="x/y"), two_clusters(one, id="x/y")]
    made += [reaches_agreement(one, id="x/y"), agreement_time(one, id="x/y")]
    for claim in made:
        assert weigh(claim, own).status is Status.SUPPORTED, claim.title
        for factor in (1.05, 0.95):
            assert weigh(claim, own, factor).status is Status.VIOLATED, claim.title


@pytest.mark.slow
def test_where_no_regime_is_reached_nothing_is_claimed(lab):
    # all neurons of one sign end sliding along the kink of one datum: alike, but not settled
    data = gf.datasets.separable_gaussians(20, centre=0.5, std=1.0, seed=6)
    sliding = random_student(data, 4, 0.1, slope=0.5, seed=6)
    for claim in (differences_kept(sliding, id="x/y"), two_clusters(sliding, id="x/y")):
        for factor in (None, 1.05):
            verdict = weigh(claim, lab, factor)
            assert verdict.status is Status.NOT_APPLICABLE
            assert "4 pairs slide" in verdict.message
    final = trained(lab, imperfect()).final.inner
    assert agree(imperfect(), final)
    assert not agree_perfectly(imperfect(), final)
    for part in PARTS:
        verdict = weigh(svm_limit([perfect()[0], imperfect()], part, id="x/y"), lab)
        assert verdict.status is Status.NOT_APPLICABLE
        assert "perfect agreement" in verdict.message


@pytest.mark.slow
def test_differences_too_small_to_resolve_are_left_undecided(lab):
    """Neurons of 1e-9 beside means of 1e3: float64 keeps seven digits of no difference."""
    tiny = random_student(gf.datasets.two_balls(20, seed=0), 4, 1e-9, seed=0)
    for claim in (differences_kept(tiny, id="x/y"), two_clusters(tiny, id="x/y")):
        assert weigh(claim, lab).status is Status.INCONCLUSIVE
    assert weigh(svm_limit(tiny, "certificate", id="x/y"), lab).status is Status.SUPPORTED


@pytest.mark.slow
def test_equal_neurons_have_no_differences_to_keep(lab):
    one = perfect()[0]
    equal = one.but(inner=(one.inner[0],) * 4 + (one.inner[4],) * 4)
    verdict = weigh(differences_kept(equal, id="x/y"), lab)
    assert verdict.status is Status.NOT_APPLICABLE
    assert "differ" in verdict.message


@pytest.mark.slow
def test_entry_of_the_regime_is_where_the_last_neuron_crosses(lab):
    one = starts()[1]
    run = approach(lab, one)
    worst = run.correct.min(axis=(1, 2))
    last = int(np.argmax(worst > 0))
    assert run.log_t[last - 1] < run.entry <= run.log_t[last]
    assert settled(trained(lab, perfect()[1])) > settled(trained(lab, perfect()[0]))


@pytest.mark.parametrize("make", [reaches_agreement, agreement_time])
def test_data_that_are_not_orthogonally_separable_are_told(make):
    verdict = weigh(make(imperfect(), id="x/y"), Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert "for all pairs" in verdict.message
    assert "pair (" in verdict.message


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize(
    "make", [reaches_agreement, agreement_time, differences_kept, two_clusters]
)
def test_regimes_are_claimed_of_leaky_nets_only(make, slope):
    # (the sharpest factor of a bound takes a flow to find)
    for factor in (None,) if make is agreement_time else (None, 0.95):
        verdict = weigh(make(starts()[0].but(slope=slope), id="x/y"), Lab(), factor)
        assert verdict.status is Status.NOT_APPLICABLE
        assert "0 < α < 1" in verdict.message


def test_a_start_in_the_regime_bounds_no_time():
    one = starts()[0]
    star = np.where((one.a > 0)[:, None], one.svm.direction, -one.svm.direction)
    inside = student(one.X, one.y, star)
    verdict = weigh(agreement_time([one, inside], id="x/y"), Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert "outside" in verdict.message


# -- scale --------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.95])
def test_nonlinearity_in_the_plane_is_the_share_of_a_dense_grid(rng, slope):
    angle = 2 * np.pi * (np.arange(100_000) + 0.5) / 100_000
    x = np.column_stack([np.cos(angle), np.sin(angle)])
    a = np.array([0.5, 2.0, 1.0, -1.0, -0.7])
    for W in rng.normal(size=(3, 5, 2)):
        pre = x @ W.T
        c = W[:3].mean(axis=0) - W[3:].mean(axis=0)
        share = np.mean(np.sign(np.where(pre > 0, pre, slope * pre) @ a) != np.sign(x @ c))
        assert nonlinearity(W, a, slope)[0] == pytest.approx(share, abs=4e-5)


def test_nonlinearity_of_the_plane_in_space_agrees_with_the_plane(rng):
    """Neurons in a plane of R³: ν depends on the angle in that plane only."""
    W = rng.normal(size=(6, 2))
    a = np.repeat([1.0, -1.0], 3)
    flat, none = nonlinearity(W, a, 0.2)
    share, error = nonlinearity(np.column_stack([W, np.zeros(6)]), a, 0.2)
    assert none == 0
    assert 0 < error < 0.002
    assert abs(share - flat) < 4 * error


def test_clusters_of_radius_zero_are_linear_and_one_sign_is_refused():
    W = np.array([[1.0, 0.3], [1.0, 0.3], [-0.5, 1.0], [-0.5, 1.0]])
    assert nonlinearity(W, [1.0, 1.0, -1.0, -1.0], 0.3)[0] < 1e-15
    with pytest.raises(ValueError, match="outer"):
        nonlinearity(W, [1.0, 1.0, 1.0, 1.0], 0.3)


@pytest.mark.slow
def test_nonlinearity_of_data_of_ones_own_falls_too():
    data = gf.datasets.separable_gaussians(20, seed=1)
    own = Lab()
    options = {"scales": (0.05, 4.0), "seeds": 6, "slope": 0.2, "log_t": 6.0, "id": "x/y"}
    for make in (nonlinearity_falls, nonlinearity_bounded):
        assert weigh(make(data, **options), own).status is Status.SUPPORTED
        assert weigh(make(data, **options), own, 0.95).status is Status.VIOLATED


@pytest.mark.parametrize("make", [nonlinearity_falls, nonlinearity_bounded])
def test_nets_that_have_not_fitted_the_data_are_left_out(make):
    data = gf.datasets.two_balls(20, seed=0)
    claim = make(data, scales=(1.0, 5.0), seeds=3, log_t=-4.0, id="x/y")
    verdict = weigh(claim, Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert "fitted" in verdict.message


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
        (lambda: svm_limit(perfect(), "norm", id="x/y"), "part"),
        (lambda: differences_kept(BALLS, id="x/y"), "some"),  # type: ignore[arg-type]
        (lambda: nonlinearity_falls(BALLS, scales=(1.0, 0.1), id="x/y"), "scales"),
        (lambda: nonlinearity_falls(BALLS, scales=(1.0,), id="x/y"), "scales"),
        (lambda: nonlinearity_falls(BALLS, seeds=2, id="x/y"), "seeds"),
    ],
)
def test_bad_input_is_refused(call, argument):
    with pytest.raises(ValueError, match=f"^{argument}="):
        call()
