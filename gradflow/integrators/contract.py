"""The contract between a flow and whatever integrates it.

An integrator sees a vector field ``flow.field(s, Y)``, a start, tolerances, events and save points;
it never learns what a network or a risk is.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gradflow.flows.event import AbstractEvent
from gradflow.flows.flow import Flow
from gradflow.flows.stage import Point
from gradflow.integrators.tolerances import Tolerances
from gradflow.integrators.watch import Describe, Watch
from gradflow.validation import fail

if TYPE_CHECKING:
    from gradflow.integrators.until import LogTimeMeasure


#: Results an integrator may end with: name -> (ok, message). The message carries the remedy.
RESULTS: dict[str, tuple[bool, str]] = {
    "reached": (True, "the end of the interval was reached"),
    "event": (True, "a stopping condition was met"),
    "steps": (True, "the number of steps asked for was taken"),
    "rest": (
        True,
        "the flow has come to rest before the end that was asked for: in all the time that is left "
        "it moves by less than the tolerance, so the state is given for that end as it is. "
        "gf.certify tells whether the point is a minimum",
    ),
    "max_steps": (
        False,
        "max_steps attempted steps were taken before the end; the part computed is kept. Raise "
        "max_steps, loosen rtol, choose a stiff integrator ('kvaerno5', 'radau', 'lsoda') if steps "
        "stay short while the state hardly moves, or clock='log' for long times",
    ),
    "stationary": (
        False,
        "the flow has come to rest at a positive loss: the data are not separated, and there is "
        "no limit direction; the part computed is kept. Ask for an earlier time or gradient norm, "
        "check that labels do not contradict each other, or take a wider net",
    ),
    "seen": (
        False,
        "a datum that no neuron saw is seen again, at weights too large to go on from in the "
        "coordinates of the early flow, or for the last of many times; the part computed is kept. "
        "Leave that datum out, or ask for an earlier time",
    ),
    "unsettled": (
        False,
        "the end of the late phase depends on choices that its checks do not confirm (they "
        "follow); the part computed is kept. Tighten or loosen rtol, or perturb the start",
    ),
    "interrupted": (
        False,
        "interrupted (Ctrl-C, or progress returned False); the part computed is kept. Go on from "
        "its end",
    ),
    "max_seconds": (
        False,
        "max_seconds passed before the end; the part computed is kept. Raise max_seconds, loosen "
        "rtol, or go on from the end",
    ),
    "raised": (
        False,
        "an exception was raised (it follows); the stages done before are kept. Integrate this "
        "start alone, with gf.integrate, to see where",
    ),
    "stuck": (
        False,
        "one surface is met again and again without progress; the part computed is kept. Perturb "
        "the start, or tighten rtol",
    ),
    "step_too_small": (
        False,
        "the step size fell below the spacing of floating-point numbers; the part computed is kept."
        " The field is singular or blows up there, or rtol is below what the field's own rounding "
        "allows: loosen rtol, or choose another chart",
    ),
    "non_finite": (
        False,
        "the vector field is not finite at the start of the stage. Check the risk's gradient there",
    ),
    "failed": (
        False,
        "the solver gave up (its message follows); the part computed is kept. Loosen rtol or choose"
        " another integrator",
    ),
}


@dataclass(frozen=True)
class Result:
    """How an integration ended.

    Attributes
    ----------
    name : str
        One of the keys of `RESULTS`.
    detail : str
        What the underlying solver said, if anything.
    """

    name: str
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the integration ended as asked."""
        return RESULTS[self.name][0]

    @property
    def message(self) -> str:
        """What happened and what to do about it."""
        text = RESULTS[self.name][1]
        return f"{text} ({self.detail})" if self.detail else text

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Happening:
    """Something that happened inside a stage.

    Attributes
    ----------
    s : float
        Value of the clock.
    tau : float
        ln(1+t) where time is a state of the clock; else unused.
    neuron, surface : int
    kind : str
        ``crossing``, ``slide-in``, ``slide-out``, ``branch``, ``origin``, ``death``; of a datum
        ``margin``, ``margin-in``, ``margin-out`` (``surface`` is the datum then, ``neuron`` −1).
    """

    s: float
    tau: float
    neuron: int
    surface: int
    kind: str


@dataclass(frozen=True)
class Problem:
    """One stage of an integration: Y' = flow.field(s, Y), Y(s0) = Y0.

    Attributes
    ----------
    flow : Flow
        Pytree with ``field(s, Y)``; arrays in it are run-time arguments of compiled code.
    Y0 : ndarray, shape (D,)
        State at ``s0``.
    s0, s_end : float
        Interval of the clock; ``s_end = inf`` leaves the end to events or to ``step_cap``.
    tolerances : Tolerances
        What a step must hold.
    events : tuple of AbstractEvent
        What ends the stage, wherever it crosses to >= 0.
    save : ndarray or None
        Increasing values of the save variable at which to record the state; None = accepted steps.
    save_by : callable or None
        The save variable as an increasing function ``(flow, s, Y) -> float``; None = s itself.
    max_steps : int
        Bound on attempted steps.
    step_cap : int or None
        Stop (successfully) after this many accepted steps.
    dense : bool
        Whether to keep the solution between the steps.
    watch : Watch
        Asked now and then whether to go on (progress, a time limit, Ctrl-C).
    describe : callable or None
        ``describe(s, Y)``: what the flow tells of itself to who watches.
    sides : (m, G) ints or None
        As in :class:`Solution`, where a stage goes on from one that located them.
    """

    flow: Flow
    Y0: np.ndarray
    s0: float
    s_end: float
    tolerances: Tolerances
    events: tuple[AbstractEvent, ...] = ()
    save: np.ndarray | None = None
    save_by: LogTimeMeasure | None = None
    max_steps: int = 1_000_000
    step_cap: int | None = None
    dense: bool = False
    watch: Watch = field(default_factory=Watch)
    describe: Describe | None = None
    sides: np.ndarray | None = None

    def look(
        self, s: float, Y: Callable[[], np.ndarray], *, steps: int, events: int = 0
    ) -> Result | None:
        """Tell who watches where the stage is; a result if it is to end here."""
        name = self.watch.look(s, self.s_end, Y, steps=steps, events=events, describe=self.describe)
        return None if name is None else Result(name)


