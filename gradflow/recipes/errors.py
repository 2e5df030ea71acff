"""The error of a recipe: which key, in which line of which file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: A key: the tables and the entry, ``("start", "seed")``; an index for an array of tables.
Key = tuple[str | int, ...]


class RecipeError(ValueError):
    """A recipe that cannot be run.

    Attributes
    ----------
    key : tuple
        Where in the recipe; empty for the file as a whole.
    line : int or None
        In which line of its file, counted from 1.
    problem : str
        What is wrong, and the fix.
    foreseen : bool
        False where a library refused it in words that are not ours.
    """

    def __init__(
        self, key: Key, problem: str, *, line: int | None = None, file: str = "",
        foreseen: bool = True,
    ) -> None:  # fmt: skip
        place = ":".join(str(part) for part in (file, line) if part not in ("", None))
        super().__init__(": ".join(filter(None, (place, dotted(key), problem))))
        self.key, self.line, self.problem, self.foreseen = key, line, problem, foreseen

    def at(self, lines: dict[Key, int], file: str) -> RecipeError:
        """The same error, with the line of its key or of the table that is to hold it."""
        for end in range(len(self.key), 0, -1):
            if self.key[:end] in lines:
                line = lines[self.key[:end]]
                return RecipeError(
                    self.key, self.problem, line=line, file=file, foreseen=self.foreseen
                )
        return RecipeError(
            self.key, self.problem, line=self.line, file=file, foreseen=self.foreseen
        )


def dotted(key: Key) -> str:
    """``start.seed``, as a file writes it."""
    return shown(".".join(map(str, key)))


def shown(value: object) -> str:
    """A value of a file in at most about 60 printable characters."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text[:60] + "..." if len(text) > 63 else text


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'seed'?``, or the names that there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of {', '.join(names)}" if names else "leave it out"


def misspelt(names: Iterable[str], meant: Iterable[str]) -> str | None:
    """A name that is close to one of those that are missing."""
    wanted = list(meant)
    return next((n for n in names if difflib.get_close_matches(n[:100], wanted, 1, 0.6)), None)


__all__ = ["Key", "RecipeError", "dotted", "misspelt", "nearest", "shown"]
