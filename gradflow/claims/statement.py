"""What is claimed, in words, and which file builds the claim.

A paper's folder states its claims in its ``__init__``, which imports nothing heavy: listing claims
builds none. A builder is a function of one of the folder's files that takes instances and an id;
the file's ``DEFAULTS`` build the registered claims, each when it is first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradflow.validation import check_choice, fail

if TYPE_CHECKING:
    from gradflow.claims.claim import Claim

KINDS = ("equality", "bound", "qualitative")
PROVENANCES = ("published", "corrected", "reconstructed", "derived")


@dataclass(frozen=True)
class Statement:
    """Everything about a claim but how it is weighed.

    Attributes
    ----------
    id : str
        ``source/name``.
    kind : {"equality", "bound", "qualitative"}
    provenance : {"published", "corrected", "reconstructed", "derived"}
        Published: so stated in a text that was read. Corrected: the source's statement with a
        constant that holds. Reconstructed: what the source is known to state, or to use. Derived:
        in its setting, here.
    title, statement : str
    citation : str
        A key of `gradflow.bibliography`; by default the source.
    quick : bool
        Part of ``gradflow verify --quick``.

    Raises
    ------
    ValueError
        An id that is not ``source/name``; a kind or a provenance that is none.
    """

    id: str
    kind: str
    provenance: str
    title: str
    statement: str
    citation: str = ""
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.source or not self.name or any(c.isspace() for c in self.id):
            raise fail("id", self.id, "is not of the form source/name", "use a/b without spaces")
        check_choice("kind", self.kind, KINDS)
        check_choice("provenance", self.provenance, PROVENANCES)
        if not self.citation:
            object.__setattr__(self, "citation", self.source)

    @property
    def source(self) -> str:
        """The part of the id before the slash."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """The part of the id after the slash."""
        return self.id.partition("/")[2]


@dataclass(frozen=True)
class Stated:
    """A statement as its paper's folder writes it down, perhaps with ``{blanks}`` to be filled.

    Attributes
    ----------
    name : str
        The id without the source.
    kind, provenance, title, statement, citation, quick
        As for `Statement`.
    file : str
        Of the folder, that builds the claim.
    cases : sequence of mapping
        What fills the blanks of each registered claim.
    """

    name: str
    kind: str
    provenance: str
    file: str
    title: str
    statement: str
    citation: str = ""
    quick: bool = False
    cases: Sequence[Mapping[str, Any]] = ({},)


class Paper:
    """A source: what it states that is claimed here, and what is not covered yet.

    Parameters
    ----------
    key : str
        Of `gradflow.bibliography`.
    folder : str
        The package of the paper's files, its ``__name__``.
    stated : iterable of Stated
        In the order in which they are weighed.
    uncovered : sequence of str
        Statements of the source that are no claims yet.
    """

    def __init__(
        self, key: str, folder: str, stated: Iterable[Stated], *, uncovered: Sequence[str] = ()
    ) -> None:
        self.key = key
        self.folder = folder
        self.uncovered = tuple(uncovered)
        self._stated = {one.name: one for one in stated}
        #: The file that builds each registered claim, by id.
        self.file: dict[str, str] = {}
        found = []
        for one in self._stated.values():
            for case in one.cases:
                words = self.words(one.name, f"{key}/{one.name.format(**case)}", **case)
                found.append(Statement(kind=one.kind, **words))
                self.file[found[-1].id] = one.file
        self.statements = tuple(found)

    def words(self, name: str, id: str, /, **blanks: Any) -> dict[str, Any]:
        """The words of a claim, as keywords of its class: those stated as ``name``, under ``id``.

        A blank of the provenance is filled too: what is published of some nets may be derived of
        others.
        """
        one = self._stated[name]
        return {
            "id": id,
            "provenance": one.provenance.format(**blanks),
            "title": one.title.format(**blanks),
            "statement": one.statement.format(**blanks),
            "citation": one.citation,
            "quick": one.quick,
        }

    def build(self, id: str) -> Claim:
        """The registered claim, on its default instances; its file is imported here."""
        module = importlib.import_module(f"{self.folder}.{self.file[id]}")
        defaults: Mapping[str, Callable[[], Claim]] = module.DEFAULTS
        return defaults[id.partition("/")[2]]()
