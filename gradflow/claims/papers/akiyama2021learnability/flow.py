r"""Claims of `akiyama2021learnability`: the conic flow, its descent, where and how fast they end.

The excess over the minimum is read off as
:math:`J-J_*=\tfrac12\|\nu-\nu_*\|_k^2+\lambda\int(1-\eta_*\mathrm{sgn}\nu)d|\nu|`, which keeps its
digits far below rounding of J (:mod:`gradflow.measures.tv_minimiser`); late rates are those of the
flow linearised at the certified minimiser (:mod:`gradflow.measures.dual`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

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
from gradflow.claims.papers.akiyama2021learnability.minimisers import one_each, two_each
from gradflow.claims.papers.akiyama2021learnability.setting import (
    COARSE,
    FINE,
    SOURCE,
    Instances,
    TeacherStudent,
    angles,
    conic_path,
    excess_along,
    hypotheses_on_starts,
    hypotheses_on_teachers,
    late_path,
    measures_of,
    minimiser,
    slowest_rate,
    teacher_student,
)
from gradflow.validation import check_array, check_integer, check_positive, fail

#: "All mass within 0.5° of the atoms" and "J − J* → 0", as powers of ten.
NEAR = np.deg2rad(0.5)
REST, FALLEN = 1e-6, 12.0
_EPS = float(np.finfo(np.float64).eps)


# -- the equations of the measure -----------------------------------------------------------------


def conic_equations(
    ones: Instances, times: ArrayLike = (2.0, 5.0, 10.0), *, id: str = f"{SOURCE}/conic-equations"
) -> Equality:
    r"""The two nets' flows are p' = −κ p G(u), u' = −∇G(u), G = sgn·V + λ.

    κ = 1 for outer weights ±1 and the norm-dependent step; κ = 2 for the gradient flow of a
    balanced net, integrated in cartesian coordinates. The prediction is an integration of masses
    and directions that knows the kernel and no network.

    Parameters
    ----------
    ones : TeacherStudent or several
        Any teachers and starts.
    times : array
        Physical times to compare at; early ones, before masses are so small that cartesian
        coordinates lose them.
    """
    some = several("ones", ones, TeacherStudent)
    t = check_array("times", times, (None,))
    if not t.size or np.any(np.diff(t) <= 0) or t[0] <= 0:
        raise fail("times", t, "are not increasing and positive", "pass for example (2.0, 5.0)")

    def predicted(lab: Lab, shift: float = 0.0) -> np.ndarray:
        return np.concatenate([_by_measure(one, t, one.reaction + shift) for one in some])

    def measure(lab: Lab) -> Measurement:
        fine, coarse = (
            np.concatenate([_by_network(lab, one, t, rtol) for one in some])
            for rtol in (FINE, COARSE)
        )
        labels = [
            f"mass {k}, t={at:g}, {one}" for one in some for at in t for k in range(len(one.signs))
        ]
        return Measurement.from_solves(coarse, fine, labels=labels)

    return Equality(
        **PAPER.words("conic-equations", id),
        predict=predicted,
        measure=measure,
        tolerance=1e-5,
        control=Control.replacing("κ + 1 for κ", predict=lambda lab: predicted(lab, 1.0)),
    )


def _by_measure(one: TeacherStudent, t: np.ndarray, reaction: float) -> np.ndarray:
    """Masses (T·M,) from masses and directions alone."""
    signs, teacher = np.array(one.signs), one.teacher
    M, d = len(signs), one.dim

    def field(_: float, y: np.ndarray) -> np.ndarray:
        u = y[M:].reshape(M, d)
        u = u / np.linalg.norm(u, axis=1, keepdims=True)
        c = np.concatenate([signs * np.exp(y[:M]), -teacher.weights])
        v = np.concatenate([u, teacher.directions])
        phi = angles(u, v)
        pull = ((np.sin(phi) @ c)[:, None] * u + ((np.pi - phi) * c) @ v) / (2 * np.pi)
        V = np.sum(pull * u, axis=1)
        turn = -signs[:, None] * (pull - V[:, None] * u)
        return np.concatenate([-reaction * (signs * V + one.lam), turn.ravel()])

    start = np.concatenate([np.full(M, np.log(one.scale)), np.ravel(one.particles)])
    done = solve_ivp(field, (0.0, t[-1]), start, "DOP853", t, rtol=1e-13, atol=1e-14)
    if not done.success:
        raise RuntimeError(f"the reference solve failed: {done.message}")
    return np.exp(done.y[:M].T).ravel()


def _by_network(lab: Lab, one: TeacherStudent, t: np.ndarray, rtol: float) -> np.ndarray:
    """Masses (T·M,) of the network's own weights."""
    if one.outer == "fixed":
        params = conic_path(lab, one, t, rtol).params
    else:
        params = gf.integrate(
            one.risk, one.params, until=gf.until.time(float(t[-1])), clock="physical", rtol=rtol,
            save_at=t, chart="cartesian", throw=True,
        ).params  # fmt: skip
    inner, outer = np.asarray(params.inner), np.asarray(params.outer)
    return (np.linalg.norm(inner, axis=-1) * np.abs(outer)).ravel()


