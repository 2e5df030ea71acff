"""What a loss is: a function of a prediction and its target, or of the margin alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gradflow.numerics.logs import log_sum_exp
from gradflow.registry import Described
from gradflow.validation import check_array, fail


class AbstractLoss(Described, eqx.Module):
    """A loss ℓ(prediction, target), entry by entry.

    Attributes
    ----------
    vanishes : bool
        Whether it is a loss of the margin that is zero where the margin is infinite, and nowhere
        else.
    attains_zero : bool
        Whether finite predictions may have the loss 0.
    of_vectors : bool
        Whether it is a loss of several outputs, ℓ(f, y) with f and y in R^o (the last axis).
    """

    vanishes: ClassVar[bool] = False
    attains_zero: ClassVar[bool] = True
    of_vectors: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """A short readable name."""

    @abstractmethod
    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Return ℓ(f, y), of the shape of the two arguments."""

    @abstractmethod
    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Return ∂ℓ/∂f."""

    @abstractmethod
    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Return ln ℓ(f, y), −inf where the loss is zero."""

    def pull(
        self, prediction: jax.Array, target: jax.Array, log_weight: jax.Array, log_unit: jax.Array
    ) -> jax.Array:
        """Return −ω ∂ℓ/∂f in a unit of forces; ω and the unit, as logarithms, may underflow."""
        weight = jnp.exp(log_weight - log_unit)
        slope = self.derivative(prediction, target)
        return -slope * (weight[..., None] if self.of_vectors else weight)

    @property
    def margin(self) -> bool:
        """Whether ℓ is a function of the margin y f, y = ±1 (`AbstractMarginLoss`)."""
        return False

    @property
    def kinked(self) -> bool:
        """Whether ∂ℓ/∂f jumps somewhere."""
        return False

    def check_targets(self, argument: str, value: ArrayLike) -> np.ndarray:
        """Return ``value`` as a finite float64 vector of targets that this loss accepts."""
        return _vector(argument, value)

    def taking(
        self, argument: str, value: ArrayLike, outputs: int
    ) -> tuple[AbstractLoss, np.ndarray]:
        """Return the loss that this one is for such targets, and the targets as it takes them.

        Parameters
        ----------
        argument : str
            The targets' name in messages.
        outputs : int
            The number of outputs o of the network. For several, a loss of one is summed over them
            (targets (n, o)).
        """
        if outputs == 1:
            return self, self.check_targets(argument, value)
        return SumOverOutputs(self), check_array(argument, value, (None, outputs))


class AbstractMarginLoss(AbstractLoss):
    """A loss ℓ(z) of the margin ``z = y f``, non-increasing, with targets y = ±1."""

    @property
    @abstractmethod
    def neg_derivative_at_zero(self) -> float:
        """−ℓ'(0)."""

    @property
    @abstractmethod
    def mass(self) -> float:
        """``M = ∫₀^∞ ℓ(z) dz``, the constant of the norm law R ~ (6 p₀ M t)^{1/3}."""

    @abstractmethod
    def of_margin(self, z: jax.Array) -> jax.Array:
        """Return ℓ(z)."""

    @abstractmethod
    def margin_derivative(self, z: jax.Array) -> jax.Array:
        """Return ℓ'(z) ≤ 0."""

    @abstractmethod
    def log_of_margin(self, z: jax.Array) -> jax.Array:
        """Return ln ℓ(z)."""

    @abstractmethod
    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        """Return ln(−ℓ'(z))."""

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return self.of_margin(target * prediction)

    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return target * self.margin_derivative(target * prediction)

    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return self.log_of_margin(target * prediction)

    def pull(
        self, prediction: jax.Array, target: jax.Array, log_weight: jax.Array, log_unit: jax.Array
    ) -> jax.Array:
        logs = self.log_neg_derivative(target * prediction) + log_weight
        return target * jnp.exp(logs - log_unit)

    @property
    def margin(self) -> bool:
        return True

    def taking(
        self, argument: str, value: ArrayLike, outputs: int
    ) -> tuple[AbstractLoss, np.ndarray]:
        if outputs > 1:
            raise fail(
                "loss", self.name, f"is one of the margin, of one output; the net has {outputs}",
                "use gf.cross_entropy, or TwoLayer(..., outputs=1)",
            )  # fmt: skip
        return super().taking(argument, value, outputs)

    def check_targets(self, argument: str, value: ArrayLike) -> np.ndarray:
        if np.asarray(value).dtype == bool:
            fix = f"pass labels -1 and +1: np.where({argument}, 1.0, -1.0)"
            raise fail(argument, np.asarray(value), "holds labels True and False", fix)
        targets = _vector(argument, value)
        if not np.all(np.abs(targets) == 1.0):
            problem = f"holds labels other than -1 and +1, which the {self.name} loss needs"
            raise fail(argument, targets, problem, labels_fix(argument, targets))
        return targets


class SumOverOutputs(AbstractLoss):
    """``ℓ(f, y) = Σ_j ℓ₁(f_j, y_j)`` over the o outputs, ℓ₁ a loss of one, as ½‖f − y‖².

    Parameters
    ----------
    loss : AbstractLoss
        ℓ₁.
    """

    loss: AbstractLoss
    of_vectors: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return self.loss.name

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.sum(self.loss(prediction, target), axis=-1)

    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return self.loss.derivative(prediction, target)

    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        logs = self.loss.log(prediction, target)
        alive = jnp.max(logs, axis=-1) > -jnp.inf
        # (the inner `where` keeps NaN out of gradients)
        total = jnp.apply_along_axis(log_sum_exp, -1, jnp.where(alive[..., None], logs, 0.0))
        return jnp.where(alive, total, -jnp.inf)

    @property
    def kinked(self) -> bool:
        return self.loss.kinked

    def taking(
        self, argument: str, value: ArrayLike, outputs: int
    ) -> tuple[AbstractLoss, np.ndarray]:
        return self.loss.taking(argument, value, outputs)


def _vector(argument: str, value: ArrayLike) -> np.ndarray:
    """Return targets (n,); of several outputs it is said that a network has one."""
    if np.ndim(value) == 2 and 1 not in np.shape(value):
        raise fail(
            argument, np.asarray(value),
            f"has {np.shape(value)[1]} columns (one-hot?), but a network has one output",
            f"pass one number a row, for class k: np.where({argument}[:, k] > 0.5, 1.0, -1.0), or "
            f"use gf.TwoLayer(..., outputs={np.shape(value)[1]})",
        )  # fmt: skip
    return check_array(argument, value, (None,))


def labels_fix(argument: str, targets: np.ndarray) -> str:
    """Return the line that makes labels −1 and +1 of what seems to be meant."""
    values = np.unique(targets)
    if not np.array_equal(values, np.round(values)):
        return "pass labels -1 and +1, or fit real targets with gf.squared"
    if values.size > 2:
        return (
            f"the network has one output: pass one of the {values.size} classes against the rest, "
            f"np.where({argument} == {values[-1]:g}, 1.0, -1.0), or use gf.cross_entropy"
        )
    if np.all((values == 0) | (values == 1)):
        return (
            f"pass labels -1 and +1, for example 2*{argument} - 1 for labels 0 and 1 "
            "(gf.soft_logistic reads them as probabilities)"
        )
    return f"pass labels -1 and +1, np.where({argument} == {values[-1]:g}, 1.0, -1.0)"
