"""Traps in which stock integrators were plausibly wrong: errors must stay below the tolerance."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import SmallStartWarning
from gradflow.integration import integrate
from gradflow.integrators import until
from gradflow.risks.function import FunctionRisk

LOGISTIC = FunctionRisk(
    lambda p: 1 / 6 - 0.5 * p["y"] ** 2 + p["y"] ** 3 / 3, label="logistic growth"
)
SADDLE = FunctionRisk(
    lambda p: 0.25 - 0.5 * p["x"] ** 2 + 0.25 * p["x"] ** 4 + 0.5 * p["z"] ** 2, label="saddle"
)
PRODUCT = FunctionRisk(lambda p: 0.5 * (1 - p["a"] * p["b"]) ** 2, label="product")
POWER = FunctionRisk(lambda p: 0.25 * p["x"] ** 4, label="power")
EXPONENTIAL = FunctionRisk(lambda p: jnp.exp(-p["w"]), label="exponential")
DECAY = FunctionRisk(lambda p: 0.5 * (p["a"] ** 2 + 9 * p["b"] ** 2), label="decay")


def logistic(y0, t):
    return {"y": 1 / (1 + (1 - y0) / y0 * np.exp(-t))}


def saddle(x0, t):
    return {"x": 1 / np.sqrt(1 + (1 - x0**2) * np.exp(-2 * t - 2 * np.log(x0))), "z": np.exp(-t)}


def product(a0, t):
    root = np.sqrt(1 / (1 + (1 - a0**2) * np.exp(-2 * t - 2 * np.log(a0))))
    return {"a": root, "b": root}


# (label, risk, start, time, exact end): each stops where the state moves fastest or well after.
FLOWS = [
    *(
        (f"logistic-{y0:g}", LOGISTIC, {"y": y0}, -np.log(y0), logistic(y0, -np.log(y0)))
        for y0 in (1e-6, 1e-20, 1e-60)
    ),
    *(
        (f"saddle-{x0:g}", SADDLE, {"x": x0, "z": 1.0}, t, saddle(x0, t))
        for x0, t in ((1e-6, 14.3), (1e-20, 46.5))
    ),
    *(
        (f"product-{a0:g}", PRODUCT, {"a": a0, "b": a0}, -np.log(a0), product(a0, -np.log(a0)))
        for a0 in (1e-6, 1e-20, 1e-60)
    ),
    ("power", POWER, {"x": 1.0}, 1e4, {"x": 1 / np.sqrt(1 + 2e4)}),
    ("exponential", EXPONENTIAL, {"w": 0.1}, 1e6, {"w": np.log(np.exp(0.1) + 1e6)}),
    ("decay", DECAY, {"a": 1.0, "b": 2.0}, 5.0, {"a": np.exp(-5.0), "b": 2 * np.exp(-45.0)}),
]


def error_in_tolerances(trajectory, start, exact, rtol):
    """Largest |error| / (rtol (|exact| + |start|)) over the components."""
    return max(
        abs(float(trajectory.final[k]) - exact[k]) / (rtol * (abs(exact[k]) + abs(start[k])))
        for k in exact
    )


CASES = [
    *(("auto", flow) for flow in FLOWS),
    *(("tsit5", flow) for flow in FLOWS if flow[1] in (LOGISTIC, POWER)),
]


@pytest.mark.parametrize(("integrator", "flow"), CASES, ids=[f"{i}-{f[0]}" for i, f in CASES])
def test_the_error_stays_below_the_tolerance_asked(integrator, flow):
    _, risk, start, t, exact = flow
    params = {k: jnp.asarray(v) for k, v in start.items()}
    for rtol in (1e-6, 1e-8, 1e-10) if integrator == "auto" else (1e-6, 1e-8):
        trajectory = integrate(risk, params, until=until.time(t), rtol=rtol, integrator=integrator)
        assert trajectory.result.ok
        assert error_in_tolerances(trajectory, start, exact, rtol) < 1.5


@pytest.mark.parametrize("integrator", ["lsoda", "radau", "dop853"])
def test_scipy_leaves_the_saddle_on_time(integrator):
    _, risk, start, t, exact = FLOWS[1]
    params = {k: jnp.asarray(v) for k, v in start.items()}
    trajectory = integrate(risk, params, until=until.time(t), rtol=1e-6, integrator=integrator)
    assert error_in_tolerances(trajectory, start, exact, 1e-6) < 20


def test_absolute_tolerance_above_the_start_warns_and_is_wrong():
    _, risk, start, t, exact = FLOWS[1]
    params = {k: jnp.asarray(v) for k, v in start.items()}
    with pytest.warns(SmallStartWarning, match="atol"):
        trajectory = integrate(risk, params, until=until.time(t), rtol=1e-6, atol=1e-8)
    # The warning is deserved: the trap is real.
    assert error_in_tolerances(trajectory, start, exact, 1e-6) > 100


def test_one_alone_and_the_same_in_company():
    """Same bits on one build for the same call; another batch around it changes the last digits."""
    alone = integrate(DECAY, {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}, until=until.time(5.0))
    again = integrate(DECAY, {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}, until=until.time(5.0))
    np.testing.assert_array_equal(alone.params["a"], again.params["a"])
    many = FunctionRisk(lambda p: 0.5 * jnp.sum(p["a"] ** 2 + 9 * p["b"] ** 2))
    start = {"a": jnp.full(3, 1.0), "b": jnp.full(3, 2.0)}
    together = integrate(many, start, until=until.time(5.0))
    np.testing.assert_allclose(together.final["a"], float(alone.final["a"]), rtol=1e-12)


def test_energy_monitor_sees_a_loose_tolerance():
    start = {"x": jnp.asarray(1e-6), "z": jnp.asarray(1.0)}
    loose = integrate(SADDLE, start, until=until.time(20.0), rtol=1e-3).observe("energy_defect")
    tight = integrate(SADDLE, start, until=until.time(20.0), rtol=1e-10).observe("energy_defect")
    assert tight.max() < 1e-9 < loose.max()
