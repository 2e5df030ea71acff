r"""The total-variation problem of m orthonormal ReLU teachers, from the definition of the kernel.

With Gaussian inputs :math:`E\,\mathrm{relu}(u\cdot x)\,\mathrm{relu}(v\cdot x)=k(\varphi)` depends
on the angle φ of the unit vectors alone, and sympy integrates it. The problem

.. math:: \min_\nu\ \tfrac12\,\|\nu-\nu^\circ\|_k^2+\lambda\|\nu\|_{TV},\qquad
    \nu^\circ=\sum_{j\le m}\delta_{e_j},

is convex and symmetric in the teachers, so its minimiser is. Atoms of mass r, each turned from its
teacher by δ toward the mean of the others, leave a function of (r, δ); by symmetric criticality its
stationary points are stationary for the whole problem. Source: `akiyama2021learnability`.
"""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import mpmath
import sympy as sp

from gradflow.validation import check_integer, check_real, fail

r, delta, lam, phi = sp.symbols("r delta lambda varphi", positive=True)
_DIGITS = 40
#: Atoms closer than this (radians) have merged.
_APART = 1e-3
#: λ is raised by about this much at a time.
_STEP = 0.05


class Atoms(NamedTuple):
    """Mass r of each atom and its angle δ (radians) to its teacher."""

    mass: float
    angle: float


@lru_cache(maxsize=1)
def kernel() -> sp.Expr:
    r"""k(φ), :math:`0\le\varphi\le\pi`, integrated over the plane of the two vectors.

    The squared radius has the mean 2 there, and both neurons are active for polar angles between
    :math:`\varphi-\pi/2` and :math:`\pi/2`.
    """
    polar = sp.Symbol("theta", real=True)
    inside = sp.cos(polar) * sp.cos(polar - phi)
    integral = sp.integrate(sp.expand_trig(inside), (polar, phi - sp.pi / 2, sp.pi / 2))
    return sp.simplify(2 * integral / (2 * sp.pi))


@lru_cache(maxsize=16)
def objective(teachers: int = 2) -> sp.Expr:
    """The objective of the symmetric measure, divided by m, without its constant part.

    For one teacher there is nothing to turn toward, and δ = 0.
    """
    m = check_integer("teachers", teachers, minimum=1)
    k = kernel()
    if m == 1:
        return r**2 * k.subs(phi, 0) / 2 - r * k.subs(phi, 0) + lam * r
    # u_1 = cos δ e_1 + sin δ (e_2 + … + e_m)/√(m−1), and so on
    side = sp.sin(delta) / sp.sqrt(m - 1)
    between = 2 * sp.cos(delta) * side + (m - 2) * side**2
    own = r**2 * (k.subs(phi, 0) + (m - 1) * k.subs(phi, sp.acos(between))) / 2
    return own - r * (k.subs(phi, delta) + (m - 1) * k.subs(phi, sp.acos(side))) + lam * r


@lru_cache(maxsize=16)
def stationarity(teachers: int = 2) -> tuple[sp.Expr, ...]:
    r"""The derivatives in r and (m ≥ 2) in δ, divided by r: both vanish at the minimiser."""
    J = objective(teachers)
    if teachers == 1:
        return (sp.diff(J, r),)
    return (sp.diff(J, r), sp.simplify(sp.diff(J, delta) / r))


@lru_cache(maxsize=16)
def slopes(teachers: int = 2) -> tuple[sp.Expr, sp.Expr]:
    r"""(a, b) with :math:`r=1-a\lambda+O(\lambda^2)` and :math:`\delta=b\lambda+O(\lambda^2)`.

    By implicit differentiation of `stationarity` at λ = 0, r = 1, δ = 0. For m = 2
    :math:`a=8\pi(\pi+1)/((\pi+2)(3\pi+2))=1.77199…` and
    :math:`b=4\pi^2/((\pi+2)(3\pi+2))=0.67207…`
    """
    equations = stationarity(teachers)
    unknown = (r, delta)[: len(equations)]
    speed = sp.symbols("a b", real=True)[: len(equations)]
    first_order = []
    for equation in equations:
        total = sp.diff(equation, lam)
        total += sum(sp.diff(equation, x) * s for x, s in zip(unknown, speed, strict=True))
        # one-sided limits in δ: the kernel is smooth there from the right
        at = sp.limit(total.subs({lam: 0, r: 1}), delta, 0, "+")
        first_order.append(sp.simplify(at))
    (found,) = sp.linsolve(first_order, speed)
    a, b = (*found, sp.Integer(0))[:2]
    return sp.factor(sp.simplify(-a)), sp.factor(sp.simplify(b))


def solve(lam_value: float, teachers: int = 2) -> Atoms:
    """Solve `stationarity` by Newton's method in 40 digits, followed from λ = 0.

    Raises
    ------
    ValueError
        If λ is not in (0, 1/2), or no solution with r > 0 is found.
    """
    value = check_real("lam", lam_value)
    if not 0 < value < 0.5:
        raise fail("lam", value, "is not in (0, 1/2)", "pass 0 < lam < 1/2")
    equations = stationarity(teachers)
    unknown = (r, delta)[: len(equations)]
    system = sp.lambdify((lam, *unknown), equations, "mpmath")
    with mpmath.workdps(_DIGITS):
        point = [mpmath.mpf(1), mpmath.mpf(0)][: len(unknown)]
        a, b = (mpmath.mpf(sp.N(s, _DIGITS)) for s in slopes(teachers))
        steps = max(int(value / _STEP), 1)
        try:
            for k in range(1, steps + 1):
                at = mpmath.mpf(value) * k / steps
                if k == 1:
                    point = [1 / (1 + a * at), b * at][: len(unknown)]
                found = mpmath.findroot(lambda *x, at=at: system(at, *x), point, tol=1e-60)
                point = list(found)  # (a one-column matrix)
        except (ValueError, ZeroDivisionError):
            point = [mpmath.mpf(-1)]
        mass, angle = (*point, mpmath.mpf(0))[:2]
    # all atoms meet at the mean of the teachers, at the angle arccos(1/√m)
    met = teachers > 1 and angle > mpmath.acos(1 / mpmath.sqrt(teachers)) - _APART
    if met or not mpmath.im(mass) == 0 or not mass > 0:
        raise fail(
            "lam", value, f"leaves no symmetric minimiser with {teachers} atoms", "pass a smaller"
        )
    return Atoms(float(mass), float(angle))
