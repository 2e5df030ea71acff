"""The two-neuron force as polar integrals: sectors, wedge functions, the exact flow.

f = phi(w1.x) - phi(w2.x), phi(z) = max(z, alpha z); with u2 = -w2 the margin is linear in x on
each of four sectors of the plane span(w1, u2).  Angles are measured from w1 towards u2 (gamma is
the angle between them), s from w1 to the vector W at hand and sbar = gamma - s from W to u2.
"""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from gradflow.symbolic.notation import C, M, Psibar, Psiprime, S, c0, expr, h, omega, u

s, sbar = sp.symbols("s sbar", nonnegative=True)


def linear_sides(slope: sp.Expr) -> dict[tuple[int, int], tuple[sp.Expr, sp.Expr]]:
    """f = c1 (w1.x) + c2 (u2.x) on the sector of signs (w1.x, u2.x): {(+1, -1): (c1, c2), ...}.

    phi(w1.x) has slope 1 or alpha; -phi(-u2.x) = min(u2.x, alpha u2.x) has alpha or 1.
    """
    first = {1: sp.S.One, -1: slope}
    second = {1: slope, -1: sp.S.One}
    return {(i, j): (first[i], second[j]) for i in (1, -1) for j in (1, -1)}


@lru_cache(maxsize=8)
def arc(lower: sp.Expr, upper: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """(1/2 pi) int Psi'(M cos w) (cos w, sin w) dw: along W and across it (towards u2).

    Across: a primitive is -Psibar(M cos w)/M. Along: w = u - pi/2 turns the integrand into that
    of C, so the primitive is C(M, w + pi/2).
    """
    primitive = -Psibar(M * sp.cos(omega)) / (2 * sp.pi * M)
    integrand = Psiprime(M * sp.cos(omega)) * sp.sin(omega) / (2 * sp.pi)
    if sp.expand(sp.diff(primitive, omega) - integrand) != 0:
        raise AssertionError("primitive across W")
    turned = (Psiprime(M * sp.cos(omega)) * sp.cos(omega)).subs(omega, u - sp.pi / 2)
    if sp.expand(turned - Psiprime(M * sp.sin(u)) * sp.sin(u)) != 0:
        raise AssertionError("integrand along W")
    across = primitive.subs(omega, upper) - primitive.subs(omega, lower)
    along = C(M, upper + sp.pi / 2) - C(M, lower + sp.pi / 2)
    return expr(along), expr(sp.expand(across))


def half_turn() -> sp.Expr:
    """C(M, pi) = c0/(2 pi) - h(M)/2: half of E[|x1| tanh(M|x1|/2)]/2 = c0/pi - h(M)."""
    return (c0 / sp.pi - h(M)) / 2


def reflect(expression: sp.Expr) -> sp.Expr:
    """Replace C(M, pi - a) by C(M, pi) - C(M, a) (the integrand is unchanged by u -> pi - u)."""
    integrand = Psiprime(M * sp.sin(u)) * sp.sin(u)
    if sp.expand(integrand.subs(u, sp.pi - u) - integrand) != 0:
        raise AssertionError("the wedge integrand is not symmetric about pi/2")
    return expr(expression.replace(C(M, sp.pi - s), half_turn() - C(M, s)))


@lru_cache(maxsize=1)
def like_sector() -> tuple[sp.Expr, sp.Expr]:
    """The force of the sector w1.x > 0, u2.x > 0 (or both < 0): sbar-pi/2 ... pi/2-s."""
    along, across = arc(sbar - sp.pi / 2, sp.pi / 2 - s)
    return reflect(along), _in_s(across)


@lru_cache(maxsize=1)
def unlike_sector() -> tuple[sp.Expr, sp.Expr]:
    """The force of the sector w1.x > 0 > u2.x (or the reverse): -s-pi/2 ... sbar-pi/2."""
    along, across = arc(-s - sp.pi / 2, sbar - sp.pi / 2)
    return along, _in_s(across)


def _in_s(across: sp.Expr) -> sp.Expr:
    """Write Psibar(M sin a)/(2 pi M) as S(M, a), checked by putting the definition back."""
    pair = {Psibar(M * sp.sin(angle)): 2 * sp.pi * M * S(M, angle) for angle in (s, sbar)}
    found = sp.expand(across.subs(pair))
    if sp.expand(found.replace(S, S.definition) - across) != 0 or found.has(Psibar):
        raise AssertionError("a perpendicular pull is not a difference of S")
    return expr(found)


@dataclass(frozen=True)
class Pull:
    """One sector pair's force on the neurons: weights on (neuron 1, neuron 2), vector W, sizes.

    ``sides`` (c1, c2) give W = c1 w1 + c2 u2; the force subtracted from neuron i is
    ``weights[i] * (along e + across n)``.
    """

    label: str
    weights: tuple[sp.Expr, sp.Expr]
    sides: tuple[sp.Expr, sp.Expr]
    along: sp.Expr
    across: sp.Expr


def pulls(slope: sp.Expr) -> list[Pull]:
    """The four sectors: what each subtracts from (c0(1+alpha)/2pi) v in w1' and u2'.

    The slopes of f in w1.x and u2.x are also the weights with which a sector acts on w1 and u2.
    On the sectors of opposite signs f is W0.x or alpha W0.x; x -> -x maps a sector of negative
    sign onto its mirror image and leaves Psi' times x unchanged.
    """
    sides = linear_sides(slope)
    like, unlike = like_sector(), unlike_sector()
    found = []
    for label, signs, (along, across) in (
        ("p", (1, 1), like),
        ("m", (-1, -1), like),
        ("0", (1, -1), unlike),
        ("a", (-1, 1), unlike),
    ):
        found.append(Pull(label, sides[signs], sides[signs], along, across))
    return [pull for pull in found if any(weight != 0 for weight in pull.weights)]


def invariants(
    sides: tuple[sp.Expr, sp.Expr], first: sp.Expr, second: sp.Expr, gamma: sp.Expr
) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """|W|, s and sbar for W = c1 w1 + c2 u2, |w1| = first, |u2| = second."""
    one, two = sides[0] * first, sides[1] * second
    # one^2 + two^2 + 2 one two cos(gamma), written so that rounding cannot make it negative
    size = sp.sqrt((one - two) ** 2 + 4 * one * two * sp.cos(gamma / 2) ** 2)
    if two == 0:
        return one, sp.S.Zero, gamma
    if one == 0:
        return two, gamma, sp.S.Zero
    start = sp.atan2(two * sp.sin(gamma), one + two * sp.cos(gamma))
    rest = sp.atan2(one * sp.sin(gamma), two + one * sp.cos(gamma))
    return size, start, rest


def components(pull: Pull) -> tuple[sp.Expr, sp.Expr, sp.Expr, sp.Expr]:
    """(on w1-hat, turning w1; on u2-hat, turning u2) of ``along e + across n``, for u2 ahead of w1.

    In the frame of W, w1 is at the angle -s and u2 at sbar; turning is counted in the sense from
    w1 to u2 (the mirror image has the opposite turning).
    """
    force = sp.Matrix([pull.along, pull.across])

    def on(angle: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
        unit = sp.Matrix([sp.cos(angle), sp.sin(angle)])
        turned = sp.Matrix([-sp.sin(angle), sp.cos(angle)])
        return expr(unit.dot(force)), expr(turned.dot(force))

    return (*on(-s), *on(sbar))
