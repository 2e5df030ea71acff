r"""When stability, not accuracy, limits explicit steps, and when it no longer does.

Tsit5 is stable on the negative axis to :math:`h\rho\approx3.5`, ρ the largest rate of the cell.
Near a rest every explicit step has that length, whatever the tolerance. Steps that crossings cut
short count like others: what was tried shows the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.integrators.steppers.cells.jacobian import CellJacobian

#: hρ above which an explicit step is at its limit, and below which an implicit one is not needed.
_LIMIT, _CALM = 2.5, 0.7
#: Steps at the limit before the switch; fewer in a row that are not forget them.
_MANY, _FORGET = 8, 6
#: Calm implicit steps in a row before the switch back.
_BACK = 10
#: Crossings of a surface that turn out to be none: explicit steps hover about a rest on it.
_FALSE_CROSSINGS = 3


def rate_of_stages(k6: np.ndarray, k7: np.ndarray, y6: np.ndarray, y7: np.ndarray) -> float:
    """Return the estimate |k₇ − k₆| / |y₇ − y₆| of ρ, of two stages at the end of a step."""
    apart = float(np.linalg.norm(y7 - y6))
    return float(np.linalg.norm(k7 - k6)) / apart if apart > 0 else 0.0


@dataclass
class Stiffness:
    """Which kind of step is to be taken next.

    Attributes
    ----------
    implicit : bool
    """

    implicit: bool = False
    _limited: int = 0
    _free: int = 0
    _false: int = 0

    def explicit_step(self, h_rho: float) -> None:
        """Note an explicit step tried, of length h, whole or cut."""
        if h_rho > _LIMIT:
            self._limited, self._free = self._limited + 1, 0
        else:
            self._free += 1
            if self._free >= _FORGET:
                self._limited = self._false = 0
        if self._limited >= _MANY:
            self._turn(implicit=True)

    def false_crossing(self) -> None:
        """Note a surface met twice by explicit steps without any progress between."""
        self._false += 1
        if self._false >= _FALSE_CROSSINGS:
            self._turn(implicit=True)

    def implicit_step(self, h_rho: float) -> None:
        """Note an implicit step; events never end a phase of them."""
        self._free = self._free + 1 if h_rho < _CALM else 0
        if self._free >= _BACK:
            self._turn(implicit=False)

    def _turn(self, implicit: bool) -> None:
        self.implicit, self._limited, self._free, self._false = implicit, 0, 0, 0


class LargestRate:
    """ρ(J) by power iteration, a product a step; the vector is kept from step to step."""

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
