"""What people bring from SciPy, JAX and xarray, and what they read where it does not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

RISK = gf.FunctionRisk(lambda p: 0.5 * jnp.sum((p - 1.0) ** 2))
START = np.array([0.25, 3.0])


@pytest.fixture(scope="module")
def path():
    return gf.integrate(RISK, START, until=5.0, integrator="tsit5", save_at=gf.save.dense())


@pytest.mark.parametrize("integrator", ["dopri8", "tsit5", "rk45"])
def test_a_blow_up_ends_where_no_step_fits(integrator):
    # p' = 4 p^3 leaves every bound at t = 1/8.
    risk = gf.FunctionRisk(lambda p: -jnp.sum(p**4))
    with pytest.warns(gf.IntegrationWarning, match="blows up"):
        path = gf.integrate(risk, np.ones(2), until=10.0, integrator=integrator, max_steps=20_000)
    assert path.result.name == "step_too_small"
    assert path.t_final == pytest.approx(0.125, rel=1e-8)
    assert np.all(np.isfinite(path.final))


@pytest.mark.parametrize("until", [np.array(2.0), jnp.asarray(2.0), np.float32(2.0)])
def test_numbers_of_any_kind_are_times(until):
    assert gf.integrate(RISK, START, until=until, integrator="tsit5").t_final == pytest.approx(2.0)


@pytest.mark.parametrize("until", [gf.until.loss(1e-3) | 100, 100 | gf.until.loss(1e-3)])
def test_a_number_combines_with_conditions(until):
    assert {*repr(until).split(" | ")} == {"loss(0.001)", "time(100.0)"}


def test_functions_of_the_parameters_alone_are_observed(path):
    read = path.observe(lambda params: jnp.sum(params**2))
    np.testing.assert_array_equal(read, path.observe(lambda risk, params: jnp.sum(params**2)))


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"t": 6.0}, r"t=\[6\.\]: lies outside the path; pass t in \[0, 5\]"),
     ({"log_t": 6.0}, r"log_t=\[6\.\]: lies outside the path; pass log_t in \[-inf, 1\.609")],
)  # fmt: skip
def test_times_outside_a_path_are_named_as_asked(path, asked, said):
    with pytest.raises(ValueError, match=said):
        path.at(**asked)


def test_times_between_the_rows_of_a_file_are_refused_as_asked(path, tmp_path):
    with pytest.warns(gf.NeedsRiskWarning):
        path.save(tmp_path / "path.nc")
    loaded = gf.load(tmp_path / "path.nc", risk=RISK)
    with pytest.raises(ValueError, match=r"t=\[0\.7\]: .*a file keeps recorded times only"):
        loaded.at(0.7)


def test_a_path_at_some_times_shows_itself_in_two_lines(path):
    assert repr(path.at([1.0, 2.0])) == (
        f"Path of {RISK.name}\n  2 points, t = 1 ... 2; observe(...), params, to_xarray(...)"
    )


def test_what_a_solver_does_not_tell_is_shown_as_unknown():
    path = gf.integrate(RISK, START, until=1.0, integrator="lsoda")
    assert "unknown rejected" in repr(path)


def test_kinds_of_events_that_do_not_exist_are_refused(path):
    with pytest.raises(ValueError, match="kind='crossings': is not a known name; choose one of"):
        path.events.kind("crossings")


@pytest.mark.parametrize("names", [3, [], ["loss", 3]])
def test_only_names_become_datasets(path, names):
    with pytest.raises(ValueError, match=r"^(observables|name)="):
        path.to_xarray(names)


@pytest.mark.parametrize(
    "traced",
    [lambda x: gf.integrate(RISK, START, until=x),
     lambda x: gf.integrate(RISK, START, until=1.0, rtol=x),
     lambda x: gf.EmpiricalRisk(gf.LinearPredictor(dim=2), gf.squared, x * jnp.eye(2), START),
     lambda x: gf.certify(RISK, x * START)],
    ids=["until", "rtol", "data", "certify"],
)  # fmt: skip
def test_traced_values_are_named(traced):
    with pytest.raises(ValueError, match=r"is traced by jax\.jit, jax\.grad or jax\.vmap"):
        jax.grad(traced)(1.0)


def test_more_classes_than_two_are_named_where_accuracy_is_read():
    net = gf.LinearPredictor(dim=2)
    risk = gf.EmpiricalRisk(net, gf.logistic, np.eye(2), np.array([1.0, -1.0]))
    path = gf.integrate(risk, net.init(jax.random.key(0), 0.1), until=1.0, integrator="tsit5")
    with pytest.raises(ValueError, match="one of the 3 classes against the rest"):
        path.observe("accuracy", X=np.ones((3, 2)), y=np.arange(3))


def test_the_slope_a_vector_field_lacks_is_named():
    with pytest.raises(ValueError, match=r"slope=None: .*pass slope=0\.1 to gf\.derive"):
        gf.derive("two-neuron").vector_field(gf.Gaussian(3))


def test_times_beyond_floats_are_drawn_over_their_logarithm():
    plt = pytest.importorskip("matplotlib.pyplot")
    net = gf.LinearPredictor(dim=2)
    risk = gf.EmpiricalRisk(net, gf.logistic, np.eye(2), np.array([1.0, -1.0]))
    path = gf.integrate(risk, net.init(jax.random.key(0), 0.1), until=gf.until.log_time(1e4))
    figure = gf.plot(path, "norm")
    assert figure.axes[0].get_xlabel() == "ln t"
    plt.close(figure)
