"""Smooth activations. The even or the odd part of most of them is a polynomial; neither is for ELU
and cos + sin, whose kernels are therefore strictly positive definite (`gradflow.kernels`)."""

from __future__ import annotations

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import erf as _erf
from jax.scipy.special import erfc as _erfc

from gradflow.networks.activations.abstract import AbstractActivation, Parts
from gradflow.validation import check_integer, check_positive

SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


class Erf(AbstractActivation):
    """``φ(z) = erf(sz)`` with s > 0; ``φ'(z) = (2s/√π) e^{−s²z²}``.

    s = 1 is `erf`; s = 1/√2 is `probit_erf`, 2Φ(z) − 1, whose kernel is the arcsine one.

    Raises
    ------
    ValueError
        If ``scale`` is not a positive number.
    """

    scale: float = eqx.field(static=True)
    kind: ClassVar[str] = "erf"

    def __init__(self, scale: float) -> None:
        self.scale = check_positive("scale", scale)

    @property
    def stretch(self) -> float:
        """s√2, with φ(z) = 2Φ(s√2 z) − 1; exactly 1 for `probit_erf`."""
        return self.scale / SQRT_HALF

    def __call__(self, z: jax.Array) -> jax.Array:
        return _erf(self.scale * z)

    def derivative(self, z: jax.Array) -> jax.Array:
        z = self.stretch * z
        return (2.0 * _INV_SQRT_2PI * self.stretch) * jnp.exp(-0.5 * z * z)

    @property
    def name(self) -> str:
        known = {1.0: "erf", SQRT_HALF: "probit_erf"}
        return known.get(self.scale, f"erf({self.scale!r})")

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(-1, math.inf, "φ is odd, and analytic without being a polynomial")


class Tanh(AbstractActivation):
    """``φ(z) = tanh z``; ``φ'(z) = 1/cosh²z``, in a form that neither cancels nor overflows."""

    kind: ClassVar[str] = "tanh"

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.tanh(z)

    def derivative(self, z: jax.Array) -> jax.Array:
        # 1 - tanh² loses every digit beyond |z| ~ 18; this form keeps them to the underflow.
        e = jnp.exp(-2.0 * jnp.abs(z))
        return 4.0 * e / jnp.square(1.0 + e)

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(-1, math.inf, "φ is odd, and analytic without being a polynomial")


class Sigmoid(AbstractActivation):
    """``φ(z) = 1/(1 + e^{−z})``; ``φ'(z) = φ(z)φ(−z)``, which does not cancel."""

    kind: ClassVar[str] = "sigmoid"

    def __call__(self, z: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(0, math.inf, "φ(z) = ½ + tanh(z/2)/2, the second odd")


class Swish(AbstractActivation):
    """``φ(z) = zσ(z)``, σ(z) = 1/(1 + e^{−z}) (SiLU); ``φ'(z) = σ(z)(1 + zσ(−z))``."""

    kind: ClassVar[str] = "swish"

    def __call__(self, z: jax.Array) -> jax.Array:
        return z * jax.nn.sigmoid(z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(z) * (1.0 + z * jax.nn.sigmoid(-z))

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(math.inf, 1, "φ(z) = z/2 + z tanh(z/2)/2, the second even")


class Softplus(AbstractActivation):
    """``φ(z) = ln(1 + e^{βz})/β`` with β > 0; ``φ'(z) = 1/(1 + e^{−βz})``. β → ∞ gives ReLU.

    Raises
    ------
    ValueError
        If ``beta`` is not a positive number.
    """

    beta: float = eqx.field(static=True)
    kind: ClassVar[str] = "softplus"

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = check_positive("beta", beta)

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.logaddexp(self.beta * z, 0.0) / self.beta

    def derivative(self, z: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(self.beta * z)

    @property
    def name(self) -> str:
        return "softplus" if self.beta == 1.0 else f"softplus({self.beta!r})"

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(math.inf, 1, "φ(z) = z/2 + ln(2 cosh(βz/2))/β, the second even")


class GELU(AbstractActivation):
    """``φ(z) = zΦ(z)`` (exact, through erfc); ``φ'(z) = Φ(z) + z e^{−z²/2}/√(2π)``."""

    kind: ClassVar[str] = "gelu"

    def __call__(self, z: jax.Array) -> jax.Array:
        return 0.5 * z * _erfc(-SQRT_HALF * z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return 0.5 * _erfc(-SQRT_HALF * z) + _INV_SQRT_2PI * z * jnp.exp(-0.5 * z * z)

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(math.inf, 1, "φ(z) = z/2 + z(Φ(z) − ½), the second even")


class ELU(AbstractActivation):
    """``φ(z) = z`` for z > 0 and ``e^z − 1`` for z ≤ 0; φ' is continuous and φ'' jumps at 0."""

    kind: ClassVar[str] = "elu"

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, z, jnp.expm1(jnp.where(z > 0, 0.0, z)))

    def derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, jnp.ones_like(z), jnp.exp(jnp.minimum(z, 0.0)))

    @property
    def breaks(self) -> tuple[float, ...]:
        return (0.0,)

    def parts(self, reach: float = math.inf) -> Parts:
        formula = "2φ_even(z) = |z| + e^(−|z|) − 1, 2φ_odd(z) = sgn(z)(|z| − e^(−|z|) + 1)"
        return Parts(math.inf, math.inf, formula)


class Fourier(AbstractActivation):
    """``φ(z) = cos z + sin z = √2 cos(z − π/4)``; ``φ'(z) = cos z − sin z``.

    With Gaussian weights its kernel is the Gaussian one, ``E φ(w·x)φ(w·x') = e^{−|x−x'|²/2}``.
    """

    kind: ClassVar[str] = "fourier"

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.cos(z) + jnp.sin(z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return jnp.cos(z) - jnp.sin(z)

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(math.inf, math.inf, "φ_even(z) = cos z, φ_odd(z) = sin z")


class Monomial(AbstractActivation):
    """``φ(z) = z^p``, p = 1, 2, …, homogeneous of degree p; ``φ'(z) = p z^{p−1}``.

    Raises
    ------
    ValueError
        If ``power`` is not an integer ≥ 1.
    """

    power: int = eqx.field(static=True)
    kind: ClassVar[str] = "monomial"

    def __init__(self, power: int) -> None:
        self.power = check_integer("power", power, minimum=1)

    def __call__(self, z: jax.Array) -> jax.Array:
        return z**self.power

    def derivative(self, z: jax.Array) -> jax.Array:
        return self.power * z ** (self.power - 1)

    @property
    def name(self) -> str:
        return f"monomial({self.power})"

    @property
    def homogeneous(self) -> bool:
        return self.power == 1

    @property
    def degree(self) -> float:
        return self.power

    @property
    def slopes(self) -> tuple[float, ...] | None:
        return (1.0,) if self.power == 1 else None

    def parts(self, reach: float = math.inf) -> Parts:
        even = self.power % 2 == 0
        return Parts(*((self.power, -1) if even else (-1, self.power)), "φ(z) = z^p")
