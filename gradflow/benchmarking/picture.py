"""The picture of a table: error against seconds and against evaluations, a panel a problem."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gradflow.benchmarking.row import Outcome, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradflow.benchmarking.table import WorkPrecision

#: Kinds of solvers, by the beginning of their names: a colour each (Okabe and Ito).
_KINDS = {
    "diffrax": "#D55E00", "scipy": "#009E73", "numba": "#E69F00", "sundials": "#CC79A7",
    "heyoka": "#56B4E9", "nosnoc": "#8C6D31", "descent": "#999999",
}  # fmt: skip
_OURS, _OTHER = "#0072B2", "#000000"
_MARKERS = "osD^vP<>h*"
_LIE: dict[str, Any] = {
    "linestyle": "none", "marker": "X", "color": "#CC0000", "markeredgecolor": "white",
    "markeredgewidth": 1.0,
}  # fmt: skip
#: Those that did not arrive stand above the panel, open.
_NEVER = (Outcome.FAILED, Outcome.TIME_OUT)
_ABOVE: dict[str, Any] = {
    "linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 0.8, "markersize": 3.6,
}  # fmt: skip
#: Problems of one row of panels.
_ACROSS = 2
#: The axis ends here: errors beyond are drawn on its edge.
_SMALLEST, _LARGEST = 1e-14, 1e1


def draw(table: WorkPrecision) -> Figure:
    """Draw the table, two panels a problem: dishonest successes crossed in red, those that failed
    or were not done in time above."""
    from matplotlib.figure import Figure

    problems = [str(problem["name"]) for problem in table.problems]
    looks = _looks(table)
    lines = max(math.ceil(len(problems) / _ACROSS), 1)
    figure = Figure(figsize=(3.1 * 2 * _ACROSS, 2.35 * lines + 1.6), layout="constrained")
    panels = np.atleast_2d(figure.subplots(lines, 2 * _ACROSS, squeeze=False))
    for place, name in enumerate(problems):
        left = 2 * (place % _ACROSS)
        rows = table.where(problem=name).rows
        pair = panels[place // _ACROSS, left], panels[place // _ACROSS, left + 1]
        _panel(pair[0], rows, "cpu_seconds", looks)
        _panel(pair[1], rows, "rhs", looks)
        pair[0].set_title(name, loc="left", fontsize=9, fontweight="bold", pad=11)
        pair[0].set_ylabel("relative error", fontsize=8)
        if place + _ACROSS >= len(problems):
            pair[0].set_xlabel("CPU seconds", fontsize=8)
            pair[1].set_xlabel("right-hand sides", fontsize=8)
    for place in range(len(problems), lines * _ACROSS):
        for panel in panels[place // _ACROSS, 2 * (place % _ACROSS) :][:2]:
            panel.set_axis_off()
    _legend(figure, looks, {row.outcome for row in table})
    return figure


def _looks(table: WorkPrecision) -> dict[str, dict[str, Any]]:
    """A colour a kind, a marker a solver, for those with something to draw."""
    drawn = [row.solver for row in table if row.arrived or row.outcome in _NEVER]
    counters: dict[str, itertools.count] = {}
    looks = {}
    for name in dict.fromkeys(row.solver for row in table):
        kind = next((key for key in _KINDS if name.startswith(key)), None)
        foreign = kind is not None or name not in _ours()
        colour = _KINDS[kind] if kind else _OTHER if foreign else _OURS
        number = next(counters.setdefault(colour, itertools.count()))
        if name in drawn:
            looks[name] = {"color": colour, "marker": _MARKERS[number % len(_MARKERS)]}
    return looks


def _ours() -> set[str]:
    from gradflow.integrators.driver import integrator_names

    return {"auto", *integrator_names()}


def _panel(axes: Axes, rows: tuple[Row, ...], x: str, looks: dict[str, dict[str, Any]]) -> None:
    for name, look in looks.items():
        _above(axes, [row for row in rows if row.solver == name], x, look)
        own = [row for row in rows if row.solver == name and row.arrived and _drawable(row, x)]
        own.sort(key=lambda row: row.value, reverse=True)
        if not own:
            continue
        where = np.array([getattr(row, x) for row in own])
        height = np.clip([row.error for row in own], _SMALLEST, _LARGEST)
        width = 1.6 if look["color"] == _OURS else 0.9
        axes.plot(where, height, markersize=3.4, linewidth=width, alpha=0.85,
                  zorder=4 if look["color"] == _OURS else 3, **look)  # fmt: skip
        lies = [row.outcome == Outcome.DISHONEST for row in own]
        edge = {**_LIE, "markeredgecolor": look["color"]}
        axes.plot(where[lies], height[lies], markersize=8.5, zorder=6, **edge)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _above(axes: Axes, rows: list[Row], x: str, look: dict[str, Any]) -> None:
    """What those that did not arrive had spent by then."""
    spent = [getattr(row, x) for row in rows if row.outcome in _NEVER]
    spent = [value for value in spent if math.isfinite(value) and value > 0]
    if spent:
        above = {**look, **_ABOVE, "markeredgecolor": look["color"]}
        edge = axes.get_xaxis_transform()  # (the height in shares of the panel's)
        axes.plot(spent, [1.06] * len(spent), transform=edge, clip_on=False, zorder=5, **above)


def _drawable(row: Row, x: str) -> bool:
    return math.isfinite(getattr(row, x)) and getattr(row, x) > 0 and not math.isnan(row.error)


def _legend(figure: Figure, looks: dict[str, dict[str, Any]], outcomes: set[Outcome]) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], markersize=4, linewidth=1.2, label=name, **look)
        for name, look in looks.items()
    ]
    if Outcome.DISHONEST in outcomes:
        said = "DISHONEST: claims success"
        entries.append(Line2D([], [], markersize=8, label=said, **_LIE))
    if outcomes & set(_NEVER):
        said = "open, above: failed or out of time"
        entries.append(Line2D([], [], marker="o", color="#555555", label=said, **_ABOVE))
    figure.legend(handles=entries, loc="outside lower center", ncols=5, fontsize=7, frameon=False)
