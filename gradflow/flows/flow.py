r"""A flow: a chart and a clock together give the vector field that an integrator sees.

The integrated vector is ``Y = (chart state, energy, clock states)`` with the energy
:math:`\int\|\dot\theta\|^2dt`, which must equal the loss spent: a free monitor of the error.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.flows.charts.chart import AbstractChart, AbstractCoordinates, CartesianChart
from gradflow.flows.charts.conic import ConicChart
from gradflow.flows.charts.offers import chart_names, chosen_chart
from gradflow.flows.clocks import CLOCKS, AbstractClock
from gradflow.flows.event import AbstractHandover
from gradflow.flows.metrics import Metric, make_metric
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_choice, fail


class Flow(eqx.Module):
    """A vector field dY/ds, ready for an integrator."""

    chart: AbstractCoordinates
    clock: AbstractClock

    @property
    def extras(self) -> int:
        """Entries of the integrated vector behind the chart's: the energy and the clock's."""
        return 1 + self.clock.states

    @property
    def arrangement(self) -> Arrangement | None:
        """The surfaces of the risk's data where the chart keeps neurons apart (host), else None."""
        return self.chart.arrangement

    def vector(self, params: PyTree, extra: Array) -> Array:
        """Integrated vector of parameters in the cartesian chart (JAX)."""
        return jnp.concatenate([ravel_pytree(params)[0], extra])

    def core(self) -> Flow:
        """The flow without host-only data: pass this to compiled code."""
        return Flow(self.chart.core(), self.clock)

    def initial(self, params: PyTree, log1p_t: float = 0.0) -> np.ndarray:
        """Integrated vector of parameters at ln(1+t) = ``log1p_t``, where the clock begins."""
        extra = self.clock.begin(log1p_t)[1]
        return np.concatenate([self.chart.encode(params), np.zeros(1), extra])

    def with_chart(self, chart: AbstractCoordinates) -> Flow:
        """The same clock in another chart."""
        return Flow(chart, self.clock)

    def restart(self, Y: np.ndarray, chart_state: np.ndarray) -> np.ndarray:
        """Integrated vector with another chart's state, energy and clock carried over."""
        return np.concatenate([np.asarray(chart_state, np.float64), Y[-self.extras :]])

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

    def params(self, Y: Array) -> PyTree:
        """Parameters at one integrated vector (JAX)."""
        return self.chart.params(self.split(Y)[0])

    def log_risk(self, Y: Array) -> Array:
        """ln L (JAX)."""
        return self.chart.log_risk(self.split(Y)[0])

    def gradient_norm(self, Y: Array) -> Array:
        """Norm of the risk's gradient (JAX)."""
        return self.chart.gradient_norm(self.split(Y)[0])

    def field(self, s: Array, Y: Array) -> Array:
        """dY/ds."""
        y, _, extra = self.split(Y)
        return self.clock.field(self._dynamics, s, y, extra)

    def velocity(self, y: Array) -> Array:
        """d/dt of the chart's state, in physical time (JAX)."""
        return self._dynamics.velocity(y)

    def held_until(self, s: float, Y: np.ndarray, log1p_t: float) -> tuple[float, np.ndarray]:
        """Clock and integrated vector at a later ln(1+t), of a flow that rests at ``Y`` (host)."""
        rest, extra, log_risk = self._resting(Y)
        later, extra = self.clock.held_until(s, extra, log_risk, log1p_t)
        return later, np.concatenate([rest, extra])

    def held_to(self, s: float, Y: np.ndarray, later: float) -> np.ndarray:
        """Integrated vector at a later clock value, of a flow that rests at ``Y`` (host)."""
        rest, extra, log_risk = self._resting(Y)
        return np.concatenate([rest, self.clock.held_to(s, extra, log_risk, later)])

    def _resting(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """What stays, the states of the clock, ln L."""
        kept = Y.shape[0] - self.clock.states
        return Y[:kept], Y[kept:], float(self.log_risk(jnp.asarray(Y)))

    def turning(self, s: Array, Y: Array) -> Array:
        """Rate at which the direction of the parameters turns, per unit of ln(1+t) (JAX)."""
        return self._dynamics.turning(self.split(Y)[0], self.t(s, Y))

    def least_margin(self, Y: Array) -> Array | None:
        """The least margin, of a loss that vanishes only where it is infinite; else None (JAX)."""
        return self.chart.least_margin(self.split(Y)[0])

    def describe(self, s: float, Y: np.ndarray) -> dict[str, float]:
        """What the flow tells of itself to who watches: ln t and ln L (host)."""
        log_t = float(np.asarray(self.log_t(np.array([s]), Y[None]))[0])
        log_loss = float(self.log_risk(jnp.asarray(Y)))
        with np.errstate(over="ignore"):
            return {"log_t": log_t, "log_loss": log_loss, "loss": float(np.exp(log_loss))}

    def handover(self) -> AbstractHandover | None:
        """Where another chart takes over; None where this one serves for ever."""
        return self._dynamics.handover()

    @property
    def _dynamics(self) -> AbstractChart:
        if not isinstance(self.chart, AbstractChart):
            raise TypeError(f"{self.chart.name} coordinates have a stepper of their own")
        return self.chart


def make_flow(
    risk: AbstractRisk,
    params: PyTree,
    *,
    chart: str = "auto",
    clock: str = "log",
    metric: Metric = "euclidean",
) -> Flow:
    """The flow of ``risk`` from ``params``.

    Parameters
    ----------
    risk : AbstractRisk
    params : pytree
        The start; it fixes frames and signs.
    chart : {"auto", "cartesian", "log-angle", "conic"} or a registered name
        ``"auto"`` takes the first chart that the risk offers (``risk.charts``) and this start has:
        the log-angle chart for population risks of the linear predictor, balanced deep linear nets
        and two opposed or like neurons with logistic loss; the conic chart in the conic metric.
    clock : {"physical", "log", "loss"}
    metric : {"euclidean", "conic"}, mapping or callable
        ``"conic"``: neuron k moves by -|w_k| times its gradient (:mod:`.charts.conic`); rates by
        name or a function that returns a matrix: :mod:`.metrics`, in cartesian coordinates.

    Raises
    ------
    ValueError
        Unknown names; a chart or a metric asked of a risk or a start that has none.
    """
    check_choice("chart", chart, chart_names())
    clocked = CLOCKS[check_choice("clock", clock, CLOCKS)]
    if isinstance(metric, str) and metric == "conic":
        return Flow(_conic(risk, params, chart), clocked)
    made = make_metric(metric, params)
    if made.plain:
        return Flow(chosen_chart(risk, params, chart), clocked)
    if chart not in ("auto", "cartesian"):
        raise fail("chart", chart, "does not serve this metric", "pass chart='cartesian'")
    return Flow(CartesianChart(risk, params, made), clocked)


def _conic(risk: AbstractRisk, params: PyTree, chart: str) -> ConicChart:
    """The chart of the conic metric."""
    if chart not in ("auto", "conic"):
        raise fail("chart", chart, "does not serve the conic metric", "pass chart='conic'")
    reason = ConicChart.metric_refusal(risk)
    if reason is not None:
        raise fail("metric", "conic", reason, "leave metric out")
    return ConicChart(risk, params)
