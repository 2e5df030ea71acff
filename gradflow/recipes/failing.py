"""What constructors refuse, told by the key of the recipe."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from gradflow.recipes.errors import Key, RecipeError
from gradflow.recipes.reading import shown_problem

_ARGUMENT = re.compile(r"^(\w+)(?:[\[(.][^=]*)?=")


@contextlib.contextmanager
def refusals(key: Key, keys: Mapping[str, Key] | None = None) -> Iterator[None]:
    """Turn what is raised inside into a `RecipeError` of this key.

    Parameters
    ----------
    key : tuple
        Of the table, or of the entry, that the call takes its arguments from.
    keys : mapping, optional
        The keys of single arguments, for errors that name them.
    """
    try:
        yield
    except RecipeError:
        raise
    except ValueError as error:
        said = shown_problem(str(error))
        found = _ARGUMENT.match(said)
        at = (keys or {}).get(found[1] if found else "", key)
        raise RecipeError(at, said, foreseen=found is not None) from error
    except (TypeError, ArithmeticError, LookupError, MemoryError, RecursionError) as error:
        said = f"cannot be used ({type(error).__name__}: {shown_problem(str(error))})"
        raise RecipeError(key, said, foreseen=False) from error


__all__ = ["refusals"]
