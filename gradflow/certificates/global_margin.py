r"""The global maximum of the normalised margin of a two-layer net, in low dimension.

With both layers trained a net of unit norm and any width is
:math:`f=\sum_jc_j\varphi(u_j\cdot x)`, :math:`|u_j|=1`, :math:`\sum|c_j|\le\tfrac12`. The margin is
a linear program in c, and for every p on the simplex

.. math:: \gamma^*\le\tfrac12\max_{|u|=1}|G_p(u)|,\qquad G_p(u)=\sum_ip_iy_i\varphi(u\cdot x_i),

with equality at the optimal p. :math:`G_p` is linear on the cells of an arrangement of planes, so
its largest value is found exactly among finitely many directions: those of the force of a cell, its
projections on the cell's walls, and the corners. Sources: `lyu2021margin`, `chizat2020implicit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.certificates.kkt import cell_residual
from gradflow.certificates.margin import hard_margin_svm
from gradflow.certificates.polish import polish
from gradflow.certificates.problem import cells_of, check_margin_risk, normalise
from gradflow.validation import check_integer, check_positive, fail

#: Most surfaces in three dimensions: the corners grow with their square, the work with their cube.
_MOST_SURFACES = 120


@dataclass(frozen=True)
class GlobalMargin:
    """The largest normalised margin of nets of any width, between two bounds.

    Attributes
    ----------
    margin : float
        The margin of the net found (= ``lower``).
    lower, upper : float
        What a net attains, and what the dual p proves; ``upper`` is −, 0 or small where no net
        separates.
    atoms : (J, D) array
        Unit directions u_j (a bias entry last, if the net has one).
    weights : (J,) array
        c_j, Σ|c_j| = ½.
    duals : (n,) array
        p ≥ 0, Σ p_i = 1.
    width : int
        Neurons needed, J.
    attainable : bool
        Whether the risk's own net is that wide.
    iterations : int
    """

    margin: float
    lower: float
    upper: float
    atoms: np.ndarray
    weights: np.ndarray
    duals: np.ndarray
    width: int
    attainable: bool
    iterations: int


def global_max_margin(risk: Any, *, tol: float = 1e-9, max_iterations: int = 100) -> GlobalMargin:
    """Return the global max normalised margin of the risk's data for its activation.

    Parameters
    ----------
    risk : EmpiricalRisk
        Two layers, both trained, a (leaky) ReLU; inputs of dimension ≤ 3, a bias counted in. Or a
        linear predictor, of any dimension.
    tol : float
        Relative gap at which columns are no longer added (the bounds are then polished).

    Raises
    ------
    ValueError
        Another network, or inputs of too many dimensions.
    """
    check_margin_risk(risk)
    tol = check_positive("tol", tol)
    check_integer("max_iterations", max_iterations, minimum=1)
    cells = cells_of(risk)
    if cells is not None and cells.layout == "linear":
        return _linear(cells)
    if cells is None or not cells.trained:
        raise fail(
            "risk", risk.name, "is no two-layer net with both layers trained, where the largest "
            "margin is a linear program", "use gf.TwoLayer(..., outer='trained')",
        )  # fmt: skip
    D = cells.inputs.shape[1]
    if D > 3:
        raise fail(
            "risk", risk.name, f"has inputs of dimension {D}, bias counted",
            "reduce the data to dimension <= 3, or use gf.certify for a KKT point",
        )  # fmt: skip
    if D == 3 and cells.normals.shape[0] > _MOST_SURFACES:
        raise fail(
            "risk", risk.name, f"has {cells.normals.shape[0]} surfaces in dimension 3",
            f"pass at most {_MOST_SURFACES} data of different directions",
        )  # fmt: skip
    faces = _Faces.of(cells)
    atoms, c, p, upper, rounds = _column_generation(cells, faces, tol, max_iterations)
    if c.size == 0:
        return GlobalMargin(0.0, 0.0, upper, np.zeros((0, D)), c, p, 0, False, rounds)
    W = atoms * np.sqrt(np.abs(c))[:, None]
    W, a = normalise(cells, W, np.sign(c) * np.sqrt(np.abs(c)))
    lower = float(np.min(cells.margins(W, a)))
    if lower > 0:
        found = polish(cells, W, a, Pattern.at(cells, W).sides)
        kkt = cell_residual(cells, found.W, found.a, found.sides, attract=True)
        if kkt.normalised_margin >= lower * (1 - 1e-12):
            lower, W, a = kkt.normalised_margin, found.W, found.a
        total = float(np.sum(kkt.duals))
        if total > 0:
            polished = 0.5 * float(np.max(faces.peaks(cells, kkt.duals / total)[1]))
            if polished <= upper:
                upper, p = polished, kkt.duals / total
    used = np.flatnonzero(np.any(W != 0, axis=1))
    size = np.linalg.norm(W[used], axis=1)
    return GlobalMargin(
        margin=lower, lower=lower, upper=upper, atoms=W[used] / size[:, None],
        weights=a[used] * size, duals=p, width=used.size,
        attainable=used.size <= risk.net.width, iterations=rounds,
    )  # fmt: skip


def _linear(cells: Arrangement) -> GlobalMargin:
    svm = hard_margin_svm(cells.inputs, cells.y)
    if not svm.separable:
        p = np.zeros(cells.y.size) if svm.gordan is None else svm.gordan
        return GlobalMargin(
            0.0, 0.0, float(np.linalg.norm((p * cells.y) @ cells.inputs)),
            np.zeros((0, cells.inputs.shape[1])), np.zeros(0), p, 0, False, 0,
        )  # fmt: skip
    p = svm.duals / np.sum(svm.duals)
    lower = float(np.min(cells.y * (cells.inputs @ svm.direction)))
    upper = float(np.linalg.norm((p * cells.y) @ cells.inputs))
    return GlobalMargin(lower, lower, upper, svm.direction[None], np.ones(1), p, 1, True, 0)


@dataclass(frozen=True)
class _Faces:
    """The faces into which the surfaces cut the unit sphere.

    ``corners`` are directions; ``inside`` (C, n) are the slopes of each cell, and ``edges`` (E, n)
    those on each wall between corners, whose surface is ``wall`` (E,).
    """

    corners: np.ndarray
    inside: np.ndarray
    edges: np.ndarray
    wall: np.ndarray

    @classmethod
    def of(cls, cells: Arrangement) -> _Faces:
        N, D = cells.normals, cells.inputs.shape[1]
        none, flat = np.zeros((0, D)), np.zeros((0, cells.y.size))
        if not cells.activation_kinked or D == 1:
            signs = np.array([[1.0], [-1.0]]) if D == 1 else np.eye(D)[:1]
            return cls(none, _slopes(cells, signs), flat, np.zeros(0, dtype=int))
        if D == 2:
            turn = np.stack([-N[:, 1], N[:, 0]], axis=1)
            corners = np.concatenate([turn, -turn])
            angle = np.sort(np.arctan2(corners[:, 1], corners[:, 0]))
            gaps = np.diff(np.append(angle, angle[0] + 2 * np.pi))
            middle = angle + gaps / 2
            inner = np.stack([np.cos(middle), np.sin(middle)], axis=1)
            return cls(corners, _slopes(cells, inner), flat, np.zeros(0, dtype=int))
        corners, inner, wall, middles = [], [], [], []
        for g, normal in enumerate(N):
            basis = np.linalg.svd(normal[None])[2][1:]
            other = np.delete(N, g, axis=0) @ basis.T
            spots = np.stack([-other[:, 1], other[:, 0]], axis=1)
            angle = np.concatenate([np.arctan2(spots[:, 1], spots[:, 0])] * 2)
            angle[spots.shape[0] :] += np.pi
            angle = np.unique(np.mod(angle, 2 * np.pi)) if angle.size else np.array([0.0, np.pi])
            half = np.append(np.diff(angle), angle[0] + 2 * np.pi - angle[-1]) / 2
            arc = angle + half
            circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ basis
            middle = np.stack([np.cos(arc), np.sin(arc)], axis=1) @ basis
            corners.append(circle)
            middles.append(middle)
            wall.append(np.full(angle.size, g))
            # Every cell touches some wall's arc from one of its sides; stay nearer than the next
            # surface is.
            away = np.abs(middle @ np.delete(N, g, axis=0).T)
            step = 0.5 * np.min(away, axis=1, initial=1.0)[:, None]
            inner += [middle + step * normal, middle - step * normal]
        on = np.concatenate(middles)
        index = np.concatenate(wall)
        slopes = _slopes(cells, on)
        slopes[cells.surface[None, :] == index[:, None]] = 0.0
        return cls(
            np.concatenate(corners), np.unique(_slopes(cells, np.concatenate(inner)), axis=0),
            slopes, index,
        )  # fmt: skip

    def peaks(self, cells: Arrangement, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return directions among which the largest |G_p| is, and |G_p| there."""
        weight = p * cells.y
        force = (self.inside * weight) @ cells.inputs
        parts = [self.corners, force, -force]
        if self.edges.size:
            along = (self.edges * weight) @ cells.inputs
            normal = cells.normals[self.wall]
            along = along - np.sum(along * normal, axis=1)[:, None] * normal
            parts += [along, -along]
        u = np.concatenate(parts)
        size = np.linalg.norm(u, axis=1)
        u = u[size > 0] / size[size > 0][:, None]
        return u, np.abs(weight @ cells.activations(u).T)


