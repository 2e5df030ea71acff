"""Numbers for formulas: each formula is compiled once and evaluated to 30 digits."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import mpmath
import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.symbolic.expansion import expand
from gradflow.validation import fail

#: An mpmath number (mpmath has no annotations).
_Number: TypeAlias = Any
#: Digits of the arithmetic: differences of nearly equal terms still give a correct float64.
DIGITS = 30
TAYLOR = (nt.c0, nt.p0, nt.p2, nt.p4, nt.p6)
#: What stands in for a symbol without a number: for the k-th one, in the first and second run.
_ARBITRARY = (lambda k: mpmath.sqrt(k + 2), lambda k: mpmath.cbrt(k + 5))


@lru_cache(maxsize=1024)
def _compiled(
    formulas: tuple[sp.Expr, ...],
) -> tuple[tuple[sp.Symbol, ...], Callable[..., tuple[_Number, ...]]]:
    """The symbols of ``formulas``, sorted, and a function of them."""
    free = set().union(*(formula.free_symbols for formula in formulas))
    symbols = tuple(sorted(free, key=str))
    return symbols, sp.lambdify(symbols, formulas, "mpmath")


def evaluate(
    formulas: Sequence[sp.Expr], table: Mapping[sp.Symbol, _Number]
) -> list[_Number | None]:
    """The values of ``formulas``; None for one that depends on a symbol not in ``table``.

    With symbols left the formulas are evaluated twice, with different arbitrary numbers: a result
    that stays the same does not depend on them (a term with the factor p2 = 0, say).

    Raises
    ------
    ValueError
        If a formula is infinite at these numbers.
    """
    symbols, function = _compiled(tuple(formulas))
    missing = [symbol for symbol in symbols if symbol not in table]
    runs = []
    with mpmath.workdps(DIGITS):
        for arbitrary in _ARBITRARY if missing else _ARBITRARY[:1]:
            filled = {symbol: arbitrary(k) for k, symbol in enumerate(missing)}
            arguments = [filled[s] if s in filled else table[s] for s in symbols]
            try:
                runs.append(function(*arguments))
            except ZeroDivisionError:
                given = ", ".join(f"{s}={mpmath.nstr(table[s], 6)}" for s in symbols if s in table)
                raise fail(
                    "values", given, "make a formula infinite",
                    "take p0 > 0, and derive the case of its own (depth=2 for N=2) if it has one",
                ) from None  # fmt: skip
    unknown = set(missing)
    return [
        first if first == second or not formula.free_symbols & unknown else None
        for formula, first, second in zip(formulas, runs[0], runs[-1], strict=True)
    ]


def numbers(law: object = None, **values: object) -> dict[sp.Symbol, _Number]:
    """Numbers for the shared symbols, kappa and k2, k4, k6 filled in; see ``Rate.evaluate``."""
    known = {str(symbol): symbol for symbol in _SHARED}
    for name, value in values.items():
        if name not in known:
            raise fail(name, value, "is not a symbol", "choose one of " + ", ".join(sorted(known)))
    table = {known[name]: _number(value) for name, value in values.items()}
    table = {symbol: value for symbol, value in table.items() if value is not None}
    for symbol in TAYLOR:
        value = getattr(law, str(symbol), None)
        if value is not None and symbol not in table and mpmath.isfinite(float(value)):
            table[symbol] = mpmath.mpf(float(value))
    derived = {nt.kappa: nt.KAPPA, **expand("logistic").ratios}
    wanted = [symbol for symbol in derived if symbol not in table]
    found = evaluate([derived[symbol] for symbol in wanted], table)
    return table | {s: v for s, v in zip(wanted, found, strict=True) if v is not None}


def _number(value: object) -> _Number | None:
    """``value`` as an mpmath number; None if it is a formula with symbols left."""
    exact = sp.sympify(value)
    return mpmath.mpmathify(exact.evalf(DIGITS)) if exact.is_number else None


_SHARED = (
    *TAYLOR, nt.kappa, nt.k2, nt.k4, nt.k6, nt.alpha, nt.N, nt.tau, nt.tau1, nt.tau2, nt.lambda0,
)  # fmt: skip
