"""Many starts: each as if alone, to the bit, wherever it was integrated; none loses the others."""

from __future__ import annotations

import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.integrators.steppers.cells.stepper import CellsIntegrator
from gradflow.many import workers as workers_module


def instance(count: int, n: int = 9, m: int = 4) -> tuple[gf.EmpiricalRisk, list]:
    rng = np.random.default_rng(11)
    X = rng.normal(size=(n, 3))
    net = gf.TwoLayer(3, m, gf.leaky_relu(0.2))
    risk = gf.EmpiricalRisk(net, gf.exponential, X, np.sign(X @ rng.normal(size=3)))
    keys = jax.random.split(jax.random.key(4), count)
    return risk, [net.init(key, 0.3) for key in keys]


def assert_same(path, alone):
    assert path.result == alone.result
    assert path.events == alone.events
    assert path.stopped_by == alone.stopped_by
    np.testing.assert_array_equal(path.log_t, alone.log_t)
    jax.tree.map(np.testing.assert_array_equal, path.params, alone.params)
    jax.tree.map(np.testing.assert_array_equal, path.final, alone.final)
    counted = ("steps", "rejected", "rhs", "events")
    assert [path.stats[key] for key in counted] == [alone.stats[key] for key in counted]


@pytest.fixture(scope="module")
def helper():
    """A worker that has started: members are handed out to such ones only."""
    pool = workers_module.POOL.of(1)
    pool.submit(instance, 1).result()
    return pool


@pytest.mark.parametrize("count", [1, 2])
def test_each_as_if_alone(helper, count):
    risk, starts = instance(6)
    until = gf.until.clock(6.0)
    together = gf.integrate_many(risk, starts, until=until, workers=count)
    assert len(together) == 6
    for start, path in zip(starts, together, strict=True):
        assert path.risk is risk
        assert_same(path, gf.integrate(risk, start, until=until))


def test_risks_and_shapes_may_differ(helper):
    one, [start, *_] = instance(1)
    other, [wider, *_] = instance(1, n=14, m=7)
    smooth = gf.FunctionRisk(lambda p: 0.5 * jnp.sum(p**2), label="bowl")
    risks, starts = [one, smooth, other, one], [start, np.array([1.0, 2.0]), wider, start]
    paths = gf.integrate_many(risks, starts, until=2.0, workers=2)
    for risk, begin, path in zip(risks, starts, paths, strict=True):
        assert path.risk is risk
        assert_same(path, gf.integrate(risk, begin, until=2.0))
    np.testing.assert_allclose(paths[1].final, starts[1] * np.exp(-2.0), rtol=1e-8)
    assert_same(paths[3], paths[0])


def test_paths_from_workers_are_whole(helper):
    risk, starts = instance(4)
    whole = gf.until.clock(6.0)
    part = gf.integrate_many(risk, starts, until=gf.until.clock(3.0), workers=2)
    for start, path in zip(starts, part, strict=True):
        alone = gf.integrate(risk, start, until=gf.until.clock(3.0))
        assert_same(gf.integrate(path, until=whole), gf.integrate(alone, until=whole))
        assert path.observe("loss")[-1] == alone.observe("loss")[-1]


def test_bad_input():
    risk, starts = instance(2)
    until = gf.until.clock(1.0)
    with pytest.raises(ValueError, match=r"starts=.*no start"):
        gf.integrate_many(risk, [], until=until)
    with pytest.raises(ValueError, match=r"rtol=-1"):
        gf.integrate_many(risk, starts, until=until, rtol=-1.0)
    with pytest.raises(ValueError, match=r"until=.*before the start"):
        gf.integrate_many(risk, starts, until=0.5, t0=1.0)
    with pytest.raises(ValueError, match=r"risk=.*1 risks for 2 starts"):
        gf.integrate_many([risk], starts, until=until)
    with pytest.raises(ValueError, match=r"workers=0"):
        gf.integrate_many(risk, starts, until=until, workers=0)
    with pytest.raises(ValueError, match=r"progress=3"):
        gf.integrate_many(risk, starts, until=until, progress=3)


