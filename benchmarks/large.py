"""Large nets: what one iteration of the mode that locates slides costs, in plain right-hand sides.

    python benchmarks/large.py [n,d,m ...]

Default sizes: 1000,50,500 and 5000,100,1000. Compile time is apart; both sides are measured in the
same process. Printed: accepted and rejected steps, right-hand sides, seconds an iteration, seconds
a plain right-hand side (JAX's gradient of the risk), their ratio.
"""

from __future__ import annotations

import sys
import time

import jax
import numpy as np

import gradflow as gf

STEPS = 60


def measure(n: int, d: int, m: int) -> None:
    """Integrate a random separable instance for some steps and print one row."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    net = gf.TwoLayer(d, m, gf.leaky_relu(0.1))
    start = net.init(jax.random.key(0), 0.1, scheme="balanced")
    risk = gf.EmpiricalRisk(net, gf.exponential, X, np.sign(X @ rng.normal(size=d)))

    def run(steps: int) -> gf.Trajectory:
        return gf.integrate(
            risk, start, until=gf.until.steps(steps) | gf.until.clock(1.0),
            integrator="piecewise-slides", rtol=1e-3,
        )  # fmt: skip

    compiled = run(3).stats["compile_seconds"]
    stats = run(STEPS).stats
    plain = jax.jit(lambda params: risk.log_gradient(params))
    jax.block_until_ready(plain(start))
    began = time.perf_counter()
    for _ in range(20):
        jax.block_until_ready(plain(start))
    one = (time.perf_counter() - began) / 20
    iterations = stats["steps"] + stats["rejected"]
    each = stats["run_seconds"] / iterations
    print(
        f"n,d,m = {n},{d},{m}: {stats['steps']:.0f} steps, {stats['rejected']:.0f} rejected, "
        f"{stats['rhs']:.0f} right-hand sides, {stats['events']:.0f} slides, compile "
        f"{compiled:.1f} s; iteration {each * 1e3:.1f} ms, plain right-hand side {one * 1e3:.2f} "
        f"ms, ratio {each / one:.1f}"
    )


if __name__ == "__main__":
    for size in sys.argv[1:] or ["1000,50,500", "5000,100,1000"]:
        measure(*map(int, size.split(",")))
