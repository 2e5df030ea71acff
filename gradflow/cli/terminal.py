"""What every command shares: where it prints, and how it ends on bad usage.

Only typer is imported here; everything heavy is imported when a command needs it, after the first
line of output.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 100  # of output that goes to a file or a pipe


def plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def console_of_width() -> Console:
    """A console 100 columns wide where there is no terminal to ask; plain text when piped."""
    from rich.console import Console

    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console()
    return Console(width=_WIDTH)


def usage_error(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


__all__ = ["console_of_width", "plain", "usage_error"]
