"""The stationary point that a state belongs to, whatever the kind of risk."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np

from gradflow.certificates.problem import cells_of
from gradflow.certificates.stationary.cell import cell_landing
from gradflow.certificates.stationary.judge import Stationary, judge
from gradflow.certificates.stationary.smooth import smooth_landing
from gradflow.risks.base import AbstractRisk


def stationary_point(
    risk: AbstractRisk, params: object, candidate: object, tol: float
) -> Stationary:
    """Polish ``params`` to a stationary point of ``risk`` and judge it.

    Parameters
    ----------
    params : parameters
        The end of a path.
    candidate : parameters, optional
        A point to judge as it is, instead of the polished one.
    tol : float
        Rounding allowed in the gradient, relative to its terms.

    Notes
    -----
    A point that is no certificate of the state is returned only if it is a saddle; else the state
    itself is, with its own gradient and spectrum.
    """
    found = _judged(risk, params, candidate, tol)
    if found.accepted or found.verdict == "saddle" or candidate is not None:
        return found
    here = _judged(risk, params, params, tol)
    return replace(
        here, accepted=False, verdict="undecided", index=-1, reason=found.reason,
        unbounded=found.unbounded,
    )  # fmt: skip


def _judged(risk: AbstractRisk, params: object, candidate: object, tol: float) -> Stationary:
    value, gradient = risk(params), risk.gradient(params)
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((value, gradient))):
        reason = "the state is not stationary: L or its gradient is not finite there"
        return Stationary(params, np.inf, np.zeros(0), "undecided", -1, False, reason)
    cells = cells_of(risk)
    # (a polish that runs away may overflow: what is not finite is refused)
    with np.errstate(over="ignore", invalid="ignore"):
        if cells is None:
            return judge(smooth_landing(risk, params, candidate), tol)
        return judge(cell_landing(risk, cells, params, candidate), tol)
