"""Activations: values and derivatives against mpmath, kinks, descriptions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import gradflow as gf
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
    monomial,
    probit_erf,
    relu,
    shifted_relu,
    sigmoid,
    softplus,
    swish,
    tanh,
)
from gradflow.networks.activations.kinks import unstated_kinks
from gradflow.registry import build, register

ALL = [relu, leaky_relu(0.3), linear, erf, tanh, softplus, Softplus(25.0), gelu, elu]
ALL += [leaky_relu(2.0), leaky_relu(-0.5), gf.absolute, gf.hard_tanh]
ALL += [gf.piecewise_linear([-0.5, 0.25, 2.0], [0.3, -1.5, 0.0, 4.0], 0.7)]
ALL += [shifted_relu(0.3), shifted_relu(-1.2), fourier, probit_erf, sigmoid, swish, monomial(1)]
SMOOTH = {
    "erf": mpmath.erf,
    "probit_erf": lambda z: mpmath.erf(z / mpmath.sqrt(2)),
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "swish": lambda z: z / (1 + mpmath.exp(-z)),
    "monomial(2)": lambda z: z**2,
    "monomial(3)": lambda z: z**3,
    "tanh": mpmath.tanh,
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
}
POINTS = np.array([-1e300, -700.0, -37.5, -8.1, -3.0, -1.0, -1e-3, -1e-200, 0.0])
POINTS = np.concatenate([POINTS, -POINTS[::-1]])


def slopes(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Return the derivative in the first argument, entry by entry, compiled."""
    return jax.jit(jax.vmap(jax.grad(function)))


@pytest.mark.parametrize(
    "activation",
    [erf, probit_erf, tanh, softplus, gelu, sigmoid, swish, monomial(2), monomial(3)],
    ids=lambda a: a.name,
)
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
def test_leaky_relu_is_the_maximum_and_takes_the_left_slope_at_zero(slope: float) -> None:
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


@pytest.mark.parametrize("slope", [float("inf"), float("nan"), "a", True, None])
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
    with pytest.raises(ValueError, match=r"description=.*scale"):
        build({"kind": "erf"})
    with pytest.raises(ValueError, match="power="):
        monomial(0)


def test_the_name_says_which_erf() -> None:
    assert float(gf.erf(jnp.asarray(1.0))) == pytest.approx(math.erf(1.0), rel=1e-15)
    assert float(gf.probit_erf(jnp.asarray(1.0))) == pytest.approx(0.6826894921370859, rel=1e-15)


@pytest.mark.parametrize("activation", [*ALL, monomial(2), monomial(3)], ids=lambda a: a.name)
@pytest.mark.parametrize("c", [0.3, 2.0])
def test_the_degree_is_that_of_the_function(activation: AbstractActivation, c: float) -> None:
    z = jnp.asarray([-2.0, -0.7, 0.4, 1.9])
    p = activation.degree
    assert activation.homogeneous == (p == 1)
    scaled = activation(c * z)
    if p is None:
        assert not np.allclose(scaled, c * activation(z), rtol=1e-6)
    else:
        np.testing.assert_allclose(scaled, c**p * activation(z), rtol=1e-14)


@pytest.mark.parametrize("activation", ALL, ids=lambda a: a.name)
def test_slopes_are_those_of_the_pieces(activation: AbstractActivation) -> None:
    edges = np.array([-9.0, *activation.breaks, 6.0])
    found = np.diff(activation(jnp.asarray(edges))) / np.diff(edges)
    middle = activation.derivative(jnp.asarray((edges[1:] + edges[:-1]) / 2))
    if activation.slopes is None:
        assert not np.allclose(found, middle, rtol=1e-3)
    else:
        np.testing.assert_allclose(activation.slopes, found, rtol=1e-14)
        np.testing.assert_allclose(activation.slopes, middle, rtol=1e-14)
        jumps = len(set(activation.slopes)) > 1
        assert activation.kinked == jumps


