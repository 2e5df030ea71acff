r"""Observables of the risk and of what its flow conserves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.cells.clarke import speeds
from gradflow.cells.forces import Forces
from gradflow.numerics.rows import map_rows
from gradflow.observables.paths import risk_on, tree_norm
from gradflow.observables.registry import observable, observe
from gradflow.paths.path import AbstractPath
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.validation import fail


def _risk_value(risk: EmpiricalRisk, params: PyTree) -> Array:
    return jnp.asarray(risk(params))


def _risk_log(risk: EmpiricalRisk, params: PyTree) -> Array:
    return jnp.asarray(risk.log(params))


def _gradient_norm(risk: EmpiricalRisk, params: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(risk.gradient(params))))


def _pulls(forces: Forces, f: jax.Array) -> jax.Array:
    return forces.pulls(f, per_loss=False)[0]


def _pulls_per_loss(forces: Forces, f: jax.Array) -> jax.Array:
    return forces.pulls(f, per_loss=True)[0]


def _balancedness(risk: EmpiricalRisk, params: PyTree) -> PyTree:
    return risk.net.balancedness(params)


@observable("log_loss", long_name="logarithm of the risk")
def log_loss(path: AbstractPath) -> np.ndarray:
    """ln L(theta(t)), where L itself may underflow."""
    exact = path.chart_value("log_loss")
    return map_rows(_risk_log, path.risk, path.params) if exact is None else exact


@observable("loss", long_name="risk")
def loss(path: AbstractPath, X: ArrayLike | None = None, y: ArrayLike | None = None) -> np.ndarray:
    """L(theta(t)), or the mean loss on other data.

    Parameters
    ----------
    X, y : (n, d) and (n,) arrays
        Other data, for a risk of a net and a loss.
    """
    if X is not None or y is not None:
        return map_rows(_risk_value, risk_on(path, "loss", X, y), path.params)
    # One source for both, also after a round trip through a file.
    if "log_loss" in path.exact or path.chart_value("log_loss") is not None:
        logarithm = observe(path, "log_loss")
        # (a function of the user's may be negative, where it has no logarithm)
        if not np.any(np.isnan(logarithm)):
            return np.exp(logarithm)
    return map_rows(_risk_value, path.risk, path.params)


@observable("gradient_norm", unit="1/time^0.5", long_name="norm of the risk's gradient")
def gradient_norm(path: AbstractPath) -> np.ndarray:
    """|grad L(theta(t))| over the trained entries, the speed of the flow.

    Where neurons stand on kinks it is the norm of the Clarke gradient that the flow follows
    (`clarke1983`), however long they have slid along them.
    """
    at = path.risk.arrangement
    if at is None or not at.central or not at.kinked:
        exact = path.chart_value("gradient_norm")
        return map_rows(_gradient_norm, path.risk, path.params) if exact is None else exact
    W, a = at.split(path.params)
    f = np.array([at.predictions(*row) for row in zip(W, a, strict=True)]).reshape(-1, len(at.y))
    if not at.margin_loss:
        return speeds(at, W, a, map_rows(_pulls, Forces.of(at), f))
    # Of ln L, which does not underflow.
    relative = speeds(at, W, a, map_rows(_pulls_per_loss, Forces.of(at), f))
    return relative * np.exp(observe(path, "log_loss"))


@observable("norm", unit="weight", long_name="norm of the parameters")
def norm(path: AbstractPath) -> np.ndarray:
    """|theta(t)|, the Euclidean norm of all parameters (fixed ones included)."""
    return tree_norm(path.params)


@observable(
    "balancedness", unit="weight^2", long_name="conserved balance",
    dims=("time", "layer_or_neuron"), source="du2018balanced",
)  # fmt: skip
def balancedness(path: AbstractPath) -> np.ndarray:
    """What the flow conserves, by the network's definition (a_k^2 - |w_k|^2 for two layers)."""
    net = path.risk.net
    row = jax.tree.map(lambda leaf: leaf[0], path.params)
    if net is None or net.balancedness(row) is None:
        raise fail(
            "name", "balancedness", "this risk's flow conserves no such quantity",
            "use TwoLayer with outer='trained' or DeepLinear",
        )  # fmt: skip
    return map_rows(_balancedness, path.risk, path.params)


@observable("energy", long_name="integral of the squared speed")
def energy(path: AbstractPath) -> np.ndarray:
    r""":math:`\int_0^t\|\dot\theta\|^2`, in the units of the risk: what the flow has spent of it.

    Integrated beside the flow; on the exact one it is L(0) - L(t).
    """
    return np.asarray(_energy(path, "energy"))


def _energy(path: AbstractPath, name: str) -> Any:
    if path.energy is None:
        raise fail("name", name, "this path carries no energy", "use gf.integrate")
    return path.energy


@observable("energy_defect", long_name="relative energy defect")
def energy_defect(path: AbstractPath) -> np.ndarray:
    r""":math:`|L(0)-L(t)-\int_0^t\|\dot\theta\|^2| / |L(0)|`, zero on the exact flow
    (not divided where L(0) = 0).

    A free monitor of the integration error; it sees errors of the energy integral too.
    """
    spent, initial = _energy(path, "energy_defect"), path.initial
    if initial is None:
        raise fail("name", "energy_defect", "this path carries no start", "use gf.integrate")
    first = float(np.asarray(path.risk(initial)))
    defect = np.abs(first - observe(path, "loss") - spent)
    return defect / abs(first) if first != 0 else defect
