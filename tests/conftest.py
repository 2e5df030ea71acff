"""Strict numerics for every test: float64, no silent dtype or rank promotion, seeded keys."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import jax
import numpy as np
import pytest

import gradflow  # (switches JAX to x64 before JAX is imported)
from gradflow._cache import enable_compilation_cache
from gradflow.numerics.compiled import clear_compiled

# Other processes that tests start import the same package, and not what is in their folder: the
# installed one's kernel has been compiled.
HERE = str(Path(gradflow.__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
os.environ["PYTHONSAFEPATH"] = "1"
# The tests compile some hundred programs; a second run, or a second worker, reuses them.
enable_compilation_cache()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


#: Bytes that a test process may hold before it forgets its programs (Linux tells them, in pages).
MEMORY, MOST_BYTES = Path("/proc/self/statm"), 1.2e9


def resident() -> float:
    """Bytes held, after what is free has been given back; 0 where nobody tells."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None or not MEMORY.exists():
        return 0.0
    trim(0)
    return int(MEMORY.read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


@pytest.fixture(autouse=True, scope="module")
def let_programs_go():
    """Some thousand programs are compiled in one process: forget them now and then."""
    yield
    if resident() > MOST_BYTES:
        clear_compiled()
        jax.clear_caches()
        gc.collect()
        resident()


@pytest.fixture
def key() -> jax.Array:
    """A fixed JAX random key."""
    return jax.random.key(20240501)


@pytest.fixture
def rng() -> np.random.Generator:
    """A fixed NumPy generator."""
    return np.random.default_rng(20240501)
