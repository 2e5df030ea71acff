r"""Observables of a net on its data: margins, activations, how near to a KKT point."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.losses import labels_fix
from gradflow.networks.abstract import AbstractNetwork
from gradflow.numerics.rows import map_rows
from gradflow.numerics.vectors import lengths, scaled
from gradflow.observables.paths import (
    bare_risk,
    inputs_of,
    labelled_data,
    neuron_vectors,
    outer_sizes,
    risk_on,
)
from gradflow.observables.registry import observable
from gradflow.paths.path import AbstractPath
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.validation import check_choice, check_nonnegative, fail


def _margins(risk: EmpiricalRisk, params: PyTree) -> Array:
    return risk.y * risk.predictions(params)


def _accuracy(risk: EmpiricalRisk, params: PyTree) -> Array:
    return jnp.mean(jnp.where(_margins(risk, params) > 0, 1.0, 0.0))


def _class_accuracy(risk: EmpiricalRisk, params: PyTree) -> Array:
    found, wanted = risk.predictions(params), risk.y
    hit = jnp.argmax(found, axis=1) == jnp.argmax(wanted, axis=1)
    return jnp.mean(jnp.where(hit, 1.0, 0.0))


def _margin(risk: EmpiricalRisk, params: PyTree) -> Array:
    return jnp.min(_margins(risk, params))


def _normalised_margin(risk: EmpiricalRisk, params: PyTree) -> Array:
    # f is evaluated on the unit sphere: f and |theta|^D of weights of 1e-200 both underflow.
    trained = risk.net.freeze(jax.tree.map(jnp.ones_like, params))
    kept = risk.net.freeze(params)
    top = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(kept)]))
    squares = [jnp.sum(jnp.square(leaf / top)) for leaf in jax.tree.leaves(kept)]
    size = jnp.sqrt(sum(squares))

    def scaled(leaf: Array, moves: Array) -> Array:
        return jnp.where(moves != 0, leaf / top / size, leaf)

    return _margin(risk, jax.tree.map(scaled, params, trained))


@observable("margin", long_name="smallest margin over the data")
def margin(path: AbstractPath) -> np.ndarray:
    """min_i y_i f(x_i; theta(t)) (finite data with labels -1 and +1 only)."""
    return map_rows(_margin, labelled_data(path, "margin"), path.params)


@observable("accuracy", long_name="share of data of positive margin")
def accuracy(
    path: AbstractPath, X: ArrayLike | None = None, y: ArrayLike | None = None
) -> np.ndarray:
    """Share of the data with y_i f(x_i; theta(t)) > 0 (labels -1 and +1 only).

    Of several outputs: whose largest output is that of the largest target (class).

    Parameters
    ----------
    X, y : (n, d) and (n,) arrays
        Other data; default: those of the risk.
    """
    own = X is None and y is None
    if path.risk.net is not None and path.risk.net.outputs > 1:
        risk = bare_risk(path) if own else risk_on(path, "accuracy", X, y)
        return map_rows(_class_accuracy, risk, path.params)
    risk = labelled_data(path, "accuracy") if own else risk_on(path, "accuracy", X, y)
    labels = np.asarray(risk.y)
    if not np.all(np.abs(labels) == 1):
        raise fail("y", labels, "holds other labels than -1 and +1", labels_fix("y", labels))
    return map_rows(_accuracy, risk, path.params)


@observable("margins", long_name="margin of each datum", dims=("time", "datum"))
def margins(path: AbstractPath) -> np.ndarray:
    """q_i = y_i f(x_i; theta(t)), shape (time, n) (labels -1 and +1 only)."""
    return map_rows(_margins, labelled_data(path, "margins"), path.params)


@observable(
    "normalised_margin", long_name="smallest margin over |theta|^degree",
    source="lyu2020homogeneous",
)  # fmt: skip
def normalised_margin(path: AbstractPath) -> np.ndarray:
    """min_i y_i f(x_i; theta) / |theta|^D, D the net's degree in its trained weights theta."""
    risk = labelled_data(path, "normalised_margin")
    if risk.net.degree is None or risk.offset is not None:
        raise fail(
            "name", "normalised_margin", "the net is not homogeneous, or has an offset",
            "read 'margin' instead, or use a homogeneous activation without offset=",
        )  # fmt: skip
    return map_rows(_normalised_margin, risk, path.params)


