"""At rest: closed forms of what a linear flow still moves, and saddles that are no rest."""

from __future__ import annotations

import numpy as np
import pytest

from gradflow.integrators.rest import at_rest

_THETA = np.array([1.0, -2.0, 0.5])


def _rotation(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


@pytest.mark.parametrize("T", [1.0, 1e3, 1e9, np.inf])
def test_displacement_of_decaying_modes(T: float) -> None:
    """With all rates >= 1 what is to come is -J^-1 F / (1 + 1/(T lambda)), mode by mode."""
    rates, F = np.array([1.0, 30.0, 1e4]), np.array([1e-10, 1e-9, 1e-6])
    rest = at_rest(F, -np.diag(rates), _THETA, T, 1e-9)
    assert rest is not None
    # (the third velocity is rounding to 4 eps 1e4/2)
    expected = max(F / (rates + 1 / T))
    assert rest.displacement == pytest.approx(expected, rel=1e-5)
    assert at_rest(F, -np.diag(rates), _THETA, T, 0.49 * expected) is None


def test_a_growing_mode_is_no_rest_unless_time_is_too_short_for_it() -> None:
    rng = np.random.default_rng(0)
    V = _rotation(rng, 3)
    J = V @ np.diag([1e-4, -1.0, -50.0]) @ V.T
    assert at_rest(1e-14 * V[:, 0], J, _THETA, 1e6, 1e-8) is None
    assert at_rest(1e-14 * V[:, 0], J, _THETA, 1e3, 1e-8) is not None


@pytest.mark.parametrize("T", [1e2, 1e9, 1e30, np.inf])
def test_zero_modes_of_a_symmetry_rest(T: float) -> None:
    """Rounding along a mode that neither grows nor decays is not taken for motion."""
    rng = np.random.default_rng(1)
    V = _rotation(rng, 6)
    J = V @ np.diag([0.0, 0.0, -0.1, -1.0, -20.0, -300.0]) @ V.T
    theta = rng.normal(size=6)
    noise = 1e-16 * np.abs(J) @ np.abs(theta)
    assert at_rest(noise, 0.5 * (J + J.T), theta, T, 1e-8) is not None


def test_motion_along_a_zero_mode_is_no_rest() -> None:
    F = np.array([1e-12, 0.0, 0.0])
    J = -np.diag([0.0, 1.0, 1.0])
    assert at_rest(F, J, _THETA, 1e3, 1e-8) is not None
    assert at_rest(F, J, _THETA, 1e5, 1e-8) is None


def test_logarithmic_growth_is_no_rest() -> None:
    """w = ln t: F = 1/t, J = -1/t^2."""
    for t in (1e2, 1e6, 1e12):
        F, J = np.array([1 / t]), np.array([[-(t**-2.0)]])
        assert at_rest(F, J, np.array([np.log(t)]), t, 1e-8) is None


def test_rates_by_layer_have_a_jacobian_that_is_not_symmetric() -> None:
    rng = np.random.default_rng(2)
    V = _rotation(rng, 3)
    rates = np.diag([1.0, 10.0, 100.0])
    falls, saddle = (V @ np.diag(d) @ V.T for d in ([1.0, 2.0, 3.0], [-1e-3, 2.0, 3.0]))
    F = np.full(3, 1e-10)
    assert at_rest(F, -rates @ falls, _THETA, 1e6, 1e-8) is not None
    assert at_rest(F, -rates @ saddle, _THETA, 1e6, 1e-8) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_does_not_rest(bad: float) -> None:
    assert at_rest(np.array([bad, 0, 0]), -np.eye(3), _THETA, 1.0, 1e-8) is None
    assert at_rest(np.zeros(3), np.full((3, 3), bad), _THETA, 1.0, 1e-8) is None


def test_a_flow_that_does_not_move_at_all_rests() -> None:
    assert at_rest(np.zeros(3), np.zeros((3, 3)), _THETA, np.inf, 1e-8) is not None
