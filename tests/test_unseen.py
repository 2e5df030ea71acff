"""ReLU nets that leave data unseen: the others are fitted for ever, the unseen keep their loss."""

from __future__ import annotations

import numpy as np
import pytest

import gradflow as gf
from gradflow.cells.pattern import Pattern
from gradflow.integrators import driver
from gradflow.integrators.steppers.cells.stepper import CellsIntegrator
from gradflow.integrators.steppers.late.integrator import late_phase

FAR = gf.until.log_time(1e10)


def narrow(seed, n, d, m, loss=gf.exponential, outer="trained", reduction="sum"):
    """A narrow ReLU net with balanced outer weights of both signs."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = np.sign(X @ rng.normal(size=d))
    net = gf.TwoLayer(d, m, gf.relu, outer=outer)
    risk = gf.EmpiricalRisk(net, loss, X, y, reduction=reduction)
    size = 10.0 ** rng.uniform(-4, 0)
    W, signs = size * rng.normal(size=(m, d)), rng.choice([-1.0, 1.0], size=m)
    signs[:2] = 1.0, -1.0
    a = np.linalg.norm(W, axis=1) * signs if outer == "trained" else signs
    return risk, net.params(inner=W, outer=a)


CASES = [
    ("trained", 17, gf.exponential),
    ("trained", 21, gf.logistic),
    ("fixed", 19, gf.exponential),
]


@pytest.mark.parametrize(
    ("outer", "seed", "loss"), CASES, ids=[f"{outer}-{loss.name}" for outer, _, loss in CASES]
)
def test_a_datum_never_seen_leaves_the_flow_of_the_others(outer, seed, loss):
    # All inputs but one have a positive first entry, and so have all neurons.
    few, start = narrow(seed, 7, 3, 5, loss, outer)
    X, y = np.array(few.X), np.asarray(few.y)
    X[:, 0] = np.abs(X[:, 0]) + 1.0
    W = np.array(start.inner)
    W[:, 0] = np.abs(W[:, 0])
    a = np.sign(start.outer) * (np.linalg.norm(W, axis=1) if outer == "trained" else 1.0)
    start = few.net.params(inner=W, outer=a)
    with_it = np.vstack([X, [-0.5, 0.0, 0.0]]), np.append(y, 1.0)
    risk, more = (
        gf.EmpiricalRisk(few.net, loss, *data, reduction="sum") for data in ((X, y), with_it)
    )
    paths = [gf.integrate(one, start, until=gf.until.log_time(1e4)) for one in (risk, more)]
    assert all(path.result.ok for path in paths)
    seen = [event.datum for event in paths[1].events if event.datum == 7]
    assert not seen, "the instance is to leave the datum unseen"
    assert "no neuron sees datum 7" in paths[1].result.message
    at_zero = 1.0 if loss.name == "exponential" else np.log(2.0)
    assert paths[1].observe("log_loss")[-1] == pytest.approx(np.log(at_zero), abs=1e-15)
    assert paths[1].observe("margin")[-1] == 0.0
    for name in ("inner", "outer"):
        one, other = (np.asarray(getattr(path.final, name)) for path in paths)
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6 * np.max(np.abs(one)))
    assert gf.certify(risk, paths[1].final).accepted
    refused = gf.certify(paths[1])
    assert not refused.accepted
    assert "no neuron is active on datum 7" in refused.reason


def test_walls_hold_as_in_the_plain_flow():
    """Against the event-located flow in the clock ln t, which has no late phase."""
    risk, start = narrow(90, 8, 2, 5)
    late = gf.integrate(risk, start, until=gf.until.log_time(24.0))
    plain = gf.integrate(risk, start, until=gf.until.log_time(24.0), clock="log", rtol=1e-9)
    assert late.chart_names == ("cartesian", "direction")
    assert plain.chart_names == ("cartesian",)
    np.testing.assert_allclose(
        np.asarray(late.final.inner), np.asarray(plain.final.inner), atol=1e-6
    )
    kinds = [(e.kind, e.neuron, e.datum) for e in late.events if e.neuron is not None]
    assert kinds == [(e.kind, e.neuron, e.datum) for e in plain.events if e.neuron is not None]


@pytest.fixture(scope="module")
def seen_again():
    risk, start = narrow(90, 8, 2, 5)
    return gf.integrate(risk, start, until=FAR)


def test_a_datum_seen_again_is_fitted(seen_again):
    path = seen_again
    assert path.result.ok
    assert path.unique
    assert path.chart_names == ("cartesian", "direction", "cartesian", "direction")
    assert np.all(np.diff(path.log_t) >= 0)
    assert np.all(np.diff([event.log_t for event in path.events]) >= 0)
    loss = path.observe("log_loss")
    assert np.all(np.diff(loss) <= 1e-12)
    plateau = loss[(path.log_t > 13) & (path.log_t < 15)]
    assert plateau.size
    np.testing.assert_allclose(plateau, np.log(4.0), atol=1e-5)  # four data of loss 1
    assert loss[-1] == pytest.approx(-1e10, rel=1e-6)
    assert path.defects["balance"] < 1e-8
    certificate = gf.certify(path)
    assert certificate.accepted, certificate.reason
    assert certificate.normalised_margin >= path.observe("normalised_margin")[-1] > 0


def test_rows_at_chosen_times_across_the_stages(seen_again):
    times = [1.0, 20.0, 50.0, 1e3, 1e9]
    path = gf.integrate(
        seen_again.risk, seen_again.initial, until=FAR, save_at=gf.save.log_times(times)
    )
    np.testing.assert_allclose(path.log_t, times)
    every = np.interp(times, seen_again.log_t, seen_again.observe("normalised_margin"))
    np.testing.assert_allclose(path.observe("normalised_margin"), every, atol=2e-2)


@pytest.mark.parametrize("target", [1e-5, 1e-100])
def test_a_loss_below_the_plateau_is_reached(seen_again, target):
    path = gf.integrate(seen_again.risk, seen_again.initial, until=gf.until.loss(target))
    assert path.stopped_by.startswith("loss")
    assert path.observe("log_loss")[-1] == pytest.approx(np.log(target), rel=1e-9)


def test_a_clock_beyond_floats_goes_on():
    """Seen again at ln t = 1.9e9: the loss clock, and t, are infinite by then."""
    risk, start = narrow(77, 6, 2, 4)
    path = gf.integrate(risk, start, until=FAR)
    assert path.result.ok, path.result.message
    assert path.chart_names[2:] == ("cartesian", "direction")
    assert np.all(np.diff(path.log_t) >= 0)


def test_a_net_that_sees_nothing_rests():
    X, y = np.array([[1.0, 0.2], [1.0, -0.3], [0.8, 0.1]]), np.array([1.0, -1.0, 1.0])
    net = gf.TwoLayer(2, 2, gf.relu)
    start = net.params(inner=np.array([[-1.0, 0.0], [-1.0, 0.1]]), outer=np.array([1.0, -1.0]))
    with pytest.warns(gf.IntegrationWarning, match="has come to rest"):
        path = gf.integrate(gf.EmpiricalRisk(net, gf.logistic, X, y), start, until=FAR)
    assert path.result.name == "stationary"
    np.testing.assert_array_equal(np.asarray(path.final.inner), np.asarray(start.inner))


def test_the_late_phase_stops_where_a_datum_is_seen_again():
    risk, start = narrow(90, 8, 2, 5)
    early = gf.integrate(risk, start, until=gf.until.log_time(13.0), clock="log")
    at = risk.arrangement
    W, a = at.split(early.final)
    sides = np.sign(at.heights(W)).astype(int)
    unseen = Pattern(at, sides).unseen
    run = late_phase(at, W, a, 13.0, sides=sides, unseen=unseen, log_t_end=1e10)
    assert (run.result, run.ok) == ("seen", False)
    assert np.flatnonzero(unseen).tolist() == [0, 3, 4, 7]
    assert np.flatnonzero(run.seen_again).tolist() == [7]
    assert "seen again" in run.message


def test_out_of_stages_says_so(seen_again, monkeypatch):
    monkeypatch.setattr(driver, "MAX_STAGES", 3)
    with pytest.warns(gf.IntegrationWarning, match="seen again"):
        path = gf.integrate(seen_again.risk, seen_again.initial, until=FAR)
    assert (path.result.name, path.result.ok) == ("seen", False)
    assert path.chart_names == ("cartesian", "direction", "cartesian")
    assert "seen again" in path.result.message


def test_a_tolerance_of_ones_own_holds_in_every_stage(seen_again, monkeypatch):
    asked = []
    solve = CellsIntegrator.solve

    def noted(self, problem):
        asked.append(np.unique(problem.tolerances.atol_local))
        return solve(self, problem)

    monkeypatch.setattr(CellsIntegrator, "solve", noted)
    path = gf.integrate(seen_again.risk, seen_again.initial, until=FAR, atol=1e-12)
    assert path.result.ok
    assert len(asked) == 2
    np.testing.assert_array_equal(asked[0], asked[1])
