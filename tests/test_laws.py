"""Laws and teachers: constants, quadrature rules, incomplete moments, sampling, validation."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.stats as st

from gradflow.data.laws.constants import gamma_ratio
from gradflow.data.laws.laws import (
    Gaussian,
    StudentT,
    UniformBall,
    UniformSphere,
)
from gradflow.data.laws.radial_law import RadialLaw
from gradflow.data.teachers import LinearTeacher
from gradflow.losses import logistic
from gradflow.networks.networks import LinearPredictor
from gradflow.registry import build as build_kind
from gradflow.risks.population.population import PopulationRisk

LAWS = [
    Gaussian(3, 2.0),
    UniformSphere(2),
    UniformSphere(4, 3.0),
    UniformSphere(1000),
    UniformBall(3, 0.5),
    StudentT(3, 1.5),
    StudentT(5, 6.0, 2.0),
    RadialLaw(2, st.uniform(1, 1)),
    RadialLaw(6, st.gamma(7.0)),
]


def test_gamma_ratio():
    for x in (0.25, 0.5, 1.0, 7.3, 29.0, 30.0, 500.0, 1e6):
        exact = mp.gammaprod([mp.mpf(x) + 0.5], [x])
        assert gamma_ratio(x) == pytest.approx(float(exact), rel=1e-15)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_constants_against_quadrature(law):
    x, wx = law.marginal_rule()
    rho, wr = law.planar_rule()
    rel = 1e-13
    assert wx.sum() == pytest.approx(1, rel=rel)
    assert wr.sum() == pytest.approx(1, rel=rel)
    assert law.c0 == pytest.approx(rho @ wr, rel=rel)
    assert law.c0 == pytest.approx(np.pi / 2 * (x @ wx), rel=rel)
    assert law.kappa == pytest.approx(np.pi**2 / 6 * law.p0, rel=1e-15)
    if np.isfinite(law.second_moment):
        # a heavy tail leaves the second moment of the rule short, by design
        tight = rel if getattr(law, "nu", np.inf) > 6.5 else 1e-11
        assert law.second_moment == pytest.approx(rho**2 @ wr, rel=tight)
        assert law.second_moment == pytest.approx(2 * (x**2 @ wx), rel=tight)
    # p0 from P(|x1| < eps) = 2 p0 eps, another route than the density
    eps = 1e-9 * law.c0
    assert law.p0 == pytest.approx(float(law.marginal_partial_moment(eps, 0)) / 2 / eps, rel=1e-12)
    assert law.p0 == pytest.approx(float(law.marginal_density(0.0)), rel=1e-13)
    if law.dim >= 3:
        r, wr = law.spatial_rule()
        # E|x^(3)| = 2 E|x1|
        assert r @ wr == pytest.approx(4 / np.pi * law.c0, rel=rel)


@pytest.mark.parametrize("law", [law for law in LAWS if not np.isnan(law.p4)], ids=repr)
def test_derivatives_of_the_marginal(law):
    # p = p0 + p2 x^2/2 + p4 x^4/24 + O(x^6) near 0
    unit = 0.005 / np.sqrt(abs(law.p2 / law.p0))
    x = unit * np.array([1.0, 2.0, 3.0])
    even = np.array(law.marginal_density(x)) - law.p0
    fit = np.linalg.solve(np.stack([x**2 / 2, x**4 / 24, x**6 / 720], axis=1), even)
    assert fit[0] == pytest.approx(law.p2, rel=1e-7)
    assert fit[1] == pytest.approx(law.p4, rel=2e-2, abs=1e-2 * abs(law.p2 / unit**2) * 1e-4)


def test_known_constants():
    circle = UniformSphere(2)
    assert circle.c0 == pytest.approx(1, rel=1e-15)
    assert circle.p0 == pytest.approx(1 / np.pi, rel=1e-15)
    assert circle.p2 == pytest.approx(circle.p0, rel=1e-15)
    assert circle.p4 == pytest.approx(9 * circle.p0, rel=1e-15)
    assert UniformSphere(3).p2 == 0
    assert UniformBall(3).p2 / UniformBall(3).p0 == pytest.approx(-2, rel=1e-15)
    assert Gaussian(9).c0 == pytest.approx(np.sqrt(np.pi / 2), rel=1e-15)
    assert Gaussian(9).p2 / Gaussian(9).p0 == -1
    assert StudentT(2, 2.0).second_moment == np.inf
    t = st.t(2.5, scale=3.0)
    assert StudentT(2, 2.5, 3.0).p0 == pytest.approx(t.pdf(0), rel=1e-14)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_rules_integrate_the_kernels(law):
    """Node by node against the fitted functions, which have their own tests against mpmath."""
    rho, weight = law.planar_rule()
    x, wx = law.marginal_rule()
    for m in (1e-8, 0.5, 20.0, 1e6, 1e15):
        got = np.tanh(rho * m / 2) @ (weight * rho) / 2
        assert got == pytest.approx(float(law.radial.psi_prime(m)), rel=2e-14)
        with np.errstate(under="ignore"):
            got = np.log1p(np.exp(-x * m)) @ wx
        assert got == pytest.approx(float(law.radial.H(m)), rel=2e-14)
    assert law.planar_rule(largest=10.0).node.size <= rho.size


def test_spatial_rule_and_its_absence():
    r, w = UniformSphere(3, 2.0).spatial_rule()
    np.testing.assert_array_equal((r, w), ([2.0], [1.0]))
    r, w = Gaussian(5).spatial_rule()
    assert np.exp(-r) @ w == pytest.approx(  # Maxwell law
        float(mp.quad(lambda s: mp.sqrt(2 / mp.pi) * s**2 * mp.exp(-s - s**2 / 2), [0, 2, mp.inf])),
        rel=1e-14,
    )
    for call in (Gaussian(2).spatial_rule, lambda: Gaussian(2).spatial_partial_moment(1.0, 0)):
        with pytest.raises(ValueError, match=r"dim=2.*3-D marginal"):
            call()


def exact_partial(law, n, x, k):
    """Incomplete moments by mpmath's own special functions."""
    x, a, half = mp.mpf(x), mp.mpf(n) / 2, mp.mpf(k) / 2
    if law.name == "gaussian":
        z = x**2 / 2 / law.scale**2
        return law.scale**k * 2**half * mp.gammainc(a + half, 0, z) / mp.gamma(a)
    if law.name == "student_t":
        nu = mp.mpf(law.nu)
        x /= law.scale
        y, top, b = x**2 / (nu + x**2), a + half, nu / 2 - half
        series = y**top / top * mp.hyp2f1(top, 1 - b, top + 1, y)
        return law.scale**k * nu**half * series / mp.beta(a, nu / 2)
    d = mp.mpf(law.dim + (2 if law.name == "uniform_ball" else 0))
    y, b = min(x / law.radius, 1) ** 2, (d - n) / 2
    return law.radius**k * mp.betainc(a + half, b, 0, y) / mp.beta(a, b)


