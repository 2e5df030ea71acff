"""What goes wrong with a sweep as a whole; what goes wrong at one of its points is a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


class SweepError(RuntimeError):
    """A sweep cannot begin or go on.

    Attributes
    ----------
    table : xarray.Dataset or None
        What had been computed, as `gf.sweep` would have returned it.
    """

    def __init__(self, message: str, table: xr.Dataset | None = None) -> None:
        super().__init__(message)
        self.table = table


class SweepWarning(UserWarning):
    """Points failed or were not computed, or entries of a store were damaged."""


__all__ = ["SweepError", "SweepWarning"]
