"""Symbols and special functions that the derivations share.

Every function here knows its definition as an integral, so that an identity used in a derivation
can be checked against it, and every name is a valid Python identifier, so that code generation
needs no renaming.
"""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

import sympy as sp
from sympy.printing.pretty.stringpict import prettyForm, stringPict
from sympy.printing.printer import Printer

t = sp.Symbol("t", positive=True)
tau = sp.Symbol("tau", real=True)
tau1, tau2 = sp.symbols("tau1 tau2", real=True)
lambda0 = sp.Symbol("lambda0", real=True)
c0, p0, kappa = sp.symbols("c0 p0 kappa", positive=True)
p2, p4, p6 = sp.symbols("p2 p4 p6", real=True)
k2, k4, k6 = sp.symbols("k2 k4 k6", real=True)
alpha = sp.Symbol("alpha", nonnegative=True)
N = sp.Symbol("N", positive=True, integer=True)
R, S_ = sp.Symbol("R", positive=True), sp.Symbol("S", positive=True)
rho, M = sp.Symbol("rho", positive=True), sp.Symbol("M", positive=True)
theta, phi, omega, u = sp.symbols("theta phi omega u", real=True)
x, z, s, a = sp.symbols("x z s a", real=True)
xi = sp.Symbol("xi", positive=True)
y = sp.Symbol("y", real=True)

#: kappa in terms of the density of the marginal at 0.
KAPPA = sp.pi**2 * p0 / 6


def expr(value: object) -> sp.Expr:
    """Return ``value`` as a sympy expression (sympy's own annotations are looser than that)."""
    return sp.sympify(value)


class Mean(sp.Function):
    """E[...]: the expectation over the inputs; linear, never evaluated by sympy."""

    nargs = 1

    def _latex(self, printer: Printer) -> str:
        return rf"\mathbb{{E}}\left[{printer._print(self.args[0])}\right]"

    def _pretty(self, printer: Printer) -> prettyForm:
        body = prettyForm(*printer._print(self.args[0]).parens("[", "]"))
        return prettyForm(*stringPict.next(prettyForm("E"), body), binding=prettyForm.FUNC)


class versine(sp.Function):
    """1 - cos(x), kept whole: generated code evaluates it as 2 sin^2(x/2), without cancellation."""

    nargs = 1

    @classmethod
    def eval(cls, angle: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if angle.is_zero else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.sin(self.args[0])

    def _eval_rewrite(
        self, rule: type, args: tuple[sp.Expr, ...], **hints: object
    ) -> sp.Expr | None:
        return 1 - sp.cos(args[0]) if rule is sp.cos else None

    def _eval_rewrite_as_cos(self, angle: sp.Expr, **hints: object) -> sp.Expr:
        return 1 - sp.cos(angle)

    def _latex(self, printer: Printer, exp: str | None = None) -> str:
        body = rf"\left(1-\cos {printer._print(self.args[0])}\right)"
        return body if exp is None else f"{body}^{{{exp}}}"

    def _pretty(self, printer: Printer) -> prettyForm:
        return prettyForm(*printer._print(1 - sp.cos(self.args[0])).parens())


class h(sp.Function):
    """h(R) = E[|x1| / (1 + exp(R |x1|))], x1 the one-dimensional marginal (logistic loss)."""

    nargs = 1


class Psibar(sp.Function):
    """Psibar(m) = E ln cosh(rho m / 2), rho the radius of the two-dimensional marginal; even."""

    nargs = 1

    @classmethod
    def eval(cls, m: sp.Expr) -> sp.Expr | None:
        if m.is_zero:
            return sp.S.Zero
        return cls(-m) if m.could_extract_minus_sign() else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return Psiprime(self.args[0])


class Psiprime(sp.Function):
    """Psi'(m) = E[rho tanh(rho m / 2)] / 2, the derivative of Psibar; odd."""

    nargs = 1

    @classmethod
    def eval(cls, m: sp.Expr) -> sp.Expr | None:
        if m.is_zero:
            return sp.S.Zero
        return -cls(-m) if m.could_extract_minus_sign() else None


class C(sp.Function):
    """C(M, a) = (1/2 pi) int_0^a Psi'(M sin u) sin u du: a wedge's pull along its vector."""

    nargs = 2

    @classmethod
    def eval(cls, m: sp.Expr, angle: sp.Expr) -> sp.Expr | None:
        if m.is_zero or angle.is_zero:
            return sp.S.Zero
        return -cls(m, -angle) if angle.could_extract_minus_sign() else None  # even integrand

    @staticmethod
    def definition(m: sp.Expr, angle: sp.Expr) -> sp.Expr:
        """The defining integral."""
        return sp.Integral(Psiprime(m * sp.sin(u)) * sp.sin(u), (u, 0, angle)) / (2 * sp.pi)


class S(sp.Function):
    """S(M, a) = Psibar(M sin a) / (2 pi M) = (1/2 pi) int_0^a Psi'(M sin u) cos u du."""

    nargs = 2

    @classmethod
    def eval(cls, m: sp.Expr, angle: sp.Expr) -> sp.Expr | None:
        if m.is_zero or angle.is_zero:
            return sp.S.Zero
        return cls(m, -angle) if angle.could_extract_minus_sign() else None  # Psibar is even

    @staticmethod
    def definition(m: sp.Expr, angle: sp.Expr) -> sp.Expr:
        """The closed form."""
        return expr(Psibar(m * sp.sin(angle)) / (2 * sp.pi * m))


class Dot(sp.Function):
    """An inner product a.b of vectors, for display."""

    nargs = 2

    def _latex(self, printer: Printer) -> str:
        return rf"{printer._print(self.args[0])}\cdot {printer._print(self.args[1])}"

    def _pretty(self, printer: Printer) -> prettyForm:
        left, right = (printer._print(argument) for argument in self.args)
        return prettyForm(*stringPict.next(left, prettyForm("·"), right), binding=prettyForm.ATOM)


def dot(left: str, right: str) -> sp.Expr:
    """The inner product of two named vectors."""
    return expr(Dot(sp.Symbol(left, real=True), sp.Symbol(right, real=True)))


def tidy_powers(expression: sp.Expr) -> sp.Expr:
    """Join powers of one base, their exponents factored."""
    joined = sp.powsimp(expression)
    return expr(joined.replace(lambda e: e.is_Pow, lambda e: e.base ** sp.factor(e.exp)))


def same_in_exp(left: object, right: object, variable: sp.Symbol) -> bool:
    """Whether two expressions, rational in exp(variable/2), are the same function."""
    root = sp.Symbol("root", positive=True)  # exp(variable/2)
    gap = (expr(left) - expr(right)).rewrite(sp.exp).subs(variable, 2 * sp.log(root))
    return sp.cancel(gap) == 0


def equation(left: object, right: object) -> sp.Eq:
    """An equation that sympy leaves as it is written."""
    return sp.Eq(left, right, evaluate=False)
