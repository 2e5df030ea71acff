r"""Moments :math:`E\,\varphi(u\cdot x)\,\chi(v\cdot x)`, x ~ N(0, I), in closed form.

One function for each pair of activation classes, filed by `register_gaussian_kernel`; nothing else
in the package depends on which pairs exist.

The positively homogeneous family is :math:`\varphi(z)=pz+q|z|`, :math:`p=(1+\alpha)/2`,
:math:`q=(1-\alpha)/2` (so ReLU has p = q = ½), and odd and even parts do not mix:

.. math:: E\,\varphi(u\cdot x)\chi(v\cdot x)=pp'\,u\cdot v+qq'A(u,v),\qquad
   A(u,v)=E|u\cdot x||v\cdot x|=\tfrac2\pi|u||v|(\sin\phi+\theta\cos\phi),

:math:`\phi` the angle of u and v and :math:`\theta=\pi/2-\phi=\arcsin\cos\phi`
(`cho2009kernel`, for ReLU). With unit vectors û, v̂, and m, n those of û + v̂ and v̂ − û,

.. math:: \partial_uA=\tfrac2\pi(\theta v+|v|\sin\phi\,\hat u),\quad
   \partial_u\partial_vA=\tfrac2\pi(\theta I+\sin\phi\,(mm^T-nn^T)),\quad
   \partial_u^2A=\tfrac2\pi\tfrac{|v|}{|u|}\sin\phi\,(I-\hat u\hat u^T+n_vn_v^T),

:math:`n_v\perp u` the unit vector of v's part across u. All of them are continuous where φ is 0 or
π: A has two derivatives at parallel and antiparallel vectors, and the rules below reach them
without dividing by sin φ where it vanishes. The third derivative jumps there.

At u = 0, A has a cone. Its derivative there is taken as 0, the centre of the (symmetric)
subdifferential and the mean of the one-sided derivatives of every direction. Its second derivative
does not exist there: in a Hessian, the rows of a vanished neuron are not finite (the others are).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import PyTree

from gradflow.networks.activations import AbstractActivation, Erf, LeakyReLU
from gradflow.numerics.traced import polar
from gradflow.validation import check_array, fail

#: ``kernel(phi, chi, U, V)`` -> matrix of moments.
Kernel = Callable[..., Array]

_KERNELS: dict[tuple[type, type], Kernel] = {}

#: Below this sine two vectors count as parallel: what is dropped is smaller than rounding.
_PARALLEL = 4 * np.finfo(float).eps


def register_gaussian_kernel(first: type, second: type) -> Callable[[Kernel], Kernel]:
    """File a closed form for a pair of activation classes (and for the pair in reverse order).

    Parameters
    ----------
    first, second : type
        Subclasses of `AbstractActivation`.

    Returns
    -------
    callable
        A decorator for ``kernel(phi, chi, U, V)``, which takes an activation of each class and
        arrays (m, d) and (n, d) and returns the (m, n) moments E φ(u_i·x) χ(v_j·x) for
        x ~ N(0, I). It must be written in JAX and have two derivatives.

    Raises
    ------
    ValueError
        If an argument is no activation class, or the pair has a closed form already.
    """
    for argument, kind in (("first", first), ("second", second)):
        if not (isinstance(kind, type) and issubclass(kind, AbstractActivation)):
            raise fail(argument, kind, "is no activation class", "pass a subclass, as LeakyReLU")
    if (first, second) in _KERNELS or (second, first) in _KERNELS:
        pair = f"{first.__name__} and {second.__name__}"
        raise fail("first, second", pair, "have a closed form already", "register another pair")

    def register(kernel: Kernel) -> Kernel:
        _KERNELS[first, second] = kernel
        if first is not second:
            _KERNELS[second, first] = lambda phi, chi, U, V: kernel(chi, phi, V, U).T
        return kernel

    return register


def check_gaussian_pair(
    argument: str, phi: AbstractActivation, chi: AbstractActivation
) -> tuple[type, type]:
    """Return the pair of classes; a ``ValueError`` that names what is known if it has no form."""
    pair = (type(phi), type(chi))
    if pair not in _KERNELS:
        known = sorted({" with ".join(sorted(k.__name__ for k in found)) for found in _KERNELS})
        raise fail(
            argument,
            f"{phi.name} with {chi.name}",
            "has no closed form on Gaussian inputs",
            f"choose a pair of {', '.join(known)}, or file one: register_gaussian_kernel",
        )
    return pair


def gaussian_kernel(
    phi: AbstractActivation, chi: AbstractActivation, U: ArrayLike, V: ArrayLike
) -> Array:
    r"""Return the moments :math:`E\,\varphi(u_i\cdot x)\,\chi(v_j\cdot x)`, x ~ N(0, I).

    Parameters
    ----------
    phi, chi : AbstractActivation
        A pair with a closed form: relu, leaky relu and linear among themselves, erf with erf, erf
        with those, and whatever `register_gaussian_kernel` was told.
    U : (m, d) array
    V : (n, d) array

    Returns
    -------
    (m, n) array
        Differentiable twice, also where rows are parallel; see the module for rows that vanish.

    Raises
    ------
    ValueError
        If the pair has no closed form, or U and V are not finite float64 rows of one length.
    """
    pair = check_gaussian_pair("phi, chi", phi, chi)
    rows = [
        x if isinstance(x, Tracer) else jnp.asarray(check_array(name, x, (None, None)))
        for name, x in (("U", U), ("V", V))
    ]
    shapes = [x.shape for x in rows]
    if not len(shapes[0]) == len(shapes[1]) == 2 or shapes[0][1] != shapes[1][1]:
        raise fail("U, V", shapes, "are no rows of one length", "pass shapes (m, d) and (n, d)")
    return _KERNELS[pair](phi, chi, rows[0], rows[1])


@jax.custom_jvp
def _directions(U: Array) -> Array:
    """The unit vectors of `polar`, whose derivative at a zero row is not finite."""
    return polar(U)[1]


@_directions.defjvp
def _directions_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[PyTree, PyTree]:
    (U,), (dU,) = primals, tangents
    norm, unit = polar(U)
    return unit, (dU - jnp.sum(unit * dU, axis=1)[:, None] * unit) / norm[:, None]


@jax.custom_jvp
def angles(U: Array, V: Array) -> tuple[Array, Array]:
    """θ = arcsin cos φ and sin φ, (m, n), of unit vectors; of a zero vector φ = π/2."""
    # The chord to ±v, whichever is near, keeps the digits of small angles, and of those to −v.
    side = jnp.where(U @ V.T >= 0, 1.0, -1.0)
    chord = jnp.sum(jnp.square(U[:, None, :] - side[:, :, None] * V[None, :, :]), axis=-1)
    zero = ~jnp.any(U != 0, axis=1)[:, None] | ~jnp.any(V != 0, axis=1)[None, :]
    chord = jnp.where(zero, 2.0, jnp.minimum(chord, 2.0))
    theta = side * (0.5 * jnp.pi - 2.0 * jnp.arcsin(0.5 * jnp.sqrt(chord)))
    return jnp.where(zero, 0.0, theta), jnp.sqrt(chord * (1.0 - 0.25 * chord))


@angles.defjvp
def _angles_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[PyTree, PyTree]:
    (U, V), (dU, dV) = primals, tangents
    theta, sine = angles(U, V)
    apart = sine > _PARALLEL
    # Rounding in dtheta grows like 1/sin φ; it enters derivatives of A times sin φ, because dsin
    # is taken from the same dtheta.
    inverse = jnp.where(apart, 1.0 / jnp.where(apart, sine, 1.0), 0.0)
    dtheta = inverse * (dU @ V.T + U @ dV.T)
    return (theta, sine), (dtheta, -(U @ V.T) * dtheta)


@jax.custom_jvp
def absolute_kernel(U: Array, V: Array) -> Array:
    """A(u_i, v_j) = E|u_i·x||v_j·x| (m, n); derivatives as in the module's docstring."""
    (u, U1), (v, V1) = polar(U), polar(V)
    theta, sine = angles(U1, V1)
    return (2 / math.pi) * (u[:, None] * v[None, :] * sine + theta * (U @ V.T))


