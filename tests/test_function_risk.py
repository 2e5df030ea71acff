"""Risks from JAX functions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.risks.function import FunctionRisk


def bowl(p: dict[str, jax.Array]) -> jax.Array:
    return 0.5 * jnp.sum(p["a"] ** 2) + jnp.cosh(p["b"])


START = {"a": np.array([3.0, 4.0]), "b": 0.5}


def test_value_gradient_and_log() -> None:
    risk = FunctionRisk(bowl)
    value = 12.5 + math.cosh(0.5)
    assert float(risk(START)) == pytest.approx(value, rel=1e-15)
    assert float(risk.log(START)) == pytest.approx(math.log(value), rel=1e-15)
    gradient = risk.gradient(START)
    np.testing.assert_allclose(gradient["a"], [3.0, 4.0], rtol=1e-15)
    assert float(gradient["b"]) == pytest.approx(math.sinh(0.5), rel=1e-15)
    log_gradient = risk.log_gradient(START)
    np.testing.assert_allclose(log_gradient["a"], np.array([3.0, 4.0]) / value, rtol=1e-15)
    assert risk.net is None
    assert risk.name == "FunctionRisk(bowl)"
    assert risk.describe() == {
        "kind": "function", "fn": {"function": "bowl"}, "log_fn": None, "label": "bowl",
    }  # fmt: skip
    assert FunctionRisk(bowl, label="cosh bowl").name == "FunctionRisk(cosh bowl)"


def test_log_function_survives_underflow() -> None:
    risk = FunctionRisk(lambda p: jnp.exp(-(p**2)), log_fn=lambda p: -(p**2))
    assert float(risk(100.0)) == 0.0
    assert float(risk.log(100.0)) == -1e4
    assert float(risk.log_gradient(100.0)) == -200.0
    assert float(FunctionRisk(lambda p: p**2).log(0.0)) == -math.inf


def test_any_pytree_and_tracing() -> None:
    risk = FunctionRisk(lambda p: p[0] * jnp.sum(p[1][0] * p[1][1]))
    params = (2.0, [np.arange(3.0), np.ones(3)])
    assert float(risk(params)) == 6.0
    gradient = jax.jit(risk.gradient)(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert float(gradient[0]) == 3.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FunctionRisk(3.0), r"fn=3\.0.*callable"),
        (lambda: FunctionRisk(bowl, log_fn="log"), "log_fn='log'"),
        (lambda: FunctionRisk(bowl)({"a": np.array([1.0, math.nan]), "b": 1.0}), r"\['a'\].*NaN"),
        (lambda: FunctionRisk(bowl)({"a": np.ones(2, np.float32), "b": 1.0}), "float32"),
        (lambda: FunctionRisk(bowl)({"a": "x", "b": 1.0}), r"params\['a'\]='x'"),
        (lambda: FunctionRisk(bowl)({}), "no array"),
        (lambda: FunctionRisk(lambda p: p)(np.ones(2)), r"fn=.*shape \(2,\)"),
        (lambda: FunctionRisk(lambda p: jnp.argmax(p))(np.ones(2)), "fn=.*dtype int"),
    ],
)
def test_bad_input(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


# ---------------------------------------------------------------------------------------------
# Flows of people's own


def factorisation(p: dict[str, jax.Array], target: jax.Array) -> jax.Array:
    """½‖UVᵀ − M‖²."""
    return 0.5 * jnp.sum((p["U"] @ p["V"].T - target) ** 2)


def imbalance(params: dict[str, np.ndarray]) -> np.ndarray:
    """UᵀU − VᵀV at every time, which the flow conserves."""
    U, V = params["U"], params["V"]
    return np.swapaxes(U, 1, 2) @ U - np.swapaxes(V, 1, 2) @ V


@pytest.mark.parametrize("clock", ["log", "physical"])
def test_matrix_factorisation_conserves_its_balance(rng: np.random.Generator, clock: str) -> None:
    target = jnp.asarray(rng.normal(size=(5, 4)))
    risk = gf.FunctionRisk(lambda p: factorisation(p, target), label="factorisation")
    start = {"U": 0.3 * rng.normal(size=(5, 3)), "V": 0.5 * rng.normal(size=(4, 3))}
    path = gf.integrate(risk, start, until=gf.until.time(100.0), clock=clock, rtol=1e-9)
    assert path.result.ok
    change = imbalance(path.params) - imbalance(path.params)[:1]
    assert np.max(np.abs(change)) < 1e-7
    assert path.defects["energy"] < 1e-7
    # Rank 3 of a 5 × 4 matrix: the end is the truncated singular value decomposition.
    left, values, right = np.linalg.svd(np.asarray(target))
    best = (left[:, :3] * values[:3]) @ right[:3]
    found = np.asarray(path.final["U"]) @ np.asarray(path.final["V"]).T
    np.testing.assert_allclose(found, best, atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 0.1, 3.0])
def test_rank_one_factorisation_against_its_closed_form(size: float) -> None:
    """M = s uvᵀ from U = a₀u, V = a₀v: a² is the logistic curve s/(1 + (s/a₀² − 1)e^{−2st})."""
    u, v, s = np.array([0.6, 0.0, -0.8]), np.array([0.0, 1.0]), 2.0
    target = jnp.asarray(s * np.outer(u, v))
    start = {"U": size * u[:, None], "V": size * v[:, None]}
    risk = gf.FunctionRisk(lambda p: factorisation(p, target))
    times = np.array([0.5, 1.0, 3.0, 6.0, 8.0])
    path = gf.integrate(
        risk, start, until=gf.until.time(times[-1]), clock="physical", save_at=times, rtol=1e-10
    )
    square = s / (1 + (s / size**2 - 1) * np.exp(-2 * s * times))
    np.testing.assert_allclose(path.params["U"][:, :, 0], np.sqrt(square)[:, None] * u, rtol=1e-8)
    np.testing.assert_allclose(path.params["V"][:, 1, 0], np.sqrt(square), rtol=1e-8)
    loss = 0.5 * (s - square) ** 2
    np.testing.assert_allclose(path.observe("loss"), loss, rtol=1e-6, atol=1e-10)


def mlp(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Layers of tanh, the last one linear."""
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["weight"].T + layer["bias"][None])
    return x @ params[-1]["weight"].T + params[-1]["bias"][None]


