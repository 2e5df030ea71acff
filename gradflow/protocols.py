"""The seams: what to write to add one thing, without an edit elsewhere.

========== ============================ ===========================================================
seam       subclass or follow           how the package comes to know it
========== ============================ ===========================================================
activation `Activation`                 pass it to a net; ``gf.register(kind, cls)`` for files
loss       `Loss`, `MarginLoss`         pass it to a risk; ``gf.register``
network    `Network`                    pass it to a risk; ``gf.register``
law        `Law`                        pass it to ``gf.PopulationRisk``; ``gf.register``
risk       `Risk`                       pass it to ``gf.integrate``; ``gf.register``
chart      `Chart`                      a risk that names it in ``charts(params)``
stepper    `Stepper`                    an integrator whose ``solve`` marches it
path       `Path`                       pass it to ``gf.observables.observe``, pictures, ``certify``
claim      `Claim`                      the register of claims
observable a function of a path         ``@gf.observables.observable(name, ...)``
========== ============================ ===========================================================

The classes are abstract, so one that leaves something out cannot be made; their methods are
documented where they stand, and typed without ``Any``.
"""

from __future__ import annotations

from gradflow.claims import Claim
from gradflow.data.laws.laws import SphericalLaw as Law
from gradflow.flows.charts.chart import AbstractChart as Chart
from gradflow.integrators.march import AbstractStepper as Stepper
from gradflow.losses import AbstractLoss as Loss
from gradflow.losses import AbstractMarginLoss as MarginLoss
from gradflow.networks.abstract import AbstractNetwork as Network
from gradflow.networks.activations import AbstractActivation as Activation
from gradflow.paths.path import AbstractPath as Path
from gradflow.risks.base import AbstractRisk as Risk

__all__ = [
    "Activation",
    "Chart",
    "Claim",
    "Law",
    "Loss",
    "MarginLoss",
    "Network",
    "Path",
    "Risk",
    "Stepper",
]
