"""``gradflow run FILE.toml``: integrate what a recipe says, and write the path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradflow.cli.recipes import checked, folder_for, opened, told
from gradflow.cli.terminal import usage_error
from gradflow.numerics.format import number

if TYPE_CHECKING:
    from gradflow.paths.trajectory import Trajectory
    from gradflow.recipes.recipe import Recipe


def run(
    file: Annotated[str, typer.Argument(help="A recipe (TOML).", metavar="FILE.toml")],
    out: Annotated[
        Path, typer.Option(help="Where FILE.nc is written; made if missing.", metavar="DIR")
    ] = Path(),
    plot: Annotated[bool, typer.Option("--plot", help="Write FILE.png as well.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the recipe.")] = False,
) -> None:
    """Integrate the flow that a recipe names, and write its path as NetCDF.

    Exit code 0; 1 when the integration failed (what was computed is written); 2 for bad usage.
    """
    if not quiet:
        typer.echo(f"gradflow run {file}: loading")
    recipe = opened(file)
    with told():
        made = checked(recipe, single=True)
        if check:
            if not quiet:
                typer.echo(f"{recipe}: fine\n  {made.risk.name}\n  until {made.until!r}")
            return
        stem = folder_for(out) / Path(file).stem
        if not quiet:
            typer.echo(f"  {made.risk.name}\n  until {made.until!r}")
        path = recipe.run(progress=False if quiet else None)
        _write(recipe, path, stem, plot, quiet)
    if not path.result.ok:
        typer.echo(f"error: {path.result.name}: {path.result.message}", err=True)
        raise typer.Exit(1)


def _write(recipe: Recipe, path: Trajectory, stem: Path, plot: bool, quiet: bool) -> None:
    written = [f"{stem}.nc"]
    try:
        recipe.save(path, written[0])
        if plot:
            written.append(f"{stem}.png")
            _draw(recipe, path, written[1])
    except OSError as error:
        kept = "" if len(written) > 1 else _rescued(recipe, path, stem)
        usage_error(f"cannot write {written[-1]}: {error.strerror or error}{kept}")
    if not quiet:
        for line in summary(recipe, path):
            typer.echo(f"  {line}")
        typer.echo(f"written: {', '.join(written)}")


def _rescued(recipe: Recipe, path: Trajectory, stem: Path) -> str:
    """Write a path that has been computed somewhere else, rather than lose it."""
    import tempfile

    try:
        where = Path(tempfile.mkdtemp(prefix="gradflow-")) / f"{stem.name}.nc"
        recipe.save(path, where)
    except OSError:
        return "; the path is lost"
    return f"; the path is in {where}"


def _draw(recipe: Recipe, path: Trajectory, where: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from gradflow.numerics.files import replace_file
    from gradflow.plots.trajectory import plot

    figure = plot(path, recipe.observe or ("loss", "norm"))
    replace_file(where, lambda name: figure.savefig(name, format="png", dpi=150))


def summary(recipe: Recipe, path: Trajectory) -> Iterator[str]:
    """How a path ended, in a few lines."""
    yield f"{path.result.name}: {path.result.message}; stopped by {path.stopped_by}"
    steps = f"{path.stats['steps']:.0f} steps, {path.stats['run_seconds']:.2g} s"
    yield f"ln t = {path.log_t_final:.10g}; {steps}"
    if not len(path):
        return
    if path.log_t[-1] != path.log_t_final:
        yield f"at the last recorded time, ln t = {path.log_t[-1]:.10g}:"
    yield f"ln L = {path.observe('log_loss')[-1]:.10g}"
    for name in recipe.observe:
        values = path.observe(name)[-1]
        if values.ndim == 0:
            yield f"{name} = {number(float(values), 10, '-')}"
    counts = path.events.counts()
    if counts:
        yield "events: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())
    if not path.unique:
        yield "the flow is not unique: it met a point that can be left in more than one way"
    if recipe.certificate:
        from gradflow.certificates.certificate import certify

        found = certify(path)
        verdict = "accepted" if found.accepted else "not accepted"
        yield f"certificate ({found.kind}): {verdict}: {found.reason}"


__all__ = ["run"]
