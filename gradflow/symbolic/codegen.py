"""Derived expressions as JAX functions (sympy.lambdify), the special functions given by an object.

``radial`` is any object with methods h, psi_prime, psi_bar (elementwise, jittable) and a field c0.
"""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.validation import fail

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

NODES = 48


class Radial(Protocol):
    """What a derived field needs of a law's radial functions: elementwise, jittable."""

    @property
    def c0(self) -> ArrayLike:
        """The constant c0 of the law."""
        ...

    def h(self, m: Array, /) -> Array:
        """h(m)."""
        ...

    def psi_prime(self, m: Array, /) -> Array:
        """Psi'(m)."""
        ...

    def psi_bar(self, m: Array, /) -> Array:
        """Psibar(m)."""
        ...


class Law(Protocol):
    """A law of the inputs, as far as a derived field knows it."""

    @property
    def radial(self) -> Radial:
        """Its radial functions."""
        ...


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return (nodes + 1) / 2, weights / 2


def wedge_pull(radial: Radial, m: ArrayLike, angle: ArrayLike) -> Array:
    """C(M, a) = (1/2 pi) int_0^a Psi'(M sin u) sin u du for 0 <= a <= pi.

    Psi' rises from 0 to c0/2 over u ~ 1/M, so u = a sinh(T x)/sinh T with T = asinh(M a/2) spreads
    the rise over the unit interval before Gauss-Legendre. Beyond a right angle the reflection
    C(M, a) = c0/(2 pi) - h(M)/2 - C(M, pi - a) is used.
    """
    import jax.numpy as jnp

    nodes, weights = _gauss_legendre()
    m, angle = jnp.broadcast_arrays(jnp.asarray(m, float), jnp.asarray(angle, float))
    acute = jnp.where(angle > jnp.pi / 2, jnp.pi - angle, angle)
    stretch = jnp.arcsinh(m * acute / 2)
    flat = stretch < 1e-4  # then the map is the identity to 1e-9 of a smooth integrand's argument
    safe = jnp.where(flat, 1.0, stretch)
    where = jnp.expand_dims(jnp.asarray(nodes), tuple(range(m.ndim)))
    weights = jnp.expand_dims(jnp.asarray(weights), tuple(range(m.ndim)))
    x = safe[..., None] * where
    at = jnp.where(
        flat[..., None],
        acute[..., None] * where,
        acute[..., None] * jnp.sinh(x) / jnp.sinh(safe)[..., None],
    )
    slope = jnp.where(
        flat[..., None],
        acute[..., None] * jnp.ones_like(where),
        (acute * safe / jnp.sinh(safe))[..., None] * jnp.cosh(x),
    )
    values = radial.psi_prime(m[..., None] * jnp.sin(at)) * jnp.sin(at) * slope
    near = jnp.sum(weights * values, axis=-1) / (2 * jnp.pi)
    return jnp.where(angle > jnp.pi / 2, radial.c0 / (2 * jnp.pi) - radial.h(m) / 2 - near, near)


def wedge_push(radial: Radial, m: ArrayLike, angle: ArrayLike) -> Array:
    """S(M, a) = Psibar(M sin a) / (2 pi M), 0 at M = 0."""
    import jax.numpy as jnp

    m = jnp.asarray(m, float)
    safe = jnp.where(m > 0, m, 1.0)
    return jnp.where(m > 0, radial.psi_bar(m * jnp.sin(angle)) / (2 * jnp.pi * safe), 0.0)


def functions(radial: Radial) -> dict[str, Callable[..., Array]]:
    """The numerical counterparts of the special functions of ``notation``."""
    import jax.numpy as jnp

    return {
        "h": radial.h,
        "Psiprime": radial.psi_prime,
        "Psibar": radial.psi_bar,
        "C": lambda m, angle: wedge_pull(radial, m, angle),
        "S": lambda m, angle: wedge_push(radial, m, angle),
        "versine": lambda angle: 2 * jnp.sin(angle / 2) ** 2,
    }


def compile_expressions(
    expressions: Sequence[sp.Expr],
    arguments: Sequence[sp.Symbol],
    radial: Radial,
    extra: dict[str, Callable[..., Array]] | None = None,
) -> Callable[..., list[Array]]:
    """``sympy.lambdify`` with common subexpressions shared and c0 taken from ``radial``.

    All calls of one special function are evaluated as one array, which keeps the compiled
    program (and its compile time) small.

    Raises
    ------
    ValueError
        If a symbol other than the arguments and c0 is left.
    """
    left = set().union(*(e.free_symbols for e in expressions)) - {*arguments, nt.c0}
    if left:
        # (the options of `derive` that make numbers of them)
        options = {"alpha": "slope=0.1", "N": "depth=3"}
        names = sorted(map(str, left))
        wanted = ", ".join(options.get(name, f"a number for {name}") for name in names)
        shown = ", ".join(options.get(name, name).partition("=")[0] for name in names)
        problem = f"{', '.join(names)} is still a symbol in the vector field"
        raise fail(shown, None, problem, f"pass {wanted} to gf.derive")
    numeric = functions(radial)
    helpers = {name: numeric.pop(name) for name in ("versine",)} | (extra or {})
    batches = []
    for cls in (nt.h, nt.C, nt.S, nt.Psibar, nt.Psiprime):
        calls = sorted(set().union(*(e.atoms(cls) for e in expressions)), key=sp.default_sort_key)
        if calls:
            batches.append((cls.__name__, calls, [sp.Dummy() for _ in calls]))
    known = [nt.c0, *arguments]
    modules = [helpers, "jax"]
    inside = [
        sp.lambdify(known, [call.args for call in calls], modules=modules, cse=True)
        for _, calls, _ in batches
    ]
    table = {
        call: dummy
        for _, calls, dummies in batches
        for call, dummy in zip(calls, dummies, strict=True)
    }
    dummies = [dummy for _, _, some in batches for dummy in some]
    outside = sp.lambdify(
        [*known, *dummies], [e.xreplace(table) for e in expressions], modules=modules, cse=True
    )

    def evaluate(*values: ArrayLike) -> list[Array]:
        import jax.numpy as jnp

        results: list[Array] = []
        for (name, _, _), arguments_of in zip(batches, inside, strict=True):
            rows = arguments_of(radial.c0, *values)
            columns = (
                jnp.stack([jnp.asarray(v, float) for v in column])
                for column in zip(*rows, strict=True)
            )
            batch = numeric[name](*columns)
            results.extend(batch[i] for i in range(len(rows)))
        return outside(radial.c0, *values, *results)

    return evaluate


def array_field(
    expressions: Sequence[sp.Expr], state: Sequence[sp.Symbol], radial: Radial
) -> Callable[[Array], Array]:
    """``field(state_array) -> derivative_array``."""
    import jax.numpy as jnp

    compiled = compile_expressions(expressions, state, radial)
    length = len(state)

    def derivative(values: ArrayLike) -> Array:
        """d state/dt for a state array of shape (n,), in the order of ``Derivation.state``."""
        values = jnp.asarray(values, float)
        if values.shape != (length,):
            raise fail("state", values.shape, "has the wrong shape", f"pass shape ({length},)")
        return jnp.stack([jnp.asarray(v, float) for v in compiled(*values)])

    return derivative
