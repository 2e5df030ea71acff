"""The squared risk of a teacher net on Gaussian inputs: closed forms against quadrature, sampling,
finite differences and 50 digits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from scipy.special import erf

import gradflow as gf
from gradflow.networks.activations import Softplus
from gradflow.risks.population import gaussian_kernels
from gradflow.risks.population.gaussian_kernels import absolute_kernel, register_gaussian_kernel
from gradflow.risks.population.gaussian_values import erf_value, homogeneous_value

PAIRS = {
    "relu-relu": (gf.relu, gf.relu),
    "leaky-relu": (gf.leaky_relu(0.3), gf.relu),
    "relu-linear": (gf.relu, gf.linear),
    "linear-linear": (gf.linear, gf.linear),
    "erf-erf": (gf.probit_erf, gf.probit_erf),
    "erf-relu": (gf.probit_erf, gf.relu),
    "leaky-erf": (gf.leaky_relu(0.3), gf.probit_erf),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
EPS = np.finfo(float).eps


def phi_of(activation: Any, z: np.ndarray) -> np.ndarray:
    """The activation in NumPy."""
    if activation is gf.probit_erf:
        return erf(z / np.sqrt(2))
    return np.where(z > 0, z, activation.slope * z)


def slope_of(activation: Any, z: np.ndarray) -> np.ndarray:
    if activation is gf.probit_erf:
        return np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2)
    return np.where(z > 0, 1.0, activation.slope)


def make(
    phi: Any, chi: Any, W: Any, a: Any, V: Any, b: Any, outer: str = "trained", scale: float = 1.0
) -> Any:
    """The risk and the student's parameters."""
    net = gf.TwoLayer(W.shape[1], W.shape[0], phi, outer=outer)
    other = gf.TwoLayer(V.shape[1], V.shape[0], chi)
    teacher = gf.NetworkTeacher(other, {"inner": V, "outer": b})
    risk = gf.PopulationRisk(net, gf.squared, gf.Gaussian(W.shape[1], scale), teacher=teacher)
    return risk, net.as_params({"inner": W, "outer": a})


def draw(rng: Any, d: int, m: int, n: int) -> Any:
    """A student and a teacher; where there is room, three neurons parallel to others."""
    W, a = rng.normal(size=(m, d)), rng.normal(size=m)
    V, b = rng.normal(size=(n, d)), rng.normal(size=n)
    if m >= 4 and n >= 2:
        W[1], W[2], W[3] = 2 * V[0], -0.7 * V[1], 1.3 * W[0]
    return W, a, V, b