# -- descent --------------------------------------------------------------------------------------


def descent_order(
    one: TeacherStudent, *, time: float = 4.0, steps: int = 100, id: str = f"{SOURCE}/descent-order"
) -> Equality:
    """The norm-dependent step converges to the conic flow at first order in η.

    Parameters
    ----------
    one : TeacherStudent
        With fixed outer weights.
    time : float
        ηN.
    steps : int
        The smallest N of N, 2N, 4N, 8N.
    """
    (one,) = several("one", one, TeacherStudent)
    time, steps = check_positive("time", time), check_integer("steps", steps, minimum=8)
    many = [steps * 2**k for k in range(4)]

    def gaps(lab: Lab, rtol: float) -> np.ndarray:
        end = np.asarray(conic_path(lab, one, [time / 2, time], rtol).params.inner)[-1]
        return np.array([np.linalg.norm(_descended(lab, one, time, n) - end) for n in many])

    def measure(lab: Lab) -> Measurement:
        fine, coarse = (_order(gaps(lab, rtol)) for rtol in (FINE, COARSE))
        return Measurement(
            np.array([fine[0]]), np.array([fine[1] + abs(fine[0] - coarse[0])]), ["order in η"]
        )

    return Equality(
        **PAPER.words("descent-order", id),
        hypotheses=[_fixed(one)],
        predict=lambda lab: np.array([1.0]),
        measure=measure,
        tolerance=0.02,
        control=Control.replacing("second order", predict=lambda lab: np.array([2.0])),
    )


def _order(gaps: np.ndarray) -> tuple[float, float]:
    """log₂ of successive ratios, extrapolated in η, and the last correction."""
    local = -np.diff(np.log2(gaps))
    first = 2 * local[1:] - local[:-1]
    second = (4 * first[1:] - first[:-1]) / 3
    return float(second[-1]), float(abs(second[-1] - first[-1]))


def _descended(lab: Lab, one: TeacherStudent, time: float, steps: int) -> np.ndarray:
    done = gf.descend(
        one.risk, one.params, step_size=time / steps, steps=steps, metric="conic",
        save_every=steps, throw=True,
    )  # fmt: skip
    return np.asarray(done.final.inner)


def _fixed(one: TeacherStudent) -> Hypothesis:
    fits = one.outer == "fixed" and all(abs(s) == 1 for s in one.signs)
    return Hypothesis("outer weights fixed at ±1", lambda lab: (fits, one.outer))


