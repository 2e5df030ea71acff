"""A risk and a chart of one's own: coordinates in which the flow is a straight line."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.flows.charts.chart import AbstractChart
from gradflow.flows.charts.offers import register_chart
from gradflow.risks.base import AbstractRisk


class Decay(AbstractRisk):
    """L = e^{-w}, of one number w."""

    net: None = None

    def __call__(self, params: Any) -> jax.Array:
        return jnp.exp(-params["w"])

    def log(self, params: Any) -> jax.Array:
        return -params["w"]

    def gradient(self, params: Any) -> Any:
        return {"w": -jnp.exp(-params["w"])}

    def charts(self, params: Any) -> tuple[str, ...]:
        return ("straight", *super().charts(params))

    @property
    def name(self) -> str:
        return "decay"

    def describe(self) -> dict[str, Any]:
        return {"risk": "decay"}


class Straight(AbstractChart):
    """y = e^w: y' = 1."""

    @property
    def name(self) -> str:
        return "straight"

    def encode(self, params: Any) -> np.ndarray:
        return np.exp(np.atleast_1d(np.asarray(params["w"])))

    def decode(self, y: np.ndarray) -> Any:
        return {"w": np.log(y[..., 0])}

    def params(self, y: jax.Array) -> Any:
        return {"w": jnp.log(y[0])}

    def exact(self, y: np.ndarray) -> dict[str, np.ndarray]:
        return {"log_loss": -np.log(y[..., 0])}

    def scales(self, y: np.ndarray) -> np.ndarray:
        return np.abs(y)

    def velocity(self, y: jax.Array) -> jax.Array:
        return jnp.ones(1)

    def speed_squared(self, y: jax.Array, dy: jax.Array) -> jax.Array:
        return (dy[0] / y[0]) ** 2

    def log_risk(self, y: jax.Array) -> jax.Array:
        return -jnp.log(y[0])

    def turning(self, y: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.zeros(())


def refusal(risk: Any, params: Any) -> str | None:
    return "grows too large" if float(params["w"]) > 300 else None


register_chart("straight", lambda risk, params: Straight(), refusal)
START = {"w": jnp.asarray(0.5)}


@pytest.mark.parametrize("integrator", ["auto", "lsoda"])
def test_a_chart_of_ones_own_is_taken(integrator, tmp_path):
    path = gf.integrate(Decay(), START, until=1e3, clock="physical", integrator=integrator)
    assert path.chart == "straight"
    assert path.final["w"] == pytest.approx(np.log(np.exp(0.5) + 1e3), rel=1e-10)
    assert np.max(path.observe("energy_defect")) < 1e-8
    stops = gf.until.when(lambda p: p["w"], at=3.0) | gf.until.time(1e3)
    assert gf.integrate(Decay(), START, until=stops).final["w"] == pytest.approx(3.0, rel=1e-9)
    on = gf.integrate(path, until=2e3)
    assert on.final["w"] == pytest.approx(np.log(np.exp(0.5) + 2e3), rel=1e-10)


def test_it_is_one_of_several():
    plain = gf.integrate(Decay(), START, until=10.0, chart="cartesian")
    assert plain.final["w"] == pytest.approx(np.log(np.exp(0.5) + 10.0), rel=1e-8)
    assert gf.integrate(Decay(), {"w": jnp.asarray(400.0)}, until=1.0).chart == "cartesian"
    with pytest.raises(ValueError, match="grows too large"):
        gf.integrate(Decay(), {"w": jnp.asarray(400.0)}, until=1.0, chart="straight")
    with pytest.raises(ValueError, match=r"decay has no conic chart, but straight and cartesian"):
        gf.integrate(Decay(), START, until=1.0, chart="conic")
    with pytest.raises(ValueError, match="taken by another chart"):
        register_chart("straight", lambda risk, params: Straight())
