"""The empirical risk ``L(θ) = (1/n) Σ_i ℓ(f(x_i; θ), y_i)`` (or the sum) on finite data."""

from __future__ import annotations

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradflow.losses import AbstractLoss, AbstractMarginLoss, Hinge
from gradflow.networks.abstract import AbstractNetwork, check_key
from gradflow.networks.activations import LeakyReLU
from gradflow.networks.deep_linear import DeepLinear
from gradflow.networks.networks import LinearPredictor, TwoLayer
from gradflow.networks.random_features import RandomFeatures
from gradflow.risks.base import AbstractRisk
from gradflow.risks.kinked import DataKinks, surfaces_of
from gradflow.validation import check_array, check_choice, check_integer, fail


@eqx.filter_custom_jvp
def _loss_values(loss: AbstractLoss, prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Return ℓ(f_i, y_i), differentiated through ``loss.derivative`` (the stated one at a kink)."""
    return loss(prediction, target)


@_loss_values.def_jvp
def _loss_values_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    loss, prediction, target = primals
    _, tangent, _ = tangents
    out = loss(prediction, target)
    slope = (
        jnp.zeros_like(out) if tangent is None else loss.derivative(prediction, target) * tangent
    )
    return out, slope


def data_risk(
    net: AbstractNetwork,
    loss: AbstractLoss,
    params: Any,
    inputs: jax.Array,
    targets: jax.Array,
    reduction: str = "mean",
    weights: jax.Array | None = None,
) -> jax.Array:
    """Return ``Σ_i ω_i ℓ(f(x_i; θ), y_i)``, divided by Σ ω_i when ``reduction`` is "mean".

    Parameters
    ----------
    inputs, targets : (n, d) and (n,) arrays
        The data; nothing is checked here.
    weights : (n,) array, optional
        ω; default: ones.
    """
    values = _loss_values(loss, net(params, inputs), targets)
    if weights is None:
        total = jnp.sum(values)
        return total / targets.shape[0] if reduction == "mean" else total
    total = jnp.sum(weights * values)
    return total / jnp.sum(weights) if reduction == "mean" else total


def data_gradient(
    net: AbstractNetwork,
    loss: AbstractLoss,
    params: Any,
    inputs: jax.Array,
    targets: jax.Array,
    reduction: str = "mean",
    weights: jax.Array | None = None,
) -> Any:
    """Return the gradient in θ of `data_risk`, zero on the entries that are not trained."""
    gradient = jax.grad(lambda p: data_risk(net, loss, p, inputs, targets, reduction, weights))(
        params
    )
    return net.freeze(gradient)


class EmpiricalRisk(AbstractRisk):
    """``L(θ) = Σ_i ω_i ℓ(f(x_i; θ), y_i) / Σ_i ω_i``, or the sum without the division.

    Parameters
    ----------
    net : AbstractNetwork
        f.
    loss : AbstractLoss
        ℓ; a margin loss takes labels −1 and +1.
    X : (n, d) array
        Inputs, n ≥ 1, d = ``net.dim``.
    y : (n,) array
        Targets.
    reduction : {"mean", "sum"}
        Whether the sum is divided by n (by Σ ω_i). The flow of the sum is that of the mean with
        time sped up by that factor.
    weights : (n,) array, optional
        Sample weights ω_i > 0; default: ones.

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
    reduction: Literal["mean", "sum"] = eqx.field(static=True)

    def __init__(
        self,
        net: AbstractNetwork,
        loss: AbstractLoss,
        X: Any,
        y: Any,
        reduction: str = "mean",
        weights: Any = None,
    ) -> None:
        if not isinstance(net, AbstractNetwork):
            raise fail("net", net, "is not a network", "pass gf.TwoLayer(...) or another network")
        if not isinstance(loss, AbstractLoss):
            raise fail("loss", loss, "is not a loss", "pass gf.logistic or another loss")
        inputs = check_array("X", X, (None, net.dim))
        if inputs.shape[0] == 0:
            raise fail("X", inputs, "holds no data", "pass at least one row")
        targets = loss.check_targets("y", y)
        if targets.shape[0] != inputs.shape[0]:
            problem = f"has length {targets.shape[0]}, but X has {inputs.shape[0]} rows"
            raise fail("y", targets, problem, "pass one target per row of X")
        empty = ~np.any(inputs, axis=1)
        if np.any(empty) and _vanishes_at_zero(net):
            problem = f"row {int(np.argmax(empty))} is zero, where the net is 0 for all its weights"
            raise fail("X", inputs, problem, "drop the row, or use TwoLayer(..., bias=True)")
        if weights is not None:
            weights = check_array("weights", weights, (inputs.shape[0],))
            if not np.all(weights > 0):
                raise fail("weights", weights, "holds a weight <= 0", "drop data of weight zero")
        self.net, self.loss = net, loss
        self.weights = None if weights is None else jnp.asarray(weights)
        self.X, self.y = jnp.asarray(inputs), jnp.asarray(targets)
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))  # type: ignore[assignment]

    @property
    def n(self) -> int:
        """The number of data."""
        return self.y.shape[0]

    @property
    def floor(self) -> float | None:
        return 0.0 if self.loss.attained else None

    @property
    def has_margin_limits(self) -> bool:
        return not self.loss.attained and self.net.degree is not None

    @property
    def has_loss_kinks(self) -> bool:
        return not self.loss.smooth

    @property
    def name(self) -> str:
        return f"EmpiricalRisk({self.net.name}, {self.loss.name}, n={self.n}, {self.reduction})"

    def __call__(self, params: Any) -> jax.Array:
        return _value(self, self.net.as_params(params))

    def log(self, params: Any) -> jax.Array:
        return _log_value(self, self.net.as_params(params))

    def gradient(self, params: Any) -> Any:
        return _gradient(self, self.net.as_params(params))

    def log_gradient(self, params: Any) -> Any:
        """Return ``∇ ln L(θ) = ∇L/L``, which stays finite where L and ∇L underflow.

        Where L(θ) = 0 exactly (hinge or squared loss fitted) the entries are NaN.
        """
        return _log_gradient(self, self.net.as_params(params))

    def kinks(self) -> DataKinks | None:
        """Return the kinks of a two-layer net with a (leaky) ReLU (linear: without kinks).

        A last layer with squared loss is a linear predictor on its features. None for other nets
        and for the hinge loss, which has kinks of its own.
        """
        net = self.net
        if isinstance(self.loss, Hinge) or isinstance(self.X, Tracer):
            return None
        X = np.asarray(self.X)
        if isinstance(net, LinearPredictor):
            slope, layout, trained = 1.0, "linear", False
        elif isinstance(net, RandomFeatures) and not isinstance(self.loss, AbstractMarginLoss):
            X, slope, layout, trained = np.asarray(net.features(X)), 1.0, "linear", False
        elif isinstance(net, TwoLayer) and isinstance(net.activation, LeakyReLU):
            slope, trained = net.activation.slope, net.outer == "trained"
            layout = "bias" if net.bias else "plain"
            if net.bias:
                X = np.concatenate([X, np.ones((X.shape[0], 1))], axis=1)
        else:
            return None
        normals, surface, scale = surfaces_of(X)
        weights = np.ones(self.n) if self.weights is None else np.asarray(self.weights)
        total = float(np.sum(weights)) if self.reduction == "mean" else 1.0
        return DataKinks(
            normals=jnp.asarray(normals), surface=jnp.asarray(surface), scale=jnp.asarray(scale),
            log_weights=jnp.asarray(np.log(weights) - math.log(total)), y=self.y, loss=self.loss,
            resolution=jnp.asarray(64 * np.finfo(float).eps),
            slope=slope, outer_trained=trained, plain=normals.shape[0] == self.n, layout=layout,
        )  # fmt: skip

    def margins(self, params: Any) -> jax.Array:
        """Return ``q_i = y_i f(x_i; θ)`` (n,), for margin losses.

        Raises
        ------
        ValueError
            If the loss is not a margin loss.
        """
        if not isinstance(self.loss, AbstractMarginLoss):
            raise fail(
                "loss", self.loss.name, "has no margins", "use a margin loss, as gf.logistic"
            )
        return self.y * self.net(self.net.as_params(params), self.X)

    def sample(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        """Draw n independent data with replacement: ``(X, y)``.

        Datum i has the probability ω_i/Σ ω (without weights: 1/n), so that the mean loss of a draw
        has the mean risk as its expectation.
        """
        key, shape = check_key("key", key), (check_integer("n", n, minimum=1),)
        if self.weights is None:
            index = jax.random.randint(key, shape, 0, self.n)
        else:
            index = jax.random.categorical(key, jnp.log(self.weights), shape=shape)
        return self.X[index], self.y[index]

    def describe(self) -> dict[str, Any]:
        """Return a JSON-able description, data included, that ``from_description`` reads."""
        return {
            "risk": "empirical",
            "net": self.net.describe(),
            "loss": self.loss.describe(),
            "X": np.asarray(self.X).tolist(),
            "y": np.asarray(self.y).tolist(),
            "reduction": self.reduction,
            "weights": None if self.weights is None else np.asarray(self.weights).tolist(),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> EmpiricalRisk:
        """Rebuild the risk from what ``describe()`` returned."""
        # Imported here: the two readers are needed on loading only.
        from gradflow.losses import loss_from_description
        from gradflow.networks.networks import network_from_description

        return cls(
            network_from_description(description["net"]),
            loss_from_description(description["loss"]),
            np.asarray(description["X"], dtype=np.float64),
            np.asarray(description["y"], dtype=np.float64),
            description["reduction"],
            None if description.get("weights") is None
            else np.asarray(description["weights"], dtype=np.float64),
        )  # fmt: skip


def _vanishes_at_zero(net: AbstractNetwork) -> bool:
    if isinstance(net, TwoLayer):
        return net.activation.homogeneous and not net.bias
    if isinstance(net, RandomFeatures):
        return net.activation.homogeneous
    return isinstance(net, (LinearPredictor, DeepLinear))


# Compiled once per structure (net, loss, shapes), not once per risk object.
@eqx.filter_jit
def _value(risk: EmpiricalRisk, params: Any) -> jax.Array:
    return data_risk(risk.net, risk.loss, params, risk.X, risk.y, risk.reduction, risk.weights)


@eqx.filter_jit
def _gradient(risk: EmpiricalRisk, params: Any) -> Any:
    return data_gradient(risk.net, risk.loss, params, risk.X, risk.y, risk.reduction, risk.weights)


def _log_of(risk: EmpiricalRisk, params: Any) -> jax.Array:
    logs = risk.loss.log(risk.net(params, risk.X), risk.y)
    size: Any = risk.n
    if risk.weights is not None:
        logs = logs + jnp.log(risk.weights)
        size = jnp.sum(risk.weights)
    # The largest term is taken out, so nothing under- or overflows; with every loss zero: −inf.
    top = jax.lax.stop_gradient(jnp.max(logs))
    shift = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.log(jnp.sum(jnp.exp(logs - shift))) + shift
    return total - jnp.log(size) if risk.reduction == "mean" else total


@eqx.filter_jit
def _log_value(risk: EmpiricalRisk, params: Any) -> jax.Array:
    return _log_of(risk, params)


@eqx.filter_jit
def _log_gradient(risk: EmpiricalRisk, params: Any) -> Any:
    return risk.net.freeze(jax.grad(lambda p: _log_of(risk, p))(params))
