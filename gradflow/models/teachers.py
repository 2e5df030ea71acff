"""Teachers: the rules that label the data."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradflow.validation import check_unit_vector, fail


class LinearTeacher(eqx.Module):
    r"""Labels :math:`y = \mathrm{sgn}(v\cdot x)`, :math:`\mathrm{sgn}(0) = 1`.

    Parameters
    ----------
    direction : array (d,)
        The unit vector v. A vector of another length is refused, not normalised.
    """

    direction: Array

    def __init__(self, direction: ArrayLike) -> None:
        v = check_unit_vector("direction", direction)
        if v.size < 2:
            raise fail("direction", v, "has fewer than 2 entries", "pass a vector in R^d, d >= 2")
        self.direction = jnp.asarray(v)

    @property
    def dim(self) -> int:
        """Dimension d of the data."""
        return self.direction.shape[0]

    def margin(self, x: ArrayLike) -> Array:
        """v.x for x of shape (..., d)."""
        return jnp.asarray(x) @ self.direction

    def label(self, x: ArrayLike) -> Array:
        """Labels in {-1.0, 1.0} of the rows of x (..., d); points on the boundary get +1."""
        return jnp.where(self.margin(x) >= 0, 1.0, -1.0)

    def describe(self) -> dict:
        """JSON-able description."""
        return {"teacher": "linear", "direction": [float(entry) for entry in self.direction]}
