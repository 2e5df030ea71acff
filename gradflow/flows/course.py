"""The course of an integration: what it takes to go on where it ended, as if never stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import PyTree

from gradflow.flows.flow import Flow, make_flow
from gradflow.flows.metrics import Metric
from gradflow.flows.separation import EarlyStage, first_stage
from gradflow.flows.stage import AbstractStage, ChartStage, Point
from gradflow.risks.base import AbstractRisk
from gradflow.validation import fail


@dataclass(frozen=True)
class Course:
    """A flow from its first start on: the choices it was made with, and where its stages ended.

    Every stage follows from the end of the one before, so the last can be entered again.

    Attributes
    ----------
    flow : Flow
        In its first chart.
    params : pytree
        The first start; it fixes frames and signs.
    chart : str
    metric : str, mapping or callable
        As asked.
    points : tuple of Point
        The start, and the end of each stage.
    early : bool
        Whether the first stage was to separate the data.
    """

    flow: Flow
    params: PyTree
    chart: str
    metric: Metric
    points: tuple[Point, ...] = ()
    early: bool = False

    @classmethod
    def of(
        cls, risk: AbstractRisk, params: PyTree, *, clock: str, chart: str, metric: Metric,
        points: tuple[Point, ...] = (), early: bool = False,
    ) -> Course:  # fmt: skip
        """The course of a flow, as it was or is to be made."""
        flow = make_flow(risk, params, chart=chart, clock=clock, metric=metric)
        return cls(flow, params, chart, metric, points, early)

    def begin(self, log1p_t: float) -> Course:
        """The course from its first start, where ln(1+t) = ``log1p_t``."""
        s = self.flow.clock.begin(log1p_t)[0]
        return replace(self, points=(Point(s, self.flow.initial(self.params, log1p_t)),))

    def stage(self, quantities: Collection[str], *, capped: bool, located: bool) -> AbstractStage:
        """The stage in which it goes on.

        Parameters
        ----------
        quantities, capped, located
            As in :func:`~gradflow.flows.separation.first_stage`.

        Raises
        ------
        ValueError
            If the stage cannot be ended so.
        """
        *passed, here = self.points
        if passed:
            # What the loss spends is counted from here.
            Y = here.Y.copy()
            Y[-self.flow.extras] = 0.0
            here = replace(here, Y=Y)
        if len(passed) < 2:
            return first_stage(self.flow, here, quantities, capped=capped, located=located)
        first = EarlyStage if self.early else ChartStage
        stage: AbstractStage = first(self.flow, passed[0])
        for end in passed[1:]:
            stage = stage.following(end)
        stage = stage.at(here)
        if stage.suits(quantities, capped=capped):
            return stage
        raise fail(
            "until", sorted(quantities), f"cannot end the {stage.flow.chart.name} stage",
            "stop by time, log_time, loss or direction",
        )  # fmt: skip

    def gone(self, first: AbstractStage, ends: Sequence[Point]) -> Course:
        """The course after the stages from ``first`` on, which ended at ``ends``."""
        known = self.points[:-1] if len(self.points) > 1 else self.points
        early = first.separating if len(known) == 1 else self.early
        return replace(self, points=(*known, *ends), early=early)

    def description(self) -> dict[str, Any] | None:
        """What a file keeps besides arrays and ``params``, JSON-able; None where none can."""
        if callable(self.metric):
            return None
        return {
            "clock": self.flow.clock.name, "chart": self.chart, "early": self.early,
            "metric": self.metric if isinstance(self.metric, str) else dict(self.metric),
            "points": len(self.points),
        }  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """The points as named arrays."""
        out: dict[str, np.ndarray] = {}
        for k, point in enumerate(self.points):
            parts = {"s": point.s, "Y": point.Y, "sides": point.sides, "seen": point.seen}
            out.update(
                {
                    f"{name}_{k}": np.asarray(part)
                    for name, part in parts.items()
                    if part is not None
                }
            )
        return out

    @classmethod
    def read(
        cls, risk: AbstractRisk, params: PyTree, description: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
    ) -> Course:  # fmt: skip
        """The course that ``description()`` and ``arrays()`` tell of."""
        points = []
        for k in range(description["points"]):
            sides, seen = arrays.get(f"sides_{k}"), arrays.get(f"seen_{k}")
            points.append(
                Point(
                    float(arrays[f"s_{k}"]), np.asarray(arrays[f"Y_{k}"], np.float64),
                    None if sides is None else np.asarray(sides).astype(int),
                    None if seen is None else np.asarray(seen).astype(bool),
                )
            )  # fmt: skip
        made = {name: description[name] for name in ("clock", "chart", "metric", "early")}
        return cls.of(risk, params, points=tuple(points), **made)
