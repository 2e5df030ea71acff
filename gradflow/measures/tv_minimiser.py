r"""Two-layer ReLU nets as measures on the sphere, and minimisers of the total-variation problem.

A net without bias is :math:`f_\nu(x)=\int\mathrm{relu}(u\cdot x)\,d\nu(u)` with the signed measure
:math:`\nu=\sum_ka_k\|w_k\|\,\delta_{w_k/\|w_k\|}`. For inputs N(0, I) the regularised risk of the
teacher :math:`\nu^\circ` is convex in ν:

.. math:: J(\nu)=\tfrac12\|\nu-\nu^\circ\|_k^2+\lambda\|\nu\|_{TV},\qquad
    \|\mu\|_k^2=\iint k\,d\mu\,d\mu,\qquad
    k(\varphi)=\frac{\sin\varphi+(\pi-\varphi)\cos\varphi}{2\pi}.

Its first variation is the potential :math:`V(u)=\int k\,d(\nu-\nu^\circ)`; ν is the minimiser if
and only if :math:`\eta=-V/\lambda` satisfies :math:`|\eta|\le1` on the sphere and
:math:`\eta=\mathrm{sgn}\,\nu` on its support (:mod:`gradflow.measures.dual`). With
:math:`\int\eta_*d\nu_*=\|\nu_*\|_{TV}` the excess over the minimum is a sum of two terms that are
not negative, so nothing cancels:

.. math:: J(\nu)-J(\nu_*)=\tfrac12\|\nu-\nu_*\|_k^2+\lambda\int(1-\eta_*\,\mathrm{sgn}\nu)\,d|\nu|.

Source: `akiyama2021learnability`; the kernel: `cho2009kernel`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.measures.arc_cosine import bregman, frames, kernel, planar_norm
from gradflow.numerics import vectors
from gradflow.numerics.vectors import angles
from gradflow.validation import check_array, check_integer, check_positive, fail

#: Newton: steps at most, and the residual (relative to λ) that counts as solved.
_STEPS = 60
_SOLVED = 1e-9
#: Atoms closer than this (radians) have merged.
_APART = 1e-3


@dataclass(frozen=True, eq=False)
class AtomicMeasure:
    """A signed measure Σ_j c_j δ_{u_j} on the unit sphere.

    Attributes
    ----------
    weights : (J,) array
        c_j.
    directions : (J, d) array
        Unit vectors u_j; rows of another length are refused, not normalised.

    Raises
    ------
    ValueError
        Wrong shapes, NaN, rows that are no unit vectors.
    """

    weights: np.ndarray
    directions: np.ndarray

    def __post_init__(self) -> None:
        weights = check_array("weights", self.weights, (None,))
        directions = check_array("directions", self.directions, (weights.size, None))
        if directions.shape[1] < 2:
            raise fail("directions", directions, "have fewer than 2 entries", "take R^d, d >= 2")
        off = np.abs(np.linalg.norm(directions, axis=1) - 1)
        if np.any(off > 1e-12):
            row = int(np.argmax(off))
            raise fail("directions", directions, f"row {row} has no unit length", "divide by it")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "directions", directions)

    @classmethod
    def of_params(cls, params: PyTree) -> AtomicMeasure:
        """The measure of a two-layer net's parameters ``inner`` (m, d), ``outer`` (m,), no bias.

        Neurons of weight zero are left out.
        """
        try:
            outer, inner, bias = params.outer, params.inner, params.bias
        except AttributeError:
            raise fail(
                "params", params, "are no parameters of a two-layer net", "pass net.params(...)"
            ) from None
        if bias is not None:
            raise fail("params.bias", bias, "has no place on the sphere", "use a net without bias")
        outer = check_array("params.outer", outer, (None,))
        inner = check_array("params.inner", inner, (outer.size, None))
        alive = np.any(inner != 0, axis=1) & (outer != 0)
        inner, outer = inner[alive], outer[alive]
        return cls(outer * vectors.lengths(inner), vectors.directions(inner))

    @property
    def dim(self) -> int:
        """d."""
        return self.directions.shape[1]

    @property
    def total_variation(self) -> float:
        """‖ν‖_TV = Σ|c_j| (directions that coincide count with opposite signs too)."""
        return float(np.sum(np.abs(self.weights)))

    def minus(self, other: AtomicMeasure) -> AtomicMeasure:
        """ν − ν'."""
        if other.dim != self.dim:
            raise fail("other", other.dim, f"has another dimension than {self.dim}", "match them")
        return AtomicMeasure(
            np.concatenate([self.weights, -other.weights]),
            np.concatenate([self.directions, other.directions]),
        )

    def potential(self, u: ArrayLike) -> np.ndarray:
        """∫k(u, v) dν(v) at unit vectors u (..., d)."""
        angle = angles(np.asarray(u, np.float64), self.directions)
        return kernel(angle) @ self.weights

    def squared_norm(self) -> float:
        r"""‖ν‖_k² = E f_ν(x)².

        In the plane as the integral of the square of f_ν over the circle, piece by piece between
        its kinks, so that a small norm keeps its relative accuracy; else as the double sum, with
        an error of about 1e-16 ‖ν‖_TV².
        """
        if self.dim == 2:
            return planar_norm(self.weights, self.directions)
        gram = kernel(angles(self.directions, self.directions))
        return max(float(self.weights @ gram @ self.weights), 0.0)


