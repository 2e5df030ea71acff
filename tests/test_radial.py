"""The radial functions against mpmath, closed forms and asymptotics."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.stats as st

from gradflow.data.laws.laws import Gaussian, StudentT, UniformBall, UniformSphere
from gradflow.data.laws.radial_fit import log_cosh_half
from gradflow.data.laws.radial_law import RadialLaw

NAMES = ("h", "dh", "h_complement", "H", "psi_prime", "psi_bar", "g")
ARGUMENTS = (0.0, 1e-8, 1e-3, 0.3, 1.0, 7.0, 1e3, 1e8, 1e15)
TOLERANCE = 1e-14


@functools.partial(jax.jit, static_argnums=1)
def call(radial, name, m):
    """One compiled program per function and layout, for all tests."""
    return getattr(radial, name)(m)


@functools.partial(jax.jit, static_argnums=1)
def slopes(radial, name, m):
    return jax.vmap(jax.grad(getattr(radial, name)))(m)


def kernels(m):
    """name -> (marginal dimension, kernel), in mpmath."""
    m = mp.mpf(m)
    decay = lambda x: mp.exp(-m * x)
    return {
        "h": (1, lambda x: x * decay(x) / (1 + decay(x))),
        "dh": (1, lambda x: -x * x * decay(x) / (1 + decay(x)) ** 2),
        "h_complement": (1, lambda x: x * mp.tanh(m * x / 2) / 2),
        "H": (1, lambda x: mp.log1p(decay(x))),
        "psi_prime": (2, lambda r: r * mp.tanh(m * r / 2) / 2),
        "psi_bar": (2, lambda r: _log_cosh(m * r)),
        "g": (2, lambda r: mp.log1p(decay(r))),
    }


def _log_cosh(z):
    if z < 1:
        return mp.log1p(2 * mp.sinh(z / 4) ** 2)
    return z / 2 - mp.log(2) + mp.log1p(mp.exp(-z))


def log_trapezoid(density, kernel, low, high, per_unit=7):
    """int_0^inf density kernel by the trapezoid rule in ln x, 20 digits."""
    total, step = mp.mpf(0), mp.mpf(1) / per_unit
    for i in range(int(low / step), int(high / step)):
        x = mp.exp(i * step)
        total += density(x) * kernel(x) * x
    return total * step


def assert_matches(radial, name, m, exact, tolerance=TOLERANCE):
    got = float(call(radial, name, m))
    if exact == 0:
        assert got == 0, (name, m)
    else:
        error = float(abs(mp.mpf(got) / exact - 1))
        assert error <= tolerance, (name, m, got, error)


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(22):
        yield


@pytest.mark.parametrize("law", [Gaussian(3), StudentT(2, 1.5), StudentT(4, 2.0), StudentT(3, 5.0)])
@pytest.mark.parametrize("m", [1e-8, 0.3, 7.0, 1e3, 1e15])
def test_unbounded_laws_against_mpmath(law, m):
    if isinstance(law, Gaussian):
        densities = {
            1: lambda x: mp.sqrt(2 / mp.pi) * mp.exp(-x * x / 2),
            2: lambda r: r * mp.exp(-r * r / 2),
        }
        high = 2.6
    else:
        nu = mp.mpf(law.nu)
        top = 2 * mp.gamma((nu + 1) / 2) / mp.sqrt(nu * mp.pi) / mp.gamma(nu / 2)
        densities = {
            1: lambda x: top * (1 + x * x / nu) ** (-(nu + 1) / 2),
            2: lambda r: r * (1 + r * r / nu) ** (-nu / 2 - 1),
        }
        high = 42 / (law.nu - 1) + max(0.0, -np.log(m))
    for name, (k, kernel) in kernels(m).items():
        # integrands at small x go like x^k or better; at large m they live at x ~ 1/m
        low = -max(0.0, np.log(m)) - 45 / (k + 1) * (1 if name not in ("H", "g") else 1.5)
        per_unit = 12 if isinstance(law, Gaussian) else 7
        exact = log_trapezoid(densities[k], kernel, low, high, per_unit)
        assert_matches(law.radial, name, m, exact)


@pytest.mark.parametrize("dim", [2, 5, 50, 1000])
@pytest.mark.parametrize("m", [1e-8, 0.3, 7.0, 60.0])
def test_spheres_against_mpmath(dim, m):
    d = mp.mpf(dim)
    top = 2 * mp.gamma(d / 2) / mp.sqrt(mp.pi) / mp.gamma((d - 1) / 2)
    cuts = [
        0,
        *(q / mp.sqrt(d) for q in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12) if q / mp.sqrt(d) < 1.4),
        mp.pi / 2,
    ]
    for name, (k, bare) in kernels(m).items():
        # quad's tolerance is absolute: scale to order one
        size = abs(bare(1 / mp.sqrt(d)))
        kernel = lambda x, bare=bare, size=size: bare(x) / size
        if dim == 2 and k == 2:
            exact = kernel(mp.mpf(1))
        elif k == 1:
            f = lambda a, kernel=kernel: top * mp.cos(a) ** (d - 2) * kernel(mp.sin(a))
            exact = mp.quad(f, cuts, method="gauss-legendre")
        else:
            f = lambda a, kernel=kernel: (
                (d - 2) * mp.sin(a) * mp.cos(a) ** (d - 3) * kernel(mp.sin(a))
            )
            exact = mp.quad(f, cuts, method="gauss-legendre")
        assert_matches(UniformSphere(dim).radial, name, m, exact * size)


@pytest.mark.parametrize("m", [x for x in ARGUMENTS if x >= 0.3])
def test_three_dimensional_sphere_closed_form(m):
    """|x1| is uniform on (0, 1): H = (pi^2/12 + Li2(-e^-R))/R, and h = -H'."""
    R = mp.mpf(m)
    with mp.workdps(60):
        top = mp.pi**2 / 12 + (mp.polylog(2, -mp.exp(-R)) if R < 100 else 0)
        log = mp.log1p(mp.exp(-R)) if R < 100 else 0
        H = top / R
        h = H / R - log / R
        dh = -2 * top / R**3 + 2 * log / R**2 + (1 / (1 + mp.exp(R)) / R if R < 100 else 0)
    radial = UniformSphere(3).radial
    for name, exact in (("H", H), ("h", h), ("dh", dh), ("h_complement", mp.mpf(1) / 4 - h)):
        assert_matches(radial, name, m, exact)


