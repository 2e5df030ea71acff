"""Directional convergence of a linear predictor on spherically symmetric data.

Source: `lin2021directional`.
"""

from __future__ import annotations

from gradflow.claims.statement import Paper, Stated

# fmt: off
PAPER = Paper(
    "lin2021directional", __name__,
    [
        Stated("direction-monotone", "qualitative", "published", "rates", "direction is monotone",
               "cos θ(t) increases strictly along the flow, from every start with θ(0) ≠ π: (ln "
               "tan(θ/2))' = -(c0/π)/‖w‖", quick=True),
        Stated("norm-diverges", "qualitative", "published", "rates", "norm diverges", "‖w(t)‖ → ∞"),
        Stated("norm-exponent", "equality", "derived", "rates", "norm growth, exponent",
               "d ln‖w‖/d ln t → 1/3", quick=True),
        Stated("norm-constant", "equality", "derived", "rates", "norm growth, constant",
               "‖w‖ ~ (3κt)^(1/3), κ = π²p0/6", quick=True),
        Stated("angle-exponent", "equality", "derived", "rates", "angle law, exponent",
               "-ln tan(θ/2) grows like t^(2/3)"),
        Stated("angle-constant", "equality", "derived", "rates", "angle law, constant",
               "-ln tan(θ/2) ~ (3c0/2π)(3κ)^(-1/3) t^(2/3)"),
        Stated("loss-law", "equality", "derived", "rates", "loss along the flow",
               "L ~ κ/‖w‖, L ~ t^(-1/3)"),
        Stated("{loss}-loss", "equality", "derived", "rates", "rates of the {loss} loss",
               "‖w‖ ~ (6 p0 M t)^(1/3) with M = ∫l, and θ' ~ -(2c0/π)(-l'(0)) θ/‖w‖",
               cases=[{"loss": "exponential"}, {"loss": "hinge"}]),
        Stated("flow-bound-before-T", "bound", "published", "bounds",
               "angle while the norm shrinks",
               "t <= T: cos θ >= 1 - 2/(e^(A1 t + B1) + 1), A1 = 2c0/(π‖w(0)‖), B1 = -2 ln "
               "tan(θ(0)/2)"),
        Stated("flow-bound-after-T", "bound", "published", "bounds", "angle while the norm grows",
               "t > T: cos θ >= 1 - 2/(e^(A2 √(t - T + C2) + B2) + 1), C2 = ‖w(T)‖²/0.6, B2 = -2 "
               "ln tan(θ(T)/2) - 4c0‖w(T)‖/(0.6π), A2 = 4c0/(√0.6 π)", quick=True),
        Stated("norm-upper-bound", "bound", "published", "bounds", "norm, upper bound",
               "‖w(t)‖² <= ‖w(0)‖² + 0.6 t, as 2 z/(1+e^z) <= 0.557"),
        Stated("descent-early-{name}", "bound", "published", "descent",
               "gradient descent until cos θ >= 0, {name} steps",
               "v·w(0) < 0, until cos θ >= 0: cos θ(n) >= 1 - (1 - cos θ(0)) e^(-B S_n), S_n = "
               "Σ_(k<n) η_k/√(‖w(0)‖²/c0² + Σ_(i<=k) η_i²), B = (1 + cos θ(0))/π",
               cases=[{"name": "constant"}, {"name": "decaying"}, {"name": "growing"}]),
        Stated("descent-late-{name}", "bound", "published", "descent",
               "gradient descent with growing norm, {name} steps",
               "if ‖w(n+1)‖ + ŵ(n)·w(n+1) >= (1+δ) c0 η_n cos θ(n)/π at every n: cos θ(n) >= 1 - "
               "(1 - cos θ(0)) e^(-B S_n), S_n = Σ_(k<n) η_k/√(‖w(0)‖²/c0² + Σ_(i<=k) (η_i² + 0.6 "
               "η_i/c0²)), B = δ(1 + cos θ(0))/((1+δ)π); here with δ = {delta:g}",
               cases=[{"name": "constant", "delta": 1.0},
                      {"name": "decaying", "delta": 1.0},
                      {"name": "growing", "delta": 1.0}]),
        Stated("gradient-normal-part", "equality", "published", "gradient", "gradient, normal part",
               "-(I - ŵŵᵀ)∇L = (c0/π)(I - ŵŵᵀ)v, independent of ‖w‖, for every d and law",
               quick=True),
        Stated("gradient-teacher-part", "qualitative", "published", "gradient",
               "gradient along the teacher", "v·∇L(w) < 0 at every w", quick=True),
    ],
    uncovered=[
        "Regularity: the Hessian at 0 and on the whole space, no strong convexity, the Lipschitz "
        "constant",
        "The gradient on the ray of the teacher, and its largest norm",
        "The norm has one minimum, at a finite time",
        "Theorem 3 with a norm-growth constant other than 1, and descent with bounded steps: "
        "from when on it applies",
        "The sums S_n of Remarks 1 and 2 for constant, geometric and harmonic steps",
    ],
)
# fmt: on
