"""Data sets on which the sources state their theorems, drawn from a seed."""

from gradflow.data.datasets.antipodal import antipodal_pairs as antipodal_pairs
from gradflow.data.datasets.antipodal import hexagon as hexagon
from gradflow.data.datasets.dataset import Dataset as Dataset
from gradflow.data.datasets.separable import (
    orthogonally_separable as orthogonally_separable,
)
from gradflow.data.datasets.separable import separable_gaussians as separable_gaussians
from gradflow.data.datasets.separable import two_balls as two_balls
from gradflow.data.datasets.symmetric import hinted as hinted
from gradflow.data.datasets.symmetric import symmetric as symmetric
