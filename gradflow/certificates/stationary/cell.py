r"""A risk of finite data on an activation cell and along the surfaces its neurons stand on.

At a kink the Clarke subdifferential is used (`clarke1983`): a neuron may rest on a surface where
its field points to it from both sides, and the Hessian is that of L along those surfaces. Leaving
them costs to first order, so it does not enter the spectrum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import null_space

from gradflow.cells.arrangement import Arrangement
from gradflow.cells.pattern import Pattern
from gradflow.certificates.kkt import Sliding
from gradflow.certificates.problem import join
from gradflow.certificates.stationary.judge import Landing
from gradflow.certificates.stationary.newton import Descended, newton
from gradflow.losses import AbstractLoss
from gradflow.risks.base import AbstractRisk

_EPS = float(np.finfo(float).eps)
#: A neuron below this share of the largest, in both layers, counts as one at zero.
_SMALL = 1e-9
#: Slopes may leave the interval of those of φ by rounding.
_SLOPE = 1e-9


@dataclass(frozen=True)
class _Walk:
    """What Newton's method did in the cells it came through: see `Landing`."""

    predicted: float
    first: np.ndarray
    lengths: tuple[float, ...]
    curvature: float

    @classmethod
    def of(cls, found: Descended, shift: np.ndarray) -> _Walk:
        """Start a walk whose first cell predicts the move ``shift`` (p,)."""
        return cls(float(np.linalg.norm(shift)), shift, found.lengths, found.curvature)

    def joined(self, found: Descended) -> _Walk:
        """Return the walk with what one more cell predicts."""
        predicted = self.predicted + float(np.linalg.norm(found.first))
        curvature = max(self.curvature, found.curvature)
        return _Walk(predicted, self.first, self.lengths + found.lengths, curvature)


def cell_landing(
    risk: AbstractRisk, cells: Arrangement, params: object, candidate: object
) -> Landing:
    """Return the stationary point found from ``params`` in its cell and those it leads to."""
    piece = CellRisk(cells, cells.loss, np.exp(cells.log_weights))
    late_W, late_a = cells.split(params)
    sides = Pattern.at(cells, late_W).sides
    W, a, sides, walk = piece.polish(late_W.copy(), late_a, sides, 60 if candidate is None else 0)
    if candidate is not None:
        W, a = cells.split(candidate)
        sides = Pattern.at(cells, W).sides
    off, slides, saddles, open_kinks = piece.kinks(W, a, sides)
    escapes, stuck = piece.escapes(W, a)
    theta, chart = piece.flatten(W, a), piece.chart(W, a, sides)

    def shrunk(mask: np.ndarray, factor: float) -> float:
        return piece.value(*piece.unflatten(np.where(mask, factor, 1.0) * theta, a))

    return Landing(
        params=join(cells, W, a), field=chart.field, point=chart.T.T @ theta, basis=chart.T,
        origin=piece.flatten(late_W, late_a), weights=theta, predicted=walk.predicted,
        first=walk.first, lengths=walk.lengths, curvature=walk.curvature,
        levels=(piece.value(late_W, late_a), piece.value(W, a)), size=piece.value(0 * W, a),
        floor=risk.floor, flat=piece.flat(W, a, sides), shrunk=shrunk, off=off, sliding=slides,
        fixes=piece.leaves_outputs(W, a, sides),
        saddles=(*saddles, *escapes), complaints=(*open_kinks, *stuck),
    )  # fmt: skip


