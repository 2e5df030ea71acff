r"""Activations that avoid the flaws: kernels that are strictly positive definite on the sphere.

The kernel of features φ(w·x), w ~ N(0, I), is strictly positive definite iff neither the even nor
the odd part of φ is a polynomial (`gradflow.kernels`). For d ≥ 3 that is to say that infinitely
many Gegenbauer coefficients of either parity are positive, which on the circle is too little.
ReLU, leaky ReLU, softplus and GELU have a
linear odd part (no odd coefficients beyond k = 1), tanh and erf no even part. Shifted ReLU, ELU and
cos + sin meet the criterion.

Where a part is a polynomial the singular Gram matrix is constructed: on antipodal pairs the kernel
splits into an even and an odd part, whose ranks are the numbers N of pairs for a part that is no
polynomial, and min(N, dimension of the polynomials) otherwise. Source: `benson2020over`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import gradflow as gf
from gradflow.claims import (
    Claim,
    Control,
    Equality,
    Hypothesis,
    Lab,
    Measurement,
    Outcome,
    Qualitative,
)
from gradflow.claims.instances import Several, every, several
from gradflow.claims.papers.benson2020over import PAPER
from gradflow.claims.papers.benson2020over.setting import (
    EPS,
    SOURCE,
    Points,
    antipodal,
    check_activation,
    distinct,
    features,
    general_position,
    labelled,
    points,
    rank_error,
)
from gradflow.validation import check_integer, fail

STRICT = (gf.shifted_relu(0.3), gf.shifted_relu(-0.5), gf.elu, gf.fourier)
FLAWED = (gf.relu, gf.leaky_relu(0.1), gf.softplus, gf.gelu, gf.tanh, gf.probit_erf)


@dataclass(frozen=True)
class Case:
    """An activation and the points of a Gram matrix; made by `case`, hashable."""

    activation: gf.AbstractActivation
    data: Points

    def measured(self) -> tuple[np.ndarray, float]:
        """K by quadrature (shifted ReLU: by its single integral), and the error of its entries."""
        X, phi = self.data.X, self.activation
        fine = (
            gf.kernels.gram(phi, X) if isinstance(phi, gf.ShiftedReLU) else _quadrature(phi, X, 64)
        )
        return fine, float(np.max(np.abs(fine - _quadrature(phi, X, 48))))

    def rank(self) -> gf.kernels.Rank:
        """Rank of the Gram matrix by the gap in its spectrum."""
        return gf.kernels.numerical_rank(*self.measured())

    def __str__(self) -> str:
        return f"{self.activation.name}, {self.data}"


def _quadrature(phi: gf.AbstractActivation, X: np.ndarray, nodes: int) -> np.ndarray:
    return gf.kernels.gram(phi, X, method="quadrature", nodes=nodes)


def case(activation: gf.AbstractActivation, data: Points) -> Case:
    """A checked `Case`."""
    if not isinstance(data, Points):
        raise fail("data", data, "are no Points", "pass points(X)")
    return Case(check_activation("activation", activation), data)


def _rank(lab: Lab, one: Case) -> gf.kernels.Rank:
    return lab.get(("benson rank", one), one.rank)


# --- the criterion -----------------------------------------------------------------------------


def singular_set(activation: gf.AbstractActivation, dim: int) -> Points | None:
    """Antipodal pairs on which the kernel is singular; None where the criterion is met.

    One pair more than there are independent polynomials of the part that is a polynomial.
    """
    decision = gf.kernels.positive_definite_criterion(activation, dim)
    counts = []
    for parity, degree in ((0, decision.even_degree), (1, decision.odd_degree)):
        if math.isfinite(degree):
            counts.append(
                sum(gf.kernels.multiplicity(dim, k) for k in range(parity, int(degree) + 1, 2))
            )
    return points(gf.datasets.antipodal_pairs(min(counts) + 1, dim, 31).X) if counts else None


def criterion(
    activations: Several[gf.AbstractActivation], sets: Several[Points], *, id: str
) -> Qualitative:
    """Both directions: λ_min > 0 on every set where it is met, a singular matrix where it is not.

    The margin is log10(λ_min/bound on its error), 2 of which are asked for; for a singular matrix
    log10(10·bound/|λ_min|), 1 of which is.

    Parameters
    ----------
    activations : AbstractActivation or sequence of AbstractActivation
    sets : Points or sequence of Points
        Of points no two of which lie on one line through 0, antipodal pairs excepted.
    """
    activations = several("activations", activations, gf.AbstractActivation)
    sets = several("sets", sets, Points)
    dims = sorted({one.dim for one in sets})

    def regular(lab: Lab, phi: gf.AbstractActivation) -> list[Outcome]:
        found = []
        for data in sets:
            rank = _rank(lab, case(phi, data))
            # An eigenvalue below its error may be small as well as zero: that decides nothing.
            margin = math.log10(rank.least / rank.error) if rank.rank == data.n else 0.0
            found.append(Outcome(f"{phi.name}: λ_min > 0 on {data}", margin, 2.0))
        return found

    def singular(lab: Lab, phi: gf.AbstractActivation) -> list[Outcome]:
        found = []
        for dim in dims:
            data = singular_set(phi, dim)
            assert data is not None
            K, error = case(phi, data).measured()
            bound = max(gf.kernels.numerical_rank(K, error).error, 1e-300)
            least = max(abs(float(np.linalg.eigvalsh(K)[0])), 1e-300)
            margin = min(math.log10(10 * bound / least), 16.0)
            found.append(Outcome(f"{phi.name}: λ_min = 0 on {data}", margin, 1.0))
        return found

    def measure(lab: Lab) -> list[Outcome]:
        found = []
        for phi in activations:
            strict = gf.kernels.positive_definite_criterion(phi, dims[0]).strict
            found += regular(lab, phi) if strict else singular(lab, phi)
        return found

    def decided(lab: Lab) -> tuple[bool, str]:
        open_ones = [
            f"{phi.name}: {decision.reason}"
            for phi in activations
            if (decision := gf.kernels.positive_definite_criterion(phi, dims[0])).strict is None
        ]
        return not open_ones, "; ".join(open_ones)

    decidable = Hypothesis("the criterion is decided", decided)
    twice = points(np.concatenate([sets[0].X, sets[0].X[:1]]))
    return Qualitative(
        **PAPER.words("criterion", id),
        hypotheses=[decidable, distinct(sets, lines=True)],
        measure=measure,
        control=Control.replacing(
            "ReLU taken for an activation that meets it, on the hexagon",
            measure=_on_hexagon,
        ),
        broken=Control.replacing(
            "a point given twice", hypotheses=[decidable, distinct([twice], lines=True)]
        ),
    )


def _on_hexagon(lab: Lab) -> list[Outcome]:
    """ReLU's form yᵀKy with alternating y, in exact arithmetic."""
    # Imported here: the control alone needs it.
    import sympy

    angles = [sympy.pi * min(k, 6 - k) / 3 for k in range(6)]
    K = [(sympy.sin(a) + (sympy.pi - a) * sympy.cos(a)) / (2 * sympy.pi) for a in angles]
    form = sympy.simplify(sympy.Add(*(6 * (-1) ** k * value for k, value in enumerate(K))))
    return [Outcome.exact(f"relu: yᵀKy > 0 on the hexagon; it is {form}", form != 0)]


