r"""Clocks: time changes of a flow. They move the points of the curve in time and leave the curve
alone.

====== =============================== =====================================
clock  definition                      used for
====== =============================== =====================================
physical :math:`s=t`                   short times
log      :math:`s=\ln(1+t)`            rates, late times
loss     :math:`ds=L\,dt`              flows whose loss underflows (:math:`\theta'=-\nabla\ln L`)
====== =============================== =====================================
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.flows.charts.chart import AbstractChart
from gradflow.numerics.logs import log_expm1

#: exp of it, times moderate numbers, is a float.
_LARGEST_LOG_LOSS = 650.0


class AbstractClock(eqx.Module):
    """A time change. ``states`` counts the extra states it carries (``tau = ln(1+t)`` for the
    loss clock)."""

    name: eqx.AbstractVar[str]
    states: eqx.AbstractVar[int]

    @abc.abstractmethod
    def log1p_time(self, s: PyTree, extra: PyTree) -> PyTree:
        """ln(1+t) at clock value ``s``."""

    @abc.abstractmethod
    def time(self, s: PyTree, extra: PyTree) -> PyTree:
        """Physical time at clock value ``s``."""

    @abc.abstractmethod
    def of_time(self, t: float) -> float | None:
        """Clock value of a physical time, None where time is a state."""

    @abc.abstractmethod
    def begin(self, log1p_t: float) -> tuple[float, np.ndarray]:
        """Clock value and extra states (host) where ln(1+t) = ``log1p_t`` and the clock starts."""

    @abc.abstractmethod
    def field(self, chart: AbstractChart, s: Array, y: Array, extra: Array) -> Array:
        """d/ds of (chart state, energy, extra states) (JAX)."""

    @abc.abstractmethod
    def held_until(
        self, s: float, extra: np.ndarray, log_risk: float, log1p_t: float
    ) -> tuple[float, np.ndarray]:
        """Clock value and extra states at a later ln(1+t), of a state that rests (host)."""

    @abc.abstractmethod
    def held_to(self, s: float, extra: np.ndarray, log_risk: float, later: float) -> np.ndarray:
        """Extra states at a later clock value, of a state that rests (host)."""

    def log_time(self, s: np.ndarray, extra: np.ndarray) -> np.ndarray:
        """ln t on the host; -inf at t = 0."""
        return log_expm1(self.log1p_time(s, extra))


class PhysicalClock(AbstractClock):
    """s = t."""

    name: ClassVar[str] = "physical"
    states: ClassVar[int] = 0

    def log1p_time(self, s, extra):
        return jnp.log1p(s) if isinstance(s, Array) else np.log1p(s)

    def time(self, s, extra):
        return s

    def of_time(self, t):
        return float(t)

    def begin(self, log1p_t):
        return float(np.expm1(log1p_t)), np.zeros(0)

    def held_until(self, s, extra, log_risk, log1p_t):
        return float(np.expm1(log1p_t)), extra

    def held_to(self, s, extra, log_risk, later):
        return extra

    def field(self, chart, s, y, extra):
        return _with_energy(chart, y)


class LogClock(AbstractClock):
    """s = ln(1+t)."""

    name: ClassVar[str] = "log"
    states: ClassVar[int] = 0

    def log1p_time(self, s, extra):
        return s

    def time(self, s, extra):
        return jnp.expm1(s) if isinstance(s, Array) else np.expm1(s)

    def of_time(self, t):
        return float(np.log1p(t))

    def begin(self, log1p_t):
        return float(log1p_t), np.zeros(0)

    def held_until(self, s, extra, log_risk, log1p_t):
        return float(log1p_t), extra

    def held_to(self, s, extra, log_risk, later):
        return extra

    def field(self, chart, s, y, extra):
        return jnp.exp(s) * _with_energy(chart, y)


class LossClock(AbstractClock):
    """ds = L dt, with tau = ln(1+t) carried as a state, so that t itself may exceed any float."""

    name: ClassVar[str] = "loss"
    states: ClassVar[int] = 1

    def log1p_time(self, s, extra):
        return extra[..., 0]

    def time(self, s, extra):
        return jnp.expm1(extra[..., 0]) if isinstance(extra, Array) else np.expm1(extra[..., 0])

    def of_time(self, t):
        return None

    def begin(self, log1p_t):
        return 0.0, np.array([log1p_t])

    def held_until(self, s, extra, log_risk, log1p_t):
        # s grows by L (t' - t)
        before = float(extra[0])
        log_wait = log1p_t + np.log1p(-np.exp(before - log1p_t)) if log1p_t > before else -np.inf
        with np.errstate(over="ignore"):
            return float(s + np.exp(log_risk + log_wait)), np.array([log1p_t])

    def held_to(self, s, extra, log_risk, later):
        with np.errstate(divide="ignore"):
            return np.logaddexp(extra, np.log(later - s) - log_risk)

    def field(self, chart, s, y, extra):
        log_risk = chart.log_risk(y)
        dy = chart.log_velocity(y)
        # dtau/ds = (1/L) / (1+t), and d(energy)/ds = L |grad ln L|^2
        # (the energy is a monitor: a loss beyond floats leaves it meaningless, not the state)
        loss = jnp.exp(jnp.minimum(log_risk, _LARGEST_LOG_LOSS))
        tail = [chart.speed_squared(y, dy) * loss, jnp.exp(-log_risk - extra[-1])]
        return jnp.concatenate([dy, jnp.stack(tail)])


def _with_energy(chart: AbstractChart, y: Array) -> Array:
    """Velocity in physical time, and the rate at which the energy grows."""
    dy = chart.velocity(y)
    return jnp.concatenate([dy, chart.speed_squared(y, dy)[None]])


CLOCKS: dict[str, AbstractClock] = {
    clock.name: clock for clock in (PhysicalClock(), LogClock(), LossClock())
}
