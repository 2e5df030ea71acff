"""``gradflow bench``: solvers on flows, what they reach, claim to reach, and cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradflow.cli.terminal import console_of_width, plain, usage_error

if TYPE_CHECKING:
    from rich.console import Console

    from gradflow.benchmarking import WorkPrecision
    from gradflow.benchmarking.row import Row

_STYLES = {
    "reached": "green", "DISHONEST": "bold red reverse", "failed": "yellow", "time-out": "yellow",
    "not installed": "dim", "not applicable": "dim", "unjudged": "cyan",
}  # fmt: skip
#: Tolerances and CPU seconds a run, of the whole table and of the quick one.
FULL, QUICK = ((1e-5, 1e-7, 1e-9), 5.0), ((1e-5, 1e-9), 1.0)


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="A part of the table, in two minutes.")
    ] = False,
    problems: Annotated[
        str, typer.Option(help="Problems or tags, a shell-style pattern.", metavar="PATTERN")
    ] = "*",
    solvers: Annotated[
        str, typer.Option(help="Solvers, a shell-style pattern.", metavar="PATTERN")
    ] = "*",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table as JSON.", metavar="FILE")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Write the picture.", metavar="FILE.png")
    ] = None,
    advise: Annotated[
        bool, typer.Option("--advise", help="Say which solver to take, from the measurements.")
    ] = False,
    from_file: Annotated[
        Path | None,
        typer.Option("--from", help="Read a table instead of measuring.", metavar="FILE.json"),
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the problems and solvers, and stop.")
    ] = False,
    time_limit: Annotated[
        float, typer.Option(help="CPU seconds a run; 0 takes 5 (quick: 1).", metavar="SECONDS")
    ] = 0.0,
) -> None:
    """Measure solvers on gradient flows: error, evaluations, seconds, and honesty.

    Every end state is held against a reference found by a method of another kind. A solver that
    claims success with a wrong state is DISHONEST. Exit code 0; 2 for bad usage.
    """
    console = console_of_width()
    for path in (json_file, plot_file):
        if path is not None and not path.resolve().parent.is_dir():
            usage_error(f"{path}: its folder does not exist; make it first")
        if path is not None and path.is_dir():
            usage_error(f"{path} is a folder; name a file")
    if plot_file is not None and plot_file.suffix not in (".png", ".pdf", ".svg"):
        usage_error(f"{plot_file}: is no picture; name a .png, .pdf or .svg file")
    if time_limit < 0:
        usage_error(f"time_limit={time_limit}: is negative; pass seconds > 0, or 0")
    if show_list:
        _print_list(console)
        return
    try:
        if from_file is not None:
            table = _read(from_file)
        else:
            table = _measure(console, quick, problems, solvers, time_limit)
    except ValueError as error:
        usage_error(str(error))
    _print_table(console, table)
    if advise:
        console.print(f"\n{plain(str(table.advise()))}", highlight=False, soft_wrap=True)
    _write(console, table, json_file, plot_file)


def _read(path: Path) -> WorkPrecision:
    from gradflow.benchmarking import WorkPrecision

    try:
        return WorkPrecision.load(path)
    except OSError as error:
        usage_error(f"cannot read: {error}")


def _measure(
    console: Console, quick: bool, problems: str, solvers: str, time_limit: float
) -> WorkPrecision:
    console.print("[bold]gradflow bench[/bold]: loading", highlight=False)
    from gradflow.benchmarking import problem_table, solver_names, work_precision
    from gradflow.benchmarking.solvers.names import QUICK as QUICK_SOLVERS
    from gradflow.benchmarking.solvers.names import matching

    chosen = problem_table(problems)
    named = matching(solvers)
    if quick:
        # (a part that is asked for by name is taken whole)
        chosen = [p for p in chosen if p.quick] or chosen
        named = [name for name in named if name in QUICK_SOLVERS] or named
    tolerances, limit = QUICK if quick else FULL
    assert len(solver_names()) >= 1
    console.print(
        f"{len(chosen)} problems, {len(named)} solvers, one at a time, on one thread",
        highlight=False,
    )
    return work_precision(
        chosen, named, tolerances, time_limit=time_limit or limit, repeats=3,
        progress=_Progress(console),
    )  # fmt: skip


class _Progress:
    """A line for every row."""

    def __init__(self, console: Console) -> None:
        self.console, self.began, self.problem = console, time.perf_counter(), ""

    def __call__(self, row: Row) -> None:
        from gradflow.benchmarking.table import error_text

        if row.problem != self.problem:
            self.problem = row.problem
            self.console.print(f"\n[bold]{row.problem}[/bold]", highlight=False)
        style = _STYLES[str(row.outcome)]
        seconds = time.perf_counter() - self.began
        self.console.print(
            f"{seconds:6.0f} s  [{style}]{row.outcome:<14}[/{style}] {row.solver:<18} "
            f"{row.setting:<13} {error_text(row):<12} [dim]{plain(row.message[:60])}[/dim]",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def _print_list(console: Console) -> None:
    from gradflow.benchmarking import as_solver, problem_table, solver_names

    for problem in problem_table():
        marks = ", ".join((*problem.tags, *(("quick",) if problem.quick else ())))
        console.print(f"  {problem.name}  [dim]({marks})[/dim]", highlight=False)
        console.print(f"      {plain(problem.about)}", highlight=False, soft_wrap=True)
    console.print()
    for name in solver_names():
        missing = as_solver(name).missing()
        note = f"  [dim]not installed: {missing}[/dim]" if missing else ""
        console.print(f"  {name}{note}", highlight=False)


def _print_table(console: Console, table: WorkPrecision) -> None:
    from rich.table import Table

    from gradflow.benchmarking.table import cells, title

    for problem in table.problems:
        shown = Table(
            title=str(problem["name"]), title_justify="left", title_style="bold", box=None,
            padding=(0, 1, 0, 0), caption=plain(title(problem)), caption_justify="left",
        )  # fmt: skip
        shown.add_column("solver", no_wrap=True)
        shown.add_column("setting", no_wrap=True)
        shown.add_column("outcome", no_wrap=True)
        for heading in ("error", "rhs", "Jac.", "steps", "CPU s", "compile s"):
            shown.add_column(heading, justify="right", no_wrap=True)
        for row in table.where(problem=str(problem["name"])):
            style = _STYLES[str(row.outcome)]
            texts = list(map(plain, cells(row)))
            texts[2] = f"[{style}]{texts[2]}[/{style}]"
            shown.add_row(*texts)
        console.print()
        console.print(shown)
    console.print(f"\n{plain(table.summary())}", highlight=False, soft_wrap=True)
    about = table.about
    console.print(
        f"{about.get('date')}, {about.get('cores')} cores, load {about.get('load_before')} to "
        f"{about.get('load_after')}, {about.get('seconds')} s. CPU seconds: median of the calls "
        "after the first.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _write(
    console: Console, table: WorkPrecision, json_file: Path | None, plot_file: Path | None
) -> None:
    try:
        if json_file is not None:
            table.save(json_file)
            console.print(f"JSON written to {json_file}", highlight=False, soft_wrap=True)
        if plot_file is not None:
            table.plot().savefig(plot_file, dpi=110)
            console.print(f"picture written to {plot_file}", highlight=False, soft_wrap=True)
    except (OSError, ValueError) as error:
        usage_error(f"cannot write: {error}")


__all__ = ["bench"]
