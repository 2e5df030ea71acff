"""What every path offers, whoever made it: reading, views, events, files, any time."""

from __future__ import annotations

import json
import os
import stat
from types import SimpleNamespace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.networks.activations import AbstractActivation
from gradflow.numerics.files import replace_file, write_text
from gradflow.paths.events import Event, Events
from gradflow.paths.path import as_path

X = np.array([[1.0, 0.2], [0.5, -1.0], [-0.3, 0.8], [-1.0, -0.4]])
Y = np.array([1.0, 1.0, -1.0, -1.0])
LINEAR = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.squared, X, Y)
START = np.array([0.3, -0.2])


@pytest.fixture(scope="module")
def flow() -> gf.Trajectory:
    return gf.integrate(LINEAR, START, until=gf.until.time(3.0), save_at=[0.0, 0.5, 1.0, 3.0])


@pytest.fixture(scope="module")
def descent():
    return gf.descend(LINEAR, START, step_size=0.25, steps=12, save_every=4)


def test_reading_changes_nothing(flow):
    before = flow.to_xarray()
    kept = dict(flow.exact)
    _ = flow.defects, flow.chart_value("log_loss"), flow.observe("gradient_norm"), repr(flow)
    assert flow.to_xarray().identical(before)
    assert flow.exact == kept


def test_a_view_is_over_the_logarithm_of_time(flow):
    view = flow.to_xarray(["loss", "norm", "neuron_norms"])
    assert list(view.data_vars) == ["loss", "norm", "neuron_norms"]
    assert view["neuron_norms"].dims == ("log_t", "neuron")
    np.testing.assert_array_equal(view["log_t"], flow.log_t)
    np.testing.assert_array_equal(view["time"], flow.t)
    np.testing.assert_array_equal(view["loss"], flow.observe("loss"))
    assert {view[name].attrs["units"] for name in [*view, *view.coords]} == {"1"}
    assert view["norm"].attrs["scales_as"] == "weight"
    assert list(flow.to_xarray("loss").data_vars) == ["loss"]


@pytest.mark.parametrize("name", ["flow", "descent"])
def test_a_file_holds_what_the_view_shows(name, request, tmp_path):
    path = request.getfixturevalue(name)
    path.save(tmp_path / "path.nc")
    again = gf.load(tmp_path / "path.nc")
    assert type(again) is type(path)
    assert again.to_xarray().identical(path.to_xarray())
    assert again.stats == path.stats
    assert again.result == path.result
    for tree in ("params", "initial", "final"):
        one, two = getattr(path, tree), getattr(again, tree)
        assert jax.tree.structure(one) == jax.tree.structure(two)
        assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(two)))
    again.save(tmp_path / "again.nc")
    assert gf.load(tmp_path / "again.nc").to_xarray().identical(path.to_xarray())


def test_a_descent_is_a_path(descent):
    assert len(descent) == 4
    np.testing.assert_array_equal(descent.t, [0.0, 1.0, 2.0, 3.0])
    assert descent.observe("loss")[-1] < descent.observe("loss")[0]
    np.testing.assert_array_equal(descent.to_xarray("loss")["step"], [0, 4, 8, 12])
    np.testing.assert_array_equal(descent.at(2.0).params.weight, descent.params.weight[2:3])
    with pytest.raises(ValueError, match=r"energy.*gf\.integrate"):
        descent.observe("energy_defect")