def plain_descent_lags(
    one: TeacherStudent,
    *,
    step_sizes: ArrayLike = (0.05, 0.02, 0.01),
    steps: int = 4000,
    id: str = f"{SOURCE}/plain-descent-lags",
) -> Qualitative:
    """Plain descent with the same number of steps ends ten times or more above the other.

    Particles that should vanish jump over zero by ηλ at every plain step, so J − J* has a floor of
    order η; the norm-dependent step has none.

    Parameters
    ----------
    one : TeacherStudent
        With fixed outer weights.
    step_sizes : array
        η of plain descent; the first is also that of the norm-dependent one.
    steps : int
        N; the first η times N must reach the late phase.
    """
    (one,) = several("one", one, TeacherStudent)
    eta = check_array("step_sizes", step_sizes, (None,))
    if not eta.size or np.any(eta <= 0):
        raise fail("step_sizes", eta, "are not positive", "pass for example (0.05, 0.02)")
    steps = check_integer("steps", steps, minimum=1)

    def budget(lab: Lab) -> tuple[bool, str]:
        needed = -4 * np.log(one.scale) + 4 / slowest_rate(lab, one)
        return bool(eta[0] * steps >= needed), f"ηN = {eta[0] * steps:.3g} < {needed:.3g}"

    def log_excess(lab: Lab, metric: str, step: float, nudge: float) -> float:
        def build() -> float:
            start = one.params
            start = one.net.params(np.asarray(start.inner) * (1 + nudge), start.outer)
            done = gf.descend(
                one.risk, start, step_size=step, steps=steps, metric=metric, save_every=steps
            )
            last = gf.certificates.AtomicMeasure.of_params(done.final)
            return float(np.log10(minimiser(lab, one).excess(last)))

        return lab.get(("descended", one, metric, step, steps, nudge), build)

    def outcomes(lab: Lab, rival: str = "conic") -> list[Outcome]:
        def gap(sizes: np.ndarray, nudge: float) -> float:
            plain = min(log_excess(lab, "euclidean", float(s), nudge) for s in sizes)
            return plain - log_excess(lab, rival, float(eta[0]), nudge) - 1

        found = []
        for what, sizes in (("at the same step", eta[:1]), ("at the best of the steps", eta)):
            value, again = gap(sizes, 0.0), gap(sizes, 1e-9)
            found.append(Outcome(f"ten times above, {what}", value, abs(value - again) + 1e-6))
        return found

    return Qualitative(
        **PAPER.words("plain-descent-lags", id),
        hypotheses=[
            _fixed(one),
            *hypotheses_on_teachers([one]),
            *hypotheses_on_starts([one]),
            Hypothesis("the budget reaches the late phase", budget),
        ],
        measure=outcomes,
        control=Control.replacing(
            "plain descent against itself", measure=lambda lab: outcomes(lab, "euclidean")
        ),
    )


# -- convergence ----------------------------------------------------------------------------------


def global_convergence(ones: Instances, *, id: str = f"{SOURCE}/global-convergence") -> Qualitative:
    """From many small particles of both signs the conic flow reaches the minimum.

    Parameters
    ----------
    ones : TeacherStudent or several
        Several seeds make an ensemble.
    """
    some = several("ones", ones, TeacherStudent)

    def outcomes(lab: Lab, ones: Iterable[TeacherStudent] = some) -> list[Outcome]:
        found = []
        for k, one in enumerate(ones):
            fine, coarse = (_summary(lab, one, rtol) for rtol in (FINE, COARSE))
            error = np.abs(fine - coarse) + 1e-9
            names = (
                f"J - J* fell by 1e-{FALLEN:.0f}",
                "all mass within 0.5 degrees of the atoms",
                "no mass of the wrong sign",
            )
            found += [
                Outcome(f"{name}, start {k}, {one}", float(f), float(e))
                for name, f, e in zip(names, fine, error, strict=True)
            ]
        return found

    def one_sign(one: TeacherStudent) -> TeacherStudent:
        wrong = -float(np.sign(one.weights[0]))
        return one.but(signs=tuple(wrong for _ in one.signs))

    return Qualitative(
        **PAPER.words("global-convergence", id),
        hypotheses=[*hypotheses_on_teachers(some), *hypotheses_on_starts(some)],
        measure=outcomes,
        control=Control.replacing(
            "particles of the wrong sign only",
            measure=lambda lab: outcomes(lab, [one_sign(some[0])]),
        ),
    )


