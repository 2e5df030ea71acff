"""Balanced deep linear nets: f(x) = W_N ... W_1 x, end-to-end vector w_e = (W_N ... W_1)^T."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from functools import lru_cache, reduce

import numpy as np
import sympy as sp
from sympy.polys.rings import PolyElement

from gradflow.symbolic import notation as nt
from gradflow.symbolic.aligned import aligned
from gradflow.symbolic.derivation import Derivation, Step
from gradflow.symbolic.expansion import expand
from gradflow.symbolic.linear import (
    ASSUMPTIONS,
    cartesian_field,
    decay_equations,
    definition_steps,
    polar_flow,
    symmetry_steps,
)
from gradflow.symbolic.notation import N, R, c0, equation, h, t, theta
from gradflow.validation import check_integer

sigma = sp.Symbol("sigma", positive=True)


def layer_sum(depth: sp.Expr) -> sp.Expr:
    """Sum over layers of |W_N..W_(j+1)|^2 |W_(j-1)..W_1|^2 = sigma^(2(N-j)) sigma^(2(j-1)).

    The gain of a change of w_e along w_e itself, when every layer is sigma times a rank-one
    isometry.
    """
    j = sp.Symbol("j", integer=True, positive=True)
    term = sp.powsimp(sigma ** (2 * (depth - j)) * sigma ** (2 * (j - 1)))
    return nt.expr(sp.Sum(term, (j, 1, depth)).doit())


def gains(depth: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Factors of the force along and across w_e, in R = sigma^N.

    Along: every layer contributes. Across: only W_1 does, because W_(j-1)..W_1 = sigma^(j-1)
    (unit vector) what^T annihilates what is normal to w_e, for every j > 1.
    """
    along = layer_sum(depth).subs(sigma, R ** (1 / depth))
    across = sp.powsimp(sigma ** (2 * (depth - 1))).subs(sigma, R ** (1 / depth))
    return nt.tidy_powers(along), nt.tidy_powers(across)


@lru_cache(maxsize=4)
def matrix_residual(depth: int) -> tuple[PolyElement, PolyElement]:
    """(d w_e/dt from explicit 2x2 layers) - sigma^(2N-2) [g + (N-1)(g.what) what]: zero.

    Layers W_1 = sigma u_1 what^T, W_j = sigma u_j u_(j-1)^T, W_N = sigma u_(N-1)^T with free unit
    vectors u_j; W_j' = -dL/dW_j by differentiating L = -g.w_e entry by entry (g = -grad L(w_e)).
    """
    # Everything is a polynomial in these symbols; unit vectors are pairs (c, s), c^2 + s^2 = 1.
    sizes = [2 * 2] * (depth - 1) + [1 * 2]
    names = [f"c{j} s{j}" for j in range(depth)] + [f"w{j}_:{n}" for j, n in enumerate(sizes)]
    _, *symbols = sp.ring(" ".join(["size g1 g2", *names]), sp.ZZ)
    size, g = symbols[0], np.array(symbols[1:3])
    vectors = np.reshape(symbols[3 : 3 + 2 * depth], (depth, 2))
    entries = symbols[3 + 2 * depth :]
    layers = [np.reshape(entries[4 * j : 4 * j + n], (-1, 2)) for j, n in enumerate(sizes)]
    values = [np.outer(vectors[j], vectors[j - 1]) * size for j in range(1, depth)]
    values.append(vectors[depth - 1][None] * size)
    at = list(zip(entries, np.concatenate([np.ravel(value) for value in values]), strict=True))

    product = reduce(lambda total, w: w @ total, layers[1:], layers[0])[0]
    risk = -(product @ g)
    unit = vectors[0]
    predicted = (g + unit * (g @ unit) * (depth - 1)) * size ** (2 * depth - 2)
    relations = [c**2 + s**2 - 1 for c, s in vectors]

    def residual(component: int) -> PolyElement:
        velocity = -sum(risk.diff(w) * product[component].diff(w) for w in entries)
        return (velocity.compose(at) - predicted[component]).rem(relations)

    return residual(0), residual(1)


