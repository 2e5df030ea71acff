r"""Claims of `akiyama2021learnability`: minimisers of the total-variation problem, and their dual.

The predictions come from sympy (:mod:`gradflow.symbolic.orthonormal_teachers`), with the kernel
integrated from its definition; what is measured is where the conic flow of many small particles
ends, and Newton's method on the whole problem in R^d.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

import gradflow as gf
from gradflow.claims import (
    Claim,
    Control,
    Equality,
    Hypothesis,
    Lab,
    Measurement,
    Outcome,
    Qualitative,
)
from gradflow.claims.instances import several
from gradflow.claims.papers.akiyama2021learnability import PAPER
from gradflow.claims.papers.akiyama2021learnability.setting import (
    COARSE,
    FINE,
    SOURCE,
    Instances,
    TeacherStudent,
    certificate,
    clusters,
    equal_weights,
    hypotheses_on_starts,
    hypotheses_on_teachers,
    late_path,
    measures_of,
    minimiser,
    teacher_student,
    teachers_are,
)
from gradflow.validation import check_integer, fail

_EPS = float(np.finfo(np.float64).eps)


def _reached(lab: Lab, one: TeacherStudent, read) -> tuple[np.ndarray, np.ndarray]:
    """A quantity of the clusters where the flow ends, and its error.

    From a looser solve, and from a tenth of the time before.
    """
    fine, coarse = (measures_of(late_path(lab, one, rtol).params) for rtol in (FINE, COARSE))
    end, before, loose = (read(clusters(lab, one, nu)) for nu in (fine[-1], fine[-13], coarse[-1]))
    return end, np.abs(end - before) + np.abs(end - loose) + 16 * _EPS


# -- the minimisers ------------------------------------------------------------------------------


def one_teacher(ones: Instances, *, id: str = f"{SOURCE}/one-teacher") -> Equality:
    """One teacher of weight c: the flow's limit has the mass |c| − 2λ and no angle to the teacher.

    Parameters
    ----------
    ones : TeacherStudent or several
        With one teacher.
    """
    some = several("ones", ones, TeacherStudent)

    def read(one: TeacherStudent):
        v = np.array(one.teachers[0])

        def of(pulls: np.ndarray) -> np.ndarray:
            across = pulls[0] - (pulls[0] @ v) * v
            return np.array([np.linalg.norm(pulls[0]), pulls[0] @ v, np.linalg.norm(across)])

        return of

    def predict(lab: Lab) -> np.ndarray:
        masses = [abs(one.weights[0]) * _atoms(one, 1).mass for one in some]
        return np.concatenate([[mass, mass, 0.0] for mass in masses])

    def measure(lab: Lab) -> Measurement:
        found = [_reached(lab, one, read(one)) for one in some]
        value, error = (np.concatenate(part) for part in zip(*found, strict=True))
        labels = [f"{what}, {one}" for one in some for what in ("mass", "along v", "across v")]
        return Measurement(value, error, labels)

    return Equality(
        **PAPER.words("one-teacher", id),
        hypotheses=[
            *(teachers_are(one, 1) for one in some),
            *hypotheses_on_teachers(some),
            *hypotheses_on_starts(some),
        ],
        predict=predict,
        measure=measure,
        tolerance=1e-7,
        relative=False,
        control=Control.replacing(
            "the teacher without the bias 2λ",
            predict=lambda lab: np.concatenate([[abs(o.weights[0])] * 2 + [0.0] for o in some]),
        ),
    )


def _atoms(one: TeacherStudent, count: int) -> Any:
    """The derived atoms for teachers of weight 1; λ counts in units of the weight."""
    return gf.symbolic.orthonormal_teachers.solve(one.lam / abs(one.weights[0]), count)


def several_teachers(ones: Instances, *, id: str = f"{SOURCE}/two-teachers") -> Equality:
    """Orthogonal teachers of one weight: mass and shift of the atoms that the flow reaches.

    Parameters
    ----------
    ones : TeacherStudent or several
        With two or more orthogonal teachers of equal weight.
    """
    some = several("ones", ones, TeacherStudent)

    def read(one: TeacherStudent):
        v = np.array(one.teachers)

        def of(pulls: np.ndarray) -> np.ndarray:
            mass = np.linalg.norm(pulls, axis=1)
            along = np.sum(pulls * v, axis=1)
            across = np.linalg.norm(pulls - along[:, None] * v, axis=1)
            return np.concatenate([mass, np.arctan2(across, along)])

        return of

    def predict(lab: Lab) -> np.ndarray:
        parts = []
        for one in some:
            m = len(one.weights)
            atoms = _atoms(one, m)
            parts.append([abs(one.weights[0]) * atoms.mass] * m + [atoms.angle] * m)
        return np.concatenate(parts)

    def measure(lab: Lab) -> Measurement:
        found = [_reached(lab, one, read(one)) for one in some]
        value, error = (np.concatenate(part) for part in zip(*found, strict=True))
        labels = [
            f"{what} {j}, {one}"
            for one in some
            for what in ("mass", "angle")
            for j in range(len(one.weights))
        ]
        return Measurement(value, error, labels)

    def unshifted(lab: Lab) -> np.ndarray:
        parts = []
        for one in some:
            m, c = len(one.weights), abs(one.weights[0])
            parts.append([c - 2 * one.lam] * m + [_atoms(one, m).angle] * m)
        return np.concatenate(parts)

    return Equality(
        **PAPER.words("{count}-teachers", id),
        hypotheses=[
            *(_many_teachers(one) for one in some),
            *(equal_weights(one) for one in some),
            *hypotheses_on_teachers(some),
            *hypotheses_on_starts(some),
        ],
        predict=predict,
        measure=measure,
        tolerance=1e-5,
        control=Control.replacing("the mass 1 - 2λ of a teacher alone", predict=unshifted),
    )


def _many_teachers(one: TeacherStudent) -> Hypothesis:
    m = len(one.weights)
    return Hypothesis("m >= 2", lambda lab: (m >= 2, f"m = {m}"))


# -- small penalties -----------------------------------------------------------------------------


def recovery_slopes(
    teachers: int = 2, dim: int | None = None, *, id: str = f"{SOURCE}/recovery-slopes"
) -> Equality:
    """r = 1 − aλ + O(λ²), δ = bλ + O(λ²), and the recovery error is linear in λ.

    Parameters
    ----------
    teachers : int
        m ≥ 2 orthonormal teachers.
    dim : int, optional
        d ≥ m; default m.
    """
    m = check_integer("teachers", teachers, minimum=2)
    d = m if dim is None else check_integer("dim", dim, minimum=2)
    if d < m:
        raise fail("dim", d, f"holds no {m} orthogonal teachers", f"pass dim >= {m}")
    lams = 0.02 * 0.5 ** np.arange(6)

    def predict(lab: Lab) -> np.ndarray:
        a, b = (float(slope) for slope in gf.symbolic.orthonormal_teachers.slopes(m))
        return np.array([a, b, m * np.hypot(a, b), 1.0])

    def rows(lab: Lab) -> np.ndarray:
        out = []
        for lam in lams:
            star = gf.certificates.tv_minimiser(
                gf.certificates.orthonormal_teachers(d, m), float(lam)
            )
            error = star.recovery_error()
            out.append([(1 - star.masses[0]) / lam, star.shifts[0] / lam, error / lam, error])
        return np.array(out)

    def measure(lab: Lab) -> Measurement:
        table = lab.once(rows)
        quotients = [_extrapolated(table[:, i]) for i in range(3)]
        exponent = _extrapolated(-np.diff(np.log(table[:, 3])) / np.log(2))
        value, error = zip(*quotients, exponent, strict=True)
        labels = ("(1 - r)/λ", "δ/λ", "error/λ", "exponent of the error")
        return Measurement(np.array(value), np.array(error), labels)

    def quadratic(lab: Lab) -> np.ndarray:
        return np.array([*predict(lab)[:3], 2.0])

    return Equality(
        **PAPER.words("recovery-slopes" if m == 2 else "recovery-slopes-three", id, m=m),
        predict=predict,
        measure=measure,
        tolerance=1e-5,
        control=Control.replacing("a recovery error quadratic in λ", predict=quadratic),
    )


def _extrapolated(values: np.ndarray) -> tuple[float, float]:
    """The limit of values at λ, λ/2, λ/4, … (powers of λ), and the last correction as its error."""
    row, last = np.asarray(values), np.inf
    for power in range(1, len(values)):
        finer = (2**power * row[1:] - row[:-1]) / (2**power - 1)
        last = abs(float(finer[-1] - row[-1]))
        row = finer
    return float(row[-1]), last


# -- the dual certificate --------------------------------------------------------------------------


def dual_bound(ones: Instances, *, id: str = f"{SOURCE}/dual-certificate") -> Qualitative:
    """|η| ≤ 1 on the sphere, with equality only at the recovered atoms.

    Parameters
    ----------
    ones : TeacherStudent or several
        Their starts do not matter.
    """
    some = several("ones", ones, TeacherStudent)

    def outcomes(lab: Lab, debias: bool = False) -> list[Outcome]:
        found = []
        for one in some:
            star = minimiser(lab, one)
            if debias:
                masses = np.sign(star.measure.weights) * np.abs(np.array(one.weights))
                measure = gf.certificates.AtomicMeasure(masses, star.measure.directions)
                known = gf.certificates.dual_certificate(replace(star, measure=measure))
            else:
                known = certificate(lab, one)
            size = (star.teacher.total_variation + star.measure.total_variation) / one.lam
            noise = 1e-14 * size
            gap = float(np.max(np.abs(known.at_atoms)))
            found += [
                Outcome(f"η = sgn c_j at the atoms, {one}", 1e-9 - gap, noise),
                Outcome(f"|η| < 1 elsewhere, {one}", 1 - known.elsewhere, noise),
                Outcome(f"the maxima are isolated, {one}", float(np.min(known.curvature)), noise),
                Outcome(f"no ascent beyond 1, {one}", 1 + 1e-9 - known.greatest, noise),
                Outcome(f"no descent beyond -1, {one}", 1 + 1e-9 + known.least, noise),
            ]
        return found

    return Qualitative(
        **PAPER.words("dual-{which}", id),
        hypotheses=hypotheses_on_teachers(some),
        measure=outcomes,
        control=Control.replacing(
            "the atoms with the teacher's masses", measure=lambda lab: outcomes(lab, True)
        ),
    )


@cache
def one_each() -> tuple[TeacherStudent, ...]:
    """One teacher, at two penalties."""
    return tuple(teacher_student(lam, 1) for lam in (0.3, 0.1))


@cache
def two_each() -> tuple[TeacherStudent, ...]:
    """Two teachers, at two penalties."""
    return tuple(teacher_student(lam, 2) for lam in (0.1, 0.01))


def _three() -> TeacherStudent:
    return teacher_student(0.1, 3, dim=3, width=60, scale=1e-6)


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "one-teacher": lambda: one_teacher(one_each()),
    "two-teachers": lambda: several_teachers(two_each()),
    "three-teachers": lambda: several_teachers(_three(), id=f"{SOURCE}/three-teachers"),
    "recovery-slopes": recovery_slopes,
    "recovery-slopes-three": lambda: recovery_slopes(3, id=f"{SOURCE}/recovery-slopes-three"),
    "dual-one-teacher": lambda: dual_bound(
        [one_each()[1], teacher_student(0.1, 1, dim=5)], id=f"{SOURCE}/dual-one-teacher"
    ),
    "dual-two-teachers": lambda: dual_bound(
        [*two_each(), teacher_student(0.1, 2, dim=4)], id=f"{SOURCE}/dual-two-teachers"
    ),
}
