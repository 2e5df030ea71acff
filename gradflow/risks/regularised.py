r"""A two-layer risk with a total-variation penalty, :math:`L(\theta)+\lambda\sum_k|a_k|\|w_k\|`."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from gradflow.networks.networks import TwoLayer
from gradflow.networks.parameters import TwoLayerParams, joined_rows
from gradflow.numerics.traced import row_norms
from gradflow.registry import register
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_positive, fail


class Regularised(AbstractRisk):
    r""":math:`J(\theta)=L(\theta)+\lambda s\sum_k|a_k|\|w_k\|` for any risk L of a two-layer net.

    The penalty is the total variation :math:`\lambda\|\nu\|_{TV}` of the measure that is the net,
    :math:`\nu=s\sum_ka_k\|w_k\|\,\delta_{w_k/\|w_k\|}`, s its scaling (1 by default); a bias
    counts as one more entry of :math:`w_k`. Source: `akiyama2021learnability`.

    Parameters
    ----------
    risk : AbstractRisk
        L, population or empirical, of a `TwoLayer` net with a positively homogeneous activation.
    lam : float
        λ > 0.

    Raises
    ------
    ValueError
        If the risk is of another network, or λ is not positive.

    Notes
    -----
    Its gradient is :math:`\lambda s|a_k|w_k/\|w_k\|` in :math:`w_k` and
    :math:`\lambda s\,\mathrm{sgn}(a_k)\|w_k\|` in :math:`a_k`. The penalty has a kink where
    :math:`w_k=0` or :math:`a_k=0`; the entry there is that of least norm, 0, so a neuron at zero in
    both layers rests. Along the flow a balanced neuron (|a_k| = ‖w_k‖) and one of the conic flow
    only decay exponentially and never get there. A neuron with a fixed outer weight reaches
    :math:`w_k=0` in finite time under the plain flow, whose integrators do not locate that kink
    (nor those of the data: `arrangement` is None, so a ReLU net on data is integrated across its
    kinks under error control). In cartesian coordinates so does a dying balanced one, once rounding
    has unbalanced it: late times need ``chart="conic"``.
    """

    net: TwoLayer
    risk: AbstractRisk
    lam: jax.Array

    def __init__(self, risk: AbstractRisk, lam: float) -> None:
        if not isinstance(risk, AbstractRisk):
            raise fail("risk", risk, "is not a risk", "pass gf.PopulationRisk or gf.EmpiricalRisk")
        if isinstance(risk, Regularised):
            raise fail("risk", risk.name, "is regularised already", "add up the two lam")
        net = risk.net
        if not isinstance(net, TwoLayer):
            raise fail("risk", risk.name, "is not that of a two-layer net", "use gf.TwoLayer(...)")
        if not net.activation.homogeneous:
            raise fail(
                "risk", net.activation.name,
                "is not positively homogeneous, so the net is no measure on the sphere",
                "use gf.relu, gf.leaky_relu(alpha) or gf.linear",
            )  # fmt: skip
        self.net, self.risk = net, risk
        self.lam = jnp.asarray(check_positive("lam", lam))

    @property
    def name(self) -> str:
        return f"Regularised({self.risk.name}, lam={float(self.lam):g})"

    def __call__(self, params: PyTree) -> jax.Array:
        params = self.net.as_params(params)
        return self.risk(params) + self._size * jnp.sum(masses(params))

    def log(self, params: PyTree) -> jax.Array:
        return jnp.log(self(params))

    def gradient(self, params: PyTree) -> PyTree:
        params = self.net.as_params(params)
        return jax.tree.map(jnp.add, self.risk.gradient(params), self._penalty_gradient(params))

    @property
    def _size(self) -> jax.Array:
        """λs."""
        return self.lam if self.net.scaling is None else self.net.factor * self.lam

    def _penalty_gradient(self, params: TwoLayerParams) -> TwoLayerParams:
        return self.net.freeze(_mass_gradient(params, self._size))


register("regularised", Regularised)


@eqx.filter_jit
def masses(params: TwoLayerParams) -> jax.Array:
    r""":math:`|a_k|\|w_k\|` (m,), a bias counted in :math:`w_k`."""
    return jnp.abs(params.outer) * row_norms(joined_rows(params))


@eqx.filter_jit
def _mass_gradient(params: TwoLayerParams, lam: jax.Array) -> TwoLayerParams:
    return jax.grad(lambda p: lam * jnp.sum(masses(p)))(params)
