r"""Claims of `lin2021faster` on balanced deep linear nets and spherically symmetric data.

With :math:`w_e=(W_N\cdots W_1)^\top`, :math:`R=\|w_e\|`, θ its angle to the teacher,
:math:`X=-2\ln\tan(\theta/2)` and the logistic loss,

.. math:: R'=NR^{2-2/N}\bigl[h(R)-\tfrac{c_0}\pi(1-\cos\theta)\bigr],\qquad
    X'=\tfrac{2c_0}\pi R^{1-2/N}.

Derived, with :math:`\kappa=\pi^2p_0/6`: :math:`R\sim((N+2)\kappa t)^{N/(N+2)}` and
:math:`-\ln\tan(\theta/2)\sim\tfrac{c_0}\pi\tfrac{N+2}{2N}((N+2)\kappa)^{(N-2)/(N+2)}t^{2N/(N+2)}`;
for N=2 the angle law is exact at all t.
The published bounds are in `bounds`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.papers.lin2021directional.setting import (
    COARSE,
    FINE,
    Instance,
    balanced,
    derived_rate,
    instance,
    linear_path,
    logistic_loss,
    measured_power,
    not_aligned,
    not_opposed,
    path_and_noise,
)
from gradflow.claims.papers.lin2021faster import PAPER

SOURCE = "lin2021faster"
_SAMPLES = 128
#: Putting numbers into sympy is slow, and controls and perturbations ask again.
_rate = lru_cache(maxsize=256)(derived_rate)


def _hypotheses(ones: Sequence[Instance]) -> list[Hypothesis]:
    checks = (logistic_loss, balanced, not_opposed, not_aligned)
    return [check(one) for one in ones for check in checks]


# -- exact rates --------------------------------------------------------------------------------


def exact_angle(ones: Sequence[Instance], name: str = "angle-exact-N2") -> Equality:
    """N=2: the log-angle is linear in t from the start on, whatever the norm does."""

    def slopes(lab: Lab, used: Sequence[Instance]) -> Measurement:
        parts, noises, labels = [], [], []
        for one in used:
            path, value, noise = path_and_noise(lab, one, "log_tan")
            parts.append((one.log_tan - value) / path.t)
            noises.append((noise + 1e-15 * abs(one.log_tan)) / path.t)
            labels += [f"{one}, t={t:.3g}" for t in path.t]
        return Measurement(np.concatenate(parts), np.concatenate(noises), labels)

    def predict(lab: Lab) -> np.ndarray:
        return np.repeat([_rate(one, "log_angle").constant for one in ones], _SAMPLES)

    def two_layers(lab: Lab) -> tuple[bool, str]:
        return all(one.depth == 2 for one in ones), f"N = {[one.depth for one in ones]}"

    deeper = [one.but(depth=3) for one in ones]
    return Equality(
        **PAPER.words("angle-exact-N2", f"{SOURCE}/{name}"),
        hypotheses=[Hypothesis("N = 2", two_layers), *_hypotheses(ones)],
        predict=predict,
        measure=lambda lab: slopes(lab, ones),
        tolerance=1e-10,
        control=Control.replacing("three layers", measure=lambda lab: slopes(lab, deeper)),
    )


#: Of the statements, by the derivation's own names.
_QUANTITIES = {"norm": "norm", "log_angle": "angle", "loss": "loss"}


def growth(
    ones: Sequence[Instance],
    quantity: str,
    part: str,
    *,
    tolerance: float,
    against: int | None = None,
) -> Equality:
    """Exponent or leading constant of ``norm``, ``log_angle`` or ``loss`` as t → ∞.

    Parameters
    ----------
    ones : sequence of Instance
        All of one depth.
    quantity : {"norm", "log_angle", "loss"}
    part : {"exponent", "constant"}
    tolerance : float
        Relative.
    against : int, optional
        Depth whose law the control predicts; default: one layer more.
    """
    depth = ones[0].depth
    other = depth + 1 if against is None else against
    short = _QUANTITIES[quantity]
    which = ("exponent", "constant").index(part)

    def measure(lab: Lab) -> Measurement:
        found = [measured_power(lab, one, quantity)[which] for one in ones]
        return Measurement([e.value for e in found], [e.error for e in found], [*map(str, ones)])

    def predict(lab: Lab) -> list[float]:
        return [getattr(_rate(one, quantity), part) for one in ones]

    def other_depth(lab: Lab) -> list[float]:
        return [getattr(_rate(one.but(depth=other), quantity), part) for one in ones]

    return Equality(
        **PAPER.words(
            f"{short}-{{part}}-N{{N}}", f"{SOURCE}/{short}-{part}-N{depth}", part=part, N=depth
        ),
        hypotheses=_hypotheses(ones),
        predict=predict,
        measure=measure,
        tolerance=tolerance,
        control=Control.replacing(f"the law of {other} layers", predict=other_depth),
    )


# -- the reduction itself, against the layers' own flow -----------------------------------------


def layer_flow(lab: Lab, one: Instance, times: np.ndarray, rtol: float) -> gf.Trajectory:
    """The flow of all layers in cartesian coordinates, by another solver than the path's."""

    def build() -> gf.Trajectory:
        return gf.integrate(
            one.risk,
            one.params,
            until=gf.until.time(float(times[-1])),
            chart="cartesian",
            integrator="dop853",
            rtol=rtol,
            save_at=times,
            throw=True,
        )

    return lab.get(("layer flow", one, times.tobytes(), rtol), build)


def _layers(path: gf.Trajectory) -> list[np.ndarray]:
    return [np.asarray(layer) for layer in path.params.layers]