def test_what_is_raised_in_one_is_its_result(monkeypatch):
    risk, starts = instance(3)
    until, solve = gf.until.clock(6.0), CellsIntegrator.solve

    def raises(self, problem):
        if problem.Y0[0] == starts[1].inner[0, 0]:
            raise ArithmeticError("the second one")
        return solve(self, problem)

    monkeypatch.setattr(CellsIntegrator, "solve", raises)
    with pytest.warns(gf.IntegrationWarning, match=r"1 of 3 .*raised.*of starts 1: .*second one"):
        paths = gf.integrate_many(risk, starts, until=until)
    assert [path.result.name for path in paths] == ["reached", "raised", "reached"]
    np.testing.assert_array_equal(paths[1].final.inner, starts[1].inner)
    with pytest.raises(gf.IntegrationError, match=r"start 1: .*second one") as caught:
        gf.integrate_many(risk, starts, until=until, throw=True)
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert len(caught.value.paths) == 3


def test_failed_members_are_named():
    risk, starts = instance(3)
    until = gf.until.clock(6.0)
    steps = sorted(gf.integrate(risk, start, until=until).stats["steps"] for start in starts)
    cap = int(steps[-1]) - 1
    with pytest.warns(gf.IntegrationWarning, match=r"of 3 integrations failed \(max_steps\)"):
        paths = gf.integrate_many(risk, starts, until=until, max_steps=cap)
    assert {path.result.name for path in paths} == {"reached", "max_steps"}
    with pytest.raises(gf.IntegrationError, match=r"start \d: .*max_steps") as caught:
        gf.integrate_many(risk, starts, until=until, max_steps=cap, throw=True)
    assert [path.result for path in caught.value.paths] == [path.result for path in paths]


def test_the_time_for_all_is_kept():
    risk, starts = instance(3)
    with pytest.warns(gf.IntegrationWarning, match=r"3 of 3 .*max_seconds.*of starts 0, 1, 2"):
        paths = gf.integrate_many(risk, starts, until=gf.until.clock(6.0), max_seconds=1e-9)
    for start, path in zip(starts, paths, strict=True):
        assert path.result.name == "max_seconds"
        np.testing.assert_array_equal(path.final.inner, start.inner)


@pytest.mark.parametrize("how", ["progress", "ctrl-c"])
def test_what_is_done_is_kept(how):
    risk, starts = instance(5)
    until = gf.until.clock(6.0)

    def progress(news):
        told.append(news)
        if news["done"] < 2:
            return True
        if how == "ctrl-c":
            signal.raise_signal(signal.SIGINT)
        return how == "ctrl-c"

    told: list[dict] = []
    with pytest.warns(gf.IntegrationWarning, match="interrupted"):
        paths = gf.integrate_many(risk, starts, until=until, progress=progress, workers=1)
    done = [path.result.name == "reached" for path in paths]
    assert done == [True, True, False, False, False]
    assert told[-1]["done"] == told[-1]["total"] == 5
    for start, path in zip(starts[:2], paths[:2], strict=True):
        assert_same(path, gf.integrate(risk, start, until=until))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_than_the_main_one():
    risk, starts = instance(4)
    until = gf.until.clock(6.0)
    found: dict[int, list] = {}

    def go(number):
        found[number] = gf.integrate_many(risk, starts, until=until, workers=1)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for paths in found.values():
        for start, path in zip(starts, paths, strict=True):
            assert_same(path, gf.integrate(risk, start, until=until))


def test_one_by_one_where_there_is_no_batch():
    risk = gf.FunctionRisk(lambda p: 0.5 * jnp.sum(p**2), label="bowl")
    starts = [np.array([1.0, 2.0]), np.array([-3.0, 0.5])]
    options = {"until": 1.5, "clock": "physical", "integrator": "tsit5", "atol": 1e-12, "t0": 0.5}
    for start, path in zip(starts, gf.integrate_many(risk, starts, **options), strict=True):
        alone = gf.integrate(risk, start, **options)
        np.testing.assert_array_equal(path.final, alone.final)
        np.testing.assert_allclose(path.final, start * np.exp(-1.0), rtol=1e-8)
        assert (path.t[0], path.t_final) == (0.5, 1.5)


def test_members_of_a_process_that_dies_are_integrated_here(helper):
    risk, starts = instance(6)
    until = gf.until.clock(6.0)
    process, killed = helper.submit(os.getpid).result(), []

    def progress(news):
        if news["done"] >= 1 and not killed:
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    paths = gf.integrate_many(risk, starts, until=until, progress=progress, workers=2)
    assert killed
    for start, path in zip(starts, paths, strict=True):
        assert_same(path, gf.integrate(risk, start, until=until))
