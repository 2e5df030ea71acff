r"""What observables read of a path: neurons, outer weights, data; norms that cannot underflow."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.numerics.vectors import lengths
from gradflow.paths.path import AbstractPath
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.validation import fail


def leaf_of(path: AbstractPath, name: str) -> Any:
    """The array of that name among the parameters; None where there is none."""
    return getattr(path.params, name, None)


def neuron_vectors(path: AbstractPath, *, bias: bool = False) -> np.ndarray:
    """Vectors that play the part of neurons, shape (time, K, d).

    The inner weights of a two-layer net; the weight of a linear predictor and the end-to-end vector
    of a deep linear net count as one neuron. With ``bias`` the bias of a net that has one is a last
    entry, shape (time, K, d + 1).
    """
    inner, weight, layers = (leaf_of(path, n) for n in ("inner", "weight", "layers"))
    if inner is not None:
        inner, shift = np.asarray(inner), leaf_of(path, "bias")
        if not bias or shift is None:
            return inner
        return np.concatenate([inner, np.asarray(shift)[..., None]], axis=-1)
    if weight is not None:
        return np.asarray(weight)[:, None, :]
    if layers is not None:
        product = np.asarray(layers[0])
        for layer in layers[1:]:
            product = np.asarray(layer) @ product
        return product
    raise fail(
        "params", type(path.params).__name__, "parameters of this risk have no neurons",
        "use a risk built on LinearPredictor, DeepLinear or TwoLayer",
    )  # fmt: skip


def outer_weights(path: AbstractPath) -> np.ndarray:
    """Outer weights a_k, shape (time, K) (or (1, 1): linear nets have a = 1)."""
    outer = leaf_of(path, "outer")
    if outer is not None and np.ndim(outer) == 3:
        raise fail(
            "outer", np.asarray(outer), "holds vectors a_k, which have no sign: the net has "
            "several outputs", "read 'neuron_masses' or 'neuron_directions'",
        )  # fmt: skip
    return np.ones((1, 1)) if outer is None else np.asarray(outer)


def outer_sizes(path: AbstractPath) -> np.ndarray:
    """|a_k|, shape (time, K) (or (1, 1): linear nets have a = 1)."""
    outer = leaf_of(path, "outer")
    if outer is not None and np.ndim(outer) == 3:
        return lengths(np.asarray(outer))
    return np.abs(outer_weights(path))


def outer_signs(path: AbstractPath) -> np.ndarray:
    """Signs of the outer weights; a_k = 0 counts as +1."""
    return np.where(outer_weights(path) >= 0, 1.0, -1.0)


def teacher_sides(path: AbstractPath, name: str) -> np.ndarray:
    """Own target of each neuron: sign(a_k) v, shape (time or 1, K, d)."""
    teacher = getattr(path.risk, "teacher", None)
    if teacher is None or not hasattr(teacher, "direction"):
        raise fail(
            "name", name, "needs a teacher direction and this risk has none",
            "use a PopulationRisk with a LinearTeacher, or read 'angles_to' with directions of "
            "your own",
        )  # fmt: skip
    return outer_signs(path)[..., None] * np.asarray(teacher.direction)


def bare_risk(path: AbstractPath) -> Any:
    """The path's risk without the penalties added to it."""
    return getattr(path.risk, "risk", path.risk)


def has_data(path: AbstractPath) -> bool:
    """Whether the risk is one of finite data."""
    return getattr(bare_risk(path), "X", None) is not None


def inputs_of(path: AbstractPath, name: str, *, bias: bool = False) -> np.ndarray:
    """Data (n, d); with ``bias`` a one is appended where the net has a bias."""
    X = getattr(bare_risk(path), "X", None)
    if X is None:
        raise fail(
            "name", name, "needs finite data and this risk has none", "use an EmpiricalRisk"
        )  # fmt: skip
    X = np.asarray(X)
    if bias and leaf_of(path, "bias") is not None:
        X = np.concatenate([X, np.ones((X.shape[0], 1))], axis=1)
    return X


def risk_on(
    path: AbstractPath, name: str, X: ArrayLike | None, y: ArrayLike | None
) -> EmpiricalRisk:
    """The mean loss of the path's net on other data."""
    if X is None or y is None:
        raise fail("X" if X is None else "y", None, "is missing", "pass X and y together")
    risk = bare_risk(path)
    loss = getattr(risk, "loss", None)
    if risk.net is None or loss is None:
        raise fail(
            "name", name, f"on other data needs a net and a loss, and {risk.name} has none",
            "use an EmpiricalRisk or a PopulationRisk, or observe a function of (risk, params)",
        )  # fmt: skip
    return EmpiricalRisk(risk.net, loss, X, y)


def log_t_since(path: AbstractPath, holds: np.ndarray) -> np.ndarray:
    """ln t of the first recorded time from which something holds to the end; inf where it does not.

    When neurons have aligned: ``log_t_since(path, path.observe("cluster_spread") < 0.05)``; when
    each died: ``log_t_since(path, path.observe("dead"))``.

    Parameters
    ----------
    path : path
    holds : (time, ...) array of bools

    Returns
    -------
    array of shape (...)
    """
    holds = np.asarray(holds, bool)
    if holds.shape[:1] != path.log_t.shape:
        raise fail(
            "holds", holds, f"has shape {holds.shape}", f"pass {len(path.log_t)} times first"
        )
    kept = np.logical_and.accumulate(holds[::-1], axis=0)[::-1]
    log_t = path.log_t.reshape(-1, *(1,) * (holds.ndim - 1))
    return np.min(np.where(kept, log_t, np.inf), axis=0, initial=np.inf)


def labelled_data(path: AbstractPath, name: str) -> Any:
    """The path's risk without penalties, if its data have labels -1 and +1."""
    risk = bare_risk(path)
    if getattr(risk, "X", None) is None or getattr(risk, "y", None) is None:
        raise fail(
            "name", name, "needs finite data and this risk has none",
            "use an EmpiricalRisk; on population risks the margin has no minimum",
        )  # fmt: skip
    if risk.net.outputs > 1:
        raise fail(
            "name", name, f"needs a net of one output, and this one has {risk.net.outputs}",
            "read 'accuracy' or 'loss' instead",
        )  # fmt: skip
    if not np.all(np.abs(np.asarray(risk.y)) == 1):
        raise fail(
            "name", name, "needs labels -1 and +1 and this risk has other targets",
            "read 'loss' instead",
        )  # fmt: skip
    return risk


def tree_norm(tree: PyTree) -> np.ndarray:
    """Euclidean norm of a whole pytree at every time, shape (time,)."""
    parts = [np.asarray(leaf).reshape(np.shape(leaf)[0], -1) for leaf in jax.tree.leaves(tree)]
    return lengths(np.concatenate(parts, axis=1))
