"""A gradient flow's path: what an integration recorded (:class:`Trajectory`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.flows.course import Course
from gradflow.integrators.contract import Result
from gradflow.paths.between import solution_at
from gradflow.paths.events import Events
from gradflow.paths.path import AbstractPath, asked_times, recorded_at
from gradflow.paths.stages import Stage
from gradflow.paths.view import CHART_VALUES


@dataclass(frozen=True, repr=False)
class Trajectory(AbstractPath):
    """A gradient flow's path at recorded times; arrays carry time first.

    Attributes
    ----------
    risk : AbstractRisk
    t, log_t, clock : ndarray, shape (n,)
        Physical time (may overflow to inf), ln t (never does), value of the clock.
    params : pytree
        Parameters, arrays of shape (n, ...).
    initial, final : pytree
        Parameters at time 0 and where the integration stopped (recorded or not).
    t_final, log_t_final, clock_final : float
        When it stopped.
    exact : dict of ndarray
        What the chart knows beyond cartesian precision, by observable name.
    energy : ndarray, shape (n,)
        Integral of ``|dtheta/dt|^2`` over time, which on the exact flow is L(0) - L(t).
    events : Events
    stats : mapping
        ``steps`` (accepted), ``rejected``, ``rhs``, ``jacobians``, ``events``, ``compile_seconds``,
        ``run_seconds``, ``rtol_local``, ``atol_local``; NaN where a solver does not tell.
    result : Result
        ``.name``, ``.ok``, ``.message`` (with the remedy).
    stopped_by : str
        The condition that stopped it.
    rtol : float
    atol : float or None
        As asked; None = scaled to the start.
    clock_name, integrator : str
    chart_names : tuple of str
        The charts of the stages, in order.
    course : Course or None
        What it takes to go on from the end (``gf.integrate(path, until=...)``).
    """

    kind: ClassVar[str] = "trajectory"
    trees: ClassVar[tuple[str, ...]] = ("initial", "final")
    told: ClassVar[tuple[str, ...]] = (
        "t_final", "log_t_final", "clock_final", "stats", "result", "stopped_by", "rtol", "atol",
        "clock_name", "chart_names", "integrator",
    )  # fmt: skip

    risk: Any
    t: np.ndarray
    log_t: np.ndarray
    clock: np.ndarray
    params: PyTree
    initial: PyTree
    final: PyTree
    t_final: float
    log_t_final: float
    clock_final: float
    exact: dict[str, np.ndarray]
    energy: np.ndarray
    events: Events
    stats: Mapping[str, float]
    result: Result
    stopped_by: str
    rtol: float
    atol: float | np.ndarray | None
    clock_name: str
    chart_names: tuple[str, ...]
    integrator: str
    course: Course | None = field(default=None, compare=False)
    _stages: tuple[Stage, ...] = field(default=(), compare=False)
    #: What the charts have been asked for; never part of what the path shows.
    _asked: dict[str, np.ndarray] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return int(self.t.shape[0])

    def chart_value(self, name: str) -> np.ndarray | None:
        """``log_loss`` or ``gradient_norm`` through the chart; None where states are not kept."""
        at = self.risk.arrangement
        if name == "gradient_norm" and at is not None and at.central and at.kinked:
            return None  # (charts know one side of a kink only)
        if name in CHART_VALUES and name not in self._asked and self._stages:
            self._asked[name] = np.concatenate([stage.chart_value(name) for stage in self._stages])
        return self._asked.get(name)

    def coordinates(self) -> dict[str, tuple[np.ndarray, str]]:
        return {**super().coordinates(), "clock": (self.clock, f"{self.clock_name} clock")}

    def at(self, t: ArrayLike | None = None, *, log_t: ArrayLike | None = None) -> AbstractPath:
        asked = asked_times(t, log_t)
        if all(stage.dense is None for stage in self._stages):
            return recorded_at(self, asked)
        return solution_at(self, self._stages, self.log_t_final, asked)

    @property
    def unique(self) -> bool:
        """Whether no point was met at which the flow goes on in more than one way."""
        return all(event.kind != "branch" for event in self.events)

    @property
    def chart(self) -> str:
        """The chart, or the charts joined by arrows."""
        return " -> ".join(self.chart_names)

    def about(self) -> dict[str, object]:
        return {
            "integrator": self.integrator, "clock_name": self.clock_name, "chart": self.chart,
            "rtol": self.rtol, "atol": "scaled" if self.atol is None else self.atol,
            "result": self.result.name, "message": self.result.message,
            "stopped_by": self.stopped_by, "t_final": self.t_final,
            "unique": str(self.unique),
            **{f"stats_{k}": float(v) for k, v in self.stats.items()},
        }  # fmt: skip

    def __repr__(self) -> str:
        span = f"t = {self.t[0]:.6g} ... {self.t[-1]:.6g}" if len(self) else "nothing recorded"
        atol = "scaled" if self.atol is None else f"{np.max(self.atol):g}"
        counts = {key: self.stats[key] for key in ("steps", "rejected", "rhs")}
        work = ", ".join(f"{'unknown' if n != n else int(n)} {key}" for key, n in counts.items())
        return (
            f"Trajectory of {self.risk.name}\n"
            f"  {len(self)} points, {span}, "
            f"stopped at t = {self.t_final:.6g} by {self.stopped_by}\n"
            f"  {self.integrator}, clock {self.clock_name}, chart {self.chart}, "
            f"rtol = {self.rtol:g}, atol = {atol}\n"
            f"  {work}, {self.stats['run_seconds']:.3g} s + "
            f"{self.stats['compile_seconds']:.3g} s compiling\n"
            f"  result: {self.result.name} ({self.result.message})"
        )

    @property
    def defects(self) -> dict[str, float]:
        r"""How far the flow's exact invariants drifted: free monitors of the numerical error.

        ``energy`` is the largest :math:`|L(0)-L(t)-\int\|\dot\theta\|^2|/|L(0)|`; ``balance`` the
        largest change of :math:`a_k^2-\|w_k\|^2` (for deep linear nets, of the layers' Gram
        matrices) relative to the largest squared weight, absent where nothing is conserved.
        Source: `du2018balanced`.
        """
        found = {"energy": float(np.max(np.abs(self.observe("energy_defect")), initial=0.0))}
        net = self.risk.net
        conserved = None
        if net is not None and self.risk.conserves_balance:
            conserved = net.balancedness(self.initial)
        if conserved is not None:
            balance = np.asarray(self.observe("balancedness"))
            size = max(float(np.max(np.abs(x))) for x in jax.tree.leaves(self.params)) ** 2
            found["balance"] = float(np.max(np.abs(balance - balance[0]))) / size
        return found


__all__ = ["Trajectory"]
