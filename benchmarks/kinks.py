"""Kinks: stock solvers, Euler and the event-located integrator on one flow of 178 events.

The flow of a leaky ReLU net on 40 data (``instances.kinks_40``), in the loss clock to s = 4. Stock
methods see the plain field, compiled once by JAX; every evaluation is counted, finite-difference
Jacobians included. Each has a cap of CPU seconds: one that reaches it, or gives up, is recorded
with the s where it stopped. The reference is the event-located integrator at rtol 1e-13, held
against numbers that were found by other means. Methods whose package is missing are skipped.

    python benchmarks/kinks.py [--quick] [--cap SECONDS] [--only NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

# Threads that wait for one another are charged to implicit solvers, ten times their work.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from instances import Kinked, kinks_40
from scipy import integrate

import gradflow as gf

#: Squared norm and normalised margin at s = 4, and the events on the way, of an earlier prototype.
KNOWN_SQUARE, KNOWN_MARGIN = 6.1406164249956, -0.0368485263757
KNOWN_EVENTS, KNOWN_INSTANTS = {"crossing": 164, "slide-in": 14, "slide-out": 1}, 178
KNOWN_FIRST = (0.0095036521784, 12, 22)
#: Absolute tolerance of the stock methods, relative to rtol: weights are of size 0.1 at the start.
ATOL = 0.01


@dataclass
class Outcome:
    """What one run did; ``error`` and ``stopped`` (where, and why) exclude each other."""

    method: str
    setting: str
    rhs: int = 0
    seconds: float = float("nan")
    compile_seconds: float = 0.0
    error: float | None = None
    stopped: str = ""
    note: str = ""


class CapReached(Exception):
    """The CPU seconds of a run are used up."""


class Field:
    """The plain field as a NumPy function of (s, state), with a count and a cap."""

    def __init__(self, problem: Kinked, cap: float) -> None:
        started = time.perf_counter()
        self.program = jax.jit(problem.field).lower(jnp.asarray(problem.start())).compile()
        self.compile_seconds = time.perf_counter() - started
        self.count, self.s, self.cap = 0, 0.0, cap
        self.started = time.process_time()

    def __call__(self, s: float, state: np.ndarray) -> np.ndarray:
        self.count, self.s = self.count + 1, float(s)
        if self.count % 64 == 0 and self.seconds > self.cap:
            raise CapReached
        return np.asarray(self.program(np.asarray(state)))

    @property
    def seconds(self) -> float:
        """CPU seconds since the field was compiled."""
        return time.process_time() - self.started


#: ``run(problem, field or cap, setting, outcome)`` returns the end state, or None where it stopped.
Run = Callable[[Kinked, float, float, Outcome], np.ndarray | None]


def with_field(solve: Callable[[Kinked, Field, float, Outcome], np.ndarray | None]) -> Run:
    """A run that counts, caps and times ``solve(problem, field, tolerance, outcome)``."""

    def run(problem: Kinked, cap: float, tolerance: float, outcome: Outcome) -> np.ndarray | None:
        field = Field(problem, cap)
        try:
            return solve(problem, field, tolerance, outcome)
        except CapReached:
            outcome.stopped = f"cap at s = {field.s:.3g}"
        finally:
            outcome.rhs, outcome.seconds = field.count, field.seconds
            outcome.compile_seconds = field.compile_seconds
        return None

    return run


# ---------------------------------------------------------------------------------------------
# Stock methods


def scipy_solver(kind: type[integrate.OdeSolver]) -> Run:
    """One of scipy's solvers, step by step."""

    def solve(problem: Kinked, field: Field, rtol: float, outcome: Outcome) -> np.ndarray | None:
        solver = kind(field, 0.0, problem.start(), problem.end, rtol=rtol, atol=ATOL * rtol)
        while solver.status == "running":
            message = solver.step()
            if solver.status == "failed":
                outcome.stopped = f"failed at s = {solver.t:.3g}"
                outcome.note = str(message or "")
                return None
        return solver.y

    return with_field(solve)


