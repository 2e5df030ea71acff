"""Derivations: formulas against the literature's, numbers against quadrature and integration."""

from __future__ import annotations

import itertools
import subprocess
import sys
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

from gradflow.data.laws.laws import Gaussian, UniformSphere
from gradflow.symbolic import derive
from gradflow.symbolic import notation as nt
from gradflow.symbolic.balance import in_time
from gradflow.symbolic.expansion import expand, mass
from gradflow.symbolic.printing import columns

c0, p0, p2, kappa, k2, k4, alpha, N, t = (
    nt.c0, nt.p0, nt.p2, nt.kappa, nt.k2, nt.k4, nt.alpha, nt.N, nt.t,
)  # fmt: skip
pi = sp.pi
VARIANTS = [
    ("linear", {}),
    ("linear", {"loss": "exponential"}),
    ("linear", {"loss": "hinge"}),
    ("deep-linear", {}),
    ("deep-linear", {"depth": 2}),
    ("deep-linear", {"depth": 3}),
    ("two-neuron", {}),
    ("two-neuron", {"outer": "trained"}),
    ("two-neuron", {"slope": 0.3}),
    ("two-neuron", {"slope": 1}),
    ("two-neuron", {"regime": "generic", "slope": 0}),
    ("two-neuron", {"regime": "symmetric", "outer": "trained"}),
    ("two-neuron", {"regime": "decoupled"}),
    ("two-neuron", {"regime": "decoupled", "outer": "trained"}),
    ("two-neuron", {"regime": "leaky"}),
]


def same(left, right) -> bool:
    """Whether two expressions agree once kappa is written in p0, at random values."""
    gap = (sp.sympify(left) - sp.sympify(right)).subs(kappa, nt.KAPPA)
    rng = np.random.default_rng(3)
    symbols = sorted(gap.free_symbols, key=str)
    for _ in range(3):
        values = {q: sp.Float(rng.uniform(0.2, 0.9), 30) for q in symbols}
        if nt.N in values:
            values[nt.N] = sp.Integer(int(rng.integers(3, 9)))
        if abs(sp.N(gap.subs(values), 25)) > 1e-18:
            return False
    return True


# -- expansions -------------------------------------------------------------------------------


def test_expansion_constants():
    logistic = expand("logistic")
    assert same(logistic.leading, pi**2 * p0 / 6)
    assert same(logistic.ratios[k2], sp.Rational(7, 20) * pi**2 * p2 / p0)
    assert [expand(x).leading / (2 * p0) for x in ("exponential", "hinge")] == [
        1,
        sp.Rational(1, 2),
    ]


@pytest.mark.parametrize(
    ("loss", "value"), [("logistic", pi**2 / 12), ("exponential", 1), ("hinge", sp.Rational(1, 2))]
)
def test_mass_equals_first_moment(loss, value):
    assert sp.simplify(mass(loss) - value) == 0
    assert sp.simplify(expand(loss).moments[0] - mass(loss)) == 0


NEGATIVE_SLOPE = {
    "logistic": lambda z: 1 / (1 + np.exp(np.minimum(z, 700.0))),
    "exponential": lambda z: np.exp(-z),
    "hinge": lambda z: 1.0 * (z < 1),
}
TAYLOR = {
    "gaussian": {p2: -1, nt.p4: 3, nt.p6: -15, p0: 1},
    "circle": {p2: 1, nt.p4: 9, nt.p6: 225, p0: 1},
}
DENSITY = {
    "gaussian": (lambda x: np.exp(-x * x / 2), np.sqrt(2 * np.pi)),
    "circle": (lambda x: 1 / np.sqrt(1 - x * x), np.pi),
}


