r"""Expectations of a margin loss over one radius of a spherically symmetric law.

For a margin loss :math:`\ell` and s one of the radii :math:`|x_1|`, :math:`\rho` (2-D marginal), r
(3-D marginal), every reduced risk is an angular integral of

.. math:: G(m)=E\,\ell(sm),\qquad g(m)=-G'(m)=-E[s\,\ell'(sm)],\qquad m\in\mathbb R,

and, because the labels are odd in x, of the two combinations that never cancel for m > 0,

.. math:: \mathrm{gap}(m)=\frac{G(-m)-G(m)}m,\qquad \mathrm{total}(m)=g(-m)+g(m).

:class:`RadialMoments` tabulates them once as Chebyshev series on binary octaves of m, so that an
evaluation costs a look-up and twenty-two multiplications instead of a sum over hundreds of nodes.
On the wrong side, m < 0, the exponential loss grows like :math:`e^{s_{max}|m|}` (bounded inputs) or
:math:`e^{\sigma^2m^2/2}` (Gaussian). That factor, :math:`e^{\mathrm{growth}(m)}`, is kept apart, so
that logarithms of the risk never overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import erfc

from gradflow.data.laws.laws import SphericalLaw
from gradflow.losses import AbstractMarginLoss, Exponential, Hinge
from gradflow.numerics.logs import expm1_ratio
from gradflow.validation import fail

#: Chebyshev terms per octave, and the octaves [2^LOW, 2^HIGH) of m in units of 1/E s.
TERMS = 22
LOW, HIGH = -24, 46
_CELLS = HIGH - LOW + 2  # one cell below (in m) and one above (in 1/m)
_ROWS = ("value", "slope", "wrong_value", "wrong_slope", "gap")

Function = Callable[[np.ndarray], np.ndarray]


class RadialMoments(eqx.Module):
    """G, g, gap and total of one loss and one radius; build it with `radial_moments`.

    All methods act elementwise and can be compiled and differentiated; the relative error is a few
    1e-15 except where G(m) itself is exponentially small (absolute 1e-15 of G(0) there).

    Attributes
    ----------
    mean : Array
        E s; 1/mean is the margin scale on which everything varies.
    largest : Array
        The largest radius, inf if unbounded.
    kinked : bool
        True for the hinge loss on a bounded law: G is not smooth at m = 1/largest.
    """

    mean: Array
    largest: Array
    _table: Array
    _growth: Array  # (linear, square): growth = linear m + square m^2
    dimension: int = eqx.field(static=True)
    kinked: bool = eqx.field(static=True)
    hinge: bool = eqx.field(static=True)

    def growth(self, m: Array) -> Array:
        """Exponent of the factor kept apart on the wrong side, for m >= 0."""
        return (self._growth[0] + self._growth[1] * m) * m

    def right_value(self, m: Array) -> Array:
        """G(m) for m >= 0."""
        smooth = self._look_up("value", m) / (1.0 + m * self.mean) ** self.dimension
        return jnp.where(self._below(m), 1.0 - m * self.mean, smooth) if self.kinked else smooth

    def right_slope(self, m: Array) -> Array:
        """g(m) for m >= 0."""
        smooth = self._look_up("slope", m) / (1.0 + m * self.mean) ** (self.dimension + 1)
        return jnp.where(self._below(m), self.mean, smooth) if self.kinked else smooth

    def wrong_value(self, m: Array) -> Array:
        """G(-m) exp(-growth(m)) for m >= 0."""
        if self.hinge:
            return 1.0 + m * self.mean
        return self._look_up("wrong_value", m) * (1.0 + m * self.mean)

    def wrong_slope(self, m: Array) -> Array:
        """g(-m) exp(-growth(m)) for m >= 0."""
        if self.hinge:
            return jnp.broadcast_to(self.mean, m.shape)
        return self._look_up("wrong_slope", m)

    def gap(self, m: Array) -> Array:
        """[G(-m) - G(m)] exp(-growth(m)) / m for m >= 0; 2 g(0) at m = 0."""
        smooth = self._look_up("gap", m)
        return jnp.where(self._below(m), 2.0 * self.mean, smooth) if self.kinked else smooth

    def total(self, m: Array) -> Array:
        """[g(-m) + g(m)] exp(-growth(m)) for m >= 0."""
        return self.wrong_slope(m) + self.right_slope(m) * jnp.exp(-self.growth(m))

    def value(self, m: Array) -> Array:
        """G(m) for m of either sign; inf where it exceeds float64."""
        size = jnp.abs(m)
        wrong = self.wrong_value(size) * jnp.exp(jnp.where(m < 0, self.growth(size), 0.0))
        return jnp.where(m < 0, wrong, self.right_value(size))

    def slope(self, m: Array) -> Array:
        """g(m) for m of either sign; inf where it exceeds float64."""
        size = jnp.abs(m)
        wrong = self.wrong_slope(size) * jnp.exp(jnp.where(m < 0, self.growth(size), 0.0))
        return jnp.where(m < 0, wrong, self.right_slope(size))

    def _below(self, m: Array) -> Array:
        """Whether every input of margin scale m is still on the sloping part of the hinge."""
        return m * self.largest <= 1

    def _look_up(self, name: str, m: Array) -> Array:
        """Clenshaw sum of one row of the table at m >= 0."""
        if self.kinked:
            # Half-integer powers of m - 1/largest are the rule; they are smooth in its square root.
            u = jnp.sqrt(jnp.maximum(m * self.largest - 1.0, 2.0 ** (2 * LOW - 20)))
        else:
            u = m * self.mean
        low, high = 2.0**LOW, 2.0**HIGH
        inside = jnp.clip(u, low, np.nextafter(high, 0.0))
        # The exponent field of the float is the octave, its mantissa the place inside it.
        bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(inside), jnp.int64)
        exponent = jnp.right_shift(bits, 52) - 1023
        scale = jax.lax.bitcast_convert_type(jnp.left_shift(1023 - exponent, 52), jnp.float64)
        x = 2.0 * (inside * scale) - 3.0
        x = jnp.where(u < low, (2.0 / low) * u - 1.0, x)
        x = jnp.where(u >= high, 2.0 * high / jnp.maximum(u, high) - 1.0, x)
        cell = jnp.where(u < low, 0, jnp.where(u >= high, _CELLS - 1, exponent - LOW + 1))
        first = cell.astype(jnp.int32) + np.int32(_ROWS.index(name) * TERMS * _CELLS)
        table = jax.lax.stop_gradient(self._table)

        def term(k: int) -> Array:
            return table.at[first + np.int32(k * _CELLS)].get(mode="promise_in_bounds")

        b1, b2 = term(TERMS - 1), jnp.zeros_like(x)
        for k in range(TERMS - 2, 0, -1):
            b1, b2 = term(k) + 2.0 * x * b1 - b2, b1
        return term(0) + x * b1 - b2


class _Radius(NamedTuple):
    node: np.ndarray
    weight: np.ndarray
    partial: Callable[[Array, int], Array]
    largest: float
    dimension: int

    def mean_of(self, values: np.ndarray) -> np.ndarray:
        return values @ self.weight  # values at (..., node)


#: The rows of the table, and the two coefficients of growth(m) = a m + b m^2.
_Rows = tuple[dict[str, Function], tuple[float, float]]


@singledispatch
def _rows_of(loss: AbstractMarginLoss, law: SphericalLaw, radius: _Radius) -> _Rows:
    """The rows for any loss that grows at most like a power; register closed forms here."""
    if float(loss.log_of_margin(jnp.asarray(-1e6))) > 1e3:
        raise fail(
            "law",
            law.name,
            f"the {loss.name} loss has an infinite or unknown mean under it",
            "pass a bounded law such as gf.UniformSphere(d), gf.Gaussian(d), or gf.logistic",
        )
    return _smooth_rows(radius, loss), (0.0, 0.0)


def radial_moments(loss: AbstractMarginLoss, law: SphericalLaw, dimension: int) -> RadialMoments:
    """Tabulate the moments of ``loss`` over the radius of the ``dimension``-D marginal (1, 2 or 3).

    Raises
    ------
    ValueError
        If the risk is infinite: a loss of exponential growth on a law that is neither bounded nor
        Gaussian.
    """
    with jax.ensure_compile_time_eval():
        rule = (law.marginal_rule, law.planar_rule, law.spatial_rule)[dimension - 1]()
        partial = (
            law.marginal_partial_moment,
            law.planar_partial_moment,
            law.spatial_partial_moment,
        )[dimension - 1]
        node, weight = (np.asarray(part, dtype=np.float64) for part in rule)
        radius = _Radius(node, weight, partial, law.largest_radius, dimension)
        mean = float(weight @ node)
        rows, growth = _rows_of(loss, law, radius)
        hinge = "wrong_value" not in rows
        kinked = hinge and bool(np.isfinite(radius.largest))
        scale = (lambda u: (1.0 + u**2) / radius.largest) if kinked else (lambda u: u / mean)
        # Divide by the decay m^-k of G (m^-k-1 of g, the k-D volume at the origin) and by the
        # linear growth of G(-m), so that the series stand for functions close to constant.
        powers = {"value": dimension, "slope": dimension + 1, "wrong_value": -1}
        return RadialMoments(
            mean=jnp.asarray(mean),
            largest=jnp.asarray(radius.largest),
            _table=jnp.asarray(_tabulate(rows, scale, mean, powers)),
            _growth=jnp.asarray(growth),
            dimension=dimension,
            kinked=kinked,
            hinge=hinge,
        )


def _tabulate(
    rows: dict[str, Function], scale: Function, mean: float, powers: dict[str, int]
) -> np.ndarray:
    """Chebyshev coefficients of row times (1 + m mean)^power on every cell: row, term, cell."""
    angle = np.pi * (np.arange(TERMS) + 0.5) / TERMS
    x = np.cos(angle)
    left = 2.0 ** np.arange(LOW, HIGH)
    inner = left[:, None] * (1.5 + 0.5 * x)
    u = np.vstack([0.5 * 2.0**LOW * (1 + x), inner, 2.0 * 2.0**HIGH / (1 + x)])
    transform = np.cos(np.outer(np.arange(TERMS), angle)) * (2.0 / TERMS)
    transform[0] *= 0.5
    m = scale(u)
    table = np.zeros((len(_ROWS), TERMS, _CELLS))
    for row, name in enumerate(_ROWS):
        if name in rows:
            values = rows[name](m) * (1.0 + m * mean) ** powers.get(name, 0)
            table[row] = transform @ values.T
    return table.ravel()


def _smooth_rows(radius: _Radius, loss: AbstractMarginLoss) -> dict[str, Function]:
    """Rows of a smooth loss of polynomial growth, by the law's quadrature rule."""
    s = radius.node
    series = _small_quotient(loss)

    def expect(function: Callable[[Array], Array], factor: np.ndarray | float = 1.0) -> Function:
        def at(m: np.ndarray) -> np.ndarray:
            return radius.mean_of(factor * np.asarray(function(jnp.asarray(m[..., None] * s))))

        return at

    def gap(m: np.ndarray) -> np.ndarray:
        # (l(-z) - l(z))/z; below 1/2, where the difference cancels, its expansion in z^2.
        z = m[..., None] * s
        far = jnp.asarray(np.maximum(z, 0.5))
        quotient = np.asarray((loss.of_margin(-far) - loss.of_margin(far)) / far)
        return radius.mean_of(s * np.where(z < 0.5, series(np.minimum(z, 0.5) ** 2), quotient))

    return {
        "value": expect(loss.of_margin),
        "slope": expect(lambda z: -loss.margin_derivative(z), s),
        "wrong_value": expect(lambda z: loss.of_margin(-z)),
        "wrong_slope": expect(lambda z: -loss.margin_derivative(-z), s),
        "gap": gap,
    }


