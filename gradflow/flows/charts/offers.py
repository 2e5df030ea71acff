"""The charts by name: what a risk offers (``risk.charts``) and a user asks for (``chart=``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import PyTree

from gradflow.flows.charts.chart import AbstractChart, CartesianChart
from gradflow.flows.charts.conic import ConicChart
from gradflow.flows.charts.linear import LinearLogAngleChart
from gradflow.flows.charts.two_neuron import TwoNeuronChart
from gradflow.risks.base import AbstractRisk
from gradflow.validation import fail

Make = Callable[[PyTree, PyTree], AbstractChart]
Refusal = Callable[[PyTree, PyTree], str | None]


@dataclass(frozen=True)
class ChartKind:
    """A kind of chart.

    Attributes
    ----------
    name : str
        What a user asks for; kinds for different risks may share it.
    make : callable
        ``make(risk, params)``, the chart at a start.
    refusal : callable
        ``refusal(risk, params)``, why a start has no such chart; None where it has one.
    """

    name: str
    make: Make
    refusal: Refusal


def _never(risk: AbstractRisk, params: PyTree) -> None:
    return None


_KINDS: dict[str, ChartKind] = {
    "cartesian": ChartKind("cartesian", CartesianChart, _never),
    "linear-log-angle": ChartKind(
        "log-angle", LinearLogAngleChart.of, LinearLogAngleChart.refusal
    ),
    "two-neuron-log-angle": ChartKind("log-angle", TwoNeuronChart.of, TwoNeuronChart.refusal),
    "conic": ChartKind("conic", ConicChart, ConicChart.refusal),
}  # fmt: skip


def register_chart(kind: str, make: Make, refusal: Refusal = _never, name: str = "") -> None:
    """Make a chart available to risks that name ``kind`` in their ``charts``.

    Parameters
    ----------
    kind : str
    make : callable
        ``make(risk, params)`` returns the chart at a start.
    refusal : callable
        ``refusal(risk, params)`` returns why a start has none, or None.
    name : str
        What a user passes as ``chart=``; default: ``kind``.

    Raises
    ------
    ValueError
        If the kind is taken by another chart.
    """
    made = ChartKind(name or kind, make, refusal)
    if _KINDS.get(kind, made) != made:
        raise fail("kind", kind, "is taken by another chart", "choose another name")
    _KINDS[kind] = made


def chart_names() -> list[str]:
    """What a user may ask for."""
    return sorted({"auto", *(kind.name for kind in _KINDS.values())})


def chosen_chart(risk: AbstractRisk, params: PyTree, name: str) -> AbstractChart:
    """The chart called ``name`` at a start; for "auto" the first that the risk offers and has.

    Raises
    ------
    ValueError
        If the risk offers no such chart, or this start has none.
    """
    offered = [_KINDS[kind] for kind in risk.charts(params)]
    asked = [kind for kind in offered if name in ("auto", kind.name)]
    names = " and ".join(dict.fromkeys(kind.name for kind in offered))
    reason: str | None = f"{risk.name} has no {name} chart, but {names}"
    for kind in asked:
        reason = kind.refusal(risk, params)
        if reason is None:
            return kind.make(risk, params)
    raise fail("chart", name, str(reason), "leave chart out, or pass chart='cartesian'")
