"""Rates: on series whose limit is known the true error lies within a bar that stays small."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradflow import rates
from gradflow.rates import (
    Estimate,
    constant_with_known_exponent,
    exponential_rate,
    extrapolate,
    local_exponent,
)

KAPPA, B, C = 0.656, 1.7, 3.3

#: Reduced flows R' = N R^(2-2/N) kappa/(R^2+b), solved for t(R) in closed form.
FLOWS = {
    "N=1": (
        lambda R: (R**3 / 3 + B * R - C) / KAPPA,
        1 / 3,
        (3 * KAPPA) ** (1 / 3),
        [(2 / 3, 0), (1.0, 0)],
    ),
    "N=2": (
        lambda R: (R**2 / 2 + B * np.log(R) + C) / (2 * KAPPA),
        1 / 2,
        (4 * KAPPA) ** 0.5,
        [(1.0, 1)],
    ),
    "N=4": (
        lambda R: (R**1.5 / 1.5 - 2 * B * R**-0.5 + C) / (4 * KAPPA),
        2 / 3,
        (6 * KAPPA) ** (2 / 3),
        [(1.0, 0), (4 / 3, 0)],
    ),
}


def flow_series(name, start=6.0, end=1e12, n=120):
    """ln t, ln R, exponent, constant, corrections of a flow up to time ``end``."""
    time, exponent, constant, corrections = FLOWS[name]
    log_r = np.linspace(math.log(start), exponent * math.log(end) + math.log(constant), n)
    return np.log(time(np.exp(log_r))), log_r, exponent, constant, corrections


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-10])
def test_flows_to_1e12_reach_the_wanted_accuracy(name, noise):
    log_t, log_r, exponent, constant, corrections = flow_series(name)
    log_r = log_r + noise * np.cos(log_t)
    law = extrapolate(log_t, log_r, corrections, noise=noise)
    known = constant_with_known_exponent(log_t, log_r, exponent, corrections, noise=noise)
    assert law.exponent.covers(exponent)
    assert law.constant.covers(constant)
    assert known.constant.covers(constant)
    assert law.exponent.error < 20 * noise + 1e-13
    assert law.constant.error < 500 * noise + 1e-11
    assert known.constant.error < 10 * noise + 1e-13


def test_raw_local_exponent_is_off_as_derived_and_extrapolation_is_not():
    # One decade at 1e6 and at 1e12: the raw slope errs by a multiple of t^(-2/3).
    log_t, log_r, exponent, _, corrections = flow_series("N=1")
    local = local_exponent(log_t, log_r)
    off = np.abs(local.value - exponent)
    at = lambda t: off[np.argmin(np.abs(local.log_t - math.log(t)))]
    assert at(1e6) / at(1e12) == pytest.approx(1e4, rel=0.3)
    assert abs(extrapolate(log_t, log_r, corrections).exponent.value - exponent) < 1e-3 * at(1e12)


def random_series(rng, kind):
    """A series with a known limit, and the corrections that the caller supplies for it."""
    exponent, log_constant = rng.uniform(-2, 2), 3 * rng.normal()
    start, span = rng.uniform(1, 8), rng.uniform(8, 25)
    log_t = np.linspace(start, start + span, rng.integers(30, 200))
    if rng.random() < 0.3:
        log_t = np.sort(rng.uniform(start, start + span, log_t.size))
    power = rng.choice([0.5, 2 / 3, 1.0, 1.5])
    extra = 0.5 * rng.uniform(-1, 1) * np.exp(-power * log_t)
    corrections = [(power, 0)]
    if kind == "none supplied":
        corrections = []
    elif kind == "wrong power":
        corrections = [(rng.choice([p for p in (0.5, 2 / 3, 1.0, 1.5) if p != power]), 0)]
    elif kind == "log missed":
        extra = extra * log_t
    elif kind == "log supplied":
        extra = extra * log_t + rng.normal() * np.exp(-power * log_t)
        corrections = [(power, 1)]
    elif kind == "two powers":
        second = power + rng.choice([1 / 3, 0.5, 1.0])
        extra = extra + rng.normal() * np.exp(-second * log_t)
        corrections = [(power, 0), (second, 0)]
    return (
        log_t,
        log_constant + exponent * log_t + np.log1p(extra),
        exponent,
        log_constant,
        (corrections),
    )


@pytest.mark.parametrize(
    "kind",
    ["supplied", "two powers", "log supplied", "log missed", "wrong power", "none supplied"],
)
@pytest.mark.parametrize("noise", [0.0, 1e-10, 1e-6])
def test_the_true_error_lies_within_the_bar(kind, noise, rng):
    ratios, bars = [], []
    for _ in range(6):
        log_t, log_y, exponent, log_constant, corrections = random_series(rng, kind)
        shape = rng.choice(["white", "drift", "waves"])
        error = {
            "white": rng.uniform(-1, 1, log_t.size),
            "drift": np.linspace(-1, 1, log_t.size),
            "waves": np.cos(rng.uniform(0.1, 3) * log_t),
        }[shape]
        log_y = log_y + noise * error
        law = extrapolate(log_t, log_y, corrections, noise=noise)
        known = constant_with_known_exponent(log_t, log_y, exponent, corrections, noise=noise)
        for estimate, truth in (
            (law.exponent, exponent),
            (law.log_constant, log_constant),
            (known.log_constant, log_constant),
        ):
            assert estimate.covers(truth), (kind, noise, shape, estimate, truth)
        ratios.append(abs(law.exponent.value - exponent) / law.exponent.error)
        bars.append(law.exponent.error)
    # Not absurdly wide either: a bar is within a few hundred of the error it stands for, and
    # with the right corrections within a few hundred of the noise.
    assert np.max(ratios) > 1e-3
    if kind in ("supplied", "two powers"):
        assert np.median(bars) < 300 * noise + 1e-5


@pytest.mark.parametrize("t_end", [1e30, 1e300])
def test_far_times_and_a_slow_logarithm(t_end):
    # 1/ln t is no power: the bar must own up to it.
    log_t = np.linspace(math.log(1e3), math.log(t_end), 200)
    law = extrapolate(log_t, 0.7 * log_t + 0.2 + np.log1p(1 / log_t), [(1.0, 0)])
    assert law.exponent.covers(0.7)
    assert 1e-9 < law.exponent.error < 1e-2


def test_times_beyond_float_range():
    log_t = np.linspace(1e3, 1e10, 60)
    law = extrapolate(log_t, log_t / 3 + 0.1, [(2 / 3, 0)])
    assert law.exponent.covers(1 / 3)
    assert law.exponent.error < 1e-13
    assert law.log_constant.covers(0.1)


@pytest.mark.parametrize("level", [0.0, 700.0, -1e5])
def test_a_large_level_costs_only_its_rounding(level):
    log_t, log_r, exponent, _, corrections = flow_series("N=2")
    law = extrapolate(log_t, log_r + level, corrections)
    assert law.exponent.covers(exponent)
    assert law.exponent.error < 1e-13 + 1e-14 * abs(level)


def test_constant_that_overflows_stays_finite_as_a_logarithm():
    log_t = np.linspace(0, 20, 40)
    law = extrapolate(log_t, 2 * log_t + 1e4)
    assert law.constant.value == math.inf
    assert law.log_constant.covers(1e4)


def test_local_exponent_of_a_power_with_a_correction(rng):
    log_t = np.sort(rng.uniform(0, 20, 150))
    log_y = -0.3 * log_t + np.log1p(0.5 * np.exp(-0.5 * log_t))
    x = 0.5 * np.exp(-0.5 * (middle := 0.5 * (log_t[1:] + log_t[:-1])))
    local = local_exponent(log_t, log_y)
    assert local.log_t == pytest.approx(middle)
    assert local.value.shape == local.error.shape == (149,)
    assert np.all(np.abs(local.value - (-0.3 - 0.5 * x / (1 + x))) <= local.error)
    noisy = local_exponent(log_t, log_y + 1e-6 * rng.uniform(-1, 1, 150), noise=1e-6)
    assert np.all(np.abs(noisy.value - (-0.3 - 0.5 * x / (1 + x))) <= noisy.error)


@pytest.mark.parametrize("noise", [0.0, 1e-10, 1e-7])
def test_exponential_law_with_a_power_prefactor(noise):
    # theta ~ C R^B exp(-A R^2): the power is wanted to three digits.
    rate, power, log_constant = 0.123, -0.31, 0.7
    radius = np.geomspace(3, 300, 80)
    x = radius**2
    log_y = -rate * x + power * np.log(radius) + log_constant + 0.9 / x - 1.3 / x**2
    log_y = log_y + noise * np.cos(3 * np.log(x))
    law = exponential_rate(x, log_y, noise=noise)
    pinned = exponential_rate(x, log_y, rate=rate, noise=noise)
    assert law.rate.covers(rate)
    assert law.power.covers(power / 2)
    assert law.log_constant.covers(log_constant)
    assert pinned.power.covers(power / 2)
    assert law.power.error < 1e-3 * abs(power) / 2
    assert pinned.power.error < max(law.power.error, 1e-9)


def test_exponential_law_with_a_logarithm_missed_keeps_an_honest_bar():
    x = np.geomspace(10, 1e5, 100)
    law = exponential_rate(x, -0.4 * x + 0.2 * np.log(x) + 1 + 0.3 * np.log(x) / x)
    assert law.rate.covers(0.4)
    assert law.power.covers(0.2)
    assert law.log_constant.covers(1.0)


def test_corrections_are_closed_under_products_and_lower_logarithms():
    assert rates._orders([(1.0, 1)])[:2] == [[(1.0, 1), (1.0, 0)], [(2.0, 2), (2.0, 1), (2.0, 0)]]
    powers = [group[0][0] for group in rates._orders([(2 / 3, 0), (1.0, 0)])]
    assert powers == pytest.approx([2 / 3, 1, 4 / 3, 5 / 3, 2])


GOOD = np.linspace(0.0, 10.0, 20)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: extrapolate(GOOD[::-1], GOOD), "log_t"),
        (lambda: extrapolate(GOOD[:5], GOOD[:5]), "at least 12"),
        (lambda: extrapolate(GOOD, GOOD[:-1]), "log_y"),
        (lambda: extrapolate(GOOD, np.where(GOOD > 5, np.nan, GOOD)), "log_y"),
        (lambda: extrapolate(GOOD, GOOD, [(-1.0, 0)]), "corrections"),
        (lambda: extrapolate(GOOD, GOOD, [(1.0, 0.5)]), "corrections"),
        (lambda: extrapolate(GOOD, GOOD, [1.0]), "corrections"),
        (lambda: extrapolate(GOOD, GOOD, noise=-1.0), "noise"),
        (lambda: extrapolate(GOOD, GOOD, noise=np.zeros(3)), "noise"),
        (lambda: extrapolate(GOOD.astype(np.float32), GOOD), "float32"),
        (lambda: constant_with_known_exponent(GOOD, GOOD, math.nan), "exponent"),
        (lambda: exponential_rate(GOOD, GOOD), "x"),
        (lambda: exponential_rate(GOOD + 1, GOOD, rate=math.inf), "rate"),
        (lambda: local_exponent(GOOD[:3], GOOD[:3]), "at least 4"),
    ],
)
def test_bad_input_names_the_argument_and_the_fix(call, names):
    with pytest.raises(ValueError, match=names):
        call()


def test_estimate_covers():
    assert Estimate(1.0, 0.1).covers(1.05)
    assert not Estimate(1.0, 0.1).covers(1.2)
