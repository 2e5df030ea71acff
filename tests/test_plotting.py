"""Pictures: what is drawn is what the observables say, readable at every range."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import gradflow as gf
from gradflow.plots import trajectory as plotting
from gradflow.plots.trajectory import Curve, label_of, panel

T = np.concatenate([[0.0], np.geomspace(1e-3, 1e30, 60)])


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def path(t=T, *, neurons=2, **exact):
    """A stand-in for a trajectory: the observables are read from ``exact``."""
    with np.errstate(divide="ignore"):
        log_t = np.log(t)
    grown = np.outer(1 + t, np.arange(1, neurons + 1))
    known = {
        "loss": 1 / (1 + t) ** (1 / 3),
        "norm": (1 + t) ** (1 / 3),
        "neuron_norms": grown ** (1 / 3),
        # from behind the target (ln tan = 1) to angles of exp(-1e20)
        "log_tan_half_angle": 1.0 - (grown ** (2 / 3) - np.arange(1, neurons + 1) ** (2 / 3)),
    } | exact
    return SimpleNamespace(t=t, log_t=log_t, exact=known, risk=None, params=None)


def drawn(figure):
    figure.canvas.draw()  # raises on labels or ticks that cannot be typeset
    for axis in figure.axes:
        low, high = axis.get_ylim()
        values = np.concatenate([line.get_ydata() for line in axis.lines])
        values = values[np.isfinite(values) & ((values > 0) | (axis.get_yscale() != "log"))]
        assert np.all((low <= values) & (values <= high))
    return figure.axes


def test_a_flow_end_to_end():
    risk = gf.PopulationRisk(
        gf.LinearPredictor(2), gf.logistic, gf.UniformSphere(2), gf.LinearTeacher(np.array([0, 1]))
    )
    flow = gf.integrate(risk, np.array([0.6, -0.8]), until=gf.until.time(1e6))
    axes = drawn(gf.plot(flow))
    assert len(axes) == 3
    for axis, name, sign in zip(
        axes, ("loss", "norm", "log_tan_half_angle"), (1, 1, -1), strict=True
    ):
        (line,) = axis.lines
        np.testing.assert_array_equal(line.get_xdata(), flow.t)
        np.testing.assert_array_equal(line.get_ydata(), sign * np.ravel(flow.observe(name)))
        assert axis.get_xscale() == "log"
    descent = gf.descend(risk, np.array([0.6, -0.8]), step_size=0.1, steps=20)
    (axis,) = drawn(gf.plot(descent, "log_tan_half_angle"))
    assert axis.get_xscale() == "linear"
    assert axis.get_ylabel().startswith("−ln")


def test_huge_ranges_get_readable_axes():
    loss, norm, angle = drawn(gf.plot(path()))
    assert (loss.get_yscale(), norm.get_yscale(), angle.get_yscale()) == ("log", "log", "symlog")
    low, high = angle.get_ylim()
    assert -3 > low > -10
    assert 1e20 < high < 1e22
    shown = [label.get_text() for label in angle.get_yticklabels()]
    assert 3 <= len(shown) <= 7
    # nothing but the last panel says what x is
    assert [a.get_xlabel() for a in (loss, norm, angle)] == ["", "", "time t"]


@pytest.mark.parametrize("top", [1e100, 1e300])
def test_extremes_of_the_floats(top):
    values = -np.geomspace(1e-300, top, T.size)[:, None]
    (axis,) = drawn(gf.plot(path(log_tan_half_angle=values), "log_tan_half_angle"))
    assert axis.get_yscale() == "log"
    both = np.linspace(-1, 1, T.size)[:, None] * top
    (axis,) = drawn(gf.plot(path(log_tan_half_angle=both), "log_tan_half_angle"))
    assert axis.get_yscale() == "symlog"
    flat = np.zeros((T.size, 1))
    (axis,) = drawn(gf.plot(path(log_tan_half_angle=flat), "log_tan_half_angle"))
    assert axis.get_yscale() == "linear"
    late = np.geomspace(1e-300, top, 50)
    (axis,) = drawn(gf.plot(path(late), "neuron_norms"))
    assert axis.get_xlim()[1] >= top
    lost = np.full((T.size, 1), -np.inf)
    drawn(gf.plot(path(log_tan_half_angle=lost), "log_tan_half_angle"))


def test_neurons_are_named_unless_they_are_many():
    axes = drawn(gf.plot(path(neurons=3), ("loss", "neuron_norms")))
    assert axes[0].get_legend() is None
    names = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert names == ["neuron 1", "neuron 2", "neuron 3"]
    assert len({line.get_color() for line in axes[1].lines}) == 3
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in axes[1].lines}) == 3
    (axis,) = drawn(gf.plot(path(neurons=40), "neuron_norms"))
    assert len(axis.lines) == 40
    assert axis.get_legend() is None


def test_log_t_goes_where_t_overflows():
    t = np.array([0.0, 1.0, np.inf])
    far = path(t, loss=np.array([1.0, 0.5, 1e-9]))
    far.log_t = np.array([-np.inf, 0.0, 1e10])
    with pytest.raises(ValueError, match=r"x='t'.*overflows.*log_t"):
        gf.plot(far, "loss", x="t")
    (axis,) = drawn(gf.plot(far, "loss"))
    assert axis.get_xlabel() == "ln t"
    np.testing.assert_array_equal(axis.lines[0].get_xdata()[1:], [0.0, 1e10])


def test_labels_come_from_the_registry():
    assert label_of("loss") == "risk"
    assert label_of("gradient_norm").endswith("[1/time$^{0.5}$]")
    assert label_of("neuron_norms").split()[-1] == "[weight]"
    assert label_of("log_tan_half_angle").startswith(r"−ln tan($\theta_k$/2)")
    assert label_of("cap_mean") == "cap mean"
    for name in gf.observables.names():
        assert max(map(len, label_of(name).replace(r"$\theta_k$", "th").splitlines())) <= 26


def test_axes_of_the_caller():
    figure, axes = plt.subplots(1, 2)
    assert gf.plot(path(), ("loss", "norm"), axes=axes) is figure
    assert [a.get_xlabel() for a in axes] == ["time t", "time t"]
    figure, axis = plt.subplots()
    assert gf.plot(path(), "loss", axes=axis) is figure
    assert len(axis.lines) == 1


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"observables": ("loss", "speed")}, "observables='speed'.*not a known name.*loss"),
        ({"observables": ()}, "observables.*empty"),
        ({"x": "time"}, "x='time'.*log_t, t"),
        ({"axes": [1, 2]}, "axes='2 axes'.*pass 3 axes"),
    ],
)
def test_bad_requests_leave_no_figure(kwargs, words):
    with pytest.raises(ValueError, match=words):
        gf.plot(path(), **kwargs)
    assert plt.get_fignums() == []
    empty = path(np.zeros(0))
    with pytest.raises(ValueError, match="no points"):
        gf.plot(empty, "loss")


def test_panel_shades_exactly_where_a_bound_fails():
    t = np.geomspace(1, 1e6, 61)
    alignment = t ** (2 / 3)
    flow = path(t, neurons=1, log_tan_half_angle=-alignment[:, None])
    wrong, good = 10 * t**0.5, t**0.5  # the first lies above the flow until t = 1e6
    steps = path(np.arange(0, 1001) * 0.1, neurons=1)
    _, axis = plt.subplots()
    panel(
        axis,
        flow,
        "log_tan_half_angle",
        curves=[Curve(t, -wrong, "failing", "printed"), Curve(t, -good, "bound", "corrected")],
        descent=steps,
    )
    axis.figure.canvas.draw()
    by_label = {line.get_label(): line for line in axis.lines}
    assert list(by_label) == ["gradient flow", "gradient descent", "printed", "corrected"]
    np.testing.assert_allclose(by_label["printed"].get_ydata(), wrong)
    some = by_label["gradient descent"].get_xdata()
    assert 5 < len(some) <= 12
    assert np.all(some > 0)
    (shaded,) = axis.collections
    (outline,) = [p.vertices for p in shaded.get_paths()]
    assert outline[:, 0].max() <= 1e6
    assert np.all(outline[:, 1] <= 10 * outline[:, 0] ** 0.5 * (1 + 1e-9))
    # a bound that holds is not shaded
    _, clean = plt.subplots()
    panel(clean, flow, "log_tan_half_angle", curves=[Curve(t, -good, "failing")])
    assert not any(p.vertices.size for c in clean.collections for p in c.get_paths())
    with pytest.raises(ValueError, match="role"):
        panel(clean, flow, "loss", curves=[Curve(t, t, "guess")])  # pyright: ignore[reportArgumentType]


def test_scales_follow_the_data():
    rows = {
        "linear": np.linspace(-2, 2, T.size),
        "log": np.geomspace(1, 1e3, T.size),
        "symlog": np.linspace(-5, 1e4, T.size),
        "symlog ": np.linspace(-1, -1e4, T.size),
    }
    for scale, values in rows.items():
        (axis,) = drawn(gf.plot(path(loss=values), "loss"))
        assert axis.get_yscale() == scale.strip()
    with_zero = np.concatenate([[1.0], np.geomspace(1, 1e-200, T.size - 2), [0.0]])
    (axis,) = drawn(gf.plot(path(loss=with_zero), "loss"))
    assert axis.get_yscale() == "log"


def test_matplotlib_is_loaded_when_something_is_drawn():
    code = "import gradflow.plots, gradflow, sys; gradflow.plot; print('matplotlib' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_inline_backends_show_a_figure_once(monkeypatch):
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "module://matplotlib_inline")
    figure = gf.plot(path(), "loss")
    assert figure.axes
    assert plt.get_fignums() == []
    assert plotting.PALETTE[0] == figure.axes[0].lines[0].get_color()
