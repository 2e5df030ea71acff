r"""Risks with kinks: what the piecewise-smooth integrator needs to know of them.

A (leaky) ReLU net meets its data in the *switching functions* :math:`h_{kg}=n_g\cdot w_k` of its
neurons :math:`w_k` (a bias counts as one more entry of w_k and of n_g). The risk is a smooth
function of the two sums

.. math:: A^+_g=\sum_k a_k\max(h_{kg},0),\qquad A^-_g=\sum_k a_k\min(h_{kg},0),

whatever the loss and however many data share the surface :math:`n_g^\perp`. With the forces
:math:`F^\pm_g=-\partial L/\partial A^\pm_g` the flow inside an activation cell is

.. math:: \dot w_k=a_k\sum_g F^{\sigma_{kg}}_g n_g,\qquad \dot a_k=\sum_g F^{\sigma_{kg}}_g h_{kg},

and across :math:`h_{kg}=0` the field of neuron k jumps by :math:`a_k(F^+_g-F^-_g)n_g`. The surface
attracts where :math:`a_k(F^+_g-F^-_g)<0`. This is all that an integrator has to see. Sources:
`filippov1988`, `clarke1983`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gradflow.losses import AbstractLoss, AbstractMarginLoss
from gradflow.numerics.logs import log_sum_exp

#: Rows whose directions differ by less than this are one surface.
_COLLINEAR = 1e-13


class AbstractKinks(eqx.Module):
    """The kinks of a risk: m blocks w_k in R^D that meet G hyperplanes.

    Attributes
    ----------
    normals : (G, D) array
        One normal a surface, pairwise not collinear.
    outer_trained : bool
        Whether the outer weights move.
    """

    normals: eqx.AbstractVar[jax.Array]
    outer_trained: eqx.AbstractVar[bool]

    @property
    @abstractmethod
    def jumps(self) -> bool:
        """Whether the forces differ between the two sides of a surface at all."""

    @property
    @abstractmethod
    def representatives(self) -> np.ndarray:
        """The datum that stands for each surface (G,) (host)."""

    @abstractmethod
    def noise(self) -> jax.Array:
        """Return the size (G,) below which a force is noise; 0 where it has all its digits."""

    @abstractmethod
    def at_tolerance(self, rtol: float) -> AbstractKinks:
        """Return the kinks as seen by an integrator with this relative tolerance."""

    @abstractmethod
    def split(self, params: Any) -> tuple[jax.Array, jax.Array]:
        """Return the blocks ``W`` (..., m, D) and outer weights ``a`` (..., m) of parameters."""

    @abstractmethod
    def join(self, W: Any, a: Any) -> Any:
        """Return parameters: the inverse of `split`."""

    @abstractmethod
    def forces(
        self, plus: jax.Array, minus: jax.Array, per_loss: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return ``(F⁺, F⁻, ln L)`` at the sums ``A⁺, A⁻`` (G,).

        With ``per_loss`` the forces are those of ln L (−∇L/L), which do not underflow.
        """


