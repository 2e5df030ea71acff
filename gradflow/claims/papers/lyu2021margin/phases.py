r"""The phases before the limit on symmetric data: the linear one, and two neurons in disguise.

Phase I. While f is small the growing modes :math:`b_k` do not know of each other:
:math:`\theta_k\approx\sigma b_ke^{\lambda_0t}(\bar\mu,1)`. f enters at third order, so the relative
correction is :math:`O(\|\theta\|^2)`; what does not grow has the relative size
:math:`O(\sigma/\|\theta\|)`.

Phase II. Neurons of one group are parallel, so the net is a net of two neurons in disguise: with
:math:`\beta_\pm=(\sum_{\pm b_k>0}b_k^2)^{1/2}` and the two-neuron flow from
:math:`\pm\sigma\beta_\pm(\bar\mu,1)`, :math:`\theta_k\approx(|b_k|/\beta_\pm)\hat\theta_\pm`. At a
fixed time after the net is felt the distance is of first order in σ: the part of :math:`w_k` that
does not grow is of size σ, and its effect on what grows,
:math:`\int e^{\lambda_0(t-\tau)}\|\theta\|^2\sigma\,d\tau` with :math:`\|\theta\|\sim\sigma
e^{\lambda_0\tau}`, is of size :math:`\sigma\|\theta(t)\|^2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.interpolate import BarycentricInterpolator

from gradflow.claims import Control, Equality, Hypothesis, Lab, Measurement, Outcome, Qualitative
from gradflow.claims.instances import Several, several
from gradflow.claims.papers.lyu2021margin import PAPER
from gradflow.claims.papers.lyu2021margin.setting import (
    SOURCE,
    Instance,
    both_groups,
    setting,
    small,
    weights_at,
)
from gradflow.validation import check_positive, fail

#: Tolerances of the run that is measured and of the run that gives its numerical error.
_FINE, _COARSE = 1e-11, 1e-9


def _modes(one: Instance) -> np.ndarray:
    """b_k (μ̄, 1), shape (m, d+1)."""
    return one.b[:, None] * np.append(one.mu_bar, 1.0)


def phase_one_rate(some: Several[Instance], *, id: str = f"{SOURCE}/phase-1-rate") -> Equality:
    """Every neuron's growing mode grows at λ₀ = (1+α)|μ|/4.

    Measured between half the time to |θ| = √σ and that time, where the correction is O(σ). The
    error holds the change on taking σ ten times smaller, nine tenths of the correction.
    """
    ones = several("instances", some, Instance)

    def rates(lab: Lab, one: Instance, scale: float, rtol: float) -> np.ndarray:
        one = one.but(scale=scale)
        end = one.time_to(np.sqrt(scale))
        states = [weights_at(lab, one, time, rtol) for time in (end / 2, end)]
        mode = [state @ np.append(one.mu_bar, 1.0) for state in states]
        return np.log(np.abs(mode[1] / mode[0])) / (end / 2)

    def measure(lab: Lab) -> Measurement:
        values, errors, labels = [], [], []
        for one in ones:
            fine = rates(lab, one, one.scale / 10, _FINE)
            values.append(fine)
            errors.append(
                np.abs(fine - rates(lab, one, one.scale, _FINE))
                + np.abs(fine - rates(lab, one, one.scale / 10, _COARSE))
            )
            labels += [f"neuron {k}, {one}" for k in range(fine.size)]
        return Measurement(np.concatenate(values), np.concatenate(errors), labels)

    def predict(lab: Lab) -> np.ndarray:
        return np.concatenate([np.full(one.b.size, one.rate) for one in ones])

    return Equality(
        **PAPER.words("phase-1-rate", id),
        hypotheses=[*setting(ones), small(ones)],
        predict=predict,
        measure=measure,
        tolerance=1e-5,
        control=Control.replacing(
            "|μ|/4, the leaky sides forgotten",
            predict=lambda lab: (
                predict(lab) / np.concatenate([np.full(one.b.size, 1 + one.slope) for one in ones])
            ),
        ),
    )


def phase_one_state(some: Several[Instance], *, id: str = f"{SOURCE}/phase-1-state") -> Equality:
    """At |θ| = σ^(1/3), where both corrections are O(σ^(2/3)): θ/|θ| is b ⊗ (μ̄, 1), normalised."""
    ones = several("instances", some, Instance)

    def read(lab: Lab, rtol: float) -> np.ndarray:
        parts = []
        for one in ones:
            size = one.scale ** (1 / 3)
            parts.append(weights_at(lab, one, one.time_to(size), rtol).ravel() / size)
        return np.concatenate(parts)

    def measure(lab: Lab) -> Measurement:
        labels = [
            f"{'a' if j == len(one.inputs[0]) else f'w{j}'} of neuron {k}, {one}"
            for one in ones for k in range(one.b.size) for j in range(len(one.inputs[0]) + 1)
        ]  # fmt: skip
        return Measurement.from_solves(read(lab, _COARSE), read(lab, _FINE), labels=labels)

    def predict(lab: Lab, outer: bool = False) -> np.ndarray:
        parts = []
        for one in ones:
            mode = _modes(one) if not outer else one.a[:, None] * np.append(one.mu_bar, 1.0)
            parts.append(mode.ravel() / np.linalg.norm(mode))
        return np.concatenate(parts)

    return Equality(
        **PAPER.words("phase-1-state", id),
        hypotheses=[*setting(ones), small(ones)],
        predict=predict,
        measure=measure,
        relative=False,
        tolerance=2e-3,
        control=Control.replacing(
            "a_k(0) in the place of b_k", predict=lambda lab: predict(lab, outer=True)
        ),
    )


def phase_one_duration(
    some: Several[Instance], *, id: str = f"{SOURCE}/phase-1-duration"
) -> Equality:
    """The time until f is felt grows by 1/λ₀ for every factor e that σ shrinks by."""
    ones = several("instances", some, Instance)

    def time_felt(lab: Lab, one: Instance, rtol: float, order: int) -> float:
        times = one.time_to(one.felt) + np.array([-0.1, 0.1, 0.0]) / one.rate
        states = [weights_at(lab, one, time, rtol) for time in times[: order + 1]]
        size = [np.log(np.linalg.norm(state) / one.felt) for state in states]
        # (ln|θ| is all but linear in t, so the inverse function is interpolated)
        return float(BarycentricInterpolator(size, times[: order + 1])(0.0))

    def lengthening(lab: Lab, one: Instance, rtol: float, order: int = 2) -> float:
        smaller = one.but(scale=one.scale / 100)
        gain = time_felt(lab, smaller, rtol, order) - time_felt(lab, one, rtol, order)
        return gain / np.log(100)

    def measure(lab: Lab) -> Measurement:
        fine = np.array([lengthening(lab, one, _FINE) for one in ones])
        coarse = [lengthening(lab, one, _COARSE) for one in ones]
        linear = np.array([lengthening(lab, one, _FINE, 1) for one in ones])
        labels = [str(one) for one in ones]
        return Measurement.from_solves(coarse, fine, extra=np.abs(fine - linear), labels=labels)

    def predict(lab: Lab) -> np.ndarray:
        return np.array([1 / one.rate for one in ones])

    return Equality(
        **PAPER.words("phase-1-duration", id),
        hypotheses=[*setting(ones), small(ones)],
        predict=predict,
        measure=measure,
        tolerance=1e-4,
        control=Control.perturbed(),
    )


def phase_one_groups(
    some: Several[Instance], *, id: str = f"{SOURCE}/phase-1-groups"
) -> Qualitative:
    """The sign of b_k picks the group, for every neuron of every draw: when f begins to be felt
    a_k and w_k·μ̄ have the sign of b_k. Margins are in units of |b_k| σ e^{λ₀t}."""
    ones = several("instances", some, Instance)

    def read(lab: Lab, one: Instance, by: np.ndarray, rtol: float) -> np.ndarray:
        state = weights_at(lab, one, one.time_to(one.felt), rtol)
        size = np.abs(one.b) * one.felt / (np.sqrt(2) * np.linalg.norm(one.b))
        both = np.stack([state[:, -1], state[:, :-1] @ one.mu_bar])
        return np.sign(by) * both / size

    def outcomes(lab: Lab, first: bool = False) -> list[Outcome]:
        found = []
        for one in ones:
            by = one.b
            if first:
                # the outer weight at the start, or where it happens to be right, the other group
                by = one.a if np.any(np.sign(one.a) != np.sign(one.b)) else -one.b
            coarse, fine = (read(lab, one, by, rtol) for rtol in (_COARSE, _FINE))
            worst = np.unravel_index(np.argmin(fine), fine.shape)
            error = float(np.max(np.abs(fine - coarse))) + 1e-14
            found.append(Outcome(f"neuron {worst[1]}, {one}", float(fine[worst]), error))
        return found

    return Qualitative(
        **PAPER.words("phase-1-groups", id),
        hypotheses=[*setting(ones), small(ones)],
        measure=outcomes,
        control=Control.replacing(
            "the sign of a_k(0) picks it (the other group, where that is the same)",
            measure=lambda lab: outcomes(lab, first=True),
        ),
    )


def two_neuron_tracking(
    some: Several[Instance],
    *,
    sizes: Sequence[float] = (1e-4, 1e-5, 1e-6),
    id: str = f"{SOURCE}/phase-2-tracking",
) -> Equality:
    """The distance to the embedded two-neuron net shrinks like σ¹.

    The largest distance at the times 0, 3 and 6 (in 1/λ₀) after f begins to be felt. The embedded
    flow is that of the full net from σ b_k (μ̄, 1): parallel neurons stay parallel. The scale of an
    instance is replaced by values at which the growing mode, √2 σ|b|, starts at given sizes.

    Parameters
    ----------
    some : Instance or sequence of Instance
    sizes : sequence of float
        Falling; in units of the size at which f is felt. One order for each pair of neighbours.
    """
    ones = several("instances", some, Instance)
    sizes = [check_positive("sizes", s) for s in sizes]
    if len(sizes) < 2 or any(s <= t for s, t in pairwise(sizes)):
        raise fail("sizes", sizes, "do not fall", "pass at least two, for example (1e-4, 1e-5)")

    def at(one: Instance, size: float) -> Instance:
        length = np.sqrt(2) * float(np.linalg.norm(one.b))
        return one.but(scale=size * one.felt / length) if length > 0 else one

    def distance(lab: Lab, one: Instance, rtol: float, even: bool) -> float:
        b = one.b
        if even:
            for sign in (1.0, -1.0):
                b[sign * b > 0] /= np.linalg.norm(b[sign * b > 0])
            b *= float(np.linalg.norm(one.b)) / np.sqrt(2)
        pair = one.but(
            inner=tuple(map(tuple, np.outer(b, one.mu_bar).tolist())), outer=tuple(b.tolist())
        )
        gaps = []
        for time in one.time_to(one.felt) + np.array([0.0, 3.0, 6.0]) / one.rate:
            gaps.append(weights_at(lab, one, time, rtol) - weights_at(lab, pair, time, rtol))
        return float(max(np.linalg.norm(gap) for gap in gaps))

    def orders(lab: Lab, rtol: float, even: bool = False) -> np.ndarray:
        found = []
        for one in ones:
            log = np.log([distance(lab, at(one, s), rtol, even) for s in sizes])
            found.append(np.diff(log) / np.diff(np.log(sizes)))
        return np.concatenate(found)

    def measure(lab: Lab, even: bool = False) -> Measurement:
        labels = [f"from {s:g}, {one}" for one in ones for s in sizes[:-1]]
        coarse, fine = (orders(lab, rtol, even) for rtol in (_COARSE, _FINE))
        return Measurement.from_solves(coarse, fine, labels=labels)

    def across(lab: Lab) -> tuple[bool, str]:
        for one in ones:
            start = np.column_stack([one.w, one.a])
            part = np.linalg.norm(one.w - np.outer(one.w @ one.mu_bar, one.mu_bar))
            share = float(part / np.linalg.norm(start))
            if share < 100 * sizes[0]:
                return False, f"it is {share:.2g} of the start; {one}"
        return True, ""

    # (without it what decays is left, at second order)
    has_across = Hypothesis("the start has a part across μ, which stays", across)
    return Equality(
        **PAPER.words("phase-2-tracking", id),
        hypotheses=[
            *setting(ones),
            both_groups(ones),
            small(ones, lambda one: at(one, sizes[0])),
            has_across,
        ],
        predict=lambda lab: np.ones(len(ones) * (len(sizes) - 1)),
        measure=measure,
        tolerance=0.02,
        control=Control.replacing(
            "two neurons of equal size, whatever the b_k", measure=lambda lab: measure(lab, True)
        ),
    )
