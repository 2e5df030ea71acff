"""The event-located integrator: a reference instance, closed forms, sliding, branches, honesty."""

from __future__ import annotations

import collections
import math

import jax
import numpy as np
import pytest

import gradflow as gf


def kinks_40() -> tuple[gf.EmpiricalRisk, object]:
    """Forty data in R^10, twenty neurons: 178 surface events by clock 4."""
    rng = np.random.default_rng(0)
    n, d, m = 40, 10, 20
    v = rng.normal(size=d)
    v /= np.linalg.norm(v)
    rng.normal(size=(n, d))
    X = rng.normal(size=(n, d))
    inner = 0.1 * rng.normal(size=(m, d))
    outer = 0.1 * rng.choice([-1, 1], size=m)
    net = gf.TwoLayer(d, m, gf.leaky_relu(0.1))
    risk = gf.EmpiricalRisk(net, gf.exponential, X, np.sign(X @ v), reduction="sum")
    return risk, net.params(inner, outer)


def flat(params) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def kinds(trajectory) -> dict[str, int]:
    return dict(collections.Counter(event.kind for event in trajectory.events))


@pytest.fixture(scope="module")
def reference():
    risk, start = kinks_40()
    return risk, start, gf.integrate(risk, start, until=gf.until.clock(4.0), rtol=1e-13)


def test_reference_instance(reference):
    """ρ², the margin, the events and the first of them, known from independent codes."""
    risk, _, tight = reference
    assert tight.integrator == "piecewise"
    assert tight.result.ok
    rho2 = float(np.sum(flat(tight.final) ** 2))
    assert rho2 == pytest.approx(6.1406164249956, rel=1e-12)
    margin = float(np.min(risk.margins(tight.final)))
    assert margin / rho2 == pytest.approx(-0.0368485263757, rel=1e-11)
    assert kinds(tight) == {"crossing": 164, "slide-in": 14, "slide-out": 1}
    first = tight.events[0]
    assert (first.datum, first.neuron, first.kind) == (22, 12, "crossing")
    assert first.clock == pytest.approx(0.0095036521784, rel=1e-10)
    assert max(tight.defects.values()) < 1e-12


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10])
def test_accuracy_and_work(reference, rtol):
    risk, start, tight = reference
    path = gf.integrate(risk, start, until=gf.until.clock(4.0), rtol=rtol)
    assert np.max(np.abs(flat(path.final) - flat(tight.final))) <= rtol
    assert max(path.defects.values()) <= 100 * rtol
    if rtol == 1e-8:
        assert path.stats["steps"] <= 1.1 * path.stats["events"]
        assert path.stats["rhs"] <= 1500


def test_stock_solver_agrees_where_it_can(reference):
    """A second route: Runge-Kutta steps that know nothing of kinks, at their coarse accuracy."""
    risk, start, _ = reference
    until = gf.until.clock(1.0)
    ours = gf.integrate(risk, start, until=until, rtol=1e-8)
    stock = gf.integrate(risk, start, until=until, integrator="tsit5", rtol=1e-5)
    gap = np.max(np.abs(flat(ours.final) - flat(stock.final)))
    assert gap < 2e-4


def test_clocks_trace_one_curve(reference):
    risk, start, _ = reference
    ends = [
        gf.integrate(risk, start, until=gf.until.time(0.1), clock=clock, rtol=1e-9).final
        for clock in ("loss", "log", "physical")
    ]
    for other in ends[1:]:
        assert np.max(np.abs(flat(ends[0]) - flat(other))) < 1e-8