def parity_rank(ones: Several[Case], *, id: str) -> Equality:
    """The rank on N antipodal pairs from the parts of φ: N for a part that is no polynomial.

    Parameters
    ----------
    ones : Case or sequence of Case
        Pairs in general position; polynomial parts of degree at most 1.
    """
    ones = several("ones", ones, Case)

    def rank_of(degree: float, one: Case) -> int:
        pairs = one.data.n // 2
        return pairs if math.isinf(degree) else (0, 1, min(pairs, one.data.dim))[int(degree) + 1]

    def predict(lab: Lab) -> list[int]:
        found = []
        for one in ones:
            decision = gf.kernels.positive_definite_criterion(one.activation, one.data.dim)
            found.append(rank_of(decision.even_degree, one) + rank_of(decision.odd_degree, one))
        return found

    def measure(lab: Lab) -> Measurement:
        found = [_rank(lab, one) for one in ones]
        error = [
            rank_error(rank, derived, one.data.n)
            for rank, derived, one in zip(found, predict(lab), ones, strict=True)
        ]
        return Measurement([float(rank.rank) for rank in found], error, [str(o) for o in ones])

    def low(one: Case) -> str:
        parts = one.activation.parts()
        if parts is None:
            return "nothing is known of the parts"
        high = [p for p in (parts.even, parts.odd) if math.isfinite(p) and p > 1]
        return f"a part has degree {high[0]:g}" if high else ""

    sets = [one.data for one in ones]
    return Equality(
        **PAPER.words("antipodal-rank-parity", id),
        hypotheses=[
            antipodal(sets), distinct(sets, lines=True), general_position(sets),
            every("known parts of degree at most 1", ones, low),
        ],
        predict=predict,
        measure=measure,
        # ranks are integers, and have no error where they are decided
        tolerance=1e-9,
        control=Control.replacing(
            "one more for all", predict=lambda lab: [rank + 1 for rank in predict(lab)]
        ),
    )  # fmt: skip


