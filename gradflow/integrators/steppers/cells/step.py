"""A Runge-Kutta step in a frozen cell: Tsit5, its error in each neuron's size, its quartic.

Source: Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
assumption (2011).
"""

from __future__ import annotations

from typing import NamedTuple

import diffrax
import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner, kernel
from gradflow.integrators.steppers.cells.field import field, force
from gradflow.integrators.steppers.cells.margins import margin_excess
from gradflow.integrators.steppers.cells.system import LOSS, Cell, System, Work


class Tableau(NamedTuple):
    """The method: stage weights, stage times, error weights, and b_j(ξ) = Σ_p dense_jp ξ^{p+1}."""

    A: np.ndarray
    C: np.ndarray
    error: np.ndarray
    dense: np.ndarray


def _tsit5() -> Tableau:
    tableau = diffrax.Tsit5.tableau
    A = np.zeros((7, 7))
    for i, row in enumerate(tableau.a_lower):
        A[i + 1, : i + 1] = row
    C = np.concatenate([[0.0], np.asarray(tableau.c)])
    error = np.array(tableau.b_error, np.float64)
    # Dense output: y(ξ) = y + h Σ_j b_j(ξ) k_j, the b_j by their roots in ξ.
    poly = np.polynomial.polynomial
    quartics = [
        -1.0530884977290216 * poly.polymul(
            [0.0, -1.3299890189751412, 1.0], [0.7139816917074209, -1.4364028541716351, 1.0]),
        0.1017 * np.array([0.0, 0.0, 1.2949852507374631, -2.1966568338249754, 1.0]),
        2.490627285651252793
        * np.array([0.0, 0.0, 1.57803468208092486, -2.38535645472061657, 1.0]),
    ]  # fmt: skip
    for factor, r1, r2 in (
        (-16.54810288924490272, 1.21712927295533244, 0.61620406037800089),
        (47.37952196281928122, 1.203071208372362603, 0.658047292653547382),
        (-34.87065786149660974, 1.2, 2.0 / 3.0),
        (2.5, 1.0, 0.6),
    ):
        quartics.append(factor * np.array([0.0, 0.0, r1 * r2, -(r1 + r2), 1.0]))
    return Tableau(A, C, error, np.stack(quartics)[:, 1:].copy())


TSIT5 = _tsit5()


@inner
def step(
    tab: Tableau, sys: System, cell: Cell, work: Work, s: float, y: np.ndarray, h: float,
    K: np.ndarray, y1: np.ndarray, shape: np.ndarray, over: np.ndarray, log_risk0: float,
) -> float:  # fmt: skip
    """Take a step of length h from (s, y), whose field is ``K[0]``; return ln L at its end.

    Fills the stages K (7, dim), the end ``y1`` with its field ``K[6]``, the coefficients of
    ξ … ξ⁴ ``shape`` (4, dim), and in ``over`` (7,) by how much the flats are left at each stage.
    """
    dim, (m, D), o = y.size, work.U.shape, work.DA.shape[1]
    log_risk = log_risk0
    over[0] = -1.0
    for i in range(1, 7):
        for c in range(dim):
            total = 0.0
            for j in range(i):
                total += tab.A[i, j] * K[j, c]
            y1[c] = y[c] + h * total
        log_risk = field(sys, cell, work, s + tab.C[i] * h, y1, K[i])
        if watched(cell):
            over[i] = excess(sys, cell, work, y1[m * D : m * (D + o)].reshape(m, o))[0]
        else:
            over[i] = -1.0
    for p in range(4):
        for c in range(dim):
            total = 0.0
            for j in range(7):
                total += tab.dense[j, p] * K[j, c]
            shape[p, c] = h * total
    return log_risk


#: What pulls off a flat counts from this share of its terms on.
EXIT = 1e-12
#: Rounding of a sum of forces, in the sum of their sizes.
ROUNDING = 8 * float(np.finfo(float).eps)


@kernel
def watched(cell: Cell) -> bool:
    """Whether anything is held that may have to be let go."""
    return cell.ray_neuron.size + cell.kept.size > 0


@kernel
def excess(sys: System, cell: Cell, work: Work, a: np.ndarray) -> tuple[float, int]:
    """By how much a flat fails to hold its neuron, ≤ 0 while all hold; the ray of the largest.

    Past the rays count the data held at their margin.

    Along the ray p the neuron is pulled by ``V_k·p`` and by the data of its flat, each with the
    slope on the side to which p points; both in units of the sum of their sizes.
    """
    worst, at = -1.0, -1
    last, fuzz = -1, 0.0
    for ray in range(cell.ray_neuron.size):
        k = cell.ray_neuron[ray]
        value, size = 0.0, 0.0
        if k != last:
            last, fuzz = k, 0.0
            for i in range(sys.length.size):
                fuzz += ROUNDING * abs(work.M[k, i]) * sys.length[i]
        for d in range(work.V.shape[1]):
            term = work.V[k, d] * cell.ray[ray, d]
            value += term
            size += abs(term)
        for e in range(cell.ray_start[ray], cell.ray_start[ray + 1]):
            term = force(sys, work, a, k, cell.ray_datum[e]) * cell.ray_slope[e]
            value += term
            size += abs(term)
        if size > 0:
            mass = 0.0
            for j in range(a.shape[1]):
                mass += abs(a[k, j])
            ratio = (value - sys.gain * mass * sys.hush - fuzz) / size - EXIT
            if ratio > worst:
                worst, at = ratio, ray
    if cell.kept.size:
        over, place = margin_excess(sys, cell, work)
        if over > worst:
            worst, at = over, cell.ray_neuron.size + place
    return worst, at


@inner
def estimate(tab: Tableau, h: float, K: np.ndarray, error: np.ndarray) -> None:
    """Fill ``error`` (dim,) with the estimate of a step of stages K."""
    for c in range(error.size):
        total = 0.0
        for j in range(7):
            total += tab.error[j] * K[j, c]
        error[c] = h * total


@kernel
def error_norm(
    sys: System, y: np.ndarray, y1: np.ndarray, errors: np.ndarray, m: int, D: int, o: int,
    budget: float,
) -> float:  # fmt: skip
    """The largest error in units of the tolerance, relative to the size of each neuron.

    A neuron's entries are measured against the largest of them: neurons of very different sizes
    (small starts, dying neurons) count alike. The energy is measured against ``budget``, all there
    is to spend.
    """
    worst = 0.0
    for k in range(m):
        size, error = 0.0, 0.0
        for part in range(2):
            first = k * D if part == 0 else m * D + k * o
            for c in range(first, first + (D if part == 0 else o)):
                if part == 1 and not sys.trained:
                    continue
                size = max(size, abs(y[c]), abs(y1[c]))
                error = max(error, abs(errors[c]))
        worst = max(worst, error / (sys.rtol * size + sys.atol[k]))
    place = m * (D + o)
    worst = max(worst, abs(errors[place]) / (sys.rtol * budget))
    if sys.clock == LOSS:
        allowed = sys.atol_tau + sys.rtol * abs(y1[place + 1])
        worst = max(worst, abs(errors[place + 1]) / allowed)
    for c in range(y1.size):
        if not np.isfinite(y1[c]):
            return np.inf
    return worst if worst == worst else np.inf


@kernel
def dense(y: np.ndarray, shape: np.ndarray, xi: float, out: np.ndarray) -> None:
    """The state at the fraction ξ of the step into ``out``."""
    for c in range(y.size):
        out[c] = y[c] + xi * (
            shape[0, c] + xi * (shape[1, c] + xi * (shape[2, c] + xi * shape[3, c]))
        )
