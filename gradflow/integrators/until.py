r"""When to stop: conditions that combine with ``|`` (whichever comes first).

>>> import gradflow as gf
>>> gf.until.time(1e6) | gf.until.loss(1e-8)
time(1000000.0) | loss(1e-08)

A condition either fixes the end of the clock's interval, or is an event: a function
``g(s, Y)`` that is negative before the stop and crosses to >= 0 there, located inside the step by
root finding. Crossings are looked for at the ends of accepted steps; a condition that is met and
lost again within one step goes unseen.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from gradflow.flows.charts.chart import AbstractCoordinates
from gradflow.flows.event import AbstractEvent
from gradflow.flows.flow import Flow
from gradflow.numerics.logs import log1p_exp
from gradflow.risks.base import AbstractRisk
from gradflow.validation import (
    check_integer,
    check_nonnegative,
    check_positive,
    check_real,
    fail,
    refuse_traced,
    takes_two,
)

#: exp of it is a float.
_LARGEST_LOG_TIME = 709.0


class AbstractThreshold(AbstractEvent):
    """A quantity that a stepper may know by other means reaches a value.

    Attributes
    ----------
    threshold : Array
        The value of the quantity.
    asked : Array
        As it was given.
    """

    threshold: eqx.AbstractVar[Array]
    asked: eqx.AbstractVar[Array]

    def limit(self, quantity: str) -> float | None:
        return float(self.threshold) if quantity == self.quantity else None


class TimeEvent(AbstractThreshold):
    """ln(1+t) - ln(1+t_stop), for clocks in which time is a state.

    Attributes
    ----------
    threshold : Array
        ln(1+t_stop).
    asked : Array
        t_stop or ln t_stop, as it was given.
    logarithmic : bool
        Which of the two.
    """

    quantity: ClassVar[str] = "time"
    threshold: Array
    asked: Array
    logarithmic: bool = eqx.field(static=True)

    @property
    def label(self) -> str:
        return _time_label(float(self.asked), self.logarithmic)

    def __call__(self, flow, s, Y):
        return flow.log1p_t(s, Y) - self.threshold

    def read(self, reading):
        return np.asarray(reading.flow.log1p_t(reading.s, reading.Y)) - float(self.threshold)


class LossEvent(AbstractThreshold):
    """ln L_stop - ln L."""

    quantity: ClassVar[str] = "loss"
    threshold: Array
    asked: Array

    @property
    def label(self) -> str:
        return f"loss({float(self.asked)!r})"

    def __call__(self, flow, s, Y):
        return self.threshold - flow.log_risk(Y)

    def read(self, reading):
        return float(self.threshold) - reading.log_risk


class GradientEvent(AbstractEvent):
    """ln g_stop - ln |grad L|."""

    threshold: Array
    asked: Array

    @property
    def label(self) -> str:
        return f"gradient({float(self.asked)!r})"

    def __call__(self, flow, s, Y):
        return self.threshold - jnp.log(flow.gradient_norm(Y))

    def in_cell(self, flow, s, Y, speed):
        return self.threshold - jnp.log(speed())

    def read(self, reading):
        return float(self.threshold) - reading.log_speed


class DirectionEvent(AbstractThreshold):
    """ln tol - ln(rate of turning of the direction per unit of ln(1+t)).

    With a loss that vanishes only at infinity, parameters have a limit direction only where the
    data are separated; so there it is also negative while some margin is.
    """

    quantity: ClassVar[str] = "direction"
    threshold: Array
    asked: Array

    @property
    def label(self) -> str:
        return f"direction({float(self.asked)!r})"

    def __call__(self, flow, s, Y):
        slow = self.threshold - jnp.log(flow.turning(s, Y))
        margin = flow.least_margin(Y)
        return slow if margin is None else jnp.minimum(slow, margin)

    def read(self, reading):
        slow = float(self.threshold) - reading.log_turning
        at = reading.flow.arrangement
        return (
            np.minimum(slow, reading.least_margin) if at is not None and at.loss.vanishes else slow
        )


class WhenEvent(AbstractEvent):
    """fn(params) - at, or fn(risk, params) - at.

    Attributes
    ----------
    fn : callable
    takes_risk : bool
    risk : AbstractRisk or None
    chart : AbstractCoordinates
        In full, to give parameters where compiled code carries less.
    at : Array
    name : str
    """

    fn: Callable[..., ArrayLike]
    takes_risk: bool = eqx.field(static=True)
    risk: AbstractRisk | None
    chart: AbstractCoordinates
    at: Array
    name: str = eqx.field(static=True)

    @property
    def label(self) -> str:
        return _when_label(self.name, float(self.at))

    def __call__(self, flow, s, Y):
        params = self.chart.params(flow.split(Y)[0])
        value = self.fn(self.risk, params) if self.takes_risk else self.fn(params)
        gap = jnp.asarray(value, jnp.float64) - self.at
        # A step function that lands on `at` has crossed it: the stop is where it did.
        return jnp.where(gap == 0, jnp.finfo(jnp.float64).tiny, gap)

    def check(self, flow, Y):
        fix = "write it with jax.numpy, and return one number of the parameters"
        try:
            out = jax.eval_shape(lambda at: self(flow, jnp.zeros(()), at), jnp.asarray(Y))
        except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
            problem = f"cannot be traced by JAX ({type(error).__name__})"
            raise fail("until", self.name, problem, fix) from error
        if out.shape != ():
            raise fail("until", self.name, f"returns shape {out.shape}", fix)


def _when_label(name: str, at: float) -> str:
    return f"when({name})" if at == 0 else f"when({name}, at={at!r})"


class LogTimeMeasure(eqx.Module):
    """ln(1+t) as the variable in which save points are given."""

    def __call__(self, flow: Flow, s: Array, Y: Array) -> Array:
        return flow.log1p_t(s, Y)


@dataclass(frozen=True)
class Resolved:
    """What a condition means for one flow.

    Attributes
    ----------
    s_end : float
        End of the clock's interval; inf if no condition fixes it.
    end_label : str
        The condition that fixes ``s_end``.
    events : tuple of AbstractEvent
    step_cap : int or None
    """

    s_end: float = np.inf
    end_label: str = ""
    events: tuple[AbstractEvent, ...] = ()
    step_cap: int | None = None


class AbstractUntil(abc.ABC):
    """A stopping condition."""

    @abc.abstractmethod
    def resolve(self, flow: Flow) -> Resolved:
        """Translate into an end of the clock, events and a cap on steps."""

    def of(self, risk: AbstractRisk) -> AbstractUntil:
        """The condition for the flow of a risk."""
        return self

    def __or__(self, other: AbstractUntil | float) -> AbstractUntil:
        return FirstOf((*self.alternatives(), *check_until(other).alternatives()))

    def __ror__(self, other: float) -> AbstractUntil:
        return FirstOf((*check_until(other).alternatives(), *self.alternatives()))

    def alternatives(self) -> tuple[AbstractUntil, ...]:
        """The conditions of which the first stops."""
        return (self,)


@dataclass(frozen=True)
class FirstOf(AbstractUntil):
    """The first of several conditions; made by ``|``."""

    parts: tuple[AbstractUntil, ...]

    def alternatives(self) -> tuple[AbstractUntil, ...]:
        return self.parts

    def of(self, risk: AbstractRisk) -> FirstOf:
        return FirstOf(tuple(part.of(risk) for part in self.parts))

    def resolve(self, flow: Flow) -> Resolved:
        s_end, end_label, step_cap = np.inf, "", None
        events: list[AbstractEvent] = []
        for part in self.parts:
            one = part.resolve(flow)
            if one.s_end < s_end:
                s_end, end_label = one.s_end, one.end_label
            events.extend(one.events)
            if one.step_cap is not None:
                step_cap = one.step_cap if step_cap is None else min(step_cap, one.step_cap)
        return Resolved(s_end, end_label, tuple(events), step_cap)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))


@dataclass(frozen=True)
class Time(AbstractUntil):
    """A time t, or its logarithm, so that t may exceed any float."""

    asked: float
    logarithmic: bool

    def resolve(self, flow: Flow) -> Resolved:
        if flow.clock.states:
            log1p_t = log1p_exp(self.asked) if self.logarithmic else np.log1p(self.asked)
            event = TimeEvent(jnp.asarray(log1p_t), jnp.asarray(self.asked), self.logarithmic)
            return Resolved(events=(event,))
        return Resolved(self._end(flow), repr(self))

    def _end(self, flow: Flow) -> float:
        if not self.logarithmic:
            return cast(float, flow.s_of_t(self.asked))
        # np.expm1 overflows beyond t ~ 1e308; only the physical clock needs t itself.
        log1p_t = float(log1p_exp(self.asked))
        if flow.clock.name == "log":
            if log1p_t > _LARGEST_LOG_TIME:
                problem = f"overflows dt/ds = exp(s) of the log clock (ln t <= {_LARGEST_LOG_TIME})"
                raise fail("until", self, problem, "stop earlier, or pass clock='loss'")
            return log1p_t
        with np.errstate(over="ignore"):
            t = float(np.expm1(log1p_t))
        if not np.isfinite(t):
            raise fail("until", self, "overflows the physical clock", "pass clock='log'")
        return cast(float, flow.s_of_t(t))

    def __repr__(self) -> str:
        return _time_label(self.asked, self.logarithmic)


def _time_label(asked: float, logarithmic: bool) -> str:
    return f"{'log_time' if logarithmic else 'time'}({asked!r})"


@dataclass(frozen=True)
class Clock(AbstractUntil):
    """A value of the clock."""

    s: float

    def resolve(self, flow: Flow) -> Resolved:
        return Resolved(self.s, repr(self))

    def __repr__(self) -> str:
        return f"clock({self.s!r})"


@dataclass(frozen=True)
class Threshold(AbstractUntil):
    """A quantity of the flow falls to a value; compared as logarithms."""

    kind: str
    value: float

    def resolve(self, flow: Flow) -> Resolved:
        event = _EVENTS[self.kind](jnp.asarray(np.log(self.value)), jnp.asarray(self.value))
        return Resolved(events=(event,))

    def __repr__(self) -> str:
        return f"{self.kind}({self.value!r})"


_EVENTS: dict[str, Callable[[Array, Array], AbstractEvent]] = {
    "loss": LossEvent,
    "gradient": GradientEvent,
    "direction": DirectionEvent,
}


@dataclass(frozen=True)
class When(AbstractUntil):
    """A function of the user's rises to a value."""

    fn: Callable[..., ArrayLike]
    at: float
    risk: AbstractRisk | None = None

    def of(self, risk: AbstractRisk) -> When:
        return replace(self, risk=risk)

    def resolve(self, flow: Flow) -> Resolved:
        takes_risk = takes_two(self.fn)
        event = WhenEvent(
            self.fn, takes_risk, self.risk if takes_risk else None, flow.chart,
            jnp.asarray(np.float64(self.at)), self._name,
        )  # fmt: skip
        return Resolved(events=(event,))

    @property
    def _name(self) -> str:
        return getattr(self.fn, "__name__", type(self.fn).__name__)

    def __repr__(self) -> str:
        return _when_label(self._name, self.at)


