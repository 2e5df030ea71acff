"""Claims on margin maximisation and simplicity bias (`lyu2021margin`): symmetric data.

The instances that the package itself weighs; the statements are in
`gradflow.claims.lyu2021margin_limits` and `gradflow.claims.lyu2021margin_phases`, those on hinted
data, and on uniqueness, in `gradflow.claims.lyu2021margin_hinted`.
"""

from __future__ import annotations

from gradflow.claims.lyu2021margin_common import Instance, instance
from gradflow.claims.lyu2021margin_limits import (
    global_optimum,
    limit_function,
    limit_margin,
    limit_masses,
    same_sign_limit,
    same_sign_probability,
    unpolished_margin,
)
from gradflow.claims.lyu2021margin_phases import (
    phase_one_duration,
    phase_one_groups,
    phase_one_rate,
    phase_one_state,
    two_neuron_tracking,
)
from gradflow.claims.registry import register
from gradflow.data.datasets.symmetric import symmetric

PLANE = symmetric(10, dim=2, seed=0)


def _draws(mixed: bool) -> list[Instance]:
    """Two nets on five data sets, each from the first draw with b_k of both signs; or of one.

    Nets of one shape and slope share a compiled program.
    """
    found = []
    for width, dim, slope, data_seeds in (
        (4, 2, 0.5, (0, 1, 2)),
        (6, 3, 0.1, (3, 4)),
    ):
        for data_seed in data_seeds:
            data = symmetric(10, dim=dim, seed=data_seed)
            drawn = (instance(data, slope=slope, width=width, seed=seed) for seed in range(50))
            found.append(next(one for one in drawn if abs(sum(one.b > 0) * 2 - width) < width))
    return found if mixed else [one.same_sign() for one in found[::3]]


MIXED, SAME_SIGN = _draws(True), _draws(False)

register(global_optimum([*MIXED[:2], MIXED[3], MIXED[0].but(slope=0.0), MIXED[0].but(slope=1.0)]))
register(same_sign_probability(data=PLANE))
register(limit_margin(MIXED))
register(limit_masses(MIXED))
register(limit_function(MIXED))
register(unpolished_margin(MIXED))
register(same_sign_limit(SAME_SIGN))

# (one compiled program for all of these: four neurons in the plane)
EARLY = [one.but(scale=1e-8) for one in MIXED[:3]]
ENSEMBLE = [
    instance(symmetric(10, dim=2, seed=seed // 4), slope=0.5, width=4, seed=seed, scale=1e-8)
    for seed in range(16)
]

register(phase_one_rate(EARLY))
register(phase_one_state(EARLY))
register(phase_one_duration(EARLY))
register(phase_one_groups(ENSEMBLE))
register(two_neuron_tracking(MIXED[:2]))
