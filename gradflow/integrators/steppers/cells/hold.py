"""What a flat takes from the velocity of the neuron that it holds, compiled."""

from __future__ import annotations

import numpy as np

from gradflow.integrators.steppers.cells.compiled import inner


@inner
def hold(Q: np.ndarray, rank: int, v: np.ndarray) -> None:
    """Remove from v (D,) what points off the flat of ``rank`` orthonormal rows Q."""
    D = v.size
    if rank == D:
        v[:] = 0.0
        return
    for j in range(rank):
        c = 0.0
        for d in range(D):
            c += Q[j, d] * v[d]
        for d in range(D):
            v[d] -= c * Q[j, d]
