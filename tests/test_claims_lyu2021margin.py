"""Claims on margin maximisation and simplicity bias: what holds, what must not, what is unsaid."""

from __future__ import annotations

import numpy as np
import pytest

import gradflow as gf
from gradflow.claims import Lab, Status, claims, statements, weigh
from gradflow.claims.papers.lyu2021margin.limits import (
    global_optimum,
    limit_function,
    limit_margin,
    limit_masses,
    same_sign_limit,
    same_sign_probability,
    unpolished_margin,
)
from gradflow.claims.papers.lyu2021margin.phases import (
    phase_one_duration,
    phase_one_groups,
    phase_one_rate,
    phase_one_state,
    two_neuron_tracking,
)
from gradflow.claims.papers.lyu2021margin.setting import instance, limit, weights_at
from gradflow.claims.papers.lyu2021margin.symmetric import plane

PATTERN = "lyu2021margin/*"
PLANE = plane()


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
    if verdict.kind == "equality":
        assert verdict.error <= verdict.tolerance / 10
    for factor in (1.05, 0.95):
        altered = weigh(claim, lab, factor)
        assert altered.status in (Status.VIOLATED, Status.NOT_APPLICABLE), altered.message


def test_ids_citations_and_provenance():
    found = claims(PATTERN)
    assert {c.citation for c in found} == {"lyu2021margin"}
    provenance = {c.name: c.provenance for c in found}
    assert provenance["limit-margin"] == provenance["phase-1-rate"] == "reconstructed"
    assert provenance["limit-masses"] == provenance["phase-1-state"] == "derived"
    assert "published" not in provenance.values()


def _symmetric_claims(one):
    return [
        limit_margin(one),
        limit_masses(one),
        limit_function(one),
        unpolished_margin(one),
        same_sign_limit(one),
        phase_one_rate(one),
        phase_one_state(one),
        phase_one_duration(one),
        phase_one_groups(one),
        two_neuron_tracking(one),
    ]


_DRAW = {"slope": 0.5, "width": 4, "seed": 0}


def _not_symmetric():
    return instance((PLANE.X[:-1], PLANE.y[:-1]), **_DRAW)


def _almost_symmetric():
    X = PLANE.X.copy()
    X[0, 0] *= 1 + 1e-9
    return instance((X, PLANE.y), **_DRAW)


def _not_separable():
    # (x, y) and (-x, -y), but also two pairs that no line through the origin separates
    x = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.5]])
    labels = np.array([1.0, 1.0, 1.0])
    X, y = np.concatenate([x, -x]), np.concatenate([labels, -labels])
    X[0] = -X[1] - X[2]
    X[3] = -X[0]
    return instance((X, y), **_DRAW)


def _fixed_outer():
    return instance(PLANE, **_DRAW, trained=False)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_not_symmetric, "symmetric data (row 4 has no exact negative"),
        (_almost_symmetric, "symmetric data (row 0"),
        (_not_separable, "linearly separable data"),
        (_fixed_outer, "both layers trained"),
        (lambda: instance(PLANE, **{**_DRAW, "slope": 0.0}), "slope 0 < α < 1 (α = 0"),
        (lambda: instance(PLANE, **{**_DRAW, "slope": 1.0}), "slope 0 < α < 1 (α = 1"),
    ],
)
def test_where_a_hypothesis_on_the_setting_fails_nothing_is_claimed(make, reason):
    for claim in _symmetric_claims(make()):
        for perturb in (None, 1.05):
            verdict = weigh(claim, Lab(), perturb)
            assert verdict.status is Status.NOT_APPLICABLE, claim.id
            assert reason in verdict.message, verdict.message


