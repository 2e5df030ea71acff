"""Data sets on which the sources state their theorems, drawn from a seed."""

from gradflow.models.datasets.antipodal import antipodal_pairs as antipodal_pairs
from gradflow.models.datasets.antipodal import hexagon as hexagon
from gradflow.models.datasets.dataset import Dataset as Dataset
