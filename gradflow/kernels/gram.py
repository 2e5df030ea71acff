r"""Gram matrices of :math:`K(x,x')=E_w[\varphi(w\cdot x)\varphi(w\cdot x')]`, w ~ N(0, I).

For :math:`\varphi(z)=\max(z,\alpha z)=\tfrac{1+\alpha}2z+\tfrac{1-\alpha}2|z|` the mixed terms
vanish, since w and -w are equally likely: with the angle θ of x and x'

.. math::
    K=\left(\tfrac{1+\alpha}2\right)^2x\cdot x'
      +\left(\tfrac{1-\alpha}2\right)^2\|x\|\|x'\|\,\tfrac2\pi
       \left(\sin\theta+(\tfrac\pi2-\theta)\cos\theta\right),

a linear part and a part that is even in x. This form is why antipodal pairs make Gram matrices
singular, and it is evaluated so that the parity holds to the last bit. Source: `benson2020over`.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from gradflow.kernels.nodes import on_pieces
from gradflow.kernels.planar import planar_gram
from gradflow.networks.activations import AbstractActivation, Erf, Fourier, LeakyReLU, ShiftedReLU
from gradflow.validation import check_array, check_choice, check_integer, check_real, fail


class Angles(NamedTuple):
    """Norms (n,), (m,) and, of the half angles of all pairs, the sine p and cosine q (n, m)."""

    norm_x: np.ndarray
    norm_z: np.ndarray
    p: np.ndarray
    q: np.ndarray

    @property
    def cos(self) -> np.ndarray:
        """cos θ."""
        return (self.q - self.p) * (self.q + self.p)

    @property
    def sin(self) -> np.ndarray:
        """sin θ."""
        return 2 * self.p * self.q

    @property
    def theta(self) -> np.ndarray:
        """θ in [0, π]."""
        return 2 * np.arctan2(self.p, self.q)

    @property
    def complement(self) -> np.ndarray:
        """π/2 - θ, odd in x to the last bit."""
        return 2 * np.arctan2(self.q - self.p, self.q + self.p)


def angles(X: np.ndarray, Z: np.ndarray) -> Angles:
    """Angles without cancellation: of unit vectors p = ‖x - z‖/2 and q = ‖x + z‖/2."""
    norm_x, norm_z = np.linalg.norm(X, axis=1), np.linalg.norm(Z, axis=1)
    unit_x, unit_z = X / norm_x[:, None], Z / norm_z[:, None]
    p = np.linalg.norm(unit_x[:, None] - unit_z[None], axis=2) / 2
    q = np.linalg.norm(unit_x[:, None] + unit_z[None], axis=2) / 2
    size = np.hypot(p, q)
    return Angles(norm_x, norm_z, p / size, q / size)


def check_points(X: ArrayLike, Z: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the points X (n, d) and Z (m, d), by default X, none of them zero."""
    first = check_array("X", X, (None, None))
    second = first if Z is None else check_array("Z", Z, (None, first.shape[1]))
    for name, points in (("X", first), ("Z", second)):
        if points.size == 0:
            raise fail(name, points, "holds no points", "pass an array (n, d) with n, d >= 1")
        zero = ~np.any(points, axis=1)
        if np.any(zero):
            row = int(np.argmax(zero))
            raise fail(name, points, f"row {row} is zero, which has no angle", "drop the row")
    return first, second


def arc_cosine(X: ArrayLike, Z: ArrayLike | None = None, *, slope: float = 0.0) -> np.ndarray:
    """The kernel of (leaky) ReLU features, formula above.

    Parameters
    ----------
    X, Z : (n, d) and (m, d) arrays
        Points other than 0; Z defaults to X.
    slope : float
        α in [0, 1]; 0 is ReLU.

    Returns
    -------
    ndarray, shape (n, m)

    Raises
    ------
    ValueError
        Zero points, wrong shapes, a slope that is no number.
    """
    X, Z = check_points(X, Z)
    slope, angle = check_real("slope", slope), angles(X, Z)
    even = 2 / np.pi * (angle.sin + angle.complement * angle.cos)
    sizes = angle.norm_x[:, None] * angle.norm_z[None]
    return ((1 + slope) / 2) ** 2 * _products(X, Z) + ((1 - slope) / 2) ** 2 * sizes * even


