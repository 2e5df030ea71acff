"""The loop around the steppers: dense output, interrupts, bounds on attempts, solver objects."""

from __future__ import annotations

import dataclasses
import io
import signal

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from test_integrators import EVENT, Y0, A, Blowup, problem

import gradflow as gf
from gradflow.flows.flow import make_flow
from gradflow.integration import IntegrationWarning
from gradflow.integrators import watch
from gradflow.integrators.contract import Problem, make_integrator
from gradflow.integrators.tolerances import Asked, Tolerances
from gradflow.integrators.watch import Watch
from gradflow.numerics.roots import bracketed_roots

DECAY = gf.FunctionRisk(lambda p: 0.5 * jnp.sum(jnp.array([1.0, 9.0]) * p["a"] ** 2))
START = {"a": jnp.array([1.0, 2.0])}


def kinked(slope=0.2, seed=11):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(9, 3))
    net = gf.TwoLayer(3, 4, gf.leaky_relu(slope))
    risk = gf.EmpiricalRisk(net, gf.exponential, X, np.sign(X @ rng.normal(size=3)))
    return risk, net.init(jax.random.key(4), 0.3)


def test_roots_of_several_brackets_side_by_side():
    target = np.array([0.1, 2.0, 7.5])
    asked = []

    def probe(which, x):
        asked.append(which.size)
        return x**3 - target[which]

    zero, two = np.zeros(3), np.full(3, 2.0)
    b = bracketed_roots(probe, zero, -target, two, 8.0 - target, np.full(3, 1e-14))
    np.testing.assert_allclose(b, np.cbrt(target), rtol=1e-13)
    assert np.all(b**3 - target >= 0)
    assert len(asked) < 30


@pytest.mark.parametrize("name", ["tsit5", "dopri8", "kvaerno3", "rk45", "lsoda"])
def test_dense_output_is_as_accurate_as_the_steps(name):
    solution = make_integrator(name).solve(problem(1e-6, events=(EVENT,), dense=True))
    assert solution.dense is not None
    assert solution.dense.s_last == solution.s_final
    s = np.linspace(0.0, solution.s_final, 41)
    Y = solution.dense(s)
    assert np.abs(Y - np.array([expm(A * x) @ Y0 for x in s])).max() < 2e-5
    # The recorded states themselves, to the bit.
    np.testing.assert_array_equal(solution.dense(solution.s), solution.Y)
    with pytest.raises(ValueError, match=r"s=.*outside the stage"):
        solution.dense(np.array([solution.s_final + 1.0]))


def test_dense_output_and_save_points_are_the_same_steps():
    s = np.linspace(0.3, 9.7, 7)
    dense = make_integrator("tsit5").solve(problem(dense=True)).dense
    assert dense is not None
    np.testing.assert_array_equal(dense(s), make_integrator("tsit5").solve(problem(save=s)).Y)


def test_dense_output_between_surfaces():
    risk, start = kinked()
    found = []
    s = np.linspace(0.05, 2.9, 12)
    for save in (gf.save.dense(), gf.save.clock(s)):
        found.append(gf.integrate(risk, start, until=gf.until.clock(3.0), save_at=save))
    flow = make_flow(risk, start, clock="loss")
    base = problem(1e-8)
    Y = flow.initial(start)
    tolerances = Tolerances.of(flow, Y, Asked(1e-8), "piecewise")
    whole = dataclasses.replace(
        base, flow=flow.core(), Y0=Y, s_end=3.0, tolerances=tolerances, dense=True
    )
    solution = make_integrator("piecewise").solve(whole)
    assert len(found[0].events) > 2
    assert solution.dense is not None
    inner = flow.chart.decode(flow.split(solution.dense(s))[0]).inner
    np.testing.assert_allclose(inner, found[1].params.inner, atol=1e-8)


INTERRUPTED = ["tsit5", "dopri8", "rk45", "lsoda"]


def long_problem(**kwargs):
    # y' = y^2 from 1 ends nowhere near its s_end: at s = 1 steps only get shorter.
    flow, tolerances = Blowup(jnp.asarray(1.0)), Tolerances.plain(1e-12, np.full(1, 1e-12))
    return Problem(flow, np.ones(1), 0.0, 0.999999, tolerances, **kwargs)


@pytest.mark.parametrize("name", INTERRUPTED)
@pytest.mark.parametrize("how", ["progress", "interrupt", "max_seconds"])
def test_an_integration_ends_when_told_and_keeps_its_part(monkeypatch, name, how):
    monkeypatch.setattr(watch, "LARGEST_BUDGET", 5)
    monkeypatch.setattr("gradflow.integrators.march.FIRST_BUDGET", 5)
    told = []

    def progress(news):
        told.append(news)
        if how == "interrupt" and len(told) == 2:
            signal.raise_signal(signal.SIGINT)
        return not (how == "progress" and len(told) == 2)

    limit = 1e-9 if how == "max_seconds" else None
    with Watch(progress, limit) as watching:
        solution = make_integrator(name).solve(long_problem(watch=watching))
    assert solution.result.name == ("max_seconds" if how == "max_seconds" else "interrupted")
    assert not solution.result.ok
    assert solution.s_final == solution.s[-1] > 0
    assert len(solution.s) - 1 == solution.stats["steps"] > 0
    np.testing.assert_allclose(solution.Y[:, 0], 1 / (1 - solution.s), rtol=1e-8)
    assert told[-1]["steps"] == solution.stats["steps"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "until", [gf.until.clock(6.0), gf.until.log_time(1e4)], ids=["early", "late"]
)
def test_kinked_flows_end_when_told(monkeypatch, until):
    risk, start = kinked()
    whole = gf.integrate(risk, start, until=until)
    monkeypatch.setattr("gradflow.integrators.steppers.cells.stepper._MOST_ATTEMPTS", 3)
    told = []

    def progress(news):
        told.append(news)
        return news["log_t"] < 4.0 if until != gf.until.clock(6.0) else False

    with pytest.warns(IntegrationWarning, match="interrupted"):
        part = gf.integrate(risk, start, until=until, progress=progress)
    assert part.result.name == part.stopped_by == "interrupted"
    assert 0 < len(part) < len(whole)
    assert {"s", "steps", "events", "seconds", "log_t", "loss"} <= told[-1].keys()
    with pytest.warns(IntegrationWarning, match="max_seconds"):
        late = gf.integrate(risk, start, until=until, max_seconds=1e-9)
    assert late.result.name == "max_seconds"
    assert "max_seconds" in late.result.message