def cvode(method: str) -> Run:
    """SUNDIALS' CVODE through scikit-sundae."""

    def solve(problem: Kinked, field: Field, rtol: float, outcome: Outcome) -> np.ndarray | None:
        from sksundae.cvode import CVODE

        def fill(s: float, state: np.ndarray, out: np.ndarray) -> None:
            out[:] = field(s, state)

        solver = CVODE(fill, method=method, rtol=rtol, atol=ATOL * rtol, max_num_steps=100_000_000)
        solution = solver.solve(np.array([0.0, problem.end]), problem.start())
        if not solution.success:
            outcome.stopped = f"failed at s = {solution.t[-1]:.3g}"
            outcome.note = str(solution.message)
            return None
        return solution.y[-1]

    return with_field(solve)


def torch_dopri5() -> Run:
    """torchdiffeq's dopri5, with the field in torch."""

    def run(problem: Kinked, cap: float, rtol: float, outcome: Outcome) -> np.ndarray | None:
        import torch
        from torchdiffeq import odeint

        X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)
        size, place = problem.W.size, 0.0
        started = time.process_time()

        def field(s, state):
            nonlocal place
            outcome.rhs, place = outcome.rhs + 1, float(s)
            if outcome.rhs % 64 == 0 and time.process_time() - started > cap:
                raise CapReached
            W, a = state[:size].reshape(problem.W.shape), state[size:]
            h = X @ W.T
            slopes = torch.where(h > 0, 1.0, problem.slope).to(torch.float64)
            q = y * ((slopes * h) @ a)
            pull = (torch.softmax(-q, 0) * y)[:, None] * slopes
            return torch.cat([(a[:, None] * (pull.T @ X)).ravel(), torch.sum(pull * h, 0)])

        times = torch.tensor([0.0, problem.end], dtype=torch.float64)
        try:
            with torch.no_grad():
                path = odeint(
                    field, torch.from_numpy(problem.start()), times, rtol=rtol, atol=ATOL * rtol,
                    method="dopri5",
                )  # fmt: skip
        except CapReached:
            outcome.stopped = f"cap at s = {place:.3g}"
            return None
        finally:
            outcome.seconds = time.process_time() - started
        return path[-1].numpy()

    return run


def diffrax_tsit5(problem: Kinked, cap: float, rtol: float, outcome: Outcome) -> np.ndarray | None:
    """diffrax's Tsit5 in one compiled loop; the cap becomes a bound on its steps."""
    import diffrax

    def solve(state: jax.Array, tolerance: jax.Array, end: jax.Array, max_steps: int):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda s, y, args: problem.field(y)), diffrax.Tsit5(), 0.0, end, None,
            state, stepsize_controller=diffrax.PIDController(tolerance, ATOL * tolerance),
            max_steps=max_steps, throw=False, saveat=diffrax.SaveAt(t1=True),
        )  # fmt: skip

    start = jnp.asarray(problem.start())

    def compiled(max_steps: int):
        lowered = jax.jit(solve, static_argnums=3).lower(
            start, jnp.asarray(rtol), jnp.asarray(problem.end), max_steps
        )
        return lowered.compile()

    # A compiled loop cannot be interrupted: a first, short run tells what a step costs.
    began = time.process_time()
    probe = compiled(2000)
    outcome.compile_seconds = time.process_time() - began
    tolerance = jnp.asarray(rtol)

    def timed(program):
        began = time.process_time()
        solution = jax.block_until_ready(program(start, tolerance, jnp.asarray(problem.end)))
        return solution, time.process_time() - began

    timed(probe)  # the first call is slower
    solution, outcome.seconds = timed(probe)
    if float(solution.ts[-1]) < problem.end:
        steps = int(cap / outcome.seconds * int(solution.stats["num_steps"]))
        solution, outcome.seconds = timed(compiled(max(steps, 2000)))
    # Six evaluations a step, one at the start, two to choose the first step.
    outcome.rhs = 6 * int(solution.stats["num_steps"]) + 3
    if float(solution.ts[-1]) < problem.end:
        outcome.stopped = f"cap at s = {float(solution.ts[-1]):.3g}"
        return None
    return np.asarray(solution.ys[-1])


