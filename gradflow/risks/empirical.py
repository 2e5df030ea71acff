"""The empirical risk ``L(θ) = (1/n) Σ_i ℓ(f(x_i; θ), y_i)`` (or the sum) on finite data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from gradflow.cells.arrangement import Arrangement
from gradflow.losses import AbstractLoss, as_loss
from gradflow.networks.abstract import AbstractNetwork, check_key
from gradflow.numerics.kept import Kept
from gradflow.numerics.logs import log_sum_exp
from gradflow.registry import register
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_array, check_choice, check_integer, fail


@eqx.filter_custom_jvp
def _loss_values(loss: AbstractLoss, prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Return ℓ(f_i, y_i), differentiated through ``loss.derivative`` (the stated one at a kink)."""
    return loss(prediction, target)


@_loss_values.def_jvp
def _loss_values_jvp(
    primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]
) -> tuple[jax.Array, jax.Array]:
    loss, prediction, target = primals
    _, tangent, _ = tangents
    out = loss(prediction, target)
    if tangent is None:
        return out, jnp.zeros_like(out)
    slope = loss.derivative(prediction, target) * tangent
    return out, jnp.sum(slope, axis=-1) if loss.of_vectors else slope


def data_risk(
    net: AbstractNetwork,
    loss: AbstractLoss,
    params: PyTree,
    inputs: jax.Array,
    targets: jax.Array,
    reduction: str = "mean",
    weights: jax.Array | None = None,
    offset: jax.Array | None = None,
) -> jax.Array:
    """Return ``Σ_i ω_i ℓ(f(x_i; θ) + o_i, y_i)``, divided by Σ ω_i when ``reduction`` is "mean".

    Parameters
    ----------
    inputs, targets : (n, d) and (n,) arrays
        The data, targets (n, o) of o outputs; nothing is checked here.
    weights : (n,) array, optional
        ω; default: ones.
    offset : array shaped like the outputs, optional
        o; default: zeros.
    """
    values = _loss_values(loss, _predictions(net, params, inputs, offset), targets)
    if weights is None:
        total = jnp.sum(values)
        return total / targets.shape[0] if reduction == "mean" else total
    total = jnp.sum(weights * values)
    return total / jnp.sum(weights) if reduction == "mean" else total


def _predictions(
    net: AbstractNetwork, params: PyTree, inputs: jax.Array, offset: jax.Array | None
) -> jax.Array:
    out = net(params, inputs)
    return out if offset is None else out + offset


def data_gradient(
    net: AbstractNetwork,
    loss: AbstractLoss,
    params: PyTree,
    inputs: jax.Array,
    targets: jax.Array,
    reduction: str = "mean",
    weights: jax.Array | None = None,
    offset: jax.Array | None = None,
) -> PyTree:
    """Return the gradient in θ of `data_risk`, zero on the entries that are not trained."""
    gradient = jax.grad(
        lambda p: data_risk(net, loss, p, inputs, targets, reduction, weights, offset)
    )(params)
    return net.freeze(gradient)


#: Arrangements, made once a risk.
_ARRANGEMENTS: Kept[Arrangement | None] = Kept()


