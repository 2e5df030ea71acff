"""``gradflow verify [PATTERN...]``: every claim against its measurement."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradflow.cli.terminal import console_of_width, plain, usage_error
from gradflow.numerics.format import number

if TYPE_CHECKING:
    from rich.console import Console

    from gradflow.claims.evidence import Verdict, Verdicts
    from gradflow.claims.statement import Statement
    from gradflow.claims.verification import Helpers

_STYLES = {
    "SUPPORTED": "green",
    "VIOLATED": "bold red",
    "ERROR": "bold red",
    "INCONCLUSIVE": "yellow",
    "NOT_APPLICABLE": "cyan",
}


def verify(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help="Shell-style patterns over claim ids and sources.", metavar="PATTERN"),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the claims and stop.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only the quick claims.")] = False,
    perturb: Annotated[
        float | None,
        typer.Option(
            help="Alter every prediction by this factor; nothing may stay SUPPORTED.",
            metavar="FACTOR",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the verdicts as JSON.", metavar="FILE")
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", help="Write a self-contained HTML page.", metavar="FILE"),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes; 0 takes two, or one on a single core.", metavar="N")
    ] = 0,
) -> None:
    """Derive predictions, integrate flows, and hold every claim against its measurement.

    Exit code 0; 1 when a claim is VIOLATED or in ERROR; 2 for bad usage.
    """
    console = console_of_width()
    for path in (json_file, report_file):
        if path is not None and not path.resolve().parent.is_dir():
            usage_error(f"{path}: its folder does not exist; make it first")
        if path is not None and path.is_dir():
            usage_error(f"{path} is a folder; name a file")
    if not show_list:
        note = "" if perturb is None else f" (predictions altered by {perturb:g})"
        console.print(f"[bold]gradflow verify[/bold]{note}: loading", highlight=False)
    if not show_list:
        from gradflow._cache import enable_compilation_cache

        enable_compilation_cache()
    if workers < 0:
        usage_error(f"workers={workers}: is negative; pass 1 or more, or 0 for the default")
    workers = workers or min(2, os.cpu_count() or 1)
    with contextlib.ExitStack() as stack:
        helpers = None
        if workers > 1 and not show_list:
            # started first, so that they load while this process does
            from gradflow.claims.verification import Helpers

            helpers = stack.enter_context(Helpers(workers - 1))
        _verify(
            console, patterns or ["*"], show_list, quick, perturb, json_file, report_file, helpers
        )


def _verify(
    console: Console,
    wanted: list[str],
    show_list: bool,
    quick: bool,
    perturb: float | None,
    json_file: Path | None,
    report_file: Path | None,
    helpers: Helpers | None,
) -> None:
    from gradflow.claims import registry

    try:
        chosen = registry.discover().statements(wanted, quick=quick)
        if show_list:
            _print_list(console, chosen)
            return
        if perturb is not None:
            registry.check_factor(perturb)
    except ValueError as error:
        usage_error(str(error))

    start = time.perf_counter()
    live = _Progress(console, len(chosen))
    with live:
        verdicts = registry.discover().verify(
            wanted, perturb=perturb, quick=quick, progress=live, helpers=helpers
        )
    seconds = time.perf_counter() - start
    _print_table(console, verdicts)
    _print_summary(console, verdicts, seconds, perturb)

    from gradflow import report
    from gradflow.numerics.files import write_text

    run = {"patterns": " ".join(wanted), "quick": quick, "perturb": perturb, "seconds": seconds}
    try:
        if json_file is not None:
            write_text(json_file, report.to_json(verdicts, run))
            console.print(f"JSON written to {json_file}", highlight=False, soft_wrap=True)
        if report_file is not None:
            shown = {k: v for k, v in run.items() if v not in (None, False)}
            shown["seconds"] = f"{seconds:.1f}"
            write_text(report_file, report.to_html(verdicts, shown))
            console.print(f"report written to {report_file}", highlight=False, soft_wrap=True)
    except (OSError, ValueError) as error:
        usage_error(f"cannot write: {error}")
    if any(v.status in ("VIOLATED", "ERROR") for v in verdicts):
        raise typer.Exit(1)


class _Progress:
    """A line for every finished claim; on a terminal also what is running now."""

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.done = 0
        self.running: dict[str, float] = {}
        self.status: Any = None

    def __enter__(self) -> _Progress:
        self.console.print(f"{self.total} claims", highlight=False)
        if self.console.is_terminal:
            self.status = self.console.status("starting")
            self.status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.status is not None:
            self.status.stop()

    def __call__(self, claim: Statement, verdict: Verdict | None) -> None:
        if verdict is None:
            self.running[claim.id] = time.perf_counter()
        else:
            self.running.pop(claim.id, None)
            self.done += 1
            width = len(str(self.total))
            style = _STYLES[verdict.status]
            self.console.print(
                f"{self.done:>{width}}/{self.total}  [{style}]{verdict.status:<14}[/{style}] "
                f"{verdict.id}  [dim]{verdict.seconds:.1f} s[/dim]",
                highlight=False,
                soft_wrap=True,
            )
            if verdict.status != "SUPPORTED":
                self.console.print(
                    f"{' ' * (2 * width + 3)}{plain(verdict.message)}", highlight=False
                )
        if self.status is not None and self.running:
            self.status.update(f"{self.done}/{self.total}  " + ", ".join(self.running))


def _print_list(console: Console, claims: list[Statement]) -> None:
    for source in dict.fromkeys(c.source for c in claims):
        console.print(f"\n[bold]{source}[/bold]", highlight=False)
        for claim in (c for c in claims if c.source == source):
            marks = f"{claim.kind}, {claim.provenance}" + (", quick" if claim.quick else "")
            console.print(f"  {claim.id}  [dim]({marks})[/dim]", highlight=False, soft_wrap=True)
            console.print(f"      {plain(claim.title)}", highlight=False, soft_wrap=True)
    console.print(f"\n{len(claims)} claims", highlight=False)


def _print_table(console: Console, verdicts: Verdicts) -> None:
    from rich.markup import escape
    from rich.table import Table

    for source in dict.fromkeys(v.source for v in verdicts):
        table = Table(
            title=source,
            title_justify="left",
            title_style="bold",
            box=None,
            padding=(0, 1, 0, 0),
            width=min(console.width, 140),
        )
        table.add_column("claim", ratio=1, overflow="fold")
        for heading in ("predicted", "measured", "error", "tol"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("provenance", no_wrap=True)
        table.add_column("status", no_wrap=True)
        table.add_column("s", justify="right", no_wrap=True)
        table.add_column("control", no_wrap=True)
        for v in (v for v in verdicts if v.source == source):
            style = _STYLES[v.status]
            table.add_row(
                escape(v.id.partition("/")[2]),
                number(v.predicted, 5, "-"),
                number(v.measured, 5, "-"),
                number(v.error, 1, "-"),
                number(v.tolerance, 1, "-"),
                v.provenance,
                f"[{style}]{v.status}[/{style}]",
                f"{v.seconds:.1f}",
                _control_word(v),
            )
        console.print()
        console.print(table)
        for v in verdicts:
            # Both forms of a corrected statement are shown: its source's own is the control.
            if v.source == source and v.provenance == "corrected" and v.control is not None:
                console.print(
                    f"  {v.id.partition('/')[2]}, control: {escape(v.control.description)}: "
                    f"{v.control.status}",
                    highlight=False,
                )


def _print_summary(
    console: Console, verdicts: Verdicts, seconds: float, perturb: float | None
) -> None:
    from gradflow.report import WORDS

    tally = ", ".join(f"{n} {name}" for name, n in verdicts.counts().items())
    console.print(f"\n[bold]{tally}[/bold] in {seconds:.1f} s", highlight=False)
    if perturb is None:
        console.print(
            "error: of the measurement, from a second, tighter or different solve. "
            "control: what becomes of the claim altered so that it must fail.",
            highlight=False,
        )
    else:
        alive = [v.id for v in verdicts.status("SUPPORTED")]
        console.print(
            "Every prediction was altered; "
            + ("no claim survived." if not alive else "STILL SUPPORTED: " + ", ".join(alive)),
            highlight=False,
        )
    console.print(WORDS, highlight=False)


def _control_word(verdict: Verdict) -> str:
    control = verdict.control
    if control is None:
        return "-"
    return str(control.status) if control.as_expected else f"[bold red]{control.status}![/bold red]"


__all__ = ["verify"]
