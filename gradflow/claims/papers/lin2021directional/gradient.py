r"""The gradient of the linear predictor's risk, measured by quadrature of its definition.

:math:`-\nabla L(w)=E[-\ell'(y\,w\cdot x)\,y\,x]`. Only the projection
:math:`\rho(\cos\varphi,\sin\varphi)` of x on span(w, v) enters, φ counted from w; x and −x
contribute alike, so the half plane y = 1 suffices:

.. math::
    -u\cdot\nabla L=\frac1\pi\int_{\theta-\pi/2}^{\theta+\pi/2}
        E_\rho\bigl[-\ell'(R\rho\cos\varphi)\,\rho\bigr]\cos(\varphi-\beta)\,d\varphi,

β the angle of the direction u from w. Neither the closed form of the gradient nor c₀ is used.
Source: `lin2021directional`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

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
from gradflow.claims.instances import row
from gradflow.claims.papers.lin2021directional import PAPER
from gradflow.claims.papers.lin2021directional.setting import unit_teacher
from gradflow.validation import check_array, fail

_EPS = float(np.finfo(np.float64).eps)
#: -l'(z) of each loss.
SLOPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "logistic": lambda z: expit(-z),
    "exponential": lambda z: np.exp(-z),
}
LAWS = (
    gf.Gaussian(3),
    gf.UniformSphere(2),
    gf.UniformSphere(7),
    gf.UniformBall(4),
    gf.StudentT(3, 4.0),
)


@dataclass(frozen=True)
class Point:
    """One w against one teacher v on one law, both of shape (d,)."""

    law: gf.SphericalLaw
    weight: tuple[float, ...]
    teacher: tuple[float, ...]

    @property
    def polar(self) -> tuple[float, float]:
        """R = ‖w‖ and θ = angle(w, v)."""
        w, v = np.array(self.weight), np.array(self.teacher)
        across = np.linalg.norm(gf.perpendicular(w, v))
        return float(np.linalg.norm(w)), float(np.arctan2(across, w @ v))

    def __str__(self) -> str:
        radius, theta = self.polar
        return f"{self.law.name} d={self.law.dim}, R={radius:.3g}, theta={theta:.3g}"


def points(
    law: gf.SphericalLaw, weights: ArrayLike | None = None, teacher: ArrayLike | None = None
) -> tuple[Point, ...]:
    """Points on one law; by default six random ones, with norms 0.01/c₀ … 30/c₀.

    Parameters
    ----------
    law : SphericalLaw
    weights : array (n, d), optional
    teacher : array (d,), optional
    """
    rng = np.random.default_rng(law.dim)
    if weights is None:
        weights = rng.normal(size=(6, law.dim))
        weights *= (np.geomspace(0.01, 30, 6) / np.linalg.norm(weights, axis=1))[:, None] / law.c0
    weights = check_array("weights", weights, (None, law.dim))
    if np.any(np.all(weights == 0, axis=1)):
        raise fail("weights", weights, "holds a zero vector", "pass non-zero weights")
    found = []
    for w in weights:
        if teacher is None:
            v = rng.normal(size=law.dim)
            v /= np.linalg.norm(v)
        else:
            v = unit_teacher(law, teacher)
        found.append(Point(law, row(w), row(v)))
    return tuple(found)


def force(point: Point, toward: float, loss: str = "logistic") -> tuple[float, float]:
    r""":math:`-u\cdot\nabla L` at a point for u at the angle ``toward`` from w, and its error.

    The error is the difference between two orders of the quadrature, plus rounding.
    """
    (coarse, _), (fine, size) = (
        _integral(*_profile(point.law, *point.polar, loss, order), toward) for order in (10, 14)
    )
    return fine, abs(fine - coarse) + 8 * _EPS * size


def _integral(phi: np.ndarray, terms: np.ndarray, toward: float) -> tuple[float, float]:
    """The integral and the integral of the modulus."""
    terms = terms * np.cos(phi - toward)
    return float(np.sum(terms)), float(np.sum(np.abs(terms)))


@lru_cache(maxsize=1024)
def _profile(
    law: gf.SphericalLaw, radius: float, theta: float, loss: str, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes φ, and E[-l'(Rρ cos φ) ρ] dφ/π there."""
    rho, weight = law.planar_rule(1e4)
    phi, dphi = _half_plane(theta, order)
    slope = SLOPES[loss](np.outer(radius * np.cos(phi), rho)) @ (rho * weight)
    return phi, dphi / np.pi * slope


