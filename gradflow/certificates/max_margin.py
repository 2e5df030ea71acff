r"""The max-margin limit that a separating state heads for, found and weighed.

Two-layer nets are polished in their activation cells (:mod:`.polish`). A net that is a product of
linear maps has its limit along the hard-margin vector. Any other homogeneous net is checked at a
candidate only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import jax
import numpy as np
from scipy.optimize import nnls

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.certificates.kkt import KKTResidual, cell_residual, kkt_residual
from gradflow.certificates.margin import contradictions, hard_margin_svm
from gradflow.certificates.polish import polish
from gradflow.certificates.problem import cells_of, join, unit_split
from gradflow.risks.base import AbstractRisk
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.validation import fail

#: How much a margin may fall, relative, by rounding.
_ROUNDING = 1e-12
#: How far a dropped neuron's force may exceed 1 by rounding.
_FORCE = 1e-9


@dataclass(frozen=True)
class MarginLimit:
    """A candidate max-margin limit: see the fields of `Certificate` of the same names.

    ``complaints`` say which checks failed, ``passed`` which ones there were.
    """

    params: object
    kkt: KKTResidual
    margin_before: float
    distance: float
    complaints: tuple[str, ...]
    passed: str
    dropped: dict[int, float] = field(default_factory=dict)


class AbstractMarginProblem(ABC):
    """The max-margin problem of a risk with finite data and a homogeneous net."""

    risk: EmpiricalRisk

    @property
    def count(self) -> int:
        """The number of data."""
        return self.risk.n

    @abstractmethod
    def margin(self, params: object) -> float:
        """Return the smallest normalised margin of the data."""

    @abstractmethod
    def limit(self, params: object, candidate: object, tol: float) -> MarginLimit:
        """Return the limit of a separating state, or ``candidate``, weighed."""

    @abstractmethod
    def unseparated(self, params: object) -> str:
        """Say that the data are not separated."""

    @abstractmethod
    def hints(self, params: object) -> tuple[str, ...]:
        """Return what keeps the state from ever separating the data, or what to do."""


def problem_of(risk: AbstractRisk) -> AbstractMarginProblem:
    """Return the max-margin problem of a risk with margin limits."""
    if not isinstance(risk, EmpiricalRisk):
        raise fail("risk", risk.name, "has no max-margin problem", "pass gf.EmpiricalRisk(...)")
    cells = cells_of(risk)
    return SmoothMarginProblem(risk) if cells is None else CellMarginProblem(risk, cells)


def distance(one: object, other: object) -> float:
    """Return |θ − θ'| over all leaves."""
    gaps = [
        np.asarray(x) - np.asarray(y)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]
    return float(np.linalg.norm(np.concatenate([gap.ravel() for gap in gaps])))


def _margin_complaints(kkt: KKTResidual, before: float, tol: float) -> list[str]:
    out = []
    if not kkt.total <= tol:
        out.append(f"KKT residual {kkt.total:.2e} exceeds {tol:.0e}")
    if not kkt.normalised_margin >= before * (1 - _ROUNDING):
        out.append(
            f"normalised margin {kkt.normalised_margin:.17g} is below the flow's {before:.17g}"
        )
    return out


@dataclass(frozen=True)
class CellMarginProblem(AbstractMarginProblem):
    """Of a two-layer (leaky) ReLU net or a linear predictor: in activation cells."""

    risk: EmpiricalRisk
    cells: Arrangement

    def margin(self, params: object) -> float:
        return float(np.min(self.cells.margins(*unit_split(self.cells, params))))

    def limit(self, params: object, candidate: object, tol: float) -> MarginLimit:
        cells = self.cells
        late_W, late_a = unit_split(cells, params)
        sides = Pattern.at(cells, late_W).sides
        if candidate is None:
            found = polish(cells, late_W, late_a, sides)
            W, a, sides = found.W, found.a, found.sides
        else:
            # (the pattern of its own; a neuron that it drops is judged in the late state's)
            W, a = unit_split(cells, candidate)
            dead = ~np.any(W != 0, axis=1) | (a == 0)
            sides = np.where(dead[:, None], sides, Pattern.at(cells, W).sides)
        kkt = cell_residual(cells, W, a, sides, attract=True)
        dropped = _dropped_forces(cells, W, a, sides, kkt)
        before = self.margin(params)
        gap = np.append((W - late_W).ravel(), (a - late_a) if cells.trained else [])
        return MarginLimit(
            join(cells, W, a), kkt, before, float(np.linalg.norm(gap)),
            (*_margin_complaints(kkt, before, tol), *self._neuron_complaints(kkt, dropped)),
            f"KKT residual {kkt.total:.1e}, margin not below the flow's, duals >= 0, slopes "
            "within those of the activation, no neuron of zero mass grows",
            dropped,
        )  # fmt: skip

    def _neuron_complaints(self, kkt: KKTResidual, dropped: dict[int, float]) -> list[str]:
        out = []
        bound = 1.0 if self.cells.trained else 0.0
        growing = {k: d for k, d in dropped.items() if not d <= bound + _FORCE}
        if growing:
            k = max(growing, key=lambda j: growing[j])
            out.append(
                f"neuron {k} of zero mass would grow: its force {growing[k]:.6g} exceeds {bound:g}"
            )
        slopes = [s.slope for s in kkt.sliding if s.slope == s.slope]
        low, high = self.cells.slope_range
        if any(not low - 1e-9 <= slope <= high + 1e-9 for slope in slopes):
            out.append(f"a slope lies outside [{low:g}, {high:g}]")
        return out

    def unseparated(self, params: object) -> str:
        q = self.cells.margins(*unit_split(self.cells, params))
        worst = int(np.argmin(q))
        return f"the state does not separate the data (margin {q[worst]:.3g} at datum {worst})"

    def hints(self, params: object) -> tuple[str, ...]:
        cells = self.cells
        W, a = unit_split(cells, params)
        worst = int(np.argmin(cells.margins(W, a)))
        clash = contradictions(cells.inputs, cells.y)
        out = []
        if not np.any(cells.activations(W)[:, worst] * a):
            out.append(f"no neuron is active on datum {worst}, so the flow need not reach it")
        if clash:
            up, down = clash[0].positive[0], clash[0].negative[0]
            out.append(
                f"no such network can separate data {up} and {down}, which have one direction and "
                "opposite labels"
            )
        elif not cells.activation_kinked and not hard_margin_svm(cells.inputs, cells.y).separable:
            out.append("the data are not linearly separable, so this linear network never will")
        return tuple(out)


