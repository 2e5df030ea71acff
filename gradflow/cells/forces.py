r"""The forces that data exert through their surfaces, for compiled programs (JAX) and batches.

.. math:: F^\pm_g=-\partial L/\partial A^\pm_g
          =\sum_{i\in g}c^\pm_i\bigl(-\omega_i\,\partial_f\ell(f_i,y_i)\bigr),

the sums A^± as in :mod:`.arrangement`. Source: `clarke1983`.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.blocks import join, split
from gradflow.losses import AbstractLoss
from gradflow.numerics.logs import log_sum_exp

#: Relative error of predictions in exact arithmetic's stead: some tens of roundings.
_RESOLUTION = 64 * np.finfo(float).eps


class Forces(eqx.Module):
    """The arrays of an arrangement as a pytree: one program serves all data of one shape.

    Attributes
    ----------
    normals, surface, scale, up, down, y, log_weights : arrays
        As in the arrangement.
    resolution : float
        Relative error of the predictions; residuals below it say nothing.
    plain : bool
        Whether every datum has a surface of its own, on which c⁺ = 1.
    """

    normals: jax.Array
    surface: jax.Array
    scale: jax.Array
    up: jax.Array
    down: jax.Array
    y: jax.Array
    log_weights: jax.Array
    resolution: jax.Array
    loss: AbstractLoss
    slope: float = eqx.field(static=True)
    plain: bool = eqx.field(static=True)
    layout: str = eqx.field(static=True)

    @classmethod
    def of(cls, arrangement: Arrangement, resolution: float = _RESOLUTION) -> Forces:
        """Return the forces of an arrangement; predictions are known to ``resolution``."""
        at = arrangement
        names = ("normals", "surface", "scale", "up", "down", "y", "log_weights")
        arrays = {name: jnp.asarray(getattr(at, name)) for name in names}
        return cls(
            **arrays, resolution=jnp.asarray(max(resolution, _RESOLUTION)), loss=at.loss,
            slope=at.slope, plain=at.plain and bool(np.all(at.up == 1)), layout=at.layout,
        )  # fmt: skip

    def split(self, params: PyTree) -> tuple[jax.Array, jax.Array]:
        """Return the blocks ``W`` (..., m, D) and outer weights ``a`` (..., m) of parameters."""
        return split(self.layout, params)

    def join(self, W: PyTree, a: PyTree) -> PyTree:
        """Return parameters: the inverse of `split`."""
        return join(self.layout, W, a)

    def noise(self) -> jax.Array:
        """Return the size (G,) below which a force is noise; 0 where it has all its digits."""
        zero = jnp.zeros(self.normals.shape[0])
        if self.loss.margin:
            return zero
        # A residual f − y carries the error of its terms.
        size = self.resolution * jnp.maximum(jnp.max(jnp.abs(self.y)), 1e-300)
        noise = size * jnp.exp(self.log_weights) * jnp.abs(self.scale)
        return zero.at[self.surface].add(noise)

    def predictions(self, plus: jax.Array, minus: jax.Array) -> jax.Array:
        """Return f(x_i) (n,) at the sums A⁺, A⁻ (G,)."""
        if self.plain:
            return plus + self.slope * minus
        return self.up * plus[self.surface] + self.down * minus[self.surface]

    def pulls(self, f: jax.Array, per_loss: bool) -> tuple[jax.Array, jax.Array]:
        """Return ``(−ω_i ∂ℓ/∂f_i [/ L], ln L)``."""
        log_risk = log_sum_exp(self.loss.log(f, self.y) + self.log_weights)
        relative = log_risk if per_loss else jnp.zeros(())
        return self.loss.pull(f, self.y, self.log_weights, relative), log_risk

    def __call__(
        self, plus: jax.Array, minus: jax.Array, per_loss: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return ``(F⁺, F⁻, ln L)`` at the sums ``A⁺, A⁻`` (G,).

        With ``per_loss`` the forces are those of ln L (−∇L/L), which do not underflow.
        """
        c, log_risk = self.pulls(self.predictions(plus, minus), per_loss)
        if self.plain:
            return c, self.slope * c, log_risk
        zero = jnp.zeros(self.normals.shape[0])
        return (zero.at[self.surface].add(self.up * c),
                zero.at[self.surface].add(self.down * c), log_risk)  # fmt: skip
