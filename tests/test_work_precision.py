"""Solvers measured on flows: counts, honesty, references, isolation, and the table."""

from __future__ import annotations

import itertools
import json
import math
import os
import threading
import time
from dataclasses import replace

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from typer.testing import CliRunner

import gradflow as gf
from gradflow import cli
from gradflow.benchmarking import (
    FunctionSolver,
    Outcome,
    Problem,
    Route,
    Row,
    WorkPrecision,
    problem_names,
    problem_table,
    solver_names,
    work_precision,
)
from gradflow.benchmarking.field import Field, Programs
from gradflow.benchmarking.row import Reference, judge, with_errors
from gradflow.benchmarking.solvers.located import Located
from gradflow.benchmarking.solvers.names import as_solver
from gradflow.benchmarking.solvers.ours import Ours

STEPS = 100


def exact(field, y0, span, rtol):
    """The flow of ½|θ|² in closed form."""
    return y0 * np.exp(-(span[1] - span[0]))


def off_by_1e_6(field, y0, span, rtol):
    return exact(field, y0, span, rtol) + 1e-6


def rk4(field, y0, span, rtol):
    y, h = y0, (span[1] - span[0]) / STEPS
    for n in range(STEPS):
        t = span[0] + n * h
        k1 = field(t, y)
        k2 = field(t + h / 2, y + h / 2 * k1)
        k3 = field(t + h / 2, y + h / 2 * k2)
        k4 = field(t + h, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y, {"steps": STEPS}


def one_jacobian(field, y0, span, rtol):
    J = field.jacobian(0.0, y0)
    return y0 * np.exp(J[0, 0] * span[1])


def gives_up(field, y0, span, rtol):
    raise RuntimeError("it is too hard")


def never_ends(field, y0, span, rtol):
    while True:
        field(0.0, y0)


def swallows(field, y0, span, rtol):
    """Takes the end of its time for a failure of the field, and goes on to claim success."""
    try:
        return never_ends(field, y0, span, rtol)
    except BaseException:
        return y0


def sleeps(field, y0, span, rtol):
    time.sleep(60)


def crashes(field, y0, span, rtol):
    os.abort()


def not_a_number(field, y0, span, rtol):
    return np.full_like(y0, np.nan)


def wrong_shape(field, y0, span, rtol):
    return y0[:1]


def no_array(field, y0, span, rtol):
    return integrate.solve_ivp(field, span, y0, rtol=rtol)


REFERENCES = Route(FunctionSolver(exact), 1e-14), Route("scipy-dop853", 1e-13)


@pytest.fixture(scope="module")
def decay() -> Problem:
    risk = gf.FunctionRisk(lambda p: 0.5 * jnp.sum(p * p), label="half the square")
    start = jnp.asarray([1.0, -2.0, 0.5])
    return Problem("decay", risk, start, 2.0, ("smooth",), "½|θ|²", REFERENCES)


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    return {problem.name: problem for problem in problem_table()}


@pytest.fixture(scope="module")
def smooth(problems) -> Problem:
    """The smooth problem, with references that cost less."""
    routes = Route("scipy-radau-jac", 1e-9), Route("scipy-dop853", 1e-11)
    return replace(problems["smooth"], routes=routes)


def measure(problem: Problem, *solvers, tolerances=(1e-9,), **more) -> WorkPrecision:
    options = {"repeats": 1, "time_limit": 1.0, "isolate": False, **more}
    return work_precision(problem, list(solvers), tolerances, **options)


def only(table: WorkPrecision) -> Row:
    (row,) = table
    return row


# ---------------------------------------------------------------------------------------------
# Honesty


@pytest.mark.parametrize(
    ("solver", "outcome", "says"),
    [
        (rk4, Outcome.REACHED, ""),
        (off_by_1e_6, Outcome.DISHONEST, ""),
        (not_a_number, Outcome.DISHONEST, "not finite"),
        (gives_up, Outcome.FAILED, "RuntimeError: it is too hard"),
        (wrong_shape, Outcome.FAILED, "of shape (3,)"),
        (no_array, Outcome.FAILED, "is no array"),
        (never_ends, Outcome.TIME_OUT, ""),
        (swallows, Outcome.TIME_OUT, ""),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_solver_says_and_what_is_so(decay, solver, outcome, says):
    row = only(measure(decay, solver, time_limit=0.5))
    assert row.outcome == outcome
    assert says in row.message
    assert row.arrived == (outcome in (Outcome.REACHED, Outcome.DISHONEST))
    assert math.isnan(row.error) != row.arrived


def test_error_is_that_of_the_state(decay):
    row = only(measure(decay, off_by_1e_6))
    assert row.error == pytest.approx(1e-6 / (2 * math.exp(-2)), rel=1e-6)
    assert row.resolved
    assert row.reference_error < 1e-12


@pytest.mark.parametrize(("asked", "lies"), [(1e-4, False), (1e-7, False), (1e-8, True)])
def test_dishonest_is_an_error_above_a_hundred_times_what_was_asked(decay, asked, lies):
    # (3.7e-6 is 37 times 1e-7)
    table = measure(decay, off_by_1e_6, tolerances=(asked,))
    assert (only(table).outcome == Outcome.DISHONEST) == lies
    assert len(table.dishonest) == lies
    assert ("DISHONEST" in str(table)) == lies


def test_who_promises_nothing_does_not_lie(decay):
    table = measure(decay, "descent")
    assert [row.outcome for row in table] == [Outcome.REACHED] * 4
    assert all(math.isnan(row.asked) for row in table)
    ratios = [a.error / b.error for a, b in itertools.pairwise(table)]
    assert ratios == pytest.approx([10] * 3, rel=0.2)  # Euler's method is of order 1


REF_A = Reference("a", frozenset({"A"}), np.array([1.0, 2.0]))
REF_B = Reference("b", frozenset({"B"}), np.array([1.0, 2.0 + 2e-8]))


def test_the_error_of_a_reference_is_its_distance_to_another():
    assert [ref.error for ref in with_errors([REF_A, REF_B])] == pytest.approx([1e-8, 1e-8])
    assert math.isnan(with_errors([REF_A])[0].error)


@pytest.mark.parametrize(
    ("gap", "families", "outcome", "resolved", "judged_by"),
    [
        (2e-6, {"B"}, Outcome.DISHONEST, True, "a"),
        (2e-6, {"A"}, Outcome.DISHONEST, True, "b"),
        (2e-9, {"C"}, Outcome.REACHED, False, "a"),  # (the reference is no better)
        (2e-6, {"A", "B"}, Outcome.UNJUDGED, False, ""),
    ],
)
def test_kin_does_not_judge(gap, families, outcome, resolved, judged_by):
    blank = Row("p", "s", "rtol 1e-12", 1e-12, 1e-12)
    y = REF_A.y + np.array([0.0, gap])
    row = judge(blank, y, frozenset(families), with_errors([REF_A, REF_B]))
    assert (row.outcome, row.resolved, row.reference) == (outcome, resolved, judged_by)


def test_a_reference_that_is_no_better_accuses_nobody():
    blank = Row("p", "s", "rtol 1e-14", 1e-14, 1e-14)
    row = judge(blank, REF_A.y + 1e-9, frozenset(), with_errors([REF_A, REF_B]))
    assert row.outcome == Outcome.REACHED
    assert not row.resolved


@pytest.mark.parametrize("solver", ["scipy-rk45", "scipy-dop853", diffrax.Tsit5()])
def test_references_of_ones_own_kind_are_refused(decay, solver):
    kin = Problem("kin", decay.risk, decay.start, 1.0, routes=[Route("scipy-dop853", 1e-13)])
    with pytest.raises(ValueError, match=r"explicit Runge-Kutta.*judged by itself"):
        measure(kin, solver)


# ---------------------------------------------------------------------------------------------
# Counts


def test_counts_of_rk4_by_hand(decay):
    row = only(measure(decay, rk4))
    assert (row.rhs, row.steps, row.jacobians) == (4 * STEPS, STEPS, 0)
    assert row.runs > 2  # (short ones are repeated)
    assert row.run_seconds > 0


def test_short_calls_are_repeated_and_long_ones_are_not(decay):
    def slow(field, y0, span, rtol):
        end = time.process_time() + 0.35
        while time.process_time() < end:
            pass
        return rk4(field, y0, span, rtol)

    assert only(measure(decay, slow)).runs == 2
    assert only(measure(decay, rk4)).runs == 6


def test_jacobians_are_counted(decay):
    row = only(measure(decay, one_jacobian))
    assert (row.rhs, row.jacobians) == (0, 1)
    assert row.error < 1e-14


@pytest.mark.parametrize("name", ["diffrax-tsit5", "numba-tsit5"])
def test_counts_of_compiled_loops_are_those_of_their_method(smooth, name):
    """Tsit5 takes six evaluations an attempt, and some at the start."""
    row = only(measure(smooth, name, tolerances=(1e-6,)))
    assert row.error < 1e-4
    assert row.rhs % 6 == {"diffrax-tsit5": 3, "numba-tsit5": 1}[name]
    assert row.rhs >= 6 * row.steps


@pytest.mark.parametrize("name", ["scipy-rk45", "scipy-lsoda", "scipy-radau-jac"])
def test_counts_of_scipy_are_those_of_solve_ivp(smooth, name):
    problem = smooth
    field = Field(Programs(problem), 60.0)
    method = {"rk45": "RK45", "lsoda": "LSODA", "radau": "Radau"}[name.split("-")[1]]
    more = {"jac": field.jacobian} if name.endswith("jac") else {}
    found = integrate.solve_ivp(
        field,
        (0.0, problem.t_end),
        problem.y0,
        method,
        rtol=1e-5,
        atol=1e-5 * problem.scale,
        **more,
    )
    row = only(measure(problem, name, tolerances=(1e-5,)))
    assert (row.rhs, row.jacobians) == (field.rhs, field.jacobians)
    assert row.steps == len(found.t) - 1


# ---------------------------------------------------------------------------------------------
# A process beside this one


@pytest.fixture(scope="module")
def isolated(decay) -> WorkPrecision:
    shown = []
    table = work_precision(
        decay, [rk4, crashes, FunctionSolver(rk4, name="rk4 again"), sleeps], [1e-6, 1e-9],
        repeats=1, time_limit=0.5, compile_limit=5.0, progress=shown.append,
    )  # fmt: skip
    assert list(table) == shown
    return table


def test_a_crash_is_a_row(isolated):
    first, second = isolated.where(solver="crashes")
    assert (first.outcome, first.message) == (Outcome.FAILED, "the process died of SIGABRT")
    assert (second.outcome, second.message) == (
        Outcome.FAILED, "not tried: failed at rtol 1e-06",
    )  # fmt: skip


def test_a_hang_is_ended(isolated):
    first, second = isolated.where(solver="sleeps")
    assert {first.outcome, second.outcome} == {Outcome.TIME_OUT}
    assert "had to be ended" in first.message
    assert "not tried" in second.message


def test_others_go_on(isolated):
    for name in ("rk4", "rk4 again"):
        assert [row.outcome for row in isolated.where(solver=name)] == [Outcome.REACHED] * 2


def test_what_cannot_be_sent_is_a_row(decay):
    lock = threading.Lock()

    def locked(field, y0, span, rtol):
        with lock:
            return exact(field, y0, span, rtol)

    row = only(measure(decay, locked, isolate=True))
    assert row.outcome == Outcome.FAILED
    assert "isolate=False" in row.message


# ---------------------------------------------------------------------------------------------
# The table


@pytest.fixture(scope="module")
def table(decay) -> WorkPrecision:
    solvers = [rk4, off_by_1e_6, gives_up, not_a_number, "scipy-rk45", "numba-tsit5"]
    return measure(decay, *solvers, tolerances=(1e-6, 1e-9))


def test_json_round_trip(table, tmp_path):
    table.save(tmp_path / "table.json")
    back = WorkPrecision.load(tmp_path / "table.json")
    assert back.to_json() == table.to_json()
    assert str(back) == str(table)
    assert math.isinf(back.where(solver="not_a_number")[0].error)
    json.loads(table.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "another"}', "null"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="pass the JSON"):
        WorkPrecision.from_json(text)


def test_nothing_is_dropped(table):
    assert len(table) == 6 * 2
    assert {row.outcome for row in table.where(solver="numba-tsit5")} == {Outcome.NOT_APPLICABLE}
    assert "off_by_1e_6 at rtol 1e-09 on decay" in table.summary()
    assert "**DISHONEST**" in table.markdown()
    assert table.to_xarray().sizes["row"] == 12
    assert table.about["date"]


def test_a_library_that_is_missing_is_a_row(decay):
    solver = FunctionSolver(exact, name="of no library")
    solver.library = "no_such_module"
    row = only(measure(decay, solver))
    assert (row.outcome, row.message) == (Outcome.NOT_INSTALLED, "no module no_such_module")


def test_picture_has_two_panels_a_problem(table):
    figure = table.plot()
    assert [axes.get_xlabel() for axes in figure.axes if axes.axison] == [
        "CPU seconds", "right-hand sides",
    ]  # fmt: skip
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "DISHONEST: claims success" in labels
    # (what does not arrive is shown too, above the panels, by what it has spent)
    assert "gives_up" in labels
    assert "open, above: failed or out of time" in labels
    spent = [row.cpu_seconds for row in table.where(solver="gives_up").rows]
    above = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert set(spent) <= {x for line in above for x in line.get_xdata()}


def rows_of(problem: str, solvers: dict[str, tuple[str, float, float]]) -> list[Row]:
    return [
        Row(problem, name, "rtol 1e-06", 1e-6, 1e-6, Outcome(outcome), error, "ref", 1e-14, True,
            rhs=200.0 if name == "auto" and problem == "two" else 100.0, jacobians=0.0,
            cpu_seconds=seconds)
        for name, (outcome, error, seconds) in solvers.items()
    ]  # fmt: skip


@pytest.fixture
def two_problems() -> WorkPrecision:
    rows = rows_of("one", {
        "auto": ("reached", 1e-6, 1.2), "piecewise": ("reached", 1e-6, 1.0),
        "liar": ("DISHONEST", 1e-1, 0.1), "fast": ("reached", 1e-5, 0.5),
        "rough": ("reached", 1e-2, 0.01),
    }) + rows_of("two", {
        "auto": ("reached", 1e-6, 4.0), "piecewise": ("reached", 1e-6, 1.0),
        "liar": ("reached", 1e-6, 0.1), "fast": ("failed", math.nan, 0.5),
    })  # fmt: skip
    problems = tuple(
        {"name": name, "tags": ["kinked"], "about": "", "size": 1, "t_end": 1.0, "references": []}
        for name in ("one", "two")
    )
    return WorkPrecision(tuple(rows), problems, {})


def test_advice_is_the_fastest_honest_solver(two_problems):
    advice = two_problems.advise([1e-4])
    one, two = advice.by_problem
    (kinked,) = advice.by_tag
    assert (one.solver, one.own, one.liars) == ("fast", "piecewise", ("liar",))
    assert (two.solver, two.seconds) == (
        "liar",
        pytest.approx(0.1),
    )  # (on this problem it told the truth)
    assert (kinked.solver, kinked.seconds) == ("piecewise", pytest.approx(1.0))
    assert kinked.auto_seconds == pytest.approx(math.sqrt(1.2 * 4.0))
    assert (one.auto_agrees, two.auto_agrees) == (True, False)
    assert advice.disagreements() == [
        "auto takes 4 s and 200 evaluations on two to an error of 1e-04, piecewise 1 s and 100"
    ]
    assert "| kinked | 1e-04 | piecewise |" in advice.markdown()


def test_advice_where_nobody_arrived(two_problems):
    best = two_problems.advise([1e-9]).by_problem[0]
    assert (best.solver, best.own, best.auto_seconds) == ("", "", math.inf)
    assert "none reached it" in str(two_problems.advise([1e-9]))


# ---------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"problems": "nonsense"}, "problems='nonsense'.*matches no problem"),
        ({"problems": []}, "problems.*is empty"),
        ({"problems": [3]}, "problems=3: is not a problem"),
        ({"solvers": "nonsense"}, "solvers='nonsense'.*matches no solver"),
        ({"solvers": 3}, "solver=3: is not a solver"),
        ({"solvers": [exact, exact]}, "come twice"),
        ({"tolerances": []}, "tolerances.*is empty"),
        ({"tolerances": [0.0]}, "rtol"),
        ({"time_limit": 0}, "time_limit"),
        ({"repeats": 0}, "repeats"),
        ({"isolate": 1}, "isolate"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value)),
)
def test_bad_input_is_refused(decay, change, match):
    options = {"problems": decay, "solvers": exact, "tolerances": [1e-6], "isolate": False}
    with pytest.raises(ValueError, match=match):
        work_precision(**{**options, **change})


@pytest.mark.parametrize(
    ("change", "match"),
    [({"risk": 3}, "risk=3"), ({"t_end": -1.0}, "t_end"), ({"name": ""}, "name")],
)
def test_bad_problems_are_refused(decay, change, match):
    options = {"name": "p", "risk": decay.risk, "start": decay.start, "t_end": 1.0}
    with pytest.raises(ValueError, match=match):
        Problem(**{**options, **change})


# ---------------------------------------------------------------------------------------------
# The package's own problems


def test_names_and_tags(problems):
    assert tuple(problems) == problem_names()
    tags = {tag for problem in problems.values() for tag in problem.tags}
    assert tags >= {
        "smooth", "kinked", "stiff", "late phase", "population", "teacher-student", "large",
        "saddle",
    }  # fmt: skip
    assert len(problem_table("kinked*")) == 3
    assert {problem.name for problem in problem_table("saddle*")} == {"saddle", "saddle-kinked"}
    assert [problem.name for problem in problem_table("teacher-student")] == ["teacher-student"]


@pytest.mark.parametrize("name", problem_names())
def test_problem_is_minus_its_gradient_and_says_what_it_is(problems, name):
    problem = problems[name]
    field = Field(Programs(problem), 60.0)
    rng = np.random.default_rng(7)
    y = problem.y0 + problem.scale * 0.1 * rng.normal(size=problem.size)
    velocity = field(0.0, y)
    assert np.all(np.isfinite(field(0.0, problem.y0)))
    assert np.all(np.isfinite(velocity))
    assert problem.kinked == ("kinked" in problem.tags)
    if problem.scale < 1e-10:  # (differences of the risk do not see them)
        y = y / problem.scale
        velocity = field(0.0, y)
    for _ in range(3):  # along random directions, by differences of the risk
        direction = np.where(velocity != 0, rng.normal(size=problem.size), 0.0)  # (some are fixed)
        direction /= np.linalg.norm(direction)
        values = [
            float(problem.risk(problem.unravel(jnp.asarray(y + h * direction))))
            for h in (-1e-5, 1e-5)
        ]
        slope = (values[1] - values[0]) / 2e-5
        assert slope == pytest.approx(-velocity @ direction, rel=1e-5, abs=2e-9)
    assert problem.about
    families = [as_solver(str(route.solver)).families(problem) for route in problem.routes]
    assert not families[0] & families[1]


def test_field_is_the_autodiff_gradient_of_the_risk(problems):
    problem = problems["smooth"]
    gradient = jax.grad(lambda y: problem.risk(problem.unravel(y)))(jnp.asarray(problem.y0))
    velocity = Field(Programs(problem), 10.0)(0.0, problem.y0)
    np.testing.assert_allclose(velocity, -gradient, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["kinked", "kinked-small"])
def test_two_ways_through_the_kinks_agree(problems, name):
    """The package's own and the plain one with SciPy share no code but the data."""
    problem = problems[name]
    ends = [
        solver.run(problem, Field(Programs(problem), 60.0), 1e-12).y
        for solver in (Ours("piecewise"), Located())
    ]
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-11)


