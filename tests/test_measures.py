"""Measures on the sphere, minimisers of the total-variation problem, their dual certificates."""

from __future__ import annotations

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
from scipy.optimize import nnls

from gradflow import Gaussian, NetworkTeacher, PopulationRisk, TwoLayer, relu, squared
from gradflow.certificates import (
    AtomicMeasure,
    dual_certificate,
    orthonormal_teachers,
    tv_minimiser,
)
from gradflow.measures import arc_cosine
from gradflow.measures import tv_minimiser as m
from gradflow.measures.dual import SECOND, THIRD
from gradflow.numerics.vectors import angles
from gradflow.symbolic import orthonormal_teachers as derived


def directions(rng, count, dim):
    u = rng.normal(size=(count, dim))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def random_measure(rng, count, dim):
    return AtomicMeasure(rng.normal(size=count), directions(rng, count, dim))


# -- the kernel and the norm -------------------------------------------------------------------


def test_kernel_is_that_of_sympy_and_of_samples(rng):
    formula = sp.lambdify(derived.phi, derived.kernel(), "numpy")
    phi = np.linspace(0, math.pi, 31)
    np.testing.assert_allclose(arc_cosine.kernel(phi), formula(phi), atol=1e-16)
    x = rng.normal(size=(400_000, 2))
    for angle in (0.0, 0.7, 2.5):
        product = np.maximum(x[:, 0], 0) * np.maximum(
            x @ np.array([math.cos(angle), math.sin(angle)]), 0
        )
        error = np.std(product) / math.sqrt(len(x))
        assert abs(np.mean(product) - arc_cosine.kernel(angle)) < 4 * error


@pytest.mark.parametrize("count", [1, 3, 8])
def test_planar_norm_is_the_double_sum_and_keeps_small_ones(count, rng):
    nu = random_measure(rng, count, 2)
    gram = arc_cosine.kernel(angles(nu.directions, nu.directions))
    assert nu.squared_norm() == pytest.approx(nu.weights @ gram @ nu.weights, rel=1e-13)
    # two neurons at an angle of 1e-9 that cancel: ½·½·1e-18, far below rounding of the sum
    turned = np.array([[1.0, 0.0], [math.cos(1e-9), math.sin(1e-9)]])
    assert AtomicMeasure(np.array([1.0, -1.0]), turned).squared_norm() == pytest.approx(
        0.5e-18, rel=1e-6
    )


def test_norm_in_space_is_the_mean_square_of_the_net(rng):
    nu = random_measure(rng, 4, 3)
    x = rng.normal(size=(400_000, 3))
    f = np.maximum(x @ nu.directions.T, 0) @ nu.weights
    assert abs(np.mean(f**2) - nu.squared_norm()) < 4 * np.std(f**2) / math.sqrt(len(x))


def test_measure_of_a_net(rng):
    net = TwoLayer(3, 4, relu)
    params = net.params(rng.normal(size=(4, 3)), rng.normal(size=4))
    nu = AtomicMeasure.of_params(params)
    norms = np.linalg.norm(params.inner, axis=1)
    np.testing.assert_allclose(nu.weights, np.asarray(params.outer) * norms, rtol=1e-14)
    x = rng.normal(size=(5, 3))
    np.testing.assert_allclose(
        np.maximum(x @ nu.directions.T, 0) @ nu.weights, net(params, jnp.asarray(x)), rtol=1e-13
    )
    tiny = net.params(1e-200 * rng.normal(size=(4, 3)), np.ones(4))
    assert np.all(AtomicMeasure.of_params(tiny).weights > 0)


# -- the minimiser -----------------------------------------------------------------------------


def test_newton_uses_the_derivative_of_its_field(rng):
    teacher = AtomicMeasure(np.array([1.0, -0.7, 0.5]), directions(rng, 3, 4))
    w, sign = rng.normal(size=(3, 4)), np.array([1.0, -1.0, 1.0])
    exact = m._jacobian(w, sign, teacher, 0.1).reshape(12, 12)
    for i in range(12):
        step = np.zeros(12)
        step[i] = 1e-6
        high, low = (m._field(w + s * step.reshape(3, 4), sign, teacher, 0.1) for s in (1, -1))
        np.testing.assert_allclose((high - low).ravel() / 2e-6, exact[:, i], atol=1e-8)


@pytest.mark.parametrize("lam", [0.3, 0.1, 1e-4])
def test_one_teacher_loses_twice_lambda_and_no_angle(lam, rng):
    v = directions(rng, 1, 5)
    found = tv_minimiser(AtomicMeasure(np.array([-2.5]), v), lam)
    assert found.measure.weights[0] == pytest.approx(-(2.5 - 2 * lam), rel=1e-14)
    np.testing.assert_allclose(found.measure.directions, v, atol=1e-15)


