"""Activations φ with the derivative that every gradient in the package uses, kinks included.

Two linear pieces: ``relu``, ``leaky_relu``, ``linear``, ``shifted_relu``. Smooth: ``erf``,
``probit_erf`` (erf(z/√2)), ``tanh``, ``sigmoid``, ``softplus``, ``gelu``, ``swish``, ``elu``,
``fourier``, ``monomial``. Any JAX function is one too (`activation`).

A new activation is one class (subclass `AbstractActivation`), registered (`gf.register`) where
files are to hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import jax.scipy.special

from gradflow.networks.activations.abstract import (
    AbstractActivation as AbstractActivation,
)
from gradflow.networks.activations.abstract import Parts as Parts
from gradflow.networks.activations.abstract import apply_activation as apply_activation
from gradflow.networks.activations.function import FunctionActivation as FunctionActivation
from gradflow.networks.activations.function import activation as activation
from gradflow.networks.activations.piecewise import LeakyReLU as LeakyReLU
from gradflow.networks.activations.piecewise import ShiftedReLU as ShiftedReLU
from gradflow.networks.activations.smooth import ELU as ELU
from gradflow.networks.activations.smooth import GELU as GELU
from gradflow.networks.activations.smooth import SQRT_HALF as SQRT_HALF
from gradflow.networks.activations.smooth import Erf as Erf
from gradflow.networks.activations.smooth import Fourier as Fourier
from gradflow.networks.activations.smooth import Monomial as Monomial
from gradflow.networks.activations.smooth import Sigmoid as Sigmoid
from gradflow.networks.activations.smooth import Softplus as Softplus
from gradflow.networks.activations.smooth import Swish as Swish
from gradflow.networks.activations.smooth import Tanh as Tanh
from gradflow.registry import register
from gradflow.validation import fail


def leaky_relu(slope: float) -> LeakyReLU:
    """Return ``φ(z) = max(z, slope·z)``, 0 ≤ slope ≤ 1 (see `LeakyReLU`)."""
    return LeakyReLU(slope)


def shifted_relu(shift: float) -> ShiftedReLU:
    """Return ``φ(z) = max(z − shift, 0)`` (see `ShiftedReLU`)."""
    return ShiftedReLU(shift)


def monomial(power: int) -> Monomial:
    """Return ``φ(z) = z^power``, homogeneous of that degree (see `Monomial`)."""
    return Monomial(power)


#: max(z, 0); derivative 0 at the kink.
relu = LeakyReLU(0.0)
#: z.
linear = LeakyReLU(1.0)
#: erf z.
erf = Erf(1.0)
#: erf(z/√2) = 2Φ(z) − 1, the activation of the soft committee machine.
probit_erf = Erf(SQRT_HALF)
#: tanh z.
tanh = Tanh()
#: 1/(1 + e^{−z}).
sigmoid = Sigmoid()
#: z/(1 + e^{−z}), also called SiLU.
swish = Swish()
#: ln(1 + e^z); other sharpness: `Softplus(beta)`.
softplus = Softplus()
#: zΦ(z).
gelu = GELU()
#: z for z > 0, e^z − 1 for z ≤ 0.
elu = ELU()
#: cos z + sin z.
fourier = Fourier()

#: JAX's own functions that have a name here, so that a file can hold them and kinks are known.
_OF_JAX: tuple[tuple[object, AbstractActivation], ...] = (
    (jax.nn.relu, relu), (jnp.tanh, tanh), (jax.nn.sigmoid, sigmoid), (jax.nn.silu, swish),
    (jax.nn.softplus, softplus), (jax.nn.elu, elu), (jax.scipy.special.erf, erf),
)  # fmt: skip


def as_activation(argument: str, value: Any) -> AbstractActivation:
    """Return an activation as it is and a JAX function as one; refuse the rest."""
    if isinstance(value, AbstractActivation):
        return value
    if not callable(value) or isinstance(value, type):
        raise fail(
            argument, value, "is not an activation",
            "pass gf.relu, gf.tanh or another, or a JAX function z -> phi(z)",
        )  # fmt: skip
    known = next((phi for function, phi in _OF_JAX if function is value), None)
    return known or activation(cast(Callable[..., jax.Array], value))


for _class in (
    LeakyReLU, ShiftedReLU, Erf, Tanh, Sigmoid, Swish, Softplus, GELU, ELU, Fourier, Monomial,
):  # fmt: skip
    register(_class.kind, _class)
