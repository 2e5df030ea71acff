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

FLOWS = {"seed": range(20), "scale": [1e-2, 3e-2, 0.1, 0.3, 1.0], "slope": [0.1, 0.3]}


def flow(seed: int, scale: float, slope: float) -> dict[str, object]:
    """A margin after a short flow on a dozen of data."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(12, 3))
    net = gf.TwoLayer(dim=3, width=6, activation=gf.leaky_relu(slope))
    risk = gf.EmpiricalRisk(net, gf.logistic, X, np.sign(X @ np.array([1.0, -2.0, 0.5])))
    start = net.init(jax.random.key(seed), scale, scheme="balanced")
    path = gf.integrate(risk, start, until=gf.until.log_time(1e6))
    return {"margin": path.observe("normalised_margin")[-1], "result": path.result.name}


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
    flow(0, 0.1, 0.1)  # (compiles)
    with tempfile.TemporaryDirectory() as folder:
        one, told["one process"] = timed(lambda: gf.sweep(flow, workers=1, **quiet, **FLOWS))
        seconds = one.encoding["seconds"].values
        told["seconds of a flow, median"] = float(np.median(seconds))
        told["seconds of all flows"] = float(seconds.sum())
        two, told["two processes, cold"] = timed(
            lambda: gf.sweep(flow, workers=2, **quiet, **FLOWS)
        )
        assert two.identical(one)
        _, told["two processes"] = timed(lambda: gf.sweep(flow, workers=2, **quiet, **FLOWS))
        _, told["default, cold"] = timed(lambda: gf.sweep(flow, **quiet, **FLOWS))
        _, told["default"] = timed(lambda: gf.sweep(flow, **quiet, **FLOWS))
        began = cpu()
        store = f"{folder}/flows"
        kept, told["one process, store"] = timed(
            lambda: gf.sweep(flow, workers=1, store=store, **quiet, **FLOWS)
        )
        inside = kept.encoding["seconds"].values.sum()
        told["store and ledger, share of the wall"] = 1 - inside / told["one process, store"]
        told["of it CPU seconds, the flows included"] = cpu() - began
        _, told["resume of 200"] = timed(lambda: gf.sweep(flow, store=store, **quiet, **FLOWS))
        for name, fn in {"tiny": tiny, "1 ms": millisecond}.items():
            where = f"{folder}/{name}"
            run = lambda where=where, fn=fn: gf.sweep(fn, store=where, x=range(10_000), workers=1)
            table, told[f"10,000 points ({name}), store"] = timed(run)
            told[f"10,000 points ({name}), inside"] = float(table.encoding["seconds"].sum())
            _, told[f"10,000 points ({name}), resume"] = timed(run)
    told["one / two"] = told["one process"] / told["two processes"]
    told["one / default"] = told["one process"] / told["default"]
    if asked.json:
        asked.json.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
