r"""The multipliers of a pattern: how a neuron is held on the surfaces it slides on.

There the force of surface g on neuron k is :math:`F^-_g+\nu\,(F^+_g-F^-_g)`, and it slides while
all its :math:`\nu\in[0,1]`.
"""

from __future__ import annotations

import numpy as np

from gradflow.cells.origin import REST, unrest
from gradflow.cells.pattern import Pattern
from gradflow.integrators.steppers.late.field import MarginNet


class Slides:
    """The pairs (neuron, surface) of a pattern on which neurons slide.

    Attributes
    ----------
    neuron, surface : (K,) ints
    slid : ints
        The neurons that slide.
    """

    def __init__(self, net: MarginNet, pattern: Pattern) -> None:
        self.net, sliding = net, pattern.sliding
        slid, counts = [k for k, _, _ in sliding], [len(where) for _, where, _ in sliding]
        self.slot = np.repeat(np.arange(len(slid)), counts)
        self.neuron = np.repeat(np.array(slid, int), counts)
        self.surface = np.concatenate([np.zeros(0, int), *(where for _, where, _ in sliding)])
        self.backs = np.concatenate([np.zeros((0, net.dim)), *pattern.backs])
        self.plus, self.slid = pattern.sides[slid] > 0, np.array(slid, int)
        starts = np.cumsum([0, *counts])
        self.resting = [
            (starts[j], starts[j + 1])
            for j, (_, _, rows) in enumerate(sliding) if len(rows) == net.dim
        ]  # fmt: skip

    def multipliers(self, p: np.ndarray) -> np.ndarray:
        """Return ν (..., K) at weights p (..., n) of the data.

        A neuron at w = 0 rests while 0 is among its limiting fields: the distance from that, in
        units of what counts as zero, stands for its multipliers.
        """
        net = self.net
        up, down = net.per_surface(p * net.at.y)
        forces = np.where(self.plus, up[..., None, :], down[..., None, :]) @ net.N
        size = (up - down)[..., self.surface]
        # Σ μ_i n_i = −(force inside the span).
        nu = -np.sum(forces[..., self.slot, :] * self.backs, axis=-1) / size
        if net.unseen.any():
            # A wall pushes as hard as it has to: only where it would have to pull does it end.
            size = np.abs(size)
            nu = np.where(net.wall_up[self.surface] != 0, np.minimum(nu * size, 0.5), nu)
            pushed = 1.0 - np.minimum((1.0 - nu) * size, 0.5)
            nu = np.where(net.wall_down[self.surface] != 0, pushed, nu)
        for start, stop in self.resting:
            nu[..., start:stop] = 0.5
            for at in np.ndindex(up.shape[:-1]):
                nu[(*at, start)] = unrest(net.at, up[at], down[at]) / REST
        return nu
