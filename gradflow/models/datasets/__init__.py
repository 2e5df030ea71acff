"""Data sets on which the sources state their theorems, drawn from a seed."""

from gradflow.models.datasets.antipodal import antipodal_pairs as antipodal_pairs
from gradflow.models.datasets.antipodal import hexagon as hexagon
from gradflow.models.datasets.dataset import Dataset as Dataset
from gradflow.models.datasets.separable import (
    orthogonally_separable as orthogonally_separable,
)
from gradflow.models.datasets.separable import separable_gaussians as separable_gaussians
from gradflow.models.datasets.separable import two_balls as two_balls
from gradflow.models.datasets.symmetric import hinted as hinted
from gradflow.models.datasets.symmetric import symmetric as symmetric
