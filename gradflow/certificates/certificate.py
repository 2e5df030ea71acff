"""Certificates of a flow's limit: the KKT point or the stationary point that a path's end is at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import PyTree

from gradflow.certificates import max_margin
from gradflow.certificates.kkt import Sliding
from gradflow.certificates.max_margin import MarginLimit
from gradflow.certificates.stationary import Stationary, stationary_point
from gradflow.integrators.contract import Result
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_positive, fail, refuse_traced


@dataclass(frozen=True)
class Certificate:
    """What a flow converges to, and by how much that was checked.

    Attributes
    ----------
    kind : {"max-margin KKT", "stationary point"}
    accepted : bool
        Whether every check passed. Numerics support a limit; they do not prove it.
    reason : str
        Which check failed, or which ones passed.
    params : parameters
        The limit: a max-margin one scaled to unit norm of the trained weights, with neurons of
        vanishing mass zero. Where there is none, the state itself.
    kkt_residual : float
        Of a max-margin limit the largest of the three parts below (see `KKTResidual`); of a
        stationary point |∇L|, what slopes leave the interval of those of φ by included.
    stationarity, complementarity, feasibility : float
    normalised_margin, margin_before : float
        Of the max-margin limit and of the flow's state.
    duals : (n,) array
        λ of ``min ½|θ|² s.t. q_i(θ) ≥ 1``; of minimum norm where they are not unique.
    sliding : tuple of Sliding
        Neurons that stand on a datum's surface, with their slopes.
    dropped : dict
        Neurons of zero mass and their forces D_k = |Π_k Σ λ_i y_i s_ki x_i|; at D_k < 1 their share
        falls like (|θ|²)^(D_k − 1).
    distance : float
        |θ̂ − θ̂_flow| of a max-margin limit: directions may converge slowly, so this is no error
        of the certificate. Of a stationary point |θ − θ_flow|.
    spectrum : (p,) array
        Eigenvalues of the Hessian at a stationary point, along its kinks.
    verdict : {"", "minimum", "degenerate minimum", "saddle", "undecided"}
        For stationary points.
    index : int
        Directions of negative curvature at a stationary point, along its kinks; −1 where it is not
        known.
    """

    kind: str
    accepted: bool
    reason: str
    params: PyTree
    kkt_residual: float
    stationarity: float = np.inf
    complementarity: float = 0.0
    feasibility: float = 0.0
    normalised_margin: float = np.nan
    margin_before: float = np.nan
    duals: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sliding: tuple[Sliding, ...] = ()
    dropped: dict[int, float] = field(default_factory=dict)
    distance: float = np.nan
    spectrum: np.ndarray = field(default_factory=lambda: np.zeros(0))
    verdict: str = ""
    index: int = -1

    @property
    def slopes(self) -> np.ndarray:
        """Slopes of the neurons that stand on a surface, in the order of ``sliding``."""
        return np.array([s.slope for s in self.sliding])


#: What a state that is no limit is told.
_FURTHER = ("integrate further",)


@runtime_checkable
class PathEnd(Protocol):
    """A path as far as a certificate reads it."""

    @property
    def risk(self) -> AbstractRisk:
        """Whose flow it is."""
        ...

    @property
    def result(self) -> Result:
        """How it ended."""
        ...

    @property
    def final(self) -> PyTree:
        """Where it ended."""
        ...


def certify(
    target: PathEnd | AbstractRisk, params: object = None, *, candidate: object = None,
    tol: float = 1e-12,
) -> Certificate:  # fmt: skip
    r"""Polish the limit that a path's end belongs to, and check it.

    Parameters
    ----------
    target : Trajectory or risk
        A trajectory's last state is the start; with a risk, ``params`` is.
    params : parameters, optional
        A late state of the flow.
    candidate : parameters, optional
        A limit proposed from elsewhere: it is checked as it is, not polished.
    tol : float
        Largest residual accepted, relative to the terms that cancel in it.

    Returns
    -------
    Certificate
        Of the kind that the state is of.

        *Separated data* under a loss that is positive everywhere (logistic, exponential), with a
        homogeneous net: a KKT point of :math:`\min\tfrac12\|\theta\|^2` s.t.
        :math:`q_i(\theta)\ge1` (`lyu2020homogeneous`). It is accepted if the residual is ≤
        ``tol``, the margin is not below the flow's, duals are ≥ 0, slopes lie between those of φ
        where the flow holds a neuron on a kink, and no neuron of zero mass would grow (D_k ≤ 1).

        *Everything else*: a stationary point with the Hessian's spectrum and index. It is accepted
        if the next Newton step is below 1e−6 of the weights, the gradient is of rounding size, the
        point lies where the gradient and curvature of the state itself predict (a polish that runs
        away is refused; where its steps do not shrink while L falls, as an infimum at infinity),
        and the state is not on its way out along negative curvature.

    Raises
    ------
    ValueError
        A loss with kinks (hinge); parameters of another network; NaN.
    """
    tol = check_positive("tol", tol)
    risk, params, rests = _target(target, params)
    params = risk.as_params(params)
    candidate = None if candidate is None else risk.as_params(candidate)
    for name, tree in (("params", params), ("candidate", candidate)):
        for leaf in jax.tree.leaves(tree):
            refuse_traced(name, leaf)
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree)):
            raise fail(name, tree, "holds NaN or infinity", "pass finite numbers")
    if risk.has_loss_kinks:
        raise fail(
            "risk", risk.name, "has a loss with kinks, whose limits are not certified",
            "use gf.logistic, gf.exponential or gf.squared",
        )  # fmt: skip
    if not risk.has_margin_limits:
        found = stationary_point(risk, params, candidate, tol)
        on_its_way = not (found.accepted or found.unbounded or rests) and candidate is None
        return _stationary(found, params, _FURTHER if on_its_way else ())
    problem = max_margin.problem_of(risk)
    if problem.margin(params) > 0:
        return _margin(problem.limit(params, candidate, tol))
    return _unseparated(problem, params, candidate, tol, rests)


def _target(target: object, params: object) -> tuple[AbstractRisk, object, bool]:
    """Return the risk, the state to certify, and whether its path came to rest."""
    if isinstance(target, AbstractRisk):
        if params is None:
            raise fail("params", None, "is missing", "pass gf.certify(risk, params)")
        return target, params, False
    if isinstance(target, PathEnd):
        if params is not None:
            return target.risk, params, False
        return target.risk, target.final, str(target.result) in ("stationary", "rest")
    raise fail("target", target, "is neither a trajectory nor a risk", "pass one of them")


def _unseparated(
    problem: max_margin.AbstractMarginProblem, params: object, candidate: object, tol: float,
    rests: bool,
) -> Certificate:  # fmt: skip
    """A state that does not separate the data: at a stationary point, or on its way."""
    found = stationary_point(problem.risk, params, candidate, tol)
    hints = problem.hints(params)
    if found.accepted or rests:
        return _stationary(found, params, hints)
    lead = f"{problem.unseparated(params)}, so no max-margin limit is known, and {found.reason}"
    low = problem.margin(params)
    return Certificate(
        kind="max-margin KKT", accepted=False, reason="; ".join((lead, *(hints or _FURTHER))),
        params=params, kkt_residual=np.inf, normalised_margin=low, margin_before=low,
        duals=np.zeros(problem.count), spectrum=found.spectrum,
    )  # fmt: skip


def _stationary(found: Stationary, params: object, hints: tuple[str, ...] = ()) -> Certificate:
    return Certificate(
        kind="stationary point", accepted=found.accepted,
        reason="; ".join((found.reason, *hints)), params=found.params,
        kkt_residual=found.residual, stationarity=found.residual, spectrum=found.spectrum,
        verdict=found.verdict, index=found.index, sliding=found.sliding,
        distance=max_margin.distance(found.params, params),
    )  # fmt: skip


def _margin(limit: MarginLimit) -> Certificate:
    kkt = limit.kkt
    return Certificate(
        kind="max-margin KKT", accepted=not limit.complaints,
        reason="; ".join(limit.complaints) or limit.passed, params=limit.params,
        kkt_residual=kkt.total, stationarity=kkt.stationarity,
        complementarity=kkt.complementarity, feasibility=kkt.feasibility, duals=kkt.duals,
        normalised_margin=kkt.normalised_margin, margin_before=limit.margin_before,
        sliding=kkt.sliding, dropped=limit.dropped, distance=limit.distance,
    )  # fmt: skip