@pytest.mark.parametrize("loss", list(NEGATIVE_SLOPE))
@pytest.mark.parametrize("law", list(TAYLOR))
def test_expansion_against_quadrature(loss, law):
    norm = 60.0
    density, total = DENSITY[law]
    end = 0.9 if loss != "hinge" else 1 / norm
    exact, _ = quad(
        lambda x: 2 * x * density(x) * NEGATIVE_SLOPE[loss](norm * x), 0, end,
        epsabs=1e-18, epsrel=1e-13, points=[1 / norm, 10 / norm] if loss != "hinge" else None,
    )  # fmt: skip
    expansion = expand(loss)
    values = {q: sp.Rational(v) for q, v in TAYLOR[law].items()}
    errors = []
    for order in range(4):
        series = float(expansion.explicit(order).subs(values).subs(nt.R, norm))
        errors.append(abs(series / exact - 1))
        ratio_form = expansion.series(order).subs(expansion.ratios)
        ratio_form = ratio_form.subs(kappa, nt.KAPPA).subs(values).subs(nt.R, norm)
        assert abs(float(ratio_form) / series - 1) < 1e-13
    assert errors[0] < 1e-2
    assert all(later < max(earlier / 20, 1e-12) for earlier, later in itertools.pairwise(errors))
    assert total > 0


# -- rates: formulas --------------------------------------------------------------------------


def test_linear_rates():
    rates = derive("linear").rates
    assert rates["norm"].exponent == sp.Rational(1, 3)
    assert same(rates["norm"].constant, (3 * kappa) ** sp.Rational(1, 3))
    assert rates["log_angle"].exponent == sp.Rational(2, 3)
    assert same(rates["log_angle"].constant, 3 * c0 / (2 * pi) * (3 * kappa) ** sp.Rational(-1, 3))
    assert rates["norm"].corrections[:2] == ((sp.Rational(-2, 3), 0), (-1, 0))
    assert same(rates["norm"].coefficients[0], k2 * (3 * kappa) ** sp.Rational(-2, 3))
    equations = derive("linear").equations
    assert same(equations["A"].rhs, 3 * c0 / (pi**3 * p0))
    assert same(equations["B"].rhs, 6 * c0 * k2 / (pi**3 * p0))


@pytest.mark.parametrize(("loss", "slope"), [("exponential", 1), ("hinge", 1), ("logistic", None)])
def test_other_losses(loss, slope):
    rates = derive("linear", loss=loss).rates
    m = mass(loss)
    assert same(rates["norm"].constant, (6 * p0 * m) ** sp.Rational(1, 3))
    # theta' = -(2 c0/pi) (-l'(0)) theta/R with R = (6 p0 M t)^(1/3), integrated.
    slope = sp.Rational(1, 2) if slope is None else slope
    expected = 2 * c0 / pi * slope * sp.Rational(3, 2) * (6 * p0 * m) ** sp.Rational(-1, 3)
    assert same(rates["log_angle"].constant, expected)


def test_deep_linear_rates_symbolic_depth():
    rates = derive("deep-linear").rates
    assert same(rates["norm"].exponent, N / (N + 2))
    assert same(rates["norm"].constant, ((N + 2) * kappa) ** (N / (N + 2)))
    assert same(rates["log_angle"].exponent, 2 * N / (N + 2))
    expected = c0 / pi * (N + 2) / (2 * N) * ((N + 2) * kappa) ** ((N - 2) / (N + 2))
    assert same(rates["log_angle"].constant, expected)
    assert same(rates["loss"].exponent, -rates["norm"].exponent)
    assert same(rates["loss"].constant, kappa / rates["norm"].constant)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
def test_deep_linear_rates_numeric_depth(depth):
    symbolic, numeric = derive("deep-linear").rates, derive("deep-linear", depth=depth).rates
    for name in ("norm", "log_angle", "loss"):
        assert same(symbolic[name].exponent.subs(N, depth), numeric[name].exponent)
        assert same(symbolic[name].constant.subs(N, depth), numeric[name].constant)
    first = numeric["norm"].corrections[0]
    assert first == {1: (sp.Rational(-2, 3), 0), 2: (-1, 1)}.get(depth, (-1, 0))


def test_depth_two_angle_is_exact():
    rate = derive("deep-linear", depth=2).rates["log_angle"]
    assert rate.corrections == ((-1, 0),)  # a constant is added to (c0/pi) t, and nothing else
    assert same(rate.constant, c0 / pi)


