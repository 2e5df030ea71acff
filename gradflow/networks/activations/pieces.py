"""The pieces of a piecewise linear activation, as what follows kinks reads them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Pieces(NamedTuple):
    r"""φ, continuous and linear between breakpoints :math:`b_1<\dots<b_J`.

    .. math:: \varphi(z)=s_pz+c_p,\qquad b_p<z\le b_{p+1},\quad b_0=-\infty,\ b_{J+1}=\infty;

    a breakpoint belongs to the piece on its left, so that φ' there is the left slope.

    Attributes
    ----------
    breakpoints : (J,) array
        Ascending; φ' jumps at each.
    slopes, intercepts : (J + 1,) arrays
        s and c.
    """

    breakpoints: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray

    @classmethod
    def of(cls, breakpoints: ArrayLike, slopes: ArrayLike, value: float = 0.0) -> Pieces:
        """Return the pieces of φ that is ``value`` at the first breakpoint (at 0, if it has none).

        Breakpoints at which the slope stays are dropped.
        """
        points, slope = np.array(breakpoints, float), np.array(slopes, float)
        first = points[0] if points.size else 0.0
        # c_{p+1} − c_p = (s_p − s_{p+1}) b_{p+1}: φ is continuous.
        rises = np.concatenate([[value - slope[0] * first], -np.diff(slope) * points])
        jumps = np.diff(slope) != 0
        kept = np.concatenate([[True], jumps])
        # (adding 0 makes 0 of −0)
        return cls(points[jumps] + 0.0, slope[kept], np.cumsum(rises)[kept] + 0.0)

    @property
    def central(self) -> bool:
        """Whether φ(cz) = cφ(z) for every c > 0: no breakpoint but 0, and φ(0) = 0."""
        return not np.any(self.breakpoints) and not np.any(self.intercepts)

    def scaled(self, factor: float) -> Pieces:
        """Return the pieces of ``factor`` φ."""
        return Pieces(self.breakpoints, factor * self.slopes, factor * self.intercepts)

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Return φ(z), entry by entry (host)."""
        piece = np.searchsorted(self.breakpoints, z, side="left")
        return self.slopes[piece] * z + self.intercepts[piece]


#: φ(z) = z.
IDENTITY = Pieces.of((), (1.0,))
