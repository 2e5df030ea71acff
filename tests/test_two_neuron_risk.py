"""The two-neuron population risk: closed forms against the definition, by quadrature and by
sampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.special import erf

import gradflow as gf
from gradflow.risks.population.two_neuron import PlanarState, TwoNeuronReduction, planar_frame


def relu(z, slope):
    return np.maximum(z, slope * z)


def panels(breaks, count=160):
    """Gauss-Legendre nodes on each interval of the circle between break angles."""
    x, w = np.polynomial.legendre.leggauss(count)
    breaks = np.unique(np.mod(np.asarray(breaks), 2 * np.pi))
    breaks = np.append(breaks, breaks[0] + 2 * np.pi)
    half, mid = np.diff(breaks)[:, None] / 2, (breaks[1:] + breaks[:-1])[:, None] / 2
    return (mid + half * x).ravel(), (half * w).ravel()


def kink_angles(vectors):
    angles = [np.arctan2(u[1], u[0]) for u in vectors if np.hypot(*u) > 0]
    return [a + s * np.pi / 2 for a in angles for s in (1, -1)]


def definition(law, w, a, v, slope):
    """L and its gradient from E ln(1 + exp(-y f)) in the plane: radial rule times angular
    panels."""
    rho, weight = law.planar_rule()
    forms = [p * a[0] * w[0] + q * a[1] * w[1] for p in (1, slope) for q in (1, slope)]
    beta, dbeta = panels(kink_angles([w[0], w[1], v, *forms]))
    x = np.stack([np.cos(beta), np.sin(beta)], axis=1)
    y = np.sign(x @ v)[:, None]
    f = (relu(x @ w.T, slope) @ a)[:, None] * rho
    mass = dbeta[:, None] * weight / (2 * np.pi)
    value = np.sum(mass * np.logaddexp(0, -y * f))
    pull = np.sum(mass * rho * -y / (1 + np.exp(np.clip(y * f, -700, 700))), axis=1)
    slopes = np.where(x @ w.T > 0, 1.0, slope)
    inner = np.einsum("b,i,bi,bd->id", pull, a, slopes, x)
    outer = pull @ relu(x @ w.T, slope)
    return value, inner, outer


def make(law, slope, outer="trained"):
    v = np.zeros(law.dim)
    v[-1] = 1.0
    net = gf.TwoLayer(dim=law.dim, width=2, activation=gf.leaky_relu(slope), outer=outer)
    return gf.PopulationRisk(net, gf.logistic, law, teacher=gf.LinearTeacher(v))


LAWS = {
    "gaussian": gf.Gaussian(2),
    "circle": gf.UniformSphere(2),
    "ball": gf.UniformBall(2),
    "student3": gf.StudentT(2, 3.0),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("signs", [(1, -1), (-1, 1), (1, 1), (-1, -1)], ids=str)
def test_closed_form_equals_definition(law, slope, signs, rng):
    risk = make(law, slope)
    for scale in (1e-3, 1.0, 12.0):
        w = rng.normal(size=(2, 2)) * scale
        a = np.abs(rng.normal(size=2)) * signs
        value, inner, outer = definition(law, w, a, np.asarray(risk.teacher.direction), slope)
        params = risk.net.params(inner=w, outer=a)
        gradient = risk.gradient(params)
        np.testing.assert_allclose(risk(params), value, rtol=1e-11)
        np.testing.assert_allclose(gradient.inner, inner, atol=1e-11 * (1 + np.abs(inner).max()))
        np.testing.assert_allclose(gradient.outer, outer, atol=1e-11 * (1 + np.abs(outer).max()))


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_value_to_thirty_digits_on_the_circle(slope):
    """mpmath, exact breakpoints."""
    w = np.array([[0.6, -0.8], [-1.5, 0.25]])
    a = np.array([1.0, -1.0])
    risk = make(LAWS["circle"], slope)
    forms = [p * a[0] * w[0] + q * a[1] * w[1] for p in (1, slope) for q in (1, slope)]
    breaks = np.unique(np.mod(kink_angles([w[0], w[1], [0.0, 1.0], *forms]), 2 * np.pi))
    with mpmath.workdps(30):
        relu_mp = lambda z: z if z > 0 else mpmath.mpf(slope) * z
        inner = [[mpmath.mpf(float(c)) for c in row] for row in w]

        def integrand(b):
            x = (mpmath.cos(b), mpmath.sin(b))
            f = sum(
                mpmath.mpf(float(ak)) * relu_mp(wk[0] * x[0] + wk[1] * x[1])
                for ak, wk in zip(a, inner, strict=True)
            )
            return mpmath.log1p(mpmath.exp(-f if x[1] > 0 else f))

        edges = [mpmath.mpf(float(b)) for b in [*breaks, breaks[0] + 2 * np.pi]]
        expected = mpmath.quad(integrand, edges) / (2 * mpmath.pi)
    assert abs(float(risk(risk.net.params(inner=w, outer=a))) / float(expected) - 1) < 1e-13


@pytest.mark.parametrize("slope", [0.0, 0.4])
def test_non_coplanar_teacher_against_the_gaussian_conditional_mean(slope, rng):
    r"""d=3 Gaussian: E[y|xi] = erf(v_par.xi / (sqrt 2 v_perp)) on the plane of the neurons."""
    w = rng.normal(size=(2, 3))
    a = np.array([1.0, -1.0])
    q, _ = np.linalg.qr(w.T)
    v = np.array([0.3, -0.4, np.sqrt(0.75)])
    planar, across = q.T @ v, np.linalg.norm(v - q @ (q.T @ v))
    flat = w @ q
    law = gf.Gaussian(2)
    rho, weight = law.planar_rule()
    forms = [s * a[0] * flat[0] + t * a[1] * flat[1] for s in (1, slope) for t in (1, slope)]
    beta, dbeta = panels(kink_angles([*flat, planar, *forms]))
    xi = np.stack([np.cos(beta), np.sin(beta)], axis=1)[:, None, :] * rho[:, None]
    f = relu(xi @ flat.T, slope) @ a
    mean_label = erf(xi @ planar / (np.sqrt(2) * across))
    loss = np.logaddexp(f / 2, -f / 2) - 0.5 * mean_label * f
    expected = np.sum(dbeta[:, None] / (2 * np.pi) * weight * loss)
    net = gf.TwoLayer(dim=3, width=2, activation=gf.leaky_relu(slope), outer="fixed")
    risk = gf.PopulationRisk(net, gf.logistic, gf.Gaussian(3), teacher=gf.LinearTeacher(v))
    np.testing.assert_allclose(risk(net.params(inner=w, outer=a)), expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("law", "slope"),
    [
        (gf.Gaussian(5), 0.0),
        (gf.UniformSphere(3), 0.3),
        (gf.UniformBall(4), 0.7),
        (gf.StudentT(7, 4.0), 0.0),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_gradient_against_monte_carlo(law, slope, key, rng):
    risk = make(law, slope)
    params = risk.net.params(inner=rng.normal(size=(2, law.dim)), outer=np.array([0.8, -1.3]))
    x, y = risk.sample(key, 200_000)
    each = jax.vmap(
        jax.value_and_grad(lambda p, xi, yi: risk.loss(risk.net(p, xi), yi)), (None, 0, 0)
    )
    values, grads = each(params, x, y)
    pairs = [(values, risk(params))]
    exact = risk.gradient(params)
    pairs += [(grads.inner, exact.inner), (grads.outer, exact.outer)]
    for samples, mean in pairs:
        samples = np.asarray(samples)
        error = samples.std(axis=0) / np.sqrt(len(samples))
        assert np.all(np.abs(samples.mean(axis=0) - np.asarray(mean)) < 4 * error)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dim", [2, 3, 9])
def test_gradient_equals_autodiff_of_the_value(slope, dim, rng):
    risk = make(gf.Gaussian(dim), slope)
    params = risk.net.params(inner=3 * rng.normal(size=(2, dim)), outer=np.array([1.2, -0.4]))
    automatic = jax.grad(lambda p: risk(p))(params)
    closed = risk.gradient(params)
    np.testing.assert_allclose(closed.inner, automatic.inner, atol=1e-12)
    np.testing.assert_allclose(closed.outer, automatic.outer, atol=1e-12)


def test_parallel_and_aligned_neurons_have_finite_gradients():
    risk = make(gf.Gaussian(3), 0.0)
    e = np.eye(3)
    for inner in ([e[2], -e[2]], [e[2], e[2]], [e[0], -e[0]], [e[2], e[0]], [1e-200 * e[0], -e[2]]):
        gradient = risk.gradient(
            risk.net.params(inner=np.array(inner), outer=np.array([1.0, -1.0]))
        )
        assert np.all(np.isfinite(np.asarray(gradient.inner)))
        assert np.all(np.isfinite(np.asarray(gradient.outer)))


def test_frozen_outer_weights_have_no_gradient(rng):
    risk = make(gf.Gaussian(3), 0.3, outer="fixed")
    params = risk.net.params(inner=rng.normal(size=(2, 3)), outer=np.array([1.0, -1.0]))
    assert np.all(np.asarray(risk.gradient(params).outer) == 0)


@pytest.mark.parametrize("lam", [0.0, 30.0, 300.0, 1e4])
def test_forces_keep_relative_accuracy_at_any_angle(lam):
    """Perpendicular force / perpendicular part has a finite limit, computed without
    cancellation."""
    law = gf.Gaussian(2)
    reduction = TwoNeuronReduction(law.radial, 0.0, (1, -1))
    z = jnp.array([3.0, 5.0])
    q = jnp.array([[0.6, 0.0], [-0.8, 0.0]]) * 1e-3
    force_z, force_q = reduction.force(PlanarState(z, q, jnp.asarray(lam), jnp.ones(2)))
    radial = law.radial
    if lam >= 30:  # each neuron is half a linear predictor
        np.testing.assert_allclose(force_z, 0.5 * radial.h(z), rtol=1e-14)
        rate = -0.5 * radial.h_complement(z) / z
        np.testing.assert_allclose(force_q, rate[:, None] * q, rtol=1e-14)
    else:
        assert np.all(np.isfinite(np.asarray(force_q)))


def test_frame_spans_the_neurons_and_ignores_rounding(rng):
    v = rng.normal(size=6)
    v /= np.linalg.norm(v)
    omega = rng.normal(size=(2, 6))
    frame = np.asarray(planar_frame(jnp.asarray(omega), jnp.asarray(v)))
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(omega @ frame.T @ frame, omega, atol=1e-14)
    on_axis = np.stack([2.5 * v, -0.3 * v])
    assert np.all(np.asarray(planar_frame(jnp.asarray(on_axis), jnp.asarray(v)))[1:] == 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"net": gf.TwoLayer(dim=2, width=3, activation=gf.relu)}, "width=2"),
        ({"net": gf.TwoLayer(dim=2, width=2, activation=gf.tanh)}, "no exact reduction"),
        ({"net": gf.TwoLayer(dim=2, width=2, activation=gf.relu, bias=True)}, "without bias"),
        ({"law": gf.Gaussian(3)}, "differ in dimension"),
        ({"loss": gf.squared}, "margin loss"),
        ({"teacher": "v"}, "gf.LinearTeacher"),
        ({"law": "gaussian"}, "gf.Gaussian"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_input_is_named(change, words):
    arguments = {
        "net": gf.TwoLayer(dim=2, width=2, activation=gf.relu),
        "loss": gf.logistic,
        "law": gf.Gaussian(2),
        "teacher": gf.LinearTeacher(np.array([0.0, 1.0])),
    }
    with pytest.raises(ValueError, match=words):
        gf.PopulationRisk(**(arguments | change))


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.7])
def test_value_of_exactly_opposite_neurons_is_the_limit(slope):
    inner = np.array([[0.6, 0.1, -0.8], [-0.6, -0.1, 0.8]])
    net = gf.TwoLayer(dim=3, width=2, activation=gf.leaky_relu(slope), outer="fixed")
    risk = gf.PopulationRisk(net, gf.logistic, gf.Gaussian(3), gf.LinearTeacher([0.0, 0.0, 1.0]))
    at, near = (
        float(risk(net.params(inner + shift, [1.0, 1.0])))
        for shift in (np.zeros((2, 3)), np.array([[0.0] * 3, [1e-9, 0.0, 0.0]]))
    )
    assert at == pytest.approx(near, abs=5e-9)


@pytest.mark.parametrize("nu", [1.2, 1.6, 2.5])
def test_heavy_tails_value_and_gradient_agree(nu, rng):
    """Fractional powers at 0 need their own quadrature: value and force are separate integrals."""
    law = gf.StudentT(2, nu)
    for scale in (0.1, 3.0, 50.0):
        risk = make(law, 0.3)
        params = risk.net.params(inner=scale * rng.normal(size=(2, 2)), outer=np.array([1.0, -0.8]))
        automatic, closed = jax.grad(lambda p: risk(p))(params), risk.gradient(params)  # noqa: B023
        np.testing.assert_allclose(closed.inner, automatic.inner, atol=2e-12)
        np.testing.assert_allclose(closed.outer, automatic.outer, atol=2e-12 * scale)


@pytest.mark.parametrize("slope", [-1.0, 1.5])
@pytest.mark.parametrize("loss", [gf.logistic, gf.exponential], ids=lambda loss: loss.name)
def test_slopes_outside_0_1_are_refused(slope: float, loss: object) -> None:
    net = gf.TwoLayer(3, 2, gf.leaky_relu(slope))
    with pytest.raises(ValueError, match=r"net\.activation=.*outside \[0, 1\]"):
        gf.PopulationRisk(net, loss, gf.Gaussian(3), gf.LinearTeacher(np.eye(3)[0]))
