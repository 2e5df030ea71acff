r"""Whether a point is stationary, of which kind, and whether a path's end belongs to it.

Nothing is judged by an absolute size. A stationary point certifies the end of a path if

- the next Newton step is a small share of the weights, and the gradient of rounding size;
- it lies where the gradient and curvature *at the end* predict: a polish that runs farther proves
  nothing about the end, and one whose steps do not shrink runs to an infimum at infinity;
- the end is not on its way out along a direction of negative curvature;
- along directions without curvature L neither falls nor is merely below what floats resolve.

Eigenvalues count as positive or negative beyond their own error, that of the point included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradflow.certificates.kkt import Sliding
from gradflow.certificates.stationary.newton import Field, Modes

#: Steps and moves below this share of the weights do not change which point is meant.
_NEAR = 1e-6
#: The polish may go where the first Newton step points, missed by this share of the way;
_PREDICTED = 0.1
#: or this many times as far as the step, within this share of the weights, or all down one valley.
_REACH = 4.0
_SHARE = 0.5
#: Eigenvalues below this share of the largest count as zero.
_ZERO = 1e-12
#: Distances, in shares of the weights, at which a slope is looked for along flat directions.
_PROBES = (1e-4, 1e-3, 1e-2)
#: ... and at which the gradient's change is held against the curvature.
_CHECKS = (1e-3, 1e-5, 1e-7, 1e-9)


@dataclass(frozen=True)
class Stationary:
    """A stationary point: see the fields of `Certificate` of the same names.

    ``unbounded``: whether there is evidence of an infimum of L at infinity instead.
    """

    params: object
    residual: float
    spectrum: np.ndarray
    verdict: str
    index: int
    accepted: bool
    reason: str
    sliding: tuple[Sliding, ...] = ()
    unbounded: bool = False


@dataclass(frozen=True)
class Landing:
    """Where a polish came out, in coordinates in which L is smooth.

    Attributes
    ----------
    field : callable
        ∇L and its Hessian at coordinates (r,).
    point : (r,) array
    basis : (p, r) array
        Orthonormal: weights move along it.
    origin, weights : (p,) arrays
        The trained weights at the path's end and at the landing.
    predicted : float
        How far the end's own gradient and curvature say it is to the stationary point.
    first : (p,) array
        Where: the first full Newton step.
    lengths : tuple of float
        Lengths of the Newton steps taken.
    curvature : float
        |H| at the end.
    levels : (float, float)
        L at the path's end and at the landing.
    size : float
        What L is measured in: L at f = 0, say.
    floor : float or None
        A lower bound of L that finite weights may attain, if known.
    flat : int
        Dimension along which L is known to be constant; −1 if that is not known.
    shrunk : callable
        L with all weights, or those in a mask (p,), multiplied by a factor.
    off : (k,) array
        What kinks add to the gradient.
    saddles, complaints : tuple of str
        Ways down that kinks open, and what they leave open.
    fixes : callable
        Whether L is known not to change along a direction (p,): no output does.
    """

    params: object
    field: Field
    point: np.ndarray
    basis: np.ndarray
    origin: np.ndarray
    weights: np.ndarray
    predicted: float
    first: np.ndarray
    lengths: tuple[float, ...]
    curvature: float
    levels: tuple[float, float]
    size: float
    floor: float | None
    flat: int
    shrunk: Callable[[np.ndarray, float], float]
    off: np.ndarray
    sliding: tuple[Sliding, ...] = ()
    saddles: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()
    fixes: Callable[[np.ndarray], bool] = lambda along: False

    @property
    def scale(self) -> float:
        """Size of the weights."""
        return max(float(np.linalg.norm(self.origin)), float(np.linalg.norm(self.weights)))

    @property
    def distance(self) -> float:
        """How far the polish went."""
        return float(np.linalg.norm(self.weights - self.origin))

    def is_away(self, sharp: bool) -> bool:
        """Whether it left the neighbourhood that the end predicts.

        ``sharp``: it came to a strict minimum, whatever the way.
        """
        if self.distance <= _NEAR * self.scale:
            return False
        missed = float(np.linalg.norm(self.origin + self.first - self.weights))
        if missed <= _PREDICTED * self.distance:
            return False
        if self.distance > _REACH * self.predicted:
            return not (sharp and self._is_valley())
        return self.distance > _SHARE * self.scale and not self._is_valley()

    def _is_valley(self) -> bool:
        """Whether L falls, and ever less steeply, from the path's end to the landing."""
        start = self.basis.T @ self.origin
        move = self.point - start
        slopes = np.array([self.field(start + t * move)[0] @ move for t in np.linspace(0, 1, 9)])
        return bool(slopes[0] < 0 and np.all(np.diff(slopes) >= -1e-9 * abs(slopes[0])))

    def falls_outwards(self) -> bool:
        """Whether the polish followed a falling L outwards, by steps that do not shrink."""
        grew = float(np.linalg.norm(self.weights)) > float(np.linalg.norm(self.origin))
        steady = bool(self.lengths) and self.lengths[-1] >= 0.3 * self.lengths[0]
        far = self.distance > 0.5 * self.scale
        return grew and self.levels[1] < self.levels[0] and (steady or far)

    def run_away(self) -> str:
        """Say how the polish left the path's end."""
        return (
            f"Newton's method went {self.distance:.3g} away, where the gradient and curvature here "
            f"predict {self.predicted:.3g} and the weights have size "
            f"{np.linalg.norm(self.origin):.3g}"
        )

    def fall(self) -> str:
        """Say that L has its infimum at infinity."""
        return (
            f"L fell from {self.levels[0]:.3g} to {self.levels[1]:.3g} all the way, so its "
            "infimum lies at infinity as far as can be told"
        )


