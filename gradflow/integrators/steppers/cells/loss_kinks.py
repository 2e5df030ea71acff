r"""Data at the margin 1 of a loss that has a kink there (hinge): who pulls, who is held.

The loss is convex in the outputs, so the flow goes on along the element of least norm of

.. math:: v+\sum_ic_i\nabla q_i,\qquad 0\le c_i\le\omega_i,

i over the data at their margin and v the velocity of all else. Data whose margin it leaves alone
and whose c_i is inside are held; the others pull wholly or not at all. Source: `clarke1983`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradflow.cells.selection import box_minimum
from gradflow.integrators.steppers.cells.locate import TANGENT
from gradflow.integrators.steppers.cells.margins import AT_MARGIN, gradients
from gradflow.integrators.steppers.cells.step import excess
from gradflow.integrators.steppers.cells.system import HINGE

if TYPE_CHECKING:
    from gradflow.integrators.steppers.cells.host import Host

#: A rate below this share of its terms is none.
_NO_RATE = 1e-10
#: Decisions in a row about what one of them has changed.
_ROUNDS = 8


class Margins:
    """The decisions about data at their margin; none for losses without a kink.

    Parameters
    ----------
    host : Host
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.kinked = host.sys.loss == HINGE

    def begin(self) -> str:
        """Let the data below their margin pull, and decide those at it; return what went wrong."""
        host = self.host
        n = len(host.sys.X) if self.kinked else 0
        host.cell = host.cell._replace(
            act=np.ones(n, np.int8), kept=np.zeros(0, np.int64), slack=np.zeros(n)
        )
        host.refresh()
        if self.kinked:
            host.cell.act[:] = np.where(self._off() < 0, 1, -1)
            return self.decide()
        return ""

    def _off(self) -> np.ndarray:
        """q_i − 1 (n,), where the field has been evaluated."""
        return self.host.sys.y[:, 0] * self.host.work.f[:, 0] - 1.0

    def _fuzz(self) -> np.ndarray:
        """How far data at their margin may be off it (n,)."""
        host = self.host
        terms = host.sys.gain * np.abs(host.a[:, 0]) @ np.abs(host.work.A)
        return AT_MARGIN * (1.0 + terms + np.abs(host.sys.offset[:, 0]))

    def decide(self, hit: int = -1) -> str:
        """Decide all data at their margin together; return what went wrong, or "".

        ``hit`` has just come to it.
        """
        host = self.host
        host.refresh()
        fuzz = self._fuzz()
        at = np.abs(self._off()) <= 2.0 * fuzz
        at[host.cell.kept] = True
        if hit >= 0:
            at[hit] = True
        at = np.flatnonzero(at)
        if not at.size:
            return ""
        before = host.cell.act[at].copy()
        act = self._chosen(at)
        host.cell.act[at] = act
        host.cell = host.cell._replace(kept=at[act == 0])
        host.refresh()
        off = np.abs(self._off()[at])
        host.cell.slack[at] = np.where(act == 0, 0.0, 4.0 * np.maximum(fuzz[at], off))
        for i, was, now in zip(at.tolist(), before.tolist(), act.tolist(), strict=True):
            if was != now:
                kind = "margin-in" if now == 0 else "margin-out" if was == 0 else "margin"
                host.happen(-1, i, kind)
        return self._wake() if np.any(before != act) else ""

    def _wake(self) -> str:
        """Decide neurons again that rested on a surface or left it without speed: pulls changed."""
        host = self.host
        still = np.any(host.cell.fresh >= TANGENT, axis=1)
        for k in np.flatnonzero(still & host.near(host.W).any(axis=1)):
            trouble = host.meet(int(k), -1)
            if trouble:
                return trouble
        return ""

    def _chosen(self, at: np.ndarray) -> np.ndarray:
        """What the data at their margin do: +1 pull, −1 do not, 0 are held."""
        host, sys = self.host, self.host.sys
        host.cell.act[at] = -1
        host.cell = host.cell._replace(kept=np.zeros(0, np.int64))
        self._place(at)
        v, B = self._velocity(), self._gradients(at)
        full = np.exp(sys.logw[at])
        c, inside = box_minimum(v, B, np.zeros(at.size), full)
        size = np.linalg.norm(B, axis=1)
        scale = size * (np.linalg.norm(v) + c @ size)
        rates = B @ (v + c @ B)
        resting = np.where(inside, 0, np.where(c >= full, 1, -1))
        return np.where(np.abs(rates) <= _NO_RATE * scale, resting, -np.sign(rates)).astype(np.int8)

    def _place(self, at: np.ndarray) -> None:
        """Put data to their margin, by a Newton step of least norm; evaluate the field there."""
        host = self.host
        host.refresh()
        B = self._gradients(at)
        host.y[: B.shape[1]] -= np.linalg.lstsq(B, self._off()[at], rcond=1e-10)[0]
        host.refresh()

    def _gradients(self, at: np.ndarray) -> np.ndarray:
        """∂q_i/∂θ (A, P) of some data, projected."""
        host = self.host
        B = np.zeros((at.size, self._velocity().size))
        gradients(host.sys_ref, host.cell_ref, host.work_ref, host.a, at, B)
        return B

    def _velocity(self) -> np.ndarray:
        host = self.host
        parts = [host.work.DW.ravel(), host.work.DA.ravel()]
        return np.concatenate(parts if host.sys.trained else parts[:1])

    def agree(self) -> str:
        """Decide again what decisions about neurons or data have changed; say what went wrong."""
        host, trouble, rounds = self.host, "", 0
        while self.kinked and not trouble:
            host.refresh()
            over, at = excess(host.sys_ref, host.cell_ref, host.work_ref, host.a)
            if over <= 0:
                return ""
            if rounds == _ROUNDS:
                return "decisions about data at their margin and neurons on their surfaces go round"
            if at >= host.cell.ray_neuron.size:
                trouble = self.decide()
            else:
                trouble = host.leave(int(host.cell.ray_neuron[at]), host.cell.ray[at])
            rounds += 1
        return trouble