@pytest.mark.parametrize("save", ["time", "clock", "log_times"])
def test_save_points(reference, save):
    risk, start, _ = reference
    t = np.array([0.0, 0.01, 0.05, 0.1])
    if save == "time":
        until, at = gf.until.time(0.1), t
    elif save == "log_times":
        until, at = gf.until.time(0.1), gf.save.log_times(np.log(t[1:]))
    else:
        until, at = gf.until.clock(1.0), gf.save.clock([0.0, 0.3, 1.0])
    path = gf.integrate(risk, start, until=until, save_at=at, rtol=1e-9)
    free = gf.integrate(risk, start, until=until, rtol=1e-9)
    assert len(path) == {"time": 4, "clock": 3, "log_times": 3}[save]
    assert np.max(np.abs(flat(path.final) - flat(free.final))) < 1e-8
    assert np.allclose(path.params.inner[-1], path.final.inner, atol=1e-9)


def test_one_neuron_one_datum_closed_form():
    """Fixed a = 1, squared loss, x = e_1, w_1 > 0: w_1 − y decays like e^{−t}; w_2 stays."""
    net = gf.TwoLayer(2, 1, gf.relu, outer="fixed")
    risk = gf.EmpiricalRisk(net, gf.squared, [[1.0, 0.0]], [3.0])
    start = net.params([[0.5, 0.7]], [1.0])
    path = gf.integrate(risk, start, until=gf.until.time(2.0), clock="physical", rtol=1e-11)
    inner = np.asarray(path.final.inner)[0]
    assert inner[0] == pytest.approx(3.0 - 2.5 * math.exp(-2.0), rel=1e-11)
    assert inner[1] == 0.7
    assert not path.events


def test_crossing_closed_form():
    """Leaky slope α, target below: w_1 hits 0 at a known time, then moves α² times as slowly."""
    alpha, y, w0 = 0.5, -2.0, 1.0
    net = gf.TwoLayer(1, 1, gf.leaky_relu(alpha), outer="fixed")
    risk = gf.EmpiricalRisk(net, gf.squared, [[1.0]], [y])
    start = net.params([[w0]], [1.0])
    path = gf.integrate(risk, start, until=gf.until.time(3.0), clock="physical", rtol=1e-11)
    hit = math.log((w0 - y) / (0.0 - y))
    (event,) = [e for e in path.events if e.kind != "stop"]
    assert event.t == pytest.approx(hit, rel=1e-10)
    limit = y / alpha
    after = limit + (0.0 - limit) * math.exp(-(alpha**2) * (3.0 - hit))
    assert float(path.final.inner[0, 0]) == pytest.approx(after, rel=1e-10)


def sliding_instance(pull: float = 1.0):
    """Two data in the plane: the neuron is drawn along e_1 and held on the line of datum 2.

    With exponential loss and a = 1 fixed: datum 1 at (1, 1/2) label +1 pushes across e_2 = 0,
    datum 2 at (0, 1) label −1 pushes back on the side where it is active.
    """
    net = gf.TwoLayer(2, 1, gf.relu, outer="fixed")
    X = np.array([[1.0, 0.5], [0.0, 1.0]])
    risk = gf.EmpiricalRisk(net, gf.exponential, X, [1.0, -1.0], reduction="sum")
    return risk, net.params([[pull, -0.05]], [1.0])


def test_sliding_closed_form():
    """On the surface w_2 = 0 the neuron obeys w_1' = e^{−w_1}: w_1 = ln(e^{w_1(s)} + t − s)."""
    risk, start = sliding_instance(0.3)
    path = gf.integrate(risk, start, until=gf.until.time(2.0), clock="physical", rtol=1e-11)
    slide = next(e for e in path.events if e.kind == "slide-in")
    assert (slide.neuron, slide.datum) == (0, 1)
    # Before: both entries are driven by datum 1 alone, w_2 = −0.05 + (w_1 − 0.3)/2 = 0 at 0.4.
    w1 = math.log(math.exp(0.4) + 2.0 - slide.t)
    assert np.asarray(path.final.inner)[0] == pytest.approx([w1, 0.0], abs=1e-10)
    # q = w_1 + w_2/2 grows at rate (1 + 1/4) e^{−q} from 0.275 to 0.4.
    assert slide.t == pytest.approx((math.exp(0.4) - math.exp(0.275)) / 1.25, rel=1e-10)


