"""Nets with linear teachers: SGD, agreement regimes, clusters, and the size of the start.

Source: `sarussi2021linear`.
"""

from __future__ import annotations

from gradflow.claims.statement import Paper, Stated

# fmt: off
PAPER = Paper(
    "sarussi2021linear", __name__,
    [
        Stated("sgd-{which}", "bound", "reconstructed", "sgd",
               "SGD's summed loss derivatives, {name}",
               "at every T: Σ_(t<T) |ℓ'_t| <= √(2k) ‖w*‖ (R0 + √(R0² + 2·0.2785 η T + 2k η² v² "
               "Rx² Σ|ℓ'_t|²)) / (2 k v α η); 0.2785 is W(1/e) = 0.27846 rounded up, which is "
               "what is used", quick=True,
               cases=[{"which": "two-balls", "name": "two balls"},
                      {"which": "gaussians", "name": "separable Gaussians"},
                      {"which": "flat-side", "name": "a start on the flat side"}]),
        Stated("agreement-keeps-differences", "equality", "derived", "regimes",
               "neural agreement keeps differences",
               "all w_j with one activation pattern on the data, all u_j with one: d(w_j - "
               "w_i)/dt = 0 and d(u_j - u_i)/dt = 0"),
        Stated("agreement-makes-two-clusters", "equality", "reconstructed", "regimes",
               "neural agreement makes two clusters",
               "in the neural agreement regime ln t · max_j |w_j - w̄|/|w̄| -> max_j |w_j - w̄| v "
               "k γ/|ŵ|, with (ŵ, û), γ the hard-margin SVM on (s x, -s' x); so spread/|mean| -> "
               "0"),
        Stated("perfect-agreement-margin", "equality", "reconstructed", "regimes",
               "margin of the SVM on the transformed data",
               "sign w_j·x_i = y_i = -sign u_j·x_i: normalised margin -> v √k γ, γ is the "
               "hard-margin SVM's on (x, -αx) for y = +1, (αx, -x) for y = -1"),
        Stated("perfect-agreement-direction", "equality", "reconstructed", "regimes",
               "direction of the SVM on the transformed data",
               "sign w_j·x_i = y_i = -sign u_j·x_i: W/‖W‖ -> (ŵ, …, û, …)/√k, (ŵ, û) is the "
               "hard-margin SVM's on (x, -αx) for y = +1, (αx, -x) for y = -1"),
        Stated("perfect-agreement-certificate", "equality", "reconstructed", "regimes",
               "certified SVM limit",
               "sign w_j·x_i = y_i = -sign u_j·x_i: the certified limit of W and its margin are "
               "those of the SVM: (ŵ, û) is the hard-margin SVM's on (x, -αx) for y = +1, (αx, "
               "-x) for y = -1"),
        Stated("perfect-agreement-approach", "equality", "derived", "regimes",
               "approach to the SVM along the loss clock",
               "sign w_j·x_i = y_i = -sign u_j·x_i: the distance of W/‖W‖ from its limit falls as "
               "1/ln t; the limit is the hard-margin SVM's on (x, -αx) for y = +1, (αx, -x) for y "
               "= -1"),
        Stated("orthogonal-data-reach-perfect-agreement", "qualitative", "derived", "agreement",
               "orthogonally separable data end in perfect agreement",
               "y_i y_j x_i·x_j > 0 for all pairs: from any start sign w_j·x_i = y_i and sign "
               "u_j·x_i = -y_i from some finite time on"),
        Stated("perfect-agreement-time", "bound", "derived", "agreement",
               "time to perfect agreement",
               "y_i y_j x_i·x_j >= c > 0: perfect agreement once ∫ mean|ℓ'| dt reaches max(-y_i "
               "w_j(0)·x_i, y_i u_j(0)·x_i)/(v α c)"),
        Stated("clusters", "bound", "reconstructed", "clusters",
               "linear beyond 2 r of the boundary",
               "|w_j - w̄| <= r, |u_j - ū| <= r => sign N_W(x) = sign((w̄-ū)·x) for every x with "
               "|(w̄-ū)·x| > 2 r‖x‖; measured is the largest |(w̄-ū)·x|/(r‖x‖) of an exception",
               quick=True),
        Stated("clusters-of-means", "bound", "derived", "clusters",
               "linear beyond (1-α)/(1+α) r of the boundary, means",
               "|w_j - w̄| <= r, |u_j - ū| <= r => sign N_W(x) = sign((w̄-ū)·x) for every x with "
               "|(w̄-ū)·x| > (1-α)/(1+α) r‖x‖, w̄ and ū the means; measured is the largest "
               "|(w̄-ū)·x|/(r‖x‖) of an exception", quick=True),
        Stated("clusters-of-radius-zero", "bound", "derived", "clusters",
               "clusters of radius 0 are linear",
               "r = 0: α <= N_W(x)/(v k (w̄-ū)·x) for every x; so sign N_W(x) = sign((w̄-ū)·x) "
               "without exception", quick=True),
        Stated("nonlinearity-falls-with-scale", "qualitative", "reconstructed", "scale",
               "smaller starts have more linear boundaries",
               "ν = P[sign N_W(x) != sign((w̄-ū)·x)] after training falls with the scale σ of the "
               "start N(0, σ²), on average over {seeds} draws",
               cases=[{"seeds": 16}]),
        Stated("nonlinearity-bounded-by-spread", "bound", "derived", "scale",
               "non-linearity bounded by the clusters' radius",
               "ν <= P[|(w̄-ū)·x| <= (1-α)/(1+α) r], x uniform on the sphere, after training"),
    ],
    uncovered=[
        "By when SGD reaches a given loss",
        "The bound on the number of updates with the hinge loss",
    ],
)
# fmt: on
