r"""What the claims of `akiyama2021learnability` share: instances, hypotheses, paths, their reading.

An instance is a teacher :math:`f^\circ=\sum_jc_j\,\mathrm{relu}(v_j\cdot x)` on inputs N(0, I), a
penalty λ, and a start of M small particles. The student's flow is the conic one: with outer weights
±1 fixed and the norm-dependent step, or the gradient flow of a balanced net.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Hypothesis, Lab
from gradflow.claims.instances import row, rows
from gradflow.validation import check_array, check_choice, check_integer, check_positive, fail

SOURCE = "akiyama2021learnability"
#: Tolerances of the run that is measured and of the run that gives its numerical error.
FINE, COARSE = 1e-10, 1e-9
#: Late enough: J − J* has fallen by e^-36, so angles and masses by e^-18.
LATE = 36.0
#: What a small start and a covering one are.
SMALL, COVERING = 0.05, np.deg2rad(40.0)


@dataclass(frozen=True)
class TeacherStudent:
    """A teacher, a penalty and a start; made by `teacher_student`, hashable.

    Attributes
    ----------
    teachers : tuple of unit vectors
        v_j, in R^d.
    weights : tuple of float
        c_j.
    lam : float
        λ.
    particles : tuple of unit vectors
        The student's directions.
    signs : tuple of float
        ±1, one a particle.
    scale : float
        Mass of each particle at the start.
    outer : str
        "fixed" (outer weights ±1, norm-dependent step) or "trained" (balanced gradient flow).
    """

    teachers: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    lam: float
    particles: tuple[tuple[float, ...], ...]
    signs: tuple[float, ...]
    scale: float
    outer: str = "fixed"

    @property
    def dim(self) -> int:
        """d."""
        return len(self.teachers[0])

    @property
    def teacher(self) -> gf.certificates.AtomicMeasure:
        """ν°."""
        return gf.certificates.AtomicMeasure(np.array(self.weights), np.array(self.teachers))

    @property
    def net(self) -> gf.TwoLayer:
        """The student."""
        return gf.TwoLayer(self.dim, len(self.signs), gf.relu, outer=self.outer)

    @property
    def risk(self) -> gf.Regularised:
        """J."""
        net = gf.TwoLayer(self.dim, len(self.weights), gf.relu)
        known = gf.NetworkTeacher(net, net.params(np.array(self.teachers), np.array(self.weights)))
        plain = gf.PopulationRisk(self.net, gf.squared, gf.Gaussian(self.dim), known)
        return gf.Regularised(plain, self.lam)

    @property
    def params(self) -> PyTree:
        """The start: masses ``scale``, as |w| (fixed) or as |a| |w| with |a| = |w| (trained)."""
        size = self.scale if self.outer == "fixed" else np.sqrt(self.scale)
        signs = np.array(self.signs)
        outer = signs if self.outer == "fixed" else signs * size
        return self.net.params(size * np.array(self.particles), outer)

    @property
    def reaction(self) -> float:
        """How much faster masses react than in the norm-dependent flow."""
        return 1.0 if self.outer == "fixed" else 2.0

    def but(self, **changes: object) -> TeacherStudent:
        """A copy with fields replaced."""
        return replace(self, **changes)

    def __str__(self) -> str:
        many = f"{len(self.weights)} teacher{'s' if len(self.weights) > 1 else ''}"
        return f"{many}, d={self.dim}, λ={self.lam:g}, {self.outer}"


def teacher_student(
    lam: float,
    teachers: Any = 2,
    *,
    weights: ArrayLike | None = None,
    dim: int = 2,
    width: int = 40,
    seed: int = 0,
    scale: float = 1e-4,
    outer: str = "fixed",
    particles: ArrayLike | None = None,
    signs: ArrayLike | None = None,
) -> TeacherStudent:
    """A checked `TeacherStudent`.

    Parameters
    ----------
    lam : float
        λ > 0.
    teachers : int or array (m, d)
        Unit vectors, or how many axes of R^dim to take.
    weights : array (m,), optional
        c_j; default 1.
    dim, width : int
        d (where ``teachers`` is a number) and M.
    seed : int
        Of the particles' directions: in the plane evenly spread for each sign, with jitter; else
        uniform on the sphere.
    scale : float
        Mass of each particle.
    outer : {"fixed", "trained"}
    particles : array (M, d), optional
        Unit vectors instead of drawn ones.
    signs : array (M,), optional
        ±1; default: alternating.
    """
    lam, scale = check_positive("lam", lam), check_positive("scale", scale)
    check_choice("outer", outer, ("fixed", "trained"))
    if isinstance(teachers, (int, np.integer)) and not isinstance(teachers, bool):
        count = check_integer("teachers", teachers, minimum=1)
        dim = check_integer("dim", dim, minimum=2)
        if count > dim:
            raise fail("teachers", count, f"more than d = {dim}", "pass dim >= teachers")
        v = np.eye(dim)[:count]
    else:
        v = check_array("teachers", teachers, (None, None))
    c = np.ones(len(v)) if weights is None else check_array("weights", weights, (len(v),))
    if np.any(c == 0):
        raise fail("weights", c, "holds a zero", "leave that teacher out")
    gf.certificates.AtomicMeasure(c, v)  # unit rows
    if particles is None:
        width = check_integer("width", width, minimum=2)
        u = _spread(width, v.shape[1], np.random.default_rng(seed))
    else:
        u = check_array("particles", particles, (None, v.shape[1]))
        gf.certificates.AtomicMeasure(np.ones(len(u)), u)
    if signs is None:
        s = np.where(np.arange(len(u)) % 2 == 0, 1.0, -1.0)
    else:
        s = check_array("signs", signs, (len(u),))
        if np.any(np.abs(s) != 1):
            raise fail("signs", s, "holds numbers other than 1 and -1", "pass ±1")
    return TeacherStudent(rows(v), row(c), lam, rows(u), row(s), scale, outer)


def angles(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Angles (..., n) of unit vectors u (..., d) and v (n, d)."""
    return gf.angle(u[..., None, :], v)


