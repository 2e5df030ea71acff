r"""As many features as data: enough for analytic activations, not for ReLU.

For φ analytic and no polynomial and points on distinct lines, m = n random features are
almost surely independent: det A is an analytic function of the weights that does not vanish
identically. For ReLU it vanishes on open sets: whole cells of weights on which features are dead,
or too many live on too few data. In the plane the probability is a finite sum over the cells.
Source: `benson2020over`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations_with_replacement

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import structural_rank

import gradflow as gf
from gradflow.claims import (
    Claim,
    Control,
    Equality,
    Hypothesis,
    Lab,
    Measurement,
    Outcome,
    Qualitative,
)
from gradflow.claims.instances import Several, every, several
from gradflow.claims.papers.benson2020over import PAPER
from gradflow.claims.papers.benson2020over.setting import (
    EPS,
    SOURCE,
    Points,
    distinct,
    features,
    interval,
    points,
)
from gradflow.validation import check_integer, check_real, fail


def square_invertible(
    ones: Several[Points],
    activations: Several[gf.AbstractActivation],
    *,
    draws: int = 40,
    seed: int = 0,
    id: str,
) -> Qualitative:
    """m = n features of an analytic activation that is no polynomial are independent.

    The margin of an outcome is log10(σ_min/(n ε ‖A‖)) of the worst draw: SUPPORTED asks for a
    hundredfold. Below it float64 cannot tell (INCONCLUSIVE), unless the zeros of A alone make it
    singular.

    Parameters
    ----------
    ones : Points or sequence of Points
        On distinct lines.
    activations : AbstractActivation or sequence of AbstractActivation
    draws, seed : int
        Draws of the square Gaussian weight matrix, per instance and activation.
    """
    ones = several("ones", ones, Points)
    activations = several("activations", activations, gf.AbstractActivation)
    draws = check_integer("draws", draws, minimum=1)
    seed = check_integer("seed", seed, minimum=0)

    def outcome(one: Points, phi: gf.AbstractActivation, count: int) -> Outcome:
        W = np.random.default_rng(seed).normal(size=(count, one.n, one.dim))
        A = features(phi, one.X, W)
        sizes = np.linalg.svd(A, compute_uv=False)
        floor = one.n * EPS * sizes[:, 0] + 1e-300
        margin = max(float(np.log10(np.min(sizes[:, -1] / floor) + 1e-300)), -1.0)
        small = A[sizes[:, -1] < floor]
        if any(structural_rank(csr_matrix(matrix)) < one.n for matrix in small):
            margin = -16.0
        return Outcome(f"{phi.name}, {one}, all of {count} draws", margin, 2.0)

    def analytic(phi: gf.AbstractActivation) -> str:
        parts = phi.parts()
        if phi.breaks:
            return "is not analytic"
        if parts is None:
            return "states nothing on its even and odd part"
        return "" if math.isinf(max(parts.even, parts.odd)) else "is a polynomial"

    def assumed(which: tuple[gf.AbstractActivation, ...]) -> list[Hypothesis]:
        def check(lab: Lab) -> tuple[bool, str]:
            wrong = [f"{phi.name} {said}" for phi in which if (said := analytic(phi))]
            return not wrong, "; ".join(wrong)

        return [Hypothesis("analytic, no polynomial", check), distinct(ones, lines=True)]

    return Qualitative(
        **PAPER.words("square-analytic", id),
        hypotheses=assumed(activations),
        measure=lambda lab: [outcome(one, phi, draws) for one in ones for phi in activations],
        control=Control.replacing(
            "ReLU, among many draws",
            measure=lambda lab: [outcome(one, gf.relu, 50 * draws) for one in ones],
        ),
        broken=Control.replacing("ReLU, which is not analytic", hypotheses=assumed((gf.relu,))),
    )


@dataclass(frozen=True)
class Cells:
    """Arcs of weight directions in the plane on which the activation pattern is constant."""

    edges: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray) -> Cells:
        """Cells cut by the lines w·x_i = 0."""
        angle = np.arctan2(X[:, 1], X[:, 0])
        cuts = np.sort(np.mod(np.concatenate([angle + np.pi / 2, angle - np.pi / 2]), 2 * np.pi))
        edges = np.append(cuts, cuts[0] + 2 * np.pi)
        return cls(edges, np.diff(edges) / (2 * np.pi))


def _independent(A: np.ndarray) -> np.ndarray:
    """|det A| over the product of the columns' norms; 0 where a column is."""
    norms = np.prod(np.linalg.norm(A, axis=-2), axis=-1)
    return np.abs(np.linalg.det(A)) / np.where(norms > 0, norms, 1.0)


#: A determinant below this share of its columns' norms is zero; in between it is not told.
_ZERO, _NONZERO = 1e-14, 1e-10