class EmpiricalRisk(AbstractRisk):
    """``L(θ) = Σ_i ω_i ℓ(f(x_i; θ) + o_i, y_i) / Σ_i ω_i``, or the sum without the division.

    Parameters
    ----------
    net : AbstractNetwork
        f.
    loss : AbstractLoss or callable
        ℓ; a margin loss takes labels −1 and +1, ``gf.logistic`` also soft labels in [0, 1],
        ``gf.cross_entropy`` classes 0, 1, … or rows of probabilities. A JAX function is ℓ(f, y)
        (`gf.loss` says more). For a net of several outputs a loss of one is summed over them.
    X : (n, d) array
        Inputs, n ≥ 1, d = ``net.dim``.
    y : (n,) array
        Targets; (n, o) of a net of o outputs.
    reduction : {"mean", "sum"}
        Whether the sum is divided by n (by Σ ω_i). The flow of the sum is that of the mean with
        time sped up by that factor.
    weights : (n,) array, optional
        Sample weights ω_i > 0; default: ones.
    offset : (n,) array, optional
        o_i, added to the outputs (shaped like them); default: zeros. The centred net f − f₀ has
        ``offset=-net(start, X)``; the scaled one α(f − f₀) of lazy training (`chizat2019lazy`) has
        α² times its squared loss for targets y/α.

    Raises
    ------
    ValueError
        Wrong shapes or dtypes, NaN, no data, labels that the loss does not take, weights that are
        not positive; a zero row of X in front of a net without bias that is 0 there whatever its
        weights.

    Notes
    -----
    The gradient uses the stated derivative of the activation and of the loss at their kinks.
    ``log`` is a log-sum-exp of the losses' own logarithms, so it keeps full relative accuracy where
    every ℓ underflows; ``log_gradient`` likewise.
    """

    net: AbstractNetwork
    loss: AbstractLoss
    X: jax.Array
    y: jax.Array
    weights: jax.Array | None
    offset: jax.Array | None
    reduction: Literal["mean", "sum"] = eqx.field(static=True)

    def __init__(
        self,
        net: AbstractNetwork,
        loss: AbstractLoss | Callable[[jax.Array, jax.Array], jax.Array],
        X: ArrayLike,
        y: ArrayLike,
        reduction: str = "mean",
        weights: ArrayLike | None = None,
        offset: ArrayLike | None = None,
    ) -> None:
        if not isinstance(net, AbstractNetwork):
            raise fail("net", net, "is not a network", "pass gf.TwoLayer(...) or another network")
        self.net, inputs = net, _inputs(net, X)
        self.loss, targets = as_loss("loss", loss).taking("y", y, net.outputs)
        if targets.shape[0] != inputs.shape[0]:
            problem = f"has length {targets.shape[0]}, but X has {inputs.shape[0]} rows"
            raise fail("y", targets, problem, "pass one target per row of X")
        self.X, self.y = jnp.asarray(inputs), jnp.asarray(targets)
        self.weights = None if weights is None else jnp.asarray(_weights(weights, len(inputs)))
        self.offset = None
        if offset is not None:
            self.offset = jnp.asarray(check_array("offset", offset, targets.shape))
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))  # type: ignore[assignment]

    @property
    def n(self) -> int:
        """The number of data."""
        return self.y.shape[0]

    @property
    def mass(self) -> float:
        if self.reduction == "mean":
            return 1.0
        return float(self.n if self.weights is None else jnp.sum(self.weights))

    @property
    def floor(self) -> float | None:
        return 0.0 if self.loss.attains_zero else None

    @property
    def has_margin_limits(self) -> bool:
        # (a net with an offset is not homogeneous)
        return self.loss.vanishes and self.net.degree is not None and self.offset is None

    @property
    def has_loss_kinks(self) -> bool:
        return self.loss.kinked

    @property
    def name(self) -> str:
        return f"EmpiricalRisk({self.net.name}, {self.loss.name}, n={self.n}, {self.reduction})"

    def __call__(self, params: PyTree) -> jax.Array:
        return _value(self, self.net.as_params(params))

    def log(self, params: PyTree) -> jax.Array:
        return _log_value(self, self.net.as_params(params))

    def gradient(self, params: PyTree) -> PyTree:
        return _gradient(self, self.net.as_params(params))

    def log_gradient(self, params: PyTree) -> PyTree:
        """Return ``∇ ln L(θ) = ∇L/L``, which stays finite where L and ∇L underflow.

        Where L(θ) = 0 exactly (hinge or squared loss fitted) the entries are NaN.
        """
        return _log_gradient(self, self.net.as_params(params))

    @property
    def arrangement(self) -> Arrangement | None:
        """The surfaces of one layer of piecewise linear neurons on the data; made once.

        A last layer with squared loss is a linear predictor on its features. None for other nets.
        """
        if isinstance(self.X, Tracer):
            return None
        return _ARRANGEMENTS.get(self, EmpiricalRisk._arranged)

    def _arranged(self) -> Arrangement | None:
        layer = self.net.layer(np.asarray(self.X))
        if layer is None or (layer.of_features and self.has_margin_limits):
            return None
        weights = np.ones(self.n) if self.weights is None else np.asarray(self.weights)
        total = float(np.sum(weights)) if self.reduction == "mean" else 1.0
        return Arrangement.of(
            layer, np.asarray(self.y), np.log(weights) - math.log(total), self.loss,
            None if self.offset is None else np.asarray(self.offset),
        )  # fmt: skip

    def predictions(self, params: PyTree) -> jax.Array:
        """Return ``f(x_i; θ) + o_i`` (n,), or (n, o) of o outputs."""
        return _predictions(self.net, self.net.as_params(params), self.X, self.offset)

    def margins(self, params: PyTree) -> jax.Array:
        """Return ``q_i = y_i (f(x_i; θ) + o_i)`` (n,), for margin losses.

        Raises
        ------
        ValueError
            If the loss is not a margin loss.
        """
        if not self.loss.margin:
            raise fail(
                "loss", self.loss.name, "has no margins", "use a margin loss, as gf.logistic"
            )
        return self.y * self.predictions(params)

    def least_margin(self, params: PyTree) -> jax.Array | None:
        return jnp.min(self.margins(params)) if self.loss.vanishes else None

    def sample(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        """Draw n independent data with replacement: ``(X, y)``.

        Datum i has the probability ω_i/Σ ω (without weights: 1/n), so that the mean loss of a draw
        has the mean risk as its expectation.

        Raises
        ------
        ValueError
            If the risk has an offset, which a draw of (X, y) would lose.
        """
        if self.offset is not None:
            fix = "descend with sampling='reshuffled', or on all data at once"
            raise fail("risk", self.name, "has an offset, which a draw of data loses", fix)
        key, shape = check_key("key", key), (check_integer("n", n, minimum=1),)
        if self.weights is None:
            index = jax.random.randint(key, shape, 0, self.n)
        else:
            index = jax.random.categorical(key, jnp.log(self.weights), shape=shape)
        return self.X[index], self.y[index]


register("empirical", EmpiricalRisk)


def _inputs(net: AbstractNetwork, X: ArrayLike) -> np.ndarray:
    inputs = check_array("X", X, (None, net.dim))
    if inputs.shape[0] == 0:
        raise fail("X", inputs, "holds no data", "pass at least one row")
    empty = ~np.any(inputs, axis=1)
    if np.any(empty) and net.vanishes_at_zero:
        problem = f"row {int(np.argmax(empty))} is zero, where the net is 0 for all its weights"
        raise fail("X", inputs, problem, "drop the row, or use TwoLayer(..., bias=True)")
    return inputs


def _weights(value: PyTree, n: int) -> np.ndarray:
    weights = check_array("weights", value, (n,))
    if not np.all(weights > 0):
        raise fail("weights", weights, "holds a weight <= 0", "drop data of weight zero")
    return weights


# Compiled once per structure (net, loss, shapes), not once per risk object.
@eqx.filter_jit
def _value(risk: EmpiricalRisk, params: PyTree) -> jax.Array:
    return data_risk(risk.net, risk.loss, params, *_data(risk))


@eqx.filter_jit
def _gradient(risk: EmpiricalRisk, params: PyTree) -> PyTree:
    return data_gradient(risk.net, risk.loss, params, *_data(risk))


def _data(
    risk: EmpiricalRisk,
) -> tuple[jax.Array, jax.Array, str, jax.Array | None, jax.Array | None]:
    return risk.X, risk.y, risk.reduction, risk.weights, risk.offset


def _log_of(risk: EmpiricalRisk, params: PyTree) -> jax.Array:
    logs = risk.loss.log(_predictions(risk.net, params, risk.X, risk.offset), risk.y)
    size: float | jax.Array = risk.n
    if risk.weights is not None:
        logs = logs + jnp.log(risk.weights)
        size = jnp.sum(risk.weights)
    total = log_sum_exp(logs)
    return total - jnp.log(size) if risk.reduction == "mean" else total


@eqx.filter_jit
def _log_value(risk: EmpiricalRisk, params: PyTree) -> jax.Array:
    return _log_of(risk, params)


@eqx.filter_jit
def _log_gradient(risk: EmpiricalRisk, params: PyTree) -> PyTree:
    return risk.net.freeze(jax.grad(lambda p: _log_of(risk, p))(params))
