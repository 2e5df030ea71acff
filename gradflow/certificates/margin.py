r"""Linear separability and the hard-margin SVM, exact to rounding and with evidence either way.

By Gordan's theorem exactly one holds: some w has :math:`y_iw\cdot x_i>0` for all i, or some
:math:`p\ge0`, :math:`\sum p_i=1`, has :math:`\sum p_iy_ix_i=0`. Both come from one non-negative
least squares problem (Lawson and Hanson 1974, least-distance programming).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog, nnls

from gradflow.cells.surfaces import surfaces_of
from gradflow.validation import check_array, check_bool, fail

#: Evidence holds if it is exact to this, relative to the size of the data.
_EXACT = 1e-12


@dataclass(frozen=True)
class HardMargin:
    r"""The solution of ``min ½|w|² s.t. y_i (w·x_i [+ b]) ≥ 1``, or the evidence against one.

    Attributes
    ----------
    separable : bool
    direction : (d,) array
        w/|w|.
    offset : float
        b/|w|; 0 without a bias.
    margin : float
        1/|w|, the largest min_i y_i (u·x_i + offset) over unit vectors u.
    duals : (n,) array
        λ ≥ 0 with w = Σ λ_i y_i x_i (and Σ λ_i y_i = 0 with a bias).
    support : array of ints
    residual : float
        Largest of the relative errors of stationarity, feasibility, signs and complementarity.
    gordan : (n,) array or None
        Where not separable: p ≥ 0, Σ p_i = 1, Σ p_i y_i x_i = 0 (and Σ p_i y_i = 0 with a bias) up
        to ``residual``.
    """

    separable: bool
    direction: np.ndarray
    offset: float
    margin: float
    duals: np.ndarray
    support: np.ndarray
    residual: float
    gordan: np.ndarray | None = None


@dataclass(frozen=True)
class Separability:
    """Whether data are linearly separable.

    Attributes
    ----------
    separable : bool or None
        None where neither evidence is exact to rounding.
    direction : (d,) array or None
        Unit w with y_i (w·x_i + offset) > 0 for all i.
    offset : float
    margin : float
        min_i y_i (w·x_i + offset) for it (not the largest possible).
    gordan : (n,) array or None
        p ≥ 0, Σ p_i = 1, with Σ p_i y_i x_i = 0.
    residual : float
        |Σ p_i y_i x_i| over the largest |x_i|; 0 where a separating w is the evidence.
    """

    separable: bool | None
    direction: np.ndarray | None
    offset: float
    margin: float
    gordan: np.ndarray | None
    residual: float


@dataclass(frozen=True)
class Contradiction:
    """Rows of one direction and both labels: indices of those with +1 and those with −1."""

    positive: tuple[int, ...]
    negative: tuple[int, ...]


def _check_data(X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    inputs = check_array("X", X, (None, None))
    if inputs.shape[0] == 0:
        raise fail("X", inputs, "holds no data", "pass at least one row")
    labels = check_array("y", y, (None,))
    if labels.size != inputs.shape[0]:
        problem = f"has length {labels.size}, but X has {inputs.shape[0]} rows"
        raise fail("y", labels, problem, "pass one label per row of X")
    if not np.all(np.abs(labels) == 1):
        raise fail("y", labels, "holds labels other than -1 and +1", "pass labels -1 and +1")
    return inputs, labels


def contradictions(X: ArrayLike, y: ArrayLike) -> tuple[Contradiction, ...]:
    """Return the groups of rows with one direction (x_j = c x_i, c > 0) and opposite labels.

    No bias-free network with a positively homogeneous activation separates such data, since there
    f(cx) = c f(x). For a network with biases append a column of ones to X (then these are equal
    rows).
    """
    inputs, labels = _check_data(X, y)
    _, surface, scale = surfaces_of(inputs)
    rays = 2 * surface + (scale > 0)
    filled = scale != 0
    out = []
    for ray in np.unique(rays[filled]):
        rows = np.flatnonzero((rays == ray) & filled)
        up, down = rows[labels[rows] > 0], rows[labels[rows] < 0]
        if up.size and down.size:
            out.append(Contradiction(tuple(map(int, up)), tuple(map(int, down))))
    return tuple(out)


def separable(X: ArrayLike, y: ArrayLike, bias: bool = False) -> Separability:
    """Decide linear separability by a linear program, with evidence that is checked afterwards.

    Parameters
    ----------
    X : (n, d) array
    y : (n,) array of ±1
    bias : bool
        Whether the hyperplane may leave the origin.
    """
    inputs, labels = _check_data(X, y)
    Z, size = _signed(inputs, labels, check_bool("bias", bias))
    n, D = Z.shape
    # max t: Z w ≥ t, |w_j| ≤ 1.
    result = linprog(
        np.append(np.zeros(D), -1.0), A_ub=np.column_stack([-Z, np.ones(n)]), b_ub=np.zeros(n),
        bounds=[(-1, 1)] * D + [(None, 1.0)], method="highs",
    )  # fmt: skip
    w = result.x[:D] if result.x is not None else np.zeros(D)
    d = inputs.shape[1]
    length = float(np.linalg.norm(w[:d]))
    if length > 0 and float(np.min(Z @ w)) > _EXACT * np.linalg.norm(w):
        offset = float(w[d]) / length * size if bias else 0.0
        direction = w[:d] / length
        margin = float(np.min(labels * (inputs @ direction + offset)))
        return Separability(True, direction, offset, margin, None, 0.0)
    p, residual = _gordan(Z, np.arange(n))
    if residual <= _EXACT:
        return Separability(False, None, 0.0, 0.0, p, residual)
    # Margins below what the linear program resolves: the exact solution decides.
    svm = hard_margin_svm(inputs, labels, bias=bias)
    if svm.separable and svm.margin > 0:
        return Separability(True, svm.direction, svm.offset, svm.margin, None, 0.0)
    return Separability(None, None, 0.0, 0.0, p, residual)


def _signed(X: np.ndarray, y: np.ndarray, bias: bool) -> tuple[np.ndarray, float]:
    """Return rows y_i x_i over the largest |x_i| (then y_i appended, for a bias), and that size."""
    size = float(np.max(np.linalg.norm(X, axis=1))) or 1.0
    rows = y[:, None] * X / size
    return (np.column_stack([rows, y]) if bias else rows), size


def _gordan(Z: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the p on the simplex that makes |Zᵀp| least, and that value."""
    E = np.concatenate([Z[candidates].T, np.ones((1, candidates.size))])
    f = np.append(np.zeros(Z.shape[1]), 1.0)
    x = nnls(E, f, maxiter=30 * E.shape[1] + 100)[0]
    use = np.flatnonzero(x > 0)
    step = np.linalg.lstsq(E[:, use], f - E @ x, rcond=None)[0]
    if np.all(x[use] + step >= 0):
        x[use] += step
    p = np.zeros(Z.shape[0])
    p[candidates] = x / max(float(np.sum(x)), 1e-300)
    return p, float(np.linalg.norm(Z.T @ p))


