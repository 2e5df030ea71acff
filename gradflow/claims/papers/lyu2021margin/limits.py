r"""Where flows on symmetric data end: the global max margin, or, from same-sign draws, less.

A net of two groups, :math:`a_k>0` along w* and :math:`a_k<0` along −w*, with :math:`\sum a_k^2=
\sum\|w_k\|^2=\tfrac12` of masses :math:`c_\pm=\sum|a_k|\|w_k\|`, :math:`c_++c_-=\tfrac12`, has the
margins :math:`c_+\gamma^*+\alpha c_-\gamma^*` and :math:`c_-\gamma^*+\alpha c_+\gamma^*` on a
support datum and its negative. The smaller one is largest at :math:`c_\pm=\tfrac14`:
:math:`f=\tfrac{1+\alpha}4w^*\cdot x`. No net does better: averaging f(x) with −f(−x) keeps the
margin on symmetric data, does not raise the norm, and leaves a linear function,
:math:`\tfrac{1+\alpha}2\sum a_kw_k\cdot x`, with :math:`\|\sum a_kw_k\|\le\tfrac12`.

If all :math:`b_k>0` there is one group, :math:`c_+=\tfrac12`, and the negative of a support datum
has the smaller margin, :math:`\tfrac12\alpha\gamma^*`. Within one group the pair's loss is
:math:`\ell(z)+\ell(\alpha z)`, :math:`z=a\,w\cdot x`, so the group goes to the max margin of z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.instances import Several, several
from gradflow.claims.papers.lyu2021margin import PAPER
from gradflow.claims.papers.lyu2021margin.setting import (
    COARSE,
    FINE,
    SOURCE,
    Instance,
    both_groups,
    instance,
    late_path,
    leaky,
    limit,
    one_group,
    separable,
    setting,
    small,
    symmetric,
    trained,
    unique,
)
from gradflow.validation import check_integer, fail

Read = Callable[[Instance, gf.Certificate], np.ndarray]
_PROBES = 16


def _limits(lab: Lab, ones: Sequence[Instance], read: Read, names: Sequence[str]) -> Measurement:
    """A reading of certified limits; its error from a limit of the flow at a looser tolerance."""
    coarse, fine = (
        np.concatenate([read(one, limit(lab, one, rtol)) for one in ones])
        for rtol in (COARSE, FINE)
    )
    residual = [limit(lab, one).kkt_residual for one in ones]
    labels = [f"{name}, {one}" for one in ones for name in names]
    extra = np.repeat(residual, len(names))
    return Measurement.from_solves(coarse, fine, extra=extra, labels=labels)


def _limit_claim(
    some: Several[Instance],
    read: Read,
    names: Sequence[str],
    stated: Callable[[Instance], ArrayLike],
    **fields: Any,
) -> Equality:
    ones = several("instances", some, Instance)

    def measure(lab: Lab) -> Measurement:
        return _limits(lab, ones, read, names)

    def predict(lab: Lab, count: int = len(ones)) -> np.ndarray:
        return np.concatenate([np.broadcast_to(stated(one), len(names)) for one in ones[:count]])

    return Equality(
        hypotheses=[*setting(ones), both_groups(ones), small(ones), unique(ones)],
        predict=predict,
        measure=measure,
        control=Control.replacing(
            "the first draw turned to one sign, and that hypothesis dropped",
            predict=lambda lab: predict(lab, 1),
            measure=lambda lab: _limits(lab, [ones[0].same_sign()], read, names),
            hypotheses=setting(ones),
        ),
        **fields,
    )


def limit_margin(some: Any, *, id: str = f"{SOURCE}/limit-margin") -> Equality:
    """The certified limit's normalised margin is (1+α)γ*/4, γ* from the exact hard-margin SVM."""
    return _limit_claim(
        some,
        lambda one, found: np.array([found.normalised_margin]),
        ["margin"],
        lambda one: (1 + one.slope) * one.svm.margin / 4,
        **PAPER.words("limit-margin", id),
        tolerance=1e-8,
    )


def limit_masses(some: Any, *, id: str = f"{SOURCE}/limit-masses") -> Equality:
    """Each group's outer and inner weights carry a quarter of |θ|²; groups by the sign of b_k."""

    def read(one: Instance, found: gf.Certificate) -> np.ndarray:
        a, w = np.asarray(found.params.outer), np.asarray(found.params.inner)
        parts = []
        for sign in (1.0, -1.0):
            group = sign * one.b > 0
            parts += [np.sum(a[group] ** 2), np.sum(w[group] ** 2)]
        return np.array(parts)

    return _limit_claim(
        some,
        read,
        ["a, b > 0", "w, b > 0", "a, b < 0", "w, b < 0"],
        lambda one: 0.25,
        **PAPER.words("limit-masses", id),
        tolerance=1e-8,
    )


