r"""Linearly separable data: two balls, two Gaussians, and data that are orthogonally separable.

All are separated by the first axis :math:`e_1` through the origin: :math:`y_i\,e_1\cdot x_i>0`.
Labels alternate, +1 first.
"""

from __future__ import annotations

from math import pi

import numpy as np
from scipy.special import ndtr

from gradflow.data.datasets.dataset import Dataset
from gradflow.validation import check_integer, check_nonnegative, check_positive, fail

#: Below this share of accepted draws, rejection sampling is refused.
_RAREST = 1e-3


def two_balls(
    n: int = 500, *, dim: int = 2, centre: float = 0.5, radius: float = 0.2, seed: int = 0
) -> Dataset:
    r"""Draw from two balls with centres :math:`\pm c\,e_1`, uniformly: y = ±1 by ball.

    The margin to :math:`e_1` is at least ``centre - radius``. The setting of `sarussi2021linear`;
    the defaults are settings of a development repository of one of its authors (where the radius of
    a datum is uniform in [0, r], and a tenth of the data are trained on), not the paper's.

    Parameters
    ----------
    n : int
        Number of data, at least 2.
    dim : int
    centre : float
        c, the distance of the centres from the origin.
    radius : float
        Less than ``centre``, so that the data are linearly separable.
    seed : int

    Returns
    -------
    Dataset
        ``X`` of shape (n, dim), ``y`` of shape (n,).

    Raises
    ------
    ValueError
        Fewer than two data; a radius that reaches the origin.
    """
    n, dim, rng = _sizes(n, dim, seed)
    centre, radius = check_positive("centre", centre), check_positive("radius", radius)
    if radius >= centre:
        raise fail(
            "radius", radius, f"reaches the other ball's side, whose centre is {centre:g} away",
            "pass radius < centre",
        )  # fmt: skip
    y = _labels(n)
    offset = radius * rng.random((n, 1)) ** (1 / dim) * _directions(rng, n, dim)
    X = offset
    X[:, 0] += centre * y
    return Dataset(X, y)


def separable_gaussians(
    n: int = 500,
    *,
    dim: int = 2,
    centre: float = 1.0,
    std: float = 0.5,
    margin: float = 0.1,
    seed: int = 0,
) -> Dataset:
    r"""Draw from :math:`N(y\,c\,e_1,\sigma^2I)`, kept only where :math:`y\,e_1\cdot x\ge` margin.

    Source: `sarussi2021linear`.

    Parameters
    ----------
    n : int
        Number of data, at least 2.
    dim : int
    centre : float
        c ≥ 0, the distance of the means from the origin before the cut.
    std : float
        σ.
    margin : float
        The least :math:`y\,e_1\cdot x`, positive.
    seed : int

    Returns
    -------
    Dataset
        ``X`` of shape (n, dim), ``y`` of shape (n,).

    Raises
    ------
    ValueError
        Fewer than two data; a margin that fewer than one draw in a thousand has.
    """
    n, dim, rng = _sizes(n, dim, seed)
    centre, std = check_nonnegative("centre", centre), check_positive("std", std)
    margin = check_positive("margin", margin)
    share = float(ndtr((centre - margin) / std))
    if share < _RAREST:
        raise fail(
            "margin", margin, f"only {share:.1e} of the draws have it",
            "pass a smaller margin, or a larger std or centre",
        )  # fmt: skip
    y = _labels(n)
    along = centre + std * rng.normal(size=n)
    while np.any(low := along < margin):
        along[low] = centre + std * rng.normal(size=np.count_nonzero(low))
    X = std * rng.normal(size=(n, dim))
    X[:, 0] = y * along
    return Dataset(X, y)


def orthogonally_separable(
    n: int = 20,
    *,
    dim: int = 2,
    half_angle: float = pi / 5,
    radii: tuple[float, float] = (0.5, 1.5),
    seed: int = 0,
) -> Dataset:
    r"""Draw data with :math:`y_iy_j\,x_i\cdot x_j>0` for all pairs.

    :math:`y_ix_i` lies within ``half_angle`` of :math:`e_1` (uniform in that angle, and uniform in
    norm): two such vectors are less than :math:`\pi/2` apart. Source: `phuong2021inductive`.

    Parameters
    ----------
    n : int
        Number of data, at least 2.
    dim : int
    half_angle : float
        In radians, positive and less than π/4.
    radii : (float, float)
        The least and the largest norm.
    seed : int

    Returns
    -------
    Dataset
        ``X`` of shape (n, dim), ``y`` of shape (n,).

    Raises
    ------
    ValueError
        Fewer than two data; an angle of π/4 or more; norms out of order.
    """
    n, dim, rng = _sizes(n, dim, seed)
    half_angle = check_positive("half_angle", half_angle)
    if half_angle >= pi / 4:
        raise fail("half_angle", half_angle, "lets pairs be orthogonal", "pass less than pi/4")
    if np.shape(radii) != (2,):
        raise fail("radii", radii, "is not a pair", "pass (least, largest)")
    low, high = (check_positive("radii", r) for r in radii)
    if low > high:
        raise fail("radii", radii, "is out of order", "pass (least, largest)")
    y = _labels(n)
    angle = half_angle * rng.random((n, 1)) * (dim > 1)
    across = _directions(rng, n, dim - 1) if dim > 1 else np.zeros((n, 0))
    X = np.concatenate([np.cos(angle), np.sin(angle) * across], axis=1)
    return Dataset((y * rng.uniform(low, high, size=n))[:, None] * X, y)


def _sizes(n: object, dim: object, seed: object) -> tuple[int, int, np.random.Generator]:
    n, dim = check_integer("n", n, minimum=2), check_integer("dim", dim, minimum=1)
    return n, dim, np.random.default_rng(check_integer("seed", seed, minimum=0))


def _labels(n: int) -> np.ndarray:
    return np.where(np.arange(n) % 2 == 0, 1.0, -1.0)


def _directions(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Rows uniform on the unit sphere."""
    rows = rng.normal(size=(n, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
