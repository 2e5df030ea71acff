"""The linear reduction against its definition, conditional on w·x, and at extremes."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from gradflow.data.laws.laws import Gaussian, StudentT, UniformBall, UniformSphere
from gradflow.losses import exponential, hinge, logistic
from gradflow.risks.population.linear_reduction import (
    LogisticLinear,
    QuadratureLinear,
    linear_reduction,
)

LOSS = {
    "logistic": (lambda z: mp.log1p(mp.exp(-z)), lambda z: -1 / (1 + mp.exp(z))),
    "exponential": (lambda z: mp.exp(-z), lambda z: -mp.exp(-z)),
    "hinge": (lambda z: max(1 - z, mp.mpf(0)), lambda z: mp.mpf(-1 if z < 1 else 0)),
}


def _clip(c):
    return max(mp.mpf(-1), min(mp.mpf(1), c))


# density of |x1| and P(x2 < x1 cot θ | x1), with x2 the coordinate of v across w
LAWS = {
    "gaussian": (
        Gaussian(4),
        lambda x: 2 * mp.npdf(x),
        lambda x, cot: mp.ncdf(x * cot),
        mp.mpf(14),
    ),
    "sphere3": (
        UniformSphere(3),
        lambda x: mp.mpf(1),
        lambda x, cot: 1 - mp.acos(_clip(x * cot / mp.sqrt(1 - x * x))) / mp.pi,
        mp.mpf(1),
    ),
    "disc": (
        UniformBall(2),
        lambda x: 4 / mp.pi * mp.sqrt(1 - x * x),
        lambda x, cot: (1 + _clip(x * cot / mp.sqrt(1 - x * x))) / 2,
        mp.mpf(1),
    ),
}


def by_definition(loss, law, R, theta):
    """(L, F_R): integrals over |w.x| of both losses with the chances of right and wrong."""
    value, derivative = LOSS[loss]
    _, density, right, top = LAWS[law]
    R, theta = mp.mpf(R), mp.mpf(theta)
    cot = mp.cot(theta)
    corner = abs(mp.sin(theta)) if top == 1 else abs(mp.tan(theta))
    cuts = [corner, 1 / R, 3 / R, 10 / R, 40 / R, R, top / 3]
    points = sorted({mp.mpf(0), top, *(c for c in cuts if c < top)})

    def integrate(f):
        return mp.quad(f, points)

    with mp.workdps(20):
        risk = integrate(
            lambda x: (
                density(x) * (value(R * x) * right(x, cot) + value(-R * x) * (1 - right(x, cot)))
            )
        )
        force = integrate(
            lambda x: (
                -x
                * density(x)
                * (derivative(R * x) * right(x, cot) - derivative(-R * x) * (1 - right(x, cot)))
            )
        )
    return float(risk), float(force)


@eqx.filter_jit
def _all(reduction, log_R, lam):
    return (
        reduction.value(log_R, lam),
        reduction.radial_force(log_R, lam),
        reduction.angular_rate(log_R, lam),
        reduction.log_value(log_R, lam),
    )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("loss", [exponential, hinge, logistic], ids=lambda item: item.name)
def test_agrees_with_the_definition(loss, law):
    reduction = linear_reduction(loss, LAWS[law][0])
    for R, theta in [(0.3, 2.0), (4.0, 0.4), (50.0, 0.01)]:
        value, force = by_definition(loss.name, law, R, theta)
        log_R, lam = jnp.log(jnp.asarray(R)), jnp.log(jnp.tan(jnp.asarray(theta) / 2))
        got = _all(reduction, log_R, lam)
        assert float(got[0]) == pytest.approx(value, rel=1e-12)
        assert float(got[1]) == pytest.approx(force, rel=1e-11, abs=1e-13)


def test_quadrature_agrees_with_the_logistic_closed_form_over_the_whole_range():
    law = UniformSphere(3)
    closed, general = linear_reduction(logistic, law), QuadratureLinear(logistic, law)
    assert isinstance(closed, LogisticLinear)
    R = np.array([1e-60, 1e-5, 0.3, 3.0, 1e3, 1e8, 1e12])
    lam = np.array([-1e20, -800.0, -30.0, -10.0, -2.0, -1e-5, 0.0, 0.5, 3.0, 40.0, 1e5])
    log_R, lam = (jnp.asarray(part.ravel()) for part in np.meshgrid(np.log(R), lam))
    over = eqx.filter_jit(lambda r: jax.vmap(lambda x, y: _all(r, x, y))(log_R, lam))
    exact, got = over(closed), over(general)
    versine = 2 / (1 + np.exp(-2 * np.clip(np.asarray(lam), -350, 350)))
    size = np.asarray(law.radial.h(jnp.exp(log_R))) + law.c0 / np.pi * versine
    np.testing.assert_allclose(got[0], exact[0], rtol=5e-14)
    np.testing.assert_array_less(np.abs(got[1] - exact[1]), 5e-14 * size)
    np.testing.assert_allclose(got[2], exact[2], rtol=5e-14)


@pytest.mark.parametrize("law", [Gaussian(3), UniformSphere(2)], ids=lambda item: item.name)
@pytest.mark.parametrize("loss", [exponential, hinge], ids=lambda item: item.name)
def test_forces_are_the_derivatives_of_the_value(loss, law):
    reduction = linear_reduction(loss, law)
    slopes = jax.jit(jax.grad(lambda x, y: reduction.value(x, y), argnums=(0, 1)))
    for R, lam in [(0.2, 0.3), (6.0, -0.5), (30.0, -6.0)]:
        # dL/dlog R = −R F_R;  dθ/dλ = sin θ, so dL/dλ = R A sin²θ
        x, y = jnp.log(R), jnp.asarray(lam)
        along, across = slopes(x, y)
        _, force, rate, _ = _all(reduction, x, y)
        assert float(along) == pytest.approx(-R * float(force), rel=1e-10, abs=1e-13)
        assert float(across) == pytest.approx(R * float(rate) / np.cosh(lam) ** 2, rel=1e-10)


@pytest.mark.parametrize("loss", [logistic, exponential, hinge], ids=lambda item: item.name)
def test_cartesian_gradient(loss, rng):
    law = UniformSphere(4)
    reduction = linear_reduction(loss, law)
    v = rng.normal(size=4)
    v = jnp.asarray(v / np.linalg.norm(v))
    value = eqx.filter_jit(reduction.value_of)
    gradient = eqx.filter_jit(reduction.gradient_of)
    differentiate = jax.jit(jax.grad(lambda w, v: reduction.value_of(w, v)))
    for size in (0.5, 5.0):
        w = jnp.asarray(size * rng.normal(size=4))
        d = jnp.asarray(rng.normal(size=4))
        h = 1e-4
        step = (
            8 * (value(w + h * d, v) - value(w - h * d, v))
            - value(w + 2 * h * d, v)
            + value(w - 2 * h * d, v)
        ) / (12 * h)
        assert float(step) == pytest.approx(float(gradient(w, v) @ d), rel=1e-8)
        np.testing.assert_allclose(differentiate(w, v), gradient(w, v), rtol=1e-14)
    # at w = 0 the gradient is l'(0) E[y x], and along the teacher it has no lateral part
    start = -loss.neg_derivative_at_zero * 2 * law.c0 / np.pi * v
    for w in (jnp.zeros(4), 1e-300 * v, -1e-200 * v):
        np.testing.assert_allclose(gradient(w, v), start, rtol=1e-14)
    for w in (7.0 * v, -3.0 * v):
        got = gradient(w, v)
        lateral = got - jnp.dot(got, v) * v
        assert np.max(np.abs(lateral)) < 1e-14 * np.max(np.abs(got))


def test_gradient_against_logistic_formula_for_tiny_angles():
    law = Gaussian(3)
    reduction = linear_reduction(logistic, law)
    v = jnp.asarray([1.0, 0.0, 0.0])
    for angle in (1e-3, 1e-8, 1e-100):
        w = 20.0 * jnp.asarray([1.0, angle, 0.0])
        got = reduction.gradient_of(w, v)
        h = float(law.radial.h(jnp.asarray(20.0 * np.hypot(1, angle))))
        # lateral part of −(c0/π)v + (c0/π − h) w/R
        assert float(got[1]) == pytest.approx((law.c0 / np.pi - h) * angle, rel=1e-6)
        assert float(got[0]) == pytest.approx(-h - (law.c0 / np.pi - h) * angle**2 / 2, rel=1e-9)


def test_derivative_with_respect_to_the_teacher():
    reduction = linear_reduction(exponential, UniformBall(3))
    w = jnp.asarray([0.4, -1.0, 2.0])

    @jax.jit
    def turned(angle):
        return reduction.value_of(w, jnp.stack([jnp.cos(angle), jnp.sin(angle), 0.0 * angle]))

    h = 1e-5
    step = (turned(jnp.asarray(0.7 + h)) - turned(jnp.asarray(0.7 - h))) / (2 * h)
    assert float(jax.jit(jax.grad(turned))(jnp.asarray(0.7))) == pytest.approx(
        float(step), rel=1e-8
    )


def test_extremes_stay_finite_and_follow_the_asymptotics():
    for loss, mass in ((exponential, 1.0), (hinge, 0.5)):
        law = Gaussian(3)
        reduction = linear_reduction(loss, law)
        value, force, rate, log_value = _all(reduction, jnp.log(1e12), jnp.asarray(-1e20))
        # L → 2 p0 M / R, and F_R = −dL/dR
        assert float(value) == pytest.approx(2 * law.p0 * mass / 1e12, rel=1e-12)
        assert float(force) == pytest.approx(2 * law.p0 * mass / 1e24, rel=1e-11)
        assert float(rate) == pytest.approx(2 * law.c0 / np.pi, rel=1e-12)
        assert float(log_value) == pytest.approx(np.log(float(value)), rel=1e-14)
    # e^{+z} overflows on the wrong side, its logarithm does not: ln E e^{R|x1|} ~ R²/2 + ln 2
    reduction = linear_reduction(exponential, Gaussian(3))
    log_value = reduction.log_value(jnp.log(100.0), jnp.asarray(500.0))
    assert float(log_value) == pytest.approx(5000 + np.log(2), rel=1e-14)


def test_infinite_risk_is_refused():
    with pytest.raises(ValueError, match="student_t"):
        linear_reduction(exponential, StudentT(3, 4.0))
