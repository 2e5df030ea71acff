"""Kernels of random features: closed forms, quadratures, samples, spectra, ranks, the criterion."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special

import gradflow as gf
from gradflow.networks.activations import AbstractActivation

kernels = gf.kernels
KNOWN = [
    gf.relu, gf.leaky_relu(0.3), gf.linear, gf.shifted_relu(0.3), gf.shifted_relu(-0.8),
    gf.probit_erf, gf.erf, gf.fourier,
]  # fmt: skip
OTHERS = [gf.tanh, gf.softplus, gf.gelu, gf.elu]
ALL = KNOWN + OTHERS
named = pytest.mark.parametrize("activation", ALL, ids=lambda a: a.name)
known = pytest.mark.parametrize("activation", KNOWN, ids=lambda a: a.name)

EXACT = {
    "relu": lambda z: max(z, mpmath.mpf(0)),
    "leaky_relu(0.3)": lambda z: max(z, mpmath.mpf(0.3) * z),
    "linear": lambda z: z,
    "shifted_relu(0.3)": lambda z: max(z - mpmath.mpf(0.3), mpmath.mpf(0)),
    "shifted_relu(-0.8)": lambda z: max(z + mpmath.mpf(0.8), mpmath.mpf(0)),
    "erf": mpmath.erf,
    "probit_erf": lambda z: mpmath.erf(z / mpmath.sqrt(2)),
    "fourier": lambda z: mpmath.cos(z) + mpmath.sin(z),
    "tanh": mpmath.tanh,
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "gelu": lambda z: z * mpmath.ncdf(z),
    "elu": lambda z: z if z > 0 else mpmath.expm1(z),
}


class Cube(AbstractActivation):
    """z³: an activation of the user's own, that says nothing on its parts."""

    kind: ClassVar[str] = "cube"

    def __call__(self, z):
        return z * z * z

    def derivative(self, z):
        return 3.0 * z * z

    @property
    def name(self):
        return "cube"

    @property
    def kinked(self):
        return False

    @property
    def homogeneous(self):
        return False

    def describe(self):
        return {"kind": self.kind}


def points(n, d, seed=0):
    """Points of several lengths, among them antipodal, equal, nearly so, and orthogonal ones."""
    X = np.random.default_rng(seed).normal(size=(n, d))
    X[1] = -X[0]
    X[2] = (1 + 1e-9) * X[0]
    X[3] = -X[0] + 1e-7 * X[3]
    return X


# --- Gram matrices -----------------------------------------------------------------------------


@known
def test_closed_forms_agree_with_the_quadrature(activation):
    X, Z = points(6, 3), points(5, 3, 1)
    closed = kernels.gram(activation, X, Z, method="closed")
    fine = kernels.gram(activation, X, Z, method="quadrature", nodes=96)
    np.testing.assert_allclose(closed, fine, rtol=0, atol=3e-13)
    np.testing.assert_allclose(
        closed, kernels.gram(activation, X, Z, method="quadrature"), rtol=0, atol=1e-10
    )


@named
def test_samples_agree(activation):
    X = points(6, 4)
    W = np.random.default_rng(7).normal(size=(200_000, 4))
    F = np.asarray(activation(jnp.asarray(W @ X.T)))
    K = kernels.gram(activation, X)
    second = np.maximum((F * F).T @ (F * F) / len(W) - K**2, 0.0)
    np.testing.assert_array_less(
        np.abs(F.T @ F / len(W) - K), 4.5 * np.sqrt(second / len(W)) + 1e-12
    )


def exact_mean_product(name, a, c, theta):
    """E φ(u)φ(v) by mpmath at 30 digits, in polar coordinates."""
    phi = EXACT[name]
    shift = {"shifted_relu(0.3)": 0.3, "shifted_relu(-0.8)": -0.8}.get(name, 0.0)
    with mpmath.workdps(30):
        a, c, theta, b = (mpmath.mpf(v) for v in (a, c, theta, shift))

        def along(psi):
            su, sv = a * mpmath.cos(psi), c * mpmath.cos(psi - theta)
            edges = [b / s for s in (su, sv) if s != 0 and 0 < b / s < 15]
            value = lambda r: r * mpmath.exp(-r * r / 2) * phi(r * su) * phi(r * sv)
            return mpmath.quad(value, sorted([0, 5, 15, *edges]), maxdegree=5)

        half = mpmath.pi / 2
        edges = sorted({mpmath.mpf(0), half, theta + half, 3 * half, (theta - half) % (4 * half)})
        return float(mpmath.quad(along, [*edges, 4 * half], maxdegree=4) / (4 * half))


