r"""Directional convergence of the linear predictor: direction, norm and their exact rates.

With R = ‖w‖, θ = angle(w, v), :math:`\kappa=\pi^2p_0/6`, logistic loss (N = 1):

.. math::
    R\sim(3\kappa t)^{1/3},\qquad
    -\ln\tan\tfrac\theta2\sim\frac{3c_0}{2\pi}(3\kappa)^{-1/3}t^{2/3},\qquad L\sim\kappa/R,

and for other losses with :math:`M=\int_0^\infty\ell`: :math:`R\sim(6p_0Mt)^{1/3}`,
:math:`\theta'\approx-(2c_0/\pi)(-\ell'(0))\,\theta/R`. Predictions are those of
``gradflow.derive("linear")``.

Source: `lin2021directional`. The bounds are in
`gradflow.claims.papers.lin2021directional.bounds` and `descent`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradflow as gf
from gradflow.claims import (
    Claim,
    Control,
    Equality,
    Hypothesis,
    Lab,
    Measurement,
    Outcome,
    Qualitative,
)
from gradflow.claims.papers.lin2021directional import PAPER
from gradflow.claims.papers.lin2021directional.setting import (
    Instance,
    derived_rate,
    instance,
    logistic_loss,
    measured_power,
    not_aligned,
    not_opposed,
    path_and_noise,
)
from gradflow.validation import fail

SOURCE = "lin2021directional"
TOLERANCE = 1e-8

#: The source's experiment, and four more laws and dimensions with teachers in general position.
CIRCLE = instance(gf.UniformSphere(2), [0.6, -0.8])
GAUSSIAN = instance(gf.Gaussian(3), [0.3, 0.2, -0.9], [2 / 3, 1 / 3, 2 / 3])
SPHERE = instance(gf.UniformSphere(7), [0.0, 1.0, 0.0, 0.0, 0.5, 0.0, -2.0])
BALL = instance(gf.UniformBall(4), [0.1, -0.2, 0.0, 0.1], [0.5, 0.5, 0.5, 0.5])
STUDENT = instance(gf.StudentT(3, 4.0), [1.0, 0.0, 0.4])
ALL = (CIRCLE, GAUSSIAN, SPHERE, BALL, STUDENT)

Instances = Instance | Sequence[Instance]


def several(some: Instances) -> tuple[Instance, ...]:
    """One instance or several as a tuple; all of them linear predictors."""
    found = (some,) if isinstance(some, Instance) else tuple(some)
    if not found:
        raise fail("instances", found, "is empty", "pass at least one instance(law, start)")
    for one in found:
        if one.depth != 1:
            raise fail("depth", one.depth, "is not 1", "take the claims of lin2021faster")
    return found


def hypotheses(some: Sequence[Instance]) -> tuple[Hypothesis, ...]:
    """θ(0) ≠ π, logistic loss and θ(0) ≠ 0, where ln tan(θ/2) is not finite; of every instance."""
    return tuple(
        _all([make(one) for one in some]) for make in (not_opposed, logistic_loss, not_aligned)
    )


def _all(parts: list[Hypothesis]) -> Hypothesis:
    def check(lab: Lab) -> tuple[bool, str]:
        failures = [f for f in (part.failure(lab) for part in parts) if f]
        return not failures, "; ".join(failures)

    return parts[0] if len(parts) == 1 else Hypothesis(parts[0].name, check)


# --- exponents and constants -------------------------------------------------------------------


def _power_claim(
    some: tuple[Instance, ...],
    name: str,
    part: str,
    *,
    wrong: Callable[[Instance], float],
    because: str,
    **fields: Any,
) -> Equality:
    """Exponent or constant of a rate, predicted by the derivation, one component an instance."""

    def measure(lab: Lab) -> Measurement:
        found = [measured_power(lab, one, name)[part == "constant"] for one in some]
        return Measurement(*np.array(found).T, labels=[str(one) for one in some])

    return Equality(
        predict=lambda lab: [getattr(derived_rate(one, name), part) for one in some],
        measure=measure,
        tolerance=TOLERANCE,
        hypotheses=hypotheses(some),
        control=Control.replacing(because, predict=lambda lab: [wrong(one) for one in some]),
        **fields,
    )


def _depth_two(name: str) -> Callable[[Instance], float]:
    return lambda one: gf.derive("deep-linear", depth=2).rates[name].evaluate(one.law).exponent


def _exponential(name: str) -> Callable[[Instance], float]:
    return lambda one: derived_rate(one.but(loss="exponential"), name).constant


def norm_exponent(some: Instances = ALL, *, id: str = f"{SOURCE}/norm-exponent") -> Equality:
    """d ln R / d ln t → 1/3."""
    return _power_claim(
        several(some), "norm", "exponent",
        wrong=_depth_two("norm"), because="the exponent of depth N = 2",
        **PAPER.words("norm-exponent", id),
    )  # fmt: skip


def norm_constant(some: Instances = ALL, *, id: str = f"{SOURCE}/norm-constant") -> Equality:
    """R / t^{1/3} → (3κ)^{1/3}."""
    return _power_claim(
        several(some), "norm", "constant",
        wrong=_exponential("norm"), because="the constant of the exponential loss",
        **PAPER.words("norm-constant", id),
    )  # fmt: skip


def angle_exponent(some: Instances = ALL, *, id: str = f"{SOURCE}/angle-exponent") -> Equality:
    """d ln(-ln tan(θ/2)) / d ln t → 2/3."""
    return _power_claim(
        several(some), "log_angle", "exponent",
        wrong=_depth_two("log_angle"), because="the exponent of depth N = 2",
        **PAPER.words("angle-exponent", id),
    )  # fmt: skip


def angle_constant(some: Instances = ALL, *, id: str = f"{SOURCE}/angle-constant") -> Equality:
    """-ln tan(θ/2) / t^{2/3} → (3c₀/2π)(3κ)^{-1/3}."""
    return _power_claim(
        several(some), "log_angle", "constant",
        wrong=_exponential("log_angle"), because="the constant of the exponential loss",
        **PAPER.words("angle-constant", id),
    )  # fmt: skip


def loss_law(some: Instances = ALL, *, id: str = f"{SOURCE}/loss-law") -> Equality:
    """L ~ t^{-1/3}, and L R → κ."""
    some = several(some)

    def predict(one: Instance, like: Instance) -> list[float]:
        loss, norm = derived_rate(like, "loss"), derived_rate(like, "norm")
        return [derived_rate(one, "loss").exponent, loss.constant * norm.constant]

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in some:
            power, size = measured_power(lab, one, "loss")
            norm = measured_power(lab, one, "norm")[1]
            value += [power.value, size.value * norm.value]
            error += [power.error, size.error * norm.value + size.value * norm.error]
            labels += [f"exponent, {one}", f"kappa, {one}"]
        return Measurement(value, error, labels)

    return Equality(
        **PAPER.words("loss-law", id),
        hypotheses=hypotheses(some),
        predict=lambda lab: [x for one in some for x in predict(one, one)],
        measure=measure,
        tolerance=TOLERANCE,
        control=Control.replacing(
            "the constant of the exponential loss",
            predict=lambda lab: [x for o in some for x in predict(o, o.but(loss="exponential"))],
        ),
    )


def other_loss(some: Instances, *, id: str) -> Equality:
    """Norm and angle law of the exponential or the hinge loss.

    The angular pull P of θ' = -Pθ/R is read off the two constants: as R ~ C t^{1/3},
    -ln tan(θ/2) ~ (3P/2C) t^{2/3}.
    """
    some = several(some)

    def parts(norm: tuple[Any, Any], angle: tuple[Any, Any]) -> list[Any]:
        return [norm[0], norm[1], angle[0], 2 / 3 * angle[1] * norm[1]]

    def predict(one: Instance, loss: str) -> list[float]:
        found = [derived_rate(one.but(loss=loss), name) for name in ("norm", "log_angle")]
        return parts(*[(rate.exponent, rate.constant) for rate in found])

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in some:
            norm, angle = (measured_power(lab, one, name) for name in ("norm", "log_angle"))
            value += parts(*[(x.value, y.value) for x, y in (norm, angle)])
            pull = value[-1] * (angle[1].error / angle[1].value + norm[1].error / norm[1].value)
            error += [norm[0].error, norm[1].error, angle[0].error, pull]
            labels += [
                f"{what}, {one}" for what in ("norm exponent", "norm", "angle exponent", "pull")
            ]
        return Measurement(value, error, labels)

    losses = sorted({one.loss for one in some})
    other = Hypothesis(
        "exponential or hinge loss", lambda lab: ("logistic" not in losses, ", ".join(losses))
    )
    return Equality(
        **PAPER.words("{loss}-loss", id, loss=" and ".join(losses)),
        hypotheses=(other, *(h for h in hypotheses(some) if h.name != "logistic loss")),
        predict=lambda lab: [x for one in some for x in predict(one, one.loss)],
        measure=measure,
        tolerance=TOLERANCE,
        control=Control.replacing(
            "M and -l'(0) of the logistic loss",
            predict=lambda lab: [x for one in some for x in predict(one, "logistic")],
        ),
    )


# --- qualitative statements --------------------------------------------------------------------


def deformed_path(
    one: Instance, angle: float, times: np.ndarray, *, stretch: float = 1.0, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""ln ‖w‖ and ln tan(θ/2) of a logistic flow whose data break a hypothesis; for controls.

    With x = S z, z of the instance's law, S = I + (stretch - 1) a aᵀ for a at 45° to v, and labels
    flipped with probability ``noise``:
    :math:`\dot w=S[(1-2\,\mathrm{noise})\tfrac{c_0}\pi v'-(\tfrac{c_0}\pi-h(\|u\|))\hat u]`,
    u = S w, v' = S v/‖S v‖. The start is at ``angle`` from v with norm 1/c₀, and the unit of time
    is 1/c₀², so that the outcome does not depend on the instance's units.
    """
    from scipy.integrate import solve_ivp

    v, c0 = one.v, one.law.c0
    side = gf.perpendicular(one.w, v)
    side = side / np.linalg.norm(side)
    axis = (v + side) / np.sqrt(2)
    w0 = (np.cos(angle) * v + np.sin(angle) * side) / c0
    pull = c0 / np.pi
    shape = np.eye(v.size) + (stretch - 1) * np.outer(axis, axis)
    label = shape @ v / np.linalg.norm(shape @ v)
    node, weight = one.law.marginal_rule()

    def field(s: float, w: np.ndarray) -> np.ndarray:
        u = shape @ w
        size = np.linalg.norm(u)
        h = np.sum(weight * node * np.exp(-np.logaddexp(0, size * node)))
        force = (1 - 2 * noise) * pull * label - (pull - h) * u / size
        return np.exp(s) / c0**2 * (shape @ force)

    s = np.log1p(times)
    done = solve_ivp(field, (0, s[-1]), w0, "DOP853", s, rtol=1e-10, atol=1e-12 / c0)
    if not done.success:
        raise RuntimeError(done.message)
    w = done.y.T
    across_sizes = np.array([np.linalg.norm(gf.perpendicular(row, v)) for row in w])
    return np.log(np.linalg.norm(w, axis=1)), gf.log_tan_half(w @ v, across_sizes)


