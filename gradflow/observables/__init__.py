r"""Named observables of a trajectory: what to read, in which units, by which formula.

An observable reads a *path* (:mod:`gradflow.paths.path`): ``risk``, and ``params``, a pytree whose
arrays carry time first. A path also offers quantities that its chart knows more exactly than
cartesian parameters can say (angles of e^{-10000}); these are read first.

A new observable is one function decorated with :func:`observable`. Those that come with the package
stand in ``of_risk`` (loss, energy, what is conserved), ``of_neurons`` (sizes, angles, clusters),
``of_data`` (margins, activations, who is alive), ``of_curvature`` and ``of_paths`` (how far two
are apart).
"""

from __future__ import annotations

from gradflow.numerics.rows import map_rows

# Importing these modules enters their functions in the register.
from gradflow.observables import of_curvature, of_data, of_neurons, of_paths, of_risk
from gradflow.observables.paths import log_t_since, neuron_vectors
from gradflow.observables.registry import Observable, get, names, observable, observe

__all__ = [
    "Observable",
    "get",
    "log_t_since",
    "map_rows",
    "names",
    "neuron_vectors",
    "observable",
    "observe",
    "of_curvature",
    "of_data",
    "of_neurons",
    "of_paths",
    "of_risk",
]
