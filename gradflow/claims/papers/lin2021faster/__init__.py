"""Balanced deep linear nets, and two neurons, on spherically symmetric data.

Source: `lin2021faster`.
"""

from __future__ import annotations

from gradflow.claims.statement import Paper, Stated

_GROWTH = [
    {"part": part, "N": depth} for depth in (2, 3, 4, 6) for part in ("exponent", "constant")
]
# fmt: off
PAPER = Paper(
    "lin2021faster", __name__,
    [
        Stated("angle-exact-N2", "equality", "published", "deep",
               "two layers: exponential alignment at one rate, from the start on",
               "N=2: -ln tan(θ(t)/2) = -ln tan(θ(0)/2) + (c0/π) t at every t", quick=True),
        Stated("norm-{part}-N{N}", "equality", "derived", "deep",
               "{part} of the norm's law, {N} layers",
               "N={N}: ‖w_e‖ ~ ((N+2)κt)^(N/(N+2)), κ = π²p0/6",
               cases=_GROWTH),
        Stated("angle-{part}-N{N}", "equality", "derived", "deep",
               "{part} of the angle's law, {N} layers",
               "N={N}: -ln tan(θ/2) ~ (c0/π)((N+2)/2N)((N+2)κ)^((N-2)/(N+2)) t^(2N/(N+2)), κ = "
               "π²p0/6",
               cases=_GROWTH),
        Stated("loss-{part}-N{N}", "equality", "derived", "deep",
               "{part} of the loss's law, {N} layers", "N={N}: L ~ κ/‖w_e‖, κ = π²p0/6",
               cases=[{"part": "constant", "N": 3}]),
        Stated("reduction-N{N}", "equality", "published", "deep",
               "all layers against two equations, {N} layers",
               "balanced layers: R' = N R^(2-2/N) [h(R) - (c0/π)(1-cosθ)], (ln tan(θ/2))' = "
               "-(c0/π) R^(1-2/N), compared with W_j' = -∂L/∂W_j", cases=[{"N": 3}]),
        Stated("balancedness-N{N}", "equality", "published", "deep",
               "balancedness is conserved, {N} layers",
               "W_{{j+1}}ᵀ W_{{j+1}} - W_j W_jᵀ is constant along the flow",
               citation="du2018balanced", cases=[{"N": 3}]),
        Stated("angle-bound-early-N{N}", "bound", "corrected", "bounds",
               "angle while the norm shrinks, {N} layers",
               "t <= T, N > 2: cosθ >= 1 - 2/(C1 (A1 t/B1 + 1)^a + 1), A1=(N-2)c0, "
               "B1=‖w_e(0)‖^(2/N-1), C1=cot²(θ0/2); corrected a=2/((N-2)π), in the submission "
               "a=2c0/π", cases=[{"N": 4}, {"N": 6}]),
        Stated("angle-bound-late-N{N}", "bound", "corrected", "bounds",
               "angle while the norm grows, {N} layers",
               "t > T, N > 2: cosθ >= 1 - 2/(e^(A2 (t-T) + B2) + 1), B2=-2 ln tan(θ(T)/2); "
               "corrected A2=(2c0/π)‖w_e(T)‖^(1-2/N), in the submission exponent 2-2/N (fails if "
               "‖w_e(T)‖ > 1)", cases=[{"N": 4}, {"N": 6}]),
        Stated("angle-bound-upper-N{N}", "bound", "published", "bounds",
               "angle, bound from the other side, {N} layers",
               "N > 2: cosθ <= 1 - 2/(e^(F[(0.6t+D)^(N/2) - D^(N/2)] + E) + 1), D=‖w_e(0)‖^(2/N), "
               "E=-2 ln tan(θ0/2), F=4c0/(0.6Nπ)", cases=[{"N": 4}, {"N": 3}]),
        Stated("norm-bound-upper-N{N}", "bound", "published", "bounds",
               "norm, upper bound, {N} layers", "N > 2: ‖w_e(t)‖ <= (‖w_e(0)‖^(2/N) + 0.6t)^(N/2)",
               cases=[{"N": 4}, {"N": 3}]),
        Stated("norm-bound-lower-N{N}", "bound", "published", "bounds",
               "norm, lower bound, {N} layers",
               "N > 2: ‖w_e(t)‖ >= (‖w_e(0)‖^(2/N-1) + (N-2)c0 t)^(-N/(N-2))",
               cases=[{"N": 4}, {"N": 3}]),
        Stated("risk-identity", "equality", "derived", "identity",
               "the teacher enters the logistic risk linearly",
               "E ln(1+e^(-yf)) = E ln 2cosh(f/2) - ((1+α)c0/2π) v·(w1 - w2)", quick=True),
        Stated("direction-leaky", "qualitative", "derived", "leaky",
               "both neurons converge in direction",
               "two neurons, a1 > 0 > a2: θ_i(t) -> 0, the angle of w_i to sgn(a_i) v"),
        Stated("symmetric-time-change", "equality", "derived", "leaky",
               "a symmetric pair is the linear flow in another time",
               "w2 = -w1: (1+α) w1(t) = u((1+α)²t/2), u the linear flow; ReLU: half speed"),
        Stated("linear-neurons-sum", "equality", "derived", "leaky",
               "linear neurons conserve their sum",
               "α = 1, a = (1, -1): w1(t) + w2(t) = w1(0) + w2(0)"),
        Stated("leaky-norm-constant", "equality", "derived", "leaky",
               "leaky neurons: constant of the mean norm's law",
               "0 < α < 1: S³/3 - k2 S = (1+α)²(π²p0/12) t + ..., S = (1+α) R"),
        Stated("leaky-angle-{part}", "equality", "derived", "leaky",
               "leaky neurons: {part} of the slow mode's law",
               "0 < α < 1, R1 != R2: ln|p1 - p2| = -q[A S² - (B+1) ln S] + C, q = ((1-α)/(1+α))²",
               cases=[{"part": "rate"}, {"part": "power"}]),
        Stated("leaky-rate-ratio", "equality", "derived", "leaky",
               "leaky neurons: slow rate over fast rate",
               "0 < α < 1: a generic pair aligns slower than the symmetric one by the factor q = "
               "((1-α)/(1+α))² (the fast rate shows only where R1 = R2)"),
        Stated("leaky-norm-difference", "equality", "derived", "leaky",
               "difference of the norms, leaky neurons",
               "leaky: R1 - R2 ~ const R^-2q, q = ((1-α)/(1+α))²"),
        Stated("leaky-mode-mix", "equality", "derived", "leaky",
               "leaky neurons: how much of the fast mode stays in the slow one",
               "0 < α < 1, R1 != R2: (p1+p2)/(p1-p2) ~ ((1-α)²/8α)(R1-R2)/R"),
        Stated("leaky-mode-mix-early", "equality", "derived", "leaky",
               "leaky neurons: how much of the fast mode stays in the slow one",
               "0 < α < 1, R1 != R2: (p1+p2)/(p1-p2) ~ ((1-α)²/8α)(R1-R2)/R"),
        Stated("direction-relu", "qualitative", "published", "relu",
               "both neurons converge in direction",
               "two neurons, a1 > 0 > a2: θ_i(t) -> 0, the angle of w_i to sgn(a_i) v"),
        Stated("symmetric-half-speed", "equality", "derived", "relu",
               "a symmetric pair is the linear flow in another time",
               "w2 = -w1: (1+α) w1(t) = u((1+α)²t/2), u the linear flow; ReLU: half speed"),
        Stated("relu-norm-{part}", "equality", "derived", "relu",
               "decoupled ReLU neurons: {part} of the norm's law",
               "ReLU: R_i ~ (π²p0 t/4)^(1/3) (1 + c t^(-2/3) + ...), from R³/3 - k2 R - "
               "(k2²-k4)/R = (π²p0/12)(t + τ_i)",
               cases=[{"part": "exponent"}, {"part": "constant"}, {"part": "second-order"}]),
        Stated("relu-angle-{part}", "equality", "derived", "relu",
               "decoupled ReLU neurons: {part} of the angle's law",
               "ReLU: ln θ_i = -A R² + B ln R + C + o(1), A = 3c0/(π³p0), B = 6c0 k2/(π³p0)",
               cases=[{"part": "rate"}, {"part": "power"}]),
        Stated("relu-norm-difference", "equality", "derived", "relu",
               "difference of the norms, ReLU neurons", "ReLU: R1 - R2 ~ const R^-2"),
        Stated("trained-angle", "equality", "derived", "relu",
               "trained balanced outer weights: angle",
               "ReLU, both layers trained, balanced: ln tan(θ_i/2) has asymptotic slope -c0/(2π)"),
        Stated("trained-norm", "equality", "derived", "relu",
               "trained balanced outer weights: norm",
               "ReLU, both layers trained, balanced: |a_i||w_i| ~ (π²p0 t/3)^(1/2)"),
    ],
    uncovered=[
        "A deep net opposed to its teacher",
        "SGD on the settings of the figure",
    ],
)
# fmt: on
