"""Tolerances: what was asked, what a step must hold, and what rounding leaves to neither.

Local errors add up, so a method is told to keep its error estimates below a share of the tolerance
asked, its *safety*. Everything an integrator or a stage takes as small is read from one
:class:`Tolerances`, built once a stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.flows.flow import Flow
from gradflow.validation import SMALLEST_RTOL

#: What local error estimates must stay below, as a share of the tolerance asked. At these shares
#: the global error of the test problems (logistic growth and saddles left from 1e-60 included)
#: stays below the tolerance asked; the estimate of dopri8 is the sharper one. The late phase
#: estimates its errors itself and reaches what it is asked.
SAFETY = 0.1
SAFETY_OF = {
    "dopri8": 0.01,
    "dopri8-lsoda": 0.01,
    "piecewise": 0.03,
    "late": 1.0,
}
#: scipy refuses tolerances below 100 eps: it clips them silently, or warns.
_SCIPY_FLOOR = 100 * float(np.finfo(float).eps)
_FLOOR_OF: dict[str, float] = dict.fromkeys(
    ("rk45", "dop853", "lsoda", "radau", "bdf"), _SCIPY_FLOOR
)
#: Errors of steps leave of a residual along a path about this many of their tolerances.
_ACCUMULATED = 30.0
_LARGEST_RESIDUAL = 1e-3
_TINY = 1e-300


@dataclass(frozen=True)
class Asked:
    """What the user asked for.

    Attributes
    ----------
    rtol : float
    atol : float, (P,) array or None
        In units of the state; an array holds in cartesian coordinates, one number for each
        parameter. None = ``rtol`` times the size of each component.
    safety : float or None
        Share of the tolerances that a local error may take; None = the method's own.
    """

    rtol: float
    atol: float | np.ndarray | None = None
    safety: float | None = None

    def given(self, size: int, extras: int) -> np.ndarray | None:
        """``atol`` of an integrated vector of ``size``, whose last ``extras`` are no coordinates.

        None where it is scaled: by default, and in coordinates for which none were given.
        """
        if self.atol is None:
            return None
        own = np.asarray(self.atol, np.float64)
        if own.ndim == 0:
            return np.full(size, own)
        if own.size != size - extras:
            return None
        return np.concatenate([own, np.full(extras, np.min(own))])

    def share(self, method: str) -> float:
        """The safety of a method."""
        return SAFETY_OF.get(method, SAFETY) if self.safety is None else self.safety

    def rtol_local(self, method: str) -> float:
        """Relative tolerance of one step of a method."""
        return max(self.share(method) * self.rtol, _FLOOR_OF.get(method, SMALLEST_RTOL))


@dataclass(frozen=True)
class Basis:
    """What the tolerances of a stage are made from, whatever the method.

    Attributes
    ----------
    asked : Asked
    given : ndarray, shape (D,), or None
        The absolute tolerances asked for.
    sizes : ndarray, shape (D,)
        To which they are relative where none were.
    controlled, noise : ndarray, shape (D,)
        As in :class:`Tolerances`.
    """

    asked: Asked
    given: np.ndarray | None
    sizes: np.ndarray
    controlled: np.ndarray
    noise: np.ndarray

    def tolerances(self, method: str) -> Tolerances:
        """The tolerances of a method."""
        rtol = self.asked.rtol_local(method)
        if self.given is None:
            atol = np.maximum(np.maximum(rtol * self.sizes, self.noise), _TINY)
        else:
            atol = self.asked.share(method) * self.given
        return Tolerances(self.asked.rtol, rtol, atol, self.controlled, self.noise, self)


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of one stage; a step is accepted where its error stays below
    ``atol_local + rtol_local max(|Y|, |Y_new|)`` in every controlled component.

    Attributes
    ----------
    rtol : float
        Relative tolerance asked for.
    rtol_local : float
        Relative tolerance of a step.
    atol_local : ndarray, shape (D,)
        Absolute tolerance of a step, in units of the state; by default not below
        ``noise``.
    controlled : ndarray of bool, shape (D,)
        False = left out of error control.
    noise : ndarray, shape (D,)
        Absolute errors that rounding makes unavoidable.
    basis : Basis or None
        What they were made from, where another method may go on with the stage.
    """

    rtol: float
    rtol_local: float
    atol_local: np.ndarray
    controlled: np.ndarray
    noise: np.ndarray
    basis: Basis | None = None

    @classmethod
    def plain(cls, rtol: float, atol: np.ndarray) -> Tolerances:
        """Tolerances handed to the solver as they are, all components controlled."""
        return cls(rtol, rtol, atol, np.ones(atol.shape, bool), np.zeros(atol.shape))

    @classmethod
    def of(cls, flow: Flow, Y0: np.ndarray, asked: Asked, method: str) -> Tolerances:
        """Tolerances of the stage of ``flow`` that starts at ``Y0``."""
        return Basis(
            asked, asked.given(Y0.shape[0], flow.extras), _sizes(flow, Y0),
            np.asarray(flow.error_mask(Y0)), np.asarray(flow.rounding(Y0), np.float64),
        ).tolerances(method)  # fmt: skip

    def of_method(self, method: str) -> Tolerances:
        """The tolerances of the same stage for a method that goes on with it."""
        return self if self.basis is None else self.basis.tolerances(method)

    def atol_with(self, uncontrolled: float) -> np.ndarray:
        """``atol_local`` with ``uncontrolled`` where the error is not controlled."""
        return np.where(self.controlled, self.atol_local, uncontrolled)

    @property
    def asked_atol(self) -> np.ndarray:
        """Absolute tolerances that the whole path was asked to hold, shape (D,)."""
        return self.atol_local * (self.rtol / self.rtol_local)

    @property
    def residual(self) -> float:
        """Relative size of what the errors of steps leave of a quantity that should vanish."""
        return min(_ACCUMULATED * self.rtol_local, _LARGEST_RESIDUAL)

    def stats(self) -> dict[str, float]:
        """What a step was asked to hold: ``rtol_local``, and the least ``atol_local``."""
        least = float(np.min(self.atol_local[self.controlled], initial=np.inf))
        return {"rtol_local": self.rtol_local, "atol_local": least}


def _sizes(flow: Flow, Y0: np.ndarray) -> np.ndarray:
    """Size of each component at the stage's start.

    A component that starts at zero takes the scale its chart gives. In cartesian coordinates the
    largest entry is no scale for a small one (a saddle left from 1e-20 beside an entry of order 1),
    so each takes its own size.
    """
    scale = np.asarray(flow.scales(Y0), np.float64)
    if flow.chart.name != "cartesian":
        return scale
    size = np.abs(Y0)
    own = (size > 0) & (np.arange(Y0.shape[0]) < Y0.shape[0] - flow.extras)
    return np.where(own, size, scale)
