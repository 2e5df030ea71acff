"""Certificates of a flow's limit: the KKT point or the stationary point it heads for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.certificates.kkt import KKTResidual, Sliding, cell_residual, kkt_residual
from gradflow.certificates.margin import contradictions, hard_margin_svm
from gradflow.certificates.polish import polish
from gradflow.certificates.problem import (
    cells_of,
    check_margin_risk,
    join,
    unit_split,
)
from gradflow.certificates.stationary import stationary_point
from gradflow.losses import AbstractMarginLoss
from gradflow.networks.deep_linear import DeepLinear
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_positive, fail

#: How much a margin may fall, relative, by rounding.
_ROUNDING = 1e-12
#: How far a dropped neuron's force may exceed 1 by rounding.
_FORCE = 1e-9


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
    params : parameters or None
        The limit: for margin losses scaled to unit norm of the trained weights. Neurons of
        vanishing mass are zero.
    kkt_residual : float
        For margin losses the largest of the three parts below (see `KKTResidual`); for other
        losses |∇L|, by the minimum-norm Clarke element.
    stationarity, complementarity, feasibility : float
    normalised_margin, margin_before : float
        Of the limit and of the flow's state.
    duals : (n,) array
        λ of ``min ½|θ|² s.t. q_i(θ) ≥ 1``; of minimum norm where they are not unique.
    sliding : tuple of Sliding
        Neurons that stand on a datum's surface, with their slopes.
    dropped : dict
        Neurons of zero mass and their forces D_k = |Π_k Σ λ_i y_i s_ki x_i|; at D_k < 1 their share
        falls like (|θ|²)^(D_k − 1).
    distance : float
        |θ̂ − θ̂_flow|. Directions may converge slowly: this is no error of the certificate.
    spectrum : (p,) array
        Eigenvalues of the Hessian at a stationary point, along its kinks.
    verdict : {"", "minimum", "degenerate minimum", "saddle", "undecided"}
        For stationary points.
    """

    kind: str
    accepted: bool
    reason: str
    params: Any
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

    @property
    def slopes(self) -> np.ndarray:
        """Slopes of the neurons that stand on a surface, in the order of ``sliding``."""
        return np.array([s.slope for s in self.sliding])


def certify(
    target: Any, params: Any = None, *, candidate: Any = None, tol: float = 1e-12
) -> Certificate:
    r"""Polish the limit that a flow heads for, and check it.

    Parameters
    ----------
    target : Trajectory or risk
        A trajectory's last state is the start; with a risk, ``params`` is.
    params : parameters, optional
        A late state of the flow.
    candidate : parameters, optional
        A limit proposed from elsewhere: it is checked as it is, not polished.
    tol : float
        Largest residual accepted.

    Returns
    -------
    Certificate
        For a logistic or exponential loss on separated data a KKT point of
        :math:`\min\tfrac12\|\theta\|^2` s.t. :math:`q_i(\theta)\ge1` (`lyu2020homogeneous`). It is
        accepted if the residual is ≤ ``tol``, the margin is not below the flow's, duals are ≥ 0,
        slopes lie in [α, 1] where the flow holds a neuron on a kink, and no neuron of zero mass
        would grow (D_k ≤ 1). For other losses a stationary point with its Hessian's spectrum.

    Raises
    ------
    ValueError
        A risk without limits of either kind; parameters of another network.
    """
    tol = check_positive("tol", tol)
    if isinstance(target, AbstractRisk):
        risk = target
        if params is None:
            raise fail("params", None, "is missing", "pass gf.certify(risk, params)")
    elif hasattr(target, "risk") and hasattr(target, "final"):
        risk = target.risk
        if params is None:
            params = target.final
    else:
        raise fail("target", target, "is neither a trajectory nor a risk", "pass one of them")
    params = risk.as_params(params)
    candidate = None if candidate is None else risk.as_params(candidate)
    for name, tree in (("params", params), ("candidate", candidate)):
        if any(not np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(tree)):
            raise fail(name, tree, "holds NaN or infinity", "pass finite numbers")
    if not isinstance(getattr(risk, "loss", None), AbstractMarginLoss):
        return _stationary(risk, params, candidate, tol)
    check_margin_risk(risk)
    cells = cells_of(risk)
    if cells is None:
        return _certify_deep(risk, params, candidate, tol)
    W, a = unit_split(cells, params)
    sides = Pattern.at(cells, W).sides
    before = float(np.min(cells.margins(W, a)))
    if not before > 0:
        return _unseparated(risk, params, W, a, cells)
    if candidate is not None:
        # (the pattern of its own; a neuron that it drops is judged in the late state's)
        new_W, new_a = unit_split(cells, candidate)
        dead = ~np.any(new_W != 0, axis=1) | (new_a == 0)
        new_sides = np.where(dead[:, None], sides, Pattern.at(cells, new_W).sides)
    else:
        found = polish(cells, W, a, sides)
        new_W, new_a, new_sides = found.W, found.a, found.sides
    return _judge(cells, (W, a), (new_W, new_a, new_sides), before, tol)


