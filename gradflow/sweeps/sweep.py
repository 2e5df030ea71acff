"""A function of named parameters over a grid of them (:func:`sweep`)."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gradflow.integrators.watch import Progress
from gradflow.sweeps.board import Board
from gradflow.sweeps.compute import Function
from gradflow.sweeps.configuration import configuration
from gradflow.sweeps.content import UnstableError
from gradflow.sweeps.errors import SweepError, SweepWarning
from gradflow.sweeps.grid import Grid, grid_of
from gradflow.sweeps.identity import check_call, name_of, pickled
from gradflow.sweeps.run import run
from gradflow.sweeps.store import Store, reason_of
from gradflow.sweeps.team import Team
from gradflow.sweeps.work import Work
from gradflow.validation import check_bool, check_integer, check_positive, fail

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

#: Failures, damages and warnings that are named.
_NAMED = 5


def sweep(
    fn: Function,
    *,
    store: str | os.PathLike[str] | None = None,
    client: Client | str | None = None,
    workers: int | None = None,
    progress: Progress | bool | None = None,
    max_seconds: float | None = None,
    points: Sequence[Mapping[str, object]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    retry: bool = False,
    wait: bool = False,
    **parameters: object,
) -> xr.Dataset:
    """Evaluate a function over a grid of named parameters, on all cores or a cluster.

    >>> def margin(seed, scale, width):
    ...     net = gf.TwoLayer(5, width, gf.relu)
    ...     start = net.init(jax.random.key(seed), scale)
    ...     path = gf.integrate(gf.EmpiricalRisk(net, gf.logistic, X, y), start, until=1e3)
    ...     return {"margin": path.observe("normalised_margin")[-1], "result": path.result.name}
    >>> table = gf.sweep(margin, seed=range(20), scale=[1e-3, 1e-2], width=[10, 30], store="margin")
    >>> table.margin.mean("seed")

    The same call goes on where it was ended, by whatever means; and a larger grid computes what is
    new in it. What a point is depends on nothing but its arguments: on no number of processes, and
    no order (BLAS computes on one thread).

    Parameters
    ----------
    fn : callable
        Called with the parameters by name; NumPy's numbers come as Python's own. Returns a mapping
        of names to numbers, texts, booleans, None, arrays (of one shape at all points),
        ``xarray.DataArray``, or paths (kept as files of the store: the column holds their names,
        for ``gf.load``). It may be a lambda or live in a notebook.
    store : path-like, optional
        A folder in which each point is kept as soon as it is computed, whole or not at all;
        ``gradflow status`` reads it.
    client : distributed.Client or str, optional
        A Dask cluster, or the address of its scheduler, that computes the points (``pip install
        'gradflow-ode[dask]'``; one thread a worker). To try it, without a cluster:

        >>> from distributed import Client, LocalCluster
        >>> with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as c:
        ...     table = gf.sweep(margin, seed=range(20), scale=[1e-3], width=[10], client=c)
    workers : int, optional
        Processes at work. 1: this one alone. Default: this one and, where that pays, as many more
        as there are cores; if a number is given, the points are computed in other processes only.
    progress : callable or False, optional
        Called now and then with a dict ``done, total, failed, seconds, per_second, seconds_left``;
        ends the sweep by returning False. Default: on a terminal or in a notebook a line shows
        after three seconds, elsewhere one is written after 10, 20, 40 ... seconds; False: none.
    max_seconds : float, optional
        After them no further point begins; points in other processes are ended.
    points : list of dict, optional
        Instead of a grid: the arguments of each point. Other parameters then have one value.
    dims : mapping of str to names, optional
        Names of the dimensions of arrays; default ``name_0``, ``name_1`` ...
    retry : bool
        Compute points of the store again that failed.
    wait : bool
        Wait while another sweep is at work on the store; default: it is an error.
    **parameters
        Ranges, lists, arrays: values along a dimension of that name. A number, a string or any
        other object is one value for all points. (Names that are arguments of ``sweep`` can be
        given in ``points``.)

    Returns
    -------
    xarray.Dataset
        Its dimensions are the parameters ("point" with ``points=``), and the coordinates their
        values; where these are neither numbers nor strings, numbers from 0, and labels
        (``name_label``). Its variable ``error`` is "" where all is well; what was raised, where a
        point failed; "not computed" where the sweep was ended before. NaN, NaT or "" stand where
        there is no result (columns of integers and booleans become floats then). A point that
        returns other names or shapes than most points do is a failed one. Columns that do not fit
        into memory are read from the store when they are asked for. The seconds of each point are
        in ``table.encoding["seconds"]``: the table itself has the same bits at each run.

    Raises
    ------
    ValueError
        Bad input: a store that cannot be written, no scheduler at the address, a function that
        takes other names or cannot be sent to other processes.
    gf.SweepError
        The store was made by another configuration (version, function and what it reads, names of
        parameters: the difference is shown), another sweep is at work on it, the disk is full, the
        results do not fit into memory. What has been computed is kept: its ``table``, and the
        store, from which the same call goes on.

    Warns
    -----
    gf.SweepWarning
        Points failed, or were not computed (Ctrl-C, ``max_seconds``); entries of the store were
        damaged and computed again. What points warn of is told once.
    """
    if not callable(fn):
        raise fail("fn", fn, "cannot be called", "pass a function that returns a mapping")
    workers = None if workers is None else check_integer("workers", workers, minimum=1)
    max_seconds = None if max_seconds is None else check_positive("max_seconds", max_seconds)
    retry, wait = check_bool("retry", retry), check_bool("wait", wait)
    if client is not None and workers is not None:
        raise fail("workers", workers, "are given beside client=", "leave one of them out")
    grid = grid_of(points, parameters)
    problem = check_call(fn, grid.names)
    if problem:
        raise fail("fn", name_of(fn), problem, "name its parameters, all that have no default")
    function = _sent(fn, client is not None or (workers or 0) > 1)
    opened = None if store is None else _opened(fn, store, grid, wait)
    try:
        work = _work(grid, opened, retry)
        team = Team(work, function, client, workers)
        ended = run(fn, work, team, Board(progress, max_seconds, work))
    finally:
        if opened is not None:
            _closed(opened)
    return _told(fn, grid, work, ended, dims or {}, opened)


def _sent(fn: Function, must: bool) -> bytes | None:
    """The function as other processes get it; None if they cannot."""
    try:
        return pickled(fn)
    except Exception as error:  # (what pickle raises has no common class)
        if not must:
            return None
        raise fail(
            "fn", name_of(fn), f"cannot be sent to other processes ({error})",
            "make what it holds inside the function, or pass workers=1",
        ) from error  # fmt: skip


def _opened(fn: Function, store: str | os.PathLike[str], grid: Grid, wait: bool) -> Store:
    try:
        now = configuration(fn, grid.names)
    except (UnstableError, TypeError, ValueError) as error:
        raise fail("fn", name_of(fn), f"cannot be known again in a store ({error})",
                   "pass a function, or give it a describe()") from error  # fmt: skip
    opened = Store(store, now, wait)
    for flaw in opened.flaws[:_NAMED]:
        what = "not used" if flaw.foreign else "computed again"
        warnings.warn(f"{flaw}: {what}", SweepWarning, stacklevel=3)
    if len(opened.flaws) > _NAMED:
        rest = len(opened.flaws) - _NAMED
        warnings.warn(f"and {rest} more entries are damaged or foreign", SweepWarning, stacklevel=3)
    if opened.moved and opened.entries:
        said = ", ".join(f"{name} {old}, now {new}" for name, (old, new) in opened.moved.items())
        warnings.warn(f"the store was made with {said}: the last bits of new points may differ",
                      SweepWarning, stacklevel=3)  # fmt: skip
    return opened


def _closed(store: Store) -> None:
    try:
        store.close()
    except OSError as error:
        raise SweepError(f"the store {str(store.folder)!r} is not safe: {reason_of(error)}") from (
            error
        )


def _work(grid: Grid, store: Store | None, retry: bool) -> Work:
    """What is left of a sweep; the store notes what is asked for."""
    if store is None:
        return Work(grid, [], None, retry)
    work = Work(grid, list(grid.keys()), store, retry)
    try:
        store.ask(work.keys)
    except OSError as error:
        work.end_with(f"the store {str(store.folder)!r} cannot be written: {reason_of(error)}")
    return work


def _told(
    fn: Function, grid: Grid, work: Work, ended: str | None, dims: Mapping[str, Sequence[str]],
    store: Store | None,
) -> xr.Dataset:  # fmt: skip
    """The table, after a warning or an error where it is not whole."""
    from gradflow.sweeps.table import NOT_COMPUTED, table_of  # (imports xarray)

    folder = None if store is None else store.folder
    table = table_of(grid, work.done, name_of(fn), dims, folder)
    if work.error is not None:
        raise SweepError(str(work.error), table)
    texts = table["error"].values.ravel()
    failed = [n for n, text in enumerate(texts) if text and text != NOT_COMPUTED]
    if failed:
        shown = "".join(f"\n  {grid.label(n)}: {texts[n]}" for n in failed[:_NAMED])
        more = f"\n  and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        warnings.warn(f"{len(failed)} of {grid.size} points failed (see table.error):{shown}{more}",
                      SweepWarning, stacklevel=3)  # fmt: skip
    left = grid.size - len(work.done)
    if left:
        remedy = "call it again to begin anew; with store= it would go on"
        if store is not None:
            remedy = f"call it again with store={str(store.folder)!r} to go on"
        warnings.warn(f"the sweep was ended ({ended}): {left} of {grid.size} points are not "
                      f"computed; {remedy}", SweepWarning, stacklevel=3)  # fmt: skip
    for text in work.notes:
        warnings.warn(text, SweepWarning, stacklevel=3)
    _warn_of(work, grid)
    return table


def _warn_of(work: Work, grid: Grid) -> None:
    """Tell once what points have warned of."""
    for (module, name, text), numbers in work.warned.items():
        category = getattr(sys.modules.get(module), name, None)
        where = f"{len(numbers)} of {grid.size} points warned, as {grid.label(numbers[0])}"
        if not (isinstance(category, type) and issubclass(category, Warning)):
            text, category = f"{name}: {text}", SweepWarning
        warnings.warn(f"{text} ({where})", category, stacklevel=4)


__all__ = ["sweep"]
