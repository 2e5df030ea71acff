r"""Stationary points of losses that are attained (squared): polished, with spectrum and verdict.

At a kink the Clarke subdifferential is used (`clarke1983`): a neuron may rest on a surface where
its field points to it from both sides, and the Hessian is that of L along those surfaces. Leaving
them costs to first order, so it does not enter the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import null_space

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.certificates.kkt import Sliding
from gradflow.certificates.problem import cells_of, join
from gradflow.losses import Squared
from gradflow.networks.deep_linear import DeepLinear

#: A neuron below this share of the largest, in both layers, counts as one at zero.
_SMALL = 1e-9
#: Eigenvalues below this share of the largest count as zero.
_ZERO = 1e-9


@dataclass(frozen=True)
class Stationary:
    """A stationary point: see the fields of `Certificate` of the same names."""

    params: Any
    residual: float
    spectrum: np.ndarray
    verdict: str
    accepted: bool
    reason: str
    sliding: tuple[Sliding, ...] = ()


def stationary_point(risk: Any, params: Any, *, polish: bool, tol: float) -> Stationary:
    """Polish ``params`` to a stationary point of ``risk`` and classify it.

    The verdict is "minimum" (spectrum positive), "degenerate minimum" (zero eigenvalues, all of
    them along a manifold on which L is constant, or L = 0), "saddle" (a negative eigenvalue, or a
    neuron at zero that lowers L in some direction) or "undecided".
    """
    cells = None
    if isinstance(getattr(risk, "loss", None), Squared) and getattr(risk, "X", None) is not None:
        cells = cells_of(risk)
    if cells is None:
        return _smooth(risk, params, polish, tol)
    return _kinked(risk, cells, params, polish, tol)


def _newton(
    point: np.ndarray, field: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], steps: int = 60
) -> np.ndarray:
    """Newton on a gradient with minimum-norm steps, damped while |gradient| does not fall."""
    g, H = field(point)
    size = float(np.linalg.norm(g))
    for _ in range(steps):
        if size == 0 or not np.isfinite(size):
            break
        improved = False
        # A cut in the spectrum that is too low follows rounding along flat directions.
        values, vectors = np.linalg.eigh(H)
        top = float(np.max(np.abs(values), initial=0.0))
        for cut in (1e-13, 1e-10, 1e-7, 1e-4):
            use = np.abs(values) > cut * top
            step = -vectors[:, use] @ ((vectors[:, use].T @ g) / values[use])
            damp = 1.0
            while damp > 1e-3 and not improved:
                trial = point + damp * step
                new_g, new_H = field(trial)
                new = float(np.linalg.norm(new_g))
                improved = new < size * (1 - 0.1 * damp)
                damp *= 0.5
            if improved:
                point, g, H, size = trial, new_g, new_H, new
                break
        if not improved:
            break
    return point


def _smooth(risk: Any, params: Any, polish: bool, tol: float) -> Stationary:
    mask = None if risk.net is None else risk.net.freeze(jax.tree.map(jnp.ones_like, params))
    flat, unravel = ravel_pytree(params)
    trained = np.arange(flat.size)
    if mask is not None:
        trained = np.flatnonzero(np.asarray(ravel_pytree(mask)[0]))
    start = np.asarray(flat)

    def value(part: jax.Array) -> jax.Array:
        return jnp.asarray(risk(unravel(jnp.asarray(start).at[trained].set(part)))).reshape(())

    gradient, hessian = jax.jit(jax.grad(value)), jax.jit(jax.hessian(value))

    def field(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(gradient(jnp.asarray(part))), np.asarray(hessian(jnp.asarray(part)))

    point = _newton(start[trained], field) if polish else start[trained]
    g, H = field(point)
    full = start.copy()
    full[trained] = point
    final = unravel(jnp.asarray(full))
    flat_directions = 0
    if isinstance(risk.net, DeepLinear):
        # L depends on the end-to-end vector alone; its fibres are smooth where its rank is full.
        net = risk.net

        def end_to_end(part: jax.Array) -> jax.Array:
            return net.end_to_end(unravel(part))

        jacobian = np.asarray(jax.jacrev(end_to_end)(jnp.asarray(full)))
        rank = int(np.linalg.matrix_rank(jacobian))
        flat_directions = full.size - rank if rank == jacobian.shape[0] else -1
    reached = float(risk(final))
    return _judge(final, g, H, reached, float(risk(params)), flat_directions, tol, (), [])


def _kinked(risk: Any, cells: Arrangement, params: Any, polish: bool, tol: float) -> Stationary:
    problem = _Squared(cells, np.exp(cells.log_weights))
    W, a = cells.split(params)
    sides = Pattern.at(cells, W).sides
    if polish:
        W, a, sides = problem.polish(W, a, sides)
    g, H, slides, complaints = problem.at(W, a, sides)
    complaints += problem.escapes(W, a)
    return _judge(
        join(cells, W, a), g, H, problem.value(W, a), problem.value(0 * W, a),
        problem.flat(W, a, sides), tol, slides, complaints,
    )  # fmt: skip


def _judge(
    params: Any, g: np.ndarray, H: np.ndarray, value: float, size: float, flat: int, tol: float,
    sliding: tuple[Sliding, ...], complaints: list[str],
) -> Stationary:  # fmt: skip
    """Judge by gradient, Hessian, L and the ``size`` of L (that of f = 0, say)."""
    spectrum = np.linalg.eigvalsh(H) if H.size else np.zeros(0)
    top = float(np.max(np.abs(spectrum), initial=0.0))
    residual = float(np.linalg.norm(g))
    zero = int(np.sum(np.abs(spectrum) <= _ZERO * top))
    saddles = [c for c in complaints if c.startswith("saddle")]
    if saddles or np.any(spectrum < -_ZERO * top):
        verdict = "saddle"
        note = saddles[0] if saddles else f"smallest eigenvalue {spectrum[0]:.3g}"
    elif complaints:
        verdict, note = "undecided", complaints[0]
    elif zero == 0:
        verdict, note = "minimum", f"smallest eigenvalue {np.min(spectrum, initial=np.inf):.3g}"
    elif 0 <= value <= 1e-24:
        verdict, note = "degenerate minimum", "L = 0"
    elif zero == flat:
        verdict = "degenerate minimum"
        note = f"L is constant along all {zero} directions of zero curvature"
    else:
        verdict, note = "undecided", f"{zero} directions of zero curvature"
    # Of two terms of the gradient each is about √(2L·|Hessian|); rounding is a share of that.
    bound = tol * max(1.0, math.sqrt(2 * max(size, abs(value)) * top))
    accepted = residual <= bound
    reason = f"|grad L| = {residual:.1e}; {note}"
    if not accepted:
        verdict = "undecided"
        reason = f"|grad L| = {residual:.2e} exceeds {bound:.1e}: not stationary"
    return Stationary(params, residual, spectrum, verdict, accepted, reason, sliding)


@dataclass(frozen=True)
class _Squared:
    """L = ½Σ ω_i (f_i − y_i)² on a cell and its surfaces."""

    cells: Arrangement
    omega: np.ndarray

    def outputs(self, W: np.ndarray, a: np.ndarray) -> np.ndarray:
        return a @ self.cells.activations(W)

    def value(self, W: np.ndarray, a: np.ndarray) -> float:
        return 0.5 * float(np.sum(self.omega * (self.outputs(W, a) - self.cells.y) ** 2))

    def forces(self, W: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F± = −∂L/∂A± on every surface."""
        pull = -self.omega * (self.outputs(W, a) - self.cells.y)
        return self.cells.per_surface(pull)

    def bases(self, sides: np.ndarray) -> list[np.ndarray]:
        """Orthonormal bases of the directions of w_k along the surfaces it stands on."""
        D = self.cells.inputs.shape[1]
        return [
            null_space(self.cells.normals[row == 0], rcond=1e-12) if np.any(row == 0) else np.eye(D)
            for row in sides
        ]

    def tangent(self, sides: np.ndarray) -> np.ndarray:
        """Basis (p, r) of the trained weights' directions along their surfaces."""
        m, D = sides.shape[0], self.cells.inputs.shape[1]
        bases = self.bases(sides)
        tail = m if self.cells.trained else 0
        out = np.zeros((m * D + tail, sum(Q.shape[1] for Q in bases) + tail))
        at = 0
        for k, Q in enumerate(bases):
            out[k * D : (k + 1) * D, at : at + Q.shape[1]] = Q
            at += Q.shape[1]
        if tail:
            out[m * D :, at:] = np.eye(m)
        return out

    def derivatives(
        self, W: np.ndarray, a: np.ndarray, slopes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (p,) and Hessian (p, p) with frozen slopes s_ki."""
        cells = self.cells
        m, D = W.shape
        phi = slopes * (W @ cells.inputs.T)
        r = self.omega * (a @ phi - cells.y)
        J = np.moveaxis((a[:, None] * slopes)[:, :, None] * cells.inputs, 1, 2).reshape(m * D, -1)
        if cells.trained:
            J = np.concatenate([J, phi])
        H = (J * self.omega) @ J.T
        if cells.trained:
            cross = (slopes * r) @ cells.inputs
            for k in range(m):
                H[k * D : (k + 1) * D, m * D + k] += cross[k]
                H[m * D + k, k * D : (k + 1) * D] += cross[k]
        return J @ r, H

    def polish(
        self, W: np.ndarray, a: np.ndarray, sides: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Newton along the surfaces; then surfaces are entered, passed and left as L asks."""
        cells = self.cells
        m, D = W.shape
        sides = sides.copy()
        best = (np.inf, W, a, sides)
        for _ in range(30):
            T = self.tangent(sides)
            slopes = Pattern(cells, sides).slopes
            for k in range(m):
                on = cells.normals[sides[k] == 0]
                if on.shape[0]:
                    W[k] -= np.linalg.pinv(on) @ (on @ W[k])
            start = np.concatenate([W.ravel(), a]) if cells.trained else W.ravel()

            def unpack(
                point: np.ndarray, start: np.ndarray = start, T: np.ndarray = T, a: np.ndarray = a
            ) -> tuple[np.ndarray, np.ndarray]:
                full = start + T @ point
                return full[: m * D].reshape(m, D), (full[m * D :] if cells.trained else a)

            def field(
                point: np.ndarray, slopes: np.ndarray = slopes, T: np.ndarray = T,
                unpack: Callable[..., Any] = unpack,
            ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
                W_there, a_there = unpack(point)
                g, H = self.derivatives(W_there, a_there, slopes)
                return T.T @ g, T.T @ H @ T

            W, a = unpack(_newton(np.zeros(T.shape[1]), field))
            W, a = W.copy(), a.copy()
            # (a neuron on a surface is off it by rounding)
            g, _, slides, _ = self.at(W, a, sides)
            size = float(np.linalg.norm(g))
            h = cells.heights(W)
            wrong = (np.sign(h) * sides < 0) & (
                np.abs(h) > 1e-13 * np.linalg.norm(W, axis=1)[:, None]
            )
            if not np.any(wrong) and size < best[0]:
                best = (size, W, a, sides)
            plus, minus = self.forces(W, a)
            attracts = a[:, None] * (plus - minus) < 0
            new = np.where(wrong, np.where(attracts, 0, -sides), sides)
            for s in slides:
                g_index = int(cells.surface[s.datum])
                if not cells.slope - 1e-9 <= s.slope <= 1 + 1e-9:
                    new[s.neuron, g_index] = 1 if s.slope > 1 else -1
            if np.array_equal(new, sides):
                break
            sides = new
        return best[1:] if np.isfinite(best[0]) else (W, a, sides)

    def at(
        self, W: np.ndarray, a: np.ndarray, sides: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[Sliding, ...], list[str]]:
        """Return the minimum-norm gradient, the Hessian along the surfaces, slides, complaints."""
        cells = self.cells
        D = W.shape[1]
        T = self.tangent(sides)
        g, H = self.derivatives(W, a, Pattern(cells, sides).slopes)
        plus, minus = self.forces(W, a)
        scale = max(float(np.max(np.abs(plus))), float(np.max(np.abs(minus))), 1e-300)
        slides: list[Sliding] = []
        complaints: list[str] = []
        off = []
        for k in range(W.shape[0]):
            on = np.flatnonzero(sides[k] == 0)
            if on.size == 0 or not np.any(W[k] != 0) or a[k] == 0:
                continue
            # −∂L/∂w_k with slope +: a_k Σ F n; the share of side − that cancels it along n.
            force = -g[k * D : (k + 1) * D]
            drop = np.linalg.lstsq(cells.normals[on].T, force, rcond=None)[0] / a[k]
            for j, index in enumerate(on):
                jump = plus[index] - minus[index]
                datum = int(np.flatnonzero(cells.surface == index)[0])
                if abs(jump) <= 1e-10 * scale:
                    complaints.append(
                        f"neuron {k} stands on the kink of datum {datum} without force"
                    )
                    off.append(abs(a[k] * drop[j]))
                    continue
                share = 1 - drop[j] / jump
                slides.append(Sliding(k, datum, cells.slope + (1 - cells.slope) * share))
                off.append(abs(a[k] * jump) * max(0.0, -share, share - 1))
                if a[k] * jump > 0:
                    complaints.append(f"saddle: the kink of datum {datum} repels neuron {k}")
        residual = np.append(T.T @ g, off)
        return residual, T.T @ H @ T, tuple(slides), complaints

    def escapes(self, W: np.ndarray, a: np.ndarray) -> list[str]:
        """Return what neurons at zero can do: f gains a φ(w·x) of either sign of a."""
        cells = self.cells
        size = np.linalg.norm(W, axis=1)
        still = size == 0
        # (a neuron small in both layers may turn at no cost, whatever its pattern)
        small = (size <= _SMALL * np.max(size)) & (np.abs(a) <= _SMALL * np.max(np.abs(a)))
        zero = np.flatnonzero(still | (small & self.cells.trained))
        if zero.size == 0:
            return []
        pull = -self.omega * (self.outputs(W, a) - cells.y)
        scale = float(np.max(np.abs(cells.inputs)))
        draws = np.random.default_rng(0).normal(size=(200, W.shape[1]))
        u = np.concatenate([cells.inputs, -cells.inputs, draws])
        u = u / np.maximum(np.linalg.norm(u, axis=1), 1e-300)[:, None]
        gain = cells.activations(u) @ pull
        out = []
        for k in zero:
            free = cells.trained and (a[k] == 0 or not still[k])
            reach = np.abs(gain) if free else a[k] * gain
            if np.max(reach) > 1e-10 * scale:
                out.append(f"saddle: neuron {k} at zero lowers L in some direction")
            elif not free:
                out.append(f"neuron {k} stands at zero, on all kinks")
        return out

    def flat(self, W: np.ndarray, a: np.ndarray, sides: np.ndarray) -> int:
        """Return the dimension along which L is constant because f is.

        f depends on the neurons of one pattern through Σ a_k w_k alone, whose fibres are smooth
        where some a_k ≠ 0; and not at all on neurons that are dead on all data.
        """
        cells = self.cells
        tail = 1 if cells.trained else 0
        bases = self.bases(sides)
        books: dict[bytes, list[int]] = {}
        total = 0
        for k in range(W.shape[0]):
            if not np.any(Pattern(cells, sides[k : k + 1]).slopes > 0) and np.all(sides[k] != 0):
                total += bases[k].shape[1] + tail
            elif np.any(W[k] != 0):
                name = b"" if cells.slope == 1 else sides[k].tobytes()
                books.setdefault(name, []).append(k)
        for members in books.values():
            size = bases[members[0]].shape[1]
            fibre = len(members) * (size + tail) - size
            if np.any(a[members] != 0):
                total += fibre
            else:
                return -1
        # Data that do not span leave directions of w_k that f does not see.
        Z_rank = int(np.linalg.matrix_rank(cells.inputs))
        return total if Z_rank == cells.inputs.shape[1] else -1