LAWS = [
    Gaussian(2),
    Gaussian(7, 0.01),
    UniformSphere(2, 3.0),
    UniformSphere(4),
    UniformBall(2),
    UniformBall(1000, 50.0),
    StudentT(2, 1.5),
    StudentT(3, 2.0, 4.0),
    StudentT(3, 30.0),
    RadialLaw(2, st.uniform(1, 1)),
    RadialLaw(3, st.gamma(3.0)),
]


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_ends(law):
    radial = law.radial
    for name in ("psi_prime", "psi_bar", "h_complement"):
        assert float(call(radial, name, 0.0)) == 0.0
    assert float(call(radial, "h", 0.0)) == pytest.approx(law.c0 / np.pi, rel=TOLERANCE)
    assert float(call(radial, "H", 0.0)) == pytest.approx(np.log(2), rel=TOLERANCE)
    assert float(call(radial, "g", 0.0)) == pytest.approx(np.log(2), rel=TOLERANCE)
    assert float(radial.c0) == pytest.approx(law.c0, rel=1e-15)
    assert float(radial.kappa) == pytest.approx(law.kappa, rel=1e-15)
    if np.isfinite(law.second_moment):
        m = 1e-12 / np.sqrt(law.second_moment)
        moment = law.second_moment
        rel = 3e-14 if not (1 < getattr(law, "nu", 9) < 3) else 1e-3
        assert float(call(radial, "psi_prime", m)) == pytest.approx(moment * m / 4, rel=rel)
        assert float(call(radial, "psi_bar", m)) == pytest.approx(moment * m**2 / 8, rel=rel)
        assert float(call(radial, "dh", 0.0)) == pytest.approx(-moment / 8, rel=rel)
    m = 1e15
    rel = TOLERANCE if not isinstance(law, RadialLaw) else 3e-14
    if not (isinstance(law, RadialLaw) and law.dim == 3):  # there the density is only C^1 at 0
        assert float(call(radial, "h", m)) == pytest.approx(law.kappa / m**2, rel=rel)
        assert float(call(radial, "dh", m)) == pytest.approx(-2 * law.kappa / m**3, rel=rel)
    assert float(call(radial, "H", m)) == pytest.approx(law.kappa / m, rel=rel)
    assert float(call(radial, "psi_prime", m)) == pytest.approx(law.c0 / 2, rel=rel)
    assert float(call(radial, "psi_bar", m)) == pytest.approx(law.c0 / 2 * m - np.log(2), rel=rel)
    assert float(call(radial, "h_complement", m)) == pytest.approx(law.c0 / np.pi, rel=rel)


