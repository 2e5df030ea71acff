r"""Published bounds on gradient descent for the linear predictor, with any step sizes η_n.

While :math:`v\cdot w(0)<0` and until :math:`\cos\theta\ge0`,

.. math::
    \cos\theta(n)\ge1-(1-\cos\theta(0))e^{-BS_n},\qquad
    S_n=\sum_{k<n}\frac{\eta_k}{\sqrt{A+\sum_{i\le k}\eta_i^2}},

:math:`A=\|w(0)\|^2/c_0^2`, :math:`B=(1+\cos\theta(0))/\pi`; and, from any start and at all n, with
:math:`\eta_i^2+0.6\eta_i/c_0^2` in the inner sum and
:math:`B=\delta(1+\cos\theta(0))/((1+\delta)\pi)` under the norm-growth condition
:math:`\|w(n+1)\|+\hat w(n)\cdot w(n+1)\ge(1+\delta)c_0\eta_n\cos\theta(n)/\pi`. Both are compared
as :math:`Y_n=\ln\frac{1-\cos\theta(0)}{1-\cos\theta(n)}\ge BS_n`, which does not saturate.
Source: `lin2021directional`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import PyTree

import gradflow as gf
from gradflow.claims import Bound, Claim, Control, Hypothesis, Lab, Measurement
from gradflow.claims.papers.lin2021directional import PAPER
from gradflow.claims.papers.lin2021directional import formulas as published
from gradflow.claims.papers.lin2021directional.rates import (
    CIRCLE,
    SOURCE,
    Instances,
    hypotheses,
    several,
)
from gradflow.claims.papers.lin2021directional.setting import (
    Instance,
    instance,
)
from gradflow.validation import check_integer, check_positive, fail

_EPS = float(np.finfo(np.float64).eps)
STEPS = 1024
#: The step sizes η_n of the registered claims. The exponent -1/2 of the decaying ones lies between
#: the ranges for which the source works out S_n.
SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda n: 0.1 + 0.0 * n,
    "decaying": lambda n: 0.5 / np.sqrt(n + 1.0),
    "growing": lambda n: 0.05 * (n + 1.0) ** 0.25,
}
#: Those of one dimension share a compiled program.
STARTS = (
    CIRCLE,
    instance(gf.Gaussian(2), [1.0, -0.7]),
    instance(gf.UniformBall(5), [0.2, 0.0, 0.1, -0.1, 0.0], [-0.8, 0.0, 0.0, 0.0, 0.6]),
)


@dataclass(frozen=True)
class Iterates:
    """Of a descent, n first: v·w(n), ‖w_⊥(n)‖ (one sign flip if it overshoots) and η_n."""

    along: np.ndarray
    across: np.ndarray
    eta: np.ndarray

    @property
    def radius(self) -> np.ndarray:
        """‖w(n)‖."""
        return np.hypot(self.along, self.across)

    @property
    def cos(self) -> np.ndarray:
        """cos θ(n)."""
        return self.along / self.radius

    @property
    def rise(self) -> np.ndarray:
        """ln(2/(1 - cos θ(n))) = ln(1 + e^{-2 ln tan(θ/2)}), n = 0 … N; Y_n = rise_n - rise_0."""
        twice = -2 * gf.log_tan_half(self.along, np.abs(self.across))
        return np.logaddexp(0, twice)

    def growth(self, c0: float) -> np.ndarray:
        """The largest 1 + δ the norm-growth condition allows at each n; inf if cos θ(n) ≤ 0."""
        turn = self.along[1:] * self.along[:-1] + self.across[1:] * self.across[:-1]
        have = self.radius[1:] + turn / self.radius[:-1]
        need = c0 * self.eta * self.cos[:-1] / np.pi
        return np.where(need > 0, have / np.where(need > 0, need, 1.0), np.inf)


def _frame(one: Instance) -> tuple[float, float]:
    """v·w(0) and ‖w_⊥(0)‖."""
    return float(one.w @ one.v), float(np.linalg.norm(gf.perpendicular(one.w, one.v)))


def descent(lab: Lab, one: Instance, eta: np.ndarray) -> Iterates:
    """Gradient descent by `gradflow.descend`.

    In coordinates whose last axis is v and whose first is that of w_⊥(0): the law does not know the
    difference, and the angle keeps its relative accuracy.
    """

    def build() -> Iterates:
        dim, (along, across) = one.law.dim, _frame(one)
        start = np.zeros(dim)
        start[0], start[-1] = across, along
        turned = one.but(start=tuple(start), teacher=tuple(np.eye(dim)[-1]))
        done = gf.descend(turned.risk, turned.params, step_size=eta, steps=eta.size, throw=True)
        w = np.asarray(done.params.weight)
        return Iterates(w[:, -1], w[:, 0], eta)

    return lab.get(("descent", one, eta.tobytes()), build)


def descent_again(lab: Lab, one: Instance, eta: np.ndarray) -> Iterates:
    """The same iterates from a loop over (v·w, w_⊥), with h by quadrature over the law."""

    def build() -> Iterates:
        node, weight = one.law.marginal_rule()
        pull = one.law.c0 / np.pi
        path = np.empty((eta.size + 1, 2))
        path[0] = _frame(one)
        for n, step in enumerate(eta):
            along, across = path[n]
            radius = np.hypot(along, across)
            x = radius * node
            shrink = step * (pull - np.sum(weight * node * np.exp(-np.logaddexp(0, x)))) / radius
            path[n + 1] = along + step * pull - shrink * along, across - shrink * across
        return Iterates(path[:, 0], path[:, 1], eta)

    return lab.get(("descent again", one, eta.tobytes()), build)


def _sizes(step_size: PyTree, steps: int) -> np.ndarray:
    steps = check_integer("steps", steps, minimum=1)
    if callable(step_size):
        found: Any = step_size(np.arange(steps))
    else:
        found = step_size
    eta = np.broadcast_to(np.asarray(found, np.float64), (steps,)).copy()
    if not np.all(np.isfinite(eta) & (eta > 0)):
        raise fail("step_size", eta, "must be finite and positive", "pass step sizes > 0")
    return eta


def _wrong_way(some: tuple[Instance, ...]) -> Hypothesis:
    def check(lab: Lab) -> tuple[bool, str]:
        toward = [str(one) for one in some if _frame(one)[0] >= 0]
        return not toward, "; ".join(toward)

    return Hypothesis("v.w(0) < 0", check)


def _condition(some: tuple[Instance, ...], eta: np.ndarray, delta: float) -> Hypothesis:
    def check(lab: Lab) -> tuple[bool, str]:
        for one in some:
            growth = descent(lab, one, eta).growth(one.law.c0)
            if np.any(growth < 1 + delta):
                n = int(np.argmax(growth < 1 + delta))
                return False, f"at n = {n} only 1 + delta = {growth[n]:.4g}, {one}"
        return True, ""

    return Hypothesis(f"norm-growth condition with delta = {delta:g} at every n", check)


def _claim(
    some: tuple[Instance, ...], eta: np.ndarray, delta: float | None, **fields: Any
) -> Bound:
    def window(lab: Lab, one: Instance) -> slice:
        """n = 1, 2, … up to the first with cos θ >= 0, or until w_⊥ leaves the normal floats."""
        run = descent(lab, one, eta)
        over = np.abs(run.across) < 1e-290 * run.radius
        last = int(np.argmax(over)) if over.any() else over.size
        positive = run.cos >= 0
        if delta is None and positive.any():
            last = min(last, int(np.argmax(positive)) + 1)
        return slice(1, last)

    def stated(lab: Lab, one: Instance) -> np.ndarray:
        total = published.descent_sum(eta, one.law.c0, one.radius, growing=delta is not None)
        # the rate is a multiple of 1 + cos θ(0), which is formed without cancellation
        rate = published.descent_rate(1.0, delta) / (1 + np.exp(2 * one.log_tan))
        return rate * total[window(lab, one)]

    def gain(lab: Lab, one: Instance, run: Callable[..., Iterates]) -> np.ndarray:
        rise = run(lab, one, eta).rise
        with np.errstate(invalid="ignore"):  # θ(0) = 0, which a hypothesis excludes
            return (rise - rise[0])[window(lab, one)]

    def bound(lab: Lab, factor: float) -> np.ndarray:
        return np.concatenate([factor * stated(lab, one) for one in some])

    def measure(lab: Lab) -> Measurement:
        first, second = (
            np.concatenate([gain(lab, one, run) for one in some])
            for run in (descent_again, descent)
        )
        labels = [
            f"n={n}, {one}" for one in some for n in np.arange(eta.size + 1)[window(lab, one)]
        ]
        rises = [descent(lab, one, eta).rise for one in some]
        rounding = [
            8 * _EPS * (rise[0] + rise[window(lab, one)])
            for one, rise in zip(some, rises, strict=True)
        ]
        return Measurement.from_solves(first, second, extra=np.concatenate(rounding), labels=labels)

    def sharp(lab: Lab) -> float:
        best = [np.min(gain(lab, one, descent_again) / stated(lab, one)) for one in some]
        return float(min(best))

    return Bound(
        measure=measure,
        bound=bound,
        sharp=sharp,
        **fields,
    )


def descent_early(
    step_size: PyTree, some: Instances = STARTS, *, steps: int = STEPS, id: str, name: str = "given"
) -> Bound:
    """The bound until cos θ ≥ 0.

    Parameters
    ----------
    step_size : float, array (steps,), or function of the array 0 … steps-1
    some : Instance or sequence of Instance
        With v·w(0) < 0.
    steps : int
    name : str
        Of the schedule, for the title.
    """
    some, eta = several(some), _sizes(step_size, steps)
    return _claim(
        some, eta, None,
        **PAPER.words("descent-early-{name}", id, name=name),
        hypotheses=(*hypotheses(some), _wrong_way(some)),
        control=Control.perturbed(1.05),
    )  # fmt: skip


def descent_late(
    step_size: PyTree,
    some: Instances = STARTS,
    *,
    delta: float = 1.0,
    steps: int = STEPS,
    id: str,
    name: str = "given",
) -> Bound:
    """The bound at all n under the norm-growth condition with ``delta``, checked at every n."""
    some, eta, delta = several(some), _sizes(step_size, steps), check_positive("delta", delta)
    return _claim(
        some, eta, delta,
        **PAPER.words("descent-late-{name}", id, name=name, delta=delta),
        hypotheses=(*hypotheses(some), _condition(some, eta, delta)),
        control=Control.perturbed(1.05),
    )  # fmt: skip


def _default(phase: str, schedule: str) -> Bound:
    build = {"early": descent_early, "late": descent_late}[phase]
    id = f"{SOURCE}/descent-{phase}-{schedule}"
    return build(SCHEDULES[schedule], id=id, name=schedule)


DEFAULTS: dict[str, Callable[[], Claim]] = {
    f"descent-{phase}-{schedule}": partial(_default, phase, schedule)
    for phase in ("early", "late")
    for schedule in SCHEDULES
}