@dataclass(frozen=True, eq=False)
class TVMinimiser:
    """A stationary measure of the total-variation problem with one atom a teacher neuron.

    Attributes
    ----------
    teacher, measure : AtomicMeasure
        ν° and ν*, atom j beside teacher j.
    lam : float
    residual : float
        The largest |V(u_j) + λ sgn c_j| or tangential |∇V(u_j)| over the atoms.
    """

    teacher: AtomicMeasure
    measure: AtomicMeasure
    lam: float
    residual: float

    @property
    def masses(self) -> np.ndarray:
        """|c_j|."""
        return np.abs(self.measure.weights)

    @property
    def shifts(self) -> np.ndarray:
        """Angles of the atoms to their teachers, in radians."""
        one, other = self.measure.directions, self.teacher.directions
        return vectors.angle(one, other)

    @property
    def signed(self) -> AtomicMeasure:
        """ν* − ν°, whose potential is V."""
        return self.measure.minus(self.teacher)

    @property
    def minimum(self) -> float:
        """J(ν*)."""
        return 0.5 * self.signed.squared_norm() + self.lam * self.measure.total_variation

    def eta(self, u: ArrayLike) -> np.ndarray:
        """The dual variable η(u) = −V(u)/λ at unit vectors u (..., d)."""
        return -self.signed.potential(u) / self.lam

    def recovery_error(self) -> float:
        """Σ_j ‖ |c_j| u_j − |c°_j| v_j ‖: how far the atoms are from the teacher's neurons."""
        gap = (
            self.masses[:, None] * self.measure.directions
            - np.abs(self.teacher.weights)[:, None] * self.teacher.directions
        )
        return float(np.sum(np.linalg.norm(gap, axis=1)))

    def eta_hessian(self, u: ArrayLike) -> np.ndarray:
        """Hessian of η along the sphere at unit vectors u (n, d): (n, d, d), zero along u."""
        u = check_array("u", u, (None, self.measure.dim))
        tangent = np.eye(u.shape[1]) - u[:, :, None] * u[:, None, :]
        own = _own_hessian(u, self.signed)
        # of the degree-1 extension of V; on the sphere minus the radial slope, which is V itself
        sphere = tangent @ own @ tangent - self.signed.potential(u)[:, None, None] * tangent
        return -sphere / self.lam

    def curvatures(self) -> np.ndarray:
        """Hessians of sgn(c_j) η along the sphere at each atom, (J, d, d), zero along u_j.

        Where they are negative on the tangent space the atoms are isolated maxima.
        """
        sign = np.sign(self.measure.weights)
        return sign[:, None, None] * self.eta_hessian(self.measure.directions)

    def hessian(self) -> np.ndarray:
        """Hessian (J, d, J, d) of J(Σ_j s_j|w_j| δ_{w_j/|w_j|}) in w_j = |c_j| u_j."""
        sign = np.sign(self.measure.weights)
        w = self.masses[:, None] * self.measure.directions
        return sign[:, None, None, None] * _jacobian(w, sign, self.teacher, self.lam)

    def shortfall(self, u: ArrayLike, sign: ArrayLike) -> np.ndarray:
        """1 − sgn·η(u) ≥ 0 for particles at unit vectors u (n, d) with signs (n,).

        Near an atom of that sign it is formed from second differences, which do not cancel.
        """
        u = check_array("u", u, (None, self.measure.dim))
        sign = check_array("sign", sign, (u.shape[0],))
        plain = 1 - sign * self.eta(u)
        to_atoms = angles(u, self.measure.directions)
        to_atoms = np.where(np.sign(self.measure.weights) == sign[:, None], to_atoms, np.inf)
        nearest = np.argmin(to_atoms, axis=1)
        near = to_atoms[np.arange(len(u)), nearest] < 0.1
        at, base = u[near], self.measure.directions[nearest[near]]
        # V(u) − V(u_j) = λ s |u − u_j|²/2 + Σ c_i B(u; u_j, v_i), B the Bregman distance of the
        # degree-1 extension of k(·, v_i): its gradient at u_j sums to V(u_j) u_j = −λ s u_j.
        signed = self.signed
        rise = bregman(at, base, signed.directions) @ signed.weights
        square = np.sum((at - base) ** 2, axis=1)
        plain[near] = square / 2 + sign[near] * rise / self.lam
        return plain

    def excess(self, measure: AtomicMeasure) -> float:
        """J(ν) − J(ν*), from the two terms that do not cancel."""
        return self.distance(measure) + self.penalty_excess(measure)

    def distance(self, measure: AtomicMeasure) -> float:
        """½‖ν − ν*‖_k²."""
        return 0.5 * measure.minus(self.measure).squared_norm()

    def penalty_excess(self, measure: AtomicMeasure) -> float:
        """λ∫(1 − η sgn ν) d|ν|."""
        short = self.shortfall(measure.directions, np.sign(measure.weights))
        return float(self.lam * np.sum(np.abs(measure.weights) * short))


