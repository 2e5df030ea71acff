r"""Spherically symmetric laws of the data x in R^d, and what the reduced flows need of them.

A law is invariant under every orthogonal map, so it is fixed by the law of :math:`|x|`.  Written
:math:`x = r\,U` with U uniform on the unit sphere, the radius of its k-dimensional marginal is
:math:`r\sqrt B`, :math:`B\sim\mathrm{Beta}(k/2,(d-k)/2)`.  The quantities below enter the flows of
``lin2021directional`` and ``lin2021faster``:

- ``c0`` :math:`= E\rho = (\pi/2)E|x_1|`, :math:`\rho` the radius of the 2-D marginal;
- ``p0``, ``p2``, ``p4``: density of the 1-D marginal at 0, its second and fourth derivatives;
- ``kappa`` :math:`=\pi^2p_0/6`, ``second_moment`` :math:`=E\rho^2=2E x_1^2`;
- ``radial``: the functions of one argument in :mod:`gradflow.models.radial`.

Lengths are in the units of ``scale`` or ``radius``; angles play no part.  Quadrature rules are
trapezoid rules in the logarithm (or log-odds) of :math:`\rho^2`, which converge exponentially.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import warnings
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy import special as jsp
from jax.typing import ArrayLike
from scipy import special

from gradflow.models.radial import (
    Fit,
    Nodes,
    RadialFunctions,
    fit_radial,
    log1p_ratio,
    radial_functions,
    radial_values,
)
from gradflow.validation import check_choice, check_integer, check_positive, fail

#: Largest argument for which the quadrature rules keep their relative accuracy.
LARGEST_ARGUMENT = 1e15
#: -log of what a truncated end of a trapezoid rule may weigh.
_CUT = 42.0


# -- elementary constants -----------------------------------------------------------------------


def gamma_ratio(x: float) -> float:
    r""":math:`\Gamma(x+\tfrac12)/\Gamma(x)` for x > 0 to rounding error (lgamma loses digits)."""
    factor = 1.0
    while x < 30:
        factor *= x / (x + 0.5)
        x += 1
    u = 1 / x
    # ln of the ratio is ln(x)/2 - u/8 + u^3/192 - u^5/640 + 17u^7/14336 - 31u^9/18432 + ...
    series = -u / 8 + u**3 / 192 - u**5 / 640 + 17 * u**7 / 14336 - 31 * u**9 / 18432
    return factor * math.sqrt(x) * math.exp(series)


def _beta(a: float, b: float) -> float:
    """Euler's B(a, b) for 2a a small positive integer and b > 0, to rounding error."""
    if a == 0.5:
        return math.sqrt(math.pi) / (gamma_ratio(b))
    if a == 1.0:
        return 1 / b
    return (a - 1) / (a - 1 + b) * _beta(a - 1, b)


def _sphere_c0(dim: float) -> float:
    return math.sqrt(math.pi) / 2 / gamma_ratio(dim / 2)


def _sphere_p0(dim: float) -> float:
    return gamma_ratio((dim - 1) / 2) / math.sqrt(math.pi)


# -- trapezoid rules in y = ln(rho^2) or in the log-odds of rho^2 ---------------------------------


def _grid(low: float, high: float, step: float) -> np.ndarray:
    return step * np.arange(math.floor(low / step), math.ceil(high / step) + 1)


def _lower_end(k: int, largest: float) -> float:
    # Below y the k-dimensional volume weighs e^{ky/2}; the integrals at the largest argument live
    # at y = -2 ln(largest) and are to be right to e^-_CUT relative to that.
    return -2 * math.log(max(largest, 1.0)) - 2 * _CUT / k


