"""Losses ℓ, with logarithms that stay exact where the loss itself underflows.

A margin loss is a function ℓ(z) of the margin ``z = y f(x)``, y = ±1. Late in a gradient flow z is
large and ℓ(z) is below the smallest float64; ``log_of_margin`` and ``log_neg_derivative`` still
give ln ℓ(z) and ln(−ℓ'(z)) to rounding for every z in [−1e300, 1e300].

A new loss is one class and one `register_loss` call.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gradflow.validation import check_array, check_choice, fail


class AbstractLoss(eqx.Module):
    """A loss ℓ(prediction, target) ≥ 0, entry by entry.

    Attributes
    ----------
    attained : bool
        Whether ℓ is 0 at some finite prediction.
    smooth : bool
        Whether ℓ has no kinks.
    """

    name: eqx.AbstractClassVar[str]
    attained: ClassVar[bool] = True
    smooth: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Return ℓ(f, y), of the shape of the two arguments."""

    @abstractmethod
    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Return ∂ℓ/∂f."""

    @abstractmethod
    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Return ln ℓ(f, y), −inf where the loss is zero."""

    @abstractmethod
    def check_targets(self, argument: str, value: Any) -> np.ndarray:
        """Return ``value`` as a finite float64 vector of targets that this loss accepts."""

    def describe(self) -> dict[str, Any]:
        """Return a JSON-able description that `loss_from_description` reads."""
        return {"kind": self.name}


class AbstractMarginLoss(AbstractLoss):
    """A loss ℓ(z) of the margin ``z = y f``, non-increasing, with targets y = ±1.

    Attributes
    ----------
    neg_derivative_at_zero : float
        −ℓ'(0).
    mass : float
        ``M = ∫₀^∞ ℓ(z) dz``, the constant of the norm law R ~ (6 p₀ M t)^{1/3}.
    """

    neg_derivative_at_zero: eqx.AbstractClassVar[float]
    mass: eqx.AbstractClassVar[float]
    attained: ClassVar[bool] = False

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

    def check_targets(self, argument: str, value: Any) -> np.ndarray:
        targets = check_array(argument, value, (None,))
        if not np.all(np.abs(targets) == 1.0):
            raise fail(
                argument,
                targets,
                f"holds labels other than -1 and +1, which the {self.name} loss needs",
                f"pass labels -1 and +1, for example 2*{argument} - 1 for labels 0 and 1",
            )
        return targets


# The sigmoid with the derivative σ(z)σ(−z): no 1 − σ, which cancels for large z.
@jax.custom_jvp
def _sigmoid(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(z)


@_sigmoid.defjvp
def _sigmoid_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _sigmoid(z), _sigmoid(z) * _sigmoid(-z) * dz


# ln(1 + e^{-z}) with the derivative −σ(−z); the derivative of the formula below would be undefined
# at the corner of |z|, where the function is smooth.
@jax.custom_jvp
def _logistic(z: jax.Array) -> jax.Array:
    return jnp.maximum(-z, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


@_logistic.defjvp
def _logistic_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _logistic(z), -_sigmoid(-z) * dz


#: Below this u, log1p(u)/u = 1 − u/2 to float64.
_SMALL = 1e-8


def _log1p_ratio(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return u = e^{−z} and log1p(u)/u for z ≥ 0, exact where u underflows."""
    u = jnp.exp(-z)
    small = u < _SMALL
    safe = jnp.where(small, 1.0, u)
    return u, jnp.where(small, 1.0 - 0.5 * u, jnp.log1p(safe) / safe)


@jax.custom_jvp
def _log_logistic(z: jax.Array) -> jax.Array:
    # z > 0: ln log1p(u) = −z + ln(log1p(u)/u), two terms of one sign, and nothing underflows.
    _, ratio = _log1p_ratio(jnp.maximum(z, 0.0))
    return jnp.where(z > 0, jnp.log(ratio) - z, jnp.log(_logistic(jnp.minimum(z, 0.0))))


@_log_logistic.defjvp
def _log_logistic_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    u, ratio = _log1p_ratio(jnp.maximum(z, 0.0))
    low = jnp.minimum(z, 0.0)
    slope = jnp.where(z > 0, 1.0 / ((1.0 + u) * ratio), _sigmoid(-low) / _logistic(low))
    return _log_logistic(z), -slope * dz


class Logistic(AbstractMarginLoss):
    """``ℓ(z) = ln(1 + e^{−z})``, ``ℓ'(z) = −1/(1 + e^z)``; −ℓ'(0) = ½, M = π²/12.

    ``ln ℓ(z)`` is −z + O(e^{−z}) for large z and ln(−z) for very negative z;
    ``ln(−ℓ'(z)) = −ln(1 + e^z)``.
    """

    name: ClassVar[str] = "logistic"
    neg_derivative_at_zero: ClassVar[float] = 0.5
    mass: ClassVar[float] = math.pi**2 / 12

    def of_margin(self, z: jax.Array) -> jax.Array:
        return _logistic(z)

    def margin_derivative(self, z: jax.Array) -> jax.Array:
        return -_sigmoid(-z)

    def log_of_margin(self, z: jax.Array) -> jax.Array:
        return _log_logistic(z)

    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        return -_logistic(-z)


class Exponential(AbstractMarginLoss):
    """``ℓ(z) = e^{−z}``, ``ℓ'(z) = −e^{−z}``; −ℓ'(0) = 1, M = 1.

    The value is inf for z < −709.78, where e^{−z} exceeds float64; the logarithms never overflow.
    """

    name: ClassVar[str] = "exponential"
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
    attained: ClassVar[bool] = True
    smooth: ClassVar[bool] = False
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


class Squared(AbstractLoss):
    """``ℓ(f, y) = ½(f − y)²``, ``∂ℓ/∂f = f − y``; any finite targets."""

    name: ClassVar[str] = "squared"

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return 0.5 * jnp.square(prediction - target)

    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return prediction - target

    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        # Through |f − y|, whose square may underflow; the inner `where` keeps NaN out of gradients.
        gap = jnp.abs(prediction - target)
        return jnp.where(
            gap > 0, 2.0 * jnp.log(jnp.where(gap > 0, gap, 1.0)) - math.log(2.0), -jnp.inf
        )

    def check_targets(self, argument: str, value: Any) -> np.ndarray:
        return check_array(argument, value, (None,))


#: ln(1 + e^{−yf}).
logistic = Logistic()
#: e^{−yf}.
exponential = Exponential()
#: max(0, 1 − yf).
hinge = Hinge()
#: ½(f − y)².
squared = Squared()

_REGISTRY: dict[str, Callable[..., AbstractLoss]] = {}


def register_loss(kind: str, factory: Callable[..., AbstractLoss]) -> None:
    """Let `loss_from_description` build ``factory(**rest)`` from ``{"kind": kind, **rest}``."""
    if kind in _REGISTRY:
        raise fail("kind", kind, "is registered already", "choose another name")
    _REGISTRY[kind] = factory


for _class in (Logistic, Exponential, Hinge, Squared):
    register_loss(_class.name, _class)


def loss_from_description(description: Mapping[str, Any]) -> AbstractLoss:
    """Rebuild a loss from what its ``describe()`` returned."""
    options = dict(description)
    kind = check_choice("loss kind", options.pop("kind", None), _REGISTRY)
    return _REGISTRY[kind](**options)
