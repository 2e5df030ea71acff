"""Weigh a claim and its negative control; or the claim altered."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from gradflow.claims.claim import Claim, Control, describe
from gradflow.claims.evidence import ControlVerdict, Evidence, Status, Verdict
from gradflow.claims.lab import Lab
from gradflow.claims.statement import Statement


def weigh(claim: Claim, lab: Lab, perturb: float | None = None) -> Verdict:
    """Weigh one claim, then run its negative control; or weigh it altered by ``perturb``.

    A claim whose control does not fail as it must cannot be SUPPORTED: its check could not have
    failed either, so it is INCONCLUSIVE.
    """
    start = time.perf_counter()
    control = None
    if perturb is not None:
        evidence = _weigh_altered(lambda: claim.perturbed(perturb, lab), lab, claim)
    else:
        evidence = claim.weigh(lab)
        if evidence.status is not Status.NOT_APPLICABLE and claim.control is not None:
            control = _run(claim.control, claim, lab)
            if evidence.status is Status.SUPPORTED and not control.as_expected:
                evidence = dataclasses.replace(
                    evidence,
                    status=Status.INCONCLUSIVE,
                    message=f"the negative control came out {control.status}, so the check cannot "
                    f"tell: {control.description}",
                )
    names = tuple(h.name for h in claim.hypotheses)
    seconds = time.perf_counter() - start
    return Verdict(claim.about, evidence, control, seconds, names, perturb)


def weigh_built(
    about: Statement, build: Callable[[], Claim], lab: Lab, perturb: float | None
) -> Verdict:
    """Build a claim and weigh it; what cannot be built is an ERROR."""
    try:
        claim = build()
    except Exception as error:
        return Verdict(about, Evidence(Status.ERROR, describe(error)), perturb=perturb)
    return weigh(claim, lab, perturb)


def _run(control: Control, claim: Claim, lab: Lab) -> ControlVerdict:
    evidence = _weigh_altered(lambda: claim.controlled(lab), lab, claim)
    return ControlVerdict(control.description, evidence, control.expected)


def _weigh_altered(alter: Callable[[], Claim], lab: Lab, claim: Claim) -> Evidence:
    """Weigh an altered claim; a failure to alter it is an ERROR, a failed hypothesis is not."""
    try:
        altered = alter()
    except Exception as error:
        # Where a hypothesis fails there is nothing to perturb, and no reason to fail over it.
        plain = claim.weigh(lab)
        if plain.status is Status.NOT_APPLICABLE:
            return plain
        return Evidence(Status.ERROR, describe(error))
    return altered.weigh(lab)
