r"""E φ(u)φ(v) of two correlated Gaussians by quadrature in polar coordinates.

Two unit normals of correlation cos θ are :math:`\rho\cos\psi` and :math:`\rho\cos(\psi-\theta)`
with ψ uniform and :math:`\rho e^{-\rho^2/2}d\rho`. Between the breaks of φ the integrand is
analytic in ρ; the angles at which the order of the breaks changes split the integral over ψ. No
piece gets narrow in any other way as θ → 0 or π, so nearly equal and nearly antipodal points are no
special case.
"""

from __future__ import annotations

import numpy as np

from gradflow.kernels.nodes import on_pieces, values
from gradflow.networks.activations import AbstractActivation

#: Beyond this radius a normal vector in the plane has the probability e^(-98).
_FAR = 14.0


def planar_gram(
    activation: AbstractActivation,
    norm_x: np.ndarray,
    norm_z: np.ndarray,
    theta: np.ndarray,
    nodes: int,
    symmetric: bool,
) -> np.ndarray:
    """E φ(u_i)φ(v_j), u_i ~ N(0, norm_x[i]²), v_j ~ N(0, norm_z[j]²), correlation cos θ_ij.

    Parameters
    ----------
    norm_x, norm_z, theta : arrays (n,), (m,), (n, m)
    nodes : int
        Gauss-Legendre nodes per piece and axis.
    symmetric : bool
        Whether only one half need be computed.
    """
    out = np.empty(theta.shape)
    for i in range(theta.shape[0]):
        for j in range(i if symmetric else 0, theta.shape[1]):
            out[i, j] = _mean_product(activation, norm_x[i], norm_z[j], theta[i, j], nodes)
            if symmetric:
                out[j, i] = out[i, j]
    return out


def _mean_product(
    activation: AbstractActivation, a: float, c: float, theta: float, nodes: int
) -> float:
    shifts = np.array([b for b in activation.breaks if b != 0])
    psi, weight = on_pieces(_angular_breaks(shifts, a, c, theta), nodes, graded=shifts.size > 0)
    slope_u, slope_v = a * np.cos(psi), c * np.cos(psi - theta)
    edges = _radial_breaks(shifts, slope_u, slope_v)
    rho, radial = on_pieces(edges, nodes)
    radial = radial * rho * np.exp(-0.5 * rho**2)
    u = values(activation, rho * slope_u[:, None])
    v = values(activation, rho * slope_v[:, None])
    return float(weight @ np.sum(radial * u * v, axis=1)) / (2 * np.pi)


def _angular_breaks(shifts: np.ndarray, a: float, c: float, theta: float) -> np.ndarray:
    """Where cos ψ or cos(ψ-θ) is 0, or a break of φ(u) meets one of φ(v); sorted, 0 and 2π."""
    right = 0.5 * np.pi
    found = [np.array([right, -right, theta + right, theta - right])]
    for b in shifts:
        meet = np.arctan2(shifts * a - b * c * np.cos(theta), b * c * np.sin(theta))
        found += [meet, meet + np.pi]
    inner = np.mod(np.concatenate(found), 2 * np.pi)
    return np.sort(np.concatenate([[0.0, 2 * np.pi], inner]))


def _radial_breaks(shifts: np.ndarray, slope_u: np.ndarray, slope_v: np.ndarray) -> np.ndarray:
    """Radii (angles, pieces + 1) at which u or v meets a break of φ, within [0, far]."""
    columns = [np.zeros_like(slope_u), np.full_like(slope_u, _FAR)]
    for b in shifts:
        for slope in (slope_u, slope_v):
            meets = slope * b > 0
            radius = b / np.where(meets, slope, b)
            columns.append(np.where(meets, np.minimum(radius, _FAR), _FAR))
    return np.sort(np.stack(columns, axis=1), axis=1)
