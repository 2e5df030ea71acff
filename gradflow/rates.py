"""Exponents and constants of asymptotic laws, read off sampled series, each with an error bar.

A series ``y(t)`` is handed over as ``ln t`` and ``ln y``, so that times like ``exp(1e10)`` and
angles like ``exp(-1e20)`` are ordinary numbers. The law

    y(t) = A t^p (1 + sum_i c_i t^(-q_i) (ln t)^(l_i) + ...)

becomes linear after taking logarithms: ``ln y = ln A + p L + corrections`` with ``L = ln t``. The
correction powers come from a derivation (dominant balance, see ``gradflow.symbolic``); they are
never fitted. Every estimate is a fixed linear functional of the samples, so the effect of sample
errors is bounded by its l1 norm, in the worst case and not on average: integration errors are
correlated, and averaging over samples does not remove them.

The truncation error is seen by shifting the window. The span of the fitted columns is invariant
under ``t -> c t``; a neglected term ``t^(-q)`` therefore shifts an estimate by an amount that falls
by exactly ``c^(-q)`` when the window moves by the factor ``c``. Three windows show the fall,
whatever ``q`` is, and thus also when the supplied powers are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradflow.validation import check_array, check_nonnegative, check_real, fail

_EPS = float(np.finfo(np.float64).eps)
_MAX_ORDERS = 5  # more orders only amplify rounding
_MAX_CONDITION = 1e11
_SAFETY = 4.0
_SLOWEST = 0.5  # a neglected term is taken to fall at least this slowly, whatever is supplied
_FRACTIONS = (1.0, 0.7, 0.5, 0.35, 0.25)  # of the series, counted from its end
_LEAST_FALL = 0.5  # of the logarithm of the slowest correction, per shift of the window
_RIVAL = 5.0


class Estimate(NamedTuple):
    """A number and the half-width of the interval in which the true one is expected.

    Attributes
    ----------
    value : float
    error : float
        Absolute and non-negative: truncation plus worst-case sample error.
    """

    value: float
    error: float

    def covers(self, truth: float) -> bool:
        """Whether ``truth`` lies within ``value ± error``."""
        return abs(self.value - truth) <= self.error


class LocalExponent(NamedTuple):
    """Local exponents ``d ln y / d ln t`` at the midpoints of the sample intervals.

    Attributes
    ----------
    log_t : ndarray, shape (n-1,)
        Midpoints in ``ln t``.
    value : ndarray, shape (n-1,)
    error : ndarray, shape (n-1,)
        Discretisation plus worst-case sample error; it says nothing about the limit ``t -> oo``.
    """

    log_t: np.ndarray
    value: np.ndarray
    error: np.ndarray


class PowerLaw(NamedTuple):
    """The law ``y ~ constant * t**exponent`` read off a series.

    Attributes
    ----------
    exponent, constant, log_constant : Estimate
        ``constant`` overflows to ``inf`` where only ``log_constant`` fits a float.
    orders : int
        Number of correction orders in the fit that was chosen for the exponent (for the constant
        when the exponent was given).
    """

    exponent: Estimate
    constant: Estimate
    log_constant: Estimate
    orders: int


class ExponentialLaw(NamedTuple):
    """The law ``y ~ exp(log_constant) x**power exp(-rate x)`` read off a series.

    Attributes
    ----------
    rate, power, log_constant : Estimate
    orders : int
        Number of correction orders in the fit that was chosen for the power.
    """

    rate: Estimate
    power: Estimate
    log_constant: Estimate
    orders: int


def local_exponent(log_t, log_y, *, noise=0.0) -> LocalExponent:
    """Slope of ``ln y`` against ``ln t``, by local cubics through four neighbouring samples.

    Parameters
    ----------
    log_t, log_y : array_like, shape (n,), n >= 4
        ``ln t`` strictly increasing, and ``ln y``.
    noise : float or array_like, shape (n,)
        Relative error of ``y`` (absolute error of ``ln y``), at most.

    Returns
    -------
    LocalExponent
        Its error is the difference between the cubic and the chord, plus the sample error.
    """
    log_t, log_y, noise = _check_series("log_t", log_t, "log_y", log_y, noise, minimum=4)
    n = log_t.size
    first = np.clip(np.arange(n - 1) - 1, 0, n - 4)
    index = first[:, None] + np.arange(4)
    nodes, middle = log_t[index], 0.5 * (log_t[1:] + log_t[:-1])
    scale = nodes[:, -1] - nodes[:, 0]
    # Weights w with sum_j w_j nodes_j^k = d/dx x^k at the midpoint, k = 0..3.
    z = (nodes - middle[:, None]) / scale[:, None]
    vandermonde = z[:, None, :] ** np.arange(4)[None, :, None]
    rhs = np.zeros((n - 1, 4, 1))
    rhs[:, 1, 0] = 1.0
    weights = np.linalg.solve(vandermonde, rhs)[..., 0] / scale[:, None]
    # Differences first: a large common level of ln y must not cost digits.
    value = np.sum(weights * (log_y[index] - log_y[first][:, None]), axis=1)
    chord = np.diff(log_y) / np.diff(log_t)
    size = _sample_error(log_t, log_y, noise, slope=float(np.max(np.abs(chord))))
    error = np.abs(value - chord) + np.sum(np.abs(weights) * size[index], axis=1)
    return LocalExponent(middle, value, error)


def extrapolate(
    log_t, log_y, corrections: Sequence[tuple[float, int]] = (), *, noise=0.0
) -> PowerLaw:
    """Exponent and constant of ``y ~ A t^p`` as ``t -> oo``, with error bars.

    Parameters
    ----------
    log_t, log_y : array_like, shape (n,), n >= 12
        ``ln t`` strictly increasing (log-spaced samples serve best, late ones matter most), and
        ``ln y``.
    corrections : sequence of (power, log_power)
        Derived relative corrections ``t^(-power) (ln t)^log_power``, slowest first. Products of
        them are added (they appear when the logarithm is taken), and lower powers of the
        logarithm (they appear when the unit of time changes).
    noise : float or array_like, shape (n,)
        Relative error of ``y``, at most: from a second, tighter or different solve.

    Returns
    -------
    PowerLaw

    Notes
    -----
    The constant is an extrapolation back to ``t = 1`` and loses a factor ``ln t`` against the
    exponent; where the exponent is derived, `constant_with_known_exponent` is sharper.
    """
    log_t, log_y, noise = _check_series("log_t", log_t, "log_y", log_y, noise, minimum=12)
    groups = _orders(corrections)
    exponent, intercept = _fit(log_t, log_y, ((0.0, 1), (0.0, 0)), groups, noise)[:2]
    return PowerLaw(
        exponent.estimate, _exp(intercept.estimate), intercept.estimate, exponent.orders
    )


def constant_with_known_exponent(
    log_t, log_y, exponent: float, corrections: Sequence[tuple[float, int]] = (), *, noise=0.0
) -> PowerLaw:
    """Constant ``A`` of ``y ~ A t^p`` with ``p`` given by a derivation.

    Parameters
    ----------
    log_t, log_y, corrections, noise
        As for `extrapolate`.
    exponent : float
        The derived ``p``.

    Returns
    -------
    PowerLaw
        With ``exponent`` as given and a zero error bar.
    """
    log_t, log_y, noise = _check_series("log_t", log_t, "log_y", log_y, noise, minimum=12)
    exponent = check_real("exponent", exponent)
    rounding = _EPS * np.abs(exponent * log_t)
    rest = log_y - exponent * log_t
    (intercept,) = _fit(log_t, rest, ((0.0, 0),), _orders(corrections), noise + 2 * rounding)
    estimate = intercept.estimate
    return PowerLaw(Estimate(exponent, 0.0), _exp(estimate), estimate, intercept.orders)


def exponential_rate(
    x,
    log_y,
    corrections: Sequence[tuple[float, int]] = ((1.0, 0),),
    *,
    rate: float | None = None,
    noise=0.0,
) -> ExponentialLaw:
    """Fit ``ln y = -A x + B ln x + C + sum_i c_i x^(-q_i) (ln x)^(l_i) + ...``.

    For laws such as ``theta ~ C R^B exp(-A R^2)``: pass ``x = R**2`` and halve nothing but the
    power, ``B_R = 2 * power``.

    Parameters
    ----------
    x : array_like, shape (n,), n >= 12
        Positive and strictly increasing, best over a decade or more.
    log_y : array_like, shape (n,)
    corrections : sequence of (power, log_power)
        Derived corrections in ``ln y``, slowest first; products are added.
    rate : float, optional
        ``A`` where it is derived; the power and the constant are then sharper.
    noise : float or array_like, shape (n,)
        Absolute error of ``ln y``, at most.

    Returns
    -------
    ExponentialLaw
    """
    x = check_array("x", x, (None,))
    if np.any(x <= 0):
        raise fail("x", x, "holds numbers <= 0", "pass positive, increasing x")
    log_x, log_y, noise = _check_series("x", np.log(x), "log_y", log_y, noise, minimum=12)
    groups = _orders(corrections)
    if rate is not None:
        rate = check_real("rate", rate)
        product = rate * x
        power, constant = _fit(
            log_x,
            log_y + product,
            ((0.0, 1), (0.0, 0)),
            groups,
            noise + 2 * _EPS * (np.abs(product) + np.abs(log_y)),
        )
        return ExponentialLaw(Estimate(rate, 0.0), power.estimate, constant.estimate, power.orders)
    linear, power, constant = _fit(
        log_x, log_y, ((-1.0, 0), (0.0, 1), (0.0, 0)), groups, noise + _EPS * np.abs(log_y)
    )
    return ExponentialLaw(
        Estimate(-linear.estimate.value, linear.estimate.error),
        power.estimate,
        constant.estimate,
        power.orders,
    )


# --- the engine --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    """One estimate of one coefficient: value, error bar, number of correction orders."""

    value: float
    error: float
    orders: int

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.error)


class _Raw(NamedTuple):
    """What one candidate's own three windows say."""

    value: float
    truncation: float
    noise: float


