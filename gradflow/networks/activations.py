"""Activations φ with the derivative that every gradient in the package uses, kinks included.

The positively homogeneous family is ``φ(z) = max(z, αz)``, 0 ≤ α ≤ 1 (`LeakyReLU`): α=0 is ReLU,
α=1 is linear. The smooth ones are erf(z/√2), tanh, softplus and the exact GELU. The even or the
odd part of each of these is a polynomial; neither is for the shifted ReLU, ELU and cos + sin, whose
kernels are therefore strictly positive definite (`gradflow.kernels`).

A new activation is one class (subclass `AbstractActivation`) and one `register_activation` call.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import erf as _erf
from jax.scipy.special import erfc as _erfc

from gradflow.validation import check_choice, check_positive, check_real, fail

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


class Parts(NamedTuple):
    """What the even and the odd part of φ, ``(φ(z) ± φ(−z))/2``, are on an interval around 0.

    Attributes
    ----------
    even, odd : float
        The degree of a part that is a polynomial (−1: it is zero); inf where it is none.
    reason : str
        The formula that shows it.
    """

    even: float
    odd: float
    reason: str


class AbstractActivation(eqx.Module):
    """A scalar function φ applied to each entry of an array.

    Concrete classes give the value, the derivative (at a kink: the one-sided value that the package
    states), the name, and whether φ has a kink and is positively 1-homogeneous, ``φ(cz) = cφ(z)``
    for c > 0. What a class knows of its analytic pieces (`breaks`) and of its even and odd part
    (`parts`) serves the kernels of random features.
    """

    kind: eqx.AbstractClassVar[str]

    @abstractmethod
    def __call__(self, z: jax.Array) -> jax.Array:
        """Return φ(z), entry by entry."""

    @abstractmethod
    def derivative(self, z: jax.Array) -> jax.Array:
        """Return φ'(z), entry by entry."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short readable name, for example ``leaky_relu(0.3)``."""

    @property
    @abstractmethod
    def kinked(self) -> bool:
        """True when φ' jumps somewhere."""

    @property
    @abstractmethod
    def homogeneous(self) -> bool:
        """True when φ(cz) = cφ(z) for every c > 0."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return a JSON-able description that `activation_from_description` reads."""

    @property
    def breaks(self) -> tuple[float, ...]:
        """The points between which φ is analytic; by default 0 if there is a kink."""
        return (0.0,) if self.kinked else ()

    @property
    def slopes(self) -> tuple[float, ...] | None:
        """φ' left and right of 0, where φ is linear there (one number: everywhere); else None."""
        return None

    def parts(self, reach: float = math.inf) -> Parts | None:
        """Return the even and the odd part of φ on [−reach, reach]; None where nothing is known."""
        return None


class LeakyReLU(AbstractActivation):
    """``φ(z) = max(z, αz)`` with slope α in [0, 1]; ``φ'(z) = 1`` for z > 0 and α for z ≤ 0.

    The derivative at z = 0 is α: one end of the Clarke interval [α, 1], stated here so that every
    route to a gradient uses the same element. α = 0 is ReLU, α = 1 is linear (no kink).

    Raises
    ------
    ValueError
        If ``slope`` is not a number in [0, 1].
    """

    slope: float = eqx.field(static=True)
    kind: ClassVar[str] = "leaky_relu"

    def __init__(self, slope: float) -> None:
        slope = check_real("slope", slope)
        if not 0.0 <= slope <= 1.0:
            raise fail("slope", slope, "is outside [0, 1]", "pass 0 <= slope <= 1 (0 is ReLU)")
        self.slope = abs(slope)  # -0.0 and 0.0 are one activation

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, z, self.slope * z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, jnp.ones_like(z), jnp.full_like(z, self.slope))

    @property
    def name(self) -> str:
        if self.slope == 0.0:
            return "relu"
        return "linear" if self.slope == 1.0 else f"leaky_relu({self.slope!r})"

    @property
    def kinked(self) -> bool:
        return self.slope != 1.0

    @property
    def homogeneous(self) -> bool:
        return True

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "slope": self.slope}

    @property
    def slopes(self) -> tuple[float, ...]:
        return (self.slope, 1.0) if self.kinked else (1.0,)

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(math.inf if self.kinked else -1, 1, "φ(z) = (1+α)z/2 + (1−α)|z|/2")


