"""Robustness: random small instances of every kind of data, loss, activation and penalty.

Each instance is integrated to its horizon: margin losses of data that a net can tell apart, without
a penalty, to ln t = 50, all others to t = 1e3. It ends well if it reaches the end or an event, or
rests; what it returns must be finite, and where its flow is unique within 100 tolerances of a solve
a thousand times tighter.

    python benchmarks/robustness.py [--count N] [--seed S] [--workers 2] [--hinge] [--no-error]
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np

import gradflow as gf

RTOL, TIGHTER = 1e-8, 1e-11
#: Tolerances that an error may be, and that the defects of energy and balance may be.
MOST = 100.0
MAX_STEPS = 20_000
#: Events at one time that are a storm.
STORM = 50
GOOD = frozenset({"reached", "event", "rest", "stationary"})

Data = Callable[[np.random.Generator], np.ndarray]


def general(rng: np.random.Generator) -> np.ndarray:
    """Gaussian data."""
    return rng.normal(size=(int(rng.integers(4, 11)), int(rng.integers(1, 4))))


def lattice(rng: np.random.Generator) -> np.ndarray:
    """Some points of a grid."""
    grid = np.array(list(itertools.product([-1.0, 0.0, 1.0], repeat=int(rng.integers(1, 4)))))
    return rng.permutation(grid)[: int(rng.integers(3, 10))]


def xor(rng: np.random.Generator) -> np.ndarray:
    """The corners of a cube and its centre."""
    cube = np.array(list(itertools.product([-1.0, 1.0], repeat=int(rng.integers(2, 4)))))
    return np.concatenate([cube, np.zeros((1, cube.shape[1]))])


def duplicated(rng: np.random.Generator) -> np.ndarray:
    """Data of which some come twice."""
    X = rng.normal(size=(int(rng.integers(3, 7)), 2))
    return np.concatenate([X, X[rng.integers(0, len(X), size=3)]])


def antipodal(rng: np.random.Generator) -> np.ndarray:
    """Pairs x, −x, some stretched."""
    X = rng.normal(size=(int(rng.integers(2, 5)), 2))
    return np.concatenate([X, -X * rng.choice([1.0, 2.0], size=(len(X), 1))])


def collinear(rng: np.random.Generator) -> np.ndarray:
    """Points of one line."""
    along = rng.permutation(np.linspace(-1.0, 1.0, int(rng.integers(3, 7))))[:, None]
    return along * rng.normal(size=2) + rng.normal(size=2)


def one_hot(rng: np.random.Generator) -> np.ndarray:
    """Unit vectors and sums of them."""
    cube = np.array(list(itertools.product([0.0, 1.0], repeat=3)))[1:]
    return rng.permutation(cube)[: int(rng.integers(4, 8))]


DATA: dict[str, Data] = {
    "general": general, "lattice": lattice, "xor": xor, "duplicated": duplicated,
    "antipodal": antipodal, "collinear": collinear, "one-hot": one_hot,
}  # fmt: skip
LOSSES = {"logistic": gf.logistic, "exponential": gf.exponential, "squared": gf.squared}
ACTIVATIONS = {
    "relu": lambda: gf.relu, "leaky": lambda: gf.leaky_relu(0.1), "absolute": lambda: gf.absolute,
    "shifted": lambda: gf.shifted_relu(0.3),
}  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """What is integrated: kinds by name, and the seed of all that is drawn."""

    data: str
    loss: str
    activation: str
    bias: bool
    decay: bool
    seed: int

    def problem(self) -> tuple[gf.EmpiricalRisk | gf.Regularised, Any, Any]:
        """Return the risk, a start and what to stop at."""
        rng = np.random.default_rng(self.seed)
        X = DATA[self.data](rng)
        if not self.bias and self.activation != "shifted":
            X = X[np.any(X != 0, axis=1)]  # (the net is 0 there)
        regression = self.loss == "squared"
        y = rng.normal(size=len(X)) if regression else rng.choice([-1.0, 1.0], size=len(X))
        net = gf.TwoLayer(
            X.shape[1], int(rng.integers(2, 7)), ACTIVATIONS[self.activation](), bias=self.bias
        )
        start = net.init(jax.random.key(self.seed), float(rng.choice([0.01, 0.3, 1.0])))
        losses = {**LOSSES, "hinge": getattr(gf, "hinge", None)}
        risk = gf.EmpiricalRisk(net, losses[self.loss], X, y)
        if self.decay:
            return gf.Regularised(risk, l2=0.01), start, gf.until.time(1e3)
        late = not regression and self.activation != "shifted" and separable(X, y)
        return risk, start, gf.until.log_time(50.0) if late else gf.until.time(1e3)


def separable(X: np.ndarray, y: np.ndarray) -> bool:
    """Whether no point comes with both labels, and none is 0 (where nets without a bias are 0)."""
    same = np.all(X[:, None] == X[None], axis=2) & (y[:, None] != y[None])
    return not np.any(same) and bool(np.all(np.any(X != 0, axis=1)))


def instances(
    count: int, seed: int = 0, losses: tuple[str, ...] = tuple(LOSSES)
) -> Iterator[Instance]:
    """Return ``count`` instances, every kind in turn, in an order that is drawn."""
    kinds = list(itertools.product(DATA, losses, ACTIVATIONS, [False, True], [False, True]))
    order = np.random.default_rng(seed).permutation(len(kinds))
    for j in range(count):
        yield Instance(*kinds[order[j % len(kinds)]], seed=1000 * seed + j)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Outcome:
    """How an instance ended; ``error`` in units of the tolerance, None where it was not asked."""

    instance: Instance
    result: str
    log_t: float
    steps: int
    events: int
    storm: int
    unique: bool
    finite: bool
    energy: float
    balance: float
    seconds: float
    error: float | None
    note: str

    @property
    def faults(self) -> list[str]:
        """What is wrong with it."""
        found = [] if self.result in GOOD else [self.result]
        found += [] if self.finite else ["not finite"]
        found += [f"storm of {self.storm}"] if self.storm > STORM else []
        found += [f"energy {self.energy:.0f}"] if not self.energy <= MOST else []
        found += [f"balance {self.balance:.0f}"] if not self.balance <= MOST else []
        if self.unique and self.error is not None and not self.error <= MOST:
            found.append(f"error {self.error:.0f}")
        return found


def _flat(params: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def _path(instance: Instance, rtol: float, max_seconds: float | None) -> gf.Trajectory:
    risk, start, until = instance.problem()
    return gf.integrate(
        risk, start, until=until, rtol=rtol, max_steps=MAX_STEPS, max_seconds=max_seconds,
        progress=False,
    )  # fmt: skip


def solve(instance: Instance, error: bool = True, max_seconds: float | None = 60.0) -> Outcome:
    """Integrate an instance, and once more to a tighter tolerance."""
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    try:
        path = _path(instance, RTOL, max_seconds)
    except Exception as wrong:  # (a crash is an outcome)
        spent = time.perf_counter() - began
        note = f"{type(wrong).__name__}: {wrong}"[:200]
        return Outcome(instance, "raised", 0, 0, 0, 0, True, True, 0, 0, spent, None, note)
    spent = time.perf_counter() - began
    theta = _flat(path.final)
    at = Counter(event.log_t for event in path.events)
    unique, gap = path.unique, None
    if error and unique and path.result.name in GOOD:
        tight = _path(instance, TIGHTER, max_seconds)
        unique = tight.unique
        if tight.result.name in GOOD:
            end = _flat(tight.final)
            gap = float(np.max(np.abs(theta - end)) / (RTOL * np.max(np.abs(end))))
    return Outcome(
        instance, path.result.name, float(path.log_t_final), int(path.stats["steps"]),
        len(path.events), max(at.values(), default=0), unique, bool(np.all(np.isfinite(theta))),
        float(np.max(np.abs(path.observe("energy_defect")))) / RTOL, _balance(instance, path),
        spent, gap, path.result.detail,
    )  # fmt: skip


def _balances(params: Any) -> np.ndarray:
    """a_k² − |w_k|² − b_k² (m,), which is conserved where the activation is homogeneous."""
    outer = np.asarray(params.outer)
    return 2 * outer**2 - _masses(params)


def _masses(params: Any) -> np.ndarray:
    """|θ_k|² (m,)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return np.sum([np.sum(leaf.reshape(len(leaf), -1) ** 2, axis=1) for leaf in leaves], axis=0)


