"""In which line of a TOML file each key stands.

``tomllib`` reads a file and tells no lines. This scanner finds them, of a text that ``tomllib`` has
read: it follows headers, keys and brackets and skips strings and comments, without a second opinion
on what is valid.
"""

from __future__ import annotations

import re
import tomllib

from gradflow.recipes.errors import Key

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
#: Blanks, ends of lines and comments, which may stand between the values of an array.
_BETWEEN = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\]|\\.)*"'),
    re.compile(r"'[^']*'"),
)


def lines_of(text: str) -> dict[Key, int]:
    """The line, from 1, in which each key of a valid TOML text first stands.

    Parameters
    ----------
    text : str

    Returns
    -------
    dict
        Of ``("start", "seed")`` and of ``("start",)``; entries of arrays by their index.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[Key, int] = {}
        self.counts: dict[Key, int] = {}
        self.line, self.counted = 1, 0

    def note(self, key: Key) -> None:
        """The key, and the tables it lies in, stand here."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        for end in range(1, len(key) + 1):
            self.lines.setdefault(key[:end], self.line)

    def skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return found.group()

    def document(self) -> None:
        table: Key = ()
        while True:
            self.skip(_BETWEEN)
            if self.at >= len(self.text):
                return
            if self.text.startswith("[[", self.at):
                self.at += 2
                table = self.of_array(self.key(table=()))
                self.at += 2
            elif self.text[self.at] == "[":
                self.at += 1
                table = self.inside(self.key(table=()))
                self.at += 1
            else:
                self.pair(table)

    def inside(self, key: Key) -> Key:
        """The key of a header, in the last entry of every array of tables on the way."""
        found: Key = ()
        for part in key:
            found = (*found, part)
            if found in self.counts:
                found = (*found, self.counts[found])
        self.note(found)
        return found

    def of_array(self, key: Key) -> Key:
        where = (*self.inside(key[:-1]), key[-1]) if len(key) > 1 else key
        self.counts[where] = self.counts.get(where, -1) + 1
        found = (*where, self.counts[where])
        self.note(found)
        return found

    def key(self, table: Key) -> Key:
        """A dotted key, and what follows it up to ``=`` or ``]``."""
        parts: list[str] = []
        while True:
            self.skip(_BLANK)
            parts.append(self.part())
            self.skip(_BLANK)
            if self.text[self.at] != ".":
                return (*table, *parts)
            self.at += 1

    def part(self) -> str:
        quote = self.text[self.at]
        if quote not in "\"'":
            return self.skip(_BARE)
        raw = self.skip(_STRINGS[2 if quote == '"' else 3])
        # (the library's own reading of escapes)
        return tomllib.loads(f"x = {raw}")["x"]

    def pair(self, table: Key) -> None:
        key = self.key(table)
        self.note(key)
        self.at += 1  # =
        self.skip(_BLANK)
        self.value(key)

    def value(self, key: Key) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            whole = self.text[self.at : self.at + 3] == 3 * opening
            self.skip(_STRINGS[(0 if opening == '"' else 1) + (0 if whole else 2)])
        elif opening == "[":
            self.array(key)
        elif opening == "{":
            self.table(key)
        else:
            self.skip(_SCALAR)

    def array(self, key: Key) -> None:
        self.at += 1
        for index in range(len(self.text)):
            self.skip(_BETWEEN)
            if self.text[self.at] == "]":
                break
            self.note((*key, index))
            self.value((*key, index))
            self.skip(_BETWEEN)
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def table(self, key: Key) -> None:
        self.at += 1
        while True:
            self.skip(_BETWEEN)
            if self.text[self.at] == "}":
                break
            self.pair(key)
            self.skip(_BETWEEN)
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1


__all__ = ["lines_of"]