def test_decoupled_rates():
    derivation = derive("two-neuron", regime="decoupled")
    assert same(derivation.rates["norm"].constant, (pi**2 * p0 / 4) ** sp.Rational(1, 3))
    assert same(derivation.equations["A"].rhs, 3 * c0 / (pi**3 * p0))
    assert same(derivation.equations["B"].rhs, 6 * c0 * k2 / (pi**3 * p0))
    law = next(s.equation for s in derivation.steps if "Separate the variables" in s.explanation)
    half = kappa / 2
    expected = nt.R**3 / 3 - k2 * nt.R - (k2**2 - k4) / nt.R
    assert same(law.lhs, expected)
    assert same(law.rhs, half * (t + nt.tau))
    gap = derivation.rates["norm_difference"]
    assert gap.exponent == sp.Rational(-2, 3)
    assert same(gap.constant, half * (nt.tau1 - nt.tau2) * (3 * half) ** sp.Rational(-2, 3))


def test_trained_outer_rates():
    rates = derive("two-neuron", regime="decoupled", outer="trained").rates
    assert rates["norm"].exponent == sp.Rational(1, 2)
    assert same(rates["norm"].constant, sp.sqrt(pi**2 * p0 / 3))
    assert rates["log_angle"].exponent == 1
    assert same(rates["log_angle"].constant, c0 / (2 * pi))


@pytest.mark.parametrize("outer", ["fixed", "trained"])
def test_symmetric_pair_is_a_rescaled_linear_flow(outer):
    rates = derive("two-neuron", regime="symmetric", outer=outer).rates
    depth, clock = (1, (1 + alpha) ** 2 / 2) if outer == "fixed" else (2, (1 + alpha) / 2)
    linear = derive("deep-linear", depth=depth).rates
    power = linear["norm"].exponent
    assert same(rates["norm"].constant, linear["norm"].constant * clock**power / (1 + alpha))
    power = linear["log_angle"].exponent
    assert same(rates["log_angle"].constant, linear["log_angle"].constant * clock**power)


def test_leaky_slow_mode_formulas():
    derivation = derive("two-neuron", regime="leaky")
    q = ((1 - alpha) / (1 + alpha)) ** 2
    equations, rates = derivation.equations, derivation.rates
    assert same(equations["slow_mode_ratio"].rhs, q)
    assert same(equations["slow_rate"].rhs, (1 - alpha) ** 2 / (1 + alpha) * c0 / (2 * pi * nt.R))
    assert same(equations["fast_rate"].rhs, (1 + alpha) * c0 / (2 * pi * nt.R))
    assert same(equations["A"].rhs, 3 * c0 / (pi**3 * p0))
    assert same(equations["B"].rhs, 6 * c0 * k2 / (pi**3 * p0))
    assert same(rates["norm_difference_of_norm"].exponent, -2 * q)
    assert same(rates["mode_mix"].constant, (1 - alpha) ** 2 / (8 * alpha))
    big_a, big_b = equations["A"].rhs, equations["B"].rhs
    assert same(rates["log_slow_mode"].constant, -q * big_a)
    assert same(rates["log_slow_mode"].coefficients[0], -(big_b + 1) / big_a)
    law = next(s.equation for s in derivation.steps if "Expand h" in s.explanation)
    assert same(law.rhs, (1 + alpha) ** 2 * kappa / 2 * (t + nt.tau))
    # The log-angle in t is the integral of the slow rate along R(t).
    slow = equations["slow_rate"].rhs.subs(
        nt.R, rates["mean_norm"].constant * t ** rates["mean_norm"].exponent
    )
    assert same(sp.integrate(slow, t).subs(t, 1), rates["log_angle"].constant)


def test_linear_slope_conserves_the_sum():
    steps = derive("two-neuron", slope=1).steps
    assert any("conserved" in s.explanation and s.equation.rhs == 0 for s in steps)


# -- rates: numbers ---------------------------------------------------------------------------


@lru_cache(maxsize=4)
def radial(name: str):
    return {"gaussian": Gaussian(2), "circle": UniformSphere(2)}[name].radial