def limit_function(some: Any, *, id: str = f"{SOURCE}/limit-function") -> Equality:
    """The limit is linear: its values at random unit vectors are those of ((1+α)/4) w*·x."""

    def probes(one: Instance) -> np.ndarray:
        x = np.random.default_rng(0).normal(size=(_PROBES, len(one.inputs[0])))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    return _limit_claim(
        some,
        lambda one, found: np.asarray(one.net(found.params, jnp.asarray(probes(one)))),
        [f"x{i}" for i in range(_PROBES)],
        lambda one: (1 + one.slope) / 4 * probes(one) @ one.svm.direction,
        **PAPER.words("limit-function", id),
        relative=False,
        tolerance=1e-7,
    )


def unpolished_margin(
    some: Several[Instance], *, id: str = f"{SOURCE}/limit-margin-unpolished"
) -> Equality:
    """The flow's own normalised margin at ln t = 1e10, without a certificate."""
    ones = several("instances", some, Instance)

    def flows(lab: Lab, ones: Sequence[Instance]) -> Measurement:
        coarse, fine = (
            [late_path(lab, one, rtol).observe("normalised_margin")[-1] for one in ones]
            for rtol in (COARSE, FINE)
        )
        return Measurement.from_solves(coarse, fine, labels=[str(one) for one in ones])

    def predict(lab: Lab) -> np.ndarray:
        return np.array([(1 + one.slope) * one.svm.margin / 4 for one in ones])

    return Equality(
        **PAPER.words("limit-margin-unpolished", id),
        hypotheses=[*setting(ones), both_groups(ones), small(ones), unique(ones)],
        predict=predict,
        measure=lambda lab: flows(lab, ones),
        tolerance=1e-3,
        control=Control.replacing(
            "the first draw turned to one sign, and that hypothesis dropped",
            predict=lambda lab: predict(lab)[:1],
            measure=lambda lab: flows(lab, [ones[0].same_sign()]),
            hypotheses=setting(ones),
        ),
    )


def same_sign_limit(some: Several[Instance], *, id: str = f"{SOURCE}/same-sign-limit") -> Equality:
    """What same-sign draws reach: margin αγ*/2, one group, f(x) = ½ s φ(s w*·x), s the sign."""
    ones = several("instances", some, Instance)
    names = ["margin/γ*", "Σ a|a|", "a.w along w*"]

    def read(one: Instance, found: gf.Certificate) -> np.ndarray:
        a, w = np.asarray(found.params.outer), np.asarray(found.params.inner)
        margin = found.normalised_margin / one.svm.margin
        return np.array([margin, np.sum(a * np.abs(a)), a @ w @ one.svm.direction])

    def stated(one: Instance) -> np.ndarray:
        sign = float(np.sign(one.b[0]))
        return np.array([one.slope / 2, sign / 2, 0.5])

    def predict(lab: Lab) -> np.ndarray:
        return np.concatenate([stated(one) for one in ones])

    def global_margin(lab: Lab) -> np.ndarray:
        parts = [stated(one) for one in ones]
        for part, one in zip(parts, ones, strict=True):
            part[0] = (1 + one.slope) / 4
        return np.concatenate(parts)

    return Equality(
        **PAPER.words("same-sign-limit", id),
        hypotheses=[*setting(ones), one_group(ones), small(ones), unique(ones)],
        predict=predict,
        measure=lambda lab: _limits(lab, ones, read, names),
        tolerance=1e-8,
        control=Control.replacing("the global max margin (1+α) γ*/4", predict=global_margin),
    )


