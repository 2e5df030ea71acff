r"""Published bounds on the direction and norm of linear nets.

Every bound on the angle has the form :math:`\cos\theta\ge1-2/(e^{X}+1)`, which is
:math:`-2\ln\tan(\theta/2)\ge X` without the cancellation; the functions below return X. ``T`` is
the first time at which :math:`-w\cdot\nabla L=0` is crossed upward (0 if the norm grows from the
start). The factor 0.6 bounds :math:`2\sup_z z/(1+e^z)=0.557`. Two constants for N > 2 fail as they
stand in the submission of `lin2021faster`; its proceedings may have mended them. Sources:
`lin2021directional`, `lin2021faster`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

#: Of a bound whose constant fails as submitted.
Form = Literal["submitted", "corrected"]


def flow_early(t: ArrayLike, c0: float, radius: float, lam: float) -> np.ndarray:
    r"""Flow, N=1, t <= T: :math:`X=A_1t+B_1`, :math:`A_1=2c_0/(\pi\|w(0)\|)`,
    :math:`B_1=-2\ln\tan(\theta_0/2)`.

    Parameters
    ----------
    t : array
        Physical times up to T.
    c0, radius, lam : float
        The law's c₀, the norm and :math:`\ln\tan(\theta/2)` at time 0. Source:
        `lin2021directional`.
    """
    return 2 * c0 / (np.pi * radius) * np.asarray(t) - 2 * lam


def flow_late(
    t: ArrayLike, c0: float, radius: float, lam: float, *, scale: float = 1.0
) -> np.ndarray:
    r"""Flow, N=1, t > T: :math:`X=A_2\sqrt{t-T+C_2}+B_2`; ``t`` counts from T, ``radius`` and
    ``lam`` are those at T.

    :math:`C_2=\|w(T)\|^2/0.6`, :math:`B_2=-2\ln\tan(\theta(T)/2)-4c_0\|w(T)\|/(0.6\pi)`,
    :math:`A_2=4c_0/(\sqrt{0.6}\,\pi)`, so that :math:`A_2\sqrt{C_2}` cancels the last term and the
    bound is an equality at T. ``scale`` multiplies A₂. Source: `lin2021directional`.
    """
    rate = scale * 4 * c0 / (np.sqrt(0.6) * np.pi)
    shift = -2 * lam - 4 * c0 * radius / (0.6 * np.pi)
    return rate * np.sqrt(np.asarray(t) + radius**2 / 0.6) + shift


def deep_early(
    t: ArrayLike, c0: float, radius: float, lam: float, depth: int, form: Form
) -> np.ndarray:
    r"""Balanced flow, N > 2, t <= T: :math:`e^X=C_1(A_1t/B_1+1)^a`.

    :math:`A_1=(N-2)c_0`, :math:`B_1=\|w_e(0)\|^{2/N-1}`, :math:`C_1=\cot^2(\theta_0/2)`,
    :math:`a=2/((N-2)\pi)` (corrected) or :math:`2c_0/\pi` (as in the submission; it
    fails). Source: `lin2021faster`.
    """
    power = {"corrected": 2 / ((depth - 2) * np.pi), "submitted": 2 * c0 / np.pi}[form]
    growth = (depth - 2) * c0 * radius ** (1 - 2 / depth) * np.asarray(t)
    return -2 * lam + power * np.log1p(growth)


def deep_late(
    t: ArrayLike, c0: float, radius: float, lam: float, depth: int, form: Form
) -> np.ndarray:
    r"""Balanced flow, N > 2, t > T: :math:`X=A_2(t-T)+B_2`; ``t`` counts from T, ``radius`` and
    ``lam`` are those at T.

    :math:`A_2=\tfrac{2c_0}\pi\|w_e(T)\|^{1-2/N}` (corrected) or exponent :math:`2-2/N` (as in
    the submission; fails for :math:`\|w_e(T)\|>1`), :math:`B_2=-2\ln\tan(\theta(T)/2)`.
    Source: `lin2021faster`.
    """
    power = {"corrected": 1 - 2 / depth, "submitted": 2 - 2 / depth}[form]
    return 2 * c0 / np.pi * radius**power * np.asarray(t) - 2 * lam


def deep_upper(t: ArrayLike, c0: float, radius: float, lam: float, depth: int) -> np.ndarray:
    r"""Balanced flow, N > 2, upper bound: :math:`X=F[(0.6t+D)^{N/2}-D^{N/2}]+E`.

    :math:`D=\|w_e(0)\|^{2/N}`, :math:`E=-2\ln\tan(\theta_0/2)`, :math:`F=4c_0/(0.6N\pi)`. Source:
    `lin2021faster`.
    """
    start = radius ** (2 / depth)
    rise = (0.6 * np.asarray(t) + start) ** (depth / 2) - start ** (depth / 2)
    return 4 * c0 / (0.6 * depth * np.pi) * rise - 2 * lam


def log_norm_upper(t: ArrayLike, radius: float, depth: int) -> np.ndarray:
    r""":math:`\ln` of :math:`(\|w_e(0)\|^{2/N}+0.6t)^{N/2}\ge\|w_e(t)\|`. Source:
    `lin2021faster`."""
    return 0.5 * depth * np.log(radius ** (2 / depth) + 0.6 * np.asarray(t))


def log_norm_lower(t: ArrayLike, c0: float, radius: float, depth: int) -> np.ndarray:
    r""":math:`\ln` of :math:`(\|w_e(0)\|^{2/N-1}+(N-2)c_0t)^{-N/(N-2)}\le\|w_e(t)\|`, N > 2.
    Source: `lin2021faster`."""
    inner = radius ** (2 / depth - 1) + (depth - 2) * c0 * np.asarray(t)
    return -depth / (depth - 2) * np.log(inner)


def descent_sum(step_size: ArrayLike, c0: float, radius: float, *, growing: bool) -> np.ndarray:
    r"""S_n of the gradient-descent bounds for n = 0, ..., len(step_size).

    :math:`S_n=\sum_{k<n}\eta_k/\sqrt{A+\sum_{i\le k}\eta_i^2}`, :math:`A=\|w(0)\|^2/c_0^2`; with
    ``growing`` the inner sum has
    :math:`\eta_i^2+0.6\eta_i/c_0^2` (the bound under the norm-growth condition). Source:
    `lin2021directional`.
    """
    eta = np.asarray(step_size, dtype=np.float64)
    spent = eta**2 + (0.6 * eta / c0**2 if growing else 0.0)
    terms = eta / np.sqrt((radius / c0) ** 2 + np.cumsum(spent))
    return np.concatenate([[0.0], np.cumsum(terms)])


def descent_rate(cos_start: float, delta: float | None = None) -> float:
    r"""B of the gradient-descent bounds :math:`1-\cos\theta(n)\le(1-\cos\theta(0))e^{-BS_n}`.

    :math:`B=(1+\cos\theta(0))/\pi`, or :math:`\delta(1+\cos\theta(0))/((1+\delta)\pi)` under the
    norm-growth condition with :math:`\delta`. Source: `lin2021directional`.
    """
    factor = 1.0 if delta is None else delta / (1 + delta)
    return factor * (1 + cos_start) / np.pi
