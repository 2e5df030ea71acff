"""Checks at the door: bad input becomes a ``ValueError`` that names the argument, its value and
the fix."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

#: The tightest relative tolerance that float64 arithmetic can honour.
SMALLEST_RTOL = 1e-14


#: An array of more entries than this is shown by its shape and its first entries.
_SHOWN = 8


def fail(argument: str, value: object, problem: str, fix: str) -> ValueError:
    """Build the error ``argument=value: problem; fix`` (returned, so that callers ``raise
    fail(...)``)."""
    return ValueError(f"{argument}={_show(value)}: {problem}; {fix}")


def _show(value: object) -> str:
    """Return ``value`` in at most about 200 characters; a large array is never written out."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None and math.prod(shape) > _SHOWN:
        if not hasattr(value, "__array__") or "Tracer" in type(value).__name__:
            return f"array of shape {shape}, dtype {dtype}"
        first = np.array2string(np.asarray(value).ravel()[:4], separator=", ")[:-1]
        return f"array of shape {shape}, dtype {dtype}, {first}, ...]"
    shown = np.array2string(value) if isinstance(value, np.ndarray) else repr(value)
    shown = " ".join(shown.split())
    return shown[:200] + "..." if len(shown) > 200 else shown


def refuse_traced(argument: str, value: object) -> None:
    """Refuse a value that stands for others inside ``jax.jit``, ``jax.grad`` or ``jax.vmap``."""
    # (by name: JAX is not imported for the checks of numbers)
    if any(kind.__name__ == "Tracer" for kind in type(value).__mro__):
        raise fail(
            argument, value, "is traced by jax.jit, jax.grad or jax.vmap",
            "pass a concrete value, outside of them (the risk itself, risk(params), may be traced)",
        )  # fmt: skip


def check_real(argument: str, value: Any, *, allow_infinite: bool = False) -> float:
    """Return ``value`` as a float; reject what is not one real number."""
    refuse_traced(argument, value)
    if isinstance(value, (bool, str, bytes)) or np.ndim(value) != 0:
        raise fail(argument, value, "is not a real number", "pass a float")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise fail(argument, value, "is not a real number", "pass a float") from None
    if np.isnan(number) or (np.isinf(number) and not allow_infinite):
        raise fail(argument, value, "is not finite", "pass a finite float")
    return number


def check_positive(argument: str, value: Any) -> float:
    """Return ``value`` as a float > 0."""
    number = check_real(argument, value)
    if number <= 0:
        raise fail(argument, value, "must be positive", "pass a float > 0")
    return number


def check_nonnegative(argument: str, value: Any) -> float:
    """Return ``value`` as a float >= 0."""
    number = check_real(argument, value)
    if number < 0:
        raise fail(argument, value, "must not be negative", "pass a float >= 0")
    return number


def check_bool(argument: str, value: Any) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise fail(argument, value, "is not a bool", "pass True or False")
    return bool(value)


def check_integer(argument: str, value: Any, *, minimum: int) -> int:
    """Return ``value`` as an int >= ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise fail(argument, value, "is not an integer", f"pass an int >= {minimum}")
    if value < minimum:
        raise fail(argument, value, "is too small", f"pass an int >= {minimum}")
    return int(value)


def check_choice(argument: str, value: Any, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    names = sorted(choices)
    # (an array compares entry by entry, so only strings are looked up)
    if not isinstance(value, str) or value not in names:
        raise fail(argument, value, "is not a known name", "choose one of " + ", ".join(names))
    return value


def check_traceable(argument: str, fn: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
    """Refuse what is not a JAX function of float64 arrays of these shapes with one float64 number
    (or an array of those shapes) as its value."""
    import jax  # not needed for the other checks

    try:
        hash(fn)
    except TypeError:
        problem = "is not hashable, as the key of a compiled program must be"
        raise fail(argument, fn, problem, "pass a plain function") from None
    inputs = [jax.ShapeDtypeStruct(shape, np.float64) for shape in shapes]
    fix = "write it with jax.numpy, without NumPy, float() or `if` on the values"
    try:
        out = jax.eval_shape(fn, *inputs)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError, TypeError) as error:
        said = str(error).partition("\n")[0][:150]
        problem = f"cannot be traced by JAX with {len(shapes)} array(s) ({said})"
        raise fail(argument, fn, problem, fix) from error
    found = getattr(out, "shape", None), getattr(out, "dtype", None)
    if found != (shapes[0], np.float64):
        problem = f"returns shape {found[0]} and dtype {found[1]} for float64 of {shapes[0]}"
        raise fail(argument, fn, problem, "return a float64 array of the shape of its argument")


def takes_two(fn: Callable[..., Any]) -> bool:
    """Whether a function must be given two arguments."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # (some built-in functions tell nothing)
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return len(needed) >= 2


