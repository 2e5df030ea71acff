r"""Pictures of trajectories: :func:`plot`, and :func:`panel` with predictions and bounds beside it.

Angles are shown as :math:`-\ln\tan(\theta/2)`, on a logarithmic axis when they span decades: 0 is a
right angle, 5 is 0.8°, and :math:`y\gg1` is :math:`\theta=2e^{-y}`, also where no floating point
number holds θ. Colours are those of Okabe and Ito, which colour-blind readers tell apart.

matplotlib is imported when something is drawn. Nothing here calls ``plt.show``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradflow import observables as registry
from gradflow.paths.path import AbstractPath, as_path
from gradflow.validation import check_array, check_choice, fail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette; black comes last, it is the colour of predictions.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip

Role = Literal["flow", "descent", "law", "bound", "failing"]

#: One look per role, the same in every picture.
STYLES: dict[str, dict[str, Any]] = {
    "flow": {"color": "#0072B2", "linewidth": 2.2, "zorder": 3},
    "descent": {
        "color": "#E69F00", "linestyle": "none", "marker": "o", "markersize": 4.5,
        "markerfacecolor": "white", "markeredgewidth": 1.2, "zorder": 4,
    },
    "law": {"color": "#000000", "linewidth": 1.3, "linestyle": (0, (1, 1.6)), "zorder": 5},
    "bound": {"color": "#009E73", "linewidth": 1.6, "linestyle": (0, (6, 2)), "zorder": 2},
    "failing": {"color": "#D55E00", "linewidth": 1.6, "linestyle": (0, (6, 1.5, 1, 1.5))},
}  # fmt: skip

#: Observables drawn with the opposite sign, so that what decays to -inf is seen to grow.
_MIRRORED = ("log_tan_half_angle",)
_X = {"t": "time t", "log_t": "ln t"}
_MAX_NAMED = len(PALETTE)
#: Room beyond the data, as a part of the decades an axis spans.
_MARGIN = 0.04
_LARGEST = 1e306
_NEAR_OVERFLOW = 250


@dataclass(frozen=True)
class Curve:
    """What a panel shows beside a path, in the observable's own sign and unit.

    Attributes
    ----------
    x, y : array, shape (n,)
        Values of the panel's time variable, and of the observable.
    role : {"law", "bound", "failing"}
        A prediction, a bound that holds, or one that does not (the part on the wrong side of the
        path is shaded).
    label : str
    """

    x: np.ndarray
    y: np.ndarray
    role: Role = "law"
    label: str = ""


def plot(
    traj: Any,
    observables: str | Sequence[str] = ("loss", "norm", "log_tan_half_angle"),
    x: str = "auto",
    axes: Any = None,
) -> Figure:
    r"""Plot observables of a trajectory against time, one panel each.

    Parameters
    ----------
    traj : Trajectory or Descent
        Anything with ``params``, ``risk``, ``t`` and ``log_t``.
    observables : str or sequence of str
        Names from ``gf.observables``, or quantities the chart offers (``traj.exact``).
        ``log_tan_half_angle`` is drawn as :math:`-\ln\tan(\theta_k/2)`.
    x : {"auto", "t", "log_t"}
        Physical time, or its natural logarithm; "auto" is the logarithm for times beyond 1e308.
    axes : matplotlib Axes, or one for each observable, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Figure
        In a notebook it is shown when it is the value of a cell; in a script call
        ``figure.savefig`` or ``plt.show``.

    Raises
    ------
    ValueError
        Unknown observables or x; the wrong number of axes; times that overflow.
    """
    names = [observables] if isinstance(observables, str) else list(observables)
    if not names:
        raise fail("observables", observables, "is empty", "name at least one observable")
    traj = as_path(traj)
    known = {*registry.names(), *traj.exact}
    for name in names:
        check_choice("observables", name, known)
    if x == "auto":
        x = "log_t" if np.any(np.isposinf(np.asarray(traj.t))) else "t"
    # Everything is computed before a figure exists: a bad request leaves no half-drawn picture.
    time = _time(traj, x)
    values = [_values(traj, name) for name in names]
    places, figure = _places(axes, len(names))
    for axis, name, value in zip(places, names, values, strict=True):
        _draw_rows(axis, time, value)
        _finish(axis, name, x, time, value)
    if axes is None:
        for axis in places[:-1]:
            axis.set_xlabel("")
    largest = int(np.argmax([value.shape[1] for value in values]))
    if 1 < values[largest].shape[1] <= _MAX_NAMED:
        places[largest].legend(frameon=False)
    return figure


def panel(
    axis: Axes,
    traj: Any,
    observable: str,
    *,
    x: str = "t",
    curves: Sequence[Curve] = (),
    descent: Any = None,
    label: str = "gradient flow",
    markers: int = 12,
) -> None:
    """Draw one observable of a flow with gradient descent, predictions and bounds beside it.

    Parameters
    ----------
    axis : matplotlib Axes
    traj : Trajectory
        Its first neuron is shown (linear nets have one).
    observable : str
    x : {"t", "log_t"}
    curves : sequence of Curve
        In the observable's own sign (for ``log_tan_half_angle``: ln tan(θ/2), although the panel
        shows its negative).
    descent : Descent, optional
        Shown as about ``markers`` markers, evenly spaced along the axis.
    label : str
        Of the flow, in the legend.
    markers : int
    """
    traj = as_path(traj)
    check_choice("observable", observable, {*registry.names(), *traj.exact})
    time, value = _time(traj, x), _values(traj, observable)
    sign = -1.0 if observable in _MIRRORED else 1.0
    everything = [value[:, :1]]
    axis.plot(time, value[:, 0], label=label, **STYLES["flow"])
    if descent is not None:
        at, steps = _time(as_path(descent), x), _values(descent, observable)[:, 0]
        some = _spread(at, markers, log=_wants_log(time))
        axis.plot(at[some], steps[some], label="gradient descent", **STYLES["descent"])
    for curve in curves:
        check_choice("role", curve.role, ("law", "bound", "failing"))
        cx = check_array("curves.x", curve.x, (None,))
        cy = sign * check_array("curves.y", curve.y, cx.shape)
        axis.plot(cx, cy, label=curve.label or None, **STYLES[curve.role])
        everything.append(cy[:, None])
        if curve.role == "failing":
            known = np.isfinite(time)
            shade_failure(axis, cx, cy, np.interp(cx, time[known], value[known, 0]))
    _finish(axis, observable, x, time, np.concatenate(everything))


def shade_failure(axis: Axes, x: np.ndarray, bound: np.ndarray, value: np.ndarray) -> None:
    """Shade where what claims to be a lower bound lies above the value."""
    wrong = bound > value
    axis.fill_between(
        x, value, bound, where=wrong, color=STYLES["failing"]["color"], alpha=0.28, linewidth=0,
        zorder=1,
    )  # fmt: skip


def tidy(axis: Axes) -> None:
    """Take away the frame's upper and right side, and put in a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, which="major", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)


