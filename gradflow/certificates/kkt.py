r"""KKT residuals of the max-margin problem at any point, and its dual variables.

At parameters scaled to unit norm, :math:`\hat\theta`, with margins :math:`\hat q_i` and Clarke
gradients :math:`\hat g_i\in\partial q_i(\hat\theta)` (`clarke1983`), a KKT point of
:math:`\min\tfrac12\|\theta\|^2` s.t. :math:`q_i\ge1` is one where for some :math:`\lambda\ge0`

.. math:: \hat\theta=\sum_i\lambda_i\hat g_i,\qquad \lambda_i(\hat q_i-\hat q_{\min})=0 .

By Euler's identity :math:`D\sum\lambda_i\hat q_i=1` there, so both conditions are pure numbers as
they stand: the scale-free form of the approximate KKT points of `lyu2020homogeneous`. The
multipliers, and the slopes of neurons that stand on a kink, come from one non-negative least
squares problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.optimize import nnls

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.certificates.problem import cells_of, check_margin_risk, unit_split

#: Margins within this share of the smallest are support when the duals are chosen.
SUPPORT = 1e-9
#: A fit of the duals better than this is exact up to rounding of the point.
_EXACT = 1e-9


@dataclass(frozen=True)
class Sliding:
    """A neuron on a surface: ``neuron``, ``datum`` (the first on it), ``slope``.

    The slope, between those of φ on its sides, is that of a datum on the + side of its surface;
    where no force acts at the kink it is arbitrary, and NaN.
    """

    neuron: int
    datum: int
    slope: float


@dataclass(frozen=True)
class KKTResidual:
    r"""How far a point is from a KKT point of the max-margin problem.

    Attributes
    ----------
    total : float
        The largest of the three; infinite where the data are not separated.
    stationarity : float
        :math:`\|\hat\theta-\sum\lambda_i\hat g_i\|`, what the slopes leave their interval by
        included.
    complementarity : float
        :math:`D\sum\lambda_i(\hat q_i-\hat q_{\min})`.
    feasibility : float
        Largest violation of :math:`q_i\ge1` at the scale where the λ-weighted mean of the
        margins is 1.
    duals : (n,) array
        λ of :math:`\min\tfrac12\|\theta\|^2` s.t. :math:`q_i\ge1`. Where they are not unique, those
        of minimum norm.
    sliding : tuple of Sliding
    normalised_margin : float
        :math:`\hat q_{\min}`.
    """

    total: float
    stationarity: float
    complementarity: float
    feasibility: float
    duals: np.ndarray
    sliding: tuple[Sliding, ...]
    normalised_margin: float


def kkt_residual(risk: Any, params: Any) -> KKTResidual:
    """Return the KKT residual of the max-margin problem at ``params``.

    Parameters
    ----------
    risk : EmpiricalRisk
        With logistic or exponential loss and a homogeneous network.
    params : parameters of ``risk.net``
        At any scale.

    Raises
    ------
    ValueError
        A risk without a max-margin problem; parameters of another network.
    """
    check_margin_risk(risk)
    params = risk.net.as_params(params)
    cells = cells_of(risk)
    if cells is None:
        return _smooth_residual(risk, params)
    W, a = unit_split(cells, params)
    return cell_residual(cells, W, a, Pattern.at(cells, W).sides, attract=False)


def _not_separated(n: int, margin: float) -> KKTResidual:
    return KKTResidual(math.inf, math.inf, math.inf, math.inf, np.zeros(n), (), margin)


def _smooth_residual(risk: Any, params: Any) -> KKTResidual:
    """The residual from JAX gradients, for networks without kinks (deep linear)."""
    trained = risk.net.freeze(params)
    leaves = jax.tree.leaves(trained)
    size = math.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in leaves))
    unit = jax.tree.map(lambda leaf: leaf / size, params)
    theta = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(unit)])
    q = np.asarray(risk.margins(unit))
    if not np.min(q) > 0:
        return _not_separated(q.size, float(np.min(q)))
    jacobian = jax.jacrev(risk.margins)(unit)
    rows = [np.asarray(leaf).reshape(q.size, -1) for leaf in jax.tree.leaves(jacobian)]
    gradients = np.concatenate(rows, axis=1)
    x = _fit_duals(gradients.T, theta, q, risk.net.degree)
    return _summary(q, x, gradients.T @ x - theta, risk.net.degree, ())


def cell_residual(
    cells: Arrangement, W: np.ndarray, a: np.ndarray, sides: np.ndarray, attract: bool
) -> KKTResidual:
    """Return the residual at unit-norm ``(W, a)`` with the given pattern.

    Parameters
    ----------
    attract : bool
        Whether a neuron may stand on a surface only where the flow holds it there,
        :math:`c_kF^+\\le c_kp\\le c_kF^-`: then no side of the surface has a larger margin. A
        KKT point as such also allows the reverse.
    """
    n, m, D = cells.y.size, W.shape[0], W.shape[1]
    q = cells.margins(W, a)
    low = float(np.min(q))
    if not low > 0:
        return _not_separated(n, low)
    alive = np.flatnonzero(np.any(W != 0, axis=1) & (a != 0))
    pairs = [(k, g) for k in alive for g in np.flatnonzero(sides[k] == 0)]
    turn = np.array([_orientation(cells, int(k), int(g), a, attract) for k, g in pairs], dtype=int)
    base = np.where(sides == 0, 1, sides)
    for (k, g), o in zip(pairs, turn, strict=True):
        base[k, g] = -o
    slopes = Pattern(cells, base).slopes
    # Columns λ_i; then for every pair on a surface t and r with p = F∓ + t, t + r = ±(F⁺ − F⁻).
    spatial = (a[:, None] * cells.y * slopes)[:, :, None] * cells.inputs
    blocks = [np.moveaxis(spatial, 1, 2).reshape(m * D, n)]
    theta = [W.ravel()]
    if cells.trained:
        blocks.append(cells.y * cells.activations(W))
        theta.append(a)
    columns = np.concatenate(blocks)
    target = np.concatenate(theta)
    extra = np.zeros((columns.shape[0], 2 * len(pairs)))
    tie = np.zeros((len(pairs), n + 2 * len(pairs)))
    for j, ((k, g), o) in enumerate(zip(pairs, turn, strict=True)):
        extra[k * D : (k + 1) * D, 2 * j] = a[k] * cells.normals[g]
        on = np.flatnonzero(cells.surface == g)
        jump = cells.bend * cells.y[on] * np.abs(cells.scale[on])
        # (a violation counts by the force it stands for)
        tie[j, on] = abs(a[k]) * o * jump
        tie[j, n + 2 * j] = tie[j, n + 2 * j + 1] = -abs(a[k])
    matrix = np.concatenate([np.concatenate([columns, extra], axis=1), tie])
    target = np.append(target, np.zeros(len(pairs)))
    x = _fit_duals(matrix, target, q, cells.degree)
    x = _least_duals(matrix, target, x, q)
    lam = x[:n]
    sliding = []
    for j, ((k, g), o) in enumerate(zip(pairs, turn, strict=True)):
        t, r = x[n + 2 * j], x[n + 2 * j + 1]
        share = t / (t + r) if t + r > 0 else math.nan
        up = share if o > 0 else 1 - share
        datum = int(np.flatnonzero(cells.surface == g)[0])
        sliding.append(Sliding(int(k), datum, cells.slope + cells.bend * up))
    return _summary(q, lam, matrix @ x - target, cells.degree, tuple(sliding))


def _orientation(cells: Arrangement, k: int, g: int, a: np.ndarray, attract: bool) -> int:
    """Return the sign of F⁺ − F⁻ that is assumed at neuron k's stand on surface g."""
    labels = cells.y[cells.surface == g]
    if attract or np.ptp(labels) != 0:
        return -int(np.sign(a[k]))
    return int(np.sign(labels[0] * cells.bend))


