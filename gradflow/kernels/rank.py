"""The rank of a Gram matrix, decided by a gap in its spectrum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gradflow.validation import check_array, check_nonnegative, fail

#: How far above the error an eigenvalue must lie to be one for certain.
_CLEAR = 100.0


class Rank(NamedTuple):
    """Eigenvalues counted against a bound on their errors.

    Attributes
    ----------
    rank : int
        Number of eigenvalues above ``error``.
    least : float
        The least of them (inf if there is none).
    rest : float
        The largest modulus of the others (0 if there is none).
    error : float
        Bound on the error of every eigenvalue.
    decided : bool
        Whether ``least`` exceeds the error a hundredfold. What is below the error is compatible
        with zero; that it is zero can only be derived.
    """

    rank: int
    least: float
    rest: float
    error: float
    decided: bool


def numerical_rank(gram: ArrayLike, error: float = 0.0) -> Rank:
    """The rank of a symmetric positive semi-definite matrix.

    By Weyl's inequality no eigenvalue moves by more than the norm of the matrix of errors: n times
    the largest error of an entry, plus the rounding of the eigenvalue solver.

    Parameters
    ----------
    gram : (n, n) array
    error : float
        Absolute error of the entries beyond rounding (of a quadrature, say).

    Raises
    ------
    ValueError
        If the matrix is not square or not symmetric, or the error negative.
    """
    matrix = check_array("gram", gram, (None, None))
    size = matrix.shape[0]
    if matrix.shape[1] != size or size == 0:
        raise fail("gram", matrix, f"has shape {matrix.shape}", "pass a square matrix")
    largest = float(np.max(np.abs(matrix)))
    error = check_nonnegative("error", error)
    skew = float(np.max(np.abs(matrix - matrix.T)))
    if skew > 1e-12 * largest + 2 * error:
        raise fail("gram", matrix, "is not symmetric", "pass kernels.gram(...) of one point set")
    bound = size * (error + 16 * np.finfo(np.float64).eps * largest)
    found = np.linalg.eigvalsh(0.5 * (matrix + matrix.T))
    above = found > bound
    least = float(np.min(found[above], initial=np.inf))
    rest = float(np.max(np.abs(found[~above]), initial=0.0))
    decided = least > _CLEAR * bound and rest <= bound
    return Rank(int(np.count_nonzero(above)), least, rest, bound, decided)
