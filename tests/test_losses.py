"""Losses against mpmath over the whole range of float64, and against their own derivatives."""

from __future__ import annotations

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.losses import (
    AbstractLoss,
    AbstractMarginLoss,
    as_loss,
    exponential,
    hinge,
    logistic,
    squared,
)
from gradflow.losses import loss as of_function
from gradflow.registry import build

MARGIN = [logistic, exponential, hinge]
mpf = mpmath.mpf

_SIZES = [1e-300, 1e-16, 1e-3, 0.5413, 0.9, 1.0, 1.5, 17.0, 36.0, 40.0, 300.0, 708.0, 745.0, 1e4]
_SIZES += [1e15, 1e300]
POINTS = np.array([-s for s in reversed(_SIZES)] + [0.0] + _SIZES)


def slopes(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Return the derivative in the first argument, entry by entry, compiled."""
    return jax.jit(jax.vmap(jax.grad(function)))


def log1p_exp(z: mpf) -> mpf:
    """ln(1 + e^z), with the asymptotic form where e^z has more digits than can be held."""
    if z > 5000:
        return z
    return mpmath.exp(z) if z < -5000 else mpmath.log1p(mpmath.exp(z))


def reference(loss: AbstractMarginLoss, z: float) -> tuple[mpf, mpf, mpf, mpf]:
    """ℓ, −ℓ', ln ℓ, ln(−ℓ') with 400 digits; ±inf where the value leaves even mpmath's comfort."""
    z = mpf(z)
    if loss is hinge:
        value, slope = max(mpf(0), 1 - z), mpf(1 if z < 1 else 0)
        logs = mpmath.log(value) if value else mpf("-inf"), mpf(0) if slope else mpf("-inf")
        return value, slope, *logs
    if loss is exponential:
        value = mpmath.exp(-z) if abs(z) < 1e5 else (mpf("inf") if z < 0 else mpf(0))
        return value, value, -z, -z
    value = log1p_exp(-z) if z < 1e5 else mpf(0)
    slope = mpmath.exp(-log1p_exp(z)) if z < 1e5 else mpf(0)
    log_value = -z if z > 5000 else mpmath.log(value)
    return value, slope, log_value, -log1p_exp(z)


@pytest.mark.parametrize("loss", MARGIN, ids=lambda loss: loss.name)
def test_values_and_logs_agree_with_mpmath(loss: AbstractMarginLoss) -> None:
    with mpmath.workdps(400):
        exact = [[float(e) for e in reference(loss, z)] for z in POINTS]
    z = jnp.asarray(POINTS)
    found = [loss.of_margin(z), -loss.margin_derivative(z)]
    found += [loss.log_of_margin(z), loss.log_neg_derivative(z)]
    for column, values in enumerate(found):
        target = np.array([row[column] for row in exact])
        # Zero is the honest float64 value below the smallest normal number; where ln ℓ crosses
        # zero (z = -0.54) the rounding of z itself is an absolute error of 1e-16.
        atol = np.where((column == 2) & (np.abs(POINTS + 0.54) < 0.1), 1e-16, 3e-308)
        assert np.all(np.isfinite(values) == np.isfinite(target))
        finite = np.isfinite(target)
        error = np.abs(np.asarray(values) - np.where(finite, target, 0.0))
        assert np.all(error[finite] <= (2e-15 * np.abs(target) + atol)[finite])
        assert np.array_equal(np.asarray(values)[~finite], target[~finite])


@settings(derandomize=True, max_examples=60, deadline=None)
@given(z=st.floats(min_value=-1e300, max_value=1e300, allow_subnormal=False))
def test_logistic_logs_at_any_margin(z: float) -> None:
    with mpmath.workdps(400):
        _, _, log_value, log_slope = (float(e) for e in reference(logistic, z))
    # The condition number of ln ℓ at z is |z ℓ'/ℓ| / |ln ℓ|: the input's own rounding, absolutely.
    assert float(logistic.log_of_margin(z)) == pytest.approx(log_value, rel=2e-15, abs=4e-16)
    assert float(logistic.log_neg_derivative(z)) == pytest.approx(log_slope, rel=2e-15, abs=1e-307)


@pytest.mark.parametrize("loss", MARGIN, ids=lambda loss: loss.name)
def test_autodiff_is_the_margin_derivative_at_extremes(loss: AbstractMarginLoss) -> None:
    z = jnp.asarray(POINTS)
    slope = slopes(loss.of_margin)(z)
    assert np.array_equal(slope, loss.margin_derivative(z))
    assert not np.any(np.isnan(slope))
    log_slope = slopes(loss.log_of_margin)(z)
    assert not np.any(np.isnan(log_slope))
    # d ln ℓ/dz = ℓ'/ℓ wherever the quotient can be formed.
    usable = (loss.of_margin(z) > 1e-300) & (loss.of_margin(z) < 1e308)
    quotient = loss.margin_derivative(z)[usable] / loss.of_margin(z)[usable]
    np.testing.assert_allclose(log_slope[usable], quotient, rtol=1e-14)
    assert log_slope[-1] == (0.0 if loss is hinge else -1.0)


@pytest.mark.parametrize("loss", MARGIN, ids=lambda loss: loss.name)
def test_second_derivatives_are_finite_and_right(loss: AbstractMarginLoss) -> None:
    z = jnp.asarray([-750.0, -30.0, -1.0, 0.0, 2.0, 30.0, 750.0])
    second = slopes(jax.grad(loss.of_margin))(z)
    assert not np.any(np.isnan(second))
    if loss is logistic:
        with mpmath.workdps(400):
            exact = [float(1 / (4 * mpmath.cosh(mpf(float(s)) / 2) ** 2)) for s in z]
        np.testing.assert_allclose(second, exact, rtol=1e-14, atol=1e-307)
    log_second = slopes(jax.grad(loss.log_of_margin))(z)
    assert not np.any(np.isnan(log_second))


