"""Draw the README's picture: two flows followed far beyond floating-point angles.

Run ``python benchmarks/figure.py [FILE]``; the default is
``notebooks/figures/directional_convergence.png``. Left: the linear predictor on the circle to
t = 1e12, with the law that ``gf.derive`` gives and the published bound (`lin2021directional`).
Right: two ReLU neurons to t = 1e30.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import gradflow as gf
from gradflow.claims import Lab
from gradflow.claims.papers.lin2021directional import formulas as published
from gradflow.claims.papers.lin2021directional.setting import instance, turning_point
from gradflow.plots.trajectory import PALETTE, STYLES, Curve, panel, tidy

DEFAULT = Path(__file__).parents[1] / "notebooks" / "figures" / "directional_convergence.png"
ANGLE = r"alignment   $-\ln\,\tan(\theta/2)$"


def linear_predictor(axis: plt.Axes) -> None:
    """Angle of the flow, its law, and the published bound."""
    one = instance(gf.UniformSphere(2), [0.6, -0.8])
    c0, turn = one.law.c0, turning_point(Lab(), one)
    since = np.geomspace(1e-3, 1e12, 600)
    t = turn.t + since
    flow = gf.integrate(one.risk, one.params, until=gf.until.time(t[-1]), save_at=t, rtol=1e-12)
    rate = gf.derive("linear").rates["log_angle"].evaluate(one.law)

    bound = -published.flow_late(since, c0, np.exp(turn.log_radius), turn.log_tan) / 2
    label = f"derived law  ${rate.constant:.3f}\\,t^{{2/3}}$"
    curves = [
        Curve(t, bound, "bound", "published lower bound"),
        Curve(t, -rate.constant * t**rate.exponent, "law", label),
    ]
    panel(axis, flow, "log_tan_half_angle", curves=curves)
    axis.set(xlim=(2, 1e12), ylim=(1, 1e8), ylabel=ANGLE)
    axis.set_yscale("log")
    axis.minorticks_off()
    axis.set_title("Linear predictor, inputs uniform on the circle", loc="left", fontsize=11.5)
    axis.legend(frameon=False, fontsize=9.5, loc="upper left")


def two_neurons(axis: plt.Axes) -> None:
    """Angles of two ReLU neurons that are not coplanar with the teacher."""
    law, net = gf.Gaussian(3), gf.TwoLayer(3, 2, gf.relu, outer="fixed")
    risk = gf.PopulationRisk(net, gf.logistic, law, gf.LinearTeacher(np.array([0.0, 0.0, 1.0])))
    inner = np.array([[1.0, 0.3, -0.6], [-0.2, 0.5, 2.0]])
    start = net.params(inner, np.array([1.0, -1.0]))
    flow = gf.integrate(risk, start, until=gf.until.time(1e30), rtol=1e-11, throw=True)
    rate = gf.derive("two-neuron", regime="decoupled").rates["log_angle"].evaluate(law)
    gf.plot(flow, "log_tan_half_angle", axes=axis)
    late = np.geomspace(1e2, 1e30, 50)
    axis.plot(late, rate.constant * late**rate.exponent, label="law", **STYLES["law"])
    axis.set(xlim=(1e-1, 3e31), ylabel=ANGLE)
    axis.set_title("Two ReLU neurons, Gaussian inputs in 3-D", loc="left", fontsize=11.5)
    law_label = f"derived law  ${rate.constant:.3f}\\,t^{{2/3}}$"
    axis.legend(
        axis.lines, ["neuron 1, to v", "neuron 2, to −v", law_label], frameon=False,
        loc="upper left", fontsize=9.5,
    )  # fmt: skip
    value = -flow.observe("log_tan_half_angle")[:, 0]
    exponent = int(np.floor(np.log10(value[-1])))
    axis.plot(flow.t[-1], value[-1], "o", color=PALETTE[0], markersize=6, zorder=6)
    axis.annotate(
        rf"$\theta\approx e^{{-{value[-1] / 10**exponent:.2g}\,\cdot\,10^{{{exponent}}}}}$",
        (flow.t[-1], value[-1]), xytext=(13, -46), textcoords="offset points", ha="right",
        va="top", fontsize=12,
    )  # fmt: skip
    # |w_perp| / |w| = eps: below it, rounding the weights moves the angle more than the flow does.
    smallest = -np.log(np.finfo(np.float64).eps / 2)
    axis.axhline(smallest, color="0.55", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axis.annotate(
        "smaller angles: rounded away in float64 weights", (1.0, smallest), xytext=(-2, 4),
        xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="bottom",
        fontsize=9, color="0.4",
    )  # fmt: skip


def main(target: Path = DEFAULT) -> None:
    """Draw and write."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.7, 4.4), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    linear_predictor(left)
    two_neurons(right)
    for axis in (left, right):
        tidy(axis)
        axis.set_xlabel("time t")
        axis.yaxis.label.set_size(11)
    target.parent.mkdir(parents=True, exist_ok=True)
    # No date or version in the file: the same picture gives the same bytes.
    figure.savefig(target, dpi=150, metadata={"Software": None})
    plt.close(figure)
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
