"""float64 before anything else: switch JAX to x64 without paying for its import."""

from __future__ import annotations

import os
import sys


def enable_x64() -> None:
    """Switch JAX to 64-bit floats, or refuse loudly.

    If JAX has not been imported yet, the environment variable ``JAX_ENABLE_X64`` is set, so that
    importing gradflow stays light; if it has, its configuration is updated.

    Raises
    ------
    RuntimeError
        If JAX has been imported and does not accept the switch.
    """
    os.environ["JAX_ENABLE_X64"] = "1"
    jax = sys.modules.get("jax")
    if jax is None:
        return
    jax.config.update("jax_enable_x64", True)
    if jax.numpy.zeros(()).dtype != "float64":
        raise RuntimeError(
            "gradflow computes in float64 and JAX refused to: unset jax_enable_x64=False"
        )