def test_files_of_the_old_format_are_refused_by_name(tmp_path):
    import xarray as xr

    old = xr.Dataset(attrs={"gradflow": json.dumps({"format": "gradflow-trajectory-1"})})
    old.to_netcdf(tmp_path / "old.nc", engine="scipy")
    with pytest.raises(ValueError, match=r"old format, 'gradflow-trajectory-1'; integrate again"):
        gf.load(tmp_path / "old.nc")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_take_the_mode_of_the_umask(umask, tmp_path, flow):
    before = os.umask(umask)
    try:
        flow.save(tmp_path / "path.nc")
        write_text(tmp_path / "text.html", "ß")
    finally:
        os.umask(before)
    for name in ("path.nc", "text.html"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
    assert (tmp_path / "text.html").read_text(encoding="utf-8") == "ß"


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(ValueError, match="no existing folder"):
        replace_file(tmp_path / "none" / "a", lambda name: None)


EVENTS = Events([
    Event(1.0, 0.0, 0.7, "crossing", neuron=0, datum=2),
    Event(2.0, np.log(2.0), 1.1, "stage", "chart cartesian -> direction"),
    Event(np.inf, 1e6, 1e6, "crossing", neuron=1),
    Event(np.inf, 2e6, 2e6, "stop", "time(1e9)"),
])  # fmt: skip


def test_events_filter_and_count():
    assert EVENTS.counts() == {"crossing": 2, "stage": 1, "stop": 1}
    assert EVENTS.kind("crossing", "stop").counts() == {"crossing": 2, "stop": 1}
    assert [event.kind for event in EVENTS.surface] == ["crossing", "crossing"]
    assert (len(EVENTS.stops), len(EVENTS.stages)) == (1, 1)
    assert isinstance(EVENTS[:2], Events)
    assert EVENTS[0].datum == 2
    assert tuple(EVENTS) == EVENTS
    assert not EVENTS.kind("death")
    table = EVENTS.to_xarray()
    assert table.sizes == {"event": 4}
    assert Events.of_columns({name: table[name].values for name in table}) == EVENTS


@pytest.mark.parametrize("clock", ["physical", "log"])
def test_any_time_of_a_path_with_dense_output(clock):
    dense = gf.integrate(
        LINEAR, START, until=gf.until.time(3.0), clock=clock, integrator="dopri8",
        save_at=gf.save.dense(), rtol=1e-10,
    )  # fmt: skip
    times = [0.0, 0.013, 0.5, 1.7, 3.0]
    exact = gf.integrate(LINEAR, START, until=gf.until.time(3.0), save_at=times, rtol=1e-12)
    between = dense.at(times)
    np.testing.assert_allclose(between.params.weight, exact.params.weight, rtol=1e-9)
    np.testing.assert_allclose(between.observe("loss"), exact.observe("loss"), rtol=1e-8)
    np.testing.assert_allclose(between.energy, exact.energy, atol=1e-9)
    np.testing.assert_array_equal(
        dense.at(log_t=np.log(1.7)).params.weight, dense.at(1.7).params.weight
    )
    with pytest.raises(ValueError, match="outside the path"):
        dense.at(3.1)


def test_without_dense_output_only_recorded_times_are_read(flow):
    np.testing.assert_array_equal(flow.at([0.5, 3.0]).params.weight, flow.params.weight[[1, 3]])
    with pytest.raises(ValueError, match=r"save_at=gf\.save\.dense\(\)"):
        flow.at(0.7)
    for bad in ({"t": 1.0, "log_t": 0.0}, {}, {"t": -1.0}, {"t": [2.0, 1.0]}):
        with pytest.raises(ValueError, match=r"^(t|log_t)="):
            flow.at(**bad)


@pytest.mark.parametrize("clock", ["physical", "log", "loss"])
def test_a_path_has_been_recorded_at_its_own_times(clock):
    """t = e^(ln t) is rounded: where ln t is what was recorded, t is not its exact power."""
    risk = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.logistic, X[:, :2], np.ones(len(X)))
    path = gf.integrate(risk, np.array([0.3, -0.2]), until=100.0, clock=clock)
    for times in ({"t": path.t}, {"log_t": path.log_t}):
        np.testing.assert_array_equal(path.at(**times).params.weight, path.params.weight)


def test_functions_and_other_data_are_observed(flow):
    W = np.asarray(flow.params.weight)
    own = flow.observe(lambda risk, params: params.weight[0] * risk.y[0])
    np.testing.assert_allclose(own, W[:, 0], rtol=1e-15)
    rows = flow.observe(lambda risk, params: risk.net(params, risk.X))
    np.testing.assert_allclose(rows, W @ X.T, rtol=1e-14)
    other, labels = 2 * X[:3], np.array([1.0, -1.0, -1.0])
    f = W @ other.T
    loss = np.mean((f - labels) ** 2 / 2, axis=1)
    np.testing.assert_allclose(flow.observe("loss", X=other, y=labels), loss, rtol=1e-13)
    share = np.mean(f * labels > 0, axis=1)
    np.testing.assert_allclose(flow.observe("accuracy", X=other, y=labels), share)
    np.testing.assert_allclose(flow.observe("accuracy"), np.mean((W @ X.T) * Y > 0, axis=1))
    with pytest.raises(ValueError, match=r"y=None: is missing"):
        flow.observe("loss", X=other)
    with pytest.raises(ValueError, match="JAX can trace"):
        flow.observe(lambda risk, params: float(params.weight[0]))


