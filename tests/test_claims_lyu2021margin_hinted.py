"""Claims on hinted data and on uniqueness: what holds, what must not, and instances not listed."""

from __future__ import annotations

import numpy as np
import pytest

import gradflow as gf
from gradflow.claims import Lab, Status, weigh
from gradflow.claims.papers.lyu2021margin.branching import branch_time, branching
from gradflow.claims.papers.lyu2021margin.hint import hint, read_hint
from gradflow.claims.papers.lyu2021margin.hinted import (
    hinted_optimum,
    larger_starts,
    one_neuron_limit,
    split_directions,
    switch_location,
    switch_map,
)
from gradflow.claims.papers.lyu2021margin.setting import instance

ALIGNING, SPLIT = hint(5.0, 0.9, 0.1), hint(5.0, 1.2, 0.1)
_DRAW = {"slope": 0.5, "width": 8, "seed": 1}


@pytest.fixture(scope="module")
def lab():
    """One bench for all tests here."""
    return Lab()


def test_the_inequality_is_what_the_force_says(rng):
    for _ in range(200):
        H, K, eps = np.exp(rng.uniform(-1, 2)), np.exp(rng.normal()), np.exp(rng.uniform(-4, -1.1))
        one = hint(H, K, eps, slope=rng.uniform(0, 1))
        X = gf.datasets.hinted(H, K, eps).X
        force = np.array([1.0, 1.0, one.slope]) @ X
        assert one.aligns == (X[2] @ force > 0)
        assert one.aligns == (one.critical > K)
        np.testing.assert_allclose(np.arctan2(force[1], force[0]), one.split_angle, rtol=1e-12)


def test_exact_geometry_agrees_with_the_flow_where_no_claim_looks(lab):
    for one in (hint(2.0, 0.3, 0.15), hint(2.0, 3.0, 0.15), hint(7.0, 0.2, 0.02)):
        np.testing.assert_allclose(one.flow_angles(lab), one.exact_angles(), atol=2e-4)


def test_every_neuron_knows_only_three_directions():
    for one in (ALIGNING, SPLIT, hint(1.0, 3.0, 0.5, slope=0.2)):
        angles = one.exact_angles()
        near = np.min(np.abs(angles[:, None] - [0.0, one.split_angle]), axis=1)
        assert np.max(near) < 1e-12
        assert one.aligns == (np.max(angles) < 1e-12)