def derive_deep_linear(depth: int | None = None) -> Derivation:
    """Derive the flow of balanced deep linear nets. See ``gradflow.symbolic.derive``."""
    n = N if depth is None else sp.Integer(check_integer("depth", depth, minimum=1))
    for checked in (2, 3):
        if any(matrix_residual(checked)):
            raise AssertionError(f"explicit {checked}-layer product disagrees with the formula")
    expansion = expand("logistic")
    along, across = gains(n)
    speed, turn, log_turn = polar_flow()
    power = nt.tidy_powers(across / R)
    new_speed = nt.expr(along * speed)
    new_turn = nt.expr(sp.powsimp(across * turn))
    new_log_turn = nt.tidy_powers(across * log_turn)
    note = "t -> ∞" + (", N ≠ 2 in the corrections" if depth is None else "")
    near = aligned(expansion, depth=n, pull=-new_log_turn / power, condition=note)
    norm, angle = sp.Function("R")(t), sp.Function("theta")(t)
    now = {R: norm, theta: angle}
    g, unit = sp.symbols("g what")
    j = sp.Symbol("j", integer=True, positive=True)
    left, right = sp.Function("A"), sp.Function("B")
    flow = {
        "norm": equation(sp.Derivative(norm, t), new_speed.subs(now)),
        "angle": equation(sp.Derivative(angle, t), new_turn.subs(now)),
        "log_angle": equation(
            sp.Derivative(sp.log(sp.tan(angle / 2)), t, evaluate=False), new_log_turn.subs(now)
        ),
    }
    steps = [
        *definition_steps("logistic", "w_e.x, w_e = (W_N ... W_1)^T"),
        *symmetry_steps(),
        Step(
            "As for the linear predictor, the force on w_e (g = -grad L, ŵ = w_e/R) is",
            equation(g, c0 / sp.pi * sp.Symbol("v") - (c0 / sp.pi - h(R)) * unit),
        ),
        Step(
            "Layer flow W_j' = A_j^T g^T B_j^T with A_j = W_N..W_(j+1), B_j = W_(j-1)..W_1, so "
            "that by the product rule (A(j)² stands for A_j A_j^T, a number, B(j)² for B_j^T B_j)",
            equation(
                sp.Derivative(sp.Function("w_e")(t), t),
                sp.Sum(left(j) * left(j) * right(j) * right(j) * g, (j, 1, n)),
            ),
        ),
        Step(
            "Balanced layers stay balanced and are rank one with one singular value σ: A_j A_j^T = "
            "σ^(2(N-j)), B_j^T B_j = σ^(2(j-1)) ŵŵ^T for j > 1 and the identity for j = 1. Summed "
            "along w_e:",
            equation(
                sp.Sum(sigma ** (2 * (n - j)) * sigma ** (2 * (j - 1)), (j, 1, n)), layer_sum(n)
            ),
        ),
        Step(
            "Across w_e only the first layer acts. With R = σ^N (checked entry by entry with "
            "explicit matrices at N = 2 and 3):",
            equation(
                sp.Derivative(sp.Function("w_e")(t), t),
                across * (g + (n - 1) * nt.dot("g", "what") * unit),
            ),
        ),
        Step("Polar form: the linear flow times these gains.", flow["norm"]),
        Step("and", flow["log_angle"]),
        Step("Expansion of h at large R.", expansion.equations()["h_expansion"]),
        *near.steps,
    ]
    shown = "N" if depth is None else str(depth)
    return Derivation(
        name="deep-linear",
        title=f"Balanced deep linear net, depth {shown}, logistic loss",
        options={"depth": depth},
        assumptions=(
            *ASSUMPTIONS,
            "Balanced layers W_(j+1)^T W_(j+1) = W_j W_j^T at t = 0 (then for all t); w = w_e.",
        ),
        steps=tuple(steps),
        equations={**flow, **expansion.equations(), **decay_equations(near)},
        rates=near.rates,
        state=(R, theta),
        build_right_hand_side=lambda: (new_speed, new_turn),
        expansion=expansion.equations()["h_expansion"],
        cartesian=cartesian_field(n),
    )
