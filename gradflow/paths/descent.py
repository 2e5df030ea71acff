"""Gradient descent and batch SGD on any risk: ``θ_{n+1} = θ_n − η_n g_n``.

Gradient descent takes ``g_n = ∇L(θ_n)``, which is the explicit Euler method for the flow at the
times ``t_n = Σ_{k<n} η_k``; SGD takes the gradient on a batch drawn afresh at every step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from gradflow.flows.charts.conic import METRICS, conic_metric_refusal, norm_dependent
from gradflow.losses import AbstractLoss
from gradflow.networks.abstract import AbstractNetwork, check_key
from gradflow.paths.adapting import adapt
from gradflow.paths.events import NO_EVENTS, Events
from gradflow.paths.path import AbstractPath
from gradflow.paths.steps import (
    RelativeChange,
    Schedule,
    choose_themselves,
    sizes_of,
    sizes_until,
    times_of,
)
from gradflow.risks.base import AbstractRisk
from gradflow.risks.empirical import EmpiricalRisk, data_gradient
from gradflow.risks.population.population import PopulationRisk
from gradflow.validation import check_choice, check_integer, check_positive, fail

#: Steps per compiled call at most, and floats in the buffer that keeps the state after each.
_MOST_STEPS = 4096
_BUFFER_FLOATS = 4_000_000


@dataclass(frozen=True, eq=False)
class Descent(AbstractPath):
    """The iterates of a gradient descent: a path, time first.

    Attributes
    ----------
    risk : AbstractRisk
        What was descended on.
    step : (T,) int array
        The saved iterations n: 0, every ``save_every``-th, and the last.
    t, log_t : (T,) arrays
        Physical time ``t_n = Σ_{k<n} η_k`` at which the flow is compared with θ_n; ln t, −inf at
        the start.
    params : pytree
        The saved θ_n, stacked along a new first axis of length T.
    step_size : (N,) array
        η_0 … η_{N−1} of the steps taken.
    result : {"completed", "diverged", "max_steps", "stalled"}
        "diverged": θ left the floats; what came before is all here, ``final`` is the last finite θ.
        "max_steps": the steps did not reach ``until``. "stalled": no step that moves θ keeps the
        gradient's change small (`gf.steps.relative_change`).
    message : str
        What happened and, after a failure, the remedy.
    stats : mapping
        steps, gradients (gradient evaluations), samples (per-datum gradients of SGD, else 0),
        compile_seconds, run_seconds.
    """

    kind: ClassVar[str] = "descent"
    arrays: ClassVar[tuple[str, ...]] = ("step_size",)
    told: ClassVar[tuple[str, ...]] = ("result", "message", "stats")

    risk: AbstractRisk
    step: np.ndarray
    t: np.ndarray
    log_t: np.ndarray
    params: PyTree
    step_size: np.ndarray
    result: Literal["completed", "diverged", "max_steps", "stalled"]
    message: str
    stats: Mapping[str, float]
    exact: Mapping[str, np.ndarray] = field(default_factory=dict)
    events: Events = NO_EVENTS
    energy: None = None

    @property
    def initial(self) -> PyTree:  # type: ignore[override]
        """θ_0."""
        return jax.tree.map(lambda leaf: leaf[0], self.params)

    @property
    def final(self) -> PyTree:
        """The last saved θ."""
        return jax.tree.map(lambda leaf: leaf[-1], self.params)

    def coordinates(self) -> dict[str, tuple[np.ndarray, str]]:
        return {**super().coordinates(), "step": (self.step, "number of the step")}

    def about(self) -> dict[str, object]:
        stats = {f"stats_{name}": float(value) for name, value in self.stats.items()}
        return {"result": self.result, "message": self.message, **stats}


class _FullGradient(eqx.Module):
    """g_n = ∇L(θ_n)."""

    risk: AbstractRisk

    def start(self) -> PyTree:
        return jnp.zeros((0,), dtype=jnp.float64)

    def __call__(self, theta: PyTree, n: jax.Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        return self.risk.gradient(theta), memory


class _FreshBatch(eqx.Module):
    """g_n on a batch of independent draws ``risk.sample(key_n, batch)``."""

    risk: EmpiricalRisk | PopulationRisk
    key: jax.Array
    factor: jax.Array
    batch: int = eqx.field(static=True)

    def start(self) -> PyTree:
        return jnp.zeros((0,), dtype=jnp.float64)

    def __call__(self, theta: PyTree, n: jax.Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        # The key depends on n alone, so chunking and saving do not change a single bit.
        inputs, targets = self.risk.sample(jax.random.fold_in(self.key, n), self.batch)
        return _batch_gradient(self, theta, inputs, targets), memory


class _Reshuffled(eqx.Module):
    """g_n on consecutive batches of a fresh random order of the data in every epoch."""

    risk: EmpiricalRisk
    key: jax.Array
    factor: jax.Array
    batch: int = eqx.field(static=True)

    def start(self) -> PyTree:
        return jnp.arange(self.risk.n)

    def __call__(self, theta: PyTree, n: jax.Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        per_epoch = self.risk.n // self.batch
        epoch, place = n // per_epoch, n % per_epoch
        order = jax.lax.cond(
            place == 0,
            lambda: jax.random.permutation(jax.random.fold_in(self.key, epoch), self.risk.n),
            lambda: memory,
        )
        index = jax.lax.dynamic_slice(order, (place * self.batch,), (self.batch,))
        inputs, targets = self.risk.X[index], self.risk.y[index]
        offset = None if self.risk.offset is None else self.risk.offset[index]
        if self.risk.weights is None:
            return _batch_gradient(self, theta, inputs, targets, offset), order
        # ω_i n/Σω makes the mean over an epoch that of the risk.
        share = self.risk.weights * (self.risk.n / (jnp.sum(self.risk.weights) * self.batch))
        gradient = data_gradient(
            self.risk.net, self.risk.loss, theta, inputs, targets, "sum", share[index], offset
        )
        return jax.tree.map(lambda g: self.factor * g, gradient), order


class _NormDependent(eqx.Module):
    """‖w_k‖ times the rows of another rule's gradient."""

    rule: Any

    def start(self) -> PyTree:
        return self.rule.start()

    def __call__(self, theta: PyTree, n: jax.Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        gradient, memory = self.rule(theta, n, memory)
        return norm_dependent(theta, gradient), memory


def _batch_gradient(
    rule: _FreshBatch | _Reshuffled, theta: PyTree, inputs: jax.Array, targets: jax.Array,
    offset: jax.Array | None = None,
) -> Any:  # fmt: skip
    net, loss = rule.risk.net, rule.risk.loss
    gradient = data_gradient(net, loss, theta, inputs, targets, offset=offset)
    return jax.tree.map(lambda g: rule.factor * g, gradient)


@eqx.filter_jit
def _advance(
    rule: Any,
    theta: PyTree,
    memory: PyTree,
    eta: jax.Array,
    first: jax.Array,
    count: jax.Array,
    every: jax.Array,
) -> tuple[Array, PyTree, PyTree, PyTree]:
    """Take up to ``count`` steps from step ``first`` and keep θ at every multiple of ``every``.

    One program serves every number of steps and every saving rhythm: both are runtime numbers and
    only the length of ``eta`` (the buffer) is static. Row j of the buffer is overwritten until the
    j-th saving step is reached, and is complete from then on.
    """
    rows = jax.tree.map(lambda leaf: jnp.zeros((eta.shape[0], *leaf.shape), leaf.dtype), theta)
    base = first // every

    def unfinished(carry: PyTree) -> jax.Array:
        i, _, _, _, finite = carry
        return (i < count) & finite

    def step(carry: PyTree) -> PyTree:
        i, old, memory, rows, _ = carry
        n = first + i
        gradient, memory = rule(old, n, memory)
        new = jax.tree.map(lambda p, g: p - eta[i] * g, old, gradient)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(new)]))
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        # (a failed step touches a row that is not complete, hence not read)
        rows = jax.tree.map(lambda r, k: r.at[n // every - base].set(k), rows, kept)
        return i + jnp.where(finite, 1, 0), kept, memory, rows, finite

    start = (jnp.zeros((), jnp.int64), theta, memory, rows, jnp.array(True))
    taken, theta, memory, rows, _ = jax.lax.while_loop(unfinished, step, start)
    return taken, theta, memory, rows


def _rule(risk: Any, batch: int | None, key: jax.Array | None, sampling: str) -> Any:
    """Return what computes g_n."""
    if batch is None:
        if key is not None:
            raise fail("key", key, "is given without a batch", "pass batch=..., or no key")
        return _FullGradient(risk)
    batch = check_integer("batch", batch, minimum=1)
    if key is None:
        raise fail("key", key, "is missing: batches are random", "pass key=jax.random.key(0)")
    key = check_key("key", key)
    if not (
        isinstance(getattr(risk, "net", None), AbstractNetwork)
        and isinstance(getattr(risk, "loss", None), AbstractLoss)
        and callable(getattr(risk, "sample", None))
    ):
        raise fail("batch", batch, f"{risk.name} has no data to sample", "pass batch=None")
    # A batch mean estimates the mean risk; a sum is so many times as large.
    factor = jnp.asarray(risk.mass)
    if sampling == "independent":
        return _FreshBatch(risk, key, factor, batch)
    if not isinstance(risk, EmpiricalRisk):
        raise fail("sampling", sampling, "needs finite data", "pass sampling='independent'")
    if batch > risk.n:
        problem = f"is larger than the {risk.n} data"
        raise fail("batch", batch, problem, f"pass batch <= {risk.n}")
    return _Reshuffled(risk, key, factor, batch)


def descend(
    risk: AbstractRisk,
    params: PyTree,
    *,
    step_size: Schedule,
    steps: int | None = None,
    until: float | None = None,
    batch: int | None = None,
    key: jax.Array | None = None,
    sampling: str = "independent",
    metric: str = "euclidean",
    save_every: int = 1,
    throw: bool = False,
) -> Descent:
    """Descend: ``θ_{n+1} = θ_n − η_n g_n``, n = 0 … steps−1.

    Parameters
    ----------
    risk : AbstractRisk
        L. Frozen parameters do not move.
    params : pytree
        θ_0: parameters of ``risk.net``, or a pytree for a `FunctionRisk`. Zero weights and NaN are
        refused, as for a flow.
    step_size : float, (steps,) array, callable or ``gf.steps...``
        η > 0; the array η_0 … ; a function n ↦ η_n of the step index, called once per step; or
        ``gf.steps.relative_change(c)``, which takes each step so long that the gradient changes by
        the part c of it.
    steps : int, optional
        Number of steps, at least 1; with ``until`` the most that are taken, 1,000,000 by default.
    until : float, optional
        Stop at time Σ η = ``until``, with a last step that is as long as what is left.
    batch : int, optional
        Batch size of SGD; default: the full gradient ∇L(θ_n).
    key : jax.Array, optional
        Random key, needed with ``batch``; the same key gives the same bits.
    sampling : {"independent", "reshuffled"}
        "independent": every batch is ``risk.sample(key_n, batch)``, drawn afresh: new data from the
        law of a population risk; uniformly *with* replacement from finite data. Given θ_n, the
        mean of g_n is ∇L(θ_n). "reshuffled" (finite data): *without* replacement; every epoch of
        ⌊N/batch⌋ steps runs through a fresh random order of the N data (the last N mod batch of
        the order are left out of that epoch).
    metric : {"euclidean", "conic"}
        "conic" (a two-layer net with fixed outer weights): the norm-dependent step
        ``w_k ← w_k − η‖w_k‖ g_k``, explicit Euler for the conic flow
        (:mod:`gradflow.flows.charts.conic`; source: `akiyama2021learnability`).
    save_every : int
        Keep θ_0, every ``save_every``-th iterate and the last.
    throw : bool
        Raise a ``RuntimeError`` on failure instead of returning what was reached.

    Returns
    -------
    Descent
        With ``result`` "completed"; "diverged" when θ became NaN or infinite, and others: a failure
        says so and keeps what came before.

    Raises
    ------
    ValueError
        For bad arguments; the message names the argument, its value and the fix.
    """
    if not isinstance(risk, AbstractRisk):
        raise fail("risk", risk, "is not a risk", "pass gf.EmpiricalRisk(...) or another risk")
    steps, end = _horizon(steps, until)
    every = check_integer("save_every", save_every, minimum=1)
    sampling = check_choice("sampling", sampling, ("independent", "reshuffled"))
    check_choice("metric", metric, METRICS)
    rule = _rule(risk, batch, key, sampling)
    if choose_themselves(step_size) and batch is not None:
        raise fail(
            "step_size", step_size, "compares gradients of two draws of data, which differ anyway",
            "leave batch out, or pass sizes",
        )  # fmt: skip
    if metric == "conic":
        reason = conic_metric_refusal(risk)
        if reason is not None:
            raise fail("metric", metric, reason, "leave metric out")
        rule = _NormDependent(rule)
    theta = risk.as_params(params)
    if risk.net is not None:
        theta = risk.net.check_start(theta)

    if choose_themselves(step_size):
        kept = _by_choice(rule, theta, step_size, steps, end, every)
    else:
        known = until is None
        sizes = sizes_of(step_size, steps) if known else sizes_until(step_size, steps, end)
        kept = _by_sizes(rule, theta, sizes, end, every)
    if throw and kept.result != "completed":
        raise RuntimeError(kept.message)
    t = times_of(kept.sizes)[kept.step] if kept.sizes.size else np.zeros(1)
    if until is not None and kept.result == "completed":
        t[-1] = end  # (the sum of the steps, rounded, may be off in the last bit)
    with np.errstate(divide="ignore"):
        log_t = np.log(t)
    return Descent(
        risk=risk, step=kept.step, t=t, log_t=log_t, params=kept.params, step_size=kept.sizes,
        result=kept.result, message=kept.message,
        stats={
            "steps": kept.sizes.size,
            "gradients": kept.gradients,
            "samples": 0 if batch is None else batch * kept.gradients,
            "compile_seconds": kept.seconds[0],
            "run_seconds": kept.seconds[1],
        },
    )  # fmt: skip


def _horizon(steps: int | None, until: float | None) -> tuple[int, float]:
    """The most steps, and the time at which to stop (inf without one)."""
    if steps is None and until is None:
        raise fail("steps", steps, "is missing, and so is until", "pass steps=..., or until=...")
    end = np.inf if until is None else check_positive("until", until)
    return check_integer("steps", 1_000_000 if steps is None else steps, minimum=1), end


class _Descended(NamedTuple):
    """What a descent came to."""

    step: np.ndarray
    params: PyTree
    sizes: np.ndarray
    gradients: int
    result: Any
    message: str
    seconds: tuple[float, float]


def _by_choice(
    rule: Any, theta: PyTree, how: RelativeChange, steps: int, end: float, every: int
) -> _Descended:
    """By steps that choose themselves."""
    told = adapt(rule, theta, how, steps, end, every, _chunk(theta))
    done = told.sizes.size
    said = {
        "completed": f"{done} steps of gradient descent",
        "max_steps": _too_few(done, end, "pass more steps, or a larger change"),
        "stalled": f"stalled after {done} steps: however short the step, the gradient changes by "
        f"more than {how.change:g} of itself; it jumps here (a kink), or is rounding noise",
        "diverged": "the gradient at the start is not finite; pass another start",
    }
    return _Descended(
        told.step, told.params, told.sizes, told.attempts + 1, told.ended, said[told.ended],
        (told.compile_seconds, told.run_seconds),
    )  # fmt: skip


def _by_sizes(rule: Any, theta: PyTree, how: np.ndarray, end: float, every: int) -> _Descended:
    """By steps of known sizes."""
    kept = _iterate(rule, theta, how, every)
    seconds, sizes = (kept.compile_seconds, kept.run_seconds), how[: kept.done]
    result, message = "completed", f"{kept.done} steps of gradient descent"
    if kept.diverged:
        result, message = "diverged", (
            f"diverged at step {kept.done} of {how.size}: the parameters left the floats; "
            f"pass a smaller step_size (there it was {how[kept.done]:.6g})"
        )  # fmt: skip
    elif np.isfinite(end) and times_of(sizes)[-1] < end * (1 - 8 * np.finfo(float).eps):
        result = "max_steps"
        message = _too_few(kept.done, end, "pass more steps, or longer ones")
    gradients = kept.done + int(kept.diverged)
    return _Descended(kept.step, kept.params, sizes, gradients, result, message, seconds)


def _chunk(theta: PyTree) -> int:
    """Steps per compiled call."""
    floats = sum(np.size(leaf) for leaf in jax.tree.leaves(theta))
    return int(np.clip(_BUFFER_FLOATS // max(floats, 1), 1, _MOST_STEPS))


def _too_few(done: int, end: float, fix: str) -> str:
    return f"{done} steps did not reach t = {end:g}; {fix}"


class _Kept(NamedTuple):
    """Iterates of a descent: which were kept, how many were taken, and what they cost."""

    step: np.ndarray
    params: PyTree
    done: int
    diverged: bool
    compile_seconds: float
    run_seconds: float


def _iterate(rule: Any, theta: PyTree, sizes: np.ndarray, every: int) -> _Kept:
    """Take the steps in chunks of one compiled program, until the last or until θ diverges."""
    steps, chunk = sizes.size, _chunk(theta)
    if steps < chunk:
        # Few sizes, so that runs of about one length share a program.
        chunk = min(chunk, 1 << (steps - 1).bit_length())

    tick = time.perf_counter()
    memory, rhythm = rule.start(), jnp.asarray(every)
    nothing = jnp.asarray(0)
    jax.block_until_ready(_advance(rule, theta, memory, jnp.zeros(chunk), nothing, nothing, rhythm))
    compile_seconds = time.perf_counter() - tick

    tick = time.perf_counter()
    saved_steps = [np.zeros(1, dtype=np.int64)]
    saved = [jax.tree.map(lambda leaf: np.asarray(leaf)[None], theta)]
    done, diverged = 0, False
    while done < steps and not diverged:
        count = min(chunk, steps - done)
        eta = np.zeros(chunk)
        eta[:count] = sizes[done : done + count]
        first = jnp.asarray(done)
        taken, theta, memory, rows = _advance(
            rule, theta, memory, jnp.asarray(eta), first, jnp.asarray(count), rhythm
        )
        end = done + int(taken)
        diverged = int(taken) < count
        full = np.arange(done // every + 1, end // every + 1) * every
        saved_steps.append(full)
        complete = slice(len(full))
        saved.append(jax.tree.map(lambda leaf, s=complete: np.asarray(leaf[s]), rows))
        done = end
    if done % every:
        saved_steps.append(np.array([done]))
        saved.append(jax.tree.map(lambda leaf: np.asarray(leaf)[None], theta))
    params = jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *saved)
    run_seconds = time.perf_counter() - tick
    step = np.concatenate(saved_steps)
    return _Kept(step, params, done, diverged, compile_seconds, run_seconds)
