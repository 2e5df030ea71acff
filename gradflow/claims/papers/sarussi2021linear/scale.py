r"""The decision boundary of a trained net is the more linear, the smaller the start was.

The non-linearity of a net is the share of directions in which it differs from the linear
classifier of its own clusters,

.. math:: \nu(W)=P_{x\sim U(S^{d-1})}\big[\operatorname{sign}N_W(x)\ne
    \operatorname{sign}((\bar w-\bar u)\cdot x)\big],

exact in d = 2 (N is linear between the 2k lines on which a neuron vanishes), else by Monte Carlo
with the same directions for every net. It falls with the scale σ of the inner weights at the start,
N(0, σ²), at one training time: neurons keep their differences once they agree, so the radius r of
the clusters falls with σ while the means grow alike. By the rule for clusters about means ν is at
most the share of directions with :math:`|c\cdot x|\le\frac{1-\alpha}{1+\alpha}r`,
:math:`c=\bar w-\bar u`, which is a Beta(½, (d-1)/2) probability.

Source: `sarussi2021linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, stdtrit

import gradflow as gf
from gradflow.claims import (
    Bound,
    Claim,
    Control,
    Hypothesis,
    Lab,
    Measurement,
    Outcome,
    Qualitative,
)
from gradflow.claims.instances import every
from gradflow.claims.papers.sarussi2021linear import PAPER
from gradflow.claims.papers.sarussi2021linear.setting import (
    SOURCE,
    Student,
    random_student,
    setting,
)
from gradflow.validation import check_array, check_integer, check_real, fail

FINE, COARSE = 1e-9, 1e-7
#: Directions of the Monte Carlo estimate in d != 2.
PROBES = 100_000


def nonlinearity(inner: ArrayLike, outer: ArrayLike, slope: float) -> tuple[float, float]:
    """ν of a two-layer leaky ReLU net, and its standard error (0 in d = 2, where ν is exact).

    Parameters
    ----------
    inner : array (m, d)
    outer : array (m,)
        With both signs.
    slope : float
        α.
    """
    W = check_array("inner", inner, (None, None))
    a = check_array("outer", outer, (W.shape[0],))
    if not (np.any(a > 0) and np.any(a < 0)):
        raise fail("outer", a, "has one sign only", "pass neurons of both signs")
    slope = check_real("slope", slope)
    c = W[a > 0].mean(axis=0) - W[a < 0].mean(axis=0)
    if W.shape[1] == 2:
        return _exact(W, a, c, slope), 0.0
    x = np.random.default_rng(0).normal(size=(PROBES, W.shape[1]))
    share = float(np.mean(_differs(x, W, a, c, slope)))
    # (not 0 where no exception was met)
    return share, float(np.sqrt(max(share * (1 - share), 1 / PROBES) / PROBES))


def _differs(
    x: np.ndarray, W: np.ndarray, a: np.ndarray, c: np.ndarray, slope: float
) -> np.ndarray:
    pre = x @ W.T
    return np.sign(np.where(pre > 0, pre, slope * pre) @ a) != np.sign(x @ c)


def _exact(W: np.ndarray, a: np.ndarray, c: np.ndarray, slope: float) -> float:
    """ν in the plane: cut the circle at every line, and at the zeros of N between them."""

    def across(rows: np.ndarray) -> np.ndarray:
        return np.arctan2(rows[:, 0], -rows[:, 1])

    def middles(cuts: np.ndarray) -> np.ndarray:
        angle = (cuts[1:] + cuts[:-1]) / 2
        return np.column_stack([np.cos(angle), np.sin(angle)])

    half = across(np.concatenate([W, c[None]]))
    cuts = np.sort(np.mod(np.concatenate([half, half + np.pi]), 2 * np.pi))
    cuts = np.append(cuts, cuts[0] + 2 * np.pi)
    normal = (np.where(middles(cuts) @ W.T > 0, 1.0, slope) * a) @ W
    found = [cuts]
    for turn in (0.0, np.pi):
        zero = cuts[:-1] + np.mod(across(normal) + turn - cuts[:-1], 2 * np.pi)
        found.append(zero[zero < cuts[1:]])
    cuts = np.sort(np.concatenate(found))
    return float(np.sum(np.diff(cuts)[_differs(middles(cuts), W, a, c, slope)]) / (2 * np.pi))


def _final(lab: Lab, one: Student, log_t: float, rtol: float) -> np.ndarray:
    def build() -> np.ndarray:
        path = gf.integrate(
            one.risk, one.params, until=gf.until.log_time(log_t),
            save_at=gf.save.log_times([min(log_t, 0.0)]), rtol=rtol, throw=True,
        )  # fmt: skip
        return np.asarray(path.final.inner)

    return lab.get(("at ln t", one, log_t, rtol), build)


def _share(lab: Lab, one: Student, log_t: float, rtol: float) -> tuple[float, float]:
    """ν of the trained net and its standard error."""
    return lab.get(
        ("ν", one, log_t, rtol),
        lambda: nonlinearity(_final(lab, one, log_t, rtol), one.a, one.slope),
    )


def _fitted(some: Sequence[Student], log_t: float) -> Hypothesis:
    def why(lab: Lab, one: Student) -> str:
        pre = one.X @ _final(lab, one, log_t, FINE).T
        margin = np.min(one.y * (np.where(pre > 0, pre, one.slope * pre) @ one.a))
        return "" if margin > 0 else f"a margin is {margin:.3g}"

    return every(f"all data are fitted by ln t = {log_t:g}", some, measured=why)


def _ensemble(
    data: Any, half: int, scales: ArrayLike, seeds: int, slope: float
) -> tuple[np.ndarray, list[list[Student]]]:
    """The scales, rising, and the students [scale][seed]: one draw at all scales."""
    sizes = check_array("scales", scales, (None,))
    if sizes.size < 2 or np.any(sizes <= 0) or np.any(np.diff(sizes) <= 0):
        raise fail("scales", sizes, "are not rising positive numbers", "pass (0.1, 1.0)")
    seeds = check_integer("seeds", seeds, minimum=3)
    return sizes, [
        [random_student(data, half, float(s), slope=slope, seed=i) for i in range(seeds)]
        for s in sizes
    ]


def nonlinearity_falls(
    data: Any,
    *,
    scales: ArrayLike = (0.1, 0.4, 1.6, 6.4),
    seeds: int = 16,
    half: int = 4,
    slope: float = 0.3,
    log_t: float = 5.0,
    id: str,
) -> Qualitative:
    """The mean of ν over seeds falls from each scale to the next smaller one.

    Each step is compared in pairs (one draw at both scales); its error is the half-width of the
    99 % confidence interval of the mean difference, plus that of the solver and the Monte Carlo.

    Parameters
    ----------
    data : (X, y)
    scales : array
        σ, rising.
    seeds : int
        Number of draws, at least 3.
    half : int
        k.
    slope : float
    log_t : float
        ln of the training time.
    """
    sizes, students = _ensemble(data, half, scales, seeds, slope)
    log_t = check_real("log_t", log_t)
    everyone = [one for row in students for one in row]

    def share(lab: Lab, rtol: float) -> np.ndarray:
        """ν and its standard error, shape (2, scales, seeds)."""
        rows = [[_share(lab, one, log_t, rtol) for one in row] for row in students]
        return np.moveaxis(np.array(rows), -1, 0)

    def measure(lab: Lab, order: int = 1) -> list[Outcome]:
        (fine, noise), (coarse, _) = share(lab, FINE), share(lab, COARSE)
        found = []
        for i in range(sizes.size - 1):
            fall = order * (fine[i + 1] - fine[i])
            count = fall.size
            interval = stdtrit(count - 1, 0.995) * np.std(fall, ddof=1) / np.sqrt(count)
            solver = np.mean(np.abs(fine - coarse)[i : i + 2].sum(axis=0))
            # the directions are shared by all nets, so this error does not average out
            error = interval + solver + 3 * np.max(noise[i : i + 2])
            name = f"mean ν falls from σ = {sizes[i + 1]:g} to {sizes[i]:g}"
            found.append(Outcome(name, float(np.mean(fall)), float(error)))
        return found

    return Qualitative(
        **PAPER.words("nonlinearity-falls-with-scale", id, seeds=seeds),
        hypotheses=[*setting(everyone), _fitted(everyone, log_t)],
        measure=measure,
        control=Control.replacing("the opposite trend", measure=lambda lab: measure(lab, order=-1)),
    )


def nonlinearity_bounded(
    data: Any,
    *,
    scales: ArrayLike = (0.1, 0.4, 1.6, 6.4),
    seeds: int = 16,
    half: int = 4,
    slope: float = 0.3,
    log_t: float = 5.0,
    id: str,
) -> Bound:
    """ν <= P[|c·x| <= κ r], κ = (1-α)/(1+α), r and c those of the trained net.

    Parameters as for `nonlinearity_falls`.
    """
    _, students = _ensemble(data, half, scales, seeds, slope)
    log_t = check_real("log_t", log_t)
    everyone = [one for row in students for one in row]

    def limit(lab: Lab, rtol: float) -> np.ndarray:
        out = []
        for one in everyone:
            inner = _final(lab, one, log_t, rtol)
            parts = [inner[one.a > 0], inner[one.a < 0]]
            means = [part.mean(axis=0) for part in parts]
            r = max(
                np.max(np.linalg.norm(p - mid, axis=1)) for p, mid in zip(parts, means, strict=True)
            )
            sine = (1 - one.slope) / (1 + one.slope) * r / np.linalg.norm(means[0] - means[1])
            out.append(betainc(0.5, (inner.shape[1] - 1) / 2, min(1.0, sine**2)))
        return np.array(out)

    def share(lab: Lab, rtol: float) -> np.ndarray:
        """ν and its standard error, shape (2, students)."""
        return np.array([_share(lab, one, log_t, rtol) for one in everyone]).T

    def measure(lab: Lab) -> Measurement:
        fine, noise = share(lab, FINE)
        labels = [str(one) for one in everyone]
        return Measurement.from_solves(share(lab, COARSE)[0], fine, extra=3 * noise, labels=labels)

    def bound(lab: Lab, factor: float) -> Measurement:
        return Measurement.from_solves(factor * limit(lab, COARSE), factor * limit(lab, FINE))

    def sharp(lab: Lab) -> float:
        with np.errstate(invalid="ignore"):  # d = 1, which a hypothesis excludes
            return float(np.max(share(lab, COARSE)[0] / limit(lab, COARSE)))

    return Bound(
        **PAPER.words("nonlinearity-bounded-by-spread", id),
        hypotheses=[*setting(everyone), _fitted(everyone, log_t), _many_dimensions(everyone)],
        measure=measure,
        bound=bound,
        sharp=sharp,
        side="upper",
        control=Control.perturbed(1.05),
    )


def _many_dimensions(some: Sequence[Student]) -> Hypothesis:
    dim = some[0].X.shape[1]
    return Hypothesis("d >= 2", lambda lab: (dim >= 2, f"d = {dim}"))


def _balls() -> gf.datasets.Dataset:
    return gf.datasets.two_balls(20, seed=0)


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "nonlinearity-falls-with-scale": lambda: nonlinearity_falls(
        _balls(), id=f"{SOURCE}/nonlinearity-falls-with-scale"
    ),
    "nonlinearity-bounded-by-spread": lambda: nonlinearity_bounded(
        _balls(), id=f"{SOURCE}/nonlinearity-bounded-by-spread"
    ),
}
