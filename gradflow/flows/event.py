"""What a flow is watched for while it is integrated: functions that cross zero."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

if TYPE_CHECKING:
    from gradflow.flows.charts.chart import AbstractCoordinates
    from gradflow.flows.flow import Flow


@dataclass(frozen=True)
class Reading:
    """What a stepper knows of some states besides themselves.

    Attributes
    ----------
    flow : Flow
    s, Y : (k,), (k, D) arrays
    log_risk, log_speed, log_turning, least_margin : (k,) arrays
        ln L, ln |dθ/dt|, ln of the direction's turning per unit of ln(1+t), min_i y_i f_i.
    """

    flow: Flow
    s: np.ndarray
    Y: np.ndarray
    log_risk: np.ndarray
    log_speed: np.ndarray
    log_turning: np.ndarray
    least_margin: np.ndarray


class AbstractEvent(eqx.Module):
    """``g(flow, s, Y)``: negative before the event, >= 0 from it on.

    Attributes
    ----------
    role : {"stop", "handover"}
        Whether it ends the integration, or the stage only.
    quantity : str
        What is compared with a threshold, for steppers that know it by other means: "time" for
        ln(1+t), "loss" for ln L, "direction" for the logarithm of the rate of turning; "" for
        anything else.
    label : str
        What it is called where it stops; made from the event's own values, so that events which
        differ by them share compiled programs.
    """

    role: ClassVar[Literal["stop", "handover"]] = "stop"
    quantity: ClassVar[str] = ""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What happened, in the words in which it was asked for."""

    @abc.abstractmethod
    def __call__(self, flow: Flow, s: Array, Y: Array) -> Array:
        """Value of g."""

    def in_cell(self, flow: Flow, s: Array, Y: Array, speed: Callable[[], Array]) -> Array:
        """Value of g where a stepper knows the speed |dθ/dt| better than the risk's gradient does.

        Neurons that slide on kinks have one, at which no side's gradient is.
        """
        return self(flow, s, Y)

    def read(self, reading: Reading) -> np.ndarray:
        """Values of g at some states (host), where a stepper knows what it asks for."""
        flow = reading.flow
        return np.array(
            [
                float(self(flow, s, jnp.asarray(Y)))
                for s, Y in zip(reading.s, reading.Y, strict=True)
            ]
        )

    def limit(self, quantity: str) -> float | None:
        """The value of a quantity at which it happens; None if it is about another one."""
        return None

    def check(self, flow: Flow, Y: np.ndarray) -> None:
        """Raise a ``ValueError`` where g cannot be evaluated at ``Y``."""
        return


def limits(events: Iterable[AbstractEvent], quantity: str) -> list[float]:
    """The values of a quantity at which some events happen."""
    return [limit for event in events if (limit := event.limit(quantity)) is not None]


class AbstractHandover(AbstractEvent):
    """The end of what a chart is good for: there another chart goes on."""

    role: ClassVar[Literal["stop", "handover"]] = "handover"

    @property
    def label(self) -> str:
        return "handover"

    @abc.abstractmethod
    def successor(
        self, chart: AbstractCoordinates, y: np.ndarray, t: float
    ) -> tuple[AbstractCoordinates, np.ndarray]:
        """Return the chart that goes on at the state ``y``, time t, and its state (host)."""
