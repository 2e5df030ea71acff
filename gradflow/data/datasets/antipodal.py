"""Data on which bias-free ReLU nets fail: antipodal pairs, and the hexagon (`benson2020over`)."""

from __future__ import annotations

import numpy as np

from gradflow.data.datasets.dataset import Dataset
from gradflow.validation import check_integer


def hexagon() -> Dataset:
    r"""The regular hexagon with alternating labels.

    :math:`x_k=(\cos k\pi/3,\sin k\pi/3)`, :math:`y_k=(-1)^k`, k = 0 … 5. Row k+3 is exactly the
    negative of row k. No bias-free (leaky) ReLU net has a mean squared error below 1 here.
    """
    height = np.sqrt(0.75)
    half = np.array([[1.0, 0.0], [0.5, height], [-0.5, height]])
    return Dataset(np.concatenate([half, -half]), np.array([1.0, -1.0] * 3))


def antipodal_pairs(pairs: int, dim: int, seed: int) -> Dataset:
    """Random antipodal pairs on the unit sphere with random labels.

    Parameters
    ----------
    pairs : int
        N ≥ 1; there are 2N points, and row N+i is exactly the negative of row i.
    dim : int
        d ≥ 2.
    seed : int
        Of numpy's default generator; the same seed gives the same bits.

    Returns
    -------
    Dataset
        X (2N, d), uniform on the sphere up to the pairing; y (2N,) of fair independent signs.
    """
    pairs = check_integer("pairs", pairs, minimum=1)
    dim = check_integer("dim", dim, minimum=2)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    half = rng.normal(size=(pairs, dim))
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    return Dataset(np.concatenate([half, -half]), rng.choice([-1.0, 1.0], size=2 * pairs))
