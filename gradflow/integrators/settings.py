"""The numerical choices of an integration, checked at the door."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jaxtyping import PyTree

from gradflow.flows.flow import Flow
from gradflow.integrators.contract import AbstractIntegrator, make_integrator
from gradflow.integrators.save import AbstractSave, check_save
from gradflow.integrators.tolerances import Asked
from gradflow.integrators.until import AbstractUntil, check_until
from gradflow.integrators.watch import Progress, Watch
from gradflow.validation import (
    check_array,
    check_integer,
    check_positive,
    check_rtol,
    fail,
)

#: An absolute tolerance above this share of the start's size is no tolerance for a small start.
SMALL_START_SHARE = 0.01


class SmallStartWarning(UserWarning):
    """The absolute tolerance is not small against the start: growth from it may be wrong."""


@dataclass(frozen=True)
class Settings:
    """Checked numerical choices of one integration."""

    until: AbstractUntil
    save: AbstractSave
    integrator: AbstractIntegrator | Literal["auto"]
    asked: Asked
    max_steps: int
    progress: Progress | bool | None
    max_seconds: float | None

    def watch(self) -> Watch:
        """Who watches one integration."""
        return Watch(self.progress, self.max_seconds)

    @property
    def locates(self) -> bool:
        """Whether kinks are to be located, should there be any."""
        return self.integrator == "auto" or self.integrator.locates

    @property
    def explicit(self) -> bool:
        """Whether an integrator was named that steps over kinks."""
        return not self.locates

    def stepper(self, kinked: bool) -> AbstractIntegrator:
        """The integrator asked for.

        "auto" goes from kink to kink where there are kinks; elsewhere it is explicit, of order 8
        for tight tolerances, until stability limits the steps, and implicit from there.
        """
        smooth = "dopri8-lsoda" if self.asked.rtol < 1e-6 else "tsit5-lsoda"
        if self.integrator == "auto":
            return make_integrator("piecewise" if kinked else smooth)
        return self.integrator


def check_settings(
    *,
    until: object,
    save_at: object = None,
    integrator: object = "auto",
    rtol: object = 1e-8,
    atol: PyTree = None,
    max_steps: object = 1_000_000,
    progress: object = None,
    max_seconds: object = None,
    safety: object = None,
) -> Settings:
    """Check every numerical argument; a ``ValueError`` names argument, value and fix."""
    if not (isinstance(integrator, str) and integrator == "auto"):
        integrator = make_integrator(integrator)
    if progress not in (None, False) and not callable(progress):
        raise fail(
            "progress", progress, "is not callable", "pass a function of a dict, None, or False"
        )
    if max_seconds is not None:
        max_seconds = check_positive("max_seconds", max_seconds)
    if safety is not None:
        safety = check_positive("safety", safety)
    return Settings(
        until=check_until(until),
        save=check_save(save_at),
        integrator=integrator,
        asked=Asked(check_rtol(rtol), atol, safety),
        max_steps=check_integer("max_steps", max_steps, minimum=1),
        progress=progress,
        max_seconds=max_seconds,
    )


def check_atol(atol: PyTree, flow: Flow, params: PyTree) -> float | np.ndarray | None:
    """Return absolute tolerances: one number, or one for each parameter.

    Parameters
    ----------
    atol : None, float, array or pytree
        A pytree is shaped like the parameters, its leaves numbers or arrays; an array holds one
        number for each entry of the raveled parameters.

    Raises
    ------
    ValueError
        Another shape, tolerances that are not positive, a chart that is not cartesian.

    Warns
    -----
    SmallStartWarning
        If one exceeds 1 % of the start's size.
    """
    if atol is None:
        return None
    if np.ndim(atol) == 0 and not isinstance(atol, (dict, str)) and np.isscalar(atol):
        number = check_positive("atol", atol)
        _warn_small(number, start_scale(params))
        return number
    if flow.chart.name != "cartesian":
        raise fail(
            "atol", atol, f"is one for each parameter, which the {flow.chart.name} chart has not",
            "pass one number, or chart='cartesian'",
        )  # fmt: skip
    leaves = jax.tree.leaves(params)
    flat = _one_each(atol, params, leaves)
    if not np.all(flat > 0):
        raise fail("atol", flat, "holds a tolerance <= 0", "pass positive numbers")
    ends = np.cumsum([leaf.size for leaf in leaves])
    for part, leaf in zip(np.split(flat, ends[:-1]), leaves, strict=True):
        _warn_small(float(np.min(part, initial=np.inf)), start_scale(leaf))
    return flat


def _one_each(atol: PyTree, params: PyTree, leaves: list[PyTree]) -> np.ndarray:
    size = sum(leaf.size for leaf in leaves)
    if np.ndim(atol) == 1 and hasattr(atol, "dtype"):
        return check_array("atol", atol, (size,))
    try:
        spread = jax.tree.map(
            lambda leaf, one: np.broadcast_to(np.asarray(one, np.float64), leaf.shape).ravel(),
            params, jax.tree.map(lambda one: one, atol),
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        fix = f"pass a number, an array of shape {(size,)}, or a pytree shaped like the parameters"
        raise fail("atol", atol, "is not shaped like the parameters", fix) from error
    return check_array("atol", np.concatenate(jax.tree.leaves(spread)), (size,))


def _warn_small(atol: float, scale: float) -> None:
    if atol > SMALL_START_SHARE * scale:
        warnings.warn(
            f"atol={atol:g}: the start has size {scale:.3g}, so growth from it is not "
            f"controlled; pass atol <= {SMALL_START_SHARE * scale:.3g}, or leave atol out",
            SmallStartWarning,
            stacklevel=5,
        )


def start_scale(params: PyTree) -> float:
    """Size of the smallest block of the start: the least max |entry| over the arrays of ``params``.

    Zero blocks do not count.
    """
    sizes = [float(np.max(np.abs(leaf), initial=0.0)) for leaf in jax.tree.leaves(params)]
    return min((size for size in sizes if size > 0), default=1.0)
