"""Gradient descent and SGD against closed forms, the flow, loops and expectations."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.losses import Squared, logistic, squared
from gradflow.networks.activations import leaky_relu, tanh
from gradflow.networks.networks import LinearPredictor, TwoLayer
from gradflow.paths import descent
from gradflow.paths.descent import descend
from gradflow.paths.steps import relative_change
from gradflow.risks.base import AbstractRisk
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.risks.function import FunctionRisk

LAMBDA = np.array([0.5, 1.0, 3.0])


def quadratic(p: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.asarray(LAMBDA) * p * p)


QUARTIC = FunctionRisk(lambda p: jnp.sum(p**4))
QUADRATIC = FunctionRisk(quadratic)
THETA = np.array([1.0, -2.0, 3.0])


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n, 2))
    return X, np.where(X[:, 0] > 0, 1.0, -1.0)


@pytest.mark.parametrize("most", [4, 4096])
@pytest.mark.parametrize(("steps", "save_every"), [(1, 1), (1, 5), (7, 3), (13, 13), (200, 7)])
def test_closed_form_on_a_quadratic(
    steps: int, save_every: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """θ_n = (1 − ηλ)^n θ_0, whatever the chunks and the saving rhythm."""
    monkeypatch.setattr(descent, "_MOST_STEPS", most)
    run = descend(QUADRATIC, THETA, step_size=0.1, steps=steps, save_every=save_every)
    assert run.step.tolist() == sorted({*range(0, steps, save_every), steps})
    expected = (1 - 0.1 * LAMBDA) ** run.step[:, None] * THETA
    np.testing.assert_allclose(run.params, expected, rtol=1e-13)
    np.testing.assert_allclose(run.t, 0.1 * run.step, rtol=1e-15)
    assert np.array_equal(run.final, run.params[-1])
    assert len(run) == len(run.t) == len(run.log_t)
    assert run.result == "completed"
    assert run.risk is QUADRATIC
    assert run.stats["steps"] == run.stats["gradients"] == steps == len(run.step_size)


def test_schedules_agree_with_a_loop() -> None:
    decay = lambda n: 0.2 / (1 + n)
    growing = 0.01 * 1.02 ** np.arange(50)
    for schedule, sizes in ((decay, [decay(n) for n in range(50)]), (growing, growing)):
        run = descend(QUADRATIC, THETA, step_size=schedule, steps=50)
        theta = THETA.copy()
        for eta in sizes:
            theta = theta - eta * LAMBDA * theta
        np.testing.assert_allclose(run.final, theta, rtol=1e-14)
        np.testing.assert_allclose(run.t, np.concatenate([[0.0], np.cumsum(sizes)]), rtol=1e-14)
        assert np.array_equal(run.step_size, sizes)


def test_descent_converges_to_the_flow_with_order_one() -> None:
    flow = np.exp(-LAMBDA) * THETA
    errors = []
    for steps in (100, 200, 400):
        run = descend(QUADRATIC, THETA, step_size=1 / steps, steps=steps, save_every=steps)
        assert run.t[-1] == pytest.approx(1.0, rel=1e-15)
        errors.append(np.max(np.abs(np.asarray(run.final) - flow)))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1.0, atol=0.02)


def test_network_agrees_with_a_loop_and_keeps_frozen_weights(key: jax.Array) -> None:
    net = TwoLayer(2, 3, leaky_relu(0.3), outer="fixed", bias=True)
    risk = EmpiricalRisk(net, logistic, *data(13))
    start = net.init(key, 0.5)
    run = descend(risk, start, step_size=0.2, steps=30, save_every=10)
    theta = start
    for _ in range(30):
        theta = jax.tree.map(lambda p, g: p - 0.2 * g, theta, risk.gradient(theta))
    for found, expected in zip(jax.tree.leaves(run.final), jax.tree.leaves(theta), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert np.array_equal(run.final.outer, start.outer)
    assert run.params.inner.shape == (4, 3, 2)
    assert eqx.tree_equal(jax.tree.map(lambda leaf: leaf[0], run.params), start)


@pytest.mark.parametrize(("save_every", "most"), [(1, 2), (3, 2), (3, 4096), (1000, 4)])
def test_divergence_loses_nothing(
    save_every: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "_MOST_STEPS", most)
    risk = QUARTIC
    run = descend(risk, np.array([1.0]), step_size=1.0, steps=100, save_every=save_every)
    assert run.result == "diverged"
    assert "smaller step_size" in run.message
    thetas = [np.float64(1.0)]
    with np.errstate(over="ignore", invalid="ignore"):
        while np.isfinite(thetas[-1]):
            thetas.append(thetas[-1] - 4 * thetas[-1] ** 3)
    last = len(thetas) - 2
    assert run.step.tolist() == sorted({*range(0, last, save_every), last})
    np.testing.assert_allclose(run.params[:, 0], np.array(thetas)[run.step], rtol=1e-12)
    assert len(run.step_size) == run.stats["steps"] == last
    with pytest.raises(RuntimeError, match="diverged at step"):
        descend(risk, np.array([1.0]), step_size=1.0, steps=100, throw=True, save_every=save_every)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sampling", ["independent", "reshuffled"])
def test_batch_gradients_are_unbiased(sampling: str, reduction: str, key: jax.Array) -> None:
    """The mean first step of many keys is the full gradient, within 4 standard errors."""
    net = TwoLayer(2, 2, tanh)
    risk = EmpiricalRisk(net, squared, *data(13), reduction=reduction)
    start = net.init(key, 1.0)
    keys = jax.random.split(jax.random.key(5), 2000)

    def first_gradient(k: jax.Array) -> jax.Array:
        rule = descent._rule(risk, 4, k, sampling)
        return rule(start, jnp.asarray(0), rule.start())[0].inner

    draws = np.asarray(jax.jit(jax.vmap(first_gradient))(keys))
    error = draws.mean(axis=0) - np.asarray(risk.gradient(start).inner)
    assert np.all(np.abs(error) < 4 * draws.std(axis=0) / np.sqrt(2000))
    assert np.all(draws.std(axis=0) > 0)


@pytest.mark.parametrize("sampling", ["independent", "reshuffled"])
def test_same_key_same_bits_whatever_the_chunks(
    sampling: str, key: jax.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = TwoLayer(2, 3, leaky_relu(0.3))
    risk, start = EmpiricalRisk(net, logistic, *data(13)), net.init(key, 0.5)
    options = {"step_size": 0.1, "steps": 60, "batch": 3, "sampling": sampling}
    run = descend(risk, start, key=key, **options)
    assert eqx.tree_equal(descend(risk, start, key=key, **options).params, run.params)
    assert run.stats["samples"] == 180
    monkeypatch.setattr(descent, "_MOST_STEPS", 16)
    chunked = descend(risk, start, key=key, save_every=4, **options)
    every_fourth = jax.tree.map(lambda leaf: leaf[::4], run.params)
    assert eqx.tree_equal(chunked.params, every_fourth)
    other = descend(risk, start, key=jax.random.key(1), **options)
    assert not eqx.tree_equal(other.final, run.final)


@pytest.mark.parametrize(("n", "batch"), [(12, 3), (13, 5), (7, 1)])
def test_reshuffled_epochs_visit_every_datum_once(n: int, batch: int) -> None:
    """With f(w) = w·x, squared loss at w ~ 0 and targets 2^i, a step records which data it saw."""
    X, y = np.ones((n, 1)), 2.0 ** np.arange(n)
    risk = EmpiricalRisk(LinearPredictor(1), squared, X, y)
    per_epoch = n // batch
    run = descend(
        risk, [1e-30], step_size=1e-9, steps=3 * per_epoch, batch=batch, key=jax.random.key(0),
        sampling="reshuffled",
    )  # fmt: skip
    weights = np.asarray(run.params.weight)[:, 0]
    seen = np.rint(np.diff(weights) * 1e9 * batch + batch * weights[:-1]).astype(int)
    for epoch in range(3):
        sums = seen[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert all(int(s).bit_count() == batch for s in sums)
        assert int(np.bitwise_or.reduce(sums)).bit_count() == per_epoch * batch
    assert len({tuple(seen[e * per_epoch : (e + 1) * per_epoch]) for e in range(3)}) == 3


class GaussianTeacher(AbstractRisk):
    """½E(w·x − v·x)² = ½|w − v|² for x ~ N(0, I): a population risk with fresh samples."""

    net: LinearPredictor
    loss: Squared
    target: jax.Array

    def __call__(self, params: object) -> jax.Array:
        return 0.5 * jnp.sum((params.weight - self.target) ** 2)

    def log(self, params: object) -> jax.Array:
        return jnp.log(self(params))

    def gradient(self, params: object) -> object:
        return jax.grad(self)(params)

    def sample(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        X = jax.random.normal(key, (n, self.net.dim))
        return X, X @ self.target

    @property
    def name(self) -> str:
        return "gaussian teacher"

    def describe(self) -> dict[str, object]:
        return {"risk": "gaussian teacher"}


def test_fresh_batches_of_a_population_risk() -> None:
    """E θ_n = v + (1 − η)^n (θ_0 − v) for SGD with fresh data, as for gradient descent."""
    risk = GaussianTeacher(LinearPredictor(2), squared, jnp.asarray([1.0, -1.0]))
    options = {"step_size": 0.1, "steps": 20, "save_every": 20}
    exact = np.array([1.0, -1.0]) + 0.9**20 * np.array([1.0, 1.0])
    plain = descend(risk, [2.0, 0.0], **options)
    np.testing.assert_allclose(plain.final.weight, exact, rtol=1e-14)
    ends = [
        descend(risk, [2.0, 0.0], batch=4, key=jax.random.key(seed), **options).final.weight
        for seed in range(64)
    ]
    error = np.mean(ends, axis=0) - exact
    assert np.all(np.abs(error) < 4 * np.std(ends, axis=0) / np.sqrt(64))
    with pytest.raises(ValueError, match=r"sampling='reshuffled'.*finite data"):
        descend(risk, [2.0, 0.0], batch=4, key=KEY, sampling="reshuffled", **options)


def test_full_batch_reshuffled_is_gradient_descent(key: jax.Array) -> None:
    net = TwoLayer(2, 3, tanh)
    risk, start = EmpiricalRisk(net, squared, *data(7), reduction="sum"), net.init(key, 0.5)
    plain = descend(risk, start, step_size=0.01, steps=20)
    batched = descend(
        risk, start, step_size=0.01, steps=20, batch=7, key=key, sampling="reshuffled"
    )
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(batched.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def test_one_program_serves_every_length_and_rhythm() -> None:
    traces = []

    def counted(p: jax.Array) -> jax.Array:
        traces.append(1)
        return jnp.sum(p * p)

    risk = FunctionRisk(counted)
    descend(risk, THETA, step_size=0.1, steps=50)
    first = len(traces)
    run = descend(risk, 2 * THETA, step_size=lambda n: 0.1 / (n + 1), steps=61, save_every=9)
    assert len(traces) == first
    assert run.stats["compile_seconds"] < 0.5


NET = LinearPredictor(2)
RISK = EmpiricalRisk(NET, logistic, *data(7))
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step_size": 0.0}, r"step_size=0\.0"),
        ({"step_size": "big"}, "step_size='big'"),
        ({"step_size": np.full(3, 0.1)}, r"step_size=.*shape \(3,\)"),
        ({"step_size": [0.1] * 4 + [-0.1]}, r"step_size\[4\]=.*-0\.1"),
        ({"step_size": lambda n: 1.0 / n if n else 0.0}, r"step_size\(0\)=0\.0"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, r"steps=2\.5"),
        ({"save_every": 0}, "save_every=0"),
        ({"batch": 0, "key": KEY}, "batch=0"),
        ({"batch": 2}, "key=None.*missing"),
        ({"batch": 2, "key": 3}, r"key=3.*jax\.random\.key"),
        ({"key": KEY}, "key=.*without a batch"),
        ({"batch": 8, "key": KEY, "sampling": "reshuffled"}, "batch=8.*7 data"),
        ({"sampling": "sobol"}, "sampling='sobol'"),
        ({"params": [0.0, 0.0]}, "weight=.*zero"),
        ({"params": [np.nan, 0.0]}, "NaN"),
        ({"params": [1.0]}, r"params=.*shape \(1,\)"),
        ({"risk": "risk"}, "risk='risk'"),
        ({"risk": QUADRATIC, "params": THETA, "batch": 1, "key": KEY}, "batch=1.*no data"),
    ],
)
def test_bad_input(options: dict[str, object], words: str) -> None:
    arguments = {"risk": RISK, "params": [1.0, 0.0], "step_size": 0.1, "steps": 5} | options
    risk, params = arguments.pop("risk"), arguments.pop("params")
    with pytest.raises(ValueError, match=f"(?s){words}"):
        descend(risk, params, **arguments)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reshuffled_batches_honour_sample_weights(reduction):
    """Over one epoch of single data the steps add up to one step on the weighted risk."""
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(6, 3)), rng.normal(size=6)
    net = LinearPredictor(3)
    weights = rng.uniform(0.5, 3.0, size=6)
    risk = EmpiricalRisk(net, squared, X, y, reduction=reduction, weights=weights)
    start = net.params([0.3, -0.2, 0.5])
    step = 1e-8  # (what six steps differ by from one is of the order of its square)
    path = descend(
        risk, start, step_size=step, steps=6, batch=1, sampling="reshuffled", key=jax.random.key(0)
    )
    moved = np.asarray(path.final.weight) - np.asarray(start.weight)
    expected = -6 * step * np.asarray(risk.gradient(start).weight)
    assert moved == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (0.3, [0.3, 0.3, 0.3, 0.1]),
        (0.25, [0.25] * 4),
        (np.array([0.5, 0.4, 0.3, 0.2]), [0.5, 0.4, 0.1]),
        (lambda n: 0.6 / (n + 1), [0.6, 0.3, 0.1]),
        (7.0, [1.0]),
    ],
    ids=["float", "divides", "array", "callable", "longer than all"],
)
def test_the_last_step_ends_at_until(schedule, expected) -> None:
    steps = len(schedule) if isinstance(schedule, np.ndarray) else None
    run = descend(QUADRATIC, THETA, step_size=schedule, until=1.0, steps=steps)
    np.testing.assert_allclose(run.step_size, expected, rtol=1e-14)
    assert (run.result, run.t[-1]) == ("completed", 1.0)
    np.testing.assert_allclose(
        run.final, np.prod(1 - np.array(expected)[:, None] * LAMBDA, axis=0) * THETA, rtol=1e-12
    )


def test_too_few_steps_say_so() -> None:
    run = descend(QUADRATIC, THETA, step_size=0.1, until=1.0, steps=5)
    assert run.result == "max_steps"
    assert "5 steps did not reach t = 1" in run.message
    with pytest.raises(RuntimeError, match="did not reach"):
        descend(QUADRATIC, THETA, step_size=0.1, until=1.0, steps=5, throw=True)


@pytest.mark.parametrize("save_every", [1, 7])
def test_relative_change_is_kept_as_a_loop_keeps_it(
    save_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps as a plain loop that takes back what changes the gradient by more than c."""
    monkeypatch.setattr(descent, "_MOST_STEPS", 16)
    how = relative_change(0.02, first=0.5)
    run = descend(QUADRATIC, THETA, step_size=how, until=0.7, save_every=save_every)
    theta, eta, t, sizes, rows, tried = THETA, 0.5, 0.0, [], [THETA], 0
    while t < 0.7 - 1e-15:
        last = eta >= 0.7 - t
        taken = min(eta, 0.7 - t)
        new = theta - taken * LAMBDA * theta
        change = np.linalg.norm(LAMBDA * (new - theta)) / np.linalg.norm(LAMBDA * theta)
        tried += 1
        if change > 0.02:
            eta = 0.1 * taken
            continue
        theta, t = new, t + taken
        sizes.append(taken)
        rows.append(theta)
        if change <= 0.01 and not last:
            eta *= 1.1
    np.testing.assert_allclose(run.step_size, sizes, rtol=1e-9)
    np.testing.assert_allclose(run.params, np.array(rows)[run.step], rtol=1e-11)
    assert run.step.tolist() == sorted({*range(0, len(sizes), save_every), len(sizes)})
    assert run.t[-1] == 0.7
    assert run.stats["gradients"] == tried + 1