def integrate_logarithmic(field, start, ends):
    """States at times ``ends`` of dy/dt = field(y), integrated in u = ln(1+t)."""
    compiled = jax.jit(lambda u, y: jnp.exp(u) * field(y))
    found = solve_ivp(
        lambda u, y: np.asarray(compiled(u, y)), (0, np.log1p(ends[-1])), start,
        method="DOP853", rtol=1e-13, atol=1e-14, t_eval=np.log1p(ends),
    )  # fmt: skip
    return found.y.T


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_rates_against_integration(depth):
    """The scalar flow at t = 1e3 ... 1e6 against the series in t, tau and lambda0 from the end."""
    law = Gaussian(2)
    pull = law.c0 / np.pi
    functions = radial("gaussian")
    times = np.array([1e3, 1e4, 1e6])

    def field(y):
        norm = y[0]
        return jnp.stack(
            [depth * norm ** (2 - 2 / depth) * functions.h(norm), pull * norm ** (1 - 2 / depth)]
        )

    states = integrate_logarithmic(field, [1.0, 0.0], times)
    rates = derive("deep-linear", depth=depth).rates
    numbers = {"c0": law.c0, "p0": law.p0, "p2": law.p2, "p4": law.p4, "p6": -15 * law.p0}

    def series(name, at, tau, lam):
        number = rates[name].evaluate(**numbers, tau=tau, lambda0=lam)
        terms = zip(number.coefficients, number.corrections, strict=True)
        bracket = 1 + sum(c * at**p * np.log(at) ** k for c, (p, k) in terms)
        return number.constant * at**number.exponent * bracket

    # tau and lambda0 from the last time
    tau = brentq(lambda x: series("norm", times[-1], x, 0.0) - states[-1, 0], -1e3, 1e3)
    lam = brentq(lambda x: series("log_angle", times[-1], tau, x) - states[-1, 1], -1e3, 1e3)
    for at, state, tolerance in ((times[1], states[1], 1e-8), (times[0], states[0], 1e-5)):
        assert abs(series("norm", at, tau, lam) / state[0] - 1) < tolerance
        assert abs(series("log_angle", at, tau, lam) / state[1] - 1) < tolerance
        # leading terms alone are worse by orders: the corrections do the work
        plain = rates["norm"].evaluate(**numbers)
        assert abs(plain.constant * at**plain.exponent / state[0] - 1) > 10 * tolerance


def test_leaky_tail_against_integration():
    """S as clock: D S^(2q), r R/(R1-R2), ln|d| against the derived laws and corrections."""
    slope = 0.3
    derivation = derive("two-neuron", regime="leaky", slope=slope)
    law, functions = Gaussian(2), radial("gaussian")
    q = ((1 - slope) / (1 + slope)) ** 2
    names = ("tail_S", "tail_D", "tail_r", "tail_log_d")
    hbar, h_gap, kbar, k_gap, r = sp.symbols("hbar Delta_h kbar Delta_k r", real=True)
    right = sp.lambdify(
        (hbar, h_gap, kbar, k_gap, r), [derivation.equations[n].rhs for n in names], "numpy"
    )

    @jax.jit
    def along(s, y):
        gap, mix = y[0], y[1]
        ends = jnp.stack([s + gap / 2, s - gap / 2])
        heights = functions.h(ends)
        stiff = (law.c0 / (2 * jnp.pi) - heights / 2) / ends
        rates = right(
            heights.mean(), heights[0] - heights[1], stiff.mean(), stiff[0] - stiff[1], mix
        )
        return jnp.stack([rates[1], rates[2], rates[3]]) / rates[0]

    stops = np.array([60.0, 120.0, 240.0])
    out = solve_ivp(
        lambda s, y: np.asarray(along(s, y)), (10, 240), [0.2, 0.01, 0.0],
        method="LSODA", rtol=1e-11, atol=1e-13, t_eval=stops,
    ).y  # fmt: skip
    numbers = {"c0": law.c0, "p0": law.p0, "p2": law.p2, "p4": law.p4}

    def bracket(name, at, count):
        number = derivation.rates[name].evaluate(**numbers)
        parts = zip(number.coefficients[:count], number.corrections[:count], strict=True)
        return number, 1 + sum(c * at**p * np.log(at) ** k for c, (p, k) in parts)

    number, corrected = bracket("norm_difference_of_norm", stops, 1)
    prefactor = out[0] / (stops**number.exponent * corrected)
    assert np.ptp(prefactor) / prefactor[0] < 2e-6
    assert abs(number.exponent + 2 * q) < 1e-14
    number, corrected = bracket("mode_mix", stops, 1)
    mix = out[1] * (stops / (1 + slope)) / (out[0] / (1 - slope))
    assert np.all(np.abs(mix / (number.constant * corrected) - 1) < 60 * stops**-4 + 2e-5)
    number, _ = bracket("log_slow_mode", stops, 0)
    predicted = number.constant * (stops**2 + number.coefficients[0] * np.log(stops))
    rest = out[2] - predicted
    # what is left is a constant up to 1/S^2
    assert abs(rest[2] - rest[1]) < 5 / stops[1] ** 2
    assert abs(rest[1] - rest[0]) < 5 / stops[0] ** 2


