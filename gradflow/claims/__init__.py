"""Claims: statements of the sources, held against what the package measures.

`gradflow.claims.papers` has a folder a paper; the rest is the framework. Nothing heavier than NumPy
is imported here, so that claims can be listed at once.
"""

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
from gradflow.claims.evidence import Status as Status
from gradflow.claims.evidence import Table as Table
from gradflow.claims.evidence import Verdict as Verdict
from gradflow.claims.evidence import Verdicts as Verdicts
from gradflow.claims.kinds import Bound as Bound
from gradflow.claims.kinds import Equality as Equality
from gradflow.claims.kinds import Qualitative as Qualitative
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
