"""What the commands that read a recipe share: opening, checking, warnings, where to write."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gradflow.cli.terminal import usage_error

if TYPE_CHECKING:
    from gradflow.recipes.recipe import Made, Recipe


def opened(file: str) -> Recipe:
    """The recipe of a file; what is wrong with it ends the command."""
    from gradflow._cache import enable_compilation_cache

    enable_compilation_cache()
    from gradflow.recipes.errors import RecipeError
    from gradflow.recipes.recipe import recipe

    try:
        return recipe(file)
    except RecipeError as error:
        usage_error(str(error))


def checked(recipe: Recipe, single: bool = False) -> Made:
    """What it builds; what cannot be built ends the command (as a grid does, of a single run)."""
    from gradflow.recipes.errors import RecipeError

    try:
        if single:
            recipe.refuse_grid()
        return recipe.check()
    except RecipeError as error:
        usage_error(str(error))


@contextmanager
def told() -> Iterator[None]:
    """Say warnings in a line each, on stderr, and each once."""
    seen: set[str] = set()

    def say(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            typer.echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = say
        yield


def folder_for(out: Path) -> Path:
    """The folder, made if missing and tried before anything is computed for it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "is not writable")
    except (OSError, ValueError) as error:
        usage_error(f"{out}: {getattr(error, 'strerror', None) or error}; pass another --out")
    return out


__all__ = ["checked", "folder_for", "opened", "told"]
