"""What a solver is measured on: a flow from a start to an end, as an initial value problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from gradflow.integrators.settings import start_scale
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_positive, fail


class Named(Protocol):
    """What has a name (a solver, as a route to a reference)."""

    @property
    def name(self) -> str:
        """The name."""
        ...


@dataclass(frozen=True)
class Route:
    """One way to a reference solution: a solver and what it is asked for.

    Attributes
    ----------
    solver : str or solver
        Anything that :func:`gradflow.benchmarking.as_solver` reads.
    setting : float
        Its tolerance.
    """

    solver: str | Named
    setting: float


@dataclass(frozen=True)
class Problem:
    r"""The flow :math:`\dot\theta=-\nabla L(\theta)` from a start to a time.

    Attributes
    ----------
    name : str
    risk : AbstractRisk
        L: any risk of the package.
    start : pytree
        θ(0), as ``risk.as_params`` reads it.
    t_end : float
        The physical time at which states are compared.
    tags : tuple of str
        What makes it difficult ("smooth", "kinked", "stiff", ...).
    about : str
        One line for people.
    routes : tuple of Route
        Ways to the reference, the best first, of at least two families of methods (the one that
        judges a solver is never of its own family); default: by whether the risk has kinks.
    quick : bool
        Whether ``gradflow bench --quick`` takes it.

    Raises
    ------
    ValueError
        What is not a risk, a start it does not read, an end that is not positive.
    """

    name: str
    risk: AbstractRisk
    start: PyTree
    t_end: float
    tags: Sequence[str] = ()
    about: str = ""
    routes: Sequence[Route] = ()
    quick: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise fail("name", self.name, "is not a name", "pass a short text")
        if not isinstance(self.risk, AbstractRisk):
            fix = "pass gf.EmpiricalRisk(...), gf.FunctionRisk(fn) or another risk"
            raise fail("risk", self.risk, "is not a risk", fix)
        start = self.risk.as_params(self.start)
        if self.risk.net is not None:
            start = self.risk.net.check_start(start)
        tags = (self.tags,) if isinstance(self.tags, str) else tuple(self.tags)
        set_field = object.__setattr__
        set_field(self, "start", start)
        set_field(self, "tags", tags)
        set_field(self, "t_end", check_positive("t_end", self.t_end))
        set_field(self, "routes", tuple(self.routes) or default_routes(self.kinked))

    @property
    def kinked(self) -> bool:
        """Whether the field jumps somewhere that the package knows of."""
        at = self.risk.arrangement
        return at is not None and at.kinked

    @cached_property
    def y0(self) -> np.ndarray:
        """The start as one vector (P,)."""
        return np.asarray(ravel_pytree(self.start)[0], np.float64)

    @property
    def size(self) -> int:
        """P, the number of entries of θ."""
        return self.y0.size

    @property
    def scale(self) -> float:
        """Size of the smallest block of the start, to which absolute tolerances are relative."""
        return start_scale(self.start)

    def unravel(self, y: Array) -> PyTree:
        """Parameters of a vector (P,)."""
        return ravel_pytree(self.start)[1](y)

    def velocity(self, y: Array) -> Array:
        """−∇L as a JAX function of the vector (P,)."""
        return -ravel_pytree(self.risk.gradient(self.unravel(y)))[0]


def default_routes(kinked: bool) -> tuple[Route, ...]:
    """Ways to a reference where a problem names none."""
    if kinked:
        return Route("piecewise", 1e-12), Route("located", 1e-12)
    return Route("scipy-radau-jac", 1e-12), Route("scipy-dop853", 1e-13)


def error_between(y: np.ndarray, reference: np.ndarray) -> float:
    """max |y − reference| / max |reference|: what every tolerance of the table is held against."""
    size = float(np.max(np.abs(reference)))
    gap = float(np.max(np.abs(y - reference)))
    return gap / size if size > 0 else gap
