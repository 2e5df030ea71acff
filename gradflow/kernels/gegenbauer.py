r"""Gegenbauer coefficients of activations and the spectra of their kernels on the sphere.

:math:`P_k` is the Gegenbauer polynomial of dimension d with :math:`P_k(1)=1`,
:math:`d\mu(t)=c_d(1-t^2)^{(d-3)/2}dt`, :math:`c_d=\Gamma(d/2)/(\sqrt\pi\,\Gamma((d-1)/2))` the law
of one coordinate on :math:`S^{d-1}`, and N(d,k) the number of harmonics of degree k. With

.. math:: a_k(r)=\int\varphi(rt)P_k(t)\,d\mu(t),\qquad
          \varphi(r\,\omega\cdot x)=\sum_kN(d,k)\,a_k(r)\,P_k(\omega\cdot x)

(Funk-Hecke), the kernel of features with :math:`w=r\omega`, ω uniform on the sphere, has the
eigenvalues :math:`\lambda_k=E_r\,a_k(r)^2` with multiplicity N(d,k):
:math:`K(x\cdot x')=\sum_kN(d,k)\,\lambda_kP_k(x\cdot x')`. For w ~ N(0, I) r is chi-distributed.

Closed form for a kink, derived with Rodrigues' formula: for s in [-1, 1] and k ≥ 2

.. math:: \int(t-s)_+P_k\,d\mu=\frac{c_d}{d^2-1}(1-s^2)^{(d+1)/2}P^{(d+4)}_{k-2}(s),

of which s = 0 is ReLU: odd k ≥ 3 vanish. Source: `benson2020over`.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from gradflow.kernels.nodes import on_pieces, values
from gradflow.networks.activations import AbstractActivation, LeakyReLU, ShiftedReLU
from gradflow.validation import check_choice, check_integer, check_positive, fail

_EPS = float(np.finfo(np.float64).eps)


class Coefficients(NamedTuple):
    """Gegenbauer coefficients a_0 … a_K and their absolute numerical errors, each (K+1,)."""

    value: np.ndarray
    error: np.ndarray


class Spectrum(NamedTuple):
    """Eigenvalues of a kernel on the sphere by degree k = 0 … K, each (K+1,).

    Attributes
    ----------
    degree : ndarray of int
    eigenvalue : ndarray
        λ_k of the integral operator with the uniform law on the sphere.
    error : ndarray
        Absolute numerical error of λ_k.
    multiplicity : ndarray
        N(d,k), as floats (they outgrow integers).
    """

    degree: np.ndarray
    eigenvalue: np.ndarray
    error: np.ndarray
    multiplicity: np.ndarray


def multiplicity(dim: int, degree: int) -> int:
    """N(d,k): the number of independent spherical harmonics of degree k on S^{d-1}."""
    dim = check_integer("dim", dim, minimum=2)
    degree = check_integer("degree", degree, minimum=0)
    every = math.comb(degree + dim - 1, dim - 1)
    return every - (math.comb(degree + dim - 3, dim - 1) if degree >= 2 else 0)


def gegenbauer_polynomials(t: ArrayLike, dim: int, degree: int) -> np.ndarray:
    """P_0(t) … P_K(t) with P_k(1) = 1, shape (K+1, *t.shape).

    (k+d-2) P_{k+1} = (2k+d-2) t P_k - k P_{k-1}; d = 2 are Chebyshev's, d = 3 Legendre's.
    """
    dim = check_integer("dim", dim, minimum=2)
    degree = check_integer("degree", degree, minimum=0)
    t = np.asarray(t, dtype=np.float64)
    out = np.ones((degree + 1, *t.shape))
    if degree >= 1:
        out[1] = t
    for k in range(1, degree):
        out[k + 1] = ((2 * k + dim - 2) * t * out[k] - k * out[k - 1]) / (k + dim - 2)
    return out


def gegenbauer_coefficients(
    activation: AbstractActivation,
    dim: int,
    degree: int,
    *,
    radius: float = 1.0,
    method: str = "auto",
) -> Coefficients:
    """a_k(r), k = 0 … degree, formula above.

    Parameters
    ----------
    activation : AbstractActivation
        φ; the integral is split at ``activation.breaks``.
    dim : int
        d ≥ 2.
    degree : int
        The last degree K ≥ 0.
    radius : float
        r > 0.
    method : {"auto", "closed", "quadrature"}
        "closed": (leaky and shifted) ReLU only. "quadrature": Gauss-Legendre in the angle; the
        error is the distance to a rule with fewer nodes, plus rounding.

    Returns
    -------
    Coefficients

    Raises
    ------
    ValueError
        Bad arguments; "closed" for another activation.
    """
    if not isinstance(activation, AbstractActivation):
        raise fail("activation", activation, "is not an activation", "pass gf.relu or another")
    dim = check_integer("dim", dim, minimum=2)
    degree = check_integer("degree", degree, minimum=0)
    radius = check_positive("radius", radius)
    check_choice("method", method, ("auto", "closed", "quadrature"))
    value = None if method == "quadrature" else closed_coefficients(activation, dim, degree, radius)
    if method == "closed" and value is None:
        raise fail("method", method, f"{activation.name} has none", "pass method='quadrature'")
    if value is not None:
        return Coefficients(value, 16 * _EPS * (np.abs(value) + _EPS * radius))
    value, error = _by_quadrature(activation, dim, degree, np.array([radius]))
    return Coefficients(value[0], error[0])


def spectrum(
    activation: AbstractActivation,
    dim: int,
    degree: int,
    *,
    weights: str = "gaussian",
    radius: float = 1.0,
) -> Spectrum:
    """Eigenvalues λ_k of the kernel of φ(w·x) on the unit sphere, k = 0 … degree.

    Parameters
    ----------
    activation : AbstractActivation
    dim : int
        d ≥ 2.
    degree : int
    weights : {"gaussian", "sphere"}
        w ~ N(0, I), or uniform on the sphere of ``radius``.
    radius : float
        |w| for "sphere".
    """
    dim = check_integer("dim", dim, minimum=2)
    degree = check_integer("degree", degree, minimum=0)
    degrees = np.arange(degree + 1)
    counts = np.array([float(multiplicity(dim, int(k))) for k in degrees])
    if check_choice("weights", weights, ("gaussian", "sphere")) == "sphere":
        a, error = gegenbauer_coefficients(activation, dim, degree, radius=radius)
        return Spectrum(degrees, a**2, error * (2 * np.abs(a) + error), counts)
    if not isinstance(activation, AbstractActivation):
        raise fail("activation", activation, "is not an activation", "pass gf.relu or another")
    coarse, _ = _gaussian_eigenvalues(activation, dim, degree, 48)
    fine, error = _gaussian_eigenvalues(activation, dim, degree, 64)
    return Spectrum(degrees, fine, error + np.abs(fine - coarse), counts)


@singledispatch
def closed_coefficients(
    activation: AbstractActivation, dim: int, degree: int, radius: float
) -> np.ndarray | None:
    """a_0(r) … a_K(r) in closed form, None where none is registered for the activation's kind."""
    return None


