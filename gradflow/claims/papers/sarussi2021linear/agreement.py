r"""Orthogonally separable data drive every start into perfect agreement, for good.

Let :math:`c=\min_{i,l}y_iy_l\,x_i\cdot x_l>0`, over all pairs. For a neuron :math:`w_j`

.. math:: \frac{d}{dt}\,y_iw_j\cdot x_i=\frac vn\sum_l|\ell'_l|\,\varphi'(w_j\cdot x_l)\,
    y_iy_l\,x_i\cdot x_l\ \ge\ v\alpha c\,\dot\tau,\qquad \dot\tau=\frac1n\sum_l|\ell'_l|,

whatever its pattern, sliding included (there the slope is in [α, 1] too); the same holds for
:math:`-y_iu_j\cdot x_i`. So all of them grow, and once positive stay so: the regime is absorbing.
And τ → ∞: if τ stayed bounded, W would converge, the margins with it, and :math:`\dot\tau` would
not tend to 0. Hence the regime is reached in finite time, at the latest at

.. math:: \tau^*=\frac{1}{v\alpha c}\max_{j,i}\max(0,\,-y_iw_j(0)\cdot x_i,\;y_iu_j(0)\cdot x_i).

Source: `sarussi2021linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

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
from gradflow.claims.instances import every, several
from gradflow.claims.papers.sarussi2021linear import PAPER
from gradflow.claims.papers.sarussi2021linear.regimes import imperfect, settled
from gradflow.claims.papers.sarussi2021linear.setting import (
    SOURCE,
    Student,
    Students,
    halves,
    leaky,
    random_student,
)
from gradflow.claims.papers.sarussi2021linear.sgd import reluctant

FINE, COARSE = 1e-9, 1e-7
#: ln t at which states are recorded: densely while neurons cross, then to see that they stay.
_DENSE = 14.0
LOG_TIMES = np.concatenate(
    [np.linspace(-8, 4, 1201), np.linspace(4.05, _DENSE, 200), np.geomspace(20, 1e4, 16)]
)
#: Those between which every neuron is seen to move: 1 apart up to ln t = 4, then some.
_FEW = np.r_[0:1201:100, 1210 : LOG_TIMES.size : 20]


@dataclass(frozen=True)
class Approach:
    """What is read of a flow.

    Attributes
    ----------
    log_t : (T,) array
    correct : (T, m, n) array
        :math:`\\pm y_iw_k\\cdot x_i`, positive where neuron k is on the right side of datum i.
    cosines : (T,) array
        The least of them over :math:`\\|w_k\\|\\|x_i\\|`.
    entry : float
        ln t of the last event.
    tau : float
        τ at the entry, by the trapezoidal rule; inf if beyond the dense times.
    tau_error : float
        What halving the number of points changes.
    """

    log_t: np.ndarray
    correct: np.ndarray
    cosines: np.ndarray
    entry: float
    tau: float
    tau_error: float


def approach(lab: Lab, one: Student, rtol: float = FINE) -> Approach:
    """The flow of a student up to ln t = 1e4."""

    def build() -> Approach:
        path = gf.integrate(
            one.risk, one.params, until=gf.until.log_time(float(LOG_TIMES[-1])),
            save_at=gf.save.log_times(LOG_TIMES), rtol=rtol, throw=True,
        )  # fmt: skip
        inner = np.concatenate([one.W[None], np.asarray(path.params.inner)])
        pre = np.einsum("tmd,nd->tmn", inner, one.X)
        correct = np.sign(one.a)[:, None] * one.y * pre
        size = np.linalg.norm(inner, axis=2)[:, :, None] * np.linalg.norm(one.X, axis=1)
        entry, tau, error = settled(path), np.inf, 0.0
        if entry == -np.inf:
            tau = 0.0
        elif entry < _DENSE:
            t = np.append(0.0, np.exp(path.log_t[path.log_t <= _DENSE]))
            z = one.y * np.einsum("tmn,m->tn", np.where(pre > 0, pre, one.slope * pre), one.a)
            speed = np.mean(np.exp(-np.logaddexp(0, z)), axis=1)[: t.size]
            tau, half = (_integral(t[::s], speed[::s], np.exp(entry)) for s in (1, 2))
            error = abs(tau - half)
        return Approach(
            path.log_t, correct[1:], np.min(correct / size, axis=(1, 2))[1:], entry, tau, error
        )

    return lab.get(("approach", one, rtol), build)


def _integral(t: np.ndarray, speed: np.ndarray, end: float) -> float:
    """∫_0^end of a piecewise linear function."""
    before = t < end
    t, speed = np.append(t[before], end), np.append(speed[before], np.interp(end, t, speed))
    return float(np.sum(np.diff(t) * (speed[1:] + speed[:-1]) / 2))


def closest(one: Student) -> float:
    """c, the least y_i y_l x_i·x_l."""
    signed = one.y[:, None] * one.X
    return float(np.min(signed @ signed.T))


def orthogonal(some: Sequence[Student]) -> Hypothesis:
    """y_i y_j x_i·x_j > 0 for all pairs."""

    def why(one: Student) -> str:
        signed = one.y[:, None] * one.X
        gram = signed @ signed.T
        if np.min(gram) > 0:
            return ""
        i, j = np.unravel_index(np.argmin(gram), gram.shape)
        return f"pair ({i}, {j}) has {gram[i, j]:.3g}"

    return every("y_i y_j x_i·x_j > 0 for all pairs", some, why)


def _hypotheses(some: Sequence[Student]) -> list[Hypothesis]:
    return [leaky(some), halves(some), orthogonal(some)]


def _outcomes(lab: Lab, some: Sequence[Student]) -> list[Outcome]:
    """Per start: agreement at the end, no way back, growth of every ±y_i w_k·x_i."""
    found = []
    for i, one in enumerate(some):
        fine, coarse = (approach(lab, one, rtol) for rtol in (FINE, COARSE))
        inside = [run.cosines[run.log_t > run.entry].min(initial=1.0) for run in (fine, coarse)]
        growth = [np.diff(run.correct[_FEW], axis=0) for run in (fine, coarse)]
        at = np.unravel_index(np.argmin(growth[0]), growth[0].shape)
        for name, margin, other in (
            ("perfect agreement at ln t = 1e4", fine.cosines[-1], coarse.cosines[-1]),
            ("never left again", inside[0], inside[1]),
            ("every neuron moves to its side of every datum", growth[0][at], growth[1][at]),
        ):
            found.append(Outcome(f"{name}, start {i}: {one}", float(margin), abs(margin - other)))
    return found


def reaches_agreement(some: Students, *, id: str) -> Qualitative:
    """Every start enters the perfect agreement regime, and none leaves it."""
    some = several("some", some, Student)
    return Qualitative(
        **PAPER.words("orthogonal-data-reach-perfect-agreement", id),
        hypotheses=_hypotheses(some),
        measure=lambda lab: _outcomes(lab, some),
        control=Control.replacing(
            "separable data with pairs of y_i y_j x_i·x_j < 0, without the hypothesis",
            hypotheses=[leaky(some), halves(some)],
            measure=lambda lab: _outcomes(lab, [imperfect()]),
        ),
    )


def agreement_time(some: Students, *, id: str) -> Bound:
    """The regime is entered by τ*, in the clock dτ = mean |ℓ'| dt.

    Parameters
    ----------
    some : Student or sequence of Student
        Starts in the regime say nothing; some must be outside.
    """
    some = several("some", some, Student)

    def latest(one: Student) -> float:
        wrong = -np.sign(one.a)[:, None] * one.y * (one.W @ one.X.T)
        return max(0.0, float(np.max(wrong))) / (one.v * one.slope * closest(one))

    def outside(lab: Lab) -> tuple[bool, str]:
        return all(latest(one) > 0 for one in some), "a start is in the regime"

    def soon(lab: Lab) -> tuple[bool, str]:
        late = [approach(lab, one, rtol).entry for one in some for rtol in (FINE, COARSE)]
        return max(late) < _DENSE, f"the last event is at ln t = {max(late):.3g}"

    def measure(lab: Lab) -> Measurement:
        fine, coarse = ([approach(lab, one, rtol) for one in some] for rtol in (FINE, COARSE))
        return Measurement.from_solves(
            [run.tau for run in coarse],
            [run.tau for run in fine],
            extra=[run.tau_error for run in fine],
            labels=[f"start {i}: {one}" for i, one in enumerate(some)],
        )

    def sharp(lab: Lab) -> float:
        return max(approach(lab, one, COARSE).tau / latest(one) for one in some)

    return Bound(
        **PAPER.words("perfect-agreement-time", id),
        hypotheses=[
            *_hypotheses(some),
            Hypothesis("starts outside the regime", outside),
            Hypothesis(f"no event after ln t = {_DENSE:g}", soon),
        ],
        measure=measure,
        bound=lambda lab, factor: factor * np.array([latest(one) for one in some]),
        sharp=sharp,
        side="upper",
        control=Control.perturbed(1.05),
    )


@cache
def starts() -> tuple[Student, ...]:
    """One shape, one compiled program; the last start is nearly as slow as can be."""
    orthogonal = gf.datasets.orthogonally_separable
    found = [
        random_student(orthogonal(20, seed=s), 4, scale, seed=s)
        for s in range(3)
        for scale in (0.01, 0.3, 3.0)
    ]
    slow = reluctant(orthogonal(20, half_angle=0.03, radii=(1.0, 1.01)), 4, size=1.0)
    return (*found, slow)


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "orthogonal-data-reach-perfect-agreement": lambda: reaches_agreement(
        starts(), id=f"{SOURCE}/orthogonal-data-reach-perfect-agreement"
    ),
    "perfect-agreement-time": lambda: agreement_time(
        starts(), id=f"{SOURCE}/perfect-agreement-time"
    ),
}