def test_gram_against_mpmath():
    name = "tanh"
    activation = next(a for a in ALL if a.name == name)
    X = np.array([[0.7, 0.2], [-0.3, 1.1]])
    a, c = np.linalg.norm(X, axis=1)
    theta = math.acos(X[0] @ X[1] / (a * c))
    got = kernels.gram(activation, X)[0, 1]
    assert got == pytest.approx(exact_mean_product(name, a, c, theta), abs=3e-13)


def exact_arc_cosine(x, z, slope, tangent):
    with mpmath.workdps(40):
        x, z, s = [mpmath.mpf(v) for v in x], [mpmath.mpf(v) for v in z], mpmath.mpf(slope)
        dot = sum(p * q for p, q in zip(x, z, strict=True))
        size = mpmath.sqrt(sum(p * p for p in x) * sum(q * q for q in z))
        theta = mpmath.acos(max(min(dot / size, 1), -1))
        bend = mpmath.sin(theta) + (mpmath.pi / 2 - theta) * mpmath.cos(theta)
        value = (1 + s) ** 2 / 4 * dot + (1 - s) ** 2 / 4 * size * 2 / mpmath.pi * bend
        if tangent:
            value += dot * ((1 + s) ** 2 / 4 + (1 - s) ** 2 / 4 * (1 - 2 * theta / mpmath.pi))
        return value


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, -1.0, 2.0])
def test_arc_cosine_and_ntk_have_every_digit(slope):
    X = points(6, 3)
    for tangent, K in (
        (False, kernels.arc_cosine(X, slope=slope)),
        (True, kernels.ntk(X, slope=slope)),
    ):
        exact = [[float(exact_arc_cosine(x, z, slope, tangent)) for z in X] for x in X]
        # relative to the lengths, which is what a rank sees
        sizes = np.linalg.norm(X, axis=1)
        assert np.max(np.abs(K - exact) / np.outer(sizes, sizes)) < 2e-15


