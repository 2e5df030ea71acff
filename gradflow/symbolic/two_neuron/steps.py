"""The two-neuron derivation told in steps, from the definition of the risk to the exact force."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.symbolic.derivation import Step
from gradflow.symbolic.expansion import LOSSES
from gradflow.symbolic.linear import half_circle_mean
from gradflow.symbolic.notation import M, Mean, alpha, c0, dot, equation, expr, h, t, z
from gradflow.symbolic.two_neuron.wedges import like_sector, pulls


@lru_cache(maxsize=1)
def teacher_share() -> sp.Expr:
    """Checks that v's coefficient is the sum of the like sectors' c0 shares, (1+alpha) c0/2 pi.

    E[y f]/2 = ((1+alpha)/2) (1/2) E[y (w1-w2).x] because E[y |w.x|] = 0, with E[y x] = (2c0/pi) v.
    """
    odd_part = (1 - alpha * (-1)) / 2  # (phi(1) - phi(-1))/2
    coefficient = odd_part * c0 * half_circle_mean(sp.cos(nt.phi)) / 2
    along, _ = like_sector()
    shares = (1 + alpha) * sp.expand(along).coeff(c0) * c0
    if sp.expand(coefficient - shares) != 0:
        raise AssertionError("the teacher's pull and the sectors' c0 shares differ")
    return expr(sp.factor(coefficient))


@lru_cache(maxsize=16)
def generic_steps(slope: sp.Expr, outer: str) -> list[Step]:
    """From the risk to the force in general position."""
    steps = [*_risk_steps(), *_wedge_steps(slope), *_force_steps(slope)]
    if outer == "trained":
        steps.append(
            Step(
                "Trained outer weights: the force is evaluated at ai wi; wi' = ai Fi and",
                equation(sp.Derivative(sp.Function("a_i")(t), t), dot("w_i", "F_i")),
            )
        )
    return steps


def _risk_steps() -> list[Step]:
    """The risk, its even part and the teacher's share."""
    f, psi = sp.Symbol("f"), sp.Function("psi")
    identity = sp.log(2 * sp.cosh(z / 2)) - z / 2  # equal at z = 0, and so are the slopes:
    if not nt.same_in_exp(LOSSES["logistic"].diff(z), identity.diff(z), z):
        raise AssertionError("ln(1+e^-z) = ln 2cosh(z/2) - z/2")
    return [
        Step(
            "The risk, by definition, with f = φ(w1.x) - φ(w2.x) and y = sgn(v.x).",
            equation(sp.Symbol("L"), Mean(LOSSES["logistic"].subs(z, nt.y * f))),
        ),
        Step(
            "Take the part of the loss that is odd in z away; ψ is even, so y leaves it.",
            equation(LOSSES["logistic"], psi(z) - z / 2),
        ),
        Step("with", equation(psi(z), sp.log(2 * sp.cosh(z / 2)))),
        Step(
            "φ(z) = (1+α)z/2 + (1-α)|z|/2 and E[y|w.x|] = 0 (odd under x -> -x), E[y x] = "
            "(2c0/π) v: the teacher enters linearly, in every dimension.",
            equation(
                sp.Symbol("L"),
                Mean(psi(f)) - teacher_share() * (dot("v", "w1") - dot("v", "w2")),
            ),
        ),
    ]


def _wedge_steps(slope: sp.Expr) -> list[Step]:
    """The sectors of signs, and their averages along and across W."""
    along, across = like_sector()
    other = next(p for p in pulls(alpha) if p.label == "0")
    return [
        Step(
            "With u2 = -w2, f is linear on each sector of signs of (w1.x, u2.x): w_p.x for (+,+), "
            "w_m.x for (-,-), W_0.x for (+,-), α W_0.x for (-,+), where",
            equation(sp.Symbol("w_p"), sp.Symbol("w1") + slope * sp.Symbol("u2")),
        ),
        Step("and", equation(sp.Symbol("w_m"), slope * sp.Symbol("w1") + sp.Symbol("u2"))),
        Step("and", equation(sp.Symbol("W_0"), sp.Symbol("w1") + sp.Symbol("u2"))),
        Step(
            "On a sector, x = ρ (cos, sin) around W: radial averages first. The average over ρ of "
            "ρ ψ'(ρ m) is Ψ'(m), the derivative of",
            equation(nt.Psibar(M), Mean(sp.log(sp.cosh(nt.rho * M / 2)))),
        ),
        Step(
            "Angular integrals along W give the wedge function C",
            equation(nt.C(M, nt.a), nt.C.definition(M, nt.a)),
        ),
        Step(
            "and those across W (a primitive exists) the wedge function S.",
            equation(nt.S(M, nt.a), nt.S.definition(M, nt.a)),
        ),
        Step(
            "u -> π-u leaves the integrand of C unchanged, and a half circle gives half of "
            "c0/π - h(M): reflection beyond a right angle, b = π-a.",
            equation(nt.C(M, sp.Symbol("b")), (c0 / sp.pi - h(M)) / 2 - nt.C(M, nt.a)),
        ),
        Step(
            "Sector (+,-), at angles s, s̄ = γ-s from W to w1, u2; along W and, times the normal n "
            "(towards u2), across it: E[1 ψ'(W.x) x] = Z(M,s), with components",
            equation(sp.Symbol("Z_along"), other.along),
        ),
        Step("and", equation(sp.Symbol("Z_across"), other.across)),
        Step(
            "Sectors (+,+) and (-,-), in the same way: along W",
            equation(sp.Symbol("P_along"), along),
        ),
        Step("and across it", equation(sp.Symbol("P_across"), across)),
    ]


def _force_steps(slope: sp.Expr) -> list[Step]:
    """The exact forces on the two neurons."""
    k_p, k_m, pull0, pulla = sp.symbols("K_p K_m Z_0 Z_a")
    vector, what = sp.symbols("v what")
    return [
        Step(
            "Hence, with K = (c0/2π)(v - ŵ) + (h(M)/2) ŵ + Z(M,s) for w_p and for w_m,",
            equation(
                sp.Symbol("K_p"),
                c0 / (2 * sp.pi) * (vector - what) + h(M) / 2 * what + sp.Symbol("Z_p"),
            ),
        ),
        Step(
            "the exact force on w1 (Z_0 of W_0, Z_a of α W_0) is",
            equation(sp.Symbol("F_1"), k_p + slope * k_m - pull0 - slope * pulla),
        ),
        Step("and on u2", equation(sp.Symbol("F_2"), slope * k_p + k_m - pull0 - slope * pulla)),
        Step(
            "so the difference moves with (1-α); at α = 1, w1 + w2 = w1 - u2 is conserved.",
            equation(sp.Symbol("F_1") - sp.Symbol("F_2"), sp.factor((1 - slope) * (k_p - k_m))),
        ),
    ]
