r"""The full late-phase system of a homogeneous net, with a linear solve that uses its shape.

States :math:`u=\theta/\rho`, :math:`r=\ln\rho`, :math:`\sigma_i=-\ln p_i` for every datum with
:math:`p_i=-\omega_i\ell'(q_i)/L`, :math:`w=tL` and the loss clock s. In the clock
:math:`d\zeta=\rho^{D-2}\,ds`, D the degree,

.. math::
   u'&=g-D\beta u,\qquad r'=D\beta,\qquad \beta=p\cdot\hat q,\qquad g=\textstyle\sum_ip_i\nabla\hat q_i,\\
   \sigma_i'&=\rho^D\bigl[\eta_i\,\nabla\hat q_i\cdot g-|g|^2+\ln\textstyle\sum_jp_jm_j\bigr],\qquad
   \eta_i=-q_i''\text{-factor}\ (1\text{ or }1/(1+e^{-q_i})),\\
   w'&=\rho^{2-D}-\rho^D|g|^2w,\qquad s'=\rho^{2-D}.

t is counted from the start, so that one at e^{258}, say, takes no digits.
m = ℓ/(−ℓ') at q (1 for the exponential loss), so that Σ p_j m_j = 1 on the exact flow; the last term
of σ' pulls back to it, without which round-off walks along the common shift of σ. σ is a state of
its own because the margins :math:`\rho^D\hat q_i(u)` lose all digits of their differences near
:math:`\rho^D=10^{15}`. Nothing here overflows: ln L = σ_i + ln(ω_i(−ℓ')(q_i)) and ln t = ln w − ln L.

The Jacobian in u is an arrow per neuron plus a rank-one term, so u is eliminated in closed form and
a dense system remains for the data that count, A = {p_i ρ^D > 1e−8}.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg as sla

from gradflow.cells.pattern import Pattern
from gradflow.integrators.steppers.late.field import Fields, MarginNet
from gradflow.numerics.logs import log1p_ratio

#: Data with p_i ρ^D below this do not feed back within a step.
_COUNTS = 1e-8


class LateSystem:
    """Right-hand side and linear algebra of the full system.

    A state is a flat array: u (P,), r, σ (n,), w, s.

    Parameters
    ----------
    net : MarginNet
    """

    def __init__(self, net: MarginNet) -> None:
        self.net = net
        self.P, self.n, self.D = net.P, net.n, net.degree
        self.at_r = self.P
        self.sigma = slice(self.P + 1, self.P + 1 + self.n)
        self.at_w = self.P + 1 + self.n
        self.at_s = self.at_w + 1
        self.size = self.at_s + 1

    # --------------------------------------------------------------------------- coordinates
    def pack(self, U: np.ndarray, A: np.ndarray, pattern: Pattern) -> np.ndarray:
        """Return the state of weights U (m, D), A (m,), where time and the loss clock begin."""
        net = self.net
        raw = net.join(np.asarray(U, float), np.asarray(A, float))
        rho = float(np.linalg.norm(raw))
        Y = np.empty(self.size)
        Y[: self.P] = raw / rho
        Y[self.at_r] = np.log(rho)
        q = rho**self.D * net.margins(pattern, Y[: self.P])
        log_loss = net.log_loss(q)
        Y[self.sigma] = log_loss - net.log_pull(q)
        Y[self.at_w] = Y[self.at_s] = 0.0
        return Y

    def elapsed(self, Y: np.ndarray, pattern: Pattern) -> tuple[float, float, np.ndarray]:
        """Return ``ln L``, ln of the time since the start, and q̂ (n,) of a state."""
        qhat = self.net.margins(pattern, Y[: self.P])
        p = np.exp(-Y[self.sigma])
        each = Y[self.sigma] + self.net.log_pull(np.exp(self.D * Y[self.at_r]) * qhat)
        # All data agree on ln L; those that count know it best.
        log_loss = float(np.sum(np.where(p > 0, p * each, 0.0)) / np.sum(p))
        with np.errstate(divide="ignore"):
            return log_loss, float(np.log(Y[self.at_w])) - log_loss, qhat

    # --------------------------------------------------------------------------- right-hand side
    def _loss_factors(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return η = −d ln(−ℓ')/dq and m = ℓ/(−ℓ') at q, for the logistic loss."""
        x = np.exp(-np.clip(q, -700.0, 700.0))
        ratio = log1p_ratio(x)
        return 1.0 / (1.0 + x), ratio * (1.0 + x)

    def _parts(self, Y: np.ndarray, pattern: Pattern) -> tuple:
        u, r, sigma = Y[: self.P], Y[self.at_r], Y[self.sigma]
        p = np.exp(-sigma)
        f = self.net.fields(pattern, u, p)
        big = np.exp(self.D * r)
        if self.net.logistic:
            eta, m = self._loss_factors(big * f.q)
            total = float(p @ m)
        else:
            eta, m, total = 1.0, 1.0, float(np.sum(p))
        return u, p, f, big, eta, m, total

    def field(self, Y: np.ndarray, pattern: Pattern) -> np.ndarray:
        """Return dY/dζ."""
        return self._assemble(Y, self._parts(Y, pattern))

    def _assemble(self, Y: np.ndarray, parts: tuple) -> np.ndarray:
        u, p, f, big, eta, _, total = parts
        beta, square = float(p @ f.q), f.square
        out = np.empty(self.size)
        out[: self.P] = self.net.join(f.gU, f.gA) - (self.D * beta) * u
        out[self.at_r] = self.D * beta
        out[self.sigma] = big * (eta * f.e - square + np.log(total))
        speed = np.exp((2 - self.D) * Y[self.at_r])
        out[self.at_w] = speed - big * square * Y[self.at_w]
        out[self.at_s] = speed
        return out

    # --------------------------------------------------------------------------- linear algebra
    def linearise(self, Y: np.ndarray, pattern: Pattern) -> tuple[np.ndarray, _Linear]:
        """Return dY/dζ and the Jacobian there, ready to be factorised for a step."""
        parts = self._parts(Y, pattern)
        return self._assemble(Y, parts), _Linear(self, Y, pattern, parts)