def test_passing_a_surface_that_would_hold_a_weaker_pull():
    """With datum 1 eight times heavier, 8 e^{−0.4}/2 > 1: the neuron crosses instead of sliding."""
    risk, start = sliding_instance(0.3)
    heavy = gf.EmpiricalRisk(
        risk.net, gf.exponential, risk.X, risk.y, reduction="sum", weights=[8.0, 1.0]
    )
    path = gf.integrate(heavy, start, until=gf.until.time(3.0), clock="physical", rtol=1e-10)
    assert path.events[0].kind == "crossing"
    # The pull of datum 1 falls below that of datum 2 in the end, and the neuron comes back down.
    w2 = np.asarray(path.params.inner)[:, 0, 1]
    assert np.max(w2) > 0.1
    assert w2[-1] < np.max(w2)


def test_start_exactly_on_a_surface():
    risk, _ = sliding_instance()
    start = risk.net.params([[0.4, 0.0]], [1.0])
    path = gf.integrate(risk, start, until=gf.until.time(1.0), clock="physical", rtol=1e-11)
    assert path.events[0].kind == "slide-in"
    assert path.events[0].t == 0.0
    w1 = math.log(math.exp(0.4) + 1.0)
    assert np.asarray(path.final.inner)[0] == pytest.approx([w1, 0.0], abs=1e-10)


def test_repelling_surface_is_reported():
    """Label +1 repels from its own surface at w·x = 0 where nothing else moves the neuron."""
    net = gf.TwoLayer(2, 1, gf.leaky_relu(0.5), outer="fixed")
    # The odd forces cancel on the surface: the + side pushes up, the − side pulls down.
    X = np.array([[0.0, 1.0], [1.0, -0.75]])
    risk = gf.EmpiricalRisk(net, gf.squared, X, [1.0, 1.0], reduction="sum")
    start = net.params([[1e-9, 0.0]], [1.0])
    path = gf.integrate(risk, start, until=gf.until.time(0.1), clock="physical")
    assert not path.unique
    (branch,) = [e for e in path.events if e.kind == "branch"]
    assert (branch.neuron, branch.datum, branch.t) == (0, 0, 0.0)
    with pytest.raises(RuntimeError, match=r"not unique.*neuron 0.*datum 0"):
        gf.integrate(risk, start, until=gf.until.time(0.1), clock="physical", throw=True)
    # A start on either side is unique.
    for side in (1e-6, -1e-6):
        moved = net.params([[1e-9, side]], [1.0])
        assert gf.integrate(risk, moved, until=gf.until.time(0.1), clock="physical").unique


def test_dying_neuron():
    """A ReLU neuron pushed below its only datum stays where it stopped."""
    net = gf.TwoLayer(2, 1, gf.relu)
    risk = gf.EmpiricalRisk(net, gf.squared, [[1.0, 0.0]], [-1.0])
    start = net.params([[0.2, 1.0]], [0.5])
    path = gf.integrate(risk, start, until=gf.until.time(20.0), clock="physical")
    assert "death" in kinds(path) or "slide-in" in kinds(path)
    assert float(path.final.inner[0, 0]) == pytest.approx(0.0, abs=1e-12)


def test_vanishing_weights_are_resolved():
    """|a| > |w|: the only neuron is driven into w = 0 and rests there (all surfaces attract)."""
    net = gf.TwoLayer(1, 1, gf.leaky_relu(0.5))
    risk = gf.EmpiricalRisk(net, gf.squared, [[1.0], [-1.0]], [-1.0, -1.0])
    start = net.params([[0.3]], [1.0])
    path = gf.integrate(risk, start, until=gf.until.time(30.0), clock="physical", rtol=1e-9)
    assert path.result.ok
    assert float(path.final.inner[0, 0]) == 0.0
    assert kinds(path).keys() & {"origin", "slide-in"}
    # a² − w² is conserved: a ends at √(1 − 0.09).
    assert float(path.final.outer[0]) == pytest.approx(math.sqrt(0.91), rel=1e-8)