def test_pauses_to_look_change_no_bit(monkeypatch):
    risk, start = kinked()
    whole = gf.integrate(risk, start, until=gf.until.clock(6.0))
    monkeypatch.setattr("gradflow.integrators.steppers.cells.stepper._MOST_ATTEMPTS", 3)
    paused = gf.integrate(risk, start, until=gf.until.clock(6.0))
    np.testing.assert_array_equal(paused.params.inner, whole.params.inner)
    assert paused.events == whole.events


@pytest.mark.parametrize("name", ["tsit5", "rk45", "dop853", "radau", "bdf", "lsoda"])
def test_max_steps_bounds_attempts(name):
    # A field with a jump a step: about every other attempt is rejected.
    rough = gf.FunctionRisk(lambda p: jnp.sum(jnp.abs(jnp.sin(40.0 * p["a"])) + p["a"] ** 2))
    with pytest.warns(IntegrationWarning, match="max_steps"):
        path = gf.integrate(
            rough, START, until=gf.until.time(1e3), integrator=name, max_steps=60, rtol=1e-9,
            clock="physical",
        )  # fmt: skip
    assert path.result.name == "max_steps"
    assert path.stats["steps"] <= 60
    if name in ("tsit5", "rk45", "dop853"):
        assert 60 <= path.stats["steps"] + path.stats["rejected"] <= 61
    else:
        assert np.isnan(path.stats["rejected"])


def test_lsoda_that_no_longer_moves_ends():
    blowup = dataclasses.replace(long_problem(max_steps=300), s_end=2.0)
    solution = make_integrator("lsoda").solve(blowup)
    assert not solution.result.ok
    assert solution.stats["rhs"] < 20_000


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), diffrax.Kvaerno3()], ids=["tsit5", "kvaerno3"])
def test_a_diffrax_solver_is_an_integrator(solver):
    name = type(solver).__name__.lower()
    kwargs = {"until": gf.until.time(2.0), "rtol": 1e-6}
    by_object = gf.integrate(DECAY, START, integrator=solver, **kwargs)
    by_name = gf.integrate(DECAY, START, integrator=name, **kwargs)
    assert by_object.integrator == name
    np.testing.assert_array_equal(by_object.params["a"], by_name.params["a"])
    np.testing.assert_allclose(by_object.final["a"], [np.exp(-2.0), 2 * np.exp(-18.0)], atol=1e-6)


@pytest.mark.parametrize("solver", [diffrax.Euler(), diffrax.KenCarp4(), "tsit", 3])
def test_what_is_no_integrator_is_refused(solver):
    with pytest.raises(ValueError, match="integrator="):
        gf.integrate(DECAY, START, integrator=solver, until=gf.until.time(1.0))


def test_safety_and_the_tolerances_of_a_step():
    found = {}
    for safety in (None, 1, 0.01):
        path = gf.integrate(
            DECAY, START, until=gf.until.time(1.0), rtol=1e-5, integrator="tsit5", safety=safety
        )
        found[safety] = path.stats
    assert found[None]["rtol_local"] == pytest.approx(1e-6)
    assert found[1]["rtol_local"] == 1e-5
    assert found[0.01]["rtol_local"] == pytest.approx(1e-7)
    assert found[1]["atol_local"] == pytest.approx(1e-5)
    assert found[1]["steps"] < found[None]["steps"] < found[0.01]["steps"]
    with pytest.raises(ValueError, match="safety="):
        gf.integrate(DECAY, START, until=gf.until.time(1.0), safety=0.0)


def test_an_absolute_tolerance_for_each_component():
    flow = make_flow(DECAY, START)
    Y = flow.initial(START)
    built = Tolerances.of(flow, Y, Asked(1e-6, np.array([1e-3, 1e-4]), safety=0.5), "tsit5")
    np.testing.assert_allclose(built.atol_local, [5e-4, 5e-5, 5e-5])
    assert built.stats() == {"rtol_local": 5e-7, "atol_local": 5e-5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_shows_on_a_terminal_after_three_seconds_and_is_cleared(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    gf.integrate(DECAY, START, until=gf.until.time(1.0), integrator="tsit5")
    assert terminal.getvalue() == ""
    monkeypatch.setattr(watch, "_QUIET_SECONDS", -1.0)
    monkeypatch.setattr(watch, "_LINE_SECONDS", -1.0)
    gf.integrate(DECAY, START, until=gf.until.time(1.0), integrator="tsit5")
    shown = terminal.getvalue()
    assert "ln t = " in shown
    assert "steps (" in shown
    assert shown.endswith(f"\r{'':78}\r")
    terminal.truncate(0)
    gf.integrate(DECAY, START, until=gf.until.time(1.0), integrator="tsit5", progress=False)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    "bad", [{"progress": 3}, {"progress": True}, {"max_seconds": 0.0}, {"max_seconds": "1"}]
)
def test_bad_settings_of_a_watch_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        gf.integrate(DECAY, START, until=gf.until.time(1.0), **bad)
