r"""When stability, not accuracy, limits explicit steps, and when it no longer does.

Tsit5 is stable on the negative axis to :math:`h\rho\approx3.5`, ρ the largest rate of the cell.
Near a rest every explicit step has that length, whatever the tolerance. Steps that crossings cut
short count like others: what was tried shows the limit.
"""

from __future__ import annotations

import math

import numpy as np

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.cells.jacobian import CellJacobian
from gradflow.integrators.steppers.cells.step import Tableau

#: Places in the loop's ``count``: steps at the limit, and others since.
LIMITED, FREE = 8, 9
#: hρ above which an explicit step is at its limit, and below which an implicit one is not needed.
_LIMIT, _CALM = 2.5, 0.7
#: Steps at the limit before the switch; fewer in a row that are not forget them.
_MANY, _FORGET = 8, 6
#: Calm implicit steps in a row before the switch back.
_BACK = 10


@kernel
def rate_of_stages(
    tab: Tableau, y: np.ndarray, h: float, K: np.ndarray, y1: np.ndarray, size: int
) -> float:
    """Return the estimate |k₇ − k₆| / |y₇ − y₆| of ρ, of the two stages at the end of a step.

    ``size`` entries of the state, the weights, count.
    """
    top, below = 0.0, 0.0
    for c in range(size):
        total = 0.0
        for j in range(5):
            total += tab.A[5, j] * K[j, c]
        top += (K[6, c] - K[5, c]) ** 2
        below += (y1[c] - y[c] - h * total) ** 2
    return math.sqrt(top / below) if below > 0 else 0.0


@kernel
def limited(count: np.ndarray, h_rho: float) -> bool:
    """Note an accepted explicit step; whether implicit ones are to follow."""
    if h_rho > _LIMIT:
        count[LIMITED] += 1
        count[FREE] = 0
    else:
        count[FREE] += 1
        if count[FREE] >= _FORGET:
            count[LIMITED] = 0
    if count[LIMITED] < _MANY:
        return False
    count[LIMITED] = count[FREE] = 0
    return True


class Calm:
    """Whether implicit steps are no longer needed; events never end a phase of them."""

    def __init__(self) -> None:
        self._calm = 0

    def after(self, h_rho: float) -> bool:
        """Note an implicit step; whether explicit ones are to follow."""
        self._calm = self._calm + 1 if h_rho < _CALM else 0
        return self._calm >= _BACK


class LargestRate:
    """ρ(J) by power iteration, two products a step; the vector is kept from step to step."""

    def __init__(self) -> None:
        self._direction = np.zeros(0)

    def __call__(self, at: CellJacobian, towards: np.ndarray) -> float:
        """Return the estimate, from below; ``towards`` (P,) starts the iteration."""
        v = self._direction if self._direction.size == at.size else towards
        size = float(np.linalg.norm(v))
        if size == 0:
            return 0.0
        for _ in range(2):
            v = at.times(v / size)
            size = float(np.linalg.norm(v))
            if size == 0:
                break
        self._direction = v
        return size