def judge(landing: Landing, tol: float) -> Stationary:
    """Classify ``landing`` and say whether it certifies the path's end.

    The verdict is "minimum" (spectrum positive), "degenerate minimum" (zero eigenvalues, all of
    them along a manifold on which L is constant, or L at its lower bound), "saddle" (a negative
    eigenvalue, or a neuron at zero that lowers L in some direction) or "undecided".
    """
    if not all(np.all(np.isfinite(part)) for part in landing.field(landing.point)):
        reason = f"the state is not stationary: {landing.run_away()}, where L overflows"
        return Stationary(
            landing.params, np.inf, np.zeros(0), "undecided", -1, False, reason, landing.sliding
        )
    modes = Modes.at(landing.field, landing.point)
    step = modes.step(modes.resolved)
    sharp = Modes.at(landing.field, landing.point, blur=step)
    spectrum = np.linalg.eigvalsh(modes.hessian) if modes.hessian.size else np.zeros(0)
    residual = float(np.linalg.norm(np.append(modes.gradient, landing.off)))
    bound = _gradient_bound(landing, spectrum, tol)
    verdict, index, note = _classify(landing, sharp, spectrum)
    moves = float(np.linalg.norm(step))
    leaving = _leaving(landing, sharp)
    saturated = [*_unconfirmed(landing, sharp), *_plateau(landing, modes)]
    unsettled = [
        *([f"|grad L| = {residual:.2e} exceeds {bound:.1e}"] if not residual <= bound else []),
        *_unsettled(landing, modes, moves),
        *_slope(landing, modes),
        *saturated,
    ]
    away = landing.is_away(sharp=verdict == "minimum" and not unsettled)
    unbounded = bool(saturated) or (away and bool(unsettled) and landing.falls_outwards())
    refusals = [
        *([landing.run_away()] if away else []),
        *([landing.fall()] if unbounded and away else []),
        *unsettled,
        *leaving,
    ]
    reason = (
        f"|grad L| = {residual:.1e} (rounding: {bound:.1e}), next Newton step {moves:.1e} of "
        f"weights {landing.scale:.3g}, {landing.distance:.1e} from the state; {note}"
    )
    if refusals:
        # A saddle that is left behind is one all the same.
        stands = len(refusals) == 1 and bool(leaving)
        verdict, index = (verdict, index) if stands else ("undecided", -1)
        reason = "the state is not stationary: " + "; ".join(refusals)
    return Stationary(
        landing.params, residual, spectrum, verdict, index, not refusals, reason, landing.sliding,
        unbounded=unbounded,
    )  # fmt: skip


def _gradient_bound(landing: Landing, spectrum: np.ndarray, tol: float) -> float:
    """Return the size that rounding gives a gradient: its terms are about |H||θ| or √(2L|H|)."""
    top = max(landing.curvature, float(np.max(np.abs(spectrum), initial=0.0)))
    level = max(landing.size, abs(landing.levels[1]))
    return tol * max(top * landing.scale, math.sqrt(2 * level * top))


def _unsettled(landing: Landing, modes: Modes, moves: float) -> list[str]:
    """Whether Newton's method still moves: much against the weights, or as much as at first."""
    if moves > _NEAR * landing.scale:
        return [
            f"the next Newton step is {moves:.2e}, {moves / landing.scale:.1e} of the weights "
            f"(allowed: {_NEAR:.0e})"
        ]
    ahead = float(np.linalg.norm(landing.first))
    terms = np.abs(modes.hessian) @ np.abs(landing.basis.T @ landing.weights)
    top = float(np.max(np.abs(modes.hessian), initial=0.0))
    terms += math.sqrt(2 * max(landing.size, abs(landing.levels[1])) * top)
    if moves <= max(0.1 * ahead, modes.rounding(terms)):
        return []
    return [f"Newton's steps do not shrink: {ahead:.2e} at the state, {moves:.2e} in the end"]


def _leaving(landing: Landing, modes: Modes) -> list[str]:
    """A path near a saddle that is on its way out does not end there."""
    down = modes.resolved & (modes.values < 0)
    if not np.any(down):
        return []
    moved = landing.basis.T @ (landing.weights - landing.origin)
    # (in scaled coordinates z = θ/s eigenvectors are orthonormal)
    part = modes.vectors[:, down]
    out = float(np.linalg.norm(modes.scale * (part @ (part.T @ (moved / modes.scale)))))
    if out <= _NEAR * landing.scale:
        return []
    return [
        f"it lies {out:.2e} off a saddle of L along {int(np.sum(down))} directions of negative "
        "curvature, so the flow leaves that saddle"
    ]


