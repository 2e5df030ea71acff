"""Numbers as text."""

from __future__ import annotations

import math


def number(value: float, digits: int = 6, missing: str = "–") -> str:
    """A number in at most ``digits`` digits; ``missing`` where it is NaN or infinite."""
    return f"{value:.{digits}g}" if math.isfinite(value) else missing