@absolute_kernel.defjvp
def _absolute_kernel_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[PyTree, PyTree]:
    (U, V), (dU, dV) = primals, tangents
    (u, U1), (v, V1) = polar(U), polar(V)
    theta, sine = angles(U1, V1)
    # The second derivative's cone at a zero row enters here, and in that row only.
    along_u = jnp.sum(_directions(U) * dU, axis=1)
    along_v = jnp.sum(_directions(V) * dV, axis=1)
    turned = theta * (dU @ V.T + U @ dV.T)
    grown = sine * (along_u[:, None] * v[None, :] + u[:, None] * along_v[None, :])
    return absolute_kernel(U, V), (2 / math.pi) * (turned + grown)


@register_gaussian_kernel(LeakyReLU, LeakyReLU)
def _homogeneous(phi: LeakyReLU, chi: LeakyReLU, U: Array, V: Array) -> Array:
    odd = 0.25 * (1 + phi.slope) * (1 + chi.slope)
    even = 0.25 * (1 - phi.slope) * (1 - chi.slope)
    kernel = odd * (U @ V.T)
    return kernel if even == 0 else kernel + even * absolute_kernel(U, V)


@jax.custom_jvp
def squared_wedge(U: Array, V: Array) -> Array:
    """|u∧v|² = |u|²|v|² − (u·v)² (m, n), without that difference."""
    (u, U1), (v, V1) = polar(U), polar(V)
    return jnp.square(u[:, None] * v[None, :] * angles(U1, V1)[1])


