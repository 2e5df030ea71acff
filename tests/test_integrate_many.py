"""Many starts in one program: each as if alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def instance(count: int) -> tuple[gf.EmpiricalRisk, list]:
    rng = np.random.default_rng(11)
    X = rng.normal(size=(9, 3))
    net = gf.TwoLayer(3, 4, gf.leaky_relu(0.2))
    risk = gf.EmpiricalRisk(net, gf.exponential, X, np.sign(X @ rng.normal(size=3)))
    keys = jax.random.split(jax.random.key(4), count)
    return risk, [net.init(key, 0.3) for key in keys]


def test_each_as_if_alone():
    risk, starts = instance(5)
    until = gf.until.clock(6.0)
    together = gf.integrate_many(risk, starts, until=until)
    assert len(together) == 5
    for start, path in zip(starts, together, strict=True):
        alone = gf.integrate(risk, start, until=until)
        assert path.result.name == alone.result.name
        assert len(path) == len(alone)
        assert [(e.kind, e.neuron, e.datum) for e in path.events] == [
            (e.kind, e.neuron, e.datum) for e in alone.events
        ]
        assert np.allclose(path.final.inner, alone.final.inner, rtol=0, atol=1e-12)
        assert np.allclose(path.final.outer, alone.final.outer, rtol=0, atol=1e-12)


def test_bad_input():
    risk, starts = instance(2)
    with pytest.raises(ValueError, match=r"starts=.*no start"):
        gf.integrate_many(risk, [], until=gf.until.clock(1.0))
    with pytest.raises(ValueError, match=r"metric=.*located"):
        gf.integrate_many(risk, starts, until=gf.until.clock(1.0), metric={"outer": 2.0})


def test_one_by_one_where_there_is_no_batch():
    risk = gf.FunctionRisk(lambda p: 0.5 * jnp.sum(p**2), label="bowl")
    starts = [np.array([1.0, 2.0]), np.array([-3.0, 0.5])]
    options = {"until": 1.5, "clock": "physical", "integrator": "tsit5", "atol": 1e-12, "t0": 0.5}
    for start, path in zip(starts, gf.integrate_many(risk, starts, **options), strict=True):
        alone = gf.integrate(risk, start, **options)
        np.testing.assert_array_equal(path.final, alone.final)
        np.testing.assert_allclose(path.final, start * np.exp(-1.0), rtol=1e-8)
        assert (path.t[0], path.t_final) == (0.5, 1.5)
