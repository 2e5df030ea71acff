"""What an integration cost: one meaning of each count, for every integrator.

============== ==================================================================================
steps          accepted steps
rejected       attempted steps that were not accepted
rhs            evaluations of the vector field
jacobians      evaluations of its Jacobian
events         what was met on the way: surfaces, and the stop or handover that ended a stage
compile_seconds, run_seconds
               tracing and compiling, and everything else
rtol_local, atol_local
               what a step was asked to hold (the least of the stages' and components')
============== ==================================================================================

What a solver does not tell is NaN.
"""

from __future__ import annotations

import math

_COUNTS = ("steps", "rejected", "rhs", "jacobians", "events")
_SECONDS = ("compile_seconds", "run_seconds")
_LEAST = ("rtol_local", "atol_local")
#: A count that the solver does not report.
UNKNOWN = math.nan


def empty_stats() -> dict[str, float]:
    """Return statistics of no work."""
    return {**dict.fromkeys(_COUNTS, 0), **dict.fromkeys(_SECONDS, 0.0)}


def add_stats(total: dict[str, float], more: dict[str, float]) -> None:
    """Add the work of a stage to ``total``; tolerances are the least of both."""
    for key, value in more.items():
        known = total.get(key)
        if known is None:
            total[key] = value
        else:
            total[key] = min(known, value) if key in _LEAST else known + value