@pytest.mark.parametrize(("count", "dim"), [(2, 2), (2, 5), (3, 3), (4, 6)])
@pytest.mark.parametrize("lam", [0.2, 0.01])
def test_orthonormal_teachers_as_derived_symbolically(count, dim, lam):
    found = tv_minimiser(orthonormal_teachers(dim, count), lam)
    atoms = derived.solve(lam, count)
    np.testing.assert_allclose(found.masses, atoms.mass, rtol=3e-15)
    np.testing.assert_allclose(found.shifts, atoms.angle, rtol=1e-12)
    assert found.residual < 1e-15


def test_digits_and_slopes_of_two_teachers():
    for lam, mass, degrees in ((0.1, 0.82558, 4.413), (0.01, 0.98231, 0.3900)):
        atoms = derived.solve(lam, 2)
        assert round(atoms.mass, 5) == mass
        assert math.degrees(atoms.angle) == pytest.approx(degrees, abs=5e-5 if lam < 0.1 else 5e-4)
    a, b = (float(s) for s in derived.slopes(2))
    assert a == pytest.approx(1.771992, abs=1e-6)
    assert b == pytest.approx(0.672070, abs=1e-6)
    for lam in (1e-3, 1e-4, 1e-5):
        atoms = derived.solve(lam, 2)
        assert abs((1 - atoms.mass) / lam - a) < 0.4 * lam
        assert abs(atoms.angle / lam - b) < 1.0 * lam


def test_a_convex_program_on_a_grid_finds_the_same_minimum():
    """Second route: non-negative least squares on a fine grid (η ≥ 0 here, so ν* ≥ 0)."""
    lam, found = 0.1, tv_minimiser(orthonormal_teachers(2, 2), 0.1)
    phi = np.deg2rad(np.arange(-10.0, 100.0, 0.5))
    grid = np.stack([np.cos(phi), np.sin(phi)], axis=1)
    gram = arc_cosine.kernel(angles(grid, grid))
    pull = arc_cosine.kernel(angles(grid, np.eye(2))) @ np.ones(2) - lam
    factor = np.linalg.cholesky(gram + 1e-13 * np.eye(len(grid)))
    c, _ = nnls(factor.T, np.linalg.solve(factor, pull), maxiter=10_000)
    nu = AtomicMeasure(c, grid)
    value = 0.5 * nu.minus(found.teacher).squared_norm() + lam * nu.total_variation
    assert 0 <= value - found.minimum < 2e-6
    angle = np.rad2deg(phi[c > 1e-6])
    shift = math.degrees(found.shifts[0])
    assert np.all(np.minimum(np.abs(angle - shift), np.abs(angle - 90 + shift)) < 0.5)


@pytest.mark.parametrize("dim", [2, 3])
def test_excess_is_the_difference_of_the_objectives(dim, rng):
    found = tv_minimiser(orthonormal_teachers(dim, 2), 0.1)
    for _ in range(5):
        nu = random_measure(rng, 6, dim)
        value = 0.5 * nu.minus(found.teacher).squared_norm() + 0.1 * nu.total_variation
        assert found.excess(nu) == pytest.approx(value - found.minimum, rel=1e-12)
    assert abs(found.excess(found.measure)) < 1e-15


@pytest.mark.parametrize("dim", [2, 4])
def test_shortfall_near_an_atom_is_the_quadratic_form_of_its_curvature(dim, rng):
    found = tv_minimiser(orthonormal_teachers(dim, 2, [1.0, -0.8]), 0.05)
    H = -found.curvatures()
    sign = np.sign(found.measure.weights)
    for eps in (1e-4, 1e-8, 1e-12):
        u = found.measure.directions + eps * rng.normal(size=(2, dim))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        step = u - found.measure.directions
        form = 0.5 * np.einsum("ja,jab,jb->j", step, H, step)
        # the third derivative over λ enters at first order in the angle; rounding of u below it
        np.testing.assert_allclose(
            found.shortfall(u, sign), form, rtol=200 * eps + 1e-2 * (eps < 1e-10) + 1e-6
        )


def test_eta_is_the_gradient_of_the_networks_risk(rng):
    """Second route: ∂/∂a of a probe neuron with a = 0 in the closed form of the risk."""
    star = tv_minimiser(orthonormal_teachers(3, 2), 0.1)
    u = directions(rng, 6, 3)
    known = TwoLayer(3, 2, relu)
    net = TwoLayer(3, 8, relu)
    target = NetworkTeacher(known, known.params(np.eye(3)[:2], np.ones(2)))
    risk = PopulationRisk(net, squared, Gaussian(3), target)
    inner = np.concatenate([star.measure.directions, u])
    params = net.params(inner, np.concatenate([star.measure.weights, np.zeros(6)]))
    slope = np.asarray(risk.gradient(params).outer)
    np.testing.assert_allclose(-slope[2:] / 0.1, star.eta(u), atol=1e-13)
    assert float(risk(params)) == pytest.approx(0.5 * star.signed.squared_norm(), rel=1e-12)


