r"""Training the last layer: every mode of the residual decays on its own, an integrators' oracle.

With fixed features :math:`A=\varphi(XW^\top)\in R^{n\times m}` and
:math:`L(v)=\tfrac1{2n}\|Av-y\|^2` the residual :math:`r=Av-y` obeys

.. math:: \dot r=-Kr,\quad K=AA^\top/n,\qquad r(t)=e^{-Kt}r(0),

and under gradient descent :math:`r_k=(I-\eta K)^kr_0`: along the eigenvectors of K the modes are
:math:`e^{-\lambda_it}` and :math:`(1-\eta\lambda_i)^k`. The flow's claim is weighed for every
integrator that is registered. Source: `benson2020over`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.instances import Row, Several, every, row, rows, several
from gradflow.claims.papers.benson2020over import PAPER
from gradflow.claims.papers.benson2020over.setting import (
    EPS,
    SOURCE,
    Points,
    check_activation,
    labelled,
    points,
)
from gradflow.validation import check_array, check_choice, check_integer, check_positive, fail

#: Relative tolerances of the two solves; methods of low order pay for them in steps.
COARSE_AND_FINE = (1e-10, 1e-11)
OF_INTEGRATOR = {
    "heun": (1e-8, 1e-9),
    "kvaerno3": (1e-8, 1e-9),
    "kvaerno4": (1e-9, 1e-10),
    "dop853": (1e-11, 1e-12),
}
#: Times, in units of the last one.
SHARES = (0.02, 0.2, 1.0)
#: The fastest mode may decay by e to minus this: explicit methods pay for it in steps.
STIFFEST = 200.0


@dataclass(frozen=True)
class LastLayer:
    """Data, fixed inner weights and a start of the last layer; made by `last_layer`, hashable."""

    data: Points
    inner: tuple[Row, ...]
    start: Row
    activation: gf.AbstractActivation

    @property
    def net(self) -> gf.RandomFeatures:
        """The net with its inner weights."""
        return gf.RandomFeatures(np.array(self.inner), self.activation)

    @property
    def risk(self) -> gf.EmpiricalRisk:
        """½ mean (f - y)²."""
        return gf.EmpiricalRisk(self.net, gf.squared, self.data.X, self.data.y)

    @property
    def A(self) -> np.ndarray:
        """The features (n, m)."""
        return np.asarray(self.net.features(self.data.X))

    @property
    def K(self) -> np.ndarray:
        """AAᵀ/n."""
        return self.A @ self.A.T / self.data.n

    @property
    def residual(self) -> np.ndarray:
        """r(0) = Av(0) - y."""
        return self.A @ np.array(self.start) - self.data.y

    @property
    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (n,) and eigenvectors, one a column, of K."""
        return np.linalg.eigh(self.K)

    @property
    def times(self) -> np.ndarray:
        """Times to read at: till the slowest mode has decayed, unless that is too stiff."""
        rates = self.modes[0]
        top = float(rates[-1])
        slow = float(np.min(rates[rates > 1e-12 * top], initial=top))
        return np.array(SHARES) * min(3 / slow, STIFFEST / top)

    def __str__(self) -> str:
        return f"{self.activation.name}, n={self.data.n}, m={len(self.inner)}"


def last_layer(
    data: Points,
    width: int | None = None,
    *,
    activation: gf.AbstractActivation,
    seed: int = 0,
    inner: ArrayLike | None = None,
    start: ArrayLike | None = None,
) -> LastLayer:
    """A checked `LastLayer`.

    Parameters
    ----------
    data : Points
        With labels.
    width : int, optional
        m; the inner weights are then drawn N(0, I) from ``seed``.
    activation : AbstractActivation
    seed : int
    inner : (m, d) array, optional
        The inner weights, in place of ``width``.
    start : (m,) array, optional
        v(0); default 0.
    """
    if not isinstance(data, Points):
        raise fail("data", data, "are no Points", "pass points(X, y)")
    if (width is None) == (inner is None):
        raise fail("width", width, "and inner: exactly one is needed", "pass either of them")
    if inner is None:
        m = check_integer("width", width, minimum=1)
        rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
        W = rng.normal(size=(m, data.dim))
    else:
        W = check_array("inner", inner, (None, data.dim))
    v = np.zeros(len(W)) if start is None else check_array("start", start, (len(W),))
    gf.RandomFeatures(W, check_activation("activation", activation))  # refuses zero rows
    return LastLayer(data, rows(W), row(v), activation)


