"""The list of claims, and patterns over it. Claims are built when they are asked for."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Protocol

from gradflow.claims.claim import Claim, check_factor
from gradflow.claims.evidence import Verdict, Verdicts
from gradflow.claims.lab import Lab
from gradflow.claims.statement import Paper, Statement
from gradflow.claims.weighing import weigh_built
from gradflow.validation import fail

#: ``progress(statement, verdict)``: with None when a claim starts, with its verdict at the end.
Progress = Callable[[Statement, Verdict | None], None]


class Team(Protocol):
    """Whoever weighs families of claims beside this process (`gradflow.claims.verification`)."""

    def weigh(
        self,
        families: list[list[Statement]],
        own: list[Statement],
        perturb: float | None,
        tell: Progress,
        weigh_one: Callable[[Statement], Verdict],
    ) -> dict[str, Verdict]: ...


class Registry:
    """An ordered collection of claims with unique ids, built on demand."""

    def __init__(self) -> None:
        self._statements: dict[str, Statement] = {}
        self._builders: dict[str, Callable[[], Claim]] = {}
        self._built: dict[str, Claim] = {}
        self._family: dict[str, str] = {}

    def __getitem__(self, id: str) -> Claim:
        if id not in self._built:
            self._built[id] = self._builders[id]()
        return self._built[id]

    def add(self, paper: Paper) -> None:
        """Add what a paper's folder states."""
        for about in paper.statements:
            self._enter(about, lambda id=about.id: paper.build(id))
            self._family[about.id] = f"{paper.folder}.{paper.file[about.id]}"

    def register(self, item: Any) -> Any:
        """Add a claim, an iterable of claims, or (as a decorator) what a function returns.

        Every claim must bring a negative control. Returns ``item``.

        Raises
        ------
        ValueError
            What is no claim; a claim without a control; an id that is taken.
        """
        found: Any = item() if callable(item) else item
        for claim in [found] if isinstance(found, Claim) else found:
            if not isinstance(claim, Claim):
                raise fail(
                    "claim", claim, "is not a Claim", "pass an Equality, a Bound or a Qualitative"
                )
            if claim.control is None:
                raise fail(
                    "claim", claim.id, "has no negative control", "pass control=Control.perturbed()"
                )
            self._enter(claim.about, lambda claim=claim: claim)
        return item

    def _enter(self, about: Statement, build: Callable[[], Claim]) -> None:
        if about.id in self._statements:
            raise fail("claim", about.id, "is registered already", "choose another id")
        self._statements[about.id] = about
        self._builders[about.id] = build

    def statements(
        self, patterns: str | Iterable[str] = "*", *, quick: bool = False
    ) -> list[Statement]:
        """Statements whose id or source matches a shell-style pattern; builds nothing.

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
                s.id
                for s in self._statements.values()
                if fnmatchcase(s.id, pattern) or fnmatchcase(s.source, pattern)
            }
            if not hits:
                raise fail("patterns", pattern, "matches no claim", self._suggest(pattern))
            chosen |= hits
        found = [s for s in self._statements.values() if s.id in chosen]
        if quick:
            found = [s for s in found if s.quick]
            if not found:
                raise fail(
                    "patterns", patterns, "matches no quick claim", "drop --quick (quick=True)"
                )
        return found

    def claims(self, patterns: str | Iterable[str] = "*", *, quick: bool = False) -> list[Claim]:
        """The claims of `statements`, built, in order of registration."""
        return [self[about.id] for about in self.statements(patterns, quick=quick)]

    def verify(
        self,
        patterns: str | Iterable[str] = "*",
        *,
        perturb: float | None = None,
        quick: bool = False,
        progress: Progress | None = None,
        helpers: Team | None = None,
    ) -> Verdicts:
        """Weigh every matching claim; see `gradflow.claims.verify`."""
        chosen = self.statements(patterns, quick=quick)
        if perturb is not None:
            perturb = check_factor(perturb)
        lab = Lab()
        announce = threading.Lock()

        def tell(about: Statement, verdict: Verdict | None) -> None:
            if progress is not None:
                with announce:
                    progress(about, verdict)

        def one(about: Statement) -> Verdict:
            tell(about, None)
            verdict = weigh_built(about, lambda: self[about.id], lab, perturb)
            tell(about, verdict)
            return verdict

        if helpers is None:
            return Verdicts([one(about) for about in chosen])
        families: dict[str, list[Statement]] = {}
        for about in chosen:
            families.setdefault(self._family.get(about.id, ""), []).append(about)
        own = families.pop("", [])
        verdicts = helpers.weigh(list(families.values()), own, perturb, tell, one)
        return Verdicts([verdicts[about.id] for about in chosen])

    def _suggest(self, pattern: str) -> str:
        found = self._statements.values()
        names = sorted({s.source for s in found} | {s.id for s in found})
        if not names:
            return "no claim is registered"
        plain = pattern.replace("*", "")
        close = difflib.get_close_matches(plain, names, n=5, cutoff=0.5)
        close += [n for n in names if plain and plain.lower() in n.lower() and n not in close][:5]
        shown = close or sorted({s.source for s in found})
        return ("did you mean " if close else "sources are ") + ", ".join(shown)


#: The claims of the package.
REGISTRY = Registry()
register = REGISTRY.register
_discovered = False


def discover() -> Registry:
    """Read what every paper's folder states, once, and return the registry.

    A new claim is a `Stated` in a folder of `gradflow.claims.papers` and a builder in one of its
    files, or a call of `register` from anywhere.
    """
    global _discovered
    if not _discovered:
        folder = importlib.import_module("gradflow.claims.papers")
        for module in sorted(m.name for m in pkgutil.iter_modules(folder.__path__)):
            REGISTRY.add(importlib.import_module(f"{folder.__name__}.{module}").PAPER)
        _discovered = True
    return REGISTRY


def claims(patterns: str | Iterable[str] = "*", *, quick: bool = False) -> list[Claim]:
    """The registered claims whose id or source matches, built; see `Registry.statements`."""
    return discover().claims(patterns, quick=quick)


def statements(patterns: str | Iterable[str] = "*", *, quick: bool = False) -> list[Statement]:
    """What is claimed, in words; see `Registry.statements`."""
    return discover().statements(patterns, quick=quick)