@pytest.mark.parametrize(
    "law",
    [
        Gaussian(3, 2.0),
        UniformSphere(4),
        UniformSphere(1000),
        UniformBall(3, 0.5),
        StudentT(3, 1.2),
        StudentT(3, 2.0, 3.0),
        StudentT(3, 30.0),
    ],
    ids=repr,
)
def test_partial_moments(law):
    x = np.array([0.0, 1e-10, 1e-3, 0.04, 0.3, 0.9, 1.4, 6.0, 1e5])
    methods = (law.marginal_partial_moment, law.planar_partial_moment, law.spatial_partial_moment)
    with mp.workdps(40):
        for n, method in enumerate(methods, start=1):
            for k in range(3):
                exact = [float(exact_partial(law, n, q, k)) for q in x]
                np.testing.assert_allclose(method(x, k), exact, rtol=1e-13, err_msg=f"{n} {k}")
    # the derivative of E[|x1|; |x1| < x] is 2 x p(x)
    slope = jax.jit(jax.grad(lambda q: law.marginal_partial_moment(q, 1)))(0.3)
    assert float(slope) == pytest.approx(0.6 * float(law.marginal_density(0.3)), rel=1e-11)


def test_point_mass_has_a_step():
    circle = UniformSphere(2, 2.0)
    x = jnp.asarray([0.0, 1.9, 2.1])
    np.testing.assert_array_equal(circle.planar_partial_moment(x, 2), [0, 0, 4])


