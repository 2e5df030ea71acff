"""What the claims of `benson2020over` share: points, labels, probed nets, and their hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Hypothesis
from gradflow.claims.instances import Row, every, row, rows
from gradflow.validation import check_array, fail

SOURCE = "benson2020over"
EPS = float(np.finfo(np.float64).eps)
#: Lines closer than this are not told apart by the rank of a Gram matrix in float64.
APART = 1e-3

#: Two-sided level of the confidence intervals, per width.
LEVEL = 0.999


@dataclass(frozen=True)
class Points:
    """Points in R^d, perhaps with labels; made by `points`, hashable.

    Attributes
    ----------
    rows : tuple of tuples
        X, shape (n, d).
    labels : tuple of float
        y, shape (n,), or ().
    """

    rows: tuple[Row, ...]
    labels: Row = ()

    @property
    def X(self) -> np.ndarray:
        """The points (n, d)."""
        return np.array(self.rows)

    @property
    def y(self) -> np.ndarray:
        """The labels (n,)."""
        return np.array(self.labels)

    @property
    def n(self) -> int:
        """The number of points."""
        return len(self.rows)

    @property
    def dim(self) -> int:
        """d."""
        return len(self.rows[0])

    def __str__(self) -> str:
        return f"{self.n} points, d={self.dim}"


def points(X: ArrayLike, y: ArrayLike | None = None) -> Points:
    """Checked `Points`.

    Parameters
    ----------
    X : (n, d) array
        None of the rows zero; a `Dataset` passes as ``points(*dataset)``.
    y : (n,) array, optional
    """
    array = check_array("X", X, (None, None))
    if array.size == 0:
        raise fail("X", array, "holds no points", "pass an array (n, d) with n, d >= 1")
    if not np.all(np.any(array, axis=1)):
        zero = int(np.argmin(np.any(array, axis=1)))
        raise fail("X", array, f"row {zero} is zero", "drop the row")
    labels = () if y is None else row(check_array("y", y, (array.shape[0],)))
    return Points(rows(array), labels)


def check_activation(argument: str, value: Any) -> gf.AbstractActivation:
    """Return ``value`` if it is an activation."""
    if not isinstance(value, gf.AbstractActivation):
        raise fail(argument, value, "is not an activation", "pass gf.relu or another")
    return value


def features(activation: gf.AbstractActivation, X: np.ndarray, W: np.ndarray) -> np.ndarray:
    """φ(XWᵀ) on NumPy arrays; W (m, d), X (n, d) or (..., n, d) against W (..., m, d)."""
    z = X @ np.swapaxes(W, -1, -2)
    # In blocks of one size: JAX would compile anew for every shape of an ensemble.
    size = 1 << (12 if z.size <= 1 << 16 else 18)
    blocks = np.zeros((-(-z.size // size), size))
    blocks.ravel()[: z.size] = z.ravel()
    for block in blocks:
        block[:] = activation(jnp.asarray(block))
    return blocks.ravel()[: z.size].reshape(z.shape)


def interval(failures: int, trials: int) -> tuple[float, float]:
    """The Clopper-Pearson interval of a probability."""
    tail = (1 - LEVEL) / 2
    low = scipy.stats.beta.ppf(tail, failures, trials - failures + 1) if failures else 0.0
    high = scipy.stats.beta.isf(tail, failures + 1, trials - failures) if failures < trials else 1.0
    return float(low), float(high)


def rank_error(found: gf.kernels.Rank, derived: int, size: int) -> float:
    """The error of a numerical rank that is held against a derived one: 0, or else ``size``.

    Eigenvalues below their error may be small as well as zero, so that a rank that falls short of
    the derived one decides nothing; one beyond it does.
    """
    return 0.0 if found.decided and found.rank >= derived else float(size)


# --- geometry ----------------------------------------------------------------------------------


def partners(X: np.ndarray) -> np.ndarray:
    """For each row the row that is its negative, to rounding; -1 where there is none, or several.

    To rounding: the corners (cos, sin) of a hexagon are antipodal to some 1e-16.
    """
    norm = np.linalg.norm(X, axis=1)
    same = np.linalg.norm(X[:, None] + X[None], axis=2) <= 64 * EPS * norm[:, None]
    return np.where(np.count_nonzero(same, axis=1) == 1, np.argmax(same, axis=1), -1)


def halves(X: np.ndarray) -> np.ndarray:
    """One row of each antipodal pair (N, d), in their order."""
    partner = partners(X)
    return X[np.arange(len(X)) < partner]


def antipodal(ones: Sequence[Points]) -> Hypothesis:
    """The points are pairs ±x."""

    def check(one: Points) -> str:
        alone = np.flatnonzero(partners(one.X) < 0)
        return f"row {alone[0]} has not exactly one negative among the rows" if alone.size else ""

    return every("antipodal pairs", ones, check)


def distinct(ones: Sequence[Points], *, lines: bool) -> Hypothesis:
    """The points (or the lines through them) are distinct, by a margin that float64 can see."""

    def check(one: Points) -> str:
        X = one.X
        if lines:
            X = X[(np.arange(one.n) < partners(X)) | (partners(X) < 0)]
        norm = np.linalg.norm(X, axis=1)
        unit = X / norm[:, None]
        # the sine of half the angle, and the cosine
        gap = np.linalg.norm(unit[:, None] - unit, axis=2) / 2
        if lines:
            gap = np.minimum(gap, np.linalg.norm(unit[:, None] + unit, axis=2) / 2)
        else:
            gap = gap + np.abs(norm[:, None] / norm - 1)
        gap = gap + 2.0 * np.eye(len(X))
        if len(X) > 1 and np.min(gap) < APART:
            i, j = np.unravel_index(np.argmin(gap), gap.shape)
            what = "one line" if lines else "one point"
            return f"{list(np.round(X[i], 6))} and {list(np.round(X[j], 6))} are nearly {what}"
        return ""

    return every("distinct lines, up to ±x" if lines else "distinct points", ones, check)


def general_position(ones: Sequence[Points]) -> Hypothesis:
    """The matrix of the pairs has rank min(N, d)."""

    def check(one: Points) -> str:
        half = halves(one.X)
        half = half / np.linalg.norm(half, axis=1, keepdims=True) if len(half) else half
        rank = int(np.linalg.matrix_rank(half, tol=APART)) if len(half) else 0
        wanted = min(half.shape)
        return "" if rank == wanted else f"the pairs span {rank} dimensions, not {wanted}"

    return every("general position: rank min(N, d)", ones, check)


def labelled(ones: Sequence[Points]) -> Hypothesis:
    """Every instance has labels."""
    return every("labels", ones, lambda one: "" if one.labels else "no labels")