@closed_coefficients.register
def _(activation: LeakyReLU, dim: int, degree: int, radius: float) -> np.ndarray | None:
    out = (1 - activation.slope) * radius * _kink(0.0, dim, degree)
    if degree >= 1:
        out[1] += activation.slope * radius / dim
    return out


@closed_coefficients.register
def _(activation: ShiftedReLU, dim: int, degree: int, radius: float) -> np.ndarray | None:
    return radius * _kink(activation.shift / radius, dim, degree)


def _constant(dim: int) -> float:
    """c_d."""
    return math.exp(math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2)) / math.sqrt(math.pi)


def _tail(s: float, dim: int) -> float:
    """μ((s, 1])."""
    half = 0.5 * float(scipy.special.betainc((dim - 1) / 2, 0.5, (1 - s) * (1 + s)))
    return half if s >= 0 else 1 - half


def _kink(s: float, dim: int, degree: int) -> np.ndarray:
    """∫ (t-s)_+ P_k dμ, k = 0 … degree."""
    out = np.zeros(degree + 1)
    if s >= 1:
        return out
    if s <= -1:
        out[:2] = np.array([-s, 1 / dim])[: degree + 1]
        return out
    across = (1 - s) * (1 + s)
    lowest = _constant(dim) * across ** ((dim - 1) / 2) / (dim - 1) - s * _tail(s, dim)
    out[:2] = np.array([lowest, _tail(s, dim + 2) / dim])[: degree + 1]
    if degree >= 2:
        front = _constant(dim) * across ** ((dim + 1) / 2) / (dim**2 - 1)
        out[2:] = front * gegenbauer_polynomials(s, dim + 4, degree - 2)
    return out


def _by_quadrature(
    activation: AbstractActivation, dim: int, degree: int, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """a_k(r) and errors, each (radii, degree + 1)."""
    many = max(96, degree + 48)
    fine, size = _on_angles(activation, dim, degree, radii, many)
    coarse, _ = _on_angles(activation, dim, degree, radii, (3 * many) // 4)
    return fine, np.abs(fine - coarse) + 8 * _EPS * size[:, None]


def _on_angles(
    activation: AbstractActivation, dim: int, degree: int, radii: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """a_k(r) by the rule of ``nodes`` per piece, and ∫|φ(rt)| dμ for the rounding."""
    edges = [np.zeros_like(radii), np.full_like(radii, np.pi)]
    # (a kink in the middle of the sphere's angle also serves to halve a smooth integral)
    edges += [np.arccos(np.clip(b / radii, -1, 1)) for b in activation.breaks or (0.0,)]
    angle, weight = on_pieces(np.sort(np.stack(edges, axis=1), axis=1), nodes)
    t = np.cos(angle)
    weighted = _constant(dim) * weight * np.sin(angle) ** (dim - 2)
    weighted = weighted * values(activation, radii[:, None] * t)
    harmonics = gegenbauer_polynomials(t, dim, degree)
    return np.einsum("ra,kra->rk", weighted, harmonics), np.sum(np.abs(weighted), axis=1)


def _gaussian_eigenvalues(
    activation: AbstractActivation, dim: int, degree: int, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """E_r a_k(r)², r chi-distributed with d degrees of freedom, and its error at these nodes."""
    far = math.sqrt(dim) + 13.0
    inner = sorted({abs(b) for b in activation.breaks if 0 < abs(b) < far} | {math.sqrt(dim)})
    radii, weight = on_pieces(np.array([0.0, *inner, far]), nodes)
    log_density = (dim - 1) * np.log(radii) - 0.5 * radii**2
    log_density -= math.lgamma(dim / 2) + (dim / 2 - 1) * math.log(2)
    weight = weight * np.exp(log_density)
    closed = [closed_coefficients(activation, dim, degree, float(r)) for r in radii]
    if any(row is None for row in closed):
        a, error = _by_quadrature(activation, dim, degree, radii)
    else:
        a = np.stack([row for row in closed if row is not None])
        error = 16 * _EPS * np.abs(a)
    return weight @ a**2, weight @ (error * (2 * np.abs(a) + error)) + 8 * _EPS * (weight @ a**2)
