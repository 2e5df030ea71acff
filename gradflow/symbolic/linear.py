"""The linear predictor f(x) = w.x on spherically symmetric inputs with labels sgn(v.x)."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.symbolic.aligned import Aligned, aligned, gaussian_decay
from gradflow.symbolic.derivation import Derivation, Step
from gradflow.symbolic.expansion import LOSSES, Expansion, expand
from gradflow.symbolic.notation import Mean, R, c0, dot, equation, h, phi, rho, t, theta, versine, z
from gradflow.validation import check_choice

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

    from gradflow.symbolic.codegen import Radial

ASSUMPTIONS = (
    "x in R^d is spherically symmetric, d ≥ 2; only its projection ρ (cos φ, sin φ) on "
    "span(v, w) enters, with φ uniform and independent of ρ, Eρ = c0 finite.",
    "y = sgn(v.x), |v| = 1; θ = angle(w, v), R = |w| > 0, 0 < θ < π.",
    "For the expansions: the density p of x1 = v.x is smooth at 0 with p(0) = p0 > 0.",
)


@lru_cache(maxsize=8)
def half_circle_mean(component: sp.Expr) -> sp.Expr:
    """(1/2 pi) int sgn(cos phi) component dphi over a circle, cut where cos phi changes sign.

    For ``component`` a combination of cos(phi) and sin(phi).
    """
    primitive = -sp.diff(component, phi)
    if sp.expand(sp.diff(primitive, phi) - component) != 0:
        raise AssertionError("a first harmonic is minus its second derivative")
    edges = [primitive.subs(phi, k * sp.pi / 2) for k in (-1, 1, 3)]
    right, left = edges[1] - edges[0], edges[2] - edges[1]
    return nt.expr((right - left) / (2 * sp.pi))


@lru_cache(maxsize=4)
def slope_parts(loss: str) -> tuple[sp.Expr, sp.Expr]:
    """Even and odd part of the loss slope: -(l'(z)+l'(-z))/2 and (l'(z)-l'(-z))/2.

    For the hinge z is taken in (0, 1), where both one-sided kinks are inside the sum.
    """
    if loss == "hinge":
        slope, mirrored = -sp.S.One, -sp.S.One  # l'(z) on z < 1, and l'(-z) on z > -1
    else:
        slope = sp.diff(LOSSES[loss], z)
        mirrored = slope.subs(z, -z)
    even, odd = -(slope + mirrored) / 2, (slope - mirrored) / 2
    for simple in (sp.S.Half, sp.cosh(z)):
        if nt.same_in_exp(even, simple, z):
            even = simple
    return nt.expr(even), nt.expr(odd)


def force() -> tuple[sp.Expr, sp.Expr]:
    """(along w, along the direction of growing theta) of -grad L for the logistic loss.

    -l'(y z) y = y/2 - tanh(z/2)/2, so -grad L = E[y x]/2 - E[tanh(w.x/2) x]/2, and in the frame
    of v the first term is (c0/pi) v, in the frame of w the second (c0/pi - h(R)) w/R.
    """
    even, odd = slope_parts("logistic")
    if not nt.same_in_exp(odd, sp.tanh(z / 2) / 2, z):
        raise AssertionError("the odd part of the logistic slope is not tanh(z/2)/2")
    along_v = even * c0 * half_circle_mean(sp.cos(phi))
    across_v = even * c0 * half_circle_mean(sp.sin(phi))
    # (1/2)E[|xi| tanh(R|xi|/2)] with tanh(z/2) = 1 - 2/(1+e^z):  E|xi|/2 - h(R), E|xi| = 2c0/pi.
    if not nt.same_in_exp(sp.tanh(z / 2), 1 - 2 / (1 + sp.exp(z)), z):
        raise AssertionError("tanh(z/2) = 1 - 2/(1+e^z) does not hold")
    restoring = c0 * half_circle_mean(sp.cos(phi)) / 2 - h(R)
    # (1/2 pi) int tanh(R rho cos)/2 rho sin: the primitive takes one value at both ends.
    primitive = -nt.Psibar(R * sp.cos(phi)) / R
    if sp.expand(sp.diff(primitive, phi) - nt.Psiprime(R * sp.cos(phi)) * sp.sin(phi)) != 0:
        raise AssertionError("primitive of the perpendicular pull")
    perpendicular = (primitive.subs(phi, sp.pi) - primitive.subs(phi, -sp.pi)) / (2 * sp.pi)
    # In the orthonormal frame of w the pull of the labels is projected, the other is given.
    unit = sp.Matrix([sp.cos(theta), sp.sin(theta)])
    labels = sp.Matrix([along_v, across_v])
    radial = unit.dot(labels) - restoring
    normal = unit.diff(theta).dot(labels) - perpendicular
    return nt.expr(radial), nt.expr(normal)


@lru_cache(maxsize=1)
def polar_flow() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """R', theta' and (ln tan(theta/2))' of the logistic flow."""
    radial, normal = force()
    speed = h(R) - c0 / sp.pi * versine(theta)
    if sp.expand(speed.rewrite(sp.cos) - radial) != 0:
        raise AssertionError("R' is not h(R) - (c0/pi)(1 - cos theta)")
    turn = nt.expr(normal / R)
    # With T = tan(theta/2), sin(theta) = 2T/(1+T^2), and T drops out.
    tangent = sp.Symbol("T", positive=True)
    half_angle = {sp.sin(theta): 2 * tangent / (1 + tangent**2), sp.tan(theta / 2): tangent}
    log_turn = sp.cancel((sp.diff(sp.log(sp.tan(theta / 2)), theta) * turn).subs(half_angle))
    return speed, turn, nt.expr(log_turn)


