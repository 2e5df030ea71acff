"""A loss made of any JAX function."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gradflow.losses.abstract import AbstractLoss, AbstractMarginLoss
from gradflow.validation import check_bool, check_traceable, fail


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