class DataKinks(AbstractKinks):
    """Kinks of ``L = Σ_i ω_i ℓ(f(x_i), y_i)`` for ``f = Σ_k a_k φ(w_k·x)``, φ(z) = max(z, αz).

    Data on one line through the origin (duplicates, antipodal pairs, multiples) share a surface:
    ``x_i = scale_i normals[surface_i]``.

    Attributes
    ----------
    normals : (G, D)
    surface : (n,) ints
    scale : (n,)
    slope : float
        α.
    log_weights : (n,)
        ln ω_i (the 1/n of a mean is in it).
    y : (n,)
    resolution : float
        Relative error of the predictions; residuals below it say nothing.
    plain : bool
        Whether every datum has a surface of its own (then G = n and ``scale = 1``).
    """

    normals: jax.Array
    surface: jax.Array
    scale: jax.Array
    log_weights: jax.Array
    y: jax.Array
    resolution: jax.Array
    loss: AbstractLoss
    slope: float = eqx.field(static=True)
    outer_trained: bool = eqx.field(static=True)
    plain: bool = eqx.field(static=True)
    layout: str = eqx.field(static=True)

    @property
    def jumps(self) -> bool:
        return self.slope != 1.0

    @property
    def representatives(self) -> np.ndarray:
        return np.unique(np.asarray(self.surface), return_index=True)[1]

    def at_tolerance(self, rtol: float) -> DataKinks:
        resolution = jnp.maximum(jnp.asarray(rtol), 64 * np.finfo(float).eps)
        return eqx.tree_at(lambda kinks: kinks.resolution, self, resolution)

    def noise(self) -> jax.Array:
        zero = jnp.zeros(self.normals.shape[0])
        if isinstance(self.loss, AbstractMarginLoss):
            return zero
        # A residual f − y carries the error of its terms.
        size = self.resolution * jnp.maximum(jnp.max(jnp.abs(self.y)), 1e-300)
        noise = size * jnp.exp(self.log_weights) * jnp.abs(self.scale)
        return zero.at[self.surface].add(noise)

    @property
    def margin_loss(self) -> bool:
        """Whether ℓ is a function of the margin y f."""
        return isinstance(self.loss, AbstractMarginLoss)

    @property
    def degree(self) -> int:
        """Degree of homogeneity of f in the trained weights."""
        return 2 if self.outer_trained else 1

    def inputs(self) -> np.ndarray:
        """The data (n, D), bias entry included (host)."""
        return np.asarray(self.scale)[:, None] * np.asarray(self.normals)[np.asarray(self.surface)]

    def split(self, params: Any) -> tuple[jax.Array, jax.Array]:
        if self.layout == "linear":
            W = params.weight[..., None, :]
            return W, jnp.ones(W.shape[:-1])
        if self.layout == "bias":
            return jnp.concatenate([params.inner, params.bias[..., None]], axis=-1), params.outer
        return params.inner, params.outer

    def join(self, W: Any, a: Any) -> Any:
        # Imported here: the classes are needed for reading results only.
        from gradflow.networks.parameters import LinearParams, TwoLayerParams

        if self.layout == "linear":
            return LinearParams(W[..., 0, :])
        if self.layout == "bias":
            return TwoLayerParams(W[..., :-1], a, W[..., -1])
        return TwoLayerParams(W, a)

    def coefficients(self) -> tuple[jax.Array, jax.Array]:
        """Return ``(c⁺, c⁻)`` with ``f_i = c⁺_i A⁺_g + c⁻_i A⁻_g``, g the surface of datum i."""
        positive = self.scale > 0
        up = jnp.where(positive, self.scale, self.slope * self.scale)
        down = jnp.where(positive, self.slope * self.scale, self.scale)
        return up, down

    def predictions(self, plus: jax.Array, minus: jax.Array) -> jax.Array:
        """Return f(x_i) (n,) at the sums A⁺, A⁻ (G,)."""
        if self.plain:
            return plus + self.slope * minus
        up, down = self.coefficients()
        return up * plus[self.surface] + down * minus[self.surface]

    def log_losses(self, f: jax.Array) -> jax.Array:
        """Return ``ln(ω_i ℓ(f_i, y_i))`` (n,)."""
        return self.loss.log(f, self.y) + self.log_weights

    def pulls(self, f: jax.Array, per_loss: bool) -> tuple[jax.Array, jax.Array]:
        """Return ``(−ω_i ∂ℓ/∂f_i [/ L], ln L)``."""
        log_risk = log_sum_exp(self.log_losses(f))
        relative = log_risk if per_loss else jnp.zeros(())
        if isinstance(self.loss, AbstractMarginLoss):
            logs = self.loss.log_neg_derivative(self.y * f) + self.log_weights
            return self.y * jnp.exp(logs - relative), log_risk
        return -self.loss.derivative(f, self.y) * jnp.exp(self.log_weights - relative), log_risk

    def forces(
        self, plus: jax.Array, minus: jax.Array, per_loss: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        c, log_risk = self.pulls(self.predictions(plus, minus), per_loss)
        if self.plain:
            return c, self.slope * c, log_risk
        up, down = self.coefficients()
        zero = jnp.zeros(self.normals.shape[0])
        return zero.at[self.surface].add(up * c), zero.at[self.surface].add(down * c), log_risk


def surfaces_of(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group rows that lie on one line through the origin.

    Parameters
    ----------
    X : (n, D) array
        Rows; a zero row belongs to the first surface with scale 0.

    Returns
    -------
    normals : (G, D) array
        The first row of each group, as it is.
    surface : (n,) ints
    scale : (n,)
        ``X[i] = scale[i] * normals[surface[i]]`` to rounding; exactly 1 for the first of a group.
    """
    # Scaled by the largest entry: squares of 1e-200 underflow, those of 1e200 overflow.
    top = np.max(np.abs(X), axis=1, initial=0.0)
    scaled = X / np.where(top > 0, top, 1.0)[:, None]
    norms = np.linalg.norm(scaled, axis=1)
    unit = scaled / np.where(norms > 0, norms, 1.0)[:, None]
    # A projection on one random direction sorts candidates; only neighbours are compared.
    direction = np.random.default_rng(0).normal(size=X.shape[1])
    probe = np.abs(unit @ (direction / np.linalg.norm(direction)))
    order = np.argsort(probe, kind="stable")
    surface = np.full(X.shape[0], -1)
    first_of: list[int] = []
    window = 8 * _COLLINEAR
    for place, i in enumerate(order):
        if norms[i] == 0 or surface[i] >= 0:
            continue
        members = [int(i)]
        for j in order[place + 1 :]:
            if probe[j] - probe[i] > window:
                break
            if norms[j] == 0 or surface[j] >= 0:
                continue
            sign = 1.0 if unit[i] @ unit[j] > 0 else -1.0
            if np.linalg.norm(unit[j] - sign * unit[i]) <= _COLLINEAR:
                members.append(int(j))
        surface[members] = len(first_of)
        first_of.append(min(members))
    # Surfaces in the order of their first datum, so that plain data keep their numbers.
    rank = np.argsort(np.argsort(first_of))
    surface = np.where(surface >= 0, rank[surface], 0)
    firsts = np.sort(first_of).astype(int)
    normals = X[firsts]
    base, base_top = scaled[firsts][surface], top[firsts][surface]
    scale = top / base_top * (np.sum(scaled * base, axis=1) / np.sum(base * base, axis=1))
    scale[firsts] = 1.0
    return normals, surface, scale
