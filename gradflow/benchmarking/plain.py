"""A two-layer net on data as plain arrays, for solvers that write its field down themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradflow.benchmarking.problem import Problem

#: Codes that compiled fields switch by.
LOSSES = {"squared": 0, "logistic": 1, "exponential": 2}
PIECEWISE, TANH = 0, 1


@dataclass(frozen=True)
class PlainNet:
    r"""f(x) = Σ_k a_k φ(w_k·x), both layers or the first trained, L = Σ_i ω_i ℓ(f(x_i), y_i).

    Attributes
    ----------
    X, y, weights : (n, d), (n,) and (n,) arrays
        Data and ω (the 1/n of a mean is in it).
    activation : int
        ``PIECEWISE`` (slopes ``low`` left and ``high`` right of 0) or ``TANH``.
    low, high : float
    loss : str
        One of ``LOSSES``.
    m : int
        Neurons; a state is W row by row, then a.
    trained : bool
        Whether a moves.
    """

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    activation: int
    low: float
    high: float
    loss: str
    m: int
    trained: bool

    @property
    def kinked(self) -> bool:
        """Whether φ' jumps."""
        return self.activation == PIECEWISE and self.low != self.high

    def split(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W (m, d) and a (m,), views."""
        size = self.m * self.X.shape[1]
        return state[:size].reshape(self.m, -1), state[size:]

    def pulls(self, f: np.ndarray) -> np.ndarray:
        """−ω_i ∂ℓ/∂f at f(x_i) (n,)."""
        return self.weights * PULLS[self.loss](f, self.y)


def _logistic(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    # (a sigmoid that does not overflow)
    e = np.exp(-np.abs(f))
    return y * np.where(y * f > 0, e, 1.0) / (1.0 + e)


PULLS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "squared": lambda f, y: y - f,
    "logistic": _logistic,
    "exponential": lambda f, y: y * np.exp(-y * f),
}


class NotPlain(ValueError):
    """Why a problem is none of a two-layer net that can be written down here."""


def plain_net(problem: Problem) -> PlainNet:
    """The net of a problem as plain arrays.

    Raises
    ------
    NotPlain
        Where it has none.
    """
    risk, net = problem.risk, problem.risk.net
    loss = getattr(getattr(risk, "loss", None), "name", None)
    activation = getattr(net, "activation", None)
    inner = getattr(problem.start, "inner", None)
    data = [getattr(risk, name, None) for name in ("X", "y")]
    if net is None or activation is None or inner is None or any(part is None for part in data):
        raise NotPlain("is written for two-layer nets on data")
    at = risk.arrangement
    bare = getattr(risk, "offset", None) is None and getattr(net, "factor", None) == 1
    if net.outputs != 1 or getattr(net, "bias", True) or not bare or (at and not at.central):
        raise NotPlain("is written for nets of one output without bias, scaling or penalty")
    if loss not in LOSSES:
        raise NotPlain(f"is written for the losses {', '.join(LOSSES)}")
    if activation.name == "tanh":
        kind, low, high = TANH, 1.0, 1.0
    elif at is not None:
        kind, low, high = PIECEWISE, float(at.slopes[0]), float(at.slopes[-1])
    else:
        raise NotPlain("is written for tanh and (leaky) ReLU neurons")
    X, y = (np.array(part, np.float64) for part in data)
    own = getattr(risk, "weights", None)
    weights = np.ones(len(y)) if own is None else np.array(own, np.float64)
    if getattr(risk, "reduction", "mean") == "mean":
        weights = weights / np.sum(weights)
    trained = getattr(net, "outer", "trained") == "trained"
    return PlainNet(X, y, weights, kind, low, high, loss, inner.shape[0], trained)


def not_plain(problem: Problem) -> str | None:
    """Why a problem has no `plain_net`, or None."""
    try:
        plain_net(problem)
    except NotPlain as reason:
        return str(reason)
    return None