def _fit(log_t, log_y, base, groups, noise) -> list[_Candidate]:
    """Best estimate, by error bar, of the coefficient of each base column.

    Candidates differ in the number of correction orders and in how much of the early series they
    drop. Choosing the smallest bar favours accidental agreement (a neglected term may cancel at
    one window length), so a bar also spans the neighbours: the next longer and the next shorter
    window, and one order more, as far as sample errors do not explain the difference.
    """
    span = log_t[-1] - log_t[0]
    table: dict[tuple[int, int], list[_Raw]] = {}
    slowest = min(groups[0][0][0], _SLOWEST) if groups else _SLOWEST
    for f, fraction in enumerate(_FRACTIONS):
        if f and 0.25 * slowest * fraction * span < _LEAST_FALL:
            break  # too short for the shifts to tell anything
        for orders in range(len(groups) + 1):
            columns = [*base, *(c for group in groups[:orders] for c in group)]
            raw = _three_windows(log_t, log_y, noise, columns, len(base), fraction * span, slowest)
            if raw:
                table[f, orders] = raw
    if not table:
        raise fail(
            "log_t",
            log_t,
            "has too few samples, or too short a span, for any fit",
            "pass at least 12 samples spread over a decade or more",
        )
    results = []
    for j in range(len(base)):
        candidates = []
        for (f, orders), raws in table.items():
            raw = raws[j]
            truncation = raw.truncation
            for neighbour in ((f - 1, orders), (f + 1, orders), (f, orders + 1)):
                other = table.get(neighbour)
                if other is not None:
                    apart = abs(other[j].value - raw.value) - other[j].noise - raw.noise
                    truncation = max(truncation, apart)
            candidates.append(_Candidate(raw.value, truncation + raw.noise, orders))
        best = min(candidates, key=lambda c: c.error)
        rivals = [c for c in candidates if c.error <= _RIVAL * best.error]
        spread = max(abs(c.value - best.value) for c in rivals)
        results.append(_Candidate(best.value, max(best.error, spread), best.orders))
    return results