def planar_rule(vectors, radii=60, angles=60):
    """Points and weights for N(0, I) in the plane, with breaks where a vector's sign changes."""
    r, weight = np.polynomial.legendre.leggauss(radii)
    r, weight = 6.0 * (r + 1), 6.0 * weight
    weight = weight * r * np.exp(-(r**2) / 2)
    at = [np.arctan2(v[1], v[0]) + s * np.pi / 2 for v in vectors for s in (1, -1)]
    edges = np.unique(np.mod(at, 2 * np.pi))
    edges = np.append(edges, edges[0] + 2 * np.pi)
    x, dx = np.polynomial.legendre.leggauss(angles)
    half, mid = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    t, dt = (mid + half * x).ravel(), (half * dx).ravel() / (2 * np.pi)
    points = r[:, None, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    return points.reshape(-1, 2), (weight[:, None] * dt).ravel()


def line_rule(count=400):
    """Points and weights for N(0, 1), with a break at 0."""
    r, weight = np.polynomial.legendre.leggauss(count)
    r, weight = 6.5 * (r + 1), 6.5 * weight
    weight = weight * np.exp(-(r**2) / 2) / np.sqrt(2 * np.pi)
    return np.concatenate([-r, r])[:, None], np.concatenate([weight, weight])


# Values and gradients by quadrature of the definition, sampling, and data.


@pairs
@pytest.mark.parametrize(("d", "width"), [(1, 1), (1, 5), (2, 5)])
def test_value_and_gradient_against_quadrature(pair, d, width, rng):
    phi, chi = pair
    W, a, V, b = draw(rng, d, width, 2)
    risk, params = make(phi, chi, W, a, V, b)
    x, weight = line_rule() if d == 1 else planar_rule([*W, *V])
    residual = phi_of(phi, x @ W.T) @ a - phi_of(chi, x @ V.T) @ b
    pull = weight * residual
    inner = a[:, None] * ((slope_of(phi, x @ W.T) * pull[:, None]).T @ x)
    gradient = risk.gradient(params)
    np.testing.assert_allclose(risk(params), 0.5 * pull @ residual, rtol=1e-12)
    np.testing.assert_allclose(gradient.inner, inner, atol=1e-12 * np.abs(inner).max())
    outer = phi_of(phi, x @ W.T).T @ pull
    np.testing.assert_allclose(gradient.outer, outer, atol=1e-12 * np.abs(outer).max())


@pairs
def test_value_against_sampling(pair, rng, key):
    risk, params = make(pair[0], pair[1], *draw(rng, 7, 5, 3), scale=1.3)
    x, y = risk.sample(key, 400_000)
    values = 0.5 * np.square(np.asarray(risk.net(params, x)) - np.asarray(y))
    spread = values.std() / np.sqrt(len(values))
    assert abs(float(risk(params)) - values.mean()) < 4 * spread
    assert spread < 0.01 * values.mean()


def test_finite_data_approach_it_like_one_over_their_number(rng):
    """Case of finite against infinite data: the squared distance of gradients falls like 1/N."""
    W, a, V, b = draw(rng, 3, 4, 2)
    risk, params = make(gf.relu, gf.relu, W, a, V, b)
    exact = np.asarray(risk.gradient(params).inner)
    sizes, repeats, gaps = [250, 1000, 4000, 16000], 60, []
    for size in sizes:
        x = rng.normal(size=(repeats, size, 3))
        residual = phi_of(gf.relu, x @ W.T) @ a - phi_of(gf.relu, x @ V.T) @ b
        slopes = residual[:, :, None] * (x @ W.T > 0)
        gradient = a[:, None] * np.einsum("rnk,rnd->rkd", slopes, x) / size
        gaps.append(np.mean(np.sum((gradient - exact) ** 2, axis=(1, 2))))
    slope = np.polyfit(np.log(sizes), np.log(gaps), 1)[0]
    assert abs(slope + 1) < 0.15
    x = rng.normal(size=(sizes[0], 3))
    data = gf.EmpiricalRisk(risk.net, gf.squared, x, np.asarray(risk.teacher.label(x)))
    gap = np.sum((np.asarray(data.gradient(params).inner) - exact) ** 2)
    assert 0.1 < gap / gaps[0] < 10


@pytest.mark.parametrize(
    ("pair", "outer"),
    [*((pair, "trained") for pair in PAIRS.values()), (PAIRS["relu-relu"], "fixed")],
    ids=[*PAIRS, "fixed"],
)
def test_gradient_and_hessian_against_finite_differences(pair, outer, rng):
    risk, params = make(pair[0], pair[1], *draw(rng, 3, 5, 2), outer=outer, scale=0.8)
    start, unravel = ravel_pytree(params)
    start = np.asarray(start)
    value = jax.jit(lambda z: risk(unravel(z)))
    field = jax.jit(lambda z: ravel_pytree(risk.gradient(unravel(z)))[0])
    gradient, hessian = np.asarray(field(start)), np.asarray(jax.jacfwd(field)(start))
    step = 1e-5
    for k, e in enumerate(step * np.eye(start.size)):
        slope = (float(value(start + e)) - float(value(start - e))) / (2 * step)
        trained = outer == "trained" or k < params.inner.size
        assert abs((slope if trained else 0.0) - gradient[k]) < 1e-8
        curve = (np.asarray(field(start + e)) - np.asarray(field(start - e))) / (2 * step)
        # The second derivative of a homogeneous kernel has a kink: first order in the step.
        np.testing.assert_allclose(
            hessian[:, k], curve, atol=1e-4 if pair[0].kinked else 1e-8, rtol=1e-6
        )


def test_every_route_to_a_derivative_agrees(rng):
    risk, params = make(gf.leaky_relu(0.2), gf.relu, *draw(rng, 3, 5, 2))
    start, unravel = ravel_pytree(params)

    def value(z):
        return risk(unravel(z))

    hessian = jax.jit(jax.hessian(value))(start)
    np.testing.assert_allclose(hessian, jax.jit(jax.jacrev(jax.jacrev(value)))(start), atol=1e-13)
    np.testing.assert_allclose(hessian, jax.jit(jax.jacfwd(jax.jacfwd(value)))(start), atol=1e-13)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-13)
    field = lambda z: ravel_pytree(risk.gradient(unravel(z)))[0]
    direction = jnp.asarray(rng.normal(size=start.size))
    change = jax.jvp(field, (start,), (direction,))[1]
    np.testing.assert_allclose(change, hessian @ direction, atol=1e-12)
    rows = jnp.stack([start, 2.0 * start])
    both = jax.vmap(field)(rows)
    np.testing.assert_allclose(both[1], field(rows[1]), atol=1e-13)


