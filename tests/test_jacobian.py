"""Jacobians, column by column and in chunks, forward and reverse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.numerics.jacobian import has_jacobian, jacobian


@pytest.mark.parametrize("size", [1, 7, 64, 65, 200])
def test_jacobian_of_a_field_in_closed_form(size):
    """f = M sin(y): df/dy = M diag(cos y)."""
    rng = np.random.default_rng(size)
    M, y = rng.normal(size=(size, size)), rng.normal(size=size)
    found = jacobian(lambda at: jnp.asarray(M) @ jnp.sin(at), jnp.asarray(y))
    np.testing.assert_allclose(found, M * np.cos(y), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [5, 70])
def test_a_field_with_a_reverse_rule_only(size):
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (cube(x), x), lambda x, bar: (3 * bar * x**2,))
    y = jnp.linspace(-1.0, 1.0, size)
    np.testing.assert_allclose(jacobian(cube, y), np.diag(3 * y**2), atol=1e-14)
    assert has_jacobian(cube, y)


def test_a_callback_without_a_rule_has_none():
    def host(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    assert not has_jacobian(host, jnp.ones(3))
