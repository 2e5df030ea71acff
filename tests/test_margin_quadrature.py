"""Two-neuron quadrature against the definition, conditioned on the plane of the neurons."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad_vec
from scipy.special import expit, ndtr

from gradflow.data.laws.laws import Gaussian, UniformBall, UniformSphere
from gradflow.losses import exponential, hinge, logistic
from gradflow.risks.population.linear_reduction import QuadratureLinear
from gradflow.risks.population.margin_quadrature import TwoNeuronQuadrature
from gradflow.risks.population.two_neuron import PlanarState, TwoNeuronReduction, planar_frame

LOSS = {
    "logistic": (lambda z: np.logaddexp(0, -z), lambda z: -expit(-z)),
    "exponential": (lambda z: np.exp(-z), lambda z: -np.exp(-z)),
    "hinge": (lambda z: np.maximum(1 - z, 0), lambda z: -1.0 * (z < 1)),
}


def _three_ball(s):
    s = np.clip(s, -1, 1)
    return 0.5 + (3 * s - s**3) / 4


# radius rho(t), density of t, upper end of t, and P(s < c) for the normal coordinate s given rho
LAWS = {
    "gaussian": (
        lambda dim: Gaussian(dim),
        lambda t: t,
        lambda t: t * np.exp(-(t**2) / 2),
        11.0,
        lambda c, t: ndtr(c),
    ),
    "sphere3": (
        lambda dim: UniformSphere(3),
        np.sin,
        np.sin,
        np.pi / 2,
        lambda c, t: 0.5 * ((c > -np.cos(t)) * 1.0 + (c > np.cos(t))),
    ),
    "ball5": (
        lambda dim: UniformBall(5),
        np.sin,
        lambda t: 5 * np.sin(t) * np.cos(t) ** 4,
        np.pi / 2,
        lambda c, t: _three_ball(c / np.maximum(np.cos(t), 1e-300)),
    ),
}
_X, _W = np.polynomial.legendre.leggauss(40)


def by_definition(law, loss, slope, w, a, v_plane, v_normal):
    """L, dL/da and the in-plane dL/dw, for w (2, 2) and v = (v_plane, v_normal)."""
    _, radius, density, top, below = LAWS[law]
    value, derivative = LOSS[loss]

    def at(phi):
        e = np.array([np.cos(phi), np.sin(phi)])
        z = w @ e
        gate = np.where(z > 0, 1.0, slope)
        output, toward = a @ (gate * z), v_plane @ e
        cuts = [top / 3, top / 9]
        inverse = np.arcsin if top < 2 else (lambda rho: rho)
        if abs(output) > (1.0 if top < 2 else 1e-3):
            cuts.append(inverse(1 / abs(output)))
        if v_normal > 0 and top < 2:
            cuts.append(np.arctan2(v_normal, abs(toward)))
        edges = np.unique([0.0, top, *(c for c in cuts if c < top)])
        half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
        t = (middle[:, None] + half[:, None] * _X).ravel()
        weight = (half[:, None] * _W).ravel() * density(t)
        rho = radius(t)
        if v_normal > 0:
            chance = below(rho * toward / v_normal, t)
        else:
            chance = np.full_like(t, 1.0 * (toward > 0))
        m = rho * output
        risk = weight @ (value(m) * chance + value(-m) * (1 - chance))
        pull = (weight * rho) @ (derivative(m) * chance - derivative(-m) * (1 - chance))
        inner = (pull * a * gate)[:, None] * e[None, :]
        return np.concatenate([[risk], pull * gate * z, inner.ravel()]) / (2 * np.pi)

    angles = [np.arctan2(x[1], x[0]) + s * np.pi / 2 for x in (*w, v_plane) for s in (-1, 1)]
    cuts = np.unique(np.mod(angles, 2 * np.pi))
    total = sum(
        quad_vec(at, low, high, epsabs=1e-14, epsrel=1e-13, norm="max", limit=400)[0]
        for low, high in zip([0.0, *cuts], [*cuts, 2 * np.pi], strict=True)
    )
    return total[0], total[1:3], total[3:].reshape(2, 2)


@eqx.filter_jit
def _both(risk, w, a, v):
    return risk.value(w, a, v), risk.gradient(w, a, v)


def _rotation(rng, dim):
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


CASES = [
    # law, dim, loss, slope, outer weights, normal part of v
    ("gaussian", 2, hinge, 0.0, (1.0, -1.0), 0.0),
    ("gaussian", 3, exponential, 0.3, (0.7, -0.4), 0.6),
    ("gaussian", 3, hinge, 0.0, (1.0, -1.3), 0.3),
    ("sphere3", 3, exponential, 0.0, (1.0, -1.0), 0.05),
    ("sphere3", 3, hinge, 0.3, (1.6, -1.0), 0.4),
    ("sphere3", 3, hinge, 1.0, (1.6, 0.7), 1.0),
]
SLOW = [
    ("gaussian", 2, exponential, 0.3, (1.0, -1.0), 0.0),
    ("gaussian", 5, hinge, 0.3, (1.0, 0.8), 1.0),
    ("ball5", 5, exponential, 1.0, (1.0, -1.0), 0.8),
    ("ball5", 5, hinge, 0.3, (2.0, 1.0), 0.5),
]


@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda c: f"{c[0]}-{c[1]}-{c[2].name}-{c[3]}",
)
def test_agrees_with_the_definition(case, rng):
    name, dim, loss, slope, a, v_normal = case
    plane_w = rng.normal(size=(2, 2)) * np.array([[1.5], [0.8]])
    direction = rng.normal(size=2)
    v_plane = np.sqrt(1 - v_normal**2) * direction / np.linalg.norm(direction)
    a = np.array(a)
    value, outer, inner = by_definition(name, loss.name, slope, plane_w, a, v_plane, v_normal)
    turn = _rotation(rng, dim)
    pad = np.zeros((2, dim - 2))
    w = jnp.asarray(np.hstack([plane_w, pad]) @ turn.T)
    normal = [v_normal, *([0.0] * (dim - 3))] if dim > 2 else []
    v = jnp.asarray(turn @ np.concatenate([v_plane, normal]))
    risk = TwoNeuronQuadrature(loss, LAWS[name][0](dim), slope)
    got, (got_inner, got_outer) = _both(risk, w, jnp.asarray(a), v)
    size = max(np.max(np.abs(inner)), np.max(np.abs(outer)))
    assert float(got) == pytest.approx(value, rel=2e-11)
    np.testing.assert_allclose(got_outer, outer, atol=1e-10 * size, rtol=0)
    np.testing.assert_allclose((np.asarray(got_inner) @ turn)[:, :2], inner, atol=1e-10 * size)


@pytest.mark.parametrize(
    ("loss", "law"),
    [(exponential, UniformSphere(3)), (hinge, UniformSphere(3)), (hinge, Gaussian(3))],
    ids=lambda item: item.name,
)
def test_linear_activation_is_the_linear_reduction(loss, law, rng):
    risk, linear = TwoNeuronQuadrature(loss, law, 1.0), QuadratureLinear(loss, law)
    v = rng.normal(size=3)
    v /= np.linalg.norm(v)
    compare = eqx.filter_jit(lambda r, w: (r.value_of(w, v), r.gradient_of(w, v)))
    for size in (1e-6, 1.0, 30.0, 1e3):
        a = np.array([0.8, -1.1])
        # off the teacher by about 1/size, so that the exponential loss does not overflow
        w = size * np.array([[1.0], [-0.6]]) * v[None, :] + min(size, 1.0) * rng.normal(size=(2, 3))
        value, gradient = compare(linear, jnp.asarray(a @ w))
        got, (inner, outer) = _both(risk, *map(jnp.asarray, (w, a, v)))
        assert float(got) == pytest.approx(float(value), rel=1e-11)
        expected = a[:, None] * np.asarray(gradient)
        size = np.max(np.abs(expected))
        np.testing.assert_allclose(inner, expected, atol=1e-10 * size)
        expected = w @ np.asarray(gradient)
        np.testing.assert_allclose(outer, expected, atol=1e-10 * np.max(np.abs(expected)))


@pytest.mark.slow
def test_agrees_with_the_logistic_closed_form(rng):
    law, slope = UniformBall(3), 0.3
    risk = TwoNeuronQuadrature(logistic, law, slope)
    reduction = TwoNeuronReduction(law.radial, slope, (1, -1))
    closed = eqx.filter_jit(lambda r, s: (r.value(s), r.force(s)))
    for size in (0.1, 3.0, 200.0):
        v = rng.normal(size=3)
        v /= np.linalg.norm(v)
        w, b = size * rng.normal(size=(2, 3)), np.array([1.2, 0.7])
        signs = np.array([1.0, -1.0])
        omega, teacher = jnp.asarray(signs[:, None] * w), jnp.asarray(v)
        frame = planar_frame(omega, teacher)
        state = PlanarState(omega @ teacher, omega @ frame[1:].T, jnp.zeros(()), jnp.asarray(b))
        value, (force_z, force_q) = closed(reduction, state)
        force = np.asarray(force_z)[:, None] * v[None, :] + np.asarray(force_q @ frame[1:])
        expected = -(signs * b)[:, None] * force
        got, (inner, _) = _both(risk, jnp.asarray(w), jnp.asarray(signs * b), teacher)
        assert float(got) == pytest.approx(float(value), rel=1e-12)
        np.testing.assert_allclose(inner, expected, atol=1e-11 * np.max(np.abs(expected)))


@pytest.mark.parametrize("loss", [exponential, hinge], ids=lambda item: item.name)
def test_monte_carlo(loss, rng):
    dim, n, slope = 3, 400_000, 0.3
    v = rng.normal(size=dim)
    v /= np.linalg.norm(v)
    w, a = 2.0 * rng.normal(size=(2, dim)), np.array([0.9, -1.2])
    x = rng.normal(size=(n, dim))
    x *= (rng.random(n) ** (1 / dim) / np.linalg.norm(x, axis=1))[:, None]
    value, derivative = LOSS[loss.name]
    z = x @ w.T
    gate = np.where(z > 0, 1.0, slope)
    y = np.sign(x @ v)
    margin = y * ((gate * z) @ a)
    pull = (y * derivative(margin))[:, None]
    samples = np.hstack(
        [value(margin)[:, None], pull * gate * z]
        + [pull * a[k] * gate[:, k : k + 1] * x for k in range(2)]
    )
    risk = TwoNeuronQuadrature(loss, UniformBall(dim), slope)
    got, (inner, outer) = _both(risk, *map(jnp.asarray, (w, a, v)))
    exact = np.concatenate([[float(got)], np.asarray(outer), np.asarray(inner).ravel()])
    error = samples.std(axis=0) / np.sqrt(n)
    assert np.all(np.abs(samples.mean(axis=0) - exact) < 4 * error)


def test_gradient_is_the_derivative_of_the_value(rng):
    law = UniformSphere(3)
    v = jnp.asarray([0.6, 0.0, 0.8])
    for loss in (exponential, hinge):
        risk = TwoNeuronQuadrature(loss, law, 0.2)
        w, a = jnp.asarray(1.7 * rng.normal(size=(2, 3))), jnp.asarray([1.0, -0.6])
        dw, da = jnp.asarray(rng.normal(size=(2, 3))), jnp.asarray(rng.normal(size=2))
        _, (inner, outer) = _both(risk, w, a, v)
        expected = float(jnp.sum(inner * dw) + outer @ da)

        def along(s, risk=risk, w=w, a=a, dw=dw, da=da):
            return float(_both(risk, w + s * dw, a + s * da, v)[0])

        h = 1e-3
        step = (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)
        assert step == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.slow
def test_automatic_differentiation_returns_the_gradient(rng):
    risk = TwoNeuronQuadrature(hinge, UniformSphere(3), 0.2)
    w, a = jnp.asarray(1.7 * rng.normal(size=(2, 3))), jnp.asarray([1.0, -0.6])
    v = jnp.asarray([0.6, 0.0, 0.8])
    _, (inner, outer) = _both(risk, w, a, v)
    gradients = jax.grad(lambda *at: risk.value(*at), argnums=(0, 1, 2))(w, a, v)
    np.testing.assert_allclose(gradients[0], inner, rtol=1e-14)
    np.testing.assert_allclose(gradients[1], outer, rtol=1e-14)
    # turning everything together leaves L alone
    spin = jnp.asarray([[0.0, -1.0, 0.3], [1.0, 0.0, -2.0], [-0.3, 2.0, 0.0]])
    moved = jnp.sum(gradients[0] * (w @ spin.T)) + jnp.dot(gradients[2], spin @ v)
    assert abs(float(moved)) < 1e-14


def test_degenerate_configurations(rng):
    """Parallel neurons, v in and across the plane, zero neurons: finite, and continuous limits."""
    v = np.array([0.0, 0.0, 1.0])
    a = np.array([1.0, -1.0])
    first = np.array([0.5, 0.2, 0.9])
    for loss in (exponential, hinge):
        risk = TwoNeuronQuadrature(loss, UniformSphere(3), 0.3)
        for w in (
            np.stack([first, first]),
            np.stack([first, -2 * first]),
            np.stack([first, 0 * first]),
            np.stack([0.7 * v, -0.4 * v]),
            np.array([[1.0, 0.0, 0.0], [0.3, -1.2, 0.0]]),
            np.array([[1.0, 0.0, 0.0], [0.3, 0.0, 1.0]]),
            np.zeros((2, 3)),
        ):
            value, (inner, outer) = _both(risk, *map(jnp.asarray, (w, a, v)))
            assert np.all(np.isfinite(inner))
            assert np.all(np.isfinite(outer))
            if np.all(np.any(w != 0, axis=1)):
                near = w + 1e-9 * rng.normal(size=(2, 3))
                close, (close_inner, _) = _both(risk, *map(jnp.asarray, (near, a, v)))
                assert float(close) == pytest.approx(float(value), rel=1e-8)
                np.testing.assert_allclose(close_inner, inner, atol=1e-7)
        assert float(value) == pytest.approx(1.0, rel=1e-14)


def test_slope_is_checked():
    with pytest.raises(ValueError, match="slope"):
        TwoNeuronQuadrature(hinge, Gaussian(2), 1.5)