def test_relative_change_does_not_depend_on_scale() -> None:
    """From 1e-150 the same steps as from 1: a gradient so small squares to nothing."""
    how = relative_change(0.05)
    big = descend(QUADRATIC, THETA, step_size=how, until=2.0)
    small = descend(QUADRATIC, 1e-150 * THETA, step_size=how, until=2.0)
    np.testing.assert_allclose(small.step_size, big.step_size, rtol=1e-9)
    np.testing.assert_allclose(1e150 * small.params, big.params, rtol=1e-9)


def test_a_kink_stalls_and_says_so() -> None:
    kinked = FunctionRisk(lambda p: jnp.abs(p[0]) + 0.5 * p[1] ** 2)
    run = descend(kinked, np.array([0.3, 1.0]), step_size=relative_change(0.01), until=10.0)
    assert run.result == "stalled"
    assert "kink" in run.message
    np.testing.assert_allclose(run.t[-1], 0.3, rtol=1e-12)
    np.testing.assert_allclose(run.final[0], 0.0, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: descend(QUADRATIC, THETA, step_size=0.1), "steps=None"),
        (lambda: descend(QUADRATIC, THETA, step_size=0.1, until=-1.0), "until=-1.0"),
        (lambda: relative_change(1.5), "change=1.5"),
        (lambda: relative_change(0.1, growth=1.0), "growth=1.0"),
        (lambda: relative_change(0.1, shrink=2.0), "shrink=2.0"),
        (lambda: relative_change(0.1, first=0.0), "first=0.0"),
    ],
)
def test_bad_horizons_and_rules_are_named(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_relative_change_refuses_batches(key: jax.Array) -> None:
    risk = EmpiricalRisk(TwoLayer(2, 3, tanh), squared, *data(13))
    with pytest.raises(ValueError, match="two draws of data"):
        descend(
            risk, risk.net.init(key, 1.0), step_size=relative_change(0.1), steps=3, batch=2,
            key=key,
        )  # fmt: skip
