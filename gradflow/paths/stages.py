"""What the states of an integration's stages say: times, parameters, values of the charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from gradflow.flows.flow import Flow
from gradflow.integrators.contract import AbstractDense
from gradflow.numerics.rows import map_rows
from gradflow.paths.path import Recorded
from gradflow.risks.base import AbstractRisk


@dataclass(frozen=True)
class Stage:
    """Recorded chart states of one stage, and the solution between them where it was kept."""

    flow: Flow
    s: np.ndarray
    Y: np.ndarray
    dense: AbstractDense | None = None

    def chart_value(self, name: str) -> np.ndarray:
        """``log_loss`` or ``gradient_norm`` by the chart, at every recorded state."""
        fn = _log_loss if name == "log_loss" else _gradient_norm
        return map_rows(fn, self.flow.core(), self.Y)


def _log_loss(flow: Flow, Y: Array) -> Array:
    return flow.chart.log_risk(flow.split(Y)[0])


def _gradient_norm(flow: Flow, Y: Array) -> Array:
    return flow.chart.gradient_norm(flow.split(Y)[0])


def read(flow: Flow, s: np.ndarray, Y: np.ndarray) -> dict[str, Any]:
    """Times, energy, parameters and the chart's exact values at states of one stage."""
    y, energy, _ = flow.split(Y)
    with np.errstate(over="ignore"):
        t = np.array(flow.t(s, Y), np.float64)
    return {
        "t": t, "log_t": np.asarray(flow.log_t(s, Y)), "clock": s, "energy": energy,
        "params": flow.chart.decode(y), "exact": flow.chart.exact(y),
    }  # fmt: skip


def join(risk: AbstractRisk, pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of several stages as one; where a chart has no exact value, parameters give it."""
    joined = {
        key: np.concatenate([piece[key] for piece in pieces])
        for key in ("t", "log_t", "clock", "energy")
    }
    params = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *[piece["params"] for piece in pieces]
    )
    return {**joined, "params": params, "exact": _join_exact(risk, pieces)}


def _join_exact(risk: AbstractRisk, pieces: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    from gradflow import observables

    out: dict[str, np.ndarray] = {}
    for key in {key: None for piece in pieces for key in piece["exact"]}:
        parts = []
        for piece in pieces:
            if key in piece["exact"]:
                parts.append(np.asarray(piece["exact"][key]))
            elif key in observables.names():
                parts.append(Recorded(risk, piece["params"]).observe(key))
            else:
                break
        else:
            out[key] = np.concatenate(parts)
    return out


__all__ = ["Stage", "join", "read"]
