r"""What the claims of `lin2021directional` and `lin2021faster` share: instances, hypotheses, paths.

An instance is a law, a start, a teacher, a depth and a loss. A path is the exact reduced flow
:math:`(\ln R,\ \ln\tan(\theta/2))` at chosen times, with :math:`R=\|w_e\|` and θ the angle of the
end-to-end vector :math:`w_e` to the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Hypothesis, Lab
from gradflow.validation import check_array, check_choice, check_integer, fail

LOSSES = {"logistic": gf.logistic, "exponential": gf.exponential, "hinge": gf.hinge}
#: Tolerances of the run that is measured and of the run that gives its numerical error.
FINE, COARSE = 1e-12, 1e-10
_EPS = float(np.finfo(np.float64).eps)
_SAMPLES = 128


@dataclass(frozen=True)
class Instance:
    """A linear net on spherically symmetric data; made by `instance`, hashable.

    Attributes
    ----------
    law : SphericalLaw
    start : nested tuple of float
        :math:`w_e(0)`, shape (d,); or, for depth > 1, the layers W_1 … W_N.
    teacher : tuple of float
        The unit vector v, shape (d,).
    depth : int
    loss : str
        logistic, exponential or hinge.
    layered : bool
        Whether ``start`` holds layers.
    """

    law: gf.SphericalLaw
    start: tuple
    teacher: tuple[float, ...]
    depth: int = 1
    loss: str = "logistic"
    layered: bool = False

    @property
    def risk(self) -> gf.PopulationRisk:
        """The population risk."""
        dim = self.law.dim
        net: Any = gf.LinearPredictor(dim) if self.depth == 1 else gf.DeepLinear(dim, self.depth)
        if self.layered:
            widths = {len(layer) for layer in self.start[:-1]}
            net = gf.DeepLinear(dim, self.depth, max(widths))
        return gf.PopulationRisk(net, LOSSES[self.loss], self.law, gf.LinearTeacher(self.v))

    @property
    def params(self) -> PyTree:
        """The start as parameters of the net; balanced if only its product is given."""
        net = self.risk.net
        if self.layered:
            return net.as_params({"layers": tuple(np.array(layer) for layer in self.start)})
        weight = np.array(self.start)
        if isinstance(net, gf.DeepLinear):
            return net.balanced(weight)
        return net.as_params({"weight": weight})

    @property
    def v(self) -> np.ndarray:
        """The teacher, shape (d,)."""
        return np.array(self.teacher)

    @property
    def w(self) -> np.ndarray:
        """The end-to-end vector at time 0, shape (d,)."""
        if not self.layered:
            return np.array(self.start)
        product = np.array(self.start[0])
        for layer in self.start[1:]:
            product = np.array(layer) @ product
        return product[0]

    @property
    def radius(self) -> float:
        r""":math:`\|w_e(0)\|`."""
        return float(np.linalg.norm(self.w))

    @property
    def log_tan(self) -> float:
        r""":math:`\ln\tan(\theta(0)/2)`."""
        w, v = self.w, self.v
        return float(gf.log_tan_half(w @ v, np.linalg.norm(gf.perpendicular(w, v))))

    @property
    def cos(self) -> float:
        r""":math:`\cos\theta(0)`."""
        return float(-np.tanh(self.log_tan))

    def but(self, **changes: object) -> Instance:
        """A copy with fields replaced."""
        return replace(self, **changes)

    def __str__(self) -> str:
        depth = "" if self.depth == 1 else f", N={self.depth}"
        loss = "" if self.loss == "logistic" else f", {self.loss} loss"
        return f"{self.law.name} d={self.law.dim}{depth}{loss}"


def instance(
    law: gf.SphericalLaw,
    start: PyTree,
    teacher: ArrayLike | None = None,
    *,
    depth: int = 1,
    loss: str = "logistic",
) -> Instance:
    """A checked `Instance`.

    Parameters
    ----------
    law : SphericalLaw
    start : array (d,), or a sequence of N matrices
        The end-to-end vector (made a balanced net if depth > 1), or the layers.
    teacher : array (d,), optional
        Default: the last axis.
    depth : int
    loss : str
    """
    depth = check_integer("depth", depth, minimum=1)
    check_choice("loss", loss, LOSSES)
    dim = law.dim
    v = unit_teacher(law, teacher)
    layered = isinstance(start, (tuple, list)) and len(start) > 0 and np.ndim(start[0]) == 2
    if layered:
        if len(start) != depth or depth == 1:
            raise fail("start", len(start), "layers, but another depth", f"pass depth={len(start)}")
        shown = tuple(_nested(check_array("start", layer, (None, None))) for layer in start)
    else:
        shown = _nested(check_array("start", start, (dim,)))
        if not np.any(shown):
            raise fail("start", shown, "is zero", "pass a non-zero vector")
    return Instance(law, shown, _nested(v), depth, loss, layered)


def unit_teacher(law: gf.SphericalLaw, teacher: ArrayLike | None) -> np.ndarray:
    """A teacher as a unit vector (d,); by default the last axis."""
    if teacher is None:
        return np.eye(law.dim)[-1]
    return np.asarray(gf.LinearTeacher(np.asarray(teacher)).direction)


def _nested(array: np.ndarray) -> tuple:
    return tuple(_nested(row) if row.ndim else float(row) for row in array)


def not_opposed(one: Instance) -> Hypothesis:
    """θ(0) ≠ π: opposite to the teacher the direction stays where it is."""

    def check(lab: Lab) -> tuple[bool, str]:
        w, v = one.w, one.v
        return bool(
            gf.perpendicular(w, v).any() or w @ v > 0
        ), f"w(0) = {np.array2string(w)} = -c v"

    return Hypothesis("theta(0) != pi", check)


def not_aligned(one: Instance) -> Hypothesis:
    """θ(0) ≠ 0: on the teacher's ray there is no angle to follow."""

    def check(lab: Lab) -> tuple[bool, str]:
        w, v = one.w, one.v
        return bool(gf.perpendicular(w, v).any() or w @ v < 0), f"w(0) = {np.array2string(w)} = c v"

    return Hypothesis("theta(0) != 0", check)


