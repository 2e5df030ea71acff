"""Compiled programs are kept between runs, in JAX's persistent compilation cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SETTINGS = {
    # Every program counts: a verification compiles many that take well under a second each.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def enable_compilation_cache() -> Path | None:
    """Switch the cache on without importing JAX; a setting of the user's own is left alone.

    Returns
    -------
    Path or None
        The folder, or None where it cannot be made (compilation then simply takes place).
    """
    import platformdirs

    own = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = Path(own) if own else Path(platformdirs.user_cache_dir("gradflow")) / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name.upper(), str(value))
    jax = sys.modules.get("jax")
    if jax is not None:  # the environment was read when JAX was imported
        if jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", str(folder))
        for name, value in _SETTINGS.items():
            jax.config.update(name, value)
    return folder
