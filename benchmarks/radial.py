"""Radial functions over [0, 1e15]: relative error against mpmath at 40 digits, and time per value.

python benchmarks/radial.py [--points N]
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

import gradflow as gf

LAWS = [gf.Gaussian(3), gf.UniformSphere(3), gf.UniformBall(3), gf.StudentT(3, 3.0)]
NAMES = ("h", "h_complement", "H", "psi_prime", "psi_bar", "g")


def exact(law, name: str, m: float) -> mpmath.mpf:
    """The expectation by mpmath quadrature over |x_1| or the planar radius, split at 1/m."""
    m = mpmath.mpf(m)
    kernels = {
        "h": lambda x: x / (1 + mpmath.exp(m * x)),
        "h_complement": lambda x: x * mpmath.tanh(m * x / 2) / 2,
        "H": lambda x: mpmath.log1p(mpmath.exp(-m * x)),
        "psi_prime": lambda x: x * mpmath.tanh(m * x / 2) / 2,
        "psi_bar": lambda x: mpmath.log(mpmath.cosh(m * x / 2)),
        "g": lambda x: mpmath.log1p(mpmath.exp(-m * x)),
    }
    planar = name in ("psi_prime", "psi_bar", "g")
    kernel, density, top = kernels[name], *density_of(law, planar)
    scales = [k / m for k in (mpmath.mpf(1) / 8, 1, 4, 16, 50, 120)]
    bulk = [mpmath.mpf(k) for k in ("0.3", "1", "3", "9")] + [
        mpmath.mpf(10) ** k for k in (2, 4, 8)
    ]
    edges = sorted({mpmath.mpf(0), top, *(e for e in [*scales, *bulk] if e < top)})
    return mpmath.quad(lambda x: kernel(x) * density(x), edges)


def density_of(law, planar: bool):
    """Density on (0, top) of the planar radius or of |x_1|, in mpmath, and top."""
    pi, one = mpmath.pi, mpmath.mpf(1)
    if isinstance(law, gf.Gaussian):
        if planar:
            return (lambda r: r * mpmath.exp(-r * r / 2)), mpmath.inf
        return (lambda x: mpmath.sqrt(2 / pi) * mpmath.exp(-x * x / 2)), mpmath.inf
    if isinstance(law, gf.StudentT):
        nu = mpmath.mpf(law.nu)
        if planar:
            return (lambda r: r * (1 + r * r / nu) ** (-(nu + 2) / 2)), mpmath.inf
        norm = 2 * mpmath.gamma((nu + 1) / 2) / (mpmath.sqrt(nu * pi) * mpmath.gamma(nu / 2))
        return (lambda x: norm * (1 + x * x / nu) ** (-(nu + 1) / 2)), mpmath.inf
    d = law.dim + (2 if isinstance(law, gf.UniformBall) else 0)
    if planar:
        return (lambda r: (d - 2) * r * (1 - r * r) ** (mpmath.mpf(d - 4) / 2)), one
    norm = 2 * mpmath.gamma(mpmath.mpf(d) / 2)
    norm /= mpmath.sqrt(pi) * mpmath.gamma(mpmath.mpf(d - 1) / 2)
    return (lambda x: norm * (1 - x * x) ** (mpmath.mpf(d - 3) / 2)), one


def main() -> None:
    """Print the largest errors and the times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=7)
    points = np.geomspace(1e-6, 1e15, parser.parse_args().points)
    print(f"{'law':18}{'function':14}{'largest relative error':>24}{'us per 200 values':>20}")
    for law in LAWS:
        for name in NAMES:
            function = jax.jit(lambda radial, m, name=name: getattr(radial, name)(m))
            got = np.asarray(function(law.radial, jnp.asarray(points)))
            with mpmath.workdps(40):
                want = [exact(law, name, float(m)) for m in points]
                error = max(
                    float(abs(mpmath.mpf(float(g)) / w - 1)) for g, w in zip(got, want, strict=True)
                )
            grid = jnp.asarray(np.geomspace(1e-3, 1e6, 200))
            jax.block_until_ready(function(law.radial, grid))
            best = np.inf
            for _ in range(200):
                start = time.perf_counter()
                jax.block_until_ready(function(law.radial, grid))
                best = min(best, time.perf_counter() - start)
            print(f"{law.name:18}{name:14}{error:24.1e}{1e6 * best:20.1f}")


if __name__ == "__main__":
    main()