# The kernels.


def kernel_digits(u, v):
    """A(u, v) and its gradient in u to 50 digits, from exact inputs."""
    with mp.workdps(50):
        u, v = mp.matrix(list(map(float, u))), mp.matrix(list(map(float, v)))
        uu, vv, uv = (u.T * u)[0], (v.T * v)[0], (u.T * v)[0]
        cosine = uv / mp.sqrt(uu * vv)
        wedge = mp.sqrt(abs(uu * vv - uv**2))
        theta = mp.atan2(uv, wedge)
        value = 2 / mp.pi * (wedge + uv * theta)
        slope = [2 / mp.pi * (theta * v[i] + wedge / uu * u[i]) for i in range(len(u))]
        assert abs(cosine) <= 1 + mp.mpf(10) ** -40
        return float(value), np.array([float(s) for s in slope])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("gap", [0.0, 1e-16, 1e-12, 1e-8, 1e-4, 1e-1, 1.0])
@pytest.mark.parametrize("size", [1e-150, 1.0, 1e20])
def test_kernel_at_nearly_parallel_vectors(sign, gap, size, rng):
    u, e = rng.normal(size=4), rng.normal(size=4)
    v = sign * (1.7 * u + gap * e)
    value, slope = kernel_digits(u, v)
    found = absolute_kernel(size * u[None], v[None])[0, 0]
    np.testing.assert_allclose(found, size * value, rtol=8 * EPS)
    pull = jax.grad(lambda w: absolute_kernel(w[None], v[None])[0, 0])(size * u)
    np.testing.assert_allclose(pull, slope, atol=8 * EPS * np.linalg.norm(v))


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3])
def test_second_derivatives_reach_parallel_vectors(gap, rng):
    """They tend to the mixed one 1 and the pure one 0, at the rate of the angle."""
    u, e = rng.normal(size=3), rng.normal(size=3)
    for sign in (1.0, -1.0):
        v = sign * (u + gap * e)
        fn = lambda p, q: absolute_kernel(p[None], q[None])[0, 0]
        mixed = jax.jacfwd(jax.jacrev(fn, 0), 1)(u, v)
        pure = jax.jacfwd(jax.jacrev(fn, 0), 0)(u, v)
        bound = 4 * gap + 16 * EPS
        np.testing.assert_allclose(mixed, sign * np.eye(3), atol=bound)
        np.testing.assert_allclose(pure, np.zeros((3, 3)), atol=bound)


SEEDS = st.integers(0, 2**32 - 1)
#: (d, m, n); few, because each is compiled anew.
SHAPES = st.sampled_from([(1, 1, 1), (4, 5, 2), (2, 1, 3)])


