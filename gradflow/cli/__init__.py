"""The command line, one file a command."""

from __future__ import annotations

import typer

from gradflow.cli.bench import bench
from gradflow.cli.cite import cite
from gradflow.cli.derive import derive
from gradflow.cli.run import run
from gradflow.cli.status import status
from gradflow.cli.sweep import sweep
from gradflow.cli.verify import verify

app = typer.Typer(
    name="gradflow",
    help="Gradient flows of two-layer neural networks, to the accuracy at which theory can be "
    "checked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Verify, derive, run, sweep, measure solvers, cite."""


for _command in (verify, derive, run, sweep, status, bench, cite):
    app.command()(_command)


def main() -> None:
    """Entry point of the ``gradflow`` command."""
    app()


__all__ = ["app", "main"]