def _dropped_forces(
    cells: Arrangement, W: np.ndarray, a: np.ndarray, sides: np.ndarray, kkt: KKTResidual
) -> dict[int, float]:
    """Return D_k of the neurons of zero mass: the part of their force that stays in their cell."""
    lam = kkt.duals
    if not cells.trained:
        # (relative to the weights of unit norm)
        lam = lam * kkt.normalised_margin if np.isfinite(kkt.total) else lam
    slopes = Pattern(cells, sides).slopes
    out = {}
    for k in np.flatnonzero(~np.any(W != 0, axis=1) | ((a == 0) & cells.trained)):
        force = (lam * cells.y * slopes[k]) @ cells.inputs
        sign = [np.sign(a[k])] if cells.trained and a[k] != 0 else [1.0, -1.0]
        if not cells.trained:
            sign = [a[k]]
        walls = np.concatenate([
            sides[k][:, None] * cells.normals, -cells.normals[sides[k] == 0],
            cells.normals[sides[k] == 0],
        ]) if cells.activation_kinked else np.zeros((0, W.shape[1]))  # fmt: skip
        walls = walls[np.any(walls != 0, axis=1)]
        out[int(k)] = max(_cone_part(walls, e * force) for e in sign)
    return out


def _cone_part(walls: np.ndarray, force: np.ndarray) -> float:
    """Return the norm of the projection of ``force`` on the cone {x : walls x ≥ 0} (Moreau)."""
    size = float(np.linalg.norm(force))
    if walls.shape[0] == 0 or size == 0:
        return size
    return size * float(nnls(walls.T, -force / size, maxiter=30 * walls.shape[0] + 100)[1])


@dataclass(frozen=True)
class SmoothMarginProblem(AbstractMarginProblem):
    """Of a homogeneous net whose kinks are not known here, if any: a deep linear one."""

    risk: EmpiricalRisk

    def margin(self, params: object) -> float:
        if not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(params)):
            return 0.0
        return kkt_residual(self.risk, params).normalised_margin

    def limit(self, params: object, candidate: object, tol: float) -> MarginLimit:
        risk = self.risk
        if candidate is None:
            w = hard_margin_svm(np.asarray(risk.X), np.asarray(risk.y)).direction
            candidate = risk.net.along(params, w)
            if candidate is None:
                raise fail(
                    "risk", risk.name, "has a network that cannot be polished",
                    "pass candidate=..., which is checked as it is",
                )  # fmt: skip
        kkt, before = kkt_residual(risk, candidate), self.margin(params)
        unit = _unit(candidate)
        return MarginLimit(
            unit, kkt, before, distance(unit, _unit(params)),
            tuple(_margin_complaints(kkt, before, tol)),
            f"KKT residual {kkt.total:.1e}, margin not below the flow's, duals >= 0",
        )  # fmt: skip

    def unseparated(self, params: object) -> str:
        return f"the state does not separate the data (margin {self.margin(params):.3g})"

    def hints(self, params: object) -> tuple[str, ...]:
        return ()


def _unit(params: object) -> object:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    top = max(float(np.max(np.abs(leaf))) for leaf in leaves)
    size = top * float(np.sqrt(sum(np.sum((leaf / top) ** 2) for leaf in leaves)))
    return jax.tree.map(lambda leaf: leaf / size, params)
