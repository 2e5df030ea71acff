"""Teacher and student with a total-variation penalty: minimisers, duals and the conic flow.

Source: `akiyama2021learnability`.
"""

from __future__ import annotations

from gradflow.claims.statement import Paper, Stated

# fmt: off
PAPER = Paper(
    "akiyama2021learnability", __name__,
    [
        Stated("one-teacher", "equality", "derived", "minimisers",
               "one teacher: mass |c| - 2λ, no angle bias",
               "min ½‖ν - c δ_v‖² + λ‖ν‖_TV is attained by (|c| - 2λ) sgn(c) δ_v, and the conic "
               "flow from many small particles ends there"),
        Stated("{count}-teachers", "equality", "derived", "minimisers",
               "orthogonal teachers: mass and shift of the atoms",
               "m orthonormal teachers: the minimiser has m atoms of mass r, turned by δ toward "
               "the mean of the other teachers; (r, δ) solve ∂_r J = ∂_δ J = 0 (m = 2, λ = 0.1: r "
               "= 0.82558, δ = 4.413°), and the conic flow from many small particles ends there",
               cases=[{"count": "two"}, {"count": "three"}]),
        Stated("recovery-slopes", "equality", "derived", "minimisers", "recovery error linear in λ",
               "m = 2 orthonormal teachers, λ -> 0: 1 - r ~ aλ, δ ~ bλ with a = 8π(π + 1)/((π + "
               "2)(3π + 2)), b = 4π²/((π + 2)(3π + 2)); Σ_j |w_j - v_j| ~ m √(a² + b²) λ",
               quick=True),
        Stated("recovery-slopes-three", "equality", "derived", "minimisers",
               "recovery error linear in λ",
               "m = {m} orthonormal teachers, λ -> 0: 1 - r ~ aλ, δ ~ bλ with a, b; Σ_j |w_j - "
               "v_j| ~ m √(a² + b²) λ", cases=[{"m": 3}]),
        Stated("dual-{which}", "qualitative", "reconstructed", "minimisers",
               "dual certificate: |η| <= 1, equality at the atoms only",
               "η(u) = -(1/λ)∫k(u, v) d(ν* - ν°)(v) satisfies |η| <= 1 on the sphere, with "
               "equality only at the atoms of ν*; so ν* is the only minimiser", quick=True,
               cases=[{"which": "one-teacher"}, {"which": "two-teachers"}]),
        Stated("conic-equations", "equality", "derived", "flow",
               "networks follow the conic flow of their measure",
               "p' = -κ p G(u), u' = -∇G(u), G = s V + λ on the sphere: κ = 1 for w' = -‖w‖∇J "
               "with a = ±1, p = ‖w‖; κ = 2 for the gradient flow with |a| = ‖w‖, p = ‖w‖²"),
        Stated("descent-order", "equality", "derived", "flow",
               "norm-dependent descent is first-order close to the conic flow",
               "w_j <- w_j - η‖w_j‖∇_j J, η = T/N: the distance to the conic flow at T is O(η)"),
        Stated("plain-descent-lags", "qualitative", "reconstructed", "flow",
               "plain gradient descent lags",
               "a = ±1 fixed, N steps each: J - J* of w <- w - η∇J ends at least ten times that "
               "of w <- w - η‖w‖∇J"),
        Stated("global-convergence", "qualitative", "reconstructed", "flow",
               "global convergence from many small particles",
               "orthogonal teachers, M >= 4m small particles of both signs that cover the "
               "directions: J(ν(t)) -> J(ν*), and all mass gathers within 0.5° of the atoms of ν*"),
        Stated("linear-rate", "equality", "derived", "flow",
               "J - J* ends exponential in t, at the rate of the dual certificate",
               "ln(J - J*) ~ -ρt with ρ the least of 2λμ, μ the least curvature of |η| at the "
               "atoms (particles settle within clusters), of 2 min eig √M ∇²J √M in the cone's "
               "metric (clusters settle), and of κλ(1 - sη) at local maxima of sη off the atoms "
               "(particles die)"),
    ],
    uncovered=[
        "Finite samples",
        "Teachers of unequal weights",
        "How many particles it takes",
    ],
)
# fmt: on
