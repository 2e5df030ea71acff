r"""Steps of a gradient descent that choose their own size.

>>> gf.descend(risk, start, step_size=gf.steps.relative_change(0.01), until=10.0)

Where the gradient changes little within a step, Euler's step is close to the flow's: this is how
gradient flows are commonly computed in studies of lazy training (`geiger2020disentangling`). No
tolerance comes out of it: the error is of first order in the step, whatever the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from gradflow.validation import check_array, check_positive, check_real, fail


@dataclass(frozen=True)
class RelativeChange:
    r"""Keep :math:`\|g_{n+1}-g_n\|\le c\|g_n\|`; made by `relative_change`.

    Attributes
    ----------
    change : float
        c.
    first : float or None
        :math:`\eta_0`; None: :math:`c\|\theta_0\|/\|g_0\|`.
    growth, shrink : float
        What a step is multiplied by after an easy one, and after one that was refused.
    """

    change: float
    first: float | None = None
    growth: float = 1.1
    shrink: float = 0.1


#: η: one for all steps, η_0 …, a function of the step's index, or steps that choose it themselves.
Schedule = float | np.ndarray | Callable[[int], float] | RelativeChange


def relative_change(
    change: float, *, first: float | None = None, growth: float = 1.1, shrink: float = 0.1
) -> RelativeChange:
    r"""Choose each step so that the gradient changes little: :math:`\|g_{n+1}-g_n\|\le c\|g_n\|`.

    A step that changes it by more is taken back and tried again ``shrink`` times as long; after one
    that changes it by less than :math:`c/2` the next is ``growth`` times as long. Every attempt
    costs one gradient. The defaults are those of a program of `geiger2020disentangling`'s authors
    (which bounds the square of the change, over :math:`\|g_n\|\|g_{n+1}\|`).

    Parameters
    ----------
    change : float
        c, positive and less than 1.
    first : float, optional
        :math:`\eta_0`, as tried first; default :math:`c\|\theta_0\|/\|g_0\|`.
    growth : float
        More than 1.
    shrink : float
        Between 0 and 1.

    Returns
    -------
    RelativeChange
        For ``gf.descend(..., step_size=...)``.

    Raises
    ------
    ValueError
        Numbers out of their range.
    """
    change, growth = check_positive("change", change), check_real("growth", growth)
    shrink = check_positive("shrink", shrink)
    if change >= 1:
        raise fail("change", change, "is no small change", "pass less than 1, for example 0.01")
    if growth <= 1:
        raise fail("growth", growth, "lengthens no step", "pass more than 1, for example 1.1")
    if shrink >= 1:
        raise fail("shrink", shrink, "shortens no step", "pass less than 1, for example 0.1")
    return RelativeChange(
        change, None if first is None else check_positive("first", first), growth, shrink
    )


def choose_themselves(step_size: Schedule) -> TypeGuard[RelativeChange]:
    """Whether sizes are not known before the steps are taken."""
    return hasattr(step_size, "change")


def sizes_of(step_size: object, steps: int) -> np.ndarray:
    """Return η_0 … η_{steps−1} of a schedule that is known beforehand, as a checked array."""
    if callable(step_size):
        return np.array([check_positive(f"step_size({n})", step_size(n)) for n in range(steps)])
    if np.ndim(step_size) == 0:  # pyright: ignore[reportArgumentType]
        return np.full(steps, check_positive("step_size", step_size))
    sizes = check_array("step_size", step_size, (steps,))
    if np.any(sizes <= 0):
        n = int(np.argmax(sizes <= 0))
        check_positive(f"step_size[{n}]", sizes[n])
    return sizes


def sizes_until(step_size: object, steps: int, until: float) -> np.ndarray:
    """Return η_0 …, at most ``steps`` of them, the last shortened so that they sum to ``until``."""
    # (`steps` is a bound here: nothing is made, or asked for, beyond what is needed)
    if callable(step_size):
        sizes = _asked_until(step_size, steps, until)
        steps = sizes.size
    else:
        if np.ndim(step_size) == 0:  # pyright: ignore[reportArgumentType]
            count = np.ceil(until / check_positive("step_size", step_size))
            steps = int(min(steps, max(count, 1) + 1))
        sizes = sizes_of(step_size, steps)
    ends = times_of(sizes)[1:]
    reached = int(np.searchsorted(ends, until * (1 - 4 * np.finfo(float).eps)))
    if reached == steps:
        return sizes
    sizes = sizes[: reached + 1].copy()
    sizes[-1] = until - (ends[reached - 1] if reached else 0.0)
    return sizes


def _asked_until(step_size: Callable[[int], object], steps: int, until: float) -> np.ndarray:
    sizes: list[float] = []
    total = np.longdouble(0)
    while len(sizes) < steps and total < until:
        sizes.append(check_positive(f"step_size({len(sizes)})", step_size(len(sizes))))
        total += sizes[-1]
    return np.array(sizes)


def times_of(sizes: np.ndarray) -> np.ndarray:
    """Return ``t_n = Σ_{k<n} η_k``, n = 0 … N."""
    if np.all(sizes == sizes[0]):
        return sizes[0] * np.arange(len(sizes) + 1)
    # In extended precision: 1e8 additions in float64 would cost half the digits of t.
    return np.concatenate([np.zeros(1), np.cumsum(sizes, dtype=np.longdouble)]).astype(np.float64)


__all__ = ["relative_change"]
