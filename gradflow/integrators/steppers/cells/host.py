"""What the compiled loop leaves to the host: surfaces that meet, ways off flats, weights at 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.cells.origin import can_grow, flat_rates, way_out
from gradflow.integrators.contract import Happening
from gradflow.integrators.steppers.cells.crossing import (
    AT_ORIGIN,
)
from gradflow.integrators.steppers.cells.exchange import (
    LOG_RISK,
    RHS,
    STUCK,
    S,
)
from gradflow.integrators.steppers.cells.field import field
from gradflow.integrators.steppers.cells.flats import Flat, Flats
from gradflow.integrators.steppers.cells.locate import FRESH, ON_SURFACE, PARKED, TANGENT
from gradflow.integrators.steppers.cells.loss_kinks import Margins
from gradflow.integrators.steppers.cells.packed import packed_cell, packed_system, packed_work
from gradflow.integrators.steppers.cells.step import EXIT, ROUNDING
from gradflow.integrators.steppers.cells.system import LOSS, Cell, System, room
from gradflow.integrators.steppers.cells.ways import Pull, Way, along, ways_on

#: A rate below this share of |ẇ||n| leaves a surface at zero speed.
_TANGENT = 1e-9
#: An outer weight that shows its sign only, in units of |w|.
_HARDLY = 1e-12


@dataclass(frozen=True)
class Normals:
    """Normals as :mod:`gradflow.cells.origin` reads them."""

    normals: np.ndarray
    sizes: np.ndarray

    @property
    def dim(self) -> int:
        """D."""
        return self.normals.shape[1]


class Host:
    """The state of the kernel between its calls, and the decisions taken there.

    Parameters
    ----------
    sys : System
    breakpoints : (J,) array
    W, a, extras : (m, D), (m, o), (1 or 2,) arrays
        The start.
    s : float

    Attributes
    ----------
    trouble : str
        What went wrong in deciding the start, or "".
    """

    def __init__(
        self, sys: System, breakpoints: np.ndarray, W: np.ndarray, a: np.ndarray,
        extras: np.ndarray, s: float,
    ) -> None:  # fmt: skip
        self.sys, self.flats = sys, Flats(sys.N, sys.level)
        self.m, self.D, self.o = *W.shape, a.shape[1]
        self.y = np.concatenate([W.ravel(), a.ravel(), extras])
        self.k1 = np.zeros_like(self.y)
        self.work = room(self.m, len(sys.X), self.D, self.o)
        self.sys_ref, self.work_ref = packed_system(sys), packed_work(self.work)
        self.num, self.count = np.zeros(5), np.zeros(12, np.int64)
        self.num[S] = s
        self.happenings: list[Happening] = []
        self.on: dict[int, Flat] = {}
        self.pinned: set[int] = set()
        self.b = breakpoints[sys.piece] if len(sys.piece) else np.zeros(0)
        self.cell = self._first_cell(W, breakpoints)
        self.margins = Margins(self)
        self.trouble = self._begin()

    def _begin(self) -> str:
        """Decide all that meets at the start; return what went wrong, or ""."""
        trouble = self.margins.begin()
        if not np.all(np.isfinite(self.k1)):
            return ""  # (no flow starts here, and whoever integrates says so)
        for k in np.flatnonzero(self.near(self.W).any(axis=1)):
            trouble = trouble or self.meet(int(k), -1)
        return trouble or self.margins.agree()

    # ------------------------------------------------------------------------------ parts
    @property
    def W(self) -> np.ndarray:
        """The neurons (m, D), a view."""
        return self.y[: self.m * self.D].reshape(self.m, self.D)

    @property
    def a(self) -> np.ndarray:
        """The outer weights (m, o), a view."""
        return self.y[self.m * self.D : self.m * (self.D + self.o)].reshape(self.m, self.o)

    @property
    def tau(self) -> float:
        """ln(1+t) where it is a state."""
        return float(self.y[-1])

    @property
    def cell(self) -> Cell:
        """The activation cell; its arrays are changed in place."""
        return self._cell

    @cell.setter
    def cell(self, cell: Cell) -> None:
        self._cell, self.cell_ref = cell, packed_cell(cell)

    @property
    def slow(self) -> list[int]:
        """Neurons on flats with too many rays to watch."""
        return [k for k, flat in self.on.items() if flat.rays is None or k in self.pinned]

    def refresh(self) -> None:
        """Evaluate the field at the state, in its cell."""
        self.num[LOG_RISK] = field(
            self.sys_ref, self.cell_ref, self.work_ref, self.num[S], self.y, self.k1
        )
        self.count[RHS] += 1

    def _first_cell(self, W: np.ndarray, breakpoints: np.ndarray) -> Cell:
        sys, m, G = self.sys, self.m, len(self.sys.N)
        piece = np.searchsorted(breakpoints, W @ sys.XT, side="left")
        side = np.where(W @ sys.NT - sys.level > 0, 1, -1).astype(np.int8)
        return Cell(
            S=sys.slopes[piece], T=sys.icepts[piece], side=side, fresh=np.zeros((m, G), np.int8),
            Q=np.zeros((m, 1, self.D)), rank=np.zeros(m, np.int64), held=np.zeros((m, 1)),
            ray_neuron=np.zeros(0, np.int64), ray=np.zeros((0, self.D)),
            ray_start=np.zeros(1, np.int64), ray_datum=np.zeros(0, np.int64),
            ray_slope=np.zeros(0), act=np.zeros(0, np.int8), kept=np.zeros(0, np.int64),
            slack=np.zeros(0),
        )  # fmt: skip

    def near(self, W: np.ndarray) -> np.ndarray:
        """Which pairs (·, G) of some neurons (·, D) are on their surface."""
        if not len(self.sys.N):
            return np.zeros((len(W), 0), bool)
        reach = np.linalg.norm(W, axis=1)[:, None] * self.sys.size + np.abs(self.sys.level)
        return np.abs(W @ self.sys.NT - self.sys.level) <= ON_SURFACE * reach

    # ------------------------------------------------------------------------------ forces
    def entries(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the data entries of some surfaces, and whose they are (positions in members)."""
        start = self.sys.start
        spans = [np.arange(int(start[g]), int(start[g + 1])) for g in members]
        owner = np.repeat(np.arange(len(members)), [len(span) for span in spans])
        return np.concatenate([np.zeros(0, np.int64), *spans]), owner

    def piece(self, entries: np.ndarray, side: np.ndarray | int) -> np.ndarray:
        """The pieces on which entries are on a side of their surface."""
        return self.sys.piece[entries] + (np.asarray(side) * self.sys.way[entries] > 0)

    def pull(self, k: int, members: np.ndarray, present: np.ndarray) -> Pull:
        """What acts on neuron k, whose field has been evaluated, at a meeting of surfaces."""
        sys, N = self.sys, self.sys.N[members]
        e, owner = self.entries(members)
        i = sys.datum[e]
        each = sys.gain * (self.work.r[i] @ self.a[k])
        along = np.sum(sys.X[i] * N[owner], axis=1) / np.sum(N[owner] ** 2, axis=1)
        count = len(members)
        up = np.bincount(owner, each * sys.slopes[self.piece(e, 1)] * along, count)
        down = np.bincount(owner, each * sys.slopes[self.piece(e, -1)] * along, count)
        u = self.work.V[k] - (each * self.cell.S[k, i]) @ sys.X[i]
        mass = sys.gain * float(np.abs(self.a[k]).sum())
        steep = float(np.max(np.abs(sys.slopes)))
        noise = mass * steep * np.bincount(owner, sys.noise[i] * np.abs(along), count)
        fuzz = ROUNDING * float(np.abs(self.work.M[k]) @ sys.length)
        return Pull(members, u, N, up, down, noise, fuzz, present)

    # ------------------------------------------------------------------------------ decisions
    def meet(self, k: int, hit: int, *, origin: bool = False) -> str:
        """Decide all surfaces of neuron k at the state together; return what went wrong, or "".

        ``origin``: it has reached w_k = 0, where all surfaces meet if none has a level.
        """
        w = self.W[k]
        central = not np.any(self.sys.level)
        if central and (origin or not np.any(w)):
            return self.at_origin(k)
        own = np.flatnonzero(self.cell.side[k] == 0)
        near = np.flatnonzero(self.near(self.W[k][None])[0])
        met = np.unique(np.concatenate([own, near, [hit] if hit >= 0 else []])).astype(np.int64)
        flat = self.flats.of(met)
        if central and flat.rank == self.D:
            return self.at_origin(k)
        w[:] = self.flats.put(flat, w)
        self.refresh()
        members = np.union1d(flat.members, met)
        before = self.cell.side[k, members].copy()
        present = np.where(members == hit, -before, np.where(before == 0, -1, before))
        found = ways_on(self.flats, self.pull(k, members, present))
        if not found:
            return f"no consistent way on was found for neuron {k} on surfaces {members.tolist()}"
        if len(found) > 1:
            self.happen(k, int(members[0]), "branch")
        self.go(k, members, found[0])
        self.tell(k, members, before, hit)
        return ""

    def leave(self, k: int, ray: np.ndarray) -> str:
        """Let neuron k leave its flat along one of its rays (D,), or as its forces have it."""
        flat = self.on[k]
        assert flat.rays is not None
        members, signs = flat.members, flat.signs[int(np.argmax(flat.rays @ ray))]
        pull = self.pull(k, members, signs)
        way = along(self.flats, pull, signs)
        if way is None:
            found = [w for w in ways_on(self.flats, pull) if w.flat.rank < flat.rank]
            if not found:
                self.pin(k)
                return ""
            way = found[0]
        if np.any(pull.jump > 0):
            self.happen(k, int(members[0]), "branch")
        before = self.cell.side[k, members].copy()
        self.go(k, members, way)
        self.tell(k, members, before, -1)
        return ""

    def pin(self, k: int) -> None:
        """Hold neuron k on its flat though its energy has a way down: no way on is consistent."""
        self.pinned.add(k)
        self._list_rays()

    def turn(self, k: int) -> str:
        """Decide where neuron k goes whose outer weight passes 0 while it slides.

        All its surfaces turn repelling, and either side is a way on. Small steps of descent end on
        the side whose force is the greater share of what has held it.
        """
        flat = self.on[k]
        members = flat.members
        self.refresh()
        sign = 1.0 if self.k1[self.m * self.D + k] >= 0 else -1.0
        # (so small that the outputs, and with them all forces, are as at 0)
        self.a[k] = sign * _HARDLY * float(np.linalg.norm(self.W[k]))
        self.refresh()
        pull = self.pull(k, members, np.ones(len(members), int))
        self.a[k] = 0.0
        jump = pull.up - pull.down
        need = -(pull.u + pull.down @ pull.normals)
        share = np.linalg.lstsq((jump[:, None] * pull.normals).T, need, rcond=None)[0]
        sides = np.where(share > 0.5, 1, -1)
        before = self.cell.side[k, members].copy()
        self.happen(k, int(members[0]), "branch")
        none = np.zeros(len(members))
        self.go(k, members, Way(self.flats.of(members[:0]), sides, none, none > 0))
        self.tell(k, members, before, -1)
        return ""

    def at_origin(self, k: int) -> str:
        """Decide how neuron k goes on from w_k = 0, where all its surfaces meet.

        It stays iff 0 is in the convex hull of the limiting fields; else it leaves along the
        element of least norm. A direction along which it could grow as well makes a branch.
        """
        members = np.arange(len(self.sys.N))
        resting = k in self.on and self.on[k].rank == self.D
        before = self.cell.side[k].copy()
        self.W[k] = 0.0
        self.refresh()
        pull = self.pull(k, members, np.where(before == 0, -1, before).astype(int))
        at = Normals(pull.normals, self.sys.size)
        g, rests = self.off_origin(k, pull, at)
        if not resting:
            self.happen(k, 0, "origin")
        if rests and not self.sys.tv and self._runs_off(k, members, pull):
            return ""
        up, down = pull.down + pull.jump, pull.down
        grows = can_grow(at, 1.0, pull.up, pull.down)
        if grows if rests else self.D > 1 and np.any(up > down):
            # (leaving among repelling surfaces: other rays may be consistent too; on a line both
            # sides push the same way, or it would rest)
            self.happen(k, 0, "branch")
        rates = pull.normals @ g
        flat = flat_rates(at, rates, g) | rests
        sides = np.where(flat, 0, np.sign(rates)).astype(int)
        on = self.flats.of(members if rests else members[flat])
        self.pinned.discard(k)
        if rests and grows:
            self.pinned.add(k)
        self.go(k, members, Way(on, sides, rates, np.zeros(len(members), bool)))
        return ""

    def _runs_off(self, k: int, members: np.ndarray, pull: Pull) -> bool:
        """Let neuron k leave w = 0 where it could rest, but every small move goes on growing."""
        flat = self.flats.of(members)
        if flat.rays is None:
            return False
        energies, noise = pull.energies(flat, pull.u)
        if not np.any(energies > EXIT * pull.size + noise):
            return False
        found = [way for way in ways_on(self.flats, pull) if way.flat.rank < flat.rank]
        self.happen(k, 0, "branch")
        self.pinned.discard(k)
        if found:
            self.go(k, members, found[0])
        return bool(found)

    def off_origin(self, k: int, pull: Pull, at: Normals) -> tuple[np.ndarray, bool]:
        """Return the force with which a neuron leaves w = 0, and whether it rests there."""
        g, _ = way_out(at, 1.0, pull.down + pull.jump, pull.down, pull.u)
        held = self.sys.tv * float(np.linalg.norm(self.a[k]))
        if self.sys.clock == LOSS:
            held *= float(np.exp(-self.num[LOG_RISK]))
        size = float(np.linalg.norm(g))
        return (np.zeros_like(g), True) if size <= held else (g * (1 - held / size), False)

    def wakes(self) -> tuple[int, float] | None:
        """A neuron on a flat with too many rays that it can no longer stay on, and its speed."""
        for k in self.slow:
            flat = self.on[k]
            pull = self.pull(k, flat.members, np.full(len(flat.members), -1))
            if flat.rank == self.D:
                g, rests = self.off_origin(k, pull, Normals(pull.normals, self.sys.size))
                if not rests:
                    return k, float(np.linalg.norm(g))
                continue
            found = ways_on(self.flats, pull)
            if found and not np.array_equal(found[0].flat.members, flat.members):
                return k, float(np.max(np.abs(found[0].rates) / self.sys.size[flat.members]))
        return None

    # ------------------------------------------------------------------------------ the cell
    def go(self, k: int, members: np.ndarray, way: Way) -> None:
        """Put neuron k on a way: sides, slopes, and the flat slid on."""
        cell, sys = self.cell, self.sys
        e, owner = self.entries(members)
        i, sides = sys.datum[e], way.sides[owner]
        piece = self.piece(e, sides)
        slid = sides == 0
        cell.S[k, i] = np.where(slid, 0.0, sys.slopes[piece])
        low = sys.piece[e]
        at_kink = sys.slopes[low] * self.b[e] + sys.icepts[low]
        cell.T[k, i] = np.where(slid, at_kink, sys.icepts[piece])
        cell.side[k, members] = way.sides
        self.on.pop(k, None)
        if way.flat.rank < self.D:
            self.pinned.discard(k)
        if way.flat.rank:
            self.on[k] = way.flat
        self._hold(k, way.flat)
        self.refresh()
        speed = float(np.linalg.norm(self.work.DW[k]))
        slow = np.abs(way.rates) <= _TANGENT * max(speed, 1e-300) * sys.size[members]
        fresh = np.where(way.parked, PARKED, np.where(slow, TANGENT, FRESH))
        cell.fresh[k, members] = np.where(way.sides == 0, 0, fresh)
        self.count[STUCK] = 0

    def _hold(self, k: int, flat: Flat) -> None:
        """Hold neuron k on a flat, and list the rays along which it may leave."""
        rank, room_for = flat.rank, self.cell.Q.shape[1]
        if rank > room_for and rank < self.D:
            wider = min(self.D, max(rank, 2 * room_for))
            Q, held = np.zeros((self.m, wider, self.D)), np.zeros((self.m, wider))
            Q[:, :room_for], held[:, :room_for] = self.cell.Q, self.cell.held
            self.cell = self.cell._replace(Q=Q, held=held)
        self.cell.rank[k] = rank
        if 0 < rank < self.D:
            self.cell.Q[k, :rank], self.cell.held[k, :rank] = flat.Q, flat.held
        self._list_rays()

    def _list_rays(self) -> None:
        sys, neuron, rays, start, datum, slope = self.sys, [], [], [0], [], []
        for k, flat in sorted(self.on.items()):
            if flat.rays is None or k in self.pinned or (sys.tv and flat.rank == self.D):
                continue
            e, owner = self.entries(flat.members)
            i = sys.datum[e]
            along = flat.rays @ sys.X[i].T
            sides = flat.signs[:, owner]
            slopes = sys.slopes[sys.piece[e] + (sides * sys.way[e] > 0)]
            weight = np.where(sides == 0, 0.0, slopes * along)
            for p in range(len(flat.rays)):
                neuron.append(k)
                datum.append(i)
                slope.append(weight[p])
                start.append(start[-1] + len(i))
            rays.append(flat.rays)
        self.cell = self.cell._replace(
            ray_neuron=np.array(neuron, np.int64),
            ray=np.concatenate([np.zeros((0, self.D)), *rays]),
            ray_start=np.array(start, np.int64),
            ray_datum=np.concatenate([np.zeros(0, np.int64), *datum]),
            ray_slope=np.concatenate([np.zeros(0), *slope]),
        )  # fmt: skip

    # ------------------------------------------------------------------------------ telling
    def happen(self, k: int, g: int, kind: str) -> None:
        """Note what happened."""
        self.happenings.append(Happening(float(self.num[S]), self.tau, k, g, kind))

    def tell(self, k: int, members: np.ndarray, before: np.ndarray, hit: int) -> None:
        """Note which surfaces neuron k has crossed, slides on, or has left."""
        after = self.cell.side[k, members]
        order = sorted(range(len(members)), key=lambda j: (members[j] != hit, members[j]))
        for j in order:
            g, was, now = int(members[j]), int(before[j]), int(after[j])
            if g == hit and was != 0 and now == -was:
                self.happen(k, g, "crossing")
            elif was != 0 and now == 0:
                self.happen(k, g, "slide-in")
            elif was == 0 and now != 0:
                self.happen(k, g, "slide-out")
        if hit >= 0 and not self.cell.S[k].any() and k not in self.on:
            self.happen(k, hit, "death")


__all__ = ["AT_ORIGIN", "Host"]
