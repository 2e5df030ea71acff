"""From a problem to the kernel's arrays, and from the kernel's vectors to the flow's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import numpy as np

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.surfaces import Surfaces
from gradflow.flows.flow import Flow
from gradflow.integrators.contract import Problem
from gradflow.integrators.steppers.cells.own import OwnLoss
from gradflow.integrators.steppers.cells.system import (
    CROSS_ENTROPY,
    EXPONENTIAL,
    HINGE,
    LOG,
    LOGISTIC,
    LOSS,
    OWN,
    PHYSICAL,
    SOFT_LOGISTIC,
    SQUARED,
    System,
)
from gradflow.integrators.tolerances import Tolerances
from gradflow.validation import fail

_LOSSES = {
    "squared": SQUARED, "logistic": LOGISTIC, "exponential": EXPONENTIAL, "hinge": HINGE,
    "soft_logistic": SOFT_LOGISTIC, "cross_entropy": CROSS_ENTROPY,
}  # fmt: skip
_CLOCKS = {"physical": PHYSICAL, "log": LOG, "loss": LOSS}


@dataclass(frozen=True)
class Units:
    """The units in which neurons move at rate 1: ``W = unit_w W'`` and ``a = unit_a a'``.

    Attributes
    ----------
    w : (D,) array
    a : float
    """

    w: np.ndarray
    a: float

    @classmethod
    def of(cls, flow: Flow, at: Arrangement) -> Units:
        """Return the units of a flow whose layers move at rates of their own."""
        W, a = at.split(flow.chart.rates)
        units = cls(np.sqrt(W[0]), float(np.sqrt(a.flat[0])) if at.trained else 1.0)
        if at.tv and (np.ptp(units.w) or units.w[0] != 1 or units.a != 1):
            raise fail(
                "metric", "...", "gives layers rates of their own beside a total-variation penalty",
                "leave metric or lam out, or use l2",
            )  # fmt: skip
        return units


class Vectors:
    """Integrated vectors of a flow as the kernel's ``(W, a, extras)``, and back.

    Parameters
    ----------
    flow : Flow
    arrangement : Arrangement
    units : Units
    """

    def __init__(self, flow: Flow, arrangement: Arrangement, units: Units) -> None:
        self._flow, self._at, self._units = flow, arrangement, units

    def inward(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return W (m, D), a (m, o) and the extras of an integrated vector."""
        extras = self._flow.extras
        W, a = self._at.split(self._flow.chart.decode(Y[:-extras]))
        W = W / self._units.w
        a = (a / self._units.a).reshape(len(W), self._at.outputs)
        return W, a, np.array(Y[-extras:], np.float64)

    def outward(self, y: np.ndarray, m: int) -> np.ndarray:
        """Return integrated vectors (rows, ·) of the kernel's (rows, dim)."""
        D, o = self._at.dim, self._at.outputs
        rows = len(y)
        W = y[:, : m * D].reshape(rows, m, D) * self._units.w
        a = y[:, m * D : m * (D + o)].reshape(rows, m, o) * self._units.a
        joined = self._at.join(W, a[..., 0] if o == 1 else a)
        leaves = jax.tree.leaves(joined)
        flat = [np.asarray(x).reshape(rows, math.prod(x.shape[1:])) for x in leaves]
        return np.concatenate([*flat, y[:, m * (D + o) :]], axis=1)


def loss_number(at: Arrangement) -> int:
    """Return the number of a loss; OWN where it has none."""
    known = ("squared", "cross_entropy") if at.outputs > 1 else tuple(_LOSSES)
    return _LOSSES[at.loss.name] if at.loss.name in known else OWN


def own_loss(at: Arrangement) -> OwnLoss | None:
    """Return the loss of an arrangement as a function to call back; None if it has a number."""
    if loss_number(at) != OWN:
        return None
    return OwnLoss(at.loss, np.asarray(at.y, np.float64), np.asarray(at.log_weights))


def system_of(
    problem: Problem, at: Arrangement, units: Units, m: int, own: OwnLoss | None
) -> System:
    """Return the kernel's arrays of a problem."""
    n, o = len(at.y), at.outputs
    X = np.ascontiguousarray(at.inputs * units.w)
    surfaces = Surfaces.of(X, at.breakpoints)
    offset = np.zeros((n, o)) if at.offset is None else np.reshape(at.offset, (n, o))
    tolerances = problem.tolerances
    noise = _noise(at, tolerances)
    lengths, steepest = np.linalg.norm(X, axis=1), float(np.max(np.abs(at.slopes)))
    atol, tau = _atol(problem, at, units, m)
    trained = at.trained
    return System(
        X=X, XT=np.ascontiguousarray(X.T), N=surfaces.N, NT=np.ascontiguousarray(surfaces.N.T),
        level=surfaces.level, size=np.linalg.norm(surfaces.N, axis=1), start=surfaces.start,
        datum=surfaces.datum, piece=surfaces.piece, way=surfaces.way,
        slopes=np.array(at.slopes, np.float64), icepts=np.array(at.intercepts, np.float64),
        y=np.ascontiguousarray(np.reshape(at.y, (n, o)), np.float64),
        logw=np.array(at.log_weights, np.float64), offset=np.ascontiguousarray(offset, np.float64),
        loss=loss_number(at), own=0 if own is None else own.address,
        gain=units.a if trained else 1.0,
        l2w=at.l2 * units.w**2, l2a=at.l2 * units.a**2 if trained else 0.0, tv=at.tv,
        clock=_CLOCKS[problem.flow.clock.name], trained=trained, atol=atol, atol_tau=tau,
        rtol=tolerances.rtol_local, noise=noise, hush=float(noise @ lengths) * steepest,
        length=lengths,
    )  # fmt: skip


def _noise(at: Arrangement, tolerances: Tolerances) -> np.ndarray:
    """The size (n,) of pulls that are rounding: a residual f − y carries the error of its terms.

    Pulls of a loss with kinks are constant, and may cancel to rounding in what moves a neuron.
    """
    if at.loss_kinked:
        return 64 * float(np.finfo(float).eps) * np.exp(at.log_weights)
    if at.loss.margin:
        return np.zeros(len(at.y))
    largest = max(float(np.max(np.abs(at.y))), 1e-300)
    resolution = max(tolerances.residual, 64 * float(np.finfo(float).eps))
    return resolution * largest * np.exp(at.log_weights)


def _atol(problem: Problem, at: Arrangement, units: Units, m: int) -> tuple[np.ndarray, float]:
    """The absolute error allowed each neuron, and ln(1+t)."""
    extras, atol = problem.flow.extras, problem.tolerances.atol_local
    W, a = at.split(problem.flow.chart.decode(atol[:-extras]))
    each = np.max(W / units.w, axis=1)
    if at.trained:
        each = np.maximum(each, np.max((a / units.a).reshape(m, -1), axis=1))
    return each, float(atol[-1])
