"""Margin maximisation and simplicity bias of leaky ReLU nets.

Source: `lyu2021margin`.
"""

from __future__ import annotations

from gradflow.claims.statement import Paper, Stated

# fmt: off
PAPER = Paper(
    "lyu2021margin", __name__,
    [
        Stated("global-optimum", "equality", "reconstructed", "symmetric",
               "no net has a larger margin on symmetric data",
               "symmetric data: max over nets of any width of min_i q_i/|θ|² is (1+α) γ*/4",
               quick=True),
        Stated("same-sign-probability", "equality", "reconstructed", "symmetric",
               "how often a draw is same-sign",
               "w_k ~ N(0, σ²I), a_k ~ N(0, c²σ²): all b_k are of one sign with probability "
               "2^-(m-1)", quick=True),
        Stated("limit-margin", "equality", "reconstructed", "symmetric",
               "small starts on symmetric data reach the global max margin",
               "symmetric data, small σ, b_k of both signs: min_i q_i/|θ|² -> (1+α) γ*/4"),
        Stated("limit-masses", "equality", "derived", "symmetric", "four equal shares of the norm",
               "symmetric data, small σ, b_k of both signs: of |θ|² a quarter each is Σ a_k² and "
               "Σ |w_k|² over b_k > 0, and over b_k < 0"),
        Stated("limit-function", "equality", "reconstructed", "symmetric", "the limit is linear",
               "symmetric data, small σ, b_k of both signs: at unit norm f -> (1+α)/4 w*.x"),
        Stated("limit-margin-unpolished", "equality", "derived", "symmetric",
               "the flow itself comes to that margin",
               "symmetric data, small σ, b_k of both signs: min_i q_i/|θ|² at ln t = 1e10 is "
               "(1+α) γ*/4 to a thousandth"),
        Stated("same-sign-limit", "equality", "derived", "symmetric",
               "same-sign draws stop at one neuron's margin",
               "symmetric data, small σ, all b_k of one sign s: min_i q_i/|θ|² -> α γ*/2, f -> ½ "
               "s φ(s w*.x), below the (1+α) γ*/4 of mixed draws"),
        Stated("phase-1-rate", "equality", "reconstructed", "symmetric",
               "phase I: neurons grow at one rate",
               "symmetric data, small σ: d/dt ln|w_k.μ̄ + a_k| = λ0 = (1+α)|μ|/4 as long as |θ| "
               "is small"),
        Stated("phase-1-state", "equality", "derived", "symmetric",
               "phase I: neurons align with ±μ",
               "symmetric data, small σ: w_k = b_k e^(λ0 t) μ̄, a_k = b_k e^(λ0 t), relative to "
               "|θ| up to O(σ^(2/3)) at |θ| = σ^(1/3)"),
        Stated("phase-1-duration", "equality", "derived", "symmetric", "phase I lasts ln(1/σ)/λ0",
               "symmetric data, small σ: the time until |θ| reaches a fixed size is ln(1/σ)/λ0 + "
               "const + O(σ)"),
        Stated("phase-1-groups", "qualitative", "reconstructed", "symmetric",
               "phase I: the sign of b_k picks the group",
               "symmetric data, small σ: a_k > 0 and w_k along μ if b_k > 0, a_k < 0 and w_k "
               "along -μ if b_k < 0, without exception"),
        Stated("phase-2-tracking", "equality", "derived", "symmetric",
               "phase II: two neurons in disguise",
               "symmetric data, small σ: at fixed times after f is felt the distance of θ to the "
               "embedded two-neuron flow is of first order in σ"),
        Stated("hinted-switch-location", "equality", "derived", "hinted",
               "hinted data: where the switch is",
               "neurons begin to go elsewhere than to w* at K = √(ε (H + (1+α) ε)/(1-α))"),
        Stated("hinted-optimum", "equality", "derived", "hinted",
               "hinted data: the best margin of any net",
               "if the hint is no support datum: max over nets of min_i q_i/|θ|² is max{{¼ "
               "√((1+α)² ε² + (1-α)² K²), ½ ε}}", quick=True),
        Stated("hinted-switch-map", "qualitative", "derived", "hinted",
               "hinted data: the switch of early alignment, as a map",
               "data +1: H w*, ε w* ± K w⊥; tiny start: all neurons with a_k > 0 come to w* iff "
               "(1-α) K² < ε (H + (1+α) ε)"),
        Stated("hinted-split-angle", "equality", "derived", "hinted",
               "hinted data: where neurons go beyond the switch",
               "if (1-α) K² > ε (H + (1+α) ε), neurons come to w* or to the angles ± arctan((1-α) "
               "K/(H + (1+α) ε))"),
        Stated("hinted-limit", "equality", "derived", "hinted",
               "hinted data: a small start ends below the optimum",
               "(1-α) K² < ε (H + (1+α) ε), small σ: f -> ½ φ(w*.x), min_i q_i/|θ|² -> γ*/2"),
        Stated("hinted-larger", "qualitative", "derived", "hinted",
               "hinted data: larger starts come near the optimum",
               "(1-α) K² < ε (H + (1+α) ε), when f is felt neurons stand beyond the surfaces of "
               "both ε w* ± K w⊥: min_i q_i/|θ|² of most draws ends above {share:g} of the optimum",
               cases=[{"share": 0.99}]),
        Stated("branching", "qualitative", "derived", "branching",
               "hinted data: where the flow is not unique, and only there",
               "hinted data, a > 0: the surface of ε w* - K w⊥ can be left both ways iff (1-α) K² "
               "> ε (H + (1+α) ε); a flow that meets it is reported, any other is unique"),
        Stated("branch-time", "equality", "derived", "branching",
               "hinted data: when a sliding neuron's flow branches",
               "hinted data, (1-α) K² > ε (H + (1+α) ε), tiny start on the surface of ε w* - K w⊥ "
               "with -|w| < a < 0: a branch at t = artanh(|a|/|w|)/λ, λ = K (H + 2ε)/(6 √(K² + "
               "ε²))"),
    ],
    uncovered=[
        "Any separable data with a hint: the early direction and the limit of one neuron",
    ],
)
# fmt: on