def same_sign_probability(
    widths: Sequence[int] = (2, 3, 4, 6, 10),
    *,
    data: Any,
    outer_scale: float = 1.0,
    draws: int = 3_200_000,
    seed: int = 0,
    id: str = f"{SOURCE}/same-sign-probability",
) -> Equality:
    """The share of same-sign draws is 2^−(m−1): by an exact count, and by Monte Carlo.

    The count: of the 2^m equally likely starts that differ by signs of (w_k, a_k) two are same-sign
    ones. Monte Carlo, for widths up to 3; its error is three standard deviations.

    Parameters
    ----------
    widths : sequence of int
        m, each from 1 to 16.
    data : Dataset or pair (X, y)
        For μ̄.
    outer_scale : float
        c: a_k ~ N(0, c²σ²).
    draws : int
        Of Monte Carlo at m = 2; twice as many at m = 3, where same-sign draws are half as frequent.
    seed : int
    """
    counted = [check_integer("widths", m, minimum=1) for m in widths]
    if not counted or max(counted) > 16:
        raise fail("widths", widths, "is empty or holds widths beyond 16", "pass 1 <= m <= 16")
    drawn = [m for m in counted if m <= 3]
    draws = check_integer("draws", draws, minimum=100_000)
    seed = check_integer("seed", seed, minimum=0)
    frame = instance(data, slope=0.5, width=1, seed=seed, outer_scale=outer_scale)

    def growing(rng: np.random.Generator, *shape: int) -> np.ndarray:
        w = rng.normal(size=(*shape, len(frame.inputs[0])))
        return 0.5 * (w @ frame.mu_bar + outer_scale * rng.normal(size=shape))

    def count(m: int, rng: np.random.Generator) -> float:
        return float(
            np.mean(_same_sign(np.array(list(product((1, -1), repeat=m))) * growing(rng, m)))
        )

    def sample(m: int, rng: np.random.Generator) -> tuple[float, float]:
        rounds = max(1, draws * 2 ** max(m - 2, 0) // 400_000)
        hits = sum(int(np.sum(_same_sign(growing(rng, 400_000, m)))) for _ in range(rounds))
        total = rounds * 400_000
        share = hits / total
        return share, 3 * np.sqrt(max(share * (1 - share), 1 / total) / total)

    def measure(lab: Lab) -> Measurement:
        rng = np.random.default_rng(seed)
        exact = [(count(m, rng), 1e-15) for m in counted]
        values, errors = zip(*exact, *(sample(m, rng) for m in drawn), strict=True)
        labels = [*(f"count, m={m}" for m in counted), *(f"Monte Carlo, m={m}" for m in drawn)]
        return Measurement(values, errors, labels)

    return Equality(
        **PAPER.words("same-sign-probability", id),
        hypotheses=[Hypothesis("μ is not zero", lambda lab: bool(np.any(frame.mu)))],
        predict=lambda lab: np.array([2.0 ** (1 - m) for m in counted + drawn]),
        measure=measure,
        tolerance=0.024,
        control=Control.replacing(
            "2^-m, as if only one of the signs counted",
            predict=lambda lab: np.array([2.0**-m for m in counted + drawn]),
        ),
    )


def _same_sign(b: np.ndarray) -> np.ndarray:
    return np.all(b > 0, axis=-1) | np.all(b < 0, axis=-1)


def global_optimum(some: Several[Instance], *, id: str = f"{SOURCE}/global-optimum") -> Equality:
    """The linear program over directions: no net of any width beats (1+α)γ*/4.

    A net that attains it and a dual that bounds it are both found, without a flow; d ≤ 3.
    """
    ones = several("instances", some, Instance)

    def plane(lab: Lab) -> tuple[bool, str]:
        high = [len(one.inputs[0]) for one in ones if len(one.inputs[0]) > 3]
        return not high, f"d = {high[0]}" if high else ""

    def measure(lab: Lab) -> Measurement:
        found = [gf.certificates.global_max_margin(one.risk) for one in ones]
        values = [bound for best in found for bound in (best.lower, best.upper)]
        gaps = [best.upper - best.lower for best in found for _ in range(2)]
        labels = [f"{side}, {one}" for one in ones for side in ("attained", "dual")]
        return Measurement(values, np.abs(gaps) + 1e-14 * np.abs(values), labels)

    def predict(lab: Lab) -> np.ndarray:
        return np.repeat([(1 + one.slope) * one.svm.margin / 4 for one in ones], 2)

    return Equality(
        **PAPER.words("global-optimum", id),
        hypotheses=[
            trained(ones), leaky(ones, closed=True), symmetric(ones), separable(ones),
            Hypothesis("d <= 3, where directions can be searched exactly", plane),
        ],
        predict=predict,
        measure=measure,
        tolerance=1e-7,
        control=Control.replacing(
            "two groups of ReLU neurons with as much slope as given, counted twice: (1+α) γ*/2",
            predict=lambda lab: 2 * predict(lab),
        ),
    )  # fmt: skip
