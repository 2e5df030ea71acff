"""Kill sweeps of 50 points with SIGKILL at random moments, until each is done; compare the bits.

    python benchmarks/sweep_kills.py [--kills 300] [--seed 0] [--workers 1,1,1,2] [--json FILE]
    python benchmarks/sweep_kills.py --dask [--kills 15]     (kills workers of a LocalCluster)

A sitting is a process forked off after the imports, so that kills fall into the sweep; where
others compute, which start for much longer than a sweep takes, every second kill is drawn from what
comes after their first point. Counted:
*lost*, points that were in the store after one kill and not after the next; *torn*, entries that
are neither whole nor the one that was being written; *unfinished*, entries that were being
written, and are computed again; and sweeps whose end differs from one never interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

import gradflow as gf
from gradflow.sweeps.status import status_of
from gradflow.sweeps.store import contents_of

POINTS = {"seed": range(10), "scale": [1e-3, 1e-2, 0.1, 1.0, 10.0]}
#: Seconds of a point, and of all of them.
SECONDS, COMPUTING = 0.004, 0.2


def point(seed: int, scale: float) -> dict[str, object]:
    """Some numbers, a text and an array, in a few milliseconds."""
    rng = np.random.default_rng(seed)
    last = time.perf_counter() + SECONDS
    values = scale * np.cumsum(rng.normal(size=2000))
    while time.perf_counter() < last:
        pass
    return {"loss": values[-1], "name": f"walk {seed}", "path": values, "up": values[-1] > 0}


def run(store: str | None, workers: int) -> xr.Dataset:
    """One sitting."""
    return gf.sweep(point, store=store, workers=workers, progress=False, **POINTS)


def written(store: str) -> int:
    """Bytes of the points."""
    return sum(file.stat().st_size for file in Path(store).glob("points/*.seg"))


def wait_for_points(store: str, child: int) -> None:
    """Wait until a point has been written, or the process has ended."""
    before = written(store)
    while written(store) <= before:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)


def sitting(store: str, workers: int, after: float | None, working: bool = False) -> bool:
    """Run in a process of its own and kill it after some seconds; whether it came to an end.

    ``working``: the seconds count from its first point on.
    """
    child = os.fork()
    if child == 0:
        try:
            run(store, workers)
        except BaseException as error:
            print(f"a sitting failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(3)
        os._exit(0)
    if after is not None:
        if working:
            wait_for_points(store, child)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a sitting failed")
    return os.WIFEXITED(status)


def whole(workers: int) -> float:
    """Seconds of a sitting that is not killed; the moments of kills are drawn from them."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        sitting(str(Path(folder, "store")), workers, None)
        return time.monotonic() - began


def kill_sweeps(kills: int, workers: list[int], seed: int) -> dict[str, float]:
    """Kill until enough kills have hit a sweep at work."""
    rng, wanted = np.random.default_rng(seed), run(None, 1)
    told = dict.fromkeys(("kills", "sweeps", "lost", "torn", "unfinished", "differing"), 0)
    began = time.monotonic()
    span = {many: whole(many) for many in set(workers)}
    while told["kills"] < kills:
        many = workers[told["sweeps"] % len(workers)]
        with tempfile.TemporaryDirectory() as folder:
            store, before, done = str(Path(folder, "store")), set(), False
            while not done:
                working = many > 1 and bool(told["kills"] % 2)
                after = rng.uniform(0, COMPUTING / many if working else span[many])
                after = after if told["kills"] < kills else None
                done = sitting(store, many, after, working)
                told["kills"] += not done
                found = contents_of(Path(store), None) if Path(store).exists() else None
                now = set(found.entries) if found else set()
                told["lost"] += len(before - now)
                for flaw in found.flaws if found else []:
                    told["unfinished" if flaw.reason == "unfinished" else "torn"] += 1
                before = now
            state = status_of(store)
            assert (state.done, state.left, state.running) == (50, 0, None), state
            told["sweeps"] += 1
            told["differing"] += not run(store, 1).identical(wanted)
            print(json.dumps(told), file=sys.stderr, flush=True)
    return {**told, "seconds": time.monotonic() - began}


def kill_workers(kills: int, seed: int) -> dict[str, float]:
    """Kill one of three workers of a cluster during each sweep."""
    import threading

    from distributed import Client, LocalCluster

    rng, wanted = np.random.default_rng(seed), run(None, 1)
    told = dict.fromkeys(("kills", "sweeps", "differing"), 0)
    began = time.monotonic()
    while told["kills"] < kills:
        with LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster, Client(cluster) as client:  # fmt: skip
            doomed = int(rng.choice(list(client.run(os.getpid).values())))
            timer = threading.Timer(rng.uniform(0, 0.3), os.kill, (doomed, signal.SIGKILL))
            timer.start()
            table = gf.sweep(point, client=client, progress=False, **POINTS)
            timer.join()
        told["kills"], told["sweeps"] = told["kills"] + 1, told["sweeps"] + 1
        told["differing"] += not table.identical(wanted)
    return {**told, "seconds": time.monotonic() - began}


def main() -> None:
    """Parse the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="1,1,1,2")
    parser.add_argument("--dask", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.dask:
        told = kill_workers(asked.kills, asked.seed)
    else:
        told = kill_sweeps(asked.kills, [int(w) for w in asked.workers.split(",")], asked.seed)
    text = json.dumps(told)
    print(text)
    if asked.json:
        asked.json.write_text(text)


if __name__ == "__main__":
    main()