def _three_windows(log_t, log_y, noise, columns, n_base, span, slowest):
    """Fit on three equally long, shifted windows of the last ``span``; last value and its bar."""
    end, shift, length = log_t[-1], 0.25 * span, 0.5 * span
    fits = []
    for step in (2, 1, 0):
        stop = end - step * shift
        slack = 1e-12 * max(1.0, abs(end))
        inside = (log_t >= stop - length - slack) & (log_t <= stop + slack)
        if np.count_nonzero(inside) < len(columns) + 3:
            return None
        functionals = _functionals(log_t[inside], columns, n_base)
        if functionals is None:
            return None
        rough = _line(log_t[inside], log_y[inside])
        size = _sample_error(log_t[inside], log_y[inside], noise[inside], slope=rough[0])
        fits.append(
            (
                _apply(functionals, log_t[inside], log_y[inside], columns, n_base, rough),
                np.abs(functionals) @ size,
            )
        )
    result = []
    for j in range(n_base):
        (v1, n1), (v2, n2), (v3, n3) = ((value[j], bar[j]) for value, bar in fits)
        early, late = abs(v2 - v1), abs(v3 - v2)
        # What remains if the differences keep falling as they did, or as slowly as the slowest
        # derived correction: over a short series the differences alone say little.
        ratio = min(late / early, 0.95) if early > 0 else 0.0
        fall = np.exp(-slowest * shift)
        blind = fall / (1 - fall)
        remainder = late * max(1.0, ratio / (1 - ratio), blind + blind**2)
        # A late difference can vanish by accident where two neglected terms cancel; the early
        # one, reduced by two shifts, keeps a floor under the bar.
        truncation = _SAFETY * max(remainder, early * fall**2)
        if not np.isfinite(truncation + n1 + n2 + n3):
            return None
        result.append(_Raw(float(v3), float(truncation), float(n3)))
    return result