def _small_quotient(loss: AbstractMarginLoss) -> np.polynomial.Chebyshev:
    """Series in z^2 on [0, 1/4] of (l(-z) - l(z))/z, the mean of -2 l' over [-z, z]."""
    u, weight = np.polynomial.legendre.leggauss(12)

    def quotient(square: np.ndarray) -> np.ndarray:
        z = np.sqrt(square)[:, None] * u
        return -np.asarray(loss.margin_derivative(jnp.asarray(z))) @ weight

    return np.polynomial.Chebyshev.interpolate(quotient, 12, domain=[0.0, 0.25])


@_rows_of.register
def _exponential_rows(loss: Exponential, law: SphericalLaw, radius: _Radius) -> _Rows:
    if np.isfinite(radius.largest):
        return _bounded_exponential_rows(radius), (radius.largest, 0.0)
    if law.gaussian_scale is None:
        return _rows_of.dispatch(object)(loss, law, radius)
    sigma = law.gaussian_scale
    return _gaussian_exponential_rows(radius, sigma), (0.0, 0.5 * sigma**2)


def _bounded_exponential_rows(radius: _Radius) -> dict[str, Function]:
    """Rows of e^{-z} on a bounded law, the wrong side scaled by exp(-largest m)."""
    s, top = radius.node, radius.largest
    short = top - s

    def wrong(m: np.ndarray) -> np.ndarray:
        return np.exp(-m[..., None] * short)

    def gap(m: np.ndarray) -> np.ndarray:
        z = 2.0 * m[..., None] * s
        return radius.mean_of(2.0 * s * wrong(m) * expm1_ratio(-z))

    return {
        "value": lambda m: radius.mean_of(np.exp(-m[..., None] * s)),
        "slope": lambda m: radius.mean_of(s * np.exp(-m[..., None] * s)),
        "wrong_value": lambda m: radius.mean_of(wrong(m)),
        "wrong_slope": lambda m: radius.mean_of(s * wrong(m)),
        "gap": gap,
    }