def _judge(
    cells: Arrangement, late: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, ...],
    before: float, tol: float,
) -> Certificate:  # fmt: skip
    W, a, sides = found
    kkt = cell_residual(cells, W, a, sides, attract=True)
    dropped = _dropped_forces(cells, W, a, sides, kkt)
    complaints = []
    if not kkt.total <= tol:
        complaints.append(f"KKT residual {kkt.total:.2e} exceeds {tol:.0e}")
    if not kkt.normalised_margin >= before * (1 - _ROUNDING):
        complaints.append(
            f"normalised margin {kkt.normalised_margin:.17g} is below the flow's {before:.17g}"
        )
    bound = 1.0 if cells.trained else 0.0
    growing = {k: d for k, d in dropped.items() if not d <= bound + _FORCE}
    if growing:
        k = max(growing, key=lambda j: growing[j])
        complaints.append(
            f"neuron {k} of zero mass would grow: its force {growing[k]:.6g} exceeds {bound:g}"
        )
    if any(
        not cells.slope - 1e-9 <= s.slope <= 1 + 1e-9 for s in kkt.sliding if s.slope == s.slope
    ):
        complaints.append("a slope lies outside [alpha, 1]")
    accepted = not complaints
    reason = "; ".join(complaints) or (
        f"KKT residual {kkt.total:.1e}, margin not below the flow's, duals >= 0, slopes within "
        f"[alpha, 1], no neuron of zero mass grows"
    )
    gap = np.append((W - late[0]).ravel(), (a - late[1]) if cells.trained else [])
    return Certificate(
        kind="max-margin KKT", accepted=accepted, reason=reason, params=join(cells, W, a),
        kkt_residual=kkt.total, stationarity=kkt.stationarity,
        complementarity=kkt.complementarity, feasibility=kkt.feasibility,
        normalised_margin=kkt.normalised_margin, margin_before=before, duals=kkt.duals,
        sliding=kkt.sliding, dropped=dropped, distance=float(np.linalg.norm(gap)),
    )  # fmt: skip


def _dropped_forces(
    cells: Arrangement, W: np.ndarray, a: np.ndarray, sides: np.ndarray, kkt: KKTResidual
) -> dict[int, float]:
    """Return D_k of the neurons of zero mass: the part of their force that stays in their cell."""
    lam = kkt.duals
    if not cells.trained:
        # (relative to the weights of unit norm)
        lam = lam * kkt.normalised_margin if np.isfinite(kkt.total) else lam
    slopes = Pattern(cells, sides).slopes
    out = {}
    for k in np.flatnonzero(~np.any(W != 0, axis=1) | ((a == 0) & cells.trained)):
        force = (lam * cells.y * slopes[k]) @ cells.inputs
        sign = [np.sign(a[k])] if cells.trained and a[k] != 0 else [1.0, -1.0]
        if not cells.trained:
            sign = [a[k]]
        walls = np.concatenate([
            sides[k][:, None] * cells.normals, -cells.normals[sides[k] == 0],
            cells.normals[sides[k] == 0],
        ]) if cells.slope < 1 else np.zeros((0, W.shape[1]))  # fmt: skip
        walls = walls[np.any(walls != 0, axis=1)]
        out[int(k)] = max(_cone_part(walls, e * force) for e in sign)
    return out


def _cone_part(walls: np.ndarray, force: np.ndarray) -> float:
    """Return the norm of the projection of ``force`` on the cone {x : walls x ≥ 0} (Moreau)."""
    size = float(np.linalg.norm(force))
    if walls.shape[0] == 0 or size == 0:
        return size
    return size * float(nnls(walls.T, -force / size, maxiter=30 * walls.shape[0] + 100)[1])


