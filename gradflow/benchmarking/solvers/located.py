"""A second, plain way through the kinks, to hold the package's own against: SciPy and NumPy.

In a cell of the arrangement, neuron k slides on the surfaces S_k and has the side P_ki of every
other datum. DOP853 integrates the field of the cell; on its dense output the earliest sign change
of some w_k·x_i, or of a multiplier that leaves Clarke's interval, is found, the way there is
integrated again, and the bounded least squares problem of the least velocity decides what comes
next [filippov1988, clarke1983]. Slow; for data in general position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import integrate, optimize

from gradflow.benchmarking.field import Field
from gradflow.benchmarking.plain import PlainNet, not_plain, plain_net
from gradflow.benchmarking.problem import Problem
from gradflow.benchmarking.solvers.contract import AbstractSolver, Attempt, Counts, atol_of

#: Where within a step signs are looked at.
_NODES = np.linspace(0, 1, 9)[1:]
#: Heights below this share of |w||x| have no sign.
_ON = 1e-13


class Lost(Exception):
    """What comes next is not decided by the plain rules."""


@dataclass
class Cell:
    """Sides (m, n) in {+1, −1, 0 = slides}, and the field between events.

    Attributes
    ----------
    net : PlainNet
    sides : (m, n) ints
    count : int
        Evaluations.
    """

    net: PlainNet
    sides: np.ndarray
    count: int = 0

    def __post_init__(self) -> None:
        self.settle()

    def settle(self) -> None:
        """Bases of what each neuron slides on, after the sides changed."""
        net = self.net
        self.slopes = np.where(self.sides > 0, net.high, np.where(self.sides < 0, net.low, 0.0))
        self.sliding = {k: np.flatnonzero(row == 0) for k, row in enumerate(self.sides)}
        self.sliding = {k: members for k, members in self.sliding.items() if members.size}
        self.bases = {k: np.linalg.qr(net.X[i].T)[0] for k, i in self.sliding.items()}
        self.back = {k: np.linalg.pinv(net.X[i].T) for k, i in self.sliding.items()}

    def forces(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pulls (n,), forces u (m, d) of all data that are not slid on, and W·xᵀ (m, n)."""
        W, a = self.net.split(state)
        h = W @ self.net.X.T
        pulls = self.net.pulls(a @ (self.slopes * h))
        return pulls, (self.slopes * pulls) @ self.net.X, h

    def __call__(self, t: float, state: np.ndarray) -> np.ndarray:
        """The velocity."""
        self.count += 1
        pulls, u, h = self.forces(state)
        a = self.net.split(state)[1]
        for k, Q in self.bases.items():
            u[k] -= Q @ (Q.T @ u[k])
        da = (self.slopes * h) @ pulls if self.net.trained else np.zeros_like(a)
        return np.concatenate([(a[:, None] * u).ravel(), da])

    def watched(self, state: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """What must stay positive: P h (m, n); room (2, |S_k|) of the multipliers of S_k."""
        pulls, u, h = self.forces(state)
        rooms = {}
        for k, members in self.sliding.items():
            # (times the pull, which may vanish: |pull|(λ − low) and |pull|(high − λ))
            held = -self.back[k] @ u[k]
            size, sign = np.abs(pulls[members]), np.sign(pulls[members])
            rooms[k] = np.stack([sign * held - self.net.low * size,
                                 self.net.high * size - sign * held])  # fmt: skip
        return self.sides * h, rooms

    def decide(self, k: int, candidates: np.ndarray, state: np.ndarray) -> None:
        """Give the candidates of neuron k their sides: the least velocity of Clarke's set."""
        net = self.net
        self.sides[k, candidates] = 0
        self.settle()
        pulls, u, _ = self.forces(state)
        a_k = net.split(state)[1][k]
        attracting = a_k * pulls[candidates] < 0
        if not np.all(attracting):
            raise Lost(f"a surface of neuron {k} repels while it slides: the flow is not unique")
        columns = pulls[candidates] * net.X[candidates].T.copy()
        scale = np.linalg.norm(columns, axis=0)
        found = optimize.lsq_linear(
            columns / scale, -u[k], (net.low * scale, net.high * scale), method="bvls", tol=1e-15,
            max_iter=1000,
        )  # fmt: skip
        self.sides[k, candidates] = found.active_mask
        self.settle()


def _start(net: PlainNet, state: np.ndarray) -> Cell:
    h = net.split(state)[0] @ net.X.T
    if np.any(h == 0):
        raise Lost("the start lies on a surface")
    return Cell(net, np.sign(h).astype(int))


class Located(AbstractSolver):
    """Crossings and slides located with SciPy's DOP853 (a reference for kinked problems)."""

    name = "located"

    def families(self, problem: Problem) -> frozenset[str]:
        return frozenset({"events by SciPy"})

    def refusal(self, problem: Problem) -> str | None:
        return not_plain(problem)

    def run(self, problem: Problem, field: Field, setting: float) -> Attempt:
        net = plain_net(problem)
        walk = _Walk(_start(net, problem.y0), problem, setting)
        try:
            while walk.t < problem.t_end:
                walk.to_next_event(field)
        except Lost as lost:
            counts = Counts(walk.cell.count, 0, walk.steps)
            return Attempt(None, str(lost), t=walk.t, counts=counts)
        return Attempt(walk.state, counts=Counts(walk.cell.count, 0, walk.steps))


@dataclass(frozen=True)
class _Event:
    """At ``t``: neuron k meets datum i (side 0), or leaves it to a side."""

    t: float
    k: int
    i: int
    side: int


@dataclass(frozen=True)
class _Step:
    """The last step: ``dense(t)`` on [t0, t0 + h]."""

    t0: float
    h: float
    dense: Callable[[float], np.ndarray]

    def root(self, function: Callable[[float], float], values: list[float], pair: str) -> float:
        """Where ``function``, of some values at the nodes, first falls below 0."""
        t0, h = self.t0, self.h
        first = next(j for j, value in enumerate(values) if value < 0)
        high = t0 + float(_NODES[first]) * h
        low = t0 if first == 0 else t0 + float(_NODES[first - 1]) * h
        if first == 0 and function(low) <= 0:
            # fresh off its surface: it was above in between, or it was not decided well
            inside = [t0 + x * float(_NODES[0]) * h for x in (0.5, 0.2, 0.05, 0.01)]
            above = [t for t in inside if function(t) > 0]
            if not above:
                raise Lost(f"{pair} meet again at once")
            low = above[0]
        found = optimize.root_scalar(
            function, bracket=(low, high), method="brentq", xtol=1e-16 * abs(high) + 1e-300,
            rtol=1e-15,
        )  # fmt: skip
        return float(found.root)


class _Walk:
    """The way from event to event.

    Attributes
    ----------
    cell : Cell
    t, state : float and (P,) array
        Where it is.
    steps : int
    """

    def __init__(self, cell: Cell, problem: Problem, rtol: float) -> None:
        self.cell, self.t_end = cell, problem.t_end
        self.t, self.state, self.steps = 0.0, problem.y0.copy(), 0
        self._rtol, self._atol = rtol, atol_of(problem, rtol)
        self._first: float | None = None
        self._at_once = 0

    def _solver(self, t: float, state: np.ndarray, end: float, first: float | None):
        return integrate.DOP853(
            self.cell, t, state, end, first_step=first, rtol=self._rtol, atol=self._atol
        )

    def to_next_event(self, field: Field) -> None:
        """Integrate to the next event and decide what comes next, or to the end."""
        solver = self._solver(self.t, self.state, self.t_end, self._first)
        while solver.status == "running":
            field.check_time()
            message = solver.step()
            if solver.status == "failed":
                raise Lost(str(message))
            self.steps += 1
            t0 = float(solver.t_old or 0.0)
            step = _Step(t0, float(solver.t) - t0, solver.dense_output())
            event = self._earliest(step)
            if event is not None:
                self._to(event, step)
                self._cross(event)
                self._first = min(0.5 * step.h, self.t_end - self.t) or None
                return
        self.t, self.state = self.t_end, solver.y

    def _earliest(self, step: _Step) -> _Event | None:
        """The first event of a step."""
        cell, dense, t0, h = self.cell, step.dense, step.t0, step.h
        W, X = cell.net.split(dense(t0 + h))[0], cell.net.X
        on = _ON * np.linalg.norm(W, axis=1)[:, None] * np.linalg.norm(X, axis=1)
        at = [cell.watched(dense(t0 + x * h)) for x in _NODES]
        found: list[_Event] = []
        below = np.any([heights < -on for heights, _ in at], axis=0)
        for k, i in np.argwhere(below).tolist():
            values = [float(heights[k, i]) for heights, _ in at]
            height = lambda t, k=k, i=i: float(cell.watched(dense(t))[0][k, i])
            pair = f"neuron {k} and datum {i}"
            found.append(_Event(step.root(height, values, pair), k, i, 0))
        _, now = cell.watched(dense(t0))
        for k, members in cell.sliding.items():
            for place, i in enumerate(members.tolist()):
                for row, side in ((0, -1), (1, 1)):
                    values = [float(rooms[k][row, place]) for _, rooms in at]
                    if now[k][row, place] <= 0:
                        # neurons of one pattern feel one force, and leave together
                        found.append(_Event(t0, k, i, side))
                    elif min(values) < 0:
                        at_place = k, row, place
                        room = lambda t, p=at_place: float(cell.watched(dense(t))[1][p[0]][p[1:]])
                        found.append(_Event(step.root(room, values, ""), k, i, side))
        return min(found, key=lambda event: event.t, default=None)

    def _to(self, event: _Event, step: _Step) -> None:
        """Integrate to the event (dense output is less accurate than steps), and end on it."""
        cell, t, state = self.cell, event.t, step.dense(step.t0)
        self._at_once = self._at_once + 1 if t <= self.t else 0
        if self._at_once > cell.sides.size:
            raise Lost(f"event upon event at t = {t:.6g}")
        if t > step.t0:
            again = self._solver(step.t0, state, t, t - step.t0)
            while again.status == "running":
                again.step()
            state = again.y
        state = state.copy()
        if event.side == 0:
            velocity, x = cell(t, state), cell.net.X[event.i]
            rate = cell.net.split(velocity)[0][event.k] @ x
            behind = cell.net.split(state)[0][event.k] @ x
            if rate != 0:
                state, t = state - behind / rate * velocity, t - float(behind / rate)
        self.t, self.state = t, state

    def _cross(self, event: _Event) -> None:
        """New sides, and the neuron's weights on what it slides on."""
        cell, k, i = self.cell, event.k, event.i
        rest = members = cell.sliding.get(k, np.zeros(0, int))
        if event.side:
            cell.sides[k, i] = event.side
            rest = members[members != i]
        else:
            pull = cell.forces(self.state)[0][i]
            if cell.net.split(self.state)[1][k] * pull < 0:
                rest = np.append(members, i)
            else:
                cell.sides[k, i] = -cell.sides[k, i]
        if rest.size:
            cell.decide(k, rest, self.state)
        cell.settle()
        W, _ = cell.net.split(self.state)
        if k in cell.bases:
            Q = cell.bases[k]
            W[k] -= Q @ (Q.T @ W[k])
