"""Activations φ with the derivative that every gradient in the package uses, kinks included.

Piecewise linear: ``relu``, ``leaky_relu``, ``linear``, ``absolute``, ``shifted_relu``,
``hard_tanh``, and any other by its breakpoints and slopes (`piecewise_linear`). Smooth: ``erf``,
``probit_erf`` (erf(z/√2)), ``tanh``, ``sigmoid``, ``softplus``, ``gelu``, ``swish``, ``elu``,
``fourier``, ``monomial``. Any JAX function is one too (`activation`).

A new activation is one class (subclass `AbstractActivation`), registered (`gf.register`) where
files are to hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from gradflow.networks.activations.kinks import UnstatedKinkWarning as UnstatedKinkWarning
from gradflow.networks.activations.kinks import kinks_remark as kinks_remark
from gradflow.networks.activations.kinks import warn_of_kinks
from gradflow.networks.activations.piecewise import LeakyReLU as LeakyReLU
from gradflow.networks.activations.piecewise import PiecewiseLinear as PiecewiseLinear
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
    """Return ``φ(z) = z`` for z > 0 and slope·z for z ≤ 0, of any slope (see `LeakyReLU`)."""
    return LeakyReLU(slope)


def shifted_relu(shift: float) -> ShiftedReLU:
    """Return ``φ(z) = max(z − shift, 0)`` (see `ShiftedReLU`)."""
    return ShiftedReLU(shift)


def piecewise_linear(
    breakpoints: Sequence[float], slopes: Sequence[float], value_at_first: float | None = None
) -> PiecewiseLinear:
    """Return the continuous φ that is linear between breakpoints (see `PiecewiseLinear`).

    Parameters
    ----------
    breakpoints : sequence of J floats
        Where φ' jumps, ascending. φ' at a breakpoint is the slope on its left.
    slopes : sequence of J + 1 floats
        φ' between them, left to right.
    value_at_first : float, optional
        φ at the first breakpoint (of a linear φ: at 0); default: what makes φ(0) = 0.

    Raises
    ------
    ValueError
        If breakpoints do not ascend, or slopes are not one more.

    Examples
    --------
    >>> hat = gf.piecewise_linear([-1, 0, 1], [0, 1, -1, 0], value_at_first=0.0)
    """
    return PiecewiseLinear(breakpoints, slopes, value_at_first)


def monomial(power: int) -> Monomial:
    """Return ``φ(z) = z^power``, homogeneous of that degree (see `Monomial`)."""
    return Monomial(power)


#: max(z, 0); derivative 0 at the kink.
relu = LeakyReLU(0.0)
#: z.
linear = LeakyReLU(1.0)
#: |z|; derivative −1 at the kink.
absolute = LeakyReLU(-1.0)
#: −1 for z ≤ −1, 1 for z ≥ 1, z between.
hard_tanh = PiecewiseLinear((-1.0, 1.0), (0.0, 1.0, 0.0), -1.0)
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
    (jnp.abs, absolute), (jax.nn.hard_tanh, hard_tanh), (jax.nn.leaky_relu, LeakyReLU(0.01)),
    (jax.nn.relu6, PiecewiseLinear((0.0, 6.0), (0.0, 1.0, 0.0))),
)  # fmt: skip


def as_activation(argument: str, value: Any) -> AbstractActivation:
    """Return an activation as it is and a JAX function as one; refuse the rest."""
    if isinstance(value, AbstractActivation):
        if not type(value).__module__.startswith("gradflow."):
            warn_of_kinks(value)  # (the package's own state theirs)
        return value
    if not callable(value) or isinstance(value, type):
        raise fail(
            argument, value, "is not an activation",
            "pass gf.relu, gf.tanh or another, or a JAX function z -> phi(z)",
        )  # fmt: skip
    known = next((phi for function, phi in _OF_JAX if function is value), None)
    return known or activation(cast(Callable[..., jax.Array], value))


for _class in (
    LeakyReLU, ShiftedReLU, PiecewiseLinear, Erf, Tanh, Sigmoid, Swish, Softplus, GELU, ELU,
    Fourier, Monomial,
):  # fmt: skip
    register(_class.kind, _class)
