r"""One step of the event-located method for flows with kinks, compiled.

Inside an activation cell the flow (:mod:`gradflow.cells.arrangement`) is smooth. A step is one of
Tsit5 with the cell frozen, under the usual error control. Its dense output is a quartic in the
fraction ξ of the step, the switching functions are linear in the weights, so every
:math:`h_{kg}(\xi)` is a quartic too, and the first surface met is its first root over all pairs.
There the step ends, the *selection* decides how the neuron goes on, and the next step begins:

* crossing – both one-sided rates have one sign;
* sliding – the rates point at each other: the force that keeps :math:`h_{kg}=0` replaces the two
  one-sided forces. With several surfaces at once the multipliers solve a box-constrained least
  squares problem (the element of −∂L of least norm);
* leaving – a multiplier reaches the end of its interval.

Sources: `filippov1988`, `clarke1983`; the method's coefficients: Tsitouras, Runge-Kutta pairs of
order 5(4) satisfying only the first column simplifying assumption (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from gradflow.cells.forces import Forces
from gradflow.integrators.steppers.piecewise.box_least_squares import box_least_squares

# What ended an iteration's step.
NOTHING, CROSSING, LEAVING, OUTER_SIGN, SAVE, STOP = 0, 1, 2, 3, 4, 5
# What an event was; the order is that of EVENT_KINDS.
CROSS, SLIDE_IN, SLIDE_OUT, DEATH = 0, 1, 2, 3
EVENT_KINDS = ("crossing", "slide-in", "slide-out", "death")
# How a segment of the loop ended.
RUNNING, REACHED, STOPPED, TOO_SMALL, NON_FINITE, HOST, STATIONARY = 0, 1, 2, 3, 4, 5, 6

#: A multiplier may leave [0, 1] by this much before its surface is left.
_NU_SLACK = 1e-12
#: Relative force below which a jump is no jump.
_NO_JUMP = 1e-13


def _tsit5() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    tableau = diffrax.Tsit5.tableau
    A = np.zeros((7, 7))
    for i, row in enumerate(tableau.a_lower):
        A[i + 1, : i + 1] = row
    C = np.concatenate([[0.0], np.asarray(tableau.c)])
    error = np.asarray(tableau.b_error)
    # Dense output: y(ξ) = y + h Σ_j b_j(ξ) k_j, the b_j by their roots in ξ.
    poly = np.polynomial.polynomial
    quartics = [
        -1.0530884977290216 * poly.polymul(
            [0.0, -1.3299890189751412, 1.0], [0.7139816917074209, -1.4364028541716351, 1.0]),
        0.1017 * np.array([0.0, 0.0, 1.2949852507374631, -2.1966568338249754, 1.0]),
        2.490627285651252793
        * np.array([0.0, 0.0, 1.57803468208092486, -2.38535645472061657, 1.0]),
    ]  # fmt: skip
    for factor, r1, r2 in (
        (-16.54810288924490272, 1.21712927295533244, 0.61620406037800089),
        (47.37952196281928122, 1.203071208372362603, 0.658047292653547382),
        (-34.87065786149660974, 1.2, 2.0 / 3.0),
        (2.5, 1.0, 0.6),
    ):
        quartics.append(factor * np.array([0.0, 0.0, r1 * r2, -(r1 + r2), 1.0]))
    return A, C, error, np.stack(quartics)[:, 1:]


#: Stage weights, stage times, error weights, and b_j(ξ) = Σ_p DENSE[j, p] ξ^{p+1}.
A_TABLEAU, C_TABLEAU, ERROR, DENSE = _tsit5()
_NODES = (0.25, 0.5, 0.75, 1.0)


A = TypeVar("A")  # compiled, on the host


class LoopCell(NamedTuple, Generic[A]):
    """The activation cell as the loop carries it, and what slides in it."""

    plus: A  # (m, G) bools: on the + side (False on sliding pairs)
    slide: A  # (m, G) bools
    fresh: A  # (m, G) bools: on the surface, but about to leave it
    tangent: A  # (2,) ints: the pair that leaves at zero speed, or -1
    slots: A  # (m, K) ints: surfaces slid on, -1 = empty
    Q: A  # (m, K, D): orthonormal rows spanning the normals slid on
    B: A  # (m, K, D): multipliers are mu = -B u
    resting: A  # (m,) bools: w_k = 0 and stays there


class Carry(NamedTuple, Generic[A]):
    """State of the loop."""

    s: A
    y: A  # (m D + m + 1 [+ 1],): W, a, energy, ln(1+t)
    k1: A
    h: A
    pattern: LoopCell
    target: A  # next save point of the window
    code: A
    stuck: A  # zero-length events in a row
    neuron: A  # the neuron the host has to look at
    origin: A  # its weights have reached 0
    hold: A  # (m, G) bools where crossings pass: pairs whose side is kept, to be located
    accepted: A
    attempts: A
    rhs: A
    budget: A  # what the error of the energy is measured by: the loss at the start of the leg


class Out(NamedTuple):
    """What a segment of the loop hands to the host."""

    carry: Carry
    saved_s: Array
    saved_y: Array
    saved: Array
    event_s: Array
    event_tau: Array
    event_data: Array  # (rows, 3): neuron, surface, kind
    recorded: Array


class Rates(NamedTuple, Generic[A]):
    """The field at a point, with what the selection needs."""

    dy: A
    u: A  # (m, D): Σ_g F n_g before projection
    dW: A  # (m, D), not yet in the clock's units
    da: A  # (m,)
    H: A  # (m, G): switching functions
    up: A  # F+ (G,)
    down: A  # F- (G,)
    log_risk: A


class LoopShape(NamedTuple):
    """Sizes and choices that the compiled program depends on."""

    m: int
    D: int
    clock: str
    outer_trained: bool
    jumps: bool
    locate: str  # "all" surfaces or "slides" only


def unpack(layout: LoopShape, y: Array) -> tuple[Array, Array]:
    """Return W (m, D) and a (m,)."""
    size = layout.m * layout.D
    return y[:size].reshape(layout.m, layout.D), y[size : size + layout.m]


def rates(layout: LoopShape, forces: Forces, s: Array, y: Array, pattern: LoopCell) -> Rates:
    """The field dy/ds in the cell of ``pattern``."""
    W, a = unpack(layout, y)
    H = W @ forces.normals.T
    plus = pattern.plus
    if layout.locate == "slides":
        # Crossings pass inside a step: each stage takes the side it is on.
        plus = jnp.where(pattern.fresh, plus, (H > 0) & ~pattern.slide)
    if layout.jumps:
        pulled = a[:, None] * H
        up, down, log_risk = forces(
            jnp.sum(jnp.where(plus, pulled, 0.0), axis=0),
            jnp.sum(jnp.where(plus, 0.0, pulled), axis=0),
            layout.clock == "loss",
        )
        force = jnp.where(plus, up[None, :], down[None, :])
    else:
        up, down, log_risk = forces(a @ H, jnp.zeros(H.shape[1]), layout.clock == "loss")
        force = jnp.broadcast_to(up[None, :], H.shape)
    u = force @ forces.normals
    drive = u
    if layout.jumps:
        inside = jnp.sum(pattern.Q * u[:, None, :], axis=2)
        drive = u - jnp.sum(pattern.Q * inside[:, :, None], axis=1)
    dW = jnp.where(pattern.resting[:, None], 0.0, a[:, None] * drive)
    if layout.outer_trained:
        da = jnp.sum(jnp.where(pattern.slide, 0.0, force * H), axis=1)
    else:
        da = jnp.zeros(layout.m)
    dy = _in_clock(layout, s, y, dW, da, log_risk)
    return Rates(dy, u, dW, da, H, up, down, log_risk)


def _in_clock(
    layout: LoopShape, s: Array, y: Array, dW: Array, da: Array, log_risk: Array
) -> Array:
    speed = jnp.sum(dW * dW) + jnp.sum(da * da)
    parts = [dW.reshape(-1), da]
    if layout.clock == "loss":
        parts.append(jnp.stack([speed * jnp.exp(log_risk), jnp.exp(-log_risk - y[-1])]))
        return jnp.concatenate(parts)
    dy = jnp.concatenate([*parts, speed[None]])
    return dy * jnp.exp(s) if layout.clock == "log" else dy


def speed_of(layout: LoopShape, now: Rates) -> Array:
    """|dθ/dt|, in the physical clock."""
    speed = jnp.sqrt(jnp.sum(now.dW * now.dW) + jnp.sum(now.da * now.da))
    return speed * jnp.exp(now.log_risk) if layout.clock == "loss" else speed


def reselected(
    layout: LoopShape, forces: Forces, s: Array, y: Array, pattern: LoopCell, now: Rates, k: Array
) -> Rates:
    """``now`` after the pattern of neuron ``k`` alone has changed on surfaces where h = 0.

    The sums A, and so the forces, are continuous there: only the neuron's own row moves.
    """
    _, a = unpack(layout, y)
    force = jnp.where(pattern.plus[k], now.up, now.down)
    u = force @ forces.normals
    drive = u - pattern.Q[k].T @ (pattern.Q[k] @ u)
    dW = now.dW.at[k].set(a[k] * drive)
    da = now.da
    if layout.outer_trained:
        da = da.at[k].set(jnp.sum(jnp.where(pattern.slide[k], 0.0, force * now.H[k])))
    dy = _in_clock(layout, s, y, dW, da, now.log_risk)
    return now._replace(dy=dy, u=now.u.at[k].set(u), dW=dW, da=da)


def jumps(forces: Forces, now: Rates) -> Array:
    """F⁺ − F⁻ (G,), 0 where it is noise (a datum that has been fitted)."""
    jump = now.up - now.down
    return jnp.where(jnp.abs(jump) <= forces.noise(), 0.0, jump)


def multipliers(
    layout: LoopShape, forces: Forces, y: Array, pattern: LoopCell, now: Rates
) -> Array:
    """ν (m, K) in [0, 1] of the surfaces slid on."""
    mu = -jnp.sum(pattern.B * now.u[:, None, :], axis=2)
    taken = pattern.slots >= 0
    index = jnp.maximum(pattern.slots, 0)
    jump = jumps(forces, now)[index]
    # What can no longer hold lets go as soon as anything pulls: an attracting jump of noise's size.
    sign = jnp.where(unpack(layout, y)[1] >= 0, 1.0, -1.0)
    weak = -sign[:, None] * forces.noise()[index]
    jump = jnp.where(jump == 0, weak, jump)
    acts = taken & (jump != 0)
    return jnp.where(acts, mu / jnp.where(acts, jump, 1.0), 0.5)


def excess(layout: LoopShape, forces: Forces, y: Array, pattern: LoopCell, now: Rates) -> Array:
    """How far multipliers are outside [0, 1] (m, K); <= 0 while all surfaces are held.

    A surface that has turned repelling (its force changed sign) holds nothing.
    """
    nu = multipliers(layout, forces, y, pattern, now)
    _, a = unpack(layout, y)
    jump = jumps(forces, now)[jnp.maximum(pattern.slots, 0)]
    repels = (pattern.slots >= 0) & (a[:, None] * jump > 0)
    return jnp.where(repels, 1.0, jnp.maximum(nu - 1.0, -nu) - _NU_SLACK)


def dense(y: Array, shape: Array, xi: Array | float) -> Array:
    """State at the fraction ξ; ``shape`` (4, dim) holds the coefficients of ξ … ξ⁴."""
    return y + xi * (shape[0] + xi * (shape[1] + xi * (shape[2] + xi * shape[3])))


def _horner(c: Sequence[Array] | Array, x: Array | float) -> Array:
    return c[0] + x * (c[1] + x * (c[2] + x * (c[3] + x * c[4])))


def quartic_root(c: Array, hi: Array) -> Array:
    """A root in (0, hi] of a quartic that is > 0 at 0 and < 0 at hi: the end that is <= 0."""

    def go_on(state: PyTree) -> PyTree:
        lo, hi, _, count = state
        return (hi - lo > 4e-16 * hi) & (count < 80)

    def body(state: PyTree) -> PyTree:
        lo, hi, x, count = state
        value = _horner(c, x)
        slope = c[1] + x * (2 * c[2] + x * (3 * c[3] + x * 4 * c[4]))
        lo, hi = jnp.where(value > 0, x, lo), jnp.where(value > 0, hi, x)
        newton = x - value / slope
        # Step a little past the root, so that both ends close in.
        newton = newton + jnp.where(value > 0, 1.0, -1.0) * 1e-16 * hi
        good = (newton > lo) & (newton < hi) & (count % 6 != 5)
        return lo, hi, jnp.where(good, newton, 0.5 * (lo + hi)), count + 1

    start = hi * jnp.clip(c[0] / (c[0] - _horner(c, hi)), 0.05, 0.95)
    return lax.while_loop(go_on, body, (jnp.zeros(()), hi, start, 0))[1]


def first_crossing(
    layout: LoopShape, forces: Forces, y: Array, shape: Array, pattern: LoopCell, watched: Array
) -> tuple[Array, Array]:
    """The first root over all pairs: ``(ξ, flat index of the pair)``, ξ = 2 if there is none."""
    size = layout.m * layout.D
    W = y[:size].reshape(layout.m, layout.D)
    c = [W @ forces.normals.T]
    c += [shape[p, :size].reshape(layout.m, layout.D) @ forces.normals.T for p in range(4)]
    m, G = pattern.plus.shape
    touching = (jnp.arange(m)[:, None] == pattern.tangent[0]) & (
        jnp.arange(G)[None, :] == pattern.tangent[1]
    )
    side = jnp.where(pattern.plus, 1.0, -1.0)
    return _first_root(c, side, pattern.fresh, touching, watched)


def first_crossing_of_few(
    layout: LoopShape,
    forces: Forces,
    y: Array,
    shape: Array,
    pattern: LoopCell,
    watched: Array,
    most: int,
) -> tuple[Array, Array]:
    """`first_crossing` where at most ``most`` pairs are watched."""
    m, G = pattern.plus.shape
    k, g = jnp.nonzero(watched, size=most, fill_value=m)
    real = k < m
    k, g = jnp.minimum(k, m - 1), jnp.minimum(g, G - 1)
    size = layout.m * layout.D
    normals = forces.normals[g]
    rows = [y[:size], *(shape[p, :size] for p in range(4))]
    c = [jnp.sum(row.reshape(layout.m, layout.D)[k] * normals, axis=1) for row in rows]
    touching = (k == pattern.tangent[0]) & (g == pattern.tangent[1])
    side = jnp.where(pattern.plus[k, g], 1.0, -1.0)
    xi, which = _first_root(c, side, pattern.fresh[k, g], touching, real)
    return xi, k[which] * G + g[which]


def _first_root(
    c: list[Array], side: Array, fresh: Array, touching: Array, watched: Array
) -> tuple[Array, Array]:
    """The first root in (0, 1] over quartics h(ξ) that have the sign ``side`` at 0.

    A pair that has just left its surface has a known root at ξ = 0 (a double one where it leaves at
    zero speed), which is divided out.
    """
    zero = jnp.zeros_like(c[0])
    shifted = [*c[1:], zero]
    shifted2 = [*c[2:], zero, zero]
    c = [
        side * jnp.where(touching, t, jnp.where(fresh, f, p))
        for p, f, t in zip(c, shifted, shifted2, strict=True)
    ]
    values = [_horner(c, x) for x in _NODES]
    first = jnp.full((), 2.0)
    for x, value in reversed(list(zip(_NODES, values, strict=True))):
        first = jnp.where(jnp.any((value < 0) & watched), x, first)
    # A pair may dip below zero between two nodes: look at the vertex of each three nodes' parabola.
    grid = [c[0], *values]
    for j in (1, 2, 3):
        bend = grid[j - 1] - 2 * grid[j] + grid[j + 1]
        vertex = 0.25 * j + 0.125 * (grid[j - 1] - grid[j + 1]) / jnp.where(bend > 0, bend, 1.0)
        inside = (bend > 0) & (vertex > 0.25 * (j - 1)) & (vertex < 0.25 * (j + 1))
        dips = inside & (_horner(c, vertex) < 0) & watched
        first = jnp.minimum(first, jnp.min(jnp.where(dips, vertex, 2.0)))
    already = (c[0] <= 0) & watched & ~fresh
    any_already = jnp.any(already)

    def descend(state: PyTree) -> PyTree:
        hi, _, _, count = state
        worst = jnp.argmin(jnp.where(watched, _horner(c, hi), jnp.inf))
        mine = jnp.stack([p.reshape(-1)[worst] for p in c])
        # (the quartic may have no sign change where rounding alone made it negative)
        root = jnp.where(mine[0] > 0, quartic_root(mine, hi), 0.0)
        rest = jnp.where(watched, _horner(c, root), jnp.inf).reshape(-1).at[worst].set(jnp.inf)
        return root, worst, jnp.any(rest < 0) & (root > 0), count + 1

    found = lax.while_loop(
        lambda state: state[2] & (state[3] < 60),
        descend,
        (first, jnp.argmax(already), (first <= 1.0) & ~any_already, 0),
    )
    xi = jnp.where(any_already, 0.0, found[0])
    return xi, found[1]


def basis(normals: Array, taken: Array) -> tuple[Array, Array]:
    """Orthonormal rows Q and multiplier rows B of the normals that are ``taken``."""
    rows = jnp.where(taken[:, None], normals, 0.0)

    def factor(rows: Array) -> Array:
        return jnp.linalg.cholesky(rows @ rows.T + jnp.diag(jnp.where(taken, 0.0, 1.0)))

    first = factor(rows)
    Q = jax.scipy.linalg.solve_triangular(first, rows, lower=True)
    # Twice, so that Q is orthonormal to rounding also for nearly parallel normals.
    second = factor(Q)
    Q = jax.scipy.linalg.solve_triangular(second, Q, lower=True)
    L = first @ second
    return Q, jax.scipy.linalg.solve_triangular(L, Q, lower=True, trans=1)


class Selected(NamedTuple):
    """How one neuron goes on from an event."""

    y: Array
    pattern: LoopCell
    kind: Array
    dropped: Array  # a surface left besides, or -1
    unclear: Array  # True: the host must decide


def choose(
    layout: LoopShape,
    forces: Forces,
    y: Array,
    pattern: LoopCell,
    now: Rates,
    k: Array,
    hit: Array,
    leaving: Array,
) -> Selected:
    """Go on from a point where neuron ``k`` meets surface ``hit`` or leaves slot ``leaving``.

    Exactly one of the two is >= 0.
    """
    W, a = unpack(layout, y)
    K = pattern.slots.shape[1]
    slots = pattern.slots[k]
    nu = multipliers(layout, forces, y, pattern, now)
    out = jnp.arange(K) == leaving
    left = jnp.where(leaving >= 0, slots[leaving], -1)
    members = jnp.concatenate([slots, hit[None]])
    touched = members >= 0
    index = jnp.maximum(members, 0)
    normals = forces.normals[index]
    jump = jumps(forces, now)[index]
    sign = jnp.where(a[k] >= 0, 1.0, -1.0)
    size = jnp.linalg.norm(normals, axis=1)
    no_jump = jnp.abs(jump) * size <= _NO_JUMP * jnp.max(jnp.abs(now.up) + jnp.abs(now.down)) * (
        jnp.max(size)
    )
    attractive = (sign * jump < 0) & ~no_jump
    was_plus = jnp.where(hit >= 0, pattern.plus[k, jnp.maximum(hit, 0)], False)
    goes_plus = ~was_plus
    last = jnp.arange(K + 1) == K
    passing = last & touched & ~attractive  # crosses, whatever the others do
    # Baseline: the - force on all that may change; the passing one on its new side.
    u = now.u[k] - jnp.where(was_plus & (hit >= 0), jump[K], 0.0) * normals[K]
    u = u + jnp.where(passing[K] & goes_plus, jump[K], 0.0) * normals[K]
    leaves_plus = jnp.where(leaving >= 0, nu[k, leaving] > 0.5, False)
    u = u + jnp.where((leaving >= 0) & leaves_plus, jump[leaving], 0.0) * normals[leaving]
    free = touched & ~passing & ~jnp.concatenate([out, jnp.zeros(1, bool)])
    gram = jnp.where(free[:, None] & free[None, :], normals @ normals.T, jnp.eye(K + 1))
    linear = jnp.where(free, normals @ u, 0.0)
    lo = jnp.where(free, jnp.minimum(jump, 0.0), 0.0)
    hi = jnp.where(free, jnp.maximum(jump, 0.0), 0.0)
    mu, inside, solved = box_least_squares(gram, linear, lo, hi)
    g = u + jnp.sum(jnp.where(free, mu, 0.0)[:, None] * normals, axis=0)
    stays = free & inside
    on_plus = free & ~inside & (jnp.abs(mu - jump) < jnp.abs(mu))
    # The one that passes or leaves must move to the side it was sent to.
    rate = sign * jnp.sum(normals[K] * g)
    wrong = passing[K] & (jnp.where(goes_plus, rate, -rate) < 0)
    rate = sign * jnp.sum(normals[leaving] * g)
    noise = 1e-9 * jnp.linalg.norm(g) * jnp.linalg.norm(normals[leaving])
    wrong = wrong | ((leaving >= 0) & (jnp.where(leaves_plus, rate, -rate) < -noise))
    overflow = jnp.sum(stays) > K
    turned = (leaving >= 0) & (sign * jump[leaving] > 0)
    unclear = wrong | overflow | ~solved | turned
    # The point lies on all surfaces touched: remove rounding.
    Q_all, _ = basis(normals, touched)
    w = W[k] - Q_all.T @ (Q_all @ W[k])
    order = jnp.argsort(~stays, stable=True)[:K]
    new_slots = jnp.where(stays[order], members[order], -1)
    Q, B = basis(forces.normals[jnp.maximum(new_slots, 0)], new_slots >= 0)
    # Rows of the masks: -1 points nowhere (dropped by the scatter).
    G = pattern.plus.shape[1]
    where = jnp.where(touched, members, G)
    plus_row = (
        pattern.plus[k]
        .at[where]
        .set(
            on_plus
            | (passing & goes_plus)
            | jnp.concatenate([out & leaves_plus, jnp.zeros(1, bool)]),
            mode="drop",
        )
    )
    slide_row = pattern.slide[k].at[where].set(stays, mode="drop")
    fresh_row = pattern.fresh[k].at[where].set(touched & ~stays, mode="drop")
    pattern = LoopCell(
        plus=pattern.plus.at[k].set(plus_row),
        slide=pattern.slide.at[k].set(slide_row),
        fresh=pattern.fresh.at[k].set(fresh_row),
        tangent=jnp.where(leaving >= 0, jnp.stack([k, left]), -1),
        slots=pattern.slots.at[k].set(new_slots),
        Q=pattern.Q.at[k].set(Q),
        B=pattern.B.at[k].set(B),
        resting=pattern.resting,
    )
    also = touched & ~stays & ~last & ~jnp.concatenate([out, jnp.zeros(1, bool)])
    dropped = jnp.where(jnp.any(also), members[jnp.argmax(also)], -1)
    kind = jnp.where(leaving >= 0, SLIDE_OUT, jnp.where(stays[K], SLIDE_IN, CROSS))
    size = layout.m * layout.D
    y = jnp.concatenate([y[:size].reshape(layout.m, layout.D).at[k].set(w).reshape(-1), y[size:]])
    return Selected(y, pattern, kind, dropped, unclear)