def _functionals(log_t, columns, n_base):
    """Rows g with ``coefficient_j = g_j . ln y``, shape (n_base, n); None if ill conditioned."""
    design, to_coefficient = _design(log_t, columns, n_base)
    norms = np.linalg.norm(design, axis=0)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0):
        return None
    q, r = np.linalg.qr(design / norms)
    if np.linalg.cond(r) > _MAX_CONDITION:
        return None
    # Only the wanted rows of the inverse, and only small solves: no threads to wait for.
    return np.linalg.solve(r.T, (to_coefficient / norms).T).T @ q.T


def _design(log_t, columns, n_base):
    """Columns ``t^(-q) (ln t)^l``, centred and scaled, and the map back to base coefficients.

    Centring a logarithm only mixes it with lower powers of the logarithm, which are in the span.
    """
    centre, half = 0.5 * (log_t[0] + log_t[-1]), 0.5 * (log_t[-1] - log_t[0])
    u = (log_t - centre) / half
    # Decaying columns are scaled to 1 at the start of the window, growing ones at its end.
    design = np.stack(
        [
            u**log_power * np.exp(-power * (log_t - (log_t[0] if power >= 0 else log_t[-1])))
            for power, log_power in columns
        ],
        axis=1,
    )
    back = np.zeros((n_base, len(columns)))
    for j, (power, log_power) in enumerate(columns[:n_base]):
        if power != 0:
            back[j, j] = np.exp(power * (log_t[0] if power > 0 else log_t[-1]))
        elif log_power == 1:
            back[j, j] = 1 / half
        else:
            back[j, j] = 1.0
            for i, other in enumerate(columns[:n_base]):
                if other == (0.0, 1):
                    back[j, i] = -centre / half
    return design, back


