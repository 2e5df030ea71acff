r"""The arrangement: m neurons over the hyperplanes of n data, whatever their weights are.

A net :math:`f(x)=\sum_ka_k\varphi(w_k\cdot x)` with φ piecewise linear meets its data in the
*switching functions* :math:`h_{kg}=n_g\cdot w_k` (a bias counts as one more entry of w_k and of
n_g). Data on one line through the origin (duplicates, antipodal pairs, multiples) share a surface,
:math:`x_i=\text{scale}_i\,n_{g(i)}`. With φ of slopes s₋ and s₊ on the two sides of its breakpoint
0, f is linear in the two sums

.. math:: A^+_g=\sum_ka_k\max(h_{kg},0),\quad A^-_g=\sum_ka_k\min(h_{kg},0),\qquad
          f(x_i)=c^+_iA^+_{g(i)}+c^-_iA^-_{g(i)},

so the risk is a smooth function of them, however many data share a surface. With the forces
:math:`F^\pm_g=-\partial L/\partial A^\pm_g` the flow inside an activation cell is

.. math:: \dot w_k=a_k\sum_gF^{\sigma_{kg}}_gn_g,\qquad \dot a_k=\sum_gF^{\sigma_{kg}}_gh_{kg},

and across :math:`h_{kg}=0` the field of neuron k jumps by :math:`a_k(F^+_g-F^-_g)n_g`. The surface
attracts where that is negative along n_g. Sources: `filippov1988`, `clarke1983`.

In general φ has any number of breakpoints, :math:`\varphi(z)=s_pz+c_p` on its pieces, the outputs
are :math:`f(x_i)=o_i+\sum_ka_k\varphi(w_k\cdot x_i)` with an offset :math:`o_i` and :math:`a_k` a
number or a vector, the loss may have kinks of its own, and the objective may have penalties,
:math:`L+\lambda_2|\theta|^2/2+\lambda_1\sum_k|a_k||w_k|`. The case of the formulas above is called
*central*; what knows no other asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import PyTree

from gradflow.cells.blocks import join, split
from gradflow.cells.surfaces import surfaces_of
from gradflow.losses import AbstractLoss
from gradflow.networks.abstract import Layer
from gradflow.networks.activations.pieces import Pieces
from gradflow.networks.parameters import LinearParams, TwoLayerParams

#: Sets of surfaces whose span is remembered.
_MOST_SPANS = 10_000


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Data, their surfaces and the activation, as plain arrays (host); no weights.

    Attributes
    ----------
    inputs : (n, D) array
        The data, bias entry included.
    normals : (G, D) array
        One normal a surface, pairwise not collinear.
    surface, scale : (n,) arrays
        ``inputs[i] = scale[i] * normals[surface[i]]`` to rounding.
    y : (n,) or (n, o) array
    log_weights : (n,) array
        ln ω_i (the 1/n of a mean is in it).
    loss : AbstractLoss
        ℓ of L = Σ_i ω_i ℓ(f(x_i), y_i).
    breakpoints : (J,) array
        Where φ' jumps, ascending: (0,) for a leaky ReLU, empty for a linear φ.
    slopes, intercepts : (J + 1,) arrays
        φ(z) = slopes[p] z + intercepts[p] on the piece p from left to right; a breakpoint belongs
        to the piece on its left.
    trained : bool
        Whether the outer weights move.
    layout : {"plain", "bias", "linear"}
        How parameters hold the neurons; "linear": one neuron of outer weight 1.
    outputs : int
        o: the outer weights of a neuron are a number (o = 1) or a vector (o > 1).
    offset : (n,) or (n, o) array or None
        What is added to the outputs of the net.
    l2, tv : float
        λ₂ of λ₂|θ|²/2 and λ₁ of λ₁ Σ_k |a_k||w_k|, θ the trained weights.
    """

    inputs: np.ndarray
    normals: np.ndarray
    surface: np.ndarray
    scale: np.ndarray
    y: np.ndarray
    log_weights: np.ndarray
    loss: AbstractLoss
    breakpoints: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    trained: bool
    layout: str
    outputs: int = 1
    offset: np.ndarray | None = None
    l2: float = 0.0
    tv: float = 0.0
    _spans: dict[bytes, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, layer: Layer, y: np.ndarray, log_weights: np.ndarray, loss: AbstractLoss,
        offset: np.ndarray | None = None,
    ) -> Arrangement:  # fmt: skip
        """Return the arrangement of data (n, D) under a layer of neurons."""
        normals, surface, scale = surfaces_of(layer.inputs)
        return cls(
            layer.inputs, normals, surface, scale, y, log_weights, loss, *layer.pieces,
            trained=layer.trained, layout=layer.layout, outputs=layer.outputs, offset=offset,
        )  # fmt: skip

    # ------------------------------------------------------------------------------ what it is
    @property
    def dim(self) -> int:
        """D, the dimension of a neuron."""
        return self.normals.shape[1]

    @property
    def count(self) -> int:
        """G, the number of surfaces."""
        return self.normals.shape[0]

    @property
    def pieces(self) -> Pieces:
        """φ."""
        return Pieces(self.breakpoints, self.slopes, self.intercepts)

    @property
    def activation_kinked(self) -> bool:
        """Whether φ' jumps: the forces differ between the two sides of a surface."""
        return self.breakpoints.size > 0

    @property
    def loss_kinked(self) -> bool:
        """Whether ∂ℓ/∂f jumps (hinge): there are surfaces in the outputs too."""
        return self.loss.kinked

    @property
    def kinked(self) -> bool:
        """Whether the field jumps anywhere."""
        return self.activation_kinked or self.loss_kinked

    @property
    def central(self) -> bool:
        """Whether φ is positively homogeneous with one breakpoint or none, ℓ smooth, the net's one
        output all there is of f, and L all there is of the objective.

        Then the surfaces are hyperplanes through the origin, the formulas with A^± hold, and so
        does what is known of late phases and max-margin limits.
        """
        plain = self.outputs == 1 and self.offset is None and self.l2 == self.tv == 0
        return plain and self.pieces.central and not self.loss_kinked

    @property
    def located_by_old(self) -> bool:
        """Whether the integrator that goes from kink to kink knows all of it, φ(z) = max(z, αz)."""
        # To be deleted with that integrator: its successor takes every arrangement.
        return self.central and bool(0 <= self.slopes[0] <= self.slopes[-1] == 1)

    @property
    def slope(self) -> float:
        """s₋, the slope of φ left of 0: α of a leaky ReLU (central)."""
        return float(self.slopes[0])

    @property
    def bend(self) -> float:
        """s₊ − s₋, by which φ' jumps at 0: 1 − α of a leaky ReLU (central)."""
        return float(self.slopes[-1] - self.slopes[0])

    @property
    def slope_range(self) -> tuple[float, float]:
        """The least and the largest slope of φ: Clarke's interval at 0 (central)."""
        return float(np.min(self.slopes)), float(np.max(self.slopes))

    @property
    def blind(self) -> bool:
        """Whether a neuron sees nothing of the data left of 0 (ReLU; central)."""
        return self.activation_kinked and self.slope == 0

    @property
    def degree(self) -> int:
        """Degree of homogeneity of f in the trained weights."""
        return 2 if self.trained else 1

    @property
    def margin_loss(self) -> bool:
        """Whether ℓ is a function of the margin y f."""
        return self.loss.margin

    @cached_property
    def sizes(self) -> np.ndarray:
        """|n_g| (G,)."""
        return np.linalg.norm(self.normals, axis=1)

    @cached_property
    def representatives(self) -> np.ndarray:
        """The first datum of each surface (G,)."""
        return np.unique(self.surface, return_index=True)[1]

    @cached_property
    def plain(self) -> bool:
        """Whether every datum has a surface of its own, in their order (then ``scale = 1``)."""
        return bool(np.array_equal(self.surface, np.arange(self.count)))

    @cached_property
    def up(self) -> np.ndarray:
        """c⁺ (n,) (central)."""
        positive = self.scale > 0
        return np.where(positive, self.slopes[-1] * self.scale, self.slope * self.scale)

    @cached_property
    def down(self) -> np.ndarray:
        """c⁻ (n,) (central)."""
        positive = self.scale > 0
        return np.where(positive, self.slope * self.scale, self.slopes[-1] * self.scale)

    # ------------------------------------------------------------------------------ the same data
    @cached_property
    def unit(self) -> Arrangement:
        """The same surfaces with unit normals."""
        size = self.sizes
        return replace(
            self, normals=self.normals / size[:, None], scale=self.scale * size[self.surface],
            _spans={},
        )  # fmt: skip

    def merged(self, which: np.ndarray, unit: float) -> tuple[Arrangement, np.ndarray]:
        """Return the arrangement of some data, equal ones as one, all inputs divided by ``unit``.

        Returns
        -------
        arrangement : Arrangement
            With every surface of this one.
        first : ints
            The number of each datum here, the first of equal ones.
        """
        columns = np.stack([self.surface, self.scale, self.y], axis=1)[which]
        _, first, of = np.unique(columns, axis=0, return_index=True, return_inverse=True)
        of = np.argsort(np.argsort(first))[of.reshape(-1)]
        logs = np.full(len(first), -np.inf)
        np.logaddexp.at(logs, of, self.log_weights[which])
        first = which[np.sort(first)]
        return replace(
            self, inputs=self.inputs[first] / unit, normals=self.normals / unit,
            surface=self.surface[first], scale=self.scale[first], y=self.y[first],
            log_weights=logs, _spans={},
        ), first  # fmt: skip

    # ------------------------------------------------------------------------------ parameters
    def split(self, params: PyTree) -> tuple[np.ndarray, np.ndarray]:
        """Return the blocks ``W`` (..., m, D) and outer weights ``a`` (..., m), copied (host)."""
        W, a = split(self.layout, params)
        return np.array(W, float), np.array(a, float)

    def join(self, W: np.ndarray, a: np.ndarray) -> LinearParams | TwoLayerParams:
        """Return parameters: the inverse of `split`."""
        return join(self.layout, W, a)

    # ------------------------------------------------------------------------------ values
    def heights(self, W: np.ndarray) -> np.ndarray:
        """Return h_kg = n_g·w_k (..., m, G)."""
        return W @ self.normals.T

    def activations(self, W: np.ndarray) -> np.ndarray:
        """Return φ(w_k·x_i) (..., m, n)."""
        return self.pieces(W @ self.inputs.T)

    def predictions(self, W: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Return f(x_i) (n,), or (n, o) of several outputs, the offset included."""
        f = a @ self.activations(W) if self.outputs == 1 else self.activations(W).T @ a
        return f if self.offset is None else f + self.offset

    def margins(self, W: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Return q_i = y_i f(x_i) (n,)."""
        return self.y * self.predictions(W, a)

    def per_surface(self, pulls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the forces F⁺, F⁻ (G,) of pulls −ω_i ∂ℓ/∂f_i (n,) (central)."""
        if self.plain:
            return self.up * pulls, self.down * pulls
        return (np.bincount(self.surface, self.up * pulls, self.count),
                np.bincount(self.surface, self.down * pulls, self.count))  # fmt: skip

    def per_datum(self, plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
        """Return f_i = c⁺_i A⁺ + c⁻_i A⁻ (n,) of sums over the surfaces (G,) (central)."""
        if not self.plain:
            plus, minus = plus[self.surface], minus[self.surface]
        return self.up * plus + self.down * minus

    def span(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return orthonormal rows spanning some normals, and the pseudo-inverse of their transpose.

        Remembered by the set of members: neurons come back to where others slide.

        Returns
        -------
        rows : (r, D) array
            r is the rank, also where the normals are dependent.
        back : (K, D) array
            ``−back @ force`` are the multipliers that hold a neuron against a force.
        """
        key = members.tobytes()
        if key not in self._spans:
            if len(self._spans) > _MOST_SPANS:
                self._spans.clear()
            left, values, rows = np.linalg.svd(self.normals[members], full_matrices=False)
            use = values > 1e-12 * values[0]
            self._spans[key] = rows[use], (left[:, use] / values[use]) @ rows[use]
        return self._spans[key]
