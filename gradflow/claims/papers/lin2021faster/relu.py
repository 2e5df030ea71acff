r"""Claims on the rates of two neurons, in the setting of `lin2021faster`; all of them derived.

With :math:`\kappa=\pi^2p_0/6`, :math:`\kappa_2=\kappa/2`, :math:`A=3c_0/(\pi^3p_0)` and
:math:`B=2k_2A`:

- ReLU: :math:`R^3/3-k_2R-\dots=\kappa_2(t+\tau_i)`, :math:`\theta_i\sim CR^Be^{-AR^2}`,
  :math:`R_1-R_2\sim\kappa_2(\tau_1-\tau_2)/R^2`;
- ReLU, trained balanced outputs: :math:`\ln\tan(\theta_i/2)` has slope :math:`-c_0/2\pi`,
  :math:`|a_i|R_i\sim(2\kappa t)^{1/2}`.

Leaky pairs are in `leaky`. The predictions come from
``gradflow.derive("two-neuron", regime=...)`` with the law's constants put in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.papers.lin2021directional.setting import COARSE
from gradflow.claims.papers.lin2021faster import PAPER
from gradflow.claims.papers.lin2021faster.pairs import (
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
from gradflow.claims.papers.lin2021faster.two_neurons import (
    directional_convergence,
    norm_difference,
    symmetric_time_change,
)

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
        **PAPER.words("relu-norm-{part}", f"{SOURCE}/relu-norm-{part}", part=part),
        hypotheses=[*generic(ones, "ReLU"), *(curved if part == "second-order" else [])],
        predict=predict,
        measure=measure,
        tolerance=tolerance,
        control=Control.perturbed(),
    )


def _norm_part(part: str, log_t, log_y, noise, known) -> gf.rates.Estimate:
    powers = corrections_of(known)
    if part == "exponent":
        return gf.rates.extrapolate(log_t, log_y, powers, noise=noise).exponent
    constant = gf.rates.constant_with_known_exponent
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
    return gf.rates.Estimate(sign * law.constant.value, law.constant.error)


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
        **PAPER.words("relu-angle-{part}", f"{SOURCE}/relu-angle-{part}", part=part),
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


def _trained_path(lab: Lab, one: Pair) -> gf.Trajectory:
    return pair_path(lab, one, times=_TRAINED_TIMES, rtol=_TRAINED["tolerances"][0])


def _slope(t: np.ndarray, y: np.ndarray, noise: np.ndarray) -> gf.rates.Estimate:
    """Slope over the later half of the samples; what it owes to the earlier half is its error."""
    half = t.size // 2
    late = (y[-1] - y[half]) / (t[-1] - t[half])
    early = (y[half] - y[0]) / (t[half] - t[0])
    error = (noise[-1] + noise[half]) / (t[-1] - t[half]) + abs(late - early)
    return gf.rates.Estimate(float(late), float(error))


def trained_rates(ones: Sequence[Pair], quantity: str, *, tolerance: float) -> Equality:
    """Slope of ``-ln tan(θ_i/2)`` (``"angle"``), or constant of |a_i||w_i| (``"norm"``)."""
    key = {"angle": "log_angle", "norm": "norm"}[quantity]

    def law(one: Pair) -> Any:
        return pair_rate(one, "decoupled", key)

    def size(path: gf.Trajectory) -> np.ndarray:
        return path.exact["neuron_norms"] * np.abs(np.asarray(path.params.outer))

    def measure(lab: Lab) -> Measurement:
        found, labels = [], []
        for one in ones:
            log_t = _trained_path(lab, one).log_t
            read: Callable[[gf.Trajectory], np.ndarray] = size
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
                    fit = gf.rates.constant_with_known_exponent(
                        log_t[late], np.log(y), law(one).exponent, powers, noise=error / y
                    )
                    found.append(fit.constant)
                labels.append(f"{one}, neuron {i + 1}")
        return law_of(found, labels)

    checks = (balanced_outer, may_turn, lambda one: slope_is(one, "ReLU"))
    return Equality(
        **PAPER.words(f"trained-{quantity}", f"{SOURCE}/trained-{quantity}"),
        hypotheses=[check(one) for one in ones for check in checks],
        predict=lambda lab: np.repeat([law(one).constant for one in ones], 2),
        measure=measure,
        tolerance=tolerance,
        control=Control.perturbed(),
    )


# -- the instances of the package ---------------------------------------------------------------


def _bent() -> list[Pair]:
    """With p''(0) ≠ 0."""
    return random_pairs(gf.Gaussian(2), 1, 1) + random_pairs(gf.UniformBall(4), 1, 3)


def _relu() -> list[Pair]:
    gauss, ball = _bent()
    return [gauss, *random_pairs(gf.UniformSphere(3), 1, 2), ball]


def _balanced() -> list[Pair]:
    first = random_pairs(gf.Gaussian(2), 1, 7, outer="balanced")
    return first + random_pairs(gf.UniformSphere(3), 1, 8, outer="balanced")


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "direction-relu": lambda: directional_convergence(
        [p for d in (2, 3) for p in random_pairs(gf.Gaussian(d), 10, 8 + d)], "direction-relu"
    ),
    "symmetric-half-speed": lambda: symmetric_time_change(
        [pair(gf.Gaussian(2), [[0.6, -0.8], [-0.6, 0.8]])], "symmetric-half-speed"
    ),
    "relu-norm-exponent": lambda: relu_norms(_relu(), "exponent", tolerance=1e-8),
    "relu-norm-constant": lambda: relu_norms(_relu(), "constant", tolerance=1e-10),
    "relu-norm-second-order": lambda: relu_norms(_bent(), "second-order", tolerance=1e-3),
    "relu-angle-rate": lambda: relu_angles(_relu(), "rate", tolerance=1e-8),
    "relu-angle-power": lambda: relu_angles(_bent(), "power", tolerance=1e-3),
    "relu-norm-difference": lambda: norm_difference(_relu(), "relu-norm-difference", "ReLU"),
    "trained-angle": lambda: trained_rates(_balanced(), "angle", tolerance=1e-8),
    "trained-norm": lambda: trained_rates(_balanced(), "norm", tolerance=1e-8),
}