class Erf(AbstractActivation):
    """``φ(z) = erf(z/√2) = 2Φ(z) − 1``; ``φ'(z) = √(2/π) e^{−z²/2}``."""

    kind: ClassVar[str] = "erf"

    def __call__(self, z: jax.Array) -> jax.Array:
        return _erf(_SQRT_HALF * z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return (2.0 * _INV_SQRT_2PI) * jnp.exp(-0.5 * z * z)

    @property
    def name(self) -> str:
        return "erf"

    @property
    def kinked(self) -> bool:
        return False

    @property
    def homogeneous(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}

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

    @property
    def name(self) -> str:
        return "tanh"

    @property
    def kinked(self) -> bool:
        return False

    @property
    def homogeneous(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(-1, math.inf, "φ is odd, and analytic without being a polynomial")


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

    @property
    def kinked(self) -> bool:
        return False

    @property
    def homogeneous(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "beta": self.beta}

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(math.inf, 1, "φ(z) = z/2 + ln(2 cosh(βz/2))/β, the second even")


class GELU(AbstractActivation):
    """``φ(z) = zΦ(z)`` (exact, through erfc); ``φ'(z) = Φ(z) + z e^{−z²/2}/√(2π)``."""

    kind: ClassVar[str] = "gelu"

    def __call__(self, z: jax.Array) -> jax.Array:
        return 0.5 * z * _erfc(-_SQRT_HALF * z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return 0.5 * _erfc(-_SQRT_HALF * z) + _INV_SQRT_2PI * z * jnp.exp(-0.5 * z * z)

    @property
    def name(self) -> str:
        return "gelu"

    @property
    def kinked(self) -> bool:
        return False

    @property
    def homogeneous(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(math.inf, 1, "φ(z) = z/2 + z(Φ(z) − ½), the second even")


class ShiftedReLU(AbstractActivation):
    """``φ(z) = max(z − b, 0)`` with the shift b; ``φ'(z) = 1`` for z > b and 0 for z ≤ b.

    The kink at b ≠ 0 has no mirror image at −b: neither the even nor the odd part is a polynomial.

    Raises
    ------
    ValueError
        If ``shift`` is not a finite number.
    """

    shift: float = eqx.field(static=True)
    kind: ClassVar[str] = "shifted_relu"

    def __init__(self, shift: float) -> None:
        self.shift = check_real("shift", shift) + 0.0  # -0.0 and 0.0 are one activation

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > self.shift, z - self.shift, jnp.zeros_like(z))

    def derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > self.shift, jnp.ones_like(z), jnp.zeros_like(z))

    @property
    def name(self) -> str:
        return f"shifted_relu({self.shift!r})"

    @property
    def kinked(self) -> bool:
        return True

    @property
    def homogeneous(self) -> bool:
        return self.shift == 0.0

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "shift": self.shift}

    @property
    def breaks(self) -> tuple[float, ...]:
        return (self.shift,)

    def parts(self, reach: float = math.inf) -> Parts:
        if self.shift == 0.0:
            return Parts(math.inf, 1, "φ(z) = z/2 + |z|/2")
        if abs(self.shift) < reach:
            return Parts(math.inf, math.inf, "φ has a kink at b and none at −b")
        if self.shift > 0:
            return Parts(-1, -1, f"φ(z) = 0 for |z| <= {reach:g}")
        return Parts(0, 1, f"φ(z) = z − b for |z| <= {reach:g}")


class ELU(AbstractActivation):
    """``φ(z) = z`` for z > 0 and ``e^z − 1`` for z ≤ 0; φ' is continuous and φ'' jumps at 0."""

    kind: ClassVar[str] = "elu"

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, z, jnp.expm1(jnp.where(z > 0, 0.0, z)))

    def derivative(self, z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, jnp.ones_like(z), jnp.exp(jnp.minimum(z, 0.0)))

    @property
    def name(self) -> str:
        return "elu"

    @property
    def kinked(self) -> bool:
        return False

    @property
    def homogeneous(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}

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

    @property
    def name(self) -> str:
        return "fourier"

    @property
    def kinked(self) -> bool:
        return False

    @property
    def homogeneous(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def parts(self, reach: float = math.inf) -> Parts:
        return Parts(math.inf, math.inf, "φ_even(z) = cos z, φ_odd(z) = sin z")


@eqx.filter_custom_jvp
def apply_activation(activation: AbstractActivation, z: jax.Array) -> jax.Array:
    """Return φ(z), differentiated through ``activation.derivative`` and nothing else.

    Networks call this rather than ``activation(z)``: automatic differentiation of a `max` may
    choose another element at a kink than the one that the activation states.
    """
    return activation(z)


@apply_activation.def_jvp
def _apply_activation_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    activation, z = primals
    _, dz = tangents
    out = activation(z)
    return out, jnp.zeros_like(out) if dz is None else activation.derivative(z) * dz


def leaky_relu(slope: float) -> LeakyReLU:
    """Return ``φ(z) = max(z, slope·z)``, 0 ≤ slope ≤ 1 (see `LeakyReLU`)."""
    return LeakyReLU(slope)


def shifted_relu(shift: float) -> ShiftedReLU:
    """Return ``φ(z) = max(z − shift, 0)`` (see `ShiftedReLU`)."""
    return ShiftedReLU(shift)


#: max(z, 0); derivative 0 at the kink.
relu = LeakyReLU(0.0)
#: z.
linear = LeakyReLU(1.0)
#: erf(z/√2).
erf = Erf()
#: tanh z.
tanh = Tanh()
#: ln(1 + e^z); other sharpness: `Softplus(beta)`.
softplus = Softplus()
#: zΦ(z).
gelu = GELU()
#: z for z > 0, e^z − 1 for z ≤ 0.
elu = ELU()
#: cos z + sin z.
fourier = Fourier()

_REGISTRY: dict[str, Callable[..., AbstractActivation]] = {}


def register_activation(kind: str, factory: Callable[..., AbstractActivation]) -> None:
    """Let `activation_from_description` build ``factory(**rest)`` for this ``kind``."""
    if kind in _REGISTRY:
        raise fail("kind", kind, "is registered already", "choose another name")
    _REGISTRY[kind] = factory


for _class in (LeakyReLU, Erf, Tanh, Softplus, GELU, ShiftedReLU, ELU, Fourier):
    register_activation(_class.kind, _class)


def activation_from_description(description: Mapping[str, Any]) -> AbstractActivation:
    """Rebuild an activation from what its ``describe()`` returned."""
    options = dict(description)
    kind = check_choice("activation kind", options.pop("kind", None), _REGISTRY)
    return _REGISTRY[kind](**options)
