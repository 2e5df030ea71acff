r"""Spectra of the kernels on the sphere: closed forms against quadratures.

For a kink at s (|w| = 1) the Gegenbauer coefficients have the closed form of
`gradflow.kernels.gegenbauer`; for cos + sin with Gaussian weights the eigenvalues are
modified Bessel functions. On the regular n-gon the Gram matrix is circulant and its eigenvalues are
the aliased sums :math:`n\sum_{k\equiv j\,(n)}\lambda_{|k|}` over all integers k.
Source: `benson2020over`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.special

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Lab, Measurement
from gradflow.claims.instances import Several, every, several
from gradflow.claims.papers.benson2020over import PAPER
from gradflow.claims.papers.benson2020over.setting import EPS, SOURCE, check_activation
from gradflow.validation import check_integer, fail


@dataclass(frozen=True)
class Sphere:
    """An activation whose kernel has its spectrum in closed form, and d; made by `sphere`."""

    activation: gf.AbstractActivation
    dim: int

    def closed(self, degree: int, dim: int | None = None) -> np.ndarray:
        """λ_0 … λ_K: squares of the closed coefficients (|w| = 1), or Bessel functions."""
        d = self.dim if dim is None else dim
        if self.activation.name == gf.fourier.name:
            k = np.arange(degree + 1)
            front = math.exp(-1) * math.gamma(d / 2) * 2 ** (d / 2 - 1)
            return front * scipy.special.iv(k + d / 2 - 1, 1.0)
        return (
            gf.kernels.gegenbauer_coefficients(self.activation, d, degree, method="closed").value
            ** 2
        )

    def quadrature(self, degree: int) -> tuple[np.ndarray, np.ndarray]:
        """The same by quadrature, with errors."""
        if self.activation.name == gf.fourier.name:
            found = gf.kernels.spectrum(self.activation, self.dim, degree)
            return found.eigenvalue, found.error
        a, error = gf.kernels.gegenbauer_coefficients(
            self.activation, self.dim, degree, method="quadrature"
        )
        return a**2, error * (2 * np.abs(a) + error)

    def __str__(self) -> str:
        return f"{self.activation.name}, d={self.dim}"


def sphere(activation: gf.AbstractActivation, dim: int) -> Sphere:
    """A checked `Sphere`: (leaky, shifted) ReLU with |w| = 1, or fourier with Gaussian weights."""
    check_activation("activation", activation)
    bent = isinstance(activation, (gf.LeakyReLU, gf.ShiftedReLU))
    if not bent and activation.name != gf.fourier.name:
        raise fail(
            "activation", activation.name, "has no closed spectrum",
            "pass gf.relu, gf.leaky_relu(a), gf.shifted_relu(b) or gf.fourier",
        )  # fmt: skip
    return Sphere(activation, check_integer("dim", dim, minimum=2))


SPHERES = tuple(
    sphere(phi, dim)
    for phi in (
        gf.relu,
        gf.leaky_relu(0.2),
        gf.shifted_relu(0.3),
        gf.shifted_relu(-0.6),
        gf.fourier,
    )
    for dim in (2, 3, 7)
)


def spectra(ones: Several[Sphere] = SPHERES, *, degree: int = 6, id: str) -> Equality:
    """Eigenvalues of kernels on the sphere, closed forms against quadratures, each over λ_max.

    Parameters
    ----------
    ones : Sphere or sequence of Sphere
    degree : int
        The last degree.
    """
    ones, degree = several("ones", ones, Sphere), check_integer("degree", degree, minimum=1)

    def predict(lab: Lab, up: int = 0) -> np.ndarray:
        return np.concatenate(
            [o.closed(degree, o.dim + up) / np.max(o.closed(degree)) for o in ones]
        )

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in ones:
            top = np.max(one.closed(degree))
            found, noise = one.quadrature(degree)
            value.append(found / top)
            error.append(noise / top + 4 * EPS)
            labels += [f"{one}, k={k}" for k in range(degree + 1)]
        return Measurement(np.concatenate(value), np.concatenate(error), labels)

    def vanishing(one: Sphere) -> str:
        return "" if np.any(one.closed(degree)) else "φ vanishes where the weights reach"

    return Equality(
        **PAPER.words("spectra", id),
        hypotheses=[every("a kernel that is not 0", ones, vanishing)],
        predict=predict,
        measure=measure,
        tolerance=1e-11,
        relative=False,
        control=Control.replacing(
            "the spectrum in one dimension more", predict=lambda lab: predict(lab, 1)
        ),
    )


@dataclass(frozen=True)
class Polygon:
    """The regular n-gon and an activation with Gaussian weights; made by `polygon`."""

    activation: gf.AbstractActivation
    corners: int

    @property
    def X(self) -> np.ndarray:
        """The corners (n, 2)."""
        angle = 2 * np.pi * np.arange(self.corners) / self.corners
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def aliased(self, *, missing: bool = False) -> np.ndarray:
        """n Σ_{k ≡ j (n)} λ_|k|, j = 0 … n-1; ``missing``: only |k| < n/2."""
        rates = _circle_rates(self.activation)
        degree = rates.size - 1
        if missing:
            rates = np.where(np.arange(degree + 1) < self.corners / 2, rates, 0.0)
        k = np.arange(-degree, degree + 1)
        return self.corners * np.bincount(k % self.corners, rates[np.abs(k)], self.corners)

    def __str__(self) -> str:
        return f"{self.activation.name}, {self.corners} corners"


@lru_cache(maxsize=32)
def _circle_rates(activation: gf.AbstractActivation) -> np.ndarray:
    """λ_k on the circle, so far that the rest is below 1e-13 (λ_k of a kink falls like k^-4)."""
    if activation.name == gf.fourier.name:
        return sphere(activation, 2).closed(200)
    return 2 * gf.kernels.gegenbauer_coefficients(activation, 2, 20_000, method="closed").value ** 2


def polygon(activation: gf.AbstractActivation, corners: int) -> Polygon:
    """A checked `Polygon`: (leaky) ReLU or fourier."""
    check_activation("activation", activation)
    if not isinstance(activation, gf.LeakyReLU) and activation.name != gf.fourier.name:
        raise fail(
            "activation", activation.name, "has no closed Gaussian spectrum",
            "pass gf.relu, gf.leaky_relu(a) or gf.fourier",
        )  # fmt: skip
    return Polygon(activation, check_integer("corners", corners, minimum=3))


POLYGONS = tuple(
    polygon(phi, n) for phi in (gf.relu, gf.leaky_relu(0.2), gf.fourier) for n in (6, 9, 10)
)


def polygons(ones: Several[Polygon] = POLYGONS, *, id: str) -> Equality:
    """Eigenvalues of Gram matrices on regular polygons, over the largest; some are 0 for ReLU."""
    ones = several("ones", ones, Polygon)

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in ones:
            top = np.max(one.aliased())
            rule = gf.kernels.gram(one.activation, one.X, method="quadrature", nodes=48)
            first, second = (
                np.linalg.eigvalsh(K) / top for K in (gf.kernels.gram(one.activation, one.X), rule)
            )
            value.append(first)
            error.append(np.abs(first - second) + 4 * one.corners * EPS)
            labels += [f"{one}, eigenvalue {j}" for j in range(one.corners)]
        return Measurement(np.concatenate(value), np.concatenate(error), labels)

    def predict(lab: Lab, missing: bool = False) -> np.ndarray:
        found = []
        for one in ones:
            rates = one.aliased(missing=missing)
            found.append(np.sort(rates) / np.max(one.aliased()))
        return np.concatenate(found)

    return Equality(
        **PAPER.words("polygon-spectra", id),
        predict=predict,
        measure=measure,
        tolerance=1e-11,
        relative=False,
        control=Control.replacing("without aliasing", predict=lambda lab: predict(lab, True)),
    )


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "spectra": lambda: spectra(id=f"{SOURCE}/spectra"),
    "polygon-spectra": lambda: polygons(id=f"{SOURCE}/polygon-spectra"),
}
