r"""Spherically symmetric laws of the data x in R^d, and what the reduced flows need of them.

A law is invariant under every orthogonal map, so it is fixed by the law of :math:`|x|`.  Written
:math:`x = r\,U` with U uniform on the unit sphere, the radius of its k-dimensional marginal is
:math:`r\sqrt B`, :math:`B\sim\mathrm{Beta}(k/2,(d-k)/2)`.  The quantities below enter the flows of
``lin2021directional`` and ``lin2021faster``:

- ``c0`` :math:`= E\rho = (\pi/2)E|x_1|`, :math:`\rho` the radius of the 2-D marginal;
- ``p0``, ``p2``, ``p4``: density of the 1-D marginal at 0, its second and fourth derivatives;
- ``kappa`` :math:`=\pi^2p_0/6`, ``second_moment`` :math:`=E\rho^2=2E x_1^2`;
- ``radial``: the functions of one argument in :mod:`gradflow.data.laws.radial`.

Lengths are in the units of ``scale`` or ``radius``; angles play no part.  Here are the interface
and the laws with closed forms; :mod:`.radial_law` has the one given by its radius.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradflow.data.laws.constants import beta, sphere_c0, sphere_p0, student_c0, student_p0
from gradflow.data.laws.fits import gaussian_fit, sphere_fit, student_fit
from gradflow.data.laws.partial_moments import (
    beta_fraction,
    beta_integral,
    gamma_fraction,
    sphere_partial,
)
from gradflow.data.laws.quadrature import (
    LARGEST_ARGUMENT,
    Nodes,
    gaussian_nodes,
    sphere_nodes,
    student_nodes,
)
from gradflow.data.laws.radial import RadialFunctions, radial_functions
from gradflow.data.laws.radial_fit import Fit
from gradflow.registry import Described, register
from gradflow.validation import check_integer, check_positive, fail


def _check_moment(k: object) -> int:
    order = check_integer("k", k, minimum=0)
    if order > 2:
        raise fail("k", k, "is not a tabulated moment", "pass 0, 1 or 2")
    return order


class SphericalLaw(Described, abc.ABC):
    r"""Base of the spherically symmetric laws; instances are constant, hashable and comparable.

    Attributes
    ----------
    dim : int
        Dimension d >= 2 (of a Gaussian d >= 1).
    c0, p0, p2, p4, kappa, second_moment : float
        See the module docstring; ``p2`` and ``p4`` may be nan, ``second_moment`` inf.
    radial : RadialFunctions
        The radial functions, built on first use.
    """

    dim: int
    name: ClassVar[str]

    @property
    @abc.abstractmethod
    def c0(self) -> float:
        """E rho, rho the radius of the 2-D marginal."""

    @property
    @abc.abstractmethod
    def p0(self) -> float:
        """The density of x_1 at 0."""

    @property
    @abc.abstractmethod
    def p2(self) -> float:
        """Its second derivative at 0; NaN where it has none."""

    @property
    @abc.abstractmethod
    def p4(self) -> float:
        """Its fourth derivative at 0; NaN where it has none."""

    @property
    @abc.abstractmethod
    def second_moment(self) -> float:
        """E rho^2 = 2 E x_1^2; may be inf."""

    @property
    def kappa(self) -> float:
        r""":math:`\pi^2p_0/6`: :math:`h(R)\sim\kappa/R^2`."""
        return math.pi**2 / 6 * self.p0

    @cached_property
    def radial(self) -> RadialFunctions:
        """The radial functions of the law (a pytree of arrays)."""
        fit, unit = self._fit()
        return radial_functions(fit, unit)

    @abc.abstractmethod
    def _fit(self) -> tuple[Fit, float]:
        """Fit at unit length, and the length unit."""

    @abc.abstractmethod
    def _nodes(self, k: int, largest: float) -> Nodes:
        """Rule for the radius of the k-dimensional marginal."""

    @abc.abstractmethod
    def _partial_moment(self, dimension: int, x: Array, k: int) -> Array:
        """E[radius^k 1{radius < x}] of the marginal of that dimension, x >= 0."""

    @abc.abstractmethod
    def marginal_density(self, x: ArrayLike) -> Array:
        """Density of the 1-D marginal at x (even), jittable."""

    @abc.abstractmethod
    def _sample_radius(self, key: Array, n: int) -> Array:
        """n independent draws of |x|."""

    @property
    def largest_radius(self) -> float:
        """The largest |x|; inf for an unbounded law."""
        return math.inf

    @property
    def gaussian_scale(self) -> float | None:
        """σ where the law is N(0, σ²I); None else."""
        return None

    def planar_rule(self, largest: float = LARGEST_ARGUMENT) -> Nodes:
        r"""Rule (node, weight) for :math:`\rho`, the radius of the 2-D marginal.

        For integrands smooth in :math:`\ln\rho`, such as :math:`\tanh(\rho m/2)` or
        :math:`\ln(1+e^{-\rho m})`, with relative error ~1e-15 for every m up to ``largest``; a
        smaller ``largest`` gives fewer nodes.
        """
        self._check_planar()
        return self._nodes(2, check_positive("largest", largest))

    def marginal_rule(self, largest: float = LARGEST_ARGUMENT) -> Nodes:
        """Rule for :math:`|x_1|`; see :meth:`planar_rule`."""
        return self._nodes(1, check_positive("largest", largest))

    def spatial_rule(self, largest: float = LARGEST_ARGUMENT) -> Nodes:
        """Rule for the radius of the 3-D marginal (d >= 3); see :meth:`planar_rule`."""
        self._check_spatial()
        return self._nodes(3, check_positive("largest", largest))

    def marginal_partial_moment(self, x: ArrayLike, k: int) -> Array:
        """:math:`E[|x_1|^k 1\\{|x_1|<x\\}]`, k = 0, 1, 2, elementwise in x >= 0; jittable."""
        return self._partial_moment(1, jnp.asarray(x, jnp.float64), _check_moment(k))

    def planar_partial_moment(self, x: ArrayLike, k: int) -> Array:
        """:math:`E[\\rho^k 1\\{\\rho<x\\}]` for the 2-D marginal; k = 0, 1, 2, jittable."""
        self._check_planar()
        return self._partial_moment(2, jnp.asarray(x, jnp.float64), _check_moment(k))

    def spatial_partial_moment(self, x: ArrayLike, k: int) -> Array:
        """The same for the radius of the 3-D marginal (d >= 3)."""
        self._check_spatial()
        return self._partial_moment(3, jnp.asarray(x, jnp.float64), _check_moment(k))

    def _check_planar(self) -> None:
        if self.dim < 2:
            raise fail("dim", self.dim, "has no 2-D marginal", "use a law with dim >= 2")

    def _check_spatial(self) -> None:
        if self.dim < 3:
            raise fail("dim", self.dim, "has no 3-D marginal", "use a law with dim >= 3")

    def sample(self, key: Array, n: int) -> Array:
        """n independent draws of x, shape (n, dim); exact, not a quadrature."""
        n = check_integer("n", n, minimum=1)
        direction, radius = jax.random.split(key)
        normal = jax.random.normal(direction, (n, self.dim), jnp.float64)
        unit = normal / jnp.linalg.norm(normal, axis=1, keepdims=True)
        return unit * self._sample_radius(radius, n)[:, None]


def _check_dim(dim: object) -> int:
    return check_integer("dim", dim, minimum=2)


@dataclasses.dataclass(frozen=True)
class Gaussian(SphericalLaw):
    """N(0, scale^2 I) in R^dim, dim >= 1."""

    dim: int
    scale: float = 1.0
    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", check_integer("dim", self.dim, minimum=1))
        object.__setattr__(self, "scale", check_positive("scale", self.scale))

    @property
    def c0(self) -> float:
        return math.sqrt(math.pi / 2) * self.scale

    @property
    def p0(self) -> float:
        return 1 / (math.sqrt(2 * math.pi) * self.scale)

    @property
    def p2(self) -> float:
        return -self.p0 / self.scale**2

    @property
    def p4(self) -> float:
        return 3 * self.p0 / self.scale**4

    @property
    def second_moment(self) -> float:
        return 2 * self.scale**2

    @property
    def gaussian_scale(self) -> float | None:
        return self.scale

    def _fit(self) -> tuple[Fit, float]:
        return gaussian_fit(), self.scale

    def _nodes(self, k: int, largest: float) -> Nodes:
        node, weight = gaussian_nodes(k, largest * self.scale)
        return Nodes(node * self.scale, weight.copy())

    def _partial_moment(self, dimension: int, x: Array, k: int) -> Array:
        # rho^2/2 ~ Gamma(dimension/2)
        z = 0.5 * (x / self.scale) ** 2
        full = 2 ** (k / 2) * math.gamma((dimension + k) / 2) / math.gamma(dimension / 2)
        return full * self.scale**k * gamma_fraction((dimension + k) / 2, z)

    def marginal_density(self, x: ArrayLike) -> Array:
        return self.p0 * jnp.exp(-0.5 * (jnp.asarray(x, jnp.float64) / self.scale) ** 2)

    def sample(self, key: Array, n: int) -> Array:
        n = check_integer("n", n, minimum=1)
        return self.scale * jax.random.normal(key, (n, self.dim), jnp.float64)

    def _sample_radius(self, key: Array, n: int) -> Array:
        return jnp.linalg.norm(self.sample(key, n), axis=1)


class _SphereLike(SphericalLaw):
    """Laws whose marginals are those of a uniform sphere in ``_sphere_dim`` dimensions."""

    radius: float

    @property
    @abc.abstractmethod
    def _sphere_dim(self) -> int: ...

    @property
    def c0(self) -> float:
        return sphere_c0(self._sphere_dim) * self.radius

    @property
    def p0(self) -> float:
        return sphere_p0(self._sphere_dim) / self.radius

    @property
    def p2(self) -> float:
        # the marginal is p0 (1 - x^2)^b, b = (d-3)/2
        return -(self._sphere_dim - 3) * self.p0 / self.radius**2

    @property
    def p4(self) -> float:
        n = self._sphere_dim
        return 3 * (n - 3) * (n - 5) * self.p0 / self.radius**4

    @property
    def second_moment(self) -> float:
        return 2 / self._sphere_dim * self.radius**2

    @property
    def largest_radius(self) -> float:
        return self.radius

    def _fit(self) -> tuple[Fit, float]:
        return sphere_fit(self._sphere_dim), self.radius

    def _nodes(self, k: int, largest: float) -> Nodes:
        node, weight = sphere_nodes(k, self._sphere_dim, largest * self.radius)
        return Nodes(node * self.radius, weight.copy())

    def _partial_moment(self, dimension: int, x: Array, k: int) -> Array:
        return self.radius**k * sphere_partial(dimension, self._sphere_dim, x / self.radius, k)

    def marginal_density(self, x: ArrayLike) -> Array:
        u = jnp.abs(jnp.asarray(x, jnp.float64)) / self.radius
        inside = u < 1
        gap = jnp.where(inside, (1 - u) * (1 + u), 1.0)
        return jnp.where(inside, self.p0 * gap ** ((self._sphere_dim - 3) / 2), 0.0)


@dataclasses.dataclass(frozen=True)
class UniformSphere(_SphereLike):
    """Uniform law on the sphere of that radius in R^dim."""

    dim: int
    radius: float = 1.0
    name: ClassVar[str] = "uniform_sphere"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", _check_dim(self.dim))
        object.__setattr__(self, "radius", check_positive("radius", self.radius))

    @property
    def _sphere_dim(self) -> int:
        return self.dim

    def _sample_radius(self, key: Array, n: int) -> Array:
        return jnp.full((n,), self.radius)


@dataclasses.dataclass(frozen=True)
class UniformBall(_SphereLike):
    """Uniform law on the ball of that radius in R^dim.

    Its marginals are those of the sphere in R^(dim+2) (Archimedes' theorem).
    """

    dim: int
    radius: float = 1.0
    name: ClassVar[str] = "uniform_ball"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", _check_dim(self.dim))
        object.__setattr__(self, "radius", check_positive("radius", self.radius))

    @property
    def _sphere_dim(self) -> int:
        return self.dim + 2

    def _sample_radius(self, key: Array, n: int) -> Array:
        return self.radius * jax.random.uniform(key, (n,), jnp.float64) ** (1 / self.dim)


@dataclasses.dataclass(frozen=True)
class StudentT(SphericalLaw):
    r"""Multivariate Student t: :math:`\text{scale}\cdot z\sqrt{\nu/\chi^2_\nu}`, z standard normal.

    ``nu > 1``, so that c0 is finite; the second moment is infinite for ``nu <= 2``.
    """

    dim: int
    nu: float
    scale: float = 1.0
    name: ClassVar[str] = "student_t"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", _check_dim(self.dim))
        object.__setattr__(self, "nu", check_positive("nu", self.nu))
        object.__setattr__(self, "scale", check_positive("scale", self.scale))
        if self.nu <= 1:
            raise fail("nu", self.nu, "makes c0 = E|x| infinite", "pass nu > 1")

    @property
    def c0(self) -> float:
        return student_c0(self.nu) * self.scale

    @property
    def p0(self) -> float:
        return student_p0(self.nu) / self.scale

    @property
    def p2(self) -> float:
        return -(self.nu + 1) / self.nu * self.p0 / self.scale**2

    @property
    def p4(self) -> float:
        return 3 * (self.nu + 1) * (self.nu + 3) / self.nu**2 * self.p0 / self.scale**4

    @property
    def second_moment(self) -> float:
        return 2 * self.scale**2 * self.nu / (self.nu - 2) if self.nu > 2 else math.inf

    def _fit(self) -> tuple[Fit, float]:
        return student_fit(self.nu), self.scale

    def _nodes(self, k: int, largest: float) -> Nodes:
        node, weight = student_nodes(k, self.nu, largest * self.scale)
        return Nodes(node * self.scale, weight.copy())

    def _partial_moment(self, dimension: int, x: Array, k: int) -> Array:
        # rho^2/(nu + rho^2) ~ Beta(dimension/2, nu/2)
        square = (x / self.scale) ** 2
        y, rest = square / (self.nu + square), self.nu / (self.nu + square)
        y = jnp.where(jnp.isinf(square), 1.0, y)
        a, b = dimension / 2, self.nu / 2
        unit = self.scale**k * self.nu ** (k / 2)
        if b - k / 2 < 0.5:
            # The full moment is infinite or nearly so.
            return unit / beta(a, b) * beta_integral(a + k / 2, b - k / 2, y, rest)
        full = beta(a + k / 2, b - k / 2) / beta(a, b)
        return unit * full * beta_fraction(a + k / 2, b - k / 2, y, rest)

    def marginal_density(self, x: ArrayLike) -> Array:
        square = (jnp.asarray(x, jnp.float64) / self.scale) ** 2
        return self.p0 * jnp.exp(-(self.nu + 1) / 2 * jnp.log1p(square / self.nu))

    def _sample_radius(self, key: Array, n: int) -> Array:
        normal, chi = jax.random.split(key)
        radius = jnp.linalg.norm(jax.random.normal(normal, (n, self.dim), jnp.float64), axis=1)
        half = jax.random.gamma(chi, self.nu / 2, (n,), jnp.float64)
        return self.scale * radius * jnp.sqrt(self.nu / (2 * half))


for _law in (Gaussian, UniformSphere, UniformBall, StudentT):
    register(_law.name, _law)