# ---------------------------------------------------------------------------------------------
# What to draw


def _time(path: AbstractPath, x: str) -> np.ndarray:
    check_choice("x", x, _X)
    time = np.asarray(path.t if x == "t" else path.log_t, np.float64)
    if time.size == 0:
        raise fail("traj", path, "holds no points", "record some: save_at=gf.save.steps()")
    if np.any(np.isposinf(time)):
        raise fail("x", x, "overflows: times beyond 1e308", "pass x='log_t'")
    # ln 0 at the start has no place on an axis.
    return np.where(np.isfinite(time), time, np.nan)


def _values(path: Any, name: str) -> np.ndarray:
    """Observable as (time, lines), in the sign that is drawn."""
    value = np.asarray(registry.observe(path, name), np.float64)
    value = value.reshape(value.shape[0], -1)
    return -value if name in _MIRRORED else value


def _spread(at: np.ndarray, count: int, *, log: bool) -> np.ndarray:
    """Indices of about ``count`` points evenly spaced along the (log) axis."""
    usable = np.flatnonzero(np.isfinite(at) & (at > 0)) if log else np.flatnonzero(np.isfinite(at))
    where = np.log(at[usable]) if log else at[usable]
    targets = np.linspace(where[0], where[-1], count)
    return usable[np.unique(np.argmin(np.abs(where[:, None] - targets), axis=0))]


# ---------------------------------------------------------------------------------------------
# How to draw it


