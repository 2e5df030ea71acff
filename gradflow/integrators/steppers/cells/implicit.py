r"""One implicit step of the whole state inside a cell.

The state is the weights, the energy spent :math:`\int|\dot\theta|^2dt` and, in the loss clock,
τ = ln(1+t). Nothing depends on the energy, and on τ only itself, so the Jacobian of the state is
that of the weights with a few rows below it: one solve with :math:`\mu I-J` and a dot product each.
In the log clock u the field of the weights is :math:`e^uF`; there u is one more entry, whose
column is the field itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradflow.integrators.steppers.cells.jacobian import CellJacobian
from gradflow.integrators.steppers.cells.solves import Solve, factor
from gradflow.integrators.steppers.rosenbrock import GAMMA, quartic, rosenbrock_step

#: The field of the state, (s, y) ↦ dy/ds, in the frozen cell.
Field = Callable[[float, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class StateJacobian:
    """The Jacobian of the state's field.

    Attributes
    ----------
    weights : CellJacobian
    held : int
        Entries between the P weights that move and the q others: outer weights that are fixed.
    rows : (q, P) array
        Derivatives of the rates of the others by the weights.
    own : (q,) array
        Those by themselves.
    by_clock : (P + held + q,) array or None
        ∂(dy/ds)/∂s where the field depends on the clock.
    """

    weights: CellJacobian
    held: int
    rows: np.ndarray
    own: np.ndarray
    by_clock: np.ndarray | None = None

    def factor(self, mu: float) -> Solve | None:
        """Return the solve with μI less this matrix; None where the weights' part is indefinite.

        In the log clock vectors have one more entry, that of the clock.
        """
        inner = factor(self.weights, mu)
        if inner is None:
            return None
        P = self.weights.size
        others = slice(P + self.held, P + self.held + len(self.own))

        def solve(b: np.ndarray) -> np.ndarray:
            x = np.array(b)
            if self.by_clock is not None:
                x[-1] /= mu
                x[:-1] += self.by_clock * x[-1]
            x[:P] = inner(x[:P])
            x[P : P + self.held] /= mu
            x[others] = (x[others] + self.rows @ x[:P]) / (mu - self.own)
            return x

        return solve


@dataclass(frozen=True, eq=False)
class ImplicitStep:
    """A step taken.

    Attributes
    ----------
    y : (N,) array
        The state at its end.
    error : (N,) array
        The estimate.
    dense : (4, N) array
        :math:`y(\\xi)=y_0+\\sum_pc_p\\xi^p`.
    """

    y: np.ndarray
    error: np.ndarray
    dense: np.ndarray


def implicit_step(
    field: Field, jacobian: StateJacobian, s: float, y: np.ndarray, h: float, f0: np.ndarray
) -> ImplicitStep | None:
    """Take a step of length h from (s, y), where the field is f0.

    An L-stable step would damp a mode that grows faster than 1/h: None where there is one, for a
    shorter step to be taken.
    """
    weights = jacobian.weights
    if h * weights.growth > 1.0 and factor(weights, 1.0 / h) is None:
        return None
    solve = jacobian.factor(1.0 / (GAMMA * h))
    if solve is None:
        return None
    if jacobian.by_clock is None:
        y1, k = rosenbrock_step(lambda z: field(s, z), solve, y, h, f0)
    else:
        start, along = np.append(y, s), np.append(f0, 1.0)
        timed = lambda z: np.append(field(z[-1], z[:-1]), 1.0)
        y1, k = rosenbrock_step(timed, solve, start, h, along)
        y1, k = y1[:-1], k[:, :-1]
    return ImplicitStep(y1, k[7], quartic(y, y1, k))
