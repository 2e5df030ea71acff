r"""Tabulate the radial functions of a law: kernels, expectations, Chebyshev series (NumPy).

:func:`radial_values` sums the expectations over quadrature rules, :func:`fit_radial` turns them
into the tables of a :class:`Fit`. :mod:`.radial` says which functions these are, in
which form they are tabulated and why, and evaluates the tables in JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from gradflow.data.laws.quadrature import Nodes
from gradflow.numerics.logs import log1p_ratio

#: Panels and Chebyshev terms of the ``"rational"`` layout.
PANELS = 16
TERMS = 15
#: Chebyshev terms per binary octave of the ``"octave"`` layout.
OCTAVE_TERMS = 22

#: The tabulated functions, in the order of the table. "dg" is -g' and "d2psi" is Psi'', kept for
#: the derivatives: the slope of a series is accurate relative to the function over its argument
#: only.
NAMES = ("h", "dh", "h_complement", "H", "psi_prime", "psi_bar", "g", "dg", "d2psi")


def log_cosh_half(z: np.ndarray) -> np.ndarray:
    r""":math:`\ln\cosh(z/2)` for z >= 0, to full relative accuracy."""
    small = np.log1p(2 * np.sinh(np.minimum(z, 2.0) / 4) ** 2)
    return np.where(z < 2, small, z / 2 - np.log(2.0) + np.log1p(np.exp(-z)))


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
    out = {name: np.empty(m.shape) for name in NAMES}
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


def chebyshev_matrix(terms: int) -> np.ndarray:
    """Matrix (points, terms): values at first-kind points times it are the coefficients."""
    angle = (np.arange(terms) + 0.5) * np.pi / terms
    matrix = np.cos(np.outer(angle, np.arange(terms))) * (2 / terms)
    matrix[:, 0] /= 2
    return matrix


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
    to_coefficients = chebyshev_matrix(terms)
    table = np.empty((len(NAMES), terms, panels))
    for row, name in enumerate(NAMES):
        ratio = (found[name] / majorant[name]).reshape(panels, terms)
        table[row] = (ratio @ to_coefficients).T
    return Fit(table, c0, p0, pole, gap, power, end, layout, octaves[0])
