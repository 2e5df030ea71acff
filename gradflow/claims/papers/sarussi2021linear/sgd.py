r"""SGD fits what a linear teacher labels: a bound on the summed derivatives, at every step.

Batch-1 SGD, :math:`W_{t+1}=W_t+\eta|\ell'_t|\,y_t\nabla N_{W_t}(x_t)`, from :math:`W_0`,
:math:`R_0=\|W_0\|_F`, on data with :math:`y_iw^*\cdot x_i\ge1` and
:math:`R_x=\max_i\|x_i\|`. For every T

.. math::
    \sum_{t<T}|\ell'_t|\le\frac{\sqrt{2k}\,\|w^*\|}{2kv\alpha\eta}
    \Big(R_0+\sqrt{R_0^2+2c\,\eta T+2k\eta^2v^2R_x^2\textstyle\sum_{t<T}|\ell'_t|^2}\Big),
    \qquad c=\max_z\frac{z}{1+e^z}.

*Growth of the norm.* :math:`\|W_{t+1}\|^2=\|W_t\|^2+2\eta|\ell'_t|y_t\langle W_t,\nabla N\rangle
+\eta^2|\ell'_t|^2\|\nabla N\|^2`. N is homogeneous of degree 1 in W, so
:math:`y_t\langle W_t,\nabla N\rangle=z_t`, the margin, and :math:`|\ell'_t|z_t=z_t/(1+e^{z_t})\le
c`. The slopes are at most 1, so :math:`\|\nabla N\|^2\le2kv^2R_x^2`.

*Growth along the teacher.* For :math:`W^*=(w^*,\dots,-w^*,\dots)` every neuron adds
:math:`v\varphi'y_tw^*\cdot x_t\ge v\alpha`, so :math:`\langle W_T,W^*\rangle\ge-R_0\|W^*\|+2kv
\alpha\eta\sum|\ell'_t|`; and :math:`\langle W_T,W^*\rangle\le\|W_T\|\|W^*\|` with
:math:`\|W^*\|=\sqrt{2k}\|w^*\|` (Cauchy-Schwarz).

*The constant.* At the maximum :math:`1+e^z=ze^z`, so :math:`(z-1)e^{z-1}=e^{-1}` and
:math:`c=e^{-z}=z-1=\mathcal W(1/e)=0.27846\ldots`, Lambert's function; the source's form rounds it
up to 0.2785.

With η bounded the right side is :math:`O(\sqrt T)`, so the mean of :math:`|\ell'_t|` falls to 0.
The argument is that of `brutzkus2018sgd` for the hinge loss. Source: `sarussi2021linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import lambertw

import gradflow as gf
from gradflow.claims import Bound, Claim, Control, Lab, Measurement
from gradflow.claims.instances import several
from gradflow.claims.papers.sarussi2021linear import PAPER
from gradflow.claims.papers.sarussi2021linear.setting import (
    EPS,
    SOURCE,
    Student,
    Students,
    random_student,
    setting,
    student,
)
from gradflow.validation import check_choice, check_integer, check_positive, fail

#: max_z z/(1 + e^z).
LARGEST_PULL = float(lambertw(np.exp(-1.0)).real)
STEPS = 4096


@dataclass(frozen=True)
class Run:
    """|ℓ'_t| of SGD, t = 0 … T-1."""

    pull: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Σ_{t<T} |ℓ'_t|, T = 1 …."""
        return np.cumsum(self.pull)

    @property
    def squares(self) -> np.ndarray:
        """Σ_{t<T} |ℓ'_t|², T = 1 …."""
        return np.cumsum(self.pull**2)


@dataclass(frozen=True)
class Schedule:
    """How SGD is run: η, the number of steps, the seed, and how data are drawn."""

    step_size: float
    steps: int
    seed: int
    sampling: str

    @property
    def key(self) -> jax.Array:
        """The random key of the run."""
        return jax.random.key(self.seed)