def direction_monotone(
    some: Instances = ALL, *, id: str = f"{SOURCE}/direction-monotone"
) -> Qualitative:
    """θ decreases at all times, whatever the start."""
    some = several(some)

    def outcome(one: Instance, lam: np.ndarray, noise: Any) -> Outcome:
        noise = np.broadcast_to(noise, lam.shape)
        drop, error = -np.diff(lam), noise[1:] + noise[:-1] + 1e-300
        worst = int(np.argmin(drop / error))
        return Outcome(f"theta decreases, {one}", float(drop[worst]), float(error[worst]))

    def measure(lab: Lab) -> list[Outcome]:
        found = []
        for one in some:
            _, lam, noise = path_and_noise(lab, one, "log_tan")
            start = 1e-14 * max(1.0, abs(one.log_tan))
            found.append(outcome(one, np.append(one.log_tan, lam), np.append(start, noise)))
        return found

    def stretched(lab: Lab) -> list[Outcome]:
        one, times = some[0], np.geomspace(1e-2, 10, 32)
        return [outcome(one, deformed_path(one, 0.01, times, stretch=3.0)[1], 1e-8)]

    return Qualitative(
        **PAPER.words("direction-monotone", id),
        hypotheses=hypotheses(some),
        measure=measure,
        control=Control.replacing(
            "data stretched threefold along one axis: not spherically symmetric",
            measure=stretched,
        ),
    )