@dataclass(frozen=True)
class StepCount(AbstractUntil):
    """A number of accepted steps."""

    n: int

    def resolve(self, flow: Flow) -> Resolved:
        return Resolved(step_cap=self.n)

    def __repr__(self) -> str:
        return f"steps({self.n})"


def time(t: float) -> AbstractUntil:
    """Stop at physical time ``t`` > 0."""
    return Time(check_positive("t", t), logarithmic=False)


def log_time(log_t: float) -> AbstractUntil:
    """Stop at ln t = ``log_t`` (up to 709 in the log clock, beyond floats in the loss clock)."""
    return Time(check_real("log_t", log_t), logarithmic=True)


def clock(s: float) -> AbstractUntil:
    """Stop at clock value ``s`` > 0 of whatever clock the flow runs on."""
    return Clock(check_positive("s", s))


def loss(value: float) -> AbstractUntil:
    """Stop when L <= ``value`` > 0 (compared as ln L, which does not underflow)."""
    return Threshold("loss", check_positive("value", value))


def gradient(value: float) -> AbstractUntil:
    """Stop when the norm of the gradient is <= ``value`` > 0."""
    return Threshold("gradient", check_positive("value", value))


def direction(tol: float) -> AbstractUntil:
    r"""Stop when the direction u of the parameters turns slower than ``tol``.

    The rate is per unit of ln(1+t): :math:`\|(I-uu^\top)\dot\theta\|(1+t)/\|\theta\|`. It says
    how fast the direction moves, not how far it is from its limit. With the exponential or logistic
    loss on finite data it is a limit only once the data are separated: before, nothing stops.
    """
    return Threshold("direction", check_positive("tol", tol))


