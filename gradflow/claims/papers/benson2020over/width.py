r"""How wide a net must be for its last layer to fit any labels: an ensemble statement.

:math:`A=\varphi(XW^\top)\in R^{n\times m}` with independent w_k; of its columns
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
Source: `benson2020over`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

import gradflow as gf
from gradflow.claims import Bound, Claim, Control, Lab, Measurement
from gradflow.claims.instances import Several, every, several
from gradflow.claims.papers.benson2020over import PAPER
from gradflow.claims.papers.benson2020over.setting import (
    SOURCE,
    Points,
    check_activation,
    features,
    interval,
    points,
)
from gradflow.validation import check_choice, check_integer, check_real, fail

TRIALS = 8000
#: The largest stated width of which an ensemble is drawn.
WIDEST = 100_000
#: Failure probabilities around which a pilot run chooses further widths.
PILOT = (0.6, 0.3, 0.15)
#: sup |φ| of the activations that are bounded.
SUPREMUM = {gf.probit_erf.name: 1.0, gf.tanh.name: 1.0, gf.fourier.name: math.sqrt(2)}


@dataclass(frozen=True)
class Features:
    """Points, an activation and a law of the weights; made by `random_features`, hashable."""

    data: Points
    activation: gf.AbstractActivation
    weights: str = "gaussian"

    @property
    def bound(self) -> float:
        """B with ‖φ(Xw)‖² ≤ B almost surely; inf where there is none."""
        if self.weights == "sphere":  # homogeneous, |φ(z)| <= |z|
            return float(np.linalg.norm(self.data.X, 2) ** 2)
        return self.data.n * SUPREMUM.get(self.activation.name, math.inf) ** 2

    @property
    def kernel(self) -> np.ndarray:
        """K (n, n)."""
        K = gf.kernels.gram(self.activation, self.data.X)
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
    data: Points, activation: gf.AbstractActivation, weights: str = "gaussian"
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
    if weights == "sphere" and not isinstance(activation, gf.LeakyReLU):
        raise fail("weights", weights, "needs a (leaky) ReLU", "pass weights='gaussian'")
    return Features(data, activation, weights)


def draws_at(width: int, trials: int, delta: float) -> int:
    """Fewer draws where they are large: there failures are rare and the bound is far from them.

    As many as it takes to tell none from δ by ten of their confidence intervals.
    """
    return min(trials, max(math.ceil(100 / delta), 2_000_000 // width))


def least_eigenvalues(one: Features, width: int, trials: int, seed: int) -> np.ndarray:
    """λ_min(AAᵀ/m) of independent draws (trials,)."""
    rng = np.random.default_rng([seed, width])
    chunk = max(1, 1_000_000 // (width * max(one.data.n, one.data.dim)))
    found = []
    for first in range(0, trials, chunk):
        A = one.draw(rng, min(chunk, trials - first), width)
        found.append(np.linalg.eigvalsh(A @ np.swapaxes(A, 1, 2) / width)[:, 0])
    return np.concatenate(found)


@dataclass(frozen=True)
class _Ensemble:
    """Draws of all the weights, and how often λ_min(AAᵀ/m) ≤ (1-ε)λ among them."""

    epsilon: float
    delta: float
    trials: int
    seed: int

    def rate(self, one: Features) -> float:
        """ε²λ/2B: the bound falls like e^(-m rate)."""
        return self.epsilon**2 * one.least / (2 * one.bound)

    def stated(self, one: Features) -> int:
        """The width at which the bound is δ."""
        return math.ceil(math.log(one.data.n / self.delta) / self.rate(one))

    def too_wide(self, one: Features) -> str:
        """Why the stated width cannot be drawn; "" if it can."""
        top = self.stated(one)
        return "" if top <= WIDEST else f"the stated width {top} is beyond {WIDEST}"

    def widths(self, lab: Lab, one: Features) -> tuple[int, ...]:
        """The stated width, half of it, and those at which a pilot run fails now and then."""
        return lab.get(
            ("benson widths", one, self.epsilon, self.delta, self.seed), lambda: self._chosen(one)
        )

    def _chosen(self, one: Features) -> tuple[int, ...]:
        top = self.stated(one)
        if top > WIDEST:
            raise ValueError(self.too_wide(one))
        grid = np.unique(np.geomspace(one.data.n, top / 2, 24).astype(int))
        pilot = [least_eigenvalues(one, int(m), 300, self.seed + 1_000_003) for m in grid]
        often = np.array([np.mean(found <= (1 - self.epsilon) * one.least) for found in pilot])
        near = {int(grid[np.argmin(np.abs(often - p))]) for p in PILOT}
        return tuple(sorted(near | {top // 2, top}))

    def failures(self, lab: Lab, one: Features, width: int, which: int) -> tuple[int, int]:
        """Failures and draws at a width; ``which`` tells independent ensembles apart."""

        def count() -> tuple[int, int]:
            often = draws_at(width, self.trials, self.delta)
            found = least_eigenvalues(one, width, often, self.seed + 7919 * which)
            return int(np.sum(found <= (1 - self.epsilon) * one.least)), often

        key = ("benson failures", one, self.epsilon, width, self.trials, self.seed, which)
        return lab.get(key, count)


def _unbounded(one: Features) -> str:
    return "" if math.isfinite(one.bound) else "no bound on the features is known"


def _singular(one: Features) -> str:
    K = one.kernel
    coarse = gf.kernels.gram(one.activation, one.data.X, nodes=48)
    error = float(np.max(np.abs(coarse - gf.kernels.gram(one.activation, one.data.X))))
    found = gf.kernels.numerical_rank(K, error)
    sound = found.decided and found.rank == one.data.n
    return "" if sound else f"λ_min(K) = {one.least:.2g} is not positive beyond its error"


def width_bound(
    ones: Several[Features],
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
    """
    ones = several("ones", ones, Features)
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if not 0 < check_real(name, value) < 1:
            raise fail(name, value, "is outside (0, 1)", f"pass {name}=0.5")
    trials = check_integer("trials", trials, minimum=100)
    seed = check_integer("seed", seed, minimum=0)

    drawn = _Ensemble(epsilon, delta, trials, seed)

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in ones:
            for m in drawn.widths(lab, one):
                count, often = drawn.failures(lab, one, m, 0)
                low, high = interval(count, often)
                value.append(count / often)
                error.append(max(high - count / often, count / often - low))
                labels.append(f"m={m} ({drawn.stated(one)} stated), {one}")
        return Measurement(value, error, labels)

    def bound(lab: Lab, factor: float) -> np.ndarray:
        return np.concatenate(
            [
                one.data.n * np.exp(-factor * drawn.rate(one) * np.array(drawn.widths(lab, one)))
                for one in ones
            ]
        )

    def sharp(lab: Lab) -> float:
        # Of draws of their own, where failures are frequent enough to be counted well.
        best = []
        for one in ones:
            for m in drawn.widths(lab, one)[:-2]:
                count, often = drawn.failures(lab, one, m, 1)
                if count >= 0.1 * often:
                    best.append(math.log(one.data.n * often / count) / (drawn.rate(one) * m))
        if not best:
            raise ValueError("no width fails often enough to tell how sharp the bound is")
        return min(best)

    return Bound(
        **PAPER.words("width-bound", id),
        hypotheses=[
            every("bounded features", ones, _unbounded),
            every("λ > 0", ones, _singular),
            every("a width that can be drawn", ones, drawn.too_wide),
        ],
        measure=measure,
        bound=bound,
        sharp=sharp,
        side="upper",
        tighten="up",
        control=Control.perturbed(1.2),
    )


@cache
def wide() -> tuple[Features, ...]:
    """An activation each that is homogeneous, smooth, or oscillates."""
    tripod = points([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, -0.1, -0.9]])
    four = points([[2.0, 0.0], [0.0, 2.0], [-2.4, 0.8], [1.2, -3.0]])
    return (
        random_features(tripod, gf.relu, "sphere"),
        random_features(points(3 * tripod.X), gf.probit_erf),
        random_features(four, gf.fourier),
    )


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "width-bound": lambda: width_bound(wide(), id=f"{SOURCE}/width-bound")
}
