r"""Metrics: what a gradient is raised by to become a velocity.

With a metric G(θ) on the trained parameters the flow is :math:`\dot\theta=-G^{-1}\nabla L`, and the
loss it spends is :math:`-\dot L=\dot\theta\cdot G\dot\theta`, the squared speed in that metric.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.validation import check_positive, fail

#: What may be asked for: a name, rates by name, or a function of the parameters.
Metric = str | Mapping[str, float] | Callable[..., ArrayLike]


class AbstractMetric(eqx.Module):
    """A metric on flat parameters (JAX).

    Attributes
    ----------
    plain : bool
        Whether it is the Euclidean one, whose flows every chart serves, and the integrator that
        goes from kink to kink of the risk.
    """

    plain: ClassVar[bool] = False

    @abc.abstractmethod
    def velocity(self, theta: Array, gradient: Array) -> Array:
        """-G⁻¹ gradient."""

    @abc.abstractmethod
    def square(self, theta: Array, velocity: Array) -> Array:
        """velocity · G velocity."""

    def rates(self, params: PyTree) -> PyTree | None:
        """The rate at which each parameter moves, shaped like ``params``; None where a velocity is
        no multiple of its own gradient's entry."""
        return None


class Euclidean(AbstractMetric):
    """G = 1."""

    plain: ClassVar[bool] = True

    def velocity(self, theta: Array, gradient: Array) -> Array:
        return -gradient

    def square(self, theta: Array, velocity: Array) -> Array:
        return jnp.dot(velocity, velocity)

    def rates(self, params: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: np.ones(np.shape(leaf)), params)


class Rates(AbstractMetric):
    """G = 1/rates: each parameter moves at its own rate.

    Attributes
    ----------
    flat : (P,) array
        The rates, in the order of the raveled parameters.
    """

    flat: Array

    def velocity(self, theta: Array, gradient: Array) -> Array:
        return -self.flat * gradient

    def square(self, theta: Array, velocity: Array) -> Array:
        return jnp.dot(velocity, velocity / self.flat)

    def rates(self, params: PyTree) -> PyTree:
        return ravel_pytree(params)[1](self.flat)


class PositiveDefinite(AbstractMetric):
    """G(θ), a symmetric positive definite (P, P) matrix, from a function of the parameters.

    Attributes
    ----------
    fn : callable
        From parameters to the matrix, in the order of the raveled parameters (JAX).
    template : pytree
        Parameters of the right structure.
    """

    fn: Callable[[PyTree], Array]
    template: PyTree

    def _matrix(self, theta: Array) -> Array:
        return self.fn(ravel_pytree(self.template)[1](theta))

    def velocity(self, theta: Array, gradient: Array) -> Array:
        return -jnp.linalg.solve(self._matrix(theta), gradient)

    def square(self, theta: Array, velocity: Array) -> Array:
        return velocity @ self._matrix(theta) @ velocity


def make_metric(value: object, params: PyTree) -> AbstractMetric:
    """Return the metric that ``value`` stands for at parameters like ``params``.

    Parameters
    ----------
    value : "euclidean", mapping or callable
        A mapping from the names of the parameters' arrays to rates > 0 (1 where a name is left
        out), or a function from parameters to a symmetric positive definite matrix.
    params : pytree

    Raises
    ------
    ValueError
        Unknown names, rates that are not positive; a matrix of another shape, not symmetric or not
        positive definite at ``params``.
    """
    if isinstance(value, Mapping):
        return Rates(jnp.asarray(_rates(value, params)))
    if callable(value):
        return _checked(PositiveDefinite(cast(Callable[[PyTree], Array], value), params))
    if value == "euclidean":
        return Euclidean()
    raise fail(
        "metric", value, "is not a metric",
        "pass 'euclidean', 'conic', rates as {'inner': 1, 'outer': 100}, or a function of the "
        "parameters that returns a positive definite matrix",
    )  # fmt: skip


def _rates(value: Mapping[object, object], params: PyTree) -> np.ndarray:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [_name(path[0]) if path else "params" for path, _ in leaves]
    unknown = [name for name in value if name not in names]
    if unknown:
        known = ", ".join(dict.fromkeys(names))
        raise fail("metric", unknown[0], "names no parameter", f"choose among {known}")
    rates = {name: check_positive(f"metric[{name!r}]", rate) for name, rate in value.items()}
    return np.concatenate(
        [np.full(leaf.size, rates.get(name, 1.0))
         for name, (_, leaf) in zip(names, leaves, strict=True)]
    )  # fmt: skip


def _name(key: object) -> str:
    """The name of an entry of a pytree, as a user writes it."""
    return jax.tree_util.keystr((key,), simple=True)


def _checked(metric: PositiveDefinite) -> PositiveDefinite:
    flat = ravel_pytree(metric.template)[0]
    matrix = np.asarray(metric.fn(metric.template))
    fix = f"return a symmetric positive definite matrix of shape {(flat.size, flat.size)}"
    if matrix.shape != (flat.size, flat.size):
        raise fail("metric", metric.fn, f"returns shape {matrix.shape}", fix)
    if not np.allclose(matrix, matrix.T, rtol=1e-12, atol=0):
        raise fail("metric", metric.fn, "returns a matrix that is not symmetric", fix)
    if np.min(np.linalg.eigvalsh(matrix)) <= 0:
        raise fail("metric", metric.fn, "returns a matrix that is not positive definite", fix)
    return metric
