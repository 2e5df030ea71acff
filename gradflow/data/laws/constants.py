r"""Closed-form constants of the spherical laws at unit length scale, to rounding error.

``c0`` :math:`=E\rho`, the mean radius of the 2-D marginal, and ``p0``, the density of the 1-D
marginal at 0, are ratios of Gamma functions at arguments half apart. The difference of two
``lgamma`` loses digits as the dimension grows; :func:`gamma_ratio` does not.
"""

from __future__ import annotations

import math


def gamma_ratio(x: float) -> float:
    r""":math:`\Gamma(x+\tfrac12)/\Gamma(x)` for x > 0 to rounding error."""
    factor = 1.0
    while x < 30:
        factor *= x / (x + 0.5)
        x += 1
    u = 1 / x
    # ln of the ratio is ln(x)/2 - u/8 + u^3/192 - u^5/640 + 17u^7/14336 - 31u^9/18432 + ...
    series = -u / 8 + u**3 / 192 - u**5 / 640 + 17 * u**7 / 14336 - 31 * u**9 / 18432
    return factor * math.sqrt(x) * math.exp(series)


def beta(a: float, b: float) -> float:
    """Euler's B(a, b) for 2a a small positive integer and b > 0, to rounding error."""
    if a == 0.5:
        return math.sqrt(math.pi) / (gamma_ratio(b))
    if a == 1.0:
        return 1 / b
    return (a - 1) / (a - 1 + b) * beta(a - 1, b)


def sphere_c0(dim: float) -> float:
    """c0 of the uniform law on the unit sphere in R^dim."""
    return math.sqrt(math.pi) / 2 / gamma_ratio(dim / 2)


def sphere_p0(dim: float) -> float:
    """p0 of the uniform law on the unit sphere in R^dim."""
    return gamma_ratio((dim - 1) / 2) / math.sqrt(math.pi)


def student_c0(nu: float) -> float:
    """c0 of the Student t law of unit scale, in every dimension."""
    # sqrt(pi/2) E sqrt(nu/chi2_nu); Gamma((nu-1)/2)/Gamma(nu/2) = 1/gamma_ratio((nu-1)/2)
    return math.sqrt(math.pi * nu) / 2 / gamma_ratio((nu - 1) / 2)


def student_p0(nu: float) -> float:
    """p0 of the Student t law of unit scale, in every dimension."""
    return gamma_ratio(nu / 2) / math.sqrt(math.pi * nu)
