r"""The cross-entropy of several classes."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from numpy.typing import ArrayLike

from gradflow.losses.abstract import AbstractLoss
from gradflow.losses.formulas import log1p_exp_neg, log_log1p_exp_neg, sigmoid
from gradflow.validation import check_array, fail

#: Probabilities sum to 1 up to this.
_SUM = 1e-9


class CrossEntropy(AbstractLoss):
    r"""``ℓ(f, p) = −Σ_j p_j ln softmax(f)_j``, f in R^o, p the probabilities of o ≥ 2 classes.

    Targets are classes 0 … o − 1 (n,) or probabilities (n, o), one-hot rows among them. With
    :math:`T_j=\ln\sum_{i\ne j}e^{f_i-f_j}`

    .. math:: \ell=\sum_jp_j\ln(1+e^{T_j}),\qquad
              \frac{\partial\ell}{\partial f_j}
              =\sigma(-T_j)\sum_{i\ne j}p_i-p_j\sigma(T_j),

    forms in which nothing cancels where a class is all but sure; ``ln ℓ`` is exact where ℓ
    underflows.
    """

    name: ClassVar[str] = "cross_entropy"
    attains_zero: ClassVar[bool] = False
    of_vectors: ClassVar[bool] = True

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.sum(target * log1p_exp_neg(-_against(prediction)), axis=-1)

    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        against = _against(prediction)
        others = jnp.sum(_off_diagonal(target, 0.0), axis=-1)
        return others * sigmoid(-against) - target * sigmoid(against)

    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return logsumexp(
            jnp.log(target) + log_log1p_exp_neg(-_against(prediction)), axis=-1
        )  # fmt: skip

    def check_targets(self, argument: str, value: ArrayLike) -> np.ndarray:
        targets = check_array(argument, value, (None, None))
        if np.any(targets < 0) or np.any(np.abs(np.sum(targets, axis=1) - 1) > _SUM):
            problem = "holds rows that are no probabilities"
            fix = f"pass rows >= 0 of sum 1: {argument} / {argument}.sum(axis=1, keepdims=True)"
            raise fail(argument, targets, problem, fix)
        return targets

    def taking(
        self, argument: str, value: ArrayLike, outputs: int
    ) -> tuple[AbstractLoss, np.ndarray]:
        if outputs == 1:
            raise fail(
                "loss", self.name, "needs a network with one output a class",
                "use gf.TwoLayer(..., outputs=2) or more, or gf.logistic",
            )  # fmt: skip
        if np.ndim(value) == 1:
            return self, _one_hot(argument, check_array(argument, value, (None,)), outputs)
        check_array(argument, value, (None, outputs))
        return self, self.check_targets(argument, value)


def _one_hot(argument: str, classes: np.ndarray, outputs: int) -> np.ndarray:
    """Return classes 0 … o − 1 (n,) as rows (n, o)."""
    if not np.all(np.isin(classes, np.arange(outputs))):
        fix = f"number the classes from 0, np.unique({argument}, return_inverse=True)[1]"
        raise fail(argument, classes, f"holds other classes than 0 ... {outputs - 1}", fix)
    return np.eye(outputs)[classes.astype(int)]


def _off_diagonal(rows: jax.Array, fill: float) -> jax.Array:
    """Return (..., o, o): row j holds the entries (..., o), ``fill`` in place of the j-th."""
    size = rows.shape[-1]
    return jnp.where(jnp.eye(size, dtype=bool), fill, rows[..., None, :])


def _against(prediction: jax.Array) -> jax.Array:
    """Return T (..., o), the log-odds against each class."""
    return logsumexp(_off_diagonal(prediction, -jnp.inf), axis=-1) - prediction
