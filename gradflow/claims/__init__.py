"""Claims: statements of the sources, held against what the package measures."""

from gradflow.bibliography import SOURCES, Source, cite
from gradflow.claims.base import (
    Claim,
    Control,
    ControlVerdict,
    Evidence,
    Hypothesis,
    Measurement,
    Outcome,
    Status,
    Verdict,
)
from gradflow.claims.kinds import Bound, Equality, Qualitative, sharpest_factor
from gradflow.claims.lab import Lab
from gradflow.claims.registry import REGISTRY, Registry, claims, register, weigh
from gradflow.claims.verification import verify

__all__ = [
    "REGISTRY",
    "SOURCES",
    "Bound",
    "Claim",
    "Control",
    "ControlVerdict",
    "Equality",
    "Evidence",
    "Hypothesis",
    "Lab",
    "Measurement",
    "Outcome",
    "Qualitative",
    "Registry",
    "Source",
    "Status",
    "Verdict",
    "cite",
    "claims",
    "register",
    "sharpest_factor",
    "verify",
    "weigh",
]
