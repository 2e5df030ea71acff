"""The pull h(R) of aligned weights at large norm: its expansion in 1/R, derived term by term.

For weights aligned with the teacher the radial speed is ``h(R) = E[|x1| (-l'(R |x1|))]``.  With
the Taylor coefficients p^(2j)(0) of the marginal density (even, smooth at 0) and x = z/R,

    h(R) ~ sum_j 2 p^(2j)(0) / (2j)! * m_j / R^(2j+2),   m_j = int_0^oo z^(2j+1) (-l'(z)) dz,

an asymptotic series (its error is of the order of the first term left out; it need not converge).
For the logistic loss m_j = Gamma(2j+2) eta(2j+2), eta the Dirichlet eta function.
"""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from gradflow.symbolic.notation import R, expr, h, k2, k4, k6, kappa, p0, p2, p4, p6, z
from gradflow.validation import check_choice

TAYLOR = (p0, p2, p4, p6)
RATIOS = (k2, k4, k6)
LOSSES = {
    "logistic": sp.log(1 + sp.exp(-z)),
    "exponential": sp.exp(-z),
    "hinge": sp.Max(0, 1 - z),
}
ORDER = len(RATIOS)


def moment(loss: str, j: int) -> sp.Expr:
    """m_j = int_0^oo z^(2j+1) (-l'(z)) dz, exactly.

    The logistic one is summed from -l'(z) = 1/(1+e^z) = sum_n (-1)^(n-1) e^(-n z): each term
    gives Gamma(s) n^(-s) with s = 2j+2, and sum_n (-1)^(n-1) n^(-s) = eta(s).
    """
    n = sp.Symbol("n", positive=True)
    order = 2 * j + 2
    if loss == "hinge":
        # l' = -1 on [0, 1) and 0 beyond.
        return sp.Rational(1, order)
    # int_0^oo z^k e^(-n z) dz = (-d/dn)^k of the integral at k = 0, which is 1/n; k = order - 1
    term = (-1) ** (order - 1) * sp.diff(1 / n, n, order - 1)
    if loss == "exponential":
        return expr(term.subs(n, 1))
    weight = expr(term * n**order)  # Gamma(order), free of n
    return expr(weight * sp.dirichlet_eta(order))


def mass(loss: str) -> sp.Expr:
    """M = int_0^oo l(z) dz; equal to m_0 by parts, which the tests check."""
    half_line = sp.Symbol("z", positive=True)
    if loss == "logistic":
        n = sp.Symbol("n", positive=True, integer=True)
        # ln(1+e^-z) = sum_n (-1)^(n-1) e^(-n z) / n
        term = sp.integrate(sp.exp(-n * half_line), (half_line, 0, sp.oo)) / n
        return expr(sp.summation((-1) ** (n - 1) * term, (n, 1, sp.oo)))
    if loss == "hinge":
        return expr(sp.integrate(1 - half_line, (half_line, 0, 1)))
    return expr(sp.integrate(LOSSES[loss].subs(z, half_line), (half_line, 0, sp.oo)))


@dataclass(frozen=True, eq=False)
class Expansion:
    """h(R) = leading/R^2 (1 + k2/R^2 + k4/R^4 + ...).

    Attributes
    ----------
    loss : str
        The loss.
    moments : tuple of Expr
        m_0, m_1, ...
    leading : Expr
        Coefficient of 1/R^2, in p0 (``kappa`` for the logistic loss).
    ratios : dict
        {k2: ..., k4: ..., k6: ...} in p0, p2, p4, p6 = p(0), p''(0), p''''(0), p^(6)(0).
    """

    loss: str
    moments: tuple[sp.Expr, ...]
    leading: sp.Expr
    ratios: dict[sp.Symbol, sp.Expr]

    @property
    def symbol(self) -> sp.Expr:
        """What stands for ``leading`` in formulas: kappa if logistic, else the value in p0."""
        return kappa if self.loss == "logistic" else self.leading

    def series(self, order: int = ORDER) -> sp.Expr:
        """h(R) to ``order`` corrections, in kappa (or p0), k2, k4, k6."""
        bracket = 1 + sum(k / R ** (2 * j) for j, k in enumerate(RATIOS[:order], start=1))
        return expr(self.symbol / R**2 * bracket)

    def explicit(self, order: int = ORDER) -> sp.Expr:
        """h(R) to ``order`` corrections, in the Taylor coefficients of the density."""
        terms = (
            2 * TAYLOR[j] / sp.factorial(2 * j) * self.moments[j] / R ** (2 * j + 2)
            for j in range(order + 1)
        )
        return expr(sum(terms))

    def equations(self) -> dict[str, sp.Eq]:
        """The expansion and the constants in it, as equations."""
        found = {"h_expansion": sp.Eq(h(R), self.series(2), evaluate=False)}
        if self.loss == "logistic":
            found["kappa"] = sp.Eq(kappa, self.leading, evaluate=False)
        for symbol, value in self.ratios.items():
            found[str(symbol)] = sp.Eq(symbol, value, evaluate=False)
        return found

    def tail_loss(self, order: int = 2) -> list[tuple[sp.Expr, sp.Expr]]:
        """H(R) = E l(R |x1|) = int_R^oo h: its terms (coefficient, power of R), integrated."""
        terms = []
        for j, k in enumerate((sp.S.One, *RATIOS)[: order + 1]):
            power = -2 - 2 * j
            terms.append((-self.symbol * k / (power + 1), sp.Integer(power + 1)))
        return terms


@lru_cache(maxsize=8)
def expand(loss: str = "logistic") -> Expansion:
    """Derive the expansion of h for one loss."""
    check_choice("loss", loss, LOSSES)
    moments = tuple(moment(loss, j) for j in range(ORDER + 1))
    coefficients = [2 * TAYLOR[j] / sp.factorial(2 * j) * moments[j] for j in range(ORDER + 1)]
    ratios = {k: expr(c / coefficients[0]) for k, c in zip(RATIOS, coefficients[1:], strict=True)}
    return Expansion(loss, moments, expr(coefficients[0]), ratios)