def euler(problem: Kinked, cap: float, step: float, outcome: Outcome) -> np.ndarray | None:
    """Explicit Euler in one compiled loop."""
    count = round(problem.end / step)

    def solve(state: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, count, lambda _, y: y + step * problem.field(y), state)

    began = time.process_time()
    program = jax.jit(solve).lower(jnp.asarray(problem.start())).compile()
    outcome.compile_seconds = time.process_time() - began
    began = time.process_time()
    state = jax.block_until_ready(program(jnp.asarray(problem.start())))
    outcome.rhs, outcome.seconds = count, time.process_time() - began
    return np.asarray(state)


# ---------------------------------------------------------------------------------------------
# Ours


def flow(problem: Kinked, rtol: float) -> gf.Trajectory:
    """The event-located solution."""
    return gf.integrate(
        problem.risk(), problem.params(), until=gf.until.clock(problem.end), clock="loss",
        integrator="piecewise", rtol=rtol,
    )  # fmt: skip


def flat(path: gf.Trajectory) -> np.ndarray:
    """The end of a path as one vector."""
    return np.concatenate([np.ravel(path.final.inner), np.ravel(path.final.outer)])


def located(path: gf.Trajectory) -> Counter:
    """How many surfaces were met, by kind."""
    return Counter(event.kind for event in path.events if event.kind not in ("stop", "stage"))


def ours(problem: Kinked, cap: float, rtol: float, outcome: Outcome) -> np.ndarray | None:
    """The event-located integrator: best of five calls after compilation (CPU of a whole call)."""
    first = flow(problem, rtol)
    outcome.compile_seconds = float(first.stats["compile_seconds"])
    seconds = []
    for _ in range(5):
        began = time.process_time()
        path = flow(problem, rtol)
        seconds.append(time.process_time() - began)
    outcome.rhs, outcome.seconds = int(path.stats["rhs"]), min(seconds)
    events = sum(located(path).values())
    outcome.note = (
        f"{path.stats['steps']} steps, {events} surfaces met, "
        f"inner loop {1e3 * path.stats['run_seconds']:.0f} ms, "
        f"defects {', '.join(f'{k} {v:.0e}' for k, v in path.defects.items())}"
    )
    if not path.result.ok:
        outcome.stopped = f"{path.result.name} at s = {path.clock_final:.3g}"
        return None
    return flat(path)


_RTOLS = (1e-4, 1e-6, 1e-8)
#: Name, settings, those of ``--quick``, run.
METHODS: list[tuple[str, tuple[float, ...], tuple[float, ...], Run]] = [
    ("scipy RK45", _RTOLS, (1e-4,), scipy_solver(integrate.RK45)),
    ("scipy DOP853", _RTOLS, (1e-4,), scipy_solver(integrate.DOP853)),
    ("scipy LSODA", _RTOLS, (1e-4,), scipy_solver(integrate.LSODA)),
    ("scipy Radau", _RTOLS, (), scipy_solver(integrate.Radau)),
    ("scipy BDF", _RTOLS, (), scipy_solver(integrate.BDF)),
    ("CVODE BDF", _RTOLS, (), cvode("BDF")),
    ("CVODE Adams", _RTOLS, (), cvode("Adams")),
    ("torchdiffeq dopri5", _RTOLS, (1e-4,), torch_dopri5()),
    ("diffrax Tsit5", _RTOLS, (1e-4, 1e-6), diffrax_tsit5),
    ("Euler", (1e-3, 1e-4, 1e-5), (1e-3, 1e-4), euler),
    ("gradflow piecewise", (1e-6, 1e-8, 1e-12), (1e-6, 1e-8, 1e-12), ours),
]


# ---------------------------------------------------------------------------------------------
# The table


