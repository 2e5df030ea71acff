r"""The pattern of sides: an activation cell of the arrangement, or a face of one.

:math:`P_{kg}=\operatorname{sgn}h_{kg}`, and 0 where neuron k stands on surface g – where it slides
along it, its w_k moves inside :math:`n_g^\perp`. The surfaces of one neuron may be dependent: what
counts is the span of their normals, which the arrangement remembers by the set of members.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradflow.cells.arrangement import Arrangement

#: A pair with |h_kg| below this share of |w_k||n_g| stands on its surface. The integrators keep a
#: neuron that slides on its surfaces to rounding of its own size, some 1e-15; of random pairs one
#: in 1e11 comes as near by chance.
ON_SURFACE = 1e-11


@dataclass(frozen=True, eq=False)
class Pattern:
    """A pattern of sides with what follows from it.

    Attributes
    ----------
    arrangement : Arrangement
    sides : (m, G) ints
        +1, −1, or 0 = on the surface.
    """

    arrangement: Arrangement
    sides: np.ndarray

    @classmethod
    def at(cls, arrangement: Arrangement, W: np.ndarray) -> Pattern:
        """Return the pattern of the neurons W (m, D); without kinks every side is +1."""
        if not arrangement.activation_kinked:
            return cls(arrangement, np.ones((W.shape[0], arrangement.count), dtype=int))
        h = arrangement.heights(W)
        size = np.linalg.norm(W, axis=1)[:, None] * arrangement.sizes
        return cls(arrangement, np.where(np.abs(h) <= ON_SURFACE * size, 0, np.sign(h)).astype(int))

    @cached_property
    def slopes(self) -> np.ndarray:
        """φ' of every neuron at every datum (m, n); a pair on its surface counts as on side +1."""
        at = self.arrangement
        signs = np.where(self.sides == 0, 1, self.sides)[:, at.surface] * np.sign(at.scale)
        return np.where(signs >= 0, at.slopes[-1], at.slope)

    @cached_property
    def plus(self) -> np.ndarray:
        """Where neurons are on side +1, as numbers (m, G)."""
        return (self.sides > 0).astype(float)

    @cached_property
    def minus(self) -> np.ndarray:
        """Where neurons are on side −1, as numbers (m, G)."""
        return (self.sides < 0).astype(float)

    @property
    def unseen(self) -> np.ndarray:
        """Which data (n,) no ReLU neuron sees: none is on their side."""
        at, on_plus, on_minus = (
            self.arrangement,
            np.any(self.sides > 0, 0),
            np.any(self.sides < 0, 0),
        )
        return ~np.where(at.scale > 0, on_plus[at.surface], on_minus[at.surface])

    @cached_property
    def sliding(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """The neurons on surfaces, with these and orthonormal rows spanning their normals."""
        on = [(int(k), np.flatnonzero(row == 0)) for k, row in enumerate(self.sides)]
        return [(k, where, self.arrangement.span(where)[0]) for k, where in on if where.size]

    @cached_property
    def backs(self) -> list[np.ndarray]:
        """Of the neurons that slide: −back @ force (K,) holds them against a force (D,)."""
        return [self.arrangement.span(where)[1] for _, where, _ in self.sliding]

    @cached_property
    def basis(self) -> np.ndarray:
        """The rows of `sliding` of every neuron (m, r, D), zeros where there are fewer."""
        rank = max((len(rows) for _, _, rows in self.sliding), default=0)
        basis = np.zeros((len(self.sides), rank, self.arrangement.dim))
        for k, _, rows in self.sliding:
            basis[k, : len(rows)] = rows
        return basis

    def project(self, v: np.ndarray) -> np.ndarray:
        """Remove from the blocks v (m, D) what points out of the surfaces slid on."""
        if self.basis.shape[1] == 0:
            return v
        inside = np.einsum("krd,kd->kr", self.basis, v)
        return v - np.einsum("krd,kr->kd", self.basis, inside)

    def drive(self, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        """Return v (m, D) = Π_k Σ_g F_g n_g over the surfaces on whose sides neurons are."""
        return self.project((self.plus * up + self.minus * down) @ self.arrangement.normals)
