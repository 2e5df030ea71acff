r"""Quadrature rules for the radius of the marginals of a spherical law, at unit length scale.

They are trapezoid rules in :math:`y=\ln\rho^2` or in the log-odds of a Beta variable, which
converge exponentially for integrands smooth in :math:`\ln\rho`, such as
:math:`\tanh(\rho m/2)`. Every rule reaches so far down that relative accuracy holds for all
arguments m up to ``largest``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gradflow.numerics.logs import log_expm1

#: Largest argument for which the quadrature rules keep their relative accuracy.
LARGEST_ARGUMENT = 1e15
#: -log of what a truncated end of a trapezoid rule may weigh.
CUT = 42.0


class Nodes(NamedTuple):
    """Quadrature rule: ``sum(weight * f(node))`` stands for ``E f``."""

    node: np.ndarray
    weight: np.ndarray


def log_grid(low: float, high: float, step: float) -> np.ndarray:
    """Multiples of ``step`` that cover [low, high]."""
    return step * np.arange(math.floor(low / step), math.ceil(high / step) + 1)


def _lower_end(k: int, largest: float) -> float:
    # Below y the k-dimensional volume weighs e^{ky/2}; the integrals at the largest argument live
    # at y = -2 ln(largest) and are to be right to e^-CUT relative to that.
    return -2 * math.log(max(largest, 1.0)) - 2 * CUT / k


def _beta_weights(a: float, b: float, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds y and normalised trapezoid weights of Beta(a, b)."""
    # The transform of s^a (1-s)^b in y decays like e^{-pi w} to e^{-pi w/2}, for b small to large.
    step = 0.35 if b <= 1.5 else 0.27 if b <= 5 else 0.2
    low -= math.log1p(b)
    y = log_grid(low, high, step)
    log_weight = -a * np.logaddexp(0, -y) - b * np.logaddexp(0, y)
    weight = np.exp(log_weight - log_weight.max())
    return y, weight / weight.sum()


@lru_cache(maxsize=256)
def sphere_nodes(k: int, dim: int, largest: float = LARGEST_ARGUMENT) -> Nodes:
    """Rule for the radius of the k-dimensional marginal of the uniform law on the unit sphere."""
    if k == dim:
        return Nodes(np.ones(1), np.ones(1))
    a, b = k / 2, (dim - k) / 2
    high = float(log_expm1(CUT / b))
    y, weight = _beta_weights(a, b, _lower_end(k, largest), high)
    return Nodes(np.exp(-0.5 * np.logaddexp(0, -y)), weight)


@lru_cache(maxsize=64)
def student_nodes(k: int, nu: float, largest: float = LARGEST_ARGUMENT) -> Nodes:
    """Rule for the radius of the k-dimensional Student-t marginal of unit scale."""
    a, b = k / 2, nu / 2
    # The first moment must survive the cut: rho^{1-nu}, also against the smallest tabulated m.
    slow = max(b - 0.5, 0.05)
    high = min(float(log_expm1(CUT / slow)) + 42, 1300)
    y, weight = _beta_weights(a, b, _lower_end(k, largest), high)
    return Nodes(math.sqrt(nu) * np.exp(y / 2), weight)


@lru_cache(maxsize=16)
def gaussian_nodes(k: int, largest: float = LARGEST_ARGUMENT) -> Nodes:
    """Rule for the radius of a k-dimensional standard normal vector."""
    y = log_grid(_lower_end(k, largest), math.log(2 * (CUT + 8)), 0.2)
    weight = np.exp(k * y / 2 - np.exp(y) / 2)
    return Nodes(np.exp(y / 2), weight / weight.sum())