OWN = {
    "|z|": gf.activation(jnp.abs, breakpoints=[0.0], slopes=[-1.0, 1.0], degree=1, name="|z|"),
    "hat": gf.activation(
        lambda z: jnp.maximum(1 - jnp.abs(z), 0), breakpoints=[-1, 0, 1], slopes=[0, 1, -1, 0]
    ),
    "curved": gf.activation(lambda z: jnp.where(z > 0.5, z * z - 0.25, 0.0), breakpoints=[0.5]),
    "square": gf.activation(lambda z: z * z, degree=2),
    "scalar": gf.activation(lambda z: jax.lax.cond(z > 0, jnp.sin, jnp.tanh, z)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_function_is_an_activation(name: str) -> None:
    phi = OWN[name]
    z = jnp.asarray([-1.7, -1.0, -0.3, 0.0, 0.2, 0.5, 1.0, 2.4])
    h = 1e-6
    left = (phi(z) - phi(z - h)) / h  # at a break: the piece on the left
    np.testing.assert_allclose(phi.derivative(z), left, atol=3e-6)
    by_rule = slopes(lambda s: apply_activation(phi, s))(z)
    np.testing.assert_allclose(by_rule, phi.derivative(z), rtol=1e-15)
    assert phi.kinked == (name in ("|z|", "hat", "curved"))
    assert phi(z.reshape(2, 4)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"function"):
        build(json.loads(json.dumps(phi.describe())))


FOUND = {
    "abs": (lambda: gf.activation(jnp.abs, breakpoints=[0.0]), (-1.0, 1.0), 1),
    "shifted": (
        lambda: gf.activation(lambda z: 0.3 * jnp.maximum(z - 1, 0), [1.0]), (0.0, 0.3), None
    ),
    "line": (lambda: gf.activation(lambda z: 2.0 * z), (2.0,), 1),
    "affine": (lambda: gf.activation(lambda z: 2.0 * z + 1.0), (2.0,), None),
    "curved": (lambda: OWN["curved"], None, None),
    "one more kink far away": (
        lambda: gf.activation(lambda z: jnp.minimum(jnp.maximum(z, 0.0), 1e3), [0.0]), None, None
    ),
    "sine": (lambda: gf.activation(jnp.sin), None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_slopes_left_out_are_found_where_there_are_any(name: str) -> None:
    make, expected, degree = FOUND[name]
    assert make().slopes == expected
    assert make().degree == degree


KINKED = {
    "abs": (jnp.abs, [0.0]),
    "shifted": (lambda z: jnp.maximum(z - 0.3, 0.0), [0.3]),
    "two beside a sine": (lambda z: jnp.sin(z) + jnp.clip(z, -1.0, 0.5), [-1.0, 0.5]),
    "small": (lambda z: z + 1e-3 * jnp.abs(z + 2.0), [-2.0]),
}
SMOOTH_ONES = {"sharp": lambda z: jnp.tanh(300 * z), "cube": lambda z: z**3, "exp": jnp.exp}


@pytest.mark.parametrize("name", KINKED)
def test_kinks_that_a_function_does_not_state_are_named(name: str) -> None:
    fn, where = KINKED[name]
    with pytest.warns(gf.UnstatedKinkWarning, match="does not state") as caught:
        phi = gf.activation(fn)
    np.testing.assert_allclose(unstated_kinks(phi), where, atol=1e-8)
    assert f"breakpoints={where}" in str(caught[0].message)


@pytest.mark.parametrize("name", SMOOTH_ONES)
def test_no_kink_is_seen_where_there_is_none(name: str) -> None:
    assert unstated_kinks(gf.activation(SMOOTH_ONES[name])) == ()


def test_a_class_of_one_s_own_is_looked_at_too() -> None:
    class Bent(AbstractActivation):
        kind: ClassVar[str] = "bent"

        def __call__(self, z: jax.Array) -> jax.Array:
            return jnp.maximum(z, 0.1 * z)

        def derivative(self, z: jax.Array) -> jax.Array:
            return jnp.where(z > 0, jnp.ones_like(z), 0.1)

    with pytest.warns(gf.UnstatedKinkWarning, match="near z = 0"):
        net = gf.TwoLayer(2, 3, Bent())
    assert "bent has kinks" in str(net.unlocated_kinks())
    assert "not linear between" in str(gf.TwoLayer(2, 3, OWN["curved"]).unlocated_kinks())
    assert gf.TwoLayer(2, 3, gf.hard_tanh).unlocated_kinks() is None


def test_a_failed_result_names_the_kinks_that_are_not_located() -> None:
    with pytest.warns(gf.UnstatedKinkWarning):
        net = gf.TwoLayer(2, 3, lambda z: jnp.maximum(z, 0.2 * z))
    X = np.array([[1.0, 0.3], [-0.4, 1.0]])
    risk = gf.EmpiricalRisk(net, gf.squared, X, np.ones(2))
    with pytest.warns(gf.IntegrationWarning, match=r"kinks that it does not state, near z = 0"):
        path = gf.integrate(risk, net.init(jax.random.key(0), 1.0), until=1.0, max_steps=2)
    assert path.result.name == "max_steps"


def test_piecewise_linear_by_breakpoints_and_slopes() -> None:
    """The hat, hard tanh and a shifted leaky ReLU against their formulas."""
    z = jnp.linspace(-3.0, 3.0, 41)
    hat = gf.piecewise_linear([-1, 0, 1], [0, 1, -1, 0], value_at_first=0.0)
    np.testing.assert_allclose(hat(z), np.maximum(1 - np.abs(z), 0), atol=1e-15)
    np.testing.assert_array_equal(gf.hard_tanh(z), np.clip(z, -1, 1))
    np.testing.assert_array_equal(gf.absolute(z), np.abs(z))
    bent = gf.piecewise_linear([0.5], [0.1, 1.0])  # φ(0) = 0 by default
    np.testing.assert_allclose(bent(z), np.where(z > 0.5, 0.05 + z - 0.5, 0.1 * z), rtol=1e-14)
    assert not bent.homogeneous
    assert gf.piecewise_linear([0.0], [0.5, 2.0]).homogeneous
    assert gf.TwoLayer(2, 2, jax.nn.hard_tanh).activation is gf.hard_tanh
    for argument, given in {
        "breakpoints": ([1.0, 0.0], [0.0, 1.0, 2.0]), "slopes": ([0.0], [1.0])
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=rf"^{argument}=.*: .*; "):
            gf.piecewise_linear(*given)


def test_functions_of_jax_that_have_a_name_keep_it() -> None:
    assert gf.TwoLayer(2, 2, jax.nn.relu).activation is relu
    assert gf.TwoLayer(2, 2, jnp.tanh).activation is tanh
    assert gf.TwoLayer(2, 2, jnp.sin).activation.name == "sin"


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("activation", lambda: gf.activation(np.tanh)),
        ("activation", lambda: gf.activation(lambda z: z if z > 0 else 0.0)),
        ("activation", lambda: gf.TwoLayer(2, 2, gf.LeakyReLU)),  # type: ignore[arg-type]
        ("slopes", lambda: gf.activation(jnp.abs, breakpoints=[0.0], slopes=[1.0, 1.0])),
        ("slopes", lambda: gf.activation(jnp.abs, breakpoints=[0.0], slopes=[1.0])),
        ("slopes", lambda: gf.activation(jnp.sin, breakpoints=[0.0], slopes=[1.0, 1.0])),
        ("breakpoints", lambda: gf.activation(jnp.abs, breakpoints=[1.0, 0.0])),
        ("degree", lambda: gf.activation(jnp.tanh, degree=1)),
    ],
)
def test_what_is_said_of_a_function_is_checked(argument, call) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}=.*: .*; "):
        call()
