"""Networks, risks, activations and losses of one's own, from the flow to the file and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.networks.abstract import AbstractNetwork
from gradflow.networks.activations import AbstractActivation
from gradflow.risks.base import AbstractRisk

RNG = np.random.default_rng(11)
X = RNG.normal(size=(8, 2))
LABELS = np.sign(X @ [1.0, -0.5])
TARGETS = np.cos(X[:, 0])


class Diagonal(AbstractNetwork):
    """``f(x) = (u ∘ v)·x``, a diagonal linear net; parameters in a dict."""

    dim: int = eqx.field(static=True)
    kind: ClassVar[str] = "diagonal"

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        return jnp.asarray(x) @ (params["u"] * params["v"])

    def as_params(self, value: Any) -> Any:
        assert isinstance(value, Mapping)
        return {name: jnp.asarray(value[name]) for name in ("u", "v")}

    def check_start(self, params: Any) -> Any:
        return self.as_params(params)

    def init(self, key: jax.Array, scale: float, scheme: str = "gaussian") -> Any:
        u, v = scale * jax.random.normal(key, (2, self.dim))
        return {"u": u, "v": v}

    def freeze(self, tree: Any) -> Any:
        return tree

    def balancedness(self, params: Any) -> jax.Array:
        return params["u"] ** 2 - params["v"] ** 2

    @property
    def degree(self) -> float:
        return 2

    @property
    def name(self) -> str:
        return f"Diagonal({self.dim})"


class Well(AbstractRisk):
    """``L(w) = ¼(|w|² − 1)² + ½c²w_2²``: minima at ±e_1, a saddle at 0."""

    net: None
    c: float = eqx.field(static=True)

    def __init__(self, c: float) -> None:
        self.net, self.c = None, c

    def __call__(self, params: Any) -> jax.Array:
        w = self.as_params(params)
        return 0.25 * (jnp.sum(w**2) - 1.0) ** 2 + 0.5 * (self.c * w[1]) ** 2

    def log(self, params: Any) -> jax.Array:
        return jnp.log(self(params))

    def gradient(self, params: Any) -> Any:
        return jax.grad(self)(self.as_params(params))

    def as_params(self, value: Any) -> jax.Array:
        return jnp.asarray(value)

    @property
    def name(self) -> str:
        return f"Well({self.c})"


class Bump(AbstractActivation):
    """``φ(z) = z e^{−z²}``."""

    kind: ClassVar[str] = "bump"

    def __call__(self, z: jax.Array) -> jax.Array:
        return z * jnp.exp(-z * z)

    def derivative(self, z: jax.Array) -> jax.Array:
        return (1.0 - 2.0 * z * z) * jnp.exp(-z * z)


def two_layer(activation: Any, loss: Any = gf.squared, **options: Any) -> Any:
    net = gf.TwoLayer(2, 3, activation, **options)
    margin = getattr(loss, "margin", False)
    return gf.EmpiricalRisk(net, loss, X, LABELS if margin else TARGETS)


def ramp(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(-z)


OWN = {
    "network": gf.EmpiricalRisk(Diagonal(2), gf.logistic, X, LABELS),
    "risk": Well(0.7),
    "activation class": two_layer(Bump()),
    "activation function": two_layer(jnp.sin),
    "loss function": two_layer(gf.tanh, lambda f, y: jnp.cosh(f - y) - 1.0),
    "margin loss": two_layer(gf.relu, gf.loss(ramp, margin=True)),
    "ntk": two_layer(gf.leaky_relu(0.2), gf.logistic, scaling="ntk"),
    "cube": two_layer(gf.monomial(3), gf.logistic),
}


def start(risk: Any) -> Any:
    if risk.net is None:
        return jnp.asarray([0.3, 0.4])
    return risk.net.init(jax.random.key(3), 0.8)


@pytest.fixture(scope="module", params=OWN)
def path(request) -> Any:
    risk = OWN[request.param]
    return gf.integrate(risk, start(risk), until=gf.until.time(2.0))


def test_a_flow_of_ones_own_follows_the_gradient(path) -> None:
    """Against classical Runge–Kutta steps, which know nothing of the package."""
    assert path.result.ok, path.result.message
    risk = path.risk
    h, steps = 2.0 / 400, 400

    def velocity(theta: Any) -> Any:
        return jax.tree.map(jnp.negative, risk.gradient(theta))

    def moved(theta: Any, k: Any, s: float) -> Any:
        return jax.tree.map(lambda p, q: p + s * q, theta, k)

    @jax.jit
    def step(_: int, theta: Any) -> Any:
        k1 = velocity(theta)
        k2 = velocity(moved(theta, k1, h / 2))
        k3 = velocity(moved(theta, k2, h / 2))
        k4 = velocity(moved(theta, k3, h))
        return jax.tree.map(
            lambda p, a, b, c, d: p + h / 6 * (a + 2 * b + 2 * c + d), theta, k1, k2, k3, k4
        )

    end = jax.jit(lambda theta: jax.lax.fori_loop(0, steps, step, theta))(start(risk))
    # Kinks cost the fixed steps their order.
    phi = getattr(risk.net, "activation", None)
    atol = 1e-7 if phi is None or not phi.kinked else 2e-4
    for found, expected in zip(jax.tree.leaves(path.final), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(found, expected, atol=atol)


def test_it_is_observed(path) -> None:
    loss = path.observe("loss")
    assert np.all(np.diff(loss) <= 1e-12)
    assert loss[-1] == pytest.approx(float(path.risk(path.final)), rel=1e-9)
    assert np.max(np.abs(path.observe("energy_defect"))) < 1e-6
    net = path.risk.net
    if net is not None and net.balancedness(path.final) is not None:
        kept = path.observe("balancedness")
        np.testing.assert_allclose(kept[-1], kept[0], atol=1e-6)
    if net is not None and net.degree is not None and path.risk.loss.margin:
        margin, size = path.observe("margin"), path.observe("norm")
        np.testing.assert_allclose(
            path.observe("normalised_margin"), margin / size**net.degree, rtol=1e-9
        )


@pytest.mark.filterwarnings("ignore::gradflow.paths.file.NeedsRiskWarning")
def test_it_is_saved_and_read_with_its_risk(path, tmp_path) -> None:
    file = tmp_path / "path.nc"
    path.save(file)
    again = gf.load(file, risk=path.risk)
    for found, expected in zip(
        jax.tree.leaves(again.final), jax.tree.leaves(path.final), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again.observe("loss"), path.observe("loss"))


gf.register("diagonal", Diagonal)
gf.register("well", Well)
gf.register("bump", Bump)


@pytest.mark.parametrize("name", ["network", "risk", "activation class"])
def test_a_file_rebuilds_what_is_registered(name, tmp_path) -> None:
    risk = OWN[name]
    file = tmp_path / "path.nc"
    path = gf.integrate(risk, start(risk), until=gf.until.time(1e-3))
    path.save(file)
    again = gf.load(file)
    assert again.risk.describe() == risk.describe()
    assert float(again.risk(path.final)) == float(risk(path.final))


@pytest.mark.parametrize(
    ("name", "function"), [("activation function", "sin"), ("loss function", "<lambda>")]
)
def test_a_file_alone_says_which_function_it_needs(name, function, tmp_path) -> None:
    risk = OWN[name]
    file = tmp_path / "path.nc"
    path = gf.integrate(risk, start(risk), until=gf.until.time(1e-3))
    with pytest.warns(gf.NeedsRiskWarning, match=rf"risk=.*function '{function}'"):
        path.save(file)
    with pytest.raises(ValueError, match=rf"function '{function}'.*; "):
        gf.load(file)


def test_certificates_of_ones_own() -> None:
    """A minimum of one's own risk, of one's own activation and loss; a margin of one's own net."""
    well = gf.integrate(OWN["risk"], jnp.asarray([0.3, 0.4]), until=gf.until.time(60.0))
    found = gf.certify(well)
    assert found.accepted
    np.testing.assert_allclose(np.abs(np.asarray(found.params)), [1.0, 0.0], atol=1e-12)
    at = {"u": jnp.asarray([1.0, 0.3]), "v": jnp.asarray([1.0, -0.3])}
    net = gf.certify(OWN["network"], at, candidate=at)
    assert not net.accepted
    assert "KKT" in net.reason or "separate" in net.reason