@given(SEEDS, SHAPES)
@settings(max_examples=12, deadline=None)
def test_symmetries(seed, shape):
    """Rotation, permutation, homogeneity, and kernels that are positive semidefinite."""
    (d, m, n), rng = shape, np.random.default_rng(seed)
    W, a, V, b = draw(rng, d, m, n)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    order = rng.permutation(m)
    size = np.exp(rng.normal(size=m))
    scale = np.sum(np.abs(a) * np.linalg.norm(W, axis=1))
    scale = (scale + np.sum(np.abs(b) * np.linalg.norm(V, axis=1))) ** 2
    for phi, chi in [PAIRS["leaky-relu"], PAIRS["erf-erf"], PAIRS["erf-relu"]]:
        risk, params = make(phi, chi, W, a, V, b)
        value = float(risk(params))
        turned, same = make(phi, chi, W @ turn, a, V @ turn, b)
        assert abs(float(turned(same)) - value) < 64 * EPS * scale
        same = risk.net.as_params({"inner": W[order], "outer": a[order]})
        assert abs(float(risk(same)) - value) < 64 * EPS * scale
        if phi.homogeneous:
            same = risk.net.as_params({"inner": W * size[:, None], "outer": a / size})
            assert abs(float(risk(same)) - value) < 64 * EPS * scale
        Y = np.concatenate([W, V, -W])
        gram = np.asarray(gf.gaussian_kernel(phi, phi, Y, Y))
        values = np.linalg.eigvalsh(gram)
        assert values[0] > -64 * EPS * values[-1]
        cross = np.asarray(gf.gaussian_kernel(phi, chi, W, V))
        np.testing.assert_array_equal(cross, np.asarray(gf.gaussian_kernel(chi, phi, V, W)).T)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e4, 1e30])
def test_erf_kernel_saturates_without_cancellation(size, rng):
    u, v = size * rng.normal(size=(2, 3))
    for one in (v, u, -u, 3 * u):
        with mp.workdps(80):
            p, q = ([mp.mpf(float(t)) for t in z] for z in (u, one))
            dot = sum(s * t for s, t in zip(p, q, strict=True))
            norms = (1 + sum(s * s for s in p)) * (1 + sum(t * t for t in q))
            exact = float(2 / mp.pi * mp.asin(dot / mp.sqrt(norms)))
        found = float(gf.gaussian_kernel(gf.probit_erf, gf.probit_erf, u[None], one[None])[0, 0])
        assert abs(found - exact) <= 8 * EPS * abs(exact)


def test_a_new_pair_is_one_registered_function(rng):
    class Cubic(type(gf.tanh)):
        def __call__(self, z):
            return z**3

    try:

        @register_gaussian_kernel(Cubic, Cubic)
        def _(phi, chi, U, V):
            dot = U @ V.T
            squares = jnp.sum(U * U, axis=1)[:, None] * jnp.sum(V * V, axis=1)[None, :]
            return 6.0 * dot**3 + 9.0 * squares * dot

        W, a, V, b = draw(rng, 2, 3, 2)
        risk, params = make(Cubic(), Cubic(), W, a, V, b)
        x, weight = planar_rule([*W, *V])
        residual = (x @ W.T) ** 3 @ a - (x @ V.T) ** 3 @ b
        np.testing.assert_allclose(risk(params), 0.5 * weight @ residual**2, rtol=1e-10)
        with pytest.raises(ValueError, match="closed form already"):
            register_gaussian_kernel(Cubic, Cubic)
    finally:
        gaussian_kernels._KERNELS.pop((Cubic, Cubic), None)


# Small values.


