"""Data sets on which the sources state their theorems, drawn from a seed."""

from gradflow.models.datasets.dataset import Dataset as Dataset
