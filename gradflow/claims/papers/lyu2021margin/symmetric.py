"""Claims on margin maximisation and simplicity bias (`lyu2021margin`): symmetric data.

The instances that the package itself weighs; the statements are in `limits` and `phases`, those on
hinted data in `hinted`, on uniqueness in `branching`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import gradflow as gf
from gradflow.claims import Claim
from gradflow.claims.papers.lyu2021margin.limits import (
    global_optimum,
    limit_function,
    limit_margin,
    limit_masses,
    same_sign_limit,
    same_sign_probability,
    unpolished_margin,
)
from gradflow.claims.papers.lyu2021margin.phases import (
    phase_one_duration,
    phase_one_groups,
    phase_one_rate,
    phase_one_state,
    two_neuron_tracking,
)
from gradflow.claims.papers.lyu2021margin.setting import Instance, instance


@cache
def plane() -> gf.datasets.Dataset:
    """Ten data in the plane."""
    return gf.datasets.symmetric(10, dim=2, seed=0)


@cache
def mixed() -> tuple[Instance, ...]:
    """Two nets on five data sets, each from the first draw with b_k of both signs.

    Nets of one shape and slope share a compiled program.
    """
    found = []
    for width, dim, slope, data_seeds in ((4, 2, 0.5, (0, 1, 2)), (6, 3, 0.1, (3, 4))):
        for data_seed in data_seeds:
            data = gf.datasets.symmetric(10, dim=dim, seed=data_seed)
            drawn = (instance(data, slope=slope, width=width, seed=seed) for seed in range(50))
            found.append(next(one for one in drawn if abs(sum(one.b > 0) * 2 - width) < width))
    return tuple(found)


def _any_slope() -> list[Instance]:
    some = mixed()
    return [*some[:2], some[3], some[0].but(slope=0.0), some[0].but(slope=1.0)]


def _early() -> list[Instance]:
    """One compiled program for all of these: four neurons in the plane."""
    return [one.but(scale=1e-8) for one in mixed()[:3]]


def _ensemble() -> list[Instance]:
    data = [gf.datasets.symmetric(10, dim=2, seed=seed) for seed in range(4)]
    return [
        instance(data[seed // 4], slope=0.5, width=4, seed=seed, scale=1e-8) for seed in range(16)
    ]


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "global-optimum": lambda: global_optimum(_any_slope()),
    "same-sign-probability": lambda: same_sign_probability(data=plane()),
    "limit-margin": lambda: limit_margin(mixed()),
    "limit-masses": lambda: limit_masses(mixed()),
    "limit-function": lambda: limit_function(mixed()),
    "limit-margin-unpolished": lambda: unpolished_margin(mixed()),
    "same-sign-limit": lambda: same_sign_limit([one.same_sign() for one in mixed()[::3]]),
    "phase-1-rate": lambda: phase_one_rate(_early()),
    "phase-1-state": lambda: phase_one_state(_early()),
    "phase-1-duration": lambda: phase_one_duration(_early()),
    "phase-1-groups": lambda: phase_one_groups(_ensemble()),
    "phase-2-tracking": lambda: two_neuron_tracking(mixed()[:2]),
}
