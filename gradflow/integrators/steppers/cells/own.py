"""Losses that the kernel does not know by number: it calls back for their values and pulls."""

from __future__ import annotations

import ctypes

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from gradflow.losses import AbstractLoss

#: What is asked for.
LOGS, PULLS = 0, 1
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p)


class OwnLoss:
    """A loss as a C function ``(what, unit, f, out)`` at `address`, for as long as it is kept.

    ``out`` (n,) becomes ln ℓ(f_i, y_i), or −ω_i e^{−unit} ∂ℓ/∂f_i.
    """

    def __init__(self, loss: AbstractLoss, y: np.ndarray, logw: np.ndarray) -> None:
        shape = y.shape
        self.error: Exception | None = None

        def answer(what: int, unit: float, f: int, out: int) -> None:
            given = np.ctypeslib.as_array(ctypes.cast(f, _POINTER), shape)
            wanted = np.ctypeslib.as_array(
                ctypes.cast(out, _POINTER), shape[:1] if what == LOGS else shape
            )
            try:
                fn = _logs if what == LOGS else _pulls
                wanted[...] = np.asarray(fn(loss, jnp.asarray(given), targets, weights, unit))
            except Exception as error:  # (a C caller cannot carry it)
                self.error = error
                wanted[...] = np.nan

        targets, weights = jnp.asarray(y), jnp.asarray(logw)
        self._function = _CALL(answer)
        self.address = int(ctypes.cast(self._function, ctypes.c_void_p).value or 0)


_POINTER = ctypes.POINTER(ctypes.c_double)


@eqx.filter_jit
def _logs(
    loss: AbstractLoss, f: jax.Array, y: jax.Array, logw: jax.Array, unit: float
) -> jax.Array:
    return loss.log(f, y)


@eqx.filter_jit
def _pulls(
    loss: AbstractLoss, f: jax.Array, y: jax.Array, logw: jax.Array, unit: float
) -> jax.Array:
    return loss.pull(f, y, logw, jnp.asarray(unit))


@intrinsic
def call_back(typing, address, what, unit, f, out):  # type: ignore[no-untyped-def]
    """Call the function at ``address`` with two arrays (Numba)."""
    signature = types.void(types.int64, types.int64, types.float64, f, out)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        place, kind, scale, given, wanted = args
        byte, real, whole = ir.IntType(8).as_pointer(), ir.DoubleType(), ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [whole, real, byte, byte])
        callee = builder.inttoptr(place, function.as_pointer())
        arrays = [
            builder.bitcast(context.make_array(kind_of)(context, builder, array).data, byte)
            for kind_of, array in zip(sig.args[3:], (given, wanted), strict=True)
        ]
        builder.call(callee, [kind, scale, *arrays])
        return context.get_dummy_value()

    return signature, generate