def derive_linear(loss: str = "logistic") -> Derivation:
    """Derive the flow of the linear predictor. See ``gradflow.symbolic.derive``."""
    check_choice("loss", loss, LOSSES)
    expansion = expand(loss)
    return _logistic(expansion) if loss == "logistic" else _other(loss, expansion)


def definition_steps(loss: str, network: str) -> list[Step]:
    """The risk as defined, and its slope."""
    margin = nt.y * sp.Symbol("f")
    steps = [
        Step(
            f"The risk, by definition, with f = {network} and y = sgn(v.x).",
            equation(sp.Symbol("L"), Mean(LOSSES[loss].subs(z, margin))),
        )
    ]
    return steps


def symmetry_steps() -> list[Step]:
    """Logistic slope identity and the polar integrals that give the force."""
    slope = sp.Function("lprime")
    even, _ = slope_parts("logistic")
    f = sp.Symbol("f")
    circle = sp.Integral(sp.cos(phi), (phi, -sp.pi / 2, sp.pi / 2))
    steps = [
        Step(
            "The even part of the slope of l(z) = ln(1+e^-z) is constant: the labels will enter "
            "the gradient linearly.",
            equation(slope(z) + slope(-z), -2 * even),
        ),
        Step(
            "Hence, with its odd part tanh(z/2)/2 and y = +1 or -1,",
            equation(-nt.y * slope(nt.y * f), nt.y / 2 - sp.tanh(f / 2) / 2),
        ),
        Step(
            "Eρ = c0 leaves an angular integral, over the half circle where y = 1 (the other "
            "half gives the same): E[y x] = (2c0/π) v.",
            equation(
                Mean(sp.Symbol("y") * dot("v", "x")),
                2 * c0 * circle / (2 * sp.pi),
            ),
        ),
        Step(
            "that is (also E|x1| for every one-dimensional marginal)",
            equation(Mean(sp.Abs(dot("v", "x"))), c0 * half_circle_mean(sp.cos(phi))),
        ),
        Step(
            "Around w the integral of tanh(w.x/2) x has no component across w: its primitive in "
            "the angle takes one value at both ends. Along w, with tanh(z/2) = 1 - 2/(1+e^z),",
            equation(
                Mean(nt.xi * sp.tanh(R * nt.xi / 2)) / 2,
                c0 / sp.pi - h(R),
            ),
        ),
        Step(
            "where ξ = |x1| and h is",
            equation(h(R), Mean(nt.xi / (1 + sp.exp(R * nt.xi)))),
        ),
    ]
    return steps


def _logistic(expansion: Expansion) -> Derivation:
    speed, turn, log_turn = polar_flow()
    near = aligned(expansion, pull=-log_turn * R, condition="t -> ∞")
    norm, angle = sp.Function("R")(t), sp.Function("theta")(t)
    now = {R: norm, theta: angle}
    force_symbol = sp.Symbol("F")
    v, unit = sp.Symbol("v"), sp.Symbol("what")
    steps = [*definition_steps("logistic", "w.x"), *symmetry_steps()]
    steps += [
        Step(
            "So the force F = -grad L, in any dimension, is (ŵ is the unit vector along w)",
            equation(force_symbol, c0 / sp.pi * v - (c0 / sp.pi - h(R)) * unit),
        ),
        Step(
            "whose normal part is that of (c0/π) v whatever |w|. In polar coordinates:",
            equation(sp.Derivative(norm, t), speed.subs(now)),
        ),
        Step(
            "and, from θ' = -(c0/π) sin(θ)/R,",
            equation(
                sp.Derivative(sp.log(sp.tan(angle / 2)), t, evaluate=False), log_turn.subs(R, norm)
            ),
        ),
        Step(
            "Expansion of h at large R from the Taylor coefficients of the density of x1 at 0.",
            expansion.equations()["h_expansion"],
        ),
        *near.steps,
    ]
    return Derivation(
        name="linear",
        title="Linear predictor, logistic loss",
        options={"loss": "logistic"},
        assumptions=ASSUMPTIONS,
        steps=tuple(steps),
        equations={
            "norm": equation(sp.Derivative(norm, t), speed.subs(now)),
            "angle": equation(sp.Derivative(angle, t), turn.subs(now)),
            "log_angle": equation(
                sp.Derivative(sp.log(sp.tan(angle / 2)), t, evaluate=False), log_turn.subs(R, norm)
            ),
            **expansion.equations(),
            **decay_equations(near),
        },
        rates=near.rates,
        state=(R, theta),
        build_right_hand_side=lambda: (speed, turn),
        expansion=expansion.equations()["h_expansion"],
        cartesian=cartesian_field(sp.S.One),
    )