def _spread(width: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    if dim == 2:
        pairs = (width + 1) // 2
        phi = 2 * np.pi * (np.arange(width) // 2 + rng.uniform(size=width)) / pairs
        return np.stack([np.cos(phi), np.sin(phi)], axis=1)
    u = rng.normal(size=(width, dim))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


Instances = TeacherStudent | Sequence[TeacherStudent]


# -- the minimiser -----------------------------------------------------------------------------


def minimiser(lab: Lab, one: TeacherStudent) -> gf.certificates.TVMinimiser:
    """ν*, by Newton's method."""
    key = ("tv minimiser", one.teachers, one.weights, one.lam)
    return lab.get(key, lambda: gf.certificates.tv_minimiser(one.teacher, one.lam))


def certificate(lab: Lab, one: TeacherStudent) -> Any:
    """The dual certificate of ν*."""
    key = ("dual certificate", one.teachers, one.weights, one.lam)
    return lab.get(key, lambda: gf.certificates.dual_certificate(minimiser(lab, one)))


def predicted_rates(lab: Lab, one: TeacherStudent) -> gf.certificates.DecayRates:
    """The late rates of J − J*, from the linearised flow."""
    key = ("decay rates", one.teachers, one.weights, one.lam, one.reaction)
    return lab.get(
        key, lambda: gf.certificates.decay_rates(minimiser(lab, one), reaction=one.reaction)
    )


def slowest_rate(lab: Lab, one: TeacherStudent) -> float:
    """The rate that J − J* ends with: the least of those of the particles present."""
    found = predicted_rates(lab, one)
    present = [found.internal, found.collective]
    present += [found.positive] if 1.0 in one.signs else []
    present += [found.negative] if -1.0 in one.signs else []
    return min(present)


# -- hypotheses --------------------------------------------------------------------------------


def orthogonal(one: TeacherStudent) -> Hypothesis:
    """v_i·v_j = 0."""
    v = np.array(one.teachers)
    off = float(np.max(np.abs(v @ v.T - np.eye(len(v)))))
    return Hypothesis("orthogonal teachers", lambda lab: (off < 1e-12, f"|v_i.v_j| = {off:.2g}"))


def equal_weights(one: TeacherStudent) -> Hypothesis:
    """All teachers weigh the same."""
    fits = len(set(one.weights)) == 1
    return Hypothesis("teachers of equal weight", lambda lab: (fits, f"c = {one.weights}"))


def teachers_are(one: TeacherStudent, count: int) -> Hypothesis:
    """m = count."""
    m = len(one.weights)
    return Hypothesis(f"m = {count}", lambda lab: (m == count, f"m = {m}"))


def penalty_in_range(one: TeacherStudent) -> Hypothesis:
    """λ is so small that every teacher keeps an atom, and the dual certificate accepts them."""

    def check(lab: Lab) -> tuple[bool, str]:
        least = min(abs(c) for c in one.weights)
        if not one.lam < least / 2:
            return False, f"lam = {one.lam:g}, min |c_j|/2 = {least / 2:g}"
        try:
            found = certificate(lab, one)
        except ValueError as error:
            return False, str(error)
        return found.accepted, found.reason

    return Hypothesis("0 < lam < |c_j|/2, one atom a teacher", check)


def many_particles(one: TeacherStudent) -> Hypothesis:
    """M ≥ 4m, of both signs."""
    M, m = len(one.signs), len(one.weights)
    fits = 4 * m <= M and len(set(one.signs)) == 2
    reason = f"M = {M}, m = {m}, signs {sorted(set(one.signs))}"
    return Hypothesis("M >= 4m particles of both signs", lambda lab: (fits, reason))


def covering(one: TeacherStudent) -> Hypothesis:
    """Two particles of its sign within 40° of each teacher."""
    signs, c = np.array(one.signs), np.array(one.weights)
    apart = angles(np.array(one.teachers), np.array(one.particles))
    near = (apart < COVERING) & (signs == np.sign(c)[:, None])
    few = int(np.min(np.sum(near, axis=1)))
    reason = f"a teacher has {few} of its sign within {np.rad2deg(COVERING):.0f} degrees"
    return Hypothesis("particles cover the directions", lambda lab: (few >= 2, reason))


def small_start(one: TeacherStudent) -> Hypothesis:
    """The particles' total mass is small against the teacher's."""
    share = one.scale * len(one.signs) / sum(abs(c) for c in one.weights)
    return Hypothesis(
        f"total mass at the start <= {SMALL:g} of the teacher's",
        lambda lab: (share <= SMALL, f"share {share:.2g}"),
    )


def hypotheses_on_teachers(ones: Sequence[TeacherStudent]) -> list[Hypothesis]:
    """Orthogonal, and λ in range."""
    return [check(one) for one in ones for check in (orthogonal, penalty_in_range)]


def hypotheses_on_starts(ones: Sequence[TeacherStudent]) -> list[Hypothesis]:
    """Many small particles of both signs that cover the directions."""
    return [check(one) for one in ones for check in (many_particles, covering, small_start)]


# -- paths -------------------------------------------------------------------------------------


def late_time(lab: Lab, one: TeacherStudent) -> float:
    """When J − J* has fallen by e^-36 at its predicted rate, after the start has grown."""
    star = minimiser(lab, one)
    push = np.sign(star.measure.weights) * star.teacher.potential(star.measure.directions)
    speed = one.reaction * float(np.min(push - one.lam))
    growth = 2 * max(-np.log(one.scale), 0.0) / speed
    return float(growth + LATE / slowest_rate(lab, one))


def conic_path(
    lab: Lab, one: TeacherStudent, times: Sequence[float] | np.ndarray, rtol: float = FINE
) -> gf.Trajectory:
    """The conic flow at physical times."""
    times = np.asarray(times, np.float64)
    metric = "conic" if one.outer == "fixed" else "euclidean"

    def build() -> gf.Trajectory:
        return gf.integrate(
            one.risk,
            one.params,
            until=gf.until.time(float(times[-1])),
            clock="physical",
            rtol=rtol,
            save_at=times,
            throw=True,
            chart="conic",
            metric=metric,
        )

    return lab.get(("conic path", one, times.tobytes(), rtol), build)


def late_path(lab: Lab, one: TeacherStudent, rtol: float = FINE) -> gf.Trajectory:
    """The conic flow at 121 times up to `late_time`."""
    return conic_path(lab, one, np.linspace(0.0, late_time(lab, one), 121), rtol)


def measures_of(params: PyTree) -> list[gf.certificates.AtomicMeasure]:
    """The measures at recorded times."""
    count = np.asarray(params.outer).shape[0]
    return [
        gf.certificates.AtomicMeasure.of_params(jax.tree.map(lambda leaf, i=i: leaf[i], params))
        for i in range(count)
    ]


def excess_along(lab: Lab, one: TeacherStudent, params: PyTree) -> np.ndarray:
    """J − J* at recorded parameters.

    In the plane all of it; in more dimensions its part λ∫(1 − η sgn) d|ν|, which keeps its digits
    below rounding and to which the other part is small late.
    """
    star = minimiser(lab, one)
    read: Callable[[gf.certificates.AtomicMeasure], float] = (
        star.excess if one.dim == 2 else star.penalty_excess
    )
    return np.array([read(nu) for nu in measures_of(params)])


def clusters(lab: Lab, one: TeacherStudent, nu: gf.certificates.AtomicMeasure) -> np.ndarray:
    """Σ p u over the particles of its sign nearest each atom, (m, d)."""
    star = minimiser(lab, one).measure
    apart = angles(nu.directions, star.directions)
    apart = np.where(np.sign(nu.weights)[:, None] == np.sign(star.weights), apart, np.inf)
    nearest = np.where(np.all(np.isinf(apart), axis=1), -1, np.argmin(apart, axis=1))
    pull = np.abs(nu.weights)[:, None] * nu.directions
    return np.stack([np.sum(pull[nearest == j], axis=0) for j in range(len(star.weights))])
