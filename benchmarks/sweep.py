"""What a sweep costs: 200 short flows, the store's share, a resume, 10,000 tiny points.

    python benchmarks/sweep.py [--json FILE]

Processes are started and have compiled before anything is timed, unless it says "cold". Besides
the wall, CPU seconds of all processes are told, as other work on the machine does not count there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import xarray as xr

import gradflow as gf

FLOWS = {"seed": range(40), "scale": [0.03, 0.1, 0.3, 0.6, 1.0]}


def flow(seed: int, scale: float) -> dict[str, object]:
    """A margin after a short flow on a dozen of data; and what it cost in which process."""
    began = time.process_time()
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(12, 3))
    net = gf.TwoLayer(dim=3, width=6, activation=gf.leaky_relu(0.1))
    risk = gf.EmpiricalRisk(net, gf.logistic, X, np.sign(X @ np.array([1.0, -2.0, 0.5])))
    start = net.init(jax.random.key(seed), scale, scheme="balanced")
    path = gf.integrate(risk, start, until=20.0)
    return {
        "margin": path.observe("normalised_margin")[-1], "result": path.result.name,
        "cpu": time.process_time() - began, "process": os.getpid(),
    }  # fmt: skip


def tiny(x: int) -> dict[str, float]:
    """Nothing to speak of."""
    return {"y": 1.5 * x}


def millisecond(x: int) -> dict[str, float]:
    """A point of a millisecond."""
    last = time.perf_counter() + 1e-3
    while time.perf_counter() < last:
        pass
    return {"y": 1.5 * x}


class Told(dict[str, float]):
    """Numbers, printed as they come."""

    def __setitem__(self, name: str, value: float) -> None:
        super().__setitem__(name, value)
        print(f"{name:45} {value:.4g}", flush=True)


def timed(run: Callable[[], xr.Dataset]) -> tuple[xr.Dataset, float]:
    """Wall-clock seconds."""
    began = time.perf_counter()
    return run(), time.perf_counter() - began


def cpu() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    told = Told()
    told["load"] = os.getloadavg()[0]
    quiet = {"progress": False}
    flow(0, 0.1)  # (compiles)
    with tempfile.TemporaryDirectory() as folder:
        gf.sweep(flow, workers=1, **quiet, **FLOWS)
        began = cpu()
        one, told["one process, wall"] = timed(lambda: gf.sweep(flow, workers=1, **quiet, **FLOWS))
        told["one process, CPU"] = cpu() - began
        told["flows, CPU"] = float(one.cpu.sum())
        told["one flow, median CPU"] = float(one.cpu.median())
        for kind, workers in {"two processes": 2, "default": None}.items():
            run = lambda workers=workers: gf.sweep(flow, workers=workers, **quiet, **FLOWS)
            _, told[f"{kind}, cold, wall"] = timed(run)
            began = cpu()
            table, told[f"{kind}, wall"] = timed(run)
            told[f"{kind}, CPU of the calling process"] = cpu() - began
            assert (table.margin == one.margin).all()
            shares = table.cpu.values.ravel()
            each = [
                shares[table.process.values.ravel() == p].sum() for p in np.unique(table.process)
            ]
            told[f"{kind}, flows, CPU"] = float(shares.sum())
            told[f"{kind}, CPU of the busiest"] = float(max(each))
        store = f"{folder}/flows"
        began = cpu()
        kept, told["one process, store, wall"] = timed(
            lambda: gf.sweep(flow, workers=1, store=store, **quiet, **FLOWS)
        )
        told["one process, store, CPU"] = cpu() - began
        told["beside the flows, share of CPU"] = 1 - float(kept.cpu.sum()) / (cpu() - began)
        inside = kept.encoding["seconds"].values.sum()
        told["beside the flows, share of the wall"] = 1 - inside / told["one process, store, wall"]
        _, told["resume of 200"] = timed(lambda: gf.sweep(flow, store=store, **quiet, **FLOWS))
        for name, fn in {"tiny": tiny, "1 ms": millisecond}.items():
            where = f"{folder}/{name}"
            run = lambda where=where, fn=fn: gf.sweep(fn, store=where, x=range(10_000), workers=1)
            table, told[f"10,000 points ({name}), store"] = timed(run)
            told[f"10,000 points ({name}), inside"] = float(table.encoding["seconds"].sum())
            _, told[f"10,000 points ({name}), resume"] = timed(run)
    for kind in ("two processes", "default"):
        told[f"one process / {kind}, wall"] = told["one process, wall"] / told[f"{kind}, wall"]
        busiest = told[f"{kind}, CPU of the busiest"]
        told[f"one process / busiest of {kind}, CPU"] = told["flows, CPU"] / busiest
    if asked.json:
        asked.json.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