def _half_plane(theta: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [θ - π/2, θ + π/2], in panels that shrink toward the zeros of cos φ.

    There the slope of the loss varies on the scale 1/(R ρ) for every ρ of the law.
    """
    low, high = theta - np.pi / 2, theta + np.pi / 2
    steps = np.pi / 2 * 3.0 ** -np.arange(17)
    edges = [low, high]
    for zero in (-np.pi / 2, np.pi / 2, 3 * np.pi / 2):
        edges += [zero, *(zero + steps), *(zero - steps)]
    edges = np.unique(np.clip(edges, low, high))
    x, w = np.polynomial.legendre.leggauss(order)
    width = np.diff(edges)[:, None]
    nodes = edges[:-1, None] + width * (1 + x) / 2
    return nodes.ravel(), (width * w / 2).ravel()


def _measured(which: Sequence[Point], angle: Callable[[float], float], loss: str) -> Measurement:
    pairs = [force(p, angle(p.polar[1]), loss) for p in which]
    return Measurement(*np.array(pairs).T, labels=[str(p) for p in which])


def _generic(which: Sequence[Point]) -> Hypothesis:
    def check(lab: Lab) -> tuple[bool, str]:
        flat = [str(p) for p in which if not np.sin(p.polar[1]) > 0]
        return not flat, "; ".join(flat)

    return Hypothesis("w is not parallel to v", check)


def _bounded(which: Sequence[Point]) -> tuple[Point, ...]:
    """Points at which the exponential loss has a finite, harmless risk."""
    reach = [p.polar[0] * float(np.max(p.law.planar_rule(1e4).node)) for p in which]
    found = tuple(p for p, r in zip(which, reach, strict=True) if 0.1 < r < 10)
    return found or points(gf.UniformSphere(2))[2:4]


def normal_part(
    which: Sequence[Point], *, id: str = "lin2021directional/gradient-normal-part"
) -> Equality:
    """The normal part of the gradient is that of -(c₀/π) v, whatever ‖w‖, in any dimension."""
    which = tuple(which)

    def predicted(some: Sequence[Point]) -> np.ndarray:
        return np.array([p.law.c0 / np.pi * np.sin(p.polar[1]) for p in some])

    exponential = _bounded(which)
    return Equality(
        **PAPER.words("gradient-normal-part", id),
        hypotheses=(_generic(which),),
        predict=lambda lab: predicted(which),
        measure=lambda lab: _measured(which, lambda theta: np.pi / 2, "logistic"),
        tolerance=1e-11,
        control=Control.replacing(
            "exponential loss: l'(z) + l'(-z) is not constant",
            predict=lambda lab: predicted(exponential),
            measure=lambda lab: _measured(exponential, lambda theta: np.pi / 2, "exponential"),
        ),
    )


def teacher_part(
    which: Sequence[Point], *, id: str = "lin2021directional/gradient-teacher-part"
) -> Qualitative:
    """The gradient always points away from the teacher."""
    which = tuple(which)

    def outcomes(offset: float) -> Callable[[Lab], list[Outcome]]:
        def measure(lab: Lab) -> list[Outcome]:
            found = _measured(which, lambda theta: theta + offset, "logistic")
            return [
                Outcome(f"-v.grad L > 0 at {label}", float(value), float(error))
                for value, error, label in zip(found.value, found.error, found.labels, strict=True)
            ]

        return measure

    return Qualitative(
        **PAPER.words("gradient-teacher-part", id),
        measure=outcomes(0.0),
        control=Control.replacing(
            "v replaced by a direction perpendicular to the one that labels the data",
            measure=outcomes(-np.pi / 2),
        ),
    )


def _far(law: gf.SphericalLaw) -> tuple[Point, ...]:
    """Weights that are nearly aligned, nearly opposed, tiny and huge."""
    v = np.eye(law.dim)[-1]
    side = np.eye(law.dim)[0]
    angles = np.array([1e-6, 0.01, 1.5, 3.0, np.pi - 1e-6])
    radii = np.array([1e3, 100.0, 1e-6, 1.0, 30.0])
    weights = radii[:, None] * (np.cos(angles)[:, None] * v + np.sin(angles)[:, None] * side)
    return points(law, weights, v)


def _near() -> list[Point]:
    return [p for law in LAWS for p in points(law)]


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "gradient-normal-part": lambda: normal_part(_near()),
    "gradient-teacher-part": lambda: teacher_part(
        [*_near(), *(p for law in LAWS[:2] for p in _far(law))]
    ),
}
