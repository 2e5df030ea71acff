r"""How wide a net must be for its last layer to fit any labels: an ensemble statement.

**Width.** :math:`A=\varphi(XW^\top)\in R^{n\times m}` with independent w_k; of its columns
:math:`K=E\,a_ka_k^\top`, λ = λ_min(K), :math:`\|a_k\|^2\le B` almost surely. The matrix Chernoff
bound (`tropp2012user`, Theorem 1.1) for the sum of the m independent :math:`a_ka_k^\top`, with
largest eigenvalues at most B and λ_min of the mean mλ, is

.. math::
    P\left(\lambda_{\min}(AA^\top/m)\le(1-\varepsilon)\lambda\right)
    \le n\left(\frac{e^{-\varepsilon}}{(1-\varepsilon)^{1-\varepsilon}}\right)^{m\lambda/B}
    \le n\,e^{-\varepsilon^2m\lambda/2B},

the second step by :math:`(1-\varepsilon)\ln(1-\varepsilon)\ge-\varepsilon+\varepsilon^2/2`. It is
at most δ for :math:`m\ge\frac{2B}{\varepsilon^2\lambda}\ln\frac n\delta`. Failures are counted over
independent draws; their numerical error is the exact (Clopper-Pearson) confidence interval.

**Square.** For φ analytic and no polynomial and points on distinct lines, m = n random features are
almost surely independent: det A is an analytic function of the weights that does not vanish
identically. For ReLU it vanishes on open sets: whole cells of weights on which features are dead,
or too many live on too few data. In the plane the probability is a finite sum over the cells.
Source: `benson2020over`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import scipy.stats

from gradflow.claims.base import Control, Hypothesis, Measurement, Outcome
from gradflow.claims.benson2020over_common import (
    EPS,
    SOURCE,
    Points,
    check_activation,
    distinct,
    every,
    features,
    points,
    several,
)
from gradflow.claims.kinds import Bound, Equality, Qualitative
from gradflow.claims.lab import Lab
from gradflow.claims.registry import register
from gradflow.models.activations import (
    AbstractActivation,
    Erf,
    Fourier,
    LeakyReLU,
    Tanh,
    erf,
    fourier,
    gelu,
    relu,
    softplus,
    tanh,
)
from gradflow.models.kernels.gram import gram
from gradflow.models.kernels.rank import numerical_rank
from gradflow.validation import check_choice, check_integer, check_real, fail

#: Two-sided level of the confidence intervals, per width.
LEVEL = 0.999
TRIALS = 8000
#: Failure probabilities around which a pilot run chooses further widths.
PILOT = (0.6, 0.3, 0.15)
#: sup |φ| of the activations that are bounded.
SUPREMUM: dict[type, float] = {Erf: 1.0, Tanh: 1.0, Fourier: math.sqrt(2)}


# --- width -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """Points, an activation and a law of the weights; made by `random_features`, hashable."""

    data: Points
    activation: AbstractActivation
    weights: str = "gaussian"

    @property
    def bound(self) -> float:
        """B with ‖φ(Xw)‖² ≤ B almost surely; inf where there is none."""
        if self.weights == "sphere":  # homogeneous, |φ(z)| <= |z|
            return float(np.linalg.norm(self.data.X, 2) ** 2)
        return self.data.n * SUPREMUM.get(type(self.activation), math.inf) ** 2

    @property
    def kernel(self) -> np.ndarray:
        """K (n, n)."""
        K = gram(self.activation, self.data.X)
        return K / self.data.dim if self.weights == "sphere" else K

    @property
    def least(self) -> float:
        """λ."""
        return float(np.linalg.eigvalsh(self.kernel)[0])

    def draw(self, rng: np.random.Generator, trials: int, width: int) -> np.ndarray:
        """Features A (trials, n, width)."""
        W = rng.normal(size=(trials, width, self.data.dim))
        if self.weights == "sphere":
            W /= np.linalg.norm(W, axis=2, keepdims=True)
        return features(self.activation, self.data.X, W)

    def __str__(self) -> str:
        return f"{self.activation.name}, {self.weights} weights, {self.data}"


def random_features(
    data: Points, activation: AbstractActivation, weights: str = "gaussian"
) -> Features:
    """A checked `Features`.

    Parameters
    ----------
    data : Points
    activation : AbstractActivation
    weights : {"gaussian", "sphere"}
        N(0, I), or uniform on the unit sphere (for a (leaky) ReLU: others have no closed kernel).
    """
    if not isinstance(data, Points):
        raise fail("data", data, "are no Points", "pass points(X)")
    check_activation("activation", activation)
    check_choice("weights", weights, ("gaussian", "sphere"))
    if weights == "sphere" and not isinstance(activation, LeakyReLU):
        raise fail("weights", weights, "needs a (leaky) ReLU", "pass weights='gaussian'")
    return Features(data, activation, weights)


def interval(failures: int, trials: int) -> tuple[float, float]:
    """The Clopper-Pearson interval of a probability."""
    tail = (1 - LEVEL) / 2
    low = scipy.stats.beta.ppf(tail, failures, trials - failures + 1) if failures else 0.0
    high = scipy.stats.beta.isf(tail, failures + 1, trials - failures) if failures < trials else 1.0
    return float(low), float(high)


def draws_at(width: int, trials: int) -> int:
    """Fewer draws where they are large: there failures are rare and the bound is far from them."""
    return min(trials, max(1000, 2_000_000 // width))


def least_eigenvalues(one: Features, width: int, trials: int, seed: int) -> np.ndarray:
    """λ_min(AAᵀ/m) of independent draws (trials,)."""
    rng = np.random.default_rng([seed, width])
    chunk = max(1, 1_000_000 // (width * max(one.data.n, one.data.dim)))
    found = []
    for first in range(0, trials, chunk):
        A = one.draw(rng, min(chunk, trials - first), width)
        found.append(np.linalg.eigvalsh(A @ np.swapaxes(A, 1, 2) / width)[:, 0])
    return np.concatenate(found)


def width_bound(
    ones: Any,
    *,
    epsilon: float = 0.5,
    delta: float = 0.1,
    trials: int = TRIALS,
    seed: int = 0,
    id: str,
) -> Bound:
    """P(λ_min(AAᵀ/m) ≤ (1-ε)λ) ≤ n e^{-ε²mλ/2B}, at the stated width for δ and at smaller ones.

    Parameters
    ----------
    ones : Features or sequence of Features
    epsilon, delta : float
        In (0, 1).
    trials, seed : int
        Independent draws of all the weights.
    id : str
    """
    ones = several("ones", ones, Features)
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if not 0 < check_real(name, value) < 1:
            raise fail(name, value, "is outside (0, 1)", f"pass {name}=0.5")
    trials = check_integer("trials", trials, minimum=100)
    seed = check_integer("seed", seed, minimum=0)

    def rate(one: Features) -> float:
        return epsilon**2 * one.least / (2 * one.bound)

    def stated(one: Features) -> int:
        return math.ceil(math.log(one.data.n / delta) / rate(one))

    def widths(lab: Lab, one: Features) -> tuple[int, ...]:
        """The stated width, half of it, and those at which a pilot run fails now and then."""

        def choose() -> tuple[int, ...]:
            top = stated(one)
            grid = np.unique(np.geomspace(one.data.n, top / 2, 24).astype(int))
            pilot = [least_eigenvalues(one, int(m), 300, seed + 1_000_003) for m in grid]
            often = np.array([np.mean(found <= (1 - epsilon) * one.least) for found in pilot])
            near = {int(grid[np.argmin(np.abs(often - p))]) for p in PILOT}
            return tuple(sorted(near | {top // 2, top}))

        return lab.get(("benson widths", one, epsilon, delta, seed), choose)

    def failures(lab: Lab, one: Features, width: int, which: int) -> tuple[int, int]:
        """Failures and draws at a width; ``which`` tells independent ensembles apart."""

        def count() -> tuple[int, int]:
            often = draws_at(width, trials)
            found = least_eigenvalues(one, width, often, seed + 7919 * which)
            return int(np.sum(found <= (1 - epsilon) * one.least)), often

        return lab.get(("benson failures", one, epsilon, width, trials, seed, which), count)

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in ones:
            for m in widths(lab, one):
                count, often = failures(lab, one, m, 0)
                low, high = interval(count, often)
                value.append(count / often)
                error.append(max(high - count / often, count / often - low))
                labels.append(f"m={m} ({stated(one)} stated), {one}")
        return Measurement(value, error, labels)

    def bound(lab: Lab, factor: float) -> np.ndarray:
        return np.concatenate(
            [one.data.n * np.exp(-factor * rate(one) * np.array(widths(lab, one))) for one in ones]
        )

    def sharp(lab: Lab) -> float:
        # Of draws of their own, where failures are frequent enough to be counted well.
        best = []
        for one in ones:
            for m in widths(lab, one)[:-2]:
                count, often = failures(lab, one, m, 1)
                if count >= 0.1 * often:
                    best.append(math.log(one.data.n * often / count) / (rate(one) * m))
        if not best:
            raise ValueError("no width fails often enough to tell how sharp the bound is")
        return min(best)

    def unbounded(one: Features) -> str:
        return "" if math.isfinite(one.bound) else "no bound on the features is known"

    def singular(one: Features) -> str:
        K = one.kernel
        coarse = gram(one.activation, one.data.X, nodes=48)
        error = float(np.max(np.abs(coarse - gram(one.activation, one.data.X))))
        found = numerical_rank(K, error)
        sound = found.decided and found.rank == one.data.n
        return "" if sound else f"λ_min(K) = {one.least:.2g} is not positive beyond its error"

    return Bound(
        id=id,
        title="width at which random features are well conditioned",
        statement="‖σ(Xᵀw)‖² <= B a.s., m >= (2B/(ε²λ)) ln(n/δ): λ_min(AAᵀ/m) >= (1-ε)λ with "
        "probability >= 1-δ, since P(fail) <= n e^(-ε²mλ/2B)",
        provenance="reconstructed",
        hypotheses=[
            every("bounded features", ones, unbounded),
            every("λ > 0", ones, singular),
        ],
        measure=measure,
        bound=bound,
        sharp=sharp,
        side="upper",
        tighten="up",
        control=Control.perturbed(1.2),
    )


_TRIPOD = points([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, -0.1, -0.9]])
_FOUR = points([[2.0, 0.0], [0.0, 2.0], [-2.4, 0.8], [1.2, -3.0]])
WIDE = (
    random_features(_TRIPOD, relu, "sphere"),
    random_features(points(3 * _TRIPOD.X), erf),
    random_features(_FOUR, fourier),
)


# --- square ------------------------------------------------------------------------------------


def square_invertible(
    ones: Any, activations: Any, *, draws: int = 40, seed: int = 0, id: str
) -> Qualitative:
    """m = n features of an analytic activation that is no polynomial are independent.

    The margin of an outcome is log10(σ_min/(n ε ‖A‖)) of the worst draw: SUPPORTED asks for a
    hundredfold, and a matrix is called singular only a hundredfold below.

    Parameters
    ----------
    ones : Points or sequence of Points
        On distinct lines.
    activations : AbstractActivation or sequence of AbstractActivation
    draws, seed : int
        Draws of the square Gaussian weight matrix, per instance and activation.
    id : str
    """
    ones = several("ones", ones, Points)
    activations = several("activations", activations, AbstractActivation)
    draws = check_integer("draws", draws, minimum=1)
    seed = check_integer("seed", seed, minimum=0)

    def outcome(one: Points, phi: AbstractActivation, count: int) -> Outcome:
        W = np.random.default_rng(seed).normal(size=(count, one.n, one.dim))
        sizes = np.linalg.svd(features(phi, one.X, W), compute_uv=False)
        floor = one.n * EPS * sizes[:, 0] + 1e-300
        margin = float(np.log10(np.min(np.maximum(sizes[:, -1], 1e-300) / floor)))
        return Outcome(f"{phi.name}, {one}, all of {count} draws", max(margin, -16.0), 2.0)

    def analytic(phi: AbstractActivation) -> str:
        parts = phi.parts()
        if phi.breaks:
            return "is not analytic"
        if parts is None:
            return "states nothing on its even and odd part"
        return "" if math.isinf(max(parts.even, parts.odd)) else "is a polynomial"

    def assumed(which: tuple[AbstractActivation, ...]) -> list[Hypothesis]:
        def check(lab: Lab) -> tuple[bool, str]:
            wrong = [f"{phi.name} {said}" for phi in which if (said := analytic(phi))]
            return not wrong, "; ".join(wrong)

        return [Hypothesis("analytic, no polynomial", check), distinct(ones, lines=True)]

    return Qualitative(
        id=id,
        title="as many features as data suffice, if the activation is analytic",
        statement="φ analytic, no polynomial, data on distinct lines, m = n: det φ(XWᵀ) != 0 a.s.",
        provenance="reconstructed",
        hypotheses=assumed(activations),
        measure=lambda lab: [outcome(one, phi, draws) for one in ones for phi in activations],
        control=Control.replacing(
            "ReLU, among many draws",
            measure=lambda lab: [outcome(one, relu, 50 * draws) for one in ones],
        ),
        broken=Control.replacing("ReLU, which is not analytic", hypotheses=assumed((relu,))),
        quick=True,
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
    ones: Any, *, slope: float = 0.0, trials: int = 3_000_000, seed: int = 0, id: str
) -> Equality:
    """How often m = n (leaky) ReLU features of data in the plane are dependent.

    Parameters
    ----------
    ones : Points or sequence of Points
        In the plane, at most 5, on distinct lines.
    slope : float
        α < 1.
    trials, seed : int
    id : str
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
        id=id,
        title="as many ReLU features as data do not suffice",
        statement="ReLU, m = n: P(det A = 0) = Σ over cells of Π (arc/2π), not 0",
        provenance="derived",
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


_RNG = np.random.default_rng(11)
GENERIC = (points(_RNG.normal(size=(4, 2))), points(_RNG.normal(size=(7, 3))))
PLANAR = (points([[1.0, 0.0], [0.4, 0.9]]), points([[1.0, 0.1], [0.1, 1.0], [-0.9, 0.8]]))

register(width_bound(WIDE, id=f"{SOURCE}/width-bound"))
register(
    square_invertible(GENERIC, (erf, tanh, softplus, gelu, fourier), id=f"{SOURCE}/square-analytic")
)
register(square_singular(PLANAR, id=f"{SOURCE}/square-relu-singular"))