def exact_value(phi, W, a, V, b):
    """L to 60 digits, from exact inputs."""
    with mp.workdps(60):
        Y = [[mp.mpf(float(t)) for t in row] for row in np.concatenate([W, V])]
        c = [mp.mpf(float(t)) for t in np.concatenate([a, -b])]
        squares = [sum(t * t for t in y) for y in Y]

        def moment(i, j):
            dot = sum(s * t for s, t in zip(Y[i], Y[j], strict=True))
            if phi is gf.probit_erf:
                norms = (1 + squares[i]) * (1 + squares[j])
                return 2 / mp.pi * mp.asin(dot / mp.sqrt(norms))
            alpha, area = mp.mpf(phi.slope), squares[i] * squares[j]
            wedge = mp.sqrt(abs(area - dot**2))
            even = 2 / mp.pi * (wedge + dot * mp.atan2(dot, wedge))
            return ((1 + alpha) ** 2 * dot + (1 - alpha) ** 2 * even) / 4

        k = range(len(c))
        return sum(c[i] * c[j] * moment(i, j) for i in k for j in k) / 2


@pytest.mark.parametrize(
    "phi", [gf.relu, gf.leaky_relu(0.3), gf.linear, gf.probit_erf], ids=lambda p: p.name
)
def test_small_values_keep_their_digits(phi, rng):
    """The error of L is a small multiple of εS√L, not of εS², and its floor is (εS)²."""
    V, b = rng.normal(size=(3, 5)), rng.normal(size=3)
    j, share = np.array([0, 0, 1, 1, 2, 2, 0]), np.array([0.2, 0.5, 0.6, 0.4, 1.3, -0.3, 0.3])
    grown = np.ones(7) if phi is gf.probit_erf else np.array([0.4, 0.3, 0.5, 0.5, 1.7, 1.0, 0.3])
    side = (
        -1.0 if phi in (gf.probit_erf, gf.linear) else 1.0
    )  # f(−z) = −f(z): on a teacher's other side
    grown = grown * np.array([1, 1, side, 1, 1, 1, 1])
    E, e = rng.normal(size=(7, 5)), rng.normal(size=7)
    reach = 1.0
    for gap in (1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14, 0.0):
        W, a = V[j] * grown[:, None] + gap * E, b[j] * share / grown + gap * e
        risk, params = make(phi, phi, W, a, V, b)
        exact, found = exact_value(phi, W, a, V, b), float(risk(params))
        reach = np.sum(np.abs(a) * np.linalg.norm(W, axis=1))
        reach = reach + np.sum(np.abs(b) * np.linalg.norm(V, axis=1))
        assert abs(found - exact) <= 2 * EPS * reach * float(mp.sqrt(exact)) + (EPS * reach) ** 2
        if gap >= 1e-12:
            assert abs(found / float(exact) - 1) < 1e-2


@given(SEEDS, SHAPES)
@settings(max_examples=12, deadline=None)
def test_values_equal_the_quadratic_form_everywhere(seed, shape):
    """Also for neurons that lie on no teacher's neuron, on the other side, across, or at zero."""
    (d, m, n), rng = shape, np.random.default_rng(seed)
    W, a, V, b = draw(rng, d, m, n)
    W[rng.random(m) < 0.2] = 0.0
    W, V = (np.where(rng.random(x.shape) < 0.2, 0.0, x) for x in (W, V))
    V[:, 0] += np.all(V == 0, axis=1)
    for phi, chi in [PAIRS["relu-relu"], PAIRS["leaky-relu"], PAIRS["relu-linear"]]:
        found = float(homogeneous_value(phi, chi, *map(jnp.asarray, (W, a, V, b))))
        expected, rounding = form(phi, chi, W, a, V, b)
        assert abs(found - expected) <= rounding
    erf = gf.probit_erf
    found = float(erf_value(erf, erf, *map(jnp.asarray, (W, a, V, b))))
    expected, rounding = form(gf.probit_erf, gf.probit_erf, W, a, V, b)
    assert abs(found - expected) <= rounding


def form(phi, chi, W, a, V, b):
    """The quadratic form, and what rounding it costs."""
    K = [np.asarray(gf.gaussian_kernel(*p)) for p in ((phi, phi, W, W), (phi, chi, W, V))]
    T = np.asarray(gf.gaussian_kernel(chi, chi, V, V))
    size = 0.5 * np.abs(a) @ np.abs(K[0]) @ np.abs(a) + 0.5 * np.abs(b) @ np.abs(T) @ np.abs(b)
    return 0.5 * a @ K[0] @ a - a @ K[1] @ b + 0.5 * b @ T @ b, 64 * EPS * size