class _Linear:
    """The Jacobian J of the system at a point; `factor` returns b ↦ (cI − J)⁻¹ b."""

    def __init__(self, system: LateSystem, Y: np.ndarray, pattern: Pattern, parts: tuple) -> None:
        self.system, self.pattern = system, pattern
        net, D = system.net, system.D
        u, p, f, big, eta, m, total = parts
        self.u, self.p, self.f, self.big = u, p, f, big
        self.w, self.r = Y[system.at_w], Y[system.at_r]
        self.beta, self.square = float(p @ f.q), f.square
        self.U, self.A = net.split(u)
        self.g = net.join(f.gU, f.gA)
        self.Hg = self._hessian(f, self.g)
        # Row factors of σ': σ_i' = ρ^D [η_i e_i − |g|² + ln Σ p m].
        self.eta = np.broadcast_to(np.asarray(eta, float), (net.n,))
        level = self.eta * f.e - self.square + np.log(total)
        self.by_r = D * big * level
        self.common = big * (2.0 * p * f.e - m * p / total)  # ∂σ'/∂σ_j without the kernel term
        self.bend = np.zeros(net.n)
        self.tilt = np.zeros(system.P)
        if net.logistic:
            q = big * f.q
            x = np.exp(-np.clip(q, -700.0, 700.0))
            # η' = η(1−η); m' = −1 + log1p(x)/x.
            self.bend = big * f.e * eta * (1.0 - eta) * big
            slope = np.where(q > 30, -0.5 * x, np.log1p(x) / np.maximum(x, 1e-300) - 1.0)
            weights = p * slope / total
            self.tilt = big * big * net.gradient(pattern, u, weights)
            self.by_r = self.by_r + self.bend * D * f.q + big * big * D * float(weights @ f.q)
        self.active = np.flatnonzero(p * big > _COUNTS)
        a = self.active
        self.grads = net.gradients(pattern, u, a, f.h)
        flat = self.grads.reshape(len(a), system.P)
        self.kernel = flat @ flat.T
        # Columns ∂u'/∂σ_j and rows ∂σ_i'/∂u of the active data.
        self.columns = -(flat - (D * f.q[a])[:, None] * u) * p[a][:, None]
        rows = self._second(a) + self._hessian(f, flat)
        self.rows = (self.eta[a] * big)[:, None] * rows - (2.0 * big) * self.Hg + self.tilt
        if net.logistic:
            self.rows += self.bend[a][:, None] * flat
        self.block = self.common[a] - (self.eta[a] * big)[:, None] * self.kernel * p[a]

    def _hessian(self, f: Fields, x: np.ndarray) -> np.ndarray:
        """Return Hx for flat vectors x (..., P), H the Hessian of Σ p q̂ in u."""
        net = self.system.net
        if not net.trained:
            return np.zeros_like(x)
        body = x.reshape(*x.shape[:-1], net.m, net.width)
        out = np.empty_like(body)
        out[..., :-1] = f.v * body[..., -1:]
        out[..., -1] = np.einsum("kd,...kd->...k", f.v, body[..., :-1])
        return out.reshape(x.shape)

    def _second(self, which: np.ndarray) -> np.ndarray:
        """Return the rows ∇²q̂_i g (|which|, P)."""
        net, f = self.system.net, self.f
        if not net.trained:
            return np.zeros((len(which), self.system.P))
        surface, s = net.at.surface[which], net.signed_slopes(self.pattern, which)
        out = np.empty((len(which), net.m, net.width))
        out[:, :, :-1] = (s * f.gA)[:, :, None] * net.N[surface][:, None, :]
        out[:, :, -1] = s * (f.gU @ net.N[surface].T).T
        return out.reshape(len(which), self.system.P)

    def _arrow(self, c: float, b: np.ndarray) -> np.ndarray:
        """Return ``((c + Dβ)I − H)⁻¹ b`` for flat vectors b (..., P)."""
        net, v = self.system.net, self.f.v
        c = c + self.system.D * self.beta
        if not net.trained:
            return b / c
        body = b.reshape(*b.shape[:-1], net.m, net.width)
        out = np.empty_like(body)
        corner = (c * body[..., -1] + np.einsum("kd,...kd->...k", v, body[..., :-1])) / (
            c * c - np.einsum("kd,kd->k", v, v)
        )
        out[..., -1] = corner
        out[..., :-1] = (body[..., :-1] + v * corner[..., None]) / c
        return out.reshape(b.shape)

    @property
    def growth(self) -> float:
        """The largest eigenvalue of H: steps must stay below its inverse."""
        if not self.system.net.trained:
            return 0.0
        return float(np.sqrt(np.max(np.einsum("kd,kd->k", self.f.v, self.f.v))))

    def factor(self, c: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return the solver ``b ↦ (cI − J)⁻¹ b``."""
        system, net, f, D = self.system, self.system.net, self.f, self.system.D
        a, p, big, g = self.active, self.p, self.big, self.g
        spine = self._arrow(c, D * self.u)
        rank_one = 1.0 + float(g @ spine)

        def reduce(b: np.ndarray) -> np.ndarray:
            x = self._arrow(c, b)
            return x - ((x @ g) / rank_one)[..., None] * spine

        Z = reduce(self.columns)
        pulls = (D / c) * (p * f.q)[a]
        by_r = self.by_r[a]
        # x_r = (b_r + D g·x_u)/c − pulls·x_A
        total = self.rows + (D / c) * by_r[:, None] * g
        S = -self.block - total @ Z.T + by_r[:, None] * pulls
        S[np.arange(len(a)), np.arange(len(a))] += c
        lu = sla.lu_factor(S, check_finite=False)
        speed = (2 - D) * np.exp((2 - D) * self.r)
        decay = big * self.square

        def solve(b: np.ndarray) -> np.ndarray:
            out = np.empty_like(b)
            b_sigma = b[system.sigma]
            y = reduce(b[: system.P])
            right = b_sigma[a] + total @ y + by_r * (b[system.at_r] / c)
            x_a = sla.lu_solve(lu, right, check_finite=False)
            x_u = y + x_a @ Z
            x_r = (b[system.at_r] + D * float(g @ x_u)) / c - float(pulls @ x_a)
            H_x = self._hessian(f, x_u)
            # Data that do not count follow: one product each, no rows.
            z = H_x - np.tensordot(p[a] * x_a, self.grads, 1).ravel()
            zU, zA = net.split(z) if net.trained else (z.reshape(net.m, net.dim), None)
            change = net.slopes(self.pattern, self.A, f.h, zU, zA)
            if net.trained:
                xU, xA = net.split(x_u)
                both = f.gA[:, None] * (xU @ net.N.T) + xA[:, None] * (f.gU @ net.N.T)
                change = change + net.per_datum(
                    np.einsum("kg,kg->g", self.pattern.plus, both),
                    np.einsum("kg,kg->g", self.pattern.minus, both),
                )
            shared = float((self.tilt - 2.0 * big * self.Hg) @ x_u) + float(self.common[a] @ x_a)
            x_sigma = b_sigma + big * self.eta * change + shared + self.by_r * x_r
            if net.logistic:
                xU, xA = net.split(x_u) if net.trained else (x_u.reshape(net.m, net.dim), None)
                x_sigma = x_sigma + self.bend * net.slopes(self.pattern, self.A, f.h, xU, xA)
            x_sigma = x_sigma / c
            x_sigma[a] = x_a
            turn = 2.0 * float(self.Hg @ x_u) - 2.0 * float((p * f.e)[a] @ x_a)
            out[: system.P] = x_u
            out[system.at_r] = x_r
            out[system.sigma] = x_sigma
            out[system.at_w] = (
                b[system.at_w] + speed * x_r - self.w * (D * decay * x_r + big * turn)
            ) / (c + decay)
            out[system.at_s] = (b[system.at_s] + speed * x_r) / c
            return out

        return solve
