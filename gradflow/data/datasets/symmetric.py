r"""Data on which small starts are biased towards simple nets: symmetric, and with a hint.

On symmetric data the flow of a two-layer leaky ReLU net ends with the best linear predictor, which
is then the best net; a hint misleads it to a linear predictor that is not. Source: `lyu2021margin`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gradflow.data.datasets.dataset import Dataset
from gradflow.validation import check_integer, check_positive, check_unit_vector, fail


def symmetric(
    n: int = 10, *, dim: int = 2, margin: float = 0.5, spread: float = 1.0, seed: int = 0
) -> Dataset:
    r"""Draw separable data that are symmetric: (x, y) is in the set exactly if (−x, −y) is.

    The max-margin direction is :math:`w^*=e_1` and the margin :math:`\gamma^*` is ``margin``,
    exactly: two data have :math:`yx=\gamma^*e_1\pm u` with :math:`u\perp e_1`, so that their mean
    is :math:`\gamma^*e_1`, and no datum has :math:`y\,e_1\cdot x<\gamma^*`. The others have
    :math:`yx=(\gamma^*+s|g_1|,\,sg_2,\dots,sg_d)` with standard normal g and s the ``spread``.

    Parameters
    ----------
    n : int
        Number of data, even; at least 4, or 2 if ``dim`` is 1.
    dim : int
    margin : float
        γ* > 0.
    spread : float
        s > 0, also the length of u.
    seed : int
        Of numpy's default generator; the same seed gives the same bits.

    Returns
    -------
    Dataset
        ``X`` of shape (n, dim), ``y`` of shape (n,); row i + n/2 is exactly the negative of row i,
        and so is its label.

    Raises
    ------
    ValueError
        An odd or too small number of data; a margin or spread that is not positive.
    """
    dim = check_integer("dim", dim, minimum=1)
    n = check_integer("n", n, minimum=2 if dim == 1 else 4)
    if n % 2:
        raise fail("n", n, "is odd, and data come in pairs", f"pass {n + 1}")
    margin, spread = check_positive("margin", margin), check_positive("spread", spread)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    half = spread * rng.normal(size=(n // 2, dim))
    half[:, 0] = margin + np.abs(half[:, 0])
    if dim == 1:
        half[0] = margin
    else:
        across = half[0, 1:] * (spread / np.linalg.norm(half[0, 1:]))
        half[:2, 0] = margin
        half[0, 1:], half[1, 1:] = across, -across
    y = rng.choice([-1.0, 1.0], size=n // 2)
    X = y[:, None] * half
    return Dataset(np.concatenate([X, -X]), np.concatenate([y, -y]))


def hinted(
    H: float = 5.0, K: float = 0.9, eps: float = 0.1, *, direction: ArrayLike | None = None
) -> Dataset:
    r"""Three data of label +1: the hint :math:`Hw^*`, and :math:`\epsilon w^*\pm Kw_\perp`.

    The best linear predictor is :math:`w^*` with margin ε. A leaky ReLU net does better with two
    groups of neurons, one for each of the last two data; but neurons from a small start turn to the
    hint first. If they all come to :math:`w^*` there is one group left, and the limit is linear.

    Parameters
    ----------
    H : float
        At least ``eps``.
    K : float
    eps : float
        ε > 0.
    direction : (2,) array, optional
        The unit vector w*; default the first axis. :math:`w_\perp` is w* turned by a right angle.

    Returns
    -------
    Dataset
        ``X`` of shape (3, 2), the hint first; ``y`` of shape (3,).

    Raises
    ------
    ValueError
        A number that is not positive; a hint that is nearer than the other data; a direction that
        is no vector of the plane.
    """
    H, K, eps = check_positive("H", H), check_positive("K", K), check_positive("eps", eps)
    if eps > H:
        raise fail("H", H, f"is less than eps = {eps:g}, so it is no hint", "pass H >= eps")
    star = np.array([1.0, 0.0])
    if direction is not None:
        star = check_unit_vector("direction", direction, dim=2)
    across = np.array([-star[1], star[0]])
    X = np.stack([H * star, eps * star + K * across, eps * star - K * across])
    return Dataset(X, np.ones(3))
