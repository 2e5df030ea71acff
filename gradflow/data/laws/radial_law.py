"""The spherically symmetric law whose norm |x| the user gives, by a number or a distribution.

Every marginal is a product of two independent factors, the given norm and the radius of a uniform
sphere's marginal, and every expectation a sum over the product of their rules. Only incomplete
moments and the marginal density of a continuous norm have no rule that serves all arguments: these
are integrated on the host, inside compiled code.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from gradflow.data.laws.constants import sphere_c0, sphere_p0
from gradflow.data.laws.fits import sphere_fit
from gradflow.data.laws.laws import SphericalLaw, UniformSphere
from gradflow.data.laws.partial_moments import sphere_partial
from gradflow.data.laws.quadrature import LARGEST_ARGUMENT, Nodes, sphere_nodes
from gradflow.data.laws.radial_fit import Fit, fit_radial, radial_values
from gradflow.data.laws.radius_moments import marginal_moment
from gradflow.data.laws.radius_rule import (
    Distribution,
    check_radius,
    compress,
    describe_radius,
    radius_rule,
)
from gradflow.numerics.logs import log1p_ratio
from gradflow.registry import register
from gradflow.validation import check_integer, fail


class RadialLaw(SphericalLaw):
    """The spherically symmetric law whose norm |x| has a given distribution.

    Parameters
    ----------
    dim : int
        Dimension d >= 2.
    radius : float or frozen scipy.stats distribution
        A positive number (the sphere of that radius), a continuous distribution on [0, inf) with a
        density smooth inside its support, or a discrete one with finitely many positive values.

    Notes
    -----
    Refused: mass at 0 or at negative values, an infinite mean (c0), an infinite E[1/|x|] (p0). With
    tails heavier than every fifth moment the small-argument end is tabulated down to 2^-100 over
    the median and continued by the two leading powers, fitted. ``p2`` and ``p4`` need E|x|^-3 and
    E|x|^-5 to be finite and are nan otherwise, even where the marginal happens to be smooth.
    """

    name: ClassVar[str] = "radial"
    dim: int
    radius: float | Distribution

    def __init__(self, dim: int, radius: float | Distribution) -> None:
        self.dim = check_integer("dim", dim, minimum=2)
        self.radius = check_radius(radius)
        self._rule = radius_rule(self.radius)

    def _moment(self, power: float) -> float:
        """E|x|^power; inf where it does not exist."""
        rule = self._rule
        if power < 0 and rule.low == 0 and rule.low_power + power <= -1 + 1e-9:
            return math.inf
        if power > 1 and rule.tail <= power + 1e-9:
            return math.inf
        with np.errstate(over="ignore"):
            terms = rule.weight * (rule.node / rule.scale) ** power
        return float(np.sum(terms[np.isfinite(terms)])) * rule.scale**power

    @property
    def c0(self) -> float:
        return sphere_c0(self.dim) * self._moment(1)

    @property
    def p0(self) -> float:
        return sphere_p0(self.dim) * self._moment(-1)

    @property
    def p2(self) -> float:
        moment = self._moment(-3)
        return -(self.dim - 3) * sphere_p0(self.dim) * moment if moment < math.inf else math.nan

    @property
    def p4(self) -> float:
        moment = self._moment(-5)
        if moment == math.inf:
            return math.nan
        return 3 * (self.dim - 3) * (self.dim - 5) * sphere_p0(self.dim) * moment

    @property
    def second_moment(self) -> float:
        return 2 / self.dim * self._moment(2)

    @property
    def largest_radius(self) -> float:
        return self.radius if isinstance(self.radius, (int, float)) else self.radius.support()[1]

    def _nodes(self, k: int, largest: float) -> Nodes:
        rule = self._rule
        sphere = sphere_nodes(k, self.dim, largest * max(float(rule.scale), 1e-300))
        if sphere.node.size == 1 or rule.node.size == 1:
            node = np.outer(rule.node, sphere.node).ravel()
            return Nodes(node, np.outer(rule.weight, sphere.weight).ravel())
        # what is smaller never reaches 1e-17 of an integral at the largest argument
        return compress(Nodes(rule.node, rule.weight), sphere, 1e-18 / largest)

    def _fit(self) -> tuple[Fit, float]:
        if self._rule.node.size == 1:
            return sphere_fit(self.dim), float(self._rule.node[0])
        return _radius_fit(self), self._rule.scale

    def _partial_moment(self, dimension: int, x: Array, k: int) -> Array:
        if self._rule.discrete:
            total = jnp.zeros_like(x)
            for r, w in zip(self._rule.node, self._rule.weight, strict=True):
                total = total + w * r**k * sphere_partial(dimension, self.dim, x / r, k)
            return total
        return _moment_on_host(self, dimension, k, x)

    def marginal_density(self, x: ArrayLike) -> Array:
        x = jnp.abs(jnp.asarray(x, jnp.float64))
        if self._rule.discrete:
            total = jnp.zeros_like(x)
            for r, w in zip(self._rule.node, self._rule.weight, strict=True):
                total = total + w * UniformSphere(self.dim, float(r)).marginal_density(x)
            return total
        return _on_host(self, 1, -1, x) / 2

    def _sample_radius(self, key: Array, n: int) -> Array:
        if self._rule.node.size == 1:
            return jnp.full((n,), float(self._rule.node[0]))
        u = jax.random.uniform(key, (n,), jnp.float64)
        shape = jax.ShapeDtypeStruct((n,), jnp.float64)
        norm = cast(Distribution, self.radius)
        inverse = lambda p: np.asarray(norm.ppf(np.asarray(p)), dtype=np.float64)
        return jax.pure_callback(inverse, shape, u, vmap_method="expand_dims")

    def describe(self) -> dict[str, object]:
        return {"kind": self.name, "dim": self.dim, "radius": describe_radius(self.radius)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RadialLaw) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(repr(self.describe()))

    def __repr__(self) -> str:
        return f"RadialLaw(dim={self.dim}, radius={describe_radius(self.radius)})"


def _on_host(law: RadialLaw, dimension: int, k: int, x: Array) -> Array:
    """`marginal_moment` inside compiled code: slow, exact, without derivative."""
    at_zero = 2 * law.p0 if k < 0 and dimension == 1 else 0.0
    integral = functools.partial(
        marginal_moment,
        cast(Distribution, law.radius),
        law.dim,
        dimension,
        k=k,
        scale=law._rule.scale,
    )

    def host(value: ArrayLike) -> np.ndarray:
        flat = np.abs(np.ravel(value))
        found = [at_zero if point == 0 else integral(point) for point in flat]
        return np.asarray(found, dtype=np.float64).reshape(np.shape(value))

    shape = jax.ShapeDtypeStruct(x.shape, jnp.float64)
    return jax.pure_callback(host, shape, x, vmap_method="expand_dims")


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _moment_on_host(law: RadialLaw, dimension: int, k: int, x: Array) -> Array:
    return _on_host(law, dimension, k, x)


@_moment_on_host.defjvp
def _moment_on_host_jvp(law, dimension, k, primals, tangents):
    (x,) = primals
    value = _on_host(law, dimension, k, x)
    return value, x**k * _on_host(law, dimension, -1, x) * tangents[0]


def _radius_fit(law: RadialLaw) -> Fit:
    """Octave tables of a law with a spread-out radius, at unit median."""
    rule = law._rule
    unit = rule.scale
    marginal, planar = (law._nodes(k, LARGEST_ARGUMENT) for k in (1, 2))
    marginal = Nodes(marginal.node / unit, marginal.weight)
    planar = Nodes(planar.node / unit, planar.weight)
    gap = rule.low / unit if law.dim == 2 else 0.0
    lowest = -30 if rule.tail > 5 else -100

    def values(m: np.ndarray) -> dict[str, np.ndarray]:
        found = radial_values(m, marginal, planar)
        if gap > 0:
            # the radius itself; node - low is exact, so the decay is too
            e = np.exp(-np.outer(m, rule.node / unit))
            decay = np.exp(-np.outer(m, rule.offset / unit))
            found["g"] = (log1p_ratio(e) * decay) @ rule.weight
            found["dg"] = (decay / (1 + e)) @ (rule.weight * rule.node / unit)
            found["d2psi"] = (decay / (1 + e) ** 2) @ (rule.weight * (rule.node / unit) ** 2)
        return found

    edge = 2.0**lowest
    m = edge * 2.0 ** np.array([0, 10, 20])
    at = values(m)
    t2, t1 = at["psi_prime"] / m, at["h_complement"] / m
    if lowest == -30:
        end = (float(t2[0]), 0.0, float(t1[0]), 0.0, 0.0)
    else:
        # t = A + B (m^d - 1)/d through three points
        rise = t2[1:] - t2[:-1]
        varies = abs(rise[0]) > 1e-8 * t2[0]
        delta = math.log2(rise[1] / rise[0]) / 10 if varies else 0.0
        delta = 0.0 if abs(delta) < 1e-10 else delta
        power = np.expm1(delta * np.log(m)) / delta if delta else np.log(m)
        b2, b1 = ((t[1] - t[0]) / (power[1] - power[0]) if varies else 0.0 for t in (t2, t1))
        end = (t2[0] - b2 * power[0], b2, t1[0] - b1 * power[0], b1, delta)
    return fit_radial(
        values,
        c0=law.c0 / unit,
        p0=law.p0 * unit,
        pole=2.0 * math.sqrt(law.dim),
        layout="octave",
        octaves=(lowest, 60),
        gap=gap,
        power=0.0 if gap > 0 else 1.0,
        end=end,
    )


def _from_description(dim: int, radius: PyTree) -> RadialLaw:
    """Rebuild the law, its distribution by its name in scipy.stats."""
    if isinstance(radius, dict):
        import scipy.stats  # half a second, and only a stored law needs it

        family = getattr(scipy.stats, str(radius.get("distribution")), None)
        if not isinstance(family, (scipy.stats.rv_continuous, scipy.stats.rv_discrete)):
            raise fail(
                "radius", radius, "is not a scipy.stats distribution", "pass the name of one"
            )
        radius = family(*radius.get("args", ()), **radius.get("kwds", {}))
    return RadialLaw(dim, radius)


register(RadialLaw.name, RadialLaw, _from_description)
