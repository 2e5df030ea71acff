"""The late leaky pair, 0 < alpha < 1: the mode that aligns slowly, and what it does to norms.

w1 = (z1, p1), u2 = (z2, p2) along and across v, p small; S = (M_p+M_m)/2 and D = M_p - M_m with
M_p = z1 + alpha z2, M_m = alpha z1 + z2.
"""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import sympy as sp

from gradflow.symbolic import notation as nt
from gradflow.symbolic.aligned import integrated, norm_law
from gradflow.symbolic.balance import in_time
from gradflow.symbolic.derivation import Derivation, Rate, Step
from gradflow.symbolic.expansion import expand
from gradflow.symbolic.notation import S_, M, R, c0, equation, expr, h, k2, kappa, t

z1, z2 = sp.symbols("z1 z2", positive=True)
p1, p2 = sp.symbols("p1 p2", real=True)
k_p, k_m, k_mean, k_gap = sp.symbols("k_p k_m kbar Delta_k", real=True)
h_p, h_m, h_mean, h_gap = sp.symbols("h_p h_m hbar Delta_h", real=True)
d, r, D = sp.symbols("d r D", real=True)


@lru_cache(maxsize=8)
def perpendicular_system(slope: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """p1' and p2' linear in p, in k_p = k(M_p), k_m = k(M_m), k(M) = (c0/2 pi - h(M)/2)/M.

    The component of K = (c0/2 pi)(v - W/M) + (h/2) W/M across v, to first order in p; the wedge
    terms are of second order (``regimes.wedge_orders``).
    """
    small, m, across = sp.symbols("small m_ across_", positive=True)
    unit_across = across * small / sp.sqrt(m**2 + (small * across) ** 2)
    first_order = -(c0 / (2 * sp.pi) - h(M) / 2) * sp.diff(unit_across, small).subs(small, 0)
    rate = sp.expand(first_order * m / across)  # -(c0/2pi - h/2)
    if sp.expand(rate + c0 / (2 * sp.pi) - h(M) / 2) != 0:
        raise AssertionError("linear response of K")
    pull_p, pull_m = -k_p * (p1 + slope * p2), -k_m * (slope * p1 + p2)
    return pull_p + slope * pull_m, slope * pull_p + pull_m


@lru_cache(maxsize=8)
def modes(slope: sp.Expr) -> dict[str, sp.Expr]:
    """Decay rates of p1 + p2 and p1 - p2 when M_p = M_m = (1+alpha) R, and their ratio."""
    equal = [e.subs({k_p: k_mean, k_m: k_mean}) for e in perpendicular_system(slope)]
    matrix = sp.Matrix([[sp.diff(e, p) for p in (p1, p2)] for e in equal])
    both, opposite = sp.Matrix([1, 1]), sp.Matrix([1, -1])
    fast, slow = (sp.factor((matrix * vector)[0]) for vector in (both, opposite))
    for vector, value in ((both, fast), (opposite, slow)):
        if (matrix * vector - value * vector).applyfunc(sp.expand) != sp.zeros(2, 1):
            raise AssertionError(f"{vector.T} is not an eigenvector")
    late = {k_mean: c0 / (2 * sp.pi) / ((1 + slope) * R)}
    return {
        "fast": expr(sp.factor(-fast.subs(late))),
        "slow": expr(sp.factor(-slow.subs(late))),
        "ratio": expr(sp.factor(slow / fast)),
    }


@lru_cache(maxsize=8)
def tail(slope: sp.Expr) -> dict[str, sp.Expr]:
    """S', D', r', (ln|d|)' from the linearised flow, in means and differences of h and k."""
    speed1 = h_p / 2 + slope * h_m / 2
    speed2 = slope * h_p / 2 + h_m / 2
    plus, minus = speed1 + slope * speed2, slope * speed1 + speed2
    means = {h_p: h_mean + h_gap / 2, h_m: h_mean - h_gap / 2}
    kmeans = {k_p: k_mean + k_gap / 2, k_m: k_mean - k_gap / 2}
    rate1, rate2 = (
        e.subs(kmeans).subs({p1: (r + 1) * d / 2, p2: (r - 1) * d / 2}, simultaneous=True)
        for e in perpendicular_system(slope)
    )
    log_d = sp.expand((rate1 - rate2) / d)
    ratio = sp.expand((rate1 + rate2) / d - r * log_d)
    return {
        "S": expr(sp.factor(((plus + minus) / 2).subs(means))),
        "D": expr(sp.factor((plus - minus).subs(means))),
        "r": expr(sp.collect(ratio, [k_mean, k_gap], sp.factor)),
        "log_d": expr(sp.collect(log_d, [k_mean, k_gap], sp.factor)),
    }


def _first_two(function: sp.Expr, small: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
    """Value and slope at ``small`` = 0: the first two Taylor coefficients."""
    return expr(function.subs(small, 0)), expr(sp.diff(function, small).subs(small, 0))


@lru_cache(maxsize=8)
def _series(slope: sp.Expr) -> dict[str, sp.Expr]:
    """Expansions along S: powers of S in D, r and ln|d|."""
    q = modes(slope)["ratio"]
    pieces = tail(slope)
    expansion = expand("logistic")
    series = expansion.series(1).subs(R, S_)
    # dD/dS = D'/S' with Delta h = D h'(S) to first order in D.
    growth = sp.cancel(pieces["D"] / pieces["S"] / h_gap * h_mean)  # = q
    if sp.cancel(growth - q) != 0:
        raise AssertionError("dD/dS is not q D h'/h")
    # So D = const h(S)^q: leading power -2q, then 1 + q k2/S^2.
    inverse_square = sp.Symbol("inverse_square", positive=True)  # 1/S^2
    relative = (1 + k2 * inverse_square) ** q
    # k(S) and S k'(S)/k(S) at large S.
    stiffness = (c0 / (2 * sp.pi) - series / 2) / S_
    steepness = S_ * sp.diff(stiffness, S_) / stiffness
    steepness = sp.cancel(steepness.subs(S_, 1 / sp.sqrt(inverse_square)))
    first, next_order = _first_two(steepness, inverse_square)
    # Quasi-static r: r' = -4 alpha k r - (1-alpha^2) Delta k/2, Delta k = D k'(S).
    leading = -(1 - slope**2) * first / (8 * slope)
    second = next_order / first
    # Lag: r = r0 (1 + lag/S^2) with r0 ~ S^(-2q-1) and S' = speed/S^2.
    speed = pieces["S"].subs(h_mean, kappa)
    lag = (2 * q + 1) * speed / (4 * slope * c0 / (2 * sp.pi))
    return {
        "q": q,
        "D_second": _first_two(relative, inverse_square)[1],
        "r_leading": expr(leading),  # r = r_leading * D/S
        "r_second": expr(sp.factor(second + lag)),
    }


def leaky(base: Derivation, slope: sp.Expr | None, outer: str) -> Derivation:
    """The slow mode. ``outer`` is "fixed"."""
    value = nt.alpha if slope is None else slope
    found, pieces, mode = _series(value), tail(value), modes(value)
    q = found["q"]
    expansion = expand("logistic")
    law = norm_law(expansion, sp.S.One, expr(sp.factor(pieces["S"] / h_mean)))
    # (ln|d|)' = -(1-alpha)^2 k(S) along S: two parts of k.
    slow = expr(-sp.diff(pieces["log_d"], k_mean))
    angle = list(integrated(law.along(slow * c0 / (2 * sp.pi) / R)))  # from c0/2 pi
    # from -h/2: (1-alpha)^2 (h/2)/S / S' = q/S exactly, i.e. + q ln S
    if sp.cancel(slow / 2 / pieces["S"] * h_mean - q) != 0:
        raise AssertionError("the h part of the slow decay")
    big_a, big_b = angle[0][0], -angle[1][0]
    decay = [angle[0], (-(big_b + q), sp.S.Zero), *angle[2:]]  # -ln|d|
    to_angle = [decay[0], (decay[1][0] + 1, sp.S.Zero), *decay[2:]]  # theta_i ~ |d|/2 / R
    steps = _steps(value, pieces, mode, found, law, (big_a, big_b))
    rates = _rates(value, found, law, decay, to_angle)
    explicit = {kappa: nt.KAPPA}
    q_symbol = sp.Symbol("q")
    return replace(
        base,
        title=base.title + ": leaky slow mode",
        options={**base.options, "regime": "leaky"},
        steps=(*base.steps, *steps),
        equations={
            "slow_mode_ratio": equation(q_symbol, q),
            "slow_rate": equation(sp.Symbol("rate_slow"), mode["slow"]),
            "fast_rate": equation(sp.Symbol("rate_fast"), mode["fast"]),
            "tail_S": equation(sp.Derivative(sp.Function("S")(t), t), pieces["S"]),
            "tail_D": equation(sp.Derivative(sp.Function("D")(t), t), pieces["D"]),
            "tail_r": equation(sp.Derivative(sp.Function("r")(t), t), pieces["r"]),
            "tail_log_d": equation(
                sp.Derivative(sp.log(sp.Abs(sp.Function("d")(t))), t, evaluate=False),
                pieces["log_d"],
            ),
            "A": equation(sp.Symbol("A"), sp.factor((big_a / q).subs(explicit))),
            "B": equation(sp.Symbol("B"), sp.factor((big_b / q).subs(explicit))),
            **expansion.equations(),
        },
        rates=rates,
    )


def _rates(
    slope: sp.Expr, found: dict[str, sp.Expr], law: object, decay: list, to_angle: list
) -> dict[str, Rate]:
    """Rates in t and along S; D^2 effects enter at relative order S^(-2-4q)."""
    q, start = found["q"], sp.Symbol("D0")
    squared = -2 - 4 * q
    note = "leaky, generic start"
    mean = in_time(law, [(1 / (1 + slope), sp.S.One)])  # type: ignore[arg-type]
    in_t = in_time(law, to_angle, offset=nt.lambda0)  # type: ignore[arg-type]
    loss = in_time(law, expand("logistic").tail_loss())  # type: ignore[arg-type]
    third = sp.Rational(1, 3)

    def extended(law_in_t: object, extra: list[sp.Expr]) -> tuple[tuple, tuple]:
        pairs = list(zip(law_in_t.corrections, law_in_t.coefficients, strict=True))  # type: ignore
        for power in extra:
            pairs.append(((sp.factor(power * third), 0), start))
        if q.is_number:
            pairs.sort(key=lambda item: (-item[0][0], -item[0][1]))
        return tuple(key for key, _ in pairs), tuple(value for _, value in pairs)

    def rate(name: str, quantity: sp.Expr, law_in_t, extra: list[sp.Expr], words: str) -> Rate:
        keys, values = extended(law_in_t, extra)
        return Rate(
            name, quantity, t, law_in_t.exponent, law_in_t.constant, keys, values,
            f"{words}; {note}; D0 stands for start-dependent coefficients",
        )  # fmt: skip

    gap = sp.Function("R1")(S_) - sp.Function("R2")(S_)
    gap_t = sp.Function("R1")(t) - sp.Function("R2")(t)
    minus_two = sp.Integer(-2)
    return {
        "mean_norm": rate(
            "mean_norm", sp.Function("R")(t), mean, [squared], "R = S/(1+α), the mean norm"
        ),
        "norm": rate(
            "norm", sp.Function("R_i")(t), mean, [-1 - 2 * q, squared], "norm of one neuron"
        ),
        "log_angle": rate(
            "log_angle", sp.Function("lambda_i")(t), in_t, [-3 - 2 * q, squared],
            "λi = -ln tan(θi/2) of one neuron",
        ),
        "loss": rate("loss", sp.Function("L")(t), loss, [squared], "risk"),
        "norm_difference": Rate(
            "norm_difference", gap_t, t, sp.factor(-2 * q * third), None,
            ((-2 * third, 0), (-sp.S.One, 0), (sp.factor(squared * third), 0)),
            (sp.Symbol("d1"), sp.Symbol("d2"), start), note,
        ),
        "norm_difference_of_norm": Rate(
            "norm_difference_of_norm", gap, S_, -2 * q, None,
            ((minus_two, 0), (sp.factor(squared), 0)), (found["D_second"], start),
            f"along S; {note}",
        ),
        "mode_mix": Rate(
            "mode_mix",
            sp.Symbol("r") * sp.Symbol("R") / (sp.Symbol("R1") - sp.Symbol("R2")),
            S_, sp.S.Zero,
            expr(sp.factor(found["r_leading"] * (1 - slope) / (1 + slope))),
            ((minus_two, 0), (sp.factor(squared), 0)), (found["r_second"], start),
            f"r = (p1+p2)/(p1-p2), R = S/(1+α); {note}",
        ),
        "log_slow_mode": Rate(
            "log_slow_mode", sp.log(sp.Abs(sp.Symbol("p1") - sp.Symbol("p2"))), S_,
            sp.Integer(2), expr(-decay[0][0]),
            ((minus_two, 1), (minus_two, 0), (sp.factor(squared), 0), (sp.Integer(-4), 0)),
            (
                expr(sp.expand(sp.factor(decay[1][0] / decay[0][0]))), start, start,
                expr(sp.factor(decay[2][0] / decay[0][0])),
            ),
            f"ln|p1-p2| = -q (A S² - (B+1) ln S) + const; {note}",
        ),
    }  # fmt: skip


def _steps(slope, pieces, mode, found, law, constants) -> list[Step]:
    """The slow mode, told."""
    rate1, rate2 = perpendicular_system(slope)
    time = lambda name: sp.Derivative(sp.Function(name)(t), t)
    log_d = sp.Derivative(sp.log(sp.Abs(sp.Function("d")(t))), t, evaluate=False)
    q, big_a, big_b = sp.Symbol("q"), sp.Symbol("A"), sp.Symbol("B")
    return [
        Step(
            "w1 = (z1, p1), u2 = (z2, p2) along and across v, p small. Wedges are quadratic in p; "
            "K_p and K_m give, with k(M) = (c0/2π - h(M)/2)/M, k_p = k(M_p), k_m = k(M_m),",
            equation(time("p1"), rate1),
        ),
        Step("and", equation(time("p2"), rate2)),
        Step(
            "Equal norms R, M_p = M_m = (1+α)R: eigenvectors (1,1) and (1,-1). p1+p2 decays at",
            equation(sp.Symbol("rate_fast"), mode["fast"]),
        ),
        Step("p1-p2 at the slow rate", equation(sp.Symbol("rate_slow"), mode["slow"])),
        Step("in the ratio", equation(q, mode["ratio"])),
        Step(
            "In general let S, D be mean and difference of M_p = z1+αz2 and M_m = αz1+z2, "
            "d = p1-p2, r = (p1+p2)/d; h̄, k̄ means, Δh, Δk differences at M_p and M_m:",
            equation(time("S"), pieces["S"]),
        ),
        Step("and", equation(time("D"), pieces["D"])),
        Step("and", equation(time("r"), pieces["r"])),
        Step("and", equation(log_d, pieces["log_d"])),
        Step("Expand h at large S and separate S' = (1+α)² h(S)/2.", law.implicit(S_)),
        Step(
            "D'/S' = q D h'(S)/h(S) to first order in D (Δh = D h'), hence D ∝ h(S)^q; "
            "D = (1-α)(R1-R2).",
            equation(
                sp.Symbol("R1") - sp.Symbol("R2"),
                sp.Symbol("const") * S_ ** (-2 * q) * (1 + q * k2 / S_**2),
            ),
        ),
        Step(
            "r relaxes at the rate 4αk̄ ~ 1/S, faster than S moves, to its quasi-static value; "
            "with Δk = D k'(S), k' ~ -k/S:",
            equation(r, expr(found["r_leading"]) * D / S_),
        ),
        Step(
            "that is, with D = (1-α)(R1-R2) and S = (1+α)R,",
            equation(
                r,
                sp.factor(found["r_leading"] * (1 - slope) / (1 + slope))
                * (sp.Symbol("R1") - sp.Symbol("R2"))
                / R,
            ),
        ),
        Step(
            "So w1-w2 aligns at the slow rate too unless R1 = R2; θ1/θ2 -> -1. Along S, "
            "(ln|d|)'/S' = -(1-α)² k/S' integrates to",
            equation(
                sp.log(sp.Abs(d)),
                -q * (big_a * S_**2 - (big_b + 1) * sp.log(S_)) + sp.Symbol("const"),
            ),
        ),
        Step(
            "with",
            equation(big_a, sp.factor(constants[0] / found["q"])),
        ),
        Step("and", equation(big_b, sp.factor(constants[1] / found["q"]))),
    ]
