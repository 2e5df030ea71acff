"""Claims of benson2020over on width, square features, the last layer and strict kernels."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import gradflow as gf
from gradflow.claims import Lab, Status, claims, weigh
from gradflow.claims.papers.benson2020over import kernels, spectra, square, width
from gradflow.claims.papers.benson2020over import last_layer as layers
from gradflow.claims.papers.benson2020over.setting import LEVEL, interval, points
from gradflow.integrators.contract import integrator_names
from gradflow.networks.activations import AbstractActivation

EQUALITIES = [
    "square-relu-singular", "last-layer-descent", "spectra", "polygon-spectra",
    "antipodal-rank-parity", "strict-activations-fit", "width-bound",
]  # fmt: skip
QUALITATIVE = ["square-analytic", "criterion"]


class Cube(AbstractActivation):
    """z³, with nothing said on its parts."""

    kind: ClassVar[str] = "cube"

    def __call__(self, z):
        return z * z * z

    def derivative(self, z):
        return 3.0 * z * z

    @property
    def name(self):
        return "cube"

    @property
    def kinked(self):
        return False

    @property
    def homogeneous(self):
        return False

    def describe(self):
        return {"kind": self.kind}


@pytest.fixture(scope="module")
def lab():
    return Lab()


def check(claim, lab, altered=Status.VIOLATED):
    verdict = weigh(claim, lab)
    assert verdict.status == Status.SUPPORTED, verdict.message
    assert verdict.control.status == Status.VIOLATED, verdict.control.message
    assert weigh(claim, lab, 1.05).status == altered
    assert weigh(claim, lab, 0.95).status == altered
    return verdict


def reason(claim):
    verdict = weigh(claim, Lab())
    assert verdict.status == Status.NOT_APPLICABLE, (verdict.status, verdict.message)
    assert weigh(claim, Lab(), 1.05).status == Status.NOT_APPLICABLE
    return verdict.message


@pytest.mark.parametrize("name", EQUALITIES)
def test_supported_and_able_to_fail(name, lab):
    verdict = check(claims(f"benson2020over/{name}")[0], lab)
    if verdict.kind == "equality":
        assert verdict.error <= verdict.tolerance / 10


@pytest.mark.parametrize("name", QUALITATIVE)
def test_qualitative_claims(name, lab):
    check(claims(f"benson2020over/{name}")[0], lab, altered=Status.NOT_APPLICABLE)


# --- width -------------------------------------------------------------------------------------


def test_clopper_pearson():
    low, high = interval(7, 50)
    tail = (1 - LEVEL) / 2
    assert scipy.stats.binom.sf(6, 50, low) == pytest.approx(tail)
    assert scipy.stats.binom.cdf(7, 50, high) == pytest.approx(tail)
    assert interval(0, 50)[0] == 0
    assert interval(50, 50)[1] == 1
    assert interval(0, 50)[1] == pytest.approx(1 - tail ** (1 / 50))


@pytest.mark.parametrize("one", width.wide(), ids=str)
def test_features_are_bounded_and_have_the_kernel_as_their_mean(one):
    A = one.draw(np.random.default_rng(0), 200, 500)
    assert np.max(np.sum(A**2, axis=1)) <= one.bound * (1 + 1e-12)
    second = np.mean(A @ np.swapaxes(A, 1, 2) / 500, axis=0)
    np.testing.assert_allclose(second, one.kernel, atol=0.03 * np.max(one.kernel))


def test_width_on_own_points(lab):
    rng = np.random.default_rng(5)
    own = width.random_features(points(2 * rng.normal(size=(3, 4))), gf.tanh)
    claim = width.width_bound(own, epsilon=0.7, delta=0.02, trials=6000, id="m/width")
    check(claim, Lab())


def test_width_needs_bounded_features_and_a_regular_kernel():
    generic = points(np.eye(2) + 0.1)
    unbounded = width.random_features(generic, gf.relu)
    assert "no bound" in reason(width.width_bound(unbounded, id="m/width"))
    pairs = points(gf.datasets.antipodal_pairs(4, 2, 1).X)
    singular = width.random_features(pairs, gf.relu, "sphere")
    assert "λ_min(K)" in reason(width.width_bound(singular, id="m/width"))
    close = width.random_features(points([[1.0, 0.0], [0.99, 0.1]]), gf.probit_erf)
    assert "stated width" in reason(width.width_bound(close, epsilon=0.05, id="m/width"))
    odd = width.random_features(points([[1.0, 0.0], [-1.0, 0.0]]), gf.tanh)
    assert "λ_min(K)" in reason(width.width_bound(odd, id="m/width"))


def test_a_false_width_is_seen(lab):
    """A bound with a tenth of B does not pass."""
    claim = claims("benson2020over/width-bound")[0]
    wrong = claim._replace(bound=lambda lab, factor: claim.bound(lab, 40.0 * factor), control=None)
    assert wrong.weigh(lab).status == Status.VIOLATED


def test_two_planar_points_in_closed_form():
    for beta in (0.3, 1.5, 2.9):
        one = points([[1.0, 0.0], [2 * np.cos(beta), 2 * np.sin(beta)]])
        both, single = (np.pi - beta) / (2 * np.pi), beta / (2 * np.pi)
        regular = both**2 + 4 * both * single + 2 * single**2
        assert square.singular_probability(one, 0.0) == pytest.approx(1 - regular, rel=1e-12)
        assert square.singular_probability(one, 0.2) == 0.0
    five = points(np.random.default_rng(3).normal(size=(5, 2)))
    assert 0 < square.singular_probability(five, 0.3) < square.singular_probability(five, 0.0) <= 1


def test_square_relu_on_own_points():
    three = points(np.random.default_rng(8).normal(size=(3, 2)))
    check(square.square_singular(three, trials=2_000_000, seed=4, id="m/square"), Lab())
    leaky = square.square_singular(square.planar()[:1], slope=0.2, id="m/leaky")
    assert "never dependent" in reason(leaky)
    assert "in the plane" in reason(square.square_singular(points(np.eye(3)), id="m/3"))
    collinear = points([[1.0, 1.0], [2.0, 2.0]])
    assert "nearly one line" in reason(square.square_singular(collinear, id="m/line"))


def test_square_analytic_is_silent_on_others():
    one = points(np.random.default_rng(0).normal(size=(5, 3)))
    for phi, why in (
        (gf.relu, "not analytic"), (gf.elu, "not analytic"), (gf.linear, "polynomial"),
        (Cube(), "states nothing"),
    ):  # fmt: skip
        assert why in reason(square.square_invertible(one, phi, id="m/square"))
    twice = points(np.r_[one.X, one.X[:1]])
    assert "nearly one line" in reason(square.square_invertible(twice, gf.tanh, id="m/twice"))


def test_what_float64_cannot_tell_is_left_open():
    """Regular matrices, but for the digits: saturated tanh, and a kernel with a tiny λ_min."""
    far = points(1e3 * np.random.default_rng(0).normal(size=(6, 2)))
    verdict = weigh(square.square_invertible(far, gf.tanh, id="m/far"), Lab())
    assert verdict.status == Status.INCONCLUSIVE
    many = points(0.1 * np.random.default_rng(0).normal(size=(16, 2)))
    verdict = weigh(square.square_invertible(many, gf.softplus, id="m/many"), Lab())
    assert verdict.status == Status.INCONCLUSIVE
    angle = np.linspace(0, 1, 16)
    arc = points(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    verdict = weigh(kernels.criterion(gf.fourier, arc, id="m/arc"), Lab())
    assert verdict.status == Status.INCONCLUSIVE


def test_dependent_features_do_not_pass():
    claim = square.square_invertible(square.generic(), gf.tanh, id="m/poly")
    measure = square.square_invertible(square.generic(), gf.linear, id="m/l").measure
    assert claim._replace(measure=measure, control=None).weigh(Lab()).status != Status.SUPPORTED


# --- the last layer ----------------------------------------------------------------------------


@pytest.mark.slow
def test_flow_by_every_integrator(lab):
    claim = claims("benson2020over/last-layer-flow")[0]
    verdict = check(claim, lab)
    assert verdict.tolerance == 1e-8
    assert verdict.error <= 1e-9
    labels = lab.once(claim.measure).labels
    assert {label.partition(",")[0] for label in labels} == set(integrator_names())


def test_prediction_is_the_sum_over_modes():
    for one in layers.defaults():
        rates, vectors = one.modes
        claim = layers.flow(one, "dop853", id="m/flow")
        start = vectors.T @ one.residual / np.linalg.norm(one.residual)
        modes = np.exp(-np.outer(one.times, rates)) * start
        np.testing.assert_allclose(claim.predict(Lab()), modes.ravel(), rtol=0, atol=1e-13)


def test_flow_and_descent_of_own_layers():
    rng = np.random.default_rng(9)
    for phi, n, m in ((gf.relu, 3, 2), (gf.tanh, 4, 30)):
        one = layers.last_layer(
            points(rng.normal(size=(n, 5)), rng.normal(size=n)), m, activation=phi, seed=3
        )
        check(layers.flow(one, ["dopri8", "radau"], id="m/flow"), Lab())
        check(layers.descent(one, share=0.2, steps=(3, 40), id="m/descent"), Lab())


def test_last_layer_is_silent_where_it_must_be():
    data = points(np.eye(3), [1.0, 2.0, -1.0])
    one = layers.last_layer(data, 6, activation=gf.elu)
    assert "diverges" in reason(layers.descent(one, share=1.2, id="m/fast"))
    fitted = np.linalg.lstsq(one.A, data.y, rcond=None)[0]
    still = layers.last_layer(data, 6, activation=gf.elu, start=fitted)
    assert "already" in reason(layers.flow(still, "dop853", id="m/still"))
    dead = layers.last_layer(data, activation=gf.relu, inner=-np.ones((2, 3)))
    assert "vanishes" in reason(layers.descent(dead, id="m/dead"))
    bare = layers.LastLayer(points(np.eye(3)), one.inner, one.start, gf.elu)
    assert "no labels" in reason(layers.descent(bare, id="m/bare"))


def test_a_wrong_rate_is_seen():
    one = layers.defaults()[1]
    claim = layers.flow(one, "dop853", id="m/flow")
    near = one.K * (1 + 1e-6)

    def wrong(lab):
        exact = np.array([scipy.linalg.expm(-near * t) @ one.residual for t in one.times])
        return (exact @ one.modes[1] / np.linalg.norm(one.residual)).ravel()

    assert claim._replace(predict=wrong, control=None).weigh(Lab()).status == Status.VIOLATED


# --- kernels -----------------------------------------------------------------------------------


def test_spectra_and_polygons_of_own():
    check(spectra.spectra(spectra.sphere(gf.shifted_relu(-0.9), 12), id="m/s"), Lab())
    check(spectra.polygons(spectra.polygon(gf.leaky_relu(0.6), 8), id="m/p"), Lab())
    dead = spectra.sphere(gf.shifted_relu(1.0), 3)
    assert "vanishes" in reason(spectra.spectra(dead, id="m/dead"))


def test_hexagon_lacks_the_odd_multiples_of_three():
    assert spectra.polygon(gf.relu, 6).aliased()[3] == pytest.approx(0.0, abs=1e-30)
    rates = spectra.polygon(gf.fourier, 6).aliased()
    assert rates[3] == pytest.approx(6 * 2 * math.exp(-1) * 0.0221684249243319, rel=1e-6)


def test_criterion_on_own_sets_and_activations():
    rng = np.random.default_rng(12)
    half = rng.normal(size=(4, 3))
    own = points(np.r_[half, -half, rng.normal(size=(2, 3))])
    phis = (gf.shifted_relu(1.0), gf.linear, gf.leaky_relu(0.7))
    check(kernels.criterion(phis, own, id="m/c"), Lab(), altered=Status.NOT_APPLICABLE)
    assert "no finite number" in reason(kernels.criterion(Cube(), own, id="m/cube"))
    near = points(np.r_[half, half[:1] * (1 + 1e-9)])
    assert "nearly one line" in reason(kernels.criterion(gf.elu, near, id="m/near"))


def test_the_criterion_is_not_met_by_decree():
    """An activation that states wrong parts is found out."""

    class Liar(type(gf.softplus)):
        def parts(self, reach=math.inf):
            return gf.elu.parts(reach)

    liar = Liar()
    pairs = points(gf.datasets.antipodal_pairs(5, 2, 3).X)
    for claim in (
        kernels.criterion(liar, pairs, id="m/liar"),
        kernels.parity_rank(kernels.case(liar, pairs), id="m/liar-rank"),
        kernels.fits(kernels.case(liar, points(*gf.datasets.hexagon())), id="m/liar-fit"),
    ):
        assert weigh(claim, Lab()).status != Status.SUPPORTED


def test_parity_rank_of_own_cases():
    data = points(gf.datasets.antipodal_pairs(6, 3, 77).X)
    cases = [kernels.case(phi, data) for phi in (gf.linear, gf.probit_erf, gf.shifted_relu(-1.0))]
    check(kernels.parity_rank(cases, id="m/r"), Lab())
    assert kernels.parity_rank(cases, id="m/r").predict(Lab()) == [3, 6, 12]
    assert "nothing is known" in reason(
        kernels.parity_rank(kernels.case(Cube(), data), id="m/cube")
    )
    alone = points(np.random.default_rng(0).normal(size=(3, 3)))
    assert "negative" in reason(kernels.parity_rank(kernels.case(gf.elu, alone), id="m/a"))


def test_fits_of_own_labels_and_where_it_is_silent():
    X, y = gf.datasets.antipodal_pairs(4, 2, 5)
    check(kernels.fits(kernels.case(gf.elu, points(X, 100 * y)), id="m/f"), Lab())
    relu = kernels.fits(kernels.case(gf.relu, points(X, y)), id="m/relu")
    assert "odd part is a polynomial" in reason(relu)
    zero = kernels.fits(kernels.case(gf.elu, points(X, 0 * y)), id="m/zero")
    assert "all 0" in reason(zero)
    assert "no labels" in reason(kernels.fits(kernels.case(gf.elu, points(X)), id="m/none"))
    narrow = kernels.fits(kernels.case(gf.shifted_relu(2.5), points(X, y)), width=1, id="m/n")
    assert weigh(narrow, Lab()).status != Status.VIOLATED


@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_far_scales_are_left_open_or_right(scale):
    """Shifted ReLU looks like 0 or like ReLU there: short ranks decide nothing."""
    rng = np.random.default_rng(3)
    half = scale * rng.normal(size=(6, 3))
    X, y = np.r_[half, -half], rng.normal(size=12)
    claim = kernels.parity_rank(kernels.case(gf.shifted_relu(0.3), points(X)), id="m/rank")
    for factor in (None, 1.05, 0.95):
        assert weigh(claim, Lab(), factor).status != Status.SUPPORTED
    assert weigh(claim, Lab()).status == Status.INCONCLUSIVE
    one = layers.last_layer(points(X, y), 20, activation=gf.gelu)
    check(layers.flow(one, ["dopri8", "radau"], id="m/flow"), Lab())


# --- bad input ---------------------------------------------------------------------------------


def test_bad_input():
    data = points(np.eye(2), [1.0, -1.0])
    with pytest.raises(ValueError, match="epsilon="):
        width.width_bound(width.wide(), epsilon=1.0, id="m/w")
    with pytest.raises(ValueError, match="delta="):
        width.width_bound(width.wide(), delta=0.0, id="m/w")
    with pytest.raises(ValueError, match="trials="):
        width.width_bound(width.wide(), trials=10, id="m/w")
    with pytest.raises(ValueError, match=r"weights=.*leaky"):
        width.random_features(data, gf.tanh, "sphere")
    with pytest.raises(ValueError, match="pass points"):
        width.random_features(np.eye(2), gf.tanh)
    with pytest.raises(ValueError, match="slope="):
        square.square_singular(data, slope=1.0, id="m/s")
    with pytest.raises(ValueError, match="draws="):
        square.square_invertible(data, gf.tanh, draws=0, id="m/s")
    with pytest.raises(ValueError, match="exactly one"):
        layers.last_layer(data, activation=gf.relu)
    with pytest.raises(ValueError, match="exactly one"):
        layers.last_layer(data, 3, inner=np.eye(2), activation=gf.relu)
    with pytest.raises(ValueError, match="is zero"):
        layers.last_layer(data, inner=np.zeros((1, 2)), activation=gf.relu)
    with pytest.raises(ValueError, match=r"integrators=.*dopri8"):
        layers.flow(layers.defaults(), integrators=["euler"], id="m/f")
    with pytest.raises(ValueError, match="empty"):
        layers.flow(layers.defaults(), integrators=[], id="m/f")
    with pytest.raises(ValueError, match="steps="):
        layers.descent(layers.defaults(), steps=(5, 2), id="m/d")
    with pytest.raises(ValueError, match="share="):
        layers.descent(layers.defaults(), share=-1.0, id="m/d")
    with pytest.raises(ValueError, match="closed spectrum"):
        spectra.sphere(gf.tanh, 3)
    with pytest.raises(ValueError, match="closed Gaussian spectrum"):
        spectra.polygon(gf.shifted_relu(0.3), 6)
    with pytest.raises(ValueError, match="corners="):
        spectra.polygon(gf.relu, 2)
    with pytest.raises(ValueError, match="activation="):
        kernels.case("relu", data)
    with pytest.raises(ValueError, match="pass a Case"):
        kernels.fits([data], id="m/f")
