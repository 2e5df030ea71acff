r"""What the kernel sees of a flow: plain arrays, no network, no risk.

.. math:: f_i=\text{gain}\sum_ka_k\varphi(w_k\cdot x_i)+f^0_i,\qquad
          \varphi(z)=\text{slopes}_p z+\text{icepts}_p\text{ on piece }p,

.. math:: L=\sum_i\omega_i\ell(f_i,y_i)
          +\tfrac12\sum_k\bigl(\lambda_w\cdot w_k^2+\lambda_aa_k^2\bigr)+\tau\sum_k|a_k|\|w_k\|.

Layers that move at rates of their own are brought to rate 1 by units: with
:math:`\dot w=-r_w\nabla_wL` the flow of :math:`w/\sqrt{r_w}` on inputs :math:`\sqrt{r_w}\,x` is
Euclidean, and likewise for a (``gain``).

The vector integrated is ``(W (m D), a (m o), energy, [ln(1+t)])``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Losses by number.
SQUARED, LOGISTIC, EXPONENTIAL, HINGE, SOFT_LOGISTIC, CROSS_ENTROPY, OWN = 0, 1, 2, 3, 4, 5, 6
#: Clocks by number.
PHYSICAL, LOG, LOSS = 0, 1, 2


class System(NamedTuple):
    """The arrays of a flow.

    Attributes
    ----------
    X, XT : (n, D), (D, n) arrays
        Inputs, bias entry included.
    N, NT, level, size : (G, D), (D, G), (G,), (G,) arrays
        Surfaces n_g·w = level_g, and |n_g|.
    start, datum, piece, way : (G+1,), (E,), (E,), (E,) arrays
        Entries ``start[g]:start[g+1]`` are the data of surface g: on its − side they are on piece
        ``piece`` (on its + side, where ``way`` is −1), on the other one above it.
    slopes, icepts : (J+1,) arrays
    y, logw, offset : (n, o), (n,), (n, o) arrays
    loss : int
    own : int
        Address of a loss that has no number (:mod:`.own`).
    gain : float
    l2w, l2a, tv : (D,) array, floats
    clock : int
    trained : bool
    atol : (m,) array
        Absolute error allowed each neuron.
    atol_tau, rtol : floats
    noise : (n,) array
        Pulls below it are rounding.
    hush : float
        Σ noise_i |x_i| times the largest slope: what rounding moves a neuron of outer weight 1 by.
    length : (n,) array
        |x_i|.
    """

    X: np.ndarray
    XT: np.ndarray
    N: np.ndarray
    NT: np.ndarray
    level: np.ndarray
    size: np.ndarray
    start: np.ndarray
    datum: np.ndarray
    piece: np.ndarray
    way: np.ndarray
    slopes: np.ndarray
    icepts: np.ndarray
    y: np.ndarray
    logw: np.ndarray
    offset: np.ndarray
    loss: int
    own: int
    gain: float
    l2w: np.ndarray
    l2a: float
    tv: float
    clock: int
    trained: bool
    atol: np.ndarray
    atol_tau: float
    rtol: float
    noise: np.ndarray
    hush: float
    length: np.ndarray


class Cell(NamedTuple):
    """The activation cell in which a step is taken; its arrays are changed in place.

    Attributes
    ----------
    S, T : (m, n) arrays
        φ(z) = S z + T of each pair; 0 and φ(b) where the neuron slides on the datum's surface.
    side : (m, G) int8
        +1, −1, or 0 = slides.
    fresh : (m, G) int8
        1: on the surface, about to leave it; 2: leaves at zero speed; 3: parked on it.
    Q : (m, K, D) array
        Orthonormal rows spanning the surfaces slid on.
    rank : (m,) ints
    held : (m, K) array
        Q w of each neuron, kept as it is.
    ray_neuron, ray, ray_start, ray_datum, ray_slope : arrays
        Ways off the flats (:mod:`.flats`): neuron (R,), unit directions (R, D), and for each the
        data of its flat with (slope there) x·p (CSR).
    act : (n,) int8
        For a loss with a kink at the margin 1 (else empty): +1 pulls, −1 does not, 0 is held there.
    kept : (A,) ints
        The data that are held.
    slack : (n,) array
        How far a datum at its margin, neither held nor gone, may be beyond it; else 0.
    """

    S: np.ndarray
    T: np.ndarray
    side: np.ndarray
    fresh: np.ndarray
    Q: np.ndarray
    rank: np.ndarray
    held: np.ndarray
    ray_neuron: np.ndarray
    ray: np.ndarray
    ray_start: np.ndarray
    ray_datum: np.ndarray
    ray_slope: np.ndarray
    act: np.ndarray
    kept: np.ndarray
    slack: np.ndarray


class Work(NamedTuple):
    """Room for the field's intermediate results, and what it found last.

    Attributes
    ----------
    Z, A, M : (m, n) arrays
        w·x, φ and forces times slopes.
    U, V : (m, D) arrays
        The data's force on each neuron, and with the penalties', before it is held on its flat.
    DW, DA : (m, D), (m, o) arrays
        The velocity, in the clock's unit of forces.
    f, r : (n, o) arrays
        Outputs and pulls.
    logs : (n,) array
    """

    Z: np.ndarray
    A: np.ndarray
    M: np.ndarray
    U: np.ndarray
    V: np.ndarray
    DW: np.ndarray
    DA: np.ndarray
    f: np.ndarray
    r: np.ndarray
    logs: np.ndarray


def room(m: int, n: int, D: int, o: int) -> Work:
    """Return room for nets of m neurons on n data."""
    return Work(
        np.zeros((m, n)), np.zeros((m, n)), np.zeros((m, n)), np.zeros((m, D)), np.zeros((m, D)),
        np.zeros((m, D)), np.zeros((m, o)), np.zeros((n, o)), np.zeros((n, o)), np.zeros(n),
    )  # fmt: skip
