"""The switch between explicit and implicit steps."""

import numpy as np
import pytest

from gradflow.integrators.steppers.cells.jacobian import CellJacobian
from gradflow.integrators.steppers.cells.stiffness import (
    LargestRate,
    Stiffness,
    rate_of_stages,
)


def test_explicit_steps_at_their_limit_turn_implicit_and_calm_ones_back():
    switch = Stiffness()
    for _ in range(7):
        switch.explicit_step(3.0)
    assert not switch.implicit
    switch.explicit_step(3.0)
    assert switch.implicit
    for _ in range(9):
        switch.implicit_step(0.5)
    switch.implicit_step(5.0)
    for _ in range(9):
        switch.implicit_step(0.5)
    assert switch.implicit
    switch.implicit_step(0.5)
    assert not switch.implicit


@pytest.mark.parametrize(("free", "implicit"), [(5, True), (6, False)])
def test_steps_that_are_not_limited_are_forgotten_only_in_a_row(free, implicit):
    switch = Stiffness()
    for _ in range(4):
        switch.explicit_step(3.0)
    for _ in range(free):
        switch.explicit_step(1.0)
    for _ in range(4):
        switch.explicit_step(3.0)
    assert switch.implicit == implicit


def test_false_crossings_turn_implicit():
    switch = Stiffness()
    for _ in range(3):
        assert not switch.implicit
        switch.explicit_step(2.0)
        switch.false_crossing()
    assert switch.implicit


def test_the_rate_of_two_stages_is_that_of_a_linear_field():
    y6, y7 = np.array([1.0, 2.0]), np.array([1.0, 2.5])
    J = np.diag([-1.0, -7.0])
    assert rate_of_stages(J @ y6, J @ y7, y6, y7) == pytest.approx(7.0)
    assert rate_of_stages(J @ y6, J @ y6, y6, y6) == 0.0


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