def norm_diverges(some: Instances = ALL, *, id: str = f"{SOURCE}/norm-diverges") -> Qualitative:
    """‖w‖ → ∞: past its minimum it only grows, and its growth does not level off."""
    some = several(some)

    def outcomes(
        one: Instance, log_t: np.ndarray, log_radius: np.ndarray, noise: Any
    ) -> list[Outcome]:
        lowest = int(np.argmin(log_radius))
        rise = np.diff(log_radius[lowest:])
        error = noise[lowest:][1:] + noise[lowest:][:-1]
        worst = int(np.argmin(rise / error))
        local = gf.rates.local_exponent(log_t, log_radius, noise=noise)
        return [
            Outcome(f"norm grows past its minimum, {one}", float(rise[worst]), float(error[worst])),
            Outcome(
                f"d ln R/d ln t > 0.2 at the end, {one}",
                float(local.value[-1] - 0.2),
                float(local.error[-1]),
            ),
        ]

    def measure(lab: Lab) -> list[Outcome]:
        found = []
        for one in some:
            path, value, noise = path_and_noise(lab, one, "log_radius")
            found += outcomes(one, path.log_t, value, noise)
        return found

    def noisy(lab: Lab) -> list[Outcome]:
        one, times = some[0], np.geomspace(1, 1e4, 32)
        log_radius, _ = deformed_path(one, 2.0, times, noise=0.1)
        return outcomes(one, np.log(times), log_radius, np.full(32, 1e-6))

    return Qualitative(
        **PAPER.words("norm-diverges", id),
        hypotheses=hypotheses(some),
        measure=measure,
        control=Control.replacing(
            "labels flipped with probability 0.1: the risk has a minimiser", measure=noisy
        ),
    )


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "direction-monotone": direction_monotone,
    "norm-diverges": norm_diverges,
    "norm-exponent": norm_exponent,
    "norm-constant": norm_constant,
    "angle-exponent": angle_exponent,
    "angle-constant": angle_constant,
    "loss-law": loss_law,
    "exponential-loss": lambda: other_loss(
        [one.but(loss="exponential") for one in (GAUSSIAN, CIRCLE)], id=f"{SOURCE}/exponential-loss"
    ),
    "hinge-loss": lambda: other_loss(GAUSSIAN.but(loss="hinge"), id=f"{SOURCE}/hinge-loss"),
}