def test_same_sign_draws_are_not_mixed_ones_and_the_reverse():
    mixed = instance(PLANE, **_DRAW)
    assert 0 < np.sum(mixed.b > 0) < 4
    same = mixed.same_sign()
    assert np.all(same.b > 0)
    for claim in (*_symmetric_claims(same)[:4], two_neuron_tracking(same)):
        verdict = weigh(claim, Lab())
        assert verdict.status is Status.NOT_APPLICABLE
        assert "a same-sign draw: all 4 b_k are positive" in verdict.message
    verdict = weigh(same_sign_limit(mixed), Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert "b_k of both signs occur" in verdict.message


def test_one_neuron_is_always_a_same_sign_draw():
    verdict = weigh(limit_margin(instance(PLANE, slope=0.5, width=1, seed=0)), Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert "all 1 b_k" in verdict.message


def test_a_large_start_is_not_a_small_one():
    large = instance(PLANE, **_DRAW, scale=0.3)
    for claim in _symmetric_claims(large)[:4] + _symmetric_claims(large)[5:9]:
        verdict = weigh(claim, Lab())
        assert verdict.status is Status.NOT_APPLICABLE
        assert "small start" in verdict.message
    assert "pass a smaller scale" in verdict.message
    # tracking is measured at sizes of its own
    verdict = weigh(two_neuron_tracking(large, sizes=(1.0, 0.1)), Lab())
    assert verdict.status is Status.NOT_APPLICABLE


@pytest.mark.slow
def test_instances_of_ones_own_on_rotated_data_and_negative_draws(lab):
    X, y = PLANE
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    # rows keep their exact negatives: rotation rounds x and -x alike
    mine = instance((3 * X @ turn.T, y), slope=0.5, width=4, seed=11, scale=1e-7, outer_scale=0.3)
    if np.ptp(np.sign(mine.b)) == 0:
        mine = instance((3 * X @ turn.T, y), slope=0.5, width=4, seed=12, scale=1e-7)
    verdict = weigh(limit_margin(mine), lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    assert verdict.predicted == pytest.approx(1.5 / 4 * 3 * 0.5, rel=1e-12)
    assert weigh(limit_function(mine), lab).status is Status.SUPPORTED
    assert weigh(phase_one_rate(mine), lab).status is Status.SUPPORTED
    same = mine.same_sign()
    negative = same.but(
        inner=tuple(map(tuple, (-same.w).tolist())), outer=tuple((-same.a).tolist())
    )
    assert np.all(negative.b < 0)
    verdict = weigh(same_sign_limit(negative), lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    assert float(np.asarray(limit(lab, negative).params.outer).max()) < 0


@pytest.mark.slow
def test_two_neurons_are_enough_and_wider_nets_hide_them(lab):
    """The embedded flow of `two_neuron_tracking` is that of an explicit net of two neurons."""
    one = instance(PLANE, **_DRAW)
    beta = np.array([np.linalg.norm(one.b[one.b > 0]), -np.linalg.norm(one.b[one.b < 0])])
    pair = instance(PLANE, slope=0.5, inner=np.outer(beta, one.mu_bar), outer=beta)
    hidden = one.but(
        inner=tuple(map(tuple, np.outer(one.b, one.mu_bar).tolist())), outer=tuple(one.b.tolist())
    )
    time = one.time_to(one.felt) + 3 / one.rate
    two, four = (weights_at(lab, x, time, 1e-11) for x in (pair, hidden))
    group = (one.b < 0).astype(int)
    np.testing.assert_allclose(four, (one.b / beta[group])[:, None] * two[group], rtol=1e-9)
    for make in (limit_margin, limit_masses):
        verdict = weigh(make(pair.but(inner=((0.3, 1.0), (-1.0, 0.2)), outer=(0.5, -0.1))), lab)
        assert verdict.status is Status.SUPPORTED, verdict.message


@pytest.mark.slow
def test_a_line_and_a_start_whose_outer_weights_are_large(lab):
    # in one dimension a neuron with b_k of the other sign passes through w = 0
    line = gf.datasets.symmetric(4, dim=1)
    crossing = instance(
        line, slope=0.5, inner=[[1.0], [-0.5], [0.3], [0.2]], outer=[-2.0, 1.0, 0.7, -0.1]
    )
    assert np.sum(np.sign(crossing.w @ crossing.mu_bar) != np.sign(crossing.b)) == 2
    loud = instance(PLANE, slope=0.5, width=4, seed=6, scale=1e-7, outer_scale=100.0)
    for one in (crossing, loud):
        for make in (limit_margin, phase_one_state, phase_one_groups):
            verdict = weigh(make(one), lab)
            assert verdict.status is Status.SUPPORTED, verdict.message
    assert weigh(two_neuron_tracking(loud), lab).status is Status.SUPPORTED
    verdict = weigh(two_neuron_tracking(crossing), lab)
    assert verdict.status is Status.NOT_APPLICABLE
    assert "a part across μ" in verdict.message


def test_the_probability_needs_no_flow_and_knows_its_own_error():
    claim = same_sign_probability((2, 3), data=PLANE, outer_scale=0.1, seed=5)
    verdict = weigh(claim, Lab())
    assert verdict.status is Status.SUPPORTED
    few = weigh(same_sign_probability((3,), data=PLANE, draws=100_000), Lab())
    assert few.status is Status.INCONCLUSIVE
    assert "numerical error" in few.message


def test_the_global_optimum_also_holds_for_relu_and_linear_neurons_and_not_without_symmetry():
    for slope in (0.0, 0.3, 1.0):
        for dim in (2, 3):
            data = gf.datasets.symmetric(12, dim=dim, seed=21)
            verdict = weigh(global_optimum(instance(data, slope=slope, width=4, seed=0)), Lab())
            assert verdict.status is Status.SUPPORTED, (slope, dim, verdict.message)
            assert verdict.predicted == pytest.approx((1 + slope) / 8, rel=1e-12)
    hinted = global_optimum(instance(gf.datasets.hinted(), slope=0.5, width=4, seed=0))
    assert weigh(hinted, Lab()).status is Status.NOT_APPLICABLE
    wide = global_optimum(instance(gf.datasets.symmetric(12, dim=4), **_DRAW))
    verdict = weigh(wide, Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert "d = 4" in verdict.message


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: instance(3.0, **_DRAW), "data"),
        (lambda: instance((PLANE.X, PLANE.y[:-1]), **_DRAW), "y"),
        (lambda: instance((PLANE.X, 2 * PLANE.y), **_DRAW), "y"),
        (lambda: instance((PLANE.X[0], PLANE.y), **_DRAW), "X"),
        (lambda: instance(PLANE, **{**_DRAW, "slope": 1.5}), "slope"),
        (lambda: instance(PLANE, **{**_DRAW, "slope": float("nan")}), "slope"),
        (lambda: instance(PLANE, **_DRAW, scale=0.0), "scale"),
        (lambda: instance(PLANE, **{**_DRAW, "seed": -1}), "seed"),
        (lambda: instance(PLANE, slope=0.5, width=4), "width"),
        (lambda: instance(PLANE, **_DRAW, inner=np.ones((1, 2)), outer=np.ones(1)), "width"),
        (lambda: instance(PLANE, slope=0.5, inner=np.ones((2, 3)), outer=np.ones(2)), "inner"),
        (lambda: instance(PLANE, slope=0.5, inner=np.ones((2, 2)), outer=np.ones(3)), "outer"),
        (lambda: limit_margin([]), "instances"),
        (lambda: limit_margin([PLANE]), "instances"),
        (lambda: same_sign_probability((0,), data=PLANE), "widths"),
        (lambda: same_sign_probability((17,), data=PLANE), "widths"),
        (lambda: same_sign_probability(data=PLANE, draws=10), "draws"),
        (lambda: two_neuron_tracking(instance(PLANE, **_DRAW), sizes=(1e-5, 1e-4)), "sizes"),
        (lambda: two_neuron_tracking(instance(PLANE, **_DRAW), sizes=(1e-5,)), "sizes"),
    ],
)
def test_bad_input_is_named(make, argument):
    with pytest.raises(ValueError, match=f"^{argument}="):
        make()