# -- vector fields ----------------------------------------------------------------------------


def angle_of(w):
    return np.arctan2(w[1], w[0])


def circle_force(parameters, network, slopes, v, kinks):
    """-grad E ln(1+e^(-y f)) on the unit circle by Gauss-Legendre between the kinks."""
    nodes, weights = np.polynomial.legendre.leggauss(120)
    edges = np.unique(np.concatenate([(np.asarray(kinks) + s * np.pi / 2) % (2 * np.pi)
                                      for s in (1, -1)]))  # fmt: skip
    edges = np.append(edges, edges[0] + 2 * np.pi)
    total = np.zeros_like(parameters)
    for low, high in itertools.pairwise(edges):
        panels = np.linspace(low, high, 9)
        for a, b in itertools.pairwise(panels):
            at = (a + b) / 2 + (b - a) / 2 * nodes
            x = np.stack([np.cos(at), np.sin(at)], axis=1)
            y = np.sign(x @ v)
            pull = y / (1 + np.exp(y * network(x)))
            total += (slopes(x) * (pull * weights)[:, None]).sum(0) * (b - a) / (4 * np.pi)
    return total


def two_neuron_force(w1, w2, v, slope, outer=(1.0, 1.0)):
    phi = lambda z: np.maximum(z, slope * z)
    step = lambda z: np.where(z > 0, 1.0, slope)
    b1, b2 = outer

    def slopes(x):
        z1, z2 = x @ w1, x @ w2
        return np.concatenate(
            [b1 * step(z1)[:, None] * x, -b2 * step(z2)[:, None] * x,
             phi(z1)[:, None], -phi(z2)[:, None]], axis=1,
        )  # fmt: skip

    return circle_force(
        np.zeros(6), lambda x: b1 * phi(x @ w1) - b2 * phi(x @ w2), slopes, v,
        [angle_of(w1), angle_of(w2), angle_of(v)],
    )  # fmt: skip


def pairs():
    rng = np.random.default_rng(8)
    found = [rng.normal(size=(2, 2)) * 10 ** rng.uniform(-2, 1.5, size=(2, 1)) for _ in range(5)]
    w = rng.normal(size=2)
    return [*found, np.stack([w, -w]), np.stack([w, w]), np.stack([w, 1e-9 * w])]


@pytest.mark.parametrize("slope", [0, 0.3, 1])
def test_two_neuron_fields_on_the_circle(slope):
    derivation = derive("two-neuron", regime="generic", slope=slope)
    polar = jax.jit(derivation.vector_field(radial("circle")))
    cartesian = jax.jit(derivation.vector_field(radial("circle"), "cartesian"))
    v = np.array([np.cos(0.7), np.sin(0.7)])
    turn = np.array([[v[0], v[1]], [-v[1], v[0]]])
    for w1, w2 in pairs():
        exact = two_neuron_force(w1, w2, v, slope)[:4].reshape(2, 2)
        assert np.abs(np.asarray(cartesian(np.stack([w1, w2]), v)) - exact).max() < 1e-10
        one, two = turn @ w1, turn @ -w2
        state = np.array([np.hypot(*one), angle_of(one), np.hypot(*two), angle_of(two)])
        rates = np.asarray(polar(state))
        for w, rate, force in (
            (one, rates[:2], turn @ exact[0]),
            (two, rates[2:], turn @ -exact[1]),
        ):
            unit = w / np.hypot(*w)
            assert abs(rate[0] - unit @ force) < 1e-10
            across = np.array([-unit[1], unit[0]]) @ force
            assert abs(rate[1] * np.hypot(*w) - across) < 1e-10