def decay_equations(near: Aligned, extra: str = "") -> dict[str, sp.Eq]:
    """theta ~ C R^B exp(-A R^2), with A and B in c0 and p0."""
    first, second = gaussian_decay(near.angle_terms)
    symbols = sp.symbols(f"A{extra} B{extra} C{extra}")
    values = {nt.kappa: nt.KAPPA}
    return {
        f"decay{extra}": equation(
            sp.Function("theta")(R), symbols[2] * R ** symbols[1] * sp.exp(-symbols[0] * R**2)
        ),
        f"A{extra}": equation(symbols[0], sp.factor(first.subs(values))),
        f"B{extra}": equation(symbols[1], sp.factor(second.subs(values))),
    }


def cartesian_field(depth: sp.Expr) -> Callable[[Radial], Callable[..., object]]:
    """w' = R^(2-2/N) [F + (N-1)(F.what) what] with F = (c0/pi) v - (c0/pi - h) what, compiled."""
    cosine = sp.Symbol("cosine")
    pull = c0 / sp.pi
    on_v = R ** (2 - 2 / depth) * pull
    on_unit = R ** (2 - 2 / depth) * (-(pull - h(R)) + (depth - 1) * (pull * cosine - pull + h(R)))

    def build(radial: Radial) -> Callable[..., object]:
        import jax.numpy as jnp

        from gradflow.symbolic import codegen

        compiled = codegen.compile_expressions((on_v, on_unit), (R, cosine), radial)

        def derivative(weights: ArrayLike, direction: ArrayLike) -> Array:
            """dw/dt for weights w (d,) and teacher direction v (d,)."""
            weights, direction = jnp.asarray(weights, float), jnp.asarray(direction, float)
            norm = jnp.linalg.norm(weights)
            unit = weights / norm
            first, second = compiled(norm, jnp.dot(unit, direction))
            return first * direction + second * unit

        return derivative

    return build


def _other(loss: str, expansion: Expansion) -> Derivation:
    """Exponential and hinge loss: the label enters the gradient non-linearly."""
    even, _ = slope_parts(loss)
    shift = sp.Symbol("a", positive=True)
    # With e the even part of -l', the normal force is (2/pi) E[rho E(a)]/(R rho), a = R rho sin,
    # where E' = e: integrate e(R rho cos w) rho sin w over the half circle around v.
    half_difference = sp.integrate(even, (z, 0, shift))  # = (l(-a) - l(a))/2
    value = LOSSES[loss]
    direct = (value.subs(z, -shift) - value.subs(z, shift)) / 2
    if loss != "hinge" and not nt.same_in_exp(half_difference, direct, shift):
        raise AssertionError("int_0^a e(z) dz is not (l(-a) - l(a))/2")
    slope_at_zero = half_difference.diff(shift).subs(shift, 0)
    pull = 2 * c0 / sp.pi * slope_at_zero
    near = aligned(expansion, pull=pull, condition="t -> ∞, once Rθ ≪ 1")
    norm, angle = sp.Function("R")(t), sp.Function("theta")(t)
    slope, ell = sp.Function("lprime"), sp.Function("l")
    kick = R * rho * sp.sin(theta)
    turn = -Mean(ell(-kick) - ell(kick)) / (sp.pi * R**2)
    domain = ", 0 < z < 1 (and -1 for z > 1)" if loss == "hinge" else ""
    steps = [
        *definition_steps(loss, "w.x"),
        Step(
            "The even part of the slope is not constant" + domain + ": the normal part of the "
            "gradient depends on |w|, unlike for the logistic loss.",
            equation(slope(z) + slope(-z), -2 * even),
        ),
        Step(
            "Over the half circle around v the normal force has the primitive of the even part; "
            "with l(-a) - l(a) = 2 int_0^a of that even part, exactly and for every loss,",
            equation(sp.Derivative(angle, t), turn),
        ),
        Step(
            "For Rρ sin(θ) ≪ 1 this is linear in θ:",
            equation(sp.Derivative(angle, t), -pull * angle / R),
        ),
        Step(
            "Along the teacher (θ = 0) the radial speed is h(R) = E[|x1| (-l'(R|x1|))]; its "
            "expansion at large R, by Taylor coefficients of the density of x1 at 0:",
            expansion.equations()["h_expansion"],
        ),
        *near.steps,
    ]
    return Derivation(
        name="linear",
        title=f"Linear predictor, {loss} loss",
        options={"loss": loss},
        assumptions=ASSUMPTIONS,
        steps=tuple(steps),
        equations={
            "angle": equation(sp.Derivative(angle, t), turn),
            "norm": equation(sp.Derivative(norm, t), h(norm)),
            **expansion.equations(),
        },
        rates=near.rates,
        state=(R, theta),
        expansion=expansion.equations()["h_expansion"],
    )