def _balance(instance: Instance, path: gf.Trajectory) -> float:
    """The defect of what is conserved, in tolerances; 0 where nothing is."""
    if instance.decay or instance.activation == "shifted":
        return 0.0
    first, last = _balances(instance.problem()[1]), _balances(path.final)
    return float(np.max(np.abs(last - first)) / (RTOL * np.max(_masses(path.final))))


def report(outcomes: list[Outcome]) -> str:
    """A line for each instance that went wrong, and what all of them came to."""
    lines = []
    for o in sorted((o for o in outcomes if o.faults), key=lambda o: o.faults):
        i = o.instance
        lines.append(
            f"{', '.join(o.faults):34} {i.data:10} {i.loss:11} {i.activation:8} "
            f"bias={i.bias:d} decay={i.decay:d} seed={i.seed:5} ln t={o.log_t:9.4g} "
            f"steps={o.steps:5} events={o.events:5} {o.seconds:5.1f}s {o.note[:90]}"
        )
    ended = ", ".join(
        f"{n} {name}" for name, n in Counter(o.result for o in outcomes).most_common()
    )
    unique = [o for o in outcomes if o.unique and o.error is not None]
    errors = [o.error for o in unique if o.error is not None]
    lines.append(
        f"{len(outcomes)} instances: {ended}; {sum(bool(o.faults) for o in outcomes)} at fault"
    )
    if errors:
        lines.append(
            f"{len(unique)} of them unique; error in tolerances: median {np.median(errors):.2g}, "
            f"95 % {np.quantile(errors, 0.95):.2g}, worst {max(errors):.2g}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the matrix and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=336)
    parser.add_argument("--first", type=int, default=0, help="instances to leave out at the start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hinge", action="store_true")
    parser.add_argument("--no-error", action="store_true")
    parser.add_argument("--seconds", type=float, default=60.0, help="for one solve")
    given = parser.parse_args()
    losses = (*LOSSES, "hinge") if given.hinge else tuple(LOSSES)
    asked = list(instances(given.first + given.count, given.seed, losses))[given.first :]
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(solve, i, not given.no_error, given.seconds) for i in asked]
        for job in jobs:
            outcomes.append(job.result())
            if outcomes[-1].faults:
                print(report(outcomes[-1:]).splitlines()[0], flush=True)
    print()
    print(report(outcomes))


if __name__ == "__main__":
    main()