# Neurons at zero.


def test_a_neuron_at_zero_has_the_mean_of_the_one_sided_derivatives(rng):
    W, a, V, b = draw(rng, 3, 3, 2)
    W[1] = 0.0
    risk, params = make(gf.relu, gf.leaky_relu(0.3), W, a, V, b)
    gradient = np.asarray(risk.gradient(params).inner)
    step = 1e-7
    sides = []
    for e in np.eye(3):
        values = []
        for sign in (1, -1):
            moved = W.copy()
            moved[1] = sign * step * e
            values.append(float(risk(risk.net.as_params({"inner": moved, "outer": a}))))
        here = float(risk(params))
        sides.append([(values[0] - here) / step, (here - values[1]) / step])
    sides = np.array(sides)
    np.testing.assert_allclose(gradient[1], sides.mean(axis=1), atol=1e-6)
    assert np.max(np.abs(sides[:, 0] - sides[:, 1])) > 1e-3  # there is a cone
    assert np.all(np.isfinite(gradient))
    # Its second derivative does not exist and does not pretend to; the others' do.
    hessian = jax.jacfwd(lambda w: risk.gradient({"inner": w, "outer": a}).inner)(W)
    assert not np.any(np.isfinite(hessian[1, :, 1]))
    others, moved = np.asarray(hessian)[[0, 2]], W.copy()
    assert np.all(np.isfinite(others))
    moved[1] = 1e-9
    near = jax.jacfwd(lambda w: risk.gradient({"inner": w, "outer": a}).inner)(moved)
    np.testing.assert_allclose(
        others[:, :, [0, 2]], np.asarray(near)[[0, 2]][:, :, [0, 2]], atol=1e-8
    )


def test_a_flow_that_ends_in_a_cone_says_so():
    """d = 1, relu(wx) against −|x|: |w(t)| = (|w₀|+1)e^(−t/2) − 1 until 0, a minimum, is met."""
    one, V = np.ones(1), np.array([[1.0], [-1.0]])
    risk, params = make(gf.relu, gf.relu, 2 * one[None], one, V, -np.ones(2), outer="fixed")
    with pytest.warns(gf.IntegrationWarning, match="max_steps"):
        path = gf.integrate(
            risk, params, until=gf.until.time(10.0), max_steps=500, clock="physical"
        )
    assert path.result.name == "max_steps"
    assert path.observe("neuron_norms")[-1, 0] < 1e-6
    np.testing.assert_allclose(path.t_final, 2 * np.log(3), rtol=1e-6)
    for w in (1e-3, -1e-3):
        assert float(risk({"inner": np.array([[w]]), "outer": one})) > 0.5


def test_linear_nets_are_smooth_at_zero(rng):
    risk, params = make(gf.linear, gf.linear, np.zeros((2, 3)), np.ones(2), np.eye(3), np.ones(3))
    np.testing.assert_allclose(risk.gradient(params).inner, -np.ones((2, 3)), rtol=1e-15)
    hessian = jax.jacfwd(lambda w: risk.gradient({"inner": w, "outer": np.ones(2)}).inner)(
        np.zeros((2, 3))
    )
    assert np.all(np.isfinite(hessian))


# In the house: flows, descent, observables, files, other nets.


def test_flow_recovers_the_teacher(rng):
    V = np.eye(4)[:2]
    W = V + 0.3 * rng.normal(size=V.shape)
    risk, params = make(gf.relu, gf.relu, W, np.ones(2), V, np.ones(2), outer="fixed")
    path = gf.integrate(risk, params, until=gf.until.time(400.0), rtol=1e-10)
    assert path.result.ok
    np.testing.assert_allclose(path.final.inner, V, atol=1e-9)
    assert path.defects["energy"] < 1e-10
    # Late, the loss falls at a rate; its digits last far below 1e-16.
    late = (path.observe("loss") < 1e-8) & (path.t < 300)
    rates = np.diff(path.observe("log_loss")[late]) / np.diff(path.t[late])
    assert np.all(rates < 0)
    again = gf.integrate(
        risk, params, until=gf.until.time(50.0), clock="physical", integrator="dop853", rtol=1e-10
    )
    at = gf.integrate(risk, params, until=gf.until.time(50.0), save_at=[50.0], rtol=1e-10)
    np.testing.assert_allclose(at.params.inner[-1], again.final.inner, atol=1e-8)


