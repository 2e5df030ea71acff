r"""Claims on leaky pairs in the setting of `lin2021faster`, :math:`0<\alpha<1`; all derived.

With S and D mean and difference of the norms of :math:`w_1-\alpha w_2` and :math:`\alpha w_1-w_2`,
:math:`p_i` the part of neuron i (turned to its own target) across v,
:math:`q=((1-\alpha)/(1+\alpha))^2`, :math:`A=3c_0/(\pi^3p_0)`, :math:`B=2k_2A`:

- :math:`S^3/3-k_2S=(1+\alpha)^2\tfrac{\pi^2p_0}{12}t+\dots`;
- :math:`D=(1-\alpha)(R_1-R_2)\propto S^{-2q}`;
- :math:`\ln|p_1-p_2|=-q[AS^2-(B+1)\ln S]+C`: slower than the symmetric pair by the factor q;
- :math:`(p_1+p_2)/(p_1-p_2)\to\tfrac{(1-\alpha)^2}{8\alpha}(R_1-R_2)/R`.

The predictions come from ``gradflow.derive("two-neuron", regime="leaky")``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.papers.lin2021directional.setting import Instance, path_and_noise
from gradflow.claims.papers.lin2021faster import PAPER
from gradflow.claims.papers.lin2021faster.pairs import (
    SOURCE,
    Pair,
    corrections_of,
    decay,
    fine_and_coarse,
    generic,
    law_of,
    pair,
    pair_path,
    pair_rate,
    random_pairs,
    symmetric_pair,
)
from gradflow.claims.papers.lin2021faster.two_neurons import (
    directional_convergence,
    norm_difference,
    sum_conserved,
    symmetric_time_change,
)


def _generic(ones: Sequence[Pair]) -> list[Hypothesis]:
    """Leaky, outer weights ±1, and R₁ ≠ R₂."""
    return [*generic(ones, "leaky"), *(symmetric_pair(one, False) for one in ones)]


def leaky_norm(ones: Sequence[Pair], *, tolerance: float = 1e-8) -> Equality:
    """Leading constant of the mean norm S/(1+α)."""

    def law(one: Pair) -> Any:
        return pair_rate(one, "leaky", "mean_norm")

    def measure(lab: Lab) -> Measurement:
        found = []
        for one in ones:
            mean, noise = fine_and_coarse(lab, one, lambda p: p.exact["cap_mean"])
            ahead = mean > 1  # early, a neuron may still point away from its target
            mean, noise, log_t = mean[ahead], noise[ahead], pair_path(lab, one).log_t[ahead]
            known = law(one)
            fit = gf.rates.constant_with_known_exponent(
                log_t,
                np.log(mean / (1 + one.slope)),
                known.exponent,
                corrections_of(known),
                noise=noise / mean,
            )
            found.append(fit.constant)
        return law_of(found, [*map(str, ones)])

    return Equality(
        **PAPER.words("leaky-norm-constant", f"{SOURCE}/leaky-norm-constant"),
        hypotheses=generic(ones, "leaky"),
        predict=lambda lab: [law(one).constant for one in ones],
        measure=measure,
        tolerance=tolerance,
        control=Control.perturbed(),
    )


def _slow_mode(lab: Lab, one: Pair, part: str) -> gf.rates.Estimate:
    """Rate or power of ln|p₁ - p₂| along S."""
    mean, _ = fine_and_coarse(lab, one, lambda p: p.exact["cap_mean"])
    # late, p_1 and p_2 are opposite: |p_1 - p_2| = |p_1| + |p_2|
    slow, noise = fine_and_coarse(
        lab, one, lambda p: np.logaddexp.reduce(p.exact["log_perpendicular"], axis=1)
    )
    known = pair_rate(one, "leaky", "log_slow_mode")
    # relative to S²: those that leave ln|p_1 - p_2| constant or growing are fitted as such
    powers = [(-(p + 2) / 2, k) for p, k in known.corrections if p < -2]
    late = (slow < -60) & (mean > 30)
    return decay(mean[late] ** 2, slow[late], noise[late], part, powers)


def leaky_angles(ones: Sequence[Pair], part: str, *, tolerance: float) -> Equality:
    """qA (``"rate"``) or q(B+1) (``"power"``) of ln|p₁-p₂| = -q[A S² - (B+1) ln S] + C."""

    def predict(lab: Lab) -> list[float]:
        laws = [pair_rate(one, "leaky", "log_slow_mode") for one in ones]
        if part == "rate":
            return [-law.constant for law in laws]
        return [law.constant * law.coefficients[0] for law in laws]

    return Equality(
        **PAPER.words("leaky-angle-{part}", f"{SOURCE}/leaky-angle-{part}", part=part),
        hypotheses=_generic(ones),
        predict=predict,
        measure=lambda lab: law_of([_slow_mode(lab, o, part) for o in ones], [*map(str, ones)]),
        tolerance=tolerance,
        control=Control.perturbed(),
    )


def slow_to_fast(ones: Sequence[Pair], *, tolerance: float = 1e-8) -> Equality:
    """Decay along S² of a generic pair over that of the symmetric pair from the same w₁.

    The symmetric pair is the linear flow of (1+α)w₁ (`symmetric_time_change`), of norm S; it is
    followed as such, since the smallest rounding error would add the slow mode to it.
    """

    def predict(lab: Lab) -> list[float]:
        ratio: Any = gf.derive("two-neuron", regime="leaky").equations["slow_mode_ratio"].rhs
        return [float(ratio.subs(dict.fromkeys(ratio.free_symbols, one.slope))) for one in ones]

    def measure(lab: Lab) -> Measurement:
        found = []
        for one in ones:
            start = tuple((1 + one.slope) * x for x in one.inner[0])
            even = Instance(one.law, start, one.teacher)
            path, lam, noise = path_and_noise(lab, even, "log_tan")
            late = lam < -60
            fast = decay(path.radius[late] ** 2, lam[late], noise[late], "rate")
            slow = _slow_mode(lab, one, "rate")
            value = slow.value / fast.value
            error = value * (slow.error / slow.value + fast.error / fast.value)
            found.append(gf.rates.Estimate(value, error))
        return law_of(found, [*map(str, ones)])

    return Equality(
        **PAPER.words("leaky-rate-ratio", f"{SOURCE}/leaky-rate-ratio"),
        hypotheses=_generic(ones),
        predict=predict,
        measure=measure,
        tolerance=tolerance,
        control=Control.replacing(
            "no difference between the rates", predict=lambda lab: [1.0 for _ in ones]
        ),
    )


def mode_mix(
    ones: Sequence[Pair], *, tolerance: float | None = None, early: bool = False
) -> Equality:
    """Limit of [(p₁+p₂)/(p₁-p₂)] R/(R₁-R₂) = constant (1 + c/S² + ...).

    Parameters
    ----------
    ones : sequence of Pair
    tolerance : float, optional
        Relative; default 1e-3, or 2e-2 if ``early``.
    early : bool
        Read the full flow just before the chart slaves the fast mode to the slow one, with c from
        the derivation; else the tail, where nothing but the powers of S is derived.
    """

    def law(one: Pair) -> Any:
        return pair_rate(one, "leaky", "mode_mix")

    def mixed(path: gf.Trajectory, one: Pair) -> np.ndarray:
        """ln of |r| R/|R₁ - R₂|, R = S/(1+α), R₁ - R₂ = D/(1-α)."""
        exact, slope = path.exact, one.slope
        share = np.log(np.abs(exact["cap_mean"] / exact["cap_difference"]))
        return exact["log_mode_ratio"] + share + np.log((1 - slope) / (1 + slope))

    def read(lab: Lab, one: Pair) -> gf.rates.Estimate:
        whole = pair_path(lab, one)
        (handover,) = [event.t for event in whole.events if event.kind == "stage"]
        # by then the fast mode's own start has died
        times = handover * np.array([0.55, 0.99]) if early else None
        value, noise = fine_and_coarse(lab, one, lambda p: mixed(p, one), times=times)
        mean = pair_path(lab, one, times=times).exact["cap_mean"]
        if not early:
            here, powers = whole.t > handover, corrections_of(law(one))
            fit = gf.rates.constant_with_known_exponent(
                np.log(mean[here]), value[here], 0.0, powers, noise=noise[here]
            )
            return fit.constant
        first, last = np.exp(value) / (1 + law(one).coefficients[0] / mean**2)
        # what is left falls like a higher power of S, to about half between the two samples
        return gf.rates.Estimate(float(last), float(2 * abs(last - first) + last * noise.sum()))

    if tolerance is None:
        tolerance = 2e-2 if early else 1e-3
    return Equality(
        **PAPER.words("leaky-mode-mix", f"{SOURCE}/leaky-mode-mix" + ("-early" if early else "")),
        hypotheses=_generic(ones),
        predict=lambda lab: [law(one).constant for one in ones],
        measure=lambda lab: law_of([read(lab, one) for one in ones], [*map(str, ones)]),
        tolerance=tolerance,
        control=Control.perturbed(),
    )


# -- the instances of the package ---------------------------------------------------------------


def _leaky() -> list[Pair]:
    return [
        *random_pairs(gf.Gaussian(2), 1, 4, slope=0.3),
        *random_pairs(gf.UniformSphere(4), 1, 5, slope=0.1),
        *random_pairs(gf.UniformBall(3), 1, 6, slope=0.5),
    ]


def _less_leaky() -> list[Pair]:
    """D² enters at the relative order S^(-4q): small slopes leave the power its digits."""
    return [
        *random_pairs(gf.Gaussian(3), 1, 12, slope=0.2),
        *random_pairs(gf.UniformBall(2), 1, 13, slope=0.1),
    ]


def _even() -> list[Pair]:
    return [
        pair(gf.UniformSphere(3), [[0.5, 1.0, -0.3], [-0.5, -1.0, 0.3]], slope=0.3),
        pair(gf.Gaussian(3), [[0.4, -0.2, 0.1], [-0.4, 0.2, -0.1]], slope=0.7),
    ]


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "direction-leaky": lambda: directional_convergence(
        [p for d in (2, 3) for p in random_pairs(gf.Gaussian(d), 10, 8 + d, slope=0.3)],
        "direction-leaky",
    ),
    "symmetric-time-change": lambda: symmetric_time_change(_even()),
    "linear-neurons-sum": lambda: sum_conserved(random_pairs(gf.Gaussian(3), 1, 9, slope=1.0)),
    "leaky-norm-constant": lambda: leaky_norm(_leaky()),
    "leaky-angle-rate": lambda: leaky_angles(_leaky(), "rate", tolerance=1e-8),
    "leaky-angle-power": lambda: leaky_angles(_less_leaky(), "power", tolerance=1e-3),
    "leaky-rate-ratio": lambda: slow_to_fast(_leaky()),
    "leaky-norm-difference": lambda: norm_difference(_leaky(), "leaky-norm-difference", "leaky"),
    "leaky-mode-mix": lambda: mode_mix(_leaky()),
    "leaky-mode-mix-early": lambda: mode_mix(_leaky(), early=True),
}
