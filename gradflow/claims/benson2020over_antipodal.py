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
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradflow.claims.base import Control, Hypothesis, Measurement
from gradflow.claims.benson2020over_common import (
    EPS,
    SOURCE,
    Points,
    antipodal,
    distinct,
    every,
    features,
    general_position,
    labelled,
    partners,
    points,
    several,
)
from gradflow.claims.kinds import Equality
from gradflow.claims.lab import Lab
from gradflow.claims.registry import register
from gradflow.models.activations import (
    AbstractActivation,
    LeakyReLU,
    leaky_relu,
    shifted_relu,
)
from gradflow.models.datasets.antipodal import antipodal_pairs, hexagon
from gradflow.models.kernels.gram import arc_cosine, ntk
from gradflow.models.kernels.rank import numerical_rank
from gradflow.models.networks import TwoLayer
from gradflow.validation import check_choice, check_real, fail

KERNELS: dict[str, Callable[..., np.ndarray]] = {"arc-cosine": arc_cosine, "ntk": ntk}


# --- ranks -------------------------------------------------------------------------------------

PAIRS = tuple(
    points(antipodal_pairs(pairs, dim, seed).X)
    for pairs, dim, seed in [(2, 2, 0), (5, 2, 1), (4, 3, 2), (9, 3, 3), (3, 6, 4), (12, 5, 5)]
)


def _bent(slope: Any) -> float:
    slope = check_real("slope", slope)
    if not 0 <= slope <= 1:
        raise fail("slope", slope, "is outside [0, 1]", "pass 0 for ReLU")
    return slope


def _slope_hypothesis(slope: float) -> Hypothesis:
    return Hypothesis("slope < 1", lambda lab: (slope < 1, f"slope {slope:g} bends nothing"))


def _rank_of_features(X: np.ndarray, slope: float, kernel: str) -> int:
    """Rank of the features of 16n random neurons, for "ntk" with those of the inner layer."""
    W = np.random.default_rng(len(X)).normal(size=(16 * len(X), X.shape[1]))
    A = features(LeakyReLU(slope), X, W)
    if kernel == "ntk":
        gate = np.where(X @ W.T > 0, 1.0, slope)
        inner = gate[:, :, None] * X[:, None, :]
        A = np.concatenate([A, inner.reshape(len(X), -1)], axis=1)
    return int(np.linalg.matrix_rank(A, tol=1e-11 * np.linalg.norm(A)))


def measured_ranks(
    ones: tuple[Points, ...], slope: float, kernel: str, *, broken: bool = False
) -> Measurement:
    """Ranks of Gram matrices by the gap in their spectra.

    The error is 0 where the gap decides and the rank of random features agrees, else 1.
    """
    value, error = [], []
    for index, one in enumerate(ones):
        X = one.X
        if broken:
            X = np.random.default_rng(index).normal(size=X.shape)
        found = numerical_rank(KERNELS[kernel](X, slope=slope))
        agreed = found.decided and found.rank == _rank_of_features(X, slope, kernel)
        value.append(float(found.rank))
        error.append(0.0 if agreed else 1.0)
    return Measurement(value, error, [str(one) for one in ones])