# -- the dual certificate ----------------------------------------------------------------------


@pytest.mark.parametrize(("count", "dim"), [(1, 2), (1, 6), (2, 2), (2, 4), (3, 3)])
def test_minimisers_are_certified(count, dim):
    found = tv_minimiser(orthonormal_teachers(dim, count), 0.1)
    certificate = dual_certificate(found)
    assert certificate.accepted, certificate.reason
    assert certificate.proven
    assert certificate.elsewhere < 1
    assert 1 - 1e-12 < certificate.greatest < 1 + 1e-12
    assert certificate.least >= 0 or count > 1
    np.testing.assert_allclose(certificate.at_atoms, 0, atol=1e-13)


def test_large_spheres_are_searched_not_covered():
    certificate = dual_certificate(tv_minimiser(orthonormal_teachers(5, 4), 0.1), starts=100)
    assert certificate.accepted
    assert not certificate.proven
    assert "not a proof" in certificate.reason


def test_the_bound_away_from_the_atoms_is_one(rng):
    found = tv_minimiser(orthonormal_teachers(3, 2, [1.0, -0.6]), 0.1)
    certificate = dual_certificate(found)
    assert certificate.accepted, certificate.reason
    u = directions(rng, 20_000, 3)
    outside = np.all(angles(u, found.measure.directions) > certificate.radius, axis=1)
    assert np.max(np.abs(found.eta(u[outside]))) <= certificate.elsewhere


def test_bounds_on_the_derivatives_along_great_circles(rng):
    t = np.linspace(0, 2 * np.pi, 20_001)
    h = t[1]
    for _ in range(20):
        R = rng.uniform(0, 1)
        k = arc_cosine.kernel(np.arccos(np.clip(R * np.cos(t), -1, 1)))
        second = np.diff(k, 2) / h**2
        assert np.max(np.abs(second)) <= SECOND + 1e-6
        assert np.max(np.abs(np.diff(second))) / h <= THIRD + 1e-2


@pytest.mark.parametrize("factor", [1.05, 0.95])
def test_other_masses_are_not_certified(factor):
    found = tv_minimiser(orthonormal_teachers(2, 2), 0.1)
    scaled = AtomicMeasure(factor * found.measure.weights, found.measure.directions)
    certificate = dual_certificate(replace(found, measure=scaled))
    assert not certificate.accepted
    assert "atoms" in certificate.reason


def test_a_stationary_measure_that_is_no_minimiser_is_not_certified():
    """One atom between two teachers is stationary by symmetry, but not a minimum."""
    teacher = orthonormal_teachers(2, 2)
    middle = np.array([[1.0, 1.0]]) / math.sqrt(2)
    mass = 2 * (2 * float(arc_cosine.kernel(math.pi / 4)) - 0.1)
    found = tv_minimiser(teacher, 0.1)
    one = replace(found, measure=AtomicMeasure(np.array([mass]), middle), residual=0.0)
    certificate = dual_certificate(one)
    assert not certificate.accepted
    assert abs(certificate.at_atoms[0]) < 1e-14


# -- bad input ---------------------------------------------------------------------------------


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unit length"):
        AtomicMeasure(np.ones(1), np.array([[1.0, 1.0]]))
    with pytest.raises(ValueError, match="directions"):
        AtomicMeasure(np.ones(2), np.eye(3))
    with pytest.raises(ValueError, match="count"):
        orthonormal_teachers(2, 3)
    with pytest.raises(ValueError, match="lam"):
        tv_minimiser(orthonormal_teachers(2, 1), -0.1)
    with pytest.raises(ValueError, match="too large"):
        tv_minimiser(orthonormal_teachers(2, 1), 0.5)
    with pytest.raises(ValueError, match="too large"):  # the atoms meet at about 0.45
        tv_minimiser(orthonormal_teachers(2, 2), 0.48)
    with pytest.raises(ValueError, match="no symmetric minimiser"):
        derived.solve(0.48, 2)
    with pytest.raises(ValueError, match="parallel"):
        tv_minimiser(AtomicMeasure(np.ones(2), np.array([[1.0, 0.0], [1.0, 0.0]])), 0.1)
    with pytest.raises(ValueError, match="minimiser"):
        dual_certificate(orthonormal_teachers(2, 1))
    net = TwoLayer(2, 1, relu, bias=True)
    biased = net.params(np.ones((1, 2)), np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="bias"):
        AtomicMeasure.of_params(biased)
    with pytest.raises(ValueError, match="lam"):
        derived.solve(0.5, 2)