def logistic_loss(one: Instance) -> Hypothesis:
    """The loss is the logistic one."""
    return Hypothesis("logistic loss", lambda lab: (one.loss == "logistic", one.loss))


def balanced(one: Instance) -> Hypothesis:
    """The layers are balanced."""

    def check(lab: Lab) -> tuple[bool, str]:
        layers = [np.array(layer) for layer in one.start] if one.layered else []
        top = max((float(np.linalg.norm(layer)) for layer in layers), default=1.0)
        defect = max(
            (
                float(np.linalg.norm(after.T @ after - before @ before.T)) / top**2
                for before, after in pairwise(layers)
            ),
            default=0.0,
        )
        return defect <= 1e-12, f"the layers are not balanced (relative defect {defect:.3g})"

    return Hypothesis("balanced layers", check)


@dataclass(frozen=True)
class Path:
    """A reduced flow at times t, time first: ``log_tan`` is ln tan(θ/2)."""

    t: np.ndarray
    log_t: np.ndarray
    log_radius: np.ndarray
    log_tan: np.ndarray
    trajectory: gf.Trajectory

    @property
    def radius(self) -> np.ndarray:
        """‖w_e‖."""
        return np.exp(self.log_radius)

    @property
    def cos(self) -> np.ndarray:
        """cos θ."""
        return -np.tanh(self.log_tan)

    @property
    def log_loss(self) -> np.ndarray:
        """ln L."""
        return self.trajectory.observe("log_loss")


def horizon(one: Instance) -> float:
    """When to read off asymptotics: 1e12, or 1e12 times as long as the start is remembered.

    The start is forgotten once ((N+2) κ t)^{N/(N+2)} exceeds both ‖w_e(0)‖ and the unit 1/c₀.
    """
    n, law = one.depth, one.law
    memory = max(one.radius, 1 / law.c0) ** ((n + 2) / n) / ((n + 2) * law.kappa)
    return 1e12 * 10.0 ** np.floor(np.log10(max(memory, 1.0)))


def linear_path(
    lab: Lab,
    one: Instance,
    *,
    times: Sequence[float] | np.ndarray | None = None,
    t_end: float | None = None,
    rtol: float = FINE,
    integrator: str = "auto",
) -> Path:
    """The flow of an instance, integrated once for all claims that ask for it.

    Parameters
    ----------
    times : array, optional
        Physical times to record; default: 128 of them, log-spaced over 12 decades up to ``t_end``.
    t_end : float, optional
        Default: `horizon`.
    """
    if times is None:
        t_end = horizon(one) if t_end is None else t_end
        times = np.geomspace(t_end / 1e12, t_end, 128)
    times = np.asarray(times, np.float64)
    key = ("linear path", one, times.tobytes(), rtol, integrator)

    def build() -> Path:
        done = gf.integrate(
            one.risk,
            one.params,
            until=gf.until.time(float(times[-1])),
            rtol=rtol,
            save_at=times,
            integrator=integrator,
            throw=True,
        )
        if done.chart != "log-angle":
            raise RuntimeError(f"no log-angle chart for {one}: {done.chart}")
        exact = done.exact
        return Path(
            done.t, done.log_t, exact["log_radius"], exact["log_tan_half_angle"][:, 0], done
        )

    return lab.get(key, build)


