r"""Whether the kernel of an activation is strictly positive definite on the sphere.

On :math:`S^{d-1}` the kernel :math:`\sum_kN(d,k)\lambda_kP_k(x\cdot x')`, :math:`\lambda_k\ge0`,
has an invertible Gram matrix on all distinct points iff

- d ≥ 3: infinitely many :math:`\lambda_k` with k even and infinitely many with k odd are positive
  (`chen2003strictly`);
- d = 2: every arithmetic progression in the integers meets :math:`\{k:\lambda_{|k|}>0\}`, which
  asks for more: with all even k but only odd multiples of 3, the regular hexagon is singular.

No number of computed coefficients decides this. What decides it are the even and the odd part of φ:
since the Gegenbauer polynomials are complete, finitely many coefficients of one parity are non-zero
iff that part is a polynomial on [-r, r]. With w ~ N(0, I) more is true: in the Hermite expansion
:math:`\varphi(w\cdot x)=\sum_ph_pHe_p(w\cdot x)` the harmonics of degree k of the terms p = k,
k+2, … are non-zero and orthogonal to one another, so :math:`\lambda_k>0` iff one of
:math:`h_k,h_{k+2},\dots` is non-zero. A part that is no polynomial thus has *all* its coefficients
positive, and the circle is no exception.

That can be seen without harmonics. If :math:`\sum_ic_i\varphi(w\cdot x_i)=0` for all w, differences
in directions orthogonal to all points but one pair :math:`\pm x_i` at a time remove the others and
leave differences of :math:`(c+c')\varphi_{even}+(c-c')\varphi_{odd}`. Both terms are polynomials
then, so c = c' = 0. This needs no sphere, only that no two points but antipodes lie on one line
through 0.
Source: `benson2020over`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradflow.networks.activations import AbstractActivation
from gradflow.validation import check_choice, check_integer, check_positive, fail


@dataclass(frozen=True)
class Decision:
    """Whether a kernel is strictly positive definite on the sphere; None where not decided.

    Attributes
    ----------
    strict : bool or None
        Whether every Gram matrix on distinct points is invertible.
    even, odd : bool or None
        Whether infinitely many coefficients of even (odd) degree are positive.
    even_degree, odd_degree : float
        The degree of the part of φ that is a polynomial (-1: zero), inf where it is none, NaN where
        it is not known.
    reason : str
        The derivation, in words.
    """

    strict: bool | None
    even: bool | None
    odd: bool | None
    even_degree: float
    odd_degree: float
    reason: str

    def __bool__(self) -> bool:
        if self.strict is None:
            raise ValueError(f"strict=None: not decided; {self.reason}")
        return self.strict


def positive_definite_criterion(
    activation: AbstractActivation,
    dim: int,
    *,
    weights: str = "gaussian",
    radius: float = 1.0,
) -> Decision:
    """Decide from the even and odd part of φ, by the theorems above.

    Parameters
    ----------
    activation : AbstractActivation
        One whose ``parts`` are not known is not decided.
    dim : int
        d ≥ 2.
    weights : {"gaussian", "sphere"}
        w ~ N(0, I), or uniform on the sphere of ``radius``.
    radius : float
        |w| for "sphere".

    Returns
    -------
    Decision

    Raises
    ------
    ValueError
        Bad arguments.
    """
    if not isinstance(activation, AbstractActivation):
        raise fail("activation", activation, "is not an activation", "pass gf.relu or another")
    dim = check_integer("dim", dim, minimum=2)
    radius = check_positive("radius", radius)
    check_choice("weights", weights, ("gaussian", "sphere"))
    parts = activation.parts(math.inf if weights == "gaussian" else radius)
    if parts is None:
        reason = (
            f"{activation.name} states nothing on its even and odd part (`parts`), and no finite "
            "number of coefficients decides"
        )
        return Decision(None, None, None, math.nan, math.nan, reason)
    even, odd = math.isinf(parts.even), math.isinf(parts.odd)
    strict: bool | None = even and odd
    what = [_say("even", parts.even), _say("odd", parts.odd)]
    reason = f"{parts.reason}: {what[0]}; {what[1]}"
    if strict and dim == 2 and weights == "sphere":
        strict = None
        reason += (
            "; on the circle every arithmetic progression must meet the positive coefficients, "
            "which this does not show"
        )
    return Decision(strict, even, odd, parts.even, parts.odd, reason)


def _say(parity: str, degree: float) -> str:
    if degree < 0:
        return f"the {parity} part is zero, and so are all {parity} coefficients"
    if math.isfinite(degree):
        return (
            f"the {parity} part is a polynomial of degree {degree:g}, so the {parity} coefficients "
            "beyond it vanish"
        )
    return f"the {parity} part is no polynomial, so infinitely many {parity} coefficients are not 0"