def when(fn: Callable[..., ArrayLike], at: float = 0.0) -> AbstractUntil:
    """Stop where a function of one's own rises to ``at``.

    Parameters
    ----------
    fn : callable
        ``fn(params)`` or ``fn(risk, params)``, a scalar JAX function; below ``at`` before the stop.
        It is located as an event, by every integrator; a step function, as an accuracy, where it
        jumps. (A stop of this kind is not looked for in the late phase of separated data, so the
        flow then stays in cartesian coordinates.)
    at : float

    Examples
    --------
    >>> import gradflow as gf, jax.numpy as jnp
    >>> gf.until.when(lambda p: jnp.max(jnp.abs(p.inner)), at=1.0) | gf.until.time(1e6)
    when(<lambda>, at=1.0) | time(1000000.0)
    """
    if not callable(fn):
        raise fail("fn", fn, "is not callable", "pass a function of the parameters")
    return When(fn, check_real("at", at))


def steps(n: int) -> AbstractUntil:
    """Stop after ``n`` >= 1 accepted steps."""
    return StepCount(check_integer("n", n, minimum=1))


def check_start_time(value: object) -> float:
    """Return ln(1+t) of a time at which to start: a number, or ``log_time(...)``."""
    if isinstance(value, Time):
        return float(np.logaddexp(0.0, value.asked) if value.logarithmic else np.log1p(value.asked))
    return float(np.log1p(check_nonnegative("t0", value)))


def check_until(value: object) -> AbstractUntil:
    """Return ``value`` as a stopping condition; a number is a physical time."""
    if isinstance(value, AbstractUntil):
        return value
    refuse_traced("until", value)
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind in "iuf":
        return Time(check_positive("until", value), logarithmic=False)
    raise fail(
        "until", value, "is not a stopping condition",
        "pass a time, or for example gf.until.loss(1e-6)",
    )  # fmt: skip


__all__ = ["clock", "direction", "gradient", "log_time", "loss", "steps", "time", "when"]
