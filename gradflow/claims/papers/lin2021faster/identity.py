r"""The identity behind the closed form of two neurons, in the setting of `lin2021faster`; derived.

From :math:`\ln(1+e^{-z})=\ln2\cosh(z/2)-z/2` and :math:`E[y|w\cdot x|]=0`, for
:math:`f=\varphi(w_1\cdot x)-\varphi(w_2\cdot x)`, :math:`\varphi(z)=\max(z,\alpha z)`, on
spherically symmetric data labelled by :math:`y=\mathrm{sgn}(v\cdot x)`:

.. math:: L=E\ln2\cosh(f/2)-\tfrac{(1+\alpha)c_0}{2\pi}\,v\cdot(w_1-w_2).

Both sides are integrated directly, without the reduction of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.papers.lin2021faster import PAPER
from gradflow.claims.papers.lin2021faster.pairs import SOURCE, Pair, pair, unit_outer


def _mean_in_plane(one: Pair, value: Callable[..., np.ndarray], order: int) -> float:
    """E value(f, y) in d=2: Gauss-Legendre in the angle between kinks, the law's rule in |x|."""
    (w1, w2), (a1, a2), v = one.w, one.outer, np.array(one.teacher)
    kinks = [np.arctan2(n[0], -n[1]) for n in (w1, w2, v)]
    edges = np.unique(np.mod([*kinks, *(k + np.pi for k in kinks), 0.0], 2 * np.pi))
    edges = np.append(edges, 2 * np.pi)
    x, weight = np.polynomial.legendre.leggauss(order)
    # substitution u = (3x - x³)/2 thins the nodes out towards the kinks
    x, weight = (3 * x - x**3) / 2, weight * 1.5 * (1 - x**2)
    middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    angle = (middle[:, None] + half[:, None] * x).ravel()
    angle_weight = (half[:, None] * weight).ravel() / (2 * np.pi)
    radius, radius_weight = (np.asarray(part) for part in one.law.planar_rule())
    kept = radius_weight > 0
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    phi = [np.maximum(unit @ w, one.slope * (unit @ w)) for w in (w1, w2)]
    f = (a1 * phi[0] + a2 * phi[1])[:, None] * radius[kept]
    found = value(f, np.sign(unit @ v)[:, None])
    return float(angle_weight @ found @ radius_weight[kept])


def teacher_enters_linearly(ones: Sequence[Pair], name: str = "risk-identity") -> Equality:
    """The definition of the risk, integrated directly, against the identity's right-hand side."""

    def definition(f: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.logaddexp(0.0, -y * f)

    def even_part(f: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.logaddexp(0.5 * f, -0.5 * f)

    def measure(lab: Lab, value: Callable[..., np.ndarray] = definition) -> Measurement:
        fine, coarse = (np.array([_mean_in_plane(o, value, n) for o in ones]) for n in (80, 60))
        return Measurement.from_solves(coarse, fine, extra=1e-15, labels=[*map(str, ones)])

    def predict(lab: Lab) -> np.ndarray:
        found = []
        for one in ones:
            pull = (1 + one.slope) * one.law.c0 / (2 * np.pi)
            aligned = np.array(one.teacher) @ (one.w[0] - one.w[1])
            found.append(_mean_in_plane(one, even_part, 80) - pull * aligned)
        return np.array(found)

    def planar(lab: Lab) -> tuple[bool, str]:
        return all(one.law.dim == 2 for one in ones), "the direct integral is written for d = 2"

    return Equality(
        **PAPER.words("risk-identity", f"{SOURCE}/{name}"),
        hypotheses=[Hypothesis("d = 2", planar), *(unit_outer(one) for one in ones)],
        predict=predict,
        measure=measure,
        tolerance=1e-10,
        control=Control.replacing(
            "the hinge loss, whose odd part is not linear",
            measure=lambda lab: measure(lab, lambda f, y: np.maximum(0.0, 1 - y * f)),
            tolerance=1e-3,
        ),
    )


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "risk-identity": lambda: teacher_enters_linearly(
        [
            pair(gf.Gaussian(2), [[0.7, 1.1], [-0.4, 0.9]], slope=0.3),
            pair(gf.UniformSphere(2), [[2.0, -0.5], [0.3, 1.6]], [0.6, 0.8]),
        ]
    )
}