def test_trained_outer_field_on_the_circle():
    derivation = derive("two-neuron", regime="generic", slope=0.3, outer="trained")
    polar = jax.jit(derivation.vector_field(radial("circle")))
    cartesian = jax.jit(derivation.vector_field(radial("circle"), "cartesian"))
    v = np.array([1.0, 0.0])
    for (w1, w2), outer in zip(pairs()[:4], ((1, 2), (0.3, 1), (2, 2), (1, 0.1)), strict=True):
        exact = two_neuron_force(w1, w2, v, 0.3, outer)
        inner, dot = cartesian(np.stack([w1, w2]), v, np.array([outer[0], -outer[1]]))
        assert np.abs(np.asarray(inner).ravel() - exact[:4]).max() < 1e-10
        assert np.abs(np.asarray(dot) - [exact[4], -exact[5]]).max() < 1e-10
        state = [np.hypot(*w1), angle_of(w1), outer[0], np.hypot(*w2), angle_of(-w2), outer[1]]
        rates = np.asarray(polar(np.array(state, dtype=float)))
        assert np.abs(rates[[2, 5]] - [exact[4], exact[5]]).max() < 1e-10
        unit = w1 / np.hypot(*w1)
        assert abs(rates[0] - unit @ exact[:2]) < 1e-10


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_linear_fields(depth):
    """Polar and Cartesian fields against the direct gradient and the product rule for layers."""
    v, w = np.array([0.6, 0.8]), np.array([1.3, -2.1])
    direct = circle_force(np.zeros(2), lambda x: x @ w, lambda x: x, v, [angle_of(w), angle_of(v)])
    norm = np.hypot(*w)
    unit = w / norm
    expected = norm ** (2 - 2 / depth) * (direct + (depth - 1) * (direct @ unit) * unit)
    derivation = derive("deep-linear", depth=depth)
    field = derivation.vector_field(radial("circle"), "cartesian")
    assert np.abs(np.asarray(jax.jit(field)(w, v)) - expected).max() < 1e-12
    theta = angle_of(v) - angle_of(w)
    rates = np.asarray(derivation.vector_field(radial("circle"))(np.array([norm, theta])))
    assert abs(rates[0] - unit @ expected) < 1e-12
    across = np.array([unit[1], -unit[0]]) @ expected  # away from v, where theta grows
    assert abs(rates[1] * norm - across) < 1e-12


