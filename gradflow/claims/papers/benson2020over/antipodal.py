r"""Antipodal pairs: what no bias-free (leaky) ReLU net can fit, and no training mends.

On N pairs :math:`\pm x_i` the features :math:`\varphi(z)=\tfrac{1+\alpha}2z+\tfrac{1-\alpha}2|z|`
make

- arc-cosine and tangent kernels that split into an odd part, of the rank of :math:`(x_i)`, which is
  min(N, d) in general position, and an even part of rank N (the lines being distinct): the rank
  is N + min(N, d), short of 2N for N > d;
- a least mean squared error that is the one of the odd part of the labels against linear functions,
  :math:`\min_u\tfrac1n\sum_i(\tfrac{y(x_i)-y(-x_i)}2-u\cdot x_i)^2`: even labels can be fitted, the
  rest cannot. On the hexagon with alternating labels :math:`\sum_ky_kx_k=0` and the labels are odd,
  so :math:`\sum_ky_kf(x_k)=0` for every net and
  :math:`\tfrac16\sum_k(f(x_k)-y_k)^2=1+\tfrac16\sum_kf(x_k)^2\ge1`.

With the shift b, :math:`(z-b)_+`, six neurons :math:`w_k=x_k` with outer weights
:math:`y_k/c`, :math:`c=\sum_j(-1)^j(\cos\tfrac{j\pi}3-b)_+` (= b for 0 < b ≤ ½) fit the hexagon
exactly. Source: `benson2020over`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

import gradflow as gf
from gradflow.claims import Bound, Claim, Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.instances import Several, every, several
from gradflow.claims.papers.benson2020over import PAPER
from gradflow.claims.papers.benson2020over.setting import (
    EPS,
    SOURCE,
    Points,
    antipodal,
    distinct,
    features,
    general_position,
    labelled,
    partners,
    points,
    rank_error,
)
from gradflow.validation import check_choice, check_integer, check_real, fail

KERNELS: dict[str, Callable[..., np.ndarray]] = {
    "arc-cosine": gf.kernels.arc_cosine,
    "ntk": gf.kernels.ntk,
}


# --- ranks -------------------------------------------------------------------------------------


def _bent(slope: float) -> float:
    slope = check_real("slope", slope)
    if not 0 <= slope <= 1:
        raise fail("slope", slope, "is outside [0, 1]", "pass 0 for ReLU")
    return slope


def _slope_hypothesis(slope: float) -> Hypothesis:
    return Hypothesis("slope < 1", lambda lab: (slope < 1, f"slope {slope:g} bends nothing"))


def _rank_of_features(X: np.ndarray, slope: float, kernel: str) -> int:
    """Rank of the features of 16n random neurons, for "ntk" with those of the inner layer."""
    W = np.random.default_rng(len(X)).normal(size=(16 * len(X), X.shape[1]))
    A = features(gf.LeakyReLU(slope), X, W)
    if kernel == "ntk":
        gate = np.where(X @ W.T > 0, 1.0, slope)
        inner = gate[:, :, None] * X[:, None, :]
        A = np.concatenate([A, inner.reshape(len(X), -1)], axis=1)
    return int(np.linalg.matrix_rank(A, tol=1e-11 * np.linalg.norm(A)))


def _derived_rank(one: Points) -> int:
    """N + min(N, d)."""
    return one.n // 2 + min(one.n // 2, one.dim)


def measured_ranks(
    ones: tuple[Points, ...], slope: float, kernel: str, *, broken: bool = False
) -> Measurement:
    """Ranks of Gram matrices by the gap in their spectra, and of random features beside them."""
    value, error = [], []
    for index, one in enumerate(ones):
        X = one.X
        if broken:
            X = np.random.default_rng(index).normal(size=X.shape)
        found = gf.kernels.numerical_rank(KERNELS[kernel](X, slope=slope))
        again = _rank_of_features(X, slope, kernel)
        value.append(float(found.rank))
        error.append(rank_error(found, _derived_rank(one), one.n) + abs(found.rank - again))
    return Measurement(value, error, [str(one) for one in ones])


def antipodal_rank(
    ones: Several[Points], kernel: str = "arc-cosine", *, slope: float = 0.0, id: str
) -> Equality:
    """The rank of the Gram matrix on N antipodal pairs in general position: N + min(N, d).

    Parameters
    ----------
    ones : Points or sequence of Points
        Every row with its negative among the rows.
    kernel : {"arc-cosine", "ntk"}
    slope : float
        α < 1.
    """
    ones, slope = several("ones", ones, Points), _bent(slope)
    check_choice("kernel", kernel, KERNELS)

    if any(one.n // 2 > one.dim for one in ones):
        control = Control.replacing(
            "as many points in general position, which are not paired",
            measure=lambda lab: measured_ranks(ones, slope, kernel, broken=True),
        )
    else:
        control = Control.perturbed()
    return Equality(
        **PAPER.words("antipodal-rank-{kernel}", id, kernel=kernel),
        hypotheses=[
            antipodal(ones), distinct(ones, lines=True), general_position(ones),
            _slope_hypothesis(slope),
        ],
        predict=lambda lab: [_derived_rank(one) for one in ones],
        measure=lambda lab: measured_ranks(ones, slope, kernel),
        # ranks are integers, and have no error where they are decided
        tolerance=1e-9,
        control=control,
    )  # fmt: skip


# --- the least error ---------------------------------------------------------------------------


def _hexagon() -> Points:
    return points(*gf.datasets.hexagon())


def least_error(one: Points) -> float:
    """min_u (1/n) Σ_i ((y(x_i) - y(-x_i))/2 - u·x_i)²."""
    odd = 0.5 * (one.y - one.y[partners(one.X)])
    u = np.linalg.lstsq(one.X, odd, rcond=None)[0]
    return float(np.mean((odd - one.X @ u) ** 2))


def fitted(one: Points, activation: gf.AbstractActivation, seed: int) -> np.ndarray:
    """The residual that the best outer weights of 32n random neurons leave (n,)."""
    W = np.random.default_rng(seed).normal(size=(32 * one.n, one.dim))
    A = features(activation, one.X, W)
    # The span of the features by their singular vectors: those at rounding level are none.
    left, size, _ = np.linalg.svd(A, full_matrices=False)
    span = left[:, size > 1e-10 * size[0]]
    return one.y - span @ (span.T @ one.y)


def certified(one: Points, residual: np.ndarray) -> float:
    """A lower bound on the mean squared error of *every* net, from a residual of some.

    Whatever r is odd and orthogonal to the rows' coordinates is orthogonal to every feature, so
    ‖y - f‖ ≥ r·(y - f)/‖r‖ = r·y/‖r‖.
    """
    r = 0.5 * (residual - residual[partners(one.X)])
    r = r - one.X @ np.linalg.lstsq(one.X, r, rcond=None)[0]
    return float((r @ one.y) ** 2 / (r @ r)) / one.n


def cannot_fit(ones: Several[Points], *, slope: float = 0.0, id: str) -> Equality:
    """The least mean squared error of any bias-free (leaky) ReLU net on antipodal pairs.

    Parameters
    ----------
    ones : Points or sequence of Points
        With labels, every row with its negative among the rows; on the hexagon it is 1.
    slope : float
        α < 1.
    """
    ones, slope = several("ones", ones, Points), _bent(slope)

    def measure(lab: Lab) -> Measurement:
        """The least error of one draw; another draw and the certificate give its error."""
        value, other, gap = [], [], []
        for one in ones:
            first, second = (fitted(one, gf.leaky_relu(slope), seed) for seed in (1, 2))
            value.append(float(np.mean(first**2)))
            other.append(float(np.mean(second**2)))
            gap.append(abs(value[-1] - certified(one, first)) + 64 * EPS * value[-1])
        labels = [str(one) for one in ones]
        return Measurement.from_solves(other, value, extra=gap, labels=labels)

    def too_little(one: Points) -> str:
        scale = float(np.mean(one.y**2))
        small = not one.labels or scale == 0 or least_error(one) < 1e-6 * scale
        return "the odd part of the labels is linear: a net can fit them" if small else ""

    return Equality(
        **PAPER.words("{net}", id),
        hypotheses=[
            labelled(ones), antipodal(ones), distinct(ones, lines=True), _slope_hypothesis(slope),
            every("labels that are not fitted", ones, too_little),
        ],
        predict=lambda lab: [least_error(one) for one in ones],
        measure=measure,
        tolerance=1e-10,
        control=Control.replacing(
            "shifted ReLU (z - 0.3)_+, which fits",
            measure=lambda lab: Measurement(
                [np.mean(fitted(one, gf.shifted_relu(0.3), 1) ** 2) for one in ones], 1e-12
            ),
        ),
    )  # fmt: skip


def no_training(
    ones: Several[Points],
    *,
    slope: float = 0.0,
    width: int = 12,
    seeds: int = 4,
    steps: int = 6000,
    id: str,
) -> Bound:
    """The mean squared error stays above the least one while both layers are trained.

    Parameters
    ----------
    ones : Points or sequence of Points
        As in `cannot_fit`.
    slope : float
        α < 1.
    width, seeds, steps : int
        Neurons, random starts, and steps of gradient descent with η = 0.05/max ‖x‖².
    """
    least = cannot_fit(ones, slope=slope, id=id)
    ones, slope = several("ones", ones, Points), _bent(slope)
    scale = max((float(np.mean(one.y**2)) for one in ones if one.labels), default=1.0) or 1.0
    width = check_integer("width", width, minimum=1)
    seeds, steps = (check_integer(*a, minimum=1) for a in (("seeds", seeds), ("steps", steps)))

    def errors(lab: Lab, one: Points, seed: int) -> np.ndarray:
        """MSE at some twenty steps, the last one included."""

        def run() -> np.ndarray:
            net = gf.TwoLayer(one.dim, width, gf.leaky_relu(slope))
            risk = gf.EmpiricalRisk(net, gf.squared, one.X, one.y)
            rng = np.random.default_rng(seed)
            start = net.params(rng.normal(size=(width, one.dim)), rng.normal(size=width))
            step = 0.05 / float(np.max(np.sum(one.X**2, axis=1)))
            every_so_often = max(steps // 20, 1)
            done = gf.descend(
                risk, start, step_size=step, steps=steps, save_every=every_so_often, throw=True
            )
            W, a = np.asarray(done.params.inner), np.asarray(done.params.outer)
            Z = one.X @ np.swapaxes(W, 1, 2)
            f = np.einsum("tik,tk->ti", np.maximum(Z, slope * Z), a)
            return np.mean((f - one.y) ** 2, axis=1)

        return lab.get(("benson training", one, slope, width, steps, seed), run)

    def ensemble(lab: Lab) -> list[np.ndarray]:
        return [errors(lab, one, seed) for one in ones for seed in range(seeds)]

    def measure(lab: Lab) -> Measurement:
        labels = [f"{one}, start {seed}" for one in ones for seed in range(seeds)]
        found = ensemble(lab)
        labels = [f"{label}, sample {j}" for label, run in zip(labels, found, strict=True)
                  for j in range(run.size)]  # fmt: skip
        value = np.concatenate(found)
        return Measurement(value, 64 * EPS * value, labels)

    def bound(lab: Lab, factor: float) -> np.ndarray:
        floors = np.repeat([least_error(one) for one in ones], seeds)
        return factor * np.repeat(floors, [run.size for run in ensemble(lab)])

    def converged(lab: Lab) -> tuple[bool, str]:
        for one in ones:
            ends = min(errors(lab, one, seed).min() for seed in range(seeds))
            if ends > 1.02 * least_error(one):
                return False, f"{one}: the best of {seeds} runs ends at {ends:.4g}; raise steps"
        return True, ""

    return Bound(
        **PAPER.words("hexagon-training", id),
        hypotheses=[*least.hypotheses, Hypothesis("runs that come near it", converged)],
        measure=measure,
        bound=bound,
        # Even labels and linear ones are fitted, so that the bound is attained in the limit.
        sharp=lambda lab: 1.0,
        tolerance=1e-12 * scale,
        control=Control.perturbed(1.05),
    )


def alternating_sum(shift: float) -> float:
    """c = Σ_j (-1)^j (cos(jπ/3) - b)_+."""
    terms = [1.0, -2.0, 2.0, -1.0]
    heights = [1.0, 0.5, -0.5, -1.0]
    return sum(t * max(h - shift, 0.0) for t, h in zip(terms, heights, strict=True))


def hexagon_fitted(shift: float = 0.3, *, id: str) -> Equality:
    """Six shifted ReLU neurons that fit the hexagon's labels exactly: w_k = x_k, a_k = y_k/c.

    Parameters
    ----------
    shift : float
        b in (-1, 1), other than 0.
    """
    shift = check_real("shift", shift)
    one, factor = _hexagon(), alternating_sum(shift)

    def fit(b: float) -> tuple[np.ndarray, np.ndarray]:
        net = gf.TwoLayer(2, 6, gf.shifted_relu(b))
        a = one.y / factor
        value = np.asarray(net(net.params(one.X, a), jnp.asarray(one.X)))
        again = [
            math.fsum(w * max(math.fsum(x * z) - b, 0.0) for w, z in zip(a, one.X, strict=True))
            for x in one.X
        ]
        return value, np.array(again)

    def measure(lab: Lab) -> Measurement:
        fine, coarse = fit(shift)
        # the points themselves are rounded, and 1/c magnifies it
        rounding = 16 * EPS / abs(factor)
        labels = [f"vertex {k}" for k in range(6)]
        return Measurement.from_solves(coarse, fine, extra=rounding, labels=labels)

    bends = Hypothesis(
        "the shift bends the hexagon",
        lambda lab: (abs(factor) > 1e-3, f"c = {factor:.3g}: ReLU and linear neurons cannot"),
    )
    return Equality(
        **PAPER.words("hexagon-shifted-relu", id),
        hypotheses=[bends],
        predict=lambda lab: one.y,
        measure=measure,
        tolerance=1e-11,
        control=Control.replacing(
            "the same weights without the shift",
            measure=lambda lab: Measurement(fit(0.0)[0], 1e-13),
        ),
    )


def _pairs() -> list[Points]:
    sizes = [(2, 2, 0), (5, 2, 1), (4, 3, 2), (9, 3, 3), (3, 6, 4), (12, 5, 5)]
    return [points(gf.datasets.antipodal_pairs(n, dim, seed).X) for n, dim, seed in sizes]


def _unfit() -> list[Points]:
    sizes = [(5, 2, 7), (8, 3, 8)]
    return [points(*gf.datasets.antipodal_pairs(n, dim, seed)) for n, dim, seed in sizes]


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "antipodal-rank-arc-cosine": lambda: antipodal_rank(
        _pairs(), "arc-cosine", id=f"{SOURCE}/antipodal-rank-arc-cosine"
    ),
    "antipodal-rank-ntk": lambda: antipodal_rank(
        _pairs(), "ntk", slope=0.2, id=f"{SOURCE}/antipodal-rank-ntk"
    ),
    "hexagon-relu": lambda: cannot_fit(_hexagon(), id=f"{SOURCE}/hexagon-relu"),
    "hexagon-leaky-relu": lambda: cannot_fit(
        _hexagon(), slope=0.1, id=f"{SOURCE}/hexagon-leaky-relu"
    ),
    "least-error-relu": lambda: cannot_fit(_unfit(), id=f"{SOURCE}/least-error-relu"),
    "hexagon-training": lambda: no_training(_hexagon(), id=f"{SOURCE}/hexagon-training"),
    "hexagon-shifted-relu": lambda: hexagon_fitted(id=f"{SOURCE}/hexagon-shifted-relu"),
}