@squared_wedge.defjvp
def _squared_wedge_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[PyTree, PyTree]:
    (U, V), (dU, dV) = primals, tangents
    squares_u, squares_v = jnp.sum(U * U, axis=1), jnp.sum(V * V, axis=1)
    along_u, along_v = jnp.sum(U * dU, axis=1), jnp.sum(V * dV, axis=1)
    grown = along_u[:, None] * squares_v[None, :] + squares_u[:, None] * along_v[None, :]
    return squared_wedge(U, V), 2.0 * (grown - (U @ V.T) * (dU @ V.T + U @ dV.T))


def _stretched(phi: Erf, rows: Array) -> Array:
    """Rows u with φ(w·x) = 2Φ(u·x) − 1; as they are for `probit_erf`.

    A factor 1 costs no multiplication, but its derivative regroups the sums of a gradient.
    """
    return rows if phi.stretch == 1.0 else phi.stretch * rows


@register_gaussian_kernel(Erf, Erf)
def _erf_erf(phi: Erf, chi: Erf, U: Array, V: Array) -> Array:
    U, V = _stretched(phi, U), _stretched(chi, V)
    # (2/π) arcsin of u·v/√((1+|u|²)(1+|v|²)) [williams1997infinite], as an arctangent whose
    # denominator, the cosine, is a sum of positive terms.
    rest = jnp.sum(U * U, axis=1)[:, None] + jnp.sum(V * V, axis=1)[None, :]
    return (2 / math.pi) * jnp.arctan2(U @ V.T, jnp.sqrt(1.0 + rest + squared_wedge(U, V)))


@register_gaussian_kernel(Erf, LeakyReLU)
def _erf_homogeneous(phi: Erf, chi: LeakyReLU, U: Array, V: Array) -> Array:
    U = _stretched(phi, U)
    # erf is odd, so only p v·x counts, and E f(u·x) v·x = u·v E f'(u·x).
    slope = math.sqrt(2 / math.pi) / jnp.sqrt(1.0 + jnp.sum(U * U, axis=1))
    return 0.5 * (1 + chi.slope) * slope[:, None] * (U @ V.T)
