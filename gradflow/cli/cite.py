"""``gradflow cite [KEY]``: the sources, in BibTeX."""

from __future__ import annotations

from typing import Annotated

import typer

from gradflow.cli.terminal import usage_error


def cite(
    key: Annotated[str | None, typer.Argument(help="A citation key; all without it.")] = None,
) -> None:
    """Print the bibliography, or one entry, in BibTeX."""
    from gradflow import bibliography

    try:
        found = list(bibliography.SOURCES.values()) if key is None else [bibliography.cite(key)]
    except ValueError as error:
        usage_error(str(error))
    typer.echo("\n\n".join(source.bibtex() for source in found))


__all__ = ["cite"]
