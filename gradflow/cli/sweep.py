"""``gradflow sweep FILE.toml``: integrate every point of a recipe's grid."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradflow.cli.recipes import checked, folder_for, opened, told
from gradflow.cli.terminal import usage_error

if TYPE_CHECKING:
    import xarray as xr

    from gradflow.recipes.recipe import Recipe


def sweep(
    file: Annotated[str, typer.Argument(help="A recipe (TOML) with a grid.", metavar="FILE.toml")],
    store: Annotated[
        Path | None,
        typer.Option(help="A folder that keeps each point; needed to go on.", metavar="DIR"),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler.", metavar="ADDRESS")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.", metavar="N")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the table as NetCDF.", metavar="FILE.nc")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the recipe.")] = False,
) -> None:
    """Integrate every point of a recipe's grid; the same call goes on where it was ended.

    Exit code 0; 1 when points failed or are not computed (what was computed is kept); 2 for bad
    usage.
    """
    if not quiet:
        typer.echo(f"gradflow sweep {file}: loading")
    recipe = opened(file)
    if not recipe.axes:
        usage_error(f"{file}: has no [grid]; run it, or list values, as 'start.seed' = [0, 1]")
    if not check and store is None and out is None:
        usage_error("nothing would keep the results; pass --store DIR, or --out FILE.nc, or both")
    with told():
        checked(recipe)
        sizes = " × ".join(f"{name} {len(axis)}" for name, axis in recipe.parameters.items())
        if not quiet:
            typer.echo(f"  {recipe}: {sizes}")
        if check:
            return
        if out is not None:
            folder_for(out.parent)
        table = _swept(recipe, quiet, store=store, client=scheduler, workers=workers)
        if out is not None:
            _write(recipe, table, out)
    _tell(table, quiet, store, out)


def _swept(recipe: Recipe, quiet: bool, **how: Any) -> xr.Dataset:
    from gradflow.sweeps.errors import SweepError

    try:
        return recipe.sweep(progress=False if quiet else None, **how)
    except SweepError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except ValueError as error:
        usage_error(str(error))


def _write(recipe: Recipe, table: xr.Dataset, out: Path) -> None:
    from gradflow.numerics.files import replace_file

    kept = table.assign_attrs(recipe=recipe.text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            replace_file(out, lambda name: kept.to_netcdf(name, engine="h5netcdf"))
    except (OSError, ValueError) as error:
        usage_error(f"cannot write {out}: {error}")


def _tell(table: xr.Dataset, quiet: bool, store: Path | None, out: Path | None) -> None:
    """How many points there are; a failed one makes exit code 1."""
    errors = table["error"].values.ravel()
    failed = int((errors != "").sum())
    if not quiet:
        ended = table["result"].values.ravel() if "result" in table else ()
        counts = {str(name): int((ended == name).sum()) for name in dict.fromkeys(ended) if name}
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        typer.echo(f"{errors.size - failed} of {errors.size} points computed: {said}")
        for where in filter(None, (store, out)):
            typer.echo(f"written: {where}")
    if failed:
        first = next(text for text in errors if text)
        typer.echo(f"error: {failed} points failed or are not computed, as: {first}", err=True)
        raise typer.Exit(1)


__all__ = ["sweep"]
