"""The package's own problems, each with what makes it hard."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import numpy as np

from gradflow.benchmarking.problem import Problem, Route
from gradflow.data.laws.laws import Gaussian
from gradflow.data.teachers import LinearTeacher, NetworkTeacher
from gradflow.losses import AbstractLoss, exponential, logistic, squared
from gradflow.networks.activations import (
    AbstractActivation,
    leaky_relu,
    relu,
    sigmoid,
    tanh,
)
from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import TwoLayerParams
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.risks.population.population import PopulationRisk
from gradflow.validation import fail


@dataclass(frozen=True)
class _Entry:
    """How a problem is made, and what is known of it before."""

    make: Callable[[], Problem]
    tags: tuple[str, ...]
    quick: bool


_ENTRIES: dict[str, _Entry] = {}


def _problem(*tags: str, quick: bool = False) -> Callable[[Callable[[], Problem]], None]:
    """Register what makes a problem, by the name of the function."""

    def register(make: Callable[[], Problem]) -> None:
        name = make.__name__.strip("_").replace("_", "-")
        _ENTRIES[name] = _Entry(make, tags, quick)

    return register


def problem_names() -> tuple[str, ...]:
    """The problems of ``gradflow bench``, in order."""
    return tuple(_ENTRIES)


def problem_table(pattern: str = "*") -> list[Problem]:
    """The package's problems of which the name or a tag matches a shell-style pattern.

    Raises
    ------
    ValueError
        If none does.
    """
    found = [name for name in _ENTRIES if fnmatch.fnmatch(name, pattern)]
    found = found or [
        name for name, entry in _ENTRIES.items()
        if any(fnmatch.fnmatch(tag, pattern) for tag in entry.tags)
    ]  # fmt: skip
    if not found:
        tags = sorted({tag for entry in _ENTRIES.values() for tag in entry.tags})
        fix = f"choose among {', '.join(_ENTRIES)}, or the tags {', '.join(tags)}"
        raise fail("problems", pattern, "matches no problem and no tag", fix)
    entries = [(name, _ENTRIES[name]) for name in found]
    return [
        replace(entry.make(), name=name, tags=entry.tags, quick=entry.quick)
        for name, entry in entries
    ]


def _random(
    seed: int, n: int, d: int, m: int, activation: AbstractActivation, loss: AbstractLoss,
    scale: float,
) -> tuple[EmpiricalRisk, TwoLayerParams]:  # fmt: skip
    """Gaussian inputs with Gaussian targets or linearly separable labels, a Gaussian start."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = rng.normal(size=n) if loss is squared else np.sign(X @ rng.normal(size=d))
    net = TwoLayer(d, m, activation)
    return EmpiricalRisk(net, loss, X, y), net.init(jax.random.key(seed), scale)


@_problem("smooth", quick=True)
def _smooth() -> Problem:
    risk, start = _random(0, 20, 3, 6, tanh, squared, 0.5)
    about = "tanh, 20 data in 3-d, 6 neurons, squared loss"
    return Problem("smooth", risk, start, 20.0, about=about)


@_problem("kinked", quick=True)
def _kinked() -> Problem:
    risk, start = _random(1, 12, 3, 5, relu, squared, 0.5)
    about = "ReLU, 12 data in 3-d, 5 neurons, squared loss: crossings and slides"
    return Problem("kinked", risk, start, 10.0, about=about)


@_problem("kinked")
def _kinked_small() -> Problem:
    risk, start = _random(11, 5, 2, 2, relu, squared, 0.5)
    about = "ReLU, 5 data in 2-d, 2 neurons, a slide from t = 0.24: small enough for every solver"
    return Problem("kinked-small", risk, start, 6.0, about=about)


@_problem("kinked", "stiff")
def _kinked_rest() -> Problem:
    risk, start = _random(1, 12, 3, 5, relu, squared, 0.5)
    about = "the flow of 'kinked' until it is stiff"
    return Problem("kinked-rest", risk, start, 1e3, about=about)


