r"""Newton's method for ∇L = 0, in units of each weight's own curvature.

Weights may differ by many orders in curvature, so all that is compared here is scaled: with
:math:`s_i=(\max_j|H_{ij}|)^{-1/2}` the matrix :math:`s_iH_{ij}s_j` has entries of order one, and
its eigenvalues are told from zero by its own rounding error. Their signs are those of H's
(Sylvester).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Gradient (p,) and Hessian (p, p) at a point (p,).
Field = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_EPS = float(np.finfo(float).eps)
#: A descent that has left its start by so many times its size runs away; nobody accepts its end.
_REACH = 1e8
#: Shares of the largest eigenvalue below which a step ignores a direction, tried in turn: one that
#: is too low follows rounding along flat directions.
_CUTS = (1e-13, 1e-10, 1e-7, 1e-4)


@dataclass(frozen=True)
class Modes:
    """Scaled eigenvalues of a Hessian, and what is known of their error.

    Attributes
    ----------
    gradient, hessian : (p,), (p, p) arrays
    scale : (p,) array
        s.
    values, vectors : (p,), (p, p) arrays
        Of ``s H s``, ascending.
    error : float
        What rounding, and ``blur`` in the point, may add to an eigenvalue.
    """

    gradient: np.ndarray
    hessian: np.ndarray
    scale: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    error: float

    @classmethod
    def at(cls, field: Field, point: np.ndarray, blur: np.ndarray | float = 0.0) -> Modes:
        """Return the modes at ``point``, a point known to within ``blur``."""
        g, H = field(point)
        sign = np.where(np.arange(point.size) % 2 == 0, 1.0, -1.0)
        nearby = field(point + 4 * _EPS * np.abs(point) * sign + blur)[1]
        with np.errstate(invalid="ignore"):
            noise = np.nan_to_num(np.abs(nearby - H), nan=np.inf)
        rows = np.max(np.abs(H), axis=1, initial=0.0)
        # (a row that is all noise has no curvature of its own)
        rows = np.where(rows > 10 * np.max(noise, axis=1, initial=0.0), rows, 0.0)
        top = float(np.max(rows, initial=0.0))
        scale = 1 / np.sqrt(np.where(rows > 0, rows, top if top > 0 else 1.0))
        values, vectors = np.linalg.eigh(scale[:, None] * H * scale)
        largest = float(np.max(np.abs(values), initial=0.0))
        rounding = 8 * _EPS * max(point.size, 1) * largest
        error = rounding + 4 * float(np.linalg.norm(scale[:, None] * noise * scale))
        return cls(g, H, scale, values, vectors, error)

    @property
    def resolved(self) -> np.ndarray:
        """Whether each eigenvalue is told from zero (p,)."""
        return np.abs(self.values) > self.error

    @property
    def size(self) -> float:
        """|∇L| in scaled units."""
        return float(np.linalg.norm(self.scale * self.gradient))

    def step(self, use: np.ndarray) -> np.ndarray:
        """Return −H⁻¹∇L on the eigenvectors in ``use``."""
        part = self.vectors[:, use]
        return -self.scale * (part @ ((part.T @ (self.scale * self.gradient)) / self.values[use]))

    def rounding(self, terms: np.ndarray) -> float:
        """Return the length of a step that rounding of the gradient's ``terms`` (p,) causes."""
        part = np.abs(self.vectors[:, self.resolved])
        sizes = (part.T @ (self.scale * terms)) / np.abs(self.values[self.resolved])
        return 64 * _EPS * float(np.linalg.norm(self.scale * (part @ sizes)))

    def flat_gradient(self) -> np.ndarray:
        """The part of the scaled gradient along directions without curvature (p,)."""
        part = self.vectors[:, ~self.resolved]
        return part @ (part.T @ (self.scale * self.gradient))


@dataclass(frozen=True)
class Descended:
    """Where Newton's method came to.

    Attributes
    ----------
    point : (p,) array
    first : (p,) array
        The full step at the start: what the start's own curvature predicts.
    lengths : tuple of float
        Lengths of the steps taken.
    curvature : float
        |H| at the start.
    """

    point: np.ndarray
    first: np.ndarray
    lengths: tuple[float, ...]
    curvature: float


def newton(field: Field, start: np.ndarray, steps: int = 60) -> Descended:
    """Newton on the gradient with minimum-norm steps, damped while the gradient does not fall."""
    point = start
    modes = Modes.at(field, point)
    first = modes.step(modes.resolved)
    curvature = float(np.linalg.norm(modes.hessian, 2)) if modes.hessian.size else 0.0
    lengths: list[float] = []
    reach = _REACH * float(np.linalg.norm(start) + np.linalg.norm(first))
    for _ in range(steps):
        if modes.size == 0 or not np.isfinite(modes.size):
            break
        if float(np.linalg.norm(point - start)) > reach:
            break
        trial = _improved(field, point, modes)
        if trial is None:
            break
        lengths.append(float(np.linalg.norm(trial - point)))
        point, modes = trial, Modes.at(field, trial)
    return Descended(point, first, tuple(lengths), curvature)


def _improved(field: Field, point: np.ndarray, modes: Modes) -> np.ndarray | None:
    """Return a point of smaller gradient on the way of some Newton step, if any."""
    top = float(np.max(np.abs(modes.values), initial=0.0))
    for cut in _CUTS:
        step = modes.step(np.abs(modes.values) > cut * top)
        damp = 1.0
        while damp > 1e-3:
            trial = point + damp * step
            g, H = field(trial)
            new = float(np.linalg.norm(modes.scale * g))
            if new < modes.size * (1 - 0.1 * damp) and np.all(np.isfinite(H)):
                return trial
            damp *= 0.5
    return None
