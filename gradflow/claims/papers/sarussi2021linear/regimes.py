r"""Agreement regimes: where neurons move together, and the SVM that they head for.

*Neural agreement*: all :math:`w_j` see the data alike (:math:`\operatorname{sign}w_j\cdot x_i=
p_i\ne0` for every j), and all :math:`u_j` alike (:math:`p'_i`). Then all :math:`w_j` have one
gradient: :math:`w_j-\bar w` **stays constant**, exactly, and so do the :math:`u_j-\bar u`. On the
data the net is linear in the means, with the slopes s of φ on the pattern,

.. math:: N_W(x_i)=vk\,(\bar w,\bar u)\cdot z_i,\qquad z_i=(s_ix_i,\,-s'_ix_i),

and the means follow the logistic flow of that linear predictor: their direction tends to the
hard-margin SVM :math:`(\hat w,\hat u)` on :math:`(z_i,y_i)`, of margin γ, and the margins grow as
:math:`\ln t` (`lyu2020homogeneous`, and for linear predictors exactly so up to a constant). Hence
:math:`\bar w\sim\hat w\ln t/(vk\gamma)`, and

.. math:: \ln t\cdot\max_j\frac{\|w_j-\bar w\|}{\|\bar w\|}\to
    \max_j\|w_j-\bar w\|\,\frac{vk\gamma}{\|\hat w\|}:

two clusters. (:math:`\hat w\ne0`: it is a combination of the :math:`y_is_ix_i` with weights
:math:`\ge0`, and each of these is on the teacher's side.)

*Perfect agreement*: :math:`\operatorname{sign}w_j\cdot x_i=y_i` and
:math:`\operatorname{sign}u_j\cdot x_i=-y_i`. Then z is (x, -αx) for y = +1 and (αx, -x) for
y = -1. The limit of :math:`W/\|W\|` is :math:`(\hat w,\dots,\hat u,\dots)/\sqrt k`, its normalised
margin :math:`vk\,(\hat w,\hat u)\cdot z\,y/\sqrt k=v\sqrt k\,\gamma`; it is approached as
:math:`1/\ln t`, since :math:`(\bar w,\bar u)` differs from a multiple of the limit by a bounded
vector.

Source: `sarussi2021linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.instances import every, several
from gradflow.claims.papers.sarussi2021linear import PAPER
from gradflow.claims.papers.sarussi2021linear.setting import (
    EPS,
    SOURCE,
    Student,
    Students,
    random_student,
    setting,
)
from gradflow.validation import check_choice

#: Tolerances: of an independent prediction, of the run that is measured, of the one for its error.
INDEPENDENT, FINE, COARSE = 1e-9, 1e-10, 1e-8
#: ln t at which states are recorded.
LOG_TIMES = np.concatenate([np.linspace(-6, 9, 31), np.geomspace(10, 1e10, 91)])


def trained(lab: Lab, one: Student, rtol: float = FINE) -> gf.Trajectory:
    """The flow up to ln t = 1e10, recorded at `LOG_TIMES`."""

    def build() -> gf.Trajectory:
        return gf.integrate(
            one.risk, one.params, until=gf.until.log_time(1e10),
            save_at=gf.save.log_times(LOG_TIMES), rtol=rtol, throw=True,
        )  # fmt: skip

    return lab.get(("trained", one, rtol), build)


def patterns(one: Student, inner: ArrayLike) -> np.ndarray:
    """sign(w_k·x_i) of neurons of shape (..., m, d), shape (..., m, n); 0 on a kink.

    A neuron that slides along a kink is within rounding of it, so 0 is up to 1e-13 of the norms.
    """
    inner = np.asarray(inner)
    pre = inner @ one.X.T
    size = np.linalg.norm(inner, axis=-1)[..., None] * np.linalg.norm(one.X, axis=1)
    return np.where(np.abs(pre) > 1e-13 * size, np.sign(pre), 0.0)


def agree(one: Student, inner: ArrayLike) -> np.ndarray:
    """Whether neurons of shape (..., m, d) are in the neural agreement regime."""
    signs = patterns(one, inner)
    good = np.all(signs != 0, axis=(-2, -1))
    for side in (one.a > 0, one.a < 0):
        own = signs[..., side, :]
        good &= np.all(own == own[..., :1, :], axis=(-2, -1))
    return good


def agree_perfectly(one: Student, inner: ArrayLike) -> np.ndarray:
    """Whether neurons of shape (..., m, d) are in the perfect agreement regime."""
    wanted = np.sign(one.a)[:, None] * one.y
    return np.all(patterns(one, inner) == wanted, axis=(-2, -1))


def settled(path: gf.Trajectory) -> float:
    """ln t from which no neuron meets a datum's surface any more; -inf if none ever does."""
    met = [event.log_t for event in path.events if event.neuron is not None]
    return max(met, default=-np.inf)


