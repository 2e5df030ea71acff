"""Integrate gradient flows from many starts (:func:`integrate_many`)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from diffrax import AbstractSolver
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.flows.metrics import Metric
from gradflow.integration import (
    IntegrationError,
    IntegrationWarning,
    Prepared,
    raise_failed,
)
from gradflow.integrators.save import AbstractSave
from gradflow.integrators.until import AbstractUntil
from gradflow.integrators.watch import Progress
from gradflow.many.batch import Batch
from gradflow.many.member import prepare_member
from gradflow.paths.trajectory import Trajectory
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_bool, check_integer, fail

#: Failed members that a warning names.
_NAMED = 5


def integrate_many(
    risk: AbstractRisk | Sequence[AbstractRisk],
    starts: Sequence[PyTree],
    *,
    until: AbstractUntil | float,
    t0: AbstractUntil | float = 0.0,
    clock: str = "auto",
    chart: str = "auto",
    metric: Metric = "euclidean",
    integrator: str | AbstractSolver = "auto",
    rtol: float | None = None,
    atol: PyTree = None,
    save_at: AbstractSave | ArrayLike | None = None,
    max_steps: int = 1_000_000,
    throw: bool = False,
    progress: Progress | bool | None = None,
    max_seconds: float | None = None,
    safety: float | None = None,
    workers: int | None = None,
) -> list[Trajectory]:
    """Integrate gradient flows from many starts, on all cores.

    Each path has the bits that :func:`integrate` gives it. The members are integrated one after the
    other in this process, and as soon as what is left takes long enough, in others too: they start
    while this one goes on (some seconds, once; they stay for later batches), and whatever cannot be
    sent to them is integrated here.

    Parameters
    ----------
    risk : AbstractRisk or sequence of them
        One for all starts, or one for each.
    starts : sequence of parameters
        Of any shapes.
    until, t0, clock, chart, metric, integrator, rtol, atol, save_at, max_steps, safety
        As in :func:`integrate`, for each.
    throw : bool
        Raise ``gf.IntegrationError`` for the first member that failed or is not unique, once all
        are done; its ``paths`` are those of all. Default: a warning.
    progress : callable or False, optional
        Called now and then with a dict ``done, total, failed, seconds, per_second``; ends the batch
        by returning False. Default: on a terminal or in a notebook a line shows after three
        seconds, elsewhere one is written after 10, 20, 40 ... seconds; False: none.
    max_seconds : float, optional
        Wall-clock seconds for all of them. Members under way then end with the part computed and
        those not begun with their start (result ``max_seconds``). After Ctrl-C likewise
        (``interrupted``); a second one raises ``KeyboardInterrupt``.
    workers : int, optional
        Processes at work, this one included; 1: none but this one. Default: as many as there are
        cores, where it pays.

    Returns
    -------
    list of Trajectory
        In the order of the starts. Where an exception was raised, in a function of the user's, say,
        the path ends there, with the result ``raised`` and the exception in its message.

    Raises
    ------
    ValueError
        Bad input, before anything is integrated.
    IntegrationError
        Only with ``throw=True``.

    Warns
    -----
    IntegrationWarning
        If members failed; once for each kind of failure, with their numbers and the remedy.
    """
    check_bool("throw", throw)
    workers = None if workers is None else check_integer("workers", workers, minimum=1)
    options = {
        "t0": t0, "clock": clock, "chart": chart, "metric": metric, "until": until,
        "save_at": save_at, "integrator": integrator, "rtol": rtol, "atol": atol,
        "max_steps": max_steps, "safety": safety,
    }  # fmt: skip
    asked = {**options, "progress": progress, "max_seconds": max_seconds}
    risks = _one_each(risk, starts)
    members = [prepare_member(one, start, asked) for one, start in zip(risks, starts, strict=True)]
    places = {id(one): place for place, one in enumerate({id(one): one for one in risks}.values())}
    which = [places[id(one)] for one in risks]
    batch = Batch(members, which, options, workers, progress, members[0].settings.max_seconds)
    batch.run()
    return _told(members, batch, throw)


def _one_each(
    risk: AbstractRisk | Sequence[AbstractRisk], starts: Sequence[PyTree]
) -> list[AbstractRisk]:
    if not isinstance(starts, (list, tuple)) or not starts:
        raise fail("starts", starts, "holds no start", "pass a list of parameters")
    if isinstance(risk, AbstractRisk) or not isinstance(risk, (list, tuple)):
        return [risk] * len(starts)  # pyright: ignore[reportReturnType]  (checked with its start)
    if len(risk) != len(starts):
        raise fail(
            "risk", risk, f"holds {len(risk)} risks for {len(starts)} starts",
            "pass one risk for all starts, or one for each",
        )  # fmt: skip
    return list(risk)


def _told(members: list[Prepared], batch: Batch, throw: bool) -> list[Trajectory]:
    """The paths in order, after a warning or an error where some failed."""
    paths = [batch.paths[number] for number in range(len(members))]
    failed: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        if throw:
            try:
                raise_failed(path)
            except IntegrationError as error:
                raise IntegrationError(f"start {number}: {error}", path, paths) from (
                    batch.errors.get(number)
                )
        if not path.result.ok:
            failed.setdefault(path.result.name, []).append(number)
    for name, numbers in failed.items():
        shown = ", ".join(map(str, numbers[:_NAMED])) + (", ..." if len(numbers) > _NAMED else "")
        warnings.warn(
            f"{len(numbers)} of {len(paths)} integrations failed ({name}), of starts {shown}: "
            f"{paths[numbers[0]].result.message}",
            IntegrationWarning,
            stacklevel=3,
        )
    return paths


__all__ = ["integrate_many"]