def _fit_duals(matrix: np.ndarray, target: np.ndarray, q: np.ndarray, degree: int) -> np.ndarray:
    """Return the multipliers x ≥ 0 that make stationarity and complementarity least."""
    n = q.size
    # At a KKT point the support alone carries duals, and no rounding may put some elsewhere.
    use = np.concatenate([q <= np.min(q) * (1 + SUPPORT), np.ones(matrix.shape[1] - n, dtype=bool)])
    part, _ = fit_nonnegative(matrix[:, use], target)
    x = np.zeros(matrix.shape[1])
    x[use] = part
    if np.linalg.norm(matrix @ x - target) <= _EXACT:
        return x
    row = np.zeros((1, matrix.shape[1]))
    row[0, :n] = degree * (q - np.min(q))
    return fit_nonnegative(np.concatenate([matrix, row]), np.append(target, 0.0))[0]


def fit_nonnegative(matrix: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``argmin |matrix x − target|`` over x ≥ 0, refined on its support, and the support."""
    size = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(size > 0, size, 1.0)
    if scaled.shape[0] > scaled.shape[1]:
        R: Any = np.linalg.qr(np.column_stack([scaled, target]), mode="r")
        small, right = R[:, :-1], R[:, -1]
    else:
        small, right = scaled, target
    try:
        x = nnls(small, right, maxiter=10 * small.shape[1] + 100)[0]
    except RuntimeError:
        return np.zeros(matrix.shape[1]), np.zeros(0, dtype=int)
    x[size == 0] = 0.0
    support = np.flatnonzero(x > 0)
    for _ in range(2):
        step = np.linalg.lstsq(scaled[:, support], target - scaled @ x, rcond=1e-13)[0]
        if not np.all(x[support] + step >= 0):
            break
        x[support] += step
    return x / np.where(size > 0, size, 1.0), support


def _least_duals(
    matrix: np.ndarray, target: np.ndarray, x: np.ndarray, q: np.ndarray
) -> np.ndarray:
    """Return the solution of least |λ| if the fit is exact and not unique."""
    n = q.size
    if np.linalg.norm(matrix @ x - target) > _EXACT:
        return x
    use = np.concatenate([q <= np.min(q) * (1 + SUPPORT), np.ones(x.size - n, dtype=bool)])
    part = matrix[:, use]
    size = np.linalg.norm(part, axis=0)
    if np.linalg.matrix_rank(part / np.where(size > 0, size, 1.0), tol=1e-10) == np.sum(use):
        return x
    top = float(np.max(x[:n]))
    duals = np.flatnonzero(use[:n])
    # The equations weigh 1e5 times the norm; what that leaves of them is corrected afterwards.
    norm_rows = np.zeros((duals.size, part.shape[1]))
    norm_rows[np.arange(duals.size), np.arange(duals.size)] = 1e-5 / top
    y, support = fit_nonnegative(
        np.concatenate([part, norm_rows]), np.append(target, np.zeros(duals.size))
    )
    for _ in range(2):
        step = np.linalg.lstsq(part[:, support], target - part @ y, rcond=1e-12)[0]
        y[support] += step
    # (a step that leaves the orthant by rounding is cut; by more it is no solution)
    if np.min(y, initial=0.0) < 0 or np.linalg.norm(part @ y - target) > 2 * max(
        np.linalg.norm(matrix @ x - target), 1e-14
    ):
        return x
    out = np.zeros_like(x)
    out[use] = y
    return out


def _summary(
    q: np.ndarray, lam: np.ndarray, gap: np.ndarray, degree: int, sliding: tuple[Sliding, ...]
) -> KKTResidual:
    low = float(np.min(q))
    stationarity = float(np.linalg.norm(gap))
    complementarity = float(degree * np.sum(lam * (q - low)))
    mean = float(np.sum(lam * q) / np.sum(lam)) if np.any(lam > 0) else low
    feasibility = max(0.0, 1 - low / mean)
    # λ of the problem with q ≥ 1: there θ is 1/q_min^{1/D} times the unit vector.
    duals = lam * low ** (-(2 - degree) / degree)
    total = max(stationarity, complementarity, feasibility)
    return KKTResidual(total, stationarity, complementarity, feasibility, duals, sliding, low)
