"""What the engine of kinked flows costs: a step, a new shape, many starts, its first compilation.

Times hang on the machine, so each stands beside a yardstick of the same run: the two bare matrix
products of a right-hand side (NumPy, one thread), or a plain loop. What runs on one thread is timed
by its CPU seconds; wall-clock times (scripts, many starts) mean little where the load that is noted
exceeds the cores.

    python benchmarks/engine.py [--quick] [--cold] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax
import numpy as np
from instances import kinks_40

import gradflow as gf

#: Data, dimension, neurons; and the steps that are timed.
SIZES = {(12, 3, 6): 400, (40, 10, 20): 400, (200, 20, 100): 100, (1000, 50, 500): 10}
#: A finite-data flow as a script of its own: imports, compilation and run.
SCRIPT = """
import time; began = time.perf_counter()
import jax, numpy as np, gradflow as gf
imported = time.perf_counter() - began
rng = np.random.default_rng(1)
X = rng.normal(size=(12, 3))
risk = gf.EmpiricalRisk(gf.TwoLayer(3, 6, gf.leaky_relu(0.2)), gf.exponential, X, np.sign(X[:, 0]))
start = risk.net.init(jax.random.key(0), 0.1)
gf.integrate(risk, start, until=gf.until.clock(4.0), progress=False)
print(imported, time.perf_counter() - began)
"""


def instance(
    n: int, d: int, m: int, starts: int = 1, activation: Any = gf.relu
) -> tuple[gf.EmpiricalRisk, list[Any]]:
    """Random data with separable labels, and random starts."""
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n, d))
    net = gf.TwoLayer(d, m, activation)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, np.sign(X @ rng.normal(size=d)))
    return risk, [net.init(key, 0.3) for key in jax.random.split(jax.random.key(m), starts)]


def best(
    run: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.process_time
) -> float:
    """The least seconds of some runs."""
    seconds = []
    for _ in range(repeats):
        began = clock()
        run()
        seconds.append(clock() - began)
    return min(seconds)


def products(n: int, d: int, m: int) -> float:
    """Seconds of the two bare matrix products of a right-hand side."""
    rng = np.random.default_rng(0)
    X, W, M = rng.normal(size=(n, d)), rng.normal(size=(m, d)), rng.normal(size=(m, n))
    XT, Z, U = np.ascontiguousarray(X.T), np.empty((m, n)), np.empty((m, d))
    count = max(int(2e8 / (n * d * m)), 3)

    def run() -> None:
        for _ in range(count):
            np.dot(W, XT, out=Z)
            np.dot(M, X, out=U)

    return best(run, 5) / count


def a_step(size: tuple[int, int, int], count: int, activation: Any) -> dict[str, Any]:
    """A step with its events, in microseconds and in bare products."""
    risk, [start] = instance(*size, activation=activation)
    half = count // 2

    def run(steps: int) -> gf.Trajectory:
        return gf.integrate(risk, start, until=gf.until.steps(steps), progress=False)

    path = run(count)
    # (the difference: what a flow costs before its first step is another question)
    seconds = best(lambda: run(count), 5) - best(lambda: run(half), 5)
    each, bare = seconds / (count - half), products(*size)
    return {
        "step_us": 1e6 * each, "products_us": 1e6 * bare, "ratio": each / bare,
        **{key: path.stats[key] for key in ("steps", "events", "rhs")},
    }  # fmt: skip


def steps(quick: bool) -> dict[str, Any]:
    """A step at all sizes, of a net that rarely slides and of one that does."""
    nets = {"leaky": gf.leaky_relu(0.2), "relu": gf.relu}
    sizes = list(SIZES.items())[: 3 if quick else 4]
    return {
        f"{size} {name}": a_step(size, count, activation)
        for size, count in sizes
        for name, activation in nets.items()
    }


def kinks() -> dict[str, Any]:
    """The flow of ``instances.kinks_40`` at rtol 1e-8, against rtol 1e-13."""
    problem = kinks_40()
    risk, start, until = problem.risk(), problem.params(), gf.until.clock(problem.end)
    exact = gf.integrate(risk, start, until=until, rtol=1e-13, progress=False).final
    path = gf.integrate(risk, start, until=until, rtol=1e-8, progress=False)
    gaps = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), path.final, exact)
    seconds = best(lambda: gf.integrate(risk, start, until=until, progress=False), 7)
    return {
        "ms": 1e3 * seconds, "error": max(jax.tree.leaves(gaps)),
        **{key: path.stats[key] for key in ("rhs", "steps", "events")},
    }  # fmt: skip


def new_shape() -> dict[str, Any]:
    """What the first flow of a shape costs beyond its run."""
    extra = []
    for n, d, m in ((37, 7, 13), (23, 5, 9), (51, 6, 17)):
        risk, [start] = instance(n, d, m)
        run = lambda: gf.integrate(risk, start, until=gf.until.clock(4.0), progress=False)  # noqa: B023
        first = best(run, 1)
        extra.append(1e3 * (first - best(run, 3)))
    return {"extra_ms": extra}


def many(quick: bool) -> dict[str, Any]:
    """Many starts at (40,10,20): in a loop, and together before and after workers started."""
    risk, starts = instance(40, 10, 20, 16 if quick else 64)
    until = gf.until.clock(6.0)
    alone = lambda: [gf.integrate(risk, s, until=until, progress=False) for s in starts]
    together = lambda: gf.integrate_many(risk, starts, until=until, progress=False)
    wall = time.perf_counter
    cold = best(together, 1, wall)
    warm, loop = best(together, 1, wall), best(alone, 1, wall)
    warm, loop = min(warm, best(together, 1, wall)), min(loop, best(alone, 1, wall))
    # (of this process alone: how much of the loop the workers take off it, on a busy machine too)
    left, whole = best(together, 1), best(alone, 1)
    return {
        "starts": len(starts), "loop_s": loop, "cold_s": cold, "warm_s": warm,
        "ratio_cold": loop / cold, "ratio_warm": loop / warm,
        "cpu_loop_s": whole, "cpu_here_s": left,
    }  # fmt: skip


def script(cold: bool) -> dict[str, Any]:
    """A finite-data flow as a script, from the cache, and where nothing has been compiled."""

    def run(**more: str) -> tuple[float, float, float]:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, **more}, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        imported, total = map(float, done.stdout.split())
        return imported, total, time.perf_counter() - began

    run()
    imported, _, wall = min((run() for _ in range(3)), key=lambda times: times[2])
    out = {"imports_s": imported, "cached_s": wall}
    if cold:
        with tempfile.TemporaryDirectory() as folder:
            caches = {"NUMBA_CACHE_DIR": folder, "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax"}
            before = os.times()
            out["cold_s"] = run(**caches)[2]
            after = os.times()
            out["cold_cpu_s"] = sum(after[2:4]) - sum(before[2:4])
    return out


def lines(name: str, found: dict[str, Any]) -> list[str]:
    """Rows of the table."""
    if not all(isinstance(value, dict) for value in found.values()):
        found = {"": found}
    rows = []
    for key, values in found.items():
        shown = [
            f"{what} {', '.join(f'{v:.4g}' for v in np.atleast_1d(value))}"
            for what, value in values.items()
        ]
        rows.append(f"| {name} | {key} | {'; '.join(shown)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer starts")
    parser.add_argument("--cold", action="store_true", help="compile all anew once, too")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    asked = parser.parse_args()
    load = os.getloadavg()
    found = {
        "script": script(asked.cold), "new shape": new_shape(), "steps": steps(asked.quick),
        "kinks-40": kinks(), "many": many(asked.quick),
    }  # fmt: skip
    found["machine"] = {
        "cores": os.cpu_count(), "load_before": load[0], "load_after": os.getloadavg()[0],
    }  # fmt: skip
    print(
        f"{platform.machine()}, Python {platform.python_version()}, ",
        end="",
    )
    print(time.strftime("%Y-%m-%d"))
    for name, values in found.items():
        print(*lines(name, values), sep="\n")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
