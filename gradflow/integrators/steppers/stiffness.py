r"""Whether stability, not accuracy, limits the steps of an explicit method.

The last two stages of the methods at hand are both taken at the end of the step, at states
:math:`g` and :math:`y_1` that differ by what is left of the fast modes. So
:math:`h|f(y_1)-f(g)|/|y_1-g|` is a lower estimate of :math:`h\rho`, the step times the spectral
radius of the Jacobian [hairer1996solving, IV.2], at no evaluation more. A step is stiff where

* :math:`h\rho` is close to the end of the method's interval of stability, or
* :math:`h\rho` is not small though the slope itself changes at a rate far below :math:`\rho`: at
  tight tolerances a method of high order follows slaved modes well inside its region of stability,
  at steps that are as short.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import diffrax
import jax.numpy as jnp
import numpy as np
from jax import Array

#: Steps are stiff beyond this share of the interval of stability,
_SHARE = 0.7
#: or beyond this h rho, where the slope changes this many times slower than rho.
_SHORT, _SLAVED = 0.3, 10.0
#: Steps in a row that are not stiff, after which those that were are forgotten.
_CALM = 6
#: Stiff steps after which an explicit method is given up; more where a Jacobian costs more.
_STIFF_STEPS = 40
#: So many stiff steps are never taken.
NEVER = 2**62


class Stiffness(NamedTuple):
    """What is counted along accepted steps: stiff ones, and others since the last of them."""

    stiff: Array
    calm: Array

    @classmethod
    def none(cls) -> Stiffness:
        """Nothing counted yet."""
        zero = jnp.asarray(np.int64(0))
        return cls(zero, zero)


def is_told(tableau: diffrax.ButcherTableau, *, implicit: bool) -> bool:
    """Whether a method's stages tell of stiffness: an explicit one whose last two are at its end.

    (The last one is the first of the next step.)
    """
    return bool(tableau.fsal and not implicit and tableau.c.size > 1 and tableau.c[-2] == 1)


def counted(
    before: Stiffness,
    tableau: diffrax.ButcherTableau,
    k: Array,
    step: Array,
    modes: Array,
) -> Stiffness:
    """The counts after one more accepted step.

    Parameters
    ----------
    before : Stiffness
    tableau : ButcherTableau
    k : Array, shape (stages, D)
        h f at the stages.
    step : Array, shape (D,)
        y1 - y0.
    modes : Array of bool, shape (D,)
        The entries looked at.
    """
    row = tableau.a_lower[-2]
    apart = _size(step - jnp.asarray(row) @ k[: row.size], modes)
    turned, drift = _size(k[-1] - k[-2], modes), _size(k[-1] - k[0], modes)
    at_limit = turned > _SHARE * stability_limit(tableau) * apart
    slaved = (turned > _SHORT * apart) & (turned * _size(k[0], modes) > _SLAVED * drift * apart)
    stiff = at_limit | slaved
    calm = jnp.where(stiff, 0, before.calm + 1)
    count = jnp.where(calm >= _CALM, 0, before.stiff + jnp.where(stiff, 1, 0))
    return Stiffness(count, calm)


def _size(x: Array, modes: Array) -> Array:
    x = jnp.where(modes, x, 0.0)
    return jnp.sqrt(jnp.dot(x, x))


def patience(size: int, stages: int) -> int:
    """Stiff steps to wait for before turning implicit, with ``size`` unknowns.

    A Jacobian costs up to ``size`` evaluations: explicit steps are worth having until they have
    cost as much.
    """
    return max(_STIFF_STEPS, size // stages)


def stability_limit(tableau: diffrax.ButcherTableau) -> float:
    """The length of the method's interval of stability on the negative axis."""
    rows = tuple(tuple(map(float, row)) for row in tableau.a_lower)
    return _limit(rows, tuple(map(float, tableau.b_sol)))


@lru_cache
def _limit(rows: tuple[tuple[float, ...], ...], b: tuple[float, ...]) -> float:
    A = np.zeros((len(b), len(b)))
    for i, row in enumerate(rows):
        A[i + 1, : len(row)] = row
    one = np.ones(len(b))
    z = np.arange(0.01, 20.0, 0.01)
    grown = np.array([1.0 - x * np.dot(b, np.linalg.solve(np.eye(len(b)) + x * A, one)) for x in z])
    return float(z[np.argmax(np.abs(grown) > 1.0)])
