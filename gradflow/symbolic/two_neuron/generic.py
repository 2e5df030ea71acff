"""Two hidden nodes f = phi(w1.x) - phi(w2.x) on spherically symmetric inputs, logistic loss."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.symbolic.derivation import Derivation
from gradflow.symbolic.expansion import expand
from gradflow.symbolic.notation import M, c0, equation, expr, h, t, versine
from gradflow.symbolic.two_neuron.fields import cartesian_field
from gradflow.symbolic.two_neuron.steps import generic_steps
from gradflow.symbolic.two_neuron.wedges import Pull, components, invariants, pulls, s, sbar

R1, R2 = sp.symbols("R1 R2", positive=True)
T1, T2 = sp.symbols("theta1 theta2", real=True)
r1, r2, a1, a2 = sp.symbols("r1 r2 a1 a2", positive=True)
gamma, sigma = sp.Symbol("gamma", nonnegative=True), sp.Symbol("sigma", real=True)

ASSUMPTIONS = (
    "x in R^d is spherically symmetric, d ≥ 2, E|x| = c0 for its planar projection; y = sgn(v.x), "
    "|v| = 1.",
    "f = φ(w1.x) - φ(w2.x), φ(z) = max(z, α z), 0 ≤ α ≤ 1; u2 = -w2, so both w1 and u2 are to "
    "reach v; R1 = |w1|, R2 = |u2|, γ the angle between them.",
    "Planar coordinates: w1, u2 and v in one plane, θ1, θ2 the signed angles from v; γ and σ are "
    "size and sign of θ2-θ1 wrapped to (-π, π].",
)


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


def _definitions(
    slope: sp.Expr, names: dict[str, dict[str, sp.Symbol]]
) -> dict[sp.Symbol, sp.Expr]:
    """Abbreviation -> expression in R1, R2, gamma."""
    table: dict[sp.Symbol, sp.Expr] = {}
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


def expanded(expression: sp.Expr, definitions: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    """Put the abbreviations in: wedge sums first, then norms and angles."""
    for wanted in ("C_", "S_", "s_", "sbar_", "M_a", "M_"):
        chosen = {k: v for k, v in definitions.items() if str(k).startswith(wanted)}
        expression = expr(expression.subs(chosen, simultaneous=True))
    return expression


def _by_angle(total: sp.Expr) -> sp.Expr:
    """The force collected by the sines and cosines it projects with, for display."""
    plain = sp.expand(total.replace(versine, lambda angle: 1 - sp.cos(angle)))
    waves = plain.atoms(sp.sin, sp.cos)
    shares: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(plain):
        share, wave = term.as_independent(*waves)
        shares[wave] = shares.get(wave, sp.S.Zero) + share
    return expr(sum(sp.factor_terms(share) * wave for wave, share in shares.items()))


@lru_cache(maxsize=16)
def generic(slope: sp.Expr, outer: str) -> Derivation:
    """The flow in general position: steps, equations, vector fields."""
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

    names_of_forces = sp.symbols("F_1r F_1theta F_2r F_2theta")
    short = (
        (names_of_forces[0], names_of_forces[1] / R1, names_of_forces[2], names_of_forces[3] / R2)
        if outer == "fixed"
        else (
            a1 * names_of_forces[0], a1 * names_of_forces[1] / r1, r1 * names_of_forces[0],
            a2 * names_of_forces[2], a2 * names_of_forces[3] / r2, r2 * names_of_forces[2],
        )
    )  # fmt: skip
    flow = {
        f"flow_{q}": equation(sp.Derivative(sp.Function(str(q))(t), t), e)
        for q, e in zip(state, short, strict=True)
    }
    for symbol, force in zip(names_of_forces, forces, strict=True):
        flow[str(symbol)] = equation(symbol, _by_angle(force))
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
    shown_slope = sp.sstr(slope).replace("alpha", "α")
    return Derivation(
        name="two-neuron",
        title=f"Two hidden nodes, slope {shown_slope}, {outer} outer weights, logistic loss",
        options={"regime": "generic", "outer": outer, "slope": slope},
        assumptions=ASSUMPTIONS
        + (
            ("Outer weights +a1, -a2 with a1, a2 > 0 trained; r1 = |w1|, r2 = |u2|, Ri = ai ri.",)
            if outer == "trained"
            else ()
        ),
        steps=tuple(generic_steps(slope, outer)),
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
