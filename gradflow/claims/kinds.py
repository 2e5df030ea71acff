"""The three kinds of claim and how each is decided.

- `Equality`: ``measured = predicted``, to a stated tolerance.
- `Bound`: ``measured >= bound`` (or ``<=``) on every sample.
- `Qualitative`: named outcomes, each with a margin by which it holds.

A margin that lies within the numerical error is INCONCLUSIVE, never SUPPORTED and never VIOLATED.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from gradflow.claims.claim import Claim, Control, Measurement, Outcome, check_factor
from gradflow.claims.evidence import Evidence, Status, Table
from gradflow.claims.lab import Lab
from gradflow.validation import check_choice, check_positive, fail


@dataclass(frozen=True, kw_only=True)
class Equality(Claim):
    """``measured = predicted`` to a tolerance, in every component.

    With ``gap = |measured - predicted|`` (divided by ``|predicted|`` if ``relative``) and the
    numerical error in the same unit: SUPPORTED where ``gap + error <= tolerance`` and
    ``error <= tolerance / 10``; VIOLATED where ``gap - error > tolerance``; else INCONCLUSIVE.

    Attributes
    ----------
    predict : callable, lab -> float or array
        From a derivation. Never all zeros: a factor would not alter it. State a conserved
        quantity by its value, not by its drift.
    measure : callable, lab -> Measurement
    tolerance : float
    relative : bool
    """

    predict: Callable[[Lab], ArrayLike]
    measure: Callable[[Lab], Measurement]
    tolerance: float
    relative: bool = True
    kind: ClassVar[str] = "equality"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("tolerance", self.tolerance)

    def decide(self, lab: Lab) -> Evidence:
        """Compare every component; the worst decides."""
        predicted, measured, error, labels = _aligned(
            lab.once(self.predict), lab.once(self.measure), "predicted"
        )
        unit = np.abs(predicted) if self.relative else np.ones_like(predicted)
        if self.relative and np.any(unit == 0):
            raise ValueError("a prediction of zero has no relative error; pass relative=False")
        if np.all(0.05 * np.abs(predicted) / unit <= 2 * self.tolerance):
            return Evidence(
                Status.INCONCLUSIVE,
                "the tolerance could not tell a prediction that is 5 % off",
                tolerance=self.tolerance,
            )
        gap, error = np.abs(measured - predicted) / unit, error / unit
        supported = (gap + error <= self.tolerance) & (error <= self.tolerance / 10)
        violated = gap - error > self.tolerance
        status, worst = _worst(supported, violated, gap + error)
        return Evidence(
            status,
            self._words(status, float(gap[worst]), float(error[worst]))
            + _where(labels, worst, gap.size),
            _table(labels, predicted, measured, error),
            worst,
            self.tolerance,
            {
                "gap": float(gap[worst]),
                "relative": self.relative,
                "component": labels[worst] if labels else worst,
                "components": int(gap.size),
            },
        )

    def _words(self, status: Status, gap: float, error: float) -> str:
        sort = "relative" if self.relative else "absolute"
        if status is Status.SUPPORTED:
            return f"{sort} gap {gap:.2g} within {self.tolerance:.2g}"
        if status is Status.VIOLATED:
            return (
                f"{sort} gap {gap:.2g} exceeds the tolerance {self.tolerance:.2g} "
                f"by more than the numerical error {error:.1g}"
            )
        if error > self.tolerance / 10:
            return (
                f"numerical error {error:.1g} too large to judge at the tolerance "
                f"{self.tolerance:.2g}"
            )
        return (
            f"{sort} gap {gap:.2g} is at the tolerance {self.tolerance:.2g}, "
            f"within the numerical error {error:.1g}"
        )

    def perturbed(self, factor: float, lab: Lab) -> Equality:
        """The claim with every predicted value multiplied by ``factor``."""
        factor = check_factor(factor)
        predict = self.predict
        return self._replace(
            predict=lambda lab: factor * np.asarray(lab.once(predict), dtype=np.float64),
            control=None,
        )


@dataclass(frozen=True, kw_only=True)
class Bound(Claim):
    """``measured >= bound`` on every sample (``side="lower"``), or ``<=`` (``side="upper"``).

    With ``slack = ±(measured - bound)``: a sample holds where ``error <= slack / 10``, or, where
    the bound is attained, ``slack - error >= -tolerance`` with ``error <= tolerance / 10``. It
    fails where ``slack + error < -tolerance``. SUPPORTED if all hold, VIOLATED if one fails, else
    INCONCLUSIVE. The tolerance shown with a supported bound is the room it leaves: the slack of the
    deciding sample, if that is larger. Compare in a coordinate that does not saturate
    (``-ln tan(theta/2)``, not ``cos(theta)``), or a false bound holds by rounding.

    Attributes
    ----------
    measure : callable, lab -> Measurement
        The bounded quantity on every sample.
    bound : callable, (lab, factor) -> array or Measurement
        The bound on every sample, with its growth part (the rate, not the starting value)
        multiplied by ``factor``; the statement is ``factor = 1``. A Measurement, where the bound
        itself rests on numerics.
    sharp : callable, lab -> float
        The best factor: the growth part times it is the largest (``tighten="up"``) or smallest
        (``"down"``) for which the bound would still hold; from the derivation or from a solve of
        its own.
    side : str
        "lower" or "upper".
    tighten : str
        Whether a larger ("up") or smaller ("down") factor makes the bound stronger. By default
        "up" for lower bounds and "down" for upper ones.
    tolerance : float
        Absolute, in the unit of the samples: rounding where the bound is attained.
    """

    measure: Callable[[Lab], Measurement]
    bound: Callable[[Lab, float], Any]
    sharp: Callable[[Lab], float]
    side: str = "lower"
    tighten: str = ""
    tolerance: float = 0.0
    factor: float = 1.0
    kind: ClassVar[str] = "bound"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("side", self.side, ("lower", "upper"))
        if not self.tighten:
            object.__setattr__(self, "tighten", "up" if self.side == "lower" else "down")
        check_choice("tighten", self.tighten, ("up", "down"))
        if not self.tolerance >= 0:
            raise fail("tolerance", self.tolerance, "is negative or NaN", "pass a float >= 0")

    def decide(self, lab: Lab) -> Evidence:
        """Compare every sample; the tightest one that is not merely attained is shown."""
        bound = self.bound(lab, self.factor)
        bound_error = 0.0
        if isinstance(bound, Measurement):
            bound, bound_error = bound.value, bound.error
        bound, measured, error, labels = _aligned(bound, lab.once(self.measure), "bound")
        error = error + np.broadcast_to(np.asarray(bound_error, dtype=np.float64), error.shape)
        if not np.all(np.isfinite(error)):
            raise ValueError("the error of the bound is not finite")
        slack = (measured - bound) * (1 if self.side == "lower" else -1)
        attained = (error <= self.tolerance / 10) & (slack - error >= -self.tolerance)
        supported = (slack >= 10 * error) | attained
        violated = slack + error < -self.tolerance
        # An attained sample (the start, usually) says little: show the tightest of the others.
        merely = attained & (np.abs(slack) <= self.tolerance)
        badness = error - slack
        if not np.all(merely):
            badness = np.where(merely, -np.inf, badness)
        status, worst = _worst(supported, violated, badness)
        least = float(slack[worst])
        relation = ">=" if self.side == "lower" else "<="
        if status is Status.SUPPORTED:
            message = f"{relation} bound on all samples, least slack {least:.2g}"
        elif status is Status.VIOLATED:
            message = (
                f"bound fails by {-least:.2g}, numerical error {error[worst]:.1g}, "
                f"on {int(np.count_nonzero(violated))} of {slack.size} samples"
            )
        else:
            message = f"slack {least:.2g} is not ten times the numerical error {error[worst]:.1g}"
        return Evidence(
            status,
            message + _where(labels, worst, slack.size),
            _table(labels, bound, measured, error),
            worst,
            max(self.tolerance, least) if status is Status.SUPPORTED else self.tolerance,
            {
                "slack": least,
                "side": self.side,
                "factor": self.factor,
                "component": labels[worst] if labels else worst,
                "components": int(slack.size),
            },
        )

    def perturbed(self, factor: float, lab: Lab) -> Bound:
        """The bound ``|factor - 1|`` beyond the sharpest one that would hold."""
        beyond = abs(check_factor(factor) - 1)
        sharp = check_positive("sharp", lab.once(self.sharp))
        tightened = sharp * (1 + beyond) if self.tighten == "up" else sharp / (1 + beyond)
        return self._replace(factor=tightened, control=None)


@dataclass(frozen=True, kw_only=True)
class Qualitative(Claim):
    """Named outcomes, all of which hold by more than the numerical error of their margins.

    SUPPORTED where every ``margin > error``; VIOLATED where some ``margin < -error``; else
    INCONCLUSIVE.

    Attributes
    ----------
    measure : callable, lab -> sequence of Outcome
    broken : Control, optional
        The variant with a broken hypothesis that a perturbation calls for; by default the
        control.
    """

    measure: Callable[[Lab], Sequence[Outcome]]
    broken: Control | None = None
    kind: ClassVar[str] = "qualitative"

    def __post_init__(self) -> None:
        super().__post_init__()
        for variant in (self.control, self.broken):
            if variant is not None and variant.factor is not None:
                raise fail(
                    "control",
                    variant.description,
                    "multiplies a prediction, and a qualitative claim has none",
                    "pass Control.replacing(..., hypotheses=... or measure=...)",
                )

    def decide(self, lab: Lab) -> Evidence:
        """Judge every outcome; the least margin decides."""
        outcomes = list(lab.once(self.measure))
        if not outcomes:
            raise ValueError("no outcome was measured")
        margin = np.array([o.margin for o in outcomes], dtype=np.float64)
        error = np.array([o.error for o in outcomes], dtype=np.float64)
        _check_errors(error)
        if not np.all(np.isfinite(margin)):
            raise ValueError("a margin is not finite: " + _nonfinite(outcomes))
        status, worst = _worst(margin > error, margin < -error, error - margin)
        name = outcomes[worst].name
        if status is Status.SUPPORTED:
            message = f"{len(outcomes)} outcomes hold; least margin {margin[worst]:.2g}: {name}"
        elif status is Status.VIOLATED:
            message = f"does not hold: {name} (margin {margin[worst]:.2g})"
        else:
            message = (
                f"margin {margin[worst]:.2g} within the numerical error {error[worst]:.1g}: {name}"
            )
        return Evidence(
            status,
            message,
            Table(tuple(o.name for o in outcomes), np.full(margin.shape, np.nan), margin, error),
            worst,
            details={
                "component": name,
                "components": len(outcomes),
                "outcomes": {o.name: float(o.margin) for o in outcomes},
            },
        )

    def perturbed(self, factor: float, lab: Lab) -> Qualitative:
        """The claim with a broken hypothesis; the size of ``factor`` does not matter."""
        check_factor(factor)
        variant = self.broken or self.control
        if variant is None:
            raise ValueError("neither a broken variant nor a control to perturb with")
        return self._replace(control=None, broken=None, **variant.changes)


def _aligned(
    predicted: ArrayLike, measurement: Any, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Flat float64 arrays predicted, measured, error of one shape, and labels."""
    if not isinstance(measurement, Measurement):
        raise TypeError(f"measure returned {type(measurement).__name__}, not a Measurement")
    measured = np.atleast_1d(np.asarray(measurement.value, dtype=np.float64))
    predicted = np.atleast_1d(np.asarray(predicted, dtype=np.float64))
    error = np.atleast_1d(np.asarray(measurement.error, dtype=np.float64))
    if predicted.shape != measured.shape and predicted.size != 1:
        raise ValueError(f"{name} has shape {predicted.shape}, measured has {measured.shape}")
    if measured.size == 0:
        raise ValueError("nothing was measured")
    predicted = np.broadcast_to(predicted, measured.shape).ravel()
    error = np.broadcast_to(error, measured.shape).ravel()
    measured = measured.ravel()
    if not np.all(np.isfinite(predicted)):
        raise ValueError(f"{name} is not finite")
    if not np.all(np.isfinite(measured)):
        raise ValueError("measured is not finite")
    _check_errors(error)
    labels = [str(label) for label in measurement.labels]
    if labels and len(labels) != measured.size:
        raise ValueError(f"{len(labels)} labels for {measured.size} components")
    return predicted, measured, error, labels


def _table(labels: list[str], *columns: np.ndarray) -> Table:
    named = labels or [str(i) for i in range(columns[0].size)]
    return Table(tuple(named), *(np.array(column) for column in columns))


def _check_errors(error: np.ndarray) -> None:
    if not np.all(np.isfinite(error)) or np.any(error < 0):
        raise ValueError("a numerical error is not finite, or is negative")


def _worst(supported: np.ndarray, violated: np.ndarray, badness: np.ndarray) -> tuple[Status, int]:
    """Overall status and the component that decides it, the worst among its kind."""
    if np.any(violated):
        status, among = Status.VIOLATED, violated
    elif not np.all(supported):
        status, among = Status.INCONCLUSIVE, ~supported
    else:
        status, among = Status.SUPPORTED, supported
    return status, int(np.argmax(np.where(among, badness, -np.inf)))


def _where(labels: list[str], worst: int, size: int) -> str:
    if labels:
        return f" at {labels[worst]}"
    return f" at component {worst} of {size}" if size > 1 else ""


def _nonfinite(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(o.name for o in outcomes if not math.isfinite(o.margin))
