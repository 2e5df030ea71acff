"""Explicit steps while they serve, implicit ones from where stability limits them.

An explicit Runge-Kutta method begins. Where its own stages say that stability, not accuracy, sets
the step (:mod:`.stiffness`), LSODA goes on from the last accepted state with the exact Jacobian; it
turns from stiff to non-stiff steps and back by itself [petzold1983automatic]. A flow that never
becomes stiff takes the steps of the explicit method, bit by bit.
"""

from __future__ import annotations

import functools as ft
from dataclasses import replace

import diffrax
import numpy as np

from gradflow.integrators.contract import (
    AbstractIntegrator,
    Problem,
    Solution,
    register_integrator,
)
from gradflow.integrators.march import AbstractStepper, Steps, march
from gradflow.integrators.resting import RestWatch
from gradflow.integrators.statistics import UNKNOWN
from gradflow.integrators.steppers.diffrax import DiffraxStepper
from gradflow.integrators.steppers.scipy import ScipyStepper
from gradflow.integrators.steppers.stiffness import patience

_IMPLICIT = "lsoda"
#: Unknowns up to which a Jacobian is stored and factored.
_MOST_UNKNOWNS = 4000
#: Implicit steps at once: they may go far, and rest is looked for between.
_STEPS_AT_ONCE = 16


class _SwitchingStepper(AbstractStepper):
    """An explicit method, and from where the problem is stiff an implicit one."""

    def __init__(self, explicit: diffrax.AbstractRungeKutta, problem: Problem) -> None:
        size = problem.Y0.shape[0]
        wait = patience(size, explicit.tableau.num_stages) if size <= _MOST_UNKNOWNS else 2**62
        # (the clock's states and the energy have no modes of their own)
        modes = np.zeros(size, bool)
        modes[: problem.flow.split(problem.Y0)[0].size] = True
        self.problem, self.explicit = problem, DiffraxStepper(explicit, problem, wait, modes)
        self.implicit: ScipyStepper | None = None
        self.accepted = self.attempts = 0

    def start(self) -> Steps:
        """Evaluate the start."""
        self.last = _owned(self.explicit.start(), self.explicit)
        return self.last

    def advance(self, attempts: int, accepted: int, target: float) -> Steps:
        """Go on with the method that is at work."""
        if self.explicit.stiff and self.implicit is None:
            self.implicit = self._turned(self.last)
        if self.implicit is not None:
            few = min(attempts, _STEPS_AT_ONCE)
            return _owned(self.implicit.advance(few, accepted, target), self.implicit)
        self.last = _owned(self.explicit.advance(attempts, accepted, target), self.explicit)
        self.attempts += self.last.attempts
        self.accepted += len(self.last.s) - 1
        return self.last

    def _turned(self, steps: Steps) -> ScipyStepper:
        """The implicit method, at the last of some steps."""
        left = max(self.problem.max_steps - self.attempts, 1)
        here = replace(
            self.problem, Y0=steps.Y[-1].copy(), s0=float(steps.s[-1]), max_steps=left,
            tolerances=self.problem.tolerances.of_method(_IMPLICIT),
        )  # fmt: skip
        implicit = ScipyStepper(_IMPLICIT, here)
        implicit.start()
        return implicit

    def retake(self, steps: Steps, index: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
        """Steps taken again by the method that took them."""
        owner, memory = steps.memory
        return owner.retake(replace(steps, memory=memory), index, s)

    def work(self, accepted: int, attempts: int) -> dict[str, float]:
        """The counts of both methods."""
        if self.implicit is None:
            return self.explicit.work(accepted, attempts)
        mine = self.explicit.work(self.accepted, self.attempts)
        more = self.implicit.work(accepted - self.accepted, attempts - self.attempts)
        return {**{key: mine[key] + more[key] for key in mine}, "rejected": UNKNOWN}


def _owned(steps: Steps, owner: AbstractStepper) -> Steps:
    """Steps that know who took them."""
    return replace(steps, memory=(owner, steps.memory))


class SwitchingIntegrator(AbstractIntegrator):
    """What "auto" takes where there are no kinks: explicit, then implicit, until the flow rests.

    Parameters
    ----------
    name : str
    explicit : diffrax.AbstractRungeKutta
        The method that begins.

    Notes
    -----
    ``stats["rejected"]`` is NaN where LSODA took part, which does not report it.
    """

    def __init__(self, name: str, explicit: diffrax.AbstractRungeKutta) -> None:
        self.name, self._explicit = name, explicit

    def solve(self, problem: Problem) -> Solution:
        """Integrate one stage (see :class:`~gradflow.integrators.contract.AbstractIntegrator`)."""
        return march(_SwitchingStepper(self._explicit, problem), problem, RestWatch(problem))


def _switching(name: str, solver: type[diffrax.AbstractRungeKutta]) -> SwitchingIntegrator:
    return SwitchingIntegrator(name, solver())


for _name, _solver in (("tsit5-lsoda", diffrax.Tsit5), ("dopri8-lsoda", diffrax.Dopri8)):
    register_integrator(_name, ft.partial(_switching, _name, _solver))