def test_trained_outer_weights_conserve_the_balance(rng):
    W, a, V, b = draw(rng, 3, 5, 2)
    risk, params = make(gf.leaky_relu(0.1), gf.relu, W, a, V, b)
    path = gf.integrate(risk, params, until=gf.until.time(5.0), rtol=1e-9)
    assert path.result.ok
    assert path.defects["balance"] < 1e-8
    assert path.defects["energy"] < 1e-8
    norms = path.observe("neuron_norms")
    np.testing.assert_allclose(norms[0], np.linalg.norm(W, axis=1))
    total = np.sum(np.abs(a) * norms[0])
    np.testing.assert_allclose(path.observe("variation_norm")[0], total)
    with pytest.raises(ValueError, match="teacher direction"):
        path.observe("angle")


def test_descent_follows_the_flow_and_batches_are_unbiased(rng, key):
    risk, params = make(gf.probit_erf, gf.probit_erf, *draw(rng, 3, 2, 2))
    flow = gf.integrate(risk, params, until=gf.until.time(1.0), rtol=1e-10)
    coarse, fine = (
        gf.descend(risk, params, step_size=1.0 / n, steps=n, save_every=n) for n in (50, 100)
    )
    gaps = [np.max(np.abs(p.final.inner - flow.final.inner)) for p in (coarse, fine)]
    assert 1.8 < gaps[0] / gaps[1] < 2.2
    noisy = gf.descend(risk, params, step_size=0.01, steps=100, batch=500, key=key, save_every=100)
    assert 0 < np.max(np.abs(noisy.final.inner - flow.final.inner)) < 0.2


@pytest.mark.parametrize("net", [gf.LinearPredictor(3), gf.DeepLinear(3, 2)], ids=str)
def test_linear_nets_and_a_closed_flow(net, rng, tmp_path):
    """L = ½|w − v|² for the end-to-end vector w; of a linear predictor w(t) − v decays as e^-t."""
    v, w = rng.normal(size=(2, 3))
    teacher = gf.NetworkTeacher(gf.LinearPredictor(3), v)
    risk = gf.PopulationRisk(net, gf.squared, gf.Gaussian(3), teacher=teacher)
    params = net.params(w) if isinstance(net, gf.LinearPredictor) else net.balanced(w)
    np.testing.assert_allclose(risk(params), 0.5 * np.sum((w - v) ** 2), rtol=1e-14)
    path = gf.integrate(risk, params, until=gf.until.time(2.0), rtol=1e-11)
    if isinstance(net, gf.LinearPredictor):
        np.testing.assert_allclose(path.final.weight, v + np.exp(-2) * (w - v), rtol=1e-10)
    path.save(tmp_path / "path.nc")
    assert gf.load(tmp_path / "path.nc").risk.describe() == risk.describe()
    with pytest.raises(ValueError, match="log-angle"):
        gf.integrate(risk, params, until=gf.until.time(1.0), chart="log-angle")


def test_trajectory_survives_a_file(rng, tmp_path):
    risk, params = make(gf.leaky_relu(0.1), gf.relu, *draw(rng, 3, 2, 2))
    path = gf.integrate(risk, params, until=gf.until.time(1.0))
    path.save(tmp_path / "path.nc")
    again = gf.load(tmp_path / "path.nc")
    assert again.risk.describe() == risk.describe()
    assert float(again.risk(params)) == float(risk(params))
    np.testing.assert_array_equal(again.observe("loss"), path.observe("loss"))
    assert "NetworkTeacher" in repr(risk)