def antipodal_rank(
    ones: Any = PAIRS, kernel: str = "arc-cosine", *, slope: float = 0.0, id: str
) -> Equality:
    """The rank of the Gram matrix on N antipodal pairs in general position: N + min(N, d).

    Parameters
    ----------
    ones : Points or sequence of Points
        Every row with its negative among the rows.
    kernel : {"arc-cosine", "ntk"}
    slope : float
        α < 1.
    id : str
    """
    ones, slope = several("ones", ones, Points), _bent(slope)
    check_choice("kernel", kernel, KERNELS)

    def predict(lab: Lab) -> list[int]:
        return [one.n // 2 + min(one.n // 2, one.dim) for one in ones]

    if any(one.n // 2 > one.dim for one in ones):
        control = Control.replacing(
            "as many points in general position, which are not paired",
            measure=lambda lab: measured_ranks(ones, slope, kernel, broken=True),
        )
    else:
        control = Control.replacing(
            "linear neurons", measure=lambda lab: measured_ranks(ones, 1.0, kernel)
        )
    return Equality(
        id=id,
        title=f"rank of the {kernel} Gram matrix on antipodal pairs",
        statement="N antipodal pairs in general position in R^d: rank N + min(N, d)",
        provenance="derived",
        hypotheses=[
            antipodal(ones), distinct(ones, lines=True), general_position(ones),
            _slope_hypothesis(slope),
        ],
        predict=predict,
        measure=lambda lab: measured_ranks(ones, slope, kernel),
        # ranks are integers: the error is 0, or the gap does not decide and it is 1
        tolerance=1e-9,
        quick=True,
        control=control,
    )  # fmt: skip


# --- the least error ---------------------------------------------------------------------------

HEXAGON = points(*hexagon())
UNFIT = (points(*antipodal_pairs(5, 2, 7)), points(*antipodal_pairs(8, 3, 8)))


def least_error(one: Points) -> float:
    """min_u (1/n) Σ_i ((y(x_i) - y(-x_i))/2 - u·x_i)²."""
    odd = 0.5 * (one.y - one.y[partners(one.X)])
    u = np.linalg.lstsq(one.X, odd, rcond=None)[0]
    return float(np.mean((odd - one.X @ u) ** 2))


def fitted_error(one: Points, activation: AbstractActivation, seed: int) -> float:
    """The least mean squared error over the outer weights of 32n random neurons."""
    W = np.random.default_rng(seed).normal(size=(32 * one.n, one.dim))
    A = features(activation, one.X, W)
    # The span of the features by their singular vectors: those at rounding level are none.
    left, size, _ = np.linalg.svd(A, full_matrices=False)
    span = left[:, size > 1e-10 * size[0]]
    return float(np.mean((one.y - span @ (span.T @ one.y)) ** 2))


def cannot_fit(ones: Any = UNFIT, *, slope: float = 0.0, id: str) -> Equality:
    """The least mean squared error of any bias-free (leaky) ReLU net on antipodal pairs.

    Parameters
    ----------
    ones : Points or sequence of Points
        With labels, every row with its negative among the rows; on the hexagon it is 1.
    slope : float
        α < 1.
    id : str
    """
    ones, slope = several("ones", ones, Points), _bent(slope)

    def measure(lab: Lab) -> Measurement:
        fits = [[fitted_error(one, leaky_relu(slope), seed) for one in ones] for seed in (1, 2)]
        return Measurement.from_solves(
            fits[0], fits[1], extra=64 * EPS, labels=[str(one) for one in ones]
        )

    def too_little(one: Points) -> str:
        scale = float(np.mean(one.y**2))
        small = not one.labels or scale == 0 or least_error(one) < 1e-6 * scale
        return "the odd part of the labels is linear: a net can fit them" if small else ""

    return Equality(
        id=id,
        title="the least error of bias-free ReLU nets",
        statement="antipodal pairs: min MSE = min_u mean((y(x) - y(-x))/2 - u·x)²; "
        "hexagon with alternating labels: exactly 1",
        provenance="derived",
        hypotheses=[
            labelled(ones), antipodal(ones), distinct(ones, lines=True), _slope_hypothesis(slope),
            every("labels that are not fitted", ones, too_little),
        ],
        predict=lambda lab: [least_error(one) for one in ones],
        measure=measure,
        tolerance=1e-10,
        quick=True,
        control=Control.replacing(
            "shifted ReLU (z - 0.3)_+, which fits",
            measure=lambda lab: Measurement(
                [fitted_error(one, shifted_relu(0.3), 1) for one in ones], 1e-12
            ),
        ),
    )  # fmt: skip


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
    id : str
    """
    shift = check_real("shift", shift)
    one, factor = HEXAGON, alternating_sum(shift)

    def fit(b: float) -> tuple[np.ndarray, np.ndarray]:
        net = TwoLayer(2, 6, shifted_relu(b))
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
        id=id,
        title="shifted ReLU fits the hexagon",
        statement="(z - b)_+, w_k = x_k, a_k = y_k/c, c = Σ_j (-1)^j (cos(jπ/3) - b)_+: "
        "f(x_k) = y_k, MSE 0",
        provenance="derived",
        hypotheses=[bends],
        predict=lambda lab: one.y,
        measure=measure,
        tolerance=1e-11,
        quick=True,
        control=Control.replacing(
            "the same weights without the shift",
            measure=lambda lab: Measurement(fit(0.0)[0], 1e-13),
        ),
    )


register(antipodal_rank(kernel="arc-cosine", id=f"{SOURCE}/antipodal-rank-arc-cosine"))
register(antipodal_rank(kernel="ntk", slope=0.2, id=f"{SOURCE}/antipodal-rank-ntk"))
register(cannot_fit(HEXAGON, id=f"{SOURCE}/hexagon-relu"))
register(cannot_fit(HEXAGON, slope=0.1, id=f"{SOURCE}/hexagon-leaky-relu"))
register(cannot_fit(id=f"{SOURCE}/least-error-relu"))
register(hexagon_fitted(id=f"{SOURCE}/hexagon-shifted-relu"))