def _unseparated(
    risk: Any, params: Any, W: np.ndarray, a: np.ndarray, cells: Arrangement
) -> Certificate:
    q = cells.margins(W, a)
    worst = int(np.argmin(q))
    reason = (
        f"the state does not separate the data (margin {q[worst]:.3g} at datum {worst}), so no "
        "max-margin limit is known"
    )
    if not np.any(cells.activations(W)[:, worst] * a):
        reason += f"; no neuron is active on datum {worst}, so the flow need not reach it"
    else:
        reason += "; integrate further"
    clash = contradictions(cells.inputs, cells.y)
    if clash:
        up, down = clash[0].positive[0], clash[0].negative[0]
        reason += (
            f"; no such network can separate data {up} and {down}, which have one direction and "
            "opposite labels"
        )
    elif cells.slope == 1 and not hard_margin_svm(cells.inputs, cells.y).separable:
        reason += "; the data are not linearly separable, so this linear network never will"
    return Certificate(
        kind="max-margin KKT", accepted=False, reason=reason, params=params, kkt_residual=np.inf,
        normalised_margin=float(q[worst]), margin_before=float(q[worst]),
        duals=np.zeros(cells.y.size),
    )  # fmt: skip


def _certify_deep(risk: Any, params: Any, candidate: Any, tol: float) -> Certificate:
    """Deep linear nets: balanced rank-one layers along the hard-margin vector."""
    before = kkt_residual(risk, params)
    if not before.normalised_margin > 0:
        return Certificate(
            kind="max-margin KKT", accepted=False, params=params, kkt_residual=np.inf,
            reason="the state does not separate the data, so no max-margin limit is known; "
            "integrate further", margin_before=before.normalised_margin,
            normalised_margin=before.normalised_margin, duals=np.zeros(risk.n),
        )  # fmt: skip
    if candidate is None:
        if not isinstance(risk.net, DeepLinear):
            raise fail(
                "risk", risk.name, "has a network that cannot be polished",
                "pass candidate=..., which is checked as it is",
            )  # fmt: skip
        w = hard_margin_svm(np.asarray(risk.X), np.asarray(risk.y)).direction
        hidden, row = [], w
        for layer in params.layers[:-1]:
            row = np.asarray(layer) @ row
            row = row / np.linalg.norm(row)
            hidden.append(row)
        if float(np.asarray(params.layers[-1])[0] @ row) < 0 and hidden:
            hidden[-1] = -hidden[-1]
        candidate = risk.net.balanced(w, np.array(hidden) if hidden else None)
    kkt = kkt_residual(risk, candidate)
    complaints = []
    if not kkt.total <= tol:
        complaints.append(f"KKT residual {kkt.total:.2e} exceeds {tol:.0e}")
    if not kkt.normalised_margin >= before.normalised_margin * (1 - _ROUNDING):
        complaints.append(
            f"normalised margin {kkt.normalised_margin:.17g} is below the flow's "
            f"{before.normalised_margin:.17g}"
        )
    unit = _unit(candidate)
    gap = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), unit, _unit(params))
    return Certificate(
        kind="max-margin KKT", accepted=not complaints, params=unit,
        reason="; ".join(complaints)
        or f"KKT residual {kkt.total:.1e}, margin not below the flow's, duals >= 0",
        kkt_residual=kkt.total, stationarity=kkt.stationarity,
        complementarity=kkt.complementarity, feasibility=kkt.feasibility, duals=kkt.duals,
        normalised_margin=kkt.normalised_margin, margin_before=before.normalised_margin,
        distance=float(np.sqrt(sum(float(g) for g in jax.tree.leaves(gap)))),
    )  # fmt: skip


def _unit(params: Any) -> Any:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    top = max(float(np.max(np.abs(leaf))) for leaf in leaves)
    size = top * float(np.sqrt(sum(np.sum((leaf / top) ** 2) for leaf in leaves)))
    return jax.tree.map(lambda leaf: leaf / size, params)


def _stationary(risk: Any, params: Any, candidate: Any, tol: float) -> Certificate:
    found = stationary_point(risk, params if candidate is None else candidate,
                             polish=candidate is None, tol=tol)  # fmt: skip
    before = risk.as_params(params)
    gap = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), found.params, before)
    return Certificate(
        kind="stationary point", accepted=found.accepted, reason=found.reason,
        params=found.params, kkt_residual=found.residual, stationarity=found.residual,
        spectrum=found.spectrum, verdict=found.verdict, sliding=found.sliding,
        distance=float(np.sqrt(sum(float(g) for g in jax.tree.leaves(gap)))),
    )  # fmt: skip
