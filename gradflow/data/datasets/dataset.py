"""What every data set is: inputs and labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Inputs and labels; unpacks as ``X, y = gf.datasets.two_balls(...)``.

    Attributes
    ----------
    X : ndarray, shape (n, d)
    y : ndarray, shape (n,)
    """

    X: np.ndarray
    y: np.ndarray
