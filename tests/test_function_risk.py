"""Risks from JAX functions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    assert risk.describe() == {"risk": "function", "name": "bowl"}
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