@pytest.mark.parametrize("loss", ["exponential", "hinge"])
def test_normal_force_of_other_losses(loss):
    """theta' = -E[l(-a) - l(a)]/(pi R^2), a = R rho sin(theta), by direct quadrature (rho = 1)."""
    norm, theta = 2.3, 0.8
    value = {"exponential": lambda z: np.exp(-z), "hinge": lambda z: np.maximum(0, 1 - z)}[loss]
    kick = norm * np.sin(theta)
    predicted = -(value(-kick) - value(kick)) / (np.pi * norm**2)
    breaks = [theta - np.pi / 2, theta + np.pi / 2, np.arccos(1 / norm), -np.arccos(1 / norm),
              np.pi - np.arccos(1 / norm), -np.pi + np.arccos(1 / norm)]  # fmt: skip

    def across(phi):  # angle from v; w at theta
        x = np.array([np.cos(phi), np.sin(phi)])
        y = np.sign(x[0])
        margin = y * norm * np.cos(phi - theta)
        slope = -np.exp(-margin) if loss == "exponential" else -1.0 * (margin < 1)
        return -slope * y * (x @ [-np.sin(theta), np.cos(theta)])

    cuts = sorted({(b + theta if i > 1 else np.pi / 2 * (1 if i else -1)) % (2 * np.pi)
                   for i, b in enumerate(breaks)})  # fmt: skip
    cuts.append(cuts[0] + 2 * np.pi)
    total = sum(quad(across, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(cuts))
    assert abs(total / (2 * np.pi) / norm - predicted) < 1e-11


def test_slow_mode_is_the_linearisation_of_the_flow():
    slope, norm, small = 0.3, 9.0, 1e-7
    field = derive("two-neuron", regime="generic", slope=slope).vector_field(
        radial("gaussian"), "cartesian"
    )
    v = np.array([1.0, 0.0])
    w1, u2 = np.array([norm, 2 * small]), np.array([norm + 0.1, -small])
    rates = np.asarray(jax.jit(field)(np.stack([w1, -u2]), v))
    functions, c = radial("gaussian"), Gaussian(2).c0
    sizes = np.array([w1[0] + slope * u2[0], slope * w1[0] + u2[0]])
    k_p, k_m = (c / (2 * np.pi) - np.asarray(functions.h(jnp.asarray(sizes))) / 2) / sizes
    p1, p2_ = w1[1], u2[1]
    first = -k_p * (p1 + slope * p2_) - slope * k_m * (slope * p1 + p2_)
    second = -slope * k_p * (p1 + slope * p2_) - k_m * (slope * p1 + p2_)
    assert abs(rates[0, 1] / first - 1) < 1e-5
    assert abs(-rates[1, 1] / second - 1) < 1e-5


# -- reading, errors --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_text_and_latex(name, options):
    derivation = derive(name, **options)
    text, latex = derivation.text(), derivation.latex()
    assert columns(text) <= 100
    assert "Rates" in text or not derivation.rates
    assert latex.count("\\begin{") == latex.count("\\end{")
    assert latex.count("{") == latex.count("}")
    assert latex.count("\\left") == latex.count("\\right")
    assert latex.isascii()
    assert len(derivation.steps) > 4
    assert all(isinstance(e, sp.Eq) for e in derivation.equations.values())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("quadratic", {}, "two-neuron"),
        ("linear", {"depth": 2}, "depth"),
        ("linear", {"loss": "squared"}, "logistic"),
        ("deep-linear", {"depth": 0}, "depth"),
        ("deep-linear", {"depth": 2.0}, "depth"),
        ("two-neuron", {"regime": "lazy"}, "decoupled"),
        ("two-neuron", {"outer": "both"}, "trained"),
        ("two-neuron", {"slope": 1.5}, "slope=1.5"),
        ("two-neuron", {"slope": float("nan")}, "slope"),
        ("two-neuron", {"slope": "steep"}, "slope"),
        ("two-neuron", {"slope": [0.1]}, "slope"),
        ("two-neuron", {"regime": "decoupled", "slope": 0.3}, "slope"),
        ("two-neuron", {"regime": "leaky", "slope": 0}, "slope"),
        ("two-neuron", {"regime": "leaky", "outer": "trained"}, "outer"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        derive(name, **options)


def test_unfinished_use_is_refused():
    with pytest.raises(ValueError, match="N"):
        derive("deep-linear").vector_field(radial("circle"))
    with pytest.raises(ValueError, match="alpha"):
        derive("two-neuron").vector_field(radial("circle"))
    with pytest.raises(ValueError, match="logistic"):
        derive("linear", loss="hinge").vector_field(radial("circle"))
    with pytest.raises(ValueError, match="kappa"):
        derive("linear").rates["norm"].evaluate()
    with pytest.raises(ValueError, match="is not a symbol"):
        derive("linear").rates["norm"].evaluate(beta=1.0)


def test_evaluate_from_a_law():
    law = Gaussian(3)
    number = derive("linear").rates["norm"].evaluate(law)
    assert abs(number.constant / (3 * law.kappa) ** (1 / 3) - 1) < 1e-14
    assert number.coefficients[1] is None  # tau
    assert (
        abs(number.coefficients[0] / (-7 * np.pi**2 / 20 * (3 * law.kappa) ** (-2 / 3)) - 1) < 1e-12
    )
    leaky = derive("two-neuron", regime="leaky").rates["norm_difference_of_norm"]
    assert abs(leaky.evaluate(law, alpha=0.5).exponent + 2 / 9) < 1e-15


def test_a_wrong_power_would_be_seen():
    """Negative control: the series of depth 3 does not satisfy the equation of depth 4."""
    from gradflow.symbolic.aligned import norm_law

    law = norm_law(expand("logistic"), sp.Integer(3), sp.S.One)
    other = norm_law(expand("logistic"), sp.Integer(4), sp.S.One)
    assert in_time(law, [(sp.S.One, sp.S.One)]).exponent != law.speed
    assert (
        in_time(law, [(sp.S.One, sp.S.One)]).exponent
        != in_time(other, [(sp.S.One, sp.S.One)]).exponent
    )


def test_import_is_lazy():
    code = "import sys, gradflow, gradflow.symbolic; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
