"""Claims: statements of the sources, held against what the package measures.

`gradflow.claims.papers` has a folder a paper; the rest is the framework. Names are imported on
first use, so that listing claims stays light.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradflow.bibliography import SOURCES as SOURCES
    from gradflow.bibliography import Source as Source
    from gradflow.bibliography import cite as cite
    from gradflow.claims.claim import Claim as Claim
    from gradflow.claims.claim import Control as Control
    from gradflow.claims.claim import Hypothesis as Hypothesis
    from gradflow.claims.claim import Measurement as Measurement
    from gradflow.claims.claim import Outcome as Outcome
    from gradflow.claims.evidence import ControlVerdict as ControlVerdict
    from gradflow.claims.evidence import Evidence as Evidence
    from gradflow.claims.evidence import Row as Row
    from gradflow.claims.evidence import Status as Status
    from gradflow.claims.evidence import Table as Table
    from gradflow.claims.evidence import Verdict as Verdict
    from gradflow.claims.evidence import Verdicts as Verdicts
    from gradflow.claims.kinds import Bound as Bound
    from gradflow.claims.kinds import Equality as Equality
    from gradflow.claims.kinds import Qualitative as Qualitative
    from gradflow.claims.kinds import sharpest_factor as sharpest_factor
    from gradflow.claims.lab import Lab as Lab
    from gradflow.claims.registry import REGISTRY as REGISTRY
    from gradflow.claims.registry import Registry as Registry
    from gradflow.claims.registry import claims as claims
    from gradflow.claims.registry import register as register
    from gradflow.claims.registry import statements as statements
    from gradflow.claims.statement import Paper as Paper
    from gradflow.claims.statement import Stated as Stated
    from gradflow.claims.statement import Statement as Statement
    from gradflow.claims.verification import verify as verify
    from gradflow.claims.weighing import weigh as weigh

_EXPORTS = {
    "gradflow.bibliography": "SOURCES Source cite",
    "gradflow.claims.claim": "Claim Control Hypothesis Measurement Outcome",
    "gradflow.claims.evidence": "ControlVerdict Evidence Row Status Table Verdict Verdicts",
    "gradflow.claims.kinds": "Bound Equality Qualitative sharpest_factor",
    "gradflow.claims.lab": "Lab",
    "gradflow.claims.registry": "REGISTRY Registry claims register statements",
    "gradflow.claims.statement": "Paper Stated Statement",
    "gradflow.claims.verification": "verify",
    "gradflow.claims.weighing": "weigh",
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names.split()}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(_HOME[name]), name)
    globals()[name] = value
    return value
