"""An ensemble: lazy and rich learning over the scale and the balance of the start.

A ReLU net of m = 50 neurons learns a teacher of 3 on n = 1000 Gaussian data in d = 100
dimensions. Its start has the scale τ and the imbalance δ = τ²(α⁻² − α²): all |w_k| = τα/√m, all
|a_k| = τ/(α√m), neurons in pairs of opposite a_k so that f = 0, hence Σ_k(a_k² − |w_k|²) = δ for
all time (`kunin2024rich`). The whole grid is 17 τ × 17 δ × 16 seeds, 4,624 flows; a fraction is
every k-th value of τ and of δ and the first seeds.

What follows the flow is gradient descent with small steps: with n m = 50,000 surfaces a flow meets
too many of them to be located (``--located`` measures how many, and how far a minute goes), and
adaptive explicit steps chatter. Its error is that of halving the step, measured at some points.

    python benchmarks/ensemble.py [--every K] [--seeds N] [--store DIR] [--nc FILE] [--plot FILE]
    python benchmarks/ensemble.py --located SECONDS
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import numpy as np

import gradflow as gf

D, N, M, TEACHERS = 100, 1000, 50, 3
TAUS = np.geomspace(0.1, 2.0, 17)
DELTAS = np.linspace(-1.0, 1.0, 17)
SEEDS = 16
#: Step of the descent, and the time at which the flow is looked at.
STEP, T_END = 0.01, 60.0
#: Points (of the grid, by index) at which the step is halved.
CHECKED = [(0, 0), (0, 16), (8, 8), (16, 0), (16, 16)]


def instance(tau: float, delta: float, seed: int):
    """The risk, a start, fresh inputs with their targets, and the teacher's vectors."""
    rng = np.random.default_rng(seed)
    V = rng.normal(size=(TEACHERS, D))
    V /= np.linalg.norm(V, axis=1)[:, None]
    signs = rng.choice([-1.0, 1.0], TEACHERS)
    X, fresh = rng.normal(size=(N, D)), rng.normal(size=(N, D))
    target = lambda inputs: np.maximum(inputs @ V.T, 0) @ signs
    # α⁻² − α² = δ/τ², in a form that does not cancel
    ratio = delta / tau**2
    root = np.sqrt(ratio**2 + 4)
    square = 2 / (ratio + root) if ratio > 0 else (root - ratio) / 2
    alpha = np.sqrt(square)
    W = rng.normal(size=(M // 2, D))
    W *= tau * alpha / np.sqrt(M) / np.linalg.norm(W, axis=1)[:, None]
    a = np.repeat([1.0, -1.0], M // 2) * tau / (alpha * np.sqrt(M))
    net = gf.TwoLayer(D, M, gf.relu)
    risk = gf.EmpiricalRisk(net, gf.squared, X, target(X))
    return risk, net.params(np.concatenate([W, W]), a), fresh, target(fresh), V


def kernel(inner: np.ndarray, outer: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """The tangent kernel Σ_k a_k² 1[w_k·x>0] 1[w_k·x'>0] x·x' + φ(w_k·x) φ(w_k·x')."""
    h = inputs @ inner.T
    on = (h > 0) * outer
    return (on @ on.T) * (inputs @ inputs.T) + np.maximum(h, 0) @ np.maximum(h, 0).T


def learn(tau: float, delta: float, seed: int, step: float = STEP) -> dict[str, object]:
    """One flow: how far its kernel moved, what it learned, whom its neurons point at."""
    risk, start, fresh, targets, V = instance(tau, delta, seed)
    began = time.process_time()
    steps = round(T_END / step)
    path = gf.descend(risk, start, step_size=step, steps=steps, save_every=steps)
    seconds = time.process_time() - began
    weights = np.asarray(path.final.inner), np.asarray(path.final.outer)
    first = kernel(np.asarray(start.inner), np.asarray(start.outer), fresh[:200])
    last = kernel(*weights, fresh[:200])
    mass = np.abs(weights[1]) * np.linalg.norm(weights[0], axis=1)
    cosines = np.abs(weights[0] @ V.T) / np.linalg.norm(weights[0], axis=1)[:, None]
    predicted = np.maximum(fresh @ weights[0].T, 0) @ weights[1]
    scale = np.linalg.norm(first) * np.linalg.norm(last)
    return {
        "kernel_distance": 1 - np.sum(first * last) / scale,
        "alignment": np.sum(mass * np.max(cosines, axis=1)) / np.sum(mass),
        "test_loss": 0.5 * np.mean((predicted - targets) ** 2),
        "train_loss": float(risk(path.final)),
        "imbalance_drift": abs(np.sum(weights[1] ** 2) - np.sum(weights[0] ** 2) - delta),
        "completed": path.result == "completed",
        "cpu_seconds": seconds,
    }


def located(seconds: float) -> None:
    """How far the event-located integrator goes in some seconds."""
    risk, start, *_ = instance(float(TAUS[8]), 0.0, 0)
    began = time.process_time()
    path = gf.integrate(
        risk, start, until=T_END, integrator="piecewise", rtol=1e-6, progress=False,
        max_seconds=seconds,
    )  # fmt: skip
    used = time.process_time() - began
    print(
        f"located: {path.stats['events']} surfaces met to t = {path.t_final:.3g} of {T_END:g} "
        f"in {used:.0f} CPU s ({path.result})"
    )


def halving() -> None:
    """What halving the step changes, at some points."""
    print("halving the step changes (kernel distance, alignment, test loss relative):")
    for i, j in CHECKED:
        one = learn(float(TAUS[i]), float(DELTAS[j]), 0)
        two = learn(float(TAUS[i]), float(DELTAS[j]), 0, step=STEP / 2)
        gaps = [abs(one[key] - two[key]) for key in ("kernel_distance", "alignment")]
        gaps.append(abs(one["test_loss"] / two["test_loss"] - 1))
        print(f"  τ = {TAUS[i]:.3g}, δ = {DELTAS[j]:.3g}: " + ", ".join(f"{g:.1e}" for g in gaps))


def draw(table, path: Path) -> None:
    """Three maps over (δ, τ), medians over the seeds."""
    from matplotlib.figure import Figure

    panels = {
        "kernel_distance": "kernel distance", "alignment": "alignment with the teacher",
        "test_loss": "test loss",
    }  # fmt: skip
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        values = table[name].median("seed").transpose("tau", "delta")
        drawn = axes.pcolormesh(table.delta, table.tau, values, shading="nearest", cmap="viridis")
        axes.set_yscale("log")
        axes.set_xlabel("imbalance δ")
        axes.set_title(label, fontsize=10)
        axes.set_ylabel("scale τ")
        figure.colorbar(drawn, ax=axes)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=2, help="every k-th value of τ and of δ")
    parser.add_argument("--seeds", type=int, default=1, help=f"seeds, at most {SEEDS}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, help="a folder that keeps the points")
    parser.add_argument("--nc", type=Path, help="write the table to this file")
    parser.add_argument("--plot", type=Path, help="write the picture to this file")
    parser.add_argument("--halve", action="store_true", help="measure the error of the step")
    parser.add_argument("--located", type=float, default=0.0, metavar="SECONDS")
    asked = parser.parse_args()
    if asked.located:
        located(asked.located)
        return
    if asked.halve:
        halving()
        return
    began = time.perf_counter()
    load = os.getloadavg()[0]
    table = gf.sweep(
        learn, tau=TAUS[:: asked.every].tolist(), delta=DELTAS[:: asked.every].tolist(),
        seed=range(min(asked.seeds, SEEDS)), store=asked.store, workers=asked.workers,
    )  # fmt: skip
    wall = time.perf_counter() - began
    report(table, wall, load, asked.workers)
    if asked.nc is not None:
        table.to_netcdf(asked.nc)
    if asked.plot is not None:
        draw(table, asked.plot)


def report(table, wall: float, load: float, workers: int) -> None:
    """What it took, and what the whole grid would."""
    cpu = table.cpu_seconds.values
    done = int(np.sum(table.error == ""))
    whole = len(TAUS) * len(DELTAS) * SEEDS
    print(f"{done} of {whole} flows ({100 * done / whole:.2g} %), {workers} processes, load {load}")
    print(f"wall {wall:.0f} s; CPU a flow {np.nanmedian(cpu):.2f} s (median), "
          f"{np.nanmin(cpu):.2f} to {np.nanmax(cpu):.2f}, sum {np.nansum(cpu):.0f} s")  # fmt: skip
    busy = np.nansum(cpu) / (wall * workers)
    hours = np.nanmean(cpu) * whole / 3600
    print(f"of the processes' wall time {100 * busy:.0f} % is spent in flows")
    minutes = 60 * hours / 64
    print(f"the whole grid: {hours:.1f} core hours; on 64 cores {minutes:.0f} min if these did "
          f"nothing else, {minutes / busy:.0f} min at the share measured")  # fmt: skip
    print(f"completed: {int(np.sum(table.completed))}; largest drift of the imbalance "
          f"{float(table.imbalance_drift.max()):.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