def drawn(one: Student, how: Schedule) -> np.ndarray:
    """Indices of the data that `gradflow.descend` draws with batch 1, shape (steps,)."""
    n = len(one.labels)
    if how.sampling == "independent":
        draw = jax.vmap(lambda t: jax.random.randint(jax.random.fold_in(how.key, t), (1,), 0, n))
        return np.asarray(draw(np.arange(how.steps)))[:, 0]
    order = jax.vmap(lambda e: jax.random.permutation(jax.random.fold_in(how.key, e), n))
    return np.asarray(order(np.arange(-(-how.steps // n)))).ravel()[: how.steps]


def sgd(lab: Lab, one: Student, how: Schedule) -> Run:
    """Batch-1 SGD by `gradflow.descend`; |ℓ'_t| from its states and draws."""

    def build() -> Run:
        run = gf.descend(
            one.risk, one.params, step_size=how.step_size, steps=how.steps, batch=1,
            key=how.key, sampling=how.sampling, throw=True,
        )  # fmt: skip
        at = drawn(one, how)
        inner = np.asarray(run.params.inner)[:-1]
        return Run(_pull(np.einsum("tjd,td->tj", inner, one.X[at]), one, one.y[at]))

    return lab.get(("sgd", one, how), build)


def sgd_again(lab: Lab, one: Student, how: Schedule) -> Run:
    """The same with gradients by hand, step by step."""

    def build() -> Run:
        W, a, pull = one.W, one.a, np.empty(how.steps)
        for t, i in enumerate(drawn(one, how)):
            x, y = one.X[i], one.y[i]
            pre = W @ x
            pull[t] = _pull(pre, one, y)
            slopes = np.where(pre > 0, 1.0, one.slope)
            W = W + how.step_size * pull[t] * y * (a * slopes)[:, None] * x
        return Run(pull)

    return lab.get(("sgd again", one, how), build)


def _pull(pre: np.ndarray, one: Student, y: ArrayLike) -> np.ndarray:
    """|ℓ'| = 1/(1 + e^z) at pre-activations of shape (..., m)."""
    z = y * (np.where(pre > 0, pre, one.slope * pre) @ one.a)
    return np.exp(-np.logaddexp(0, z))


def bound_of(one: Student, how: Schedule, run: Run, slope: float | None = None) -> np.ndarray:
    """The bound at T = 1 … steps (``slope`` in the place of α)."""
    k, v, eta = one.half, one.v, how.step_size
    slope = one.slope if slope is None else slope
    start = float(np.linalg.norm(one.W))
    reach = float(np.max(np.linalg.norm(one.X, axis=1)))
    T = np.arange(1, how.steps + 1)
    # (no finite bound where α = 0 or nothing separates; hypotheses exclude both)
    scale = 2 * k * v * slope * eta * one.svm.margin
    if scale == 0:
        return np.full(how.steps, np.inf)
    grown = start**2 + 2 * LARGEST_PULL * eta * T + 2 * k * (eta * v * reach) ** 2 * run.squares
    return np.sqrt(2 * k) * (start + np.sqrt(grown)) / scale


def sgd_bound(
    some: Students,
    *,
    step_size: float = 0.5,
    steps: int = STEPS,
    seeds: int | Sequence[int] = (0, 1),
    sampling: str = "reshuffled",
    id: str,
    name: str = "given data",
    control: str = "sharp",
) -> Bound:
    """The bound at every T.

    Parameters
    ----------
    some : Student or sequence of Student
    step_size : float
        η.
    steps : int
    seeds : int or sequence of int
        Of the draws.
    sampling : str
        reshuffled or independent, as for `gradflow.descend`.
    name : str
        Of the data, for the title.
    control : str
        "sharp": the bound 5 % beyond the sharpest factor; "slope": α replaced by 1, as if no neuron
        were ever on its flat side (it must fail, so use it with a start that is).
    """
    some = several("some", some, Student)
    eta, steps = check_positive("step_size", step_size), check_integer("steps", steps, minimum=1)
    check_choice("sampling", sampling, ("reshuffled", "independent"))
    check_choice("control", control, ("sharp", "slope"))
    seeds = (seeds,) if isinstance(seeds, int) else tuple(seeds)
    if not seeds:
        raise fail("seeds", seeds, "is empty", "pass at least one seed")
    runs = [
        (one, Schedule(eta, steps, check_integer("seeds", s, minimum=0), sampling))
        for one in some
        for s in seeds
    ]

    def measure(lab: Lab) -> Measurement:
        coarse, fine = (
            np.concatenate([run(lab, one, how).total for one, how in runs])
            for run in (sgd_again, sgd)
        )
        labels = [f"T={t + 1}, seed {how.seed}, {one}" for one, how in runs for t in range(steps)]
        return Measurement.from_solves(coarse, fine, extra=steps * EPS * fine, labels=labels)

    def bound(lab: Lab, factor: float, slope: float | None = None) -> Measurement:
        coarse, fine = (
            np.concatenate([bound_of(one, how, run(lab, one, how), slope) for one, how in runs])
            for run in (sgd_again, sgd)
        )
        return Measurement.from_solves(factor * coarse, factor * fine, extra=steps * EPS * fine)

    def sharp(lab: Lab) -> float:
        again = [(sgd_again(lab, one, how), one, how) for one, how in runs]
        return max(float(np.max(run.total / bound_of(one, how, run))) for run, one, how in again)

    flat = Control.replacing(
        "the bound with 1 in the place of α",
        bound=lambda lab, factor: bound(lab, factor, slope=1.0),
    )
    return Bound(
        **PAPER.words("sgd-{which}", id, name=name),
        hypotheses=setting(some),
        measure=measure,
        bound=bound,
        sharp=sharp,
        side="upper",
        control=Control.perturbed(1.05) if control == "sharp" else flat,
    )


def reluctant(data: Any, half: int = 10, *, size: float = 20.0, slope: float = 0.3) -> Student:
    r"""A start whose neurons are all on their flat side: what makes the factor 1/α necessary.

    All labels become +1 (:math:`x_i\to y_ix_i`), :math:`w_j=-s\,\hat w` and :math:`u_j` a
    thousandth of that, with the SVM's direction :math:`\hat w` and the size s.
    """
    X, y = data
    X = np.asarray(y)[:, None] * np.asarray(X)
    along = student(X, np.ones(len(X)), np.ones((2, X.shape[1]))).svm.direction
    W = -check_positive("size", size) * np.repeat([1.0, 1e-3], half)[:, None] * along
    return student(X, np.ones(len(X)), W, slope=slope)


def _students(data: Sequence[Any], scale: float) -> list[Student]:
    """Data of one shape, so that all runs share a compiled program."""
    return [random_student(one, 10, scale, seed=s) for s, one in enumerate(data)]


def _balls() -> list[gf.datasets.Dataset]:
    return [gf.datasets.two_balls(100, seed=s) for s in range(2)]


def _gaussians() -> list[gf.datasets.Dataset]:
    return [gf.datasets.separable_gaussians(100, seed=s) for s in range(2)]


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "sgd-two-balls": lambda: sgd_bound(
        _students(_balls(), 0.005), id=f"{SOURCE}/sgd-two-balls", name="two balls"
    ),
    "sgd-gaussians": lambda: sgd_bound(
        _students(_gaussians(), 0.5),
        sampling="independent",
        id=f"{SOURCE}/sgd-gaussians",
        name="separable Gaussians",
    ),
    "sgd-flat-side": lambda: sgd_bound(
        reluctant(_balls()[0]),
        seeds=0,
        control="slope",
        id=f"{SOURCE}/sgd-flat-side",
        name="a start on the flat side",
    ),
}