@eqx.filter_jit
def _loss_derivatives(
    loss: AbstractLoss, f: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return ∂ℓ/∂f and ∂²ℓ/∂f² (n,)."""
    return jax.jvp(lambda z: loss.derivative(z, y), (f,), (jnp.ones_like(f),))


@dataclass(frozen=True)
class CellRisk:
    """L = Σ ω_i ℓ(f_i, y_i) on cells of the data's surfaces (host arrays).

    W (m, D) are inner weights (a bias last), a (m,) outer ones, ``sides`` (m, G) the pattern.
    """

    cells: Arrangement
    loss: AbstractLoss
    omega: np.ndarray

    def outputs(self, W: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Return f (n,)."""
        return self.cells.predictions(W, a)

    def value(self, W: np.ndarray, a: np.ndarray) -> float:
        """Return L."""
        f, y = jnp.asarray(self.outputs(W, a)), jnp.asarray(self.cells.y)
        return float(np.sum(self.omega * np.asarray(self.loss(f, y))))

    def bends(self, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ω_i ∂ℓ/∂f_i and ω_i ∂²ℓ/∂f_i² (n,)."""
        first, second = _loss_derivatives(self.loss, jnp.asarray(f), jnp.asarray(self.cells.y))
        return self.omega * np.asarray(first), self.omega * np.asarray(second)

    def forces(self, W: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F± = −∂L/∂A± on every surface."""
        return self.cells.per_surface(-self.bends(self.outputs(W, a))[0])

    def flatten(self, W: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Return the trained weights (p,)."""
        return np.concatenate([W.ravel(), a]) if self.cells.trained else W.ravel()

    def unflatten(self, theta: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return W and a; ``a`` stays where it is not trained."""
        m = a.size
        count = m * self.cells.inputs.shape[1]
        return theta[:count].reshape(m, -1), theta[count:] if self.cells.trained else a

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

    def by_weights(
        self, W: np.ndarray, a: np.ndarray, slopes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """φ(w_k·x_i) (m, n) and ∂f_i/∂θ (p, n) with frozen slopes s_ki."""
        cells = self.cells
        m, D = W.shape
        phi = slopes * (W @ cells.inputs.T)
        J = np.moveaxis((a[:, None] * slopes)[:, :, None] * cells.inputs, 1, 2).reshape(m * D, -1)
        return phi, np.concatenate([J, phi]) if cells.trained else J

    def leaves_outputs(
        self, W: np.ndarray, a: np.ndarray, sides: np.ndarray
    ) -> Callable[[np.ndarray], bool]:
        """Return a test of directions (p,): whether no output changes along one."""
        phi, J = self.by_weights(W, a, self.slopes_along(sides))
        size = float(np.linalg.norm(self.flatten(W, a)))
        rounding = 8 * _EPS * float(np.max(np.abs(a) @ np.abs(phi)))
        return lambda along: bool(np.max(np.abs(along @ J)) * size <= rounding)

    def derivatives(
        self, W: np.ndarray, a: np.ndarray, slopes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (p,) and Hessian (p, p) with frozen slopes s_ki."""
        cells = self.cells
        m, D = W.shape
        phi, J = self.by_weights(W, a, slopes)
        r, bend = self.bends(a @ phi)
        H = (J * bend) @ J.T
        if cells.trained:
            cross = (slopes * r) @ cells.inputs
            for k in range(m):
                H[k * D : (k + 1) * D, m * D + k] += cross[k]
                H[m * D + k, k * D : (k + 1) * D] += cross[k]
        return J @ r, H

    def chart(self, W: np.ndarray, a: np.ndarray, sides: np.ndarray) -> _Chart:
        """Return coordinates Tᵀθ along the surfaces through (W, a), in its cell."""
        T, theta = self.tangent(sides), self.flatten(W, a)
        return _Chart(self, T, theta - T @ (T.T @ theta), a, self.slopes_along(sides))

    def slopes_along(self, sides: np.ndarray) -> np.ndarray:
        """Slopes s_ki (m, n) along the surfaces of a pattern.

        Data whose surface a neuron stands on do not count: they are orthogonal to the surface, and
        what rounding leaves of that would pass for a slope of L.
        """
        on = sides[:, self.cells.surface] == 0
        return np.where(on, 0.0, Pattern(self.cells, sides).slopes)

    def onto_surfaces(self, W: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Return W with every neuron moved onto the surfaces of its pattern."""
        W = W.copy()
        for k, row in enumerate(sides):
            on = self.cells.normals[row == 0]
            if on.shape[0]:
                W[k] -= np.linalg.pinv(on) @ (on @ W[k])
        return W

    def polish(
        self, W: np.ndarray, a: np.ndarray, sides: np.ndarray, steps: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, _Walk]:
        """Newton along the surfaces; then surfaces are entered, passed and left as L asks."""
        walk, origin = None, self.flatten(W, a)
        best, best_size = (W, a, sides), np.inf
        for _ in range(30):
            W = self.onto_surfaces(W, sides)
            chart = self.chart(W, a, sides)
            found = newton(chart.field, chart.T.T @ self.flatten(W, a), steps)
            shift = self.flatten(W, a) - origin + chart.T @ found.first
            walk = _Walk.of(found, shift) if walk is None else walk.joined(found)
            if steps == 0:
                break
            W, a = chart.place(found.point)
            size, wrong = self._quality(chart, W, a, sides)
            if not np.any(wrong) and size < best_size:
                best, best_size = (W, a, sides), size
            elif not np.isfinite(best_size):
                best = W, a, sides
            new = self._mended(W, a, sides, wrong)
            if np.array_equal(new, sides):
                break
            sides = new
        assert walk is not None
        return *best, walk

    def _quality(
        self, chart: _Chart, W: np.ndarray, a: np.ndarray, sides: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return |gradient|, kinks included, and the pairs (m, G) on the wrong side."""
        g = chart.field(chart.T.T @ self.flatten(W, a))[0]
        size = float(np.linalg.norm(np.append(g, self.kinks(W, a, sides)[0])))
        h = self.cells.heights(W)
        # (a neuron on a surface is off it by rounding)
        out = np.abs(h) > 1e-13 * np.linalg.norm(W, axis=1)[:, None]
        return size, (np.sign(h) * sides < 0) & out

    def _mended(
        self, W: np.ndarray, a: np.ndarray, sides: np.ndarray, wrong: np.ndarray
    ) -> np.ndarray:
        """Return the pattern that L asks for next."""
        cells = self.cells
        plus, minus = self.forces(W, a)
        attracts = a[:, None] * (plus - minus) < 0
        new = np.where(wrong, np.where(attracts, 0, -sides), sides)
        low, high = cells.slope_range
        for s in self.kinks(W, a, sides)[1]:
            if not low - _SLOPE <= s.slope <= high + _SLOPE:
                beyond = (s.slope > high) == (cells.bend > 0)
                new[s.neuron, int(cells.surface[s.datum])] = 1 if beyond else -1
        return new

    def kinks(
        self, W: np.ndarray, a: np.ndarray, sides: np.ndarray
    ) -> tuple[np.ndarray, tuple[Sliding, ...], tuple[str, ...], tuple[str, ...]]:
        """Return what slopes beyond those of φ add to the gradient, slides, saddles, complaints."""
        cells = self.cells
        D = W.shape[1]
        g = self.derivatives(W, a, Pattern(cells, sides).slopes)[0]
        plus, minus = self.forces(W, a)
        scale = max(float(np.max(np.abs(plus))), float(np.max(np.abs(minus))), 1e-300)
        slides: list[Sliding] = []
        saddles, complaints, off = [], [], []
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
                share = float(1 - drop[j] / jump)
                slides.append(Sliding(k, datum, cells.slope + cells.bend * share))
                off.append(abs(a[k] * jump) * max(0.0, -share, share - 1))
                if a[k] * jump > 0:
                    saddles.append(f"the kink of datum {datum} repels neuron {k}")
        return np.array(off), tuple(slides), tuple(saddles), tuple(complaints)

    def escapes(self, W: np.ndarray, a: np.ndarray) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what neurons at zero can do, f gaining a φ(w·x) of either sign of a: ways down,
        and neurons that stand on all kinks."""
        cells = self.cells
        size = np.linalg.norm(W, axis=1)
        still = size == 0
        # (a neuron small in both layers may turn at no cost, whatever its pattern)
        small = (size <= _SMALL * np.max(size)) & (np.abs(a) <= _SMALL * np.max(np.abs(a)))
        zero = np.flatnonzero(still | (small & cells.trained))
        if zero.size == 0:
            return (), ()
        pull = -self.bends(self.outputs(W, a))[0]
        most = np.max(np.abs(self.bends(np.zeros_like(cells.y))[0]))
        scale = float(np.max(np.abs(cells.inputs)) * most)
        draws = np.random.default_rng(0).normal(size=(200, W.shape[1]))
        u = np.concatenate([cells.inputs, -cells.inputs, draws])
        u = u / np.maximum(np.linalg.norm(u, axis=1), 1e-300)[:, None]
        gain = cells.activations(u) @ pull
        saddles, stuck = [], []
        for k in zero:
            free = cells.trained and (a[k] == 0 or not still[k])
            reach = np.abs(gain) if free else a[k] * gain
            if np.max(reach) > 1e-10 * scale:
                saddles.append(f"neuron {k} at zero lowers L in some direction")
            elif not free:
                stuck.append(f"neuron {k} stands at zero, on all kinks")
        return tuple(saddles), tuple(stuck)

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
            if not np.any(Pattern(cells, sides[k : k + 1]).slopes) and np.all(sides[k] != 0):
                total += bases[k].shape[1] + tail
            elif np.any(W[k] != 0):
                name = b"" if not cells.activation_kinked else sides[k].tobytes()
                books.setdefault(name, []).append(k)
        for members in books.values():
            size = bases[members[0]].shape[1]
            if not np.any(a[members] != 0):
                return -1
            total += len(members) * (size + tail) - size
        # Data that do not span leave directions of w_k that f does not see.
        Z_rank = int(np.linalg.matrix_rank(cells.inputs))
        return total if Z_rank == cells.inputs.shape[1] else -1


@dataclass(frozen=True)
class _Chart:
    """Coordinates along the surfaces of a pattern: θ = ``rest`` + T z, slopes frozen."""

    risk: CellRisk
    T: np.ndarray
    rest: np.ndarray
    a: np.ndarray
    slopes: np.ndarray

    def place(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return W and a at coordinates z."""
        W, a = self.risk.unflatten(self.rest + self.T @ z, self.a)
        return W.copy(), a.copy()

    def field(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and Hessian in z."""
        g, H = self.risk.derivatives(*self.place(z), self.slopes)
        return self.T.T @ g, self.T.T @ H @ self.T
