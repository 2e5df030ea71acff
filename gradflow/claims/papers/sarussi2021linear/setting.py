r"""What the claims of `sarussi2021linear` share: students, hypotheses, patterns.

A student is the net

.. math::
    N_W(x)=v\sum_{j\le k}\varphi(w_j\cdot x)-v\sum_{j\le k}\varphi(u_j\cdot x),\qquad
    \varphi(z)=\max(z,\alpha z),\ 0<\alpha<1,

with fixed outer weights ±v in equal halves, on data that a linear teacher labels, with the logistic
loss; :math:`W=(w,u)` is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Hypothesis
from gradflow.claims.instances import every, row, rows
from gradflow.validation import check_array, check_integer, check_positive, check_real, fail

SOURCE = "sarussi2021linear"
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Student:
    """A net, its data and its start; made by `student`, hashable.

    Attributes
    ----------
    inputs : tuple of n tuples of d floats
    labels : tuple of n floats, ±1
    inner : tuple of m tuples of d floats
        The neurons at the start.
    outer : tuple of m floats
        The fixed outer weights.
    slope : float
        α.
    """

    inputs: tuple[tuple[float, ...], ...]
    labels: tuple[float, ...]
    inner: tuple[tuple[float, ...], ...]
    outer: tuple[float, ...]
    slope: float

    @cached_property
    def X(self) -> np.ndarray:
        """The data, shape (n, d)."""
        return np.array(self.inputs)

    @cached_property
    def y(self) -> np.ndarray:
        """The labels, shape (n,)."""
        return np.array(self.labels)

    @cached_property
    def a(self) -> np.ndarray:
        """The outer weights, shape (m,)."""
        return np.array(self.outer)

    @cached_property
    def W(self) -> np.ndarray:
        """The neurons at the start, shape (m, d)."""
        return np.array(self.inner)

    @property
    def v(self) -> float:
        """The size of the outer weights."""
        return abs(self.outer[0])

    @property
    def half(self) -> int:
        """k, the number of neurons of each sign."""
        return len(self.outer) // 2

    @cached_property
    def risk(self) -> gf.EmpiricalRisk:
        """The mean logistic risk."""
        dim, width = self.X.shape[1], len(self.outer)
        net = gf.TwoLayer(dim, width, gf.LeakyReLU(self.slope), outer="fixed")
        return gf.EmpiricalRisk(net, gf.logistic, self.X, self.y)

    @property
    def params(self) -> gf.TwoLayerParams:
        """The start as parameters of the net."""
        net: Any = self.risk.net
        return net.params(self.W, self.a)

    @cached_property
    def svm(self) -> gf.certificates.HardMargin:
        """The hard-margin SVM on the data, through the origin."""
        return gf.certificates.hard_margin_svm(self.X, self.y)

    def but(self, **changes: object) -> Student:
        """A copy with fields replaced."""
        return replace(self, **changes)

    def __str__(self) -> str:
        n, d = self.X.shape
        return f"n={n}, d={d}, {len(self.outer)} neurons, α={self.slope:g}"


Students = Student | Sequence[Student]


def student(
    X: ArrayLike,
    y: ArrayLike,
    inner: ArrayLike,
    *,
    slope: float = 0.3,
    outer: ArrayLike | None = None,
) -> Student:
    r"""A checked `Student`.

    Parameters
    ----------
    X : array (n, d)
    y : array (n,) of ±1
    inner : array (m, d)
        The start; no row may be zero.
    slope : float
        α in [0, 1]; claims hold for 0 < α < 1.
    outer : array (m,), optional
        Default: :math:`\pm1/\sqrt m`, the first half positive.
    """
    X = check_array("X", X, (None, None))
    y = gf.logistic.check_targets("y", check_array("y", y, (X.shape[0],)))
    W = check_array("inner", inner, (None, X.shape[1]))
    slope = check_real("slope", slope)
    if not 0 <= slope <= 1:
        raise fail("slope", slope, "is not in [0, 1]", "pass for example 0.3")
    m = W.shape[0]
    if X.size == 0 or m == 0:
        raise fail("inner" if X.size else "X", W if X.size else X, "is empty", "pass some rows")
    if outer is None:
        if m % 2:
            raise fail("inner", m, "neurons cannot be halved", "pass an even number, or outer=")
        outer = np.repeat([1.0, -1.0], m // 2) / np.sqrt(m)
    a = check_array("outer", outer, (m,))
    if not np.all(np.any(W != 0, axis=1)):
        raise fail("inner", W, "holds a zero row, a neuron without a direction", "drop it")
    return Student(rows(X), row(y), rows(W), row(a), slope)


def random_student(
    data: Any, half: int, scale: float, *, slope: float = 0.3, seed: int = 0
) -> Student:
    """A student with ``half`` neurons of each sign and inner weights N(0, scale²).

    Parameters
    ----------
    data : (X, y)
    half : int
        k.
    scale : float
    slope : float
    seed : int
    """
    X, y = _pair(data)
    half, scale = check_integer("half", half, minimum=1), check_positive("scale", scale)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    X = check_array("X", X, (None, None))
    return student(X, y, scale * rng.normal(size=(2 * half, X.shape[1])), slope=slope)


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise fail("data", data, "is not a pair (X, y)", "pass gf.datasets.two_balls(...)")
    return data[0], data[1]


# -- hypotheses ---------------------------------------------------------------------------------


def leaky(some: Sequence[Student]) -> Hypothesis:
    """0 < α < 1."""
    return every(
        "leaky, 0 < α < 1", some, lambda one: "" if 0 < one.slope < 1 else f"α = {one.slope:g}"
    )


def halves(some: Sequence[Student]) -> Hypothesis:
    """Outer weights ±v, equally many of each."""

    def why(one: Student) -> str:
        size = np.abs(one.a)
        if size[0] == 0 or np.any(np.abs(size - size[0]) > 4 * EPS * size[0]):
            return f"|a| from {size.min():g} to {size.max():g}"
        up = int(np.count_nonzero(one.a > 0))
        return f"{up} positive of {one.a.size}" if 2 * up != one.a.size else ""

    return every("outer weights ±v in equal halves", some, why)


def separable(some: Sequence[Student]) -> Hypothesis:
    """y_i w*·x_i >= 1 for some w*."""

    def why(one: Student) -> str:
        if one.svm.separable:
            return ""
        weight = float(np.max(one.svm.gordan)) if one.svm.gordan is not None else np.nan
        return (
            f"a convex combination of the y_i x_i vanishes, residual {one.svm.residual:.1e}, "
            f"largest weight {weight:.2g}"
        )

    return every("linearly separable through the origin", some, why)


def setting(some: Sequence[Student]) -> list[Hypothesis]:
    """What every claim on training assumes."""
    return [leaky(some), halves(some), separable(some)]
