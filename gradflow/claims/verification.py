"""Verification on several cores: helper processes weigh families of claims beside this one.

Tracing and computer algebra hold Python's lock, so threads would not help. A family is the claims
of one file, which share trajectories. This process takes families from the same queue.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any

from gradflow._cache import enable_compilation_cache
from gradflow.claims.evidence import Verdict, Verdicts
from gradflow.claims.lab import Lab
from gradflow.claims.registry import Progress, discover
from gradflow.claims.statement import Statement
from gradflow.claims.weighing import weigh_built
from gradflow.validation import check_integer

#: Seconds between looks at whether the helpers are still alive.
_HEARTBEAT = 0.5


def _help(tasks: Any, results: Any) -> None:
    """A helper's life: weigh families until told to stop."""
    enable_compilation_cache()
    registry = discover()
    lab = Lab()
    while (task := tasks.get()) is not None:
        family, perturb = task
        for about in family:
            results.put((about.id, None))
            verdict = weigh_built(about, lambda id=about.id: registry[id], lab, perturb)
            results.put((about.id, verdict))


class Helpers:
    """``count`` processes that will take families of claims.

    Parameters
    ----------
    count : int
        Processes beside this one, >= 0.

    Notes
    -----
    Use as a context manager. Claims registered outside the package's own files are unknown to
    helpers and are weighed here.
    """

    def __init__(self, count: int) -> None:
        count = check_integer("count", count, minimum=0)
        context = multiprocessing.get_context("spawn")
        self._tasks: Any = context.Queue()
        self._results: Any = context.Queue()
        self._processes = [
            context.Process(target=_help, args=(self._tasks, self._results), daemon=True)
            for _ in range(count)
        ]
        for process in self._processes:
            process.start()

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            if process.is_alive():
                process.terminate()

    def weigh(
        self,
        families: list[list[Statement]],
        own: list[Statement],
        perturb: float | None,
        tell: Progress,
        weigh_one: Callable[[Statement], Verdict],
    ) -> dict[str, Verdict]:
        """Verdicts by id: ``families`` are shared with the helpers, ``own`` are weighed here."""
        claims = {about.id: about for family in families for about in family}
        remote: dict[str, Verdict] = {}
        here: dict[str, Verdict] = {}
        finished = threading.Event()

        def listen() -> None:
            while not finished.is_set() or not self._results.empty():
                try:
                    name, verdict = self._results.get(timeout=_HEARTBEAT)
                except queue.Empty:
                    continue
                if verdict is not None:
                    remote[name] = verdict
                tell(claims[name], verdict)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        for family in sorted(families, key=len, reverse=True):
            self._tasks.put((family, perturb))
        for _ in range(len(self._processes) + 1):
            self._tasks.put(None)
        here.update((about.id, weigh_one(about)) for about in own)
        while (task := self._tasks.get()) is not None:
            here.update((about.id, weigh_one(about)) for about in task[0])
        while any(process.is_alive() for process in self._processes):
            self._processes[0].join(_HEARTBEAT)
            if len(remote) + len(here) >= len(claims) + len(own):
                break
        finished.set()
        listener.join()
        # A helper that died (killed, out of memory) loses nothing: its claims are weighed here.
        for name, about in claims.items():
            if name not in remote and name not in here:
                here[name] = weigh_one(about)
        return remote | here


def verify(
    patterns: str | Iterable[str] = "*",
    *,
    perturb: float | None = None,
    quick: bool = False,
    progress: Progress | None = None,
    workers: int = 1,
) -> Verdicts:
    """Derive the predictions, integrate the flows and weigh every matching claim.

    Parameters
    ----------
    patterns : str or iterable of str
        Shell-style, matched against ids and sources: ``"lin2021*"``.
    perturb : float, optional
        Multiply every equality's prediction by this factor, tighten every bound ``|perturb-1|``
        beyond what is sharp, and break a hypothesis of every qualitative claim; nothing may stay
        SUPPORTED.
    quick : bool
        Only the claims marked quick.
    progress : callable, optional
        Called as ``progress(statement, None)`` when a claim starts and
        ``progress(statement, verdict)`` when it is done.
    workers : int
        Processes, this one included. Scripts that ask for more than one need the usual
        ``if __name__ == "__main__":`` guard.

    Returns
    -------
    Verdicts
        In order of registration; prints as a table, and filters.
    """
    workers = check_integer("workers", workers, minimum=1)
    asked = {"perturb": perturb, "quick": quick, "progress": progress}
    if workers == 1:
        return discover().verify(patterns, **asked)
    with Helpers(workers - 1) as helpers:
        return discover().verify(patterns, **asked, helpers=helpers)
