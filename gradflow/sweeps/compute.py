"""The function at some points: what runs in every process, here, beside this one or far away."""

from __future__ import annotations

import pickle
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import gradflow
from gradflow.sweeps.outcome import Outcome, failed, outcome_of

#: What a sweep evaluates.
Function = Callable[..., object]
#: Seconds after which a process hands back what it has done of what it was given.
_SHARE = 0.25
#: Characters of an error in one line.
_LINE = 300

# (functions are not asked whether several threads may call them at once; a point may sweep itself)
_ONE_AT_A_TIME = threading.RLock()


def compute(fn: Function, points: list[dict[str, object]]) -> Iterator[Outcome]:
    """Yield what the function gives at the points, in order, until a share of time has passed; at
    least one. BLAS computes on one thread, so that the bits are the same in every process."""
    from gradflow.numerics.blas import one_thread  # (imports scipy)

    last = time.monotonic() + _SHARE
    with _ONE_AT_A_TIME, one_thread:
        for number, point in enumerate(points):
            if number and time.monotonic() > last:
                return
            yield _at(fn, point)


def _at(fn: Function, point: dict[str, object]) -> Outcome:
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        # (so that a point is the same whatever the filters of its process)
        warnings.simplefilter("always")
        try:
            outcome = outcome_of(fn(**point), list(point))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # (SystemExit too: it is the point that ends, not the sweep)
            outcome = failed(_line(error), traceback.format_exc())
    seconds = time.perf_counter() - began
    told = dict.fromkeys((*_class_of(w.category), str(w.message)) for w in caught)
    return replace(outcome, seconds=seconds, warnings=tuple(told))


def _class_of(category: type[Warning]) -> tuple[str, str]:
    return category.__module__, category.__qualname__


def _line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LINE else text[: _LINE - 3] + "..."


@lru_cache(maxsize=2)
def _unpickled(function: str | bytes) -> Function:
    return pickle.loads(Path(function).read_bytes() if isinstance(function, str) else function)


def compute_far(version: str, function: str | bytes, points: bytes) -> list[Outcome] | str:
    """Compute points in another process.

    Parameters
    ----------
    version : str
        Of the caller's gradflow.
    function : str or bytes
        The pickled function, or the name of a file that holds it.
    points : bytes
        The pickled arguments.

    Returns
    -------
    list of Outcome, or str
        The version of gradflow here, if it is not the caller's.
    """
    if version != gradflow.__version__:
        return gradflow.__version__
    fn = _unpickled(function)
    given: list[dict[str, object]] = pickle.loads(points)
    return list(compute(fn, given))


def pickled_points(points: list[Mapping[str, object]]) -> bytes:
    """Pickle arguments for another process."""
    import cloudpickle

    return cloudpickle.dumps(points)


__all__ = ["Function", "compute", "compute_far", "pickled_points"]
