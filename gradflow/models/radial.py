r"""One-dimensional functions that carry a spherically symmetric law into the reduced flows.

Every planar integral of the two-neuron flow comes down to seven functions of one argument
(:class:`RadialFunctions`).  They are expectations over :math:`|x_1|`, the modulus of the 1-D
marginal, or over :math:`\rho`, the radius of the 2-D marginal, and have to be known to rounding
error over twenty-five decades of the argument, cheaply: one right-hand side asks for hundreds of
values.

Representation
--------------
With :math:`\zeta = m/(m+c)` every function is an elementary majorant with the right limits at
both ends times a ratio :math:`T` that is smooth, positive and never far from constant:

======================  =================================================
``h``                   :math:`(1-\zeta)^2\,T`
``dh``                  :math:`-(1-\zeta)^3\,T`
``h_complement``        :math:`\zeta\,T`
``H``                   :math:`(1-\zeta)\,T`
``psi_prime``           :math:`\zeta\,T`
``psi_bar``             :math:`m\,\zeta\,T`
``g``                   :math:`e^{-\text{gap}\,m}(1-\zeta)^{2q}\,T`
``-g'``                 :math:`e^{-\text{gap}\,m}(1-\zeta)^{3q}\,T`
``psi''``               :math:`e^{-\text{gap}\,m}(1-\zeta)^{4q}\,T`
======================  =================================================

:math:`T` is a piecewise Chebyshev series.  Two layouts of the panels exist:

- ``"rational"``: :data:`PANELS` equal panels in :math:`\zeta\in[0,1]`, :data:`TERMS` terms each.
  This needs :math:`T` smooth in :math:`m` at 0 and in :math:`1/m` at infinity: laws with a density
  smooth at 0 and all moments.  Short panels with looked-up coefficients beat one 64-term series
  sevenfold in time, because the series is a chain of dependent operations.
- ``"octave"``: one panel per binary octave of :math:`m`, found from the bits of the float, with
  :data:`OCTAVE_TERMS` terms.  This serves heavy tails, where the functions have fractional powers
  or logarithms of :math:`m` at 0.  Below the first octave the two leading powers are used:
  :math:`m\,[A + B\,(m^\delta-1)/\delta]`.

The numbers live in array leaves, so that compiled code is shared by all laws with one layout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

#: Panels and Chebyshev terms of the ``"rational"`` layout.
PANELS = 16
TERMS = 15
#: Chebyshev terms per binary octave of the ``"octave"`` layout.
OCTAVE_TERMS = 22

# "dg" is -g' and "d2psi" is Psi'', kept for the derivatives: the slope of a series is accurate
# relative to the function over its argument only.
_NAMES = ("h", "dh", "h_complement", "H", "psi_prime", "psi_bar", "g", "dg", "d2psi")
_ROW = {name: row for row, name in enumerate(_NAMES)}
_LN2 = float(np.log(2.0))


class Nodes(NamedTuple):
    """Quadrature rule: ``sum(weight * f(node))`` stands for ``E f``."""

    node: np.ndarray
    weight: np.ndarray


class RadialFunctions(eqx.Module):
    r"""The seven radial functions of a spherically symmetric law.

    All methods act elementwise on arguments in ``[0, 1e15]`` (and beyond, by the leading
    asymptotics), are jittable and differentiable, and have a relative error of a few 1e-15.
    ``psi_prime`` and ``psi_bar`` also take negative arguments (odd and even).

    Build it through a law's ``radial`` attribute.

    Attributes
    ----------
    c0 : Array
        :math:`E\rho = (\pi/2)\,E|x_1|`.
    p0 : Array
        Density of the 1-D marginal at 0.
    kappa : Array
        :math:`\pi^2p_0/6`, so that :math:`h(R)\sim\kappa/R^2`.
    """

    c0: Array
    p0: Array
    kappa: Array
    _table: Array  # (9 * terms * panels,): function, then term, then panel
    _unit: Array  # m * unit is dimensionless
    _pole: Array  # c of zeta = m/(m+c)
    _gap: Array  # g has the factor exp(-gap m unit)
    _power: Array  # q in {0, 1}: whether g has the factor (1-zeta)^2
    _end: Array  # (5,): A and B of psi_prime, A and B of h_complement, delta
    _layout: Literal["rational", "octave"] = eqx.field(static=True)
    _terms: int = eqx.field(static=True)
    _panels: int = eqx.field(static=True)
    _lowest: int = eqx.field(static=True)  # log2 of the lowest octave edge

    # -- the seven functions ---------------------------------------------------------------
    def h(self, R: ArrayLike) -> Array:
        r""":math:`h(R) = E[|x_1|/(1+e^{R|x_1|})]`, from :math:`c_0/\pi` to :math:`\kappa/R^2`."""
        return _h(self, _float(R))

    def dh(self, R: ArrayLike) -> Array:
        r""":math:`h'(R) = -E[x_1^2/(4\cosh^2(R|x_1|/2))] \le 0`."""
        return _dh(self, _float(R))

    def h_complement(self, R: ArrayLike) -> Array:
        r""":math:`c_0/\pi - h(R) = \tfrac12E[|x_1|\tanh(R|x_1|/2)]`, free of cancellation."""
        return _h_complement(self, _float(R))

    def H(self, R: ArrayLike) -> Array:
        r""":math:`H(R) = E\ln(1+e^{-R|x_1|}) = \int_R^\infty h`."""
        return _H(self, _float(R))

    def psi_prime(self, m: ArrayLike) -> Array:
        r""":math:`\Psi'(m) = \tfrac12E[\rho\tanh(\rho m/2)]`, odd, from 0 to :math:`c_0/2`."""
        return _psi_prime(self, _float(m))

    def psi_bar(self, m: ArrayLike) -> Array:
        r""":math:`\bar\Psi(m) = E\ln\cosh(\rho m/2) = \int_0^m\Psi'`, even."""
        return _psi_bar(self, _float(m))

    def g(self, m: ArrayLike) -> Array:
        r""":math:`g(m) = E\ln(1+e^{-\rho m}) = \bar\Psi(m) - c_0m/2 + \ln2`, without cancelling."""
        return _g(self, _float(m))

    # -- evaluation of the ratio T ---------------------------------------------------------
    def _locate(self, u: Array) -> tuple[Array, Array, Array, Array]:
        """Panel number, local coordinate in [-1, 1], zeta and 1 - zeta of dimensionless u >= 0."""
        total = u + self._pole
        zeta, rest = u / total, self._pole / total
        if self._layout == "rational":
            y = self._panels * zeta
            whole = jnp.minimum(jnp.floor(y), self._panels - 1)
            return whole.astype(jnp.int32), 2 * (y - whole) - 1, zeta, rest
        highest = self._lowest + self._panels
        inside = jnp.clip(u, 2.0**self._lowest, np.nextafter(2.0**highest, 0.0))
        # The exponent field of the float is the octave; its mantissa is the place inside it.
        bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(inside), jnp.int64)
        exponent = jnp.right_shift(bits, 52) - 1023
        scale = jax.lax.bitcast_convert_type(jnp.left_shift(1023 - exponent, 52), jnp.float64)
        return (exponent - self._lowest).astype(jnp.int32), 2 * (inside * scale) - 3, zeta, rest

    def _ratio(self, name: str, panel: Array, s: Array) -> Array:
        """Clenshaw sum of the series of one function, with looked-up coefficients."""
        table = jax.lax.stop_gradient(self._table)
        row = _ROW[name] * self._terms

        def term(k: int) -> Array:
            index = panel + np.int32((row + k) * self._panels)
            return table.at[index].get(mode="promise_in_bounds")

        twice = 2 * s
        b1, b2 = term(self._terms - 1), jnp.zeros_like(s)
        for k in range(self._terms - 2, 0, -1):
            b1, b2 = term(k) + twice * b1 - b2, b1
        return term(0) + s * b1 - b2

    def _value(self, name: str, m: Array) -> Array:
        """Value of one function for m >= 0."""
        u = m * self._unit
        panel, s, zeta, rest = self._locate(u)
        ratio = self._ratio(name, panel, s)
        if name in ("h_complement", "psi_prime"):
            value = zeta * ratio
        elif name == "psi_bar":
            value = u * (zeta * ratio)
        elif name == "h":
            value = rest * rest * ratio
        elif name == "dh":
            value = -(rest * rest * rest * ratio)
        elif name == "H":
            value = rest * ratio
        else:
            decay = rest ** {"g": 2, "dg": 3, "d2psi": 4}[name]
            value = jnp.exp(-self._gap * u) * (1 - self._power + self._power * decay) * ratio
        if self._layout == "octave":
            lowest = 2.0**self._lowest
            value = jnp.where(u < lowest, self._small(name, jnp.minimum(u, lowest)), value)
        if name in ("h", "h_complement", "psi_prime", "dg"):
            return value * self._unit
        return value * self._unit**2 if name in ("dh", "d2psi") else value

    def _small(self, name: str, u: Array) -> Array:
        """The two leading powers of u (dimensionless) below the lowest octave, for the unit law."""
        planar = name in ("psi_prime", "psi_bar", "g", "dg", "d2psi")
        a, b = (self._end[0], self._end[1]) if planar else (self._end[2], self._end[3])
        delta = self._end[4]
        log = jnp.where(u > 0, jnp.log(jnp.where(u > 0, u, 1.0)), -690.0)
        v = delta * log
        tiny = jnp.abs(v) < 1e-8
        # (u^delta - 1)/delta, which is ln u at delta = 0
        power = log * jnp.where(tiny, 1 + v / 2, jnp.expm1(v) / jnp.where(tiny, 1.0, v))
        if name in ("psi_prime", "h_complement"):
            return u * (a + b * power)
        if name in ("dh", "d2psi"):
            slope = a + b * (power + jnp.exp(v))
            return -slope if name == "dh" else slope
        slope = self.c0 / self._unit / (2 if planar else jnp.pi)
        if name in ("h", "dg"):
            return slope - u * (a + b * power)
        integral = u * u * (a / 2 + b * (power - 0.5) / (2 + delta))
        if name == "psi_bar":
            return integral
        return _LN2 - slope * u + integral


def _float(value: ArrayLike) -> Array:
    return jnp.asarray(value, dtype=jnp.float64)


@partial(jax.jit, static_argnames="name")
def _evaluate(radial: RadialFunctions, m: Array, name: str) -> Array:
    """One function, traced once a shape: a flow's right-hand side asks for dozens of them."""
    return radial._value(name, m)