TWINS = [
    (RadialLaw(2, st.rayleigh()), Gaussian(2)),
    (RadialLaw(3, st.maxwell(scale=3)), Gaussian(3, 3.0)),
    (RadialLaw(2, st.burr12(2, 0.75, scale=np.sqrt(1.5))), StudentT(2, 1.5)),
    (RadialLaw(4, st.beta(4, 1)), UniformBall(4)),
    (RadialLaw(5, 2.0), UniformSphere(5, 2.0)),
    (RadialLaw(5, st.randint(3, 4)), UniformSphere(5, 3.0)),
]


@pytest.mark.parametrize(("custom", "known"), TWINS, ids=lambda law: repr(law)[:40])
def test_radial_law_reproduces_the_known_ones(custom, known):
    for name in ("c0", "p0", "kappa"):
        assert getattr(custom, name) == pytest.approx(getattr(known, name), rel=1e-13)
    assert np.isclose(custom.second_moment, known.second_moment, rtol=1e-13, equal_nan=True)
    m = np.array([0.0, 1e-12, 1e-8, 1e-3, 0.3, 1.0, 7.0, 1e3, 1e8, 1e15])
    for name in ("h", "dh", "h_complement", "H", "psi_prime", "psi_bar", "g"):
        got, exact = getattr(custom.radial, name)(m), getattr(known.radial, name)(m)
        if name == "dh" and getattr(known, "nu", 3) <= 2:
            got, exact = got[1:], exact[1:]  # infinite at 0
        np.testing.assert_allclose(got, exact, rtol=1e-13, err_msg=name)
    x = np.array([0.0, 1e-8, 0.1, 0.97, 1.7, 4.0])
    np.testing.assert_allclose(
        custom.marginal_density(x), known.marginal_density(x), rtol=1e-12, atol=1e-300
    )
    for k in range(3):
        for f in ("marginal", "planar") + (("spatial",) if known.dim > 2 else ()):
            name = f + "_partial_moment"
            got = getattr(custom, name)(x, k)
            np.testing.assert_allclose(got, getattr(known, name)(x, k), rtol=1e-13, err_msg=name)
    slope = [
        jax.jit(jax.grad(lambda q, f=law.planar_partial_moment: f(q, 1)))(0.7)
        for law in (custom, known)
    ]
    assert float(slope[0]) == pytest.approx(float(slope[1]), rel=1e-11)


def test_radial_law_of_two_shells():
    law = RadialLaw(3, st.randint(1, 3))
    shells = [UniformSphere(3, 1.0), UniformSphere(3, 2.0)]
    m = np.array([1e-6, 0.4, 9.0, 1e7])
    for name in ("h", "dh", "h_complement", "H", "psi_prime", "psi_bar", "g"):
        exact = sum(np.array(getattr(s.radial, name)(m)) for s in shells) / 2
        np.testing.assert_allclose(getattr(law.radial, name)(m), exact, rtol=1e-13, err_msg=name)
    exact = sum(np.array(s.marginal_partial_moment(m, 1)) for s in shells) / 2
    np.testing.assert_allclose(law.marginal_partial_moment(m, 1), exact, rtol=1e-13)


