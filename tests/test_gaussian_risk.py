"""The squared risk of a teacher net on Gaussian inputs: closed forms against quadrature, sampling,
finite differences and mpmath."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gradflow as gf

PAIRS = {
    "relu-relu": (gf.relu, gf.relu),
    "leaky-relu": (gf.leaky_relu(0.3), gf.relu),
    "relu-linear": (gf.relu, gf.linear),
    "linear-linear": (gf.linear, gf.linear),
    "erf-erf": (gf.erf, gf.erf),
    "erf-relu": (gf.erf, gf.relu),
    "leaky-erf": (gf.leaky_relu(0.3), gf.erf),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def make(phi: Any, chi: Any, W: Any, a: Any, V: Any, b: Any, outer="trained", scale=1.0):
    """The risk and the student's parameters."""
    net = gf.TwoLayer(W.shape[1], W.shape[0], phi, outer=outer)
    other = gf.TwoLayer(V.shape[1], V.shape[0], chi)
    teacher = gf.NetworkTeacher(other, {"inner": V, "outer": b})
    law = gf.Gaussian(W.shape[1], scale)
    return gf.PopulationRisk(net, gf.squared, law, teacher=teacher), net.as_params(
        {"inner": W, "outer": a}
    )


def draw(rng, d, m, n):
    """A student and a teacher; where there is room, three neurons parallel to others."""
    W, a = rng.normal(size=(m, d)), rng.normal(size=m)
    V, b = rng.normal(size=(n, d)), rng.normal(size=n)
    if m >= 4 and n >= 2:
        W[1], W[2], W[3] = 2 * V[0], -0.7 * V[1], 1.3 * W[0]
    return W, a, V, b


@pairs
@pytest.mark.parametrize("outer", ["trained", "fixed"])
def test_gradient_and_hessian_against_finite_differences(pair, outer, rng):
    risk, params = make(pair[0], pair[1], *draw(rng, 3, 5, 2), outer=outer, scale=0.8)
    start, unravel = ravel_pytree(params)
    start = np.asarray(start)
    value = jax.jit(lambda z: risk(unravel(z)))
    field = jax.jit(lambda z: ravel_pytree(risk.gradient(unravel(z)))[0])
    gradient, hessian = np.asarray(field(start)), np.asarray(jax.jacfwd(field)(start))
    step = 1e-5
    for k, e in enumerate(step * np.eye(start.size)):
        slope = (float(value(start + e)) - float(value(start - e))) / (2 * step)
        trained = outer == "trained" or k < params.inner.size
        assert abs((slope if trained else 0.0) - gradient[k]) < 1e-8
        curve = (np.asarray(field(start + e)) - np.asarray(field(start - e))) / (2 * step)
        # The second derivative of a homogeneous kernel has a kink: first order in the step.
        np.testing.assert_allclose(hessian[:, k], curve, atol=1e-4 if pair[0].kinked else 1e-8)


@pairs
def test_value_against_sampling(pair, rng, key):
    risk, params = make(pair[0], pair[1], *draw(rng, 7, 5, 3))
    x, y = risk.sample(key, 400_000)
    values = 0.5 * np.square(np.asarray(risk.net(params, x)) - np.asarray(y))
    spread = values.std() / np.sqrt(len(values))
    assert abs(float(risk(params)) - values.mean()) < 4 * spread
    assert spread < 0.01 * values.mean()


def test_flow_recovers_the_teacher(rng):
    V = np.eye(4)[:2]
    W = V + 0.3 * rng.normal(size=V.shape)
    risk, params = make(gf.relu, gf.relu, W, np.ones(2), V, np.ones(2), outer="fixed")
    path = gf.integrate(risk, params, until=gf.until.time(400.0), rtol=1e-10)
    assert path.result.ok
    np.testing.assert_allclose(path.final.inner, V, atol=1e-9)
    assert path.defects["energy"] < 1e-10


def test_trajectory_survives_a_file(rng, tmp_path):
    risk, params = make(gf.leaky_relu(0.1), gf.relu, *draw(rng, 3, 2, 2))
    path = gf.integrate(risk, params, until=gf.until.time(1.0))
    path.save(tmp_path / "path.nc")
    again = gf.load(tmp_path / "path.nc")
    assert again.risk.describe() == risk.describe()
    assert float(again.risk(params)) == float(risk(params))
    np.testing.assert_array_equal(again.observe("loss"), path.observe("loss"))
