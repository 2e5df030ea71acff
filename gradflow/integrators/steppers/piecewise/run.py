"""One event-located integration on the host: started, fed and read between compiled segments.

The compiled loop (``piecewise_loop``) takes the steps and resolves the usual events. Here the
unusual points are resolved, with all surfaces that meet there at once (``selection``): starts on a
surface, ties within a neuron, weights that vanish, an outer weight that changes sign while its
neuron slides, where all surfaces slid on turn repelling and the flow branches.
"""

from __future__ import annotations

import functools as ft
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.clarke import ways_on
from gradflow.cells.forces import Forces
from gradflow.cells.origin import can_grow, flat_rates, way_out
from gradflow.cells.pattern import ON_SURFACE, Pattern
from gradflow.integrators.contract import (
    AbstractEvent,
    Happening,
    Problem,
    Result,
    Solution,
)
from gradflow.integrators.statistics import empty_stats
from gradflow.integrators.steppers.piecewise.at_rest import (
    LOOK,
    end_is_far,
    is_at_rest,
    pulls_unseen,
)
from gradflow.integrators.steppers.piecewise.step import (
    EVENT_KINDS,
    HOST,
    NON_FINITE,
    REACHED,
    RUNNING,
    STATIONARY,
    STOPPED,
    TOO_SMALL,
    Carry,
    LoopCell,
    LoopShape,
    Out,
    Rates,
    jumps,
    rates,
    speed_of,
)
from gradflow.integrators.watch import FIRST_BUDGET
from gradflow.numerics.compiled import compile_once
from gradflow.validation import fail

_RESULTS = {REACHED: "reached", STOPPED: "event", TOO_SMALL: "step_too_small",
            NON_FINITE: "non_finite", STATIONARY: "stationary"}  # fmt: skip
#: Bytes of recorded states handed over at once, and bounds on how many states that is.
_BUFFER_BYTES = 2**23
_MIN_ROWS, _MAX_ROWS = 16, 2048
#: Attempted steps between two looks at the host (progress, interrupts).
_SEGMENT = 5_000
#: Surfaces slid on by one neuron for which room is made at first; it doubles when needed.
_SLOTS = 4
#: Attempted steps between two looks while a neuron rests at 0, where it may have to leave.
_WATCH = 20


