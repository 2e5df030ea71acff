"""Every integrator against a matrix exponential, and the loop's own promises."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import gradflow as gf
from gradflow.integrators import watch
from gradflow.integrators.contract import (
    AbstractEvent,
    Problem,
    integrator_names,
    make_integrator,
    register_integrator,
)
from gradflow.integrators.steppers import diffrax as diffrax_solvers
from gradflow.integrators.steppers.scipy import ScipyStepper
from gradflow.integrators.tolerances import Tolerances
from gradflow.integrators.watch import Watch

N = 4
_M = np.random.default_rng(0).normal(size=(N, N))
A = -(_M @ _M.T) / N - 0.05 * np.eye(N)
Y0 = np.random.default_rng(1).normal(size=N)

EXPLICIT = ["tsit5", "dopri5", "dopri8", "bosh3", "heun"]
IMPLICIT = ["kvaerno3", "kvaerno5"]
SCIPY = ["rk45", "dop853", "lsoda", "radau", "bdf"]
LOW_ORDER = {"bosh3", "heun", "kvaerno3"}


class Linear(eqx.Module):
    matrix: jax.Array

    def field(self, s, Y):
        return self.matrix @ Y


class BelowSquare(AbstractEvent):
    threshold: jax.Array

    @property
    def label(self):
        return f"square({float(self.threshold)!r})"

    def __call__(self, flow, s, Y):
        return self.threshold - jnp.sum(Y * Y)


class Blowup(eqx.Module):
    power: jax.Array

    def field(self, s, Y):
        return Y * Y * self.power


FLOW = Linear(jnp.asarray(A))
EVENT = BelowSquare(jnp.asarray(0.1))


def problem(rtol=1e-8, **kwargs):
    tolerances = Tolerances.plain(rtol, np.full(N, rtol * np.abs(Y0).max()))
    return Problem(FLOW, Y0, 0.0, 10.0, tolerances, **kwargs)


def exact(s):
    return expm(A * s) @ Y0


def test_all_integrators_are_tested_here():
    assert set(integrator_names()) >= {*EXPLICIT, *IMPLICIT, "kvaerno4", *SCIPY}


@pytest.mark.parametrize("name", [*EXPLICIT, *IMPLICIT, *SCIPY])
def test_matrix_exponential_with_stop_and_save_points(name):
    rtol = 1e-5 if name in LOW_ORDER else 1e-8
    save = np.linspace(0.0, 10.0, 5)
    solution = make_integrator(name).solve(problem(rtol, save=save, events=(EVENT,)))
    assert solution.result.name == "event"
    assert solution.event is EVENT
    # The stop is where |Y|^2 = 0.1, on the solver's curve and (to the tolerance) on the exact one.
    assert np.sum(solution.Y_final**2) == pytest.approx(0.1, abs=1e-12)
    assert np.abs(solution.Y_final - exact(solution.s_final)).max() < 20 * rtol
    np.testing.assert_array_equal(solution.s, save[save <= solution.s_final])
    for s, Y in zip(solution.s, solution.Y, strict=True):
        assert np.abs(Y - exact(s)).max() < 20 * rtol
    assert solution.stats["rhs"] > solution.stats["steps"] > 0
    assert (solution.stats["jacobians"] > 0) == (name in {*IMPLICIT, "radau", "bdf"}) or (
        name == "lsoda"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kvaerno4"])
def test_matrix_exponential_slow_to_compile(name):
    solution = make_integrator(name).solve(problem(1e-7))
    assert np.abs(solution.Y_final - exact(10.0)).max() < 20 * 1e-7


def test_stiff_steps_of_high_order_are_not_rejected_one_by_one():
    """Rates 1e-3 ... 1e3 in the time exp(s): half of the steps were rejected."""

    class Decays(eqx.Module):
        rates: jax.Array

        def field(self, s, Y):
            return -jnp.exp(s) * self.rates * Y

    rates, Y = np.logspace(-3, 3, 5), np.linspace(1.0, 2.0, 5)
    stiff = Problem(
        Decays(jnp.asarray(rates)), Y, 0.0, np.log(1e3), Tolerances.plain(1e-6, np.full(5, 1e-6))
    )
    solution = make_integrator("kvaerno5").solve(stiff)
    assert solution.stats["rejected"] < 0.5 * solution.stats["steps"]
    assert np.abs(solution.Y_final - Y * np.exp(-rates * 999.0)).max() < 1e-5


def test_saving_does_not_change_the_steps():
    integrator = make_integrator("tsit5")
    free = integrator.solve(problem(events=(EVENT,)))
    saved = integrator.solve(problem(events=(EVENT,), save=np.linspace(0.0, 10.0, 5)))
    assert saved.s_final == free.s_final
    np.testing.assert_array_equal(saved.Y_final, free.Y_final)
    assert saved.stats["steps"] == free.stats["steps"] == free.s.shape[0] - 1


@pytest.mark.parametrize("save", [None, np.linspace(0.0, 10.0, 39)])
def test_small_buffers_and_segments_give_the_same_bits(monkeypatch, save):
    integrator = make_integrator("tsit5")
    whole = integrator.solve(problem(events=(EVENT,), save=save))
    monkeypatch.setattr(diffrax_solvers, "_rows_for", lambda dim: 3)
    monkeypatch.setattr(watch, "LARGEST_BUDGET", 7)
    pieces = integrator.solve(problem(events=(EVENT,), save=save))
    np.testing.assert_array_equal(pieces.s, whole.s)
    np.testing.assert_array_equal(pieces.Y, whole.Y)
    for key in ("steps", "rejected", "rhs"):
        assert pieces.stats[key] == whole.stats[key]


def test_same_problem_same_bits_and_no_second_compilation():
    integrator = make_integrator("tsit5")
    case = problem(events=(EVENT,))
    first, second = integrator.solve(case), integrator.solve(case)
    np.testing.assert_array_equal(first.Y, second.Y)
    assert second.stats["compile_seconds"] == 0.0
    assert second.stats["run_seconds"] < 0.5


def test_right_hand_sides_are_counted_exactly():
    seen = []

    class Counting(eqx.Module):
        matrix: jax.Array

        def field(self, s, Y):
            jax.debug.callback(lambda _: seen.append(1), s)
            return self.matrix @ Y

    base = problem(rtol=1e-5)
    solution = make_integrator("tsit5").solve(dataclasses.replace(base, flow=Counting(FLOW.matrix)))
    jax.effects_barrier()
    assert solution.stats["rhs"] == len(seen)


def test_a_component_out_of_error_control_costs_no_steps():
    class Monitored(eqx.Module):
        matrix: jax.Array

        def field(self, s, Y):
            return jnp.append(self.matrix @ Y[:N], 1e6 * jnp.sin(1e3 * s))

    mask = np.append(np.ones(N, bool), False)
    tolerances = Tolerances.plain(1e-6, np.full(N + 1, 1e-6))
    watched = Problem(
        Monitored(FLOW.matrix), np.append(Y0, 0.0), 0.0, 10.0,
        dataclasses.replace(tolerances, controlled=mask),
    )  # fmt: skip
    tolerances = Tolerances.plain(1e-6, np.full(N, 1e-6))
    free = dataclasses.replace(problem(), tolerances=tolerances)
    integrator = make_integrator("tsit5")
    assert integrator.solve(watched).stats["steps"] == integrator.solve(free).stats["steps"]


@pytest.mark.parametrize("name", ["tsit5", "lsoda"])
def test_failures_are_results_and_keep_what_was_computed(name):
    # y' = y^2 from 1 blows up at s = 1.
    blowup = Problem(
        Blowup(jnp.asarray(1.0)), np.ones(1), 0.0, 2.0, Tolerances.plain(1e-8, np.full(1, 1e-8)),
        max_steps=3000,
    )  # fmt: skip
    solution = make_integrator(name).solve(blowup)
    assert not solution.result.ok
    assert solution.result.name in {"step_too_small", "max_steps", "failed"}
    assert solution.s_final == pytest.approx(1.0, abs=1e-4)
    assert solution.Y[5] == pytest.approx(1 / (1 - solution.s[5]), rel=1e-6)
    bad = make_integrator(name).solve(dataclasses.replace(blowup, Y0=np.array([np.inf])))
    assert bad.result.name == "non_finite"
    few = make_integrator(name).solve(dataclasses.replace(blowup, max_steps=4))
    assert few.result.name == "max_steps"
    assert "max_steps" in few.result.message


def test_stop_met_at_the_start_and_empty_interval():
    integrator = make_integrator("tsit5")
    there = BelowSquare(jnp.asarray(1e3))
    met = integrator.solve(problem(events=(there,)))
    assert (met.result.name, met.s_final) == ("event", 0.0)
    assert met.event is there
    nothing = integrator.solve(dataclasses.replace(problem(), s_end=0.0))
    assert nothing.result.name == "reached"
    np.testing.assert_array_equal(nothing.Y_final, Y0)


def test_step_cap_and_progress():
    told = []
    for name in ("tsit5", "rk45"):
        solution = make_integrator(name).solve(problem(step_cap=5, watch=Watch(told.append)))
        assert solution.result.name == "steps"
        assert solution.stats["steps"] == 5
        assert told.pop()["steps"] == 5


def test_registry_refuses_a_taken_name():
    with pytest.raises(ValueError, match="tsit5"):
        register_integrator("tsit5", lambda: make_integrator("heun"))


def test_programs_are_let_go_where_maps_run_short(monkeypatch):
    from gradflow.numerics import compiled

    monkeypatch.setattr(compiled, "_CACHE", type(compiled._CACHE)())
    arguments = [(np.zeros(n),) for n in range(1, 6)]
    for one in arguments:
        compiled.compile_once(lambda x: 2.0 * x, "double", one)
    assert len(compiled._CACHE) == 5
    compiled.compile_once(lambda x: 2.0 * x, "double", arguments[0])  # used again
    monkeypatch.setattr(compiled, "_MOST_MAPS", 0)
    program, arrays, _ = compiled.compile_once(lambda x: 2.0 * x, "double", (np.ones(7),))
    np.testing.assert_array_equal(program(*arrays), 2 * np.ones(7))
    if compiled._MAPS.exists():
        kept = [key[-1][0][0] for key in compiled._CACHE]
        assert kept == [(5,), (1,), (7,)]


def test_a_save_point_is_reached_where_a_jacobian_is_not_finite(monkeypatch):
    """Radau's own step had an older Jacobian; the step to a save point asks for a new one."""
    net = gf.TwoLayer(2, 3, gf.tanh)
    X = np.random.default_rng(0).normal(size=(8, 2))
    risk = gf.EmpiricalRisk(net, gf.squared, X, np.sin(X[:, 0]))
    start = net.init(jax.random.key(0), 0.5)
    until, save_at = gf.until.time(5.0), gf.save.times([1.0, 2.5])
    plain = gf.integrate(risk, start, until=until, save_at=save_at, integrator="radau")
    again, asked = ScipyStepper._again, []

    def without(self, steps, i, x):
        asked.append(x)
        jac = lambda s, Y: np.full((Y.size, Y.size), np.nan)
        kept, self.options = self.options, {**self.options, "jac": jac}
        try:
            return again(self, steps, i, x)
        finally:
            self.options = kept

    monkeypatch.setattr(ScipyStepper, "_again", without)
    path = gf.integrate(risk, start, until=until, save_at=save_at, integrator="radau")
    assert path.result.ok
    assert len(asked) >= 2
    np.testing.assert_allclose(path.params.inner, plain.params.inner, rtol=0, atol=1e-6)


def test_a_step_inside_a_step_that_fails_is_no_state(monkeypatch):
    net = gf.TwoLayer(2, 3, gf.tanh)
    risk = gf.EmpiricalRisk(net, gf.squared, np.eye(2), np.ones(2))
    monkeypatch.setattr(ScipyStepper, "_again", lambda me, steps, i, x: me._from(
        "rk45", 0.0, np.ones(steps.Y.shape[1]), 1.0, {"rtol": 1e-6, "atol": 1e-9, "max_step": 0.1}
    ))  # fmt: skip
    monkeypatch.setattr("scipy.integrate.RK45._step_impl", lambda me: (False, "too hard"))
    start = net.init(jax.random.key(0), 0.5)
    with pytest.raises(ValueError, match=r"did not get from .* inside a step: too hard"):
        gf.integrate(risk, start, until=2.0, save_at=gf.save.times([1.0]), integrator="radau")