def _gaussian_exponential_rows(radius: _Radius, sigma: float) -> dict[str, Function]:
    r"""Rows of e^{-z} on N(0, sigma^2 I), the wrong side scaled by exp(-sigma^2 m^2/2).

    With :math:`J_n(q)=\int_0^\infty t^ne^{-t^2/2+qt}dt`, q = sigma m: J_1 = 1 + q J_0 and
    J_{n+1} = q J_n + n J_{n-1}, all terms positive. The k-D radius has density
    :math:`t^{k-1}e^{-t^2/2}/J_{k-1}(0)`.
    """
    s, k = radius.node, radius.dimension
    norm = (np.sqrt(np.pi / 2), 1.0, np.sqrt(np.pi / 2))[k - 1]

    def moment(n: int, m: np.ndarray) -> np.ndarray:
        q = sigma * m
        j = [np.sqrt(np.pi / 2) * erfc(-q / np.sqrt(2))]
        j.append(np.exp(-0.5 * q**2) + q * j[0])
        for i in range(1, n):
            j.append(q * j[i] + i * j[i - 1])
        return j[n] / norm

    def value(m: np.ndarray) -> np.ndarray:
        return radius.mean_of(np.exp(-m[..., None] * s))

    def gap(m: np.ndarray) -> np.ndarray:
        q = sigma * m
        small = q < 1
        z = np.where(small, m, 1.0 / sigma)[..., None] * s
        series = radius.mean_of(2.0 * s * np.sinh(z) / z) * np.exp(-0.5 * np.minimum(q, 1.0) ** 2)
        decay = np.exp(-0.5 * q**2)
        return np.where(small, series, (moment(k - 1, m) - value(m) * decay) / m)

    return {
        "value": value,
        "slope": lambda m: radius.mean_of(s * np.exp(-m[..., None] * s)),
        "wrong_value": lambda m: moment(k - 1, m),
        "wrong_slope": lambda m: sigma * moment(k, m),
        "gap": gap,
    }


@_rows_of.register
def _hinge_rows(loss: Hinge, law: SphericalLaw, radius: _Radius) -> _Rows:
    """Rows of max(0, 1 - z): partial moments P_k(x) = E[s^k 1{s < x}] at x = 1/m.

    On the wrong side G and g are linear, and have no rows.
    """
    mean = float(radius.weight @ radius.node)

    def partial(k: int, x: np.ndarray) -> np.ndarray:
        return np.asarray(radius.partial(jnp.asarray(x), k))

    def gap(m: np.ndarray) -> np.ndarray:
        x = 1.0 / m
        first = partial(1, x)
        # E min(s, x) lies between P_1(x) and E s: the bounds remove the rounding of x (1 - P_0(x)).
        return mean + np.clip(first + x * (1.0 - partial(0, x)), first, mean)

    rows = {
        "value": lambda m: partial(0, 1.0 / m) - m * partial(1, 1.0 / m),
        "slope": lambda m: partial(1, 1.0 / m),
        "gap": gap,
    }
    return rows, (0.0, 0.0)