def orthonormal_teachers(
    dim: int, count: int = 1, weights: ArrayLike | None = None
) -> AtomicMeasure:
    """ν° = Σ_j c_j δ_{e_j} with the first ``count`` axes of R^dim and weights c_j (default 1)."""
    dim = check_integer("dim", dim, minimum=2)
    count = check_integer("count", count, minimum=1)
    if count > dim:
        raise fail(
            "count", count, f"exceeds the dimension {dim}", "orthogonal teachers: count <= dim"
        )
    c = np.ones(count) if weights is None else check_array("weights", weights, (count,))
    return AtomicMeasure(c, np.eye(dim)[:count])


def tv_minimiser(teacher: AtomicMeasure, lam: float) -> TVMinimiser:
    r"""The minimiser of :math:`\tfrac12\|\nu-\nu^\circ\|_k^2+\lambda\|\nu\|_{TV}` near the teacher.

    Newton's method on :math:`\nabla_{w_j}J=0` for :math:`\nu=\sum_js_j\|w_j\|\delta_{w_j/\|w_j\|}`,
    :math:`s_j` the sign of teacher j, followed from λ = 0. It is stationary by construction; that
    it minimises is what its dual certificate says (`gradflow.certificates.dual_certificate`).

    Parameters
    ----------
    teacher : AtomicMeasure
        Non-zero weights, directions pairwise not parallel.
    lam : float
        λ > 0.

    Raises
    ------
    ValueError
        A teacher with zero weights or parallel neurons; a λ so large that an atom would vanish or
        two would merge.

    Notes
    -----
    One teacher of weight c > 0: :math:`\nu_*=(c-2\lambda)\delta`, no angle bias, for λ < c/2. Two
    orthonormal ones: the atoms turn toward each other (:mod:`gradflow.symbolic`). Source:
    `akiyama2021learnability`.
    """
    if not isinstance(teacher, AtomicMeasure):
        raise fail("teacher", teacher, "is not a measure", "pass orthonormal_teachers(d, m)")
    lam = check_positive("lam", lam)
    c, v = teacher.weights, teacher.directions
    if not c.size or np.any(c == 0):
        raise fail("teacher.weights", c, "holds a zero weight", "leave that neuron out")
    apart = angles(v, v) + 10 * np.eye(c.size)
    if np.min(apart) < 1e-6:
        raise fail("teacher.directions", v, "has two parallel neurons", "add up their weights")
    sign, w = np.sign(c), np.abs(c)[:, None] * v
    done, step = 0.0, lam / 4
    while done < lam:
        aim = min(done + step, lam)
        found = _newton(w, sign, teacher, aim)
        if found is None or _merged(found):
            step /= 2
            if step < 1e-4 * lam:
                raise fail(
                    "lam", lam, "is too large: beyond about "
                    f"{done:.3g} no minimiser keeps an atom beside every teacher neuron",
                    "pass a smaller lam",
                )  # fmt: skip
            continue
        w, done = found, aim
    size = np.linalg.norm(w, axis=1)
    measure = AtomicMeasure(sign * size, w / size[:, None])
    residual = float(np.max(np.abs(_field(w, sign, teacher, lam))))
    return TVMinimiser(teacher, measure, lam, residual)


