"""Stages of a flow with a margin loss: until the data are separated, the late phase, and back.

Once the data are separated the late phase (:mod:`gradflow.integrators.steppers.late`) goes on, in
directions and logarithms. Where a ReLU neuron comes to see a datum that none saw, it hands back,
with that datum to be separated, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.forces import Forces
from gradflow.flows.charts.late import LateChart
from gradflow.flows.event import AbstractEvent, Reading
from gradflow.flows.flow import Flow
from gradflow.flows.stage import AbstractStage, ChartStage, Ended, Point
from gradflow.networks.parameters import AbstractParams

#: The late phase begins with every margin and ρ^D above these: earlier its directions and
#: logarithms are no better than weights, later explicit steps are cut short by stiffness. What is
#: found does not depend on them, the work hardly: margins 1 … 10 took 1,530 … 1,479 steps on the
#: instance of benchmarks/kinks.py.
_LEAST_MARGIN = 8.0
_LEAST_SIZE = 30.0
#: The same where ReLU neurons leave data unseen, whose loss must be large beside all the others'.
_LEAST_BESIDE = 12.0
#: A ReLU neuron sees a datum from this cosine on: one that slides past it does not.
_SEES = 1e-12
#: How far a neuron is put on the side to which it has crossed.
_OFF = 1e-10
#: Weights up to which cartesian coordinates hold margins to a few digits.
_MODERATE = 1e6


class Separated(AbstractEvent):
    """The data are separated, and weights are large enough for the late phase.

    Data that no ReLU neuron sees have no say, as long as there are others.

    Attributes
    ----------
    forces : Forces or None
        None where neurons see everything (α > 0).
    must : (n,) bools or None
        Data that have a say in any case.
    """

    role: ClassVar[Literal["stop", "handover"]] = "handover"
    forces: Forces | None = None
    must: Any = None

    @property
    def label(self) -> str:
        return "separated"

    @classmethod
    def of(cls, flow: Flow, must: np.ndarray | None = None) -> Separated:
        """Return the event of a flow with kinks."""
        at = flow.arrangement
        if at is None or not at.blind:
            return cls()
        return cls(Forces.of(at), np.zeros(len(at.y), bool) if must is None else must)

    def __call__(self, flow: Any, s: Array, Y: Array) -> Array:
        chart = flow.chart
        state = flow.split(Y)[0]
        risk = chart.risk
        params = chart.params(state)
        margins, least = risk.margins(params), jnp.asarray(_LEAST_MARGIN)
        if self.forces is not None:
            forces = self.forces
            W, N = forces.split(params)[0], forces.normals
            cosines = (N @ W.T) / jnp.maximum(
                jnp.linalg.norm(N, axis=1)[:, None] * jnp.linalg.norm(W, axis=1)[None, :], 1e-300
            )
            sign = jnp.sign(forces.scale)[:, None]
            seen = jnp.any(sign * cosines[forces.surface] > _SEES, axis=1) | self.must
            margins = jnp.where(seen, margins, jnp.where(jnp.any(seen), jnp.inf, 0.0))
            least = jnp.where(jnp.all(seen), _LEAST_MARGIN, _LEAST_BESIDE)
        size = jnp.sqrt(jnp.sum(jnp.where(chart.trained, state, 0.0) ** 2))
        # In units where inputs, and fixed outer weights, have size 1.
        constant = 1.0 if getattr(risk.net, "bias", False) else 0.0
        inputs = jnp.sqrt(jnp.max(jnp.sum(risk.X**2, axis=1)) + constant)
        fixed = jnp.sqrt(jnp.sum(jnp.where(chart.trained, 0.0, state) ** 2))
        unit = inputs * jnp.where(fixed > 0, fixed, 1.0)
        ready = risk.net.degree * jnp.log(size) + jnp.log(unit) - np.log(_LEAST_SIZE)
        return jnp.minimum(jnp.min(margins) - least, ready)

    def read(self, reading: Reading) -> np.ndarray:
        # Weights are never ready where their size is not, nor where a margin of all data is short.
        flow = reading.flow
        at = flow.arrangement
        assert at is not None
        W, a = at.split(flow.chart.decode(flow.split(reading.Y)[0]))
        out = self._ready(at, W, a)
        if self.forces is None:
            return np.minimum(out, reading.least_margin - _LEAST_MARGIN)
        for row in np.flatnonzero(out >= 0):
            out[row] = min(out[row], self._margins_beyond(at, W[row], a[row]))
            if out[row] >= 0:
                break
        return out

    def _ready(self, at: Arrangement, W: np.ndarray, a: np.ndarray) -> np.ndarray:
        """How far ln ρ^D, in units of inputs and fixed outer weights, is beyond its threshold."""
        size, fixed = np.linalg.norm(W, axis=(1, 2)), np.linalg.norm(a, axis=1)
        unit = float(np.max(np.linalg.norm(at.inputs, axis=1)))
        if at.trained:
            size, fixed = np.hypot(size, fixed), np.ones_like(fixed)
        if at.layout == "linear":
            fixed = np.ones_like(fixed)
        with np.errstate(divide="ignore"):
            return at.degree * np.log(size) + np.log(unit * fixed) - math.log(_LEAST_SIZE)

    def _margins_beyond(self, at: Arrangement, W: np.ndarray, a: np.ndarray) -> float:
        """By how much the least margin that has a say exceeds what it must."""
        reach = at.sizes * np.maximum(np.linalg.norm(W, axis=1), 1e-300)[:, None]
        cosines = at.heights(W) / reach
        seen = np.any(np.sign(at.scale) * cosines[:, at.surface] > _SEES, axis=0)
        seen |= np.asarray(self.must)
        if not np.any(seen):
            return -_LEAST_MARGIN
        least = _LEAST_MARGIN if np.all(seen) else _LEAST_BESIDE
        return float(np.min(at.margins(W, a)[seen])) - least


@dataclass(frozen=True)
class EarlyStage(AbstractStage):
    """Until the data are separated, in cartesian coordinates and the loss clock.

    Attributes
    ----------
    must : (n,) bools or None
        Data that were seen again: they are to be separated too.
    """

    must: np.ndarray | None = None

    short_of_stages: ClassVar[str] = "seen"
    separating: ClassVar[bool] = True

    def suits(self, quantities: Collection[str], *, capped: bool) -> bool:
        return separates(self.flow, quantities, capped=capped)

    def handovers(self) -> tuple[AbstractEvent, ...]:
        return (Separated.of(self.flow, self.must),)

    def over(self) -> Point | None:
        # A start this late is none for the loss clock, whose rate 1/L may be beyond floats.
        at = self.flow.arrangement
        assert at is not None
        W, a = at.split(self.flow.chart.decode(self.flow.split(self.start.Y)[0]))
        largest = np.max(np.linalg.norm(at.inputs, axis=1))
        reach = largest * float(np.abs(a) @ np.linalg.norm(W, axis=1))
        if self.must is not None or reach < _LEAST_MARGIN:
            return None
        separated = self.handovers()[0](self.flow, jnp.asarray(0.0), jnp.asarray(self.start.Y))
        if not float(separated) >= 0:
            return None
        return replace(self.start, sides=np.where(at.heights(W) < 0, -1, 1))

    def following(self, end: Point) -> LateStage:
        flow = self.flow
        cartesian: PyTree = flow.chart
        chart = LateChart(cartesian.risk, cartesian.template)
        state = chart.encode(cartesian.decode(flow.split(end.Y)[0]))
        start = Point(end.s, flow.restart(end.Y, state), end.sides)
        return LateStage(flow.with_chart(chart), start, early=flow, must=self.must)


@dataclass(frozen=True)
class LateStage(AbstractStage):
    """The late phase.

    Attributes
    ----------
    early : Flow
        The flow in cartesian coordinates.
    must : (n,) bools or None
    """

    early: Flow
    must: np.ndarray | None = None

    stepper: ClassVar[str] = "late"
    short_of_stages: ClassVar[str] = "seen"
    #: What it can be stopped at.
    quantities: ClassVar[frozenset[str]] = frozenset({"time", "loss", "direction"})

    def suits(self, quantities: Collection[str], *, capped: bool) -> bool:
        return separates(self.early, quantities, capped=capped)

    def handovers(self) -> tuple[AbstractEvent, ...]:
        return ()

    def hands_over(self, ended: Ended) -> bool:
        seen = ended.end.seen
        if seen is None or not seen.any():
            return False
        # Cartesian coordinates hold margins to a few digits up to some size only.
        return float(self.flow.split(ended.end.Y)[0][-3]) < math.log(_MODERATE)

    def following(self, end: Point) -> EarlyStage:
        assert end.seen is not None
        must = end.seen if self.must is None else self.must | end.seen
        flow = self.early
        params = self.flow.chart.decode(self.flow.split(end.Y)[0])
        state = flow.chart.encode(off_the_surface(flow, params, end.sides, end.seen))
        # The clock may have grown beyond the spacing of steps: it goes on from 0.
        return EarlyStage(flow, Point(0.0, flow.restart(end.Y, state)), must, origin=end.s)


def separates(flow: Flow, quantities: Collection[str], *, capped: bool) -> bool:
    """Whether an integration goes on to the late phase once the data are separated.

    It does in the loss clock, for losses that vanish only at infinity, when it is to end by time,
    loss or direction.

    Parameters
    ----------
    flow : Flow
    quantities : collection of str
        Of the events that are to end it.
    capped : bool
        Whether a number of steps is to end it.
    """
    at = flow.arrangement
    return (
        flow.clock.name == "loss"
        and at is not None
        and at.central
        and at.slopes[-1] != 0  # (the late phase knows neurons that are blind on their left only)
        and at.loss.vanishes
        and flow.chart.euclidean
        and not capped
        and bool(quantities)
        and LateStage.quantities.issuperset(quantities)
    )


def first_stage(
    flow: Flow, start: Point, quantities: Collection[str], *, capped: bool, located: bool
) -> AbstractStage:
    """The stage with which an integration of ``flow`` from ``start`` begins.

    Parameters
    ----------
    quantities, capped
        What is to end it, as in :func:`separates`.
    located : bool
        Whether the stepper goes from kink to kink.
    """
    if located and separates(flow, quantities, capped=capped):
        return EarlyStage(flow, start)
    return ChartStage(flow, start)


def off_the_surface(
    flow: Flow, params: AbstractParams, sides: Any, seen: np.ndarray
) -> AbstractParams:
    """Move neurons that have come to see data ``seen`` (n,) to their side, by a relative 1e-10.

    On the surface itself what carried them over is lost beside what pulls them on.
    """
    at = flow.arrangement
    assert at is not None
    W, a = at.split(params)
    N = at.normals
    for g in np.unique(at.surface[seen]):
        size = np.linalg.norm(N[g])
        for k in np.flatnonzero((sides[:, g] != 0) & W.any(axis=1)):
            short = _OFF * size * np.linalg.norm(W[k]) - sides[k, g] * (N[g] @ W[k])
            # (without leaving the surfaces it slides on)
            held = N[sides[k] == 0]
            way = N[g] - (np.linalg.lstsq(held.T, N[g], rcond=None)[0] @ held if len(held) else 0.0)
            room = float(way @ N[g])
            if short > 0 and room > 1e-9 * size**2:
                W[k] += sides[k, g] * short * way / room
    return at.join(W, a)


__all__ = ["EarlyStage", "LateStage", "Separated", "first_stage", "off_the_surface", "separates"]
