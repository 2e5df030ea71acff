r"""The order in which gradient descent converges to its flow, measured (:func:`descent_order`).

On a smooth risk the descent with step η is the flow of a modified risk,
:math:`\dot\theta=-\nabla L-\tfrac\eta2\nabla^2L\nabla L+O(\eta^2)` (backward error analysis of
Euler's method), so that at a fixed time

.. math:: \theta_\eta(T)=\theta(T)+\eta\,\varepsilon(T)+O(\eta^2),\qquad
   \dot\varepsilon=-\nabla^2L\,\varepsilon-\tfrac12\nabla^2L\nabla L,\quad\varepsilon(0)=0.

The measurement knows nothing of this: it compares descents with one tight solve.
:func:`first_order_error` solves for ε; the two are held against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from gradflow.integration import integrate
from gradflow.paths.descent import descend
from gradflow.paths.trajectory import Trajectory
from gradflow.risks.base import AbstractRisk
from gradflow.validation import check_integer, check_positive, check_rtol, fail

#: A measured order is told only with an error bar below this.
_SHARPEST = 0.1
#: Tolerance of the flow: one a hundred times as large must be one still.
_LOOSEST = 1e-5
#: Below this order distances do not tend to zero by what is seen of them.
_LEAST = 0.5
#: Of the smallest distance that the flow's own error may be.
_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class DescentOrder:
    r"""The measured order p of :math:`\|\theta_\eta(T)-\theta(T)\|=C\eta^p(1+O(\eta))`.

    Attributes
    ----------
    until : float
        T.
    steps : (J,) int array
        Numbers of steps, ascending.
    step_size : (J,) array
        η = T / steps.
    distance : (J,) array
        ‖θ_η(T) − θ(T)‖; inf where the descent diverged.
    flow_error : float
        The distance of θ(T) from a solve at a tolerance a hundred times as large.
    local_orders : (J − 1,) array
        ln(distance_j / distance_{j+1}) / ln(η_j / η_{j+1}).
    order, error : float
        p, extrapolated to η = 0 from the last local orders, and its error bar: how much the
        extrapolation changed with the last step size, and what the flow's own error may do.
    coefficient : pytree
        The vector :math:`\lim_{\eta\to0}(\theta_\eta(T)-\theta(T))/\eta`, extrapolated; where p is
        1 it is ε(T).
    coefficient_error : float
        How much the last step size changed it, in norm.
    conclusive : bool
        Whether the error bar is below 0.1, the order above 0.5, and no reason speaks against it.
    reason : str
        Why it is not, or what was measured.
    flow : Trajectory
    """

    until: float
    steps: np.ndarray
    step_size: np.ndarray
    distance: np.ndarray
    flow_error: float
    local_orders: np.ndarray
    order: float
    error: float
    coefficient: PyTree
    coefficient_error: float
    conclusive: bool
    reason: str
    flow: Trajectory = field(repr=False)

    def __str__(self) -> str:
        rows = [
            f"  {n:8d} steps, η = {eta:.4g}: {distance:.6g}"
            for n, eta, distance in zip(self.steps, self.step_size, self.distance, strict=True)
        ]
        word = "order" if self.conclusive else "INCONCLUSIVE: order"
        head = f"{word} {self.order:.5f} ± {self.error:.1g} ({self.reason})"
        return "\n".join([head, *rows])


def descent_order(
    risk: AbstractRisk,
    start: PyTree,
    until: float,
    steps: Sequence[int] = (64, 128, 256, 512, 1024),
    *,
    rtol: float = 1e-12,
) -> DescentOrder:
    """Measure how gradient descent converges to its flow as the step shrinks.

    Parameters
    ----------
    risk : AbstractRisk
    start : pytree
    until : float
        T, at which they are compared.
    steps : sequence of int
        Numbers of steps, ascending, at least four (three are needed for an order, and the fourth
        for its error bar).
    rtol : float
        Of the flow's solve.

    Returns
    -------
    DescentOrder
        ``conclusive`` is False where the flow is not known well enough (or not unique), a descent
        diverged, or the local orders do not settle: as they do where the flow slides along kinks,
        over which a descent hops.

    Raises
    ------
    ValueError
        Bad arguments.
    """
    until, rtol = check_positive("until", until), check_rtol(rtol)
    counts = [check_integer("steps", n, minimum=1) for n in steps]
    if len(counts) < 4 or any(b <= a for a, b in pairwise(counts)):
        raise fail("steps", list(steps), "is to be four numbers or more, ascending", "halve η")
    if rtol > _LOOSEST:
        raise fail("rtol", rtol, "is no tight tolerance", f"pass at most {_LOOSEST:g}")
    flow = integrate(risk, start, until=until, rtol=rtol, throw=True)
    looser = integrate(risk, start, until=until, rtol=100 * rtol, throw=True)
    end, unravel = ravel_pytree(flow.final)
    end = np.asarray(end)
    flow_error = float(np.linalg.norm(end - np.asarray(ravel_pytree(looser.final)[0])))
    sizes = until / np.array(counts, np.float64)
    apart = np.array([_apart(risk, start, until, n, end) for n in counts])
    distance = np.linalg.norm(apart, axis=1)
    with np.errstate(all="ignore"):
        local = np.log(distance[:-1] / distance[1:]) / np.log(sizes[:-1] / sizes[1:])
        order, before = _limits(local, sizes[1:])
        noise = 4 * flow_error / (distance[-1] * math.log(sizes[-2] / sizes[-1]))
        vector, vector_before = _limits(apart / sizes[:, None], sizes)
    error = float(abs(order - before) + noise)
    reason = _reason(flow, distance, flow_error, float(order), error)
    return DescentOrder(
        until=until, steps=np.array(counts), step_size=sizes, distance=distance,
        flow_error=flow_error, local_orders=local, order=float(order), error=error,
        coefficient=unravel(jnp.asarray(vector)),
        coefficient_error=float(np.linalg.norm(vector - vector_before)),
        conclusive=not reason, reason=reason or f"local orders {_shown(local)}", flow=flow,
    )  # fmt: skip


def _apart(
    risk: AbstractRisk, start: PyTree, until: float, steps: int, end: np.ndarray
) -> np.ndarray:
    """θ_η(T) − θ(T), flat; inf where the descent diverged."""
    done = descend(risk, start, step_size=until / steps, steps=steps, save_every=steps)
    if done.result != "completed":
        return np.full(end.shape, np.inf)
    return np.asarray(ravel_pytree(done.final)[0]) - end


def _limits(values: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extrapolate values v(η) = v + cη + … to η = 0 from the last two, and from the two before."""

    def limit(k: int) -> np.ndarray:
        a, b = sizes[k - 1], sizes[k]
        return values[k] + (values[k] - values[k - 1]) * b / (a - b)

    last = len(sizes) - 1
    return limit(last), limit(last - 1)


