r"""From a late state of the flow to the KKT point it heads for, to rounding.

First the convex problem of the late state's own activation cell (:mod:`.interior`), leaving the
cell only through walls behind which the margin is larger; then Newton on the active set it names,
with the neurons of vanishing mass dropped. Newton on the KKT system alone is no substitute: from a
late state it also converges to saddles of lower margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import null_space

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.certificates.interior import CellSolution, solve_cell
from gradflow.certificates.problem import from_convex, to_convex

#: Gap of the last cell's problem, an item.
_SHARP = 1e-15
#: Most cells visited on the way.
_CELLS = 60


@dataclass(frozen=True)
class Polished:
    """A candidate limit: unit-norm weights, pattern (0 where a neuron that carries mass stands on
    a surface; a dropped neuron keeps its late pattern) and the number of cells visited."""

    W: np.ndarray
    a: np.ndarray
    sides: np.ndarray
    cells_visited: int


@dataclass
class _Group:
    """Neurons that share sign and pattern: one effective neuron; ``shares`` sum to 1."""

    members: np.ndarray
    shares: np.ndarray


def polish(cells: Arrangement, W: np.ndarray, a: np.ndarray, sides: np.ndarray) -> Polished:
    """Return the candidate limit of the unit-norm late state ``(W, a)`` with pattern ``sides``.

    The state must separate the data.
    """
    level = float(np.min(cells.margins(W, a)))
    V, c = to_convex(cells, W, a)
    full = np.where(sides == 0, 1, sides)
    groups = _group(cells, V, c, full)
    first = np.array([g.members[0] for g in groups])
    signs = np.ones(len(groups)) if not cells.activation_kinked and cells.trained else c[first]
    U = np.stack([_collect(cells, V, c, g) for g in groups])
    # Margins are asked to be ≥ the late state's, so that the unknowns stay of size one.
    sol, pattern, visited = _search(cells, U, signs, full[first], level)
    # What vanishes and what does not are told apart by the last digits.
    sharp = solve_cell(cells, sol.V, signs, pattern, level, tol=_SHARP)
    if sharp.gap <= sol.gap:
        sol = sharp
    U, pattern = _newton(cells, sol, signs, pattern, level)
    out, final = np.zeros_like(V), sides.copy()
    for j, group in enumerate(groups):
        if not np.any(U[j]):
            continue
        turn = c[group.members] if not cells.activation_kinked and cells.trained else np.ones(1)
        out[group.members] = (group.shares * turn)[:, None] * U[j]
        final[group.members] = pattern[j]
    W, a = from_convex(cells, out, c)
    return Polished(W, a, final, visited)


def _group(cells: Arrangement, V: np.ndarray, c: np.ndarray, sides: np.ndarray) -> list[_Group]:
    size = np.linalg.norm(V, axis=1)
    felt = np.any(Pattern(cells, sides).slopes != 0, axis=1)
    usable = np.flatnonzero((size > 0) & (c != 0) & felt)
    if not cells.trained:
        return [_Group(np.array([k]), np.ones(1)) for k in usable]
    books: dict[bytes, list[int]] = {}
    for k in usable:
        name = b"" if not cells.activation_kinked else np.append(sides[k], np.sign(c[k])).tobytes()
        books.setdefault(name, []).append(int(k))
    groups = []
    for members in books.values():
        mass = size[members]
        groups.append(_Group(np.array(members), mass / np.sum(mass)))
    return groups


def _collect(cells: Arrangement, V: np.ndarray, c: np.ndarray, group: _Group) -> np.ndarray:
    rows = V[group.members]
    if not cells.activation_kinked and cells.trained:
        # A linear net is one neuron: c v is all that counts.
        rows = c[group.members][:, None] * rows
    return np.sum(rows, axis=0)


def _alive(cells: Arrangement, sol: CellSolution) -> np.ndarray:
    size = np.linalg.norm(sol.V, axis=1)
    top = float(np.max(size))
    if not cells.trained:
        return size > 1e-7 * top
    # Of the two, mass and distance of the force from 1, the one that vanishes is the smaller.
    return size / top > 1 - np.linalg.norm(sol.force, axis=1)


def _search(
    cells: Arrangement, U: np.ndarray, c: np.ndarray, sides: np.ndarray, level: float
) -> tuple[CellSolution, np.ndarray, int]:
    """Solve cell after cell; a wall is passed where the margin grows behind it."""
    sol, stays = solve_cell(cells, U, c, sides, level), 0
    for visited in range(1, _CELLS + 1):
        if not cells.activation_kinked:
            return sol, sides, visited
        plus, minus = cells.per_surface(cells.y * sol.duals / level)
        room = c[:, None] * (minus - plus)
        touched = (sol.wall_duals > sol.wall_slack) & _alive(cells, sol)[:, None]
        scale = np.max(np.abs(sol.force)) + np.max(sol.wall_duals * touched)
        excess = np.where(touched, sol.wall_duals - room - 1e-7 * scale, -1.0)
        beyond, start = _beyond(cells, sol, sides, touched, excess)
        if np.array_equal(beyond, sides):
            return sol, sides, visited
        new = solve_cell(cells, start, c, beyond, level)
        # Where the two cells meet lies in both, so the optimum cannot rise; where it stays several
        # times, the multipliers of data in special position only seem to ask for more room.
        change = _value(cells, new) - _value(cells, sol)
        error = 2 * (new.gap + sol.gap) + 1e-11 * _value(cells, sol)
        if not change <= error:
            return sol, sides, visited
        stays = stays + 1 if change > -error else 0
        sol, sides = new, beyond
        if stays >= 3:
            return sol, sides, visited + 1
    return sol, sides, _CELLS


def _beyond(
    cells: Arrangement,
    sol: CellSolution,
    sides: np.ndarray,
    touched: np.ndarray,
    excess: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pattern behind the walls with positive ``excess``, and a point inside it.

    A cell that a slip would name need not exist: where a neuron touches more walls than there are
    dimensions, it passes the worst one alone, and all of them if that leads nowhere.
    """
    beyond, start = sides.copy(), sol.V.copy()
    for k in np.flatnonzero(np.any(excess > 0, axis=1)):
        on = np.flatnonzero(touched[k])
        normals = cells.normals[on]
        for wanted in (excess[k, on] > 0, np.arange(on.size) == np.argmax(excess[k, on])):
            turned = np.where(wanted, -sides[k, on], sides[k, on])
            inward = np.linalg.lstsq(normals, turned.astype(float), rcond=1e-10)[0]
            if np.min(turned * (normals @ inward)) < 0.1:
                continue
            beyond[k, on] = turned
            rate = beyond[k] * (cells.normals @ inward)
            slack = beyond[k] * (cells.normals @ sol.V[k])
            falling = np.setdiff1d(np.flatnonzero(rate < 0), on)
            reach = np.min(slack[falling] / -rate[falling], initial=np.inf)
            size = float(np.linalg.norm(sol.V[k])) / float(np.linalg.norm(inward))
            start[k] = sol.V[k] + max(min(0.5 * reach, 0.1 * size), 0.0) * inward
            break
        else:
            # (what lies behind them is judged by its optimum)
            beyond[k, on] = np.where(excess[k, on] > 0, -sides[k, on], sides[k, on])
    return beyond, start