def _beta_weights(a: float, b: float, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds y and normalised trapezoid weights of Beta(a, b)."""
    # The transform of s^a (1-s)^b in y decays like e^{-pi w} to e^{-pi w/2}, for b small to large.
    step = 0.35 if b <= 1.5 else 0.27 if b <= 5 else 0.2
    low -= math.log1p(b)
    y = _grid(low, high, step)
    log_weight = -a * np.logaddexp(0, -y) - b * np.logaddexp(0, y)
    weight = np.exp(log_weight - log_weight.max())
    return y, weight / weight.sum()


@lru_cache(maxsize=256)
def _sphere_nodes(k: int, dim: int, largest: float = LARGEST_ARGUMENT) -> Nodes:
    """Rule for the radius of the k-dimensional marginal of the uniform law on the unit sphere."""
    if k == dim:
        return Nodes(np.ones(1), np.ones(1))
    a, b = k / 2, (dim - k) / 2
    high = math.log(math.expm1(_CUT / b)) if _CUT / b < 700 else _CUT / b
    y, weight = _beta_weights(a, b, _lower_end(k, largest), high)
    return Nodes(np.exp(-0.5 * np.logaddexp(0, -y)), weight)


@lru_cache(maxsize=64)
def _student_nodes(k: int, nu: float, largest: float = LARGEST_ARGUMENT) -> Nodes:
    """Rule for the radius of the k-dimensional Student-t marginal of unit scale."""
    a, b = k / 2, nu / 2
    # The first moment must survive the cut: rho^{1-nu}, also against the smallest tabulated m.
    slow = max(b - 0.5, 0.05)
    high = min((math.log(math.expm1(_CUT / slow)) if _CUT / slow < 700 else _CUT / slow) + 42, 1300)
    y, weight = _beta_weights(a, b, _lower_end(k, largest), high)
    return Nodes(math.sqrt(nu) * np.exp(y / 2), weight)


@lru_cache(maxsize=16)
def _gaussian_nodes(k: int, largest: float = LARGEST_ARGUMENT) -> Nodes:
    """Rule for the radius of a k-dimensional standard normal vector."""
    y = _grid(_lower_end(k, largest), math.log(2 * (_CUT + 8)), 0.2)
    weight = np.exp(k * y / 2 - np.exp(y) / 2)
    return Nodes(np.exp(y / 2), weight / weight.sum())


# -- fits at unit scale ---------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _sphere_fit(dim: int) -> Fit:
    marginal, planar = _sphere_nodes(1, dim), _sphere_nodes(2, dim)
    circle = dim == 2
    return fit_radial(
        lambda m: radial_values(m, marginal, planar, gap=1.0 if circle else 0.0),
        c0=_sphere_c0(dim),
        p0=_sphere_p0(dim),
        pole=6 * math.sqrt(max(1.0, dim / 10)),
        gap=1.0 if circle else 0.0,
        power=0.0 if circle else 1.0,
    )


@lru_cache(maxsize=1)
def _gaussian_fit() -> Fit:
    marginal, planar = _gaussian_nodes(1), _gaussian_nodes(2)
    return fit_radial(
        lambda m: radial_values(m, marginal, planar),
        c0=math.sqrt(math.pi / 2),
        p0=1 / math.sqrt(2 * math.pi),
        pole=1.75,
    )


def _heavy_coefficient(nu: float) -> float:
    r"""B of the small-argument form for a radius density with tail :math:`\rho^{-\nu-1}`.

    The singular part of :math:`\tfrac12E[\rho\tanh(\rho m/2)]` is
    :math:`\tfrac12m^{\nu-1}\int_0^\infty u^{-\nu}\tanh(u/2)du`; the integral is
    :math:`2\pi(2^\nu-1)(2\pi)^{-\nu}\zeta(\nu)/\sin(\pi\nu/2)` and B is :math:`\nu-2` times that
    half, finite at :math:`\nu=2`.
    """
    delta = nu - 2
    pole = -2 / math.pi if delta == 0 else -delta / math.sin(math.pi * delta / 2)
    return math.pi * (2**nu - 1) * (2 * math.pi) ** -nu * float(special.zeta(nu)) * pole


@lru_cache(maxsize=64)
def _student_fit(nu: float) -> Fit:
    marginal, planar = _student_nodes(1, nu), _student_nodes(2, nu)
    c0, p0 = _student_c0(nu), _student_p0(nu)
    # Tails near 1/rho^2 carry the first moment past the end of any rule: subtract instead.
    by_difference = c0 if nu < 1.15 else None
    lowest = -30
    at = radial_values(np.array([2.0**lowest]), marginal, planar, c0=by_difference)
    delta, log = nu - 2, lowest * math.log(2.0)
    if nu < 3.5:
        tail_planar = nu ** (nu / 2 + 1)
        tail_marginal = 2 * p0 * nu ** ((nu + 1) / 2)
        b2, b1 = (t * _heavy_coefficient(nu) for t in (tail_planar, tail_marginal))
        power = math.expm1(delta * log) / delta if delta else log
    else:
        b2 = b1 = power = 0.0
    a2 = float(at["psi_prime"][0]) * 2.0**-lowest - b2 * power
    a1 = float(at["h_complement"][0]) * 2.0**-lowest - b1 * power
    return fit_radial(
        lambda m: radial_values(m, marginal, planar, c0=by_difference),
        c0=c0,
        p0=p0,
        pole=2.0,
        layout="octave",
        octaves=(lowest, 52),
        end=(a2, b2, a1, b1, delta),
    )


def _student_c0(nu: float) -> float:
    # sqrt(pi/2) E sqrt(nu/chi2_nu); Gamma((nu-1)/2)/Gamma(nu/2) = 1/gamma_ratio((nu-1)/2)
    return math.sqrt(math.pi * nu) / 2 / gamma_ratio((nu - 1) / 2)


def _student_p0(nu: float) -> float:
    return gamma_ratio(nu / 2) / math.sqrt(math.pi * nu)


# -- incomplete moments in JAX --------------------------------------------------------------------


def _gamma_fraction(a: float, z: Array) -> Array:
    """Regularised lower incomplete gamma P(a, z) for 2a in 1..5, relative error ~1e-15."""
    small = jnp.minimum(z, 1.0)
    total = jnp.zeros_like(small)
    for n in range(18, -1, -1):
        total = 1 + small / (a + n + 1) * total
    series = small**a * jnp.exp(-small) / math.gamma(a + 1) * total
    big = jnp.maximum(z, 1.0)
    if a == 1.0:
        closed = -jnp.expm1(-big)
    elif a == 2.0:
        closed = 1 - (1 + big) * jnp.exp(-big)
    else:
        root = jnp.sqrt(big)
        slope = {0.5: 0.0 * big, 1.5: jnp.ones_like(big), 2.5: 1 + 2 * big / 3}[a]
        closed = jsp.erf(root) - 2 / math.sqrt(math.pi) * slope * root * jnp.exp(-big)
    return jnp.where(z < 1, series, closed)


def _beta_fraction(a: float, b: float, y: Array, rest: Array) -> Array:
    """Regularised incomplete beta I_y(a, b), rest = 1 - y given exactly, relative error ~3e-14."""
    # For larger b the normalising constant inside betainc loses digits to lgamma. Its relative
    # error does not depend on y: read it off where the function is y^a/(a B) and divide it out.
    y0 = 1e-32
    repair = y0**a / (a * _beta(a, b)) / jsp.betainc(a, b, y0) if b >= 5 else 1.0
    # Beyond the mean the complement is the small number, and 1 - y the argument that matters.
    lower = y < (a + 1) / (a + b + 2)
    below = repair * jsp.betainc(a, b, jnp.where(lower, y, 0.0))
    above = 1 - repair * jsp.betainc(b, a, jnp.where(lower, 0.0, rest))
    return jnp.where(lower, below, above)


def _beta_integral(a: float, b: float, y: Array, rest: Array) -> Array:
    r""":math:`\int_0^y t^{a-1}(1-t)^{b-1}dt` for 2a a positive integer and -1/2 < b < 1.

    Series about both ends, joined at 1/2; b = 0 (a logarithm) is a regular case.
    """
    terms = np.arange(64)
    near0 = special.poch(1 - b, terms) / special.gamma(terms + 1.0) / (a + terms)
    near1 = special.poch(1 - a, terms) / special.gamma(terms + 1.0)
    half = float(0.5**a * np.sum(near0 * 0.5**terms))
    t = jnp.minimum(y, 0.5)
    low = t**a * jnp.polyval(jnp.asarray(near0[::-1]), t)
    w = jnp.clip(rest, 1e-300, 0.5)
    # n = 0: (2^-b - w^b)/b, a logarithm at b = 0
    log = jnp.log(2 * w)
    v = b * log
    tiny = jnp.abs(v) < 1e-8
    first = -(0.5**b) * log * jnp.where(tiny, 1 + v / 2, jnp.expm1(v) / jnp.where(tiny, 1.0, v))
    # n >= 1 relative to w = 1/2
    n = terms[1:]
    at_half = float(np.sum(near1[1:] * 0.5 ** (b + n) / (b + n)))
    others = w ** (b + 1) * jnp.polyval(jnp.asarray((near1[1:] / (b + n))[::-1]), w)
    return jnp.where(y < 0.5, low, half + first + (at_half - others))


# -- laws -----------------------------------------------------------------------------------------


def _check_moment(k: Any) -> int:
    order = check_integer("k", k, minimum=0)
    if order > 2:
        raise fail("k", k, "is not a tabulated moment", "pass 0, 1 or 2")
    return order


class SphericalLaw(abc.ABC):
    r"""Base of the spherically symmetric laws; instances are constant, hashable and comparable.

    Attributes
    ----------
    dim : int
        Dimension d >= 2.
    c0, p0, p2, p4, kappa, second_moment : float
        See the module docstring; ``p2`` and ``p4`` may be nan, ``second_moment`` inf.
    radial : RadialFunctions
        The radial functions, built on first use.
    """

    dim: int
    name: ClassVar[str]

    # closed forms
    @property
    @abc.abstractmethod
    def c0(self) -> float: ...

    @property
    @abc.abstractmethod
    def p0(self) -> float: ...

    @property
    @abc.abstractmethod
    def p2(self) -> float: ...

    @property
    @abc.abstractmethod
    def p4(self) -> float: ...

    @property
    @abc.abstractmethod
    def second_moment(self) -> float: ...

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

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON-able description, read back by :func:`from_description`."""

    def planar_rule(self, largest: float = LARGEST_ARGUMENT) -> Nodes:
        r"""Rule (node, weight) for :math:`\rho`, the radius of the 2-D marginal.

        For integrands smooth in :math:`\ln\rho`, such as :math:`\tanh(\rho m/2)` or
        :math:`\ln(1+e^{-\rho m})`, with relative error ~1e-15 for every m up to ``largest``; a
        smaller ``largest`` gives fewer nodes.
        """
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
        return self._partial_moment(2, jnp.asarray(x, jnp.float64), _check_moment(k))

    def spatial_partial_moment(self, x: ArrayLike, k: int) -> Array:
        """The same for the radius of the 3-D marginal (d >= 3)."""
        self._check_spatial()
        return self._partial_moment(3, jnp.asarray(x, jnp.float64), _check_moment(k))

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


def _check_dim(dim: Any) -> int:
    return check_integer("dim", dim, minimum=2)


@dataclasses.dataclass(frozen=True)
class Gaussian(SphericalLaw):
    """N(0, scale^2 I) in R^dim."""

    dim: int
    scale: float = 1.0
    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", _check_dim(self.dim))
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

    def _fit(self) -> tuple[Fit, float]:
        return _gaussian_fit(), self.scale

    def _nodes(self, k: int, largest: float) -> Nodes:
        node, weight = _gaussian_nodes(k, largest * self.scale)
        return Nodes(node * self.scale, weight.copy())

    def _partial_moment(self, dimension: int, x: Array, k: int) -> Array:
        # rho^2/2 ~ Gamma(dimension/2)
        z = 0.5 * (x / self.scale) ** 2
        full = 2 ** (k / 2) * math.gamma((dimension + k) / 2) / math.gamma(dimension / 2)
        return full * self.scale**k * _gamma_fraction((dimension + k) / 2, z)

    def marginal_density(self, x: ArrayLike) -> Array:
        return self.p0 * jnp.exp(-0.5 * (jnp.asarray(x, jnp.float64) / self.scale) ** 2)

    def sample(self, key: Array, n: int) -> Array:
        n = check_integer("n", n, minimum=1)
        return self.scale * jax.random.normal(key, (n, self.dim), jnp.float64)

    def _sample_radius(self, key: Array, n: int) -> Array:
        return jnp.linalg.norm(self.sample(key, n), axis=1)

    def describe(self) -> dict[str, Any]:
        return {"law": self.name, "dim": self.dim, "scale": self.scale}


class _SphereLike(SphericalLaw):
    """Laws whose marginals are those of a uniform sphere in ``_sphere_dim`` dimensions."""

    radius: float

    @property
    @abc.abstractmethod
    def _sphere_dim(self) -> int: ...

    @property
    def c0(self) -> float:
        return _sphere_c0(self._sphere_dim) * self.radius

    @property
    def p0(self) -> float:
        return _sphere_p0(self._sphere_dim) / self.radius

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

    def _fit(self) -> tuple[Fit, float]:
        return _sphere_fit(self._sphere_dim), self.radius

    def _nodes(self, k: int, largest: float) -> Nodes:
        node, weight = _sphere_nodes(k, self._sphere_dim, largest * self.radius)
        return Nodes(node * self.radius, weight.copy())

    def _partial_moment(self, dimension: int, x: Array, k: int) -> Array:
        return self.radius**k * _sphere_partial(dimension, self._sphere_dim, x / self.radius, k)

    def marginal_density(self, x: ArrayLike) -> Array:
        u = jnp.abs(jnp.asarray(x, jnp.float64)) / self.radius
        inside = u < 1
        gap = jnp.where(inside, (1 - u) * (1 + u), 1.0)
        return jnp.where(inside, self.p0 * gap ** ((self._sphere_dim - 3) / 2), 0.0)


def _sphere_partial(dimension: int, dim: int, x: Array, k: int) -> Array:
    """E[rho^k 1{rho < x}] of the marginal of that dimension of the unit sphere in R^dim."""
    if dimension == dim:
        return jnp.where(x > 1, 1.0, 0.0)
    a, b = dimension / 2, (dim - dimension) / 2
    full = _beta(a + k / 2, b) / _beta(a, b)
    x = jnp.minimum(x, 1.0)
    return full * _beta_fraction(a + k / 2, b, x * x, (1 - x) * (1 + x))


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

    def describe(self) -> dict[str, Any]:
        return {"law": self.name, "dim": self.dim, "radius": self.radius}


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

    def describe(self) -> dict[str, Any]:
        return {"law": self.name, "dim": self.dim, "radius": self.radius}


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
        return _student_c0(self.nu) * self.scale

    @property
    def p0(self) -> float:
        return _student_p0(self.nu) / self.scale

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
        return _student_fit(self.nu), self.scale

    def _nodes(self, k: int, largest: float) -> Nodes:
        node, weight = _student_nodes(k, self.nu, largest * self.scale)
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
            return unit / _beta(a, b) * _beta_integral(a + k / 2, b - k / 2, y, rest)
        full = _beta(a + k / 2, b - k / 2) / _beta(a, b)
        return unit * full * _beta_fraction(a + k / 2, b - k / 2, y, rest)

    def marginal_density(self, x: ArrayLike) -> Array:
        square = (jnp.asarray(x, jnp.float64) / self.scale) ** 2
        return self.p0 * jnp.exp(-(self.nu + 1) / 2 * jnp.log1p(square / self.nu))

    def _sample_radius(self, key: Array, n: int) -> Array:
        normal, chi = jax.random.split(key)
        radius = jnp.linalg.norm(jax.random.normal(normal, (n, self.dim), jnp.float64), axis=1)
        half = jax.random.gamma(chi, self.nu / 2, (n,), jnp.float64)
        return self.scale * radius * jnp.sqrt(self.nu / (2 * half))

    def describe(self) -> dict[str, Any]:
        return {"law": self.name, "dim": self.dim, "nu": self.nu, "scale": self.scale}


# -- laws given by the radius -------------------------------------------------------------------


class _Radius(NamedTuple):
    """Rule for |x|: node, node - low (exact near the lower end of the support), weight."""

    node: np.ndarray
    offset: np.ndarray
    weight: np.ndarray
    low: float
    scale: float


def _radius_points(
    dist: Any, low: float, high: float, ends: tuple[float, float], step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Trapezoid rule for |x| in y = ln(|x| - low), or in the log-odds if the support is bounded.

    ``ends`` are the ends of y. Returns node, node - low, weight and the median scale.
    """
    scale = max(float(dist.median()) - low, 1e-300)
    y = _grid(*ends, step)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if math.isinf(high):
            offset = scale * np.exp(y)
            jacobian = step * offset
        else:
            rest = 1 / (1 + np.exp(y))
            offset = (high - low) / (1 + np.exp(-y))
            jacobian = step * offset * rest
        node = low + offset
        weight = np.asarray(dist.pdf(node), dtype=float) * jacobian
    weight = np.where(np.isfinite(weight) & (node > 0), weight, 0.0)
    return node, offset, weight, scale


def _radius_rule(dist: Any, low: float, high: float, low_power: float, tail: float) -> _Radius:
    """Rule for a continuous radius, for every kernel that is smooth in ln|x|.

    Parameters
    ----------
    dist : frozen scipy distribution
        Law of |x| on (low, high).
    low_power, tail : float
        Exponents: density ~ (|x| - low)^low_power at the lower end, P(|x| > r) ~ r^-tail.
    """
    # The lower end is cut where |x|^-1 and the largest argument have both died out.
    floor = -38.0 - _CUT / min(max(low_power if low == 0 else low_power + 1, 0.07), 5.0)
    ceiling = 690.0 if math.isinf(high) else 400.0
    if math.isfinite(tail):
        ceiling = min(_CUT / max(tail - 1, 0.01) + 80, ceiling)
    floor = max(floor, -640.0)
    node, offset, weight, scale = _radius_points(dist, low, high, (floor, ceiling), 0.1)
    total = weight.sum()
    with np.errstate(over="ignore", invalid="ignore"):
        used = np.flatnonzero(weight * np.maximum(node / scale, 1.0) ** 2 > 1e-24)
    if math.isinf(tail) and used.size:
        ceiling = floor + 0.1 * (used[-1] + 10)
    step = 0.1
    for _ in range(4):
        finer = _radius_points(dist, low, high, (floor, ceiling), step / 2)
        settled = abs(finer[2].sum() - total) < 4e-15
        if settled:
            break
        step, total = step / 2, finer[2].sum()
        node, offset, weight, scale = finer
    if abs(total - 1) > 1e-10:
        raise fail(
            "radius",
            _describe_radius(dist),
            f"has a density that the quadrature does not resolve (its mass sums to {total:.15g})",
            "pass a density that is smooth inside its support, or a discrete law",
        )
    keep = weight > 0
    return _Radius(node[keep], offset[keep], weight[keep] / total, low, low + scale)


def _describe_radius(radius: Any) -> Any:
    if isinstance(radius, float):
        return radius
    kwds = {key: float(value) for key, value in sorted(radius.kwds.items())}
    args = [float(value) for value in radius.args]
    return {"distribution": radius.dist.name, "args": args, "kwds": kwds}


def _compress(radius: Nodes, sphere: Nodes, smallest: float) -> Nodes:
    """Rule for the product of two independent factors, for integrands smooth in its logarithm.

    The product rule is replaced by one on few points per octave: the adjoint of interpolation at
    Chebyshev points. Products below ``smallest`` are dropped.
    """
    terms = 22
    blocks = np.array_split(np.arange(radius.node.size), max(1, radius.node.size // 16))
    first = int(np.floor(np.log2(smallest)))
    panels = int(np.ceil(np.log2(radius.node.max() * sphere.node.max()))) + 1 - first
    moments = np.zeros((len(blocks), terms, panels))
    for row, block in enumerate(blocks):
        node = np.outer(radius.node[block], sphere.node).ravel()
        weight = np.outer(radius.weight[block], sphere.weight).ravel()
        keep = (weight > 0) & (node > smallest)
        node, weight = node[keep], weight[keep]
        exponent = np.frexp(node)[1] - 1
        s = 2 * np.ldexp(node, -exponent) - 3
        # T_j by recurrence; sums by blocks, because one long running sum would lose digits
        before, now = np.ones_like(s), s
        for j in range(terms):
            moments[row, j] = np.bincount(exponent - first, weight * before, minlength=panels)
            before, now = now, 2 * s * now - before
    total = moments.sum(axis=0)
    theta = (np.arange(terms) + 0.5) * np.pi / terms
    matrix = np.cos(np.outer(theta, np.arange(terms))) * (2 / terms)
    matrix[:, 0] /= 2
    weights = (matrix @ total).T
    points = np.ldexp((np.cos(theta) + 3) / 2, (first + np.arange(panels))[:, None])
    used = total[0] > 0
    return Nodes(points[used].ravel(), weights[used].ravel())


def _power_at(density: Any, point: float, base: float) -> float | None:
    """Exponent of a density between base + point and base + 1024 point; None if it underflows."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        near, far = float(density(base + point)), float(density(base + 1024 * point))
    if not (near > 0 and far > 0 and math.isfinite(near) and math.isfinite(far)):
        return None
    return math.log(far / near) / math.log(1024.0)


class RadialLaw(SphericalLaw):
    """The spherically symmetric law whose norm |x| has a given distribution.

    Parameters
    ----------
    dim : int
        Dimension d >= 2.
    radius : float or frozen scipy.stats distribution
        A positive number (the sphere of that radius), a continuous distribution on [0, inf) with a
        density smooth inside its support, or a discrete one with finitely many positive values.

    Notes
    -----
    Refused: mass at 0 or at negative values, an infinite mean (c0), an infinite E[1/|x|] (p0). With
    tails heavier than every fifth moment the small-argument end is tabulated down to 2^-100 over
    the median and continued by the two leading powers, fitted. ``p2`` and ``p4`` need E|x|^-3 and
    E|x|^-5 to be finite and are nan otherwise, even where the marginal happens to be smooth.
    """

    name: ClassVar[str] = "radial"
    dim: int
    radius: Any

    def __init__(self, dim: int, radius: Any) -> None:
        self.dim = _check_dim(dim)
        number = isinstance(radius, (int, float, np.number)) and not isinstance(radius, bool)
        if number:
            self.radius = check_positive("radius", radius)
            self._rule = _Radius(np.array([self.radius]), np.zeros(1), np.ones(1), self.radius, 1.0)
            self._discrete, self._tail, self._low_power = True, math.inf, math.inf
            return
        radius = cast(Any, radius)
        if not (hasattr(radius, "dist") and hasattr(radius, "support")):
            raise fail(
                "radius",
                radius,
                "is neither a number nor a frozen distribution",
                "pass a float > 0 or something like scipy.stats.gamma(3.0)",
            )
        self.radius = radius
        shown = _describe_radius(radius)
        low, high = (float(end) for end in radius.support())
        if low < 0:
            raise fail("radius", shown, "takes negative values", "pass a law on [0, inf)")
        self._discrete = hasattr(radius.dist, "pmf")
        self._tail = self._low_power = math.inf
        if float(radius.cdf(0.0)) > 0:
            raise fail(
                "radius", shown, "has mass at 0", "pass a law of |x| without an atom at the origin"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mean = float(radius.mean())
        if not math.isfinite(mean):
            raise fail("radius", shown, "makes c0 infinite (E|x|)", "pass a law with a finite mean")
        if self._discrete:
            if not (math.isfinite(high) and high - low < 10_000):
                raise fail("radius", shown, "has too many values", "pass a law on at most 10000")
            node = np.arange(low, high + 1)
            weight = np.asarray(radius.pmf(node), dtype=float)
            node, weight = node[weight > 0], weight[weight > 0]
            self._rule = _Radius(
                node, node - node[0], weight / weight.sum(), float(node[0]), float(radius.median())
            )
            return
        # The exponent at a lower end > 0 is read where the offset still exceeds rounding.
        power = _power_at(radius.pdf, 1e-40 * mean if low == 0 else 1e-9 * low, low)
        self._low_power = math.inf if power is None else power
        if low == 0 and self._low_power < 1e-6:
            raise fail(
                "radius",
                shown,
                "makes p0 infinite (E[1/|x|], the density of a 1-D marginal at 0)",
                "pass a law whose density vanishes at 0 like a power",
            )
        fall = _power_at(radius.pdf, 1e25 * mean, 0.0) if math.isinf(high) else None
        self._tail = math.inf if fall is None else -fall - 1
        self._rule = _radius_rule(radius, low, high, self._low_power, self._tail)
        reached = float(np.sum(self._rule.node * self._rule.weight))
        if abs(reached / mean - 1) > 1e-9:
            raise fail(
                "radius",
                shown,
                f"has a tail that the quadrature does not reach (mean {reached:.12g}, not "
                f"{mean:.12g})",
                "pass a law with a lighter tail",
            )

    def _moment(self, power: float) -> float:
        """E|x|^power; nan or inf where it does not exist."""
        node, _, weight, _, scale = self._rule
        if not self._discrete:
            if power < 0 and self._rule.low == 0 and self._low_power + power <= -1 + 1e-9:
                return math.inf
            if power > 1 and self._tail <= power + 1e-9:
                return math.inf
        with np.errstate(over="ignore"):
            terms = weight * (node / scale) ** power
        return float(np.sum(terms[np.isfinite(terms)])) * scale**power

    @property
    def c0(self) -> float:
        return _sphere_c0(self.dim) * self._moment(1)

    @property
    def p0(self) -> float:
        return _sphere_p0(self.dim) * self._moment(-1)

    @property
    def p2(self) -> float:
        moment = self._moment(-3)
        return -(self.dim - 3) * _sphere_p0(self.dim) * moment if moment < math.inf else math.nan

    @property
    def p4(self) -> float:
        moment = self._moment(-5)
        if moment == math.inf:
            return math.nan
        return 3 * (self.dim - 3) * (self.dim - 5) * _sphere_p0(self.dim) * moment

    @property
    def second_moment(self) -> float:
        return 2 / self.dim * self._moment(2)

    def _nodes(self, k: int, largest: float) -> Nodes:
        rule = self._rule
        sphere = _sphere_nodes(k, self.dim, largest * max(float(rule.scale), 1e-300))
        if sphere.node.size == 1 or rule.node.size == 1:
            node = np.outer(rule.node, sphere.node).ravel()
            return Nodes(node, np.outer(rule.weight, sphere.weight).ravel())
        # what is smaller never reaches 1e-17 of an integral at the largest argument
        return _compress(Nodes(rule.node, rule.weight), sphere, 1e-18 / largest)

    def _fit(self) -> tuple[Fit, float]:
        if self._rule.node.size == 1:
            return _sphere_fit(self.dim), float(self._rule.node[0])
        return _radius_fit(self), self._rule.scale

    def _partial_moment(self, dimension: int, x: Array, k: int) -> Array:
        if self._discrete:
            total = jnp.zeros_like(x)
            for r, w in zip(self._rule.node, self._rule.weight, strict=True):
                total = total + w * r**k * _sphere_partial(dimension, self.dim, x / r, k)
            return total
        return _callback_moment(self, dimension, k, x)

    def marginal_density(self, x: ArrayLike) -> Array:
        x = jnp.abs(jnp.asarray(x, jnp.float64))
        if self._discrete:
            total = jnp.zeros_like(x)
            for r, w in zip(self._rule.node, self._rule.weight, strict=True):
                total = total + w * UniformSphere(self.dim, float(r)).marginal_density(x)
            return total
        return _callback(self, 1, -1, x) / 2

    def _host(self, x: np.ndarray, dimension: int, k: int) -> np.ndarray:
        """E[rho^k 1{rho<x}], or the density of rho at x if k = -1, for a continuous radius."""
        low, high = (float(end) for end in self.radius.support())
        flat = np.abs(np.ravel(x))
        out = np.empty(flat.size)
        step = 1 / 16
        for i, value in enumerate(flat):
            if value == 0:
                out[i] = 2 * self.p0 if k < 0 and dimension == 1 else 0.0
                continue
            if dimension == self.dim:
                out[i] = self.radius.pdf(value) if k < 0 else self._below(value, k)
                continue
            start = max(value, low)
            with np.errstate(all="ignore"):
                if start >= high:
                    node = offset = jacobian = np.ones(0)
                elif math.isinf(high):
                    t = step * np.arange(-110, 111)
                    offset = max(start, self._rule.scale) * np.exp(np.pi / 2 * np.sinh(t))
                    jacobian = offset * np.pi / 2 * np.cosh(t) * step
                else:
                    t = step * np.arange(-72, 73)
                    odds = np.exp(np.pi * np.sinh(t))
                    offset = (high - start) * odds / (1 + odds)
                    jacobian = offset / (1 + odds) * np.pi * np.cosh(t) * step
                node = start + offset
                weight = np.asarray(self.radius.pdf(node), dtype=float) * jacobian
                # 1 - (x/r)^2 without cancellation: the offset is exact
                inside = value == start
                delta = offset if inside else node - value
                rest = delta * (node + value) / node**2
                a, b = dimension / 2, (self.dim - dimension) / 2
                if k < 0:
                    ratio = (value / node) ** (dimension - 1)
                    kernel = 2 / _beta(a, b) * ratio * rest ** (b - 1) / node
                else:
                    y = (value / node) ** 2
                    fraction = np.where(
                        rest < 0.5,
                        special.betaincc(b, a + k / 2, rest),
                        special.betainc(a + k / 2, b, y),
                    )
                    kernel = _beta(a + k / 2, b) / _beta(a, b) * fraction * node**k
                terms = weight * kernel
            total = float(np.sum(terms[np.isfinite(terms)]))
            if k >= 0 and value > low:
                total += _beta(a + k / 2, b) / _beta(a, b) * self._below(value, k)
            out[i] = total
        return out.reshape(np.shape(x))

    def _below(self, value: float, k: int) -> float:
        """E[|x|^k 1{|x| < value}]."""
        low, high = (float(end) for end in self.radius.support())
        if k == 0:
            return float(self.radius.cdf(value))
        top = min(value, high)
        t = np.arange(-72, 73) / 16
        odds = np.exp(np.pi * np.sinh(t))
        width = top - low
        node = low + width * odds / (1 + odds)
        with np.errstate(all="ignore"):
            weight = np.asarray(self.radius.pdf(node), dtype=float) * (
                width * odds / (1 + odds) ** 2 * np.pi * np.cosh(t) / 16
            )
            terms = weight * node**k
        return float(np.sum(terms[np.isfinite(terms)]))

    def _sample_radius(self, key: Array, n: int) -> Array:
        if self._rule.node.size == 1:
            return jnp.full((n,), float(self._rule.node[0]))
        u = jax.random.uniform(key, (n,), jnp.float64)
        shape = jax.ShapeDtypeStruct((n,), jnp.float64)
        inverse = lambda p: np.asarray(self.radius.ppf(np.asarray(p)), dtype=np.float64)
        return jax.pure_callback(inverse, shape, u, vmap_method="expand_dims")

    def describe(self) -> dict[str, Any]:
        return {"law": self.name, "dim": self.dim, "radius": _describe_radius(self.radius)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RadialLaw) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(repr(self.describe()))

    def __repr__(self) -> str:
        return f"RadialLaw(dim={self.dim}, radius={_describe_radius(self.radius)})"


def _callback(law: RadialLaw, dimension: int, k: int, x: Array) -> Array:
    """Host evaluation inside compiled code: slow, exact, without derivative."""
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float64)
    host = lambda value: law._host(np.asarray(value), dimension, k)
    return jax.pure_callback(host, shape, x, vmap_method="expand_dims")


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _callback_moment(law: RadialLaw, dimension: int, k: int, x: Array) -> Array:
    return _callback(law, dimension, k, x)


@_callback_moment.defjvp
def _callback_moment_jvp(law, dimension, k, primals, tangents):
    (x,) = primals
    value = _callback(law, dimension, k, x)
    return value, x**k * _callback(law, dimension, -1, x) * tangents[0]


def _radius_fit(law: RadialLaw) -> Fit:
    """Octave tables of a law with a spread-out radius, at unit median."""
    rule = law._rule
    unit = rule.scale
    marginal, planar = (law._nodes(k, LARGEST_ARGUMENT) for k in (1, 2))
    marginal = Nodes(marginal.node / unit, marginal.weight)
    planar = Nodes(planar.node / unit, planar.weight)
    gap = rule.low / unit if law.dim == 2 else 0.0
    lowest = -30 if law._tail > 5 else -100

    def values(m: np.ndarray) -> dict[str, np.ndarray]:
        found = radial_values(m, marginal, planar)
        if gap > 0:
            # the radius itself; node - low is exact, so the decay is too
            e = np.exp(-np.outer(m, rule.node / unit))
            decay = np.exp(-np.outer(m, rule.offset / unit))
            found["g"] = (log1p_ratio(e) * decay) @ rule.weight
            found["dg"] = (decay / (1 + e)) @ (rule.weight * rule.node / unit)
            found["d2psi"] = (decay / (1 + e) ** 2) @ (rule.weight * (rule.node / unit) ** 2)
        return found

    edge = 2.0**lowest
    m = edge * 2.0 ** np.array([0, 10, 20])
    at = values(m)
    t2, t1 = at["psi_prime"] / m, at["h_complement"] / m
    if lowest == -30:
        end = (float(t2[0]), 0.0, float(t1[0]), 0.0, 0.0)
    else:
        # t = A + B (m^d - 1)/d through three points
        rise = t2[1:] - t2[:-1]
        varies = abs(rise[0]) > 1e-8 * t2[0]
        delta = math.log2(rise[1] / rise[0]) / 10 if varies else 0.0
        delta = 0.0 if abs(delta) < 1e-10 else delta
        power = np.expm1(delta * np.log(m)) / delta if delta else np.log(m)
        b2, b1 = ((t[1] - t[0]) / (power[1] - power[0]) if varies else 0.0 for t in (t2, t1))
        end = (t2[0] - b2 * power[0], b2, t1[0] - b1 * power[0], b1, delta)
    return fit_radial(
        values,
        c0=law.c0 / unit,
        p0=law.p0 * unit,
        pole=2.0 * math.sqrt(law.dim),
        layout="octave",
        octaves=(lowest, 60),
        gap=gap,
        power=0.0 if gap > 0 else 1.0,
        end=end,
    )


def from_description(description: dict[str, Any]) -> SphericalLaw:
    """Rebuild a law from its :meth:`SphericalLaw.describe`."""
    kinds = {law.name: law for law in (Gaussian, UniformSphere, UniformBall, StudentT, RadialLaw)}
    values = dict(description)
    kind = check_choice("law", values.pop("law", None), kinds)
    if kind == "radial" and isinstance(values.get("radius"), dict):
        import scipy.stats

        radius = values["radius"]
        family = getattr(scipy.stats, str(radius.get("distribution")), None)
        if not isinstance(family, (scipy.stats.rv_continuous, scipy.stats.rv_discrete)):
            raise fail(
                "radius", radius, "is not a scipy.stats distribution", "pass the name of one"
            )
        values["radius"] = family(*radius.get("args", ()), **radius.get("kwds", {}))
    try:
        return kinds[kind](**values)
    except TypeError:
        raise fail(
            "description", description, "has missing or unknown entries", "pass law.describe()"
        ) from None


law_from_description = from_description