def check_array(argument: str, value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return ``value`` as a finite float64 array of ``shape`` (None = any length).

    Integers are converted. Booleans, float32 and complex numbers are refused with the line that
    converts them: a flow started from rounded numbers is not the flow that was asked for.
    """
    refuse_traced(argument, value)
    try:
        array = np.asarray(value)
    except ValueError:
        raise fail(argument, value, "is not a rectangular array", "pass a float64 array") from None
    if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and array.dtype.itemsize < 8):
        fix = "pass a float64 array"
        if array.dtype.kind in "bf":
            fix += f", exactly: np.asarray({argument}, np.float64)"
        raise fail(argument, array, f"has dtype {array.dtype}", fix)
    array = array.astype(np.float64)
    if not _fits(array.shape, shape):
        fix = _reshaped(argument, array.shape, shape)
        raise fail(argument, array, f"has shape {array.shape}", fix)
    if not np.all(np.isfinite(array)):
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        where = f" at {list(first)}" if array.ndim else ""
        raise fail(argument, array, f"holds NaN or infinity{where}", "pass finite numbers")
    return array


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    same = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(n in (None, m) for m, n in same)


def _reshaped(argument: str, found: tuple[int, ...], wanted: tuple[int | None, ...]) -> str:
    """Return the line that makes an array of the wanted shape, where one does."""
    named = ", ".join("any" if n is None else str(n) for n in wanted)
    fix = f"pass shape ({named}{',' * (len(wanted) == 1)})"
    if len(wanted) == 1 and len(found) == 2 and 1 in found and _fits((math.prod(found),), wanted):
        return f"{fix}: np.ravel({argument})"
    if len(wanted) == 2 and len(found) == 1 and _fits((*found, 1), wanted):
        return f"{fix}: np.reshape({argument}, (-1, 1))"
    if len(wanted) == 2 and len(found) == 1 and _fits((1, *found), wanted):
        return f"{fix}: np.reshape({argument}, (1, -1))"
    if len(wanted) == 2 and len(found) == 2 and _fits(found[::-1], wanted):
        return f"{fix}: np.transpose({argument})"
    return fix


def check_unit_vector(argument: str, value: Any, *, dim: int | None = None) -> np.ndarray:
    """Return ``value`` as a unit vector; a vector of another length is refused, not normalised."""
    vector = check_array(argument, value, (dim,))
    norm = float(np.linalg.norm(vector))
    if norm == 0:
        raise fail(argument, vector, "is the zero vector", "pass a unit vector")
    if abs(norm - 1) > 1e-12:
        raise fail(
            argument, vector, f"has norm {norm:.17g}, not 1", f"pass {argument} / norm({argument})"
        )
    return vector


def check_rtol(value: Any) -> float:
    """Return a relative tolerance that float64 can honour."""
    rtol = check_positive("rtol", value)
    if rtol < SMALLEST_RTOL:
        raise fail(
            "rtol", value, "is below what float64 can give", f"pass rtol >= {SMALLEST_RTOL:g}"
        )
    if rtol >= 1:
        raise fail("rtol", value, "is not a tolerance", "pass rtol < 1, for example 1e-8")
    return rtol