class Turn(NamedTuple):
    """The time T from which the norm grows, and the state there."""

    t: float
    log_radius: float
    log_tan: float


def radial_pull(one: Instance, log_radius: np.ndarray, log_tan: np.ndarray) -> np.ndarray:
    r""":math:`h(R)-\tfrac{c_0}\pi(1-\cos\theta)`, h by quadrature over the law: the norm grows
    where it is positive."""
    node, weight = one.law.marginal_rule()
    pull = np.exp(-np.logaddexp(0, np.outer(np.exp(log_radius), node))) @ (weight * node)
    return pull - one.law.c0 / np.pi * (1 + np.tanh(log_tan))


def turning_point(lab: Lab, one: Instance) -> Turn:
    r"""T, the first upward crossing of :math:`-w\cdot\nabla L=0`; 0 if the norm grows at once."""

    def build() -> Turn:
        start = Turn(0.0, float(np.log(one.radius)), one.log_tan)
        low, slow = 0.0, radial_pull(one, np.array([start.log_radius]), np.array([one.log_tan]))[0]
        if slow >= 0:
            return start
        # For N = 1 the angle falls, up to T, at least as fast as at the start.
        unit = np.pi * one.radius ** (2 / one.depth - 1) / one.law.c0
        last = unit * (10 + abs(one.log_tan) + 2 * abs(start.log_radius))
        times = np.geomspace(1e-6, 1e3 if one.depth > 1 else 1.0, _SAMPLES) * last
        high, fast = low, slow
        for _ in range(4):
            path = linear_path(lab, one, times=times)
            pull = radial_pull(one, path.log_radius, path.log_tan)
            if not np.any(pull >= 0):
                raise RuntimeError(f"the norm still shrinks at t = {times[-1]:g} for {one}")
            first = int(np.argmax(pull >= 0))
            if first:
                low, slow = times[first - 1], pull[first - 1]
            high, fast = times[first], pull[first]
            times = low + (high - low) * np.arange(1, _SAMPLES + 1) / _SAMPLES
        # Over what is left, some 1e-8 of the first bracket, the pull is linear.
        time = float(low + (high - low) * slow / (slow - fast))
        there = linear_path(lab, one, times=[time])
        return Turn(time, float(there.log_radius[0]), float(there.log_tan[0]))

    return lab.get(("turning point", one), build)


def path_and_noise(
    lab: Lab, one: Instance, quantity: str, **options: Any
) -> tuple[Path, np.ndarray, Any]:
    """The fine path, a quantity of it (``log_radius``, ``log_tan``, ...) and its absolute error.

    The error is the distance to the run at the looser tolerance, plus a few units of rounding.
    """
    fine = linear_path(lab, one, rtol=FINE, **options)
    coarse = linear_path(lab, one, rtol=COARSE, **options)
    value = getattr(fine, quantity)
    noise = np.abs(value - getattr(coarse, quantity)) + 4 * _EPS * np.abs(value)
    return fine, value, noise


def derived_rate(one: Instance, name: str) -> Any:
    """The derived rate (``norm``, ``log_angle`` or ``loss``) with the law's constants put in."""
    if one.depth == 1:
        derivation = gf.derive("linear", loss=one.loss)
    else:
        derivation = gf.derive("deep-linear", depth=one.depth)
    return derivation.rates[name].evaluate(one.law)


def measured_power(
    lab: Lab, one: Instance, name: str, t_end: float | None = None
) -> tuple[gf.Estimate, gf.Estimate]:
    r"""Exponent and constant of ``norm``, ``log_angle`` (-ln tan(θ/2)) or ``loss`` as t → ∞.

    Read off the path up to ``t_end`` (default: `horizon`); only the powers of the corrections
    (and, for the constant, the exponent) are taken from the derivation.
    """

    def build() -> tuple[gf.Estimate, gf.Estimate]:
        quantity = {"norm": "log_radius", "log_angle": "log_tan", "loss": "log_loss"}[name]
        path, value, noise = path_and_noise(lab, one, quantity, t_end=t_end)
        log_t = path.log_t
        if name == "log_angle":
            late = value < -1
            log_t, value, noise = log_t[late], -value[late], noise[late]
            value, noise = np.log(value), noise / value
        derived = derived_rate(one, name)
        corrections = [(-power, log_power) for power, log_power in derived.corrections]
        free = gf.rates.extrapolate(log_t, value, corrections, noise=noise)
        known = gf.rates.constant_with_known_exponent(
            log_t, value, derived.exponent, corrections, noise=noise
        )
        return free.exponent, known.constant

    return lab.get(("measured power", one, name, t_end), build)
