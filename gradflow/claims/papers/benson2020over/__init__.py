"""What a last layer can fit: kernels of random features, and what bias-free ReLU nets lack.

Source: `benson2020over`.
"""

from __future__ import annotations

from gradflow.claims.statement import Paper, Stated

# fmt: off
PAPER = Paper(
    "benson2020over", __name__,
    [
        Stated("antipodal-rank-{kernel}", "equality", "derived", "antipodal",
               "rank of the {kernel} Gram matrix on antipodal pairs",
               "N antipodal pairs in general position in R^d: rank N + min(N, d)", quick=True,
               cases=[{"kernel": "arc-cosine"}, {"kernel": "ntk"}]),
        Stated("{net}", "equality", "derived", "antipodal",
               "the least error of bias-free ReLU nets",
               "antipodal pairs: min MSE = min_u mean((y(x) - y(-x))/2 - u·x)²; hexagon with "
               "alternating labels: exactly 1", quick=True,
               cases=[{"net": "hexagon-relu"},
                      {"net": "hexagon-leaky-relu"},
                      {"net": "least-error-relu"}]),
        Stated("hexagon-training", "bound", "reconstructed", "antipodal",
               "no training gets bias-free ReLU nets below their least error",
               "antipodal pairs, both layers trained: MSE >= min_u mean((y(x) - y(-x))/2 - u·x)², "
               "which is reached"),
        Stated("hexagon-shifted-relu", "equality", "derived", "antipodal",
               "shifted ReLU fits the hexagon",
               "(z - b)_+, w_k = x_k, a_k = y_k/c, c = Σ_j (-1)^j (cos(jπ/3) - b)_+: f(x_k) = "
               "y_k, MSE 0", quick=True),
        Stated("homogeneity", "equality", "reconstructed", "flaws",
               "bias-free ReLU nets are homogeneous in the input",
               "f(cx) = c f(x) for c > 0, whatever the weights", quick=True),
        Stated("odd-part-linear", "equality", "reconstructed", "flaws",
               "the odd part of a bias-free ReLU net is linear",
               "f(x) - f(-x) = (1+α) (Σ_k a_k w_k)·x, whatever the weights", quick=True),
        Stated("criterion", "qualitative", "reconstructed", "kernels",
               "strictly positive definite kernels",
               "w ~ N(0, I): K > 0 on all distinct points of the sphere iff neither the even nor "
               "the odd part of φ is a polynomial; for d >= 3 iff infinitely many even and "
               "infinitely many odd Gegenbauer coefficients are positive (on the circle that "
               "alone is too little)"),
        Stated("antipodal-rank-parity", "equality", "derived", "kernels",
               "ranks on antipodal pairs from the parity of the activation",
               "N pairs: rank = rank of the even part + rank of the odd part; N for a part that "
               "is no polynomial, min(N, d) for a linear one, 0 for none"),
        Stated("strict-activations-fit", "equality", "reconstructed", "kernels",
               "activations that fit any labels",
               "φ meets the criterion, distinct points: f(x_i) = y_i for some last layer",
               quick=True),
        Stated("last-layer-flow", "equality", "reconstructed", "last_layer",
               "modes of the last-layer flow, every integrator",
               "L = ½ mean (Av - y)²: r(t) = e^(-Kt) r(0), K = AAᵀ/n; modes e^(-λ_i t)"),
        Stated("last-layer-descent", "equality", "reconstructed", "last_layer",
               "modes of last-layer gradient descent",
               "r_k = (I - ηK)^k r_0, K = AAᵀ/n; modes (1 - ηλ_i)^k", quick=True),
        Stated("spectra", "equality", "derived", "spectra", "spectra of kernels on the sphere",
               "∫(t-s)_+ P_k dμ = c_d (1-s²)^((d+1)/2) P_(k-2)^(d+4)(s)/(d²-1), λ_k its square; "
               "cos + sin: λ_k = e^-1 Γ(d/2) 2^(d/2-1) I_(k+d/2-1)(1)", quick=True),
        Stated("polygon-spectra", "equality", "derived", "spectra",
               "Gram matrices on regular polygons",
               "n-gon: eigenvalues n Σ_(k≡j mod n) λ_|k|; the hexagon's alternating vector has "
               "the odd multiples of 3, which ReLU lacks", quick=True),
        Stated("square-analytic", "qualitative", "reconstructed", "square",
               "as many features as data suffice, if the activation is analytic",
               "φ analytic, no polynomial, data on distinct lines, m = n: det φ(XWᵀ) != 0 a.s.",
               quick=True),
        Stated("square-relu-singular", "equality", "derived", "square",
               "as many ReLU features as data do not suffice",
               "ReLU, m = n: P(det A = 0) = Σ over cells of Π (arc/2π), not 0"),
        Stated("width-bound", "bound", "reconstructed", "width",
               "width at which random features are well conditioned",
               "‖σ(Xᵀw)‖² <= B a.s., m >= (2B/(ε²λ)) ln(n/δ): λ_min(AAᵀ/m) >= (1-ε)λ with "
               "probability >= 1-δ, since P(fail) <= n e^(-ε²mλ/2B)"),
    ],
    uncovered=[
        "The limit of the last layer: the interpolant closest to its start",
        "How the width needed grows with the number of data",
    ],
)
# fmt: on