def sliding(path: gf.Trajectory) -> set[tuple[int, int]]:
    """Pairs (neuron, datum) that slide along a kink at the end."""
    pairs: set[tuple[int, int]] = set()
    for event in path.events:
        if event.neuron is not None and event.datum is not None:
            pair = (event.neuron, event.datum)
            (pairs.add if event.kind == "slide-in" else pairs.discard)(pair)
    return pairs


def features(one: Student, inner: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """z_i and y_i of the linear predictor that a net with agreeing neurons (m, d) is."""
    signs = patterns(one, inner)
    w, u = signs[np.argmax(one.a > 0)], signs[np.argmax(one.a < 0)]
    slopes = [np.where(p > 0, 1.0, one.slope)[:, None] for p in (w, u)]
    return np.concatenate([slopes[0] * one.X, -slopes[1] * one.X], axis=1), one.y


def perfect_features(one: Student, slope: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(x, -αx) for y = +1 and (αx, -x) for y = -1; ``slope`` in the place of α."""
    alpha = one.slope if slope is None else slope
    up = (one.y > 0)[:, None]
    z = [np.where(up, one.X, alpha * one.X), np.where(up, -alpha * one.X, -one.X)]
    return np.concatenate(z, axis=1), one.y


def _means(one: Student, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each neuron's own mean, shape (..., m, d), and its distance from it."""
    mean = np.empty_like(inner)
    for side in (one.a > 0, one.a < 0):
        mean[..., side, :] = inner[..., side, :].mean(axis=-2, keepdims=True)
    return mean, inner - mean


def _sides(one: Student, size: np.ndarray) -> np.ndarray:
    """The largest of a quantity per neuron (..., m) in each half, shape (..., 2)."""
    return np.stack([size[..., one.a > 0].max(axis=-1), size[..., one.a < 0].max(axis=-1)], axis=-1)


def _after(lab: Lab, one: Student) -> int:
    """Index of the first recorded time after the last event, whatever the tolerance."""
    last = max(settled(trained(lab, one, rtol)) for rtol in (INDEPENDENT, FINE, COARSE))
    return int(np.searchsorted(LOG_TIMES, last, side="right"))


def _entered(lab: Lab, one: Student, rtol: float) -> np.ndarray:
    """Neurons at that time."""
    return np.asarray(trained(lab, one, rtol).params.inner)[_after(lab, one)]


def _uncertain(lab: Lab, one: Student, inner: np.ndarray) -> float:
    """Absolute error of differences of the neurons ``inner``: of what they are at entry, by the
    distance between solves, and by rounding of neurons that are much larger."""
    away = [_means(one, _entered(lab, one, rtol))[1] for rtol in (INDEPENDENT, FINE, COARSE)]
    apart = max(float(np.max(np.abs(part - away[0]))) for part in away)
    return apart + 64 * EPS * float(np.max(np.abs(inner)))


# -- hypotheses ---------------------------------------------------------------------------------


def _regime(
    some: Sequence[Student], test: Callable[[Student, Any], np.ndarray], name: str, latest: float
) -> Hypothesis:
    def why(lab: Lab, one: Student) -> str:
        for rtol in (INDEPENDENT, FINE, COARSE):
            path = trained(lab, one, rtol)
            still = len(sliding(path))
            if still or not test(one, path.final.inner):
                return f"not at ln t = 1e10, {still} pairs slide along a kink"
            if not settled(path) < latest:
                return f"from ln t = {settled(path):.3g} on only"
        return ""

    return every(name, some, measured=why)


def neural_agreement(some: Sequence[Student], latest: float = 1e4) -> Hypothesis:
    """From some ln t < ``latest`` on, all w_j see the data alike, and all u_j alike."""
    return _regime(some, agree, f"neural agreement from some ln t < {latest:g} on", latest)


def perfect_agreement(some: Sequence[Student], latest: float = 1e4) -> Hypothesis:
    """From some ln t < ``latest`` on, sign w_j·x_i = y_i and sign u_j·x_i = -y_i."""
    name = f"perfect agreement from some ln t < {latest:g} on"
    return _regime(some, agree_perfectly, name, latest)


def _spread(some: Sequence[Student]) -> Hypothesis:
    def why(lab: Lab, one: Student) -> str:
        away = np.linalg.norm(_means(one, _entered(lab, one, INDEPENDENT))[1], axis=1)
        return "" if np.all(_sides(one, away) > 0) else "a half whose neurons are equal"

    return every("neurons of each half differ", some, measured=why)


# -- neural agreement ---------------------------------------------------------------------------


def differences_kept(some: Students, *, tolerance: float = 1e-6, id: str) -> Equality:
    """In the regime w_j - w̄ and u_j - ū are constant; in units of the largest of them.

    Compared between the time of entry, in a run of its own, and ten later times up to ln t = 1e3
    (or a hundred times ln t at entry, if that is later).
    """
    some = several("some", some, Student)

    def later(one: Student, rtol: float, lab: Lab) -> np.ndarray:
        first = _after(lab, one)
        end = int(np.searchsorted(LOG_TIMES, max(1e3, 100 * LOG_TIMES[first])))
        chosen = np.unique(np.linspace(first, end, 10).astype(int))
        return np.asarray(trained(lab, one, rtol).params.inner)[chosen]

    def unit(lab: Lab, one: Student) -> float:
        away = _means(one, _entered(lab, one, INDEPENDENT))[1]
        return float(np.max(np.linalg.norm(away, axis=1)))

    def expected(lab: Lab, inner: Callable[[Student], np.ndarray]) -> np.ndarray:
        parts = []
        for one in some:
            away = _means(one, inner(one))[1] / unit(lab, one)
            count = later(one, FINE, lab).shape[0]
            parts.append(np.broadcast_to(away, (count, *away.shape)).ravel())
        return np.concatenate(parts)

    def measure(lab: Lab) -> Measurement:
        coarse, fine, noise = [], [], []
        for one in some:
            for rtol, parts in ((COARSE, coarse), (FINE, fine)):
                parts.append((_means(one, later(one, rtol, lab))[1] / unit(lab, one)).ravel())
            error = _uncertain(lab, one, later(one, FINE, lab)) / unit(lab, one)
            noise.append(np.full(fine[-1].size, error))
        return Measurement.from_solves(
            np.concatenate(coarse), np.concatenate(fine), extra=np.concatenate(noise)
        )

    moved = any(not agree(one, one.W) for one in some)
    before = Control.replacing(
        "the differences of the start, before the regime",
        predict=lambda lab: expected(lab, lambda one: one.W),
    )
    return Equality(
        **PAPER.words("agreement-keeps-differences", id),
        hypotheses=[*setting(some), neural_agreement(some), _spread(some)],
        predict=lambda lab: expected(lab, lambda one: _entered(lab, one, INDEPENDENT)),
        measure=measure,
        tolerance=tolerance,
        relative=False,
        control=before if moved else Control.perturbed(1.05),
    )


def two_clusters(some: Students, *, tolerance: float = 1e-3, id: str) -> Equality:
    """The limit of ln t · spread/|mean|, for w and u; read off at ln t = 1e5 and 1e6."""
    some = several("some", some, Student)

    def predict(lab: Lab) -> np.ndarray:
        parts = []
        for one in some:
            inner = _entered(lab, one, INDEPENDENT)
            svm = gf.certificates.hard_margin_svm(*features(one, inner))
            spread = _sides(one, np.linalg.norm(_means(one, inner)[1], axis=1))
            size = np.linalg.norm(svm.direction.reshape(2, -1), axis=1)
            parts.append(spread * one.v * one.half * svm.margin / size)
        return np.concatenate(parts)

    def scaled(lab: Lab, one: Student, rtol: float) -> tuple[np.ndarray, np.ndarray]:
        """ln t · spread/|mean| extrapolated to 1/ln t = 0, and its error beside the solver's."""
        at = [int(np.argmin(np.abs(LOG_TIMES - L))) for L in (1e5, 1e6)]
        inner, log_t = np.asarray(trained(lab, one, rtol).params.inner)[at], LOG_TIMES[at]
        mean, away = _means(one, inner)
        spread = np.linalg.norm(away, axis=-1)
        raw = log_t[:, None] * _sides(one, spread / np.linalg.norm(mean, axis=-1))
        limit = (raw[1] * log_t[1] - raw[0] * log_t[0]) / (log_t[1] - log_t[0])
        error = _uncertain(lab, one, inner) / _sides(one, spread)[1]
        return limit, np.abs(limit - raw[1]) + np.abs(limit) * error

    def measure(lab: Lab) -> Measurement:
        fine = [scaled(lab, one, FINE) for one in some]
        coarse = np.concatenate([scaled(lab, one, COARSE)[0] for one in some])
        limit, error = (np.concatenate([part[i] for part in fine]) for i in (0, 1))
        labels = [f"{name}, {one}" for one in some for name in ("w", "u")]
        return Measurement.from_solves(coarse, limit, extra=error, labels=labels)

    return Equality(
        **PAPER.words("agreement-makes-two-clusters", id),
        hypotheses=[*setting(some), neural_agreement(some), _spread(some)],
        predict=predict,
        measure=measure,
        tolerance=tolerance,
        control=Control.perturbed(1.05),
    )


# -- perfect agreement --------------------------------------------------------------------------


def limit_of(
    one: Student, slope: float | None = None
) -> tuple[gf.certificates.HardMargin, np.ndarray, float]:
    """The SVM on the transformed data, the unit limit (m, d) of W, and its margin v √k γ."""
    svm = gf.certificates.hard_margin_svm(*perfect_features(one, slope))
    w, u = svm.direction.reshape(2, -1) / np.sqrt(one.half)
    inner = np.where((one.a > 0)[:, None], w, u)
    return svm, inner, one.v * np.sqrt(one.half) * svm.margin


def svm_limit(some: Students, part: str, *, id: str) -> Equality:
    """The limit in the perfect agreement regime.

    Parameters
    ----------
    some : Student or sequence of Student
    part : str
        "margin": the flow's normalised margin at ln t = 1e10, to 0.1 %; "direction": W/‖W‖ there,
        to 1e-6; "certificate": both of the certified limit, to 1e-8; "approach": the exponent of
        the distance of directions in ln t, -1, between 1e5 and 1e8.
    """
    some = several("some", some, Student)
    check_choice("part", part, _PARTS)
    hypotheses = [*setting(some), perfect_agreement(some)]
    predict, measure, tolerance = _PARTS[part](some)
    linear = Control.replacing(
        "the SVM on (x, -x), as if the net were linear", predict=lambda lab: predict(lab, 1.0)
    )
    nearly_linear = any(one.slope > 0.9 for one in some)  # what the control could not tell
    return Equality(
        **PAPER.words(f"perfect-agreement-{part}", id),
        hypotheses=hypotheses,
        predict=predict,
        measure=measure,
        tolerance=tolerance,
        relative=part == "margin" or part == "approach",
        control=Control.perturbed(1.05) if part == "approach" or nearly_linear else linear,
    )


def _unit(inner: ArrayLike) -> np.ndarray:
    return np.asarray(inner) / np.linalg.norm(inner)


def _margin_part(some: Sequence[Student]) -> tuple:
    def measure(lab: Lab) -> Measurement:
        coarse, fine = (
            [trained(lab, one, rtol).observe("normalised_margin")[-1] for one in some]
            for rtol in (COARSE, FINE)
        )
        return Measurement.from_solves(coarse, fine, labels=[str(one) for one in some])

    def predict(lab: Lab, slope: float | None = None) -> np.ndarray:
        return np.array([limit_of(one, slope)[2] for one in some])

    return predict, measure, 1e-3


def _direction_part(some: Sequence[Student]) -> tuple:
    def measure(lab: Lab) -> Measurement:
        coarse, fine = (
            np.concatenate([_unit(trained(lab, one, rtol).final.inner).ravel() for one in some])
            for rtol in (COARSE, FINE)
        )
        return Measurement.from_solves(coarse, fine)

    def predict(lab: Lab, slope: float | None = None) -> np.ndarray:
        return np.concatenate([limit_of(one, slope)[1].ravel() for one in some])

    return predict, measure, 1e-6


def _certificate_part(some: Sequence[Student]) -> tuple:
    def polished(lab: Lab, rtol: float) -> np.ndarray:
        parts = []
        for one in some:
            found = lab.get(
                ("certified", one, rtol), lambda one=one: gf.certify(trained(lab, one, rtol))
            )
            if not found.accepted:
                raise RuntimeError(f"{one}: no certificate: {found.reason}")
            parts += [_unit(found.params.inner).ravel(), [found.normalised_margin]]
        return np.concatenate(parts)

    def measure(lab: Lab) -> Measurement:
        residual = max(limit_of(one)[0].residual for one in some)
        return Measurement.from_solves(polished(lab, COARSE), polished(lab, FINE), extra=residual)

    def predict(lab: Lab, slope: float | None = None) -> np.ndarray:
        parts = []
        for one in some:
            _, inner, margin = limit_of(one, slope)
            parts += [inner.ravel(), [margin]]
        return np.concatenate(parts)

    return predict, measure, 1e-8


def _approach_part(some: Sequence[Student]) -> tuple:
    def exponents(lab: Lab, rtol: float) -> np.ndarray:
        out = []
        for one in some:
            path, limit = trained(lab, one, rtol), limit_of(one)[1]
            at = [int(np.argmin(np.abs(path.log_t - L))) for L in (1e5, 1e8)]
            far = [np.linalg.norm(_unit(path.params.inner[i]) - limit) for i in at]
            out.append(np.log(far[1] / far[0]) / np.log(path.log_t[at[1]] / path.log_t[at[0]]))
        return np.array(out)

    def measure(lab: Lab) -> Measurement:
        return Measurement.from_solves(
            exponents(lab, COARSE), exponents(lab, FINE), labels=[str(one) for one in some]
        )

    return lambda lab: -np.ones(len(some)), measure, 1e-2


_PARTS: dict[str, Callable[[Sequence[Student]], tuple]] = {
    "margin": _margin_part,
    "direction": _direction_part,
    "certificate": _certificate_part,
    "approach": _approach_part,
}


@cache
def perfect() -> tuple[Student, ...]:
    """In perfect agreement from ln t = 0 and 3 on."""
    data = [gf.datasets.two_balls(20, seed=s) for s in range(2)]
    return random_student(data[0], 4, 0.05, seed=0), random_student(data[1], 4, 1.0, seed=1)


@cache
def imperfect() -> Student:
    """In an agreement that is not perfect, from ln t = 10 on."""
    data = gf.datasets.separable_gaussians(20, centre=0.3, std=1.0, margin=0.05, seed=6)
    return random_student(data, 4, 0.01, seed=6)


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "agreement-keeps-differences": lambda: differences_kept(
        [*perfect(), imperfect()], id=f"{SOURCE}/agreement-keeps-differences"
    ),
    "agreement-makes-two-clusters": lambda: two_clusters(
        [*perfect(), imperfect()], id=f"{SOURCE}/agreement-makes-two-clusters"
    ),
    **{
        f"perfect-agreement-{part}": lambda part=part: svm_limit(
            perfect(), part, id=f"{SOURCE}/perfect-agreement-{part}"
        )
        for part in _PARTS
    },
}
