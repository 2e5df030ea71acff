"""What a derivation hands back: steps, equations, rates, and ways to read and to run them."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.symbolic.balance import TimeLaw
from gradflow.symbolic.evaluation import evaluate, numbers
from gradflow.validation import check_choice, fail

if TYPE_CHECKING:
    from gradflow.symbolic.codegen import Law, Radial


class Step(NamedTuple):
    """One step: what is done, and the equation it gives."""

    explanation: str
    equation: sp.Basic


class NumericRate(NamedTuple):
    """A rate with numbers put in; a start-dependent number is None."""

    exponent: float
    constant: float | None
    corrections: tuple[tuple[float, int], ...]
    coefficients: tuple[float | None, ...]


@dataclass(frozen=True)
class Rate:
    """An asymptotic law: quantity ~ constant * v^exponent * (1 + sum c_k v^p_k ln(v)^l_k).

    Attributes
    ----------
    name : str
        Short name, for example ``"norm"``.
    quantity : Expr
        What grows or decays.
    variable : Symbol
        v: the time t, or a norm (R, S).
    exponent : Expr
        Limit of d ln(quantity) / d ln(v).
    constant : Expr or None
        Limit of quantity / v^exponent; None if it depends on the start in a way not derived.
    corrections : tuple of (Expr, int)
        (p_k, l_k), largest first for numeric powers: powers (negative) of v and of ln v,
        relative to the leading term.
    coefficients : tuple of Expr
        c_k; those that hold tau or lambda0 depend on the start.
    note : str
        In what sense, and under which condition.
    """

    name: str
    quantity: sp.Expr
    variable: sp.Symbol
    exponent: sp.Expr
    constant: sp.Expr | None
    corrections: tuple[tuple[sp.Expr, int], ...] = ()
    coefficients: tuple[sp.Expr, ...] = ()
    note: str = ""

    @classmethod
    def of(cls, name: str, quantity: sp.Expr, law: TimeLaw, note: str = "") -> Rate:
        """Wrap a power law in t."""
        return cls(
            name,
            quantity,
            nt.t,
            law.exponent,
            law.constant,
            law.corrections,
            law.coefficients,
            note,
        )

    @property
    def leading(self) -> sp.Eq:
        """quantity = constant * variable^exponent."""
        constant = sp.Symbol("const") if self.constant is None else self.constant
        return sp.Eq(self.quantity, constant * self.variable**self.exponent, evaluate=False)

    def evaluate(self, law: object = None, **values: object) -> NumericRate:
        """Put numbers in.

        Parameters
        ----------
        law : object, optional
            Anything with attributes c0, p0 and, where the corrections need them, p2, p4, p6.
        **values
            c0, p0, p2, p4, p6, kappa, k2, k4, k6, alpha, N, tau, ...; they win over ``law``.

        Raises
        ------
        ValueError
            If the exponent, or a constant that does not depend on the start, is left symbolic.
        """
        table = numbers(law, **values)
        powers = [power for power, _ in self.corrections]
        constant = sp.S.Zero if self.constant is None else self.constant
        found = [
            None if value is None else float(value)
            for value in evaluate([self.exponent, constant, *powers, *self.coefficients], table)
        ]

        def known(formula: sp.Expr, value: float | None, what: str) -> float:
            if value is not None:
                return value
            missing = ", ".join(sorted(str(s) for s in formula.free_symbols - table.keys()))
            raise fail(what, formula, "is not a number yet", f"pass {missing}")

        exponent = known(self.exponent, found[0], "exponent")
        if self.constant is None:
            found[1] = None
        elif not _START & {str(symbol) for symbol in constant.free_symbols - table.keys()}:
            known(constant, found[1], "constant")
        pairs = zip(self.corrections, found[2:], strict=False)
        return NumericRate(
            exponent,
            found[1],
            tuple((known(power, value, "exponent"), k) for (power, k), value in pairs),
            tuple(found[2 + len(powers) :]),
        )


_START = {"tau", "tau1", "tau2", "lambda0"}


@dataclass(frozen=True, eq=False)
class Derivation:
    """A derivation from the definition of the risk to a reduced flow and its rates.

    Attributes
    ----------
    name, title : str
        Name given to ``derive``; a heading.
    options : mapping
        The options it was derived with.
    assumptions : tuple of str
        What is assumed.
    steps : tuple of Step
        (explanation, equation), from the definition of the risk on.
    equations : dict of str to Eq
        The reduced flow and the definitions it uses.
    rates : dict of str to Rate
        Asymptotic laws.
    state : tuple of Symbol
        The reduced coordinates, in the order the polar vector field uses.
    expansion : Eq
        h(R) at large R.
    """

    name: str
    title: str
    options: Mapping[str, object]
    assumptions: tuple[str, ...]
    steps: tuple[Step, ...]
    equations: dict[str, sp.Eq]
    rates: dict[str, Rate]
    state: tuple[sp.Symbol, ...] = ()
    build_right_hand_side: Callable[[], tuple[sp.Expr, ...]] = field(default=tuple, repr=False)
    expansion: sp.Eq | None = None
    cartesian: Callable[..., object] | None = field(default=None, repr=False)

    @property
    def right_hand_side(self) -> tuple[sp.Expr, ...]:
        """Derivatives of ``state``, all abbreviations put in (built when asked for)."""
        return self.build_right_hand_side()

    def vector_field(self, law: Law | Radial, coordinates: str = "polar") -> Callable[..., object]:
        """Generate a JAX-jittable vector field from the derived equations.

        Parameters
        ----------
        law : law of the inputs, or its radial functions
            ``gf.Gaussian(3)`` for example, or any object with methods ``h``, ``psi_prime``,
            ``psi_bar`` and attribute ``c0``.
        coordinates : {"polar", "cartesian"}
            ``"polar"``: ``field(state) -> d state/dt``, an array in the order of ``.state``.
            ``"cartesian"``: ``field(weights, direction) -> d weights/dt`` for a teacher
            ``direction`` v of shape (d,): weights (d,) for the linear predictor and for the
            end-to-end vector of a deep linear net, (2, d) for two neurons (not coplanar with v
            in general; fixed outer weights only).

        Raises
        ------
        ValueError
            If symbols other than the state are left (give ``depth=`` or ``slope=``), if the
            loss is not the logistic, or if there is no Cartesian form.
        """
        from gradflow.symbolic import codegen

        check_choice("coordinates", coordinates, ("polar", "cartesian"))
        # A law has its radial functions as this attribute; its class is of a floor that the
        # derivations do not import.
        radial = getattr(law, "radial", law)
        if not self.right_hand_side:
            raise fail(
                "law",
                type(law).__name__,
                f"the flow {self.title!r} is not a function of the radial functions",
                "take the logistic loss",
            )
        if coordinates == "cartesian":
            if self.cartesian is None:
                raise fail("coordinates", coordinates, "not available here", "take 'polar'")
            return self.cartesian(radial)
        return codegen.array_field(self.right_hand_side, self.state, radial)

    def text(self, width: int = 100) -> str:
        """The derivation for a terminal: unicode, at most ``width`` columns."""
        from gradflow.symbolic.printing import as_text

        return as_text(self, width)

    def latex(self) -> str:
        r"""The derivation as a LaTeX fragment (for a document that loads amsmath, amssymb)."""
        from gradflow.symbolic.printing import as_latex

        return as_latex(self)

    def __str__(self) -> str:
        return self.text()

    def renamed(self, prefix: str) -> dict[str, Rate]:
        """The rates under ``prefix.name``, to be shown beside those of other regimes."""
        return {
            f"{prefix}.{key}": replace(rate, name=f"{prefix}.{key}")
            for key, rate in self.rates.items()
        }