def hard_margin_svm(X: ArrayLike, y: ArrayLike, bias: bool = False) -> HardMargin:
    """Solve the hard-margin SVM exactly: least squares on the dual, then equations on its support.

    Parameters
    ----------
    X : (n, d) array
    y : (n,) array of ±1
    bias : bool
        Whether the hyperplane may leave the origin (the offset is not penalised).

    Notes
    -----
    Solvers that report success at loose tolerances are the known trap here; ``residual`` is
    computed from the returned numbers alone.
    """
    inputs, labels = _check_data(X, y)
    bias = check_bool("bias", bias)
    Z, size = _signed(inputs, labels, False)
    n, d = Z.shape
    active = np.zeros(0, dtype=int)
    kappa = 1.0
    # κ of the size of 1/margin balances the terms; 30 a step is near enough.
    for _ in range(8):
        # min |κ Zᵀu|² + M²(y·u)² + (1 − Σu)² over u ≥ 0; λ = κ²u/(1 − Σu).
        rows = [kappa * Z.T, np.ones((1, n))]
        if bias:
            rows.insert(1, 1e3 * kappa * labels[None, :])
        E = np.concatenate(rows)
        u = nnls(E, np.append(np.zeros(E.shape[0] - 1), 1.0), maxiter=30 * n + 100)[0]
        active = np.flatnonzero(u > 0)
        if 1 - np.sum(u) > 1e-3:
            found = _solve_support(Z, labels, active, bias)
            if found is not None:
                w, b, lam, residual = found
                length = float(np.linalg.norm(w))
                return HardMargin(
                    True, w / length, b / length * size, size / length, lam / size**2,
                    np.flatnonzero(lam > 0), residual,
                )  # fmt: skip
        kappa *= 30.0
    full = np.column_stack([Z, labels]) if bias else Z
    p, residual = _gordan(full, np.arange(n))
    return HardMargin(
        False, np.zeros(d), 0.0, 0.0, np.zeros(n), np.zeros(0, dtype=int), residual, gordan=p
    )


