"""What a kill and a damaged byte do to the run folders of pipefunc and xyzpy, and to a store.

    pip install pipefunc xyzpy
    python benchmarks/sweep_ledgers.py [--kills 40]

Sweeps of 50 points, 2 MB each, are killed (SIGKILL) at random moments and resumed until they end.
Counted over all sweeps: entries on disk that cannot be read after a kill, resumptions that fail
with an exception, and sweeps whose end is not right. Then, in a finished folder, one byte in the
middle of an entry is altered: is the value that is read afterwards right, wrong, or refused?
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pipefunc
import xyzpy

import gradflow as gf
from gradflow.sweeps.store import contents_of

N, SIZE, SPAN = 50, 250_000, 0.6


def walk(seed: int) -> np.ndarray:
    """A point."""
    return np.cumsum(np.random.default_rng(seed).normal(size=SIZE))


def in_pipefunc(folder: str) -> np.ndarray:
    """Map with a run folder, one file a point; resume."""
    task = pipefunc.pipefunc(output_name="y", mapspec="seed[i] -> y[i]")(walk)
    told = pipefunc.Pipeline([task]).map(
        {"seed": list(range(N))}, run_folder=folder, storage="file_array", parallel=False,
        resume=True, show_progress=False,
    )  # fmt: skip
    return np.array(list(told["y"].output))


def in_xyzpy(folder: str) -> np.ndarray:
    """Sow once, grow what is missing, reap."""
    runner = xyzpy.Runner(walk, var_names="y", var_dims={"y": ["t"]})
    crop = runner.Crop(name="walk", parent_dir=folder, batchsize=1)
    if not crop.is_prepared():
        crop.sow_combos({"seed": list(range(N))}, verbosity=0)
    crop.grow_missing(verbosity=0, subprocess=False, raise_errors=True)
    return crop.reap(clean_up=False).y.values


def in_gradflow(folder: str) -> np.ndarray:
    """A sweep with a store."""
    table = gf.sweep(lambda seed: {"y": walk(seed)}, seed=range(N), store=f"{folder}/store",
                     workers=1, progress=False)  # fmt: skip
    return table.y.values


def unreadable(folder: str) -> int:
    """Files of results that no pickle reads."""
    files = [*Path(folder).rglob("*.pickle"), *Path(folder).rglob("*result*")]
    bad = 0
    for path in filter(Path.is_file, files):
        try:
            pickle.loads(path.read_bytes())
        except Exception:
            bad += 1
    return bad


def torn(folder: str) -> int:
    """Entries that are neither whole nor unfinished."""
    flaws = contents_of(Path(folder, "store"), None).flaws
    return sum(flaw.reason != "unfinished" for flaw in flaws)


def alone(run: Callable[[str], np.ndarray], folder: str, after: float | None) -> str:
    """Run in a process of its own, perhaps killed: "killed", "right", "wrong" or "raised"."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as quiet:
            os.dup2(quiet.fileno(), 1), os.dup2(quiet.fileno(), 2)
        try:
            got = run(folder)
            right = got.dtype == np.float64 and np.array_equal(got, [walk(k) for k in range(N)])
            os._exit(0 if right else 1)
        except BaseException:
            os._exit(2)
    if after is not None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return (
        ["right", "wrong", "raised"][os.WEXITSTATUS(status)] if os.WIFEXITED(status) else "killed"
    )


def measure(name: str, run: Callable[[str], np.ndarray], kills: int) -> str:
    """Kill, resume, damage; a row of the table."""
    rng = np.random.default_rng(0)
    count, bad, ends = 0, 0, {"right": 0, "wrong": 0, "raised": 0}
    look = torn if name == "gradflow" else unreadable
    while count < kills:
        with tempfile.TemporaryDirectory() as folder:
            end = "killed"
            while end == "killed":
                end = alone(run, folder, rng.uniform(0, SPAN) if count < kills else None)
                count += end == "killed"
                bad += look(folder) if Path(folder, "store").exists() or name != "gradflow" else 0
            ends[end] += 1
    with tempfile.TemporaryDirectory() as folder:
        alone(run, folder, None)
        files = [p for p in Path(folder).rglob("*") if p.is_file() and p.stat().st_size > SIZE]
        data = bytearray(files[0].read_bytes())
        data[len(data) // 2] ^= 0xFF
        files[0].write_bytes(data)
        damaged = alone(run, folder, None)
    return f"| {name} | {count} | {bad} | {ends['raised']} | {ends['wrong']} | {damaged} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    asked = parser.parse_args()
    print("| ledger | kills | unreadable | resumptions that raise | wrong ends | a byte altered |")
    print("|---|---|---|---|---|---|")
    for name, run in {"pipefunc": in_pipefunc, "xyzpy": in_xyzpy, "gradflow": in_gradflow}.items():
        print(measure(name, run, asked.kills), flush=True)