def test_kinks_of_another_kind_are_judged_by_small_steps():
    """With a bias the plain way is not written; descent is no kin, and says how little it knows."""
    rng = np.random.default_rng(4)
    net = gf.TwoLayer(2, 3, gf.relu, bias=True)
    X, y = rng.normal(size=(6, 2)), rng.normal(size=6)
    problem = Problem(
        "bias", gf.EmpiricalRisk(net, gf.squared, X, y), net.init(jax.random.key(4), 0.5), 1.0
    )
    row = only(measure(problem, "auto", tolerances=(1e-8,), time_limit=5.0))
    assert (row.outcome, row.resolved) == (Outcome.REACHED, False)
    assert row.reference.startswith("descent")
    assert row.error < 1e-3


def test_solvers_that_step_over_kinks_lie_and_auto_does_not(problems):
    solvers = ["auto", "piecewise", "diffrax-tsit5", "numba-tsit5"]
    table = measure(problems["kinked"], *solvers, tolerances=(1e-5,), time_limit=5.0)
    outcomes = {row.solver: row.outcome for row in table}
    assert outcomes["auto"] == outcomes["piecewise"] == Outcome.REACHED
    assert outcomes["diffrax-tsit5"] == outcomes["numba-tsit5"] == Outcome.DISHONEST
    assert table.advise([1e-4]).by_tag[0].solver in ("auto", "piecewise")


