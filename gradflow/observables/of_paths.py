"""Observables of two paths: how far one is from the other at the same time."""

from __future__ import annotations

import jax
import numpy as np

from gradflow.observables.paths import tree_norm
from gradflow.observables.registry import observable
from gradflow.paths.path import AbstractPath, as_path
from gradflow.validation import check_bool, fail


@observable("distance_to", unit="weight", long_name="distance to another path")
def distance_to(
    path: AbstractPath, flow: AbstractPath | None = None, relative: bool = False
) -> np.ndarray:
    r""":math:`\|\theta(t)-\theta^{\rm flow}(t)\|` at the times of this path.

    Of gradient descent the time is :math:`t_n=\sum_{k<n}\eta_k`, so that the distance to the flow
    from the same start is the method's global error.

    Parameters
    ----------
    flow : path
        Of parameters of the same shapes. It must cover the times: recorded at them
        (``save_at=descent.t``), or with dense output (``save_at=gf.save.dense()``).
    relative : bool
        Divide by :math:`\|\theta^{\rm flow}(t)\|`.
    """
    if flow is None:
        raise fail("flow", None, "is missing", "pass a path, as gf.integrate(...)")
    flow, relative = as_path(flow), check_bool("relative", relative)
    ours = [(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(path.params)]
    theirs = [(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(flow.params)]
    if ours != theirs or jax.tree.structure(path.params) != jax.tree.structure(flow.params):
        raise fail(
            "flow", flow, "has parameters of other shapes", "pass a path of a net of the same sizes"
        )
    times = {"log_t": path.log_t} if np.any(np.isinf(path.t)) else {"t": path.t}
    try:
        there = flow.at(**times)
    except ValueError as error:
        raise fail(
            "flow", flow, f"does not cover the times of the path ({error})",
            "integrate it with until=path.t[-1] and save_at=path.t or gf.save.dense()",
        ) from error  # fmt: skip
    apart = tree_norm(
        jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), path.params, there.params)
    )
    if not relative:
        return apart
    with np.errstate(divide="ignore", invalid="ignore"):
        return apart / tree_norm(there.params)
