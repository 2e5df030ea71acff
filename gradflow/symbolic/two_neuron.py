"""Two hidden nodes f = phi(w1.x) - phi(w2.x) on spherically symmetric inputs, logistic loss."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.symbolic.derivation import Derivation, Step
from gradflow.symbolic.expansion import LOSSES, expand
from gradflow.symbolic.notation import M, Mean, alpha, c0, dot, equation, expr, h, t, versine, z
from gradflow.symbolic.wedges import Pull, components, invariants, like_sector, pulls, s, sbar
from gradflow.validation import check_choice, fail

REGIMES = ("generic", "symmetric", "decoupled", "leaky")
R1, R2 = sp.symbols("R1 R2", positive=True)
T1, T2 = sp.symbols("theta1 theta2", real=True)
r1, r2, a1, a2 = sp.symbols("r1 r2 a1 a2", positive=True)
gamma, sigma = sp.Symbol("gamma", nonnegative=True), sp.Symbol("sigma", real=True)

ASSUMPTIONS = (
    "x in R^d is spherically symmetric, d ≥ 2, E|projection on a plane| = c0; y = sgn(v.x), |v| = 1.",
    "f = φ(w1.x) - φ(w2.x), φ(z) = max(z, α z), 0 ≤ α ≤ 1; u2 = -w2, so both w1 and u2 are to "
    "reach v; R1 = |w1|, R2 = |u2|, γ the angle between them.",
    "Planar coordinates: w1, u2 and v in one plane, θ1, θ2 the signed angles from v.",
)


def check_slope(slope: Any) -> sp.Expr | None:
    """The slope alpha as an exact sympy number (0.3 is 3/10) or expression."""
    if slope is None or isinstance(slope, sp.Expr):
        value = slope
    elif isinstance(slope, bool) or not isinstance(slope, (int, float)):
        try:
            value = sp.Rational(str(float(slope)))
        except (TypeError, ValueError):
            raise fail("slope", slope, "is not a number", "pass 0 <= slope <= 1") from None
    else:
        try:
            value = sp.Rational(str(slope))
        except (TypeError, ValueError):
            raise fail("slope", slope, "is not finite", "pass 0 <= slope <= 1") from None
    if value is not None and value.is_number and not (0 <= value <= 1):
        raise fail("slope", slope, "is outside [0, 1]", "pass 0 <= slope <= 1")
    return value


def derive_two_neuron(
    regime: str | None = None, outer: str = "fixed", slope: Any = None
) -> Derivation:
    """Derive the two-neuron flow and its regimes. See ``gradflow.symbolic.derive``."""
    from gradflow.symbolic import regimes

    if regime is not None:
        check_choice("regime", regime, REGIMES)
    check_choice("outer", outer, ("fixed", "trained"))
    value = check_slope(slope)
    if regime == "decoupled" and value not in (None, 0):
        raise fail("slope", slope, "neurons decouple for ReLU only", "pass slope=0")
    if regime == "leaky" and value in (sp.S.Zero, sp.S.One):
        raise fail("slope", slope, "is not leaky", "pass 0 < slope < 1")
    if regime == "leaky" and outer == "trained":
        raise fail("outer", outer, "is not derived in the leaky regime", "pass outer='fixed'")
    if regime == "decoupled":
        value = sp.S.Zero
    base = generic(alpha if value is None else value, outer)
    if regime == "generic":
        return base
    builders = {
        "symmetric": regimes.symmetric,
        "decoupled": regimes.decoupled,
        "leaky": regimes.leaky,
    }
    if regime is not None:
        return builders[regime](base, value, outer)
    parts = ["symmetric"]
    if value is None or value == 0:
        parts.append("decoupled")
    if value not in (sp.S.Zero, sp.S.One) and outer == "fixed":
        parts.append("leaky")
    chosen = {name: builders[name](base, value, outer) for name in parts}
    return regimes.combine(base, chosen)


# -- generic position ---------------------------------------------------------------------------


def _abbreviations(label: str) -> dict[str, sp.Symbol]:
    """Symbols for one sector: norm and angles of W, and the two wedge sums."""
    # alpha W0 has the angles of W0.
    angles = "0" if label == "a" else label
    owners = {"M": label, "s": angles, "sbar": angles, "C": label, "S": label}
    return {key: sp.Symbol(f"{key}_{owner}", real=True) for key, owner in owners.items()}


def _tidy(pull: Pull, parts: tuple[sp.Expr, ...], names: dict[str, sp.Symbol]) -> list[sp.Expr]:
    """Components in the symbols of this sector, the c0 part taken out of the like sectors.

    The part c0/2 pi (on W) of a like sector is combined with that of v by the caller.
    """
    found = []
    for part in parts:
        rest = part - (c0 / (2 * sp.pi) * _share(part))
        rest = sp.expand(rest)
        rest = rest.subs(nt.C(M, sbar), names["C"] - nt.C(M, s)).subs(
            nt.S(M, sbar), nt.S(M, s) - names["S"]
        )
        rest = sp.collect(sp.expand(rest), [names["C"], names["S"], h(M)])
        found.append(expr(rest.subs({M: names["M"], s: names["s"], sbar: names["sbar"]})))
    return found


def _share(part: sp.Expr) -> sp.Expr:
    """Coefficient of c0/(2 pi) in a component."""
    return expr(sp.expand(part).coeff(c0) * 2 * sp.pi)


@lru_cache(maxsize=16)
def planar_forces(slope: sp.Expr) -> tuple[tuple[sp.Expr, ...], dict[str, dict[str, sp.Symbol]]]:
    """-dL/dw1 and -dL/du2 along and across w1, u2, in abbreviated symbols.

    Returns
    -------
    forces : (F1 on w1, F1 turning, F2 on u2, F2 turning)
        Turning is counted as theta grows.
    names : dict
        The abbreviations of each sector.
    """
    total = [sp.S.Zero] * 4
    names: dict[str, dict[str, sp.Symbol]] = {}
    factor = c0 / (2 * sp.pi)
    for pull in pulls(slope):
        names[pull.label] = mine = _abbreviations(pull.label)
        shape = components(pull)
        rest = _tidy(pull, shape, mine)
        for i, angle in ((0, T1), (2, T2)):
            weight = pull.weights[i // 2]
            total[i] -= weight * rest[i]
            total[i + 1] -= weight * sigma * rest[i + 1]
            if pull.label in ("p", "m"):
                # v's share (c0/2 pi)(v - W/M): cos(theta) - cos(s) without cancellation.
                side = mine["s"] if i == 0 else mine["sbar"]
                total[i] += weight * factor * (versine(side) - versine(angle))
                sense = 1 if i == 0 else -1
                total[i + 1] -= weight * factor * (sp.sin(angle) + sense * sigma * sp.sin(side))
    zero = {
        "p": {"s": 0} if slope == 0 else {},
        "m": {"sbar": 0} if slope == 0 else {},
    }
    table = {names[k][q]: value for k, d in zero.items() for q, value in d.items()}
    return tuple(expr(value.subs(table)) for value in total), names


@lru_cache(maxsize=1)
def teacher_share() -> sp.Expr:
    """Checks that v's coefficient is the sum of the like sectors' c0 shares, (1+alpha) c0/2 pi.

    E[y f]/2 = ((1+alpha)/2) (1/2) E[y (w1-w2).x] because E[y |w.x|] = 0, with E[y x] = (2c0/pi) v.
    """
    from gradflow.symbolic.linear import half_circle_mean

    odd_part = (1 - alpha * (-1)) / 2  # (phi(1) - phi(-1))/2
    coefficient = odd_part * c0 * half_circle_mean(sp.cos(nt.phi)) / 2
    along, _ = like_sector()
    shares = (1 + alpha) * sp.expand(along).coeff(c0) * c0
    if sp.simplify(coefficient - shares) != 0:
        raise AssertionError("the teacher's pull and the sectors' c0 shares differ")
    return expr(sp.factor(coefficient))


def _definitions(slope: sp.Expr, names: dict[str, dict[str, sp.Symbol]]) -> dict[sp.Symbol, Any]:
    """Abbreviation -> expression in R1, R2, gamma."""
    table: dict[sp.Symbol, Any] = {}
    for pull in pulls(slope):
        mine = names[pull.label]
        size, start, rest = invariants(pull.sides, R1, R2, gamma)
        if pull.label == "a":
            table[mine["M"]] = slope * names["0"]["M"]
        else:
            table[mine["M"]], table[mine["s"]], table[mine["sbar"]] = size, start, rest
        table[mine["C"]] = nt.C(mine["M"], mine["s"]) + nt.C(mine["M"], mine["sbar"])
        table[mine["S"]] = nt.S(mine["M"], mine["s"]) - nt.S(mine["M"], mine["sbar"])
    return table


def expanded(expression: sp.Expr, definitions: dict[sp.Symbol, Any]) -> sp.Expr:
    """Put the abbreviations in: wedge sums first, then norms and angles."""
    for wanted in ("C_", "S_", "s_", "sbar_", "M_a", "M_"):
        chosen = {k: v for k, v in definitions.items() if str(k).startswith(wanted)}
        expression = expr(expression.subs(chosen, simultaneous=True))
    return expression


@lru_cache(maxsize=16)
def generic(slope: sp.Expr, outer: str) -> Derivation:
    """The flow in general position: steps, equations, vector fields."""
    from gradflow.symbolic.fields import cartesian_field

    forces, names = planar_forces(slope)
    definitions = _definitions(slope, names)
    difference = T2 - T1
    geometry = {
        gamma: sp.atan2(sp.Abs(sp.sin(difference)), sp.cos(difference)),
        sigma: sp.sign(sp.sin(difference)),
    }
    if outer == "fixed":
        state = (R1, T1, R2, T2)
        symbolic = (forces[0], forces[1] / R1, forces[2], forces[3] / R2)
        product = {}
    else:
        state = (r1, T1, a1, r2, T2, a2)
        symbolic = (
            a1 * forces[0], a1 * forces[1] / r1, r1 * forces[0],
            a2 * forces[2], a2 * forces[3] / r2, r2 * forces[2],
        )  # fmt: skip
        product = {R1: a1 * r1, R2: a2 * r2}

    @lru_cache(maxsize=1)
    def full() -> tuple[sp.Expr, ...]:
        return tuple(expanded(e, definitions).subs(geometry).subs(product) for e in symbolic)

    flow = {
        f"flow_{q}": equation(sp.Derivative(sp.Function(str(q))(t), t), e)
        for q, e in zip(state, symbolic, strict=True)
    }
    shown = {
        f"definition_{symbol}": equation(symbol, value)
        for symbol, value in definitions.items()
        if not (sp.sympify(value).is_number or value == symbol)
    }
    extra = (
        {
            "product_1": equation(R1, a1 * r1),
            "product_2": equation(R2, a2 * r2),
        }
        if outer == "trained"
        else {}
    )
    return Derivation(
        name="two-neuron",
        title=f"Two hidden nodes, slope α = {sp.sstr(slope).replace('alpha', 'α')}, {outer} outer "
        "weights, logistic loss",
        options={"regime": "generic", "outer": outer, "slope": slope},
        assumptions=ASSUMPTIONS
        + (
            ("Outer weights +a1, -a2 with a1, a2 > 0 trained; r1 = |w1|, r2 = |u2|, Ri = ai ri.",)
            if outer == "trained"
            else ()
        ),
        steps=tuple(_generic_steps(slope, outer)),
        equations={
            **flow,
            **extra,
            "gamma": equation(gamma, sp.Abs(difference)),
            "sigma": equation(sigma, sp.sign(difference)),
            **shown,
        },
        rates={},
        state=state,
        build_right_hand_side=full,
        expansion=expand("logistic").equations()["h_expansion"],
        cartesian=cartesian_field(slope, outer),
    )


@lru_cache(maxsize=16)
def _generic_steps(slope: sp.Expr, outer: str) -> list[Step]:
    f, psi = sp.Symbol("f"), sp.Function("psi")
    identity = sp.log(2 * sp.cosh(z / 2)) - z / 2
    if sp.simplify(sp.expand_log((LOSSES["logistic"] - identity).diff(z)).rewrite(sp.exp)) != 0:
        raise AssertionError("ln(1+e^-z) = ln 2cosh(z/2) - z/2")
    along, across = like_sector()
    other = [p for p in pulls(alpha) if p.label == "0"][0]
    k_p, k_m, pull0, pulla = sp.symbols("K_p K_m Z_0 Z_a")
    vector = sp.Symbol("v")
    what = sp.Symbol("what")
    steps = [
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
            "c0/π - h(M): reflection beyond a right angle.",
            equation(nt.C(M, sp.pi - nt.a), (c0 / sp.pi - h(M)) / 2 - nt.C(M, nt.a)),
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
        Step(
            "Hence, with K = (c0/2π)(v - ŵ) + (h(M)/2) ŵ + Z(M,s) for w_p and for w_m,",
            equation(sp.Symbol("K_p"), c0 / (2 * sp.pi) * (vector - what) + h(M) / 2 * what
                     + sp.Symbol("Z_p")),
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
    if outer == "trained":
        steps.append(
            Step(
                "Trained outer weights: the force is evaluated at ai wi; wi' = ai Fi and",
                equation(
                    sp.Derivative(sp.Function("a_i")(t), t), dot("w_i", "F_i")
                ),
            )
        )
    return steps


__all__ = ["derive_two_neuron", "expanded", "generic", "planar_forces", "replace"]