def ntk(X: ArrayLike, Z: ArrayLike | None = None, *, slope: float = 0.0) -> np.ndarray:
    r"""The neural tangent kernel of a wide bias-free two-layer (leaky) ReLU net, both layers.

    :math:`\Theta=E[\varphi(u)\varphi(v)]+x\cdot x'\,E[\varphi'(u)\varphi'(v)]`, and
    :math:`E[\varphi'(u)\varphi'(v)]=(\tfrac{1+\alpha}2)^2+(\tfrac{1-\alpha}2)^2(1-2\theta/\pi)`:
    again a linear and an even part.

    Parameters and errors as in `arc_cosine`.
    """
    X, Z = check_points(X, Z)
    slope, angle = check_real("slope", slope), angles(X, Z)
    even = 2 / np.pi * (angle.sin + 2 * angle.complement * angle.cos)
    sizes = angle.norm_x[:, None] * angle.norm_z[None]
    linear = 2 * ((1 + slope) / 2) ** 2
    return linear * _products(X, Z) + ((1 - slope) / 2) ** 2 * sizes * even


def arcsine(X: ArrayLike, Z: ArrayLike | None = None) -> np.ndarray:
    r"""The kernel of erf(z/√2) = 2Φ(z) − 1 features,
    :math:`\frac2\pi\arcsin\frac{x\cdot x'}{\sqrt{(1+\|x\|^2)(1+\|x'\|^2)}}`."""
    X, Z = check_points(X, Z)
    square_x, square_z = np.sum(X * X, axis=1)[:, None], np.sum(Z * Z, axis=1)[None]
    a, b, c = square_x, square_z, _products(X, Z)
    # arcsin(c/√((1+a)(1+b))) by its tangent: (1+a)(1+b) - c² = 1 + a + b + (ab - c²)
    angle = angles(X, Z)
    rest = 1 + a + b + a * b * angle.sin**2
    return 2 / np.pi * np.arctan2(c, np.sqrt(rest))


def gaussian(X: ArrayLike, Z: ArrayLike | None = None) -> np.ndarray:
    r"""The kernel of cos z + sin z features, :math:`e^{-\|x-x'\|^2/2}`."""
    X, Z = check_points(X, Z)
    return np.exp(-0.5 * np.sum((X[:, None] - Z[None]) ** 2, axis=2))


def shifted_arc_cosine(X: ArrayLike, Z: ArrayLike | None = None, *, shift: float) -> np.ndarray:
    r"""The kernel of shifted ReLU features, φ(z) = max(z - b, 0), by a single integral.

    With :math:`\partial_c^2E\varphi(u)\varphi(v)=E\varphi''(u)\varphi''(v)`, the density of (u, v)
    at (b, b), in the covariance :math:`c=\alpha\beta\sin\tau`, α = ‖x‖, β = ‖x'‖,

    .. math::
        K=m_\alpha m_\beta+c\,\Phi(-b/\alpha)\Phi(-b/\beta)+\frac1{2\pi}\int_0^{\pi/2-\theta}
        (c-\alpha\beta\sin\tau)\,
        e^{-b^2\frac{\alpha^2+\beta^2-2\alpha\beta\sin\tau}{2\alpha^2\beta^2\cos^2\tau}}d\tau,

    :math:`m_\alpha=E\varphi(u)`. Parameters and errors as in `arc_cosine`.
    """
    X, Z = check_points(X, Z)
    shift, angle = check_real("shift", shift), angles(X, Z)
    a, c = angle.norm_x[:, None, None], angle.norm_z[None, :, None]
    (mean_x, share_x), (mean_z, share_z) = (_above(shift, n) for n in (angle.norm_x, angle.norm_z))
    edges = np.stack([np.zeros_like(angle.complement), angle.complement], axis=-1)
    tau, weight = on_pieces(edges, 192, graded=True)
    # a² + c² - 2ac sin τ and cos τ by the half of π/2 - τ, which may be small
    half = 0.5 * (0.5 * np.pi - tau)
    apart = (a - c) ** 2 + 4 * a * c * np.sin(half) ** 2
    wide = np.maximum(a * c * np.sin(2 * half), np.finfo(np.float64).tiny)
    decay = np.exp(-0.5 * (shift * np.sqrt(apart) / wide) ** 2)
    covariance = (angle.norm_x[:, None] * angle.norm_z[None]) * angle.cos
    curved = np.sum(weight * (covariance[..., None] - a * c * np.sin(tau)) * decay, axis=-1)
    flat = mean_x[:, None] * mean_z[None] + covariance * share_x[:, None] * share_z[None]
    return flat + curved / (2 * np.pi)


