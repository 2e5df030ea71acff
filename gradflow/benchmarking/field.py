"""The right-hand side that solvers see: counted, and ended where its time is up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradflow.benchmarking.problem import Problem
from gradflow.numerics.jacobian import jacobian


class TimeUp(BaseException):
    """A run has used up its time (not an ``Exception``: a solver must not take it for one)."""


class Programs:
    """The field of a problem and its Jacobian, compiled when first asked for.

    Parameters
    ----------
    problem : Problem
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.compiled: dict[str, Callable[[np.ndarray], Array]] = {}

    def get(self, which: str) -> Callable[[np.ndarray], Array]:
        """The compiled "field" or "jacobian"."""
        if which not in self.compiled:
            velocity = self.problem.velocity
            fn = velocity if which == "field" else lambda y: jacobian(velocity, y)
            lowered = jax.jit(fn).lower(jnp.asarray(self.problem.y0))
            self.compiled[which] = lowered.compile()
        return self.compiled[which]


class Field:
    """``field(t, y)`` is −∇L at y (P,), in NumPy.

    Parameters
    ----------
    programs : Programs
    time_limit : float
        CPU seconds after which an evaluation raises :class:`TimeUp`.

    Attributes
    ----------
    rhs, jacobians : int
        Evaluations so far.
    t : float
        Where the last one was.
    time_up : bool
        Whether the time was up at one.
    compile_seconds : (float, float)
        Wall-clock and CPU seconds that `compiling` took.
    problem : Problem
        Its ``velocity`` is the same field for solvers that compile it themselves.
    """

    def __init__(self, programs: Programs, time_limit: float) -> None:
        self.problem = programs.problem
        self._programs, self._limit = programs, time_limit
        self.rhs = self.jacobians = 0
        self.t, self.time_up = 0.0, False
        self.compile_seconds = 0.0, 0.0
        self._began, self._began_wall = time.process_time(), time.monotonic()

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        """The velocity (P,)."""
        program = self._program("field")
        self.rhs, self.t = self.rhs + 1, float(t)
        self.check_time()
        # (a copy: solvers reuse their arrays, and write into what they are handed)
        return np.array(program(np.asarray(y, np.float64)))

    def jacobian(self, t: float, y: np.ndarray) -> np.ndarray:
        """The Jacobian (P, P) of the velocity."""
        program = self._program("jacobian")
        self.jacobians, self.t = self.jacobians + 1, float(t)
        self.check_time()
        return np.array(program(np.asarray(y, np.float64)))

    def _program(self, which: str) -> Callable[[np.ndarray], Array]:
        program = self._programs.compiled.get(which)
        if program is None:
            with self.compiling():
                program = self._programs.get(which)
        return program

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """What happens inside costs nothing of the time."""
        cpu, wall = time.process_time(), time.monotonic()
        yield
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        self._began, self._began_wall = self._began + cpu, self._began_wall + wall
        before = self.compile_seconds
        self.compile_seconds = before[0] + wall, before[1] + cpu

    @property
    def left(self) -> float:
        """CPU seconds that are left."""
        used = time.process_time() - self._began
        # (one that waits for something else uses no CPU: three times the limit by the wall ends it)
        return min(self._limit - used, 3 * self._limit - (time.monotonic() - self._began_wall))

    def check_time(self) -> None:
        """Raise :class:`TimeUp` where nothing is left."""
        if self.left < 0:
            self.time_up = True
            raise TimeUp
