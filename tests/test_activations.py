"""Activations: values and derivatives against mpmath, kinks, descriptions."""

from __future__ import annotations

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from gradflow.networks.activations import (
    AbstractActivation,
    LeakyReLU,
    Softplus,
    apply_activation,
    elu,
    erf,
    fourier,
    gelu,
    leaky_relu,
    linear,
    relu,
    shifted_relu,
    softplus,
    tanh,
)
from gradflow.registry import build, register

ALL = [relu, leaky_relu(0.3), linear, erf, tanh, softplus, Softplus(25.0), gelu, elu]
ALL += [shifted_relu(0.3), shifted_relu(-1.2), fourier]
SMOOTH = {
    "erf": lambda z: mpmath.erf(z / mpmath.sqrt(2)),
    "tanh": mpmath.tanh,
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
}
POINTS = np.array([-1e300, -700.0, -37.5, -8.1, -3.0, -1.0, -1e-3, -1e-200, 0.0])
POINTS = np.concatenate([POINTS, -POINTS[::-1]])


def slopes(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Return the derivative in the first argument, entry by entry, compiled."""
    return jax.jit(jax.vmap(jax.grad(function)))


@pytest.mark.parametrize("activation", [erf, tanh, softplus, gelu], ids=lambda a: a.name)
def test_smooth_values_and_derivatives_agree_with_mpmath(activation: AbstractActivation) -> None:
    reference = SMOOTH[activation.name]
    values, derivatives = (
        activation(jnp.asarray(POINTS)),
        activation.derivative(jnp.asarray(POINTS)),
    )
    for z, value, slope in zip(POINTS, values, derivatives, strict=True):
        if abs(z) > 1e4:
            continue
        with mpmath.workdps(700):  # enough for e^{−1400} beside 1
            exact = float(reference(mpmath.mpf(z)))
            exact_slope = float(mpmath.diff(reference, mpmath.mpf(z)))
        assert value == pytest.approx(exact, rel=3e-15, abs=1e-307)
        assert slope == pytest.approx(exact_slope, rel=2e-13, abs=1e-305)


@pytest.mark.parametrize("activation", ALL, ids=lambda a: a.name)
def test_autodiff_is_the_stated_derivative_and_finite_at_extremes(
    activation: AbstractActivation,
) -> None:
    z = jnp.asarray(POINTS)
    slope = activation.derivative(z)
    assert np.all(np.isfinite(activation(z)))
    assert np.all(np.isfinite(slope))
    by_rule = slopes(lambda s: apply_activation(activation, s))(z)
    np.testing.assert_allclose(by_rule, slope, rtol=1e-14)
    by_autodiff = slopes(activation)(z)
    np.testing.assert_allclose(by_autodiff, slope, rtol=1e-12, atol=1e-14)
    second = slopes(jax.grad(lambda s: apply_activation(activation, s)))(z)
    assert np.all(np.isfinite(second))


@pytest.mark.parametrize("slope", [0.0, 1e-12, 0.3, 1.0])
def test_leaky_relu_is_the_maximum_and_takes_the_lower_slope_at_zero(slope: float) -> None:
    activation = leaky_relu(slope)
    z = jnp.asarray([-2.0, -0.0, 0.0, 3.0])
    assert np.array_equal(activation(z), np.maximum(z, slope * z))
    assert np.array_equal(activation.derivative(z), [slope, slope, slope, 1.0])
    assert activation.homogeneous
    assert activation.kinked == (slope != 1.0)


def test_names() -> None:
    names = [a.name for a in ALL]
    assert names[:4] == ["relu", "leaky_relu(0.3)", "linear", "erf"]
    assert len(set(names)) == len(ALL)


@pytest.mark.parametrize("activation", ALL, ids=lambda a: a.name)
def test_description_round_trip(activation: AbstractActivation) -> None:
    written = json.loads(json.dumps(activation.describe()))
    again = build(written)
    assert type(again) is type(activation)
    assert again.describe() == activation.describe()
    assert hash(again) == hash(activation)


@pytest.mark.parametrize("slope", [-0.1, 1.5, float("nan"), "a", True, None])
def test_bad_slope(slope: object) -> None:
    with pytest.raises(ValueError, match="slope="):
        LeakyReLU(slope)  # type: ignore[arg-type]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="beta="):
        Softplus(0.0)
    with pytest.raises(ValueError, match=r"kind='mish'.*leaky_relu"):
        build({"kind": "mish"})
    with pytest.raises(ValueError, match="registered"):
        register("gelu", Softplus)