def _places(axes: Any, count: int) -> tuple[list[Axes], Figure]:
    if axes is not None:
        places = list(np.ravel(np.asarray(axes, dtype=object)))
        if len(places) != count:
            raise fail(
                "axes", f"{len(places)} axes", f"for {count} observables", f"pass {count} axes"
            )
        return places, places[0].figure
    import matplotlib
    import matplotlib.pyplot as plt

    figure, made = plt.subplots(
        count, 1, figsize=(6.4, 0.9 + 2.1 * count), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    if "inline" in matplotlib.get_backend():
        # Such a backend shows all open figures after a cell, and the returned one once more.
        plt.close(figure)
    return list(made[:, 0]), figure


def _draw_rows(axis: Axes, time: np.ndarray, value: np.ndarray) -> None:
    lines = value.shape[1]
    if lines == 1:
        axis.plot(time, value[:, 0], **STYLES["flow"])
        return
    if lines > _MAX_NAMED:
        # Too many to name: one colour, faint, shows the distribution.
        axis.plot(time, value, color=PALETTE[0], alpha=0.4, linewidth=0.9)
        return
    for k in range(lines):
        # Later lines are thinner and broken, so that equal ones do not hide each other.
        dashes = "-" if k == 0 else (0, (2 + k, 1 + k))
        axis.plot(
            time, value[:, k], label=f"neuron {k + 1}", color=PALETTE[k], linestyle=dashes,
            linewidth=max(1.2, 2.4 - 0.4 * k),
        )  # fmt: skip


def _finish(axis: Axes, name: str, x: str, time: np.ndarray, value: np.ndarray) -> None:
    if x == "t" and _wants_log(time):
        _log_axis(axis.xaxis, time[time > 0])
    _set_scale(axis, value)
    axis.set_xlabel(_X[x])
    axis.set_ylabel(label_of(name))
    tidy(axis)


def _wants_log(time: np.ndarray) -> bool:
    """Whether times span decades: points of a uniform grid have max = 2 median."""
    positive = time[time > 0]
    return bool(positive.size > 1 and positive.max() > 20 * np.median(positive))


def _set_scale(axis: Axes, value: np.ndarray) -> None:
    """Linear, logarithmic, or logarithmic on both sides of a linear piece around 0."""
    finite = value[np.isfinite(value)]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if low >= 0:
        positive = finite[finite > 0]
        if positive.size and high > 30 * positive.min():
            _log_axis(axis.yaxis, positive)
    elif max(high, -low) > 100:
        # Limits come first: matplotlib would let those of its own overflow near 1e300.
        decades = max(np.log10(max(abs(low), abs(high))), 1.0)
        room = 10.0 ** (_MARGIN * decades)
        with np.errstate(over="ignore"):
            ends = np.array([room * low, max(room * high, 0.0)])
        axis.set_ylim(*np.clip(ends, -_LARGEST, _LARGEST))
        axis.set_yscale("symlog", linthresh=1.0)
        _symlog_ticks(axis, low, high)


def _log_axis(axis: Any, positive: np.ndarray) -> None:
    """Make an axis logarithmic, with few ticks."""
    from matplotlib.ticker import LogLocator

    axes, x_or_y = axis.axes, axis.axis_name
    low, high = np.log10(positive.min()), np.log10(positive.max())
    if max(-low, high) < _NEAR_OVERFLOW:
        axes.set(**{f"{x_or_y}scale": "log"})
        _ticks(axis, LogLocator(numticks=7))
        return
    # matplotlib's own margins and ticks would leave the floats here.
    ends = (10.0 ** max(low - 5, -320), min(10.0 ** min(high + 5, 308), _LARGEST))
    axes.set(**{f"{x_or_y}lim": ends})
    axes.set(**{f"{x_or_y}scale": "log"})
    _ticks(axis, [10.0**k for k in range(-300, 301, 100) if low - 5 <= k <= high + 5])


def _symlog_ticks(axis: Axes, low: float, high: float) -> None:
    top = int(np.floor(np.log10(max(high, -low))))
    stride = max(1, -(-top // (5 if low > -10 else 3)))
    powers = [10.0**k for k in range(stride, top + 1, stride)]
    below = [-p for p in powers if p <= -low]
    _ticks(axis.yaxis, [*below[::-1], 0, *(p for p in powers if p <= high)])


def _ticks(axis: Any, where: Any) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(where) if isinstance(where, list) else where)
    axis.set_minor_locator(NullLocator())


def label_of(name: str) -> str:
    """Axis label of an observable: its long name, and its unit unless it is a pure number."""
    if name not in registry.names():
        return name.replace("_", " ")
    entry = registry.get(name)
    text = f"−{entry.long_name}" if name in _MIRRORED else entry.long_name
    if entry.unit != "1":
        text = f"{text} [{entry.unit}]"
    # Broken into lines first: what follows changes the number of characters, not the width.
    text = "\n".join(textwrap.wrap(text, 24, break_long_words=False, break_on_hyphens=False))
    return re.sub(r"\^([-0-9.]+)", r"$^{\1}$", text).replace("theta_k", r"$\theta_k$")


__all__ = ["PALETTE", "STYLES", "Curve", "label_of", "panel", "plot", "shade_failure", "tidy"]