def check_reference(problem: Kinked) -> np.ndarray:
    """The reference, and what it says beside the numbers known before."""
    path = flow(problem, 1e-13)
    state, square = flat(path), float(np.sum(flat(path) ** 2))
    margin = float(np.min(problem.margins(state))) / square
    met = located(path)
    first = next(event for event in path.events if event.kind in met)
    compiling = path.stats["compile_seconds"]
    print(f"reference: event-located, rtol 1e-13 (compiled in {compiling:.1f} s)")
    print(f"  rho^2       = {square:.13f}   (known: {KNOWN_SQUARE:.13f})")
    print(f"  q_min/rho^2 = {margin:.13f}  (known: {KNOWN_MARGIN:.13f})")
    instants = len({event.clock for event in path.events if event.kind in met})
    print(f"  surfaces met: {dict(met)} at {instants} instants")
    print(f"        (known: {KNOWN_EVENTS} at {KNOWN_INSTANTS} instants)")
    print(f"  first event: s = {first.clock:.13f}, neuron {first.neuron}, datum {first.datum}")
    s, neuron, datum = KNOWN_FIRST
    print(f"      (known:  s = {s:.13f}, neuron {neuron}, datum {datum})")
    right = (
        path.result.ok
        and abs(square - KNOWN_SQUARE) < 1e-11
        and abs(margin - KNOWN_MARGIN) < 1e-11
        and (dict(met), instants) == (KNOWN_EVENTS, KNOWN_INSTANTS)
        and abs(first.clock - s) < 1e-12
        and (first.neuron, first.datum) == (neuron, datum)
    )
    print(f"  {'agrees' if right else 'DOES NOT AGREE'}\n")
    return state


def attempt(
    name: str, setting: float, run: Run, problem: Kinked, cap: float, reference: np.ndarray
) -> Outcome:
    """Run once; whatever goes wrong is recorded, not raised."""
    outcome = Outcome(name, f"ds {setting:.0e}" if name == "Euler" else f"rtol {setting:.0e}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = run(problem, cap, setting, outcome)
    except ImportError as error:
        outcome.stopped = f"skipped: no {error.name}"
    except Exception as error:
        outcome.stopped = f"{type(error).__name__}"
        outcome.note = str(error).split("\n")[0]
    else:
        if state is not None:
            outcome.error = float(np.max(np.abs(state - reference)))
    return outcome


def line(outcome: Outcome) -> str:
    """One row of the table."""
    end = outcome.stopped if outcome.error is None else f"{outcome.error:.1e}"
    compiling = f"{outcome.compile_seconds:.1f}" if outcome.compile_seconds else ""
    row = (
        f"{outcome.method:19} {outcome.setting:11} {outcome.rhs:>10,} {outcome.seconds:>9.3f} "
        f"{compiling:>8}  {end}"
    )
    return f"{row}  ({outcome.note[:90]})" if outcome.note else row


def compare(outcomes: list[Outcome]) -> None:
    """Ours at 1e-8 beside diffrax's Tsit5 at its 1e-8."""
    found = {(o.method, o.setting): o for o in outcomes}
    mine = found.get(("gradflow piecewise", "rtol 1e-08"))
    stock = found.get(("diffrax Tsit5", "rtol 1e-08"))
    if mine is None or stock is None or not mine.rhs:
        return
    at_least = "" if stock.error is not None else "at least "
    print(
        f"\ndiffrax Tsit5 at rtol 1e-8 beside gradflow piecewise: {at_least}"
        f"{stock.rhs / mine.rhs:,.0f} times the right-hand sides, "
        f"{stock.seconds / mine.seconds:,.0f} times the CPU seconds"
    )
    if stock.error is not None and mine.error is not None:
        print(f"and {stock.error / mine.error:,.0f} times the error")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a part of the table, in a minute")
    parser.add_argument("--cap", type=float, default=None, help="CPU seconds a run (60; quick: 5)")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    arguments = parser.parse_args()
    cap = arguments.cap or (5.0 if arguments.quick else 60.0)
    problem = kinks_40()
    reference = check_reference(problem)
    print(
        f"cap {cap:g} CPU seconds; stock methods with atol = {ATOL:g} rtol; "
        "error = max abs in final parameters"
    )
    print(f"{'method':19} {'setting':11} {'rhs':>10} {'CPU s':>9} {'compile':>8}  error or stop")
    outcomes = []
    for name, settings, quick, run in METHODS:
        if arguments.only.lower() not in name.lower():
            continue
        for setting in quick if arguments.quick else settings:
            outcomes.append(attempt(name, setting, run, problem, cap, reference))
            print(line(outcomes[-1]), flush=True)
    compare(outcomes)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")


if __name__ == "__main__":
    main()