@observable(
    "activation_pattern", long_name="side of each datum's surface",
    dims=("time", "neuron", "datum"),
)  # fmt: skip
def activation_pattern(path: AbstractPath, tolerance: float = 1e-12) -> np.ndarray:
    """Sign of h_ki = w_k.x_i [+ b_k], shape (time, K, n), +1, -1 or 0 (8-bit integers).

    Parameters
    ----------
    tolerance : float
        0 stands where |h_ki| <= tolerance |w_k| |x_i| (a bias counted in both): a neuron that
        slides on the surface of a datum is on it to rounding only. With 0.0 only an exact zero
        reads as 0.
    """
    tolerance = check_nonnegative("tolerance", tolerance)
    W, X = _neurons_and_data(path, "activation_pattern")
    sizes = tolerance * lengths(X)
    out = np.empty((W.shape[0], W.shape[1], X.shape[0]), np.int8)
    # One time after the other: a float array of this shape may not fit.
    for row, w in enumerate(W):
        w = scaled(w)
        h = w @ X.T
        out[row] = np.where(np.abs(h) <= lengths(w)[:, None] * sizes, 0.0, np.sign(h))
    return out


def _neurons_and_data(path: AbstractPath, name: str) -> tuple[np.ndarray, np.ndarray]:
    W, X = neuron_vectors(path, bias=True), inputs_of(path, name, bias=True)
    if W.shape[-1] != X.shape[-1]:
        problem = f"{path.risk.net.name} has no trained neurons that meet the data"
        raise fail("name", name, problem, "read the pattern of net.features(X) > 0")
    return W, X


@observable("alive", long_name="neurons that have mass and see data", dims=("time", "neuron"))
def alive(path: AbstractPath, tolerance: float = 1e-12) -> np.ndarray:
    """Whether a_k and w_k are not 0 and phi'(h_ki) is not 0 for some datum i, shape (time, K).

    A neuron that is not alive is dead: no datum moves it. A ReLU neuron is alive while some
    h_ki = w_k.x_i [+ b_k] > 0, a leaky one while it has mass.

    Parameters
    ----------
    tolerance : float
        As in ``activation_pattern``: |h_ki| <= tolerance |w_k| |x_i| counts as 0.
    """
    tolerance = check_nonnegative("tolerance", tolerance)
    W, X = _neurons_and_data(path, "alive")
    out = np.empty(W.shape[:2], bool)
    sizes = tolerance * lengths(X)
    for row, w in enumerate(W):
        h = w @ X.T
        h = np.where(np.abs(h) <= lengths(w)[:, None] * sizes, 0.0, h)
        out[row] = np.any(_slopes(path.risk.net, h) != 0, axis=1) & np.any(w != 0, axis=1)
    return out & (outer_sizes(path) != 0)


def _slopes(net: AbstractNetwork, h: np.ndarray) -> np.ndarray:
    """phi'(h) of a net's neurons; linear nets have 1."""
    activation = getattr(net, "activation", None)
    return (
        np.ones(h.shape)
        if activation is None
        else np.asarray(activation.derivative(jnp.asarray(h)))
    )


@observable("dead", long_name="neurons that no datum moves", dims=("time", "neuron"))
def dead(path: AbstractPath, tolerance: float = 1e-12) -> np.ndarray:
    """Whether a neuron has no mass or sees no datum, shape (time, K): not ``alive``."""
    return ~alive(path, tolerance)


@observable("active_data", long_name="number of data a neuron sees", dims=("time", "neuron"))
def active_data(path: AbstractPath, tolerance: float = 1e-12) -> np.ndarray:
    """Number of data i with h_ki = w_k.x_i [+ b_k] > 0, shape (time, K); 0 for a dead ReLU neuron.

    Parameters
    ----------
    tolerance : float
        As in ``activation_pattern``: a datum on its surface is not counted.
    """
    return np.sum(activation_pattern(path, tolerance) > 0, axis=2)


@observable("kkt_residual", long_name="KKT residual", source="lyu2020homogeneous")
def kkt_residual(path: AbstractPath, part: str = "total") -> np.ndarray:
    r"""Distance from the KKT conditions of :math:`\min\frac12|\theta|^2` s.t. :math:`q_i\ge 1`.

    A pure number: parameters are scaled to unit norm and the multipliers are the best ones; see
    :class:`gradflow.certificates.KKTResidual` for the formula. Infinite where the data are not
    separated.

    Parameters
    ----------
    part : {"total", "stationarity", "complementarity", "feasibility"}
        One of the three conditions, or the largest of them.
    """
    check_choice("part", part, ("total", "stationarity", "complementarity", "feasibility"))
    risk = labelled_data(path, "kkt_residual")
    # Imported here: certificates are needed for this reading only.
    from gradflow.certificates import kkt_residual as residual

    rows = jax.tree.leaves(path.params)[0].shape[0]
    out = np.empty(rows)
    for t in range(rows):
        point = jax.tree.map(lambda leaf, t=t: jnp.asarray(leaf[t]), path.params)
        out[t] = getattr(residual(risk, point), part)
    return out
