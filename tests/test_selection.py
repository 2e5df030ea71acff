"""The selection of sides where several surfaces meet: optimality, uniqueness, enumeration."""

import itertools

import numpy as np
import pytest
from scipy import optimize
from scipy.optimize import lsq_linear

from gradflow.cells.selection import box_minimum, select


def _instance(seed, attractive_only=False):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 9))
    K = int(rng.integers(1, min(d, 6) + 1))
    sign = rng.choice([-1.0, 1.0])
    J = rng.normal(size=K)
    if attractive_only:
        J = -sign * np.abs(J)
    return rng.normal(size=d), rng.normal(size=(K, d)), J, sign


def _consistent(u, N, J, sign):
    """All consistent assignments, each side tried on its own: 3^K of them."""
    found = []
    for sides in itertools.product((1, -1, 0), repeat=len(J)):
        s = np.array(sides)
        if np.any((s == 0) & (sign * J > 0)):
            continue
        nu = (s > 0).astype(float)
        slide = s == 0
        if np.any(slide):
            held = u + (nu * J) @ N
            nu[slide] = np.linalg.lstsq(N[slide].T, -held, rcond=None)[0] / J[slide]
            if np.any((nu[slide] <= 0) | (nu[slide] >= 1)):
                continue
        rates = sign * (N @ (u + (nu * J) @ N))
        if np.all(s * rates >= -1e-12):
            found.append(sides)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_every_way_meets_the_conditions_and_none_is_missed(seed):
    u, N, J, sign = _instance(seed)
    chosen = select(u, N, J, sign)
    expected = _consistent(u, N, J, sign)
    assert chosen.complete
    assert chosen.branches == len(expected) >= 1
    assert {tuple(way.sides.tolist()) for way in chosen.ways} == set(expected)
    for way in chosen.ways:
        np.testing.assert_allclose(way.g, u + (way.nu * J) @ N, atol=1e-13)
        rates = sign * (N @ way.g)
        assert np.all(way.nu[way.sides == 1] == 1.0)
        assert np.all(way.nu[way.sides == -1] == 0.0)
        assert np.all(rates[way.sides == 1] >= -1e-13)
        assert np.all(rates[way.sides == -1] <= 1e-13)
        assert np.all(np.abs(rates[way.sides == 0]) <= 1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_attracting_surfaces_give_the_least_norm(seed):
    u, N, J, sign = _instance(1000 + seed, attractive_only=True)
    chosen = select(u, N, J, sign)
    assert chosen.branches == 1
    reference = optimize.lsq_linear(
        N.T, -u, bounds=(np.minimum(J, 0), np.maximum(J, 0)), method="bvls", tol=1e-15
    )
    np.testing.assert_allclose(chosen.nu * J, reference.x, atol=1e-12)


def test_box_minimum_with_dependent_rows():
    rng = np.random.default_rng(5)
    for _ in range(50):
        N = rng.normal(size=(7, 3))
        u = rng.normal(size=3)
        lo, hi = -rng.uniform(size=7), rng.uniform(size=7)
        mu, _ = box_minimum(u, N, lo, hi)
        g = u + mu @ N
        slope = N @ g
        assert np.all((mu >= lo) & (mu <= hi))
        assert np.all(slope[mu <= lo] >= -1e-12)
        assert np.all(slope[mu >= hi] <= 1e-12)
        assert np.all(np.abs(slope[(mu > lo) & (mu < hi)]) < 1e-12)


def test_repelling_surface_is_a_branch_and_plus_comes_first():
    chosen = select(np.array([-0.5, 1.0]), np.array([[1.0, 0.0]]), np.array([1.0]), 1.0)
    assert chosen.branches == 2
    assert [way.sides.tolist() for way in chosen.ways] == [[1], [-1]]
    assert chosen.sides.tolist() == [1]


def test_tiny_jumps_follow_their_rate():
    N = np.eye(2)
    chosen = select(np.array([1.0, -2.0]), N, np.array([-1e-20, 1e-20]), 1.0)
    assert chosen.sides.tolist() == [1, -1]
    assert chosen.branches == 1
    assert select(np.zeros(2), N, np.zeros(2), 1.0).sides.tolist() == [1, 1]


def test_forced_members_keep_their_side():
    u, N, J = np.array([0.5, 0.2]), np.eye(2), np.array([-1.0, -1.0])
    assert select(u, N, J, 1.0).sides.tolist() == [0, 0]
    assert select(u, N, J, 1.0, forced=[-1, 0]).sides.tolist() == [-1, 0]
    np.testing.assert_allclose(select(u, N, J, 1.0, forced=[1, 0]).g, [-0.5, 0.0], atol=1e-15)


def test_many_repelling_members_end_in_an_outcome():
    rng = np.random.default_rng(0)
    chosen = select(rng.normal(size=14), rng.normal(size=(12, 14)), np.ones(12), 1.0)
    assert not chosen.complete


@pytest.mark.parametrize("size", [1, 2, 5, 9, 20])
def test_box_problems_agree_with_a_library(size):
    """Active sets of our own, and scipy's bounded least squares."""
    rng = np.random.default_rng(size)
    for _ in range(25):
        N = rng.normal(size=(size, size + 2))
        u, jump = rng.normal(size=size + 2), rng.normal(size=size)
        lo, hi = np.minimum(jump, 0.0), np.maximum(jump, 0.0)
        mu, free = box_minimum(u, N, lo, hi)
        x = lsq_linear(N.T, -u, (lo, hi), method="bvls", tol=1e-14).x
        assert mu == pytest.approx(x, abs=1e-9)
        assert np.array_equal(free, (mu > lo) & (mu < hi))
