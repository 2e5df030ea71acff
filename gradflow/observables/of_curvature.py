r"""How curved the risk is where the path runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree
from scipy.sparse.linalg import LinearOperator, eigsh

from gradflow.numerics.compiled import compile_once
from gradflow.numerics.rows import map_rows
from gradflow.observables.registry import observable
from gradflow.paths.path import AbstractPath
from gradflow.risks.base import AbstractRisk

#: Trained entries up to which the Hessian is formed and all its eigenvalues are taken.
_DENSE = 300


def _trained(risk: AbstractRisk, params: PyTree) -> jax.Array:
    ones = jax.tree.map(jnp.ones_like, params)
    return ravel_pytree(ones if risk.net is None else risk.net.freeze(ones))[0]


def _times(risk: AbstractRisk, params: PyTree, direction: jax.Array) -> jax.Array:
    """The Hessian in the trained entries times a vector."""
    flat, unravel = ravel_pytree(params)
    kept = _trained(risk, params)
    gradient = lambda theta: ravel_pytree(risk.gradient(unravel(theta)))[0]
    return kept * jax.jvp(gradient, (flat,), (kept * direction,))[1]


def _largest(risk: AbstractRisk, params: PyTree) -> jax.Array:
    kept = _trained(risk, params)
    matrix = jax.vmap(lambda e: _times(risk, params, e))(jnp.eye(kept.shape[0]))
    matrix = (matrix + matrix.T) / 2
    # Entries that are not trained come below every eigenvalue.
    below = 1.0 + jnp.sum(jnp.abs(matrix))
    return jnp.linalg.eigvalsh(matrix - jnp.diag(jnp.where(kept != 0, 0.0, below)))[-1]


@observable("sharpness", unit="1/time", long_name="largest eigenvalue of the Hessian")
def sharpness(path: AbstractPath) -> np.ndarray:
    r""":math:`\lambda_{\max}(\nabla^2L(\theta(t)))` over the trained entries.

    On a kink it is that of the cell on the side of the stated derivatives. All eigenvalues of up to
    300 entries, the largest by Lanczos iteration (to 1e-10) of more. Descent of step size
    :math:`\eta` is stable where it is below :math:`2/\eta`.
    """
    first = jax.tree.map(lambda leaf: leaf[0], path.params)
    size = ravel_pytree(first)[0].size
    if size <= _DENSE or not len(path):
        return map_rows(_largest, path.risk, path.params)
    return np.array([
        _lanczos(path.risk, jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), path.params), size)
        for i in range(len(path))
    ])  # fmt: skip


class _Hessian(LinearOperator):
    """The Hessian in the trained entries at one point, as scipy's eigensolvers want it."""

    def __init__(self, risk: AbstractRisk, params: PyTree, size: int) -> None:
        super().__init__(np.float64, (size, size))
        self.at = risk, params

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        program, arrays, _ = compile_once(_times, "hessian", (*self.at, np.ravel(x)))
        return np.asarray(program(*arrays))


def _lanczos(risk: AbstractRisk, params: PyTree, size: int) -> float:
    start = np.random.default_rng(0).normal(size=size)
    kept = np.asarray(_trained(risk, params))
    top = eigsh(
        _Hessian(risk, params, size), k=1, which="LA", v0=start * kept, return_eigenvectors=False,
        tol=1e-10,  # pyright: ignore[reportArgumentType]  (inferred from the default 0)
    )  # fmt: skip
    return float(top[0])