@pytest.mark.parametrize("inner", [0.8, -0.8])
@pytest.mark.parametrize("data", ["symmetric", "skew"])
def test_on_a_line_a_neuron_passes_through_zero(data, inner):
    """d = 1, |a| > |w|: both sides push the same way, so the neuron goes on, and uniquely.

    The same data in the plane, whose second axis they do not use, have an ordinary crossing.
    """
    X = np.array([[1.0], [2.0], [-1.0], [-2.0]]) if data == "symmetric" else [[1.0], [-3.0], [-0.5]]
    y = np.sign(np.ravel(X)) * np.sign(inner)
    line = gf.EmpiricalRisk(gf.TwoLayer(1, 1, gf.leaky_relu(0.3)), gf.logistic, X, y)
    plane = gf.EmpiricalRisk(
        gf.TwoLayer(2, 1, gf.leaky_relu(0.3)), gf.logistic, np.c_[X, np.zeros(len(y))], y
    )
    scale, until = 1e-3, gf.until.time(6.0)
    start = line.net.params([[scale * inner]], [-2 * scale])
    path = gf.integrate(line, start, until=until, rtol=1e-11)
    wide = plane.net.params([[scale * inner, 0.1 * scale]], [-2 * scale])
    other = gf.integrate(plane, wide, until=until, rtol=1e-11)
    assert path.result.ok
    assert path.unique
    assert kinds(path)["origin"] == kinds(other)["crossing"] == 1
    w, a = float(path.final.inner[0, 0]), float(path.final.outer[0])
    assert w * inner < 0
    assert a**2 - w**2 == pytest.approx(scale**2 * (4 - inner**2), rel=1e-7)
    # The second weight, of 1e-4, is not felt by f.
    assert w == pytest.approx(float(other.final.inner[0, 0]), rel=1e-8)
    assert a == pytest.approx(float(other.final.outer[0]), rel=1e-8)


def test_linear_slope_has_no_events(key):
    """α = 1 against a smooth integrator of order eight."""
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(9, 4)), rng.normal(size=9)
    net = gf.TwoLayer(4, 3, gf.linear)
    risk, start = gf.EmpiricalRisk(net, gf.squared, X, y), net.init(key, 0.5)
    until = gf.until.time(5.0)
    ours = gf.integrate(risk, start, until=until, integrator="piecewise", rtol=1e-10)
    smooth = gf.integrate(risk, start, until=until, integrator="dopri8", rtol=1e-11)
    assert [e.kind for e in ours.events] == []
    assert flat(ours.final) == pytest.approx(flat(smooth.final), abs=1e-9)