@cache
def defaults() -> tuple[LastLayer, ...]:
    """Of one shape, so that they share their compiled programs."""
    rng, phi = np.random.default_rng(4), gf.shifted_relu(0.3)
    data = points(rng.normal(size=(6, 2)), rng.normal(size=6))
    inner, start = rng.normal(size=(12, 2)), rng.normal(size=12)
    return (
        last_layer(points(*gf.datasets.hexagon()), 12, activation=phi, seed=1),
        last_layer(data, activation=phi, inner=inner, start=start),
    )


def _hypotheses(ones: tuple[LastLayer, ...]) -> list[Hypothesis]:
    def still(one: LastLayer) -> str:
        scale = np.linalg.norm(one.data.y) + np.linalg.norm(one.A @ np.array(one.start))
        small = np.linalg.norm(one.residual) <= 1e-9 * scale
        return "the start fits the labels already" if small else ""

    def dead(one: LastLayer) -> str:
        return "" if np.any(one.A) else "every feature vanishes on the data"

    return [
        labelled([one.data for one in ones]),
        every("features that do not vanish", ones, dead),
        every("residual at the start", ones, still),
    ]


def _projected(one: LastLayer, residuals: np.ndarray) -> np.ndarray:
    """Modes of residuals (T, n) in units of the size of r(0)."""
    return residuals @ one.modes[1] / np.linalg.norm(one.residual)


# --- the flow ----------------------------------------------------------------------------------


def flow_modes(one: LastLayer, name: str, rtol: float) -> np.ndarray:
    """Modes at `LastLayer.times` (T, n) of the flow, by the integrator of that name."""
    # A start at 0 has no size to scale an absolute tolerance by; ‖r(0)‖/‖A‖ is the one that counts.
    size = float(np.linalg.norm(one.residual) / np.linalg.norm(one.A, 2))
    if any(one.start):
        size = min(size, float(np.max(np.abs(one.start))))
    path = gf.integrate(
        one.risk, one.net.params(np.array(one.start)), until=gf.until.time(float(one.times[-1])),
        clock="physical", integrator=name, rtol=rtol, atol=min(rtol * size, 1e-3),
        save_at=one.times, throw=True,
    )  # fmt: skip
    return _projected(one, np.asarray(path.params.weight) @ one.A.T - one.data.y)


def flow(ones: Several[LastLayer], integrators: Any = None, *, id: str) -> Equality:
    """Every mode against the matrix exponential, for every integrator, to 1e-8.

    Parameters
    ----------
    ones : LastLayer or sequence of LastLayer
    integrators : sequence of str, optional
        Names; default: all that are registered.
    """
    ones = several("ones", ones, LastLayer)
    if integrators is not None:
        integrators = [integrators] if isinstance(integrators, str) else list(integrators)
        for name in integrators:
            check_choice("integrators", name, gf.integrator_names())
        if not integrators:
            raise fail("integrators", integrators, "is empty", "pass names, or leave it out")

    def names() -> list[str]:
        return gf.integrator_names() if integrators is None else integrators

    def predict(lab: Lab, haste: float = 1.0) -> np.ndarray:
        found = []
        for one in ones:
            exact = [scipy.linalg.expm(-one.K * haste * t) @ one.residual for t in one.times]
            found.append(np.tile(_projected(one, np.array(exact)).ravel(), len(names())))
        return np.concatenate(found)

    def measure(lab: Lab) -> Measurement:
        solves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        labels = []
        for one in ones:
            rates = one.modes[0]
            for name in names():
                for solve, rtol in zip(
                    solves, OF_INTEGRATOR.get(name, COARSE_AND_FINE), strict=True
                ):
                    solve.append(flow_modes(one, name, rtol).ravel())
                labels += [f"{name}, {one}, λ={r:.3g}, t={t:.3g}" for t in one.times for r in rates]
        coarse, fine = (np.concatenate(solve) for solve in solves)
        return Measurement.from_solves(coarse, fine, extra=64 * EPS, labels=labels)

    return Equality(
        **PAPER.words("last-layer-flow", id),
        hypotheses=_hypotheses(ones),
        predict=predict,
        measure=measure,
        tolerance=1e-8,
        relative=False,
        control=Control.replacing(
            "the flow of mean (Av - y)², which is twice as fast",
            predict=lambda lab: predict(lab, 2),
        ),
    )


