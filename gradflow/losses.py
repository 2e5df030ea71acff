"""Losses ℓ, with logarithms that stay exact where the loss itself underflows.

A margin loss is a function ℓ(z) of the margin ``z = y f(x)``, y = ±1. Late in a gradient flow z is
large and ℓ(z) is below the smallest float64; ``log_of_margin`` and ``log_neg_derivative`` still
give ln ℓ(z) and ln(−ℓ'(z)) to rounding for every z in [−1e300, 1e300].

Any JAX function is a loss (`loss`). A new loss is one class, registered (`gf.register`)
where files are to hold it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gradflow.numerics.logs import log1p_ratio
from gradflow.registry import Described, register
from gradflow.validation import check_array, check_bool, check_traceable, fail


class AbstractLoss(Described, eqx.Module):
    """A loss ℓ(prediction, target), entry by entry.

    Attributes
    ----------
    vanishes : bool
        Whether it is a loss of the margin that is zero where the margin is infinite, and nowhere
        else.
    """

    vanishes: ClassVar[bool] = False

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
        return -self.derivative(prediction, target) * jnp.exp(log_weight - log_unit)

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

    def check_targets(self, argument: str, value: ArrayLike) -> np.ndarray:
        if np.asarray(value).dtype == bool:
            fix = f"pass labels -1 and +1: np.where({argument}, 1.0, -1.0)"
            raise fail(argument, np.asarray(value), "holds labels True and False", fix)
        targets = _vector(argument, value)
        if not np.all(np.abs(targets) == 1.0):
            problem = f"holds labels other than -1 and +1, which the {self.name} loss needs"
            raise fail(argument, targets, problem, labels_fix(argument, targets))
        return targets


def _vector(argument: str, value: ArrayLike) -> np.ndarray:
    """Return targets (n,); of several outputs it is said that a network has one."""
    if np.ndim(value) == 2 and 1 not in np.shape(value):
        raise fail(
            argument, np.asarray(value),
            f"has {np.shape(value)[1]} columns (one-hot?), but a network has one output",
            f"pass one number a row, for class k: np.where({argument}[:, k] > 0.5, 1.0, -1.0)",
        )  # fmt: skip
    return check_array(argument, value, (None,))


def labels_fix(argument: str, targets: np.ndarray) -> str:
    """Return the line that makes labels −1 and +1 of what seems to be meant."""
    values = np.unique(targets)
    if not np.array_equal(values, np.round(values)):
        return "pass labels -1 and +1, or fit real targets with gf.squared"
    if values.size > 2:
        return (
            f"a network has one output: pass one of the {values.size} classes against the rest, "
            f"np.where({argument} == {values[-1]:g}, 1.0, -1.0)"
        )
    if np.all((values == 0) | (values == 1)):
        return f"pass labels -1 and +1, for example 2*{argument} - 1 for labels 0 and 1"
    return f"pass labels -1 and +1, np.where({argument} == {values[-1]:g}, 1.0, -1.0)"


# The sigmoid with the derivative σ(z)σ(−z): no 1 − σ, which cancels for large z.
@jax.custom_jvp
def _sigmoid(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(z)


@_sigmoid.defjvp
def _sigmoid_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _sigmoid(z), _sigmoid(z) * _sigmoid(-z) * dz


# ln(1 + e^{-z}) with the derivative −σ(−z); the derivative of the formula below would be undefined
# at the corner of |z|, where the function is smooth.
@jax.custom_jvp
def _logistic(z: jax.Array) -> jax.Array:
    return jnp.maximum(-z, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


@_logistic.defjvp
def _logistic_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _logistic(z), -_sigmoid(-z) * dz


@jax.custom_jvp
def _log_logistic(z: jax.Array) -> jax.Array:
    # z > 0: ln log1p(u) = −z + ln(log1p(u)/u), two terms of one sign, and nothing underflows.
    ratio = log1p_ratio(jnp.exp(-jnp.maximum(z, 0.0)), jnp)
    return jnp.where(z > 0, jnp.log(ratio) - z, jnp.log(_logistic(jnp.minimum(z, 0.0))))


@_log_logistic.defjvp
def _log_logistic_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    u = jnp.exp(-jnp.maximum(z, 0.0))
    ratio = log1p_ratio(u, jnp)
    low = jnp.minimum(z, 0.0)
    slope = jnp.where(z > 0, 1.0 / ((1.0 + u) * ratio), _sigmoid(-low) / _logistic(low))
    return _log_logistic(z), -slope * dz


class Logistic(AbstractMarginLoss):
    """``ℓ(z) = ln(1 + e^{−z})``, ``ℓ'(z) = −1/(1 + e^z)``; −ℓ'(0) = ½, M = π²/12.

    ``ln ℓ(z)`` is −z + O(e^{−z}) for large z and ln(−z) for very negative z;
    ``ln(−ℓ'(z)) = −ln(1 + e^z)``.
    """

    name: ClassVar[str] = "logistic"
    vanishes: ClassVar[bool] = True
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
    vanishes: ClassVar[bool] = True
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


class FunctionLoss(AbstractLoss):
    """``ℓ(f, y) = fn(f, y)``, any finite targets; see `loss`."""

    fn: Callable[[jax.Array, jax.Array], jax.Array] = eqx.field(static=True)
    log_fn: Callable[[jax.Array, jax.Array], jax.Array] | None = eqx.field(static=True)
    label: str = eqx.field(static=True)

    @property
    def name(self) -> str:
        """The name given, or that of the function."""
        return self.label

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.vectorize(self.fn)(prediction, target)

    def derivative(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        one = jnp.ones_like(prediction)
        return jax.jvp(lambda f: self(f, target), (prediction,), (one,))[1]

    def log(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        if self.log_fn is None:
            return jnp.log(self(prediction, target))
        return jnp.vectorize(self.log_fn)(prediction, target)


class FunctionMarginLoss(AbstractMarginLoss):
    """``ℓ(z) = fn(z)`` of the margin z = y f, labels y = ±1; see `loss`."""

    fn: Callable[[jax.Array], jax.Array] = eqx.field(static=True)
    log_fn: Callable[[jax.Array], jax.Array] | None = eqx.field(static=True)
    label: str = eqx.field(static=True)

    @property
    def name(self) -> str:
        """The name given, or that of the function."""
        return self.label

    @property
    def neg_derivative_at_zero(self) -> float:
        """−ℓ'(0)."""
        return -float(self.margin_derivative(jnp.zeros(())))

    @property
    def mass(self) -> float:
        """``∫₀^∞ ℓ(z) dz``, by quadrature."""
        from scipy.integrate import quad  # not needed for flows

        return float(quad(lambda z: float(self.of_margin(jnp.asarray(z))), 0, np.inf)[0])

    def of_margin(self, z: jax.Array) -> jax.Array:
        return jnp.vectorize(self.fn)(z)

    def margin_derivative(self, z: jax.Array) -> jax.Array:
        return jax.jvp(self.of_margin, (z,), (jnp.ones_like(z),))[1]

    def log_of_margin(self, z: jax.Array) -> jax.Array:
        return jnp.log(self.of_margin(z)) if self.log_fn is None else jnp.vectorize(self.log_fn)(z)

    def log_neg_derivative(self, z: jax.Array) -> jax.Array:
        if self.log_fn is None:
            return jnp.log(-self.margin_derivative(z))
        # ln(−ℓ') = ln ℓ + ln(−(ln ℓ)'), which does not underflow where ℓ does
        slope = jax.jvp(self.log_of_margin, (z,), (jnp.ones_like(z),))[1]
        return self.log_of_margin(z) + jnp.log(-slope)


def loss(
    fn: Callable[..., jax.Array],
    margin: bool = False,
    log_fn: Callable[..., jax.Array] | None = None,
    name: str | None = None,
) -> FunctionLoss | FunctionMarginLoss:
    """Return a loss made of a JAX function, to be passed as ``loss=`` to a risk.

    Parameters
    ----------
    fn : callable
        ℓ ≥ 0, written in JAX: ``fn(f, y)`` of a prediction and its target, or with ``margin`` a
        non-increasing ``fn(z)`` of the margin z = y f. Its kinks are differentiated as JAX does.
    margin : bool
        Whether ℓ is a function of the margin; then targets are labels −1 and +1.
    log_fn : callable, optional
        ln ℓ, of the same arguments, for a loss that underflows; default: the logarithm of ``fn``.
    name : str, optional
        Default: that of ``fn``.

    Raises
    ------
    ValueError
        If JAX cannot trace a function, it does not return one float64 number, or it increases
        with the margin.

    Notes
    -----
    A file does not hold a function: a path of such a risk is read by ``gf.load(path, risk=...)``.
    """
    shapes: list[tuple[int, ...]] = [()] if check_bool("margin", margin) else [(), ()]
    check_traceable("loss", fn, *shapes)
    if log_fn is not None:
        check_traceable("log_fn", log_fn, *shapes)
    label = getattr(fn, "__name__", type(fn).__name__) if name is None else str(name)
    if not margin:
        return FunctionLoss(fn=fn, log_fn=log_fn, label=label)
    made = FunctionMarginLoss(fn=fn, log_fn=log_fn, label=label)
    if not bool(jnp.all(made.margin_derivative(jnp.linspace(-20.0, 20.0, 401)) <= 0)):
        raise fail("loss", label, "increases with the margin", "pass a function that never does")
    return made


def as_loss(argument: str, value: Any) -> AbstractLoss:
    """Return a loss as it is and a JAX function ℓ(f, y) as one; refuse the rest."""
    if isinstance(value, AbstractLoss):
        return value
    if not callable(value) or isinstance(value, type):
        raise fail(
            argument, value, "is not a loss",
            "pass gf.logistic or another, or a JAX function (f, y) -> loss",
        )  # fmt: skip
    return loss(cast(Callable[..., jax.Array], value))


#: ln(1 + e^{−yf}).
logistic = Logistic()
#: e^{−yf}.
exponential = Exponential()
#: max(0, 1 − yf).
hinge = Hinge()
#: ½(f − y)².
squared = Squared()

for _class in (Logistic, Exponential, Hinge, Squared):
    register(_class.name, _class)
register("function_loss", FunctionLoss)
register("function_margin_loss", FunctionMarginLoss)