def _reason(
    flow: Trajectory, distance: np.ndarray, flow_error: float, order: float, error: float
) -> str:
    """What speaks against the order; "" if nothing does."""
    if not flow.unique:
        return "the flow is not unique"
    if not np.all(np.isfinite(distance)):
        return "a descent diverged: pass larger numbers of steps"
    if not np.all(distance > 0) or flow_error > _SHARE * distance[-1]:
        return (
            f"the flow is known to {flow_error:.1g} only, and the nearest descent is "
            f"{distance[-1]:.1g} away: pass smaller numbers of steps, or a smaller rtol"
        )
    if not error < _SHARPEST:
        slides = sum(event.kind == "slide-in" for event in flow.events)
        cause = f" (the flow slides along kinks {slides} times)" if slides else ""
        return f"the local orders do not settle: error bar {error:.2g}{cause}"
    if order < _LEAST:
        return (
            "descents of these steps do not come nearer to the flow as the step shrinks: they hop "
            "over what turns it (a neuron near the origin, a slide); pass larger numbers of steps"
        )
    return ""


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def first_order_error(
    risk: AbstractRisk, start: PyTree, until: float, *, rtol: float = 1e-10
) -> PyTree:
    r"""ε(T) of :math:`\theta_\eta(T)=\theta(T)+\eta\,\varepsilon(T)+O(\eta^2)`.

    Solves :math:`\dot\varepsilon=-\nabla^2L\,\varepsilon-\tfrac12\nabla^2L\nabla L` beside the
    flow, with Hessian–vector products. Where the Hessian is constant (a quadratic risk)
    :math:`\varepsilon(T)=-\tfrac T2\nabla^2L\,\nabla L(\theta(T))`.

    Parameters
    ----------
    risk : AbstractRisk
        A smooth one: across kinks the gradient has no derivative.
    start : pytree
    until : float
        T.
    rtol : float

    Returns
    -------
    pytree
        Shaped like the parameters.

    Raises
    ------
    ValueError
        A risk with kinks; bad arguments.
    """
    from scipy.integrate import solve_ivp

    until, rtol = check_positive("until", until), check_rtol(rtol)
    at = risk.arrangement
    if (at is not None and at.kinked) or risk.has_loss_kinks:
        raise fail("risk", risk.name, "has kinks, where its gradient jumps", "use a smooth net")
    theta, unravel = ravel_pytree(risk.as_params(start))
    size = theta.size

    def gradient(flat: jax.Array) -> jax.Array:
        return ravel_pytree(risk.gradient(unravel(flat)))[0]

    @jax.jit
    def field_of(both: jax.Array) -> jax.Array:
        place, error = both[:size], both[size:]
        slope = gradient(place)
        turned = jax.jvp(gradient, (place,), (error + 0.5 * slope,))[1]
        return jnp.concatenate([-slope, -turned])

    scale = float(np.max(np.abs(theta), initial=0.0)) or 1.0
    solved = solve_ivp(
        lambda _, both: np.asarray(field_of(jnp.asarray(both))), (0.0, until),
        np.concatenate([np.asarray(theta), np.zeros(size)]), method="DOP853", rtol=rtol,
        atol=rtol * scale,
    )  # fmt: skip
    if not solved.success:
        raise RuntimeError(f"the variational equation was not solved: {solved.message}")
    return unravel(jnp.asarray(solved.y[size:, -1]))


__all__ = ["DescentOrder", "descent_order", "first_order_error"]