def _summary(lab: Lab, one: TeacherStudent, rtol: float) -> np.ndarray:
    """Decades by which the three statements hold."""
    path = late_path(lab, one, rtol)
    star = minimiser(lab, one)
    first, *_, last = measures_of(path.params)
    fall = np.log10(max(star.excess(first), 1e-300)) - np.log10(max(star.excess(last), 1e-300))
    mass, sign = np.abs(last.weights), np.sign(last.weights)
    apart = angles(last.directions, star.measure.directions)
    near = (apart < NEAR) & (sign[:, None] == np.sign(star.measure.weights))
    whole = star.measure.total_variation  # (of the limit: a flow may lose all its mass)
    away = float(np.sum(mass[~np.any(near, axis=1)])) / whole
    wrong = ~np.isin(sign, np.sign(star.measure.weights))
    stray = float(np.sum(mass[wrong])) / whole
    floor = 1e-300
    return np.array(
        [
            fall - FALLEN,
            np.log10(REST) - np.log10(max(away, floor)),
            np.log10(REST) - np.log10(max(stray, floor)),
        ]
    )


def linear_rate(ones: Instances, *, id: str = f"{SOURCE}/linear-rate") -> Equality:
    """ln(J − J*) ends linear in t, with the slope of the flow linearised at ν*."""
    some = several("ones", ones, TeacherStudent)

    def predict(lab: Lab) -> np.ndarray:
        return np.array([slowest_rate(lab, one) for one in some])

    def slopes(lab: Lab, one: TeacherStudent, rtol: float) -> np.ndarray:
        path = late_path(lab, one, rtol)
        params = jax.tree.map(lambda leaf: leaf[60:97:12], path.params)
        log_excess = np.log(excess_along(lab, one, params))
        return -np.diff(log_excess) / np.diff(path.t[60:97:12])

    def last_clean(lab: Lab, one: TeacherStudent) -> tuple[float, float]:
        fine, coarse = (slopes(lab, one, rtol) for rtol in (FINE, COARSE))
        # Faster terms fade, but in the end particles tremble by what a step may err, at the edge
        # of its stability: a rounding of the start then moves the slope. Read it before that.
        error = np.abs(np.diff(fine)) + np.abs(fine - coarse)[1:]
        best = np.argmin(error)
        return fine[1:][best], error[best] + 4 * _EPS

    def measure(lab: Lab) -> Measurement:
        rates, errors = np.array([last_clean(lab, one) for one in some]).T
        return Measurement(rates, errors, [*map(str, some)])

    return Equality(
        **PAPER.words("linear-rate", id),
        hypotheses=[*hypotheses_on_teachers(some), *hypotheses_on_starts(some)],
        predict=predict,
        measure=measure,
        tolerance=2e-3,
        control=Control.replacing(
            "half the rate, that of ν - ν*", predict=lambda lab: predict(lab) / 2
        ),
    )


def _balanced(**options: Any) -> TeacherStudent:
    return teacher_student(0.1, 2, outer="trained", **options)


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "conic-equations": lambda: conic_equations(
        [teacher_student(0.1, 2, scale=1e-2), _balanced(scale=1e-2)]
    ),
    "descent-order": lambda: descent_order(teacher_student(0.1, 2, scale=1e-2)),
    "plain-descent-lags": lambda: plain_descent_lags(two_each()[0]),
    "global-convergence": lambda: global_convergence(
        [two_each()[0], *(teacher_student(0.1, 2, seed=s) for s in (1, 2)), _balanced()]
    ),
    "linear-rate": lambda: linear_rate([one_each()[1], two_each()[0], _balanced()]),
}
