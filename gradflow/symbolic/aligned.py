"""Rates once the angle has become exponentially small: one scalar law for every network here.

Near alignment all the flows of this package take the form

    R' = F N R^(2-2/N) h(R),        lambda' = P R^(1-2/N),        lambda = -ln tan(theta/2),

with a speed factor F and an angular pull P: the linear predictor is N=1, F=1, P=c0/pi, a decoupled
ReLU neuron N=1, F=1/2, P=c0/(2 pi), and so on.  What was dropped is of order theta^2 relative.
"""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from gradflow.symbolic.balance import Separated, Term, in_time, separate
from gradflow.symbolic.derivation import Rate, Step
from gradflow.symbolic.expansion import Expansion
from gradflow.symbolic.notation import R, equation, expr, lambda0, t


@dataclass(frozen=True)
class Aligned:
    """The scalar law, the log-angle along R, and what follows from them."""

    law: Separated
    angle_terms: tuple[Term, ...]
    rates: dict[str, Rate]
    steps: tuple[Step, ...]


def integrated(terms: list[Term]) -> tuple[Term, ...]:
    """Integrate (coefficient, power) terms in R; power 0 stands for ln R."""
    found = []
    for coefficient, power in terms:
        risen = sp.factor(power + 1)
        found.append((coefficient if risen == 0 else coefficient / risen, risen))
    return tuple(found)


def norm_law(expansion: Expansion, depth: sp.Expr, factor: sp.Expr) -> Separated:
    """Separate R' = factor * depth * R^(2 - 2/depth) * h(R), h by its expansion."""
    bracket = sp.expand(expansion.series() * R**2 / expansion.symbol)
    return separate(factor * depth * R ** (2 - 2 / depth) * expansion.symbol / R**2, bracket)


@lru_cache(maxsize=32)
def aligned(
    expansion: Expansion,
    *,
    depth: sp.Expr = sp.S.One,
    factor: sp.Expr = sp.S.One,
    pull: sp.Expr,
    scale: sp.Expr = sp.S.One,
    letter: sp.Symbol = R,
    condition: str,
) -> Aligned:
    """Derive norm, log-angle and loss of an aligned flow.

    Parameters
    ----------
    expansion : Expansion
        Of h.
    depth, factor, pull : Expr
        N, F, P of the module's formula.
    scale : Expr
        The reported norm is R/scale (R = (1+alpha) |w| for a leaky pair).
    letter : Symbol
        The name of this R in the steps.
    condition : str
        Put into the notes.
    """
    law = norm_law(expansion, depth, factor)
    angle = integrated(law.along(pull * R ** (1 - 2 / depth)))
    norm, lam = sp.Function("R")(t), sp.Function("lambda")(t)
    series = {
        "norm": in_time(law, [(1 / scale, sp.S.One)]),
        "log_angle": in_time(law, angle, offset=lambda0),
        "loss": in_time(law, expansion.tail_loss()),
    }
    rates = {
        "norm": Rate.of("norm", norm, series["norm"], f"norm; {condition}"),
        "log_angle": Rate.of(
            "log_angle", lam, series["log_angle"], f"λ = -ln tan(θ/2); {condition}"
        ),
        "loss": Rate.of("loss", sp.Function("L")(t), series["loss"], f"risk; {condition}"),
        "angle_of_norm": _angle_of_norm(angle, letter, condition),
    }
    exponent, constant = law.leading()
    if sp.cancel(exponent - series["norm"].exponent) != 0:
        raise AssertionError("dominant balance and the series in t disagree")
    total = sum(c * (sp.log(letter) if p == 0 else letter**p) for c, p in angle[:3])
    name = str(letter)
    steps = (
        Step(
            "Separate the variables once the angle is negligible and integrate 1/h term by term; "
            "τ is fixed by the start.",
            law.implicit(letter),
        ),
        Step(
            f"Dominant balance {name} = constant t^exponent: equal powers of t, then equal "
            "prefactors.",
            equation(sp.Function(name)(t), constant * t**exponent),
        ),
        Step(
            f"The log-angle λ = -ln tan(θ/2) along {name}: dλ/d{name} = λ'/{name}', integrated "
            "term by term, up to a constant λ0 fixed by the start.",
            equation(sp.Function("lambda")(letter), lambda0 + expr(total)),
        ),
    )
    return Aligned(law, angle, rates, steps)


def _angle_of_norm(angle: tuple[Term, ...], letter: sp.Symbol, condition: str) -> Rate:
    """ln theta ~ -A R^2 + B ln R + const as a rate in the variable R (the unscaled norm)."""
    leading, power = angle[0]
    return Rate(
        "angle_of_norm",
        sp.log(sp.Function("theta")(letter)),
        letter,
        power,
        -leading,
        ((-power, 1), (-power, 0)),
        (sp.cancel(angle[1][0] / leading), expr((lambda0 - sp.log(2)) / leading)),
        f"ln θ along {letter}; {condition}",
    )


def gaussian_decay(angle: tuple[Term, ...]) -> tuple[sp.Expr, sp.Expr]:
    """(A, B) of theta ~ C R^B exp(-A R^2)."""
    return angle[0][0], expr(sp.factor(-angle[1][0]))
