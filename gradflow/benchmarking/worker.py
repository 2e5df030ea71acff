"""A process beside this one in which solvers run: one that hangs or crashes takes only it along."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe

import cloudpickle
from loky.backend.process import LokyProcess

from gradflow.benchmarking.row import Outcome
from gradflow.benchmarking.running import Ran, Task, not_tried, run_task

#: One thread for every solver: what is compared is work, not cores.
_ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    "NUMBA_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
#: Of the time limit, the share by the wall after which a process that says nothing is ended.
_PATIENCE = 4.0
_STARTING = 120.0
#: What the other process says: a call ended, a row is there, a task cannot be read.
_BEAT, _RAN, _REFUSED = "beat", "ran", "refused"


class Worker:
    """Runs tasks in a process of its own, which is ended when it takes too long.

    Parameters
    ----------
    compile_limit : float
        Seconds that the first call of a setting may take beyond its time.
    """

    def __init__(self, compile_limit: float) -> None:
        self.compile_limit = compile_limit
        self._process: LokyProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process, at once."""
        if self._process is not None:
            pid = self._process.pid
            if pid is not None and self._process.is_alive():
                os.kill(pid, signal.SIGKILL)
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _begin(self) -> Connection:
        if self._pipe is None:
            self._pipe, far = Pipe()
            self._process = LokyProcess(target=_serve, args=(far,), daemon=True, env=_ENVIRONMENT)
            self._process.start()
            far.close()
            if not self._pipe.poll(_STARTING):
                self.end()
                raise RuntimeError(f"a worker process did not start within {_STARTING:g} s")
            self._pipe.recv()
        return self._pipe

    def run(self, task: Task) -> Iterator[Ran]:
        """The runs of a task (see `run_task`), those that had to be ended among them."""
        if not_tried(task):
            yield from run_task(task)
            return
        left = list(task.settings)
        try:
            content = cloudpickle.dumps(task)
        except Exception as error:  # (whatever pickle raises)
            said = f"cannot be sent to another process ({error}); pass isolate=False"
            yield from self._lost(task, left, Outcome.FAILED, said[:200])
            return
        pipe = self._begin()
        pipe.send_bytes(content)
        wait = self.compile_limit + _PATIENCE * task.time_limit
        began = time.monotonic()
        while left:
            try:
                said = pipe.recv() if pipe.poll(wait) else None
            except (EOFError, ConnectionError):
                yield from self._lost(task, left, Outcome.FAILED, self._died())
                return
            if said is None:
                seconds = time.monotonic() - began
                message = f"had to be ended after {seconds:.0f} s"
                yield from self._lost(task, left, Outcome.TIME_OUT, message)
                return
            began = time.monotonic()
            kind, content = said
            if kind == _RAN:
                left.pop(0)
                yield content
            elif kind == _REFUSED:
                yield from self._lost(task, left, Outcome.FAILED, content)
                return

    def _died(self) -> str:
        assert self._process is not None
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"the process died of {signal.Signals(-code).name}"
        return f"the process ended itself (exit code {code})"

    def _lost(self, task: Task, left: list[float], outcome: Outcome, message: str) -> Iterator[Ran]:
        """Rows of what a process took along."""
        self.end()
        yield Ran(replace(task.blank(left[0]), outcome=outcome, message=message))
        first = task.blank(left[0]).setting
        for setting in left[1:]:
            said = f"not tried: {outcome} at {first}"
            yield Ran(replace(task.blank(setting), outcome=outcome, message=said))


def _serve(pipe: Connection) -> None:
    """The other process: tasks come, runs go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # (Ctrl-C is for the process that ends this one)
    from gradflow._cache import enable_compilation_cache

    enable_compilation_cache()
    pipe.send("ready")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            content = pipe.recv_bytes()
            try:
                task = cloudpickle.loads(content)
            except Exception as error:
                pipe.send((_REFUSED, f"cannot be read in another process: {error}"[:200]))
                continue
            # (what a solver prints is not for this table)
            with contextlib.redirect_stdout(sys.stderr):
                for ran in run_task(task, lambda: pipe.send((_BEAT, None))):
                    pipe.send((_RAN, ran))
