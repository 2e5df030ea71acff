r"""Whether a flow has come to rest: what it would still move in the time that is left.

Near a state :math:`\theta` a flow with the velocity F and the Jacobian J moves on, in a time T, by
about

.. math:: \delta=(1/T-J)^{-1}F,

which is :math:`-J^{-1}F` in the directions that have decayed by then and :math:`TF` in those that
do not decay at all. It is at rest where no mode grows by more than a factor e in that time,
:math:`1/T-J>0`, and :math:`\max|\delta|` is below the tolerance asked. A saddle about to be left,
however slowly, fails the first; a margin that grows like ln t fails the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

_EPS = float(np.finfo(float).eps)
_TINY = float(np.finfo(float).tiny)
#: Rounding of a velocity, in units of eps |J| |θ|.
_VELOCITY_NOISE = 4.0
#: A Jacobian is symmetric up to this share of its largest row.
_ASYMMETRY = 1e-10


@dataclass(frozen=True)
class Rest:
    """How much a flow at rest still moves.

    Attributes
    ----------
    speed : float
        Largest entry of the velocity.
    to_come : ndarray, shape (P,)
        What is still to come.
    growth : float
        No mode grows faster than at this rate.
    time : float
        The time for which that holds.
    """

    speed: float
    to_come: np.ndarray
    growth: float
    time: float

    @property
    def displacement(self) -> float:
        """Largest entry of what is still to come."""
        return float(np.max(np.abs(self.to_come), initial=0.0))


def at_rest(
    F: np.ndarray,
    J: np.ndarray,
    theta: np.ndarray,
    T: float,
    rtol: float,
    noise: np.ndarray | None = None,
    atol: float = 0.0,
) -> Rest | None:
    r"""Whether a flow moves by less than ``rtol * max|theta|``, or ``atol``, in the time ``T``.

    Parameters
    ----------
    F, theta : ndarray, shape (P,)
        Velocity (per unit of physical time), state.
    J : ndarray, shape (P, P)
        Jacobian of the velocity; symmetric, or similar to a symmetric matrix.
    T : float
        Time that is left, > 0; may be infinite.
    rtol : float
    noise : ndarray, shape (P,), optional
        What rounding leaves of the velocity; default :math:`4\epsilon|J||\theta|`.

    atol : float
        A movement that does not count though the state itself decays to zero.

    Returns
    -------
    Rest or None
        None where it moves on, where a mode grows, or where F or J is not finite.

    Notes
    -----
    Growth at rates below :math:`P\epsilon\|J\|` is rounding. A velocity of the size of its own
    rounding says nothing of times in which it would move the state by the tolerance: what is to
    come is then counted for that time only, while growth is still asked for all of T. So the zero
    modes of a symmetry pass at any T, and slow saddles do not. One or two factorisations.
    """
    if not (np.all(np.isfinite(F)) and np.all(np.isfinite(J))):
        return None
    rows = np.abs(J)
    largest = float(np.max(np.sum(rows, axis=1), initial=0.0))
    tolerance = max(rtol * float(np.max(np.abs(theta), initial=0.0)), atol)
    if noise is None:
        noise = _VELOCITY_NOISE * _EPS * (rows @ np.abs(theta))
    speed = float(np.max(np.abs(F), initial=0.0))
    seen = float(np.max(noise, initial=0.0)) / max(tolerance, _TINY)
    growth = max(1.0 / T, theta.size * _EPS * largest, _TINY)
    for rate in (growth, max(growth, seen)):
        to_come = _solved(rate * np.eye(theta.size) - J, F, _ASYMMETRY * largest)
        if to_come is None:
            return None
        if np.max(np.abs(to_come), initial=0.0) <= tolerance:
            return Rest(speed, to_come, growth, T)
    return None


def _solved(A: np.ndarray, push: np.ndarray, asymmetry: float) -> np.ndarray | None:
    """A⁻¹ push; None where an eigenvalue of A is not positive."""
    if not np.any(np.abs(A - A.T) > asymmetry):
        try:
            return linalg.cho_solve(linalg.cho_factor(A), push)
        except linalg.LinAlgError:
            return None
    if np.min(np.linalg.eigvals(A).real) <= 0:
        return None
    return np.linalg.solve(A, push)