def _slope(landing: Landing, modes: Modes) -> list[str]:
    """Whether L falls steadily along a direction in which its curvature is lost in rounding."""
    flat = modes.flat_gradient()
    if np.linalg.norm(flat) <= 1e-6 * modes.size or landing.scale == 0:
        return []
    along = modes.scale * flat
    along = along / np.linalg.norm(along)
    here = float(along @ modes.gradient)
    if landing.fixes(landing.basis @ along):
        return []
    slopes = np.array([
        along @ landing.field(landing.point + sign * share * landing.scale * along)[0]
        for share in _PROBES for sign in (1.0, -1.0)
    ])  # fmt: skip
    if not np.all(np.isfinite(slopes)):
        return ["the gradient overflows within the distances probed around the point"]
    # (rounding, or a curved valley, gives either sign)
    if here == 0 or not np.all(slopes * here > 0):
        return []
    if np.max(np.abs(slopes)) > 3 * abs(here) or np.min(np.abs(slopes)) < abs(here) / 3:
        return []
    return [
        f"L falls at the rate {abs(here):.2e} along a direction whose curvature is lost in "
        "rounding, so there is no stationary point as far as can be told"
    ]


def _unconfirmed(landing: Landing, modes: Modes) -> list[str]:
    """Whether the gradient does not change as the curvature says.

    So it is where outputs saturate: residuals vanish by rounding before their derivatives do.
    """
    use = modes.resolved
    if not np.any(use) or landing.scale == 0:
        return []
    across = modes.scale[:, None] * modes.vectors[:, use]
    sizes = np.linalg.norm(across, axis=0)
    signs = np.where(np.arange(sizes.size) % 2 == 0, 1.0, -1.0)
    along = (across / sizes) @ signs
    wanted = modes.values[use] / sizes * signs
    confirmed = np.zeros(sizes.size, dtype=bool)
    for share in _CHECKS:
        move = share * landing.scale
        up, down = (landing.field(landing.point + sign * move * along)[0] for sign in (1.0, -1.0))
        change = across.T @ (up - down) / (2 * move)
        confirmed |= np.abs(change - wanted) <= 0.5 * np.abs(wanted)
    if np.all(confirmed):
        return []
    return [
        f"the gradient does not change as the curvature says in {int(np.sum(~confirmed))} "
        "directions: L saturates there by rounding, and its infimum may lie at infinity"
    ]


def _plateau(landing: Landing, modes: Modes) -> list[str]:
    """Whether weights without gradient and curvature have them again nearer to zero.

    Then L is flat there because it saturates or underflows in floats.
    """
    dead = ~np.any(modes.hessian != 0, axis=1) & (modes.gradient == 0)
    mask = np.any(landing.basis[:, dead] != 0, axis=1) & (landing.weights != 0)
    if not np.any(mask):
        return []
    level = landing.shrunk(mask, 1.0)
    factors = [2.0**-k for k in range(1, 40)] + [0.0]
    if all(landing.shrunk(mask, factor) == level for factor in factors):
        return []
    return [
        f"L has neither gradient nor curvature in {int(np.sum(mask))} weights but depends on them "
        "nearer to zero: it saturates or underflows there, and its infimum may lie at infinity"
    ]


def _classify(landing: Landing, modes: Modes, spectrum: np.ndarray) -> tuple[str, int, str]:
    """Return verdict, index and what they rest on."""
    top = float(np.max(np.abs(modes.values), initial=0.0))
    zeros = np.abs(modes.values) <= max(modes.error, _ZERO * top)
    zero, negative = int(np.sum(zeros)), int(np.sum(~zeros & (modes.values < 0)))
    if negative or landing.saddles:
        note = f"{negative} directions of negative curvature, the lowest {np.min(spectrum):.3g}"
        notes = [*([note] if negative else []), *landing.saddles[:1]]
        return "saddle", negative, "; ".join(notes)
    if landing.complaints:
        return "undecided", 0, landing.complaints[0]
    if zero == 0:
        low = float(np.min(modes.values, initial=np.inf))
        share = f", {low / modes.error:.1e} times its error" if modes.error > 0 else ""
        lowest = float(np.min(spectrum, initial=np.inf))
        return "minimum", 0, f"smallest eigenvalue {lowest:.3g}{share}"
    if landing.floor is not None and landing.levels[1] - landing.floor <= 1e-24 * landing.size:
        return "degenerate minimum", 0, f"L = {landing.floor:g}, its lower bound"
    if zero == landing.flat:
        note = f"L is constant along all {zero} directions of zero curvature"
        return "degenerate minimum", 0, note
    return "undecided", 0, f"{zero} directions of zero curvature"