def _merged(w: np.ndarray) -> bool:
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    return bool(np.min(angles(unit, unit) + 10 * np.eye(len(unit))) < _APART)


def _own_hessian(at: np.ndarray, signed: AtomicMeasure) -> np.ndarray:
    """Hessians (J, d, d) at unit vectors of the degree-1 extension of V."""
    _, sin, n, _ = frames(at, signed.directions)
    tangent = np.eye(at.shape[1]) - at[:, :, None] * at[:, None, :]
    spread = (sin @ signed.weights)[:, None, None] * tangent
    spread += np.einsum("ij,ija,ijb->iab", sin * signed.weights, n, n)
    return spread / (2 * np.pi)


def _field(w: np.ndarray, sign: np.ndarray, teacher: AtomicMeasure, lam: float) -> np.ndarray:
    """s_j ∇_{w_j}J = ∇V(w_j) + λ s_j w_j/|w_j|, (J, d); V extended with degree 1."""
    size = np.linalg.norm(w, axis=1)
    unit = w / size[:, None]
    total = AtomicMeasure(
        np.concatenate([sign * size, -teacher.weights]),
        np.concatenate([unit, teacher.directions]),
    )
    phi = angles(unit, total.directions)
    grow = (np.sin(phi) @ total.weights)[:, None] * unit
    turn = ((np.pi - phi) * total.weights) @ total.directions
    return (grow + turn) / (2 * np.pi) + lam * sign[:, None] * unit


def _jacobian(w: np.ndarray, sign: np.ndarray, teacher: AtomicMeasure, lam: float) -> np.ndarray:
    """Derivative of `_field`, (J, d, J, d)."""
    J, d = w.shape
    size = np.linalg.norm(w, axis=1)
    unit = w / size[:, None]
    total = AtomicMeasure(
        np.concatenate([sign * size, -teacher.weights]),
        np.concatenate([unit, teacher.directions]),
    )
    own = _own_hessian(unit, total)
    phi, _, n, m = frames(unit, unit)
    # ∂_w∂_v E relu relu = ((π − φ) I + ŵ nᵀ + v̂ mᵀ)/2π, times the sign of the moving atom
    mixed = (np.pi - phi)[..., None, None] * np.eye(d)
    mixed = mixed + np.einsum("ia,ijb->ijab", unit, n) + np.einsum("ja,ijb->ijab", unit, m)
    out = np.einsum("ijab,j->iajb", mixed, sign) / (2 * np.pi)
    tangent = np.eye(d) - unit[:, :, None] * unit[:, None, :]
    for j in range(J):
        out[j, :, j, :] += (own[j] + lam * sign[j] * tangent[j]) / size[j]
    return out


def _newton(
    w: np.ndarray, sign: np.ndarray, teacher: AtomicMeasure, lam: float
) -> np.ndarray | None:
    """Stationary w from a start near one; None where Newton does not find it."""
    start = w
    size = np.inf
    for _ in range(_STEPS):
        g = _field(w, sign, teacher, lam)
        new_size = float(np.max(np.abs(g)))
        if not new_size < size * (0.9 if size > _SOLVED * lam else 0.5):
            break  # rounding, or no progress
        size = new_size
        H = _jacobian(w, sign, teacher, lam).reshape(w.size, w.size)
        try:
            step = np.linalg.solve(H, g.ravel()).reshape(w.shape)
        except np.linalg.LinAlgError:
            return None
        kept, w = w, w - step
        lengths = np.linalg.norm(w, axis=1)
        turned = np.sum(w * start, axis=1) <= 0.5 * lengths * np.linalg.norm(start, axis=1)
        if np.any(turned) or not np.all(np.isfinite(w)):
            return None
    else:
        kept = w
    if float(np.max(np.abs(_field(w, sign, teacher, lam)))) > size:
        w = kept
    return w if size <= max(_SOLVED * lam, 1e-14) else None