class AbstractDense(abc.ABC):
    """The solution of a stage between its steps.

    Attributes
    ----------
    s_first, s_last : float
        The stage's interval of the clock.
    """

    s_first: float
    s_last: float

    @abc.abstractmethod
    def __call__(self, s: np.ndarray) -> np.ndarray:
        """States (k, D) at clock values ``s`` (k,).

        Raises
        ------
        ValueError
            If one lies outside the stage.
        """

    def _check(self, s: np.ndarray) -> None:
        if np.any(~((s >= self.s_first) & (s <= self.s_last))):
            raise fail(
                "s", s, "lies outside the stage", f"pass {self.s_first:.6g} ... {self.s_last:.6g}"
            )


class ShiftedDense(AbstractDense):
    """Another one with ``shift`` added to its clock."""

    def __init__(self, dense: AbstractDense, shift: float) -> None:
        self._dense, self._shift = dense, shift
        self.s_first, self.s_last = dense.s_first + shift, dense.s_last + shift

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """States (k, D) at clock values ``s`` (k,)."""
        s = np.asarray(s, np.float64)
        self._check(s)
        # (the shift rounds: its ends are the other's ends)
        inner = np.clip(s - self._shift, self._dense.s_first, self._dense.s_last)
        return self._dense(inner)


@dataclass(frozen=True)
class Solution:
    """What an integrator hands back for one stage.

    Attributes
    ----------
    s, Y : ndarray, shapes (n,), (n, D)
        The recorded points: the accepted steps with both ends, or the save points reached.
    s_final, Y_final : float, ndarray (D,)
        Where the stage stopped.
    stats : dict
        See :mod:`~gradflow.integrators.statistics`.
    result : Result
    event : AbstractEvent or None
        The event that ended the stage.
    happenings : tuple of Happening
        Surfaces met on the way, for integrators that locate them.
    sides : (m, G) ints or None
        The side of each surface on which each neuron ended, 0 where it slides.
    seen : (n,) bools or None
        With the result "seen": the data that a neuron has come to see again.
    dense : AbstractDense or None
        The solution between the steps, where it was asked for and the method keeps it.
    """

    s: np.ndarray
    Y: np.ndarray
    s_final: float
    Y_final: np.ndarray
    stats: dict[str, float]
    result: Result
    event: AbstractEvent | None = None
    happenings: tuple[Happening, ...] = ()
    sides: np.ndarray | None = None
    seen: np.ndarray | None = None
    dense: AbstractDense | None = None

    @property
    def end(self) -> Point:
        """Where the stage stopped, with what another one goes on from."""
        return Point(self.s_final, self.Y_final, self.sides, self.seen)


class AbstractIntegrator(abc.ABC):
    """Solves a :class:`Problem`; knows nothing of risks and networks.

    Attributes
    ----------
    name : str
    locates : bool
        Whether it goes from kink to kink.
    """

    name: str
    locates: ClassVar[bool] = False

    @abc.abstractmethod
    def solve(self, problem: Problem) -> Solution:
        """Integrate until the end, an event, a cap or a failure; never raise for the latter."""


@dataclass
class _Registry:
    factories: dict[str, Callable[[], AbstractIntegrator]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    types: dict[type, Callable[[Any], AbstractIntegrator]] = field(default_factory=dict)


_REGISTRY = _Registry()


def register_integrator(
    name: str, factory: Callable[[], AbstractIntegrator], *, hidden: bool = False
) -> None:
    """Make an integrator available under ``name``: ``factory()`` returns it.

    A hidden one serves a stage of its own and is not asked for by users.

    Raises
    ------
    ValueError
        If the name is taken by another factory.
    """
    known = _REGISTRY.factories.get(name)
    if known is not None and known is not factory:
        raise ValueError(f"name={name!r}: an integrator of this name exists; choose another name")
    _REGISTRY.factories[name] = factory
    if hidden:
        _REGISTRY.hidden.add(name)


def register_solver_type(kind: type, wrap: Callable[[Any], AbstractIntegrator]) -> None:
    """Make solver objects of type ``kind`` usable as integrators: ``wrap(solver)`` returns one."""
    _REGISTRY.types[kind] = wrap


def integrator_names() -> list[str]:
    """Return the names of the integrators that may be asked for, sorted."""
    return sorted(_REGISTRY.factories.keys() - _REGISTRY.hidden)


def make_integrator(choice: object) -> AbstractIntegrator:
    """Return the integrator of a registered name, or around a solver object.

    Raises
    ------
    ValueError
        If ``choice`` is neither.
    """
    if isinstance(choice, AbstractIntegrator):
        return choice
    if isinstance(choice, str) and choice in _REGISTRY.factories:
        return _REGISTRY.factories[choice]()
    for kind, wrap in _REGISTRY.types.items():
        if isinstance(choice, kind):
            return wrap(choice)
    raise fail(
        "integrator", choice, "is not a known name",
        f"choose one of {', '.join(['auto', *integrator_names()])}, or pass a diffrax solver",
    )  # fmt: skip