# Derivatives: where the derivative of one function is another one, it is used as such, which
# keeps full accuracy; dh and Psi'' themselves are differentiated through their series.
# The functions are constants of the problem: the leaves of `radial` carry no tangent.


@jax.custom_jvp
def _h(radial: RadialFunctions, R: Array) -> Array:
    return _evaluate(radial, R, "h")


@jax.custom_jvp
def _h_complement(radial: RadialFunctions, R: Array) -> Array:
    return _evaluate(radial, R, "h_complement")


@jax.custom_jvp
def _H(radial: RadialFunctions, R: Array) -> Array:
    return _evaluate(radial, R, "H")


@jax.custom_jvp
def _psi_bar(radial: RadialFunctions, m: Array) -> Array:
    return _evaluate(radial, jnp.abs(m), "psi_bar")


def _dh(radial: RadialFunctions, R: Array) -> Array:
    return _evaluate(radial, R, "dh")


@jax.custom_jvp
def _g(radial: RadialFunctions, m: Array) -> Array:
    return _evaluate(radial, m, "g")


@_g.defjvp
def _g_jvp(primals, tangents):
    radial, m = primals
    return _g(radial, m), -_dg(radial, m) * tangents[1]


@jax.custom_jvp
def _dg(radial: RadialFunctions, m: Array) -> Array:
    return _evaluate(radial, m, "dg")