def _above(shift: float, norm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E max(u - b, 0) and P(u > b) of u ~ N(0, norm²)."""
    share = 0.5 * scipy.special.erfc(shift / (math.sqrt(2) * norm))
    density = np.exp(-0.5 * (shift / norm) ** 2) / math.sqrt(2 * np.pi)
    return norm * density - shift * share, share


def gram(
    activation: AbstractActivation,
    X: ArrayLike,
    Z: ArrayLike | None = None,
    *,
    method: str = "auto",
    nodes: int = 64,
) -> np.ndarray:
    """The kernel of the features φ(w·x), w ~ N(0, I), of any activation.

    Parameters
    ----------
    activation : AbstractActivation
        φ.
    X, Z : (n, d) and (m, d) arrays
        Points other than 0; Z defaults to X.
    method : {"auto", "closed", "quadrature"}
        "closed": (leaky, shifted) ReLU, erf and fourier only. "quadrature": in polar coordinates of
        the plane of x and x', piece by piece between the breaks of φ; it does not care how close
        to one another or to antipodal the points are.
    nodes : int
        Per piece and axis, for the quadrature. An error bar comes from a second number of nodes.

    Returns
    -------
    ndarray, shape (n, m)

    Raises
    ------
    ValueError
        Bad arguments; "closed" for an activation without a closed form.
    """
    if not isinstance(activation, AbstractActivation):
        raise fail("activation", activation, "is not an activation", "pass gf.relu or another")
    check_choice("method", method, ("auto", "closed", "quadrature"))
    nodes = check_integer("nodes", nodes, minimum=8)
    if method != "quadrature":
        closed = closed_gram(activation, X, Z)
        if closed is not None:
            return closed
        if method == "closed":
            raise fail("method", method, f"{activation.name} has none", "pass method='quadrature'")
    X, Z = check_points(X, Z)
    angle = angles(X, Z)
    return planar_gram(activation, angle.norm_x, angle.norm_z, angle.theta, nodes, Z is X)


@singledispatch
def closed_gram(
    activation: AbstractActivation, X: ArrayLike, Z: ArrayLike | None
) -> np.ndarray | None:
    """The kernel in closed form, None where none is registered for this kind of activation."""
    return None


@closed_gram.register
def _(activation: LeakyReLU, X: ArrayLike, Z: ArrayLike | None) -> np.ndarray | None:
    return arc_cosine(X, Z, slope=activation.slope)


@closed_gram.register
def _(activation: ShiftedReLU, X: ArrayLike, Z: ArrayLike | None) -> np.ndarray | None:
    return shifted_arc_cosine(X, Z, shift=activation.shift)


@closed_gram.register
def _(activation: Erf, X: ArrayLike, Z: ArrayLike | None) -> np.ndarray | None:
    first, second = check_points(X, Z)
    return arcsine(activation.stretch * first, activation.stretch * second)


@closed_gram.register
def _(activation: Fourier, X: ArrayLike, Z: ArrayLike | None) -> np.ndarray | None:
    return gaussian(X, Z)


def _products(X: np.ndarray, Z: np.ndarray) -> np.ndarray:
    # Term by term, not by BLAS: (-x)·z must be -(x·z) to the last bit.
    return np.sum(X[:, None] * Z[None], axis=2)
