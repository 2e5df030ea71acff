r"""The dual certificate of the total-variation problem: :math:`|\eta|\le1` on the whole sphere.

η depends on the inner products with the atoms and the teacher's neurons alone, so it is a function
on the sphere of their span, or, where R^d has a direction more, on the half-sphere of one dimension
more. There branch and bound covers it with boxes: from the centre of a box of radius ρ

.. math:: |\eta|\le|\eta_0|+|\nabla\eta_0|\rho+\tfrac12M_2\rho^2,

and a ball of radius :math:`3\mu/M_3` around an atom, where η is at a maximum of curvature μ, holds
no other point with |η| = 1. Along a great circle :math:`k=\kappa(R\cos(t-t_0))`, R ≤ 1, and

.. math:: |k''|\le\tfrac12+\tfrac1{2\pi},\qquad|k'''|\le\tfrac12+\tfrac2\pi,

so M_2 and M_3 are these numbers times :math:`(\|\nu_*\|+\|\nu^\circ\|)/\lambda`. Source:
`akiyama2021learnability`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.measures.tv_minimiser import AtomicMeasure, TVMinimiser
from gradflow.numerics.vectors import angles
from gradflow.validation import check_integer, check_positive, fail

SECOND = 0.5 + 0.5 / np.pi
THIRD = 0.5 + 2 / np.pi
#: What rounding may add to η, in units of (‖ν*‖ + ‖ν°‖)/λ.
_ROUNDING = 1e-14
#: Boxes looked at before giving up.
_MOST_BOXES = 5_000_000
#: Tolerance of η = ±1 and of stationarity at the atoms.
_AT_ATOMS = 1e-9


@dataclass(frozen=True, eq=False)
class DualCertificate:
    """What is known of η on the sphere.

    Attributes
    ----------
    accepted : bool
        η = sgn c_j at the atoms, where it is stationary and curved, and |η| < 1 elsewhere.
    proven : bool
        Whether "elsewhere" was covered by branch and bound, up to rounding (spheres of dimension
        ≤ 2, unless it takes too many boxes); else |η| was maximised from many starts, which may
        miss a maximum.
    reason : str
    at_atoms : (J,) array
        sgn(c_j) η(u_j) − 1.
    curvature : (J,) array
        μ_j: the least curvature of the maxima at the atoms, positive if they are isolated.
    elsewhere : float
        The bound on |η| outside the balls around the atoms (the largest value found, where it is
        not proven).
    radius : (J,) array
        Of these balls.
    least, greatest : float
        The smallest and the largest η found (local maxima polished).
    boxes : int
        Boxes looked at.
    """

    accepted: bool
    proven: bool
    reason: str
    at_atoms: np.ndarray
    curvature: np.ndarray
    elsewhere: float
    radius: np.ndarray
    least: float
    greatest: float
    boxes: int


def dual_certificate(
    minimiser: TVMinimiser, *, starts: int = 400, seed: int = 0
) -> DualCertificate:
    """Certify that a stationary measure is the minimiser, and the only one.

    Parameters
    ----------
    minimiser : TVMinimiser
    starts : int
        Ascents from random directions: for ``least``, ``greatest``, and spheres too large to cover.
    seed : int
        Of these directions.

    Returns
    -------
    DualCertificate
    """
    if not isinstance(minimiser, TVMinimiser):
        raise fail("minimiser", minimiser, "is no minimiser", "pass tv_minimiser(teacher, lam)")
    starts = check_integer("starts", starts, minimum=1)
    small = _reduced(minimiser)
    sign = np.sign(small.measure.weights)
    atoms = small.measure.directions
    at_atoms = sign * small.eta(atoms) - 1
    curvature = least_curvatures(small)
    size = (small.teacher.total_variation + small.measure.total_variation) / small.lam
    radius = np.minimum(np.maximum(0.99 * 3 * curvature / (THIRD * size), 0.0), 1.0)
    least, greatest = _extremes(small, starts, seed)
    complaints = []
    if np.max(np.abs(at_atoms)) > _AT_ATOMS or small.residual > _AT_ATOMS * small.lam:
        complaints.append("eta is not ±1 and stationary at the atoms")
    if np.min(curvature) <= 0:
        complaints.append("an atom is not an isolated maximum of |eta|")
    boxes, covered = 0, None
    if not complaints and small.measure.dim <= 3:
        covered, boxes = _cover(small, radius, size)
    proven = covered is not None
    if covered is not None:
        elsewhere = covered
    elif complaints:
        elsewhere = max(abs(least), abs(greatest))
    else:
        elsewhere = _away(small, radius, starts, seed)
    if not complaints and not elsewhere < 1:
        complaints.append(f"|eta| reaches {elsewhere:.12g} away from the atoms")
    accepted = not complaints
    how = "covered by boxes" if proven else f"from {starts} ascents, not a proof"
    reason = "; ".join(complaints) or f"|eta| <= {elsewhere:.9g} away from the atoms ({how})"
    return DualCertificate(
        accepted, proven, reason, at_atoms, curvature, float(elsewhere), radius,
        least, greatest, boxes,
    )  # fmt: skip


def least_curvatures(minimiser: TVMinimiser) -> np.ndarray:
    """μ_j (J,): the least curvature, along the sphere, of the maximum of |η| at each atom."""
    out = []
    for u, H in zip(minimiser.measure.directions, minimiser.curvatures(), strict=True):
        tangent = np.linalg.svd(u[None, :])[2][1:]
        out.append(-float(np.max(np.linalg.eigvalsh(tangent @ H @ tangent.T))))
    return np.array(out)


@dataclass(frozen=True)
class DecayRates:
    r"""Rates at which the parts of J − J* decay late along the conic flow.

    Attributes
    ----------
    internal : float
        2λμ: the particles of a cluster settle on its atom, each with
        :math:`u'=\lambda\nabla(s\eta)`; μ is the least curvature of |η| at the atoms.
    collective : float
        The masses and centres of the clusters settle: twice the least eigenvalue of
        :math:`M^{1/2}(\nabla_w^2J)M^{1/2}` over :math:`w_j=p_ju_j`, with the cone's metric
        :math:`M_j=p_j(\kappa u_ju_j^T+I-u_ju_j^T)`.
    positive, negative : float
        Particles of that sign that belong to no atom drift to the largest local maximum of sη that
        is none and die there: their masses fall at the rate :math:`\kappa\lambda(1-s\eta)`. inf if
        there is none.

    κ is 1 for the norm-dependent flow and 2 for the balanced gradient flow.
    """

    internal: float
    collective: float
    positive: float
    negative: float


def decay_rates(
    minimiser: TVMinimiser, *, reaction: float = 1.0, starts: int = 400, seed: int = 0
) -> DecayRates:
    """Linearise the conic flow (:mod:`gradflow.flows.charts.conic`) at the minimiser.

    Parameters
    ----------
    minimiser : TVMinimiser
    reaction : float
        κ: 1 with fixed outer weights ±1, 2 with balanced trained ones.
    starts, seed : int
        Ascents that look for local maxima of ±η, and their seed.
    """
    reaction = check_positive("reaction", reaction)
    small = _reduced(minimiser)
    lam, atoms = small.lam, small.measure
    dying = []
    for side in (1.0, -1.0):
        end = _ascend(small, _draw(atoms.dim, starts, seed), side)
        own = atoms.directions[np.sign(atoms.weights) == side]
        stray = np.all(angles(end, own) > 1e-2, axis=1)
        top = np.max(side * small.eta(end[stray]), initial=-np.inf)
        dying.append(float(reaction * lam * (1 - top)))
    # (along a normal of the span all atoms move alike, so the reduced problem has all the modes)
    root = np.zeros((atoms.weights.size, atoms.dim, atoms.weights.size, atoms.dim))
    for j, (c, u) in enumerate(zip(atoms.weights, atoms.directions, strict=True)):
        outward = np.outer(u, u)
        root[j, :, j, :] = np.sqrt(abs(c)) * (
            np.sqrt(reaction) * outward + np.eye(atoms.dim) - outward
        )
    size = atoms.weights.size * atoms.dim
    matrix = root.reshape(size, size) @ small.hessian().reshape(size, size)
    collective = np.linalg.eigvalsh(matrix @ root.reshape(size, size))
    internal = 2 * lam * float(np.min(least_curvatures(small)))
    return DecayRates(internal, 2 * float(np.min(collective)), *dying)


def _reduced(minimiser: TVMinimiser) -> TVMinimiser:
    """The same problem in coordinates of the span, with one direction more where R^d has one."""
    rows = np.concatenate([minimiser.measure.directions, minimiser.teacher.directions])
    _, values, basis = np.linalg.svd(rows, full_matrices=True)
    rank = int(np.sum(values > 1e-12 * values[0]))
    kept = basis[: max(min(rank + 1, minimiser.measure.dim), 2)]

    def turn(measure: AtomicMeasure) -> AtomicMeasure:
        u = measure.directions @ kept.T
        u = u / np.linalg.norm(u, axis=1, keepdims=True)
        return AtomicMeasure(measure.weights, u)

    return TVMinimiser(
        turn(minimiser.teacher), turn(minimiser.measure), minimiser.lam, minimiser.residual
    )


def _eta_and_slope(minimiser: TVMinimiser, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """η (n,) and its gradient along the sphere (n, d) at unit vectors."""
    signed = minimiser.signed
    phi = angles(u, signed.directions)
    cos = u @ signed.directions.T
    eta = -(np.sin(phi) + (np.pi - phi) * cos) @ signed.weights / (2 * np.pi * minimiser.lam)
    turn = (np.pi - phi) * signed.weights / (2 * np.pi * minimiser.lam)
    return eta, np.sum(turn * cos, axis=1)[:, None] * u - turn @ signed.directions


def _cover(minimiser: TVMinimiser, radius: np.ndarray, size: float) -> tuple[float | None, int]:
    """A bound on |η| outside the balls around the atoms (None: too many boxes), and the boxes."""
    atoms, dim = minimiser.measure.directions, minimiser.measure.dim
    if dim == 2:
        half = np.full(64, np.pi / 64)
        centre = ((2 * np.arange(64) + 1) * half)[:, None]
    else:  # longitude and latitude; dχ² + cos²χ dφ² makes half-diagonals overestimates
        long, lat = np.meshgrid(
            (np.arange(32) + 0.5) * np.pi / 16, (np.arange(-8, 8) + 0.5) * np.pi / 16
        )
        centre = np.stack([long.ravel(), lat.ravel()], axis=1)
        half = np.full(len(centre), np.pi / 32)
    seen, bound = 0, 0.0
    while len(centre):
        seen += len(centre)
        if seen > _MOST_BOXES:
            return None, seen
        u = _on_sphere(centre)
        eta, slope = _eta_and_slope(minimiser, u)
        reach = half * np.sqrt(dim - 1)
        above = np.abs(eta) + np.linalg.norm(slope, axis=1) * reach + SECOND * size * reach**2 / 2
        above += _ROUNDING * size
        inside = np.any(angles(u, atoms) + reach[:, None] < radius, axis=1)
        # how close to 1 a bound may stay: half of what is left, so that the bound is a useful one
        settled = above < 1 - 0.25 * np.maximum(1 - np.abs(eta), 0.0)
        done = ~inside & settled
        bound = max(bound, float(np.max(above[done], initial=0.0)))
        open_ = ~inside & ~settled
        centre, half = _split(centre[open_], half[open_])
    return bound, seen


def _on_sphere(box: np.ndarray) -> np.ndarray:
    if box.shape[1] == 1:
        return np.concatenate([np.cos(box), np.sin(box)], axis=1)
    long, lat = box.T
    return np.stack([np.cos(lat) * np.cos(long), np.cos(lat) * np.sin(long), np.sin(lat)], axis=1)


def _split(centre: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array(np.meshgrid(*[[-0.5, 0.5]] * centre.shape[1])).reshape(centre.shape[1], -1).T
    finer = centre[:, None, :] + half[:, None, None] * steps
    return finer.reshape(-1, centre.shape[1]), np.repeat(half / 2, len(steps))


def _ascend(minimiser: TVMinimiser, u: np.ndarray, side: float, steps: int = 600) -> np.ndarray:
    """Local maxima of side·η: gradient ascent on the sphere with Barzilai-Borwein steps, Newton."""
    size = minimiser.teacher.total_variation + minimiser.measure.total_variation
    least = minimiser.lam / (SECOND * size)
    rate = np.full((len(u), 1), least)
    _, slope = _eta_and_slope(minimiser, u)
    for _ in range(steps):
        move = np.minimum(rate * np.linalg.norm(slope, axis=1, keepdims=True), 0.1)
        length = np.linalg.norm(slope, axis=1, keepdims=True)
        new = u + side * move * slope / np.where(length > 0, length, 1.0)
        new /= np.linalg.norm(new, axis=1, keepdims=True)
        _, new_slope = _eta_and_slope(minimiser, new)
        step, change = new - u, side * (slope - new_slope)
        curve = np.sum(step * change, axis=1, keepdims=True)
        square = np.sum(step * step, axis=1, keepdims=True)
        # where η is not concave along the step: a longer one
        rate = np.where(curve > 0, square / np.where(curve > 0, curve, 1.0), 2 * rate)
        rate = np.clip(rate, least, 1e3)
        u, slope = new, new_slope
        if np.max(np.abs(step)) < 1e-9:
            break
    return _polish(minimiser, u)


def _polish(minimiser: TVMinimiser, u: np.ndarray, steps: int = 20) -> np.ndarray:
    """Newton steps to the critical point of η nearby, where they reduce the gradient."""
    _, slope = _eta_and_slope(minimiser, u)
    for _ in range(steps):
        values, vectors = np.linalg.eigh(minimiser.eta_hessian(u))
        along = np.einsum("nij,ni->nj", vectors, slope)
        usable = np.abs(values) > 1e-12 * np.max(np.abs(values), axis=1, keepdims=True)
        along = np.where(usable, along / np.where(usable, values, 1.0), 0.0)
        step = -np.einsum("nij,nj->ni", vectors, along)
        new = u + step
        new /= np.linalg.norm(new, axis=1, keepdims=True)
        _, new_slope = _eta_and_slope(minimiser, new)
        smaller = np.linalg.norm(new_slope, axis=1) < np.linalg.norm(slope, axis=1)
        take = smaller & (np.linalg.norm(step, axis=1) < 0.3)
        if not np.any(take):
            break
        u = np.where(take[:, None], new, u)
        slope = np.where(take[:, None], new_slope, slope)
    return u


def _draw(dim: int, starts: int, seed: int) -> np.ndarray:
    u = np.random.default_rng(seed).normal(size=(starts, dim))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def _extremes(minimiser: TVMinimiser, starts: int, seed: int) -> tuple[float, float]:
    u = _draw(minimiser.measure.dim, starts, seed)
    # atoms and teachers too: narrow maxima are not left to chance
    u = np.concatenate([u, minimiser.measure.directions, -minimiser.teacher.directions])
    low, high = (_ascend(minimiser, u, side) for side in (-1.0, 1.0))
    return float(np.min(minimiser.eta(low))), float(np.max(minimiser.eta(high)))


def _away(minimiser: TVMinimiser, radius: np.ndarray, starts: int, seed: int) -> float:
    """The largest |η| found that is not an ascent into an atom."""
    u = _draw(minimiser.measure.dim, starts, seed)
    found = [0.0]
    for side in (1.0, -1.0):
        end = _ascend(minimiser, u, side)
        outside = np.all(
            angles(end, minimiser.measure.directions) > np.maximum(radius, 1e-3), axis=1
        )
        found.append(float(np.max(np.abs(minimiser.eta(end[outside])), initial=0.0)))
    # on the rims of the balls |η| is below 1 as well, and closest to it
    balls = zip(minimiser.measure.directions, radius, strict=True)
    rim = np.concatenate([_rim(atom, r, starts, seed) for atom, r in balls])
    return max(*found, float(np.max(np.abs(minimiser.eta(rim)))))


def _rim(atom: np.ndarray, radius: float, count: int, seed: int) -> np.ndarray:
    side = _draw(atom.size, count, seed)
    side = side - (side @ atom)[:, None] * atom
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    return np.cos(radius) * atom + np.sin(radius) * side