def fits(ones: Several[Case], *, width: int = 48, seed: int = 0, id: str) -> Equality:
    """Activations that meet the criterion fit any labels on distinct points, by the last layer.

    Parameters
    ----------
    ones : Case or sequence of Case
        With labels.
    width : int
        Random neurons per datum.
    seed : int
    """
    ones = several("ones", ones, Case)
    width = check_integer("width", width, minimum=1)
    seed = check_integer("seed", seed, minimum=0)

    def fitted(one: Case, phi: gf.AbstractActivation, which: int) -> tuple[np.ndarray, bool]:
        """Fitted values, and whether the features are independent beyond rounding."""
        rng = np.random.default_rng(seed + which)
        A = features(phi, one.data.X, rng.normal(size=(width * one.data.n, one.data.dim)))
        v, _, _, sizes = np.linalg.lstsq(A, one.data.y, rcond=1e-12)
        return A @ v, bool(sizes[-1] > 1e-10 * sizes[0] and sizes.size == one.data.n)

    def measure(lab: Lab) -> Measurement:
        value, error, labels = [], [], []
        for one in ones:
            (first, sound), (second, also) = (fitted(one, one.activation, k) for k in (1, 2))
            noise = np.abs(first - second) + 64 * EPS * np.max(np.abs(one.data.y))
            # Too few or too dependent features say nothing on wider nets.
            unclear = 0.0 if sound and also else 2 * float(np.linalg.norm(one.data.y))
            value.append(second)
            error.append(noise + unclear)
            labels += [f"{one}, datum {i}" for i in range(one.data.n)]
        return Measurement(np.concatenate(value), np.concatenate(error), labels)

    def met(one: Case) -> str:
        decision = gf.kernels.positive_definite_criterion(one.activation, one.data.dim)
        return "" if decision.strict else decision.reason

    def told(one: Case) -> str:
        return "" if np.any(one.data.y) else "the labels are all 0"

    sets = [one.data for one in ones]
    scale = max((float(np.max(np.abs(data.y))) for data in sets if data.labels), default=0.0)
    return Equality(
        **PAPER.words("strict-activations-fit", id),
        hypotheses=[
            labelled(sets), distinct(sets, lines=True),
            every("the criterion is met", ones, met), every("labels other than 0", ones, told),
        ],
        predict=lambda lab: np.concatenate([one.data.y for one in ones]),
        measure=measure,
        tolerance=1e-9 * (scale or 1.0),
        relative=False,
        control=Control.replacing(
            "ReLU in their place",
            measure=lambda lab: Measurement(
                np.concatenate([fitted(one, gf.relu, 1)[0] for one in ones]), 1e-11
            ),
        ),
    )  # fmt: skip


def _sets() -> list[Points]:
    return [
        points(*gf.datasets.hexagon()),
        points(gf.datasets.antipodal_pairs(4, 2, 21).X),
        points(gf.datasets.antipodal_pairs(5, 3, 22).X),
        points(np.random.default_rng(23).normal(size=(7, 4))),
    ]


def _ranked() -> list[Case]:
    return [
        case(phi, points(gf.datasets.antipodal_pairs(n, d, 40 + n).X))
        for phi in (*FLAWED, *STRICT)
        for n, d in ((4, 3), (4, 2))
    ]


def _fitted() -> list[Case]:
    sets = points(*gf.datasets.hexagon()), points(*gf.datasets.antipodal_pairs(5, 2, 7))
    return [case(phi, data) for phi in STRICT for data in sets]


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "criterion": lambda: criterion((*STRICT, *FLAWED), _sets(), id=f"{SOURCE}/criterion"),
    "antipodal-rank-parity": lambda: parity_rank(_ranked(), id=f"{SOURCE}/antipodal-rank-parity"),
    "strict-activations-fit": lambda: fits(_fitted(), id=f"{SOURCE}/strict-activations-fit"),
}
