"""The list of claims, patterns over it, and the loop that weighs them."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import threading
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Protocol

from gradflow.claims.base import (
    Claim,
    ControlVerdict,
    Evidence,
    Status,
    Verdict,
    check_factor,
    describe,
)
from gradflow.claims.lab import Lab
from gradflow.validation import fail

#: ``progress(claim, verdict)``: called with None when a claim starts, with its verdict at the end.
Progress = Callable[[Claim, Verdict | None], None]


class Team(Protocol):
    """Whoever weighs families of claims beside this process (`gradflow.claims.verification`)."""

    def weigh(
        self,
        families: list[list[Claim]],
        own: list[Claim],
        lab: Lab,
        perturb: float | None,
        tell: Progress,
        weigh_one: Callable[[Claim], Verdict],
    ) -> dict[str, Verdict]: ...


_FRAMEWORK = {"base", "kinds", "lab", "registry", "verification"}


class Registry:
    """An ordered collection of claims with unique ids."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._family: dict[str, str] = {}

    def __getitem__(self, name: str) -> Claim:
        return self._claims[name]

    def register(self, item: Any) -> Any:
        """Add a claim, an iterable of claims, or (as a decorator) what a function returns.

        Every claim must bring a negative control. Returns ``item``.
        """
        found: Any = item() if callable(item) and not isinstance(item, Claim) else item
        for claim in [found] if isinstance(found, Claim) else found:
            if not isinstance(claim, Claim):
                raise fail(
                    "claim", claim, "is not a Claim", "pass an Equality, a Bound or a Qualitative"
                )
            if claim.control is None:
                raise fail(
                    "claim", claim.id, "has no negative control", "pass control=Control.perturbed()"
                )
            if claim.id in self._claims:
                raise fail("claim", claim.id, "is registered already", "choose another id")
            self._claims[claim.id] = claim
        return item

    def claims(self, patterns: str | Iterable[str] = "*", *, quick: bool = False) -> list[Claim]:
        """Claims whose id or source matches a shell-style pattern, in order of registration.

        Raises
        ------
        ValueError
            If a pattern matches nothing; the message lists close names.
        """
        if not isinstance(patterns, (str, Iterable)):
            raise fail("patterns", patterns, "is not a pattern", "pass for example 'lin2021*'")
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        if not patterns:
            raise fail("patterns", patterns, "is empty", "pass a pattern such as 'lin2021*'")
        chosen: set[str] = set()
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise fail("patterns", pattern, "is not a string", "pass for example 'lin2021*'")
            hits = {
                c.id
                for c in self._claims.values()
                if fnmatchcase(c.id, pattern) or fnmatchcase(c.source, pattern)
            }
            if not hits:
                raise fail("patterns", pattern, "matches no claim", self._suggest(pattern))
            chosen |= hits
        found = [c for c in self._claims.values() if c.id in chosen]
        if quick:
            found = [c for c in found if c.quick]
            if not found:
                raise fail(
                    "patterns", patterns, "matches no quick claim", "drop --quick (quick=True)"
                )
        return found

    def verify(
        self,
        patterns: str | Iterable[str] = "*",
        *,
        perturb: float | None = None,
        quick: bool = False,
        progress: Progress | None = None,
        helpers: Team | None = None,
    ) -> list[Verdict]:
        """Weigh every matching claim; see `gradflow.claims.verify`."""
        chosen = self.claims(patterns, quick=quick)
        if perturb is not None:
            perturb = check_factor(perturb)
        lab = Lab(quick)
        announce = threading.Lock()

        def tell(claim: Claim, verdict: Verdict | None) -> None:
            if progress is not None:
                with announce:
                    progress(claim, verdict)

        def one(claim: Claim) -> Verdict:
            tell(claim, None)
            verdict = weigh(claim, lab, perturb)
            tell(claim, verdict)
            return verdict

        if helpers is None:
            return [one(claim) for claim in chosen]
        families: dict[str, list[Claim]] = {}
        for claim in chosen:
            families.setdefault(self._family.get(claim.id, ""), []).append(claim)
        own = families.pop("", [])
        verdicts = helpers.weigh(list(families.values()), own, lab, perturb, tell, one)
        return [verdicts[claim.id] for claim in chosen]

    def belong(self, family: str, ids: Iterable[str]) -> None:
        """Note that the claims ``ids`` come from the package's file ``family``."""
        self._family.update(dict.fromkeys(ids, family))

    def _suggest(self, pattern: str) -> str:
        claims = self._claims.values()
        names = sorted({c.source for c in claims} | {c.id for c in claims})
        if not names:
            return "no claim is registered"
        plain = pattern.replace("*", "")
        close = difflib.get_close_matches(plain, names, n=5, cutoff=0.5)
        close += [n for n in names if plain and plain.lower() in n.lower() and n not in close][:5]
        shown = close or sorted({c.source for c in claims})
        return ("did you mean " if close else "sources are ") + ", ".join(shown)


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
            control = _run_control(claim, lab)
            if evidence.status is Status.SUPPORTED and not control.as_expected:
                evidence = Evidence(
                    Status.INCONCLUSIVE,
                    f"the negative control came out {control.status}, so the check cannot "
                    f"tell: {control.description}",
                    evidence.predicted,
                    evidence.measured,
                    evidence.error,
                    evidence.tolerance,
                    evidence.details,
                )
    return Verdict(
        id=claim.id,
        source=claim.source,
        title=claim.title,
        statement=claim.statement,
        provenance=claim.provenance,
        kind=claim.kind,
        citation=claim.citation,
        status=evidence.status,
        predicted=evidence.predicted,
        measured=evidence.measured,
        error=evidence.error,
        tolerance=evidence.tolerance,
        seconds=time.perf_counter() - start,
        message=evidence.message,
        hypotheses=tuple(h.name for h in claim.hypotheses),
        control=control,
        perturb=perturb,
        details=dict(evidence.details),
    )


def _run_control(claim: Claim, lab: Lab) -> ControlVerdict:
    control = claim.control
    assert control is not None
    evidence = _weigh_altered(lambda: claim.controlled(lab), lab, claim)
    return ControlVerdict(
        control.description,
        evidence.status,
        evidence.status in control.expected,
        evidence.predicted,
        evidence.measured,
        evidence.message,
    )


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


#: The claims of the package.
REGISTRY = Registry()
register = REGISTRY.register
_discovered = False


def discover() -> Registry:
    """Import every claim file of the package once and return the registry.

    A new claim is a new file in this folder, or a call of `register` from anywhere.
    """
    global _discovered
    if not _discovered:
        package = importlib.import_module("gradflow.claims")
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
            if module.name not in _FRAMEWORK and not module.name.startswith("_"):
                before = set(REGISTRY._claims)
                importlib.import_module(f"gradflow.claims.{module.name}")
                REGISTRY.belong(module.name, set(REGISTRY._claims) - before)
        _discovered = True
    return REGISTRY


def claims(patterns: str | Iterable[str] = "*", *, quick: bool = False) -> list[Claim]:
    """The registered claims whose id or source matches; see `Registry.claims`."""
    return discover().claims(patterns, quick=quick)
