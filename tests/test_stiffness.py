"""The switch between explicit and implicit steps."""

import numpy as np
import pytest

from gradflow.integrators.steppers.cells.jacobian import CellJacobian
from gradflow.integrators.steppers.cells.step import TSIT5
from gradflow.integrators.steppers.cells.stiffness import (
    Calm,
    LargestRate,
    limited,
    rate_of_stages,
)


def _switches(rates):
    """The numbers of the steps after which implicit ones are to follow."""
    count = np.zeros(12, np.int64)
    return [i for i, rate in enumerate(rates) if limited(count, rate)]


@pytest.mark.parametrize(
    ("rates", "switches"),
    [
        ([3.0] * 17, [7, 15]),
        ([2.4] * 100, []),
        ([3.0] * 4 + [1.0] * 5 + [3.0] * 4, [12]),
        ([3.0] * 4 + [1.0] * 6 + [3.0] * 4, []),
    ],
    ids=["at the limit", "below it", "forgets not", "forgets"],
)
def test_explicit_steps_at_their_limit_turn_implicit(rates, switches):
    assert _switches(rates) == switches


def test_calm_implicit_steps_in_a_row_turn_explicit():
    calm = Calm()
    rates = [0.5] * 9 + [5.0] + [0.5] * 10
    assert [i for i, rate in enumerate(rates) if calm.after(rate)] == [19]


def test_the_rate_of_the_stages_of_a_linear_field_is_its_rate():
    # all but the fastest mode of J has died out
    y, h = np.array([1.0, 0.0]), 0.4
    J = np.diag([-7.0, -1.0])
    K, y1 = np.zeros((7, 2)), np.zeros(2)
    for i in range(7):
        y1 = y + h * TSIT5.A[i] @ K
        K[i] = J @ y1
    assert rate_of_stages(TSIT5, y, h, K, y1, 2) == pytest.approx(7.0)


def test_the_largest_rate_is_found_within_some_steps():
    rng = np.random.default_rng(0)
    n, D, m = 6, 3, 2
    at = CellJacobian(
        inputs=rng.normal(size=(n, D)), slopes=rng.choice([0.0, 1.0], size=(m, n)),
        values=rng.normal(size=(m, n)), outer=rng.normal(size=(m, 1)),
        pulls=0.1 * rng.normal(size=(n, 1)), roots=np.ones((n, 1, 1)), slides={}, trained=True,
        decay=np.zeros(D),
    )  # fmt: skip
    exact = np.max(np.abs(np.linalg.eigvalsh(at.dense)))
    rate = LargestRate()
    found = [rate(at, np.ones(at.size)) for _ in range(10)]
    assert np.all(np.array(found) <= exact * (1 + 1e-12))
    assert found[-1] > 0.98 * exact
