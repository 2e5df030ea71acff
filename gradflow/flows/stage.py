"""Stages: an integration is a flow in one chart after another, each with the stepper it needs.

A stage is coordinates and dynamics (a :class:`~gradflow.flows.flow.Flow`), where it starts, the
stepper it needs, and how it hands over. Log-angle chart and tail, separation and late phase are
stages; whoever drives them names none.
"""

from __future__ import annotations

import abc
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np

from gradflow.flows.event import AbstractEvent, AbstractHandover
from gradflow.flows.flow import Flow


@dataclass(frozen=True)
class Point:
    """A place on a flow, with what a stage needs to go on from it.

    Attributes
    ----------
    s : float
        Value of the clock.
    Y : (D,) array
        Integrated vector.
    sides : (m, G) ints or None
        The side of each surface on which each neuron is, 0 where it slides.
    seen : (n,) bools or None
        Data that a neuron has come to see again.
    """

    s: float
    Y: np.ndarray
    sides: np.ndarray | None = None
    seen: np.ndarray | None = None


class Ended(Protocol):
    """How a stage ended, as a stage reads it."""

    @property
    def end(self) -> Point:
        """Where."""
        ...

    @property
    def event(self) -> AbstractEvent | None:
        """What ended it, if an event did."""
        ...


@dataclass(frozen=True)
class AbstractStage(abc.ABC):
    """One stage of an integration.

    Attributes
    ----------
    flow : Flow
    start : Point
    origin : float
        The clock where the stage's own clock, in which it is integrated, is 0.
    stepper : str
        The integrator it needs; "" = whichever was asked for.
    short_of_stages : str
        The result where no further stage is allowed.
    separating : bool
        Whether it goes on until the data are separated.
    """

    flow: Flow
    start: Point
    origin: float = field(default=0.0, kw_only=True)

    stepper: ClassVar[str] = ""
    short_of_stages: ClassVar[str] = "failed"
    separating: ClassVar[bool] = False

    @property
    def kinked(self) -> bool:
        """Whether the flow meets kinks that are to be located."""
        at = self.flow.arrangement
        return at is not None and at.kinked

    def suits(self, quantities: Collection[str], *, capped: bool) -> bool:
        """Whether the stage can be ended by events on these quantities, or a number of steps."""
        return True

    def at(self, point: Point) -> AbstractStage:
        """The same stage from another of its points on."""
        if self.origin == 0:
            return replace(self, start=point)
        return replace(self, start=replace(point, s=0.0), origin=point.s)

    @abc.abstractmethod
    def handovers(self) -> tuple[AbstractEvent, ...]:
        """The events at which the next stage begins."""

    def over(self) -> Point | None:
        """Where it starts, if it hands over right there; else None."""
        return None

    def hands_over(self, ended: Ended) -> bool:
        """Whether another stage follows one that ended so."""
        return ended.event is not None and ended.event.role == "handover"

    @abc.abstractmethod
    def following(self, end: Point) -> AbstractStage:
        """The next stage, from where this one handed over."""


@dataclass(frozen=True)
class ChartStage(AbstractStage):
    """A chart, as long as it serves."""

    def _handover(self) -> AbstractHandover | None:
        return self.flow.handover()

    def handovers(self) -> tuple[AbstractEvent, ...]:
        handover = self._handover()
        return () if handover is None else (handover,)

    def following(self, end: Point) -> ChartStage:
        handover = self._handover()
        assert handover is not None
        flow, Y = self.flow, end.Y
        t = float(flow.t(end.s, Y))
        chart, state = handover.successor(flow.chart, flow.split(Y)[0], t)
        return ChartStage(flow.with_chart(chart), Point(end.s, flow.restart(Y, state)))
