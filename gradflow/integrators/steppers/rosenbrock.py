r"""A stiffly accurate Rosenbrock method of order 5 with dense output of order 4.

For y' = f(y) and J = f'(y_0) the stages solve

.. math:: \Bigl(\tfrac1{\gamma h}I-J\Bigr)k_i=f\Bigl(y_0+\sum_{j<i}a_{ij}k_j\Bigr)
          +\tfrac1h\sum_{j<i}c_{ij}k_j,\qquad y_1=y_0+\sum_{i\le8}b_ik_i,

and k_8 is the error estimate. One factorisation a step, no iteration. Source: Steinebach,
Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia
Differential Equations package (BIT 63:27, 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GAMMA = 0.21193756319429014
_LAST = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256,
         0.030198172008377946)  # fmt: skip
#: Stage coefficients a_ij; the last row is also b without its last entry.
A = (
    (),
    (3.0,),
    (2.849394379747939, 0.45842242204463923),
    (-6.954028509809101, 2.489845061869568, -10.358996098473584),
    (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
    _LAST,
    (*_LAST, 1.0),
    (*_LAST, 1.0, 1.0),
)
C = (
    (),
    (-14.155112264123755,),
    (-17.97296035885952, -2.859693295451294),
    (147.12150275711716, -1.41221402718213, 71.68940251302358),
    (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
    (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125,
     -0.6610691825249471),
    (30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783,
     -19.097331116725623, -28.087943162872662),
    (37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047,
     -40.06618937091002, -54.66780262877968, -9.48861652309627),
)  # fmt: skip
DENSE = np.array([
    [25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204,
     0.524948541321073, 1.1241088310450404, 0.4272876194431874, -0.17202221070155493],
    [-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796,
     20.176138334709044, 15.98066361424651, -6.789040303419874, -6.710236069923372],
    [11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643,
     -52.072871366152654, -59.78993625266729, -0.15582684282751913, 4.883087185713722],
])  # fmt: skip
ORDER = 5


def rosenbrock_step(
    field: Callable[[np.ndarray], np.ndarray],
    solve: Callable[[np.ndarray], np.ndarray],
    y0: np.ndarray,
    h: float,
    f0: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Take one step.

    Parameters
    ----------
    field : callable
        f(y).
    solve : callable
        ``b ↦ (I/(γh) − J)⁻¹ b``.
    y0, f0 : (N,) arrays
        The state and f there.
    h : float

    Returns
    -------
    y1 : (N,) array
    k : (8, N) array
        The stages; ``k[7]`` is the error estimate, and `dense_coefficients` reads them.
    """
    k = np.empty((8, y0.shape[0]))
    y = y0
    for i in range(8):
        if i == 0:
            right = f0
        else:
            y = y0 + np.asarray(A[i]) @ k[:i] if i < 6 else y + k[i - 1]
            right = field(y) + (np.asarray(C[i]) / h) @ k[:i]
        k[i] = solve(right)
    return y + k[7], k


def quartic(y0: np.ndarray, y1: np.ndarray, k: np.ndarray) -> np.ndarray:
    r"""Return the dense output of a step with stages k, as a polynomial of its fraction ξ.

    Returns
    -------
    (4, N) array
        c of :math:`y(\xi)=y_0+\sum_{p\le4}c_p\xi^p`, of order 4.
    """
    b = DENSE @ k
    return np.stack([y1 - y0 + b[0], b[1] - b[0], b[2] - b[1], -b[2]])