@_problem("kinked")
def _kinks_40() -> Problem:
    rng = np.random.default_rng(0)
    n, d, m = 40, 10, 20
    v = rng.normal(size=d)
    rng.normal(size=(n, d))  # a first draw of data, which is not used
    X = rng.normal(size=(n, d))
    inner, outer = 0.1 * rng.normal(size=(m, d)), 0.1 * rng.choice([-1, 1], size=m)
    net = TwoLayer(d, m, leaky_relu(0.1))
    risk = EmpiricalRisk(net, exponential, X, np.sign(X @ v), reduction="sum")
    about = "leaky ReLU, 40 data in 10-d, 20 neurons, exponential loss: 178 surfaces met"
    start = net.params(inner, outer)
    return Problem("kinks-40", risk, start, 0.1444, about=about)


@_problem("kinked", "late phase")
def _late() -> Problem:
    risk, start = _random(3, 12, 3, 6, leaky_relu(0.1), logistic, 0.3)
    about = "leaky ReLU, 12 separable data in 3-d, 6 neurons, logistic loss, far out"
    return Problem("late", risk, start, 1e6, about=about)


@_problem("smooth", "stiff", quick=True)
def _stiff() -> Problem:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(1000, 2))
    V, b = rng.normal(size=(4, 2)), rng.normal(size=4)
    net = TwoLayer(2, 5, sigmoid)
    risk = EmpiricalRisk(net, squared, X, (1 / (1 + np.exp(-X @ V.T))) @ b)
    about = "sigmoid student of 5 neurons, teacher of 4, 1000 data in 2-d: a stiff late phase"
    routes = Route("scipy-radau-jac", 1e-12), Route("scipy-lsoda-jac", 1e-12)
    start = net.init(jax.random.key(1), 0.5)
    return Problem("stiff", risk, start, 1e4, about=about, routes=routes)


@_problem("smooth", "saddle", quick=True)
def _saddle() -> Problem:
    risk, start = _random(2, 20, 3, 4, tanh, squared, 1e-30)
    about = "tanh, a start of 1e-30: the time at which it leaves the saddle"
    # (Radau at 1e-12 takes 15 s, ten times as long, and nothing here is that accurate)
    routes = Route("scipy-radau-jac", 1e-10), Route("scipy-dop853", 1e-13)
    return Problem("saddle", risk, start, 300.0, about=about, routes=routes)


@_problem("kinked", "saddle")
def _saddle_kinked() -> Problem:
    risk, start = _random(2, 12, 3, 4, leaky_relu(0.1), squared, 1e-30)
    about = "leaky ReLU, a start of 1e-30"
    return Problem("saddle-kinked", risk, start, 220.0, about=about)


@_problem("smooth", "population", "late phase")
def _population() -> Problem:
    net = TwoLayer(3, 2, relu, outer="fixed")
    risk = PopulationRisk(
        net, logistic, Gaussian(3), teacher=LinearTeacher(np.array([0.0, 0.0, 1.0]))
    )
    inner = np.array([[0.6, 0.1, -0.8], [0.5, -0.3, 0.4]])
    start = net.params(inner=inner, outer=np.array([1.0, -1.0]))
    about = "two ReLU neurons on Gaussian inputs, logistic loss, linear teacher"
    return Problem("population", risk, start, 1e6, about=about)


@_problem("smooth", "population", "teacher-student")
def _teacher_student() -> Problem:
    rng = np.random.default_rng(5)
    d, teachers, m = 10, 3, 6
    V = rng.normal(size=(teachers, d)) / np.sqrt(d)
    teacher_net = TwoLayer(d, teachers, relu)
    teacher = NetworkTeacher(teacher_net, teacher_net.params(V, np.ones(teachers)))
    net = TwoLayer(d, m, relu)
    risk = PopulationRisk(net, squared, Gaussian(d), teacher=teacher)
    about = "6 ReLU students of 3 ReLU teachers on Gaussian inputs in 10-d, exact risk"
    start = net.init(jax.random.key(5), 0.3)
    return Problem("teacher-student", risk, start, 100.0, about=about)


@_problem("smooth", "large")
def _large() -> Problem:
    risk, start = _random(6, 300, 20, 40, tanh, squared, 0.3)
    about = "tanh, 300 data in 20-d, 40 neurons"
    return Problem("large", risk, start, 30.0, about=about)


@_problem("kinked", "large")
def _large_kinked() -> Problem:
    risk, start = _random(7, 120, 15, 40, leaky_relu(0.1), logistic, 0.1)
    about = "leaky ReLU, 120 data in 15-d, 40 neurons, logistic loss"
    return Problem("large-kinked", risk, start, 5.0, about=about)
