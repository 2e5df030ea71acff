"""Times that are asked of a path."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gradflow.validation import check_array, fail


def asked(t: ArrayLike | None, log_t: ArrayLike | None) -> np.ndarray:
    """ln t of the times asked for, one of ``t`` and ``log_t``; increasing."""
    if (t is None) == (log_t is None):
        raise fail("t", t, "is to be given, or log_t, one of them", "pass t=..., or log_t=...")
    name, value = ("t", t) if log_t is None else ("log_t", log_t)
    times = check_array(name, np.atleast_1d(np.asarray(value)), (None,))
    if np.any(np.diff(times) <= 0):
        raise fail(name, times, "is not increasing", "sort it and drop repeats (np.unique)")
    if log_t is not None:
        return times
    if np.any(times < 0):
        raise fail(name, times, "holds a negative time", "pass times >= 0")
    with np.errstate(divide="ignore"):
        return np.log(times)
