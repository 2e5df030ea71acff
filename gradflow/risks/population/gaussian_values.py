r"""The value :math:`\tfrac12E(f-f^\circ)^2` near its minimum, where the quadratic form cancels.

As a quadratic form in the atoms :math:`c_i` (those of the net and, with the other sign, of the
teacher) the value is a sum of terms of size S² = (Σ|c_i||y_i|)², good to about εS², ε = 1e−16. Here
each neuron is held against the teacher's neuron v of the nearest direction, and only differences
enter. With :math:`m(y)=E(f-f^\circ)\varphi(y\cdot x)`, itself of the order of √L,

.. math:: 2L=\sum_ic_im(y_i)=\sum_j\Big[\sum_{k\to j}c_k\{m(w_k)-w_k\cdot\nabla m(v_j)\}
   +\delta_j\cdot\nabla m(v_j)\Big],\qquad \delta_j=\sum_{k\to j}c_kw_k+c_jv_j,

exactly and for every choice of the v (Euler's identity for 1-homogeneous m), and the braces are
second-order differences of the kernel, taken from differences of vectors. The error is about
εS(√L + Σ|c_k||w_k|ψ_k), ψ_k the angle of neuron k to its v: near a minimum whose neurons lie on
teacher's neurons (or are small) the value keeps a relative accuracy of ε/√L, down to about (εS)².
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from gradflow.networks.activations import AbstractActivation, Erf, LeakyReLU
from gradflow.numerics.traced import polar
from gradflow.risks.population.gaussian_kernels import angles, squared_wedge

#: ``value(phi, chi, W, a, V, b)`` -> L.
Value = Callable[..., Array]


def value_near_minimum(phi: AbstractActivation, chi: AbstractActivation) -> Value | None:
    """The form of this module for a net's and a teacher's activation; None where it has none."""
    return _VALUES.get((type(phi), type(chi)))


def _safe_ratio(numerator: Array, denominator: Array) -> Array:
    good = denominator > 0
    return jnp.where(good, numerator / jnp.where(good, denominator, 1.0), 0.0)


def _versine(cosine: Array, sine: Array) -> Array:
    """1 − cos, without cancellation."""
    return jnp.where(cosine > 0.5, jnp.square(sine) / (1.0 + jnp.abs(cosine)), 1.0 - cosine)


def homogeneous_value(
    phi: LeakyReLU, chi: LeakyReLU, W: Array, a: Array, V: Array, b: Array
) -> Array:
    """L for a (leaky) ReLU or linear net and teacher.

    Parameters
    ----------
    W, a : (m, d) and (m,) arrays
        The net's neurons and outer weights.
    V, b : (n, d) and (n,) arrays
        The teacher's; no row of V is zero.
    """
    odd = 0.5 * ((1 + phi.slope) * (a @ W) - (1 + chi.slope) * (b @ V))
    value = 0.5 * (odd @ odd)
    if phi.slope == chi.slope == 1.0:
        return value
    Y = jnp.concatenate([W, V])
    own, other = 0.5 * (1 - phi.slope) * a, -0.5 * (1 - chi.slope) * b
    c = jnp.concatenate([own, other])
    y, Y1 = polar(Y)
    w, W1 = y[: a.shape[0]], Y1[: a.shape[0]]
    V1 = Y1[a.shape[0] :]
    theta, sine = angles(V1, Y1)
    pull = theta @ (c[:, None] * Y) + (sine @ (c * y))[:, None] * V1  # (π/2) ∇m(v_j)

    cosine = V1 @ Y1.T
    near = jnp.argmax(jnp.abs(cosine[:, : a.shape[0]]), axis=0)
    side = jnp.where(jnp.sum(W1 * V1[near], axis=1) >= 0, 1.0, -1.0)
    group = (near[None, :] == jnp.arange(b.shape[0])[:, None]).astype(W.dtype)
    delta = group @ ((own * side)[:, None] * W) + other[:, None] * V

    # Angles of y to w and to its v, both turned to the side of y on which v lies.
    turned = jnp.where(side[:, None] * cosine[near] >= 0, 1.0, -1.0)
    away = W1 - side[:, None] * V1[near]
    cos_v, sin_v = jnp.abs(cosine[near]), sine[near]
    cos_w, sin_w = turned * (W1 @ Y1.T), angles(W1, Y1)[1]
    step = turned * (away @ Y1.T)  # cos_w − cos_v
    ratio = _safe_ratio(cos_w + cos_v, sin_w + sin_v)  # sin_w − sin_v = −step · ratio
    # sin(θ_w − θ_v); its bound keeps rounding in `step` out where both sines are tiny.
    bound = sin_w + sin_v
    turn_sine = jnp.clip(step * (sin_v + cos_v * ratio), -bound, bound)
    turn = jnp.arctan2(turn_sine, sin_v * sin_w + cos_v * cos_w)
    rest = _versine(cos_w, sin_w) + cos_w * _versine(cos_v, sin_v)  # 1 − cos_w cos_v
    wedge = cos_w * (turn - turn_sine) + step * (sin_v * cos_w - rest * ratio)
    wedge = wedge + 0.5 * jnp.sum(jnp.square(away), axis=1)[:, None] * sin_v
    even = jnp.sum(delta * pull) + (own * w) @ (wedge @ (c * y))
    return value + even / math.pi


def erf_value(phi: Erf, chi: Erf, W: Array, a: Array, V: Array, b: Array) -> Array:
    r"""L for an erf net and teacher, shapes as above.

    :math:`2L=\sum_ka_k[m(w_k)-m(v_{j(k)})]+\sum_j(\sum_{k\to j}a_k-b_j)m(v_j)`, the first
    difference of the kernel's arctangents taken as one arctangent.
    """
    W, V = phi.stretch * W, chi.stretch * V
    Y, c = jnp.concatenate([W, V]), jnp.concatenate([a, -b])
    squares = jnp.sum(jnp.square(Y), axis=1)
    product = W @ V.T
    distance = squares[a.shape[0] :][None, :] - 2.0 * jnp.abs(product)
    near = jnp.argmin(distance, axis=1)
    side = jnp.where(jnp.sum(W * V[near], axis=1) >= 0, 1.0, -1.0)
    group = (near[None, :] == jnp.arange(b.shape[0])[:, None]).astype(W.dtype)

    def cosine_part(U: Array) -> Array:
        total = jnp.sum(jnp.square(U), axis=1)[:, None] + squares[None, :]
        return jnp.sqrt(1.0 + total + squared_wedge(U, Y))

    dots, rests = V @ Y.T, cosine_part(V)
    pull = jnp.arctan2(dots, rests) @ c
    A = side[:, None] * V[near]
    dot_v, rest_v = side[:, None] * dots[near], rests[near]
    dot_w, rest_w = W @ Y.T, cosine_part(W)
    step = (W - A) @ Y.T
    grown = jnp.sum((W - A) * (W + A), axis=1)[:, None] * (1.0 + squares)[None, :]
    rest_step = (grown - step * (dot_w + dot_v)) / (rest_w + rest_v)
    turn = jnp.arctan2(step * rest_v - dot_v * rest_step, rest_w * rest_v + dot_w * dot_v)
    return (a @ (turn @ c) + (group @ (a * side) - b) @ pull) / math.pi


_VALUES: dict[tuple[type, type], Value] = {
    (LeakyReLU, LeakyReLU): homogeneous_value,
    (Erf, Erf): erf_value,
}
