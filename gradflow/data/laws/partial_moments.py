r"""Incomplete moments in closed form, jittable: incomplete Gamma and Beta functions in JAX.

They give :math:`E[\rho^k1\{\rho<x\}]` of the marginals of the named laws, for the hinge loss.
The functions of ``jax.scipy.special`` lose digits for some of the orders that occur; these do not.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy import special as jsp
from scipy import special

from gradflow.data.laws.constants import beta
from gradflow.numerics.logs import expm1_ratio


def gamma_fraction(a: float, z: Array) -> Array:
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


def beta_fraction(a: float, b: float, y: Array, rest: Array) -> Array:
    """Regularised incomplete beta I_y(a, b), rest = 1 - y given exactly, relative error ~3e-14."""
    # For larger b the normalising constant inside betainc loses digits to lgamma. Its relative
    # error does not depend on y: read it off where the function is y^a/(a B) and divide it out.
    y0 = 1e-32
    repair = y0**a / (a * beta(a, b)) / jsp.betainc(a, b, y0) if b >= 5 else 1.0
    # Beyond the mean the complement is the small number, and 1 - y the argument that matters.
    lower = y < (a + 1) / (a + b + 2)
    below = repair * jsp.betainc(a, b, jnp.where(lower, y, 0.0))
    above = 1 - repair * jsp.betainc(b, a, jnp.where(lower, 0.0, rest))
    return jnp.where(lower, below, above)


def beta_integral(a: float, b: float, y: Array, rest: Array) -> Array:
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
    first = -(0.5**b) * log * expm1_ratio(v, jnp)
    # n >= 1 relative to w = 1/2
    n = terms[1:]
    at_half = float(np.sum(near1[1:] * 0.5 ** (b + n) / (b + n)))
    others = w ** (b + 1) * jnp.polyval(jnp.asarray((near1[1:] / (b + n))[::-1]), w)
    return jnp.where(y < 0.5, low, half + first + (at_half - others))


def sphere_partial(dimension: int, dim: int, x: Array, k: int) -> Array:
    """E[rho^k 1{rho < x}] of the marginal of that dimension of the unit sphere in R^dim."""
    if dimension == dim:
        return jnp.where(x > 1, 1.0, 0.0)
    a, b = dimension / 2, (dim - dimension) / 2
    full = beta(a + k / 2, b) / beta(a, b)
    x = jnp.minimum(x, 1.0)
    return full * beta_fraction(a + k / 2, b, x * x, (1 - x) * (1 + x))