def test_a_deep_net_of_ones_own(rng: np.random.Generator) -> None:
    """Four layers to t = 10: two methods agree, the loss falls by what the energy says."""
    X, Y = jnp.asarray(rng.normal(size=(11, 2))), jnp.asarray(rng.normal(size=(11, 1)))
    risk = gf.FunctionRisk(lambda p: jnp.mean((mlp(p, X) - Y) ** 2))
    sizes = [2, 5, 4, 3, 1]
    start = [
        {"weight": rng.normal(size=(n, m)) / math.sqrt(m), "bias": np.zeros(n)}
        for m, n in itertools.pairwise(sizes)
    ]
    options = {"until": gf.until.time(10.0), "clock": "physical"}
    path = gf.integrate(risk, start, rtol=1e-8, **options)
    other = gf.integrate(risk, start, rtol=1e-10, integrator="dop853", **options)
    assert path.result.ok
    assert jax.tree.structure(path.final) == jax.tree.structure(start)
    for one, two in zip(jax.tree.leaves(path.final), jax.tree.leaves(other.final), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-7)
    assert np.all(np.diff(path.observe("loss")) < 0)
    assert path.defects["energy"] < 1e-7


def test_a_deep_linear_net_of_ones_own_is_the_package_s() -> None:
    """The product of three matrices, written by hand, beside gf.DeepLinear."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(9, 3)), np.where(rng.random(9) < 0.5, -1.0, 1.0)
    net = gf.DeepLinear(3, 3, width=2)
    params = net.init(jax.random.key(1), 0.5)
    data_x, data_y = jnp.asarray(X), jnp.asarray(y)

    def hand_made(layers: tuple[jax.Array, ...]) -> jax.Array:
        f = (layers[2] @ layers[1] @ layers[0] @ data_x.T)[0]
        return jnp.mean(jnp.log1p(jnp.exp(-data_y * f)))

    until = gf.until.time(50.0)
    ours = gf.integrate(gf.EmpiricalRisk(net, gf.logistic, X, y), params, until=until)
    theirs = gf.integrate(gf.FunctionRisk(hand_made), params.layers, until=until)
    for one, two in zip(ours.final.layers, theirs.final, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-7)


NESTED = {
    "encoder": [{"w": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}, (np.full(3, 0.5), None)],
    "scale": 0.25,
    "z": ({"deep": (np.array([[1.0]]),)},),
}


def test_nested_pytrees_are_saved_and_read_back(tmp_path: Path) -> None:
    risk = gf.FunctionRisk(lambda p: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)))
    times = [0.1, 1.0, 2.0]
    path = gf.integrate(risk, NESTED, until=gf.until.time(2.0), save_at=times)
    with pytest.warns(gf.NeedsRiskWarning):
        path.save(tmp_path / "flow.nc")
    with pytest.raises(ValueError, match=r"gf\.load\(path, risk=\.\.\.\)"):
        gf.load(tmp_path / "flow.nc")
    again = gf.load(tmp_path / "flow.nc", risk=risk)
    for name in ("params", "initial", "final"):
        one, two = getattr(path, name), getattr(again, name)
        assert jax.tree.structure(one) == jax.tree.structure(two) == jax.tree.structure(NESTED)
        for p, q in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_array_equal(p, q)
    # θ' = −2θ, entry by entry.
    for leaf, first in zip(jax.tree.leaves(again.params), jax.tree.leaves(NESTED), strict=True):
        decay = np.exp(-2 * np.array(times)).reshape(-1, *(1,) * np.ndim(first))
        np.testing.assert_allclose(leaf, decay * first, atol=1e-8)
    np.testing.assert_array_equal(again.observe("loss"), path.observe("loss"))
    view = again.to_xarray()
    assert view["encoder_0_w"].shape == (3, 2, 3)
    assert view["scale"].shape == (3,)
    assert view["z_0_deep_0"].dims[0] == "log_t"
