"""Flaws of bias-free ReLU nets: the claims hold, can fail, and are silent where they must be."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy

import gradflow as gf
from gradflow.claims import Lab, Status, claims, weigh
from gradflow.claims.papers.benson2020over import antipodal, flaws
from gradflow.claims.papers.benson2020over.setting import partners, points

FLAWS = [
    "homogeneity",
    "odd-part-linear",
    "antipodal-rank-arc-cosine",
    "antipodal-rank-ntk",
    "hexagon-relu",
    "hexagon-leaky-relu",
    "least-error-relu",
    "hexagon-shifted-relu",
    "hexagon-training",
]


@pytest.fixture(scope="module")
def lab():
    return Lab()


def registered(name):
    return claims(f"benson2020over/{name}")[0]


@pytest.mark.parametrize("name", FLAWS)
def test_supported_and_able_to_fail(name, lab):
    claim = registered(name)
    verdict = weigh(claim, lab)
    assert verdict.status == Status.SUPPORTED, verdict.message
    assert verdict.control.status == Status.VIOLATED, verdict.control.message
    assert verdict.kind == "bound" or verdict.error <= verdict.tolerance / 10
    assert weigh(claim, lab, 1.05).status == Status.VIOLATED
    assert weigh(claim, lab, 0.95).status == Status.VIOLATED


# --- the hexagon, exactly ----------------------------------------------------------------------


def hexagon_features(slope, shift=Fraction(0)):
    """Rows φ(w·x_k), exact, for w in every cell: w·x_0 = p, w·x_1 = q, w·x_2 = q - p."""
    rows = []
    for p in (Fraction(v, 3) for v in range(-6, 7)):
        for q in (Fraction(v, 3) for v in range(-6, 7)):
            half = [p, q, q - p]
            pre = [*half, *(-h for h in half)]
            rows.append([max(z - shift, slope * (z - shift)) for z in pre])
    return sympy.Matrix(rows)


@pytest.mark.parametrize("slope", [Fraction(0), Fraction(1, 10), Fraction(1, 2)])
def test_hexagon_in_rational_arithmetic(slope):
    """Labels are orthogonal to every feature: the projection on their span is 0, the MSE is 1."""
    A = hexagon_features(slope)
    y = sympy.Matrix([1, -1, 1, -1, 1, -1])
    assert A * y == sympy.zeros(A.rows, 1)
    assert A.rank() == 5  # 3 pairs, 2 dimensions: N + min(N, d)
    assert hexagon_features(Fraction(0), Fraction(3, 10)).rank() == 6


def test_six_shifted_neurons_in_rational_arithmetic():
    b = Fraction(3, 10)
    cosines = [Fraction(1), Fraction(1, 2), Fraction(-1, 2), Fraction(-1), Fraction(-1, 2),
               Fraction(1, 2)]  # fmt: skip
    A = sympy.Matrix(6, 6, lambda i, j: max(cosines[(i - j) % 6] - b, Fraction(0)))
    y = sympy.Matrix([1, -1, 1, -1, 1, -1])
    assert A * (y / sympy.Rational(3, 10)) == y
    assert antipodal.alternating_sum(0.3) == pytest.approx(0.3, rel=1e-15)
    assert sorted(A.eigenvals()) == [sympy.Rational(v, 10) for v in (3, 5, 9, 11)]


# --- hypotheses --------------------------------------------------------------------------------


def reason(claim):
    verdict = weigh(claim, Lab())
    assert verdict.status == Status.NOT_APPLICABLE, (verdict.status, verdict.message)
    assert weigh(claim, Lab(), 1.05).status == Status.NOT_APPLICABLE
    return verdict.message


def test_other_activations_and_biases_are_outside():
    rng = np.random.default_rng(0)
    W, a, X, b = (rng.normal(size=s) for s in ((4, 3), (4,), (5, 3), (4,)))
    for make in (flaws.homogeneity, flaws.odd_part):
        assert "shifted_relu" in reason(make(flaws.probe(W, a, X, gf.shifted_relu(0.3)), id="m/a"))
        assert "biases" in reason(make(flaws.probe(W, a, X, gf.relu, b), id="m/b"))
        own = make(flaws.probe(W, a, X, gf.leaky_relu(0.7)), id="m/c")
        assert weigh(own, Lab()).status == Status.SUPPORTED
        assert weigh(own, Lab(), 0.95).status == Status.VIOLATED


def test_rank_law_needs_pairs_lines_and_general_position():
    rng = np.random.default_rng(1)
    half = rng.normal(size=(5, 3))

    def claim(X, **kw):
        return antipodal.antipodal_rank(points(X), id="m/rank", **kw)

    assert "row 0 has not exactly one negative" in reason(claim(half))
    assert "row 4" in reason(claim(np.r_[half, -half[:4]]))
    twice = np.r_[half, half[:1] * 2]
    assert "nearly one line" in reason(claim(np.r_[twice, -twice]))
    near = np.r_[half, half[:1] + 1e-7]
    assert "nearly one line" in reason(claim(np.r_[near, -near]))
    flat = half * [1.0, 1.0, 0.0]
    assert "2 dimensions, not 3" in reason(claim(np.r_[flat, -flat]))
    assert "slope 1" in reason(claim(np.r_[half, -half], slope=1.0))


@pytest.mark.parametrize("kernel", ["arc-cosine", "ntk"])
@pytest.mark.parametrize(("pairs", "dim"), [(1, 2), (2, 9), (7, 2), (20, 6), (30, 12)])
def test_rank_law_on_other_pairs(kernel, pairs, dim):
    rng = np.random.default_rng(pairs)
    half = rng.normal(size=(pairs, dim)) * rng.uniform(0.5, 3.0, size=(pairs, 1))
    order = rng.permutation(2 * pairs)
    claim = antipodal.antipodal_rank(
        points(np.r_[half, -half][order]), kernel, slope=0.3, id="m/rank"
    )
    verdict = weigh(claim, Lab())
    assert verdict.status == Status.SUPPORTED, verdict.message
    assert verdict.control.status == Status.VIOLATED
    assert verdict.measured == pairs + min(pairs, dim)
    for factor in (1.05, 0.95, 1 + 1 / verdict.measured):
        assert weigh(claim, Lab(), factor).status == Status.VIOLATED


def test_least_error_on_own_labels_and_where_it_is_silent():
    rng = np.random.default_rng(2)
    half, labels = rng.normal(size=(6, 3)), rng.normal(size=12)
    X = np.r_[half, -half]
    claim = antipodal.cannot_fit(points(X, labels), slope=0.2, id="m/fit")
    assert weigh(claim, Lab()).status == Status.SUPPORTED
    assert weigh(claim, Lab(), 0.95).status == Status.VIOLATED
    even = np.abs(half[:, 0])
    assert "can fit" in reason(antipodal.cannot_fit(points(X, np.r_[even, even]), id="m/even"))
    linear = X @ [1.0, 2.0, -1.0]
    assert "can fit" in reason(antipodal.cannot_fit(points(X, linear), id="m/linear"))
    assert "no labels" in reason(antipodal.cannot_fit(points(X), id="m/none"))
    assert "negative" in reason(antipodal.cannot_fit(points(half, labels[:6]), id="m/alone"))


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.0])
def test_a_hexagon_of_ones_own(turn):
    """Turned and scaled, with corners that are antipodal to rounding only."""
    angle = np.arange(6) * np.pi / 3 + turn
    corners = 2.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    claim = antipodal.cannot_fit(points(corners, (-1.0) ** np.arange(6)), id="m/hexagon")
    verdict = weigh(claim, Lab())
    assert verdict.status == Status.SUPPORTED, verdict.message
    assert verdict.predicted == pytest.approx(1.0, rel=1e-14)
    assert weigh(claim, Lab(), 1.0001).status == Status.VIOLATED
    rank = antipodal.antipodal_rank(points(corners), id="m/rank")
    assert weigh(rank, Lab()).measured == 5


@pytest.mark.parametrize("shift", [0.01, 0.5, 0.75, 0.99, -0.3, -0.8])
def test_hexagon_with_other_shifts(shift):
    claim = antipodal.hexagon_fitted(shift, id="m/shift")
    assert weigh(claim, Lab()).status == Status.SUPPORTED
    assert weigh(claim, Lab(), 1.05).status == Status.VIOLATED


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, -1.0, -3.0])
def test_hexagon_where_the_shift_does_not_bend_it(shift):
    assert "ReLU and linear" in reason(antipodal.hexagon_fitted(shift, id="m/shift"))


def test_no_training_on_own_pairs():
    rng = np.random.default_rng(4)
    half = rng.normal(size=(4, 2))
    own = points(np.r_[half, -half], rng.normal(size=8))
    claim = antipodal.no_training(own, slope=0.3, width=16, steps=20_000, id="m/training")
    verdict = weigh(claim, Lab())
    assert verdict.status == Status.SUPPORTED, verdict.message
    assert weigh(claim, Lab(), 0.95).status == Status.VIOLATED
    short = antipodal.no_training(own, steps=1, id="m/short")
    assert "raise steps" in reason(short)


def test_certificate_is_a_bound_for_every_net():
    """A residual of too few features certifies less than the least error, never more."""
    rng = np.random.default_rng(6)
    half = rng.normal(size=(5, 2))
    one = points(np.r_[half, -half], rng.normal(size=10))
    least = antipodal.least_error(one)
    for residual in rng.normal(size=(20, 10)):
        assert antipodal.certified(one, residual) <= least * (1 + 1e-12)
    fitted = antipodal.fitted(one, gf.relu, 3)
    assert antipodal.certified(one, fitted) == pytest.approx(least, rel=1e-12)


# --- bad input ---------------------------------------------------------------------------------


def test_bad_input():
    with pytest.raises(ValueError, match=r"(?s)X=.*row 1 is zero"):
        points([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"(?s)y=.*shape"):
        points(np.eye(3), [1.0])
    with pytest.raises(ValueError, match=r"ones=.*at least one"):
        antipodal.antipodal_rank([], id="m/rank")
    with pytest.raises(ValueError, match="pass a Points"):
        antipodal.antipodal_rank([np.eye(2)], id="m/rank")
    with pytest.raises(ValueError, match="kernel="):
        antipodal.antipodal_rank(points(np.eye(2)), kernel="cosine", id="m/rank")
    with pytest.raises(ValueError, match="slope="):
        antipodal.cannot_fit(points(np.eye(2)), slope=-0.1, id="m/fit")
    with pytest.raises(ValueError, match="activation"):
        flaws.probe(np.eye(2), [1.0, 1.0], np.eye(2), "relu")
    with pytest.raises(ValueError, match=r"(?s)X=.*dimension"):
        flaws.probe(np.eye(2), [1.0, 1.0], np.eye(3))
    with pytest.raises(ValueError, match="only zeros"):
        flaws.probe(np.eye(2), [0.0, 0.0], np.eye(2))
    with pytest.raises(ValueError, match="shift="):
        antipodal.hexagon_fitted("a", id="m/shift")


def test_partners():
    X = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 2.0]])
    assert list(partners(X)) == [2, -1, 0, -1]
    assert list(partners(np.r_[X[:1], X[2:3], X[2:3]])) == [-1, 0, 0]
