"""The empirical risk ``L(θ) = (1/n) Σ_i ℓ(f(x_i; θ), y_i)`` (or the sum) on finite data."""

from __future__ import annotations

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gradflow.models.abstract_network import AbstractNetwork, check_key
from gradflow.models.losses import AbstractLoss, AbstractMarginLoss
from gradflow.risks.base import AbstractRisk
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
) -> jax.Array:
    """Return ``Σ_i ℓ(f(x_i; θ), y_i)``, divided by n when ``reduction`` is "mean".

    Parameters
    ----------
    inputs, targets : (n, d) and (n,) arrays
        The data; nothing is checked here.
    """
    total = jnp.sum(_loss_values(loss, net(params, inputs), targets))
    return total / targets.shape[0] if reduction == "mean" else total


def data_gradient(
    net: AbstractNetwork,
    loss: AbstractLoss,
    params: Any,
    inputs: jax.Array,
    targets: jax.Array,
    reduction: str = "mean",
) -> Any:
    """Return the gradient in θ of `data_risk`, zero on the entries that are not trained."""
    gradient = jax.grad(lambda p: data_risk(net, loss, p, inputs, targets, reduction))(params)
    return net.freeze(gradient)


class EmpiricalRisk(AbstractRisk):
    """``L(θ) = (1/n) Σ_i ℓ(f(x_i; θ), y_i)``, or the sum without 1/n.

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
        Whether the sum is divided by n. The flow of the sum is that of the mean with time sped up
        by n.

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
    reduction: Literal["mean", "sum"] = eqx.field(static=True)

    def __init__(
        self,
        net: AbstractNetwork,
        loss: AbstractLoss,
        X: Any,
        y: Any,
        reduction: str = "mean",
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
        self.net, self.loss = net, loss
        self.X, self.y = jnp.asarray(inputs), jnp.asarray(targets)
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))  # type: ignore[assignment]

    @property
    def n(self) -> int:
        """The number of data."""
        return self.y.shape[0]

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
        """Draw n independent data, uniformly with replacement: ``(X, y)``."""
        index = jax.random.randint(
            check_key("key", key), (check_integer("n", n, minimum=1),), 0, self.n
        )
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
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> EmpiricalRisk:
        """Rebuild the risk from what ``describe()`` returned."""
        # Imported here: the two readers are needed on loading only.
        from gradflow.models.losses import loss_from_description
        from gradflow.models.networks import network_from_description

        return cls(
            network_from_description(description["net"]),
            loss_from_description(description["loss"]),
            np.asarray(description["X"], dtype=np.float64),
            np.asarray(description["y"], dtype=np.float64),
            description["reduction"],
        )


# Compiled once per structure (net, loss, shapes), not once per risk object.
@eqx.filter_jit
def _value(risk: EmpiricalRisk, params: Any) -> jax.Array:
    return data_risk(risk.net, risk.loss, params, risk.X, risk.y, risk.reduction)


@eqx.filter_jit
def _gradient(risk: EmpiricalRisk, params: Any) -> Any:
    return data_gradient(risk.net, risk.loss, params, risk.X, risk.y, risk.reduction)


def _log_of(risk: EmpiricalRisk, params: Any) -> jax.Array:
    logs = risk.loss.log(risk.net(params, risk.X), risk.y)
    # The largest term is taken out, so nothing under- or overflows; with every loss zero: −inf.
    top = jax.lax.stop_gradient(jnp.max(logs))
    shift = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.log(jnp.sum(jnp.exp(logs - shift))) + shift
    return total - math.log(risk.n) if risk.reduction == "mean" else total


@eqx.filter_jit
def _log_value(risk: EmpiricalRisk, params: Any) -> jax.Array:
    return _log_of(risk, params)


@eqx.filter_jit
def _log_gradient(risk: EmpiricalRisk, params: Any) -> Any:
    return risk.net.freeze(jax.grad(lambda p: _log_of(risk, p))(params))
