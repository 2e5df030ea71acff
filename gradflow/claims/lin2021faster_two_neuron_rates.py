r"""Claims on the rates of two neurons, in the setting of `lin2021faster`; all of them derived.

With :math:`\kappa=\pi^2p_0/6`, :math:`\kappa_2=\kappa/2`, :math:`A=3c_0/(\pi^3p_0)` and
:math:`B=2k_2A`:

- ReLU: :math:`R^3/3-k_2R-\dots=\kappa_2(t+\tau_i)`, :math:`\theta_i\sim CR^Be^{-AR^2}`,
  :math:`R_1-R_2\sim\kappa_2(\tau_1-\tau_2)/R^2`;
- ReLU, trained balanced outputs: :math:`\ln\tan(\theta_i/2)` has slope :math:`-c_0/2\pi`,
  :math:`|a_i|R_i\sim(2\kappa t)^{1/2}`.

Leaky pairs are in `gradflow.claims.lin2021faster_slow_mode`. The predictions come from
``gradflow.derive("two-neuron", regime=...)`` with the law's constants put in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradflow import rates
from gradflow.claims.base import Control, Hypothesis, Measurement
from gradflow.claims.kinds import Equality, Qualitative
from gradflow.claims.lab import Lab
from gradflow.claims.lin2021_common import COARSE
from gradflow.claims.lin2021faster_pairs import (
    SOURCE,
    Pair,
    balanced_outer,
    corrections_of,
    decay,
    fine_and_coarse,
    generic,
    law_of,
    may_turn,
    pair,
    pair_path,
    pair_rate,
    random_pairs,
    slope_is,
)
from gradflow.claims.lin2021faster_two_neuron import (
    directional_convergence,
    norm_difference,
    symmetric_time_change,
)
from gradflow.claims.registry import register
from gradflow.data.laws.laws import Gaussian, UniformBall, UniformSphere
from gradflow.paths.trajectory import Trajectory

_EPS = float(np.finfo(np.float64).eps)


def curved_density(one: Pair) -> Hypothesis:
    """p''(0) ≠ 0, so that the next-order terms are there to be measured."""
    fits = bool(np.isfinite(one.law.p2)) and one.law.p2 != 0
    return Hypothesis("p''(0) != 0", lambda lab: (fits, f"p''(0) = {one.law.p2:g}"))


def relu_norms(
    ones: Sequence[Pair], part: str, *, tolerance: float, t_end: float = 1e12
) -> Equality:
    """Exponent, leading constant or second-order coefficient of R_i as t → ∞, both neurons."""

    def law(one: Pair) -> Any:
        return pair_rate(one, "decoupled", "norm")

    def predict(lab: Lab) -> np.ndarray:
        if part == "second-order":
            return np.repeat([law(one).coefficients[0] for one in ones], 2)
        return np.repeat([getattr(law(one), part) for one in ones], 2)

    def measure(lab: Lab) -> Measurement:
        found, labels = [], []
        for one in ones:
            norms, noise = fine_and_coarse(lab, one, lambda p: p.exact["neuron_norms"], t_end=t_end)
            log_t, known = pair_path(lab, one, t_end=t_end).log_t, law(one)
            for i in range(2):
                log_y, relative = np.log(norms[:, i]), noise[:, i] / norms[:, i]
                found.append(_norm_part(part, log_t, log_y, relative, known))
                labels.append(f"{one}, neuron {i + 1}")
        return law_of(found, labels)

    curved = [curved_density(one) for one in ones]
    return Equality(
        id=f"{SOURCE}/relu-norm-{part}",
        title=f"decoupled ReLU neurons: {part} of the norm's law",
        statement="ReLU: R_i ~ (π²p0 t/4)^(1/3) (1 + c t^(-2/3) + ...), "
        "from R³/3 - k2 R - (k2²-k4)/R = (π²p0/12)(t + τ_i)",
        provenance="derived",
        hypotheses=[*generic(ones, "ReLU"), *(curved if part == "second-order" else [])],
        predict=predict,
        measure=measure,
        tolerance=tolerance,
        control=Control.perturbed(),
    )


def _norm_part(part: str, log_t, log_y, noise, known) -> rates.Estimate:
    powers = corrections_of(known)
    if part == "exponent":
        return rates.extrapolate(log_t, log_y, powers, noise=noise).exponent
    constant = rates.constant_with_known_exponent
    if part == "constant":
        return constant(log_t, log_y, known.exponent, powers, noise=noise).constant
    # R/(leading law) - 1 ~ c t^(-2/3): its own corrections are the further ones, less the first.
    rest = np.expm1(log_y - known.exponent * log_t - np.log(known.constant))
    late = (log_t > np.log(1e3)) & (np.abs(rest) > 1e5 * (noise + 4 * _EPS))
    first, sign = powers[0][0], np.sign(rest[late][-1])
    law = constant(
        log_t[late],
        np.log(sign * rest[late]),
        -first,
        [(p - first, k) for p, k in powers[1:]],
        noise=((noise + 4 * _EPS * np.abs(log_y)) / np.abs(rest))[late],
    )
    return rates.Estimate(sign * law.constant.value, law.constant.error)


def relu_angles(ones: Sequence[Pair], part: str, *, tolerance: float) -> Equality:
    """A (``part="rate"``) or B (``"power"``) of θ_i ~ C R^B e^{-A R²}, both neurons."""

    def predict(lab: Lab) -> np.ndarray:
        found = []
        for one in ones:
            law = pair_rate(one, "decoupled", "angle_of_norm")
            # -A R² (1 - (B/A) ln R / R² + ...)
            found.append(-law.constant if part == "rate" else law.constant * law.coefficients[0])
        return np.repeat(found, 2)

    def measure(lab: Lab) -> Measurement:
        found, labels = [], []
        for one in ones:
            norms, _ = fine_and_coarse(lab, one, lambda p: p.exact["neuron_norms"])
            lam, noise = fine_and_coarse(lab, one, lambda p: p.exact["log_tan_half_angle"])
            for i in range(2):
                late = lam[:, i] < -40  # there ln tan(θ/2) = ln θ - ln 2, and R² moves on
                found.append(decay(norms[late, i] ** 2, lam[late, i], noise[late, i], part))
                labels.append(f"{one}, neuron {i + 1}")
        return law_of(found, labels)

    curved = [curved_density(one) for one in ones]
    return Equality(
        id=f"{SOURCE}/relu-angle-{part}",
        title=f"decoupled ReLU neurons: {part} of the angle's law",
        statement="ReLU: ln θ_i = -A R² + B ln R + C + o(1), A = 3c0/(π³p0), B = 6c0 k2/(π³p0)",
        provenance="derived",
        hypotheses=[*generic(ones, "ReLU"), *(curved if part == "power" else [])],
        predict=predict,
        measure=measure,
        tolerance=tolerance,
        control=Control.perturbed(),
    )


# -- ReLU, trained outer weights ----------------------------------------------------------------

_TRAINED_TIMES = np.geomspace(1.0, 1e6, 128)
#: The log-angle moves at a rate of order 1 for ever, and its rounding keeps the steps of a tighter
#: run short.
_TRAINED: dict[str, Any] = {"times": _TRAINED_TIMES, "tolerances": (1e-11, COARSE)}


def _trained_path(lab: Lab, one: Pair) -> Trajectory:
    return pair_path(lab, one, times=_TRAINED_TIMES, rtol=_TRAINED["tolerances"][0])


def _slope(t: np.ndarray, y: np.ndarray, noise: np.ndarray) -> rates.Estimate:
    """Slope over the later half of the samples; what it owes to the earlier half is its error."""
    half = t.size // 2
    late = (y[-1] - y[half]) / (t[-1] - t[half])
    early = (y[half] - y[0]) / (t[half] - t[0])
    error = (noise[-1] + noise[half]) / (t[-1] - t[half]) + abs(late - early)
    return rates.Estimate(float(late), float(error))


def trained_rates(ones: Sequence[Pair], quantity: str, *, tolerance: float) -> Equality:
    """Slope of ``-ln tan(θ_i/2)`` (``"angle"``), or constant of |a_i||w_i| (``"norm"``)."""
    key = {"angle": "log_angle", "norm": "norm"}[quantity]

    def law(one: Pair) -> Any:
        return pair_rate(one, "decoupled", key)

    def size(path: Trajectory) -> np.ndarray:
        return path.exact["neuron_norms"] * np.abs(np.asarray(path.params.outer))

    def measure(lab: Lab) -> Measurement:
        found, labels = [], []
        for one in ones:
            log_t = _trained_path(lab, one).log_t
            read: Callable[[Trajectory], np.ndarray] = size
            if quantity == "angle":
                read = lambda p: -p.exact["log_tan_half_angle"]
            value, noise = fine_and_coarse(lab, one, read, **_TRAINED)
            angle = _trained_path(lab, one).exact["log_tan_half_angle"]
            late = angle.max(axis=1) < -20
            for i in range(2):
                y, error = value[late, i], noise[late, i]
                if quantity == "angle":
                    found.append(_slope(_TRAINED_TIMES[late], y, error))
                else:
                    powers = corrections_of(law(one))
                    fit = rates.constant_with_known_exponent(
                        log_t[late], np.log(y), law(one).exponent, powers, noise=error / y
                    )
                    found.append(fit.constant)
                labels.append(f"{one}, neuron {i + 1}")
        return law_of(found, labels)

    formula = {
        "angle": "ln tan(θ_i/2) has asymptotic slope -c0/(2π)",
        "norm": "|a_i||w_i| ~ (π²p0 t/3)^(1/2)",
    }[quantity]
    checks = (balanced_outer, may_turn, lambda one: slope_is(one, "ReLU"))
    return Equality(
        id=f"{SOURCE}/trained-{quantity}",
        title=f"trained balanced outer weights: {quantity}",
        statement=f"ReLU, both layers trained, balanced: {formula}",
        provenance="derived",
        hypotheses=[check(one) for one in ones for check in checks],
        predict=lambda lab: np.repeat([law(one).constant for one in ones], 2),
        measure=measure,
        tolerance=tolerance,
        control=Control.perturbed(),
    )


# -- the instances of the package ---------------------------------------------------------------


@register
def relu_pair_claims() -> list[Equality | Qualitative]:
    """The claims on ReLU pairs at the package's own instances."""
    relu = [
        *random_pairs(Gaussian(2), 1, 1),
        *random_pairs(UniformSphere(3), 1, 2),
        *random_pairs(UniformBall(4), 1, 3),
    ]
    bent = [one for one in relu if one.law.p2 != 0]
    even = pair(Gaussian(2), [[0.6, -0.8], [-0.6, 0.8]])
    trained = random_pairs(Gaussian(2), 1, 7, outer="balanced") + random_pairs(
        UniformSphere(3), 1, 8, outer="balanced"
    )
    starts = random_pairs(Gaussian(2), 10, 10) + random_pairs(Gaussian(3), 10, 11)
    return [
        directional_convergence(starts, "direction-relu"),
        symmetric_time_change([even], "symmetric-half-speed"),
        relu_norms(relu, "exponent", tolerance=1e-8),
        relu_norms(relu, "constant", tolerance=1e-10),
        relu_norms(bent, "second-order", tolerance=1e-3),
        relu_angles(relu, "rate", tolerance=1e-8),
        relu_angles(bent, "power", tolerance=1e-3),
        norm_difference(relu, "relu-norm-difference", "ReLU"),
        trained_rates(trained, "angle", tolerance=1e-8),
        trained_rates(trained, "norm", tolerance=1e-8),
    ]