def _ring(m):
    # int_1^2 ln(1+e^-mr) dr = [Li2(-e^-2m) - Li2(-e^-m)]/m
    return (mp.polylog(2, -mp.exp(-2 * m)) - mp.polylog(2, -mp.exp(-m))) / m


def test_planar_decay():
    """g ~ (3 zeta(3)/4) 2 pi f2(0)/m^2, and e^-m on the circle."""
    eta3 = 0.75 * 1.2020569031595942
    for law, slope in (
        (Gaussian(2, 2.0), 0.25),
        (UniformSphere(5), 3.0),
        (UniformSphere(1000), 998.0),
        (StudentT(3, 1.5), 1.0),
    ):
        assert float(call(law.radial, "g", 1e15)) == pytest.approx(
            slope * eta3 * 1e-30, rel=TOLERANCE
        )
    m = np.array([1.0, 30.0, 200.0, 700.0])
    circle = UniformSphere(2).radial.g(m)
    np.testing.assert_allclose(circle, np.log1p(np.exp(-m)), rtol=1e-14)
    ring = np.array(RadialLaw(2, st.uniform(1, 1)).radial.g(m))
    exact = [float(_ring(mp.mpf(q))) for q in m]
    np.testing.assert_allclose(ring, exact, rtol=1e-13)


@pytest.mark.parametrize("law", [LAWS[0], LAWS[2], LAWS[6], LAWS[10]], ids=repr)
def test_identities_between_the_fits(law):
    """The seven fits are independent; the identities between them are not imposed."""
    radial = law.radial
    m = np.logspace(-6, 6, 300)
    total = radial.h(m) + radial.h_complement(m)
    np.testing.assert_allclose(total, law.c0 / np.pi, rtol=TOLERANCE)
    np.testing.assert_allclose(
        radial.psi_bar(m) + np.log(2), radial.g(m) + law.c0 * m / 2, rtol=TOLERANCE
    )


@pytest.mark.parametrize("law", [LAWS[0], LAWS[3], LAWS[7]], ids=repr)
def test_derivatives(law):
    radial = law.radial
    m = jnp.asarray([1e-6, 0.02, 0.8, 5.0, 40.0, 3e4])
    grad = lambda name: np.array(slopes(radial, name, m))
    value = lambda name: np.array(call(radial, name, m))
    np.testing.assert_allclose(grad("h"), value("dh"), rtol=1e-15)
    np.testing.assert_allclose(grad("H"), -value("h"), rtol=1e-15)
    np.testing.assert_allclose(grad("h_complement"), -value("dh"), rtol=1e-15)
    np.testing.assert_allclose(grad("psi_bar"), value("psi_prime"), rtol=1e-15)
    # the identity g' = psi' - c0/2 is not built in
    np.testing.assert_allclose(grad("g") - value("psi_prime"), -law.c0 / 2, rtol=1e-14)
    # psi'' and, through its series, h'' against the quadrature rule
    rho, weight = law.planar_rule()
    z = np.minimum(np.outer(m, rho), 700.0)
    exact = np.where(z < 700, rho**2 / np.cosh(z / 2) ** 2, 0.0) @ weight / 4
    np.testing.assert_allclose(grad("psi_prime"), exact, rtol=1e-13)
    x, wx = law.marginal_rule()
    z = np.minimum(np.outer(m, x), 700.0)
    exact = np.where(z < 700, x**3 / np.cosh(z / 2) ** 2 * np.tanh(z / 2), 0.0) @ wx / 4
    # absolute near 0, where h'' vanishes and the series does not know it
    room = np.where(np.asarray(m) < 1e-3, 1e-11, 0.0)
    assert np.all(np.abs(grad("dh") - exact) <= 1e-10 * exact + room)