@lru_cache(maxsize=32)
def singular_probability(one: Points, slope: float) -> float:
    """P(det φ(XWᵀ) = 0), m = n, exactly: a sum over the multisets of cells of the n weights.

    On the product of its cells the determinant is a polynomial in the weights: it vanishes
    everywhere or almost nowhere, which a few random weights tell.
    """
    X, n = one.X, one.n
    cells = Cells.of(X)
    rng = np.random.default_rng(0)
    total = 0.0
    for chosen in combinations_with_replacement(range(len(cells.share)), n):
        picked = np.array(chosen)
        low, high = cells.edges[picked], cells.edges[picked + 1]
        angle = low + (high - low) * rng.uniform(0.1, 0.9, (4, n))
        W = np.stack([np.cos(angle), np.sin(angle)], axis=2)
        Z = np.swapaxes(W @ X.T, 1, 2)
        if np.max(_independent(np.maximum(Z, slope * Z))) < _NONZERO:
            orders = math.factorial(n)
            for count in Counter(chosen).values():
                orders //= math.factorial(count)
            total += orders * float(np.prod(cells.share[picked]))
    return total


def square_singular(
    ones: Several[Points], *, slope: float = 0.0, trials: int = 3_000_000, seed: int = 0, id: str
) -> Equality:
    """How often m = n (leaky) ReLU features of data in the plane are dependent.

    Parameters
    ----------
    ones : Points or sequence of Points
        In the plane, at most 5, on distinct lines.
    slope : float
        α < 1.
    trials, seed : int
    """
    ones, slope = several("ones", ones, Points), check_real("slope", slope)
    if not 0 <= slope < 1:
        raise fail("slope", slope, "is outside [0, 1)", "pass 0 for ReLU")
    trials = check_integer("trials", trials, minimum=1000)
    seed = check_integer("seed", seed, minimum=0)

    def counted(one: Points, alpha: float) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        zero = vague = 0
        for first in range(0, trials, 250_000):
            angle = rng.uniform(0, 2 * np.pi, size=(min(250_000, trials - first), one.n))
            W = np.stack([np.cos(angle), np.sin(angle)], axis=2)
            Z = W @ one.X.T
            found = _independent(np.swapaxes(np.maximum(Z, alpha * Z), 1, 2))
            zero += int(np.sum(found <= _ZERO))
            vague += int(np.sum((found > _ZERO) & (found < _NONZERO)))
        low, high = interval(zero, trials)
        share = zero / trials
        return share, max(high - share, share - low) + vague / trials

    def measure(lab: Lab) -> Measurement:
        found = np.array([counted(one, slope) for one in ones])
        return Measurement(found[:, 0], found[:, 1], [str(one) for one in ones])

    def planar(one: Points) -> str:
        return "" if one.dim == 2 and 2 <= one.n <= 5 else "asks for 2 to 5 points in the plane"

    def positive(one: Points) -> str:
        if planar(one):
            return ""
        return "" if singular_probability(one, slope) > 0 else "the features are never dependent"

    if slope == 0 and not any(planar(one) for one in ones) and all(_dead_share(o) for o in ones):
        control = Control.replacing(
            "dead features alone",
            predict=lambda lab: [1 - (1 - _dead_share(one)) ** one.n for one in ones],
        )
    else:
        control = Control.perturbed(1.1)
    return Equality(
        **PAPER.words("square-relu-singular", id),
        hypotheses=[
            every("2 to 5 points in the plane", ones, planar),
            distinct(ones, lines=True),
            every("positive probability", ones, positive),
        ],
        predict=lambda lab: [singular_probability(one, slope) for one in ones],
        measure=measure,
        tolerance=0.024,
        control=control,
    )


def _dead_share(one: Points) -> float:
    """P(φ(Xw) = 0) for ReLU."""
    cells = Cells.of(one.X)
    middle = 0.5 * (cells.edges[1:] + cells.edges[:-1])
    W = np.stack([np.cos(middle), np.sin(middle)], axis=1)
    return float(np.sum(cells.share[~np.any(one.X @ W.T > 0, axis=0)]))


ANALYTIC = (gf.probit_erf, gf.tanh, gf.softplus, gf.gelu, gf.fourier)


@cache
def generic() -> tuple[Points, ...]:
    """Points in general position."""
    rng = np.random.default_rng(11)
    return points(rng.normal(size=(4, 2))), points(rng.normal(size=(7, 3)))


@cache
def planar() -> tuple[Points, ...]:
    """Two points, and three, in the plane."""
    return points([[1.0, 0.0], [0.4, 0.9]]), points([[1.0, 0.1], [0.1, 1.0], [-0.9, 0.8]])


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "square-analytic": lambda: square_invertible(
        generic(), ANALYTIC, id=f"{SOURCE}/square-analytic"
    ),
    "square-relu-singular": lambda: square_singular(planar(), id=f"{SOURCE}/square-relu-singular"),
}
