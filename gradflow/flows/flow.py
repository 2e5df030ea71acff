r"""A flow: a chart and a clock together give the vector field that an integrator sees.

The integrated vector is ``Y = (chart state, energy, clock states)`` with the energy
:math:`\int\|\dot\theta\|^2dt`, which must equal the loss spent: a free monitor of the error.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from gradflow.cells.arrangement import Arrangement
from gradflow.flows.charts.chart import AbstractChart, CartesianChart
from gradflow.flows.charts.conic import METRICS, ConicChart
from gradflow.flows.charts.linear import LinearLogAngleChart
from gradflow.flows.charts.two_neuron import TwoNeuronChart
from gradflow.flows.clocks import CLOCKS, AbstractClock, LogClock
from gradflow.networks.networks import TwoLayer
from gradflow.risks.base import AbstractRisk
from gradflow.risks.population.population import PopulationRisk
from gradflow.validation import check_choice, fail


class Flow(eqx.Module):
    """A vector field dY/ds, ready for an integrator."""

    chart: AbstractChart
    clock: AbstractClock

    @property
    def extras(self) -> int:
        """Entries of the integrated vector behind the chart's: the energy and the clock's."""
        return 1 + self.clock.states

    @property
    def arrangement(self) -> Arrangement | None:
        """The surfaces of the risk's data where the chart keeps neurons apart (host), else None."""
        return self.chart.arrangement

    def vector(self, params: Any, extra: Array) -> Array:
        """Integrated vector of parameters in the cartesian chart (JAX)."""
        return jnp.concatenate([ravel_pytree(params)[0], extra])

    def core(self) -> Flow:
        """The flow without host-only data: pass this to compiled code."""
        return Flow(self.chart.core(), self.clock)

    def with_chart(self, chart: AbstractChart) -> Flow:
        """The same clock in another chart."""
        return Flow(chart, self.clock)

    def initial(self, params: Any) -> np.ndarray:
        """Integrated vector at time 0."""
        return np.concatenate([self.chart.encode(params), np.zeros(1 + self.clock.states)])

    def restart(self, Y: np.ndarray, chart_state: np.ndarray) -> np.ndarray:
        """Integrated vector with another chart's state, energy and clock carried over."""
        return np.concatenate([chart_state, Y[-1 - self.clock.states :]])

    def split(self, Y):
        """(chart state, energy, clock states), over any leading axes."""
        n = Y.shape[-1] - 1 - self.clock.states
        return Y[..., :n], Y[..., n], Y[..., n + 1 :]

    def error_mask(self, Y: np.ndarray) -> np.ndarray:
        """True where the error is controlled; the energy monitor is left out."""
        mask = np.ones(Y.shape, dtype=bool)
        mask[Y.shape[-1] - 1 - self.clock.states] = False
        return mask

    def scales(self, Y: np.ndarray) -> np.ndarray:
        """Sizes to which absolute tolerances are relative."""
        y, _, _ = self.split(Y)
        return np.concatenate([self.chart.scales(y), np.ones(1 + self.clock.states)])

    def rounding(self, Y: np.ndarray) -> np.ndarray:
        """Absolute errors that rounding makes unavoidable."""
        y, _, _ = self.split(Y)
        return np.concatenate([self.chart.rounding(y), np.zeros(1 + self.clock.states)])

    def t(self, s, Y):
        """Physical time."""
        return self.clock.time(s, self.split(Y)[2])

    def log1p_t(self, s, Y):
        """ln(1+t)."""
        return self.clock.log1p_time(s, self.split(Y)[2])

    def log_t(self, s, Y) -> np.ndarray:
        """ln t (host)."""
        return self.clock.log_time(s, self.split(Y)[2])

    def s_of_t(self, t: float) -> float | None:
        """Clock value of a physical time; None where time is a state."""
        return self.clock.of_time(t)

    def field(self, s: Array, Y: Array) -> Array:
        """dY/ds."""
        y, _, _ = self.split(Y)
        if self.clock.states:
            log_risk = self.chart.log_risk(y)
            dy = self.chart.log_velocity(y)
            # dtau/ds = (1/L) / (1+t), and d(energy)/ds = L |grad ln L|^2
            tail = [self.chart.speed_squared(y, dy) * jnp.exp(log_risk), jnp.exp(-log_risk - Y[-1])]
            return jnp.concatenate([dy, jnp.stack(tail)])
        dy = self.chart.velocity(y)
        rate = jnp.exp(s) if isinstance(self.clock, LogClock) else 1.0
        return rate * jnp.concatenate([dy, self.chart.speed_squared(y, dy)[None]])

    def stage_end(self, s: Array, Y: Array) -> Array | None:
        """Negative while the chart serves; None when it serves for ever."""
        return self.chart.stage_end(self.split(Y)[0], self.t(s, Y))


def make_flow(
    risk: AbstractRisk,
    params: Any,
    *,
    chart: str = "auto",
    clock: str = "log",
    metric: str = "euclidean",
) -> Flow:
    """The flow of ``risk`` from ``params``.

    Parameters
    ----------
    risk : AbstractRisk
    params : pytree
        The start; it fixes frames and signs.
    chart : {"auto", "cartesian", "log-angle", "conic"}
        ``"auto"`` takes the log-angle chart where the risk has one (population risks of the linear
        predictor, balanced deep linear nets and two opposed or like neurons with logistic loss),
        and the conic chart in the conic metric.
    clock : {"physical", "log", "loss"}
    metric : {"euclidean", "conic"}
        ``"conic"``: neuron k moves by -|w_k| times its gradient (:mod:`.charts.conic`).

    Raises
    ------
    ValueError
        Unknown names; a chart or a metric asked of a risk or a start that has none.
    """
    check_choice("chart", chart, ("auto", "cartesian", "log-angle", "conic"))
    check_choice("clock", clock, CLOCKS)
    check_choice("metric", metric, METRICS)
    if metric == "conic" and chart not in ("auto", "conic"):
        raise fail("chart", chart, "does not serve the conic metric", "pass chart='conic'")
    if metric == "conic" or chart == "conic":
        argument, value = ("metric", metric) if metric == "conic" else ("chart", chart)
        reason = ConicChart.refusal(risk, params, metric)
        if reason is not None:
            raise fail(argument, value, reason, f"leave {argument} out")
        return Flow(ConicChart(risk, params), CLOCKS[clock])
    made: AbstractChart | None = None
    reason = "the log-angle chart exists for population risks only"
    if chart != "cartesian" and isinstance(risk, PopulationRisk):
        kind = TwoNeuronChart if isinstance(risk.net, TwoLayer) else LinearLogAngleChart
        reason = kind.refusal(risk, params)
        if reason is None:
            made = kind.of(risk, params)
    if made is None:
        if chart == "log-angle":
            raise fail("chart", chart, str(reason), "pass chart='cartesian'")
        made = CartesianChart(risk, params)
    return Flow(made, CLOCKS[clock])
