"""Trajectories: what they hold, what they refuse, and that files survive."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow.integrators.save as save
import gradflow.integrators.until as until
from gradflow.integration import IntegrationError, IntegrationWarning, integrate
from gradflow.losses import logistic
from gradflow.networks.activations import leaky_relu
from gradflow.networks.networks import TwoLayer
from gradflow.numerics.files import replace_file
from gradflow.paths.file import NeedsRiskWarning, load
from gradflow.paths.trajectory import Trajectory
from gradflow.paths.tree import describe_tree, rebuild_tree
from gradflow.risks.empirical import EmpiricalRisk
from gradflow.risks.function import FunctionRisk

SADDLE = FunctionRisk(
    lambda p: 0.25 - 0.5 * p["x"] ** 2 + 0.25 * p["x"] ** 4 + 0.5 * p["z"] ** 2, label="saddle"
)
START = {"x": jnp.asarray(1e-6), "z": jnp.asarray(1.0)}


@pytest.fixture(scope="module")
def trajectory() -> Trajectory:
    return integrate(SADDLE, START, until=until.time(20.0))


@pytest.fixture(scope="module")
def trained() -> Trajectory:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(6, 2))
    net = TwoLayer(dim=2, width=3, activation=leaky_relu(0.3))
    risk = EmpiricalRisk(net, logistic, X, np.sign(X[:, 0]))
    params = net.params(inner=0.1 * rng.normal(size=(3, 2)), outer=np.array([0.3, -0.3, 0.2]))
    return integrate(risk, params, until=until.time(5.0), save_at=[0.0, 1.0, 5.0], rtol=1e-6)


def test_what_a_trajectory_holds(trajectory):
    n = len(trajectory)
    assert n == trajectory.stats["steps"] + 1
    assert trajectory.t.shape == trajectory.log_t.shape == trajectory.params["x"].shape == (n,)
    assert trajectory.log_t[0] == -np.inf
    np.testing.assert_allclose(np.exp(trajectory.log_t[1:]), trajectory.t[1:], rtol=1e-14)
    np.testing.assert_allclose(np.log1p(trajectory.t), trajectory.clock, rtol=1e-14)
    assert trajectory.result.ok
    assert trajectory.stopped_by == "time(20.0)"
    assert set(trajectory.stats) >= {
        "steps", "rejected", "rhs", "jacobians", "events", "compile_seconds", "run_seconds"
    }  # fmt: skip
    # |theta'|^2 integrates to the loss spent.
    spent = 0.75 - trajectory.observe("loss")
    np.testing.assert_allclose(trajectory.energy, spent, atol=1e-8)
    text = repr(trajectory)
    for word in ("saddle", "dopri8", "steps", "reached"):
        assert word in text
    with pytest.raises(AttributeError):
        trajectory.t = None


def test_save_load_round_trip(trajectory, trained, tmp_path):
    path = tmp_path / "flow.nc"
    trained.save(path)
    back = load(path)
    assert type(back.params) is type(trained.params)
    assert jax.tree.structure(back.params) == jax.tree.structure(trained.params)
    for old, new in zip(jax.tree.leaves(trained.params), jax.tree.leaves(back.params), strict=True):
        np.testing.assert_array_equal(old, new)
    for name in ("t", "log_t", "clock", "energy"):
        np.testing.assert_array_equal(getattr(back, name), getattr(trained, name))
    for name in ("stats", "result", "stopped_by", "rtol", "atol", "events", "chart", "integrator"):
        assert getattr(back, name) == getattr(trained, name)
    np.testing.assert_array_equal(back.observe("loss"), trained.observe("loss"))
    np.testing.assert_array_equal(back.observe("margin"), trained.observe("margin"))
    # A function cannot be read back.
    with pytest.warns(NeedsRiskWarning, match=r"gf\.load\(path, risk=\.\.\.\)"):
        trajectory.save(path)
    with pytest.raises(ValueError, match="risk="):
        load(path)
    again = load(path, risk=SADDLE)
    assert repr(again) == repr(trajectory)
    np.testing.assert_array_equal(again.final["x"], trajectory.final["x"])


def test_an_interrupted_write_leaves_the_old_file(trained, tmp_path):
    path = tmp_path / "flow.nc"
    trained.save(path)
    before = path.read_bytes()

    def dies(temporary):
        with open(temporary, "wb") as file:
            file.write(before[: len(before) // 2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, dies)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["flow.nc"]


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        load(tmp_path / "none.nc")
    (tmp_path / "junk.nc").write_bytes(b"not a netcdf file")
    with pytest.raises(ValueError, match="not a readable trajectory"):
        load(tmp_path / "junk.nc")
    with pytest.raises(ValueError, match="no existing folder"):
        replace_file(tmp_path / "no" / "x.nc", lambda name: None)


def test_trees_round_trip():
    tree = {"a": [np.ones(2), (np.zeros(()), None)], "b": {"c": np.arange(3.0)}}
    structure, arrays = describe_tree(tree)
    assert repr(rebuild_tree(structure, arrays)) == repr(tree)
    with pytest.raises(ValueError, match="cannot be stored"):
        describe_tree({"a": object()})


def test_xarray_view(trained):
    data = trained.to_xarray()
    assert data["inner"].dims == ("log_t", "neuron", "input")
    assert data["outer"].dims == ("log_t", "neuron")
    assert data["inner"].shape == (3, 3, 2)
    assert all({"units", "long_name"} <= set(data[name].attrs) for name in [*data, *data.coords])
    assert data.attrs["gradflow_version"]
    assert data.attrs["stats_steps"] == trained.stats["steps"]
    np.testing.assert_array_equal(data["time"], [0.0, 1.0, 5.0])


BAD = [
    ({"rtol": 0.0}, "rtol"),
    ({"rtol": -1e-8}, "rtol"),
    ({"rtol": 1e-17}, "rtol"),
    ({"rtol": np.nan}, "rtol"),
    ({"atol": 0.0}, "atol"),
    ({"atol": -1.0}, "atol"),
    ({"integrator": "euler"}, "integrator"),
    ({"clock": "sidereal"}, "clock"),
    ({"chart": "mercator"}, "chart"),
    ({"chart": "log-angle"}, "chart"),
    ({"until": -10.0}, "until"),
    ({"save_at": [-1.0]}, "save_at"),
    ({"save_at": [3.0]}, "save_at"),
    ({"max_steps": 0}, "max_steps"),
    ({"progress": 3}, "progress"),
]


@pytest.mark.parametrize(("change", "argument"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_names_the_argument(change, argument):
    with pytest.raises(ValueError, match=argument):
        integrate(SADDLE, START, **{"until": until.time(2.0), **change})


@pytest.mark.parametrize("start", [{"x": np.nan, "z": 1.0}, {"x": np.float32(1), "z": 1.0}, {}])
def test_bad_starts_are_refused(start):
    with pytest.raises(ValueError, match="params"):
        integrate(SADDLE, start, until=until.time(1.0))


def test_numerical_failure_is_a_result_or_an_error():
    with pytest.warns(IntegrationWarning, match="Raise max_steps") as warned:
        kept = integrate(SADDLE, START, until=until.time(20.0), max_steps=5)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert (kept.result.name, kept.result.ok) == ("max_steps", False)
    assert 1 < len(kept) <= 6
    assert kept.t_final < 20.0
    with pytest.raises(IntegrationError, match="max_steps") as raised:
        integrate(SADDLE, START, until=until.time(20.0), max_steps=5, throw=True)
    assert isinstance(raised.value, RuntimeError)
    assert raised.value.path.t_final == kept.t_final


def test_saving_by_clock():
    values = np.linspace(0.0, 3.0, 4)
    trajectory = integrate(SADDLE, START, until=until.time(20.0), save_at=save.clock(values))
    np.testing.assert_array_equal(trajectory.clock, values)
    assert trajectory.final["z"] == pytest.approx(np.exp(-20.0), abs=1e-8)


def test_functions_without_a_logarithm_still_have_a_loss():
    risk = FunctionRisk(lambda p: jnp.sum(p**2) - 1.0)
    path = integrate(risk, np.array([0.5]), until=until.time(1.0))
    np.testing.assert_allclose(path.observe("loss"), path.params[:, 0] ** 2 - 1.0)
    assert np.max(path.observe("energy_defect")) < 1e-7
    still = integrate(FunctionRisk(lambda p: jnp.sum(p**2)), np.zeros(2), until=until.time(1.0))
    assert np.all(still.observe("energy_defect") == 0)


def test_xarray_names_of_a_users_pytree_do_not_collide():
    risk = FunctionRisk(lambda p: p["time"] ** 2 + p["energy"] ** 2 + p["norm"] ** 2)
    start = {"time": np.array(1.0), "energy": np.array(2.0), "norm": np.array(3.0)}
    view = integrate(risk, start, until=until.time(1.0)).to_xarray()
    assert {"params_time", "params_energy", "params_norm"} <= set(view.data_vars)
    assert view["energy"].attrs["long_name"] == "integral of the squared speed"


def test_data_that_contradict_each_other_are_named():
    """A limit direction asked of rows 1 and 3, one point with both labels: no endless loop."""
    import gradflow as gf

    X = np.array([[1.0, 0.2], [0.5, -1.0], [-0.3, 0.8], [1.0, -2.0]])
    risk = gf.EmpiricalRisk(gf.LinearPredictor(2), gf.logistic, X, [1.0, 1.0, -1.0, -1.0])
    with pytest.warns(gf.IntegrationWarning, match="has come to rest"):
        path = gf.integrate(risk, risk.net.params([0.3, 0.1]), until=gf.until.log_time(1e10))
    assert path.result.name == "stationary"
    assert not path.result.ok
    assert "rows [1] (label +1) and [3] (label -1)" in path.result.message
    assert "margin <= 0" in path.result.message