def _value(cells: Arrangement, sol: CellSolution) -> float:
    size = np.linalg.norm(sol.V, axis=1)
    return float(np.sum(size) if cells.trained else 0.5 * np.sum(size**2))


def _newton(
    cells: Arrangement, sol: CellSolution, c: np.ndarray, sides: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve the KKT equations of the active set by Newton; mend the set by what it violates."""
    alive = _alive(cells, sol)
    support = sol.duals > sol.slack
    if not np.any(support):
        support = sol.slack <= 2 * np.min(sol.slack)
    walls = (sol.wall_duals > sol.wall_slack) & alive[:, None] & cells.activation_kinked
    V, lam = sol.V.copy(), sol.duals.copy()
    for _ in range(25):
        V, lam, ok = _solve_active(cells, V, lam, c, sides, level, alive, support, walls)
        q = np.einsum("kid,kd->i", _rows(cells, c, sides, level), V)
        h = sides * (V @ cells.normals.T)
        size = np.linalg.norm(V, axis=1)
        low = (q < 1 - 1e-11) & ~support
        out = (h < -1e-11 * size[:, None]) & ~walls & cells.activation_kinked
        if not ok or not (np.any(low) or np.any(out)):
            break
        support, walls = support | low, walls | (out & alive[:, None])
    V[~alive] = 0.0
    return V, np.where(walls, 0, sides)


def _rows(cells: Arrangement, c: np.ndarray, sides: np.ndarray, level: float) -> np.ndarray:
    return (c[:, None] * cells.y * Pattern(cells, sides).slopes / level)[:, :, None] * cells.inputs


def _solve_active(
    cells: Arrangement, V: np.ndarray, lam: np.ndarray, c: np.ndarray, sides: np.ndarray,
    level: float, alive: np.ndarray, support: np.ndarray, walls: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, bool]:  # fmt: skip
    """Newton on: force of every neuron balanced along its surfaces, margins of the support = 1.

    Steps are of minimum norm: with data in special position neither masses nor duals are unique.
    """
    keep = np.flatnonzero(alive)
    bases = [_basis(cells.normals[walls[k]]) for k in keep]
    rows = _rows(cells, c, sides, level)[:, support]
    blocks = [rows[k] @ Q for k, Q in zip(keep, bases, strict=True)]  # (|A|, d_k)
    z = [Q.T @ V[k] for k, Q in zip(keep, bases, strict=True)]
    cuts = np.cumsum([0, *(b.shape[1] for b in blocks)])
    B = np.concatenate(blocks, axis=1)
    p, mult = B.shape[1], lam[support]
    best = (np.inf, z, mult)
    for _ in range(40):
        flat = np.concatenate(z)
        size = [float(np.linalg.norm(part)) for part in z]
        if cells.trained and min(size, default=1.0) == 0:
            break
        pull = (
            np.concatenate([w / r for w, r in zip(z, size, strict=True)]) if cells.trained else flat
        )
        defect = np.concatenate([pull - B.T @ mult, B @ flat - 1])
        error = float(np.max(np.abs(defect)))
        if not np.isfinite(error) or error > 1e3 * best[0]:
            break
        done = error < 1e-12 and error > 0.5 * best[0]
        if error < best[0]:
            best = (error, z, mult)
        if done or error == 0:
            break
        J = np.zeros((p + mult.size, p + mult.size))
        J[:p, p:], J[p:, :p] = -B.T, B
        for j, (w, r) in enumerate(zip(z, size, strict=True)):
            at = slice(cuts[j], cuts[j + 1])
            unit = w / r if r > 0 else w
            J[at, at] = (
                (np.eye(w.size) - np.outer(unit, unit)) / r if cells.trained else np.eye(w.size)
            )
        step = np.linalg.lstsq(J, -defect, rcond=1e-13)[0]
        move = step[:p]
        # A neuron moves by at most half its length: its direction is what is solved for.
        worst = max(
            (float(np.linalg.norm(move[cuts[j] : cuts[j + 1]])) / r
             for j, r in enumerate(size) if r > 0), default=0.0,
        )  # fmt: skip
        damp = min(1.0, 0.5 / worst) if cells.trained and worst > 0 else 1.0
        z = [w + damp * move[cuts[j] : cuts[j + 1]] for j, w in enumerate(z)]
        mult = mult + damp * step[p:]
    error, z, mult = best
    out, duals = np.zeros_like(V), np.zeros_like(lam)
    for k, Q, w in zip(keep, bases, z, strict=True):
        out[k] = Q @ w
    duals[support] = mult
    return out, duals, error < 1e-6


def _basis(normals: np.ndarray) -> np.ndarray:
    if normals.shape[0] == 0:
        return np.eye(normals.shape[1])
    return null_space(normals, rcond=1e-12)
