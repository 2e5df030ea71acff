r"""Named observables of a trajectory: what to read, in which units, by which formula.

An observable reads a *path*: anything with ``params`` (a pytree whose arrays carry time first) and
``risk``. A :class:`gradflow.Trajectory` also offers quantities that its chart knows
more exactly than cartesian parameters can say (angles of e^{-10000}); these are read first.

A new observable is one function decorated with :func:`observable`. Those that come with the package
stand in ``of_risk`` (loss, energy, what is conserved), ``of_neurons`` (sizes, angles, clusters) and
``of_data`` (margins, activations).
"""

from __future__ import annotations

from gradflow.numerics.rows import map_rows

# Importing the three modules enters their functions in the register.
from gradflow.observables import of_data, of_neurons, of_risk
from gradflow.observables.paths import neuron_vectors
from gradflow.observables.registry import Observable, get, names, observable, observe

__all__ = [
    "Observable",
    "get",
    "map_rows",
    "names",
    "neuron_vectors",
    "observable",
    "observe",
    "of_data",
    "of_neurons",
    "of_risk",
]