def _slopes(cells: Arrangement, u: np.ndarray) -> np.ndarray:
    return np.where(u @ cells.inputs.T >= 0, cells.slopes[-1], cells.slope)


def _column_generation(
    cells: Arrangement, faces: _Faces, tol: float, rounds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """Return atoms, weights, p, the upper bound and the rounds: columns are added while p's
    largest |G_p| is above what the atoms so far attain."""
    n = cells.y.size
    p, upper, best = np.full(n, 1 / n), np.inf, np.full(n, 1 / n)
    columns = np.zeros((0, cells.inputs.shape[1]))
    atoms, c = columns, np.zeros(0)
    used, stalled, narrowest = 0, 0, np.inf
    while used < rounds:
        used += 1
        u, value = faces.peaks(cells, p)
        bound = 0.5 * float(np.max(value))
        if bound < upper:
            upper, best = bound, p
        gamma = (
            float(np.min(cells.y * (c @ cells.activations(atoms)), initial=np.inf))
            if c.size
            else 0.0
        )
        # (below the linear program's own tolerance the gap no longer closes)
        stalled = 0 if upper - gamma < 0.9 * narrowest else stalled + 1
        narrowest = min(narrowest, upper - gamma)
        if upper - gamma <= tol * upper or stalled >= 8:
            break
        floor = max(gamma, 0.0)
        order = np.argsort(-value)
        order = order[(0.5 * value[order] > floor * (1 + 1e-13)) | (value[order] >= 2 * bound)][:60]
        columns = _distinct(np.concatenate([columns, u[order]]))
        rows = cells.y[:, None] * cells.activations(columns).T
        scale = float(np.max(np.abs(rows)))
        J = columns.shape[0]
        result = linprog(
            np.append(np.zeros(2 * J), -1.0),
            A_ub=np.block([[-rows / scale, rows / scale, np.ones((n, 1))],
                           [np.ones((1, 2 * J)), np.zeros((1, 1))]]),
            b_ub=np.append(np.zeros(n), 0.5),
            bounds=[(0, None)] * (2 * J) + [(None, None)], method="highs-ds",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )  # fmt: skip
        if result.x is None:
            break
        both = result.x[:J] - result.x[J : 2 * J]
        keep = np.flatnonzero(np.abs(both) > 1e-12)
        atoms, c = columns[keep], both[keep]
        total = float(np.sum(np.abs(c)))
        c = 0.5 * c / total if total > 0 else c
        p = np.maximum(-result.ineqlin.marginals[:n], 0.0)
        p = p / np.sum(p) if np.sum(p) > 0 else best
    return atoms, c, best, upper, used


def _distinct(u: np.ndarray) -> np.ndarray:
    """Return the rows without repeats (to 1e−13)."""
    _, index = np.unique(np.round(u, 13), axis=0, return_index=True)
    return u[np.sort(index)]