def _line(log_t, log_y) -> tuple[float, float]:
    """The chord of the window: slope and level, subtracted before the fit to save digits."""
    slope = (log_y[-1] - log_y[0]) / (log_t[-1] - log_t[0])
    return float(slope), float(log_y[0])


def _apply(functionals, log_t, log_y, columns, n_base, rough):
    """``functionals @ log_y``, with the chord taken out where the base columns can hold it."""
    slope, level = rough
    has_slope = (0.0, 1) in columns[:n_base]
    slope = slope if has_slope else 0.0
    rest = (log_y - level) - slope * (log_t - log_t[0])
    value = functionals @ rest
    for j, column in enumerate(columns[:n_base]):
        if column == (0.0, 1):
            value[j] += slope
        elif column == (0.0, 0):
            value[j] += level - slope * log_t[0]
    return value


def _sample_error(log_t, log_y, noise, *, slope):
    """Worst error of each ``ln y`` as a function of ``ln t``: stated noise and rounding."""
    return noise + 2 * _EPS * (np.abs(log_y) + abs(slope) * np.abs(log_t))


def _orders(corrections) -> list[list[tuple[float, int]]]:
    """Group corrections by power, close under products, complete the lower logarithms."""
    given: list[tuple[float, int]] = []
    try:
        pairs = [tuple(pair) for pair in corrections]
    except TypeError:
        pairs = [()]
    for pair in pairs:
        if len(pair) != 2:
            raise fail(
                "corrections",
                corrections,
                "is not a sequence of (power, log_power) pairs",
                "pass for example [(2/3, 0), (1.0, 0)]",
            )
        power, log_power = (check_real("corrections", part) for part in pair)
        if power <= 0 or log_power < 0 or log_power != int(log_power):
            raise fail(
                "corrections",
                corrections,
                "needs powers > 0 and integer log powers >= 0",
                "pass for example [(1.0, 1)] for a correction ln(t)/t",
            )
        given.append((power, int(log_power)))
    if not given:
        return []
    # Products up to a power that yields _MAX_ORDERS distinct ones and every given one.
    highest: dict[float, int] = {}

    def note(power: float, log_power: int) -> None:
        for known in highest:
            if abs(known - power) < 1e-9:
                highest[known] = max(highest[known], log_power)
                return
        highest[power] = log_power

    limit = max(max(p for p, _ in given), _MAX_ORDERS * min(p for p, _ in given)) + 1e-9
    frontier = list(given)
    while frontier:
        for power, log_power in frontier:
            note(power, log_power)
        frontier = sorted(
            {(round(p + q, 12), k + m) for p, k in frontier for q, m in given if p + q <= limit}
        )
    ordered = sorted(highest.items())[:_MAX_ORDERS]
    return [[(power, k) for k in range(top, -1, -1)] for power, top in ordered]


def _exp(estimate: Estimate) -> Estimate:
    """exp of an estimate of a logarithm."""
    with np.errstate(over="ignore"):
        value = float(np.exp(estimate.value))
        return Estimate(value, float(value * np.expm1(estimate.error)))


def _check_series(name_x, log_t, name_y, log_y, noise, *, minimum):
    """Validate a series; returns float64 arrays ``ln t``, ``ln y`` and the noise, each (n,)."""
    log_t = check_array(name_x, log_t, (None,))
    log_y = check_array(name_y, log_y, (log_t.size,))
    if log_t.size < minimum:
        raise fail(name_x, log_t, f"has {log_t.size} samples", f"pass at least {minimum}")
    if np.any(np.diff(log_t) <= 0):
        raise fail(name_x, log_t, "is not strictly increasing", "sort it and drop repeated samples")
    if np.ndim(noise) == 0:
        noise = np.full(log_t.shape, check_nonnegative("noise", noise))
    else:
        noise = check_array("noise", noise, (log_t.size,))
        if np.any(noise < 0):
            raise fail("noise", noise, "holds negative numbers", "pass errors >= 0")
    return log_t, log_y, noise
