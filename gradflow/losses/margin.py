"""Margin losses, logistic, exponential and hinge, and the logistic loss of soft labels."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gradflow.losses.abstract import AbstractLoss, AbstractMarginLoss
from gradflow.losses.formulas import log1p_exp_neg, log_log1p_exp_neg, sigmoid
from gradflow.validation import fail


class Logistic(AbstractMarginLoss):
    """``ℓ(z) = ln(1 + e^{−z})``, ``ℓ'(z) = −1/(1 + e^z)``; −ℓ'(0) = ½, M = π²/12.

    ``ln ℓ(z)`` is −z + O(e^{−z}) for large z and ln(−z) for very negative z;
    ``ln(−ℓ'(z)) = −ln(1 + e^z)``. Targets in [0, 1], some of them inside, are soft labels: the loss
    is then `SoftLogistic`, no loss of the margin.
    """

    name: ClassVar[str] = "logistic"
    vanishes: ClassVar[bool] = True
    attains_zero: ClassVar[bool] = False
    neg_derivative_at_zero: ClassVar[float] = 0.5
    mass: ClassVar[float] = math.pi**2 / 12

    def of_margin(self, z: jax.Array) -> jax.Array:
        return log1p_exp_neg(z)

    def margin_derivative(self, z: jax.Array) -> jax.Array:
        return -sigmoid(-z)

    def log_of_margin(self, z: jax.Array) -> jax.Array:
        return log_log1p_exp_neg(z)

    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        return -log1p_exp_neg(-z)

    def taking(
        self, argument: str, value: ArrayLike, outputs: int
    ) -> tuple[AbstractLoss, np.ndarray]:
        numbers = np.asarray(value)
        if outputs == 1 and numbers.dtype.kind == "f":
            inside = (numbers > 0) & (numbers < 1)
            if np.any(inside) and np.all(inside | (numbers == 0) | (numbers == 1)):
                return SoftLogistic().taking(argument, value, outputs)
        return super().taking(argument, value, outputs)


class SoftLogistic(AbstractLoss):
    """``ℓ(f, p) = p ln(1 + e^{−f}) + (1 − p) ln(1 + e^f)``, p in [0, 1] the probability of +1.

    ``∂ℓ/∂f = (1 − p)σ(f) − pσ(−f)``, zero at f = ln(p/(1 − p)), where ℓ is the entropy of p. With
    p = (1 + y)/2 for labels y = ±1 it is the logistic loss. ``ln ℓ`` is exact where ℓ underflows.
    """

    name: ClassVar[str] = "soft_logistic"
    attains_zero: ClassVar[bool] = False

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return target * log1p_exp_neg(prediction) + (1.0 - target) * log1p_exp_neg(-prediction)

    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        # (two terms of one factor each: σ(f) − p has no digits for p near 0 or 1)
        return (1.0 - target) * sigmoid(prediction) - target * sigmoid(-prediction)

    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.logaddexp(
            jnp.log(target) + log_log1p_exp_neg(prediction),
            jnp.log1p(-target) + log_log1p_exp_neg(-prediction),
        )

    def check_targets(self, argument: str, value: ArrayLike) -> np.ndarray:
        targets = super().check_targets(argument, value)
        if not np.all((targets >= 0) & (targets <= 1)):
            problem = "holds soft labels outside [0, 1]"
            raise fail(argument, targets, problem, "pass probabilities of the label +1")
        return targets

    def taking(
        self, argument: str, value: ArrayLike, outputs: int
    ) -> tuple[AbstractLoss, np.ndarray]:
        if outputs > 1:
            raise fail(
                "loss", self.name, f"is one of one output; the net has {outputs}",
                "use gf.cross_entropy, or TwoLayer(..., outputs=1)",
            )  # fmt: skip
        return super().taking(argument, value, outputs)


class Exponential(AbstractMarginLoss):
    """``ℓ(z) = e^{−z}``, ``ℓ'(z) = −e^{−z}``; −ℓ'(0) = 1, M = 1.

    The value is inf for z < −709.78, where e^{−z} exceeds float64; the logarithms never overflow.
    """

    name: ClassVar[str] = "exponential"
    vanishes: ClassVar[bool] = True
    attains_zero: ClassVar[bool] = False
    neg_derivative_at_zero: ClassVar[float] = 1.0
    mass: ClassVar[float] = 1.0

    def of_margin(self, z: jax.Array) -> jax.Array:
        return jnp.exp(-z)

    def margin_derivative(self, z: jax.Array) -> jax.Array:
        return -jnp.exp(-z)

    def log_of_margin(self, z: jax.Array) -> jax.Array:
        return -z

    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        return -z


class Hinge(AbstractMarginLoss):
    """``ℓ(z) = max(0, 1 − z)``, ``ℓ'(z) = −1`` for z < 1 and 0 for z ≥ 1; −ℓ'(0) = 1, M = ½.

    Both logarithms are −inf for z ≥ 1. The derivative at the kink z = 1 is 0: a datum that has
    reached the margin exerts no pull.
    """

    name: ClassVar[str] = "hinge"
    neg_derivative_at_zero: ClassVar[float] = 1.0
    mass: ClassVar[float] = 0.5

    def of_margin(self, z: jax.Array) -> jax.Array:
        return jnp.where(z < 1, 1.0 - z, 0.0)

    def margin_derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z < 1, -jnp.ones_like(z), 0.0)

    def log_of_margin(self, z: jax.Array) -> jax.Array:
        # log1p keeps the digits of a tiny z; the inner `where` keeps NaN out of gradients.
        return jnp.where(z < 1, jnp.log1p(-jnp.where(z < 1, z, 0.0)), -jnp.inf)

    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z < 1, jnp.zeros_like(z), -jnp.inf)

    @property
    def kinked(self) -> bool:
        return True
