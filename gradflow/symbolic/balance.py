"""Dominant balance: exponents, constants and corrections of R' = b R^(-m) (1 + k2/R^2 + ...).

The scalar equation is separated and integrated term by term, Phi(R) = b (t + tau), and inverted
as a series in two small quantities, eps = 1/t (the start, through tau) and eta = (a b t)^(-2/a)
(the expansion of h), a = m + 1.  A quantity with a known derivative along R is then expanded in
t by substitution.  Nothing here knows a network.
"""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp
from sympy.polys.constructor import construct_domain
from sympy.polys.ring_series import rs_mul, rs_trunc
from sympy.polys.rings import PolyElement, PolyRing

from gradflow.symbolic.notation import N, R, expr, kappa, t, tau, tidy_powers

_small, _eps, _eta = sp.symbols("small eps eta", positive=True)
_log = sp.Symbol("log_scale", real=True)

Term = tuple[sp.Expr, sp.Expr]


def leading_power_law(coefficient: sp.Expr, power: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Solve R' = coefficient * R^power by R = constant * t^exponent.

    Returns
    -------
    exponent, constant
        From balancing the powers of t, then the prefactors.
    """
    # exponent - 1 = power * exponent, and constant * exponent = coefficient * constant^power
    exponent = sp.factor(1 / (1 - power))
    constant = sp.powsimp(sp.factor(coefficient / exponent) ** exponent)
    return exponent, expr(constant)


@dataclass(frozen=True)
class Separated:
    """Phi(R) = b (t + tau) with Phi' = R^m (1 + i_1/R^2 + i_2/R^4 + ...).

    Attributes
    ----------
    speed : Expr
        b.
    power : Expr
        m >= 0, so that R' ~ b R^(-m).
    inverse : tuple of Expr
        1, i_1, i_2, ...: the series of 1/(1 + k2/R^2 + ...) in 1/R^2.
    """

    speed: sp.Expr
    power: sp.Expr
    inverse: tuple[sp.Expr, ...]

    @property
    def a(self) -> sp.Expr:
        """m + 1, the power of R in the leading term of Phi."""
        return self.power + 1

    def leading(self) -> tuple[sp.Expr, sp.Expr]:
        """Exponent and constant of R ~ constant * t^exponent."""
        return leading_power_law(self.speed, -self.power)

    def phi(self, variable: sp.Expr = R, order: int = 2) -> sp.Expr:
        """Phi, integrated term by term (a power, or a logarithm)."""
        return integrate_terms(
            [(i, self.power - 2 * j) for j, i in enumerate(self.inverse[: order + 1])], variable
        )

    def implicit(self, variable: sp.Expr = R, shift: sp.Expr = tau, order: int = 2) -> sp.Eq:
        """The implicit law Phi(R) = b (t + tau)."""
        return sp.Eq(self.phi(variable, order), self.speed * (t + shift), evaluate=False)

    def along(self, rate: sp.Expr, order: int = 3) -> list[Term]:
        """Terms (coefficient, power of R) of dQ/dR for Q' = ``rate``, a multiple of a power of R.

        dQ/dR = rate / R' = (rate/b) R^m (1 + i_1/R^2 + ...).
        """
        coefficient, monomial = sp.powsimp(rate * R**self.power).as_independent(R)
        coefficient = sp.factor(coefficient / self.speed)
        exponent = sp.cancel(monomial.as_powers_dict()[R])
        return [
            (coefficient * i, exponent - 2 * j) for j, i in enumerate(self.inverse[: order + 1])
        ]


def separate(rate: sp.Expr, bracket: sp.Expr, order: int = 3) -> Separated:
    """Separate R' = rate * bracket.

    Parameters
    ----------
    rate : Expr
        A multiple of a power of R: the leading part.
    bracket : Expr
        1 + k2/R^2 + ..., the series that multiplies it.
    """
    rate = sp.powsimp(sp.expand_power_exp(rate))
    speed, monomial = rate.as_independent(R)
    power = -monomial.as_powers_dict()[R]
    return Separated(expr(speed), expr(power), _reciprocal(bracket, order))


def _reciprocal(bracket: sp.Expr, order: int) -> tuple[sp.Expr, ...]:
    """Coefficients of 1/bracket in powers of 1/R^2, from bracket * (1/bracket) = 1."""
    k = [sp.expand(bracket).coeff(R, -2 * j) for j in range(order + 1)]
    inverse = [sp.S.One]
    for n in range(1, order + 1):
        inverse.append(sp.expand(-sum(k[j] * inverse[n - j] for j in range(1, n + 1))))
    return tuple(inverse)


def integrate_terms(terms: Sequence[Term], variable: sp.Expr = R) -> sp.Expr:
    """Integrate sum c R^e term by term, without a constant."""
    total = sp.S.Zero
    for coefficient, power in terms:
        risen = sp.simplify(power + 1)
        total += coefficient * (sp.log(variable) if risen == 0 else variable**risen / risen)
    return expr(total)


# -- the series in time -----------------------------------------------------------------------
#
# A series is a sparse polynomial (sympy's PolyElement, a table from exponents to coefficients) in
# eps, eta and ln(a b t); its coefficients are rational functions of the symbols that occur.  The
# first generator counts the order: eps and eta come with one power of it, the logarithm with none.

_GENERATORS = (_small, _eps, _eta, _log)


def _ring(*values: sp.Expr) -> PolyRing:
    """The series whose coefficients are rational functions of what occurs in ``values``."""
    domain, _ = construct_domain(values, field=True)
    return PolyRing(_GENERATORS, domain)


def _power(base: PolyElement, exponent: sp.Expr, degree: int) -> PolyElement:
    """(1 + v)^exponent for v = base - 1 of order one or higher, truncated."""
    ring = base.ring
    small, exponent = ring.gens[0], ring.domain.from_sympy(sp.cancel(exponent))
    v, product, total = base - 1, ring.one, ring.one
    binomial = ring.domain.one
    for n in range(1, degree + 1):
        product = rs_mul(product, v, small, degree + 1)
        binomial = binomial * (exponent - (n - 1)) / n
        total += product * binomial
    return total


def _logarithm(base: PolyElement, degree: int) -> PolyElement:
    """ln(1 + v) for v = base - 1 of order one or higher, truncated."""
    ring = base.ring
    v, product, total = base - 1, ring.one, ring.zero
    for n in range(1, degree + 1):
        product = rs_mul(product, v, ring.gens[0], degree + 1)
        total += product * ring.domain.from_sympy(sp.Rational((-1) ** (n - 1), n))
    return total


@lru_cache(maxsize=64)
def norm_ratio(a: sp.Expr, inverse: tuple[sp.Expr, ...], degree: int) -> PolyElement:
    """y = R / (a b t)^(1/a) as a polynomial in eps, eta, ln(a b t), to total ``degree``.

    Iterates y^a = 1 + tau eps - sum_j a i_j eta^j y^(a-2j)/(a-2j); each pass gains one order.
    """
    ring = _ring(a, tau, *inverse)
    small, eps, eta, log = ring.gens
    number = ring.domain.from_sympy
    ratio = ring.one
    for n in range(1, degree + 1):
        right = 1 + number(tau) * eps * small
        for j, i in enumerate(inverse[1 : n + 1], start=1):
            gap = sp.cancel(a - 2 * j)
            scale = number(sp.cancel(a * i)) * (eta * small) ** j
            if gap == 0:
                right -= scale * (log * number(1 / a) + _logarithm(ratio, n))
            else:
                right -= scale * _power(ratio, gap, n) * number(1 / gap)
        ratio = _power(rs_trunc(right, small, n + 1), 1 / a, n)
    return ratio


@dataclass(frozen=True)
class TimeLaw:
    """constant * t^exponent * (1 + sum coefficient * t^power * ln(t)^log_power)."""

    exponent: sp.Expr
    constant: sp.Expr
    corrections: tuple[tuple[sp.Expr, int], ...]
    coefficients: tuple[sp.Expr, ...]


def in_time(
    law: Separated, terms: Sequence[Term], degree: int | None = None, offset: sp.Expr | None = None
) -> TimeLaw:
    """Expand a quantity given by its terms along R as a power law in t with corrections.

    Parameters
    ----------
    law : Separated
        The law of R.
    terms : sequence of (coefficient, power)
        The quantity Q = sum c R^e, leading term first, powers falling by 2; ``power`` 0 after
        the first term stands for ln R.
    degree : int, optional
        Total order kept; 3 for a numeric a, 1 for a symbolic one.
    offset : Expr, optional
        An additive constant of Q (start dependent).
    """
    numeric = bool(law.a.is_number)
    degree = (3 if numeric else 1) if degree is None else degree
    ratio = norm_ratio(law.a, law.inverse, degree)
    leading, exponent = terms[0]
    shares = [sp.cancel(coefficient / leading) for coefficient, _ in terms]
    start = sp.S.Zero if offset is None else sp.cancel(offset / leading)
    ring = _ring(law.a, tau, *law.inverse, *shares, start, *(power for _, power in terms))
    small, _, eta, log = ring.gens
    number = ring.domain.from_sympy
    ratio = norm_ratio(law.a, law.inverse, degree).set_ring(ring)
    relative = _power(ratio, exponent, degree)
    for j, (_, power) in enumerate(terms[1 : degree + 1], start=1):
        if power == 0:
            # ln R = (ln(a b t))/a + ln y; the power of eta is that of R^(-exponent).
            series = log * number(1 / law.a) + _logarithm(ratio, degree)
        else:
            series = _power(ratio, power, degree)
        relative += number(shares[j]) * (eta * small) ** j * series
    if offset is not None:
        # R^(-exponent) = eta^(exponent/2) y^..., a whole power of eta for the angle, the one use.
        relative += number(start) * (eta * small) ** int(exponent / 2)
    relative = rs_trunc(relative, small, degree + 1)
    scale = sp.factor(sp.expand(law.a * law.speed))
    constant = _constant(leading, scale, sp.factor(exponent / law.a))
    corrections = _collect(relative, law, scale, degree if numeric else None)
    return TimeLaw(
        expr(sp.factor(exponent / law.a)),
        expr(constant),
        tuple(key for key, _ in corrections),
        tuple(value for _, value in corrections),
    )


def _collect(
    relative: PolyElement, law: Separated, scale: sp.Expr, degree: int | None
) -> list[tuple[tuple[sp.Expr, int], sp.Expr]]:
    """Turn a polynomial in eps, eta, ln(a b t) into terms t^power ln(t)^k, largest first.

    With a numeric a, powers that a longer series would still change are dropped.  No coefficient
    is zero, and different powers of eta or of the logarithm cannot cancel: nothing vanishes.
    """
    step = sp.factor(2 / law.a)
    smallest = None if degree is None else -(degree + 1) * min(sp.S.One, step)
    # A plain symbol for a b, so that factoring does not look into it.
    whole = sp.Symbol("whole", positive=True)
    found: dict[tuple[sp.Expr, int], sp.Expr] = {}
    for (_, in_eps, in_eta, in_log), coefficient in relative.terms():
        if in_eps == in_eta == 0:
            continue
        power = sp.factor(-in_eps - in_eta * step)
        if smallest is not None and power <= smallest:
            continue
        factored = sp.factor(relative.ring.domain.to_sympy(coefficient))
        # ln(a b t)^n = (ln t + ln(a b))^n
        for k in range(in_log + 1):
            share = sp.binomial(in_log, k) * sp.log(whole) ** (in_log - k)
            value = factored * whole ** (-in_eta * step) * share
            found[power, k] = found.get((power, k), sp.S.Zero) + value
    kept = [(key, expr(sp.factor_terms(v).subs(whole, scale))) for key, v in found.items()]
    if degree is not None:
        kept.sort(key=lambda item: (-item[0][0], -item[0][1]))
    return kept


def _constant(leading: sp.Expr, scale: sp.Expr, exponent: sp.Expr) -> sp.Expr:
    """leading * scale^exponent, with powers of kappa gathered into the scale."""
    if scale.has(kappa) and scale.has(N):
        whole = sp.Symbol("whole", positive=True)
        value = whole * sp.cancel(kappa / scale)  # the scale is a multiple of kappa
        gathered = tidy_powers(sp.factor(leading.subs(kappa, value)) * whole**exponent)
        return expr(gathered.subs(whole, scale))
    return expr(sp.powsimp(leading * scale**exponent))