@jax.custom_jvp
def _psi_prime(radial: RadialFunctions, m: Array) -> Array:
    return jnp.where(m < 0, -1.0, 1.0) * _evaluate(radial, jnp.abs(m), "psi_prime")


@_dg.defjvp
def _dg_jvp(primals, tangents):
    radial, m = primals
    return _dg(radial, m), -_evaluate(radial, m, "d2psi") * tangents[1]


@_psi_prime.defjvp
def _psi_prime_jvp(primals, tangents):
    radial, m = primals
    return _psi_prime(radial, m), _evaluate(radial, jnp.abs(m), "d2psi") * tangents[1]


@_h.defjvp
def _h_jvp(primals, tangents):
    radial, R = primals
    return _h(radial, R), _dh(radial, R) * tangents[1]


@_h_complement.defjvp
def _h_complement_jvp(primals, tangents):
    radial, R = primals
    return _h_complement(radial, R), -_dh(radial, R) * tangents[1]


@_H.defjvp
def _H_jvp(primals, tangents):
    radial, R = primals
    return _H(radial, R), -_h(radial, R) * tangents[1]


@_psi_bar.defjvp
def _psi_bar_jvp(primals, tangents):
    radial, m = primals
    return _psi_bar(radial, m), _psi_prime(radial, m) * tangents[1]


# -- kernels and fits (NumPy) ---------------------------------------------------------------------


