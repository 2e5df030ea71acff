r"""A risk with penalties, :math:`L(\theta)+\lambda_1\sum_k|a_k|\|w_k\|+\lambda_2\|\theta\|^2/2`."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from gradflow.cells.arrangement import Arrangement
from gradflow.networks.abstract import AbstractNetwork
from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import TwoLayerParams, joined_rows
from gradflow.numerics.kept import Kept
from gradflow.numerics.traced import row_norms
from gradflow.registry import register
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_positive, fail

#: Arrangements with their penalties, made once a risk.
_ARRANGEMENTS: Kept[Arrangement | None] = Kept()


class Regularised(AbstractRisk):
    r""":math:`J(\theta)=L(\theta)+\lambda s\sum_k|a_k|\|w_k\|+\tfrac{\lambda_2}2\|\theta\|^2`.

    The first penalty is the total variation :math:`\lambda\|\nu\|_{TV}` of the measure that is a
    two-layer net, :math:`\nu=s\sum_ka_k\|w_k\|\,\delta_{w_k/\|w_k\|}`, s its scaling (1 by
    default); a bias counts as one more entry of :math:`w_k`. Source: `akiyama2021learnability`. The
    second is weight decay, over the trained parameters.

    Parameters
    ----------
    risk : AbstractRisk
        L, population or empirical; with ``lam`` of a `TwoLayer` net with a positively homogeneous
        activation, with ``l2`` alone of any network, or any function.
    lam : float, optional
        λ > 0.
    l2 : float, optional
        λ₂ > 0.

    Raises
    ------
    ValueError
        If neither penalty is given, one is not positive, or the risk has no measure for λ.

    Notes
    -----
    The gradient of the first penalty is :math:`\lambda s|a_k|w_k/\|w_k\|` in :math:`w_k` and
    :math:`\lambda s\,\mathrm{sgn}(a_k)\|w_k\|` in :math:`a_k`. It has a kink where :math:`w_k=0` or
    :math:`a_k=0`; the entry there is that of least norm, 0, so a neuron at zero in both layers
    rests. Along the flow a balanced neuron (|a_k| = ‖w_k‖) and one of the conic flow only decay
    exponentially and never get there. A neuron with a fixed outer weight reaches :math:`w_k=0` in
    finite time under the plain flow. In cartesian coordinates so does a dying balanced one, once
    rounding has unbalanced it: on population risks late times need ``chart="conic"``.

    Under weight decay :math:`a_k^2-\|w_k\|^2` is not conserved: it decays like
    :math:`e^{-2\lambda_2t}`.
    """

    net: AbstractNetwork | None
    risk: AbstractRisk
    lam: jax.Array | None
    l2: jax.Array | None

    def __init__(
        self, risk: AbstractRisk, lam: float | None = None, l2: float | None = None
    ) -> None:
        if not isinstance(risk, AbstractRisk):
            raise fail("risk", risk, "is not a risk", "pass gf.PopulationRisk or gf.EmpiricalRisk")
        if isinstance(risk, Regularised):
            raise fail("risk", risk.name, "is regularised already", "give lam and l2 at once")
        if lam is None and l2 is None:
            raise fail("lam", lam, "is no penalty, nor is l2", "pass lam=... or l2=...")
        if lam is not None:
            _check_measure(risk)
        self.net, self.risk = risk.net, risk
        self.lam = None if lam is None else jnp.asarray(check_positive("lam", lam))
        self.l2 = None if l2 is None else jnp.asarray(check_positive("l2", l2))

    @property
    def name(self) -> str:
        sizes = {"lam": self.lam, "l2": self.l2}
        shown = [f"{key}={float(size):g}" for key, size in sizes.items() if size is not None]
        return f"Regularised({self.risk.name}, {', '.join(shown)})"

    @property
    def arrangement(self) -> Arrangement | None:
        """That of the risk, with the penalties; made once."""
        return _ARRANGEMENTS.get(self, Regularised._arranged)

    def _arranged(self) -> Arrangement | None:
        at = self.risk.arrangement
        if at is None:
            return None
        l2 = 0.0 if self.l2 is None else float(self.l2)
        return replace(at, l2=l2, tv=0.0 if self.lam is None else float(self._size), _spans={})

    @property
    def mass(self) -> float:
        return self.risk.mass

    @property
    def has_loss_kinks(self) -> bool:
        return self.risk.has_loss_kinks

    @property
    def conserves_balance(self) -> bool:
        return self.l2 is None and self.risk.conserves_balance

    def __call__(self, params: PyTree) -> jax.Array:
        params = self.as_params(params)
        total = self.risk(params)
        if self.lam is not None:
            total = total + self._size * jnp.sum(masses(params))
        if self.l2 is not None:
            squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(self._trained(params))]
            total = total + 0.5 * self.l2 * sum(squares)
        return total

    def log(self, params: PyTree) -> jax.Array:
        return jnp.log(self(params))

    def gradient(self, params: PyTree) -> PyTree:
        params = self.as_params(params)
        return jax.tree.map(jnp.add, self.risk.gradient(params), self._penalty_gradient(params))

    @property
    def _size(self) -> jax.Array:
        """λs."""
        assert self.lam is not None
        net = cast(TwoLayer, self.net)  # (no other has this penalty)
        return self.lam if net.scaling is None else net.factor * self.lam

    def _trained(self, params: PyTree) -> PyTree:
        return params if self.net is None else self.net.freeze(params)

    def _penalty_gradient(self, params: PyTree) -> PyTree:
        total = jax.tree.map(jnp.zeros_like, params)
        if self.lam is not None:
            total = _mass_gradient(params, self._size)
        if self.l2 is not None:
            l2 = self.l2
            total = jax.tree.map(lambda slope, leaf: slope + l2 * leaf, total, params)
        return self._trained(total)


def _check_measure(risk: AbstractRisk) -> None:
    """Refuse a risk whose network is no measure on the sphere."""
    net = risk.net
    if not isinstance(net, TwoLayer):
        raise fail(
            "risk", risk.name, "is not that of a two-layer net",
            "use gf.TwoLayer(...), or l2=... alone",
        )  # fmt: skip
    if not net.activation.homogeneous:
        raise fail(
            "risk", net.activation.name,
            "is not positively homogeneous, so the net is no measure on the sphere",
            "use gf.relu, gf.leaky_relu(alpha) or gf.linear, or l2=... alone",
        )  # fmt: skip


register("regularised", Regularised)


@eqx.filter_jit
def masses(params: TwoLayerParams) -> jax.Array:
    r""":math:`|a_k|\|w_k\|` (m,), a bias counted in :math:`w_k`."""
    outer = jnp.abs(params.outer) if params.outer.ndim == 1 else row_norms(params.outer)
    return outer * row_norms(joined_rows(params))


@eqx.filter_jit
def _mass_gradient(params: TwoLayerParams, lam: jax.Array) -> TwoLayerParams:
    return jax.grad(lambda p: lam * jnp.sum(masses(p)))(params)
