r"""Tables of the radial functions of the named laws, at unit length scale.

The uniform laws and the Gaussian are smooth at 0 and have all moments: one ``"rational"`` layout
serves them. The Student t has powers of m with fractional exponents at 0, and gets octaves and the
two leading powers below them (see :mod:`gradflow.data.laws.radial`).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from gradflow.data.laws.constants import sphere_c0, sphere_p0, student_c0, student_p0
from gradflow.data.laws.quadrature import gaussian_nodes, sphere_nodes, student_nodes
from gradflow.data.laws.radial_fit import Fit, fit_radial, radial_values


@lru_cache(maxsize=64)
def sphere_fit(dim: int) -> Fit:
    marginal, planar = sphere_nodes(1, dim), sphere_nodes(2, dim)
    circle = dim == 2
    return fit_radial(
        lambda m: radial_values(m, marginal, planar, gap=1.0 if circle else 0.0),
        c0=sphere_c0(dim),
        p0=sphere_p0(dim),
        pole=6 * math.sqrt(max(1.0, dim / 10)),
        gap=1.0 if circle else 0.0,
        power=0.0 if circle else 1.0,
    )


@lru_cache(maxsize=1)
def gaussian_fit() -> Fit:
    marginal, planar = gaussian_nodes(1), gaussian_nodes(2)
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
def student_fit(nu: float) -> Fit:
    marginal, planar = student_nodes(1, nu), student_nodes(2, nu)
    c0, p0 = student_c0(nu), student_p0(nu)
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