def test_loss_clock_and_log_of_zero():
    V = np.eye(3)[:2]
    risk, params = make(gf.relu, gf.relu, V + 0.1, np.ones(2), V, np.ones(2))
    path = gf.integrate(risk, params, until=gf.until.loss(1e-3), clock="loss", rtol=1e-8)
    assert path.result.ok
    assert path.defects["energy"] < 1e-8
    there = risk.net.params(V, np.ones(2))
    assert float(risk(there)) == 0.0
    assert float(risk.log(there)) == -np.inf
    assert not np.any(np.asarray(risk.gradient(there).inner))


# Bad input.

TEACHER = gf.NetworkTeacher(gf.TwoLayer(3, 1, gf.relu), {"inner": np.ones((1, 3)), "outer": [1.0]})
NET = gf.TwoLayer(3, 2, gf.relu)
BIASED = gf.TwoLayer(3, 1, gf.relu, bias=True)


def population(net: Any = NET, loss: Any = gf.squared, law: Any = None, teacher: Any = TEACHER):
    return gf.PopulationRisk(net, loss, gf.Gaussian(3) if law is None else law, teacher=teacher)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: population(net=gf.TwoLayer(3, 2, gf.tanh)), "tanh with tanh.*LeakyReLU"),
        (lambda: population(net=BIASED), "^net=.*biases.*bias=False"),
        (
            lambda: population(
                teacher=gf.NetworkTeacher(BIASED, BIASED.init(jax.random.key(0), 1.0))
            ),
            "^teacher.net=.*biases",
        ),
        (lambda: population(loss=gf.logistic), "^loss=.*gf.squared"),
        (lambda: population(law=gf.UniformSphere(3)), "^law=.*gf.Gaussian"),
        (lambda: population(law=gf.Gaussian(4)), "^dim=.*differ"),
        (lambda: population(net=gf.TwoLayer(2, 2, gf.relu)), "^dim=.*differ"),
        (lambda: population(teacher=NET), "(?s)^teacher=.*NetworkTeacher"),
        (lambda: population(teacher=gf.LinearTeacher(np.eye(3)[2])), "^loss=.*NetworkTeacher"),
        (lambda: gf.NetworkTeacher(gf.relu, [1.0]), "^net="),  # pyright: ignore
        (lambda: gf.NetworkTeacher(NET, {"inner": np.ones((2, 3))}), "^params="),
        (lambda: gf.NetworkTeacher(NET, {"inner": np.zeros((2, 3)), "outer": np.ones(2)}), "inner"),
        (lambda: gf.gaussian_kernel(gf.relu, Softplus(), np.eye(2), np.eye(2)), "softplus"),
        (lambda: gf.gaussian_kernel(gf.relu, gf.relu, np.eye(2), np.eye(3)), "rows of one length"),
        (lambda: gf.gaussian_kernel(gf.relu, gf.relu, np.eye(2), np.ones(2)), "^V="),
        (lambda: gf.gaussian_kernel(gf.relu, gf.relu, np.eye(2, dtype="f4"), np.eye(2)), "^U="),
        (lambda: register_gaussian_kernel(float, Softplus), "^first="),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("other", [gf.erf, gf.relu, gf.probit_erf], ids=lambda phi: phi.name)
def test_erf_is_probit_erf_of_stretched_weights(other: Any) -> None:
    rng = np.random.default_rng(8)
    W, a, V, b = draw(rng, 3, 4, 2)
    root = np.sqrt(2.0)
    stretched = root * V if other is gf.erf else V
    risk, params = make(gf.erf, other, W, a, V, b)
    twin = gf.probit_erf if other is gf.erf else other
    like, moved = make(gf.probit_erf, twin, root * W, a, stretched, b)
    assert float(risk(params)) == pytest.approx(float(like(moved)), rel=1e-13)
    found, expected = risk.gradient(params), like.gradient(moved)
    np.testing.assert_allclose(found.inner, root * expected.inner, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(found.outer, expected.outer, rtol=1e-11, atol=1e-14)
