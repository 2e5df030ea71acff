"""``gradflow status DIR``: how far a sweep is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradflow.cli.terminal import usage_error


def status(
    folder: Annotated[Path, typer.Argument(help="The store of a sweep.", metavar="DIR")],
) -> None:
    """Say how far the sweep of a store is: done, failed, left, damaged; and who is at work."""
    from gradflow.sweeps.status import status_of

    try:
        told = status_of(folder)
    except ValueError as error:
        usage_error(str(error))
    typer.echo(told.text())


__all__ = ["status"]
