"""Two neurons to t = 1e6 and t = 1e30: digits, steps and time, beside the textbook way.

The textbook way integrates the definition of the risk: a quadrature over the plane for every
right-hand side, cartesian weights, and LSODA in log time. Both run here, one after the other, so
that their ratio does not depend on the machine. The reference is the same flow at rtol 1e-13 and,
as a second route, scipy's DOP853 on the same chart.

    python benchmarks/two_neuron.py [--no-textbook]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.integrate import solve_ivp

import gradflow as gf

INNER = np.array([[0.6, -0.8], [0.5, 0.4]])
OUTER = np.array([1.0, -1.0])
TEACHER = np.array([0.0, 1.0])
CASES = {
    "Gaussian, ReLU": (gf.Gaussian(2), 0.0),
    "circle, alpha = 0.3": (gf.UniformSphere(2), 0.3),
}


def build(law: gf.Gaussian | gf.UniformSphere, slope: float):
    """The risk and the start."""
    net = gf.TwoLayer(dim=2, width=2, activation=gf.leaky_relu(slope), outer="fixed")
    risk = gf.PopulationRisk(net, gf.logistic, law, teacher=gf.LinearTeacher(TEACHER))
    return risk, net.params(inner=INNER, outer=OUTER)


def ends(trajectory) -> np.ndarray:
    """R_1, R_2, ln tan(theta_1/2), ln tan(theta_2/2) at the last time."""
    return np.concatenate(
        [trajectory.exact["neuron_norms"][-1], trajectory.exact["log_tan_half_angle"][-1]]
    )


def timed(risk, params, t_end: float, repeats: int = 7, **options):
    """Best wall-clock milliseconds of a call and of its inner run, after compilation."""
    until = gf.until.time(t_end)
    first = gf.integrate(risk, params, until=until, save_at=[t_end], **options)
    calls, runs = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        trajectory = gf.integrate(risk, params, until=until, save_at=[t_end], **options)
        calls.append(1e3 * (time.perf_counter() - start))
        runs.append(1e3 * trajectory.stats["run_seconds"])
    return trajectory, min(calls), min(runs), first.stats["compile_seconds"]


def textbook(law, slope: float, t_end: float, rtol: float) -> tuple[np.ndarray, int, float]:
    """Quadrature of the definition with LSODA in u = ln(1+t); (R_i and angles, evaluations, s)."""
    rho, weight = law.planar_rule(1e4)
    x, w = np.polynomial.legendre.leggauss(200)

    def gradient(inner: np.ndarray) -> np.ndarray:
        edges = [*inner, TEACHER, inner[0] - slope * inner[1], slope * inner[0] - inner[1]]
        edges.append(inner[0] - inner[1])
        angles = [np.arctan2(e[1], e[0]) + s * np.pi / 2 for e in edges for s in (1, -1)]
        breaks = np.unique(np.mod(angles, 2 * np.pi))
        breaks = np.append(breaks, breaks[0] + 2 * np.pi)
        half = np.diff(breaks)[:, None] / 2
        beta = ((breaks[1:] + breaks[:-1])[:, None] / 2 + half * x).ravel()
        mass = (half * w).ravel() / (2 * np.pi)
        points = np.stack([np.cos(beta), np.sin(beta)], axis=1)
        label = np.sign(points @ TEACHER)
        hidden = points @ inner.T
        f = np.maximum(hidden, slope * hidden) @ OUTER
        z = np.clip((label * f)[:, None] * rho, -700, 700)
        pull = mass * -label * ((rho * weight) / (1 + np.exp(z))).sum(axis=1)
        slopes = np.where(hidden > 0, 1.0, slope)
        return OUTER[:, None] * ((pull[:, None] * slopes).T @ points)

    start = time.perf_counter()
    solution = solve_ivp(
        lambda u, y: -np.exp(u) * gradient(y.reshape(2, 2)).ravel(),
        (0.0, np.log1p(t_end)),
        INNER.ravel(),
        method="LSODA",
        rtol=rtol,
        atol=1e-12,
    )
    inner = solution.y[:, -1].reshape(2, 2) * OUTER[:, None]
    radius = np.linalg.norm(inner, axis=1)
    with np.errstate(divide="ignore"):
        lam = np.log(np.abs(inner[:, 0])) - np.log(radius + inner[:, 1])
    return np.concatenate([radius, lam]), solution.nfev, time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--no-textbook", action="store_true", help="leave the slow baseline out")
    arguments = parser.parse_args()
    print("error: largest relative error of R_i and ln tan(theta_i/2) against rtol 1e-13\n")
    for name, (law, slope) in CASES.items():
        risk, params = build(law, slope)
        print(f"{name}")
        for t_end in (1e6, 1e30):
            fine = gf.integrate(risk, params, until=gf.until.time(t_end), rtol=1e-13)
            reference = ends(fine)
            second = gf.integrate(
                risk, params, until=gf.until.time(t_end), rtol=1e-12, integrator="dop853"
            )
            agreement = np.abs(ends(second) / reference - 1).max()
            print(f"  t = {t_end:.0e}: R = {reference[:2]}, ln tan = {reference[2:]}")
            print(f"    second route (scipy DOP853, rtol 1e-12): {agreement:.1e}")
            for integrator in ("auto", "tsit5"):
                trajectory, call, run, compiled = timed(
                    risk, params, t_end, rtol=1e-10, integrator=integrator
                )
                error = np.abs(ends(trajectory) / reference - 1).max()
                stats = trajectory.stats
                print(
                    f"    {integrator:6} rtol 1e-10: {stats['steps']:5} steps, "
                    f"{stats['rejected']:3} rejected, {stats['rhs']:6} right-hand sides, "
                    f"run {run:6.1f} ms, whole call {call:6.1f} ms, compile {compiled:4.1f} s, "
                    f"error {error:.1e}"
                )
                if t_end == 1e6 and integrator == "auto":
                    ours = run
        if not arguments.no_textbook:
            values, evaluations, seconds = textbook(law, slope, 1e6, 1e-10)
            reference = ends(gf.integrate(risk, params, until=gf.until.time(1e6), rtol=1e-13))
            error = np.abs(values[:2] / reference[:2] - 1).max()
            lost = "lost" if not np.allclose(values[2:], reference[2:], rtol=1e-6) else "kept"
            print(
                f"  textbook quadrature + LSODA to 1e6: {evaluations} right-hand sides, "
                f"{seconds:.1f} s, error of R {error:.1e}, angle {lost}; "
                f"ratio of times {1e3 * seconds / ours:,.0f}"
            )
        print()


if __name__ == "__main__":
    main()