class PiecewiseRun:
    """One integration: the carry between segments, and what has been recorded."""

    rows: int
    saving: bool
    by_time: bool
    pending: np.ndarray
    share: int
    ahead: int
    cap: int
    resting: np.ndarray
    fixed: dict[str, PyTree]

    def __init__(self, locate: str, problem: Problem) -> None:
        self.problem, flow = problem, problem.flow
        if flow.arrangement is None:
            raise fail(
                "integrator", "piecewise", "needs a risk that states its kinks",
                "use an EmpiricalRisk of TwoLayer with gf.relu or gf.leaky_relu, or 'auto'",
            )  # fmt: skip
        self.arrangement: Arrangement = flow.arrangement
        self.rtol = problem.tolerances.rtol_local
        self.forces = Forces.of(self.arrangement, problem.tolerances.residual)
        chart_state, extra = problem.Y0[: -flow.extras], problem.Y0[-flow.extras :]
        W, a = self.arrangement.split(flow.chart.decode(chart_state))
        self.layout = LoopShape(
            m=W.shape[0], D=W.shape[1], clock=flow.clock.name,
            outer_trained=self.arrangement.trained, jumps=self.arrangement.activation_kinked,
            locate=locate,
        )  # fmt: skip
        self.normals, self.sizes = self.arrangement.normals, self.arrangement.sizes
        self.happenings: list[Happening] = []
        self.parts_s: list[np.ndarray] = []
        self.parts_y: list[np.ndarray] = []
        self.event: AbstractEvent | None = None
        self.compile_seconds = 0.0
        self.looked = 0
        self.budget, self.leg_end, self.leg_rows = FIRST_BUDGET, 0, 0
        y = np.concatenate([W.reshape(-1), a, extra])
        zero = np.int64(0)
        self.carry: Carry = Carry(
            s=np.float64(problem.s0), y=y, k1=np.zeros_like(y), h=np.float64(-1.0),
            pattern=self._start_pattern(W), target=zero, code=np.int64(RUNNING),
            hold=np.zeros((len(W), len(self.normals)) if locate == "slides" else (1, 1), bool),
            stuck=zero, neuron=np.int64(-1), origin=np.bool_(False), accepted=zero,
            attempts=zero, rhs=zero, budget=np.float64(0.0),
        )  # fmt: skip
        self._resolve_start(W)

    # -- conversions ------------------------------------------------------------------------------

    def vectors(self, y: np.ndarray) -> np.ndarray:
        """Integrated vectors of the flow (rows) from the loop's."""
        m, D = self.layout.m, self.layout.D
        W, a = y[:, : m * D].reshape(-1, m, D), y[:, m * D : m * D + m]
        leaves = jax.tree.leaves(self.arrangement.join(W, a))
        flat = [np.asarray(x).reshape(len(y), math.prod(x.shape[1:])) for x in leaves]
        return np.concatenate([*flat, y[:, m * D + m :]], axis=1)

    def sides(self) -> np.ndarray:
        """+1, -1, or 0 for sliding, of every pair (m, G)."""
        pattern = self.carry.pattern
        sides = np.where(np.asarray(pattern.plus), 1, -1)
        return np.where(np.asarray(pattern.slide), 0, sides)

    def _atol(self) -> np.ndarray:
        flow, atol = self.problem.flow, self.problem.tolerances.atol_local
        W, a = self.arrangement.split(flow.chart.decode(atol[: -flow.extras]))
        return np.concatenate([np.ravel(W), np.ravel(a), atol[-flow.extras :]])

    # -- patterns ---------------------------------------------------------------------------------

    def _start_pattern(self, W: np.ndarray) -> LoopCell:
        m, D = W.shape
        H = W @ self.normals.T
        G, K = H.shape[1], min(D, _SLOTS)
        none = np.zeros((m, G), bool)
        return LoopCell(
            plus=H > 0, slide=none, fresh=none.copy(), tangent=np.array([-1, -1]),
            slots=np.full((m, K), -1), Q=np.zeros((m, K, D)), B=np.zeros((m, K, D)),
            resting=np.zeros(m, bool),
        )  # fmt: skip

    def _resolve_start(self, W: np.ndarray) -> None:
        on = np.any(Pattern.at(self.arrangement, W).sides == 0, axis=1)
        for k in np.flatnonzero(on):
            self.resolve(int(k))

    def resolve(self, k: int, origin: bool = False) -> str:
        """Decide all surfaces of neuron ``k`` at the present point together.

        Returns what went wrong, or "".
        """
        carry, layout = self.carry, self.layout
        pattern = LoopCell(*[np.array(part) for part in carry.pattern])
        y = np.array(carry.y)
        m, D = layout.m, layout.D
        W, a = y[: m * D].reshape(m, D), y[m * D : m * D + m]
        now = self._rates(carry)
        self.carry = carry = carry._replace(rhs=carry.rhs + 1)
        size = np.linalg.norm(W[k])
        turned = layout.outer_trained and abs(a[k]) <= 1e-13 * size and np.any(pattern.slide[k])
        if turned:
            a[k] = 0.0
        if origin:
            return self._at_origin(k, y, pattern, now)
        near = np.abs(now.H[k]) <= ON_SURFACE * size * self.sizes
        C = np.flatnonzero(near | pattern.slide[k])
        outer = float(now.da[k] if turned else a[k])
        sides, (up, down) = np.where(pattern.plus[k], 1, -1), self._loud(now)
        chosen = ways_on(self.arrangement, sides, C, outer, up, down)
        if chosen.branches == 0:
            return f"no consistent way on was found for neuron {k} on surfaces {C.tolist()}"
        N = self.normals[C]
        W[k] -= np.linalg.lstsq(N, N @ W[k], rcond=None)[0] if len(C) < D else 0.0
        before = pattern.slide[k].copy()
        pattern.plus[k, C] = chosen.sides > 0
        pattern.slide[k, C] = chosen.sides == 0
        pattern.fresh[k, C] = chosen.sides != 0
        pattern = self._with_slots(pattern, k)
        tau = float(carry.y[-1])
        if chosen.branches > 1 or not chosen.complete:
            # (where not all assignments could be tried, uniqueness is not known either)
            self._happen(k, int(C[0]), "branch", tau)
        for g in C:
            if before[g] != pattern.slide[k, g]:
                self._happen(k, int(g), "slide-out" if before[g] else "slide-in", tau)
        self.carry = carry._replace(y=y, pattern=pattern, stuck=np.int64(0), code=np.int64(RUNNING))
        return ""

    def _at_origin(self, k: int, y: np.ndarray, pattern: LoopCell, now: Rates) -> str:
        """Decide how neuron ``k`` goes on from w_k = 0, where all its surfaces meet.

        It stays iff 0 is in the convex hull of the limiting fields; else it leaves along the
        element of least norm. A direction along which it could grow as well makes a branch.
        """
        m, D = self.layout.m, self.layout.D
        W, a = y[: m * D].reshape(m, D), y[m * D : m * D + m]
        W[k] = 0.0
        at, outer, (up, down) = self.arrangement, float(a[k]), self._loud(now)
        g, _ = way_out(at, outer, up, down)
        tau = float(self.carry.y[-1])
        rests = not np.any(g)
        if not pattern.resting[k]:
            self._happen(k, 0, "origin", tau)
        grows = can_grow(at, outer, now.up, now.down)
        if grows if rests else D > 1 and np.any(outer * (up - down) > 0):
            # (leaving among repelling surfaces: other rays may be consistent too; on a line both
            # sides push the same way, or it would rest)
            self._happen(k, 0, "branch", tau)
        side = np.sign(outer) * (self.normals @ g)
        flat = flat_rates(at, side, g)
        pattern.resting[k] = rests
        pattern.slide[k] = True if rests else flat
        pattern.plus[k] = False if rests else (side > 0) & ~flat
        pattern.fresh[k] = False if rests else ~flat
        if rests:
            pattern.slots[k], pattern.Q[k], pattern.B[k] = -1, 0.0, 0.0
        else:
            pattern = self._with_slots(pattern, k)
        self.carry = self.carry._replace(
            y=y, pattern=pattern, stuck=np.int64(0), code=np.int64(RUNNING)
        )
        return ""

    def _loud(self, now: Rates) -> tuple[np.ndarray, np.ndarray]:
        """F⁺ and F⁻ (G,), one where their difference is noise."""
        return now.down + np.asarray(jumps(self.forces, now)), now.down

    def _with_slots(self, pattern: LoopCell, k: int) -> LoopCell:
        """The pattern with slots, Q and B of neuron ``k`` rebuilt, and room made for them."""
        slid = np.flatnonzero(pattern.slide[k])
        D = self.layout.D
        independent: list[int] = []
        for g in slid:  # at the origin more surfaces meet than are independent
            if np.linalg.matrix_rank(self.normals[[*independent, g]]) > len(independent):
                independent.append(int(g))
        K = pattern.slots.shape[1]
        if len(independent) > K:
            pattern = with_room(pattern, min(D, max(2 * K, len(independent))))
            K = pattern.slots.shape[1]
        pattern.slots[k] = -1
        pattern.slots[k, : len(independent)] = independent
        pattern.Q[k], pattern.B[k] = 0.0, 0.0
        if independent:
            N = self.normals[independent]
            Q, R = np.linalg.qr(N.T)
            pattern.Q[k, : len(N)] = Q.T
            if len(slid) == len(independent):
                pattern.B[k, : len(N)] = np.linalg.solve(R, Q.T)
        return pattern

    def make_room(self, slots: int) -> None:
        """Give every neuron at least this many slots for surfaces slid on."""
        if slots > self.carry.pattern.slots.shape[1]:
            pattern = LoopCell(*[np.array(part) for part in self.carry.pattern])
            self.carry = self.carry._replace(pattern=with_room(pattern, slots))

    def _happen(self, k: int, g: int, kind: str, tau: float) -> None:
        self.happenings.append(Happening(float(self.carry.s), tau, k, g, kind))

    # -- the loop ---------------------------------------------------------------------------------

    def begin(self) -> Result | None:
        """Record the start and fix the controls; a result if there is nothing to do."""
        problem, y0 = self.problem, np.asarray(self.carry.y)
        self.rows = int(np.clip(_BUFFER_BYTES // (8 * y0.size), _MIN_ROWS, _MAX_ROWS))
        self.saving, self.by_time = problem.save is not None, problem.save_by is not None
        pending = np.asarray(problem.save if self.saving else [], np.float64)
        if self.saving:
            here = int(np.searchsorted(pending, y0[-1] if self.by_time else problem.s0, "right"))
            self.parts_s.append(np.full(here, problem.s0))
            self.parts_y.append(np.repeat(y0[None], here, axis=0))
            pending = pending[here:]
        else:
            self.parts_s.append(np.array([problem.s0]))
            self.parts_y.append(y0[None])
        self.pending, self.share = pending, _WATCH
        self.cap = problem.step_cap if problem.step_cap is not None else 2**62
        self.fixed = {
            "rtol": np.float64(self.rtol), "atol": self._atol(),
            "s_end": np.float64(problem.s_end), "normal_sizes": self.sizes,
            "step_cap": np.int64(self.cap),
            "small_step": np.float64(1e-6 * max(1.0, abs(problem.s0))),
        }  # fmt: skip
        return Result("reached") if problem.s0 >= problem.s_end else None

    def structure(self) -> tuple[object, ...]:
        """What the compiled program depends on besides shapes."""
        return self.layout, self.rows, self.saving, self.by_time

    def controls(self) -> dict[str, PyTree]:
        """The controls of the next segment."""
        self.resting = np.flatnonzero(self.carry.pattern.resting)
        self.ahead = self.share if self.resting.size else _SEGMENT
        attempts = int(self.carry.attempts)
        paused = self.leg_end > 0
        if not paused:
            self.leg_end, self.leg_rows = attempts + self.ahead, 0
        cap = min(self.leg_end, self.problem.max_steps)
        if not self.resting.size:
            # (a pause for who watches; what is decided at the end of a leg must not depend on it)
            cap = min(cap, attempts + min(self.budget, max(self.rows - self.leg_rows, 1)))
        window = np.full(self.rows + 1, np.inf)
        window[: min(self.rows, self.pending.size)] = self.pending[: self.rows]
        return {**self.fixed, "attempt_cap": np.int64(cap), "targets": window,
                "paused": np.bool_(paused)}  # fmt: skip

    def take(self, out: Out) -> Result | None:
        """Read a segment and decide what the host has to; a result when the run has ended."""
        problem = self.problem
        wakes = self._wakes(out.carry, self.resting)
        self.leg_rows += int(out.saved)
        paused = (
            int(out.carry.code) == RUNNING
            and int(out.carry.attempts) < min(self.leg_end, problem.max_steps)
            and self.leg_rows < self.rows
        )
        self.leg_end = self.leg_end if paused else 0
        if wakes is not None:
            _, drift = wakes
            h = float(out.carry.s - self.carry.s)
            if self.ahead > 1 or drift * h > self.rtol * float(np.max(np.abs(self.carry.y))):
                # Too late by more than the tolerance: once more from the last look, shorter.
                self.carry = self.carry._replace(
                    h=np.float64(h / 4 if self.ahead == 1 else max(float(self.carry.h), 0.0)),
                    rhs=out.carry.rhs, attempts=out.carry.attempts,
                )  # fmt: skip
                self.share = max(1, self.share // 4)
                return None
        elif self.resting.size:
            self.share = min(_WATCH, 2 * self.share)
        self._read(out)
        if wakes is not None:
            self.resolve(wakes[0], origin=True)
        if self.saving:
            self.pending = self.pending[int(out.saved) :]
            self.carry = self.carry._replace(target=np.int64(0))
        code = int(self.carry.code)
        if code == HOST:
            trouble = self.resolve(int(self.carry.neuron), bool(self.carry.origin))
            if trouble:
                return Result("failed", trouble)
        elif code in _RESULTS:
            if code == STOPPED:
                self.event = self._which_event()
            return Result(_RESULTS[code])
        elif not paused and self._rests():
            return Result("stationary")
        if int(self.carry.accepted) >= self.cap:
            return Result("steps")
        if int(self.carry.attempts) >= problem.max_steps:
            return Result("max_steps")
        return problem.look(
            float(self.carry.s), lambda: self.vectors(np.asarray(self.carry.y)[None])[0],
            steps=int(self.carry.accepted), events=len(self.happenings),
        )  # fmt: skip

    def solution(self, result: Result, run_seconds: float) -> Solution:
        """What has been computed, as the contract wants it."""
        stats, carry = empty_stats(), self.carry
        accepted = int(carry.accepted)
        stats["steps"], stats["rejected"] = accepted, int(carry.attempts) - accepted
        stats["rhs"], stats["events"] = int(carry.rhs), len(self.happenings)
        stats["events"] += self.event is not None
        stats.update(self.problem.tolerances.stats())
        stats["compile_seconds"], stats["run_seconds"] = self.compile_seconds, run_seconds
        return Solution(
            s=np.concatenate(self.parts_s), Y=self.vectors(np.concatenate(self.parts_y)),
            s_final=float(carry.s), Y_final=self.vectors(np.asarray(carry.y)[None])[0],
            stats=stats, result=result, event=self.event, happenings=tuple(self.happenings),
            sides=self.sides(),
        )  # fmt: skip

    def _wakes(self, carry: Carry, resting: np.ndarray) -> tuple[int, float] | None:
        """A neuron at rest that can rest no longer at ``carry``, and the speed it would leave with.

        Rest needs 0 in the convex hull of the limiting fields.
        """
        if not resting.size:
            return None
        now = self._rates(carry)
        m, D = self.layout.m, self.layout.D
        for k in map(int, resting):
            a = float(carry.y[m * D + k])
            g, _ = way_out(self.arrangement, a, *self._loud(now))
            if np.any(g):
                return k, float(np.linalg.norm(g)) * abs(a)
        return None

    def _rests(self) -> bool:
        """Whether a margin loss is at rest for good, with nothing in reach that ends the flow."""
        attempts = int(self.carry.attempts)
        if self.layout.clock != "loss" or attempts - self.looked < LOOK:
            return False
        self.looked = attempts
        m, D = self.layout.m, self.layout.D
        y = np.asarray(self.carry.y)
        W, a = y[: m * D].reshape(m, D), y[m * D : m * D + m]
        now = self._rates(self.carry)
        pattern = self.carry.pattern
        held = np.where(pattern.slots >= 0, np.sum(pattern.B * now.u[:, None, :], axis=2), 0.0)
        still = is_at_rest(now, W, a, self.sizes, self.rtol) and not pulls_unseen(
            now, self.sides(), held
        )
        return still and end_is_far(self.problem, self.carry, float(now.log_risk))

    def _rates(self, carry: Carry) -> Rates:
        """The field at ``carry`` with its parts (host)."""
        exact = self.layout._replace(locate="all")
        program, arrays, seconds = compile_once(
            ft.partial(rates, exact), ("piecewise-rates", exact),
            (self.forces, np.float64(carry.s), np.asarray(carry.y),
             LoopCell(*[np.array(part) for part in carry.pattern])),
        )  # fmt: skip
        self.compile_seconds += seconds
        return jax.tree.map(np.asarray, program(*arrays))

    def _which_event(self) -> AbstractEvent:
        flow = self.problem.flow
        Y = jnp.asarray(self.vectors(np.asarray(self.carry.y)[None])[0])
        speed = lambda: speed_of(self.layout, self._rates(self.carry))
        values = [float(e.in_cell(flow, self.carry.s, Y, speed)) for e in self.problem.events]
        return self.problem.events[int(np.argmax(values))]

    def _read(self, out: Out) -> None:
        self.carry = out.carry
        saved, recorded = int(out.saved), int(out.recorded)
        self.parts_s.append(np.asarray(out.saved_s)[:saved].copy())
        self.parts_y.append(np.asarray(out.saved_y)[:saved].copy())
        rows = zip(
            np.asarray(out.event_s)[:recorded].tolist(),
            np.asarray(out.event_tau)[:recorded].tolist(),
            np.asarray(out.event_data)[:recorded].tolist(),
            strict=True,
        )
        for s, tau, (k, g, kind) in rows:
            self.happenings.append(Happening(s, tau, k, g, EVENT_KINDS[kind]))


def with_room(pattern: LoopCell, K: int) -> LoopCell:
    """The pattern with K slots a neuron."""
    more = K - pattern.slots.shape[1]
    m, _, D = pattern.Q.shape
    zeros = np.zeros((m, more, D))
    return pattern._replace(
        slots=np.concatenate([pattern.slots, np.full((m, more), -1)], axis=1),
        Q=np.concatenate([pattern.Q, zeros], axis=1),
        B=np.concatenate([pattern.B, zeros], axis=1),
    )