def test_derivatives_at_zero_are_finite():
    for law in LAWS[:9]:
        for name in NAMES:
            assert np.isfinite(slopes(law.radial, name, jnp.zeros(6))).all(), (law, name)
    radial = Gaussian(2).radial
    assert float(slopes(radial, "psi_prime", jnp.zeros(6))[0]) == pytest.approx(0.5, rel=1e-13)
    assert float(slopes(radial, "psi_bar", jnp.zeros(6))[0]) == 0.0


def test_odd_and_even():
    radial = Gaussian(3).radial
    m = jnp.asarray([0.1, 0.7, 3.0, 20.0, 1e5, 1e9])
    np.testing.assert_array_equal(call(radial, "psi_prime", -m), -call(radial, "psi_prime", m))
    np.testing.assert_array_equal(call(radial, "psi_bar", -m), call(radial, "psi_bar", m))
    np.testing.assert_array_equal(slopes(radial, "psi_prime", -m), slopes(radial, "psi_prime", m))


def test_continuous_across_panels():
    for law in (Gaussian(2), UniformSphere(2), StudentT(3, 2.5)):
        radial = law.radial
        if radial._layout == "rational":
            edge = np.arange(1, radial._panels) / radial._panels
            edges = float(radial._pole) * edge / (1 - edge)
        else:
            edges = 2.0 ** np.arange(-30, 53)
        for name in NAMES:
            left = np.array(call(radial, name, edges * (1 - 1e-15)))
            right = np.array(call(radial, name, edges * (1 + 1e-15)))
            # a function that decays like e^-m moves by 2e-15 m between the two
            room = 2.2e-15 * edges if name == "g" and law.name == "uniform_sphere" else 0.0
            assert np.all(np.abs(left / right - 1) < 3e-14 + room), name


def test_heavy_tail_below_the_tables():
    """The two-power form below 2^-30 joins the tables and holds to 1e-60."""
    law = StudentT(3, 2.0)
    nu = mp.mpf(2)
    density = lambda r: r * (1 + r * r / nu) ** -2
    m = 1e-60
    exact = log_trapezoid(density, kernels(m)["psi_prime"][1], -25, 190, 6)
    # m E[rho^2; rho < 1/m] grows like a logarithm: no power law would do
    assert_matches(law.radial, "psi_prime", m, exact)


def test_one_program_for_all_rational_laws():
    count = 0

    @jax.jit
    def f(radial, m):
        nonlocal count
        count += 1
        return radial.psi_prime(m)

    for law in (Gaussian(2), UniformSphere(9, 2.0), UniformBall(2), UniformSphere(2)):
        f(law.radial, 1.0)
    assert count == 1
    for law in (StudentT(2, 1.5), StudentT(7, 30.0)):
        f(law.radial, 1.0)
    assert count == 2


def test_log_cosh_half():
    z = np.array([0.0, 1e-9, 0.5, 1.9999999, 2.0, 3.0, 1e3])
    exact = [float(_log_cosh(mp.mpf(q))) for q in z]
    np.testing.assert_allclose(log_cosh_half(z), exact, rtol=1e-15)