@pytest.mark.parametrize("kind", ["duplicates", "antipodal", "multiples"])
def test_data_on_one_line_meet_at_once(kind, key):
    """Data that share a surface: the same flow as one weighted datum where that exists."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(6, 3))
    y = np.sign(X @ rng.normal(size=3))
    net = gf.TwoLayer(3, 4, gf.leaky_relu(0.2))
    start = net.init(key, 0.3)
    until = gf.until.clock(3.0)
    if kind == "duplicates":
        twice = gf.EmpiricalRisk(
            net, gf.logistic, np.concatenate([X, X]), np.concatenate([y, y]), reduction="sum"
        )
        weighted = gf.EmpiricalRisk(net, gf.logistic, X, y, reduction="sum", weights=[2.0] * 6)
        ends = [gf.integrate(r, start, until=until, rtol=1e-9) for r in (twice, weighted)]
        assert kinds(ends[0]) == kinds(ends[1])
        assert flat(ends[0].final) == pytest.approx(flat(ends[1].final), abs=1e-8)
        return
    factor = -1.0 if kind == "antipodal" else 2.5
    data = np.concatenate([X, factor * X])
    labels = np.concatenate([y, np.sign(factor) * y])
    risk = gf.EmpiricalRisk(net, gf.logistic, data, labels)
    assert risk.arrangement.normals.shape == (6, 3)
    path = gf.integrate(risk, start, until=until, rtol=1e-9)
    tight = gf.integrate(risk, start, until=until, rtol=1e-12)
    assert path.result.ok
    assert path.unique
    assert flat(path.final) == pytest.approx(flat(tight.final), abs=1e-8)
    assert max(path.defects.values()) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "slope", "loss", "outer", "bias"),
    [
        ((7, 3, 4), 0.1, gf.logistic, "fixed", False),
        ((12, 3, 6), 0.0, gf.squared, "trained", False),
        ((20, 2, 9), 0.0, gf.squared, "trained", True),
        ((15, 12, 5), 0.1, gf.exponential, "trained", False),
    ],
    ids=str,
)
def test_no_dishonest_run(shape, slope, loss, outer, bias):
    """Error against a tighter solve ≤ 100 tolerances, invariants too, unless a branch is told."""
    n, d, m = shape
    net = gf.TwoLayer(d, m, gf.leaky_relu(slope), outer=outer, bias=bias)
    for seed in range(12):
        rng = np.random.default_rng([n, seed])
        X, y = rng.normal(size=(n, d)), np.sign(rng.normal(size=n))
        scale = [1e-3, 0.1, 1.0][seed % 3]
        a = rng.choice([-1, 1], size=m) * rng.uniform(0.5, 3, size=m)
        start = net.params(
            scale * rng.normal(size=(m, d)),
            (scale if outer == "trained" else 1.0) * a,
            scale * rng.normal(size=m) if bias else None,
        )
        risk = gf.EmpiricalRisk(net, loss, X, y)
        clock = "physical" if loss is gf.squared else "loss"
        runs = [
            gf.integrate(
                risk, start, until=gf.until.time(10.0), clock=clock, rtol=rtol, save_at=[10.0]
            )
            for rtol in (1e-8, 1e-12)
        ]
        assert all(run.result.ok for run in runs), seed
        assert runs[0].unique == runs[1].unique, seed
        assert max(runs[0].defects.values()) <= 1e-6, seed
        if runs[0].unique:
            size = np.max(np.abs(flat(runs[1].final)))
            assert np.max(np.abs(flat(runs[0].final) - flat(runs[1].final))) <= 1e-6 * size, seed


def test_same_bits_twice(reference):
    risk, start, tight = reference
    again = gf.integrate(risk, start, until=gf.until.clock(4.0), rtol=1e-13)
    assert np.array_equal(flat(again.final), flat(tight.final))
    assert again.events == tight.events


def test_events_survive_a_file(reference, tmp_path):
    _, _, tight = reference
    tight.save(tmp_path / "path.nc")
    assert gf.load(tmp_path / "path.nc").events == tight.events


def test_needs_kinks_that_are_stated():
    law = gf.Gaussian(2)
    net = gf.LinearPredictor(2)
    risk = gf.PopulationRisk(net, gf.logistic, law, teacher=gf.LinearTeacher([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"integrator='piecewise'.*kinks"):
        gf.integrate(risk, net.params([1.0, 0.2]), until=gf.until.time(1.0), integrator="piecewise")


@pytest.mark.parametrize("rtol", [1e-3, 1e-4, 1e-5])
def test_mode_that_locates_slides_only(reference, rtol):
    """Crossings pass inside steps; every slide is found, and the error is about the tolerance."""
    risk, start, tight = reference
    until = gf.until.clock(4.0)
    path = gf.integrate(risk, start, until=until, integrator="piecewise-slides", rtol=rtol)
    assert kinds(path).get("slide-in") == 14
    assert np.max(np.abs(flat(path.final) - flat(tight.final))) <= 10 * rtol
    assert max(path.defects.values()) <= 100 * rtol
