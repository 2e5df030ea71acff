r"""The compiled loop of the event-located method (the step itself: ``piecewise_step``).

An iteration is one Runge-Kutta step in the current cell, cut at whatever comes first: a surface, a
multiplier at the end of its interval, a change of sign of an outer weight whose neuron slides, a
save point, a stop. The rare points at which more than the loop's own selection is needed (several
surfaces at once, signs of outer weights) are handed to the host, which resolves them and comes
back.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from gradflow.cells.forces import Forces
from gradflow.flows.event import AbstractEvent
from gradflow.flows.flow import Flow
from gradflow.integrators.steppers.piecewise.step import (
    A_TABLEAU,
    C_TABLEAU,
    CROSSING,
    DEATH,
    DENSE,
    ERROR,
    HOST,
    LEAVING,
    NON_FINITE,
    NOTHING,
    OUTER_SIGN,
    REACHED,
    RUNNING,
    SAVE,
    SLIDE_OUT,
    STATIONARY,
    STOP,
    STOPPED,
    TOO_SMALL,
    Carry,
    LoopCell,
    LoopShape,
    Out,
    Rates,
    choose,
    dense,
    excess,
    first_crossing,
    first_crossing_of_few,
    quartic_root,
    rates,
    reselected,
    speed_of,
    unpack,
)

#: Zero-length events of one neuron in a row after which the host resolves its surfaces together.
_MAX_STUCK = 12
#: A neuron whose |w| falls below this share of itself within a step has reached 0.
AT_ORIGIN = 1e-9
#: A pair that left its surface counts as off it from this relative distance on.
_OFF = 1e-12
#: Pairs to be located in one step; where more begin to slide at once, steps are shortened.
MOST_HELD = 64
#: Values of the loss clock that only a flow at rest reaches.
_AT_REST = 1e100
#: A fraction of a step below which it counts as of length zero.
_NO_LENGTH = 1e-10


def error_norm(
    layout: LoopShape, y: Array, y1: Array, error: Array, rtol: Array, atol: Array, budget: Array
) -> Array:
    """Largest error in units of the tolerance, relative to the size of each neuron.

    A neuron's entries are measured against the largest of them: neurons of very different sizes
    (small starts, dying neurons) count alike.
    The energy is measured against ``budget``, all there is to spend.
    """
    W, a = unpack(layout, jnp.maximum(jnp.abs(y), jnp.abs(y1)))
    size = jnp.maximum(jnp.max(W, axis=1), a if layout.outer_trained else 0.0)
    Wt, at = unpack(layout, atol)
    allowed = rtol * size + jnp.maximum(jnp.max(Wt, axis=1), at if layout.outer_trained else 0.0)
    We, ae = unpack(layout, jnp.abs(error))
    worst = jnp.max(jnp.maximum(jnp.max(We, axis=1), ae) / allowed)
    if layout.clock == "loss":
        worst = jnp.maximum(worst, jnp.abs(error[-1]) / (atol[-1] + rtol * jnp.abs(y1[-1])))
    return jnp.maximum(worst, jnp.abs(error[layout.m * (layout.D + 1)]) / (rtol * budget))


def first_step(layout: LoopShape, carry: Carry, controls: dict[str, Array]) -> Array:
    """1 % of the time in which the fastest neuron changes by its own size."""
    W, a = unpack(layout, jnp.abs(carry.y))
    dW, da = unpack(layout, jnp.abs(carry.k1))
    size, speed = jnp.maximum(jnp.max(W, axis=1), a), jnp.maximum(jnp.max(dW, axis=1), da)
    guess = 0.01 * jnp.min(jnp.where(speed > 0, size / jnp.where(speed > 0, speed, 1.0), jnp.inf))
    return jnp.where(jnp.isfinite(guess) & (guess > 0), guess, controls["small_step"])


def _false_position(
    function: Callable[[Array], Array],
    hi: Array,
    value_hi: Array,
    value_lo: Array,
    width: float = 1e-14,
) -> tuple[Array, Array]:
    """The end with value > 0 of a bracket [0, hi] of an increasing sign change; evaluations."""

    def go_on(state: PyTree) -> PyTree:
        a, _, b, _, _, count = state
        return (b - a > width * b) & (count < 60)

    def body(state: PyTree) -> PyTree:
        a, va, b, vb, side, count = state
        x = b - vb * (b - a) / (vb - va)
        # Every fourth probe halves; the others stay off the ends, so that both close in.
        x = jnp.where(
            count % 4 == 3, 0.5 * (a + b), jnp.clip(x, a + 0.4 * width * b, b - 0.4 * width * b)
        )
        x = jnp.where((x > a) & (x < b), x, 0.5 * (a + b))
        value = function(x)
        above = value > 0
        va = jnp.where(above, jnp.where(side > 0, 0.5 * va, va), value)
        vb = jnp.where(above, value, jnp.where(side < 0, 0.5 * vb, vb))
        a, b = jnp.where(above, a, x), jnp.where(above, x, b)
        return a, va, b, vb, jnp.where(above, 1, -1), count + 1

    start = (jnp.zeros(()), value_lo, hi, value_hi, jnp.asarray(0), jnp.asarray(0))
    _, _, b, _, _, count = lax.while_loop(go_on, body, start)
    return b, count


def segment(
    layout: LoopShape,
    rows: int,
    saving: bool,
    by_time: bool,
    flow: Flow,
    forces: Forces,
    events: tuple[AbstractEvent, ...],
    controls: dict[str, Array],
    carry: Carry,
) -> Out:
    """Advance until the end, a stop, a full buffer, the host's turn, or the share of steps."""
    rtol, atol, s_end = controls["rtol"], controls["atol"], controls["s_end"]
    targets = controls["targets"]
    dim = carry.y.shape[0]
    m, G = carry.pattern.plus.shape
    K = carry.pattern.slots.shape[1]

    def field(s: Array, y: Array, pattern: LoopCell) -> Rates:
        return rates(layout, forces, s, y, pattern)

    # The host may have changed the pattern, and the first step needs a length. (After a mere pause
    # all goes on to the bit.)
    paused = controls["paused"]
    now = field(carry.s, carry.y, carry.pattern)
    budget = jnp.maximum(jnp.exp(now.log_risk) + carry.y[layout.m * (layout.D + 1)], 1e-300)
    budget = jnp.where(paused, carry.budget, budget)
    carry = carry._replace(
        k1=jnp.where(paused, carry.k1, now.dy), rhs=carry.rhs + jnp.where(paused, 0, 1),
        budget=budget,
    )  # fmt: skip
    carry = carry._replace(h=jnp.where(carry.h > 0, carry.h, first_step(layout, carry, controls)))

    def stop_value(s: Array, y: Array, pattern: LoopCell) -> Array:
        W, a = unpack(layout, y)
        Y = flow.vector(forces.join(W, a), y[m * layout.D + m :])
        speed = lambda: speed_of(layout, field(s, y, pattern))
        values = [e.in_cell(flow, s, Y, speed) for e in events]
        return jnp.max(jnp.stack([jnp.asarray(value, jnp.float64) for value in values]))

    def step(carry: Carry) -> PyTree:
        """A step in the frozen cell, with its error, its multipliers and the field at its end."""
        s, y, pattern = carry.s, carry.y, carry.pattern
        h = jnp.where(s + carry.h > s_end - 1e-12 * carry.h, s_end - s, carry.h)
        A, C = jnp.asarray(A_TABLEAU), jnp.asarray(C_TABLEAU)
        pattern = held(carry)

        def stage(i: Array, state: PyTree) -> PyTree:
            ks, over, flipped = state
            point = y + h * (A[i] @ ks)
            there = field(s + C[i] * h, point, pattern)
            if layout.jumps:
                over = over.at[i].set(jnp.max(excess(layout, forces, point, pattern, there)))
            if layout.locate == "slides":
                flipped = flipped | ((there.H > 0) != pattern.plus)
            return ks.at[i].set(there.dy), over, flipped

        ks = jnp.zeros((7, dim)).at[0].set(carry.k1)
        start = (ks, jnp.full(7, -1.0), jnp.zeros_like(carry.hold))
        ks, over, flipped = lax.fori_loop(1, 6, stage, start)
        y1 = y + h * (A[6] @ ks)
        end = field(s + h, y1, pattern)
        ks = ks.at[6].set(end.dy)
        worst = error_norm(layout, y, y1, h * (jnp.asarray(ERROR) @ ks), rtol, atol, budget)
        worst = jnp.where(jnp.all(jnp.isfinite(y1)) & ~jnp.isnan(worst), worst, jnp.inf)
        return h, y1, h * (jnp.asarray(DENSE).T @ ks), worst, over, end, flipped

    def held(carry: Carry) -> LoopCell:
        """The pattern whose field keeps the sides of the pairs to be located."""
        if layout.locate == "all":
            return carry.pattern
        return carry.pattern._replace(fresh=carry.pattern.fresh | carry.hold)

    def to_be_held(carry: Carry, y1: Array, end: Rates, flipped: Array) -> PyTree:
        """Pairs that changed sides somewhere in the step on a surface that would hold them."""
        pattern = carry.pattern
        flipped = flipped | ((end.H > 0) != pattern.plus)
        _, a = unpack(layout, y1)
        along = end.dW @ forces.normals.T
        weight = (end.up - end.down) * jnp.sum(forces.normals**2, axis=1)
        jump = a[:, None] * weight[None, :]
        plus = jnp.where(held(carry).fresh, pattern.plus, end.H > 0)
        above = along + jnp.where(plus, 0.0, jump)
        below = along - jnp.where(plus, jump, 0.0)
        return flipped & ~pattern.slide & ~carry.hold & (above < 0) & (below > 0)

    def advance(
        carry: Carry, h: Array, y1: Array, shape: Array, stages_over: Array, end: Rates
    ) -> PyTree:
        """Cut an accepted step at what comes first, and go on from there."""
        s, y, pattern = carry.s, carry.y, carry.pattern
        frozen = held(carry)
        ended, pair, xi = jnp.asarray(NOTHING), jnp.asarray(0), jnp.ones(())
        rhs = jnp.asarray(0)
        if layout.jumps:
            watched = ~pattern.slide
            if layout.locate == "all":
                root, pair = first_crossing(layout, forces, y, shape, pattern, watched)
            else:
                watched = watched & carry.hold
                root, pair = lax.cond(
                    jnp.any(watched),
                    lambda _: first_crossing_of_few(
                        layout, forces, y, shape, pattern, watched, MOST_HELD
                    ),
                    lambda _: (jnp.full((), 2.0), jnp.asarray(0)),
                    None,
                )
            ended = jnp.where(root <= 1.0, CROSSING, ended)
            xi = jnp.minimum(root, 1.0)
        if saving:
            target = targets[carry.target]
            if by_time:
                c = jnp.concatenate([(target - y[-1])[None], -shape[:, -1]])
                tau = dense(y, shape, xi)[-1]
                reached = tau >= target
                at = jnp.where(c[0] > 0, quartic_root(c, xi), 0.0)
            else:
                reached = s + xi * h >= target - 4e-16 * jnp.abs(target)
                at = jnp.clip((target - s) / h, 0.0, 1.0)
            ended = jnp.where(reached, SAVE, ended)
            xi = jnp.where(reached, jnp.minimum(at, xi), xi)
        neuron = pair // G
        if layout.jumps and layout.outer_trained:
            slides = jnp.any(pattern.slots >= 0, axis=1)
            _, a0 = unpack(layout, y)
            turned = jnp.zeros(m, bool)
            for share in (0.25, 0.5, 0.75, 1.0):
                _, a1 = unpack(layout, dense(y, shape, share * xi))
                turned = turned | (slides & (a0 * a1 <= 0))
            turned = turned & (a0 != 0)

            def at_zero(_: Array) -> PyTree:
                k = jnp.argmax(turned)
                at = m * layout.D + k
                c = jnp.concatenate([y[at][None], shape[:, at]]) * jnp.sign(y[at])
                low = jnp.stack(
                    [jnp.polyval(c[::-1], share * xi) for share in (0.25, 0.5, 0.75, 1.0)]
                )
                hi = jnp.array([0.25, 0.5, 0.75, 1.0])[jnp.argmax(low <= 0)] * xi
                return quartic_root(c, hi), k

            turns = jnp.any(turned)
            at, k = lax.cond(turns, at_zero, lambda _: (xi, neuron), None)
            xi, neuron = jnp.where(turns, at, xi), jnp.where(turns, k, neuron)
            ended = jnp.where(turns, OUTER_SIGN, ended)
        leaving = jnp.asarray(-1)
        # A surface left late by the share δ of a step costs an error of order δ² only: the rate
        # starts from zero.
        late = 1e-8 if layout.locate == "all" else 1e-4
        # The field where the step has been cut so far; most often nothing else cuts it.
        cut = xi < 1.0
        now = lax.cond(
            cut, lambda _: field(s + xi * h, dense(y, shape, xi), frozen), lambda _: end, None
        )
        rhs = rhs + jnp.where(cut, 1, 0)
        cut_at = xi
        if layout.jumps:

            def over(x: Array | float) -> Array:
                point = dense(y, shape, x)
                return jnp.max(
                    excess(layout, forces, point, pattern, field(s + x * h, point, frozen))
                )

            def check(_: Array) -> PyTree:
                # A multiplier that leaves and is back before the end of the step shows in a stage.
                times = jnp.asarray(C_TABLEAU)
                seen = (stages_over > 0) & (times < xi)
                inside = times[jnp.argmax(seen)]
                early = lax.cond(jnp.any(seen), over, lambda _: -jnp.ones(()), inside)
                hi = jnp.where(early > 0, inside, xi)
                last = jnp.max(excess(layout, forces, dense(y, shape, xi), pattern, now))
                value = jnp.where(early > 0, early, last)

                def locate(_: Array) -> PyTree:
                    start = over(0.0)
                    at, count = _false_position(over, hi, value, start, late)
                    at = jnp.where(start > 0, 0.0, at)
                    point = dense(y, shape, at)
                    there = excess(layout, forces, point, pattern, field(s + at * h, point, frozen))
                    return at, jnp.argmax(there), count + 2

                at, where, count = lax.cond(
                    value > 0, locate, lambda _: (xi, jnp.asarray(-1), jnp.asarray(0)), None
                )
                return at, where, count + jnp.where(jnp.any(seen), 1, 0)

            at, where, count = lax.cond(
                jnp.any(pattern.slots >= 0),
                check,
                lambda _: (xi, jnp.asarray(-1), jnp.asarray(0)),
                None,
            )
            leaves = where >= 0
            rhs = rhs + count
            xi = at
            ended = jnp.where(leaves, LEAVING, ended)
            neuron = jnp.where(leaves, where // K, neuron)
            leaving = jnp.where(leaves, where % K, -1)
        if events:

            def stops(x: Array | float) -> Array:
                return stop_value(s + x * h, dense(y, shape, x), frozen)

            value = stops(xi)

            def locate_stop(_: Array) -> PyTree:
                start = stops(0.0)
                return jnp.where(start >= 0, 0.0, _false_position(stops, xi, value, start)[0])

            at = lax.cond(value >= 0, locate_stop, lambda _: xi, None)
            ended = jnp.where(value >= 0, STOP, ended)
            xi = at
        whole = (xi >= 1.0) & (ended != STOP)
        s_new = jnp.where(whole & (s + h >= s_end), s_end, s + xi * h)
        y_new = jnp.where(whole, y1, dense(y, shape, xi))
        if layout.jumps:
            # What slides stays on its surfaces to rounding of its own size, however it shrinks.
            size = m * layout.D
            W = y_new[:size].reshape(m, layout.D)
            along = jnp.sum(pattern.Q * W[:, None, :], axis=2)
            W = W - jnp.sum(pattern.Q * along[:, :, None], axis=1)
            y_new = jnp.concatenate([W.reshape(-1), y_new[size:]])
        hit = jnp.where(ended == CROSSING, pair % G, -1)
        if layout.locate == "slides":
            # Passed crossings take their new side, the one met stays on its old one.
            H = lax.cond(
                xi != cut_at,
                lambda _: unpack(layout, y_new)[0] @ forces.normals.T,
                lambda _: now.H,
                None,
            )
            sides = (H > 0) & ~pattern.slide
            met = jnp.where(hit >= 0, hit, G)
            sides = sides.at[neuron, met].set(
                pattern.plus[neuron, jnp.maximum(hit, 0)], mode="drop"
            )
            sides = jnp.where(pattern.fresh & ~pattern.slide, pattern.plus, sides)
            pattern = pattern._replace(
                plus=sides, fresh=pattern.fresh.at[neuron, met].set(True, mode="drop")
            )
        elsewhere = xi != cut_at
        now = lax.cond(elsewhere, lambda _: field(s_new, y_new, pattern), lambda _: now, None)
        rhs = rhs + jnp.where(elsewhere, 1, 0)
        if layout.locate == "slides":
            # (at h = 0 the side that the field took is a matter of rounding)
            now = reselected(layout, forces, s_new, y_new, pattern, now, neuron)
        moved = xi > _NO_LENGTH
        if layout.jumps:
            W, _ = unpack(layout, y_new)
            reach_of = jnp.linalg.norm(W, axis=1)
            reach = reach_of[:, None] * controls["normal_sizes"][None, :]
            side = jnp.where(pattern.plus, 1.0, -1.0)
            fresh = pattern.fresh & (side * now.H <= _OFF * reach)
            pattern = pattern._replace(fresh=fresh, tangent=jnp.where(moved, -1, pattern.tangent))
            acts = (ended == CROSSING) | (ended == LEAVING)

            def decide(_: Array) -> PyTree:
                chosen = choose(layout, forces, y_new, pattern, now, neuron, hit, leaving)
                after = reselected(layout, forces, s_new, chosen.y, chosen.pattern, now, neuron)
                before = jnp.linalg.norm(unpack(layout, y)[0][neuron])
                keep = ~(chosen.unclear | (reach_of[neuron] <= AT_ORIGIN * before))
                row = chosen.pattern.plus[neuron] | chosen.pattern.slide[neuron]
                dies = (hit >= 0) & ~jnp.any(row) & (jnp.max(jnp.abs(now.down)) == 0)
                pick = lambda new, old: jnp.where(keep, new, old)
                return (
                    pick(chosen.y, y_new),
                    jax.tree.map(pick, chosen.pattern, pattern),
                    pick(after.dy, now.dy),
                    chosen.kind,
                    jnp.where(dies, hit, chosen.dropped),
                    jnp.where(dies, DEATH, SLIDE_OUT),
                    chosen.unclear,
                )

            def leave(_: Array) -> PyTree:
                none = jnp.asarray(-1)
                zero = jnp.asarray(0)
                return y_new, pattern, now.dy, zero, none, zero, jnp.asarray(False)

            y_new, pattern, k1, kind, other, other_kind, unclear = lax.cond(
                acts, decide, leave, None
            )
        else:
            k1, kind, other, unclear = now.dy, jnp.asarray(0), jnp.asarray(-1), False
            other_kind = jnp.asarray(0)
            acts = jnp.asarray(False)
        same = (neuron == carry.neuron) & ~moved & acts
        stuck = jnp.where(same, carry.stuck + 1, 0)
        surface = jnp.where(
            ended == LEAVING, carry.pattern.slots[neuron, jnp.maximum(leaving, 0)], hit
        )
        code = jnp.where(s_new >= s_end, REACHED, RUNNING)
        code = jnp.where(ended == STOP, STOPPED, code)
        ask = unclear | (stuck > _MAX_STUCK) | (ended == OUTER_SIGN)
        if layout.jumps:
            # A neuron whose weights vanish meets all its surfaces at once.
            before = jnp.linalg.norm(unpack(layout, y)[0][neuron])
            origin = acts & (reach_of[neuron] <= AT_ORIGIN * before)
            ask = ask | origin
        else:
            origin = jnp.asarray(False)
        code = jnp.where(ask, HOST, code)
        if layout.clock == "loss":
            # ds = L dt stays moderate while the loss falls to zero, however late.
            code = jnp.where((code == RUNNING) & (s_new > _AT_REST), STATIONARY, code)
        code = jnp.where(jnp.all(jnp.isfinite(k1)), code, NON_FINITE)
        recorded = acts & ~ask
        new = carry._replace(
            s=s_new, y=y_new, k1=k1, pattern=pattern, code=code, stuck=stuck,
            neuron=jnp.where(acts | ask, neuron, carry.neuron), origin=origin,
            rhs=carry.rhs + rhs,
            target=carry.target + jnp.where(ended == SAVE, 1, 0),
        )  # fmt: skip
        return new, ended, recorded, jnp.stack([neuron, surface, kind]), (other, other_kind)

    def body(state: PyTree) -> PyTree:
        carry, saved_s, saved_y, saved, event_s, event_tau, event_data, recorded = state
        h, y1, shape, worst, over, end, flipped = step(carry)
        accepted = worst <= 1.0
        again = jnp.asarray(False)
        if layout.locate == "slides":
            hold = to_be_held(carry, y1, end, flipped) & accepted
            again = jnp.any(hold)
            accepted = accepted & ~again
            hold = carry.hold | hold
            crowded = jnp.sum(hold) > MOST_HELD
            hold = jnp.where(accepted | crowded, False, hold)
        none = jnp.zeros(3, jnp.asarray(0).dtype)

        def rejected(carry: Carry) -> PyTree:
            return (
                carry,
                jnp.asarray(NOTHING),
                jnp.asarray(False),
                none,
                (jnp.asarray(-1), jnp.asarray(0)),
            )

        new, ended, happened, data, (other, other_kind) = lax.cond(
            accepted, lambda c: advance(c, h, y1, shape, over, end), rejected, carry
        )
        factor = jnp.clip(0.9 * jnp.maximum(worst, 1e-30) ** -0.2, 0.2, 8.0)
        # Where the end of the interval cut the step, what was remembered stays.
        grown = jnp.maximum(h * factor, jnp.where(accepted & (h < carry.h), carry.h, 0.0))
        grown = jnp.where(again, h, grown)
        if layout.locate == "slides":
            grown = jnp.where(again & crowded, 0.5 * h, grown)
        code = jnp.where(accepted | again | (carry.s + 0.2 * h > carry.s), new.code, TOO_SMALL)
        commit = accepted
        if layout.locate == "slides":
            new = new._replace(hold=hold)
        new = new._replace(
            h=grown, code=code, attempts=carry.attempts + 1,
            accepted=carry.accepted + jnp.where(commit, 1, 0), rhs=new.rhs + 6,
        )  # fmt: skip
        keep = commit
        if saving:
            # A stop at a save point is recorded too.
            target = targets[carry.target]
            there = (new.y[-1] if by_time else new.s) >= target - 1e-13 * (1 + jnp.abs(target))
            keep = (ended == SAVE) | ((ended == STOP) & there)
        row = jnp.where(keep, saved, rows)
        saved_s, saved_y = saved_s.at[row].set(new.s), saved_y.at[row].set(new.y)
        tau = new.y[-1]
        row = jnp.where(happened, recorded, 2 * rows)
        event_s, event_tau = event_s.at[row].set(new.s), event_tau.at[row].set(tau)
        event_data = event_data.at[row].set(data)
        recorded = recorded + jnp.where(happened, 1, 0)
        besides = happened & (other >= 0)
        row = jnp.where(besides, recorded, 2 * rows)
        event_s, event_tau = event_s.at[row].set(new.s), event_tau.at[row].set(tau)
        event_data = event_data.at[row].set(jnp.stack([data[0], other, other_kind]))
        recorded = recorded + jnp.where(besides, 1, 0)
        return (
            new, saved_s, saved_y, saved + jnp.where(keep, 1, 0),
            event_s, event_tau, event_data, recorded,
        )  # fmt: skip

    def go_on(state: PyTree) -> PyTree:
        carry, _, _, saved, _, _, _, recorded = state
        return (
            (carry.code == RUNNING)
            & (saved < rows)
            & (recorded < 2 * rows - 2)
            & (carry.attempts < controls["attempt_cap"])
            & (carry.accepted < controls["step_cap"])
        )

    zero = jnp.asarray(0)
    buffers = (
        jnp.zeros(rows + 1), jnp.zeros((rows + 1, dim)), zero,
        jnp.zeros(2 * rows + 1), jnp.zeros(2 * rows + 1),
        jnp.zeros((2 * rows + 1, 3), zero.dtype), zero,
    )  # fmt: skip
    return Out(*lax.while_loop(go_on, body, (carry, *buffers)))
