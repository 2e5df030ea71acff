r"""Hinted data of `lyu2021margin`: what the force on a small neuron says of them.

Data of label +1: :math:`x_1=Hw^*`, :math:`x_{2,3}=\epsilon w^*\pm Kw_\perp`. A small neuron with
:math:`a>0` feels :math:`g(w)=\tfrac1{2n}\sum_i\varphi'(w\cdot x_i)x_i`, which is constant on each
cell of activations. Where all three are active, :math:`g\propto(H+2\epsilon)w^*`. Where :math:`x_3`
is not,

.. math:: g\propto(H+(1+\alpha)\epsilon)\,w^*+(1-\alpha)K\,w_\perp,\qquad
   g\cdot x_3\propto\epsilon(H+(1+\alpha)\epsilon)-(1-\alpha)K^2 .

If that is positive the neuron crosses into the cell where all are active and turns to w*; so it
does from every other cell, and w* attracts all directions. If it is negative g points into the
cell, all of which turns to g; the surface of :math:`x_3` repels from both sides, and the flow from
a point on it is not unique. A neuron with :math:`a<0` feels the opposite forces: it slides on that
surface as long as :math:`a<0`, where

.. math:: \dot w=a\lambda\tau,\quad\dot a=\lambda\,\tau\cdot w,\quad
   \tau=\frac{Kw^*+\epsilon w_\perp}{\sqrt{K^2+\epsilon^2}},\quad
   \lambda=\frac{K(H+2\epsilon)}{2n\sqrt{K^2+\epsilon^2}},

so from :math:`w(0)=r\tau` with :math:`r>|a(0)|` a vanishes at
:math:`\lambda t=\operatorname{artanh}(|a(0)|/r)`, and there the flow branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Hypothesis, Lab
from gradflow.claims.instances import every
from gradflow.claims.papers.lyu2021margin.setting import Instance, instance, path
from gradflow.validation import check_positive, check_real, fail

#: Directions of the neurons that probe early alignment, in parts of the circle: none on an axis.
DIRECTIONS = (np.arange(8) + 0.37) / 8
#: Size of their start, and the size to which they are followed: f is of its square.
TINY, FELT = 1e-12, 1e-3


@dataclass(frozen=True)
class Hint:
    """Hinted data in the frame (w*, w_⊥) and a slope; made by `hint` or `read_hint`.

    Attributes
    ----------
    H, K, eps : float
    slope : float
        α.
    """

    H: float
    K: float
    eps: float
    slope: float

    @property
    def pull(self) -> tuple[float, float]:
        """The force where x_3 is not active, times 2n: along w* and along w_⊥."""
        return self.H + (1 + self.slope) * self.eps, (1 - self.slope) * self.K

    @property
    def aligns(self) -> bool:
        """(1−α)K² < ε(H+(1+α)ε)."""
        return self.K * self.pull[1] < self.eps * self.pull[0]

    @property
    def critical(self) -> float:
        """The K at which both sides are equal; infinite at α = 1."""
        with np.errstate(divide="ignore"):
            return float(np.sqrt(np.divide(self.eps * self.pull[0], 1 - self.slope)))

    @property
    def split_angle(self) -> float:
        """Angle to w* of the other directions that attract, where there are any."""
        return float(np.arctan2(self.pull[1], self.pull[0]))

    @property
    def ridge(self) -> np.ndarray:
        """τ, the direction on the surface of x_3 with τ·w* > 0."""
        return np.array([self.K, self.eps]) / np.hypot(self.K, self.eps)

    @property
    def slide_rate(self) -> float:
        """λ of a neuron that slides along τ."""
        return self.K * (self.H + 2 * self.eps) / (6 * np.hypot(self.K, self.eps))

    @property
    def optimum(self) -> float:
        """The largest margin of nets of any width, where the hint is no support datum."""
        side = np.hypot((1 + self.slope) * self.eps, (1 - self.slope) * self.K)
        return float(max(side / 4, self.eps / 2))

    @property
    def gain(self) -> float:
        """The optimum over γ*/2."""
        return 2 * self.optimum / self.eps

    @property
    def hint_is_slack(self) -> bool:
        """Whether the best net's margin at x_1 exceeds its smallest one."""
        side = np.hypot((1 + self.slope) * self.eps, (1 - self.slope) * self.K)
        if side <= 2 * self.eps:
            return self.eps <= self.H
        return 2 * self.H * (1 + self.slope) * self.eps >= side**2

    def start(self, inner: ArrayLike, outer: ArrayLike, scale: float) -> Instance:
        """Neurons on these data."""
        data = gf.datasets.hinted(self.H, self.K, self.eps)
        return instance(data, slope=self.slope, scale=scale, inner=inner, outer=outer)

    def duration(self, scale: float) -> float:
        """How long the fastest neuron takes from ``scale`` to `FELT`."""
        fastest = max(self.H + 2 * self.eps, float(np.hypot(*self.pull))) / 6
        return float(np.log(FELT / scale)) / fastest

    def early(self, lab: Lab, rtol: float = 1e-7) -> gf.Trajectory:
        """Eight neurons with a_k = |w_k| in all directions, until f is about to be felt."""
        angle = 2 * np.pi * DIRECTIONS
        one = self.start(np.stack([np.cos(angle), np.sin(angle)], axis=1), np.ones(8), TINY)
        return path(lab, one, self.duration(TINY), rtol)

    def flow_angles(self, lab: Lab, rtol: float = 1e-7) -> np.ndarray:
        """Angles to w* that the eight neurons come to, by the flow, shape (8,)."""
        w = np.asarray(self.early(lab, rtol).final.inner)
        return np.abs(np.arctan2(w[:, 1], w[:, 0]))

    def exact_angles(self) -> np.ndarray:
        """The same as the flow of a tiny start goes on forever, without integrating.

        With a > 0, w moves along the cell's force on a straight line: from cell to cell it is a
        polygon, whose last edge has the limit's direction.
        """
        X = gf.datasets.hinted(self.H, self.K, self.eps).X
        ends = []
        for angle in 2 * np.pi * DIRECTIONS:
            w = np.array([np.cos(angle), np.sin(angle)])
            side = np.sign(X @ w)
            for _ in range(50):
                force = np.where(side > 0, 1.0, self.slope) @ X
                speed = X @ force
                ahead = side * speed < 0
                if not ahead.any():
                    break
                reach = np.where(ahead, -(X @ w) / np.where(ahead, speed, 1.0), np.inf)
                first = int(np.argmin(reach))
                w = w + reach[first] * force
                side[first] = -side[first]
            else:
                raise RuntimeError(f"no cell holds the neuron: {self}")
            ends.append(abs(np.arctan2(force[1], force[0])))
        return np.array(ends)

    def __str__(self) -> str:
        return f"H={self.H:g} K={self.K:g} ε={self.eps:g} α={self.slope:g}"