def test_a_map_and_a_location_of_ones_own(lab):
    grid = [hint(2.0, K, eps) for K in (0.3, 0.6, 1.0, 3.0) for eps in (0.1, 0.3)]
    assert 0 < sum(one.aligns for one in grid) < len(grid)
    verdict = weigh(switch_map(grid), lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    assert verdict.control is not None
    assert verdict.control.status is Status.VIOLATED
    verdict = weigh(switch_location(hint(2.0, 1.0, 0.3), width=2e-6), lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    assert verdict.predicted == pytest.approx(np.sqrt(0.3 * (2 + 1.5 * 0.3) / 0.5), rel=1e-14)


def test_a_map_of_points_on_the_switch_alone_says_nothing():
    edge = hint(5.0, ALIGNING.critical, 0.1)
    verdict = weigh(switch_map(edge), Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert "away from the switch" in verdict.message


def test_broken_hypotheses_on_hints():
    relu, linear = hint(slope=0.0), hint(slope=1.0)
    for make in (switch_map, switch_location, split_directions, branching, branch_time):
        for one in (relu, linear):
            verdict = weigh(make(one), Lab())
            assert verdict.status is Status.NOT_APPLICABLE, verdict.message
            assert "slope 0 < α < 1" in verdict.message
    for make in (split_directions, branch_time):
        verdict = weigh(make(ALIGNING), Lab())
        assert verdict.status is Status.NOT_APPLICABLE
        assert "(1-α) K² >" in verdict.message
    near = weigh(hinted_optimum(hint(0.3, 3.0, 0.1)), Lab())
    assert near.status is Status.NOT_APPLICABLE
    assert "the hint is no support datum" in near.message


def _cases():
    data = gf.datasets.hinted()
    return [
        (instance(gf.datasets.symmetric(), **_DRAW), "data +1"),
        (instance((data.X, [1.0, 1.0, -1.0]), **_DRAW), "data +1"),
        (instance(gf.datasets.hinted(5.0, 1.2, 0.1), **_DRAW), "(1-α) K² <"),
        (instance(data, **{**_DRAW, "slope": 0.0}), "slope 0 < α < 1"),
        (instance(data, **_DRAW, trained=False), "both layers trained"),
        (instance(data, **_DRAW, scale=0.03), "small start"),
        # all outer weights negative: no neuron of the group that counts
        (
            instance(data, slope=0.5, inner=-np.ones((8, 2)), outer=-2 * np.ones(8), scale=1e-6),
            "no neuron with a_k > 0 grows",
        ),
    ]


@pytest.mark.parametrize(("one", "reason"), _cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_where_a_hypothesis_on_the_limit_fails_nothing_is_claimed(one, reason, lab):
    for perturb in (None, 0.95):
        verdict = weigh(one_neuron_limit(one), lab, perturb)
        assert verdict.status is Status.NOT_APPLICABLE, verdict.message
        assert reason in verdict.message, verdict.message


@pytest.mark.slow
def test_limits_of_ones_own_in_another_frame(lab):
    data = gf.datasets.hinted(3.0, 0.7, 0.2, direction=[0.28, -0.96])
    small = instance(data, slope=0.5, width=8, seed=21, scale=1e-8)
    found = read_hint(small)
    assert found is not None
    np.testing.assert_allclose([found.H, found.K, found.eps], [3.0, 0.7, 0.2], rtol=1e-13)
    verdict = weigh(one_neuron_limit(small), lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    assert verdict.predicted == pytest.approx(0.1) or verdict.predicted == 0.5
    larger = weigh(larger_starts(small.but(scale=0.05)), lab)
    assert larger.status in (Status.SUPPORTED, Status.NOT_APPLICABLE), larger.message
    assert weigh(larger_starts(small), lab).status is Status.NOT_APPLICABLE


def test_the_number_of_the_instance_that_is_quoted():
    one = hint(5.0, 0.9, 0.1, slope=0.5)
    assert one.aligns
    assert one.optimum == pytest.approx(0.11859, abs=5e-6)
    svm = gf.certificates.hard_margin_svm(*gf.datasets.hinted(5.0, 0.9, 0.1))
    assert svm.margin / 2 == pytest.approx(0.05, rel=1e-14)


def test_the_optimum_on_many_hints(rng):
    some = []
    while len(some) < 12:
        one = hint(rng.uniform(1, 6), rng.uniform(0.05, 2), rng.uniform(0.05, 0.5),
                   slope=rng.uniform(0, 1))  # fmt: skip
        if one.hint_is_slack:
            some.append(one)
    verdict = weigh(hinted_optimum(some), Lab())
    assert verdict.status is Status.SUPPORTED, verdict.message


def test_branches_of_ones_own(lab):
    mine = (hint(2.0, 1.5, 0.2), hint(2.0, 0.5, 0.2))
    assert [one.aligns for one in mine] == [False, True]
    verdict = weigh(branching(mine, offset=1e-5), lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    verdict = weigh(branch_time(mine[0], ratios=np.linspace(0.05, 0.95, 8)), lab)
    assert verdict.status is Status.SUPPORTED, verdict.message
    for factor in (1.05, 0.95):
        assert weigh(branch_time(mine[0]), lab, factor).status is Status.VIOLATED


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: hint(0.05), "H"),
        (lambda: hint(K=-1.0), "K"),
        (lambda: hint(slope=1.2), "slope"),
        (lambda: switch_map([]), "hints"),
        (lambda: switch_location([3.0]), "hints"),
        (lambda: branching(SPLIT, offset=0.0), "offset"),
        (lambda: branch_time(SPLIT, ratios=[0.5]), "ratios"),
        (lambda: branch_time(SPLIT, ratios=np.linspace(0.3, 1.0, 8)), "ratios"),
        (lambda: one_neuron_limit([SPLIT]), "instances"),
    ],
)
def test_bad_input_is_named(make, argument):
    with pytest.raises(ValueError, match=f"^{argument}="):
        make()