def _solve_support(
    Z: np.ndarray, y: np.ndarray, active: np.ndarray, bias: bool
) -> tuple[np.ndarray, float, np.ndarray, float] | None:
    """Solve w = Zᵀλ, Z w + b y = 1 on the support, mending it until nothing is violated."""
    best = None
    for _ in range(60):
        A = Z[active]
        w, part, b = _with_bias(A, y[active]) if bias else _without_bias(A)
        lam = np.zeros(Z.shape[0])
        lam[active] = part
        margins = Z @ w + b * y
        scale = max(float(w @ w), 1e-300)
        w_exact = Z.T @ np.maximum(lam, 0.0)
        residual = max(
            float(np.linalg.norm(w - w_exact)) / np.sqrt(scale),
            max(0.0, 1 - float(np.min(margins))),
            float(np.sum(np.abs(lam * (margins - 1)))) / scale,
            abs(float(np.sum(np.maximum(lam, 0) * y))) / max(float(np.sum(np.abs(lam))), 1e-300)
            if bias else 0.0,
        )  # fmt: skip
        if best is None or residual < best[3]:
            best = (w, b, np.maximum(lam, 0.0), residual)
        if residual <= 1e-13:
            break
        if np.min(part) < 0:
            active = np.delete(active, int(np.argmin(part)))
        elif np.min(margins) < 1 - 1e-13 and int(np.argmin(margins)) not in active:
            active = np.append(active, int(np.argmin(margins)))
        else:
            break
        if active.size == 0:
            break
    return best if best is not None and best[3] < 1e-6 else None


def _without_bias(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return ``(w, λ, 0)`` with A w = 1 of least norm, w = Aᵀλ."""
    w = np.linalg.lstsq(A, np.ones(A.shape[0]), rcond=1e-14)[0]
    return w, np.linalg.lstsq(A.T, w, rcond=1e-14)[0], 0.0


def _with_bias(A: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return ``(w, λ, b)`` with A w + b y = 1, w = Aᵀλ, y·λ = 0."""
    n, d = A.shape
    K = np.zeros((d + n + 1, d + n + 1))
    K[:d, :d], K[:d, d : d + n], K[d : d + n, :d] = np.eye(d), -A.T, A
    K[d : d + n, -1] = K[-1, d : d + n] = y
    right = np.concatenate([np.zeros(d), np.ones(n), [0.0]])
    x = np.linalg.lstsq(K, right, rcond=1e-14)[0]
    x = x + np.linalg.lstsq(K, right - K @ x, rcond=1e-14)[0]
    return x[:d], x[d : d + n], float(x[-1])