def test_a_neuron_of_absolute_value_is_two_of_relu() -> None:
    """|z| = max(z, 0) + max(−z, 0), one neuron as two that start at w and −w."""
    one = gf.EmpiricalRisk(
        gf.TwoLayer(2, 2, gf.activation(jnp.abs, [0.0], [-1.0, 1.0], degree=1), outer="fixed"),
        gf.squared, X, TARGETS,
    )  # fmt: skip
    theta = one.net.init(jax.random.key(5), 0.5)
    two = gf.EmpiricalRisk(gf.TwoLayer(2, 4, gf.relu, outer="fixed"), gf.squared, X, TARGETS)
    pair = two.net.params(
        inner=jnp.concatenate([theta.inner, -theta.inner]),
        outer=jnp.concatenate([theta.outer, theta.outer]),
    )
    assert float(one(theta)) == pytest.approx(float(two(pair)), rel=1e-14)
    found, expected = one.gradient(theta).inner, two.gradient(pair).inner
    np.testing.assert_allclose(found, expected[:2] - expected[2:], rtol=1e-13)


@pytest.mark.parametrize("scaling", ["ntk", "mean-field"])
@pytest.mark.parametrize(
    ("outer", "loss", "bias", "log_t"),
    [
        ("trained", gf.logistic, False, 1.0),
        ("trained", gf.squared, True, 2.0),
        ("fixed", gf.squared, False, 2.0),
        pytest.param("trained", gf.logistic, False, 60.0, marks=pytest.mark.slow),
    ],
    ids=["logistic", "bias", "fixed", "late"],
)
def test_a_scaled_net_flows_as_the_plain_one_in_another_time(
    outer, loss, bias, log_t, scaling
) -> None:
    """f = s h(θ), h of degree D: √s θ(t) is the plain flow at st (D = 2), sθ(t) at s²t (D = 1)."""
    net, plain = (
        gf.TwoLayer(2, 4, gf.leaky_relu(0.2), outer=outer, bias=bias, scaling=s)
        for s in (scaling, None)
    )
    y = LABELS if loss is gf.logistic else TARGETS
    risks = [gf.EmpiricalRisk(one, loss, X, y) for one in (net, plain)]
    theta = net.init(jax.random.key(9), 0.7)
    root = net.factor ** (0.5 if outer == "trained" else 1.0)

    def grown(params: Any) -> Any:
        moved = jax.tree.map(lambda leaf: root * leaf, params)
        return moved if outer == "trained" else eqx.tree_at(lambda p: p.outer, moved, params.outer)

    ends = (gf.until.log_time(log_t), gf.until.log_time(log_t + 2 * np.log(root)))
    clock = "loss" if log_t > 10 else "log"
    paths = [
        gf.integrate(risk, start, until=end, clock=clock, rtol=1e-10, atol=1e-12)
        for risk, start, end in zip(risks, (theta, grown(theta)), ends, strict=True)
    ]
    assert all(path.result.ok for path in paths)
    assert [e.datum for e in paths[0].events] == [e.datum for e in paths[1].events]
    for found, expected in zip(
        jax.tree.leaves(grown(paths[0].final)), jax.tree.leaves(paths[1].final), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    if log_t > 10:
        limits = [gf.certify(path) for path in paths]
        assert all(limit.accepted for limit in limits)
        assert limits[0].normalised_margin == pytest.approx(
            net.factor * limits[1].normalised_margin, rel=1e-9
        )