@pytest.mark.parametrize("library", ["sksundae", "heyoka"])
def test_optional_solvers_reach_a_smooth_end(smooth, library):
    pytest.importorskip(library)
    name = {"sksundae": "sundials-bdf", "heyoka": "heyoka"}[library]
    row = only(measure(smooth, name, tolerances=(1e-7,), time_limit=10.0))
    assert row.outcome == Outcome.REACHED
    assert row.error < 1e-5


def test_heyoka_with_events_slides_into_a_lie(problems):
    pytest.importorskip("heyoka")
    row = only(measure(problems["kinked"], "heyoka-events", tolerances=(1e-9,), time_limit=10.0))
    assert row.outcome == Outcome.DISHONEST
    assert row.error > 1e-2


# ---------------------------------------------------------------------------------------------
# The command


def test_command_lists():
    result = CliRunner().invoke(cli.app, ["bench", "--list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in (*problem_names(), *solver_names()))


def test_command_reads_draws_and_advises(table, tmp_path):
    table.save(tmp_path / "t.json")
    result = CliRunner().invoke(
        cli.app,
        ["bench", "--from", str(tmp_path / "t.json"), "--advise", "--plot", str(tmp_path / "t.png"),
         "--json", str(tmp_path / "again.json")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "DISHONEST" in result.output
    assert "fastest of the package" in result.output
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "again.json").read_text() == (tmp_path / "t.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--problems", "nonsense"], "matches no problem"),
        (["--problems", "smooth", "--solvers", "nonsense"], "matches no solver"),
        (["--plot", "picture.txt"], "is no picture"),
        (["--json", "no/such/folder.json"], "does not exist"),
        (["--from", "no-such-file.json"], "cannot read"),
        (["--time-limit", "-1"], "is negative"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_command_refuses(arguments, says):
    result = CliRunner().invoke(cli.app, ["bench", *arguments])
    assert result.exit_code == 2
    assert says in result.output
