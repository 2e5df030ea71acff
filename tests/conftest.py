"""Strict numerics for every test: float64, no silent dtype or rank promotion, seeded keys."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import gradflow  # noqa: F401  (switches JAX to x64 before JAX is imported)
from gradflow._cache import enable_compilation_cache

# The tests compile some hundred programs; a second run, or a second worker, reuses them.
enable_compilation_cache()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key() -> jax.Array:
    """A fixed JAX random key."""
    return jax.random.key(20240501)


@pytest.fixture
def rng() -> np.random.Generator:
    """A fixed NumPy generator."""
    return np.random.default_rng(20240501)