# --- gradient descent --------------------------------------------------------------------------


def descent(
    ones: Several[LastLayer], share: float = 0.75, steps: tuple[int, ...] = (1, 10, 200), *, id: str
) -> Equality:
    """Every mode of gradient descent, (1 - ηλ_i)^k with η = 2·share/λ_max.

    Parameters
    ----------
    ones : LastLayer or sequence of LastLayer
    share : float
        η in units of the largest step that does not diverge, 2/λ_max.
    steps : tuple of int
        k, increasing.
    """
    ones, share = several("ones", ones, LastLayer), check_positive("share", share)
    steps = tuple(check_integer("steps", k, minimum=1) for k in steps)
    if not steps or list(steps) != sorted(set(steps)):
        raise fail("steps", steps, "is not increasing", "pass for example (1, 10, 200)")

    def step_size(one: LastLayer) -> float:
        return 2 * share / float(one.modes[0][-1])

    def predict(lab: Lab, factor: float = 1.0) -> np.ndarray:
        found = []
        for one in ones:
            rates, vectors = one.modes
            start = vectors.T @ one.residual / np.linalg.norm(one.residual)
            decay = 1 - factor * step_size(one) * rates
            found += [decay**k * start for k in steps]
        return np.concatenate(found)

    def by_descend(one: LastLayer) -> np.ndarray:
        done = gf.descend(
            one.risk, one.net.params(np.array(one.start)),
            step_size=step_size(one), steps=steps[-1], throw=True,
        )  # fmt: skip
        weights = np.asarray(done.params.weight)[list(steps)]
        return _projected(one, weights @ one.A.T - one.data.y).ravel()

    def by_loop(one: LastLayer) -> np.ndarray:
        residual, kept = one.residual, []
        for k in range(1, steps[-1] + 1):
            residual = residual - step_size(one) * (one.K @ residual)
            if k in steps:
                kept.append(residual)
        return _projected(one, np.array(kept)).ravel()

    def measure(lab: Lab) -> Measurement:
        labels = [f"{one}, λ={r:.3g}, k={k}" for one in ones for k in steps for r in one.modes[0]]
        first, second = (
            np.concatenate([run(one) for one in ones]) for run in (by_loop, by_descend)
        )
        return Measurement.from_solves(first, second, extra=64 * EPS, labels=labels)

    return Equality(
        **PAPER.words("last-layer-descent", id),
        hypotheses=[
            *_hypotheses(ones),
            Hypothesis("η < 2/λ_max", lambda lab: (share < 1, f"η = {share:g}·2/λ_max diverges")),
        ],
        predict=predict,
        measure=measure,
        tolerance=1e-11,
        relative=False,
        control=Control.replacing("half the step size", predict=lambda lab: predict(lab, 0.5)),
    )


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "last-layer-flow": lambda: flow(defaults(), id=f"{SOURCE}/last-layer-flow"),
    "last-layer-descent": lambda: descent(defaults(), id=f"{SOURCE}/last-layer-descent"),
}
