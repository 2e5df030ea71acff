"""Regimes of the two-neuron flow: symmetric, decoupled (ReLU), and the leaky slow mode."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.symbolic.aligned import Aligned, aligned
from gradflow.symbolic.derivation import Derivation, Rate, Step
from gradflow.symbolic.expansion import expand
from gradflow.symbolic.linear import decay_equations, polar_flow
from gradflow.symbolic.notation import M, R, alpha, c0, equation, expr, t, theta
from gradflow.symbolic.two_neuron.generic import T1, T2, gamma, planar_forces, sigma
from gradflow.symbolic.two_neuron.slow_mode import leaky
from gradflow.symbolic.two_neuron.wedges import pulls

__all__ = ["combine", "decoupled", "leaky", "symmetric"]


def aligned_pair_force(slope: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """F1 along and across w1 when w2 = -w1: gamma = 0, every wedge vanishes."""
    forces, names = planar_forces(slope)
    table: dict[sp.Expr, sp.Expr] = {T1: theta, T2: theta, sigma: sp.S.Zero}
    for pull in pulls(slope):
        mine = names[pull.label]
        table |= {mine["s"]: sp.S.Zero, mine["sbar"]: sp.S.Zero}
        # C(M, 0) = S(M, 0) = 0, so the sums vanish with both their angles.
        table |= {mine["C"]: sp.S.Zero, mine["S"]: sp.S.Zero}
        table[mine["M"]] = (pull.sides[0] + pull.sides[1]) * R
    return tuple(sp.factor(f.subs(table).doit()) for f in forces[:2])  # type: ignore[return-value]


def symmetric(base: Derivation, slope: sp.Expr | None, outer: str) -> Derivation:
    """w2 = -w1 is invariant; u = (1+alpha) w follows the linear flow with time rescaled."""
    value = alpha if slope is None else slope
    along, across = aligned_pair_force(value)
    speed, turn, _ = polar_flow()
    gain = 1 + value
    if outer == "fixed":
        clock, depth = gain**2 / 2, sp.S.One
        big = {R: gain * R}
        gaps = (gain * along - clock * speed.subs(big), across / R - clock * turn.subs(big))
        rate = (along, across / R)
    else:
        # Balanced: |a| = |w| = sqrt(R), R = |a||w|, R' = 2 R F, theta' = F across.
        clock, depth = gain / 2, sp.Integer(2)
        big = {R: gain * R}
        gaps = (
            gain * 2 * R * along - clock * 2 * gain * R * speed.subs(big),
            across - clock * (gain * R) * turn.subs(big),
        )
        rate = (2 * R * along, across)
    if any(sp.expand(gap.rewrite(sp.cos)) != 0 for gap in gaps):
        raise AssertionError("the symmetric pair is not a rescaled linear flow")
    near = aligned(
        expand("logistic"),
        depth=depth,
        factor=clock,
        pull=clock * c0 / sp.pi,
        scale=gain,
        letter=M,
        condition="w2 = -w1, t -> ∞; R = " + ("|w1|" if outer == "fixed" else "|a||w1|"),
    )
    norm, angle = sp.Function("R")(t), sp.Function("theta")(t)
    now = {R: norm, theta: angle}
    what = "the linear flow" if outer == "fixed" else "the flow of a depth-2 linear net"
    steps = (
        Step(
            "x -> -x exchanges w1 and u2, so w2 = -w1 is invariant. There γ = 0, every wedge "
            "vanishes and w_p = w_m = (1+α) w1: force along w1",
            equation(sp.Symbol("F_along"), along.subs({R: norm, theta: angle})),
        ),
        Step("and across it,", equation(sp.Symbol("F_across"), across.subs(now))),
        Step(
            f"so the vector (1+α)w1, of norm M, follows {what} (checked by substitution)"
            + (" (balanced: |a| = |w|, R = |a||w|)," if outer == "trained" else ","),
            equation(M, gain * R),
        ),
        Step("in the rescaled time", equation(sp.Symbol("T"), clock * t)),
        *near.steps,
    )
    return replace(
        base,
        title=base.title + ": symmetric pair",
        options={**base.options, "regime": "symmetric"},
        steps=(*base.steps, *steps),
        equations={
            "symmetric_norm": equation(sp.Derivative(norm, t), rate[0].subs(now)),
            "symmetric_angle": equation(sp.Derivative(angle, t), rate[1].subs(now)),
            "time_change": equation(sp.Symbol("T"), clock * t),
            **expand("logistic").equations(),
        },
        rates=near.rates,
        state=(R, theta),
        build_right_hand_side=lambda: rate,
        cartesian=None,
    )


def wedge_orders() -> tuple[sp.Expr, sp.Expr]:
    """Leading C(M, a) and S(M, a) at small M a: of third and second order in a."""
    small = sp.Symbol("small", positive=True)
    e = sp.Symbol("e", positive=True)  # E rho^2
    m = sp.Symbol("m", positive=True)
    # Psi'(m) = E[rho tanh(rho m/2)]/2 is odd in m: the slope at 0 gives its first term.
    slope = sp.diff(nt.rho * sp.tanh(nt.rho * m / 2) / 2, m).subs(m, 0) * m
    mean_slope = expr(slope).subs(nt.rho**2, e)
    along = sp.integrate((mean_slope.subs(m, M * nt.u)) * nt.u, (nt.u, 0, small)) / (2 * sp.pi)
    across = sp.integrate(mean_slope.subs(m, M * nt.u), (nt.u, 0, small)) / (2 * sp.pi)
    return expr(along.subs(small, gamma)), expr(across.subs(small, gamma))


def decoupled_law(outer: str) -> tuple[sp.Expr, sp.Expr, Aligned]:
    """R' and theta' of one ReLU neuron without wedges, and its rates."""
    forces, names = planar_forces(sp.S.Zero)
    table: dict[sp.Expr, sp.Expr] = {}
    for pull in pulls(sp.S.Zero):
        mine = names[pull.label]
        table |= {mine["C"]: sp.S.Zero, mine["S"]: sp.S.Zero}
    kept = [sp.expand(f.subs(table)) for f in forces[:2]]
    # s_p = 0 for ReLU, but S(M_p, s_p) and the like are written with the sums: nothing is left.
    along, across = (expr(k.subs({names["p"]["M"]: R, T1: theta}).doit()) for k in kept)
    if (along.free_symbols | across.free_symbols) - {R, theta, c0}:
        raise AssertionError("the neurons do not decouple")
    half_speed, half_turn, _ = polar_flow()
    if outer == "fixed":
        gaps = (along - half_speed / 2, across / R - half_turn / 2)
        rate, depth = (along, across / R), sp.S.One
        name = "Ri = |wi|"
    else:
        gaps = (2 * R * along - R * half_speed, across - R * half_turn / 2)
        rate, depth = (2 * R * along, across), sp.Integer(2)
        name = "Ri = |ai||wi|, balanced"
    if any(sp.expand(gap.rewrite(sp.cos)) != 0 for gap in gaps):
        raise AssertionError("a decoupled neuron is not a linear flow at half speed")
    half = sp.Rational(1, 2)
    near = aligned(
        expand("logistic"),
        depth=depth,
        factor=half,
        pull=half * c0 / sp.pi,
        condition=f"ReLU, t -> ∞; {name}, θi to its own target",
    )
    return expr(rate[0]), expr(rate[1]), near


def decoupled(base: Derivation, slope: sp.Expr | None, outer: str) -> Derivation:
    """ReLU, late: the wedges are negligible and each neuron is a linear flow at half speed."""
    speed, turn, near = decoupled_law(outer)
    along, across = wedge_orders()
    norm, angle = sp.Function("R")(t), sp.Function("theta")(t)
    now = {R: norm, theta: angle}
    # Two starts: Phi(R1) - Phi(R2) = b (tau1 - tau2), and Phi' = R^(a-1) to leading order.
    law = near.law
    gap = law.speed * (nt.tau1 - nt.tau2) / R**law.power
    first, constant = law.leading()
    gap_in_time = sp.powsimp(law.speed / (constant * t**first) ** law.power)
    per_start, monomial = gap_in_time.as_independent(t)
    gap_exponent = monomial.as_powers_dict()[t]
    difference = sp.Function("R1")(t) - sp.Function("R2")(t)
    rates = {
        **near.rates,
        "norm_difference": Rate(
            "norm_difference",
            difference,
            t,
            gap_exponent,
            expr(per_start * (nt.tau1 - nt.tau2)),
            near.rates["norm"].corrections,
            tuple(sp.Symbol(f"d{i}") for i, _ in enumerate(near.rates["norm"].corrections)),
            "ReLU; τ1, τ2 of the two norm laws, set by the start",
        ),
    }
    steps = (
        Step(
            "ReLU, α = 0: w_p = w1, w_m = u2. At small γ (e = Eρ²) the wedges are of third",
            equation(nt.C(M, gamma), along),
        ),
        Step(
            "and second order in γ: against the terms kept, (c0/2π)θ/R, of relative order R²θ, "
            "exponentially small by the result, so the neurons decouple.",
            equation(nt.S(M, gamma), across),
        ),
        Step(
            "What is left of the exact flow is, for each neuron, the linear one at half speed"
            + ("" if outer == "fixed" else " (balanced: |a| = |w|, R = |a||w|, R' = 2 R F)"),
            equation(sp.Derivative(norm, t), speed.subs(now)),
        ),
        Step("and", equation(sp.Derivative(angle, t), turn.subs(now))),
        *near.steps,
        Step(
            "Two neurons with different τ: divide the difference of their laws by Φ'(R).",
            equation(sp.Symbol("R1") - sp.Symbol("R2"), gap),
        ),
    )
    return replace(
        base,
        title=base.title + ": decoupled neurons",
        options={**base.options, "regime": "decoupled"},
        steps=(*base.steps, *steps),
        equations={
            "decoupled_norm": equation(sp.Derivative(norm, t), speed.subs(now)),
            "decoupled_angle": equation(sp.Derivative(angle, t), turn.subs(now)),
            **expand("logistic").equations(),
            **decay_equations(near),
        },
        rates=rates,
    )


def combine(base: Derivation, parts: dict[str, Derivation]) -> Derivation:
    """General position first, then what each regime adds."""
    steps, rates = list(base.steps), {}
    equations = {**base.equations, **expand("logistic").equations()}
    for name, part in parts.items():
        head = {
            "symmetric": "Symmetric pair. ",
            "decoupled": "Decoupled neurons (ReLU). ",
            "leaky": "Leaky slow mode (0 < α < 1). ",
        }[name]
        added = list(part.steps[len(base.steps) :])
        added[0] = Step(head + added[0].explanation, added[0].equation)
        steps += added
        equations |= {
            key: value for key, value in part.equations.items() if key not in base.equations
        }
        rates |= part.renamed(name)
    return replace(
        base,
        steps=tuple(steps),
        equations=equations,
        rates=rates,
        options={**base.options, "regime": None},
    )