def log_cosh_half(z: np.ndarray) -> np.ndarray:
    r""":math:`\ln\cosh(z/2)` for z >= 0, to full relative accuracy."""
    small = np.log1p(2 * np.sinh(np.minimum(z, 2.0) / 4) ** 2)
    return np.where(z < 2, small, z / 2 - _LN2 + np.log1p(np.exp(-z)))


def radial_values(
    m: np.ndarray,
    marginal: Nodes,
    planar: Nodes,
    *,
    gap: float = 0.0,
    c0: float | None = None,
) -> dict[str, np.ndarray]:
    r"""Sum the seven expectations at ``m`` over the rules of :math:`|x_1|` and :math:`\rho`.

    Parameters
    ----------
    m : array (n,)
        Arguments >= 0.
    marginal, planar : Nodes
        Rules for :math:`|x_1|` and :math:`\rho`.
    gap : float
        ``g`` is returned multiplied by ``exp(gap m)``.
    c0 : float, optional
        If given, the increasing functions are formed as ``c0``-term minus a bounded part. This is
        for tails so heavy that a rule cannot reach the end of :math:`E\rho`; there the subtraction
        is harmless for every ``m`` of interest.

    Returns
    -------
    dict
        Arrays (n,) for ``h``, ``-dh``, ``h_complement``, ``H``, ``psi_prime``, ``psi_bar``, ``g``,
        ``-g'`` and ``psi''``.
    """
    out = {name: np.empty(m.shape) for name in _NAMES}
    x, wx = marginal
    rho, wr = planar
    # far out in a heavy tail x^2 may overflow, where the kernels have long been zero
    with np.errstate(over="ignore", invalid="ignore"):
        wxx, wrr = (np.where(np.isfinite(w * r * r), w * r * r, 0.0) for r, w in (marginal, planar))
    rows = max(1, 400_000 // max(x.size, rho.size))
    for start in range(0, m.size, rows):
        part = slice(start, start + rows)
        z = m[part, None] * x
        e = np.exp(-z)
        f = e / (1 + e)
        out["h"][part] = f @ (wx * x)
        out["dh"][part] = (f / (1 + e)) @ wxx
        out["H"][part] = np.log1p(e) @ wx
        u = m[part, None] * rho
        e = np.exp(-u)
        if gap == 0:
            out["g"][part] = np.log1p(e) @ wr
            out["dg"][part] = (e / (1 + e)) @ (wr * rho)
            out["d2psi"][part] = (e / (1 + e) ** 2) @ wrr
        else:
            # the decay is taken out before anything underflows
            rest = np.exp(gap * m[part, None] - u)
            out["g"][part] = (log1p_ratio(e) * rest) @ wr
            out["dg"][part] = (rest / (1 + e)) @ (wr * rho)
            out["d2psi"][part] = (rest / (1 + e) ** 2) @ wrr
        if c0 is None:
            out["h_complement"][part] = (np.expm1(-z) / (-2 * (1 + np.exp(-z)))) @ (wx * x)
            out["psi_prime"][part] = (np.expm1(-u) / (-2 * (1 + e))) @ (wr * rho)
            out["psi_bar"][part] = log_cosh_half(u) @ wr
        else:
            out["h_complement"][part] = c0 / np.pi - out["h"][part]
            out["psi_prime"][part] = c0 / 2 - (e / (1 + e)) @ (wr * rho)
            out["psi_bar"][part] = c0 / 2 * m[part] + np.log1p(np.expm1(-u) / 2) @ wr
    return out


def log1p_ratio(e: np.ndarray) -> np.ndarray:
    """ln(1+e)/e for 0 <= e <= 1."""
    return np.where(e > 1e-17, np.log1p(e) / np.maximum(e, 1e-300), 1.0)


class Fit(NamedTuple):
    """Chebyshev tables of one law at unit length scale (NumPy; see :class:`RadialFunctions`)."""

    table: np.ndarray  # (9, terms, panels)
    c0: float
    p0: float
    pole: float
    gap: float
    power: float
    end: tuple[float, float, float, float, float]
    layout: Literal["rational", "octave"]
    lowest: int

    def tail(self) -> dict[str, float]:
        """Largest of the last two coefficients over the first: how well each series has ended."""
        size = np.abs(self.table)
        worst = (size[:, -2:].max(axis=1) / size[:, 0]).max(axis=1)
        return dict(zip(_NAMES, worst.tolist(), strict=True))


def _panel_points(
    layout: str, terms: int, panels: int, pole: float, lowest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chebyshev points of all panels: arguments, zeta and 1 - zeta, each (panels * terms,)."""
    s = np.cos((np.arange(terms) + 0.5) * np.pi / terms)
    if layout == "rational":
        # (s+1)/2 and (1-s)/2 as squares of half-angle functions: no cancellation at the ends
        half = (np.arange(terms) + 0.5) * np.pi / (2 * terms)
        k = np.arange(panels)[:, None]
        zeta = ((k + np.cos(half) ** 2) / panels).ravel()
        rest = ((panels - 1 - k + np.sin(half) ** 2) / panels).ravel()
        return pole * zeta / rest, zeta, rest
    edge = 2.0 ** (lowest + np.arange(panels))[:, None]
    m = (edge * (3 + s) / 2).ravel()
    return m, m / (m + pole), pole / (m + pole)


def chebyshev_coefficients(values: np.ndarray) -> np.ndarray:
    """Coefficients (..., terms) of the interpolant through values at first-kind points."""
    terms = values.shape[-1]
    angle = (np.arange(terms) + 0.5) * np.pi / terms
    matrix = np.cos(np.outer(angle, np.arange(terms))) * (2 / terms)
    matrix[:, 0] /= 2
    return values @ matrix


def fit_radial(
    values: Callable[[np.ndarray], dict[str, np.ndarray]],
    *,
    c0: float,
    p0: float,
    pole: float,
    layout: Literal["rational", "octave"] = "rational",
    octaves: tuple[int, int] = (-30, 52),
    gap: float = 0.0,
    power: float = 1.0,
    end: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0),
) -> Fit:
    """Tabulate the ratios of the seven functions of a law with unit length scale.

    Parameters
    ----------
    values : callable
        Arguments (n,) to a dict of the seven functions, as :func:`radial_values`.
    c0, p0 : float
        Mean of the planar radius, density of the marginal at 0.
    pole : float
        The constant c of zeta = m/(m+c), about the place where the functions turn over.
    layout : {"rational", "octave"}
        Panels in zeta, or one panel per octave.
    octaves : tuple of int
        log2 of the ends of the tabulated range, for ``"octave"``.
    gap, power : float
        ``g`` is tabulated relative to ``exp(-gap m) (1-zeta)^(2 power)``, and its two derivatives
        with one and two powers more; power is 0 or 1.
    end : tuple
        A, B (planar), A, B (marginal) and delta of the small-argument form.
    """
    rational = layout == "rational"
    terms = TERMS if rational else OCTAVE_TERMS
    panels = PANELS if rational else octaves[1] - octaves[0]
    m, zeta, rest = _panel_points(layout, terms, panels, pole, octaves[0])
    majorant = {
        "h": rest**2,
        "dh": rest**3,
        "h_complement": zeta,
        "H": rest,
        "psi_prime": zeta,
        "psi_bar": m * zeta,
        "g": rest**2 if power else np.ones_like(m),
        "dg": rest**3 if power else np.ones_like(m),
        "d2psi": rest**4 if power else np.ones_like(m),
    }
    found = values(m)
    table = np.empty((len(_NAMES), terms, panels))
    for name, row in _ROW.items():
        ratio = (found[name] / majorant[name]).reshape(panels, terms)
        table[row] = chebyshev_coefficients(ratio).T
    return Fit(table, c0, p0, pole, gap, power, end, layout, octaves[0])


def radial_functions(fit: Fit, unit: float) -> RadialFunctions:
    """The radial functions of a law that is ``unit`` times as wide as the fitted one."""
    c0, p0 = fit.c0 * unit, fit.p0 / unit
    _, terms, panels = fit.table.shape
    with jax.ensure_compile_time_eval():
        return RadialFunctions(
            c0=jnp.asarray(c0, jnp.float64),
            p0=jnp.asarray(p0, jnp.float64),
            kappa=jnp.asarray(np.pi**2 * p0 / 6, jnp.float64),
            _table=jnp.asarray(fit.table.ravel(), jnp.float64),
            _unit=jnp.asarray(float(unit), jnp.float64),
            _pole=jnp.asarray(fit.pole, jnp.float64),
            _gap=jnp.asarray(fit.gap, jnp.float64),
            _power=jnp.asarray(fit.power, jnp.float64),
            _end=jnp.asarray(fit.end, jnp.float64),
            _layout=fit.layout,
            _terms=terms,
            _panels=panels,
            _lowest=fit.lowest,
        )
