"""Explicit steps while they serve, implicit ones from where stability limits them.

An explicit Runge-Kutta method begins. Where its own stages say that stability, not accuracy, sets
the step (:mod:`.stiffness`), LSODA goes on from the last accepted state with the exact Jacobian; it
turns from stiff to non-stiff steps and back by itself [petzold1983automatic]. A flow that never
becomes stiff takes the steps of the explicit method, bit by bit.
"""

from __future__ import annotations

import functools as ft
from dataclasses import replace
from typing import cast

import diffrax
import jax.numpy as jnp
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
from gradflow.integrators.steppers.stiffness import NEVER, patience
from gradflow.numerics.jacobian import has_jacobian

#: The method that goes on, and one for where it gives up.
_IMPLICIT = ("lsoda", "radau")
_GIVEN_UP = ("failed", "step_too_small")
#: Its first step, as a share of the last explicit one.
_FIRST_SHARE = 0.1
#: Unknowns up to which a Jacobian is stored and factored.
_MOST_UNKNOWNS = 4000
#: Implicit steps at once: they may go far, and rest is looked for between.
_STEPS_AT_ONCE = 16


class _SwitchingStepper(AbstractStepper):
    """An explicit method, and from where the problem is stiff an implicit one."""

    def __init__(self, explicit: diffrax.AbstractRungeKutta, problem: Problem) -> None:
        size = problem.Y0.shape[0]
        stages = cast(diffrax.ButcherTableau, explicit.tableau).num_stages
        wait = patience(size, stages) if size <= _MOST_UNKNOWNS else NEVER
        # (the clock's states and the energy have no modes of their own)
        modes = np.zeros(size, bool)
        modes[: problem.flow.split(problem.Y0)[0].size] = True
        self.method, self.modes = explicit, modes
        self.problem, self.explicit = problem, DiffraxStepper(explicit, problem, wait, modes)
        self.implicit: list[ScipyStepper] = []  # the last one is at work
        self.over: list[
            AbstractStepper
        ] = []  # what has been tried, where no implicit method goes on
        self.attempts = 0

    def start(self) -> Steps:
        """Evaluate the start."""
        self.last = _owned(self.explicit.start(), self.explicit)
        return self.last

    def advance(self, attempts: int, accepted: int, target: float) -> Steps:
        """Go on with the method that is at work."""
        if self.explicit.stiff and not self.implicit:
            self._turn(float(self.explicit.carry.h))
        if self.implicit:
            steps = self._implicitly(min(attempts, _STEPS_AT_ONCE), accepted, target)
        else:
            steps = _owned(self.explicit.advance(attempts, accepted, target), self.explicit)
            if self.explicit.stiff and not self._can_turn(steps):
                self.explicit.patience = NEVER
        self.attempts += steps.attempts
        self.last = steps
        return steps

    def _implicitly(self, attempts: int, accepted: int, target: float) -> Steps:
        """Implicit steps; a method that gives up is followed by the next."""
        owner = self.implicit[-1]
        steps = _owned(owner.advance(attempts, accepted, target), owner)
        if steps.ended in _GIVEN_UP:
            self.last = steps = replace(steps, ended=None, detail="")
            if len(self.implicit) < len(_IMPLICIT):
                self._turn(None)
            else:
                self._back()
        return steps

    def _back(self) -> None:
        """Go on explicitly for good from the last state: no implicit method can."""
        self.over += [self.explicit, *self.implicit]
        self.implicit = []
        self.explicit = DiffraxStepper(self.method, self._from_here(), NEVER, self.modes)
        self.explicit.start()

    def _from_here(self) -> Problem:
        last = self.last
        return replace(
            self.problem, Y0=last.Y[-1].copy(), s0=float(last.s[-1]),
            max_steps=max(self.problem.max_steps - self.attempts, 1),
        )  # fmt: skip

    def _can_turn(self, steps: Steps) -> bool:
        s, Y = jnp.asarray(steps.s[-1]), jnp.asarray(steps.Y[-1])
        return has_jacobian(lambda at: self.problem.flow.field(s, at), Y)

    def _turn(self, h: float | None) -> None:
        """Go on from the last state with the next implicit method, the first step being ``h``."""
        method = _IMPLICIT[len(self.implicit)]
        here = replace(self._from_here(), tolerances=self.problem.tolerances.of_method(method))
        # LSODA begins with steps that iterate on the field, which stiff ones would not let it
        first = None if h is None else min(_FIRST_SHARE * h, here.s_end - here.s0)
        self.implicit.append(ScipyStepper(method, here, first))
        self.implicit[-1].start()

    def retake(self, steps: Steps, index: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
        """Steps taken again by the method that took them."""
        owner, memory = cast(tuple[AbstractStepper, object], steps.memory)
        return owner.retake(replace(steps, memory=memory), index, s)

    def work(self, accepted: int, attempts: int) -> dict[str, float]:
        """The counts of all methods."""
        if not self.implicit and not self.over:
            return self.explicit.work(accepted, attempts)
        parts = [part.work(0, 0) for part in (*self.over, self.explicit, *self.implicit)]
        return {**{key: sum(part[key] for part in parts) for key in parts[0]}, "rejected": UNKNOWN}


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
