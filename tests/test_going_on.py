"""Paths that go on where they ended, starts at later times: as if the flow had never stopped."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

#: L = e^{-w}: w = ln(e^{w0} + t).
FALL = gf.FunctionRisk(lambda p: jnp.exp(-p["w"]), log_fn=lambda p: -p["w"], label="exponential")


def smooth():
    return FALL, {"w": jnp.asarray(0.1)}


def two_neurons():
    net = gf.TwoLayer(dim=2, width=2, activation=gf.relu, outer="fixed")
    law, teacher = gf.Gaussian(2), gf.LinearTeacher([0.0, 1.0])
    risk = gf.PopulationRisk(net, gf.logistic, law, teacher=teacher)
    return risk, net.params(inner=[[0.6, -0.8], [0.5, 0.4]], outer=[1.0, -1.0])


def data(outer="trained", slope=0.1):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(12, 3))
    net = gf.TwoLayer(3, 6, gf.leaky_relu(slope), outer=outer)
    risk = gf.EmpiricalRisk(net, gf.logistic, X, np.sign(X @ rng.normal(size=3)))
    return risk, net.init(
        jax.random.key(1), 0.1, scheme="balanced" if outer == "trained" else "gaussian"
    )


def same(one, other, tolerance):
    assert other.result.ok
    for a, b in zip(jax.tree.leaves(one.final), jax.tree.leaves(other.final), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * float(np.max(np.abs(a))))
    assert other.log_t_final == pytest.approx(one.log_t_final, rel=1e-9)


CASES = {
    "log clock": (smooth, {"clock": "log"}, [10.0, 50.0]),
    "loss clock": (smooth, {"clock": "loss"}, [10.0, 50.0]),
    "tail of two neurons": (two_neurons, {}, [1e3, 1e20, 1e30]),
    "kinks": (data, {}, [3.0, 20.0]),
    "late phase": (data, {}, [gf.until.log_time(1e2), gf.until.log_time(1e4)]),
}


@pytest.mark.parametrize("loaded", [False, True], ids=["kept", "loaded"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::gradflow.paths.file.NeedsRiskWarning")
def test_a_path_goes_on_where_it_ended(case, loaded, tmp_path):
    build, options, ends = CASES[case]
    risk, start = build()
    whole = gf.integrate(risk, start, until=ends[-1], rtol=1e-9, **options)
    path = gf.integrate(risk, start, until=ends[0], rtol=1e-9, **options)
    for until in ends[1:]:
        if loaded:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", gf.NeedsRiskWarning)
                path.save(tmp_path / "path.nc")
            path = gf.load(tmp_path / "path.nc", risk=risk)
        before, path = path, gf.integrate(path, until=until)
        assert (path.log_t[0], path.clock[0]) == (before.log_t_final, before.clock_final)
        assert (path.clock_name, path.rtol) == (before.clock_name, 1e-9)
    same(whole, path, 1e-7)
    assert path.chart_names[-1] == whole.chart_names[-1]
    np.testing.assert_allclose(path.observe("energy_defect"), 0, atol=1e-7)
    for name in set(whole.exact) & set(path.exact):
        np.testing.assert_allclose(path.exact[name][-1], whole.exact[name][-1], rtol=1e-6)


def test_a_bare_state_goes_on_at_its_time():
    """From the end at ln t = 200: the late phase takes over at once."""
    risk, start = data()
    whole = gf.integrate(risk, start, until=gf.until.log_time(1e3))
    first = gf.integrate(risk, start, until=gf.until.log_time(200.0))
    for t0 in (first.t_final, gf.until.log_time(first.log_t_final)):
        path = gf.integrate(risk, first.final, t0=t0, until=gf.until.log_time(1e3))
        same(whole, path, 1e-8)
        assert path.log_t[0] == pytest.approx(200.0, rel=1e-12)
        assert path.stats["rejected"] < 0.2 * path.stats["steps"]


@pytest.mark.parametrize("size", [40.0, 60.0])
def test_a_start_whose_loss_underflows(size):
    net = gf.TwoLayer(2, 2, gf.leaky_relu(0.1))
    X = np.array([[1.0, 0.2], [0.8, -0.3], [-1.0, 0.1], [-0.7, -0.2]])
    risk = gf.EmpiricalRisk(net, gf.logistic, X, [1.0, 1.0, -1.0, -1.0])
    W = size * np.array([[1.0, 0.1], [-1.0, 0.05]])
    start = net.params(W, np.linalg.norm(W, axis=1) * np.array([1.0, -1.0]))
    log_loss = float(risk.log(start))
    assert log_loss < -600
    path = gf.integrate(risk, start, until=gf.until.log_time(1e5))
    assert path.result.ok
    # Nothing moves before t L = O(1); then L = O(1/t).
    still = np.asarray(path.log_t) < -log_loss - 40
    assert path.t[0] == 0
    np.testing.assert_allclose(path.params.inner[still], np.repeat(W[None], np.sum(still), 0))
    assert path.observe("log_loss")[-1] == pytest.approx(-1e5, rel=1e-3)
    assert gf.certify(path).accepted


def test_times_count_from_one_zero():
    path = gf.integrate(*smooth(), t0=4.0, until=9.0, clock="physical", save_at=[4.0, 6.0, 9.0])
    np.testing.assert_allclose(path.t, [4.0, 6.0, 9.0])
    np.testing.assert_allclose(path.params["w"], np.log(np.exp(0.1) + path.t - 4.0), rtol=1e-8)
    with pytest.raises(ValueError, match="save_at"):
        gf.integrate(*smooth(), t0=4.0, until=9.0, save_at=[1.0, 6.0])
    with pytest.raises(ValueError, match="until"):
        gf.integrate(*smooth(), t0=4.0, until=3.0)
    with pytest.raises(ValueError, match="t0"):
        gf.integrate(*smooth(), t0=-1.0, until=3.0)


def test_what_a_path_has_fixed_is_not_changed():
    path = gf.integrate(*smooth(), until=1.0)
    for change in ({"t0": 2.0}, {"clock": "loss"}, {"chart": "cartesian"}, {"params": path.final}):
        with pytest.raises(ValueError, match=next(iter(change))):
            gf.integrate(path, until=2.0, **change)
    with pytest.raises(ValueError, match="until"):
        gf.integrate(path, until=0.5)


def test_a_late_path_does_not_count_steps():
    path = gf.integrate(*data(), until=gf.until.log_time(50.0))
    assert path.chart_names[-1] == "direction"
    with pytest.raises(ValueError, match=r"until=.*direction stage"):
        gf.integrate(path, until=gf.until.steps(5))