def test_arc_cosine_is_the_known_form():
    """Cho and Saul: E relu(u) relu(v) = |x||x'| (sin θ + (π-θ) cos θ) / 2π."""
    X = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert kernels.arc_cosine(X) == pytest.approx(np.array([[0.5, 1 / np.pi], [1 / np.pi, 2.0]]))
    theta = 0.4
    x, z = [[1.0, 0.0]], [[np.cos(theta), np.sin(theta)]]
    expected = (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    assert kernels.arc_cosine(x, z)[0, 0] == pytest.approx(expected, rel=1e-15)


def test_ntk_is_the_mean_of_gradient_products(key):
    """Both layers of a wide net, a and w standard normal, f scaled by 1/√m."""
    m, slope = 40_000, 0.2
    X = points(5, 3)
    net = gf.TwoLayer(3, m, gf.leaky_relu(slope))
    ka, kw = jax.random.split(key)
    params = net.params(jax.random.normal(kw, (m, 3)), jax.random.normal(ka, (m,)))
    gradients = jax.vmap(jax.grad(net), in_axes=(None, 0))(params, jnp.asarray(X))
    flat = np.concatenate([np.reshape(g, (5, -1)) for g in jax.tree.leaves(gradients)], axis=1)
    np.testing.assert_allclose(flat @ flat.T / m, kernels.ntk(X, slope=slope), atol=0.15)


def test_parity_holds_to_the_last_bit():
    half = np.random.default_rng(5).normal(size=(7, 4))
    for kernel in (kernels.arc_cosine, kernels.ntk):
        K, linear = kernel(half, slope=0.4), kernel(half, slope=1.0)
        even = K + kernel(half, -half, slope=0.4)
        assert np.array_equal(even, kernel(-half, slope=0.4) + kernel(-half, half, slope=0.4))
        odd = K - kernel(half, -half, slope=0.4)
        np.testing.assert_allclose(odd, 2 * (1.4 / 2) ** 2 * linear, rtol=0, atol=1e-14)


# --- spectra -----------------------------------------------------------------------------------


def test_polynomials_and_multiplicities():
    t = np.linspace(-1, 1, 11)
    P2, P3 = kernels.gegenbauer_polynomials(t, 2, 7), kernels.gegenbauer_polynomials(t, 3, 7)
    np.testing.assert_allclose(P2[7], np.cos(7 * np.arccos(t)), atol=1e-14)
    np.testing.assert_allclose(P3[6], scipy.special.eval_legendre(6, t), atol=1e-14)
    for d in (4, 5, 9):
        exact = scipy.special.eval_gegenbauer(5, d / 2 - 1, t)
        exact /= scipy.special.eval_gegenbauer(5, d / 2 - 1, 1.0)
        np.testing.assert_allclose(kernels.gegenbauer_polynomials(t, d, 5)[5], exact, atol=1e-14)
    assert [kernels.multiplicity(2, k) for k in range(4)] == [1, 2, 2, 2]
    assert [kernels.multiplicity(3, k) for k in range(4)] == [1, 3, 5, 7]
    assert [kernels.multiplicity(5, k) for k in range(4)] == [1, 5, 14, 30]


@pytest.mark.parametrize("dim", [2, 3, 4, 7, 30])
@pytest.mark.parametrize(
    "activation",
    [gf.relu, gf.leaky_relu(0.2), gf.shifted_relu(0.3), gf.shifted_relu(-0.4), gf.shifted_relu(2.0),
     gf.shifted_relu(-2.0)],
    ids=lambda a: a.name,
)  # fmt: skip
def test_closed_coefficients_agree_with_the_quadrature(activation, dim):
    closed = kernels.gegenbauer_coefficients(activation, dim, 15, radius=1.3)
    rule = kernels.gegenbauer_coefficients(activation, dim, 15, radius=1.3, method="quadrature")
    assert np.all(np.abs(closed.value - rule.value) <= closed.error + rule.error)
    assert np.max(rule.error) < 3e-14


@pytest.mark.parametrize("dim", [2, 3, 6])
@pytest.mark.parametrize("name", ["relu", "shifted_relu(0.3)", "tanh", "softplus", "elu", "gelu"])
def test_coefficients_against_mpmath(name, dim):
    activation = next(a for a in ALL if a.name == name)
    found = kernels.gegenbauer_coefficients(activation, dim, 6)
    with mpmath.workdps(30):
        breaks = [mpmath.acos(mpmath.mpf(b)) for b in activation.breaks]
        density = lambda angle: mpmath.sin(angle) ** (dim - 2)
        mass = mpmath.quad(density, [0, mpmath.pi])
        for k in (0, 1, 2, 5, 6):
            nu = mpmath.mpf(dim) / 2 - 1

            def value(angle, k=k, nu=nu):
                t = mpmath.cos(angle)
                if dim == 2:
                    P = mpmath.cos(k * angle)
                else:
                    P = mpmath.gegenbauer(k, nu, t) / mpmath.gegenbauer(k, nu, 1)
                return EXACT[name](t) * P * density(angle)

            exact = mpmath.quad(value, sorted([0, *breaks, mpmath.pi])) / mass
            assert abs(found.value[k] - float(exact)) <= found.error[k] + 1e-17, (k, exact)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_spectrum_of_the_gaussian_kernel_is_bessel(dim):
    found = kernels.spectrum(gf.fourier, dim, 8)
    k = np.arange(9)
    exact = math.exp(-1) * math.gamma(dim / 2) * 2 ** (dim / 2 - 1)
    exact = exact * scipy.special.iv(k + dim / 2 - 1, 1.0)
    assert np.all(np.abs(found.eigenvalue - exact) <= 2 * found.error)
    np.testing.assert_allclose(found.eigenvalue, exact, rtol=1e-9)


@pytest.mark.parametrize("activation", [*KNOWN, gf.tanh], ids=lambda a: a.name)
def test_spectrum_is_that_of_the_gram_function(activation):
    """λ_k = ∫ K(t) P_k(t) dμ(t), from the Gram matrix of a great circle's points."""
    dim, top = 4, 6
    x, w = np.polynomial.legendre.leggauss(24)
    angle = 0.5 * np.pi * (x + 1)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    K = kernels.gram(activation, np.array([[1.0, 0.0]]), circle)[0]
    density = np.sin(angle) ** (dim - 2)
    P = kernels.gegenbauer_polynomials(np.cos(angle), dim, top)
    projected = P @ (w * density * K) / np.sum(w * density)
    found = kernels.spectrum(activation, dim, top)
    # K(t) of a kinked activation is not analytic at θ = 0 and π
    np.testing.assert_allclose(found.eigenvalue, projected, rtol=0, atol=2e-7)


@named
def test_trace_and_kernel_are_summed_by_the_spectrum(activation):
    found = kernels.spectrum(activation, 3, 60)
    harmonics = kernels.gegenbauer_polynomials(np.array([1.0, 0.3, -1.0]), 3, 60)
    summed = (found.multiplicity * found.eigenvalue) @ harmonics
    X = np.array([[1.0, 0.0], [0.3, math.sqrt(1 - 0.09)], [-1.0, 0.0]])
    exact = kernels.gram(activation, X[:1], X)[0]
    # the tail of a kinked activation falls like k^(-3)
    np.testing.assert_allclose(summed, exact, rtol=0, atol=1e-4)


def test_uniform_weights_are_the_squares():
    a = kernels.gegenbauer_coefficients(gf.tanh, 5, 9, radius=2.0)
    found = kernels.spectrum(gf.tanh, 5, 9, weights="sphere", radius=2.0)
    np.testing.assert_array_equal(found.eigenvalue, a.value**2)
    gaussian = kernels.spectrum(gf.relu, 5, 9)
    sphere = kernels.spectrum(gf.relu, 5, 9, weights="sphere")
    np.testing.assert_allclose(gaussian.eigenvalue, 5 * sphere.eigenvalue, rtol=1e-13, atol=1e-17)


# --- ranks -------------------------------------------------------------------------------------


def test_numerical_rank():
    rng = np.random.default_rng(0)
    B = rng.normal(size=(9, 4))
    found = kernels.numerical_rank(B @ B.T)
    assert (found.rank, found.decided) == (4, True)
    assert found.rest <= found.error < found.least
    vague = kernels.numerical_rank(B @ B.T, error=found.least / 20)
    assert not vague.decided
    assert kernels.numerical_rank(np.zeros((3, 3))).rank == 0


@pytest.mark.parametrize(("pairs", "dim"), [(1, 2), (3, 2), (5, 3), (4, 6), (12, 4)])
def test_antipodal_rank_law(pairs, dim):
    X = gf.datasets.antipodal_pairs(pairs, dim, seed=3).X
    expected = pairs + min(pairs, dim)
    for kernel in (kernels.arc_cosine, kernels.ntk):
        found = kernels.numerical_rank(kernel(X, slope=0.1))
        assert (found.rank, found.decided) == (expected, True)
    assert kernels.numerical_rank(kernels.arc_cosine(X, slope=1.0)).rank == min(pairs, dim)


# --- the criterion -----------------------------------------------------------------------------

STRICT = {"shifted_relu(0.3)", "shifted_relu(-0.8)", "fourier", "elu"}


@named
@pytest.mark.parametrize("dim", [2, 3, 8])
def test_criterion_and_coefficients(activation, dim):
    decision = kernels.positive_definite_criterion(activation, dim)
    assert decision.strict == (activation.name in STRICT)
    assert decision.reason
    found = kernels.spectrum(activation, dim, 12)
    for parity, degree in ((0, decision.even_degree), (1, decision.odd_degree)):
        k = np.arange(parity, 13, 2)
        beyond, error = found.eigenvalue[k], found.error[k]
        if math.isinf(degree):
            # (the smallest of analytic activations sink below any error)
            assert np.all(beyond[k <= 6] > 10 * error[k <= 6])
        else:
            assert np.all(beyond[k > degree] <= error[k > degree] + 1e-25)


def test_what_is_not_known_is_not_decided():
    decision = kernels.positive_definite_criterion(Cube(), 3)
    assert decision.strict is None
    assert "no finite number" in decision.reason
    with pytest.raises(ValueError, match="not decided"):
        bool(decision)
    on_circle = kernels.positive_definite_criterion(gf.fourier, 2, weights="sphere")
    assert (on_circle.strict, on_circle.even, on_circle.odd) == (None, True, True)
    assert "arithmetic progression" in on_circle.reason
    assert kernels.positive_definite_criterion(gf.relu, 2, weights="sphere").strict is False


def test_bounded_weights_may_not_reach_the_kink():
    decide = kernels.positive_definite_criterion
    near = decide(gf.shifted_relu(0.3), 3, weights="sphere", radius=0.3)
    assert near.strict is False
    assert near.even_degree == near.odd_degree == -1
    far = decide(gf.shifted_relu(0.3), 3, weights="sphere", radius=0.4)
    assert far.strict is True
    linear = decide(gf.shifted_relu(-2.0), 3, weights="sphere")
    assert (linear.strict, linear.even_degree, linear.odd_degree) == (False, 0, 1)


def test_on_the_circle_both_parities_are_not_enough():
    """All even k, but only odd multiples of 3: the hexagon's Gram matrix is singular."""
    angle = np.arange(6) * np.pi / 3
    gap = angle[:, None] - angle[None]
    degrees = [k for k in range(61) if k % 2 == 0 or k % 3 == 0]
    K = sum(np.exp(-0.1 * k) * np.cos(k * gap) for k in degrees)
    assert kernels.numerical_rank(K).rank == 4
    assert any(k % 2 for k in degrees)


# --- bad input ---------------------------------------------------------------------------------


def test_bad_input():
    X = np.eye(3)
    with pytest.raises(ValueError, match=r"(?s)X=.*row 1 is zero"):
        kernels.arc_cosine(X * [[1.0], [0.0], [1.0]])
    with pytest.raises(ValueError, match="slope="):
        kernels.ntk(X, slope=np.nan)
    with pytest.raises(ValueError, match="float32"):
        kernels.arc_cosine(X.astype(np.float32))
    with pytest.raises(ValueError, match=r"(?s)Z=.*shape"):
        kernels.arc_cosine(X, np.ones((2, 2)))
    with pytest.raises(ValueError, match="activation="):
        kernels.gram("relu", X)
    with pytest.raises(ValueError, match=r"method=.*quadrature"):
        kernels.gram(gf.tanh, X, method="closed")
    with pytest.raises(ValueError, match="method="):
        kernels.gram(gf.tanh, X, method="guess")
    with pytest.raises(ValueError, match="dim="):
        kernels.gegenbauer_coefficients(gf.relu, 1, 4)
    with pytest.raises(ValueError, match="degree="):
        kernels.spectrum(gf.relu, 3, -1)
    with pytest.raises(ValueError, match="radius="):
        kernels.gegenbauer_coefficients(gf.relu, 3, 4, radius=0.0)
    with pytest.raises(ValueError, match="weights="):
        kernels.spectrum(gf.relu, 3, 4, weights="uniform")
    with pytest.raises(ValueError, match=r"(?s)gram=.*square"):
        kernels.numerical_rank(np.ones((2, 3)))
    with pytest.raises(ValueError, match="symmetric"):
        kernels.numerical_rank(np.triu(np.ones((3, 3))))
    with pytest.raises(ValueError, match="error="):
        kernels.numerical_rank(X, error=-1.0)


def test_public_names_are_documented():
    for name in (n for n in vars(kernels) if not n.startswith("_")):
        assert vars(kernels)[name].__doc__, name