@pytest.mark.parametrize("loss", MARGIN, ids=lambda loss: loss.name)
def test_constants(loss: AbstractMarginLoss) -> None:
    at_zero = -float(loss.margin_derivative(jnp.zeros(())))
    assert at_zero == loss.neg_derivative_at_zero
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = np.arange(0.0, 61.0)  # an edge at the hinge's kink
    z = (edges[:-1, None] + 0.5 * (nodes + 1.0)).ravel()
    mass = np.sum(np.tile(0.5 * weights, 60) * np.asarray(loss.of_margin(jnp.asarray(z))))
    assert mass == pytest.approx(loss.mass, rel=1e-14)


@pytest.mark.parametrize("loss", [*MARGIN, squared], ids=lambda loss: loss.name)
def test_prediction_and_target_forms(loss: AbstractLoss) -> None:
    f, y = jnp.asarray([-1.3, 0.2, 0.7, 2.0]), jnp.asarray([1.0, -1.0, 1.0, -1.0])
    if isinstance(loss, AbstractMarginLoss):
        assert np.array_equal(loss(f, y), loss.of_margin(y * f))
    else:
        assert np.array_equal(loss(f, y), 0.5 * (f - y) ** 2)
    slope = slopes(loss)(f, y)
    np.testing.assert_allclose(slope, loss.derivative(f, y), rtol=1e-15)
    np.testing.assert_allclose(loss.log(f, y), np.log(loss(f, y)), rtol=1e-14)


def test_squared_log_survives_the_underflow_of_the_square() -> None:
    gap = jnp.asarray([1e-200, 0.0, 3.0])
    logs = squared.log(gap, jnp.zeros(3))
    np.testing.assert_allclose(logs[0], 2 * np.log(1e-200) - np.log(2), rtol=1e-15)
    assert logs[1] == -jnp.inf
    assert logs[2] == pytest.approx(np.log(4.5), rel=1e-15)
    assert not np.any(np.isnan(slopes(squared.log)(gap, jnp.zeros(3))))


@pytest.mark.parametrize("loss", [*MARGIN, squared], ids=lambda loss: loss.name)
def test_description_round_trip(loss: AbstractLoss) -> None:
    again = build(json.loads(json.dumps(loss.describe())))
    assert type(again) is type(loss)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"y=.*labels other than -1 and \+1.*2\*y - 1"):
        logistic.check_targets("y", [0.0, 1.0])
    with pytest.raises(ValueError, match="NaN"):
        squared.check_targets("y", [0.0, float("nan")])
    with pytest.raises(ValueError, match=r"kind='l1'"):
        build({"kind": "l1"})
    assert np.array_equal(hinge.check_targets("y", [1, -1]), [1.0, -1.0])
    with pytest.raises(ValueError, match=r"loss=.*cannot be traced"):
        of_function(np.square, margin=True)
    with pytest.raises(ValueError, match=r"loss='sech'.*increases"):
        of_function(lambda z: 1 / jnp.cosh(z), margin=True, name="sech")
    with pytest.raises(ValueError, match=r"loss=.*returns shape"):
        of_function(lambda f, y: (f, y))
    with pytest.raises(ValueError, match=r"loss='hinge'.*not a loss.*JAX function"):
        as_loss("loss", "hinge")


LABELS = {
    "0 and 1": ([0, 1, 1], r"2\*y - 1"),
    "1 and 2": ([1, 2, 1], r"np\.where\(y == 2, 1\.0, -1\.0\)"),
    "three classes": ([0, 1, 2, 1], r"one output.*one of the 3 classes against the rest"),
    "real": ([0.3, -1.2, 1.0], r"gf\.squared"),
    "booleans": ([True, False], r"np\.where\(y, 1\.0, -1\.0\)"),
    "one-hot": (np.eye(3), r"3 columns \(one-hot\?\).*one output.*y\[:, k\]"),
    "a column": (np.ones((4, 1)), r"shape \(4, 1\).*np\.ravel\(y\)"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_of_another_kind_are_told_the_line_that_makes_them(case: str) -> None:
    labels, words = LABELS[case]
    with pytest.raises(ValueError, match=rf"(?s)^y=.*{words}"):
        logistic.check_targets("y", np.asarray(labels))
    if np.ndim(labels) == 2:
        with pytest.raises(ValueError, match=rf"(?s)^y=.*{words}"):
            squared.check_targets("y", labels)


def test_functions_are_the_losses_that_they_spell() -> None:
    z, y = jnp.asarray([-3.0, -0.2, 0.0, 0.7, 20.0]), jnp.asarray([1.0, -1.0, 1.0, 1.0, -1.0])
    own = of_function(lambda z: jnp.exp(-z), margin=True, log_fn=lambda z: -z, name="own")
    plain = of_function(lambda f, y: 0.5 * (f - y) ** 2)
    assert (own.name, own.margin, plain.margin) == ("own", True, False)
    assert own.mass == pytest.approx(1.0, rel=1e-9)
    assert own.neg_derivative_at_zero == 1.0
    for one, other in ((own, exponential), (plain, squared)):
        for read in ("__call__", "derivative", "log"):
            found, expected = (getattr(a, read)(z, y) for a in (one, other))
            np.testing.assert_allclose(found, expected, rtol=1e-14)
    far = jnp.asarray([-1e5, 1e5])
    np.testing.assert_allclose(own.log_neg_derivative(far), -far, rtol=1e-15)
    np.testing.assert_allclose(
        of_function(lambda z: jnp.exp(-z), margin=True).log_neg_derivative(z), -z, atol=1e-14
    )
    assert as_loss("loss", plain) is plain