def test_sharpness_is_the_largest_eigenvalue(flow):
    top = np.linalg.eigvalsh(X.T @ X / len(X))[-1]
    np.testing.assert_allclose(flow.observe("sharpness"), top, rtol=1e-13)
    big = gf.FunctionRisk(lambda p: jnp.sum(jnp.arange(1.0, 401.0) * p**2) / 2)
    path = SimpleNamespace(risk=big, params=np.ones((1, 400)))
    np.testing.assert_allclose(gf.observables.observe(path, "sharpness"), 400.0, rtol=1e-9)
    # A frozen layer counts for nothing, also where every trained curvature is negative.
    net = gf.TwoLayer(1, 1, gf.monomial(2), outer="fixed")
    risk = gf.EmpiricalRisk(net, gf.squared, [[1.0]], [5.0])
    one = SimpleNamespace(risk=risk, params=net.params([[0.5]], [1.0]))
    one.params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], one.params)
    np.testing.assert_allclose(gf.observables.observe(one, "sharpness"), 6 * 0.25 - 10, rtol=1e-13)


def test_the_dead_are_no_part_of_a_cluster():
    net = gf.TwoLayer(2, 4, gf.relu)
    risk = gf.EmpiricalRisk(net, gf.logistic, [[1.0, 0.0], [2.0, 1.0]], [1.0, 1.0])
    inner = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.5, 0.0]])
    outer = np.array([1.0, 1.0, 1.0, 0.0])
    params = {"inner": np.stack([inner, inner]), "outer": np.stack([outer, outer]), "bias": None}
    params["inner"][0, 1] = [0.9, 0.4]
    path = as_path(SimpleNamespace(
        risk=risk, params=type(net.init(jax.random.key(0), 1.0))(**params),
        t=np.array([1.0, 2.0]), log_t=np.log([1.0, 2.0]),
    ))  # fmt: skip
    np.testing.assert_array_equal(path.observe("alive"), [[True, True, False, False]] * 2)
    np.testing.assert_array_equal(path.observe("dead"), ~path.observe("alive"))
    spread = path.observe("cluster_spread")
    assert spread[0, 0] > 0.1
    assert spread[1, 0] == 0.0
    aligned = gf.observables.log_t_since(path, spread[:, 0] < 0.05)
    assert aligned == np.log(2.0)
    np.testing.assert_array_equal(
        gf.observables.log_t_since(path, path.observe("dead")), [np.inf, np.inf, 0.0, 0.0]
    )


class Cubed(AbstractActivation):
    """z³ from a user's own file."""

    factor: float = eqx.field(static=True)
    kind: ClassVar[str] = "cubed"

    def __call__(self, z):
        return self.factor * z**3

    def derivative(self, z):
        return 3 * self.factor * z**2


def test_a_class_of_ones_own_is_asked_for_when_saving_and_when_loading(tmp_path):
    net = gf.TwoLayer(2, 2, Cubed(0.5))
    risk = gf.EmpiricalRisk(net, gf.squared, X, Y)
    path = gf.integrate(risk, net.init(jax.random.key(0), 0.1), until=gf.until.time(0.1))
    with pytest.warns(gf.NeedsRiskWarning, match=r"risk=.*'cubed' \(.*Cubed\)"):
        path.save(tmp_path / "own.nc")
    with pytest.raises(ValueError, match=r"'cubed' \(.*Cubed\).*gf\.register"):
        gf.load(tmp_path / "own.nc")
    assert gf.load(tmp_path / "own.nc", risk=risk).to_xarray().identical(path.to_xarray())
    gf.register("cubed", Cubed)
    assert gf.load(tmp_path / "own.nc").risk.net.activation == Cubed(0.5)
    path.save(tmp_path / "own.nc")  # without a warning now
    with pytest.raises(ValueError, match="registered for"):
        gf.register("cubed", gf.LeakyReLU)
