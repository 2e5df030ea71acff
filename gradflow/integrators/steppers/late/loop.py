r"""One loop for both forms of the late phase: a step, its events, the way on.

A form supplies a step with an error estimate and a polynomial dense output, and the weights p of
the data at a state. The loop looks on the dense output for the earliest of: a surface met, a
sliding multiplier that leaves [0, 1], an outer weight of a sliding neuron that changes sign, an
event of the form itself, a stopping function. The step is then taken again to that point and
corrected, so that the accuracy of an event is that of the method. Both flows are autonomous: time
is counted from the last event, and layers of width ρ^{−D} never fall below the spacing of a clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize

from gradflow.cells.pattern import Pattern
from gradflow.integrators.steppers.late.cell import Cell
from gradflow.integrators.steppers.late.events import (
    NODES,
    POWERS,
    Hit,
    Standing,
    first_surface,
    refreshed,
    resolve,
)
from gradflow.integrators.steppers.late.field import MarginNet
from gradflow.integrators.steppers.late.slides import Slides

#: A multiplier may leave [0, 1] by this much.
_NU_SLACK = 1e-10
#: Events of zero length in a row before steps are shortened, and before giving up.
_PATIENT, _MAX_STUCK = 4, 60
#: Neurons smaller than this (of the whole net) are set to zero for good.
_DEAD = 1e-140

#: Names a phase may end with.
REACHED, MAX_STEPS, TOO_SMALL, STUCK, SEEN = (
    "reached", "max_steps", "step_too_small", "stuck", "seen",
)  # fmt: skip


def evaluate(poly: np.ndarray, xi: float) -> np.ndarray:
    """Return ``Σ_j poly[j] ξ^j``."""
    out = poly[-1]
    for row in poly[-2::-1]:
        out = row + xi * out
    return out


def root(value: Callable[[float], float], a: float, b: float) -> float:
    """Return the root of a function that changes sign from - at a to + at b, else b."""
    if value(a) < 0 <= value(b):
        options: Any = {"xtol": 1e-15, "rtol": 1e-13}
        found: Any = optimize.brentq(value, a, b, **options)
        return float(found)
    return b


class AbstractPhase(ABC):
    """The loop; `run` integrates from the state ``Y`` and keeps it up to date.

    Parameters
    ----------
    net : MarginNet
    Y : array
        Begins with u (P,).
    standing : Standing
    rtol : float
    stop : callable
        ``stop(phase, Y) -> float``, ≥ 0 where to stop.
    record : callable
        ``record(phase, what)`` after every accepted point, ``what`` a list of
        (neuron, surface, kind); ``record(phase, [], Y)`` for a state Y asked for.
    stats : dict
        Counts, added to.
    """

    form: str
    #: Whether events of zero length may pass with shorter steps; else the run soon gives up.
    shortens: bool = False

    def __init__(self, net: MarginNet, Y: np.ndarray, standing: Standing, rtol: float,
                 stop: Callable[..., float], record: Callable[..., None],
                 stats: dict[str, int]) -> None:  # fmt: skip
        self.net, self.rtol = net, rtol
        self.Y, self.standing = np.array(Y), standing
        self.stop, self.record, self.stats = stop, record, stats
        #: Values of ln t, increasing, at which a state is recorded as well (taken out when done).
        self.save_at: list[float] = []
        #: ln t where time is counted from.
        self.log_start = -np.inf
        self.h = 0.0
        self.detail = ""
        self._made: tuple[Pattern, Cell, Slides] | None = None
        self._logged: tuple[np.ndarray | None, tuple] = None, ()
        #: Asked at each step whether to go on; else the name of the result to end with.
        self.look: Callable[[AbstractPhase], str | None] = lambda phase: None

    @property
    def cell(self) -> Cell:
        """The pattern as plain arrays."""
        return self._frozen()[1]

    @property
    def slides(self) -> Slides:
        """The pairs on which neurons slide."""
        return self._frozen()[2]

    def _frozen(self) -> tuple[Pattern, Cell, Slides]:
        """What follows from the pattern, made once for each."""
        pattern = self.standing.pattern
        if self._made is None or self._made[0] is not pattern:
            self._made = pattern, Cell.of(self.net, pattern), Slides(self.net, pattern)
        return self._made

    @abstractmethod
    def prepare(self) -> None:
        """Evaluate what steps from ``Y`` need (called once a point)."""

    @abstractmethod
    def first_step(self) -> float:
        """Return a step that resolves the fastest layer at ``Y``."""

    @abstractmethod
    def longest_step(self) -> float:
        """Return the longest step that makes sense at ``Y``."""

    @abstractmethod
    def take(self, h: float) -> tuple[np.ndarray, float, np.ndarray]:
        """Return the state after h, its error in tolerances, and the dense output's polynomial."""

    @abstractmethod
    def weights(self, Y: np.ndarray) -> np.ndarray:
        """Return p (..., n) at states (..., N), the pattern being frozen."""

    @abstractmethod
    def elapsed(self, Y: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Return ``ln L``, the logarithm of the time since the start, and q̂ (n,) at a state."""

    def logs(self, Y: np.ndarray) -> tuple:
        """Return ``ln L``, ``ln t`` and q̂ (n,) at a state."""
        # (asked of the same state by who stops and by who records)
        if self._logged[0] is not Y:
            log_loss, elapsed, q = self.elapsed(Y)
            self._logged = Y, (log_loss, float(np.logaddexp(self.log_start, elapsed)), q)
        return self._logged[1]

    @abstractmethod
    def velocity(self, Y: np.ndarray) -> tuple[float, float]:
        """Return |u'| and r' at a state."""

    @abstractmethod
    def after_event(self, h: float, what: list[tuple[int, int, str]]) -> float:
        """Return the step to try after an event (``prepare`` has been called)."""

    def own_event(self, nodes: np.ndarray, poly: np.ndarray, before: float) -> Hit:
        """Return the earliest event of the form itself before the fraction ``before``."""
        return Hit()

    def own_distance(self, hit: Hit, Y: np.ndarray) -> float:
        """Return how far Y is before (+) or beyond (-) an own event."""
        return 0.0

    def settle(self, hit: Hit, what: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
        """Resolve an event at ``Y``: sides, support. Return what happened."""
        p = self.weights(self.Y)
        u, self.standing, done = resolve(self.net, self.standing, self.Y[: self.net.P], p, hit)
        self.move(u)
        return [*what, *done]

    def move(self, u: np.ndarray) -> None:
        """Set the weights (in a new array: what is remembered of the old one stays true)."""
        self.Y = np.concatenate([u, self.Y[self.net.P :]])

    # ------------------------------------------------------------------------------ events
    def _outer(self, Y: np.ndarray) -> np.ndarray:
        return self.net.split(Y[..., : self.net.P])[1]

    def _nu(self, Y: np.ndarray) -> np.ndarray:
        return self.slides.multipliers(self.weights(Y))

    def _first_exit(self, nodes: np.ndarray, poly: np.ndarray, before: float) -> Hit:
        """The earliest multiplier that leaves [0, 1], or outer weight that changes sign."""
        hit, slides, now = Hit(), self.slides, self._outer(self.Y)
        if not slides.neuron.size:
            return hit
        nu = self._nu(nodes)
        left = ~((nu >= -_NU_SLACK) & (nu <= 1 + _NU_SLACK))
        turned = np.zeros((len(nodes), self.net.m), bool)
        if self.net.trained:
            slid = slides.slid
            turned[:, slid] = now[slid] * self._outer(nodes)[:, slid] < 0
        bad = left.any(axis=1) | turned.any(axis=1)
        if not bad.any():
            return hit
        at = int(np.argmax(bad))
        previous = NODES[at - 1] if at else 0.0
        for j in np.flatnonzero(left[at]):
            sign, bound = (1.0, 1.0) if nu[at, j] > 0.5 else (-1.0, 0.0)
            beyond = lambda x, j=j, b=bound, s=sign: s * (self._nu(evaluate(poly, x))[j] - b)
            xi = previous if beyond(previous) >= 0 else root(beyond, previous, NODES[at])
            if xi < min(hit.xi, before):
                hit = Hit(xi, "exit", int(slides.neuron[j]), int(slides.surface[j]), bound, j)
        for k in np.flatnonzero(turned[at]):
            sign = -np.sign(now[k])
            beyond = lambda x, k=k, s=sign: s * self._outer(evaluate(poly, x))[k]
            xi = root(beyond, previous, NODES[at])
            if xi < min(hit.xi, before):
                hit = Hit(xi, "outer", int(k), -1, extra=-sign)
        return hit

    def _distance(self, hit: Hit, Y: np.ndarray) -> float:
        """How far a state is before (+) or beyond (−) an event, in the event's own unit."""
        if hit.kind == "surface":
            k, g = hit.neuron, hit.surface
            start = self.net.split(self.Y[: self.net.P])[0][k]
            w = self.net.split(Y[: self.net.P])[0][k]
            size = np.linalg.norm(start) * self.net.at.sizes[g]
            return float(self.standing.sides[k, g] * (self.net.N[g] @ w) / size)
        if hit.kind == "exit":
            nu = float(self._nu(Y)[hit.extra])
            return 1.0 - nu if hit.bound > 0.5 else nu
        if hit.kind == "outer":
            return float(np.sign(self._outer(self.Y)[hit.neuron]) * self._outer(Y)[hit.neuron])
        if hit.kind == "stop":
            return -self.stop(self, Y)
        if hit.kind == "save":
            return hit.extra - self.logs(Y)[1]
        return self.own_distance(hit, Y)

    def _refine(self, hit: Hit, h: float, poly: np.ndarray) -> np.ndarray:
        """Step to the event itself: secant on real steps, begun by the dense output."""
        tolerance = 1e-13 if hit.kind == "surface" else 1e-11
        if hit.kind == "save":
            tolerance *= max(1.0, abs(hit.extra))
        lo, hi = 0.0, h
        a, b = max(hit.xi - 1e-4, 0.0), min(hit.xi + 1e-4, 1.0)
        ends = [self._distance(hit, evaluate(poly, x)) for x in (a, b)]
        slope = (ends[1] - ends[0]) / ((b - a) * h)
        at, last = hit.xi * h, None
        best, closest = evaluate(poly, hit.xi), np.inf
        for _ in range(7):
            Y, error, _ = self.take(at)
            if not np.isfinite(error):
                break
            value = self._distance(hit, Y)
            if abs(value) < closest:
                best, closest = Y, abs(value)
            if abs(value) <= tolerance:
                break
            lo, hi = (at, hi) if value > 0 else (lo, at)
            if last is not None and at != last[0] and value != last[1]:
                slope = (value - last[1]) / (at - last[0])
            last = (at, value)
            goal = at - value / slope if slope != 0 else np.nan
            goal = goal if lo < goal < hi else 0.5 * (lo + hi)
            if abs(goal - at) <= 1e-15 * h:
                break
            at = goal
        return best

    def _save_between(self, end: np.ndarray, h: float, poly: np.ndarray, before: float) -> None:
        """Record the states at the times asked for up to ``end``, at the fraction ``before``."""
        if not self.save_at:
            return
        reached = self.logs(end)[1]
        while self.save_at and self.save_at[0] <= reached:
            target = self.save_at.pop(0)
            late = lambda x, t=target: self.logs(evaluate(poly, x))[1] - t
            xi = root(late, 0.0, before)
            Y = self._refine(Hit(xi, "save", extra=target), h, poly) if xi > 0 else self.Y
            self.record(self, [], Y)

    def _bury(self) -> list[tuple[int, int, str]]:
        """Set neurons to zero that have become too small to be followed."""
        if not self.net.trained:
            return []
        body = self.Y[: self.net.P].reshape(self.net.m, -1)
        gone = (np.abs(body).max(axis=1) < _DEAD) & ~self.standing.dead
        if not gone.any():
            return []
        self.move(np.where(gone[:, None], 0.0, body).ravel())
        self.standing.dead |= gone
        return [(int(k), -1, "death") for k in np.flatnonzero(gone)]

    # ------------------------------------------------------------------------------ the loop
    def run(self, max_steps: int) -> str:
        """Integrate; return the name of the result. The state and standing are kept."""
        with np.errstate(all="ignore"):
            try:
                return self._run(max_steps)
            except (np.linalg.LinAlgError, FloatingPointError) as error:
                self.detail = f"linear algebra failed: {error}"
                return TOO_SMALL

    def _run(self, max_steps: int) -> str:
        P, stuck = self.net.P, 0
        if self.stop(self, self.Y) >= 0:
            return REACHED
        self.prepare()
        self.h = self.h or self.first_step()
        while True:
            if self.stats["steps"] + self.stats["rejected"] >= max_steps:
                return MAX_STEPS
            if heard := self.look(self):
                return heard
            h = min(self.h, self.longest_step())
            if not h > 1e-13 * self.first_step():
                self.detail = "a step far below the fastest layer was asked for"
                return TOO_SMALL
            Y1, error, poly = self.take(h)
            if not error <= 1.0:
                self.stats["rejected"] += 1
                self.h = h * (max(0.1, 0.9 * error**-0.2) if np.isfinite(error) else 0.1)
                continue
            self.stats["steps"] += 1
            nodes = POWERS @ poly
            nodes[-1] = Y1
            hit = first_surface(self.net, self.standing, nodes[:, :P], poly[:, :P])
            for find in (self._first_exit, self.own_event):
                other = find(nodes, poly, min(hit.xi, 1.0))
                hit = other if other.xi < hit.xi else hit
            if self.stop(self, Y1) >= 0:
                xi = root(lambda x, poly=poly: self.stop(self, evaluate(poly, x)), 0.0, 1.0)
                hit = Hit(xi, "stop") if xi <= hit.xi else hit
            if not hit.kind:
                self._save_between(Y1, h, poly, 1.0)
                self.Y, stuck = Y1, 0
                self.h = h * min(8.0, max(0.2, 0.9 * max(error, 1e-9) ** -0.2))
                refreshed(self.net, self.standing, Y1[:P])
                self.record(self, self._bury())
                self.prepare()
                continue
            if hit.xi > 0:
                Y1, stuck = self._refine(hit, h, poly), 0
                self._save_between(Y1, h, poly, hit.xi)
                self.Y = Y1
            else:
                stuck += 1
            if hit.kind == "stop":
                self.record(self, [])
                return REACHED
            refreshed(self.net, self.standing, self.Y[:P])
            what = self.settle(hit, [])
            self.stats["events"] += len(what)
            self.record(self, what)
            if np.any(self.net.seen_again(self.standing.sides, self.standing.dead)):
                return SEEN
            if stuck > _MAX_STUCK:
                self.detail = f"neuron {hit.neuron}, surface {hit.surface}: events without progress"
                return STUCK
            self.prepare()
            self.h = self.after_event(h, what)
            if stuck > _PATIENT and self.shortens:
                # A rate that is nothing yet may be outdone by the error of the dense output.
                self.h *= 0.25
