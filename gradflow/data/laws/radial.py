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

- ``"rational"``: ``PANELS`` equal panels in :math:`\zeta\in[0,1]`, ``TERMS`` terms each.
  This needs :math:`T` smooth in :math:`m` at 0 and in :math:`1/m` at infinity: laws with a density
  smooth at 0 and all moments.  Short panels with looked-up coefficients beat one 64-term series
  sevenfold in time, because the series is a chain of dependent operations.
- ``"octave"``: one panel per binary octave of :math:`m`, found from the bits of the float, with
  ``OCTAVE_TERMS`` terms.  This serves heavy tails, where the functions have fractional powers
  or logarithms of :math:`m` at 0.  Below the first octave the two leading powers are used:
  :math:`m\,[A + B\,(m^\delta-1)/\delta]`.

The tables come from :mod:`.radial_fit`. They live in array leaves, so that compiled
code is shared by all laws with one layout.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gradflow.data.laws.radial_fit import NAMES, Fit
from gradflow.numerics.logs import expm1_ratio

_ROW = {name: row for row, name in enumerate(NAMES)}
_LN2 = float(np.log(2.0))


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

    @property
    def smooth_at_zero(self) -> bool:
        """Whether the functions are smooth at 0; heavy tails put fractional powers there."""
        return self._layout == "rational"

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
        # (u^delta - 1)/delta, which is ln u at delta = 0
        power = log * expm1_ratio(v, jnp)
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
