r"""Arc-cosine kernel :math:`k(\varphi)=(\sin\varphi+(\pi-\varphi)\cos\varphi)/2\pi` on spheres.

With sums and differences of it that keep their digits where they are small. Source:
`cho2009kernel`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gradflow.numerics.vectors import angles


def kernel(phi: ArrayLike) -> np.ndarray:
    """k(φ) = (sin φ + (π − φ) cos φ)/2π, the mean of relu(u·x) relu(v·x) for x ~ N(0, I)."""
    phi = np.asarray(phi, np.float64)
    return (np.sin(phi) + (np.pi - phi) * np.cos(phi)) / (2 * np.pi)


def planar_norm(weights: np.ndarray, directions: np.ndarray) -> float:
    """E f² in the plane: (1/π)∫ f(cos θ, sin θ)² dθ, where f is A·x between its kinks."""
    phase = np.arctan2(directions[:, 1], directions[:, 0])
    kinks = np.unique(np.mod(np.concatenate([phase + np.pi / 2, phase - np.pi / 2]), 2 * np.pi))
    if not kinks.size:
        return 0.0
    kinks = np.append(kinks, kinks[0] + 2 * np.pi)
    half = np.diff(kinks) / 2
    # no piece is longer than π: 12 nodes integrate cos² of it to rounding, with positive weights
    node, weight = np.polynomial.legendre.leggauss(12)
    theta = kinks[:-1, None] + half[:, None] * (1 + node)
    x = np.stack([np.cos(theta), np.sin(theta)], axis=-1)
    middle = kinks[:-1] + half
    centre = np.stack([np.cos(middle), np.sin(middle)], axis=-1)
    active = centre @ directions.T > 0
    slope = np.where(active, weights, 0.0) @ directions
    f = np.sum(x * slope[:, None, :], axis=-1)
    return float(np.sum(half[:, None] * weight * f**2)) / np.pi


def frames(at: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, ...]:
    """φ and sin φ (m, n) of unit rows ``at`` (m, d) and ``to`` (n, d), and unit vectors (m, n, d).

    The first is orthogonal to ``at``, in the direction of ``to``; the second the other way round.
    Both are 0 where the rows are parallel.
    """
    phi = angles(at, to)
    sin, cos = np.sin(phi), np.cos(phi)
    n = to[None, :, :] - cos[..., None] * at[:, None, :]
    m = at[:, None, :] - cos[..., None] * to[None, :, :]
    for part in (n, m):
        size = np.linalg.norm(part, axis=-1, keepdims=True)
        part /= np.where(size > 1e-15, size, np.inf)
    return phi, sin, n, m


def bregman(u: np.ndarray, base: np.ndarray, to: np.ndarray) -> np.ndarray:
    """K(u, v) − K(b, v) − ∇K(b, v)·(u − b) ≥ 0 for rows of u and b and all v, without cancelling.

    K is the degree-1 extension of k in its first argument. With Δ = φ(u, v) − φ(b, v) it is
    (sin φ_b (1 − cos ε) + [sin φ_u (1 − cos Δ) + cos φ_u (sin Δ − Δ)])/2π, ε the angle of u and b.
    """
    phi_u, phi_b = angles(u, to), angles(base, to)
    square = np.sum((u - base) ** 2, axis=1)[:, None]  # = 2 (1 − cos ε)
    # cos φ_u − cos φ_b = (u − b)·v = −2 sin((φ_u + φ_b)/2) sin(Δ/2), and (u − b)·b = −|u − b|²/2
    middle = np.sin((phi_u + phi_b) / 2)
    fall = np.einsum("id,ijd->ij", u - base, to[None, :, :] - base[:, None, :]) - square / 2
    ratio = fall / np.where(middle > 0, 2 * middle, 1.0)
    step = -2 * np.arcsin(np.clip(np.where(middle > 0, ratio, 0.0), -1, 1))
    third = np.where(
        np.abs(step) < 0.2,
        -(step**3) / 6 * (1 - step**2 / 20 * (1 - step**2 / 42 * (1 - step**2 / 72))),
        np.sin(step) - step,
    )
    turned = np.sin(phi_u) * 2 * np.sin(step / 2) ** 2 + np.cos(phi_u) * third
    return (np.sin(phi_b) * square / 2 + turned) / (2 * np.pi)