def reduction_holds(one: Instance, *, t_end: float = 100.0, name: str = "reduction") -> Equality:
    r"""The layers' flow against the two reduced equations.

    Angles are compared while they exceed :math:`2e^{-8}`: cartesian coordinates lose the rest.
    """
    times = np.geomspace(0.05, t_end, 32)

    def reduced(lab: Lab, used: Instance) -> tuple[np.ndarray, np.ndarray]:
        """Norms, then gains of the log-angle where it is still large; and their error."""
        _, radius, noise = path_and_noise(lab, used, "radius", times=times)
        _, log_tan, angle_noise = path_and_noise(lab, used, "log_tan", times=times)
        seen = log_tan > -8
        value = np.concatenate([radius, used.log_tan - log_tan[seen]])
        return value, np.concatenate([noise, angle_noise[seen] + 4e-16 * abs(used.log_tan)])

    def measure(lab: Lab) -> Measurement:
        wanted, noise = reduced(lab, one)
        count = wanted.size - times.size
        found = []
        for rtol in (COARSE, FINE):
            path = layer_flow(lab, one, times, rtol)
            angle = path.observe("log_tan_half_angle")[:count, 0]
            found.append(np.concatenate([path.observe("neuron_norms")[:, 0], one.log_tan - angle]))
        labels = [f"‖w_e‖, t={t:.3g}" for t in times]
        labels += [f"angle, t={t:.3g}" for t in times[:count]]
        return Measurement.from_solves(found[0], found[1], extra=noise, labels=labels)

    def other_depth(lab: Lab) -> np.ndarray:
        path = linear_path(lab, one.but(depth=one.depth + 1), times=times)
        count = reduced(lab, one)[0].size - times.size
        return np.concatenate([path.radius, one.log_tan - path.log_tan[:count]])

    return Equality(
        **PAPER.words("reduction-N{N}", f"{SOURCE}/{name}-N{one.depth}", N=one.depth),
        hypotheses=_hypotheses([one]),
        predict=lambda lab: reduced(lab, one)[0],
        measure=measure,
        tolerance=1e-8,
        control=Control.replacing("the equations of one layer more", predict=other_depth),
    )


def balancedness_kept(
    one: Instance, *, t_end: float = 100.0, name: str = "balancedness"
) -> Equality:
    """Conservation of W_{j+1}ᵀ W_{j+1} - W_j W_jᵀ from layers that are not balanced."""
    times = np.geomspace(0.05, t_end, 32)

    def gaps(layers: Sequence[np.ndarray], sign: float = -1.0) -> np.ndarray:
        parts = []
        for before, after in pairwise(layers):
            gap = np.swapaxes(after, -1, -2) @ after + sign * before @ np.swapaxes(before, -1, -2)
            upper = np.triu_indices(gap.shape[-1])
            parts.append(gap[..., upper[0], upper[1]].ravel())
        return np.concatenate(parts)

    def measure(lab: Lab, sign: float = -1.0) -> Measurement:
        coarse, fine = (
            gaps([w[-1] for w in _layers(layer_flow(lab, one, times, rtol))], sign)
            for rtol in (COARSE, FINE)
        )
        return Measurement.from_solves(
            coarse, fine, labels=[f"entry {i}" for i in range(fine.size)]
        )

    def start(lab: Lab) -> np.ndarray:
        return gaps([np.asarray(w) for w in one.params.layers])

    def unbalanced(lab: Lab) -> tuple[bool, str]:
        return bool(
            np.abs(start(lab)).max() > 1e-6
        ), "balanced layers: nothing but zeros to compare"

    return Equality(
        **PAPER.words("balancedness-N{N}", f"{SOURCE}/{name}-N{one.depth}", N=one.depth),
        hypotheses=[Hypothesis("layers not balanced", unbalanced)],
        predict=start,
        measure=measure,
        tolerance=1e-9,
        relative=False,
        control=Control.replacing(
            "the sum of the two products in place of their difference",
            measure=lambda lab: measure(lab, 1.0),
        ),
    )


# -- the instances of the package ---------------------------------------------------------------


def _instances(depth: int) -> list[Instance]:
    return [
        instance(gf.Gaussian(2), [0.6, -0.8], depth=depth),
        instance(gf.UniformSphere(3), [0.3, 0.5, -0.4], [0.0, 0.6, 0.8], depth=depth),
        instance(gf.UniformBall(4), [1.0, -0.2, 0.5, 0.3], depth=depth),
    ]


def _unbalanced_layers() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [0.6 * rng.normal(size=shape) for shape in ((2, 2), (2, 2), (1, 2))]


def _growth(quantity: str, part: str, depth: int) -> Equality:
    tolerance = {"exponent": 1e-10, "constant": 1e-8}[part]
    against = {2: 3, 3: 2, 4: 3, 6: 4}[depth]
    return growth(_instances(depth), quantity, part, tolerance=tolerance, against=against)


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "angle-exact-N2": lambda: exact_angle(_instances(2)),
    **{
        f"{_QUANTITIES[quantity]}-{part}-N{depth}": partial(_growth, quantity, part, depth)
        for quantity in ("norm", "log_angle")
        for part in ("exponent", "constant")
        for depth in (2, 3, 4, 6)
    },
    "loss-constant-N3": lambda: _growth("loss", "constant", 3),
    "reduction-N3": lambda: reduction_holds(instance(gf.Gaussian(2), [0.6, -0.8], depth=3)),
    "balancedness-N3": lambda: balancedness_kept(
        instance(gf.Gaussian(2), _unbalanced_layers(), depth=3)
    ),
}