def hint(H: float = 5.0, K: float = 0.9, eps: float = 0.1, *, slope: float = 0.5) -> Hint:
    """A checked `Hint`.

    Raises
    ------
    ValueError
        Numbers that are not positive, H < ε, or a slope outside [0, 1].
    """
    gf.datasets.hinted(H, K, eps)
    slope = check_real("slope", slope)
    if not 0 <= slope <= 1:
        raise fail("slope", slope, "is not in [0, 1]", "pass 0 for ReLU, 1 for linear neurons")
    return Hint(check_positive("H", H), check_positive("K", K), check_positive("eps", eps), slope)


def read_hint(one: Instance) -> Hint | None:
    """The hint in an instance's data, in any frame; None if they are not hinted data."""
    X, y = one.X, one.y
    if X.shape != (3, 2) or np.any(y != 1) or not np.any(X[0]):
        return None
    H = float(np.linalg.norm(X[0]))
    star = X[0] / H
    across = np.array([-star[1], star[0]])
    eps, K = float(X[1] @ star), float(X[1] @ across)
    expected = eps * star - K * across
    if not np.allclose(X[2], expected, rtol=0, atol=1e-12 * H) or not (0 < eps <= H and K > 0):
        return None
    return Hint(H, K, eps, one.slope)


# -- hypotheses ---------------------------------------------------------------------------------


def leaky_hints(hints: Sequence[Hint]) -> Hypothesis:
    """0 < α < 1: a ReLU neuron that no datum activates never moves."""
    return every(
        "slope 0 < α < 1", hints, lambda one: "" if 0 < one.slope < 1 else f"α = {one.slope:g}"
    )


def align(hints: Sequence[Hint], holds: bool = True) -> Hypothesis:
    """(1−α)K² < ε(H+(1+α)ε), or the reverse."""
    name = f"(1-α) K² {'<' if holds else '>'} ε (H + (1+α) ε)"
    return every(name, hints, lambda one: "" if one.aligns == holds else "it is not so")
