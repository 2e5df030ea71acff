r"""Flaws of bias-free (leaky) ReLU nets: what holds whatever the weights.

:math:`\varphi(z)=\max(z,\alpha z)=\tfrac{1+\alpha}2z+\tfrac{1-\alpha}2|z|`, so that for every
:math:`f(x)=\sum_ka_k\varphi(w_k\cdot x)`

- f(cx) = c f(x) for c > 0;
- :math:`f(x)-f(-x)=(1+\alpha)\left(\sum_ka_kw_k\right)\cdot x` is linear in x.

What follows on data is in `antipodal`. Source: `benson2020over`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

import gradflow as gf
from gradflow.claims import Claim, Control, Equality, Hypothesis, Lab, Measurement
from gradflow.claims.instances import Row, Several, every, row, rows, several
from gradflow.claims.papers.benson2020over import PAPER
from gradflow.claims.papers.benson2020over.setting import EPS, SOURCE, check_activation, points
from gradflow.validation import check_array, fail

SCALES = (1e-3, 0.5, 7.0, 1e4)


@dataclass(frozen=True)
class Probe:
    """A two-layer net and the points at which it is read; made by `probe`, hashable."""

    inner: tuple[Row, ...]
    outer: Row
    rows: tuple[Row, ...]
    activation: gf.AbstractActivation = gf.relu
    bias: Row = ()

    @property
    def X(self) -> np.ndarray:
        """The points (n, d)."""
        return np.array(self.rows)

    @property
    def W(self) -> np.ndarray:
        """The inner weights (m, d)."""
        return np.array(self.inner)

    @property
    def slope(self) -> float:
        """α."""
        return self.activation.slope if isinstance(self.activation, gf.LeakyReLU) else math.nan

    @property
    def sizes(self) -> np.ndarray:
        """Σ_k |a_k| ‖w_k‖ ‖x‖ at each point (n,): the unit in which values are compared."""
        outer = np.abs(self.outer) @ np.linalg.norm(self.W, axis=1)
        return outer * np.linalg.norm(self.X, axis=1)

    def value(self, X: np.ndarray, activation: gf.AbstractActivation | None = None) -> np.ndarray:
        """f at the rows of X, by `gradflow.TwoLayer`."""
        phi = self.activation if activation is None else activation
        width, dim = self.W.shape
        net = gf.TwoLayer(dim, width, phi, bias=bool(self.bias))
        bias = np.array(self.bias) if self.bias else None
        return np.asarray(net(net.params(self.W, np.array(self.outer), bias), jnp.asarray(X)))

    def value_again(self, X: np.ndarray) -> np.ndarray:
        """f of a bias-free (leaky) ReLU net by its definition, summed without rounding."""

        def one(x: np.ndarray) -> float:
            pre = [math.fsum(w * x) for w in self.W]
            return math.fsum(
                a * max(z, self.slope * z) for a, z in zip(self.outer, pre, strict=True)
            )

        return np.array([one(x) for x in X])

    def __str__(self) -> str:
        return f"{self.activation.name}, d={self.W.shape[1]}, m={self.W.shape[0]}"


def probe(
    inner: ArrayLike,
    outer: ArrayLike,
    X: ArrayLike,
    activation: gf.AbstractActivation = gf.relu,
    bias: ArrayLike | None = None,
) -> Probe:
    """A checked `Probe`.

    Parameters
    ----------
    inner, outer : (m, d) and (m,) arrays
    X : (n, d) array
        Points other than 0.
    activation : AbstractActivation
    bias : (m,) array, optional
    """
    W = check_array("inner", inner, (None, None))
    a = check_array("outer", outer, (W.shape[0],))
    at = points(X)
    if at.dim != W.shape[1]:
        raise fail("X", at.X, f"has dimension {at.dim}", f"pass shape (n, {W.shape[1]})")
    if not np.any(a) or not np.all(np.any(W, axis=1)):
        raise fail("inner", W, "or outer holds only zeros", "pass weights that are not zero")
    b = () if bias is None else row(check_array("bias", bias, (W.shape[0],)))
    return Probe(rows(W), row(a), at.rows, check_activation("phi", activation), b)


def random_probe(seed: int, dim: int, width: int, slope: float = 0.0, n: int = 6) -> Probe:
    """A net with standard normal weights at n standard normal points."""
    rng = np.random.default_rng(seed)
    draws = (rng.normal(size=shape) for shape in ((width, dim), (width,), (n, dim)))
    return probe(*draws, activation=gf.leaky_relu(slope))


def _bias_free(ones: tuple[Probe, ...]) -> list[Hypothesis]:
    def bent(one: Probe) -> str:
        return "" if isinstance(one.activation, gf.LeakyReLU) else one.activation.name

    return [
        every("(leaky) ReLU", ones, bent),
        every("no bias", ones, lambda one: "biases are given" if any(one.bias) else ""),
    ]


def homogeneity(ones: Several[Probe], *, id: str) -> Equality:
    """f(cx) = c f(x), c from 1e-3 to 1e4, in units of c Σ|a_k|‖w_k‖‖x‖."""
    ones = several("ones", ones, Probe)

    def read(one: Probe, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        scaled = np.concatenate([c * one.X for c in SCALES])
        return value(scaled) / np.concatenate([c * one.sizes for c in SCALES])

    def measure(lab: Lab) -> Measurement:
        fine = np.concatenate([read(one, one.value) for one in ones])
        coarse = np.concatenate([read(one, one.value_again) for one in ones])
        labels = [f"{one}, c={c:g}, point {i}" for one in ones for c in SCALES
                  for i in range(len(one.rows))]  # fmt: skip
        return Measurement.from_solves(coarse, fine, extra=4 * EPS, labels=labels)

    def smooth(lab: Lab) -> Measurement:
        found = [read(one, lambda X, one=one: one.value(X, gf.softplus)) for one in ones]
        return Measurement(np.concatenate(found), 1e-13)

    return Equality(
        **PAPER.words("homogeneity", id),
        hypotheses=_bias_free(ones),
        predict=lambda lab: np.concatenate(
            [np.tile(one.value_again(one.X) / one.sizes, len(SCALES)) for one in ones]
        ),
        measure=measure,
        tolerance=1e-13,
        relative=False,
        control=Control.replacing("softplus in place of ReLU", measure=smooth),
    )


def odd_part(ones: Several[Probe], *, id: str) -> Equality:
    """f(x) - f(-x) = (1+α) Σ_k a_k w_k·x, in units of Σ|a_k|‖w_k‖‖x‖."""
    ones = several("ones", ones, Probe)

    def predict(lab: Lab) -> np.ndarray:
        return np.concatenate(
            [(1 + o.slope) * (o.X @ (np.array(o.outer) @ o.W)) / o.sizes for o in ones]
        )

    def measure(lab: Lab) -> Measurement:
        def odd(one: Probe, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            both = value(np.concatenate([one.X, -one.X]))
            return (both[: len(one.rows)] - both[len(one.rows) :]) / one.sizes

        fine = np.concatenate([odd(one, one.value) for one in ones])
        coarse = np.concatenate([odd(one, one.value_again) for one in ones])
        labels = [f"{one}, point {i}" for one in ones for i in range(len(one.rows))]
        return Measurement.from_solves(coarse, fine, extra=4 * EPS, labels=labels)

    def shifted(lab: Lab) -> Measurement:
        found = []
        for one in ones:
            typical = np.median(np.abs(one.X @ one.W.T))
            phi = gf.shifted_relu(float(0.5 * typical))
            both = one.value(np.concatenate([one.X, -one.X]), phi)
            found.append((both[: len(one.rows)] - both[len(one.rows) :]) / one.sizes)
        return Measurement(np.concatenate(found), 1e-13)

    return Equality(
        **PAPER.words("odd-part-linear", id),
        hypotheses=_bias_free(ones),
        predict=predict,
        measure=measure,
        tolerance=1e-13,
        relative=False,
        control=Control.replacing("shifted ReLU in place of ReLU", measure=shifted),
    )


def _probes() -> list[Probe]:
    sizes = [(2, 1, 0.0), (3, 40, 0.0), (5, 7, 0.1), (9, 3, 0.5)]
    return [random_probe(seed, *size) for seed, size in enumerate(sizes)]


DEFAULTS: dict[str, Callable[[], Claim]] = {
    "homogeneity": lambda: homogeneity(_probes(), id=f"{SOURCE}/homogeneity"),
    "odd-part-linear": lambda: odd_part(_probes(), id=f"{SOURCE}/odd-part-linear"),
}