@pytest.mark.parametrize("law", [*LAWS[:3], UniformBall(4), StudentT(3, 9.0), LAWS[8]], ids=repr)
def test_samples(law):
    n = 20_000
    x = np.array(law.sample(jax.random.key(7), n))
    assert x.shape == (n, law.dim)
    assert x.dtype == np.float64
    # any unit direction has the marginal law of x1
    q = np.linalg.qr(np.random.default_rng(3).normal(size=(law.dim, law.dim)))[0]
    for v in (np.eye(law.dim)[0], q[:, 0], q[:, -1]):
        s = x @ v
        for values, mean in (
            (s, 0.0),
            (np.abs(s), 2 / np.pi * law.c0),
            (s**2, law.second_moment / 2),
            (1.0 * (np.abs(s) < 0.4), float(law.marginal_partial_moment(0.4, 0))),
        ):
            error = values.std() / np.sqrt(n)
            assert abs(values.mean() - mean) < 4 * error
    planar = np.hypot(x @ q[:, 0], x @ q[:, -1])
    assert abs(planar.mean() - law.c0) <= 4 * planar.std() / np.sqrt(n) + 1e-12
    np.testing.assert_array_equal(x, law.sample(jax.random.key(7), n))


@pytest.mark.parametrize("law", [*LAWS, RadialLaw(3, 2.0)], ids=repr)
def test_description_round_trip(law):
    again = build_kind(json.loads(json.dumps(law.describe())))
    assert again == law
    assert hash(again) == hash(law)
    assert again.c0 == law.c0


def test_stored_radial_law_is_known_to_a_fresh_process():
    law = RadialLaw(2, st.gamma(3.0))
    risk = PopulationRisk(LinearPredictor(2), logistic, law, LinearTeacher([1.0, 0.0]))
    code = (
        "import json, sys; import gradflow.paths.file; from gradflow.registry import build;"
        "print(build(json.loads(sys.argv[1])).law)"
    )
    call = [sys.executable, "-c", code, json.dumps(risk.describe())]
    out = subprocess.run(call, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == repr(law)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UniformSphere(1), "dim=1"),
        (lambda: Gaussian(0), "dim=0"),
        (lambda: Gaussian(1).planar_rule(), "dim=1.*2-D marginal"),
        (lambda: Gaussian(1).planar_partial_moment(1.0, 0), "dim=1.*2-D marginal"),
        (lambda: Gaussian(2, 0.0), "scale=0.0"),
        (lambda: UniformSphere(2, -1.0), "radius=-1.0"),
        (lambda: UniformBall(2.0), "dim=2.0"),  # pyright: ignore
        (lambda: StudentT(3, -1.0), "nu=-1.0"),
        (lambda: StudentT(3, 1.0), "nu=1.0.*c0"),
        (lambda: RadialLaw(3, -2.0), "radius=-2.0"),
        (lambda: RadialLaw(3, "gamma"), "radius='gamma'"),
        (lambda: RadialLaw(3, st.norm()), "negative"),
        (lambda: RadialLaw(3, st.pareto(1.0)), "c0 infinite"),
        (lambda: RadialLaw(3, st.halfcauchy()), "c0 infinite"),
        (lambda: RadialLaw(2, st.halfnorm()), "p0 infinite"),
        (lambda: RadialLaw(3, st.uniform()), "p0 infinite"),
        (lambda: RadialLaw(3, st.poisson(2.0)), "mass at 0"),
        (lambda: RadialLaw(3, st.geom(0.5)), "too many values"),
        (lambda: Gaussian(2).marginal_partial_moment(1.0, 3), "k=3"),
        (lambda: Gaussian(2).sample(jax.random.key(0), 0), "n=0"),
        (lambda: build_kind({"kind": "cauchy"}), "kind='cauchy'"),
        (lambda: build_kind({"kind": "gaussian", "dimension": 2}), "description"),
        (
            lambda: build_kind({"kind": "radial", "dim": 2, "radius": {"distribution": "os"}}),
            "not a scipy.stats distribution",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_linear_teacher():
    teacher = LinearTeacher([0.6, -0.8])
    x = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(teacher.label(x), [1.0, -1.0, 1.0])
    assert float(teacher.label(x[1])) == -1.0
    assert teacher.dim == 2
    assert teacher.describe() == {"kind": "linear_teacher", "direction": [0.6, -0.8]}
    with pytest.raises(ValueError, match="norm"):
        LinearTeacher([1.0, 1.0])
    with pytest.raises(ValueError, match="entries"):
        LinearTeacher([1.0])
