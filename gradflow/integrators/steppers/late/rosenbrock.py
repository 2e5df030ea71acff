r"""A stiffly accurate Rosenbrock method of order 5 with dense output of order 4.

For y' = f(y) and J = f'(y_0) the stages solve

.. math:: \Bigl(\tfrac1{\gamma h}I-J\Bigr)k_i=f\Bigl(y_0+\sum_{j<i}a_{ij}k_j\Bigr)
          +\tfrac1h\sum_{j<i}c_{ij}k_j,\qquad y_1=y_0+\sum_{i\le8}b_ik_i,

and k_8 is the error estimate. One factorisation a step, no iteration. Source: Steinebach,
Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia
Differential Equations package (BIT 63:27, 2023).
"""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.late.cell import Cell
from gradflow.integrators.steppers.late.jacobian import Factors, Jacobian
from gradflow.integrators.steppers.late.solve import solve
from gradflow.integrators.steppers.late.system import Point, expand

GAMMA = 0.21193756319429014
_LAST = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256,
         0.030198172008377946)  # fmt: skip
#: Stage coefficients a_ij; the last row is also b without its last entry.
_A = (
    (),
    (3.0,),
    (2.849394379747939, 0.45842242204463923),
    (-6.954028509809101, 2.489845061869568, -10.358996098473584),
    (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
    _LAST,
    (*_LAST, 1.0),
    (*_LAST, 1.0, 1.0),
)
_C = (
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
A, C = (np.array([row + (0.0,) * (8 - len(row)) for row in rows]) for rows in (_A, _C))
#: Coefficients of the dense output.
DENSE = np.array([
    [25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204,
     0.524948541321073, 1.1241088310450404, 0.4272876194431874, -0.17202221070155493],
    [-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796,
     20.176138334709044, 15.98066361424651, -6.789040303419874, -6.710236069923372],
    [11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643,
     -52.072871366152654, -59.78993625266729, -0.15582684282751913, 4.883087185713722],
])  # fmt: skip


@kernel
def rosenbrock_step(
    cell: Cell, at: Point, J: Jacobian, F: Factors, y0: np.ndarray, h: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take one step of the late-phase system.

    Parameters
    ----------
    at, J, F : Point, Jacobian, Factors
        Of the system at y0; F of (1/γh)I − J.
    y0 : (N,) array
    h : float

    Returns
    -------
    y1, error : (N,) arrays
    poly : (5, N) array
        The dense output :math:`\\sum_j\\text{poly}_j\\xi^j` in the fraction ξ of the step.
    """
    N = y0.size
    k, y, right, poly = np.zeros((8, N)), y0.copy(), at.rate, np.zeros((5, N))
    for i in range(8):
        if i > 0:
            if i < 6:
                y[:] = y0
                for j in range(i):
                    for d in range(N):
                        y[d] += A[i, j] * k[j, d]
            else:
                for d in range(N):
                    y[d] += k[i - 1, d]
            right = expand(cell, y).rate
            for j in range(i):
                for d in range(N):
                    right[d] += C[i, j] / h * k[j, d]
        k[i] = solve(cell, at, J, F, y0, right)
    for d in range(N):
        y[d] += k[7, d]
        c0 = c1 = c2 = 0.0
        for j in range(8):
            c0 += DENSE[0, j] * k[j, d]
            c1 += DENSE[1, j] * k[j, d]
            c2 += DENSE[2, j] * k[j, d]
        poly[0, d], poly[1, d], poly[2, d] = y0[d], y[d] - y0[d] + c0, c1 - c0
        poly[3, d], poly[4, d] = c2 - c1, -c2
    return y, k[7], poly
